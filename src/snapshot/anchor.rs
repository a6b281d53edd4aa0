//! How a key of the anchor is stored (docs/format.md, section 10).

use prost::encoding::{decode_varint, encode_varint};

use crate::etcd::KeyValue;
use crate::{Cause, Error, Result};

/// The value of a key in the `anchor` map: revisions, version and lease as varints, then the value.
#[must_use]
pub fn encode(kv: &KeyValue) -> Vec<u8> {
    let mut out = Vec::with_capacity(kv.value.len() + 20);
    for number in [kv.create_revision, kv.mod_revision, kv.version, kv.lease] {
        // Revisions and versions are never negative; a lease id is a bit pattern.
        encode_varint(number.cast_unsigned(), &mut out);
    }
    out.extend_from_slice(&kv.value);
    out
}

/// Reads what [`encode`] wrote for `key`.
///
/// # Errors
///
/// [`Cause::Damage`] when it is not such a value.
pub fn decode(key: &[u8], stored: &[u8]) -> Result<KeyValue> {
    let mut rest = stored;
    let mut numbers = [0; 4];
    for number in &mut numbers {
        *number = decode_varint(&mut rest)
            .map_err(|_| {
                let key = String::from_utf8_lossy(key);
                Error::new(
                    Cause::Damage,
                    format!("the stored value of {key} is no key of an anchor"),
                )
            })?
            .cast_signed();
    }
    let [create_revision, mod_revision, version, lease] = numbers;
    Ok(KeyValue {
        key: key.to_vec(),
        value: rest.to_vec(),
        create_revision,
        mod_revision,
        version,
        lease,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn what_is_encoded_is_decoded(
            value: Vec<u8>,
            create_revision in 0..i64::MAX,
            mod_revision in 0..i64::MAX,
            version in 0..i64::MAX,
            lease: i64,
        ) {
            let kv = KeyValue { key: b"k".to_vec(), value, create_revision, mod_revision, version, lease };
            prop_assert_eq!(decode(b"k", &encode(&kv)).unwrap(), kv);
        }
    }

    #[test]
    fn a_value_that_is_cut_off_is_damage() {
        assert_eq!(decode(b"k", &[0x80]).unwrap_err().cause(), Cause::Damage);
    }
}
