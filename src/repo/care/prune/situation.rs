//! What a prune finds: packs, sessions at work, snapshots, marks, the index; read in the order that makes it safe.

use std::collections::{BTreeSet, HashMap, HashSet};

use jiff::Timestamp;

use crate::repo::format::blob::PackKind;
use crate::repo::format::damage::DamageKind;
use crate::repo::format::files::StoredFile;
use crate::repo::format::ids::{MarkId, PackId, SessionId, SnapshotId};
use crate::repo::format::lineage::Dead;
use crate::repo::format::manifest::Manifest;
use crate::repo::format::segment::PackInfo;
use crate::repo::format::wire::damaged;
use crate::repo::repository::Repository;
use crate::repo::session::checkpoint::Checkpoint;
use crate::repo::session::lease::{Seen, leases};
use crate::repo::session::snapshots::{CLOCKS_DIFFER, Snapshots};
use crate::repo::session::view::View;
use crate::repo::session::writer::Writer;
use crate::{Cause, Result, Side};

/// How often everything is read again because a writer ended meanwhile, and perhaps committed.
const READ_AGAIN: usize = 10;

/// A pack in the store.
#[derive(Debug, Clone, Copy)]
pub(super) struct Pack {
    pub(super) kind: PackKind,
    pub(super) size: u64,
    /// On the store's clock.
    pub(super) modified: Option<Timestamp>,
    pub(super) archived: bool,
}

/// What there is.
pub(super) struct Situation {
    /// The packs that the store listed before anything else was read: none of them is newer than what was read.
    pub(super) packs: HashMap<PackId, Pack>,
    /// The sizes of those that it listed when the index was read, which names none that came later.
    there: HashMap<PackId, u64>,
    /// Everybody else's leases.
    pub(super) sessions: Vec<Seen>,
    pub(super) snapshots: Snapshots,
    /// The sessions that this prune takes for dead, and their snapshots.
    pub(super) dead: Dead,
    /// Marks, and the index as it was read after them.
    pub(super) view: View,
    /// When marks were written, on the store's clock.
    pub(super) marked: HashMap<MarkId, Timestamp>,
    /// The store's time now, as far as it tells.
    pub(super) now: Timestamp,
}

impl Situation {
    /// Reads everything.
    ///
    /// Packs come first: one that is in no lease and in no index that are read later belongs to nobody. Then leases,
    /// manifests and leases again: a writer that is alive in both has not ended meanwhile, and one that is in neither
    /// has committed before the manifests were listed, or begins after the second listing. Marks and index come then,
    /// and the packs once more: what the index names was there before it.
    ///
    /// # Errors
    ///
    /// [`Cause::Damage`] when it cannot be known what is needed, [`Cause::NewerFormat`] when a newer eyrie is needed
    /// for that, [`Cause::Locked`] when writers end all the time; what the store fails with.
    pub(super) async fn read(writer: &Writer, dry_run: bool) -> Result<Self> {
        let repo = writer.view().repo();
        let own = writer.session();
        for _ in 0..READ_AGAIN {
            let packs = packs(repo).await?;
            let before = others(repo, own).await?;
            // Whoever is taken for dead can read it before the manifests are listed.
            let dead = if dry_run {
                BTreeSet::new()
            } else {
                writer.take_for_dead(&before).await?
            };
            let snapshots = repo.snapshots().await?;
            let sessions = others(repo, own).await?;
            let alive = sessions.iter().filter(|s| !s.dead);
            let alive: HashSet<SessionId> = alive.map(|s| s.session).collect();
            let mut writers = before.iter().filter(|s| !s.dead && s.may_write());
            if !writers.all(|writer| alive.contains(&writer.session)) {
                continue;
            }
            refuse_unknown(&snapshots)?;
            let view = repo.view().await?;
            view.marks().refuse_unknown()?;
            if let Some((id, why)) = view.index().unread().first() {
                let path = StoredFile::Index.path(id);
                let message =
                    format!("{path} cannot be read, so what is in the packs is not known: {why}");
                return Err(damaged(message).with_hint(
                    "take a backup: it names anew what the segment named; then prune again",
                ));
            }
            let there = self::packs(repo).await?.into_iter();
            let there = there.map(|(id, pack)| (id, pack.size)).collect();
            let dead = dead.into_iter().map(|id| (id, snapshots.of_session(id)));
            let (marked, now) = times(repo, own).await?;
            return Ok(Self {
                packs,
                there,
                sessions,
                dead: dead.collect(),
                snapshots,
                view,
                marked,
                now,
            });
        }
        let message = "sessions end all the time, so it is not known what is needed";
        Err(Side::Repository
            .error(Cause::Locked, message)
            .with_hint("run it again when fewer backups run"))
    }

    /// Whether the store has a pack as the index describes it.
    pub(super) fn has(&self, pack: &PackInfo) -> bool {
        self.there.get(&pack.id) == Some(&pack.size)
    }

    /// Whether the store has lost a pack that the index names.
    pub(super) fn lacks(&self, id: &PackId) -> bool {
        !self.there.contains_key(id)
    }

    /// Notes that a pack is removed.
    pub(super) fn removed(&mut self, id: &PackId) {
        self.packs.remove(id);
        self.there.remove(id);
    }

    /// Packs that no index names and that no session may be about to name.
    pub(super) fn unindexed(&self) -> Vec<PackId> {
        let indexed: HashSet<PackId> = self.view.index().packs().iter().map(|p| p.id).collect();
        let mut begun: HashSet<&str> = HashSet::new();
        for session in self.alive() {
            match &session.file {
                Ok(file) => begun.extend(file.packs.keys().map(String::as_str)),
                // It may be of any.
                Err(_) => return vec![],
            }
        }
        let packs = self.packs.iter().filter(|(id, pack)| {
            let path = StoredFile::packs(pack.kind).path(id);
            !indexed.contains(id) && !begun.contains(path.as_str())
        });
        packs.map(|(id, _)| *id).collect()
    }

    /// Packs that a session at work may have written: they are left alone, although nobody needs them yet. That
    /// clocks differ does no harm, as a writer stores again what is marked.
    pub(super) fn young(&self) -> HashSet<PackId> {
        let files = self.alive().filter(|session| session.may_write());
        let files = files.filter_map(|session| session.file.as_ref().ok());
        let Some(since) = files.map(|file| file.created).min() else {
            return HashSet::new();
        };
        let young = |pack: &Pack| {
            let after = |modified: Timestamp| since.duration_since(modified) < CLOCKS_DIFFER;
            pack.modified.is_some_and(after)
        };
        let packs = self.packs.iter().filter(|(_, pack)| young(pack));
        packs.map(|(id, _)| *id).collect()
    }

    /// Whether a session may go on from a checkpoint: that of one that is at work, or that has not committed while its
    /// lineage has no later snapshot.
    pub(super) fn goes_on_from(&self, checkpoint: &Checkpoint) -> bool {
        let alive = self.alive().any(|s| s.session == checkpoint.session);
        let committed = !self.snapshots.of_session(checkpoint.session).is_empty();
        let last = self.snapshots.last_of(&checkpoint.lineage);
        let superseded = last.is_some_and(|last| last.time > checkpoint.time);
        alive || !(committed || superseded)
    }

    /// The sessions that may be at work.
    pub(super) fn alive(&self) -> impl Iterator<Item = &Seen> {
        self.sessions.iter().filter(|session| !session.dead)
    }

    /// The snapshots that sessions at work read, by their leases.
    pub(super) fn read_by_sessions(&self) -> HashSet<SnapshotId> {
        let files = self
            .alive()
            .filter_map(|session| session.file.as_ref().ok());
        files
            .flat_map(|file| file.parents.iter().copied())
            .collect()
    }

    /// Whether every session that may be at work heeds one of these marks.
    pub(super) fn all_heed(&self, marks: &BTreeSet<MarkId>) -> bool {
        self.alive().all(|session| {
            let heeded = session.file.as_ref().map(|file| &file.marks);
            heeded.is_ok_and(|heeded| !heeded.is_disjoint(marks))
        })
    }

    /// Whether every session that may be at work began after something that the store has since `then`: it heeds a
    /// mark that was made later.
    pub(super) fn all_began_after(&self, then: Option<Timestamp>) -> bool {
        let Some(then) = then else {
            return self.alive().next().is_none();
        };
        let later = self.marked.iter().filter(|(_, made)| **made > then);
        self.all_heed(&later.map(|(id, _)| *id).collect())
    }

    /// Forgotten snapshots whose manifests are there.
    pub(super) fn forgotten(&self) -> &[Manifest] {
        self.snapshots.forgotten_manifests()
    }
}

/// Refuses where manifests or amendments cannot be read: what they refer to is needed.
fn refuse_unknown(snapshots: &Snapshots) -> Result<()> {
    if let Some((id, why)) = snapshots.newer.first() {
        let message = format!("snapshot {} was made by a newer eyrie: {why}", id.short());
        return Err(Side::Repository
            .error(Cause::NewerFormat, message)
            .with_hint("prune with that eyrie, or a later one"));
    }
    let unknown = |kind| matches!(kind, DamageKind::Manifest | DamageKind::Amendment);
    match snapshots.damage.iter().find(|damage| unknown(damage.kind)) {
        None => Ok(()),
        Some(damage) => Err(damaged(format!(
            "which blobs are needed is not known, so nothing is removed: {}",
            damage.what
        ))
        .with_hint("bring the file back from a copy of the repository, or remove it if nobody needs that snapshot")),
    }
}

async fn others(repo: &Repository, own: SessionId) -> Result<Vec<Seen>> {
    let mut all = leases(repo).await?;
    all.retain(|seen| seen.session != own);
    Ok(all)
}

pub(super) async fn packs(repo: &Repository) -> Result<HashMap<PackId, Pack>> {
    let mut found = HashMap::new();
    for kind in [PackKind::Data, PackKind::Tree] {
        let file = StoredFile::packs(kind);
        for meta in repo.list(file.row().directory).await? {
            if let Some(Ok(id)) = file.id(meta.key.as_str()).map(str::parse) {
                let pack = Pack {
                    kind,
                    size: meta.size,
                    modified: meta.modified,
                    archived: meta.archived,
                };
                found.insert(id, pack);
            }
        }
    }
    Ok(found)
}

/// When marks were written, and the time now, which is that of our own lease: both are the store's. A store that
/// tells no times is taken to be as old as the marks say.
async fn times(
    repo: &Repository,
    own: SessionId,
) -> Result<(HashMap<MarkId, Timestamp>, Timestamp)> {
    let mut marked = HashMap::new();
    for meta in repo.list(StoredFile::Mark.row().directory).await? {
        if let Some(Ok(id)) = StoredFile::Mark.id(meta.key.as_str()).map(str::parse)
            && let Some(modified) = meta.modified
        {
            marked.insert(id, modified);
        }
    }
    let mut now = None;
    for meta in repo.list(StoredFile::Lease.row().directory).await? {
        if StoredFile::Lease.id(meta.key.as_str()) == Some(&*own.to_string()) {
            now = meta.modified;
        }
    }
    if now.is_none() {
        for mark in repo.marks().await?.known {
            marked.insert(mark.id, mark.created);
        }
    }
    Ok((marked, now.unwrap_or_else(|| repo.env().now())))
}
