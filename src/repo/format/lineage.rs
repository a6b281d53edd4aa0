//! Whose snapshots follow each other (section 10).

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::ids::{ManifestHash, RepositoryId, SessionId, SnapshotId};
use super::sealer::Sealer;

/// The snapshots of one instance that were made in one repository: they have numbers, parents and one
/// writer at a time.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Lineage {
    /// The repository that they were made in.
    pub origin: RepositoryId,
    /// The instance.
    pub instance: String,
}

/// Where a copied snapshot was made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Origin {
    /// The repository.
    pub repository: RepositoryId,
    /// The hash of the manifest's file there.
    pub manifest: ManifestHash,
}

/// The snapshot before another one in its lineage.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Parent {
    /// Its id.
    pub snapshot: SnapshotId,
    /// Its number.
    pub sequence: u64,
    /// The hash of its manifest's file, in the repository where it was made.
    pub manifest: ManifestHash,
}

/// Sessions that were taken for dead, each with its snapshots that were known then: a manifest of such
/// a session that comes later is no snapshot.
pub type Dead = BTreeMap<SessionId, Vec<SnapshotId>>;

/// Who takes a number of a lineage: the file can be created once.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Claim {
    #[serde(flatten)]
    pub(crate) lineage: Lineage,
    pub(crate) sequence: u64,
    pub(crate) session: SessionId,
    pub(crate) snapshot: SnapshotId,
}

impl Sealer {
    /// The name of the claim of a number: everybody who takes it comes to the same.
    pub(crate) fn claim_name(&self, lineage: &Lineage, sequence: u64) -> String {
        hex::encode(self.ring.id_key.keyed(&[
            b"eyrie 1 claim",
            &lineage.origin.0,
            &sequence.to_le_bytes(),
            lineage.instance.as_bytes(),
        ]))
    }
}
