//! What `prune` prints.

use schemars::JsonSchema;
use serde::Serialize;

use super::{HexId, Time};
use crate::repo::{Packs, PruneReport};

/// `eyrie prune --json`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, JsonSchema)]
pub struct PruneDocument {
    /// Whether this is only what would be done.
    pub dry_run: bool,
    /// Bytes that were freed.
    pub freed_bytes: u64,
    /// Bytes of packs that are marked, and go with a later prune.
    pub to_be_freed_bytes: u64,
    /// When the first of these may go; `null` when there are none, or only sessions are waited for.
    pub due: Option<Time>,
    /// The sessions that marked packs wait for.
    pub waits_for: Vec<String>,
    /// Packs that were removed.
    pub removed: PackCount,
    /// Packs that nobody needs and that the store has locked.
    pub locked: PackCount,
    /// Packs that are marked.
    pub marked: PackCount,
    /// Those of them that were marked now.
    pub newly_marked: PackCount,
    /// Packs of which something was stored again, and the bytes of that.
    pub repacked: PackCount,
    /// Snapshots that are needed.
    pub snapshots: u64,
    /// Forgotten snapshots whose manifests were removed.
    pub manifests_removed: Vec<HexId>,
    /// Forgotten snapshots that stay, as this configuration's policy keeps them.
    pub kept_back: Vec<HexId>,
    /// Stored bytes that are needed.
    pub needed_bytes: u64,
    /// Bytes that nobody needs in packs that stay.
    pub unused_bytes: u64,
    /// Packs that could not be stored again as they are damaged.
    pub damaged_packs: Vec<HexId>,
    /// Blobs that snapshots need and that are only in packs which the store has lost.
    pub lost_blobs: u64,
    /// How long it took.
    pub duration_ms: u64,
}

/// Packs and their bytes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, JsonSchema)]
pub struct PackCount {
    /// How many.
    pub packs: u64,
    /// Their bytes.
    pub bytes: u64,
}

impl From<Packs> for PackCount {
    fn from(packs: Packs) -> Self {
        Self {
            packs: packs.count,
            bytes: packs.bytes,
        }
    }
}

impl PruneDocument {
    /// The document of a prune.
    #[must_use]
    pub fn new(report: &PruneReport, dry_run: bool, duration_ms: u64) -> Self {
        let hex = |id: &dyn std::fmt::Display| HexId(id.to_string());
        let ids = |ids: &[crate::repo::SnapshotId]| ids.iter().map(|id| hex(id)).collect();
        Self {
            dry_run,
            freed_bytes: report.removed.bytes,
            to_be_freed_bytes: report.marked.bytes,
            due: report.due.map(Time),
            waits_for: report.waits_for.clone(),
            removed: report.removed.into(),
            locked: report.locked.into(),
            marked: report.marked.into(),
            newly_marked: report.newly_marked.into(),
            repacked: report.repacked.into(),
            snapshots: report.snapshots,
            manifests_removed: ids(&report.manifests_removed),
            kept_back: ids(&report.kept_back),
            needed_bytes: report.needed_bytes,
            unused_bytes: report.unused_bytes,
            damaged_packs: report.damaged.iter().map(|id| hex(id)).collect(),
            lost_blobs: report.lost_blobs,
            duration_ms,
        }
    }
}
