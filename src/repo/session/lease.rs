//! Session leases: who is at work in a repository (section 11).

use std::collections::{BTreeSet, HashMap, HashSet};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures::StreamExt;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::base::env::lock;
use crate::base::error::Context;
use crate::repo::format::files::StoredFile;
use crate::repo::format::ids::{MarkId, SessionId, SnapshotId};
use crate::repo::format::lineage::{Claim, Lineage};
use crate::repo::format::sealed::FileKind;
use crate::repo::host::Host;
use crate::repo::opening::get;
use crate::repo::repository::{Repository, Sighting};
use crate::repo::session::snapshots::Snapshots;
use crate::repo::session::unnamed::{Unnamed, UnnamedPacks, settle};
use crate::store::{self, GetOptions, PutOptions, Unfinished};
use crate::{Cause, Error, Result, Side};

/// The instance in the lineage of sessions that prune, of which one is at work at a time: no instance has an empty
/// name.
pub(crate) const MAINTENANCE: &str = "";

/// How long a lease lives without renewal, in seconds: long enough for a store that is away for a
/// minute, short enough that a killed session is out of the way soon.
const TTL_S: u64 = 120;

/// How many leases are read at once: where nothing may be deleted, that of each session stays.
const LEASES_AT_ONCE: usize = 16;

/// How long a reader waits for its lease to be written or removed. It can do without, where the store may only
/// be read, is full or does not take writes now.
const READER_PATIENCE: Duration = Duration::from_secs(5);

/// How long what there is to tell of packs is gathered before the lease is written again, and between two
/// tries to write it.
const GATHER: Duration = Duration::from_secs(1);

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
    /// Packs that it has begun and that no index segment names yet.
    #[serde(default, skip_serializing_if = "Unnamed::is_empty")]
    pub(crate) packs: Unnamed,
    /// What it has in the store that is no object yet.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) unfinished: Vec<Unfinished>,
    /// The marks that it heeds: it relies on nothing in their packs.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub(crate) marks: BTreeSet<MarkId>,
}

impl LeaseFile {
    fn rivals(&self, lineage: &Lineage) -> bool {
        self.kind == SessionKind::Writer && self.lineage == *lineage
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
    /// Leases of dead sessions, which its own names.
    dead: Vec<Seen>,
}

/// What the parts of a session know its lease by.
#[derive(Debug, Clone)]
pub(crate) struct Handle(Arc<Held>);

impl Handle {
    /// The packs that no index segment names yet.
    pub(crate) fn unnamed(&self) -> &UnnamedPacks {
        &self.0.unnamed
    }

    /// Makes sure that the lease in the store tells of a pack.
    pub(crate) async fn tells_of(&self, path: &str) -> Result<()> {
        if self.unnamed().is_told(path) {
            return Ok(());
        }
        // Who waits may be dropped when the session is given up. The lease is removed only when what is under
        // way has ended, as its file is locked until then.
        let held = self.0.clone();
        let written = tokio::spawn(async move { held.write_surely().await });
        written.await.unwrap_or_else(|error| {
            let error = Error::new(Cause::Failed, "writing the lease stopped").with_source(error);
            Err(error)
        })
    }
}

#[derive(Debug)]
struct Held {
    repo: Repository,
    session: SessionId,
    key: store::Key,
    ttl: Duration,
    unnamed: UnnamedPacks,
    /// The lease as last written; `None` once it is released. Locked while it is written.
    file: tokio::sync::Mutex<Option<LeaseFile>>,
    /// When the last successful renewal began, on the boot-time clock.
    renewed: Mutex<Duration>,
    /// Whether it was ever written for sure.
    written: AtomicBool,
    lapsed: AtomicBool,
    /// The session ends: nothing is renewed any more.
    stop: CancellationToken,
}

impl Lease {
    /// Takes a lease. A writer excludes another live writer of the same lineage; sessions that are
    /// dead are named in its lease, and their own are removed. A reader goes on where its lease cannot be
    /// written, which is told once, and tries again meanwhile.
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
            dead.extend(found.iter().flat_map(Seen::bequeathed));
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
            packs: Unnamed::new(),
            unfinished: vec![],
            marks: BTreeSet::new(),
        };
        let held = Arc::new(Held {
            repo: repo.clone(),
            session,
            key: store::Key::new(StoredFile::Lease.path(&session))?,
            ttl: Duration::from_secs(TTL_S),
            renewed: Mutex::new(repo.env().boottime()),
            file: tokio::sync::Mutex::new(Some(file)),
            unnamed: UnnamedPacks::default(),
            written: AtomicBool::new(false),
            lapsed: AtomicBool::new(false),
            stop: CancellationToken::new(),
        });
        let renewal = tokio::spawn(keep_renewed(held.clone()));
        let mut lease = Self {
            held,
            renewal,
            dead: vec![],
        };
        match (lease.held.write(None).await, kind) {
            (Ok(()), _) => {}
            (Err(error), SessionKind::Writer) => {
                // It may have arrived all the same.
                lease.give_up().await;
                return Err(error.context("take a lease on the repository"));
            }
            (Err(error), SessionKind::Reader) => {
                if repo.first_told("no lease") {
                    tracing::warn!(
                        "reading without a lease, so nothing may be pruned meanwhile: {}",
                        error.chain()
                    );
                }
            }
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

    /// Looks for rivals once more, and keeps the leases of those that are dead, which its own names then.
    async fn look_again(&mut self, lineage: &Lineage) -> Result<()> {
        let repo = &self.held.repo;
        let found = refuse_second_writer(repo, lineage, Some(self.session())).await?;
        if found.is_empty() {
            return Ok(());
        }
        let dead = found.iter().flat_map(Seen::bequeathed).collect();
        self.take_for_dead(&dead).await?;
        self.dead = found;
        Ok(())
    }

    /// Takes over what dead sessions of the lineage left, and removes their leases.
    pub(crate) async fn settle_dead(&mut self) -> Result<()> {
        let repo = &self.held.repo;
        for lease in std::mem::take(&mut self.dead) {
            if let Ok(file) = &lease.file
                && !settle(repo, &file.packs, &file.unfinished).await?
            {
                continue;
            }
            let key = store::Key::new(StoredFile::Lease.path(&lease.session))?;
            match &lease.file {
                Ok(_) => tracing::info!("removing {key} of a writer that is dead"),
                Err(why) => tracing::warn!("removing {key}, which nobody renews: {why}"),
            }
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
            .find(|rival| rival.session == claim.session && !rival.dead);
        match claimer.filter(|rival| rival.session != self.session()) {
            Some(rival) => Err(locked(&claim.lineage.instance, rival)),
            None => Ok(()),
        }
    }

    /// For the parts of the session.
    pub(crate) fn handle(&self) -> Handle {
        Handle(self.held.clone())
    }

    /// Whether some session says in its lease that it takes this one for dead.
    pub(crate) async fn is_named(&self) -> Result<bool> {
        let all = leases(&self.held.repo).await?;
        let own = self.session();
        let names = |lease: &Seen| {
            lease
                .file
                .as_ref()
                .is_ok_and(|file| file.dead.contains(&own))
        };
        Ok(all.iter().any(names))
    }

    /// Says at once that this session takes others for dead.
    pub(crate) async fn take_for_dead(&self, dead: &BTreeSet<SessionId>) -> Result<()> {
        let mut guard = self.held.file.lock().await;
        let new = guard
            .as_mut()
            .is_some_and(|file| !dead.is_subset(&file.dead));
        if let Some(file) = guard.as_mut() {
            file.dead.extend(dead);
        }
        drop(guard);
        if new {
            self.held.write_surely().await?;
        }
        Ok(())
    }

    /// The sessions that this one took for dead.
    pub(crate) async fn dead(&self) -> BTreeSet<SessionId> {
        let file = self.held.file.lock().await;
        file.as_ref()
            .map(|file| file.dead.clone())
            .unwrap_or_default()
    }

    /// Says from the next renewal on that the session has a checkpoint.
    pub(crate) async fn has_checkpoint(&self) {
        if let Some(file) = self.held.file.lock().await.as_mut() {
            file.checkpoint = true;
        }
    }

    /// Says from the next renewal on which marks the session heeds; until then whoever made them waits for it.
    pub(crate) async fn heeds(&self, marks: BTreeSet<MarkId>) {
        if let Some(file) = self.held.file.lock().await.as_mut() {
            file.marks = marks;
        }
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

    /// Whether it was written: a reader can do without.
    pub(crate) fn was_written(&self) -> bool {
        self.held.written.load(Ordering::SeqCst)
    }

    /// The session's id.
    pub(crate) fn session(&self) -> SessionId {
        self.held.session
    }

    /// How long the lease protects this session from now on, if it is not renewed.
    ///
    /// # Errors
    ///
    /// As [`check`](Self::check).
    pub(crate) fn left(&self) -> Result<Duration> {
        self.check()?;
        Ok(self.held.ttl.saturating_sub(self.held.silent()))
    }

    /// Renews the lease now.
    pub(crate) async fn renew(&self) -> Result<()> {
        self.held.write(Some(self.left()?)).await
    }

    /// Releases the lease after an error that matters more than what this may fail with.
    pub(crate) async fn give_up(self) {
        if let Err(error) = self.finish().await {
            tracing::warn!("a lease is left behind: {}", error.chain());
        }
    }

    /// Releases the lease.
    pub(crate) async fn finish(mut self) -> Result<()> {
        self.held.stop.cancel();
        // A renewal that is under way, cut short or not, may arrive after the lease was removed.
        let _ = (&mut self.renewal).await;
        self.held.release().await
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        self.held.stop.cancel();
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
    /// Since when it was not renewed.
    fn silent(&self) -> Duration {
        let now = self.repo.env().boottime();
        now.saturating_sub(*lock(&self.renewed))
    }

    fn check(&self) -> Result<()> {
        let silent = self.silent();
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

    /// Writes the lease, and tries so for `patience`, or as long as the store is tried at all.
    async fn write(&self, patience: Option<Duration>) -> Result<()> {
        let mut guard = self.file.lock().await;
        let Some(file) = guard.as_mut() else {
            return Ok(());
        };
        let patience = match file.kind {
            SessionKind::Writer => {
                self.check()?;
                patience
            }
            // It commits nothing: a lease that comes late protects from then on.
            SessionKind::Reader => Some(READER_PATIENCE),
        };
        let options = PutOptions {
            patience,
            ..PutOptions::default()
        };
        let began = self.repo.env().boottime();
        file.packs = self.unnamed.all();
        file.unfinished = self.unfinished(&file.packs);
        let packs = file.packs.clone();
        file.renewals += 1;
        let bytes = self
            .repo
            .sealer()
            .seal_json(FileKind::Lease, self.key.as_str(), &*file)?;
        self.repo
            .unlimited()
            .put(&self.key, bytes, options)
            .await
            .context(|| format!("write {}", self.key))?;
        self.written.store(true, Ordering::SeqCst);
        self.unnamed.told(&packs);
        *lock(&self.renewed) = began;
        Ok(())
    }

    /// Writes the lease, and tries so for as long as it lasts; no try is longer than what a renewal may take.
    async fn write_surely(&self) -> Result<()> {
        loop {
            match self.write(Some(self.ttl / 3)).await {
                Err(error) if error.retryable() => {
                    tracing::warn!("{}", error.chain());
                    tokio::time::sleep(GATHER).await;
                }
                written => return written,
            }
        }
    }

    /// What is in the store that is no object yet, of these packs or of all writes of the process.
    fn unfinished(&self, packs: &Unnamed) -> Vec<Unfinished> {
        let mut all = self.repo.unlimited().unfinished();
        all.retain(|left| left.key.as_ref().is_none_or(|key| packs.contains_key(key)));
        all
    }

    async fn release(&self) -> Result<()> {
        let mut file = self.file.lock().await;
        let Some(ended) = file.take() else {
            return Ok(());
        };
        if ended.kind == SessionKind::Writer {
            return self.end(ended).await;
        }
        if !self.written.load(Ordering::SeqCst) {
            return Ok(());
        }
        let late = |_| {
            let seconds = READER_PATIENCE.as_secs();
            let message = format!("remove {}: no answer in {seconds} s", self.key);
            Err(Side::Repository.error(Cause::Unavailable, message))
        };
        let end = tokio::time::timeout(READER_PATIENCE, self.end(ended));
        end.await.unwrap_or_else(late)
    }

    /// Removes the lease, or writes for the last time that its session has ended.
    async fn end(&self, mut ended: LeaseFile) -> Result<()> {
        ended.ttl_s = 0;
        ended.renewals += 1;
        ended.packs = self.unnamed.all();
        ended.unfinished = self.unfinished(&ended.packs);
        // The process goes on, and so may other writes of its.
        ended.unfinished.retain(|left| left.key.is_some());
        let (repo, name) = (&self.repo, self.key.as_str());
        let store = repo.unlimited();
        let bytes = repo.sealer().seal_json(FileKind::Lease, name, &ended)?;
        let say_ended = || store.put(&self.key, bytes, PutOptions::default());
        // A lease that names others, or a session of which something may still arrive, is for the
        // successor to read. Where it cannot be written it stays as it is, which says the same but for
        // the end; this process knows of that.
        repo.ended(self.session);
        if ended.uncertain || !ended.dead.is_empty() || !ended.packs.is_empty() {
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

/// Waits until there is something to tell that the lease does not, and a moment more, as more may follow.
async fn told_more(held: &Held) {
    held.unnamed.changed().await;
    tokio::time::sleep(GATHER).await;
}

async fn keep_renewed(held: Arc<Held>) {
    let third = held.ttl / 3;
    let mut pause = third;
    while !held.lapsed.load(Ordering::SeqCst) {
        tokio::select! {
            biased;
            () = held.stop.cancelled() => return,
            () = tokio::time::sleep(pause) => {}
            () = told_more(&held) => {}
        }
        // By then the next one is due.
        pause = match held.write(Some(third)).await {
            Ok(()) => third,
            Err(error) => {
                // A reader was told when it began.
                if held.written.load(Ordering::SeqCst) {
                    tracing::warn!("{}", error.chain());
                }
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
        let mut first_seen: HashMap<SessionId, blake3::Hash> = HashMap::new();
        let mut told = false;
        loop {
            let mut unknown = None;
            for lease in leases(self).await? {
                if !lease.rivals(&lineage) || lease.dead {
                    continue;
                }
                let first = *first_seen.entry(lease.session).or_insert(lease.hash);
                let host = lease.file.as_ref().map(|file| &file.host);
                if host.is_ok_and(|host| self.host().proves_alive(host)) || lease.hash != first {
                    return Err(locked(instance, &lease));
                }
                unknown = Some(lease);
            }
            let Some(lease) = unknown else { return Ok(()) };
            if !std::mem::replace(&mut told, true) {
                tracing::warn!(
                    "{} may be writing for this instance: its lease {} is watched for up to {} s",
                    lease.whose(),
                    StoredFile::Lease.path(&lease.session),
                    lease.patience().as_secs()
                );
            }
            tokio::time::sleep(WATCH_PAUSE).await;
        }
    }
}

/// The leases of dead writers of `lineage`, and of dead sessions that may have been some.
///
/// # Errors
///
/// [`Cause::Locked`] when a session other than `own` writes for it.
async fn refuse_second_writer(
    repo: &Repository,
    lineage: &Lineage,
    own: Option<SessionId>,
) -> Result<Vec<Seen>> {
    let mut dead = Vec::new();
    for lease in leases(repo).await? {
        if Some(lease.session) == own || !lease.rivals(lineage) {
            continue;
        }
        if !lease.dead {
            return Err(locked(&lineage.instance, &lease));
        }
        dead.push(lease);
    }
    Ok(dead)
}

/// A lease of some session.
#[derive(Debug)]
pub(crate) struct Seen {
    pub(crate) session: SessionId,
    /// What it says, or why that cannot be read. Then its session may be of any lineage, and alive: it would
    /// write its lease again.
    pub(crate) file: std::result::Result<LeaseFile, String>,
    /// Of its bytes.
    pub(crate) hash: blake3::Hash,
    /// Whether its session is dead: it says so, its process is proved gone, or the lease has not changed for
    /// twice its time to live while this process watched.
    pub(crate) dead: bool,
}

impl Seen {
    /// Whether its session writes for the lineage, or may do so.
    fn rivals(&self, lineage: &Lineage) -> bool {
        self.file.as_ref().map_or(true, |file| file.rivals(lineage))
    }

    /// The sessions that whoever sees this lease of a dead session takes for dead.
    pub(crate) fn bequeathed(&self) -> Vec<SessionId> {
        let Ok(file) = &self.file else {
            return vec![self.session];
        };
        let ended = file.ttl_s == 0 && !file.uncertain;
        let own = (!ended).then_some(self.session);
        own.into_iter().chain(file.dead.iter().copied()).collect()
    }

    /// Whether it may be of a writer.
    pub(crate) fn may_write(&self) -> bool {
        let writes = |file: &LeaseFile| file.kind == SessionKind::Writer;
        self.file.as_ref().map_or(true, writes)
    }

    /// How long it may stay unchanged before its session is dead.
    pub(crate) fn patience(&self) -> Duration {
        let ttl_s = self.file.as_ref().map_or(TTL_S, |file| file.ttl_s);
        Duration::from_secs(ttl_s.saturating_mul(2))
    }

    /// Whether it heeds a mark, as far as is known.
    pub(crate) fn heeds(&self, mark: &MarkId) -> bool {
        let heeds = |file: &LeaseFile| file.marks.contains(mark);
        self.file.as_ref().is_ok_and(heeds)
    }

    /// Who holds it, for people.
    pub(crate) fn whose(&self) -> String {
        match &self.file {
            Ok(LeaseFile { host, .. }) => format!("process {} on {}", host.pid, host.name),
            Err(why) => format!("a session that nothing is known of ({why})"),
        }
    }
}

/// Reads all leases, and remembers when each was first seen as it is.
///
/// # Errors
///
/// What the store fails with.
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
        let read = repo
            .sealer()
            .open_json::<LeaseFile>(FileKind::Lease, &path, &bytes);
        let (hash, now) = (blake3::hash(&bytes), repo.env().boottime());
        let mut lease = Seen {
            session: *id,
            file: read.map_err(|error| error.chain()),
            hash,
            dead: false,
        };
        let watched = now.saturating_sub(sighting(repo, *id, hash, now));
        let of_this_process =
            |lease: &Seen| (lease.file.as_ref()).map_or(true, |file| file.host == *repo.host());
        let says_so = |file: &LeaseFile| file.ttl_s == 0 || repo.host().proves_dead(&file.host);
        lease.dead = lease.file.as_ref().is_ok_and(says_so)
            || (of_this_process(&lease) && repo.has_ended(id))
            || repo.is_taken_for_dead(id)
            || watched > lease.patience();
        found.push(lease);
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

fn locked(instance: &str, lease: &Seen) -> Error {
    let message = match &lease.file {
        Ok(file) if instance == MAINTENANCE => format!(
            "another session prunes the repository: {} since {}",
            lease.whose(),
            file.created
        ),
        Ok(file) => format!(
            "another session writes for instance {instance:?}: {} since {}",
            lease.whose(),
            file.created
        ),
        Err(_) => format!("{} may write for instance {instance:?}", lease.whose()),
    };
    Side::Repository
        .error(Cause::Locked, message)
        .with_hint(format!(
            "wait for it; if that process is gone, remove {} after {} s without a change",
            StoredFile::Lease.path(&lease.session),
            lease.patience().as_secs()
        ))
}
