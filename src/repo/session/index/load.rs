//! Reading the index of a repository.

use std::collections::{HashMap, HashSet};
use std::fs::File;
use std::io::Write;
use std::sync::{Arc, PoisonError};

use bytes::{Bytes, BytesMut};
use futures::StreamExt;

use super::filed::{BadFile, Body, Cache, Filed, prefix};
use super::{Index, Live, OnDisk, Resident, Span, Unreadable, runs};
use crate::base::error::Context;
use crate::repo::format::blob::PackKind;
use crate::repo::format::files::StoredFile;
use crate::repo::format::ids::{IndexId, PackId};
use crate::repo::format::pack::{DirectoryPlace, TRAILER, pack_key};
use crate::repo::format::segment::{End, Footer, PackInfo, Record, Segment};
use crate::repo::format::wire::{damaged, missing_is_damage, to_u32};
use crate::repo::opening::read_twice;
use crate::repo::repository::Repository;
use crate::{Cause, Error, Result, store};

/// How many segments are read at once: each is about 7 MiB.
const SEGMENTS_AT_ONCE: usize = 8;
/// How many ends of segments are read at once.
const ENDS_AT_ONCE: usize = 16;
/// How much is read of the end of a segment before more is known of it, in bytes: all of a small one, and of
/// a large one the footer, unless it has many packs.
const END: u64 = 64 << 10;
/// How many directories of packs are read at once: each is 4 MiB at most.
const DIRECTORIES_AT_ONCE: usize = 16;
/// How often segments are listed again when some vanish between listing and reading.
const LISTED_AGAIN: u32 = 5;
/// The part of the memory budget that records may take.
const PART_OF_MEMORY: u64 = 4;

/// Which local files of segments are read instead of the segments.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Trust<'a> {
    /// All that are right.
    Files,
    /// Those of all but these segments.
    FilesBut(&'a HashSet<IndexId>),
    /// None: what the repository has is to be seen.
    Nothing,
}

/// What is known of a segment before its records are read.
#[derive(Debug)]
struct Begun {
    id: IndexId,
    size: u64,
    packs: Vec<PackInfo>,
    supersedes: Vec<IndexId>,
    records: usize,
    read: Read,
}

/// As far as it was read.
#[derive(Debug)]
enum Read {
    /// Its local file.
    File(Filed),
    /// The bytes at its end.
    End(Bytes),
    /// All that is needed.
    Part,
}

/// The records of a segment.
#[derive(Debug)]
enum Part {
    Records(Vec<Record>),
    Filed(Filed),
}

impl Part {
    /// The first eight bytes of the first and the last id.
    fn ends(&self) -> (u64, u64) {
        match self {
            Self::Records(records) => {
                let of = |record: Option<&Record>| record.map_or(0, |r| prefix(&r.entry.id));
                (of(records.first()), of(records.last()))
            }
            Self::Filed(filed) => (filed.first(), filed.last),
        }
    }
}

impl Index {
    /// Reads all segments. One that is damaged or went missing is left out and named; its blobs are known
    /// by the directories of the packs of which the others lack some.
    ///
    /// # Errors
    ///
    /// [`Cause::Damage`] when segments contradict each other; what the store fails with.
    pub(crate) async fn load(repo: &Repository, trust: Trust<'_>) -> Result<Self> {
        let mut tries = 0;
        loop {
            tries += 1;
            // Segments are merged and removed: what replaces them came before they went.
            match load_listed(repo, trust, tries == LISTED_AGAIN).await {
                Err(error) if error.cause() == Cause::NotFound => {}
                loaded => return loaded,
            }
        }
    }
}

/// Reads the segments that a listing shows.
///
/// # Errors
///
/// [`Cause::NotFound`] when one was gone when it was read; it counts as damaged the `last` time.
async fn load_listed(repo: &Repository, trust: Trust<'_>, last: bool) -> Result<Index> {
    let mut listed: Vec<(IndexId, u64)> = Vec::new();
    for meta in repo.list(StoredFile::Index.row().directory).await? {
        if let Some(Ok(id)) = StoredFile::Index.id(meta.key.as_str()).map(str::parse) {
            listed.push((id, meta.size));
        }
    }
    listed.sort_unstable();
    let cache = repo.local_index().map(Cache::new);
    let mut loading = Loading {
        repo,
        cache: cache.as_ref(),
        last,
        begun: Vec::new(),
        unread: Vec::new(),
        parts: HashMap::new(),
        proved: HashSet::new(),
        room: repo.resources().memory() / PART_OF_MEMORY / size_of::<Record>() as u64,
    };
    loading.begin(&listed, trust).await?;
    loading.read().await?;
    if let Some(cache) = &cache {
        loading.keep_superseded(cache).await?;
        let listed: HashSet<IndexId> = listed.iter().map(|(id, _)| *id).collect();
        let cache = cache.clone();
        let clean = move || {
            cache.retain(|id| listed.contains(id));
            Ok(())
        };
        repo.resources().run(clean).await?;
    }
    let superseded = loading.superseded();
    loading.unread.retain(|(id, _)| !superseded.contains(id));
    let recovered = loading.recovered().await?;
    let Loading {
        begun,
        unread,
        parts,
        ..
    } = loading;
    let finish = move || finish(begun, unread, parts, recovered);
    repo.resources().run(finish).await
}

struct Loading<'a> {
    repo: &'a Repository,
    cache: Option<&'a Cache>,
    /// A segment that is gone counts as damaged.
    last: bool,
    begun: Vec<Begun>,
    /// Those that are damaged, and why; in the end no longer those that others supersede.
    unread: Vec<(IndexId, String)>,
    /// The records of those that live.
    parts: HashMap<IndexId, Part>,
    /// Others that are whole.
    proved: HashSet<IndexId>,
    /// How many more records may be in memory.
    room: u64,
}

/// Packs that were read by their directories.
#[derive(Debug, Default)]
struct Recovered {
    packs: Vec<Segment>,
    /// Not every directory could be read that may have what segments lack.
    in_part: bool,
}

impl Loading<'_> {
    /// Reads what segments say at their ends.
    async fn begin(&mut self, listed: &[(IndexId, u64)], trust: Trust<'_>) -> Result<()> {
        let (repo, cache) = (self.repo, self.cache);
        let mut ends = futures::stream::iter(listed.iter().copied())
            .map(|(id, size)| async move {
                let trusted = match trust {
                    Trust::Files => true,
                    Trust::FilesBut(doubted) => !doubted.contains(&id),
                    Trust::Nothing => false,
                };
                let cache = cache.filter(|_| trusted);
                (id, read_twice(|| begin(repo, cache, id, size)).await)
            })
            .buffered(ENDS_AT_ONCE);
        while let Some((id, begun)) = ends.next().await {
            match begun {
                Ok(begun) => self.begun.push(begun),
                Err(error) => self.leave_out(id, gone(error, self.last))?,
            }
        }
        Ok(())
    }

    /// What segments supersede that are whole: one that is damaged supersedes nothing.
    fn superseded(&self) -> HashSet<IndexId> {
        let whole = self.begun.iter().filter(|begun| self.is_whole(&begun.id));
        whole.flat_map(|b| b.supersedes.iter().copied()).collect()
    }

    fn is_whole(&self, id: &IndexId) -> bool {
        self.parts.contains_key(id) || self.proved.contains(id)
    }

    /// Reads segments until it is known which live and all of these are read.
    async fn read(&mut self) -> Result<()> {
        loop {
            let claims = self.begun.iter().flat_map(|b| b.supersedes.iter().copied());
            let claimed: HashSet<IndexId> = claims.collect();
            let superseded = self.superseded();
            let rest = self.begun.iter().map(|begun| begun.id);
            let rest = rest.filter(|id| !self.is_whole(id) && !superseded.contains(id));
            let (open, live): (HashSet<_>, HashSet<_>) = rest.partition(|id| claimed.contains(id));
            if !live.is_empty() {
                self.read_parts(&live).await?;
            } else if !open.is_empty() {
                self.prove(&open).await?;
            } else {
                return Ok(());
            }
        }
    }

    /// Reads the segments that say that they supersede these, and that others supersede: who merges names what
    /// they superseded, too, so there is hardly ever one.
    async fn prove(&mut self, open: &HashSet<IndexId>) -> Result<()> {
        let claims = |begun: &&Begun| begun.supersedes.iter().any(|id| open.contains(id));
        let claimants = self.begun.iter().filter(claims);
        let claimants = claimants.filter(|begun| !self.is_whole(&begun.id));
        let claimants: Vec<(IndexId, u64)> =
            claimants.map(|begun| (begun.id, begun.size)).collect();
        for (id, size) in claimants {
            match fetch(self.repo, id, size, Bytes::new()).await {
                Ok(_) => {
                    self.proved.insert(id);
                }
                Err(error) => self.leave_out(id, gone(error, self.last))?,
            }
        }
        Ok(())
    }

    /// Takes a segment for unread that is damaged; its local file is no longer read in its place.
    fn leave_out(&mut self, id: IndexId, error: Error) -> Result<()> {
        if error.cause() != Cause::Damage {
            return Err(error);
        }
        if let Some(cache) = self.cache {
            cache.forget(&id);
        }
        self.begun.retain(|begun| begun.id != id);
        self.unread.push((id, error.chain()));
        Ok(())
    }

    /// Reads the records of these segments.
    async fn read_parts(&mut self, live: &HashSet<IndexId>) -> Result<()> {
        let begun = self.begun.iter_mut();
        let mut wanted: Vec<&mut Begun> = begun.filter(|begun| live.contains(&begun.id)).collect();
        wanted.sort_by_key(|begun| begun.records);
        let (repo, cache) = (self.repo, self.cache);
        let mut reads = Vec::new();
        for begun in wanted {
            let resident = begun.records as u64 <= self.room;
            if resident {
                self.room -= begun.records as u64;
            }
            let read = std::mem::replace(&mut begun.read, Read::Part);
            let (id, size) = (begun.id, begun.size);
            reads.push(async move {
                let part = read_part(repo, cache, id, size, read, resident).await;
                (id, part)
            });
        }
        let mut reads = futures::stream::iter(reads).buffer_unordered(SEGMENTS_AT_ONCE);
        while let Some((id, part)) = reads.next().await {
            match part {
                Ok(part) => {
                    self.parts.insert(id, part);
                }
                Err(error) => self.leave_out(id, gone(error, self.last))?,
            }
        }
        Ok(())
    }

    /// Keeps what segments say that others supersede, so that they need not be read again, and no more of them.
    async fn keep_superseded(&mut self, cache: &Cache) -> Result<()> {
        let others = self.begun.iter();
        for begun in others.filter(|begun| !self.parts.contains_key(&begun.id)) {
            if matches!(&begun.read, Read::File(filed) if !filed.whole) {
                continue;
            }
            let (repo, cache, id, size) = (self.repo.clone(), cache.clone(), begun.id, begun.size);
            let segment = Segment {
                packs: begun.packs.clone(),
                supersedes: begun.supersedes.clone(),
                records: vec![],
            };
            let keep = move || {
                let bytes = Filed::encode(repo.sealer(), &id, size, &segment, false)?;
                told_once(&repo, &cache.keep(&id, &bytes));
                Ok(())
            };
            self.repo.resources().run(keep).await?;
        }
        Ok(())
    }

    /// Reads the packs' own directories, where segments cannot be read.
    async fn recovered(&self) -> Result<Recovered> {
        if self.unread.is_empty() {
            return Ok(Recovered::default());
        }
        for (id, why) in &self.unread {
            if self.repo.first_told(id.to_string()) {
                tracing::warn!("the packs' own directories are read instead: {why}");
            }
        }
        let described = self.begun.iter().flat_map(|begun| &begun.packs);
        let described = described.map(|pack| (pack.id, *pack)).collect();
        recover(self.repo, &self.whole()?, &described).await
    }

    /// The packs of which the segments that count have every blob.
    fn whole(&self) -> Result<HashSet<PackId>> {
        let mut numbers: HashMap<PackId, u32> = HashMap::new();
        let mut packs: Vec<PackInfo> = Vec::new();
        let mut places: Vec<(u32, u32)> = Vec::new();
        for begun in &self.begun {
            let Some(part) = self.parts.get(&begun.id) else {
                continue;
            };
            let mut own = Vec::with_capacity(begun.packs.len());
            for pack in &begun.packs {
                let next = to_u32(packs.len(), "a number of packs")?;
                let number = *numbers.entry(pack.id).or_insert(next);
                if number == next {
                    packs.push(*pack);
                }
                own.push(number);
            }
            let mut add = |records: &[Record]| {
                let place = |r: &Record| Some((*own.get(r.pack as usize)?, r.entry.position));
                places.extend(records.iter().filter_map(place));
            };
            match part {
                Part::Records(records) => add(records),
                Part::Filed(filed) => {
                    for number in 0..filed.chunks() {
                        // What its packs' directories say is as good.
                        add(&filed.chunk(number).unwrap_or_default());
                    }
                }
            }
        }
        places.sort_unstable();
        places.dedup();
        let of_one = places.chunk_by(|a, b| a.0 == b.0);
        let whole = of_one.filter_map(|places| {
            let pack = packs.get(places.first()?.0 as usize)?;
            (places.len() >= pack.blobs as usize).then_some(pack.id)
        });
        Ok(whole.collect())
    }
}

/// A segment that is gone is damage when it was listed too often.
fn gone(error: Error, last: bool) -> Error {
    if last {
        missing_is_damage(error)
    } else {
        error
    }
}

/// Says once that local files of the index cannot be written.
fn told_once(repo: &Repository, kept: &std::io::Result<File>) {
    if let Err(error) = kept
        && repo.first_told("local index")
    {
        tracing::warn!(
            "the index cannot be kept below state_dir, and is read from the repository again next time: {error}"
        );
    }
}

/// Reads what a segment of `size` bytes says at its end, from its local file where there is one.
async fn begin(repo: &Repository, cache: Option<&Cache>, id: IndexId, size: u64) -> Result<Begun> {
    if let Some(cache) = cache {
        let (cache, opener) = (cache.clone(), repo.clone());
        let open = move || Ok(cache.open(opener.sealer(), &id, size));
        if let Some(filed) = repo.resources().run(open).await? {
            return Ok(Begun {
                id,
                size,
                packs: filed.packs.clone(),
                supersedes: filed.supersedes.clone(),
                records: filed.records,
                read: Read::File(filed),
            });
        }
    }
    let path = StoredFile::Index.path(&id);
    let key = store::Key::new(&*path)?;
    let mut length = END.min(size);
    loop {
        let end = match length {
            0 => Bytes::new(),
            _ => repo.get_range(&key, size - length, length).await?,
        };
        let read = Footer::open(repo.sealer(), &path, size, &end);
        match read.context(|| format!("load {path}"))? {
            End::Longer(whole) if whole > length => length = whole,
            End::Longer(_) => return Err(damaged(format!("{path} is damaged: it ends early"))),
            End::Whole(footer) => {
                let records = footer.records();
                return Ok(Begun {
                    id,
                    size,
                    packs: footer.packs,
                    supersedes: footer.supersedes,
                    records,
                    read: Read::End(end),
                });
            }
        }
    }
}

/// Reads the records of a segment into memory, or into a local file.
async fn read_part(
    repo: &Repository,
    cache: Option<&Cache>,
    id: IndexId,
    size: u64,
    read: Read,
    resident: bool,
) -> Result<Part> {
    let end = match read {
        Read::File(filed) if filed.whole && !resident => return Ok(Part::Filed(filed)),
        Read::File(filed) if filed.whole => {
            let records = move || Ok(filed.segment().map(|segment| segment.records));
            match repo.resources().run(records).await? {
                Ok(records) => return Ok(Part::Records(records)),
                Err(BadFile(why)) => {
                    tracing::debug!("the local file of segment {id} is left out: {why}");
                    Bytes::new()
                }
            }
        }
        Read::End(end) => end,
        Read::File(_) | Read::Part => Bytes::new(),
    };
    // The bytes, and what they are in memory.
    let _share = repo.resources().reserve(2 * size).await?;
    let segment = fetch(repo, id, size, end).await?;
    let (keeper, cache) = (repo.clone(), cache.cloned());
    let keep = move || {
        let sealer = keeper.sealer();
        let mut body = None;
        if cache.is_some() || !resident {
            let bytes = Filed::encode(sealer, &id, size, &segment, true)?;
            let kept = cache.map(|cache| cache.keep(&id, &bytes));
            if let Some(kept) = &kept {
                told_once(&keeper, kept);
            }
            let kept = kept.and_then(std::io::Result::ok).map(Body::File);
            body = (!resident).then(|| kept.unwrap_or_else(|| spool(&keeper, bytes)));
        }
        let Some(body) = body else {
            return Ok(Part::Records(segment.records));
        };
        let filed = Filed::open(sealer, &id, size, body);
        filed
            .map(Part::Filed)
            .map_err(|BadFile(why)| damaged(format!("the local file of index segment {id}: {why}")))
    };
    repo.resources().run(keep).await
}

/// A file without a name, or memory where there is none to be had.
fn spool(repo: &Repository, bytes: Vec<u8>) -> Body {
    let made = tempfile::tempfile().and_then(|mut file| {
        file.write_all(&bytes)?;
        Ok(file)
    });
    match made {
        Ok(file) => Body::File(file),
        Err(error) => {
            if repo.first_told("spooled index") {
                tracing::warn!("the index is kept in memory: no temporary file: {error}");
            }
            Body::Memory(bytes)
        }
    }
}

/// Reads a segment from the repository, of which `end` has been read. It takes no share of the memory budget, as
/// some callers hold one.
async fn fetch(repo: &Repository, id: IndexId, size: u64, end: Bytes) -> Result<Segment> {
    let path = StoredFile::Index.path(&id);
    let key = store::Key::new(&*path)?;
    let read = |end: Bytes| {
        let (repo, path, key) = (repo.clone(), path.clone(), key.clone());
        async move {
            let rest = size - end.len() as u64;
            let mut bytes = BytesMut::new();
            if rest > 0 {
                bytes.extend_from_slice(&repo.get_range(&key, 0, rest).await?);
            }
            bytes.extend_from_slice(&end);
            let (sealed_by, name) = (repo.clone(), path.clone());
            let open = move || Segment::open(sealed_by.sealer(), &name, &bytes);
            let segment = repo.resources().run(open).await;
            segment.context(|| format!("load {path}"))
        }
    };
    match read(end).await {
        Err(error) if error.cause() == Cause::Damage => read(Bytes::new()).await,
        first => first,
    }
}

/// All of a segment that lives, from its local file where that is right.
pub(crate) async fn whole(repo: &Repository, live: &Live) -> Result<Segment> {
    let (id, size) = (live.id, live.size);
    if let Some(cache) = repo.local_index().map(Cache::new) {
        let opener = repo.clone();
        let read = move || {
            let filed = cache.open(opener.sealer(), &id, size);
            Ok(filed.filter(|f| f.whole).and_then(|f| f.segment().ok()))
        };
        if let Some(segment) = repo.resources().run(read).await? {
            return Ok(segment);
        }
    }
    fetch(repo, id, size, Bytes::new()).await
}

/// Keeps a segment that was written, so that the next session need not read it.
pub(crate) async fn keep(
    repo: &Repository,
    id: IndexId,
    size: u64,
    segment: Segment,
) -> Result<()> {
    let Some(cache) = repo.local_index().map(Cache::new) else {
        return Ok(());
    };
    let keeper = repo.clone();
    let keep = move || {
        let bytes = Filed::encode(keeper.sealer(), &id, size, &segment, true)?;
        told_once(&keeper, &cache.keep(&id, &bytes));
        Ok(())
    };
    repo.resources().run(keep).await
}

/// Reads the segment again whose local file is not right, and keeps it in memory from here on.
///
/// # Errors
///
/// What the store fails with; [`Cause::Damage`] when the segment itself cannot be read.
pub(crate) async fn repair(
    repo: &Repository,
    index: &Index,
    unreadable: &Unreadable,
) -> Result<()> {
    let on_disk = &index.on_disk[unreadable.segment];
    let live = &index.live[on_disk.live];
    let (id, size) = (live.id, live.size);
    tracing::warn!(
        "the local file of index segment {id} is damaged and is read from the repository again: {}",
        unreadable.why
    );
    if let Some(cache) = repo.local_index().map(Cache::new) {
        cache.forget(&id);
    }
    let segment = fetch(repo, id, size, Bytes::new()).await?;
    let sealing = repo.clone();
    let file = move || {
        let sealer = sealing.sealer();
        let bytes = Filed::encode(sealer, &id, size, &segment, true)?;
        Filed::open(sealer, &id, size, Body::Memory(bytes))
            .map_err(|BadFile(why)| damaged(format!("index segment {id} in memory: {why}")))
    };
    let filed = Arc::new(repo.resources().run(file).await?);
    *on_disk.file.write().unwrap_or_else(PoisonError::into_inner) = filed;
    Ok(())
}

/// Puts everything together.
fn finish(
    begun: Vec<Begun>,
    unread: Vec<(IndexId, String)>,
    mut parts: HashMap<IndexId, Part>,
    recovered: Recovered,
) -> Result<Index> {
    let mut index = Index {
        unread,
        in_part: recovered.in_part,
        ..Index::default()
    };
    let mut numbering = Numbering::default();
    let mut resident = Vec::new();
    let mut add = |numbers: &[u32], records: Vec<Record>| {
        resident.extend(records.into_iter().filter_map(|record| {
            let pack = *numbers.get(record.pack as usize)?;
            Some(Record { pack, ..record })
        }));
    };
    for begun in begun {
        let Some(part) = parts.remove(&begun.id) else {
            continue;
        };
        let from = || StoredFile::Index.path(&begun.id);
        let packs: Arc<[u32]> = numbering.number(&begun.packs, from)?.into();
        let (first, last) = part.ends();
        let live = index.live.len();
        index.live.push(Live {
            id: begun.id,
            size: begun.size,
            supersedes: begun.supersedes,
            packs: packs.clone(),
            span: Span {
                id: begun.id,
                first,
                last,
                records: begun.records as u64,
            },
        });
        match part {
            Part::Records(records) => add(&packs, records),
            Part::Filed(filed) => index.on_disk.push(OnDisk {
                live,
                packs,
                first,
                last,
                file: Arc::new(filed).into(),
            }),
        }
    }
    for segment in recovered.packs {
        let from = || "the directory of a pack".to_owned();
        let numbers = numbering.number(&segment.packs, from)?;
        index
            .recovered
            .extend(segment.packs.iter().map(|pack| pack.id));
        add(&numbers, segment.records);
    }
    index.packs = numbering.packs;
    index.resident = Resident::new(resident)?;
    let places: HashMap<IndexId, usize> = (index.on_disk.iter().enumerate())
        .map(|(place, on_disk)| (index.live[on_disk.live].id, place))
        .collect();
    let spans = index.on_disk.iter().map(|d| index.live[d.live].span);
    let runs = runs(spans.collect()).into_iter();
    index.runs = runs
        .map(|run| run.iter().map(|span| places[&span.id]).collect())
        .collect();
    Ok(index)
}

/// Each pack once, with a number.
#[derive(Debug, Default)]
struct Numbering {
    packs: Vec<PackInfo>,
    known: HashMap<PackId, u32>,
}

impl Numbering {
    /// The numbers of these packs, in their order.
    fn number(&mut self, packs: &[PackInfo], from: impl Fn() -> String) -> Result<Vec<u32>> {
        let mut numbers = Vec::with_capacity(packs.len());
        for pack in packs {
            let next = to_u32(self.packs.len(), "a number of packs")?;
            let number = *self.known.entry(pack.id).or_insert(next);
            match self.packs.get(number as usize) {
                None => self.packs.push(*pack),
                // Whose hash is right, the bytes tell.
                Some(known)
                    if known.size == pack.size
                        && known.kind == pack.kind
                        && known.blobs == pack.blobs => {}
                Some(_) => {
                    return Err(damaged(format!(
                        "{} describes pack {} in another way than an earlier segment",
                        from(),
                        pack.id
                    )));
                }
            }
            numbers.push(number);
        }
        Ok(numbers)
    }
}

/// The blobs of packs that are not `whole`, by their own directories. One whose directory cannot be read is left
/// out.
async fn recover(
    repo: &Repository,
    whole: &HashSet<PackId>,
    described: &HashMap<PackId, PackInfo>,
) -> Result<Recovered> {
    let mut recovered = Recovered::default();
    for kind in [PackKind::Data, PackKind::Tree] {
        let packs = StoredFile::packs(kind);
        let listed = repo.list(packs.row().directory).await?;
        let unnamed = listed.into_iter().filter_map(|meta| {
            let id: PackId = packs.id(meta.key.as_str())?.parse().ok()?;
            (!whole.contains(&id)).then_some((id, meta.size))
        });
        let mut read = futures::stream::iter(unnamed.collect::<Vec<_>>())
            .map(|(id, size)| async move { (id, directory(repo, kind, id, size).await) })
            .buffered(DIRECTORIES_AT_ONCE);
        while let Some((id, segment)) = read.next().await {
            match segment {
                Ok(mut segment) => {
                    if let [pack] = &mut segment.packs[..]
                        && let Some(known) = described.get(&id).filter(|k| k.size == pack.size)
                    {
                        pack.hash = known.hash;
                    }
                    recovered.packs.push(segment);
                }
                Err(error) if error.retryable() => return Err(error),
                Err(error) => {
                    if !matches!(error.cause(), Cause::Damage | Cause::NotFound) {
                        // It is archived, or not ours to read.
                        recovered.in_part = true;
                    }
                    tracing::debug!("pack {id} is left out: {}", error.chain());
                }
            }
        }
    }
    Ok(recovered)
}

/// A pack of `size` bytes and its blobs, as its directory has them. Its hash is not known.
pub(crate) async fn directory(
    repo: &Repository,
    kind: PackKind,
    id: PackId,
    size: u64,
) -> Result<Segment> {
    let key = pack_key(kind, &id)?;
    let trailer = size.saturating_sub(TRAILER as u64);
    let bytes = repo.get_range(&key, trailer, TRAILER as u64).await?;
    let place = DirectoryPlace::read(&id, size, &bytes)?;
    let (start, length) = (place.start as u64, place.length as u64);
    let _share = repo.resources().reserve(length).await?;
    let sealed = repo.get_range(&key, start, length).await?;
    let entries = repo
        .sealer()
        .open_directory_at(kind, &id, &place, &sealed)?;
    let pack = PackInfo {
        id,
        hash: [0; 32],
        size,
        kind,
        blobs: to_u32(entries.len(), "a number of blobs")?,
    };
    let record = |entry| Record { entry, pack: 0 };
    Ok(Segment {
        packs: vec![pack],
        supersedes: vec![],
        records: entries.into_iter().map(record).collect(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::repo::format::blob::{BlobKind, Codec};
    use crate::repo::format::ids::{BlobId, RepositoryId};
    use crate::repo::format::pack::PackEntry;
    use crate::repo::format::sealer::{Keyring, Sealer};

    fn pack(n: u8) -> PackInfo {
        PackInfo {
            id: PackId([n; 32]),
            hash: [n; 32],
            size: 100,
            kind: PackKind::Data,
            blobs: 1,
        }
    }

    fn record(n: u32, pack: u32) -> Record {
        let entry = PackEntry {
            kind: BlobKind::Data,
            id: BlobId(*blake3::hash(&n.to_le_bytes()).as_bytes()),
            position: n,
            stored: 100,
            plain: 8,
            codec: Codec::Raw,
            epoch: 1,
        };
        Record { entry, pack }
    }

    /// The index of these segments, of which those with an even place are in memory, or with an odd one.
    fn index(segments: &[(IndexId, Segment)], even: bool) -> Result<Index> {
        let sealer = Sealer {
            repository: RepositoryId([9; 32]),
            ring: Keyring::generate(jiff::Timestamp::UNIX_EPOCH),
        };
        let superseded: HashSet<IndexId> = segments
            .iter()
            .flat_map(|(_, s)| s.supersedes.clone())
            .collect();
        let (mut begun, mut parts) = (Vec::new(), HashMap::new());
        for (place, (id, segment)) in segments.iter().enumerate() {
            begun.push(Begun {
                id: *id,
                size: 1,
                packs: segment.packs.clone(),
                supersedes: segment.supersedes.clone(),
                records: segment.records.len(),
                read: Read::Part,
            });
            if superseded.contains(id) {
                continue;
            }
            let mut segment = segment.clone();
            segment.records.sort_unstable_by_key(Record::order);
            let part = if place.is_multiple_of(2) == even {
                Part::Records(segment.records)
            } else {
                let bytes = Filed::encode(&sealer, id, 1, &segment, true)?;
                Part::Filed(Filed::open(&sealer, id, 1, Body::Memory(bytes)).unwrap())
            };
            parts.insert(*id, part);
        }
        finish(begun, vec![], parts, Recovered::default())
    }

    fn segment(packs: Vec<PackInfo>, records: Vec<Record>, supersedes: Vec<IndexId>) -> Segment {
        Segment {
            packs,
            supersedes,
            records,
        }
    }

    #[test]
    fn every_blob_of_live_segments_is_found_in_all_its_places() {
        let (a, b, c) = (IndexId([1; 32]), IndexId([2; 32]), IndexId([3; 32]));
        let of_b = (0..1000).map(|n| record(n, n % 2)).collect();
        let of_c = (500..2000).map(|n| record(n, 0)).collect();
        let segments = [
            (a, segment(vec![pack(9)], vec![record(7, 0)], vec![])),
            (b, segment(vec![pack(1), pack(2)], of_b, vec![a])),
            (c, segment(vec![pack(2)], of_c, vec![])),
        ];
        for even in [false, true] {
            let index = index(&segments, even).unwrap();
            assert!(!index.is_in_memory());
            assert_eq!(index.packs(), [pack(1), pack(2)]);
            assert_eq!(index.records(), 2500);
            let mut shown = HashSet::new();
            index
                .each_record(|record| _ = shown.insert(record.order()))
                .unwrap();
            // What b and c say of pack 2 alike is one place; what b has in pack 1 and c in pack 2 are two.
            assert_eq!(shown.len(), 2000 + 250);
            for n in 0..2000 {
                let found = index.places(&record(n, 0).entry.id).unwrap();
                assert!(found.iter().all(|place| place.entry.position == n));
                let packs: Vec<u8> = found.iter().map(|p| index.pack(p.pack).id.0[0]).collect();
                let expected: &[u8] = match (n, n % 2) {
                    (0..500, 0) => &[1],
                    (500..1000, 0) => &[1, 2],
                    _ => &[2],
                };
                assert_eq!(packs, expected, "{n}");
            }
            for n in 2000..4000 {
                assert_eq!(index.places(&record(n, 0).entry.id).unwrap(), []);
            }
        }
        assert_eq!(Index::default().places(&record(1, 0).entry.id).unwrap(), []);
    }

    /// Ids are hashes; that many begin alike must not matter all the same.
    #[test]
    fn blobs_whose_ids_begin_alike_are_found_wherever_chunks_end() {
        for count in [1_u8, 2, 63, 64, 65, 200] {
            let alike = |n: u8| {
                let mut record = record(n.into(), 0);
                record.entry.id = BlobId([n / 100; 32]);
                record.entry.id.0[31] = n;
                record
            };
            let records = (0..count).map(alike).collect();
            let segments = [(IndexId([1; 32]), segment(vec![pack(1)], records, vec![]))];
            let index = index(&segments, false).unwrap();
            for n in 0..count {
                let found = index.places(&alike(n).entry.id).unwrap();
                assert_eq!(found, [alike(n)], "{n} of {count}");
            }
            assert_eq!(index.places(&alike(count).entry.id).unwrap(), []);
        }
    }

    #[test]
    fn segments_that_contradict_each_other_are_damage() {
        let other = PackInfo {
            size: 101,
            ..pack(1)
        };
        let segments = [
            (IndexId([1; 32]), segment(vec![pack(1)], vec![], vec![])),
            (IndexId([2; 32]), segment(vec![other], vec![], vec![])),
        ];
        let error = index(&segments, true).unwrap_err();
        assert_eq!(error.cause(), Cause::Damage);
    }

    #[test]
    fn a_pack_that_two_segments_hash_otherwise_is_left_to_its_bytes() {
        let other = PackInfo {
            hash: [7; 32],
            ..pack(1)
        };
        let (one, two) = (vec![record(1, 0)], vec![record(2, 0)]);
        let segments = [
            (IndexId([1; 32]), segment(vec![pack(1)], one, vec![])),
            (IndexId([2; 32]), segment(vec![other], two, vec![])),
        ];
        let index = index(&segments, true).unwrap();
        assert_eq!((index.packs().len(), index.records()), (1, 2));
    }

    #[test]
    fn a_million_blobs_fit_64_megabytes() {
        assert!(size_of::<Record>() * 1_000_000 <= 64_000_000);
    }

    #[test]
    fn a_file_of_another_segment_or_with_a_flipped_bit_is_not_believed() {
        let sealer = Sealer {
            repository: RepositoryId([9; 32]),
            ring: Keyring::generate(jiff::Timestamp::UNIX_EPOCH),
        };
        let (id, size) = (IndexId([1; 32]), 1234);
        let mut records: Vec<Record> = (0..70).map(|n| record(n, 0)).collect();
        records.sort_unstable_by_key(Record::order);
        let segment = segment(vec![pack(1)], records, vec![IndexId([5; 32])]);
        let bytes = Filed::encode(&sealer, &id, size, &segment, true).unwrap();
        let read = |id: &IndexId, size: u64, bytes: Vec<u8>| {
            let filed = Filed::open(&sealer, id, size, Body::Memory(bytes))?;
            filed.segment()
        };
        assert_eq!(read(&id, size, bytes.clone()).unwrap(), segment);
        assert!(read(&IndexId([2; 32]), size, bytes.clone()).is_err());
        assert!(read(&id, size + 1, bytes.clone()).is_err());
        for bit in 0..bytes.len() * 8 {
            let mut bad = bytes.clone();
            bad[bit / 8] ^= 1 << (bit % 8);
            let wrong = read(&id, size, bad).is_ok_and(|read| read != segment);
            assert!(!wrong, "bit {bit}");
        }
        for len in 0..bytes.len() {
            assert!(read(&id, size, bytes[..len].to_vec()).is_err(), "{len}");
        }
    }
}
