//! An instance's keys, followed from before writes are denied: what decides is then known at any revision
//! without reading it again, so that what clients feel does not grow with the data.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use tokio::sync::Mutex;
use tokio::time::Instant;
use tracing::info;

use super::metadata::{
    CutPoint, MetadataRead, ReadScope, Reader, Undated, is_always_read, lagging, may_be_open_before,
};
use crate::Result;
use crate::etcd::{KeyValue, Lease, Mirror, Timed};
use crate::instance::OWN_AREA;
use crate::milvus::barrier::{Barrier, Checkpoints, Lag};
use crate::milvus::keys::{Cut, Family};

/// The keys below an instance's root as a mirror follows them.
#[derive(Debug)]
pub(super) struct Followed<'a> {
    reader: &'a Reader<'a>,
    prefix: String,
    fence: String,
    /// What the fence hangs on.
    lease: Arc<Lease>,
    mirror: Mutex<Mirror>,
    /// When the copy was last known to be at what etcd has.
    caught_up: Mutex<Instant>,
}

/// That everything is known which happened up to a revision.
#[derive(Debug, Clone, Copy)]
pub(super) struct Known {
    /// The revision.
    pub(super) revision: i64,
    /// When it was asked for: the revision is not older.
    pub(super) asked: Instant,
    /// When all of it was told.
    pub(super) told: Instant,
}

impl Known {
    /// Whether it took so long that etcd, or a member of it, was not well: what happens then may be further
    /// apart than it would be otherwise.
    pub(super) fn is_late(&self) -> bool {
        self.told.duration_since(self.asked) > WELL
    }
}

/// How long a well etcd takes at most to tell what it was given.
const WELL: Duration = Duration::from_secs(1);

/// How old the copy may be where checkpoints are looked for.
const STALE: Duration = Duration::from_secs(1);

impl<'a> Followed<'a> {
    /// Reads all keys, and follows them from then on. That they can be followed is proved; the key that proves
    /// it hangs on `lease`.
    pub(super) async fn begin(reader: &'a Reader<'a>, lease: Arc<Lease>) -> Result<Self> {
        let prefix = reader.roots.prefix();
        let fence = fence(&prefix);
        let mirror = reader.etcd.mirror(&prefix, &fence).await?;
        let followed = Self {
            reader,
            lease,
            mirror: Mutex::new(mirror),
            caught_up: Mutex::new(Instant::now()),
            prefix,
            fence,
        };
        followed.to_now().await?;
        Ok(followed)
    }

    /// Brings the copy to a revision from after this call. Where etcd has compacted what was not told yet, all
    /// keys are read again.
    pub(super) async fn to_now(&self) -> Result<Known> {
        let mut mirror = self.mirror.lock().await;
        loop {
            if let Some(known) = self.catch_up(&mut mirror).await? {
                mirror.advance(known.revision);
                *self.caught_up.lock().await = known.told;
                return Ok(known);
            }
            info!("etcd compacts faster than it is followed; all keys are read again");
            *mirror = self.reader.etcd.mirror(&self.prefix, &self.fence).await?;
        }
    }

    /// What happened until now since the copy began; the copy stays where it is. `None` when etcd has compacted
    /// some of it.
    pub(super) async fn happened(&self) -> Result<Option<(Known, Vec<Timed>)>> {
        let mut mirror = self.mirror.lock().await;
        let known = self.catch_up(&mut mirror).await?;
        Ok(known.map(|known| (known, mirror.changes())))
    }

    async fn catch_up(&self, mirror: &mut Mirror) -> Result<Option<Known>> {
        let asked = Instant::now();
        let caught_up = mirror.catch_up(&self.lease).await;
        let caught_up = caught_up.map_err(|error| self.lease.failed("holds", error))?;
        Ok(caught_up.map(|revision| Known {
            revision,
            asked,
            told: Instant::now(),
        }))
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
        if self.caught_up.lock().await.elapsed() > STALE {
            // A watch that ended or went mute shows here.
            self.to_now().await?;
        }
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
