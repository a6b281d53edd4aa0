//! Comparing the snapshots of a repository with what this host saw before.

use std::collections::{BTreeMap, HashMap, HashSet};

use super::order::Ordered;
use super::snapshots::Snapshots;
use crate::repo::format::damage::{Damage, DamageKind};
use crate::repo::format::files::StoredFile;
use crate::repo::format::ids::{ManifestHash, SnapshotId};
use crate::repo::format::lineage::{Lineage, Parent};
use crate::repo::format::manifest::Manifest;
use crate::repo::memory::{Last, Remembered, Standing};
use crate::repo::repository::Repository;
use crate::{Error, Result};

impl Snapshots {
    /// Reports what this host saw and is gone without a record of forgetting, and remembers what is
    /// there now. What the state directory fails with is told, and stops nothing.
    pub(super) async fn compare_with_memory(
        &mut self,
        repo: &Repository,
        before: Option<Remembered>,
        ordered: &Ordered,
        unread: &HashSet<SnapshotId>,
    ) {
        if let Err(error) = self.compare(repo, before, ordered, unread).await {
            untold(repo, &error);
        }
    }

    async fn compare(
        &mut self,
        repo: &Repository,
        before: Option<Remembered>,
        ordered: &Ordered,
        unread: &HashSet<SnapshotId>,
    ) -> Result<()> {
        let Some(memory) = repo.memory() else {
            return Ok(());
        };
        if before.is_none() && !ordered.snapshots.is_empty() && repo.first_told("no memory") {
            tracing::warn!(
                "this host had no memory of the repository at {}: whether snapshots were removed before now is not known",
                repo.location()
            );
        }
        let mut known: HashMap<SnapshotId, HashSet<ManifestHash>> = HashMap::new();
        let there = [&ordered.snapshots, &ordered.void, &ordered.forgotten];
        for manifest in there.into_iter().flatten() {
            known
                .entry(manifest.snapshot)
                .or_default()
                .insert(manifest.known_as());
        }
        for record in self.forgotten() {
            let of = known.entry(record.snapshot).or_default();
            of.insert(record.as_parent().manifest);
        }
        let standing = |last: &Last| match known.get(&last.snapshot.snapshot) {
            Some(hashes) if hashes.contains(&last.snapshot.manifest) => Standing::Explained,
            Some(_) => Standing::Another,
            None if unread.contains(&last.snapshot.snapshot) => Standing::Unread,
            None => Standing::Gone,
        };
        let mut now: BTreeMap<Lineage, Parent> = BTreeMap::new();
        for manifest in &ordered.snapshots {
            let last = now
                .entry(manifest.lineage(repo.id()))
                .or_insert_with(|| manifest.as_parent());
            if last.sequence < manifest.sequence {
                *last = manifest.as_parent();
            }
        }
        let mut after = before
            .clone()
            .unwrap_or_else(|| Remembered::new(repo.id(), repo.location()));
        after.ring = after.ring.max(repo.newest_ring());
        after.take_over(&now, standing);
        // What a successor misses is told of it already.
        let own = ordered
            .snapshots
            .iter()
            .filter(|m| m.lineage(repo.id()).origin == repo.id());
        let missed: HashSet<SnapshotId> = own
            .filter_map(|m| m.parent.map(|parent| parent.snapshot))
            .collect();
        for last in after
            .gone
            .iter()
            .filter(|l| !missed.contains(&l.snapshot.snapshot))
        {
            let Parent {
                snapshot, sequence, ..
            } = last.snapshot;
            let what = match standing(last) {
                Standing::Another => "is another than the one that this host saw",
                Standing::Gone => "which this host saw, is gone",
                Standing::Unread | Standing::Explained => continue,
            };
            self.damage.push(Damage {
                kind: DamageKind::Sequence,
                what: format!(
                    "snapshot {sequence} of instance {:?}, {}, {what} ({} remembers it)",
                    last.lineage.instance,
                    snapshot.short(),
                    memory.place()
                ),
                place: StoredFile::Manifest.path(&snapshot),
                snapshots: vec![snapshot],
            });
        }
        // What another process has written meanwhile is newer than what was listed here.
        if before.as_ref() != Some(&after) && memory.read(repo.id()).await? == before {
            memory.write(&after).await?;
        }
        self.remembered = Some(after);
        Ok(())
    }
}

impl Repository {
    /// What this host remembers; nothing where that cannot be read, which is told.
    pub(super) async fn remembered(&self) -> Option<Remembered> {
        match self.memory()?.read(self.id()).await {
            Ok(remembered) => remembered,
            Err(error) => {
                untold(self, &error);
                None
            }
        }
    }

    /// Remembers a snapshot that was just committed.
    pub(super) async fn remember(&self, manifest: &Manifest) {
        if let Err(error) = self.remember_last(manifest).await {
            untold(self, &error);
        }
    }

    async fn remember_last(&self, manifest: &Manifest) -> Result<()> {
        let Some(memory) = self.memory() else {
            return Ok(());
        };
        let Some(mut remembered) = memory.read(self.id()).await? else {
            return Ok(());
        };
        let lineage = manifest.lineage(self.id());
        remembered.lineages.retain(|last| last.lineage != lineage);
        let snapshot = manifest.as_parent();
        remembered.lineages.push(Last { lineage, snapshot });
        memory.write(&remembered).await
    }
}

fn untold(repo: &Repository, error: &Error) {
    if repo.first_told("memory fails") {
        tracing::warn!(
            "what this host sees of the repository is not remembered, so a step back in its history would go unnoticed: {}",
            error.chain()
        );
    }
}
