//! Manifests: a snapshot exists when its manifest does (section 10).

use std::collections::BTreeMap;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::ids::{ManifestHash, RepositoryId, SessionId, SnapshotId};
use super::lineage::{Dead, Lineage, Origin, Parent};
use super::tree::NodeRef;

/// The highest number of a snapshot: what every reader of JSON has exactly.
pub(crate) const SEQUENCE_MAX: u64 = (1 << 53) - 1;

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
    /// Where it was made, when that is not this file: a copy says the same wherever it came by.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub origin: Option<Origin>,
    /// The session that committed it.
    pub session: SessionId,
    /// Its number in its lineage: 1 or more, above its parent's.
    pub sequence: u64,
    /// The snapshot before it in its lineage.
    pub parent: Option<Parent>,
    /// Sessions of the lineage that this one's took for dead.
    #[serde(default, skip_serializing_if = "Dead::is_empty")]
    pub dead: Dead,
    /// Snapshots whose manifests could not be read when this one was made, of whatever instance:
    /// each may have one of the numbers before this.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub unreadable: Vec<SnapshotId>,
    /// Features that one must know to read this snapshot.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub requires: Vec<String>,
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
    /// The hash of the file that it was read from or written to.
    #[serde(skip)]
    pub hash: ManifestHash,
    /// Maps with names and keys of its own, which say what became of some entries since it was made.
    #[serde(skip)]
    pub amended: Vec<Roots>,
}

impl Manifest {
    /// The lineage that it belongs to, when it is read in `repository`.
    #[must_use]
    pub fn lineage(&self, repository: RepositoryId) -> Lineage {
        Lineage {
            origin: self.origin.map_or(repository, |origin| origin.repository),
            instance: self.instance.clone(),
        }
    }

    /// The roots of all its maps, and of those that amend them.
    pub(crate) fn all_roots(&self) -> impl Iterator<Item = NodeRef> {
        let all = std::iter::once(&self.roots).chain(&self.amended);
        all.flat_map(BTreeMap::values).flatten().copied()
    }

    /// The hash that its successors know it by: of its file where it was made.
    #[must_use]
    pub fn known_as(&self) -> ManifestHash {
        self.origin.map_or(self.hash, |origin| origin.manifest)
    }

    /// What a successor says of it.
    pub(crate) fn as_parent(&self) -> Parent {
        Parent {
            snapshot: self.snapshot,
            sequence: self.sequence,
            manifest: self.known_as(),
        }
    }
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
