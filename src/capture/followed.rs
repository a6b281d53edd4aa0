//! An instance's keys, followed from before writes are denied: what decides is then known at any revision
//! without reading it again, so that what clients feel does not grow with the data.

use async_trait::async_trait;
use tokio::sync::Mutex;
use tokio::time::Instant;
use tracing::info;

use super::metadata::{
    CutPoint, MetadataRead, ReadScope, Reader, Undated, is_always_read, lagging, may_be_open_before,
};
use crate::Result;
use crate::etcd::{Followed as FollowedTo, KeyValue, Lease, Mirror, Timed};
use crate::instance::OWN_AREA;
use crate::milvus::barrier::{Barrier, Checkpoints, Lag};
use crate::milvus::keys::{Cut, Family};

/// The keys below an instance's root as a mirror follows them.
#[derive(Debug)]
pub(super) struct Followed<'a> {
    reader: &'a Reader<'a>,
    prefix: String,
    fence: String,
    mirror: Mutex<Mirror>,
}

impl<'a> Followed<'a> {
    /// Reads all keys, and follows them from then on.
    pub(super) async fn begin(reader: &'a Reader<'a>) -> Result<Self> {
        let prefix = reader.roots.prefix();
        let fence = fence(&prefix);
        let mirror = reader.etcd.mirror(&prefix, &fence).await?;
        Ok(Self {
            reader,
            mirror: Mutex::new(mirror),
            prefix,
            fence,
        })
    }

    /// Brings the copy to a revision from after this call. Where etcd has compacted what was not told yet, all
    /// keys are read again.
    pub(super) async fn to_now(&self, lease: &Lease) -> Result<i64> {
        let mut mirror = self.mirror.lock().await;
        loop {
            match mirror.catch_up(lease).await? {
                FollowedTo::At(revision) => {
                    mirror.advance(revision);
                    return Ok(revision);
                }
                FollowedTo::Compacted => {
                    info!("etcd compacts faster than it is followed; all keys are read again");
                    *mirror = self.reader.etcd.mirror(&self.prefix, &self.fence).await?;
                }
            }
        }
    }

    /// What happened until now since the copy began; the copy stays where it is. `None` when etcd has compacted
    /// some of it.
    pub(super) async fn happened(&self, lease: &Lease) -> Result<Option<Vec<Timed>>> {
        let mut mirror = self.mirror.lock().await;
        Ok(match mirror.catch_up(lease).await? {
            FollowedTo::At(_) => Some(mirror.changes()),
            FollowedTo::Compacted => None,
        })
    }

    /// Since when every change is known.
    pub(super) async fn began(&self) -> Instant {
        self.mirror.lock().await.began()
    }

    /// The keys of the holds, in byte order.
    pub(super) async fn holds(&self) -> Vec<KeyValue> {
        let prefixes = self
            .reader
            .prefixes(|family| family.columns().cut == Cut::Holds);
        range_of(&*self.mirror.lock().await, &prefixes)
    }

    /// What decides, without logs.
    pub(super) async fn deciding(&self) -> Result<MetadataRead> {
        let mirror = self.mirror.lock().await;
        let keys = range_of(&mirror, &self.deciding_prefixes());
        Ok(MetadataRead {
            revision: mirror.revision(),
            catalog: self.reader.decode(keys)?,
            undated: Undated::default(),
        })
    }

    /// The same with the logs that decide: those that may be newer than the cut, and those of open segments
    /// whose record has no rows, since it lags behind.
    pub(super) async fn with_logs(
        &self,
        read: MetadataRead,
        scope: ReadScope,
        cut_point: &CutPoint<'_>,
    ) -> Result<MetadataRead> {
        let mirror = self.mirror.lock().await;
        let mut found = match scope {
            ReadScope::CutPoint => mirror.put_after(cut_point.since),
            ReadScope::Everything => mirror.range(&self.prefix),
        };
        let of_rows = self
            .reader
            .prefixes(|family| family.columns().cut == Cut::RowLog);
        let is_log = |kv: &KeyValue| of_rows.iter().any(|log| kv.key.starts_with(log.as_bytes()));
        found.retain(is_log);
        let mut undated = Undated::default();
        for kv in found.iter().filter(|kv| kv.mod_revision > cut_point.since) {
            let before = mirror.value_at(&kv.key, cut_point.since);
            undated.add(self.reader.roots, before.as_ref(), kv)?;
        }
        let doubtful = read.catalog.segments.iter();
        let doubtful = doubtful.filter(|s| may_be_open_before(s, cut_point.cut) && s.rows <= 0);
        for prefix in doubtful.flat_map(|segment| self.reader.logs_of(segment.key)) {
            found.extend(mirror.range(&prefix));
        }
        if found.is_empty() {
            return Ok(read);
        }
        found.extend(range_of(&mirror, &self.deciding_prefixes()));
        Ok(MetadataRead {
            revision: read.revision,
            catalog: self.reader.decode(found)?,
            undated,
        })
    }

    /// All keys at the copy's revision, and the fence, which is none of them.
    pub(super) fn into_keys(self) -> (Vec<KeyValue>, String) {
        (self.mirror.into_inner().into_keys(), self.fence)
    }

    fn deciding_prefixes(&self) -> Vec<String> {
        let decides = |cut| matches!(cut, Cut::Holds | Cut::Decides);
        self.reader.prefixes(|family| decides(family.columns().cut))
    }
}

/// The key that marks revisions; it hangs on the lease of the holds.
fn fence(prefix: &str) -> String {
    format!("{prefix}{OWN_AREA}capture-fence")
}

fn range_of(mirror: &Mirror, prefixes: &[String]) -> Vec<KeyValue> {
    let mut keys: Vec<_> = prefixes
        .iter()
        .flat_map(|prefix| mirror.range(prefix))
        .collect();
    keys.sort_by(|a, b| a.key.cmp(&b.key));
    keys
}

#[async_trait]
impl Checkpoints for Followed<'_> {
    async fn lagging(&self, barrier: &Barrier) -> Result<Vec<Lag>> {
        let mut mirror = self.mirror.lock().await;
        mirror.advance_to_told();
        let read = |family| is_always_read(family) || family == Family::ChannelCheckpoint;
        let keys = range_of(&mirror, &self.reader.prefixes(read));
        drop(mirror);
        let catalog = self.reader.decode(keys)?;
        Ok(lagging(&catalog, barrier, barrier.timestamp()))
    }
}

#[async_trait]
impl Checkpoints for Reader<'_> {
    async fn lagging(&self, barrier: &Barrier) -> Result<Vec<Lag>> {
        let catalog = self
            .part(|family| family == Family::ChannelCheckpoint)
            .await?;
        Ok(lagging(&catalog, barrier, barrier.timestamp()))
    }
}
