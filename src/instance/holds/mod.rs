//! Leased holds: what the agent suspends ends by itself when the agent dies (I3).
//!
//! Writes, DDL and compaction are held by items of Milvus's dynamic configuration in etcd, put
//! under one lease. An item that an operator has already set is used and left alone; one that is
//! set to something else is refused. [`Placed::proven_by`] is the proof that a hold stood at the
//! revision of the anchor.

mod gc;
mod held;
mod items;
mod record;

pub use gc::{GcHold, hold_gc};
pub use held::Holds;
pub use items::{
    COMPACTION, ConfigItem, DDL, Placed, SORT_COMPACTION, WRITES, allowed, is_set, place,
};
pub use record::{HoldRecord, HoldSpent, HoldState};

use std::time::Duration;

/// How long a hold outlives a dead agent: Milvus polls its configuration every 5 s and recomputes
/// its limits every 3 s on top (docs/milvus.md 2.3), so writes come back within about 40 s of a kill.
pub const TTL: Duration = Duration::from_secs(30);
