//! Sweeping: removing the packs of marks that are due, once it is proved that nobody needs them there.

use std::collections::{BTreeSet, HashSet};

use super::Pruning;
use super::clean::remove_for_good;
use super::marking::{needed_records, portions};
use super::needed::Needed;
use super::situation::{Pack, Situation};
use crate::repo::format::files::StoredFile;
use crate::repo::format::ids::{BlobId, MarkId, PackId};
use crate::repo::format::mark::Mark;
use crate::repo::format::segment::Record;
use crate::repo::repository::Rule;
use crate::repo::session::index::rewrite::rewrite;
use crate::repo::session::lease::Seen;
use crate::store::Key;
use crate::{Cause, Result};

impl Pruning<'_> {
    /// Removes the packs of marks that are due. Returns packs that have to be marked again, as something is needed of
    /// them that their mark does not say is elsewhere.
    pub(super) async fn sweep(
        &mut self,
        situation: &mut Situation,
        needed: &Needed,
    ) -> Result<Vec<PackId>> {
        let due = self.due(situation);
        let all_marked = situation.view.marks().packs();
        let marks: Vec<Mark> = situation.view.marks().known.clone();
        let mut goes: BTreeSet<PackId> = BTreeSet::new();
        let mut again: BTreeSet<PackId> = BTreeSet::new();
        // Those that are due first. A pack that none of them proves may be proved by one that is due later.
        let (due, others): (Vec<Mark>, _) = marks.into_iter().partition(|m| due.contains(&m.id));
        for mark in due {
            let there = mark.packs.iter();
            let there = there.filter(|id| situation.packs.contains_key(id));
            let there: Vec<PackId> = there.copied().collect();
            let proved = self.proved(situation, needed, &mark, &there, &all_marked);
            goes.extend(proved.await?);
            again.extend(there);
        }
        again.retain(|id| !goes.contains(id));
        for mark in others {
            let unproved = mark.packs.iter().filter(|id| again.contains(id));
            let unproved: Vec<PackId> = unproved.copied().collect();
            if !unproved.is_empty() {
                let proved = self.proved(situation, needed, &mark, &unproved, &all_marked);
                let proved = proved.await?;
                again.retain(|id| !proved.contains(id));
            }
        }
        let again: Vec<PackId> = again.into_iter().collect();
        if self.options.dry_run {
            for id in &goes {
                let size = situation.packs.get(id).map_or(0, |pack| pack.size);
                situation.removed(id);
                self.report.removed.add(size);
            }
            return Ok(again);
        }
        self.remove(situation, needed, &goes).await?;
        Ok(again)
    }

    /// The marks that are due: the grace is over, and every session at work heeds them.
    fn due(&mut self, situation: &Situation) -> HashSet<MarkId> {
        let mut due = HashSet::new();
        let mut waits_for = BTreeSet::new();
        for mark in &situation.view.marks().known {
            let there = mark.packs.iter();
            if !there.clone().any(|id| situation.packs.contains_key(id)) {
                continue;
            }
            let made = situation.marked.get(&mark.id);
            let made = made.copied().unwrap_or(mark.created);
            let over = situation.now.duration_since(made) >= self.grace();
            let mut others = situation
                .alive()
                .filter(|session| !session.heeds(&mark.id) && self.repo().keeps(Rule::Waiting))
                .peekable();
            match (over, others.peek()) {
                (true, None) => {
                    due.insert(mark.id);
                }
                (true, Some(_)) => waits_for.extend(others.map(Seen::whose)),
                (false, _) => self.note_due(made),
            }
        }
        self.report.waits_for = waits_for.into_iter().collect();
        due
    }

    /// Those of a mark's packs of which it is proved that they may go: all that is needed of them is where the mark
    /// says, in packs that are there and that no mark is of. Whoever heeds the mark reads it there.
    async fn proved(
        &self,
        situation: &Situation,
        needed: &Needed,
        mark: &Mark,
        packs: &[PackId],
        all_marked: &HashSet<PackId>,
    ) -> Result<HashSet<PackId>> {
        let view = &situation.view;
        let mut proved: HashSet<PackId> = packs.iter().copied().collect();
        // A pack that the index does not name may have been named since it was marked.
        let begun: HashSet<PackId> = situation.unindexed().into_iter().collect();
        let indexed: HashSet<PackId> = view.index().packs().iter().map(|p| p.id).collect();
        proved.retain(|id| indexed.contains(id) || begun.contains(id));
        for portion in portions(view, packs) {
            for (pack, records) in needed_records(view, needed, &portion).await? {
                let ids: Vec<BlobId> = records.iter().map(|record| record.entry.id).collect();
                let places = view.look_up(ids.clone()).await?;
                let elsewhere = ids.iter().zip(places).all(|(id, places)| {
                    mark.moved.get(id).is_some_and(|to| {
                        !all_marked.contains(to)
                            && places.iter().any(|place| {
                                let of = view.index().pack(place.pack);
                                of.id == *to && situation.has(of) && !view.is_bad(place)
                            })
                    })
                });
                if !elsewhere && self.repo().keeps(Rule::Proof) {
                    proved.remove(&pack.id);
                }
            }
        }
        Ok(proved)
    }

    /// Removes packs, from the index first: nobody who comes later looks for anything in them.
    async fn remove(
        &mut self,
        situation: &mut Situation,
        needed: &Needed,
        goes: &BTreeSet<PackId>,
    ) -> Result<()> {
        let repo = self.repo();
        let mut packs = self.gone(situation, needed).await?;
        packs.extend(goes);
        if !packs.is_empty() {
            self.writer.check_lease()?;
            // Writers merge segments meanwhile.
            let view = repo.view().await?;
            let numbers = (0..).zip(view.index().packs());
            let numbers = numbers.filter(|(_, pack)| packs.contains(&pack.id));
            let numbers: HashSet<u32> = numbers.map(|(number, _)| number).collect();
            let goes = |record: &Record| numbers.contains(&record.pack);
            rewrite(repo, view.index(), &numbers, goes).await?;
            repo.store().sync().await?;
        }
        for id in goes {
            let Some(Pack { kind, size, .. }) = situation.packs.get(id).copied() else {
                continue;
            };
            let path = StoredFile::packs(kind).path(id);
            self.writer.check_lease()?;
            let removed = remove_for_good(repo.store(), &Key::new(path.as_str())?).await;
            match removed {
                Ok(()) => {
                    situation.removed(id);
                    self.report.removed.add(size);
                }
                Err(error) if error.cause() == Cause::AccessDenied => {
                    tracing::debug!("{path} stays: {}", error.chain());
                    self.report.locked.add(size);
                }
                Err(error) => return Err(error.context(format!("remove {path}"))),
            }
        }
        Ok(())
    }

    /// Packs that the index names, that the store does not have, and that no needed blob lacks.
    async fn gone(&self, situation: &Situation, needed: &Needed) -> Result<HashSet<PackId>> {
        let view = &situation.view;
        let packs = view.index().packs().iter();
        let missing = packs.filter(|pack| situation.lacks(&pack.id));
        let missing: Vec<PackId> = missing.map(|pack| pack.id).collect();
        let mut gone: HashSet<PackId> = missing.iter().copied().collect();
        for portion in portions(view, &missing) {
            for (pack, records) in needed_records(view, needed, &portion).await? {
                let ids = records.iter().map(|record| record.entry.id).collect();
                let there = view.look_up(ids).await?.into_iter().all(|places| {
                    let mut places = places.iter();
                    places.any(|place| situation.has(view.index().pack(place.pack)))
                });
                if !there {
                    gone.remove(&pack.id);
                }
            }
        }
        Ok(gone)
    }
}
