//! Packs that the index names and the store has lost, and blobs that are known to be damaged.
//!
//! They count as absent, so they are read and stored again, and the index is written anew without the
//! records whose blobs have a place again. The others stay: they name what is lost, and are right once
//! more should the pack come back.

use std::collections::{HashMap, HashSet};

use tracing::{info, warn};

use super::Session;
use crate::Result;
use crate::repo::format::ids::{IndexId, PackId};
use crate::repo::format::index::Index;
use crate::repo::format::index::segment::{PackInfo, Record, SEGMENT_RECORDS, Segment};
use crate::repo::format::wire::{damaged, to_u32};
use crate::repo::session::unnamed::write_segment;
use crate::repo::session::view::View;

/// Lost packs that are named in the log.
const NAMED: usize = 5;

/// The numbers of packs in the index of a session that are lost: gone, cut short, or damaged as a whole.
#[derive(Debug, Default)]
pub(super) struct Lost(HashSet<u32>);

impl Lost {
    /// Compares the index with what the store lists. Packs are there before the index names them,
    /// and the index was read before.
    pub(super) async fn find(view: &View) -> Result<Self> {
        let listing = view.listing().await?;
        let damaged = damaged_packs(view).await?;
        let packs = (0..).zip(view.index().packs());
        let lost: Vec<_> = packs
            .filter(|(_, pack)| {
                listing.sizes.get(&pack.id) != Some(&pack.size) || damaged.contains(&pack.id)
            })
            .collect();
        if !lost.is_empty() {
            let named: Vec<PackId> = lost.iter().map(|(_, p)| p.id).take(NAMED).collect();
            warn!(
                packs = lost.len(),
                ?named,
                "the repository has lost packs: what they held is read and stored again where the source still has it"
            );
        }
        Ok(Self(lost.into_iter().map(|(number, _)| number).collect()))
    }

    pub(super) fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether the blob of this record is lost.
    pub(super) fn holds(&self, record: &Record) -> bool {
        self.0.contains(&record.pack)
    }
}

/// Takes over where verifications found damage: the blobs are remembered as damaged. Returns the packs that
/// they found damaged as a whole and that still are.
async fn damaged_packs(view: &View) -> Result<HashSet<PackId>> {
    let (repo, index) = (view.repo(), view.index());
    let verifications = repo.verifications().await?;
    let places = verifications.into_iter().flat_map(|v| v.places);
    let mut suspects: HashSet<PackId> = HashSet::new();
    for place in places {
        match place.blob {
            Some(blob) => {
                let mut records = index.places(&blob).iter();
                if records.any(|record| index.pack(record.pack).id == place.pack) {
                    repo.note_bad(place.pack, blob);
                }
            }
            None => {
                suspects.insert(place.pack);
            }
        }
    }
    let mut damaged = HashSet::new();
    for pack in index.packs().iter().filter(|p| suspects.contains(&p.id)) {
        let whole = match view.hash_of(pack).await {
            Ok(hash) => hash.is_some_and(|hash| !pack.hash_known() || hash == pack.hash),
            Err(error) if error.retryable() => return Err(error),
            // It is archived, say: whether it is whole is not known.
            Err(_) => true,
        };
        if !whole {
            damaged.insert(pack.id);
        }
    }
    Ok(damaged)
}

impl Session {
    /// Writes segments for the packs that were read by their directories, in place of the segments that could
    /// not be read.
    pub(super) async fn replace_unread(&self) -> Result<()> {
        let index = self.view.index();
        if index.unread().is_empty() {
            return Ok(());
        }
        let mut hashes: HashMap<u32, [u8; 32]> = HashMap::new();
        let mut all = !index.is_recovered_in_part();
        for number in index.recovered() {
            let pack = index.pack(number);
            if pack.hash_known() {
                hashes.insert(number, pack.hash);
                continue;
            }
            match self.view.hash_of(pack).await {
                Ok(Some(hash)) => {
                    hashes.insert(number, hash);
                }
                // What this session did not store again as it was there.
                Ok(None) => {
                    let message = format!("pack {} has vanished during the session", pack.id);
                    return Err(damaged(message).with_hint("run it again"));
                }
                Err(error) if error.retryable() => return Err(error),
                Err(error) => {
                    warn!("pack {} cannot be named anew: {}", pack.id, error.chain());
                    all = false;
                }
            }
        }
        let stays = |record: &&Record| !self.is_absent(record) || !self.has(&record.entry.id);
        let records = index.records().iter();
        let known = records.filter(|record| hashes.contains_key(&record.pack));
        let known: Vec<Record> = known.filter(stays).copied().collect();
        // While a pack is left that nothing else names, the segment stays that may have named it.
        let unread = index.unread().iter().filter(|_| all);
        let superseded = unread.map(|(id, _)| *id).collect();
        info!(
            packs = hashes.len(),
            "writing the index of packs whose segments cannot be read"
        );
        self.write_index(&known, superseded, &hashes).await
    }

    /// Writes the index anew where blobs of lost packs were stored again. Their new places are in
    /// segments that are written already.
    pub(super) async fn mend_index(&self) -> Result<()> {
        let (repo, index) = (self.view.repo(), self.view.index());
        let again = |record: &Record| {
            let id = &record.entry.id;
            self.is_absent(record) && (self.stored(id) || self.has(id))
        };
        let any = self.lost.len() > 0 || repo.bad_places() > 0;
        if !any || !index.records().iter().any(again) {
            return Ok(());
        }
        let kept: Vec<Record> = index
            .records()
            .iter()
            // Those that were recovered have segments of their own by now.
            .filter(|r| !again(r) && !index.is_recovered(&index.pack(r.pack).id))
            .copied()
            .collect();
        self.write_index(&kept, index.segments().to_vec(), &HashMap::new())
            .await
    }

    /// Writes segments of these records, the last of which supersedes: until it is there, all that was there
    /// is. Packs have the hashes that are given rather than those of the index.
    async fn write_index(
        &self,
        records: &[Record],
        supersedes: Vec<IndexId>,
        hashes: &HashMap<u32, [u8; 32]>,
    ) -> Result<()> {
        let (repo, index) = (self.view.repo(), self.view.index());
        let mut chunks: Vec<&[Record]> = records.chunks(SEGMENT_RECORDS).collect();
        let last = chunks.pop().unwrap_or_default();
        for chunk in chunks {
            write_segment(repo, segment(index, chunk, vec![], hashes)?).await?;
        }
        write_segment(repo, segment(index, last, supersedes, hashes)?).await?;
        repo.store().sync().await
    }
}

/// A segment of some of an index's records.
fn segment(
    index: &Index,
    records: &[Record],
    supersedes: Vec<IndexId>,
    hashes: &HashMap<u32, [u8; 32]>,
) -> Result<Segment> {
    let mut segment = Segment {
        supersedes,
        ..Segment::default()
    };
    let mut numbers: HashMap<u32, u32> = HashMap::new();
    for record in records {
        let next = to_u32(segment.packs.len(), "a number of packs")?;
        let number = *numbers.entry(record.pack).or_insert(next);
        if number == next {
            let pack = *index.pack(record.pack);
            let hash = hashes.get(&record.pack).copied().unwrap_or(pack.hash);
            segment.packs.push(PackInfo { hash, ..pack });
        }
        segment.records.push(Record {
            pack: number,
            ..*record
        });
    }
    Ok(segment)
}
