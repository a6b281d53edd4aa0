//! What a restore is about: the part of the snapshot that it places, and the part of the target that it
//! has for itself. What lies outside is neither judged nor compared nor removed.

use crate::milvus::keys::Roots;
use crate::milvus::objects::folders;
use crate::snapshot::Selected;

/// The part of a snapshot and of a target that a restore is about.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Scope {
    /// The objects of the snapshot.
    pub(crate) selected: Selected,
    /// Prefixes of the target's etcd keys: what is below them and is not written goes, none of them
    /// begins with another.
    pub(crate) keys: Vec<String>,
    /// Prefixes of paths below the storage root that have to be empty, unless something is replaced.
    pub(crate) empty: Vec<String>,
    /// Prefixes of paths below the storage root that are cleared of what the snapshot does not have,
    /// when something is replaced.
    pub(crate) replaced: Vec<String>,
}

impl Scope {
    /// A whole instance: every key below the root, and the storage root, of which only Milvus's own
    /// folders are cleared.
    pub(crate) fn whole(roots: &Roots) -> Self {
        Self {
            selected: Selected::All,
            keys: vec![roots.prefix()],
            empty: vec![String::new()],
            replaced: folders().map(|folder| format!("{folder}/")).collect(),
        }
    }

    /// Whether an etcd key belongs to it.
    pub(crate) fn has_key(&self, key: &[u8]) -> bool {
        let begins = |prefix: &String| key.starts_with(prefix.as_bytes());
        self.keys.iter().any(begins)
    }
}
