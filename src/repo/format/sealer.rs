//! The opened keyring of one repository, and everything that is sealed or named under it.

use jiff::Timestamp;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::crypto::Key;
use super::ids::RepositoryId;
use super::wire::damaged;
use crate::{Cause, Result, Side};

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
    /// These keys and a new one, of the epoch after the last.
    ///
    /// # Errors
    ///
    /// [`Cause::Failed`] after epoch 65,535.
    pub(crate) fn with_new_epoch(mut self, created: Timestamp) -> Result<Self> {
        let last = self.data.last().map_or(0, |data| data.epoch);
        let epoch = last.checked_add(1).ok_or_else(|| {
            Side::Repository.error(Cause::Failed, "the keyring has no epoch left")
        })?;
        let key = Key::generate();
        self.data.push(DataKey {
            epoch,
            key,
            created,
        });
        Ok(self)
    }

    /// The keys of all rings of a repository together.
    ///
    /// # Errors
    ///
    /// [`Cause::Damage`] without a ring, or where two rings have different id or meta keys.
    pub(crate) fn unite(rings: Vec<Self>) -> Result<Self> {
        let united = rings
            .into_iter()
            .try_fold(None, |united: Option<Self>, ring| {
                let Some(mut all) = united else {
                    return Ok(Some(ring));
                };
                if all.id_key != ring.id_key || all.meta_key != ring.meta_key {
                    return Err(damaged("the keyrings have different id or meta keys"));
                }
                all.data.extend(ring.data);
                Ok(Some(all))
            })?;
        let mut all = united.ok_or_else(|| damaged("there is no keyring"))?;
        // The last one seals what is new, the same for everybody who knows the same rings.
        let order = |data: &DataKey| (data.epoch, data.created, data.key.0);
        all.data.sort_by_key(order);
        all.data.dedup_by_key(|data| (data.epoch, data.key.0));
        Ok(all)
    }

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

    /// The data keys of `epoch`, one or more: two that began it at once made a key each.
    pub(crate) fn data_keys(&self, epoch: u16) -> Result<Vec<&Key>> {
        let of = self.ring.data.iter().filter(|data| data.epoch == epoch);
        let keys: Vec<&Key> = of.map(|data| &data.key).collect();
        if keys.is_empty() {
            let message = format!("the keyring has no data key of epoch {epoch}");
            return Err(damaged(message));
        }
        Ok(keys)
    }

    /// The key that authenticates `config`.
    pub(crate) fn config_key(&self) -> Key {
        self.ring.meta_key.derive("eyrie 1 config")
    }

    /// The key that authenticates files of features.
    pub(crate) fn features_key(&self) -> Key {
        self.ring.meta_key.derive("eyrie 1 features")
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
