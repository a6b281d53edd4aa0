//! An etcd key as the `anchor` map of a snapshot holds it (docs/format.md, section 10).

use crate::etcd::KeyValue;
use crate::{Error, Kind, Result};

/// The value under which a key is stored: `varint create revision ‖ varint mod revision ‖ varint
/// version ‖ varint lease ‖ value`.
#[must_use]
pub fn encode(kv: &KeyValue) -> Vec<u8> {
    let mut out = Vec::with_capacity(kv.value.len() + 24);
    for number in [kv.create_revision, kv.mod_revision, kv.version, kv.lease] {
        put_varint(&mut out, number.cast_unsigned());
    }
    out.extend_from_slice(&kv.value);
    out
}

/// Reads what [`encode`] wrote for `key`.
///
/// # Errors
///
/// [`Kind::Damage`] when it is cut short or a number is too long.
pub fn decode(key: &[u8], stored: &[u8]) -> Result<KeyValue> {
    let mut rest = stored;
    let mut number = || {
        varint(&mut rest).ok_or_else(|| {
            let key = String::from_utf8_lossy(key);
            Error::new(
                Kind::Damage,
                format!("the etcd key {key} in the snapshot is damaged: its numbers do not read"),
            )
        })
    };
    let (create_revision, mod_revision) = (number()?, number()?);
    let (version, lease) = (number()?, number()?);
    Ok(KeyValue {
        key: key.to_vec(),
        value: rest.to_vec(),
        create_revision,
        mod_revision,
        version,
        lease,
    })
}

fn put_varint(out: &mut Vec<u8>, mut number: u64) {
    loop {
        let low = (number & 0x7f) as u8;
        number >>= 7;
        if number == 0 {
            out.push(low);
            return;
        }
        out.push(low | 0x80);
    }
}

fn varint(rest: &mut &[u8]) -> Option<i64> {
    let mut number = 0_u64;
    for shift in (0..64).step_by(7) {
        let (first, after) = rest.split_first()?;
        *rest = after;
        let low = u64::from(first & 0x7f);
        if shift == 63 && low > 1 {
            return None;
        }
        number |= low << shift;
        if first & 0x80 == 0 {
            return (*first != 0 || shift == 0).then_some(number.cast_signed());
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn keys_round_trip(
            create_revision: i64, mod_revision: i64, version: i64, lease: i64, value: Vec<u8>,
        ) {
            let key = b"by-dev/meta/x".to_vec();
            let kv = KeyValue { key, value, create_revision, mod_revision, version, lease };
            prop_assert_eq!(decode(&kv.key, &encode(&kv)).unwrap(), kv);
        }

        #[test]
        fn any_bytes_read_or_are_damage(stored: Vec<u8>) {
            match decode(b"k", &stored) {
                Ok(kv) => prop_assert_eq!(encode(&kv), stored),
                Err(error) => prop_assert_eq!(error.kind(), Kind::Damage),
            }
        }
    }
}
