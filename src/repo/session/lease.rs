//! Session leases: who is at work in a repository (section 11).

use std::collections::{HashMap, HashSet};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use tokio::task::JoinHandle;

use crate::base::env::lock;
use crate::base::error::Context;
use crate::repo::format::files::StoredFile;
use crate::repo::format::ids::{SessionId, SnapshotId};
use crate::repo::format::sealed::FileKind;
use crate::repo::host::Host;
use crate::repo::opening::get;
use crate::repo::repository::{Repository, Sighting};
use crate::store::{self, GetOptions, PutOptions};
use crate::{Cause, Error, Result, Side};

/// How long a lease lives without renewal, in seconds: long enough for a store that is away for a
/// minute, short enough that a killed session is out of the way soon.
const TTL_S: u64 = 120;

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
    pub(crate) instance: String,
    pub(crate) host: Host,
    pub(crate) created: Timestamp,
    pub(crate) ttl_s: u64,
    #[serde(rename = "beat")]
    pub(crate) renewals: u64,
    pub(crate) parents: Vec<SnapshotId>,
    pub(crate) checkpoint: bool,
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
    /// Takes a lease. A writer excludes another live writer of the same instance; what a process
    /// that is provably dead left behind is removed.
    ///
    /// # Errors
    ///
    /// [`Cause::Locked`] when another session of this instance writes or may write.
    pub(crate) async fn take(
        repo: &Repository,
        kind: SessionKind,
        instance: &str,
        parents: Vec<SnapshotId>,
    ) -> Result<Self> {
        if kind == SessionKind::Writer {
            refuse_second_writer(repo, instance, None).await?;
        }
        let session = SessionId(repo.env().id());
        let file = LeaseFile {
            session,
            kind,
            instance: instance.to_owned(),
            host: repo.host().clone(),
            created: repo.env().now(),
            ttl_s: TTL_S,
            renewals: 0,
            parents,
            checkpoint: false,
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
        held.renew()
            .await
            .context(|| "take a lease on the repository")?;
        let renewal = tokio::spawn(keep_renewed(held.clone()));
        let lease = Self { held, renewal };
        // Two that began at once see each other here, and both give way.
        if kind == SessionKind::Writer
            && let Err(error) = refuse_second_writer(repo, instance, Some(session)).await
        {
            lease.give_up().await;
            return Err(error);
        }
        Ok(lease)
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
    pub(crate) async fn finish(self) -> Result<()> {
        self.renewal.abort();
        self.held.release().await
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        self.renewal.abort();
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
        let removed = self.repo.unlimited().delete(&self.key, None).await;
        let Err(error) = removed else {
            return Ok(());
        };
        // Where nothing may be deleted the lease says that its session has ended.
        ended.ttl_s = 0;
        ended.renewals += 1;
        let name = self.key.as_str();
        let bytes = self
            .repo
            .sealer()
            .seal_json(FileKind::Lease, name, &ended)?;
        let put = self
            .repo
            .unlimited()
            .put(&self.key, bytes, PutOptions::default());
        put.await
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
        let mut renewals: HashMap<SessionId, u64> = HashMap::new();
        let mut told = false;
        loop {
            let mut unknown = None;
            for lease in leases(self).await? {
                let file = lease.file;
                let rival = file.kind == SessionKind::Writer && file.instance == instance;
                if !rival || lease.dead {
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

/// Fails with [`Cause::Locked`] when a session other than `own` writes for `instance`.
async fn refuse_second_writer(
    repo: &Repository,
    instance: &str,
    own: Option<SessionId>,
) -> Result<()> {
    for lease in leases(repo).await? {
        let file = lease.file;
        let rival = file.kind == SessionKind::Writer && file.instance == instance;
        if Some(file.session) == own || !rival {
            continue;
        }
        if !lease.dead {
            return Err(locked(instance, &file));
        }
        let key = store::Key::new(StoredFile::Lease.path(&file.session))?;
        tracing::info!("removing {key} of a writer that is dead");
        // It is in nobody's way where nothing may be deleted.
        if let Err(error) = repo.unlimited().delete(&key, None).await {
            tracing::warn!("{key} is left behind: {}", error.chain());
        }
    }
    Ok(())
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
    for id in &ids {
        let path = StoredFile::Lease.path(id);
        let bytes = match get(repo.unlimited(), &path, GetOptions::default()).await {
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
        let dead = ended || repo.host().proves_dead(&file.host) || watched > patience;
        found.push(Seen { file, dead });
    }
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
