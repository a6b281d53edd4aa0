//! Writers on several hosts in thousands of schedules: processes that stop and go on, or die; answers that are lost;
//! writes that arrive minutes after who sent them gave up.
//!
//! `EYRIE_SCHEDULES` sets how many there are, `EYRIE_SEED` the first one's seed. A failure names its seed.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use futures::stream::BoxStream;
use futures::{FutureExt, StreamExt};
use tokio::time::{Instant, sleep, sleep_until};

use super::support::*;
use crate::base::env::{Env, lock};
use crate::base::resources::Resources;
use crate::repo::format::files::StoredFile;
use crate::repo::format::ids::{MarkId, SessionId, SnapshotId};
use crate::repo::format::mark::Mark;
use crate::repo::format::sealed::FileKind;
use crate::repo::host::Host;
use crate::repo::session::lease::leases;
use crate::repo::{CheckBytes, Manifest, Repository, Unlock};
use crate::store::testing::memory::MemoryStore;
use crate::store::{
    Capabilities, GetOptions, Key, ListOptions, Meta, Parts, Put, PutOptions, Store, Unfinished,
};
use crate::{Cause, Error, Result};

/// Schedules of a plain run.
const SCHEDULES: u64 = 60;
/// How long the hosts work, in seconds of the simulation.
const SPAN: u64 = 2_400;
const HOSTS: u64 = 3;

/// Dice that fall in the same way for a seed.
#[derive(Debug, Clone)]
pub(super) struct Dice(Arc<Mutex<u64>>);

impl Dice {
    pub(super) fn new(seed: u64) -> Self {
        Self(Arc::new(Mutex::new(seed)))
    }

    /// A number below `below` (splitmix64).
    pub(super) fn roll(&self, below: u64) -> u64 {
        let mut state = lock(&self.0);
        *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = *state;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % below
    }

    pub(super) fn seconds(&self, below: u64) -> Duration {
        Duration::from_millis(self.roll(below * 1_000))
    }
}

/// What arrived at the store and when, of what decides which snapshots count.
pub(super) type Arrivals = Arc<Mutex<HashMap<String, Instant>>>;

/// Until when a process is stopped.
pub(super) type Stopped = Arc<Mutex<Option<Instant>>>;

/// The store as one process sees it.
#[derive(Debug, Clone)]
struct Wire {
    store: MemoryStore,
    dice: Dice,
    arrivals: Arrivals,
    /// The process is stopped until then.
    stopped: Stopped,
}

impl Wire {
    /// A request on its way: it waits for as long as the process is stopped.
    async fn on_its_way(&self) {
        sleep(Duration::from_millis(self.dice.roll(200))).await;
        loop {
            let until = *lock(&self.stopped);
            match until.filter(|until| *until > Instant::now()) {
                Some(until) => sleep_until(until).await,
                None => return,
            }
        }
    }

    fn lost() -> Error {
        Error::new(Cause::Unavailable, "no answer came")
    }

    async fn arrive(self, key: Key, bytes: Bytes, options: PutOptions) -> Result<Put> {
        let put = self.store.put(&key, bytes, options).await?;
        let arrived = Instant::now();
        lock(&self.arrivals)
            .entry(key.to_string())
            .or_insert(arrived);
        Ok(put)
    }
}

#[async_trait]
impl Store for Wire {
    fn location(&self) -> String {
        "the wire".into()
    }

    fn capabilities(&self) -> Capabilities {
        self.store.capabilities()
    }

    async fn get(&self, key: &Key, options: GetOptions) -> Result<Bytes> {
        self.on_its_way().await;
        self.store.get(key, options).await
    }

    async fn put(&self, key: &Key, bytes: Bytes, options: PutOptions) -> Result<Put> {
        self.on_its_way().await;
        let arrive = self.clone().arrive(key.clone(), bytes, options);
        match self.dice.roll(40) {
            // It never arrives, or its answer does not.
            0 => Err(Self::lost()),
            1 => {
                arrive.await?;
                Err(Self::lost())
            }
            // It arrives when nobody waits for it any more.
            2 | 3 => {
                let later = self.dice.seconds(600);
                tokio::spawn(async move {
                    sleep(later).await;
                    arrive.await
                });
                sleep(self.dice.seconds(30)).await;
                Err(Self::lost())
            }
            // The store is slow.
            4 => {
                sleep(self.dice.seconds(200)).await;
                arrive.await
            }
            _ => arrive.await,
        }
    }

    async fn parts(&self, key: &Key, options: PutOptions) -> Result<Arc<dyn Parts>> {
        self.on_its_way().await;
        self.store.parts(key, options).await
    }

    async fn head(&self, key: &Key) -> Result<Meta> {
        self.on_its_way().await;
        self.store.head(key).await
    }

    fn list(&self, prefix: &str, options: ListOptions) -> BoxStream<'_, Result<Meta>> {
        let prefix = prefix.to_owned();
        let listed = async move {
            self.on_its_way().await;
            self.store.list(&prefix, options)
        };
        listed.flatten_stream().boxed()
    }

    async fn delete(&self, key: &Key, version: Option<&str>) -> Result<()> {
        self.on_its_way().await;
        if self.dice.roll(20) == 0 {
            return Err(Self::lost());
        }
        self.store.delete(key, version).await
    }

    async fn sync(&self) -> Result<()> {
        self.store.sync().await
    }

    fn unfinished(&self) -> Vec<Unfinished> {
        self.store.unfinished()
    }

    async fn remove_unfinished(&self, left: &Unfinished) -> Result<()> {
        self.store.remove_unfinished(left).await
    }
}

pub(super) struct World {
    pub(super) store: MemoryStore,
    pub(super) dice: Dice,
    pub(super) resources: Resources,
    pub(super) arrivals: Arrivals,
    pub(super) ends: Instant,
}

impl World {
    /// A new process on a host, which no other can look at.
    pub(super) async fn process(&self, host: u64) -> Result<(Repository, Stopped)> {
        let stopped = Arc::new(Mutex::new(None));
        let wire = Wire {
            store: self.store.clone(),
            dice: self.dice.clone(),
            arrivals: self.arrivals.clone(),
            stopped: stopped.clone(),
        };
        let env = Env::of_tokio(self.dice.roll(u64::MAX));
        let repo = Repository::open(Arc::new(wire), Unlock::None, &self.resources, &env).await?;
        let host = Host {
            name: format!("host-{host}"),
            boot: format!("boot-{host}"),
            start: self.dice.roll(u64::MAX),
            ..Host::current()
        };
        Ok((repo.on_host(host), stopped))
    }

    /// One backup of a host, which may be stopped or die at any time.
    async fn backup(&self, host: u64) -> Result<()> {
        let (repo, stopped) = self.process(host).await?;
        repo.wait_for_other_writers("a").await?;
        let writer = writer(&repo, "a").await?;
        let stops = async {
            if self.dice.roll(3) == 0 {
                sleep(self.dice.seconds(5)).await;
                *lock(&stopped) = Some(Instant::now() + self.dice.seconds(700));
            }
            std::future::pending::<()>().await;
        };
        let dies = async {
            match self.dice.roll(6) {
                0 => sleep(self.dice.seconds(10)).await,
                _ => std::future::pending().await,
            }
        };
        let data = Objects::from([(format!("by/{host}"), noise(self.dice.roll(50), 3_000))]);
        let wrote = tokio::select! {
            wrote = write_snapshot(&writer, &data) => Some(wrote),
            () = stops => None,
            () = dies => None,
        };
        match wrote {
            // Nothing of it is told to anybody: the lease stays as it is.
            None => drop(writer),
            Some(_) => writer.finish().await?,
        }
        Ok(())
    }

    /// Takes sessions for dead whose leases it saw unchanged for long enough, as who prunes does, and says so in a
    /// mark.
    async fn mark(&self) -> Result<()> {
        let (repo, _) = self.process(99).await?;
        leases(&repo).await?;
        sleep(Duration::from_secs(241)).await;
        let dead = leases(&repo).await?;
        let seen = repo.snapshots().await?;
        let dead = dead.iter().filter(|lease| lease.dead).map(|lease| {
            let of = |manifest: &&Manifest| manifest.session == lease.session;
            let known = seen.manifests.iter().filter(of).map(|m| m.snapshot);
            (lease.session, known.collect::<Vec<_>>())
        });
        let dead: BTreeMap<SessionId, Vec<SnapshotId>> = dead.collect();
        if dead.is_empty() {
            return Ok(());
        }
        let mark = Mark {
            id: MarkId(repo.env().id()),
            created: repo.env().now(),
            packs: vec![],
            moved: BTreeMap::new(),
            dead,
        };
        let path = StoredFile::Mark.path(&mark.id);
        let bytes = repo.sealer().seal_json(FileKind::Mark, &path, &mark)?;
        repo.put_once(&path, bytes).await
    }

    async fn works(&self, host: u64) {
        while Instant::now() < self.ends {
            sleep(self.dice.seconds(120)).await;
            // Whatever became of it, the host tries again.
            let _ = self.backup(host).await;
        }
    }
}

/// Runs the schedule of a seed. Returns how many snapshots count, and how many manifests do not.
async fn run(seed: u64) -> (usize, usize) {
    let store = MemoryStore::new();
    let resources = Resources::simulated();
    let env = Env::of_tokio(seed);
    let made = Repository::init(
        Arc::new(store.clone()),
        Unlock::None,
        options(),
        &resources,
        &env,
    );
    let repo = made.await.unwrap();
    let world = World {
        store: store.clone(),
        dice: Dice::new(seed),
        resources,
        arrivals: Arrivals::default(),
        ends: Instant::now() + Duration::from_secs(SPAN),
    };
    let marks = async {
        if world.dice.roll(4) == 0 {
            sleep(world.dice.seconds(SPAN)).await;
            let _ = world.mark().await;
        }
    };
    let hosts = (0..HOSTS).map(|host| world.works(host));
    tokio::join!(futures::future::join_all(hosts), marks);
    // What was sent has arrived by now.
    sleep(Duration::from_secs(1_000)).await;

    let all = repo.snapshots().await.unwrap();
    assert_eq!(all.damage, [], "seed {seed}");
    let mut numbers = HashSet::new();
    for manifest in &all.manifests {
        assert!(
            numbers.insert(manifest.sequence),
            "seed {seed}: two of number {}",
            manifest.sequence
        );
    }
    // A session that was taken for dead, by a mark or by a snapshot that counts, commits nothing afterwards.
    let arrivals = lock(&world.arrivals).clone();
    let when = |path: String| arrivals[&path];
    let mut taken: Vec<(Instant, SessionId, Vec<SnapshotId>)> = Vec::new();
    for mark in repo.marks().await.unwrap().known {
        let path = StoredFile::Mark.path(&mark.id);
        taken.extend(
            mark.dead
                .into_iter()
                .map(|(session, known)| (when(path.clone()), session, known)),
        );
    }
    for manifest in &all.manifests {
        let at = when(StoredFile::Manifest.path(&manifest.snapshot));
        taken.extend(
            manifest
                .dead
                .iter()
                .map(|(session, known)| (at, *session, known.clone())),
        );
    }
    for (at, session, known) in taken {
        for manifest in all.manifests.iter().filter(|m| m.session == session) {
            let arrived = when(StoredFile::Manifest.path(&manifest.snapshot));
            let id = manifest.snapshot.short();
            assert!(
                arrived <= at,
                "seed {seed}: {id} came after its session was taken for dead"
            );
            assert!(
                known.contains(&manifest.snapshot),
                "seed {seed}: {id} is over a mark"
            );
        }
    }
    let report = repo.check(&[], CheckBytes::All).await.unwrap();
    assert_eq!(report.damage, [], "seed {seed}");
    (all.manifests.len(), all.void.len())
}

pub(super) fn setting(name: &str, default: u64) -> u64 {
    let value = std::env::var(name).ok();
    value.map_or(default, |text| text.parse().unwrap())
}

#[test]
fn no_schedule_gives_two_snapshots_a_number_or_lets_one_count_that_was_taken_for_dead_simulated() {
    let first = setting("EYRIE_SEED", 1);
    let (mut snapshots, mut void) = (0, 0);
    for seed in first..first + setting("EYRIE_SCHEDULES", SCHEDULES) {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .start_paused(true)
            .build()
            .unwrap();
        let counted =
            std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| runtime.block_on(run(seed))));
        let Ok((counts, voids)) = counted else {
            panic!(
                "the schedule of seed {seed} failed: EYRIE_SEED={seed} EYRIE_SCHEDULES=1 runs it alone"
            );
        };
        snapshots += counts;
        void += voids;
    }
    println!("{snapshots} snapshots, {void} manifests that are none");
    assert!(snapshots > 0 && void > 0, "{snapshots} {void}");
}
