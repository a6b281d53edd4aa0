//! Counters that must never fall behind (docs/milvus.md 8.1).

use std::time::Duration;

use jiff::Timestamp;

use crate::milvus::catalog::Catalog;
use crate::milvus::hybrid;
use crate::{Cause, Error, Result};

/// How far counters are moved past the greatest value that is known: Milvus saves its allocator
/// 3 s ahead, and the rule asks for 10 s or more.
const MARGIN_NANOS: u64 = 10_000_000_000;

/// How far the node id counter is moved: ids that the source gave out after the snapshot stay
/// unused.
const SESSION_MARGIN: i64 = 16;

/// Every timestamp was issued below the allocator's mark; a value further past it than this is not
/// a timestamp and must not carry the counters into another century.
const STRAY_NANOS: u64 = 86_400 * 1_000_000_000;

/// A clock further behind the snapshot than this is worth a warning: the allocator is 3 s ahead by itself.
const BEHIND_NANOS: u64 = 30 * 1_000_000_000;

/// The floor below which no counter may be.
#[derive(Debug, Clone, Copy)]
pub(super) struct Advance {
    floor: u64,
    now: u64,
    /// Milvus gives out no timestamp below this.
    issued: u64,
}

impl Advance {
    pub(super) fn new(catalog: &Catalog, now: Timestamp) -> Self {
        let seen = hybrid::millis(catalog.max_timestamp).saturating_mul(1_000_000);
        let now = u64::try_from(now.as_nanosecond()).unwrap_or_default();
        let issued = catalog.counters.tso.unwrap_or(u64::MAX);
        let seen = seen.min(issued.saturating_add(STRAY_NANOS));
        Self {
            floor: seen.max(now),
            now,
            issued: catalog.counters.tso.map_or(seen, |mark| mark.max(seen)),
        }
    }

    /// The new value of an allocator's mark, in nanoseconds since 1970.
    pub(super) fn mark(self, saved: u64) -> u64 {
        saved.max(self.floor).saturating_add(MARGIN_NANOS)
    }

    /// What it costs that this host's clock is behind the timestamps of the snapshot, where it is.
    pub(super) fn clock_behind(self) -> Option<String> {
        let behind = self.issued.saturating_sub(self.now);
        if behind <= BEHIND_NANOS {
            return None;
        }
        let until = Timestamp::from_nanosecond(self.issued.into());
        let until = until.map_or_else(|_| "an unknown time".to_owned(), |t| t.to_string());
        let time = humantime::format_duration(Duration::from_secs(behind / 1_000_000_000));
        Some(format!(
            "the clock of this host is {time} behind the snapshot, whose timestamps go up to {until}: Milvus gives out none below that, and until its clock is past it they hardly move on, so that a flush, and a load or search that waits for new data, may hang for as long, and rows outlive their time to live; if the clock is wrong, set it before Milvus starts"
        ))
    }
}

/// The new value of the node id counter.
pub(super) fn session_id(saved: i64, least: i64) -> i64 {
    saved.max(least).saturating_add(SESSION_MARGIN)
}

/// Reads an allocator's mark: 8 bytes, big endian.
pub(super) fn read_mark(value: &[u8]) -> Result<u64> {
    let bytes = value
        .try_into()
        .map_err(|_| Error::new(Cause::Damage, "the value is not an 8-byte counter"))?;
    Ok(u64::from_be_bytes(bytes))
}
