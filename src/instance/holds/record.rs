//! What a manifest says of a hold.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// One suspension.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct HoldRecord {
    /// `writes`, `ddl`, `compaction` or `gc`.
    pub hold: String,
    /// What came of it.
    pub state: HoldState,
    /// Milliseconds it was held by us.
    pub held_ms: u64,
    /// How it was proved, or why it is absent.
    pub detail: String,
}

/// What came of a hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum HoldState {
    /// Ours, under a lease, until released.
    Held,
    /// Ours, and lost before the capture ended; the detail says how.
    Lost,
    /// An operator had set it; it was used and left alone.
    External,
    /// This Milvus has no such control.
    Absent,
}

/// What the time was spent on while writes were denied, in milliseconds.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct HoldSpent {
    /// Until every proxy denied writes.
    pub denial_ms: u64,
    /// On flushes.
    pub flush_ms: u64,
    /// On reading what decides.
    pub reading_ms: u64,
    /// On proving that nothing was half saved.
    pub quiet_ms: u64,
}
