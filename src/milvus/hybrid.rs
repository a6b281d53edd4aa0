//! Hybrid timestamps: milliseconds since 1970 above 18 bits of a counter (docs/milvus.md 8.1).

use jiff::Timestamp;

/// Bits of the counter.
const LOGICAL_BITS: u32 = 18;

/// The milliseconds since 1970 in a timestamp.
#[must_use]
pub const fn millis(timestamp: u64) -> u64 {
    timestamp >> LOGICAL_BITS
}

/// The time of day in a timestamp; `None` for 0 and what is no time.
#[must_use]
pub fn time(timestamp: u64) -> Option<Timestamp> {
    let millis = i64::try_from(millis(timestamp)).ok()?;
    let millis = Some(millis).filter(|millis| *millis > 0)?;
    Timestamp::from_millisecond(millis).ok()
}

/// The first timestamp of a millisecond, or of so many milliseconds the distance.
#[must_use]
pub const fn of_millis(millis: u64) -> u64 {
    millis << LOGICAL_BITS
}
