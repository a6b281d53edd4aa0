//! Removing the small files that nobody needs any more.

use std::collections::{BTreeSet, HashMap, HashSet};

use jiff::Timestamp;

use super::Pruning;
use super::situation::Situation;
use crate::repo::format::files::StoredFile;
use crate::repo::format::forgotten::ForgottenFile;
use crate::repo::format::ids::{ForgottenId, IndexId, ManifestHash, SnapshotId};
use crate::repo::format::lineage::Dead;
use crate::repo::session::index::load::is_readable;
use crate::store::{Key, SharedStore};
use crate::{Cause, Result};

impl Pruning<'_> {
    /// Removes manifests, marks, leases, checkpoints and index segments that nobody needs any more. What the store does
    /// not let go stays.
    pub(super) async fn clean(&mut self, situation: &Situation) -> Result<()> {
        self.writer.check_lease()?;
        self.remove_manifests(situation).await?;
        self.remove_marks(situation).await?;
        self.remove_leases(situation).await?;
        self.remove_checkpoints(situation).await?;
        self.remove_segments(situation).await
    }

    /// Removes a file for good. Returns whether the store let it go.
    async fn remove_file(&self, path: String) -> Result<bool> {
        match remove_for_good(self.repo().store(), &Key::new(path)?).await {
            Ok(()) => Ok(true),
            Err(error) if error.cause() == Cause::AccessDenied => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Whether the grace is over since `then`, and every session at work began later.
    fn is_long_ago(&self, situation: &Situation, then: Option<Timestamp>) -> bool {
        let over = then.is_none_or(|then| situation.now.duration_since(then) >= self.grace());
        over && (situation.alive().next().is_none() || situation.all_began_after(then))
    }

    /// Removes the manifests of forgotten snapshots, and those that are no snapshots, once every session at work
    /// began after they had become so.
    async fn remove_manifests(&mut self, situation: &Situation) -> Result<()> {
        let read = situation.read_by_sessions();
        let since = self.forgotten_since().await?;
        let mut goes: Vec<SnapshotId> = Vec::new();
        for manifest in situation.forgotten() {
            let then = since.get(&(manifest.snapshot, manifest.hash));
            let long_ago = then.is_some_and(|then| self.is_long_ago(situation, *then));
            if long_ago && !(self.options.keeps)(manifest) {
                goes.push(manifest.snapshot);
            }
        }
        if !situation.snapshots.void.is_empty() {
            let listed = self
                .repo()
                .list(StoredFile::Manifest.row().directory)
                .await?;
            for meta in listed {
                let id = StoredFile::Manifest.id(meta.key.as_str());
                let id = id.and_then(|id| id.parse::<SnapshotId>().ok());
                let void = id.filter(|id| situation.snapshots.void.contains(id));
                if let Some(id) = void.filter(|_| self.is_long_ago(situation, meta.modified)) {
                    goes.push(id);
                }
            }
        }
        for id in goes.into_iter().filter(|id| !read.contains(id)) {
            if self.remove_file(StoredFile::Manifest.path(&id)).await? {
                self.report.manifests_removed.push(id);
            }
        }
        Ok(())
    }

    /// Since when each forgotten snapshot is, on the store's clock.
    async fn forgotten_since(
        &self,
    ) -> Result<HashMap<(SnapshotId, ManifestHash), Option<Timestamp>>> {
        let (repo, file) = (self.repo(), StoredFile::Forgotten);
        let mut written: HashMap<ForgottenId, Option<Timestamp>> = HashMap::new();
        for meta in repo.list(file.row().directory).await? {
            if let Some(Ok(id)) = file.id(meta.key.as_str()).map(str::parse) {
                written.insert(id, meta.modified);
            }
        }
        let mut since = HashMap::new();
        let files: Vec<(ForgottenId, ForgottenFile)> = repo.forgotten_files().await?;
        for (id, file) in files {
            for record in file.records {
                let then = written.get(&id).copied().flatten();
                let known = since
                    .entry((record.snapshot, record.manifest))
                    .or_insert(then);
                *known = (*known).max(then);
            }
        }
        Ok(since)
    }

    /// Removes marks whose packs are gone, unless a session that one takes for dead may still be heard of.
    async fn remove_marks(&self, situation: &Situation) -> Result<()> {
        let leases: HashSet<_> = situation.sessions.iter().map(|s| s.session).collect();
        let files = situation
            .sessions
            .iter()
            .filter_map(|s| s.file.as_ref().ok());
        let by_leases: HashSet<_> = files.flat_map(|file| file.dead.iter()).collect();
        let snapshots = &situation.snapshots.manifests;
        let settled = |dead: &Dead| {
            dead.iter().all(|(session, seen)| {
                // A successor that knows more of its snapshots does not say the same.
                let says = snapshots.iter().filter_map(|m| m.dead.get(session));
                let (mut says_more, mut says_it) = (false, false);
                for known in says {
                    says_more |= !known.iter().all(|id| seen.contains(id));
                    says_it = true;
                }
                let gone = !leases.contains(session) && !by_leases.contains(session);
                !says_more && (says_it || gone)
            })
        };
        for mark in &situation.view.marks().known {
            let mut packs = mark.packs.iter();
            let packs_gone = packs.all(|id| situation.lacks(id));
            if packs_gone && settled(&mark.dead) {
                self.remove_file(StoredFile::Mark.path(&mark.id)).await?;
            }
        }
        Ok(())
    }

    /// Removes the leases of readers that have died, of which nothing can come late, and of writers that have ended and
    /// leave nothing to anybody.
    async fn remove_leases(&self, situation: &Situation) -> Result<()> {
        for seen in situation.sessions.iter().filter(|seen| seen.dead) {
            let left_nothing = seen.file.as_ref().is_ok_and(|file| {
                let ended = file.ttl_s == 0 && !file.uncertain && file.dead.is_empty();
                ended && file.packs.is_empty() && file.unfinished.is_empty()
            });
            if left_nothing || !seen.may_write() {
                self.remove_file(StoredFile::Lease.path(&seen.session))
                    .await?;
            }
        }
        Ok(())
    }

    /// Removes checkpoints that nobody goes on from.
    async fn remove_checkpoints(&self, situation: &Situation) -> Result<()> {
        for checkpoint in self.repo().all_checkpoints().await? {
            if !situation.goes_on_from(&checkpoint) {
                let path = StoredFile::Checkpoint.path(&checkpoint.session);
                self.remove_file(path).await?;
            }
        }
        Ok(())
    }

    /// Removes index segments that others have superseded for so long that nobody reads them any more.
    async fn remove_segments(&self, situation: &Situation) -> Result<()> {
        let (repo, file) = (self.repo(), StoredFile::Index);
        let mut written: HashMap<IndexId, Option<Timestamp>> = HashMap::new();
        for meta in repo.list(file.row().directory).await? {
            if let Some(Ok(id)) = file.id(meta.key.as_str()).map(str::parse) {
                written.insert(id, meta.modified);
            }
        }
        let live = situation.view.index().live();
        let ids: BTreeSet<IndexId> = live.iter().map(|live| live.id).collect();
        for live in live {
            let then = written.get(&live.id).copied().flatten();
            if live.supersedes.is_empty() || !self.is_long_ago(situation, then) {
                continue;
            }
            let mut old = live
                .supersedes
                .iter()
                .filter(|id| !ids.contains(id) && written.contains_key(id))
                .peekable();
            // This host may have read its own copy: were it damaged in the store, they would count again.
            if old.peek().is_none() || !is_readable(repo, live).await? {
                continue;
            }
            for id in old {
                self.remove_file(file.path(id)).await?;
            }
        }
        Ok(())
    }
}

/// Removes a file and, where the store keeps versions, what it keeps of it.
///
/// # Errors
///
/// [`Cause::AccessDenied`] where it is locked; what else the store fails with.
pub(super) async fn remove_for_good(store: &SharedStore, key: &Key) -> Result<()> {
    if !store.capabilities().versions {
        return store.delete(key, None).await;
    }
    match store.head(key).await {
        Ok(meta) => store.delete(key, meta.version.as_deref()).await,
        Err(error) if error.cause() == Cause::NotFound => Ok(()),
        Err(error) => Err(error),
    }
}
