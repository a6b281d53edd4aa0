//! Reading the index of a repository.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, PoisonError};

use futures::StreamExt;

use super::filed::{BadFile, Cache, Filed};
use super::read::{Begun, Loaded, Part, Read, Table, begin, fetch, read_part, spool, told_once};
use super::recover::{Recovered, recover};
use super::{Index, Live, OnDisk, Resident, Span, Unreadable, runs};
use crate::repo::format::files::StoredFile;
use crate::repo::format::ids::{IndexId, PackId};
use crate::repo::format::segment::{PackInfo, Record, Segment};
use crate::repo::format::wire::{damaged, missing_is_damage, to_u32};
use crate::repo::opening::read_twice;
use crate::repo::repository::Repository;
use crate::{Cause, Error, Result};

/// How many segments are read at once: each is about 7 MiB.
const SEGMENTS_AT_ONCE: usize = 8;
/// How many ends of segments are read at once.
const ENDS_AT_ONCE: usize = 16;
/// How often segments are listed again when some vanish between listing and reading.
const LISTED_AGAIN: u32 = 5;
/// The part of the memory budget that records may take.
const PART_OF_MEMORY: u64 = 4;
/// The part of the memory budget that small segments may take which have been read whole.
const PART_FOR_ENDS: u64 = 16;
/// So many names come in one answer of any store: they were there at one moment.
const ONE_ANSWER: usize = 256;

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

impl Index {
    /// Reads all segments. One that is damaged or went missing is left out and named; its records are looked
    /// for elsewhere.
    ///
    /// # Errors
    ///
    /// [`Cause::Damage`] when segments contradict each other; what the store fails with.
    pub(crate) async fn load(repo: &Repository, trust: Trust<'_>) -> Result<Self> {
        for _ in 1..LISTED_AGAIN {
            // Segments are merged and removed: what replaces them came before they went.
            match load_listed(repo, trust, false).await {
                Err(error) if error.cause() == Cause::NotFound => {}
                loaded => return loaded,
            }
        }
        load_listed(repo, trust, true).await
    }
}

/// The segments that a store lists.
async fn list(repo: &Repository) -> Result<HashMap<IndexId, u64>> {
    let mut listed = HashMap::new();
    for meta in repo.list(StoredFile::Index.row().directory).await? {
        if let Some(Ok(id)) = StoredFile::Index.id(meta.key.as_str()).map(str::parse) {
            listed.insert(id, meta.size);
        }
    }
    Ok(listed)
}

/// Reads the segments that a listing shows.
///
/// # Errors
///
/// [`Cause::NotFound`] when one was gone when it was read; it counts as damaged the `last` time.
async fn load_listed(repo: &Repository, trust: Trust<'_>, last: bool) -> Result<Index> {
    // A listing in several answers is of no moment: it may show the last segment of a merge and not those that
    // were written before it. What the listing before this one showed came after all that it relies on.
    let before = list(repo).await?;
    let listed = match before.len() {
        ..ONE_ANSWER => before.clone(),
        _ => list(repo).await?,
    };
    let cache = repo.local_index().map(Cache::new);
    let mut loading = Loading {
        repo,
        cache: cache.as_ref(),
        last,
        begun: Vec::new(),
        table: Table::default(),
        unread: Vec::new(),
        parts: HashMap::new(),
        proved: HashSet::new(),
        room: repo.resources().memory() / PART_OF_MEMORY / size_of::<Record>() as u64,
    };
    loading.begin(&listed, &before, trust).await?;
    loading.read().await?;
    if let Some(cache) = &cache {
        loading.keep_superseded(cache).await?;
        let cache = cache.clone();
        let clean = move || {
            cache.retain(|id| listed.contains_key(id));
            Ok(())
        };
        repo.resources().run(clean).await?;
    }
    let superseded = loading.superseded();
    loading.unread.retain(|(id, ..)| !superseded.contains(id));
    let Loading {
        begun,
        table,
        unread,
        parts,
        ..
    } = loading;
    let mut loaded = Loaded {
        begun,
        table,
        unread,
        parts,
    };
    let mut recovered = Recovered::default();
    if !loaded.unread.is_empty() {
        let believed = !matches!(trust, Trust::Nothing);
        let cache = cache.as_ref().filter(|_| believed);
        (loaded, recovered) = recover(repo, cache, loaded).await?;
    }
    repo.resources()
        .run(move || finish(loaded, recovered))
        .await
}

struct Loading<'a> {
    repo: &'a Repository,
    cache: Option<&'a Cache>,
    /// A segment that is gone counts as damaged.
    last: bool,
    begun: Vec<Begun>,
    table: Table,
    /// Those that are damaged, with their sizes, and why; in the end no longer those that others supersede.
    unread: Vec<(IndexId, u64, String)>,
    /// The records of those that live.
    parts: HashMap<IndexId, Part>,
    /// Others that are whole.
    proved: HashSet<IndexId>,
    /// How many more records may be in memory.
    room: u64,
}

impl Loading<'_> {
    /// Reads what segments say at their ends. Only those of the listing `before` supersede others.
    async fn begin(
        &mut self,
        listed: &HashMap<IndexId, u64>,
        before: &HashMap<IndexId, u64>,
        trust: Trust<'_>,
    ) -> Result<()> {
        let (repo, cache) = (self.repo, self.cache);
        let mut listed: Vec<(IndexId, u64)> =
            listed.iter().map(|(id, size)| (*id, *size)).collect();
        listed.sort_unstable();
        let mut room = repo.resources().memory() / PART_FOR_ENDS;
        let mut ends = futures::stream::iter(listed)
            .map(|(id, size)| async move {
                let trusted = match trust {
                    Trust::Files => true,
                    Trust::FilesBut(doubted) => !doubted.contains(&id),
                    Trust::Nothing => false,
                };
                let cache = cache.filter(|_| trusted);
                (id, size, read_twice(|| begin(repo, cache, id, size)).await)
            })
            .buffered(ENDS_AT_ONCE);
        while let Some((id, size, ended)) = ends.next().await {
            let ended = match ended {
                Ok(ended) => ended,
                Err(error) => {
                    self.leave_out(id, size, gone(error, self.last))?;
                    continue;
                }
            };
            let read = match ended.read {
                Read::Whole(bytes) if bytes.len() as u64 > room => Read::End,
                Read::Whole(bytes) => {
                    room -= bytes.len() as u64;
                    Read::Whole(bytes)
                }
                read => read,
            };
            let supersedes = if before.contains_key(&id) {
                ended.supersedes
            } else {
                vec![]
            };
            self.begun.push(Begun {
                id,
                size,
                packs: self.table.number(&ended.packs)?,
                supersedes,
                records: ended.records,
                read,
            });
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
            match fetch(self.repo, id, size).await {
                Ok(_) => {
                    self.proved.insert(id);
                }
                Err(error) => self.leave_out(id, size, gone(error, self.last))?,
            }
        }
        Ok(())
    }

    /// Takes a segment for unread that is damaged.
    fn leave_out(&mut self, id: IndexId, size: u64, error: Error) -> Result<()> {
        if error.cause() != Cause::Damage {
            return Err(error);
        }
        self.begun.retain(|begun| begun.id != id);
        self.unread.push((id, size, error.chain()));
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
            let read = std::mem::replace(&mut begun.read, Read::End);
            let (id, size) = (begun.id, begun.size);
            reads.push(async move {
                let part = read_part(repo, cache, id, size, read, resident).await;
                (id, size, part)
            });
        }
        let mut reads = futures::stream::iter(reads).buffer_unordered(SEGMENTS_AT_ONCE);
        while let Some((id, size, part)) = reads.next().await {
            match part {
                Ok(part) => {
                    self.parts.insert(id, part);
                }
                Err(error) => self.leave_out(id, size, gone(error, self.last))?,
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
            let pack = |number: &u32| self.table.packs[*number as usize];
            let segment = Segment {
                packs: begun.packs.iter().map(pack).collect(),
                supersedes: begun.supersedes.clone(),
                records: vec![],
            };
            let count = begun.records;
            let keep = move || {
                let bytes = Filed::encode(repo.sealer(), &id, size, &segment, count)?;
                told_once(&repo, cache.keep(&id, &bytes));
                Ok(())
            };
            self.repo.resources().run(keep).await?;
        }
        Ok(())
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

/// All of a segment that lives, from its local file where that is right.
pub(crate) async fn whole(repo: &Repository, live: &Live) -> Result<Segment> {
    let (id, size) = (live.id, live.size);
    if let Some(cache) = repo.local_index().map(Cache::new) {
        let opener = repo.clone();
        let read = move || Ok(cache.segment(opener.sealer(), &id, size));
        if let Some(segment) = repo.resources().run(read).await? {
            return Ok(segment);
        }
    }
    fetch(repo, id, size).await
}

/// Whether a segment that lives is whole in the repository, whatever this host has of it.
///
/// # Errors
///
/// What the store fails with.
pub(crate) async fn is_readable(repo: &Repository, live: &Live) -> Result<bool> {
    let _share = repo.resources().reserve(2 * live.size).await?;
    match fetch(repo, live.id, live.size).await {
        Err(error) if matches!(error.cause(), Cause::Damage | Cause::NotFound) => Ok(false),
        read => read.map(|_| true),
    }
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
        let count = segment.records.len();
        let bytes = Filed::encode(keeper.sealer(), &id, size, &segment, count)?;
        told_once(&keeper, cache.keep(&id, &bytes));
        Ok(())
    };
    repo.resources().run(keep).await
}

/// Reads the segment again whose local file is not right, unless somebody else has done so meanwhile.
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
    let _one = on_disk.repairing.lock().await;
    if !Arc::ptr_eq(&on_disk.file(), &unreadable.file) {
        return Ok(());
    }
    let live = &index.live[on_disk.live];
    let (id, size) = (live.id, live.size);
    tracing::warn!(
        "the local file of index segment {id} cannot be read, and the segment is read from the repository again: {}",
        unreadable.why
    );
    if let Some(cache) = repo.local_index().map(Cache::new) {
        cache.forget(&id);
    }
    let segment = fetch(repo, id, size).await?;
    let sealing = repo.clone();
    let file = move || {
        let sealer = sealing.sealer();
        let bytes = Filed::encode(sealer, &id, size, &segment, segment.records.len())?;
        let filed = Filed::open(sealer, &id, size, spool(&sealing, bytes));
        let bad = |bad: BadFile| damaged(format!("a copy of index segment {id}: {}", bad.why()));
        filed.map_err(bad)
    };
    let (filed, _) = repo.resources().run(file).await?;
    *on_disk.file.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(filed);
    Ok(())
}

/// Puts everything together.
fn finish(loaded: Loaded, recovered: Recovered) -> Result<Index> {
    let Loaded {
        begun,
        table,
        unread,
        mut parts,
    } = loaded;
    let mut index = Index {
        unread: unread.into_iter().map(|(id, _, why)| (id, why)).collect(),
        in_part: recovered.in_part,
        ..Index::default()
    };
    let mut numbering = Numbering::default();
    let mut resident = Vec::new();
    for begun in begun {
        let Some(part) = parts.remove(&begun.id) else {
            continue;
        };
        let from = StoredFile::Index.path(&begun.id);
        let of = begun.packs.iter();
        let packs: Result<Arc<[u32]>> = of
            .map(|number| numbering.number(&table.packs[*number as usize], &from))
            .collect();
        let packs = packs?;
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
            Part::Records(records) => resident.extend(records.into_iter().filter_map(|record| {
                let pack = *packs.get(record.pack as usize)?;
                Some(Record { pack, ..record })
            })),
            Part::Filed(filed) => index.on_disk.push(OnDisk {
                live,
                packs,
                first,
                last,
                file: Arc::new(filed).into(),
                repairing: tokio::sync::Mutex::default(),
            }),
        }
    }
    for record in recovered.records {
        let pack = &table.packs[record.pack as usize];
        let pack = numbering.number(pack, "what was recovered")?;
        index.recovered.push(Record { pack, ..record });
    }
    index.recovered.sort_unstable_by_key(Record::order);
    index.recovered.dedup_by_key(|record| record.order());
    resident.extend(&index.recovered);
    index.packs = numbering.packs;
    index.resident = Resident::new(resident)?;
    let on_disk = index.on_disk.iter().enumerate();
    let places: HashMap<IndexId, usize> = on_disk
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
    /// The number of a pack.
    fn number(&mut self, pack: &PackInfo, from: &str) -> Result<u32> {
        let next = to_u32(self.packs.len(), "a number of packs")?;
        let number = *self.known.entry(pack.id).or_insert(next);
        let Some(known) = self.packs.get(number as usize) else {
            self.packs.push(*pack);
            return Ok(number);
        };
        let described = |pack: &PackInfo| (pack.size, pack.kind, pack.blobs);
        if described(known) == described(pack) {
            return Ok(number);
        }
        Err(damaged(format!(
            "{from} describes pack {} in another way than an earlier segment",
            pack.id
        )))
    }
}

#[cfg(test)]
mod tests {
    use super::super::filed::Body;
    use super::*;
    use crate::repo::format::blob::{BlobKind, Codec, PackKind};
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
        let (mut begun, mut parts, mut table) = (Vec::new(), HashMap::new(), Table::default());
        for (place, (id, segment)) in segments.iter().enumerate() {
            begun.push(Begun {
                id: *id,
                size: 1,
                packs: table.number(&segment.packs)?,
                supersedes: segment.supersedes.clone(),
                records: segment.records.len(),
                read: Read::End,
            });
            if superseded.contains(id) {
                continue;
            }
            let mut segment = segment.clone();
            segment.records.sort_unstable_by_key(Record::order);
            let part = if place.is_multiple_of(2) == even {
                Part::Records(segment.records)
            } else {
                let count = segment.records.len();
                let bytes = Filed::encode(&sealer, id, 1, &segment, count)?;
                Part::Filed(Filed::open(&sealer, id, 1, Body::Memory(bytes)).unwrap().0)
            };
            parts.insert(*id, part);
        }
        let loaded = Loaded {
            begun,
            table,
            unread: vec![],
            parts,
        };
        finish(loaded, Recovered::default())
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
        let bytes = Filed::encode(&sealer, &id, size, &segment, 70).unwrap();
        let read = |id: &IndexId, size: u64, bytes: Vec<u8>| {
            let (filed, summary) = Filed::open(&sealer, id, size, Body::Memory(bytes))?;
            let read = Segment {
                packs: summary.packs,
                supersedes: summary.supersedes,
                records: filed.all()?,
            };
            Ok::<_, BadFile>(read)
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
