//! Manifests: a snapshot exists when its manifest does (section 10).

use std::collections::BTreeMap;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::ids::SnapshotId;
use super::tree::NodeRef;

/// The roots of a snapshot's maps, by name; an empty map has none.
pub type Roots = BTreeMap<String, Option<NodeRef>>;

/// The manifest of a snapshot.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Manifest {
    /// The version of the format, 1.
    pub format: u64,
    /// The snapshot's id.
    pub snapshot: SnapshotId,
    /// Whose snapshot it is.
    pub instance: String,
    /// 1, 2, 3 … within the instance.
    pub sequence: u64,
    /// The snapshot before it in the instance.
    pub parent: Option<SnapshotId>,
    /// Snapshots whose manifests could not be read when this one was made, of whatever instance:
    /// each may have one of the numbers before this.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub unreadable: Vec<SnapshotId>,
    /// The time of the anchor.
    pub time: Timestamp,
    /// The snapshot's maps.
    pub roots: Roots,
    /// Sums over the snapshot.
    pub totals: Totals,
    /// Labels given by the operator.
    pub labels: BTreeMap<String, String>,
    /// What the capture says of itself.
    pub body: serde_json::Value,
}

/// Sums over a snapshot.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Totals {
    /// Objects in the snapshot.
    pub objects: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Bytes that this snapshot added to the repository, as stored.
    pub bytes_added: u64,
}
