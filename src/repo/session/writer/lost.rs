//! Packs that the index names and the store has lost, and blobs that are known to be damaged.
//!
//! They count as absent, so they are read and stored again, and the index is written anew without the
//! records whose blobs have a place again. The others stay: they name what is lost, and are right once
//! more should the pack come back.

use std::collections::{BTreeSet, HashMap, HashSet};

use futures::StreamExt;
use futures::stream::BoxStream;
use tracing::{info, warn};

use super::Session;
use crate::Result;
use crate::repo::format::ids::{BlobId, IndexId, PackId};
use crate::repo::format::segment::{PackInfo, Record, SEGMENT_RECORDS};
use crate::repo::format::wire::damaged;
use crate::repo::session::index::rewrite::{rewrite, segment};
use crate::repo::session::unnamed::write_segment;
use crate::repo::session::verified::Verification;
use crate::repo::session::view::View;

/// How many packs are read at once; the byte budget bounds them too.
const PACKS_AT_ONCE: usize = 4;
/// Lost packs that are named in the log.
const NAMED: usize = 5;

/// The numbers of packs in the index of a session that are lost: gone, cut short, or damaged as a whole.
#[derive(Debug, Default)]
pub(super) struct Lost(HashSet<u32>);

impl Lost {
    /// Compares the index with what the store lists. Packs are there before the index names them,
    /// and the index was read before.
    pub(super) async fn find(view: &View, verifications: &[Verification]) -> Result<Self> {
        let listing = view.listing().await?;
        let damaged = damaged_packs(view, verifications).await?;
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
async fn damaged_packs(view: &View, verifications: &[Verification]) -> Result<HashSet<PackId>> {
    let (repo, index) = (view.repo(), view.index());
    let places = verifications.iter().flat_map(|v| &v.places);
    let mut suspects: HashSet<PackId> = HashSet::new();
    let mut blobs: BTreeSet<(PackId, BlobId)> = BTreeSet::new();
    for place in places {
        match place.blob {
            Some(blob) => {
                blobs.insert((place.pack, blob));
            }
            None => {
                suspects.insert(place.pack);
            }
        }
    }
    let ids = blobs.iter().map(|(_, blob)| *blob).collect();
    for ((pack, blob), records) in blobs.iter().zip(view.look_up(ids).await?) {
        let mut records = records.iter();
        if records.any(|record| index.pack(record.pack).id == *pack) {
            repo.note_bad(*pack, *blob);
        }
    }
    let packs = index.packs().iter().filter(|p| suspects.contains(&p.id));
    let mut damaged = HashSet::new();
    let mut read = hashes_of(view, packs.copied().collect());
    while let Some((pack, hash)) = read.next().await {
        let whole = match hash {
            Ok(hash) => hash.is_some_and(|hash| !pack.hash_known() || hash == pack.hash),
            Err(error) if error.retryable() => return Err(error),
            // It is archived, say: whether it is whole is not known.
            Err(_) => true,
        };
        if !whole {
            damaged.insert(pack.id);
        }
    }
    drop(read);
    Ok(damaged)
}

/// The hashes of packs as they are, a few read at once; `None` for those that are gone or have another size.
fn hashes_of(
    view: &View,
    packs: Vec<PackInfo>,
) -> BoxStream<'_, (PackInfo, Result<Option<[u8; 32]>>)> {
    futures::stream::iter(packs)
        .map(move |pack| async move { (pack, view.hash_of(&pack).await) })
        .buffer_unordered(PACKS_AT_ONCE)
        .boxed()
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
        let numbers = index.recovered().iter().map(|record| record.pack);
        let numbers: HashMap<PackId, u32> = numbers
            .map(|number| (index.pack(number).id, number))
            .collect();
        let packs = numbers.values().map(|number| *index.pack(*number));
        let (known, unknown): (Vec<_>, Vec<_>) = packs.partition(PackInfo::hash_known);
        hashes.extend(known.iter().map(|pack| (numbers[&pack.id], pack.hash)));
        let mut read = hashes_of(&self.view, unknown);
        while let Some((pack, hash)) = read.next().await {
            match hash {
                Ok(Some(hash)) => {
                    hashes.insert(numbers[&pack.id], hash);
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
        drop(read);
        let records = index.recovered().iter();
        let known = records.filter(|record| hashes.contains_key(&record.pack));
        let mut known: Vec<Record> = known.copied().collect();
        let again = self.again(&known).await?;
        known.retain(|record| !again.contains(&record.order()));
        // While a pack is left that nothing else names, the segment stays that may have named it.
        let unread = index.unread().iter().filter(|_| all);
        let superseded = unread.map(|(id, _)| *id).collect();
        info!(
            packs = hashes.len(),
            "writing the index of packs whose segments cannot be read"
        );
        self.write_index(&known, superseded, &hashes).await
    }

    /// Writes those segments anew that have records of blobs which were stored again. Their new places are in
    /// segments that are written already.
    pub(super) async fn mend_index(&self) -> Result<()> {
        let (repo, index) = (self.view.repo(), self.view.index());
        let bad: HashSet<PackId> = repo.bad_packs();
        let concerned =
            |number: &u32| self.lost.0.contains(number) || bad.contains(&index.pack(*number).id);
        let packs: Vec<u32> = (0..).take(index.packs().len()).filter(concerned).collect();
        if packs.is_empty() {
            return Ok(());
        }
        // What cannot be stored again stays, and costs no more than this each time.
        let mut again = HashSet::new();
        for portion in self.view.portions(packs.into_iter()) {
            let records = self.view.records_of(&portion).await?;
            let records: Vec<Record> = records.into_values().flatten().collect();
            again.extend(self.again(&records).await?);
        }
        let packs: HashSet<u32> = again.iter().map(|(_, pack, _)| *pack).collect();
        rewrite(repo, index, &packs, |record| {
            again.contains(&record.order())
        })
        .await
    }

    /// Those of `records` whose blobs are lost or damaged there, and have another place.
    async fn again(&self, records: &[Record]) -> Result<HashSet<(BlobId, u32, u32)>> {
        // What is about to go with its pack stays named until then.
        let bad = |record: &&Record| self.lost.holds(record) || self.view.is_bad(record);
        let absent = records.iter().filter(bad);
        let absent: Vec<Record> = absent.copied().collect();
        let ids = absent.iter().map(|record| record.entry.id).collect();
        let places = self.view.look_up(ids).await?;
        let again = absent
            .iter()
            .zip(places)
            .filter(|(record, places)| self.stored(&record.entry.id) || self.is_in(places));
        Ok(again.map(|(record, _)| record.order()).collect())
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
