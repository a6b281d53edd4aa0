//! Finding what index segments had that cannot be read.
//!
//! Their records are looked for where they may be: in local files of these segments, in segments that were
//! superseded, and last in the packs' own directories. Only records are taken that no segment has which counts.

use std::collections::{HashMap, HashSet};

use futures::StreamExt;

use super::filed::Cache;
use super::read::{Loaded, Part, fetch};
use crate::repo::format::blob::PackKind;
use crate::repo::format::files::StoredFile;
use crate::repo::format::ids::PackId;
use crate::repo::format::pack::{DirectoryPlace, TRAILER, pack_key};
use crate::repo::format::segment::{PackInfo, Record, Segment};
use crate::repo::format::wire::to_u32;
use crate::repo::repository::Repository;
use crate::{Cause, Result};

/// How many directories of packs are read at once: each is 4 MiB at most.
const DIRECTORIES_AT_ONCE: usize = 16;

/// What was found.
#[derive(Debug, Default)]
pub(super) struct Recovered {
    /// With the numbers of their packs in the table.
    pub(super) records: Vec<Record>,
    /// Not every pack could be read that may have what segments lack.
    pub(super) in_part: bool,
}

/// Which places of packs are known, eight bytes for each.
#[derive(Debug, Default)]
struct Known {
    /// Ascending: the number of the pack in the table, and the position in it.
    places: Vec<(u32, u32)>,
}

impl Known {
    fn add(&mut self, places: Vec<(u32, u32)>) {
        self.places.extend(places);
        self.places.sort_unstable();
        self.places.dedup();
    }

    fn has(&self, pack: u32, position: u32) -> bool {
        self.places.binary_search(&(pack, position)).is_ok()
    }

    /// The packs of which every blob is known.
    fn whole(&self, packs: &[PackInfo]) -> HashSet<PackId> {
        let of_one = self.places.chunk_by(|a, b| a.0 == b.0);
        let whole = of_one.filter_map(|places| {
            let pack = packs.get(places.first()?.0 as usize)?;
            (places.len() >= pack.blobs as usize).then_some(pack.id)
        });
        whole.collect()
    }
}

/// Finds what the unread segments had, from local files where `cache` is given.
///
/// # Errors
///
/// What the store fails with.
pub(super) async fn recover(
    repo: &Repository,
    cache: Option<&Cache>,
    loaded: Loaded,
) -> Result<(Loaded, Recovered)> {
    let read = move || {
        let mut known = Known::default();
        for begun in &loaded.begun {
            let number = |record: &Record| {
                let pack = *begun.packs.get(record.pack as usize)?;
                Some((pack, record.entry.position))
            };
            match loaded.parts.get(&begun.id) {
                Some(Part::Records(records)) => {
                    known.places.extend(records.iter().filter_map(number));
                }
                Some(Part::Filed(filed)) => {
                    for chunk in 0..filed.chunks() {
                        // What is not read here is found elsewhere, twice.
                        let records = filed.chunk(chunk).unwrap_or_default();
                        known.places.extend(records.iter().filter_map(number));
                    }
                }
                None => {}
            }
        }
        known.add(vec![]);
        Ok((loaded, known))
    };
    let (mut loaded, mut known) = repo.resources().run(read).await?;
    let mut recovered = Recovered::default();
    let mut copied = 0;
    for (id, size, _) in loaded.unread.clone() {
        let Some(cache) = cache.cloned() else { break };
        let opener = repo.clone();
        let copy = move || Ok(cache.segment(opener.sealer(), &id, size));
        if let Some(segment) = repo.resources().run(copy).await? {
            tracing::info!("this host has a copy of index segment {id}");
            copied += 1;
            let new = take(&mut loaded, &known, &mut recovered, &segment, |_| true)?;
            known.add(new);
        }
    }
    for (id, _, why) in &loaded.unread {
        if repo.first_told(id.to_string()) {
            tracing::warn!("what an index segment had is looked for elsewhere: {why}");
        }
    }
    if copied == loaded.unread.len() {
        return Ok((loaded, recovered));
    }
    // Only of packs that are there: a segment that was superseded may name others.
    let mut there: HashMap<PackId, (PackKind, u64)> = HashMap::new();
    for kind in [PackKind::Data, PackKind::Tree] {
        let packs = StoredFile::packs(kind);
        for meta in repo.list(packs.row().directory).await? {
            if let Some(Ok(id)) = packs.id(meta.key.as_str()).map(str::parse) {
                there.insert(id, (kind, meta.size));
            }
        }
    }
    let whole = known.whole(&loaded.table.packs);
    there.retain(|id, _| !whole.contains(id));
    from_superseded(repo, &mut loaded, &mut known, &mut recovered, &there).await?;
    let whole = known.whole(&loaded.table.packs);
    there.retain(|id, _| !whole.contains(id));
    let mut read = futures::stream::iter(there)
        .map(|(id, (kind, size))| async move { (id, directory(repo, kind, id, size).await) })
        .buffered(DIRECTORIES_AT_ONCE);
    while let Some((id, segment)) = read.next().await {
        match segment {
            Ok(segment) => {
                take(&mut loaded, &known, &mut recovered, &segment, |_| true)?;
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
    drop(read);
    Ok((loaded, recovered))
}

/// Takes records of these packs from segments that others supersede: their directories may be archived or damaged.
async fn from_superseded(
    repo: &Repository,
    loaded: &mut Loaded,
    known: &mut Known,
    recovered: &mut Recovered,
    there: &HashMap<PackId, (PackKind, u64)>,
) -> Result<()> {
    let wanted = |pack: &PackInfo| there.get(&pack.id) == Some(&(pack.kind, pack.size));
    let superseded = loaded.begun.iter().filter(|begun| {
        let mut packs = begun.packs.iter();
        !loaded.parts.contains_key(&begun.id)
            && packs.any(|number| wanted(&loaded.table.packs[*number as usize]))
    });
    let superseded: Vec<_> = superseded.map(|begun| (begun.id, begun.size)).collect();
    for (id, size) in superseded {
        match fetch(repo, id, size).await {
            Ok(segment) => {
                let new = take(loaded, known, recovered, &segment, wanted)?;
                known.add(new);
            }
            Err(error) if error.retryable() => return Err(error),
            Err(error) => tracing::debug!("{}", error.chain()),
        }
    }
    Ok(())
}

/// Takes the records of a segment that are not known yet, of the packs that are wanted. Returns their places.
fn take(
    loaded: &mut Loaded,
    known: &Known,
    recovered: &mut Recovered,
    segment: &Segment,
    wanted: impl Fn(&PackInfo) -> bool,
) -> Result<Vec<(u32, u32)>> {
    // A directory does not know the hash of its pack; the table does, where a segment says it.
    let numbers = loaded.table.number(&segment.packs)?;
    let mut new = Vec::new();
    for record in &segment.records {
        let place = record.pack as usize;
        let (Some(number), Some(pack)) = (numbers.get(place), segment.packs.get(place)) else {
            continue;
        };
        if wanted(pack) && !known.has(*number, record.entry.position) {
            new.push((*number, record.entry.position));
            recovered.records.push(Record {
                pack: *number,
                ..*record
            });
        }
    }
    Ok(new)
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
