//! The etcd and the storage that a simulated Milvus works on, as its coordinators would.

use std::collections::BTreeSet;
use std::path::PathBuf;

use prost::Message as _;

use super::contents::inventory_of;
use super::keys::SimulatedKeys;
use crate::etcd::Etcd;
use crate::milvus::catalog::Catalog;
use crate::milvus::inventory::{Collection, Inventory};
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
        self.put(set).await?;
        self.write_objects().await
    }

    /// Writes keys without a lease, and no object.
    ///
    /// # Errors
    ///
    /// When etcd cannot be written.
    pub async fn put(&self, set: &SimulatedKeys) -> Result<()> {
        let keys = set.keys.iter().filter(|kv| kv.lease == 0);
        let keys: Vec<_> = keys.map(|kv| (kv.key.clone(), kv.value.clone())).collect();
        for batch in crate::etcd::batches(&keys, crate::etcd::TxnLimits::default()) {
            let mut etcd = self.etcd.clone();
            etcd.put_all("simulating", vec![], &batch, None).await?;
        }
        Ok(())
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
        self.keys_below("").await
    }

    /// The keys whose names go on so after the root's.
    async fn keys_below(&self, prefix: &str) -> Result<Vec<KeyValue>> {
        let prefix = format!("{}{prefix}", self.roots.prefix());
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

    /// What Milvus would answer for them; most keys are not read, since they say nothing of it.
    pub(super) async fn inventory(&self) -> Result<Inventory> {
        let mut keys = self.keys_below("meta/field-index/").await?;
        keys.extend(self.keys_below("meta/root-coord/").await?);
        let catalog = Catalog::decode(&self.roots, &keys, &self.version)?;
        Ok(inventory_of(&catalog))
    }

    pub(super) async fn revision(&self) -> Result<i64> {
        Ok(self.etcd.clone().status().await?.revision)
    }

    /// Whether the dynamic configuration denies writes. 2.2 reads the setting at its start only.
    pub(super) async fn denies(&self) -> Result<bool> {
        let set = self.setting(FORCE_DENY_WRITING).await?;
        Ok(self.version.at_least(2, 3, 0) && set.as_deref() == Some("true"))
    }

    async fn setting(&self, item: &str) -> Result<Option<String>> {
        let (below, item) = ("config/", normalise_item(item));
        let prefix = self.roots.prefix() + below;
        let is_it = |kv: &KeyValue| {
            let name = String::from_utf8_lossy(&kv.key[prefix.len()..]);
            normalise_item(&name) == item
        };
        let mut set = self.keys_below(below).await?.into_iter();
        let found = set.find(is_it);
        Ok(found.map(|kv| String::from_utf8_lossy(&kv.value).into_owned()))
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
        if self.setting(AUTO_COMPACTION).await?.as_deref() != Some("false") {
            return Ok(());
        }
        let tasks = "meta/datacoord-meta/compaction-task/";
        let mut keys = self.keys_below("meta/root-coord/database/").await?;
        keys.extend(self.keys_below(tasks).await?);
        let catalog = Catalog::decode(&self.roots, &keys, &self.version)?;
        if catalog.tasks.compactions_under_way().next().is_some() {
            let prefix = self.roots.prefix() + tasks;
            let mut etcd = self.etcd.clone();
            etcd.delete_prefix("simulating", vec![], prefix.as_bytes())
                .await?;
        }
        Ok(())
    }

    /// Seals and writes the growing segments of collections; their channels have passed `timestamp` then.
    pub(super) async fn flush(&self, reached: &[Collection], timestamp: u64) -> Result<()> {
        let ids: BTreeSet<i64> = reached.iter().map(|reached| reached.name.id).collect();
        let mut set = SimulatedKeys::empty(self.version.clone());
        for kv in self.keys_below("meta/datacoord-meta/s/").await? {
            let grown = match self.roots.parse(&kv.key) {
                KeyKind::Segment(key) if ids.contains(&key.collection) => decode(&kv)?,
                _ => continue,
            };
            if grown.state() == SegmentState::Growing && grown.num_of_rows > 0 {
                set.whole(&SegmentInfo {
                    state: SegmentState::Flushed.into(),
                    ..grown
                });
            }
        }
        let writes = !set.keys.is_empty();
        for vchannel in reached
            .iter()
            .flat_map(|reached| &reached.description.virtual_channel_names)
        {
            let position = set.position(timestamp, vchannel);
            set.meta(&format!("datacoord-meta/channel-cp/{vchannel}"), &position);
        }
        self.put(&set).await?;
        if writes {
            self.write_objects().await?;
        }
        Ok(())
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

fn decode(kv: &KeyValue) -> Result<SegmentInfo> {
    SegmentInfo::decode(&kv.value[..])
        .map_err(|error| Error::new(Cause::Failed, "decoding a segment").with_source(error))
}
