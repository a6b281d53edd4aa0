//! The opened keyring of one repository, and everything that is sealed or named under it.

use jiff::Timestamp;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::crypto::Key;
use super::ids::RepositoryId;
use super::wire::damaged;
use crate::Result;

/// The keys of a repository (section 4 of the format).
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Keyring {
    #[serde(with = "hex_key")]
    pub(crate) id_key: Key,
    #[serde(with = "hex_key")]
    pub(crate) meta_key: Key,
    pub(crate) data: Vec<DataKey>,
}

/// One epoch's data key.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct DataKey {
    pub(crate) epoch: u16,
    #[serde(with = "hex_key")]
    pub(crate) key: Key,
    pub(crate) created: Timestamp,
}

impl Keyring {
    /// A new keyring with one epoch.
    pub(crate) fn generate(created: Timestamp) -> Self {
        let first = DataKey {
            epoch: 1,
            key: Key::generate(),
            created,
        };
        Self {
            id_key: Key::generate(),
            meta_key: Key::generate(),
            data: vec![first],
        }
    }
}

/// An opened keyring with the id of its repository: seals, opens and names.
#[derive(Debug)]
pub(crate) struct Sealer {
    pub(crate) repository: RepositoryId,
    pub(crate) ring: Keyring,
}

impl Sealer {
    /// The key that new data is sealed under, with its epoch.
    pub(crate) fn current(&self) -> Result<(u16, &Key)> {
        self.ring
            .data
            .last()
            .map(|data| (data.epoch, &data.key))
            .ok_or_else(|| damaged("the keyring has no data key"))
    }

    /// The data key of `epoch`.
    pub(crate) fn data_key(&self, epoch: u16) -> Result<&Key> {
        self.ring
            .data
            .iter()
            .find(|data| data.epoch == epoch)
            .map(|data| &data.key)
            .ok_or_else(|| damaged(format!("the keyring has no data key of epoch {epoch}")))
    }

    /// The key that authenticates `config`.
    pub(crate) fn config_key(&self) -> Key {
        self.ring.meta_key.derive("eyrie 1 config")
    }
}

mod hex_key {
    use super::{Deserialize, Deserializer, Key, Serializer};

    pub(crate) fn serialize<S: Serializer>(key: &Key, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&hex::encode(key.0))
    }

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Key, D::Error> {
        let text = zeroize::Zeroizing::new(String::deserialize(deserializer)?);
        let mut key = Key([0; 32]);
        hex::decode_to_slice(text.as_bytes(), &mut key.0).map_err(serde::de::Error::custom)?;
        Ok(key)
    }
}
