//! What a restore is about: the part of the snapshot that it places, and the part of the target that it
//! has for itself. What lies outside is neither judged nor compared nor removed.
//!
//! Every restore is of a whole instance yet. One of a part needs more than a smaller scope: an embedded
//! etcd is replaced as a whole, the queue is put aside as a whole, and the marker does not say what was
//! selected.

use crate::milvus::keys::Roots;
use crate::milvus::objects::folders;
use crate::snapshot::Selected;

/// The part of a snapshot and of a target that a restore is about.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Scope {
    /// The objects of the snapshot.
    pub(crate) selected: Selected,
    /// The target's etcd keys, ascending, none in another: everything below what ends with `/`, or one key.
    /// What is there and is not written goes.
    pub(crate) keys: Vec<String>,
    /// Prefixes of paths below the storage root, none in another, each with a `/` at its end or empty for
    /// all of it, that have to be empty unless something is replaced.
    pub(crate) empty: Vec<String>,
    /// Such prefixes that are cleared of what the snapshot does not have, when something is replaced.
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
        // What holds a key is the greatest that is not above it.
        let above = self.keys.partition_point(|keys| keys.as_bytes() <= key);
        let keys = above.checked_sub(1).and_then(|at| self.keys.get(at));
        keys.is_some_and(|keys| covers(keys, key))
    }
}

/// Whether `keys` of [`Scope::keys`] are or hold `key`.
pub(crate) fn covers(keys: &str, key: &[u8]) -> bool {
    if keys.ends_with('/') {
        key.starts_with(keys.as_bytes())
    } else {
        key == keys.as_bytes()
    }
}
