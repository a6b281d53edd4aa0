//! Sweeping: removing the packs of marks that are due, once it is proved that nobody needs them there.

use std::collections::{BTreeSet, HashSet};

use jiff::SignedDuration;

use super::marking::{needed_records, portions};
use super::needed::Needed;
use super::situation::Situation;
use super::{Pruning, pack_path};
use crate::repo::format::files::StoredFile;
use crate::repo::format::ids::{BlobId, MarkId, PackId};
use crate::repo::format::mark::Mark;
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
        let (mut of_due, mut proved) = (BTreeSet::new(), HashSet::new());
        for mark in &marks {
            let there = mark.packs.iter();
            let there = there.filter(|id| situation.packs.contains_key(id));
            let there: Vec<PackId> = there.copied().collect();
            let of_mark = self
                .proved(situation, needed, mark, &there, &all_marked)
                .await?;
            if due.contains(&mark.id) {
                of_due.extend(there);
                goes.extend(&of_mark);
            }
            proved.extend(of_mark);
        }
        // A mark that proves it may be due later.
        let again = of_due.into_iter().filter(|id| !proved.contains(id));
        let again: Vec<PackId> = again.collect();
        if self.options.dry_run {
            for id in &goes {
                let size = situation.packs.remove(id).map_or(0, |pack| pack.size);
                self.report.removed.add(size);
            }
            return Ok(again);
        }
        self.remove(situation, needed, &goes).await?;
        Ok(again)
    }

    /// The marks that are due: the grace is over, and every session at work heeds them.
    fn due(&mut self, situation: &Situation) -> HashSet<MarkId> {
        let grace = SignedDuration::try_from(self.options.grace).unwrap_or(SignedDuration::MAX);
        let mut due = HashSet::new();
        let mut waits_for = BTreeSet::new();
        for mark in &situation.view.marks().known {
            let there = mark.packs.iter();
            if !there.clone().any(|id| situation.packs.contains_key(id)) {
                continue;
            }
            let made = situation.marked.get(&mark.id);
            let made = made.copied().unwrap_or(mark.created);
            let over = situation.now.duration_since(made) >= grace;
            let mut others = situation
                .alive()
                .filter(|session| !session.heeds(&mark.id))
                .peekable();
            match (over, others.peek()) {
                (true, None) => {
                    due.insert(mark.id);
                }
                (true, Some(_)) => waits_for.extend(others.map(Seen::whose)),
                (false, _) => {
                    let at = made.checked_add(grace).ok();
                    self.report.due = match (self.report.due, at) {
                        (Some(first), Some(at)) => Some(first.min(at)),
                        (first, at) => first.or(at),
                    };
                }
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
                if !elsewhere {
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
        let (view, repo) = (situation.view.clone(), self.repo());
        let gone = self.gone(situation, needed).await?;
        let index = view.index();
        let numbers = (0..).zip(index.packs());
        let numbers =
            numbers.filter(|(_, pack)| goes.contains(&pack.id) || gone.contains(&pack.id));
        let numbers: HashSet<u32> = numbers.map(|(number, _)| number).collect();
        if !numbers.is_empty() {
            self.writer.check_lease()?;
            rewrite(repo, index, &numbers, |record| {
                numbers.contains(&record.pack)
            })
            .await?;
            repo.store().sync().await?;
        }
        for id in goes {
            let Some(path) = pack_path(situation, *id) else {
                continue;
            };
            self.writer.check_lease()?;
            let removed = remove_for_good(repo.store(), &Key::new(path.as_str())?).await;
            let size = situation.packs.get(id).map_or(0, |pack| pack.size);
            match removed {
                Ok(()) => {
                    situation.packs.remove(id);
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
        let missing = packs.filter(|pack| !situation.packs.contains_key(&pack.id));
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

    /// Removes what is left of marks, leases and manifests that nobody needs any more.
    pub(super) async fn clean(&mut self, situation: &Situation) -> Result<()> {
        self.remove_manifests(situation).await?;
        self.remove_marks(situation).await?;
        self.remove_readers(situation).await
    }

    /// Removes the manifests of forgotten snapshots, and those that are no snapshots, once every session at work
    /// began after they were written down as such.
    async fn remove_manifests(&mut self, situation: &Situation) -> Result<()> {
        let repo = self.repo();
        let read = situation.read_by_sessions();
        let records = repo.list(StoredFile::Forgotten.row().directory).await?;
        let last = records.iter().map(|meta| meta.modified);
        let last = last.max().flatten();
        let grace = SignedDuration::try_from(self.options.grace).unwrap_or(SignedDuration::MAX);
        let grace_over = last.is_none_or(|last| situation.now.duration_since(last) >= grace);
        let nobody_at_work = situation.alive().next().is_none();
        if !grace_over || !(nobody_at_work || situation.all_began_after(last)) {
            return Ok(());
        }
        let forgotten = situation.forgotten().iter();
        let forgotten = forgotten.filter(|manifest| !(self.options.keeps)(manifest));
        let void = situation.snapshots.void.iter().copied();
        let all: Vec<_> = forgotten.map(|m| m.snapshot).chain(void).collect();
        for id in all {
            if read.contains(&id) {
                continue;
            }
            let path = StoredFile::Manifest.path(&id);
            match remove_for_good(repo.store(), &Key::new(path)?).await {
                Ok(()) => self.report.manifests_removed.push(id),
                Err(error) if error.cause() == Cause::AccessDenied => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// Removes marks whose packs are gone, unless a session that one takes for dead is named nowhere else.
    async fn remove_marks(&self, situation: &Situation) -> Result<()> {
        let repo = self.repo();
        let leases: HashSet<_> = situation.sessions.iter().map(|s| s.session).collect();
        let snapshots = situation.snapshots.manifests.iter();
        let named: HashSet<_> = snapshots.flat_map(|m| m.dead.keys()).collect();
        for mark in &situation.view.marks().known {
            let packs_gone = mark.packs.iter();
            let packs_gone = packs_gone
                .clone()
                .all(|id| !situation.packs.contains_key(id));
            let dead_known = mark.dead.keys();
            let dead_known = dead_known
                .clone()
                .all(|id| named.contains(id) || !leases.contains(id));
            if packs_gone && dead_known {
                let key = Key::new(StoredFile::Mark.path(&mark.id))?;
                remove_for_good(repo.store(), &key).await?;
            }
        }
        Ok(())
    }

    /// Removes the leases of readers that have died: nothing of them can come late.
    async fn remove_readers(&self, situation: &Situation) -> Result<()> {
        let dead = situation.sessions.iter();
        for seen in dead.filter(|seen| seen.dead && !seen.may_write()) {
            let key = Key::new(StoredFile::Lease.path(&seen.session))?;
            remove_for_good(self.repo().store(), &key).await?;
        }
        Ok(())
    }
}

/// Removes a file and, where the store keeps versions, what it keeps of it.
///
/// # Errors
///
/// [`Cause::AccessDenied`] where it is locked; what else the store fails with.
async fn remove_for_good(store: &crate::store::SharedStore, key: &Key) -> Result<()> {
    if !store.capabilities().versions {
        return store.delete(key, None).await;
    }
    match store.head(key).await {
        Ok(meta) => store.delete(key, meta.version.as_deref()).await,
        Err(error) if error.cause() == Cause::NotFound => Ok(()),
        Err(error) => Err(error),
    }
}
