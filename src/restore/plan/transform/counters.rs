//! Counters that must never fall behind (docs/milvus.md 8.1).

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

/// A source clock further ahead than this is worth a warning.
const AHEAD_NANOS: u64 = 3_600 * 1_000_000_000;

/// The floor below which no counter may be.
#[derive(Debug, Clone, Copy)]
pub(super) struct Advance {
    floor: u64,
    now: u64,
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
        }
    }

    /// The new value of an allocator's mark, in nanoseconds since 1970.
    pub(super) fn mark(self, saved: u64) -> u64 {
        saved.max(self.floor).saturating_add(MARGIN_NANOS)
    }

    /// By how many seconds a mark is ahead of the target's clock, when that is worth a warning.
    pub(super) fn ahead(self, mark: u64) -> Option<u64> {
        let ahead = mark.saturating_sub(self.now);
        (ahead > AHEAD_NANOS).then_some(ahead / 1_000_000_000)
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
