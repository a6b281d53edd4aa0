//! What decides whether an anchor can be taken, read at one revision while writes are denied.
//!
//! Logs, indexes and the copies under `snapshots/` are most of an instance's keys, and grow with
//! its data; what decides does not. The hold therefore lasts only for that, and the rest of the
//! anchor is read afterwards at the same revision.

use futures::{StreamExt, TryStreamExt, stream};

use super::plan::refused;
use crate::etcd::{Anchor, Etcd, KeyValue};
use crate::milvus::barrier::{Barrier, Lag};
use crate::milvus::catalog::{Catalog, DROPPED, Segment, Standing};
use crate::milvus::keys::{Cut, Family, LogKind, Roots, SegmentKey};
use crate::milvus::validate::Refusal;
use crate::milvus::version::MilvusVersion;
use crate::{Cause, Error, Result, Side};

/// What an error names of what is not flushed.
const NAMED: usize = 5;

/// Requests for the logs of single segments at once.
const IN_FLIGHT: usize = 16;

/// How much is read while writes are denied.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum ReadScope {
    /// What decides; the rest afterwards, at the same revision.
    CutPoint,
    /// Everything, so that nothing is left to be read at a revision which etcd may have compacted.
    Everything,
}

/// The moment that an anchor is to stand for.
#[derive(Debug)]
pub(super) struct CutPoint<'a> {
    /// What every channel must have passed.
    pub(super) barrier: &'a Barrier,
    /// The timestamp of the cut.
    pub(super) cut: u64,
    /// A revision of etcd from before the cut was taken: whatever is newer than the cut is in keys
    /// that were put after it.
    pub(super) since: i64,
}

/// Keys at one revision, in byte order, and what they say.
#[derive(Debug)]
pub(super) struct MetadataRead {
    pub(super) scope: ReadScope,
    pub(super) revision: i64,
    pub(super) keys: Vec<KeyValue>,
    pub(super) catalog: Catalog,
}

impl MetadataRead {
    /// Whether a segment that may be live has rows or deletes from after `cut`.
    ///
    /// Which side of a compaction is live only the whole anchor can say; here both count.
    pub(super) fn has_newer(&self, cut: u64) -> bool {
        let may_be_live = |segment: &&Segment| {
            matches!(
                segment.standing,
                Standing::Live | Standing::Compacted | Standing::Unserved
            )
        };
        let segments = self.catalog.segments.iter().filter(may_be_live);
        segments
            .flat_map(|segment| &segment.logs)
            .filter(|logs| matches!(logs.kind, LogKind::Insert | LogKind::Delta))
            .flat_map(|logs| &logs.logs)
            .any(|log| log.to > cut)
    }
}

/// Reads an instance's keys.
#[derive(Debug)]
pub(super) struct Reader<'a> {
    pub(super) etcd: Etcd,
    pub(super) roots: &'a Roots,
    pub(super) version: &'a MilvusVersion,
}

impl Reader<'_> {
    /// Reads what decides, or everything; without logs where `scope` leaves them to
    /// [`Reader::with_logs`]. `None` when etcd compacted the revision meanwhile: look again.
    pub(super) async fn read(&self, scope: ReadScope) -> Result<Option<MetadataRead>> {
        let mut etcd = self.etcd.clone();
        if scope == ReadScope::Everything {
            let Anchor { revision, keys } = etcd.read_prefix(&self.roots.prefix()).await?;
            return self.decoded(scope, revision, keys).map(Some);
        }
        let mut prefixes = self.prefixes(|family| family.columns().cut == Cut::Holds);
        prefixes.extend(self.prefixes(|family| family.columns().cut == Cut::Decides));
        let Anchor { revision, mut keys } = etcd.read_prefix(&prefixes[0]).await?;
        for prefix in &prefixes[1..] {
            match etcd.read_at(prefix, revision).await? {
                Some(read) => keys.extend(read),
                None => return Ok(None),
            }
        }
        self.decoded(scope, revision, keys).map(Some)
    }

    /// Adds the logs that decide: those that may be newer than the cut, and those of open segments
    /// whose record has no rows, since it lags behind. `None` when etcd compacted the revision.
    pub(super) async fn with_logs(
        &self,
        read: MetadataRead,
        cut_point: &CutPoint<'_>,
    ) -> Result<Option<MetadataRead>> {
        if read.scope == ReadScope::Everything {
            return Ok(Some(read));
        }
        let revision = read.revision;
        let mut found = Vec::new();
        for prefix in self.prefixes(|family| family.columns().cut == Cut::RowLog) {
            let mut etcd = self.etcd.clone();
            match etcd
                .read_changed(&prefix, revision, cut_point.since)
                .await?
            {
                Some(read) => found.extend(read),
                None => return Ok(None),
            }
        }
        let doubtful = read.catalog.segments.iter();
        let doubtful = doubtful.filter(|s| may_be_open_before(s, cut_point.cut) && s.rows <= 0);
        let prefixes: Vec<String> = doubtful.flat_map(|s| self.logs_of(s.key)).collect();
        let reads = stream::iter(prefixes).map(|prefix| {
            let mut etcd = self.etcd.clone();
            async move { etcd.read_at(&prefix, revision).await }
        });
        let logs: Vec<Option<Vec<KeyValue>>> = reads.buffered(IN_FLIGHT).try_collect().await?;
        for logs in logs {
            match logs {
                Some(logs) => found.extend(logs),
                None => return Ok(None),
            }
        }
        if found.is_empty() {
            return Ok(Some(read));
        }
        let mut keys = read.keys;
        keys.extend(found);
        self.decoded(read.scope, revision, keys).map(Some)
    }

    /// The whole anchor at the revision of a read; `None` when etcd has compacted it.
    pub(super) async fn whole(&self, read: MetadataRead) -> Result<Option<MetadataRead>> {
        if read.scope == ReadScope::Everything {
            return Ok(Some(read));
        }
        let revision = read.revision;
        let prefix = self.roots.prefix();
        match self.etcd.clone().read_at(&prefix, revision).await? {
            Some(keys) => self
                .decoded(ReadScope::Everything, revision, keys)
                .map(Some),
            None => Ok(None),
        }
    }

    /// Decodes databases, collections, and the keys of `families`.
    pub(super) async fn part(&self, families: impl Fn(Family) -> bool) -> Result<Catalog> {
        let mut keys = Vec::new();
        let always = |family| matches!(family, Family::Database) || Family::is_collection(family);
        let mut revision = None;
        for prefix in self.prefixes(|family| always(family) || families(family)) {
            let mut etcd = self.etcd.clone();
            // At one revision, unless etcd has compacted it meanwhile.
            let at = match revision {
                Some(revision) => etcd.read_at(&prefix, revision).await?,
                None => None,
            };
            if let Some(read) = at {
                keys.extend(read);
            } else {
                let read = etcd.read_prefix(&prefix).await?;
                revision = Some(read.revision);
                keys.extend(read.keys);
            }
        }
        sort(&mut keys);
        Catalog::decode(self.roots, &keys, self.version)
    }

    fn decoded(
        &self,
        scope: ReadScope,
        revision: i64,
        mut keys: Vec<KeyValue>,
    ) -> Result<MetadataRead> {
        sort(&mut keys);
        let catalog = Catalog::decode(self.roots, &keys, self.version)?;
        Ok(MetadataRead {
            scope,
            revision,
            keys,
            catalog,
        })
    }

    /// Where the keys of the families are that `wanted` picks.
    fn prefixes(&self, wanted: impl Fn(Family) -> bool) -> Vec<String> {
        let families = Family::ALL.iter().copied().filter(|family| wanted(*family));
        let places = families.flat_map(Family::prefixes);
        let whole = |(area, prefix): (_, &str)| self.roots.area(area) + prefix;
        places.map(whole).collect()
    }

    /// Where the logs of a segment are.
    fn logs_of(&self, key: SegmentKey) -> Vec<String> {
        let logs =
            self.prefixes(|family| matches!(family.columns().cut, Cut::RowLog | Cut::OtherLog));
        let place = format!("{}/{}/{}/", key.collection, key.partition, key.segment);
        logs.into_iter().map(|prefix| prefix + &place).collect()
    }
}

fn sort(keys: &mut Vec<KeyValue>) {
    keys.sort_by(|a, b| a.key.cmp(&b.key));
    keys.dedup_by(|a, b| a.key == b.key);
}

/// Why an anchor cannot be taken yet, or at all.
#[derive(Debug)]
pub(super) struct Blockers {
    pub(super) refusals: Vec<Refusal>,
    pub(super) lagging: Vec<Lag>,
    pub(super) open: Vec<i64>,
}

impl Blockers {
    pub(super) fn of(catalog: &Catalog, cut_point: &CutPoint<'_>) -> Self {
        Self {
            refusals: catalog.refusals(),
            lagging: lagging(catalog, cut_point.barrier, cut_point.cut),
            open: open_before(catalog, cut_point.cut),
        }
    }

    /// Whether nothing stands in the way.
    pub(super) const fn is_empty(&self) -> bool {
        self.refusals.is_empty() && self.lagging.is_empty() && self.open.is_empty()
    }

    /// Whether it ends by itself, so that it is worth looking again.
    pub(super) fn passes(&self) -> bool {
        self.refusals.iter().all(|refusal| refusal.kind.passes())
    }

    /// What is told when it does not end.
    pub(super) fn error(&self) -> Error {
        if let Some(refusal) = self.refusals.first() {
            return refused(refusal);
        }
        let named: Vec<String> = self
            .lagging
            .iter()
            .map(ToString::to_string)
            .chain(self.open.iter().map(|segment| format!("segment {segment}")))
            .take(NAMED)
            .collect();
        Side::Source
            .error(
                Cause::Refused,
                format!(
                    "the flush did not finish for {} channels and {} segments: {}",
                    self.lagging.len(),
                    self.open.len(),
                    named.join("; ")
                ),
            )
            .with_hint("run the backup again, or allow more time with --flush-timeout")
    }
}

/// Segments that a flush should have closed and that are not flushed yet: sealed or growing, with
/// rows, begun before the cut. Their logs are not part of a snapshot until they are.
fn open_before(catalog: &Catalog, cut: u64) -> Vec<i64> {
    let open = |segment: &&Segment| {
        may_be_open_before(segment, cut) && (segment.rows > 0 || segment.has_logs())
    };
    let segments = catalog.segments.iter().filter(open);
    segments.map(|segment| segment.key.segment).collect()
}

const fn may_be_open_before(segment: &Segment, cut: u64) -> bool {
    segment.standing.is_open() && segment.start_timestamp <= cut
}

/// Virtual channels of live collections whose checkpoint has not reached the barrier. A collection
/// that was created after the cut has no row from before it.
pub(super) fn lagging(catalog: &Catalog, barrier: &Barrier, cut: u64) -> Vec<Lag> {
    catalog
        .collections
        .values()
        .filter(|collection| collection.is_created() && collection.create_timestamp <= cut)
        .flat_map(|collection| &collection.vchannels)
        .map(|vchannel| (vchannel, catalog.checkpoints.get(vchannel)))
        .filter_map(|(vchannel, checkpoint)| {
            let checkpoint = checkpoint.map(|c| c.timestamp);
            let passed = |at| at != DROPPED && at >= barrier.of_vchannel(vchannel);
            (!checkpoint.is_some_and(passed)).then(|| Lag {
                vchannel: vchannel.clone(),
                checkpoint,
            })
        })
        .collect()
}

#[cfg(test)]
#[path = "metadata_tests.rs"]
mod tests;
