//! The repository, on a store: packs, index, trees, crypto, leases.
//!
//! `docs/format.md` is normative for every byte. A [`Repository`] is opened once; a [`Writer`]
//! stores objects and maps and commits manifests, a [`Reader`] reads them back, and [`View`] is what
//! both see: the blobs that the index knew when the session began.
//!
//! What is stored is never believed: a piece that is read has been authenticated, expanded and
//! hashed again before anyone sees it, and anything wrong is [`Cause::Damage`](crate::Cause::Damage).

mod blob;
mod check;
mod config;
mod crypto;
mod hash;
mod host;
mod ids;
mod index;
mod keys;
mod lease;
mod manifest;
mod pack;
mod plan;
mod repository;
mod sealed;
mod tree;
mod vault;
mod verified;
mod view;
mod wire;
mod writer;

#[cfg(test)]
mod tests;

pub use blob::Compression;
pub use check::{CheckBytes, CheckReport, Damage, DamageKind, Listing};
pub use hash::{Cuts, PieceRef};
pub use ids::{
    BlobId, Cv, IndexId, KeyId, ObjectHash, PackId, RepositoryId, SessionId, SnapshotId,
};
pub use keys::{KdfCost, Unlock};
pub use manifest::{Manifest, ManifestDraft, Roots, Snapshots, Totals};
pub use plan::{ReadPlan, Sink};
pub use repository::{InitOptions, Repository};
pub use tree::{
    Change, Content, Entry, Envelope, EnvelopeNode, KeyRange, Map, MapBuilder, NodeRef,
};
pub use verified::{Verification, VerifiedSnapshot};
pub use view::{Reader, View};
pub use writer::{ObjectSource, StoredObject, Writer};
