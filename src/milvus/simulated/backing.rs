//! The etcd and the storage that a simulated Milvus works on, as its coordinators would.

use std::path::PathBuf;

use prost::Message as _;

use super::contents::inventory_of;
use super::keys::SimulatedKeys;
use crate::etcd::Etcd;
use crate::milvus::catalog::{Catalog, Collection};
use crate::milvus::inventory::Inventory;
use crate::milvus::keys::{KeyKind, KeyValue, Roots, normalise_item};
use crate::milvus::objects::{ObjectRef, Scope};
use crate::milvus::proto::common::SegmentState;
use crate::milvus::proto::data::SegmentInfo;
use crate::milvus::version::{AUTO_COMPACTION, FORCE_DENY_WRITING, MilvusVersion};
use crate::{Cause, Error, Result};

/// A real etcd with the keys of an instance, and the directory of its objects.
#[derive(Debug, Clone)]
pub struct Backing {
    /// The etcd.
    pub etcd: Etcd,
    /// Where the keys are.
    pub roots: Roots,
    /// The version that wrote them.
    pub version: MilvusVersion,
    /// The directory of the objects.
    pub storage: PathBuf,
}

/// The object that a simulated Milvus writes at a path.
#[must_use]
pub fn object_bytes(object: &ObjectRef) -> Vec<u8> {
    let size = match object.expected_size {
        Some(size) => usize::try_from(size).unwrap_or(0),
        None => 100 + object.path.len() * 7,
    };
    let mut bytes = vec![0; size];
    blake3::Hasher::new()
        .update(object.path.as_bytes())
        .finalize_xof()
        .fill(&mut bytes);
    bytes
}

impl Backing {
    /// Writes keys without a lease and every object that they require.
    ///
    /// # Errors
    ///
    /// When etcd or the directory cannot be written.
    pub async fn seed(&self, set: &SimulatedKeys) -> Result<()> {
        let keys = set.keys.iter().filter(|kv| kv.lease == 0);
        let keys: Vec<_> = keys.map(|kv| (kv.key.clone(), kv.value.clone())).collect();
        for batch in crate::etcd::batches(&keys, crate::etcd::TxnLimits::default()) {
            let mut etcd = self.etcd.clone();
            etcd.put_all("simulating", vec![], &batch, None).await?;
        }
        self.write_objects().await
    }

    /// Writes the objects that are required and not there.
    async fn write_objects(&self) -> Result<()> {
        for object in self.catalog().await?.objects_in(Scope::WithOpen) {
            let path = self.storage.join(&object.path);
            if !path.exists() {
                std::fs::create_dir_all(path.parent().unwrap_or(&path))?;
                std::fs::write(&path, object_bytes(&object))?;
            }
        }
        Ok(())
    }

    async fn keys(&self) -> Result<Vec<KeyValue>> {
        let prefix = format!("{}/", self.roots.root);
        Ok(self.etcd.clone().read_prefix(&prefix).await?.keys)
    }

    /// What the keys say now.
    ///
    /// # Errors
    ///
    /// When etcd does not answer or a key does not decode.
    pub async fn catalog(&self) -> Result<Catalog> {
        Catalog::decode(&self.roots, &self.keys().await?, &self.version)
    }

    pub(super) async fn inventory(&self) -> Result<Inventory> {
        Ok(inventory_of(&self.catalog().await?))
    }

    /// Whether the dynamic configuration denies writes. 2.2 reads the setting at its start only.
    pub(super) async fn denies(&self) -> Result<bool> {
        let set = self.setting(FORCE_DENY_WRITING).await?;
        Ok(self.version.at_least(2, 3, 0) && set.as_deref() == Some("true"))
    }

    async fn setting(&self, item: &str) -> Result<Option<String>> {
        let item = normalise_item(item);
        let mut set = self.catalog().await?.config.into_iter();
        Ok(set.find(|set| set.item == item).map(|set| set.value))
    }

    /// Ends compactions that were under way, once no new ones are begun.
    pub(super) async fn compact(self) {
        loop {
            if let Err(error) = self.end_compactions().await {
                tracing::debug!(error = %error.chain(), "simulating compactions");
            }
            tokio::time::sleep(std::time::Duration::from_millis(100)).await;
        }
    }

    async fn end_compactions(&self) -> Result<()> {
        let held = self.setting(AUTO_COMPACTION).await?.as_deref() == Some("false");
        if held
            && self
                .catalog()
                .await?
                .tasks
                .compactions_under_way()
                .next()
                .is_some()
        {
            let prefix = format!(
                "{}/{}/datacoord-meta/compaction-task/",
                self.roots.root, self.roots.meta
            );
            let mut etcd = self.etcd.clone();
            etcd.delete_prefix("simulating", vec![], prefix.as_bytes())
                .await?;
        }
        Ok(())
    }

    /// Seals and writes the growing segments of a collection; its channels have passed `timestamp` then.
    pub(super) async fn flush(&self, collection: i64, timestamp: u64) -> Result<()> {
        let catalog = self.catalog().await?;
        let found = catalog.collection(collection);
        let found = found.ok_or_else(|| Error::new(Cause::NotFound, "no such collection"))?;
        let mut set = SimulatedKeys::empty(self.version.clone());
        for kv in self.keys().await? {
            let grown = match self.roots.parse(&kv.key) {
                KeyKind::Segment(key) if key.collection == collection => decode(&kv)?,
                _ => continue,
            };
            if grown.state() == SegmentState::Growing && grown.num_of_rows > 0 {
                set.whole(&SegmentInfo {
                    state: SegmentState::Flushed.into(),
                    ..grown
                });
            }
        }
        checkpoints(&mut set, found, timestamp);
        self.seed(&set).await
    }

    /// Writes a segment with rows of `timestamp`, as for a client that was let through.
    pub(super) async fn write_rows(&self, collection: i64, timestamp: u64) -> Result<()> {
        let mut set = SimulatedKeys::empty(self.version.clone());
        set.time = timestamp;
        // Timestamps are unique, and so are their middle bits in a test.
        let id = i64::try_from(timestamp >> 18 & 0xff_ffff).unwrap_or(0) + 1_000_000;
        set.whole(&set.segment_of(collection, id));
        self.seed(&set).await
    }
}

fn checkpoints(set: &mut SimulatedKeys, collection: &Collection, timestamp: u64) {
    for vchannel in &collection.vchannels {
        let position = set.position(timestamp, vchannel);
        set.meta(&format!("datacoord-meta/channel-cp/{vchannel}"), &position);
    }
}

fn decode(kv: &KeyValue) -> Result<SegmentInfo> {
    SegmentInfo::decode(&kv.value[..])
        .map_err(|error| Error::new(Cause::Failed, "decoding a segment").with_source(error))
}
