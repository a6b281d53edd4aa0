//! A writer session: objects and maps in, manifests out, under a lease.

mod again;
mod indexer;
mod lost;
mod object;
mod packer;

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use bytes::Bytes;

use self::indexer::Indexer;
use self::lost::Lost;
pub use self::object::{ObjectSource, StoredObject};

use jiff::Timestamp;
use tokio::sync::RwLock;
use tokio_util::sync::CancellationToken;

use self::packer::{Class, Packers};
use super::index::Unreadable;
use super::index::load::Trust;
use super::index::merge::merge;
use super::lease::{Commit, Handle, Lease, MAINTENANCE, Seen, SessionKind};
use super::snapshots::Snapshots;
use super::view::View;
use crate::base::env::lock;
use crate::base::resources::MemoryPermit;
use crate::repo::format::blob::{BlobKind, Compression, SealedBlob};
use crate::repo::format::config::FORMAT;
use crate::repo::format::files::StoredFile;
use crate::repo::format::hash::{PieceRef, piece_hashes};
use crate::repo::format::ids::{
    BlobId, Cv, ManifestHash, MarkId, ObjectHash, PackId, SessionId, SnapshotId,
};
use crate::repo::format::lineage::{Claim, Lineage};
use crate::repo::format::manifest::{Manifest, Roots, SEQUENCE_MAX, Totals};
use crate::repo::format::sealed::FileKind;
use crate::repo::format::segment::{PackInfo, Record};
use crate::repo::format::wire::{damaged, to_u32};
use crate::repo::repository::Repository;
use crate::{Cause, Error, Result, Side};

/// What a writer says of a snapshot; the rest of the manifest follows from the repository.
#[derive(Debug, Clone)]
pub struct ManifestDraft {
    /// The time of the anchor.
    pub time: Timestamp,
    /// The snapshot's maps.
    pub roots: Roots,
    /// Sums over the snapshot.
    pub totals: Totals,
    /// Labels given by the operator.
    pub labels: BTreeMap<String, String>,
    /// What the capture says of itself.
    pub body: serde_json::Value,
}

/// A writer session of one instance.
///
/// Everything may be called concurrently. Memory is bounded by a budget of bytes between source
/// and store, so futures of one task must be polled together: one that holds a permit and is not
/// polled stalls the others. Dropping a future of a call is safe. After an error of the store every
/// call fails; what was committed before is whole, and [`abort`](Writer::abort) ends the session.
#[derive(Debug)]
pub struct Writer {
    session: Arc<Session>,
    packers: Arc<Packers>,
    lease: Lease,
    lineage: Lineage,
}

/// What the parts of a writer share.
#[derive(Debug)]
struct Session {
    view: View,
    lost: Lost,
    compression: Compression,
    indexer: Indexer,
    lease: Handle,
    /// Blobs that this session stored or is about to store.
    pending: Mutex<HashSet<ShortId>>,
    /// The marks that the session heeds.
    heeded: Mutex<BTreeSet<MarkId>>,
    /// The packs in which blobs were found that the session did not store therefore.
    found: Mutex<HashMap<PackId, PackInfo>>,
    /// The packs that the session has written.
    own: Mutex<Vec<PackInfo>>,
    /// Stored bytes that this session added: blobs with their headers.
    added: AtomicU64,
    failure: Mutex<Option<Failure>>,
    /// Held, shared, while a blob is on its way to its pack.
    storing: RwLock<()>,
    /// The session is given up: what waits to be uploaded is dropped.
    given_up: CancellationToken,
}

/// Half of a blob's id: 128 bits of keyed BLAKE3 tell 10^12 blobs apart as surely as a disk keeps
/// its bits, and a session remembers every blob that it stores.
type ShortId = [u8; 16];

fn short(id: &BlobId) -> ShortId {
    let mut short = ShortId::default();
    short.copy_from_slice(&id.0[..16]);
    short
}

/// The first error of a session, to be told to every later caller.
#[derive(Debug, Clone)]
struct Failure {
    cause: Cause,
    message: String,
    hint: Option<String>,
}

/// What storing a blob gave.
#[derive(Debug, Clone, Copy)]
struct StoredBlob {
    cv: Cv,
    whole: Option<ObjectHash>,
    /// Stored bytes added; 0 when the blob was there.
    new_bytes: u64,
}

impl Repository {
    /// Begins a writer session for `instance`, which reads `parents`. Writers of other instances may
    /// be at work.
    ///
    /// # Errors
    ///
    /// [`Cause::Locked`] when another session writes for the instance, [`Cause::NewerFormat`] when the
    /// repository needs a newer writer, [`Cause::Damage`] when the index or a lease is damaged,
    /// [`Cause::Failed`] when one of `parents` is forgotten.
    pub async fn begin_writer(
        &self,
        instance: &str,
        parents: Vec<SnapshotId>,
        compression: Compression,
    ) -> Result<Writer> {
        self.check_writable()?;
        let lineage = self.lineage(instance);
        let taken = Lease::take(self, SessionKind::Writer, lineage.clone(), parents.clone());
        let mut lease = taken.await?;
        let settled = lease.settle_dead().await;
        let begun = async {
            settled?;
            let session = self.begin_session(&lease, compression).await?;
            self.refuse_forgotten(&parents).await?;
            Ok(session)
        };
        match begun.await {
            Ok(session) => {
                let packers = Arc::new(Packers::start(&session));
                Ok(Writer {
                    session,
                    packers,
                    lease,
                    lineage,
                })
            }
            Err(error) => {
                lease.give_up().await;
                Err(error)
            }
        }
    }

    /// Begins the session of a prune, of which one is at work at a time, beside all others.
    ///
    /// # Errors
    ///
    /// As of [`begin_writer`](Self::begin_writer).
    pub(crate) async fn begin_maintenance(&self) -> Result<Writer> {
        self.begin_writer(MAINTENANCE, vec![], Compression::default())
            .await
    }

    async fn begin_session(&self, lease: &Lease, compression: Compression) -> Result<Arc<Session>> {
        let verifications = self.verifications().await?;
        let doubted = verifications
            .iter()
            .flat_map(|v| v.segments.iter().copied());
        let doubted = doubted.collect();
        let view = self.view_by(Trust::FilesBut(&doubted)).await?;
        view.marks().refuse_unknown()?;
        let heeded = view.marks().ids();
        lease.heeds(heeded.clone()).await;
        Ok(Arc::new(Session {
            lost: Lost::find(&view, &verifications).await?,
            view,
            compression,
            indexer: Indexer::new(self.clone(), lease.handle()),
            lease: lease.handle(),
            pending: Mutex::default(),
            heeded: Mutex::new(heeded),
            found: Mutex::default(),
            own: Mutex::default(),
            added: AtomicU64::new(0),
            failure: Mutex::default(),
            storing: RwLock::default(),
            given_up: CancellationToken::new(),
        }))
    }
}

impl Writer {
    /// What the repository held when the session began.
    #[must_use]
    pub fn view(&self) -> &View {
        &self.session.view
    }

    /// The session's id: the name of its lease.
    #[must_use]
    pub fn session(&self) -> SessionId {
        self.lease.session()
    }

    /// Whose snapshots this session writes.
    #[must_use]
    pub fn instance(&self) -> &str {
        &self.lineage.instance
    }

    /// Whether the lease still protects the session.
    ///
    /// # Errors
    ///
    /// [`Cause::Failed`] when it lapsed: nothing can be committed any more.
    pub fn check_lease(&self) -> Result<()> {
        self.lease.check()
    }

    /// Whether every one of `pieces` is in the repository, or was stored by this session.
    ///
    /// # Errors
    ///
    /// What the store fails with, where a local file of the index is damaged.
    pub async fn contains(&self, pieces: &[PieceRef]) -> Result<bool> {
        let view = &self.session.view;
        let ids = pieces.iter().map(|piece| view.id(BlobKind::Data, piece));
        let others = ids.filter(|id| !self.session.stored(id));
        let places = view.look_up(others.collect()).await?;
        Ok(places.iter().all(|places| self.session.rely_on(places)))
    }

    /// Packs that the repository has lost: what they held counts as absent.
    #[must_use]
    pub fn lost_packs(&self) -> usize {
        self.session.lost.len()
    }

    /// Places where blobs are known to be damaged: those blobs count as absent, too.
    #[must_use]
    pub fn damaged_blobs(&self) -> usize {
        self.session.view.repo().bad_places()
    }

    /// Bytes that this session has added to the repository so far: blobs as stored, trees included.
    #[must_use]
    pub fn bytes_added(&self) -> u64 {
        self.session.added.load(Ordering::Relaxed)
    }

    /// Writes out everything stored so far: packs, then index. A later session finds it.
    pub async fn flush(&self) -> Result<()> {
        self.session.check()?;
        // A call that was dropped may be storing a blob that another one counts on.
        drop(self.session.storing.write().await);
        self.packers.flush().await?;
        self.session
            .indexer
            .flush()
            .await
            .inspect_err(|error| self.session.fail(error))
    }

    /// Takes those of these sessions for dead that are writers and have died, and those that they took for dead:
    /// says so in the lease. Returns all that the lease names.
    pub(crate) async fn take_for_dead(&self, sessions: &[Seen]) -> Result<BTreeSet<SessionId>> {
        let repo = self.view().repo();
        let died = sessions.iter().filter(|seen| seen.dead && seen.may_write());
        let named = died.flat_map(Seen::bequeathed);
        let named = named.filter(|id| !repo.is_taken_for_dead(id)).collect();
        self.lease.take_for_dead(&named).await?;
        Ok(self.lease.dead().await)
    }

    /// Marks name the sessions that this one took for dead: its lease need not any more.
    pub(crate) async fn dead_are_named(&self) {
        self.lease.committing(Commit::Done).await;
    }

    pub(super) async fn has_checkpoint(&self) {
        self.lease.has_checkpoint().await;
    }

    /// Commits a snapshot: flushes, proves the lease, and writes the manifest, the last write.
    ///
    /// # Errors
    ///
    /// Whether the snapshot exists is not known after an error of the write itself; the session's lease
    /// says so, and its successor takes it for dead.
    pub async fn commit(&self, draft: ManifestDraft) -> Result<Manifest> {
        self.flush().await?;
        let mended = async {
            self.session.replace_unread().await?;
            self.session.mend_index().await
        };
        mended.await.inspect_err(|error| self.session.fail(error))?;
        let repo = self.session.view.repo();
        self.heed_new_marks().await?;
        let snapshots = repo.snapshots().await?;
        // From here on something of this session may arrive late.
        self.lease.committing(Commit::Begins).await;
        let mut manifest = match self.manifest(draft, &snapshots).await {
            Ok(manifest) => manifest,
            Err(error) => {
                self.lease.committing(Commit::Failed).await;
                return Err(error);
            }
        };
        // After an error it may be there, or arrive: a try before the last one may have been taken.
        let snapshot = manifest.snapshot;
        let written = match self.lease.left() {
            Ok(left) => manifest.write(repo, left).await,
            Err(error) => Err(error),
        };
        written.inspect_err(|error| self.session.fail(error))?;
        if self.lease.check().is_err() {
            // It took so long that somebody may have taken this session for dead meanwhile. Whoever does
            // says so in its lease before it lists, and until its manifest says it.
            let counts = match self.lease.is_named().await {
                Ok(true) => Ok(false),
                Ok(false) => repo.snapshots().await.map(|all| all.is_snapshot(snapshot)),
                Err(error) => Err(error),
            };
            let unknown = || {
                format!(
                    "snapshot {} was written when its lease had lapsed",
                    snapshot.short()
                )
            };
            match counts {
                Ok(true) => {}
                Ok(false) => {
                    let message = format!("{}, and does not count", unknown());
                    let error = Side::Repository.error(Cause::Failed, message);
                    let error = error.with_hint("run it again");
                    self.session.fail(&error);
                    return Err(error);
                }
                Err(error) => return Err(error.context(unknown())),
            }
        }
        self.lease.committing(Commit::Done).await;
        repo.remember(&manifest).await;
        Ok(manifest)
    }

    /// The manifest to write, under a number that this session claims.
    async fn manifest(&self, draft: ManifestDraft, snapshots: &Snapshots) -> Result<Manifest> {
        let repo = self.session.view.repo();
        self.lease.renew().await?;
        repo.check_features_again().await?;
        let parent = snapshots.last_of(&self.lineage);
        let unreadable = snapshots.unreadable();
        let before = snapshots.highest(&self.lineage);
        let snapshot = SnapshotId(repo.env().id());
        let from = before.saturating_add(1 + unreadable.len() as u64);
        let sequence = self.claim(from, snapshot, snapshots).await?;
        self.lease.check()?;
        Ok(Manifest {
            format: FORMAT,
            snapshot,
            instance: self.lineage.instance.clone(),
            origin: None,
            session: self.session(),
            sequence,
            parent: parent.map(Manifest::as_parent),
            dead: snapshots.seen_of(&self.lineage, self.lease.dead().await),
            unreadable,
            requires: vec![],
            time: draft.time,
            roots: draft.roots,
            totals: draft.totals,
            labels: draft.labels,
            body: draft.body,
            hash: ManifestHash::default(),
            amended: vec![],
        })
    }

    /// Claims the first number from `from` that no session has claimed. Where the store can create a
    /// file only where none is, no two sessions have the same.
    ///
    /// # Errors
    ///
    /// [`Cause::Locked`] when a session that claimed one is alive.
    async fn claim(&self, from: u64, snapshot: SnapshotId, snapshots: &Snapshots) -> Result<u64> {
        let (repo, session) = (self.session.view.repo(), self.session());
        let mut taken = HashSet::new();
        for sequence in from..=SEQUENCE_MAX {
            let name = repo.sealer().claim_name(&self.lineage, sequence);
            if taken.contains(&name) {
                continue;
            }
            let claim = Claim {
                lineage: self.lineage.clone(),
                sequence,
                session,
                snapshot,
            };
            let path = StoredFile::Claim.path(&name);
            let bytes = repo.sealer().seal_json(FileKind::Claim, &path, &claim)?;
            match repo.put_once(&path, bytes).await {
                Ok(()) => return Ok(sequence),
                // Each is of a session that was cut off within a commit; there may be many.
                Err(error) if error.cause() == Cause::AlreadyExists => {
                    self.lease.refuse_claimer(&path, snapshots).await?;
                    taken.extend(repo.list_ids::<String>(StoredFile::Claim).await?);
                    taken.insert(name);
                }
                Err(error) => return Err(error),
            }
        }
        let instance = &self.lineage.instance;
        Err(damaged(format!(
            "instance {instance:?} has no number left after {from}"
        )))
    }

    /// Merges segments of the index where many would have to be asked for each blob.
    ///
    /// # Errors
    ///
    /// What the store fails with, and when the lease lapsed. Nothing is lost then, and some records of the index
    /// may stand in two segments.
    pub async fn merge_index(&self) -> Result<()> {
        let repo = self.session.view.repo();
        let merged = merge(repo, || self.lease.check()).await?;
        if merged > 0 {
            tracing::info!(segments = merged, "merged the index");
        }
        Ok(())
    }

    /// Ends the session and releases its lease. What was not committed is unreachable.
    pub async fn finish(self) -> Result<()> {
        self.packers.abandon().await;
        // What is whole gets its name; where that fails the lease tells of it.
        if let Err(error) = self.session.indexer.flush().await {
            tracing::debug!("{}", error.chain());
        }
        self.lease.finish().await
    }

    /// Gives the session up: removes unfinished uploads and releases the lease.
    pub async fn abort(self) -> Result<()> {
        let error = Side::Repository.error(Cause::Failed, "the writer session was given up");
        self.session.fail(&error);
        self.session.given_up.cancel();
        self.finish().await
    }

    /// Stores a tree node.
    pub(crate) async fn store_node(&self, node: Vec<u8>) -> Result<(Cv, u32)> {
        let length = to_u32(node.len(), "a node's length")?;
        let kind = BlobKind::Tree;
        let stored = self.store_blob(Class::Tree, kind, node.into(), 0, None);
        Ok((stored.await?.cv, length))
    }

    /// Stores the values of a leaf that stand apart from it.
    pub(crate) async fn store_values(&self, values: Vec<u8>) -> Result<PieceRef> {
        let length = to_u32(values.len(), "the length of values")?;
        let kind = BlobKind::Values;
        let stored = self.store_blob(Class::Tree, kind, values.into(), 0, None);
        Ok(PieceRef {
            cv: stored.await?.cv,
            offset: 0,
            length,
        })
    }

    /// Hashes `plain`, and unless the repository has it, seals it and hands it to a pack.
    ///
    /// The work goes on when this future is dropped, so that what the session calls stored is.
    async fn store_blob(
        &self,
        class: Class,
        kind: BlobKind,
        plain: Bytes,
        offset: u64,
        share: Option<MemoryPermit>,
    ) -> Result<StoredBlob> {
        self.session.check()?;
        let (session, packers) = (self.session.clone(), self.packers.clone());
        let work = async move {
            let _storing = session.storing.read().await;
            let sealed = session.seal(kind, plain, offset).await;
            let (stored, blob) = sealed.inspect_err(|error| session.fail(error))?;
            if let Some(blob) = blob {
                packers.append(class, blob, share).await?;
            }
            Ok(stored)
        };
        tokio::spawn(work).await.map_err(|error| {
            Side::Repository
                .error(Cause::Failed, "storing a blob was cut short")
                .with_source(error)
        })?
    }
}

impl Session {
    /// Whether a blob that was in these places when the session began is whole in one, as far as is known.
    fn is_in(&self, places: &[Record]) -> bool {
        places.iter().any(|record| !self.is_absent(record))
    }

    /// Whether the blob is lost or damaged in this place, or about to go with its pack.
    fn is_absent(&self, record: &Record) -> bool {
        self.lost.holds(record) || self.view.is_bad(record) || self.view.is_marked(record)
    }

    fn note_added(&self, bytes: u64) {
        self.added.fetch_add(bytes, Ordering::Relaxed);
    }

    /// Whether the session stored the blob, or is about to.
    fn stored(&self, id: &BlobId) -> bool {
        lock(&self.pending).contains(&short(id))
    }

    /// Hashes and seals; what is stored or pending already is not sealed again.
    async fn seal(
        self: &Arc<Self>,
        kind: BlobKind,
        plain: Bytes,
        offset: u64,
    ) -> Result<(StoredBlob, Option<SealedBlob>)> {
        loop {
            let (session, plain) = (self.clone(), plain.clone());
            let seal = move || session.seal_here(kind, &plain, offset);
            match self.view.resources().run(seal).await? {
                Ok(sealed) => return Ok(sealed),
                Err(unreadable) => self.view.repair(&unreadable).await?,
            }
        }
    }

    /// The same on this thread, unless a local file of the index cannot be read.
    fn seal_here(
        &self,
        kind: BlobKind,
        plain: &Bytes,
        offset: u64,
    ) -> Result<std::result::Result<(StoredBlob, Option<SealedBlob>), Unreadable>> {
        let sealer = self.view.repo().sealer();
        let length = to_u32(plain.len(), "a piece's length")?;
        let (cv, whole) = piece_hashes(plain, offset);
        let id = sealer.blob_id(kind, &cv, offset, length);
        let mut stored = StoredBlob {
            cv,
            whole,
            new_bytes: 0,
        };
        match self.view.index().places(&id) {
            Ok(places) if self.rely_on(&places) => return Ok(Ok((stored, None))),
            Ok(_) => {}
            Err(unreadable) => return Ok(Err(unreadable)),
        }
        if !lock(&self.pending).insert(short(&id)) {
            return Ok(Ok((stored, None)));
        }
        let blob = sealer.seal_blob(kind, id, offset, plain, self.compression)?;
        stored.new_bytes = blob.bytes.len() as u64;
        self.note_added(stored.new_bytes);
        Ok(Ok((stored, Some(blob))))
    }

    /// Remembers the session's first error.
    fn fail(&self, error: &Error) {
        lock(&self.failure).get_or_insert_with(|| Failure {
            cause: error.cause(),
            message: error.chain(),
            hint: error.hint().map(str::to_owned),
        });
    }

    /// Returns the error that the session failed with, if it has failed.
    fn check(&self) -> Result<()> {
        match lock(&self.failure).clone() {
            None => Ok(()),
            Some(Failure {
                cause,
                message,
                hint,
            }) => {
                let error = Side::Repository.error(cause, message);
                Err(match hint {
                    Some(hint) => error.with_hint(hint),
                    None => error,
                })
            }
        }
    }

    /// The error that the session failed with.
    fn failure(&self) -> Error {
        self.check().err().unwrap_or_else(|| {
            Side::Repository.error(Cause::Failed, "the writer session has ended")
        })
    }
}
