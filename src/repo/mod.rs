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
mod host;
mod memory;
mod opening;
mod repository;
mod session;

#[cfg(test)]
mod tests;

pub use care::check::{CheckBytes, CheckReport};
pub use care::prune::{GRACE, MAX_UNUSED, Packs, PruneOptions, PruneReport};
pub use format::amendment::Amendment;
pub use format::blob::Compression;
pub use format::damage::{Damage, DamageKind};
pub use format::hash::{Chunking, PieceRef};
pub use format::ids::{
    AmendmentId, BlobId, Cv, ForgottenId, IndexId, KeyId, ManifestHash, ObjectHash, PackId,
    RepositoryId, SessionId, SnapshotId,
};
pub use format::keys::{KdfCost, Unlock};
pub use format::lineage::{Dead, Lineage, Origin, Parent};
pub use format::manifest::{Manifest, Roots, Totals};
pub use format::tree::{Content, Entry, Envelope, EnvelopeNode, Extent, NodeRef, Values};
pub use memory::Memory;
pub use repository::{InitOptions, Repository};
pub use session::checkpoint::Checkpoint;
pub use session::map::{Change, KeyRange, Map, MapBuilder};
pub use session::read_plan::{ReadPlan, Sink};
pub use session::snapshots::{Snapshots, is_ahead};
pub use session::verified::{BadPlace, Verification, VerifiedSnapshot};
pub use session::view::{Found, Listing, Look, Reader, View};
pub use session::writer::{ManifestDraft, ObjectSource, StoredObject, Writer};
