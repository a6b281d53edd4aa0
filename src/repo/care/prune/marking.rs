//! Marking packs: what is needed of them is stored elsewhere first.

use std::collections::{BTreeMap, HashMap, HashSet};

use super::Pruning;
use super::needed::Needed;
use super::situation::{self, Situation};
use crate::repo::format::files::StoredFile;
use crate::repo::format::ids::{BlobId, MarkId, PackId};
use crate::repo::format::lineage::Dead;
use crate::repo::format::mark::Mark;
use crate::repo::format::sealed::FileKind;
use crate::repo::format::segment::{PackInfo, Record};
use crate::repo::session::view::View;
use crate::{Cause, Result};

/// How many moved blobs a mark names at most: about 9 MiB of JSON, before it is compressed.
const MOVED_IN_A_MARK: usize = 1 << 16;
/// How many packs a mark names at most.
const PACKS_IN_A_MARK: usize = 1 << 16;

/// Where the needed blobs of packs that go are elsewhere.
type Moved = BTreeMap<BlobId, PackId>;

impl Pruning<'_> {
    /// Marks packs that go, and once more those that are marked `again`. What is needed of them, and has no place
    /// in a pack that stays, is stored again first; a pack of which that fails, as it is damaged, stays.
    pub(super) async fn mark(
        &mut self,
        situation: &Situation,
        needed: &Needed,
        going: Vec<PackId>,
        again: Vec<PackId>,
    ) -> Result<()> {
        if going.is_empty() && again.is_empty() {
            return Ok(());
        }
        let mut leaving: HashSet<PackId> = situation.view.marks().packs();
        leaving.extend(&going);
        let all: Vec<PackId> = going.iter().chain(&again).copied().collect();
        let stored_again = self.store_needed(situation, needed, &all, &leaving).await?;
        self.writer.flush().await?;
        self.writer.check_lease()?;
        // The new places, and the packs that they are in.
        let (view, packs) = if stored_again {
            let packs = situation::packs(self.repo()).await?;
            (self.repo().view().await?, packs)
        } else {
            (situation.view.clone(), situation.packs.clone())
        };
        let stays = |pack: &PackInfo| {
            let there = packs.get(&pack.id).is_some_and(|p| p.size == pack.size);
            there && !leaving.contains(&pack.id)
        };
        let mut moved = self.moved(&view, needed, &all, stays).await?;
        let new: HashSet<PackId> = going.iter().copied().collect();
        let mut batch: (Vec<PackId>, Moved) = Default::default();
        for id in all {
            let Some(moved) = moved.remove(&id).unwrap_or(Some(Moved::new())) else {
                if !packs.get(&id).is_some_and(|pack| pack.archived) {
                    self.report.damaged.push(id);
                }
                continue;
            };
            let full = batch.1.len() + moved.len() > MOVED_IN_A_MARK;
            if (full && !batch.0.is_empty()) || batch.0.len() == PACKS_IN_A_MARK {
                let (packs, moved) = std::mem::take(&mut batch);
                self.write_mark(packs, moved, Dead::new()).await?;
            }
            batch.0.push(id);
            batch.1.extend(moved);
            if new.contains(&id)
                && let Some(pack) = packs.get(&id)
            {
                self.report.newly_marked.add(pack.size);
            }
        }
        if !batch.0.is_empty() {
            let (packs, moved) = batch;
            self.write_mark(packs, moved, Dead::new()).await?;
        }
        Ok(())
    }

    /// Stores again what is needed of these packs and has no place in a pack that is not `leaving`. Returns whether
    /// anything was.
    async fn store_needed(
        &mut self,
        situation: &Situation,
        needed: &Needed,
        packs: &[PackId],
        leaving: &HashSet<PackId>,
    ) -> Result<bool> {
        let view = &situation.view;
        let mut done: HashSet<BlobId> = HashSet::new();
        let mut any = false;
        let stays = |place: &Record| {
            let pack = view.index().pack(place.pack);
            situation.has(pack) && !leaving.contains(&pack.id) && !view.is_bad(place)
        };
        for portion in portions(view, packs) {
            for (pack, records) in needed_records(view, needed, &portion).await? {
                let ids = records.iter().map(|record| record.entry.id).collect();
                let places = view.look_up(ids).await?;
                let lacking = records.iter().zip(places).filter(|(record, places)| {
                    !done.contains(&record.entry.id) && !places.iter().any(stays)
                });
                let lacking: Vec<Record> = lacking.map(|(record, _)| *record).collect();
                if lacking.is_empty() {
                    continue;
                }
                // It stays, and need not be brought back for this.
                if situation.packs.get(&pack.id).is_some_and(|p| p.archived) {
                    continue;
                }
                self.writer.check_lease()?;
                match self.writer.store_again(&pack, &lacking).await {
                    Ok(()) => {
                        any = true;
                        done.extend(lacking.iter().map(|record| record.entry.id));
                        let bytes = lacking.iter().map(|r| u64::from(r.entry.stored)).sum();
                        self.report.repacked.add(bytes);
                    }
                    Err(error) if error.cause() == Cause::Damage => {
                        tracing::warn!("what is needed of a pack stays in it: {}", error.chain());
                    }
                    Err(error) => return Err(error),
                }
            }
        }
        Ok(any)
    }

    /// For each needed blob of these packs a pack that stays; `None` for a pack of which one has none.
    async fn moved(
        &self,
        view: &View,
        needed: &Needed,
        packs: &[PackId],
        stays: impl Fn(&PackInfo) -> bool,
    ) -> Result<HashMap<PackId, Option<Moved>>> {
        let mut all: HashMap<PackId, Option<Moved>> = HashMap::new();
        for portion in portions(view, packs) {
            for (pack, records) in needed_records(view, needed, &portion).await? {
                let ids: Vec<BlobId> = records.iter().map(|record| record.entry.id).collect();
                let places = view.look_up(ids.clone()).await?;
                let of_pack = all.entry(pack.id).or_insert(Some(Moved::new()));
                for (id, places) in ids.into_iter().zip(places) {
                    let place = places
                        .iter()
                        .find(|place| stays(view.index().pack(place.pack)) && !view.is_bad(place));
                    match (place, &mut *of_pack) {
                        (Some(place), Some(moved)) => {
                            moved.insert(id, view.index().pack(place.pack).id);
                        }
                        (None, _) => *of_pack = None,
                        (_, None) => {}
                    }
                }
            }
        }
        Ok(all)
    }

    /// Writes a mark.
    pub(super) async fn write_mark(
        &self,
        packs: Vec<PackId>,
        moved: impl IntoIterator<Item = (BlobId, PackId)>,
        dead: Dead,
    ) -> Result<()> {
        self.writer.check_lease()?;
        let repo = self.repo();
        let mark = Mark {
            id: MarkId(repo.env().id()),
            created: repo.env().now(),
            packs,
            moved: moved.into_iter().collect(),
            dead,
        };
        let path = StoredFile::Mark.path(&mark.id);
        let bytes = repo.sealer().seal_json(FileKind::Mark, &path, &mark)?;
        repo.put_once(&path, bytes).await
    }
}

/// The numbers of these packs in the index, in portions of which all records fit into memory.
pub(super) fn portions(view: &View, packs: &[PackId]) -> Vec<Vec<u32>> {
    let packs: HashSet<&PackId> = packs.iter().collect();
    let numbers = (0..).zip(view.index().packs());
    let numbers = numbers.filter(|(_, pack)| packs.contains(&pack.id));
    view.portions(numbers.map(|(number, _)| number))
}

/// The records of what is needed of the packs with these numbers, and the packs as the index describes them: one
/// comes several times where segments contradict each other.
pub(super) async fn needed_records(
    view: &View,
    needed: &Needed,
    numbers: &[u32],
) -> Result<Vec<(PackInfo, Vec<Record>)>> {
    let mut records: HashMap<u32, Vec<Record>> = view.records_of(numbers).await?;
    let of = |number: &u32| {
        let mut records = records.remove(number).unwrap_or_default();
        records.retain(|record| needed.has(&record.entry.id));
        (*view.index().pack(*number), records)
    };
    Ok(numbers.iter().map(of).collect())
}
