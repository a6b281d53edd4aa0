//! The repository, on a store: packs, index, trees, crypto, leases.
//!
//! `docs/format.md` is normative for every byte. A [`Repository`] is opened once; a [`Writer`]
//! stores objects and maps and commits manifests, a [`Reader`] reads them back, and [`View`] is what
//! both see: the blobs that the index knew when the session began.
//!
//! What is stored is never believed: a piece that is read has been authenticated, expanded and
//! hashed again before anyone sees it, and anything wrong is [`Cause::Damage`](crate::Cause::Damage).

mod care;
mod format;
mod repository;
mod session;

#[cfg(test)]
mod tests;

pub use care::check::{CheckBytes, CheckReport, Damage, DamageKind, Listing};
pub use format::blob::Compression;
pub use format::hash::{Cuts, PieceRef};
pub use format::ids::{
    BlobId, Cv, IndexId, KeyId, ObjectHash, PackId, RepositoryId, SessionId, SnapshotId,
};
pub use format::keys::{KdfCost, Unlock};
pub use format::manifest::{Manifest, ManifestDraft, Roots, Snapshots, Totals};
pub use format::tree::{
    Change, Content, Entry, Envelope, EnvelopeNode, KeyRange, Map, MapBuilder, NodeRef,
};
pub use format::verified::{Verification, VerifiedSnapshot};
pub use repository::{InitOptions, Repository};
pub use session::read_plan::{ReadPlan, Sink};
pub use session::view::{Reader, View};
pub use session::writer::{ObjectSource, StoredObject, Writer};
