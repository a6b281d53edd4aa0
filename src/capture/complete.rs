//! The rest of an anchor, read after the release of the holds and judged by what was decided under them.

use std::time::Duration;

use jiff::Timestamp;

use super::anchor::Anchored;
use super::view;
use crate::Result;
use crate::capture::metadata::{Blockers, CutPoint, MetadataRead, Reader};
use crate::etcd::Anchor;
use crate::milvus::flush::FlushOutcome;
use crate::milvus::inventory::Inventory;
use crate::snapshot::FlushRecord;

/// What was decided while the holds were in force. They are released.
#[derive(Debug)]
pub(super) struct Settled {
    pub(super) read: MetadataRead,
    pub(super) time: Timestamp,
    pub(super) cut: u64,
    /// As [`CutPoint::since`].
    pub(super) since: i64,
    pub(super) claim: Claim,
    pub(super) flush: (FlushOutcome, Duration),
    /// What Milvus said that it holds.
    pub(super) inventory: Inventory,
}

/// What is said of the cut.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Claim {
    /// No log is newer.
    Proven,
    /// Some log is newer, or writes were not held.
    None,
}

/// What came of reading the whole anchor at the revision that was decided on.
#[derive(Debug)]
pub(super) enum Completed {
    /// It agrees with what was decided while writes were denied.
    Anchored(Box<Anchored>),
    /// It does not agree, or cannot be read any more, and this is why.
    Void(String),
}

/// Reads the rest of the anchor at the revision that was decided on, and judges the whole by the
/// same rules: an anchor that contradicts what was decided is never captured.
///
/// # Errors
///
/// [`Cause::Refused`](crate::Cause::Refused) when the anchor shows what no other anchor would lack.
pub(super) async fn complete(reader: &Reader<'_>, settled: Settled) -> Result<Completed> {
    let revision = settled.read.revision;
    let Some(read) = reader.whole(settled.read).await? else {
        return Ok(Completed::Void(format!(
            "etcd compacted revision {revision} before all of it was read"
        )));
    };
    let catalog = read.catalog;
    let cut_point = CutPoint {
        barrier: &settled.flush.0.barrier,
        cut: settled.cut,
        since: settled.since,
    };
    let blockers = Blockers::of(&catalog, &cut_point);
    if !blockers.passes() {
        return Err(blockers.error());
    }
    if !blockers.is_empty() {
        return Ok(Completed::Void(blockers.error().to_string()));
    }
    if settled.claim == Claim::Proven && catalog.logs_after(settled.cut).next().is_some() {
        return Ok(Completed::Void(format!(
            "a log is newer than the cut, and its key is older than revision {}",
            settled.since
        )));
    }
    let differences = view::differences(&settled.inventory, &catalog);
    let anchor = Anchor {
        revision,
        keys: read.keys,
    };
    Ok(Completed::Anchored(Box::new(Anchored::new(
        settled.time,
        anchor,
        catalog,
        settled.cut,
        Some(record(&settled.flush)),
        differences,
    ))))
}

fn record((outcome, duration): &(FlushOutcome, Duration)) -> FlushRecord {
    FlushRecord {
        shape: format!("{:?}/{:?}", outcome.method, outcome.shape),
        timestamp: outcome.barrier.timestamp(),
        attempts: outcome.attempts,
        duration_ms: u64::try_from(duration.as_millis()).unwrap_or(u64::MAX),
    }
}
