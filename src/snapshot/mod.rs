//! What is stored: the consistency manifest, the keys of the anchor, the objects, the queue's files.
//!
//! A capture makes a snapshot of an instance, a restore makes an instance of a snapshot, a
//! verification reads one.

pub mod anchor;
mod body;
mod draft;
#[cfg(test)]
pub(crate) mod fixture;
pub mod items;
pub mod missing;
mod objects;
mod reader;
pub mod reading;
mod selection;

pub use body::{Body, Counts, Cut, EtcdIdentity, FlushRecord, MilvusIdentity, Mode, Wal, WalState};
pub use draft::{Draft, store_keys};
pub use objects::{ObjectEntry, object_entry};
pub use reader::{
    ANCHOR_ROOT, KEYS_ONLY, OBJECTS_ROOT, REPLACED_ROOT, Snapshot, WAL_ROOT, is_keys_only,
};
pub use selection::{CollectionPath, Selected, Selection};
