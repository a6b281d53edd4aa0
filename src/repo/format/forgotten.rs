//! Records of forgetting (section 10).

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::ids::{ForgottenId, ManifestHash, RepositoryId, SessionId, SnapshotId};
use super::lineage::{Dead, Lineage, Origin, Parent};
use super::manifest::Manifest;

/// A snapshot that was forgotten: what is left of it in the order of its lineage.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Forgotten {
    pub(crate) snapshot: SnapshotId,
    /// The stored file that is forgotten; another one with this id is not.
    pub(crate) manifest: ManifestHash,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) origin: Option<Origin>,
    pub(crate) instance: String,
    pub(crate) session: SessionId,
    pub(crate) sequence: u64,
    pub(crate) parent: Option<Parent>,
    #[serde(default, skip_serializing_if = "Dead::is_empty")]
    pub(crate) dead: Dead,
    /// When it was forgotten.
    pub(crate) time: Timestamp,
}

impl Forgotten {
    pub(crate) fn of(manifest: &Manifest, time: Timestamp) -> Self {
        Self {
            snapshot: manifest.snapshot,
            manifest: manifest.hash,
            origin: manifest.origin,
            instance: manifest.instance.clone(),
            session: manifest.session,
            sequence: manifest.sequence,
            parent: manifest.parent,
            dead: manifest.dead.clone(),
            time,
        }
    }

    /// The lineage that it belonged to, when it is read in `repository`.
    pub(crate) fn lineage(&self, repository: RepositoryId) -> Lineage {
        Lineage {
            origin: self.origin.map_or(repository, |origin| origin.repository),
            instance: self.instance.clone(),
        }
    }

    /// What its successors say of it.
    pub(crate) fn as_parent(&self) -> Parent {
        Parent {
            snapshot: self.snapshot,
            sequence: self.sequence,
            manifest: self.origin.map_or(self.manifest, |origin| origin.manifest),
        }
    }
}

/// A file of records of forgetting. Many are merged into one, which supersedes those it was made of.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub(crate) struct ForgottenFile {
    pub(crate) records: Vec<Forgotten>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) supersedes: Vec<ForgottenId>,
}
