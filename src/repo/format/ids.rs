//! Ids: 32 bytes each, 64 lower-case hexadecimal digits in names and JSON.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::wire::damaged;
use crate::{Error, Result};

macro_rules! id {
    ($(#[doc = $doc:expr])+ $name:ident) => {
        $(#[doc = $doc])+
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
        pub struct $name(pub(crate) [u8; 32]);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&hex::encode(self.0))
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{}({})", stringify!($name), hex::encode(&self.0[..6]))
            }
        }

        impl FromStr for $name {
            type Err = Error;

            /// Reads 64 lower-case hexadecimal digits; anything else is damage.
            fn from_str(text: &str) -> Result<Self> {
                parse(text).map(Self)
            }
        }

        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(self)
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                let text = String::deserialize(deserializer)?;
                parse(&text).map(Self).map_err(serde::de::Error::custom)
            }
        }
    };
}

id!(
    /// Which repository: random, made by `init`, part of everything that is sealed.
    RepositoryId
);
id!(
    /// Which file of features: random.
    FeaturesId
);
id!(
    /// Which blob: keyed BLAKE3 of its kind, chaining value, offset and length.
    BlobId
);
id!(
    /// Which pack: random.
    PackId
);
id!(
    /// Which index segment: random.
    IndexId
);
id!(
    /// Which snapshot: random, the name of its manifest.
    SnapshotId
);
id!(
    /// Which file of records of forgetting: random.
    ForgottenId
);
id!(
    /// Which mark: random.
    MarkId
);
id!(
    /// Which amendment: random.
    AmendmentId
);
id!(
    /// The plain BLAKE3 hash of a manifest's stored file.
    ManifestHash
);
id!(
    /// Which session: random, the name of its lease.
    SessionId
);
id!(
    /// Which key file: random.
    KeyId
);
id!(
    /// The chaining value of a BLAKE3 subtree: its non-root output.
    Cv
);
id!(
    /// The plain BLAKE3 hash of an object's bytes, the same that `b3sum` prints.
    ObjectHash
);

impl SnapshotId {
    /// The first eight digits, for messages and tables.
    #[must_use]
    pub fn short(&self) -> String {
        hex::encode(&self.0[..4])
    }
}

fn parse(text: &str) -> Result<[u8; 32]> {
    let mut id = [0; 32];
    let lower = !text.bytes().any(|b| b.is_ascii_uppercase());
    if lower && hex::decode_to_slice(text, &mut id).is_ok() {
        return Ok(id);
    }
    Err(damaged(format!(
        "{text:?} is not an id of 64 lower-case hexadecimal digits"
    )))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_round_trip_and_refuse_other_spellings() {
        let id = PackId([0xab; 32]);
        assert_eq!(id.to_string().parse::<PackId>().unwrap(), id);
        for bad in [
            "",
            "ab",
            &"AB".repeat(32),
            &"zz".repeat(32),
            &"ab".repeat(33),
        ] {
            assert!(bad.parse::<PackId>().is_err(), "{bad}");
        }
    }
}
