//! Marks: packs that are about to go (section 11).

use std::collections::BTreeMap;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::ids::{BlobId, MarkId, PackId};
use super::lineage::Dead;

/// What a mark says.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Mark {
    /// The file's name.
    #[serde(rename = "mark")]
    pub(crate) id: MarkId,
    pub(crate) created: Timestamp,
    /// The packs that are to go.
    pub(crate) packs: Vec<PackId>,
    /// For each blob in them that was needed when the mark was made, another pack that has it.
    pub(crate) moved: BTreeMap<BlobId, PackId>,
    /// The sessions that whoever made it took for dead.
    #[serde(default, skip_serializing_if = "Dead::is_empty")]
    pub(crate) dead: Dead,
}
