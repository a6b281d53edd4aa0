//! What a session sees: the blobs that the index knew when it began.

use std::collections::{HashMap, HashSet};
use std::num::NonZeroUsize;
use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use futures::StreamExt;
use futures::stream::BoxStream;

use rayon::prelude::*;

use super::index::load::{Trust, repair};
use super::index::{Index, Unreadable};
use super::lease::{Lease, SessionKind};
use super::marks::Marks;
use super::snapshots::Snapshots;
use crate::base::error::Context;
use crate::base::resources::{MemoryPermit, Resources};
use crate::repo::format::blob::{BlobKind, PackKind, into_mut};
use crate::repo::format::files::StoredFile;
use crate::repo::format::hash::PieceRef;
use crate::repo::format::ids::{BlobId, PackId, SnapshotId};
use crate::repo::format::pack::pack_key;
use crate::repo::format::sealer::Sealer;
use crate::repo::format::segment::{PackInfo, Record};
use crate::repo::format::tree::node::{Body, Node};
use crate::repo::format::tree::{Envelope, EnvelopeNode};
use crate::repo::format::wire::{damaged, missing_is_damage};
use crate::repo::opening::read_twice;
use crate::repo::repository::Repository;
use crate::{Cause, Error, Result};

/// The repository as its index knew it at one time. Clones share it.
#[derive(Debug, Clone)]
pub struct View(Arc<Seen>);

#[derive(Debug)]
struct Seen {
    repo: Repository,
    index: Index,
    /// The marks that were there before the index was read.
    marks: Marks,
    /// The numbers of the packs that they are of.
    marked: HashSet<u32>,
}

/// So many look-ups at least are done by one thread.
const LOOK_UPS: usize = 64;

/// Of how many blobs the places are in memory where those of many packs are needed: 56 bytes each.
const RECORDS_AT_ONCE: u64 = 1 << 20;

/// How far a walk of trees looks into their nodes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Look {
    /// At what they refer to: that is there whatever a later eyrie may store.
    Envelopes,
    /// At their bodies as well.
    Bodies,
}

/// The packs that a store has.
#[derive(Debug, Clone, Default)]
pub struct Listing {
    pub(crate) sizes: HashMap<PackId, u64>,
    /// Packs of an archive storage class, which may have been brought back.
    archived: HashSet<PackId>,
}

/// The bytes of a pack, with their share of the memory budget.
#[derive(Debug)]
pub(crate) struct PackBytes {
    pub(crate) bytes: Bytes,
    pub(crate) hash: [u8; 32],
    _share: MemoryPermit,
}

/// How an object's pieces are found.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Found {
    /// Pieces that cannot be there: in no index segment, or only in packs that are missing or have the wrong
    /// size.
    pub missing: Vec<PieceRef>,
    /// A pack of an archive storage class that some pieces are in, and in no other; it may have been brought
    /// back ([`View::is_archived`]).
    pub archived: Option<PackId>,
}

/// A reader session: a view under a lease, so that nothing it reads is pruned meanwhile.
#[derive(Debug)]
pub struct Reader {
    view: View,
    lease: Lease,
}

impl Repository {
    /// Loads the index. Nothing protects what is read through the view from being pruned; sessions
    /// that take longer than a moment use [`begin_reader`](Self::begin_reader).
    ///
    /// # Errors
    ///
    /// [`Cause::Damage`] that names the segment that is damaged.
    pub async fn view(&self) -> Result<View> {
        self.view_by(Trust::Files).await
    }

    /// The same, with what is read of the index by local files.
    pub(crate) async fn view_by(&self, trust: Trust<'_>) -> Result<View> {
        // The index names the copies of what is in marked packs before there is a mark.
        let marks = self.marks().await?;
        let index = Index::load(self, trust).await?;
        let packs = marks.packs();
        let numbers = (0..).zip(index.packs());
        let marked = numbers.filter(|(_, pack)| packs.contains(&pack.id));
        let marked = marked.map(|(number, _)| number).collect();
        Ok(View(Arc::new(Seen {
            repo: self.clone(),
            index,
            marks,
            marked,
        })))
    }

    /// Begins a reader session on the snapshots `parents` of `instance`. Where no lease can be
    /// written, because the store may only be read or is full, the session goes without, and a prune
    /// meanwhile may take what it reads: that shows as damage, never as other bytes.
    ///
    /// # Errors
    ///
    /// [`Cause::Damage`] when the index is damaged; [`Cause::Failed`] when one of `parents` is forgotten.
    pub async fn begin_reader(&self, instance: &str, parents: Vec<SnapshotId>) -> Result<Reader> {
        let lineage = self.lineage(instance);
        let lease = Lease::take(self, SessionKind::Reader, lineage, parents.clone()).await?;
        let read = async {
            let view = self.view().await?;
            self.refuse_forgotten(&parents).await?;
            Ok(view)
        };
        match read.await {
            Ok(view) => {
                lease.heeds(view.marks().ids()).await;
                Ok(Reader { view, lease })
            }
            Err(error) => {
                lease.give_up().await;
                Err(error)
            }
        }
    }
}

impl Repository {
    /// Begins a reader session that checks snapshots: those that are given back, which were listed before the
    /// index was read. The index is read from the repository, whatever this host has of it.
    ///
    /// # Errors
    ///
    /// [`Cause::Damage`] when the index is damaged; what the store fails with.
    pub async fn begin_check(
        &self,
        instance: &str,
        parents: Vec<SnapshotId>,
    ) -> Result<(Reader, Snapshots)> {
        let lineage = self.lineage(instance);
        let lease = Lease::take(self, SessionKind::Reader, lineage, parents).await?;
        let read = async {
            let snapshots = self.snapshots().await?;
            Ok((self.view_by(Trust::Nothing).await?, snapshots))
        };
        match read.await {
            Ok((view, snapshots)) => {
                lease.heeds(view.marks().ids()).await;
                Ok((Reader { view, lease }, snapshots))
            }
            Err(error) => {
                lease.give_up().await;
                Err(error)
            }
        }
    }
}

impl Reader {
    /// What this session reads.
    #[must_use]
    pub fn view(&self) -> &View {
        &self.view
    }

    /// Whether the lease still protects what is read; a session that goes without one knows that.
    ///
    /// # Errors
    ///
    /// [`Cause::Failed`] when it lapsed.
    pub fn check_lease(&self) -> Result<()> {
        if self.lease.was_written() {
            self.lease.check()
        } else {
            Ok(())
        }
    }

    /// Whether the session has a lease.
    #[cfg(test)]
    pub(crate) fn has_lease(&self) -> bool {
        self.lease.was_written()
    }

    /// Renews the lease now.
    #[cfg(test)]
    pub(crate) async fn renew(&self) -> Result<()> {
        self.lease.renew().await
    }

    /// Ends the session and releases its lease; one that cannot be removed is left to run out.
    pub async fn finish(self) {
        self.lease.give_up().await;
    }
}

impl View {
    /// The repository.
    #[must_use]
    pub fn repo(&self) -> &Repository {
        &self.0.repo
    }

    /// What its repository works with.
    pub(crate) fn resources(&self) -> &Resources {
        self.repo().resources()
    }

    pub(crate) fn index(&self) -> &Index {
        &self.0.index
    }

    /// The marks that were there before the index was read.
    pub(crate) fn marks(&self) -> &Marks {
        &self.0.marks
    }

    /// Whether the blob is in a pack that is about to go.
    pub(crate) fn is_marked(&self, record: &Record) -> bool {
        self.0.marked.contains(&record.pack)
    }

    /// How many places of blobs the index knows; one that several segments name is counted as often.
    #[must_use]
    pub fn blobs(&self) -> u64 {
        self.0.index.records()
    }

    /// The pieces of an object, verified and in order; `at_once` are read at once. The stream ends
    /// after an error. The caller has taken its share of the memory budget.
    pub fn read_object(
        &self,
        pieces: Vec<PieceRef>,
        at_once: NonZeroUsize,
    ) -> BoxStream<'static, Result<Bytes>> {
        let view = self.clone();
        let mut failed = false;
        futures::stream::iter(pieces)
            .map(move |piece| {
                let view = view.clone();
                async move { view.piece(&piece).await }
            })
            .buffered(at_once.get())
            .take_while(move |read| {
                let go_on = !failed;
                failed = read.is_err();
                std::future::ready(go_on)
            })
            .boxed()
    }

    /// One piece of an object, verified.
    pub async fn piece(&self, piece: &PieceRef) -> Result<Bytes> {
        self.blob(BlobKind::Data, *piece).await
    }

    /// Reads a node of a tree, with its values where they stand apart.
    pub(crate) async fn node(&self, node: &EnvelopeNode) -> Result<Node> {
        let read = Node::read(&self.node_bytes(node).await?, node)?;
        if !matches!(read.body, Body::Keys(..)) {
            return Ok(read);
        }
        let values = read.envelope.values.first();
        let values = values.ok_or_else(|| damaged("a tree node lacks its values"))?;
        let values = self.blob(BlobKind::Values, *values).await?;
        read.with_values(&values)
    }

    /// Reads what a node of a tree refers to; its body too, where that is asked for, but no values
    /// that stand apart.
    pub(crate) async fn envelope(&self, node: &EnvelopeNode, look: Look) -> Result<Envelope> {
        let bytes = self.node_bytes(node).await?;
        match look {
            Look::Envelopes => Node::envelope(&bytes, node),
            Look::Bodies => Node::read(&bytes, node).map(|node| node.envelope),
        }
    }

    async fn node_bytes(&self, node: &EnvelopeNode) -> Result<Bytes> {
        let piece = PieceRef {
            cv: node.node.cv,
            offset: 0,
            length: node.node.length,
        };
        self.blob(BlobKind::Tree, piece).await
    }

    /// The hash of a pack as it is; `None` where it is gone or has another size, twice.
    ///
    /// # Errors
    ///
    /// What the store fails with.
    pub(crate) async fn hash_of(&self, pack: &PackInfo) -> Result<Option<[u8; 32]>> {
        let read = self.pack_bytes(pack).await?;
        Ok(read.map(|read| read.hash))
    }

    /// All bytes of a pack as it is; `None` where it is gone or has another size, twice.
    ///
    /// # Errors
    ///
    /// What the store fails with.
    pub(crate) async fn pack_bytes(&self, pack: &PackInfo) -> Result<Option<PackBytes>> {
        let repo = self.repo();
        let share = repo.resources().reserve(pack.size).await?;
        let key = pack_key(pack.kind, &pack.id)?;
        let read = || async {
            let read = repo.get_range(&key, 0, pack.size).await;
            read.map_err(missing_is_damage)
        };
        let bytes = match read_twice(read).await {
            Err(error) if is_damage(&error) => return Ok(None),
            read => read?,
        };
        let resources = repo.resources();
        let hashed = bytes.clone();
        let hash = resources.run(move || Ok(blake3::hash(&hashed))).await?;
        Ok(Some(PackBytes {
            bytes,
            hash: hash.into(),
            _share: share,
        }))
    }

    /// Lists the packs that the store has.
    pub async fn listing(&self) -> Result<Listing> {
        let mut listing = Listing::default();
        for kind in [PackKind::Data, PackKind::Tree] {
            let packs = StoredFile::packs(kind);
            for meta in self.repo().list(packs.row().directory).await? {
                if let Some(Ok(id)) = packs.id(meta.key.as_str()).map(str::parse) {
                    listing.sizes.insert(id, meta.size);
                    if meta.archived {
                        listing.archived.insert(id);
                    }
                }
            }
        }
        Ok(listing)
    }

    /// Whether a pack of data has to be brought back from an archive storage class before it can be read.
    ///
    /// # Errors
    ///
    /// What the store fails with.
    pub async fn is_archived(&self, pack: PackId) -> Result<bool> {
        let key = pack_key(PackKind::Data, &pack)?;
        Ok(self.repo().store().head(&key).await?.archived)
    }

    /// How the pieces of objects are found, in the order of these.
    ///
    /// # Errors
    ///
    /// What the store fails with, where a local file of the index is damaged.
    pub async fn find(&self, listing: &Listing, objects: &[&[PieceRef]]) -> Result<Vec<Found>> {
        let pieces = objects.iter().copied().flatten();
        let ids = pieces.map(|piece| self.id(BlobKind::Data, piece)).collect();
        let mut places = self.look_up(ids).await?.into_iter();
        let pack = |record: &Record| self.index().pack(record.pack);
        let there = |record: &Record| {
            let pack = pack(record);
            listing.sizes.get(&pack.id) == Some(&pack.size)
        };
        let archived = |record: &Record| listing.archived.contains(&pack(record).id);
        let found = objects.iter().map(|pieces| {
            let mut found = Found::default();
            for (piece, places) in pieces.iter().zip(&mut places) {
                if !places.iter().any(there) {
                    found.missing.push(*piece);
                }
                if let Some(first) = places.first().filter(|_| places.iter().all(archived)) {
                    found.archived = found.archived.or(Some(pack(first).id));
                }
            }
            found
        });
        Ok(found.collect())
    }

    /// The id of the blob of a piece.
    pub(crate) fn id(&self, kind: BlobKind, piece: &PieceRef) -> BlobId {
        let sealer = self.repo().sealer();
        sealer.blob_id(kind, &piece.cv, piece.offset, piece.length)
    }

    /// Where the blob of a piece is: all its places, none when the index does not know it.
    ///
    /// # Errors
    ///
    /// As of [`look_up`](Self::look_up).
    pub(crate) async fn places(&self, kind: BlobKind, piece: &PieceRef) -> Result<Vec<Record>> {
        let places = self.look_up(vec![self.id(kind, piece)]).await?;
        Ok(places.into_iter().next().unwrap_or_default())
    }

    /// Where blobs are: all places of each, in the order of `ids`; those in packs that are about to go are the
    /// last.
    ///
    /// # Errors
    ///
    /// What the store fails with, where a local file of the index is damaged.
    pub(crate) async fn look_up(&self, ids: Vec<BlobId>) -> Result<Vec<Vec<Record>>> {
        let ids: Arc<[BlobId]> = ids.into();
        loop {
            let (view, wanted) = (self.clone(), ids.clone());
            let places = move || {
                let ids = wanted.par_iter().with_min_len(LOOK_UPS);
                let places = ids.map(|id| view.index().places(id));
                Ok(places.collect::<std::result::Result<Vec<_>, Unreadable>>())
            };
            let found = if self.index().is_in_memory() {
                ids.iter().map(|id| self.index().places(id)).collect()
            } else {
                self.resources().run(places).await?
            };
            match found {
                Ok(mut found) => {
                    if !self.0.marked.is_empty() {
                        for places in &mut found {
                            places.sort_by_key(|record| self.is_marked(record));
                        }
                    }
                    return Ok(found);
                }
                Err(unreadable) => self.repair(&unreadable).await?,
            }
        }
    }

    /// Reads again what a local file of the index does not have as it was.
    ///
    /// # Errors
    ///
    /// What the store fails with.
    pub(crate) async fn repair(&self, unreadable: &Unreadable) -> Result<()> {
        repair(self.repo(), self.index(), unreadable).await
    }

    /// These packs in portions, the records of each of which fit into memory at once.
    pub(crate) fn portions(&self, packs: impl Iterator<Item = u32>) -> Vec<Vec<u32>> {
        let mut portions: Vec<Vec<u32>> = Vec::new();
        let mut room = 0;
        for number in packs {
            let blobs = u64::from(self.index().pack(number).blobs);
            match portions.last_mut() {
                Some(portion) if blobs <= room => {
                    room -= blobs;
                    portion.push(number);
                }
                _ => {
                    room = RECORDS_AT_ONCE.saturating_sub(blobs);
                    portions.push(vec![number]);
                }
            }
        }
        portions
    }

    /// The records of these packs, each list ascending by position.
    ///
    /// # Errors
    ///
    /// As of [`look_up`](Self::look_up).
    pub(crate) async fn records_of(&self, packs: &[u32]) -> Result<HashMap<u32, Vec<Record>>> {
        let wanted: Arc<[u32]> = packs.into();
        loop {
            let (view, wanted) = (self.clone(), wanted.clone());
            let all = move || {
                let lists = wanted.iter().map(|number| (*number, Vec::new()));
                let mut lists: HashMap<u32, Vec<Record>> = lists.collect();
                let shown = view.index().each_record(|record| {
                    if let Some(list) = lists.get_mut(&record.pack) {
                        list.push(*record);
                    }
                });
                for list in lists.values_mut() {
                    list.sort_unstable_by_key(|r| (r.entry.position, r.entry.id));
                    list.dedup();
                }
                Ok(shown.map(|()| lists))
            };
            match self.resources().run(all).await? {
                Ok(lists) => return Ok(lists),
                Err(unreadable) => self.repair(&unreadable).await?,
            }
        }
    }

    /// Whether the blob is known to be damaged in this place.
    pub(crate) fn is_bad(&self, record: &Record) -> bool {
        let pack = self.index().pack(record.pack).id;
        self.repo().is_bad(pack, record.entry.id)
    }

    /// Reads a blob from the first of its places where it is whole. A place where it is not, twice, is
    /// remembered.
    async fn blob(&self, kind: BlobKind, piece: PieceRef) -> Result<Bytes> {
        let mut bad = None;
        for record in self.places(kind, &piece).await? {
            match read_twice(|| self.blob_at(record, piece)).await {
                Err(error) if is_damage(&error) => {
                    let pack = self.index().pack(record.pack).id;
                    self.repo().note_bad(pack, record.entry.id);
                    bad = bad.or(Some(error));
                }
                read => return read,
            }
        }
        Err(bad.unwrap_or_else(|| {
            damaged(format!(
                "the {} blob with chaining value {} is in no index segment",
                kind.word(),
                piece.cv
            ))
        }))
    }

    async fn blob_at(&self, record: Record, piece: PieceRef) -> Result<Bytes> {
        let kind = record.entry.kind;
        let repo = self.repo();
        let pack = pack_key(kind.pack(), &self.index().pack(record.pack).id)?;
        let (from, length) = (
            u64::from(record.entry.position),
            u64::from(record.entry.stored),
        );
        let bytes = repo
            .get_range(&pack, from, length)
            .await
            .map_err(missing_is_damage)?;
        let opener = repo.clone();
        repo.resources()
            .run(move || {
                open_piece(
                    opener.sealer(),
                    kind,
                    &record.entry.id,
                    &piece,
                    into_mut(bytes),
                )
            })
            .await
            .context(|| format!("read {pack}"))
    }
}

fn is_damage(error: &Error) -> bool {
    error.cause() == Cause::Damage
}

/// Opens the stored blob of `piece`, whose id is `id`.
pub(crate) fn open_piece(
    sealer: &Sealer,
    kind: BlobKind,
    id: &BlobId,
    piece: &PieceRef,
    stored: BytesMut,
) -> Result<Bytes> {
    let (header, plain) = sealer.open_blob(stored)?;
    let same = header.id == *id
        && header.kind == kind
        && header.offset == piece.offset
        && header.plain == piece.length;
    if same {
        Ok(plain)
    } else {
        Err(damaged(format!(
            "another blob is in the place of blob {id}"
        )))
    }
}
