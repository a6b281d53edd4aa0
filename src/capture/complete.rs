//! The whole anchor, judged after the release of the holds by what was decided under them.

use std::time::Duration;

use jiff::Timestamp;

use super::anchor::Anchored;
use super::view;
use crate::Result;
use crate::capture::followed::Followed;
use crate::capture::metadata::{Blockers, CutPoint, MetadataRead, Reader};
use crate::etcd::{Anchor, Compared};
use crate::milvus::catalog::Catalog;
use crate::milvus::flush::FlushOutcome;
use crate::milvus::inventory::Inventory;
use crate::snapshot::FlushRecord;

/// What was decided while the holds were in force.
#[derive(Debug)]
pub(super) struct Decided {
    pub(super) read: MetadataRead,
    pub(super) time: Timestamp,
    pub(super) cut: u64,
    /// As [`CutPoint::since`].
    pub(super) since: i64,
    pub(super) claim: Claim,
    pub(super) flush: (FlushOutcome, Duration),
}

impl Decided {
    /// With the keys that it was decided on, and with what Milvus said that it holds.
    pub(super) fn settled(self, followed: Followed<'_>, inventory: Inventory) -> Settled<'_> {
        Settled {
            decided: self,
            followed,
            inventory,
        }
    }
}

/// What was decided, once the holds are released.
#[derive(Debug)]
pub(super) struct Settled<'a> {
    pub(super) decided: Decided,
    pub(super) followed: Followed<'a>,
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

/// Compares all keys at the revision that was decided on with what etcd has, and judges the whole by the
/// same rules: an anchor that contradicts what was decided is never captured.
///
/// # Errors
///
/// [`Cause::Refused`](crate::Cause::Refused) when the anchor shows what no other anchor would lack.
pub(super) async fn complete(reader: &Reader<'_>, settled: Settled<'_>) -> Result<Completed> {
    let Settled {
        decided,
        followed,
        inventory,
    } = settled;
    let revision = decided.read.revision;
    let (keys, fence) = followed.into_keys();
    let prefix = reader.roots.prefix();
    let compared = reader.etcd.compare(&prefix, &fence, revision, &keys);
    if let Compared::Differs(what) = compared.await? {
        let why =
            format!("what was read of etcd is not what it has at revision {revision}: {what}");
        return Ok(Completed::Void(why));
    }
    let catalog = Catalog::decode(reader.roots, &keys, reader.version)?;
    let cut_point = CutPoint {
        barrier: &decided.flush.0.barrier,
        cut: decided.cut,
        since: decided.since,
    };
    let blockers = Blockers::of(&catalog, &cut_point);
    if !blockers.passes() {
        return Err(blockers.error());
    }
    if !blockers.is_empty() {
        return Ok(Completed::Void(blockers.error().to_string()));
    }
    if decided.claim == Claim::Proven && catalog.logs_after(decided.cut).next().is_some() {
        return Ok(Completed::Void(format!(
            "a log is newer than the cut, and its key is older than revision {}",
            decided.since
        )));
    }
    let differences = view::differences(&inventory, &catalog);
    let anchor = Anchor { revision, keys };
    let (time, cut, undated) = (decided.time, decided.cut, decided.read.undated);
    let mut anchored = Anchored::new(time, anchor, catalog, cut, undated);
    anchored.flush = Some(record(&decided.flush));
    anchored.differences = differences;
    Ok(Completed::Anchored(Box::new(anchored)))
}

fn record((outcome, duration): &(FlushOutcome, Duration)) -> FlushRecord {
    FlushRecord {
        shape: format!("{:?}/{:?}", outcome.method, outcome.shape),
        timestamp: outcome.barrier.timestamp(),
        attempts: outcome.attempts,
        duration_ms: u64::try_from(duration.as_millis()).unwrap_or(u64::MAX),
    }
}
