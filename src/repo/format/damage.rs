//! What is wrong with a stored file, and which snapshots it hurts.

use serde::{Deserialize, Serialize};

use super::ids::SnapshotId;

/// What kind of thing is damaged.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum DamageKind {
    /// The repository's config.
    Config,
    /// Features that were added to the repository later.
    Features,
    /// A key file or the keyring.
    Key,
    /// A manifest.
    Manifest,
    /// The order of a lineage's snapshots: one that is missing or another than its successor says, or a
    /// number taken twice.
    Sequence,
    /// A claim of a number in a lineage.
    Claim,
    /// Records of forgetting.
    Forgotten,
    /// What a snapshot was amended by.
    Amendment,
    /// An index segment, or blobs that no segment knows.
    Index,
    /// A checkpoint of a writer.
    Checkpoint,
    /// A lease.
    Lease,
    /// A mark of packs that are about to go.
    Mark,
    /// The result of a verification.
    Verification,
    /// A tree node.
    Tree,
    /// A pack that is missing or has the wrong size.
    Pack,
    /// Bytes of a pack.
    Bytes,
    /// What a snapshot holds: it does not decode, or lacks what it requires. Found by who knows
    /// what snapshots are of.
    Contents,
}

/// One damage.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Damage {
    /// What kind of thing.
    pub kind: DamageKind,
    /// What is wrong, for people.
    pub what: String,
    /// The file or directory in the repository.
    #[serde(rename = "where")]
    pub place: String,
    /// The snapshots that cannot be restored whole because of it; none where no snapshot needs it.
    pub snapshots: Vec<SnapshotId>,
}
