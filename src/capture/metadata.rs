//! What decides whether an anchor can be taken, judged at one revision while writes are denied.
//!
//! Logs, indexes and the copies under `snapshots/` are most of an instance's keys, and grow with
//! its data; what decides does not. The hold therefore lasts only for that, and the rest of the
//! anchor is judged afterwards.

use std::collections::BTreeSet;

use prost::Message as _;

use super::plan::refused;
use crate::etcd::{Etcd, KeyValue};
use crate::milvus::barrier::{Barrier, Lag};
use crate::milvus::catalog::{Catalog, DROPPED, FieldLogs, Log, Segment, Standing};
use crate::milvus::keys::{Cut, Family, KeyKind, LogKind, Roots, SegmentKey};
use crate::milvus::proto::data;
use crate::milvus::validate::Refusal;
use crate::milvus::version::MilvusVersion;
use crate::{Cause, Error, Result, Side};

/// What an error names of what is not flushed.
const NAMED: usize = 5;

/// How much is judged while writes are denied.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum ReadScope {
    /// What decides; the rest afterwards, at the same revision.
    CutPoint,
    /// Every log too, also those that were there before the cut.
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

/// What the keys at one revision say, as far as it decides.
#[derive(Debug)]
pub(super) struct MetadataRead {
    pub(super) revision: i64,
    pub(super) catalog: Catalog,
    pub(super) undated: Undated,
}

impl MetadataRead {
    /// Whether a segment that may be live has rows or deletes from after `cut`, or may have.
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
        let mut logs = segments.flat_map(Segment::row_logs);
        logs.any(|(segment, logs, log)| log.to > cut || self.undated.holds(segment, logs, log))
    }
}

/// Logs without a timestamp that were put after the cut was taken: nothing says that they are not newer.
#[derive(Debug, Clone, Default)]
pub(super) struct Undated(BTreeSet<(SegmentKey, LogKind, i64, i64)>);

impl Undated {
    /// Whether a log is one of them.
    pub(super) fn holds(&self, segment: &Segment, logs: &FieldLogs, log: &Log) -> bool {
        self.0
            .contains(&(segment.key, logs.kind, logs.field, log.id))
    }

    /// Every log of rows without a timestamp.
    pub(super) fn all(catalog: &Catalog) -> Self {
        let undated = catalog.row_logs().filter(|(_, _, log)| log.to == 0);
        Self(
            undated
                .map(|(segment, logs, log)| (segment.key, logs.kind, logs.field, log.id))
                .collect(),
        )
    }

    /// Adds the logs without a timestamp that the key has now, at `now`, and did not have `before`.
    pub(super) fn add(
        &mut self,
        roots: &Roots,
        before: Option<&KeyValue>,
        now: &KeyValue,
    ) -> Result<()> {
        let KeyKind::Log {
            kind: kind @ (LogKind::Insert | LogKind::Delta),
            segment,
            field,
        } = roots.parse(&now.key)
        else {
            return Ok(());
        };
        let known: BTreeSet<i64> = match before {
            Some(before) => logs_in(before)?.into_iter().map(|log| log.log_id).collect(),
            None => BTreeSet::new(),
        };
        let undated = logs_in(now)?.into_iter();
        let undated = undated.filter(|log| log.timestamp_to == 0 && !known.contains(&log.log_id));
        self.0
            .extend(undated.map(|log| (segment, kind, field, log.log_id)));
        Ok(())
    }
}

fn logs_in(kv: &KeyValue) -> Result<Vec<data::Binlog>> {
    match data::FieldBinlog::decode(kv.value.as_slice()) {
        Ok(logs) => Ok(logs.binlogs),
        Err(error) => {
            let name = String::from_utf8_lossy(&kv.key);
            let message = format!("the value of {name} is no list of logs");
            Err(Error::new(Cause::Damage, message).with_source(error))
        }
    }
}

/// Reads and decodes an instance's keys.
#[derive(Debug)]
pub(super) struct Reader<'a> {
    pub(super) etcd: Etcd,
    pub(super) roots: &'a Roots,
    pub(super) version: &'a MilvusVersion,
}

impl Reader<'_> {
    /// Reads databases, collections, and the keys of `families`.
    pub(super) async fn part(&self, families: impl Fn(Family) -> bool) -> Result<Catalog> {
        let mut keys = Vec::new();
        let mut revision = None;
        for prefix in self.prefixes(|family| is_always_read(family) || families(family)) {
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
        self.decode(keys)
    }

    /// Decodes `keys`, of which some may be there twice.
    pub(super) fn decode(&self, mut keys: Vec<KeyValue>) -> Result<Catalog> {
        keys.sort_by(|a, b| a.key.cmp(&b.key));
        keys.dedup_by(|a, b| a.key == b.key);
        Catalog::decode(self.roots, &keys, self.version)
    }

    /// Where the keys of the families are that `wanted` picks.
    pub(super) fn prefixes(&self, wanted: impl Fn(Family) -> bool) -> Vec<String> {
        let families = Family::ALL.iter().copied().filter(|family| wanted(*family));
        let places = families.flat_map(Family::prefixes);
        let whole = |(area, prefix): (_, &str)| self.roots.area(area) + prefix;
        places.map(whole).collect()
    }

    /// Where the logs of a segment are.
    pub(super) fn logs_of(&self, key: SegmentKey) -> Vec<String> {
        let logs =
            self.prefixes(|family| matches!(family.columns().cut, Cut::RowLog | Cut::OtherLog));
        let place = format!("{}/{}/{}/", key.collection, key.partition, key.segment);
        logs.into_iter().map(|prefix| prefix + &place).collect()
    }
}

/// What a part of the keys is always read with.
pub(super) const fn is_always_read(family: Family) -> bool {
    matches!(family, Family::Database) || family.is_collection()
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

pub(super) const fn may_be_open_before(segment: &Segment, cut: u64) -> bool {
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
