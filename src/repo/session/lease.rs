//! Session leases: who is at work in a repository (section 11).

use std::collections::{BTreeSet, HashMap, HashSet};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures::StreamExt;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use tokio::task::JoinHandle;

use crate::base::env::lock;
use crate::base::error::Context;
use crate::repo::format::files::StoredFile;
use crate::repo::format::ids::{SessionId, SnapshotId};
use crate::repo::format::lineage::{Claim, Lineage};
use crate::repo::format::sealed::FileKind;
use crate::repo::host::Host;
use crate::repo::opening::get;
use crate::repo::repository::{Repository, Sighting};
use crate::repo::session::snapshots::Snapshots;
use crate::store::{self, GetOptions, PutOptions};
use crate::{Cause, Error, Result, Side};

/// How long a lease lives without renewal, in seconds: long enough for a store that is away for a
/// minute, short enough that a killed session is out of the way soon.
const TTL_S: u64 = 120;

/// How many leases are read at once: where nothing may be deleted, that of each session stays.
const LEASES_AT_ONCE: usize = 16;

/// Between two looks at a lease whose session may be dead.
const WATCH_PAUSE: Duration = Duration::from_secs(5);

/// What kind of session a lease is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum SessionKind {
    Writer,
    Reader,
}

/// What a lease says.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct LeaseFile {
    pub(crate) session: SessionId,
    pub(crate) kind: SessionKind,
    #[serde(flatten)]
    pub(crate) lineage: Lineage,
    pub(crate) host: Host,
    pub(crate) created: Timestamp,
    pub(crate) ttl_s: u64,
    #[serde(rename = "beat")]
    pub(crate) renewals: u64,
    pub(crate) parents: Vec<SnapshotId>,
    pub(crate) checkpoint: bool,
    /// Sessions of the lineage that this one takes for dead. Its manifest names them.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub(crate) dead: BTreeSet<SessionId>,
    /// Whether something that it wrote may still arrive: a successor takes the session for dead.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub(crate) uncertain: bool,
}

impl LeaseFile {
    fn rivals(&self, lineage: &Lineage) -> bool {
        self.kind == SessionKind::Writer && self.lineage == *lineage
    }

    /// The sessions that whoever sees this lease of a dead session takes for dead.
    fn bequeathed(&self) -> impl Iterator<Item = SessionId> {
        let ended = self.ttl_s == 0 && !self.uncertain;
        let own = (!ended).then_some(self.session);
        own.into_iter().chain(self.dead.iter().copied())
    }
}

/// Where a commit is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Commit {
    /// Something is about to be written.
    Begins,
    /// Nothing was written, for sure.
    Failed,
    /// The manifest is there, and names whom the session took for dead.
    Done,
}

/// A lease that this process holds and renews; released by [`finish`](Lease::finish), or by
/// dropping it as far as that is possible.
#[derive(Debug)]
pub(crate) struct Lease {
    held: Arc<Held>,
    renewal: JoinHandle<()>,
}

#[derive(Debug)]
struct Held {
    repo: Repository,
    session: SessionId,
    key: store::Key,
    ttl: Duration,
    /// The lease as last written; `None` once it is released. Locked while it is written.
    file: tokio::sync::Mutex<Option<LeaseFile>>,
    /// When the last successful renewal began, on the boot-time clock.
    renewed: Mutex<Duration>,
    lapsed: AtomicBool,
}

impl Lease {
    /// Takes a lease. A writer excludes another live writer of the same lineage; sessions that are
    /// dead are named in its lease, and their own are removed.
    ///
    /// # Errors
    ///
    /// [`Cause::Locked`] when another session of this lineage writes or may write.
    pub(crate) async fn take(
        repo: &Repository,
        kind: SessionKind,
        lineage: Lineage,
        parents: Vec<SnapshotId>,
    ) -> Result<Self> {
        let mut dead = BTreeSet::new();
        if kind == SessionKind::Writer {
            let found = refuse_second_writer(repo, &lineage, None).await?;
            dead.extend(found.iter().flat_map(LeaseFile::bequeathed));
        }
        let session = SessionId(repo.env().id());
        let file = LeaseFile {
            session,
            kind,
            lineage: lineage.clone(),
            host: repo.host().clone(),
            created: repo.env().now(),
            ttl_s: TTL_S,
            renewals: 0,
            parents,
            checkpoint: false,
            dead,
            uncertain: false,
        };
        let held = Arc::new(Held {
            repo: repo.clone(),
            session,
            key: store::Key::new(StoredFile::Lease.path(&session))?,
            ttl: Duration::from_secs(TTL_S),
            renewed: Mutex::new(repo.env().boottime()),
            file: tokio::sync::Mutex::new(Some(file)),
            lapsed: AtomicBool::new(false),
        });
        let renewal = tokio::spawn(keep_renewed(held.clone()));
        let lease = Self { held, renewal };
        if let Err(error) = lease.held.renew().await {
            // It may have arrived all the same.
            lease.give_up().await;
            return Err(error.context("take a lease on the repository"));
        }
        // Two that began at once see each other here, and both give way.
        if kind == SessionKind::Writer
            && let Err(error) = lease.look_again(&lineage).await
        {
            lease.give_up().await;
            return Err(error);
        }
        Ok(lease)
    }

    /// Looks for rivals once more, and removes the leases of those that are dead when its own names them.
    async fn look_again(&self, lineage: &Lineage) -> Result<()> {
        let repo = &self.held.repo;
        let found = refuse_second_writer(repo, lineage, Some(self.session())).await?;
        if found.is_empty() {
            return Ok(());
        }
        let dead: Vec<SessionId> = found.iter().flat_map(LeaseFile::bequeathed).collect();
        let mut guard = self.held.file.lock().await;
        let known = guard
            .as_ref()
            .is_some_and(|file| dead.iter().all(|id| file.dead.contains(id)));
        if let Some(file) = guard.as_mut() {
            file.dead.extend(dead);
        }
        drop(guard);
        if !known {
            self.held.renew().await?;
        }
        for file in found {
            let key = store::Key::new(StoredFile::Lease.path(&file.session))?;
            tracing::info!("removing {key} of a writer that is dead");
            // It is in nobody's way where nothing may be deleted.
            if let Err(error) = repo.unlimited().delete(&key, None).await {
                tracing::debug!("{key} is left behind: {}", error.chain());
            }
        }
        Ok(())
    }

    /// Refuses when the session that wrote the claim at `path` is alive, as the store did not show its
    /// lease when this session began, or has committed and the store did not list its manifest. A claim
    /// that cannot be read is nobody's.
    pub(crate) async fn refuse_claimer(&self, path: &str, snapshots: &Snapshots) -> Result<()> {
        let repo = &self.held.repo;
        let bytes = repo.get_file(path).await?;
        let Ok(claim) = repo
            .sealer()
            .open_json::<Claim>(FileKind::Claim, path, &bytes)
        else {
            return Ok(());
        };
        let manifest = StoredFile::Manifest.path(&claim.snapshot);
        let there = repo
            .store()
            .head(&store::Key::new(manifest.as_str())?)
            .await;
        if there.is_ok() && !snapshots.knows(claim.snapshot) {
            // Its session must not be taken for dead by who does not know it.
            let message = format!("{manifest} is there, and the store did not list it");
            return Err(Side::Repository
                .error(Cause::Failed, message)
                .with_hint("run it again"));
        }
        let rivals = leases(repo).await?;
        let claimer = rivals
            .iter()
            .find(|rival| rival.file.session == claim.session && !rival.dead);
        match claimer.filter(|rival| rival.file.session != self.session()) {
            Some(rival) => Err(locked(&claim.lineage.instance, &rival.file)),
            None => Ok(()),
        }
    }

    /// Whether some session says in its lease that it takes this one for dead.
    pub(crate) async fn is_named(&self) -> Result<bool> {
        let all = leases(&self.held.repo).await?;
        let own = self.session();
        Ok(all.iter().any(|lease| lease.file.dead.contains(&own)))
    }

    /// The sessions that this one took for dead.
    pub(crate) async fn dead(&self) -> BTreeSet<SessionId> {
        let file = self.held.file.lock().await;
        file.as_ref()
            .map(|file| file.dead.clone())
            .unwrap_or_default()
    }

    /// Says where a commit is: if the session ends within one, its manifest may still arrive. After
    /// it, nobody has to be told of the sessions that its manifest names.
    pub(crate) async fn committing(&self, stage: Commit) {
        if let Some(file) = self.held.file.lock().await.as_mut() {
            file.uncertain = stage == Commit::Begins;
            if stage == Commit::Done {
                file.dead.clear();
            }
        }
    }

    /// Whether the lease still protects this session.
    ///
    /// # Errors
    ///
    /// [`Cause::Failed`] when it was not renewed in time: whatever the session made must not be
    /// committed, as others may have taken the session for dead.
    pub(crate) fn check(&self) -> Result<()> {
        self.held.check()
    }

    /// The session's id.
    pub(crate) fn session(&self) -> SessionId {
        self.held.session
    }

    /// Renews the lease now.
    pub(crate) async fn renew(&self) -> Result<()> {
        self.held.renew().await
    }

    /// Releases the lease after an error that matters more than what this may fail with.
    pub(crate) async fn give_up(self) {
        if let Err(error) = self.finish().await {
            tracing::warn!("a lease is left behind: {}", error.chain());
        }
    }

    /// Releases the lease.
    pub(crate) async fn finish(mut self) -> Result<()> {
        self.renewal.abort();
        // A renewal that is under way would bring the lease back.
        let _ = (&mut self.renewal).await;
        self.held.release().await
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        self.renewal.abort();
        self.held.repo.ended(self.held.session);
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            let held = self.held.clone();
            runtime.spawn(async move {
                if let Err(error) = held.release().await {
                    tracing::debug!("{}", error.chain());
                }
            });
        }
    }
}

impl Held {
    fn check(&self) -> Result<()> {
        let silent = self
            .repo
            .env()
            .boottime()
            .saturating_sub(*lock(&self.renewed));
        if silent > self.ttl {
            self.lapsed.store(true, Ordering::SeqCst);
        }
        if !self.lapsed.load(Ordering::SeqCst) {
            return Ok(());
        }
        Err(Side::Repository
            .error(
                Cause::Failed,
                format!(
                    "the lease {} lapsed: it was not renewed for {} s",
                    self.key,
                    silent.as_secs()
                ),
            )
            .with_hint("was the machine suspended, or the repository out of reach? run it again"))
    }

    async fn renew(&self) -> Result<()> {
        let mut guard = self.file.lock().await;
        self.check()?;
        let Some(file) = guard.as_mut() else {
            return Ok(());
        };
        let began = self.repo.env().boottime();
        file.renewals += 1;
        let bytes = self
            .repo
            .sealer()
            .seal_json(FileKind::Lease, self.key.as_str(), &*file)?;
        self.repo
            .unlimited()
            .put(&self.key, bytes, PutOptions::default())
            .await
            .context(|| format!("write {}", self.key))?;
        *lock(&self.renewed) = began;
        Ok(())
    }

    async fn release(&self) -> Result<()> {
        let mut file = self.file.lock().await;
        let Some(mut ended) = file.take() else {
            return Ok(());
        };
        ended.ttl_s = 0;
        ended.renewals += 1;
        let (repo, name) = (&self.repo, self.key.as_str());
        let store = repo.unlimited();
        let bytes = repo.sealer().seal_json(FileKind::Lease, name, &ended)?;
        let say_ended = || store.put(&self.key, bytes, PutOptions::default());
        // A lease that names others, or a session of which something may still arrive, is for the
        // successor to read. Where it cannot be written it stays as it is, which says the same but for
        // the end; this process knows of that.
        repo.ended(self.session);
        if ended.uncertain || !ended.dead.is_empty() {
            return say_ended()
                .await
                .map(drop)
                .context(|| format!("end {name}"));
        }
        let Err(error) = store.delete(&self.key, None).await else {
            return Ok(());
        };
        // Where nothing may be deleted the lease says that its session has ended.
        say_ended()
            .await
            .map_err(|_| error.context(format!("remove {name}")))?;
        tracing::debug!("{name} cannot be removed; it says that its session has ended");
        Ok(())
    }
}

async fn keep_renewed(held: Arc<Held>) {
    let third = held.ttl / 3;
    let mut pause = third;
    while !held.lapsed.load(Ordering::SeqCst) {
        tokio::time::sleep(pause).await;
        pause = match held.renew().await {
            Ok(()) => third,
            Err(error) => {
                tracing::warn!("{}", error.chain());
                third / 4
            }
        };
    }
}

impl Repository {
    /// Waits for as long as it takes to tell whether another session writes for `instance`: one whose
    /// process cannot be looked at, as it ran on another host, in another boot or pid namespace, is
    /// dead when its lease has not changed for twice its time to live, which is 4 minutes.
    ///
    /// # Errors
    ///
    /// [`Cause::Locked`] as soon as one shows that it is alive.
    pub async fn wait_for_other_writers(&self, instance: &str) -> Result<()> {
        let lineage = self.lineage(instance);
        let mut renewals: HashMap<SessionId, u64> = HashMap::new();
        let mut told = false;
        loop {
            let mut unknown = None;
            for lease in leases(self).await? {
                let file = lease.file;
                if !file.rivals(&lineage) || lease.dead {
                    continue;
                }
                let first = *renewals.entry(file.session).or_insert(file.renewals);
                if self.host().proves_alive(&file.host) || file.renewals != first {
                    return Err(locked(instance, &file));
                }
                unknown = Some(file);
            }
            let Some(file) = unknown else { return Ok(()) };
            if !std::mem::replace(&mut told, true) {
                tracing::warn!(
                    "process {} on {} may be writing for this instance: its lease {} is watched for up to {} s",
                    file.host.pid,
                    file.host.name,
                    StoredFile::Lease.path(&file.session),
                    2 * file.ttl_s
                );
            }
            tokio::time::sleep(WATCH_PAUSE).await;
        }
    }
}

/// The leases of dead writers of `lineage`.
///
/// # Errors
///
/// [`Cause::Locked`] when a session other than `own` writes for it.
async fn refuse_second_writer(
    repo: &Repository,
    lineage: &Lineage,
    own: Option<SessionId>,
) -> Result<Vec<LeaseFile>> {
    let mut dead = Vec::new();
    for lease in leases(repo).await? {
        let file = lease.file;
        if Some(file.session) == own || !file.rivals(lineage) {
            continue;
        }
        if !lease.dead {
            return Err(locked(&lineage.instance, &file));
        }
        dead.push(file);
    }
    Ok(dead)
}

/// A lease of some session.
pub(crate) struct Seen {
    pub(crate) file: LeaseFile,
    /// Whether its session is dead: it says so, its process is proved gone, or the lease has not changed for
    /// twice its time to live while this process watched.
    pub(crate) dead: bool,
}

/// Reads all leases, and remembers when each was first seen as it is.
///
/// # Errors
///
/// [`Cause::Damage`] for a lease that cannot be read: its session may be alive.
pub(crate) async fn leases(repo: &Repository) -> Result<Vec<Seen>> {
    let ids: Vec<SessionId> = repo.list_ids(StoredFile::Lease).await?;
    let mut found = Vec::new();
    let mut read = futures::stream::iter(&ids)
        .map(|id| async move {
            let path = StoredFile::Lease.path(id);
            let bytes = get(repo.unlimited(), &path, GetOptions::default()).await;
            (id, path, bytes)
        })
        .buffered(LEASES_AT_ONCE);
    while let Some((id, path, bytes)) = read.next().await {
        let bytes = match bytes {
            Err(error) if error.cause() == Cause::NotFound => continue,
            other => other?,
        };
        let file: LeaseFile = repo
            .sealer()
            .open_json(FileKind::Lease, &path, &bytes)
            .map_err(|error| {
                error.with_hint(format!(
                    "if no eyrie is at work in the repository, remove {path}"
                ))
            })?;
        let (hash, now) = (blake3::hash(&bytes), repo.env().boottime());
        let since = sighting(repo, *id, hash, now);
        let watched = now.saturating_sub(since);
        let patience = Duration::from_secs(file.ttl_s.saturating_mul(2));
        let ended = file.ttl_s == 0;
        let dead = ended
            || repo.has_ended(id)
            || repo.is_taken_for_dead(id)
            || repo.host().proves_dead(&file.host)
            || watched > patience;
        found.push(Seen { file, dead });
    }
    drop(read);
    let present: HashSet<SessionId> = ids.into_iter().collect();
    lock(repo.seen()).retain(|id, _| present.contains(id));
    Ok(found)
}

fn sighting(repo: &Repository, id: SessionId, hash: blake3::Hash, now: Duration) -> Duration {
    let mut seen = lock(repo.seen());
    let sighting = seen.entry(id).or_insert(Sighting { hash, since: now });
    if sighting.hash != hash {
        *sighting = Sighting { hash, since: now };
    }
    sighting.since
}

fn locked(instance: &str, file: &LeaseFile) -> Error {
    let LeaseFile {
        host,
        session,
        created,
        ttl_s,
        ..
    } = file;
    Side::Repository.error(
        Cause::Locked,
        format!(
            "another session writes for instance {instance:?}: process {} on {} since {created}",
            host.pid, host.name
        ),
    )
    .with_hint(format!(
        "wait for it; if that process is gone, remove {} after {} s without a change",
        StoredFile::Lease.path(session),
        2 * ttl_s
    ))
}
