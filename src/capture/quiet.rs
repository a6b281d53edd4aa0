//! Whether Milvus was in the middle of saving something at the anchor's revision.
//!
//! Milvus saves one logical change of segments as several transactions, in an order that looks random
//! (docs/milvus.md 3.8): between two of them a delete log that replaces a dropped segment's, or the output of
//! a compaction whose inputs are dropped, is not there yet. The parts lie moments apart, so what came shortly
//! after a revision shows what was unfinished at it.
//!
//! Each transaction is of one change, and a change puts each key once: two transactions that put the same key
//! are of two changes, however close they are. That keeps the many small changes of a busy instance apart.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::time::Duration;

use prost::Message as _;
use tokio::time::Instant;

use crate::etcd::{Change, KeyValue, Timed};
use crate::milvus::catalog::{Catalog, Segment, Standing};
use crate::milvus::keys::{KeyKind, LogKind, Roots};
use crate::milvus::proto::common::SegmentState;
use crate::milvus::proto::data::{SegmentInfo, SegmentLevel};
use crate::{Cause, Error, Result};

/// How far apart the parts of one change may lie: their transactions follow one another without a pause.
pub(super) const QUIET: Duration = Duration::from_secs(2);

/// What transactions shortly before a revision did to segments.
#[derive(Debug, Default)]
struct Before {
    /// Segments whose record or logs were put.
    touched: BTreeSet<i64>,
    /// Segments that were dropped.
    dropped: BTreeSet<i64>,
    /// Inputs of compactions, and the output whose record names them.
    inputs: BTreeMap<i64, i64>,
    /// Channels of segments of level 0 that were dropped, and the newest such segment.
    emptied: HashMap<String, i64>,
}

/// The segments at a revision, by id.
type Segments<'a> = HashMap<i64, &'a Segment>;

/// Names a change of segments of which a part was put within [`QUIET`] before `revision`, which is not older than
/// `since`, and another part after it. `changes` are all changes of that time and later, and `catalog` is
/// what the keys said at the revision.
pub(super) fn half_saved(
    roots: &Roots,
    changes: &[Timed],
    revision: i64,
    since: Instant,
    catalog: &Catalog,
) -> Result<Option<String>> {
    let early = changes
        .partition_point(|timed| timed.at + QUIET < since && timed.change.revision() <= revision);
    // Most changes are of checkpoints.
    let changes = changes[early..].iter();
    let changes: Vec<&Timed> = changes.filter(|t| is_of_segment(roots, t)).collect();
    let after = changes.partition_point(|timed| timed.change.revision() <= revision);
    let (before, after) = changes.split_at(after);
    let before: Vec<_> = transactions(before).collect();
    let segments = catalog
        .segments
        .iter()
        .map(|s| (s.key.segment, s))
        .collect();
    for transaction in transactions(after) {
        let keys: HashSet<&[u8]> = transaction.iter().map(|t| t.change.key()).collect();
        let mut seen = Before::default();
        for earlier in &before {
            if earlier
                .iter()
                .all(|timed| !keys.contains(timed.change.key()))
            {
                for timed in *earlier {
                    seen.add(roots, &timed.change)?;
                }
            }
        }
        for timed in transaction {
            if let Some(why) = seen.completes(roots, &segments, &timed.change)? {
                return Ok(Some(why));
            }
        }
    }
    Ok(None)
}

fn is_of_segment(roots: &Roots, timed: &Timed) -> bool {
    let kind = roots.parse(timed.change.key());
    matches!(kind, KeyKind::Segment(_) | KeyKind::Log { .. })
}

/// Changes by the transaction that they are of.
fn transactions<'a, 'b>(changes: &'b [&'a Timed]) -> impl Iterator<Item = &'b [&'a Timed]> {
    changes.chunk_by(|a, b| a.change.revision() == b.change.revision())
}

impl Before {
    fn add(&mut self, roots: &Roots, change: &Change) -> Result<()> {
        let Some(put) = change.put() else {
            return Ok(());
        };
        match roots.parse(&put.key) {
            KeyKind::Log { segment, .. } => {
                self.touched.insert(segment.segment);
            }
            KeyKind::Segment(key) => {
                let info = record(put)?;
                self.touched.insert(key.segment);
                let inputs = info.compaction_from.iter();
                self.inputs
                    .extend(inputs.map(|input| (*input, key.segment)));
                if is_dropped(&info) {
                    self.dropped.insert(key.segment);
                }
                if is_dropped(&info) && info.level == SegmentLevel::L0 as i32 {
                    self.emptied.insert(info.insert_channel, key.segment);
                }
            }
            _ => {}
        }
        Ok(())
    }

    /// Why `change`, which came after the revision, belongs to something that came before it.
    fn completes(
        &self,
        roots: &Roots,
        segments: &Segments<'_>,
        change: &Change,
    ) -> Result<Option<String>> {
        let Some(put) = change.put() else {
            return Ok(None);
        };
        Ok(match roots.parse(&put.key) {
            KeyKind::Log { kind, segment, .. } => {
                let id = segment.segment;
                if self.is_unfinished(segments, id) {
                    return Ok(Some(format!("logs of segment {id} were being saved")));
                }
                let known = segments.get(&id).map(|segment| &*segment.channel);
                let emptied = known.and_then(|channel| self.emptied.get(channel));
                emptied.filter(|_| kind == LogKind::Delta).map(|level_0| {
                    format!("deletes of segment {level_0}, which is dropped, were being moved to segment {id}")
                })
            }
            KeyKind::Segment(key) => {
                let (id, info) = (key.segment, record(put)?);
                // That one is dropped is no rest of what was saved of it; the output that replaces it is.
                let ends = is_dropped(&info) || is_flushed_now(segments, id, &info);
                if self.is_unfinished(segments, id) && !ends {
                    return Ok(Some(format!("segment {id} was being saved")));
                }
                let mut inputs = info.compaction_from.iter();
                if let Some(input) = inputs.find(|input| self.dropped.contains(input)) {
                    return Ok(Some(format!(
                        "segment {id}, which is made of segment {input}, was being saved"
                    )));
                }
                let output = self.inputs.get(&id).filter(|_| is_dropped(&info));
                output.map(|output| format!("segment {id} was being replaced by segment {output}"))
            }
            _ => None,
        })
    }

    /// Whether a segment that is part of the anchor was changed shortly before the revision. One that is open is
    /// no part of it, whatever is saved of it.
    fn is_unfinished(&self, segments: &Segments<'_>, id: i64) -> bool {
        let standing = segments.get(&id).map(|segment| segment.standing);
        let outside = standing.is_some_and(|s| s.is_open() || s == Standing::Importing);
        self.touched.contains(&id) && !outside
    }
}

/// Whether a record says nothing but that a flush has ended, of which all logs were saved with the state
/// before.
fn is_flushed_now(segments: &Segments<'_>, id: i64, info: &SegmentInfo) -> bool {
    let flushing = |segment: &&Segment| segment.state == SegmentState::Flushing;
    info.state == SegmentState::Flushed as i32 && segments.get(&id).is_some_and(flushing)
}

fn is_dropped(info: &SegmentInfo) -> bool {
    info.state == SegmentState::Dropped as i32
}

fn record(kv: &KeyValue) -> Result<SegmentInfo> {
    SegmentInfo::decode(kv.value.as_slice()).map_err(|error| {
        let name = String::from_utf8_lossy(&kv.key);
        let message = format!("the value of {name} is no record of a segment");
        Error::new(Cause::Damage, message).with_source(error)
    })
}

#[cfg(test)]
#[path = "quiet_tests.rs"]
mod tests;
