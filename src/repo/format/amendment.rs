//! Amendments: what a snapshot owed or has lost since it was made (section 12). A manifest is final.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::ids::{AmendmentId, ManifestHash, SessionId, SnapshotId};
use super::manifest::Roots;

/// What is said of some entries of a snapshot's maps.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Amendment {
    /// The version of the format, 1.
    pub format: u64,
    /// The amendment's id.
    pub amendment: AmendmentId,
    /// The snapshot.
    pub snapshot: SnapshotId,
    /// What its manifest is known by: [`Manifest::known_as`](crate::repo::Manifest::known_as).
    pub manifest: ManifestHash,
    /// The session that wrote it.
    pub session: SessionId,
    /// When it was written.
    pub time: Timestamp,
    /// Maps with the names of the snapshot's maps and some of their keys. An external object or a volume has the
    /// hash that was owed; an entry without content, the value of which says why, is lost.
    pub roots: Roots,
    /// Features that one must know to read this amendment.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub requires: Vec<String>,
}
