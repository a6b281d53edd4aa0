//! Writers, readers, who forgets, and who prunes, on hosts of their own in thousands of schedules: processes that stop
//! and go on, or die; answers that are lost; writes that arrive minutes after who sent them gave up.
//!
//! `EYRIE_SCHEDULES` sets how many there are, `EYRIE_SEED` the first one's seed. A failure names its seed.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::time::{Instant, sleep};

use super::schedules::{Arrivals, Dice, World, setting};
use super::support::*;
use crate::Result;
use crate::base::env::{Env, lock};
use crate::base::resources::Resources;
use crate::repo::format::ids::SessionId;
use crate::repo::repository::Rule;
use crate::repo::{CheckBytes, Manifest, PruneOptions, Repository, Unlock};
use crate::store::testing::memory::MemoryStore;

/// Schedules of a plain run.
const SCHEDULES: u64 = 20;
/// Schedules in which a broken rule must be noticed; it takes some ten at most.
const SCHEDULES_TO_NOTICE: u64 = 200;
/// How long they work, in seconds of the simulation.
const SPAN: u64 = 3_000;
/// How many objects there are to choose from: snapshots share many, and come back to what was forgotten.
const POOL: u64 = 12;

/// What happened.
#[derive(Debug, Default, Clone, Copy)]
struct Count {
    snapshots: usize,
    removed: u64,
    read: u64,
}

struct Hosts {
    world: World,
    /// With a broken rule everybody is in a hurry, so that what it does is seen soon.
    broken: Option<Rule>,
    /// What each session meant to commit.
    meant: Mutex<BTreeMap<SessionId, Objects>>,
    count: Mutex<Count>,
    /// What went wrong.
    wrong: Mutex<Vec<String>>,
}

impl Hosts {
    fn dice(&self) -> &Dice {
        &self.world.dice
    }

    /// A process on a host, which may be stopped at some time.
    async fn process(&self, host: u64) -> Result<Repository> {
        let (repo, stopped) = self.world.process(host).await?;
        if self.broken.is_none() && self.dice().roll(3) == 0 {
            let (after, dice) = (self.dice().seconds(20), self.dice().clone());
            tokio::spawn(async move {
                sleep(after).await;
                *lock(&stopped) = Some(Instant::now() + dice.seconds(700));
            });
        }
        Ok(repo.breaking(self.broken))
    }

    async fn dies(&self) {
        match self.dice().roll(6) {
            0 if self.broken.is_none() => sleep(self.dice().seconds(30)).await,
            _ => std::future::pending().await,
        }
    }

    async fn backup(&self, host: u64) -> Result<()> {
        let repo = self.process(host).await?;
        let instance = format!("i{host}");
        repo.wait_for_other_writers(&instance).await?;
        let snapshots = repo.snapshots().await?;
        let parent = snapshots.newest_of(&instance).map(|m| m.snapshot);
        let auto = crate::repo::Compression::Auto;
        let writer = repo
            .begin_writer(&instance, parent.into_iter().collect(), auto)
            .await?;
        let mut data = Objects::new();
        for _ in 0..=self.dice().roll(4) {
            let n = self.dice().roll(if self.broken.is_none() {
                POOL
            } else {
                POOL / 3
            });
            data.insert(format!("pool/{n:02}"), noise(n, 2_000));
        }
        lock(&self.meant).insert(writer.session(), data.clone());
        let work = async {
            for (name, bytes) in &data {
                store(&writer, name, bytes).await?;
                if self.dice().roll(3) == 0 {
                    sleep(self.dice().seconds(60)).await;
                }
            }
            write_snapshot(&writer, &data).await
        };
        let wrote = tokio::select! {
            wrote = work => Some(wrote),
            () = self.dies() => None,
        };
        match wrote {
            None => drop(writer),
            Some(_) => writer.finish().await?,
        }
        Ok(())
    }

    /// Reads a snapshot: as long as the lease holds, it is what was meant.
    async fn restore(&self, host: u64) -> Result<()> {
        let repo = self.process(host).await?;
        let all = repo.snapshots().await?.manifests;
        if all.is_empty() {
            return Ok(());
        }
        let place = self.dice().roll(all.len() as u64);
        let manifest = &all[usize::try_from(place).unwrap()];
        let instance = &manifest.instance;
        let reader = repo.begin_reader(instance, vec![manifest.snapshot]).await?;
        // It is no session whose lease came too late to be seen.
        let protected = reader.check_lease().is_ok() && reader.has_lease();
        sleep(self.dice().seconds(300)).await;
        let read = restore(reader.view(), manifest).await;
        let protected = protected && reader.check_lease().is_ok();
        let meant = lock(&self.meant).get(&manifest.session).cloned();
        if protected {
            lock(&self.count).read += 1;
            match read {
                Ok(objects) if Some(&objects) == meant.as_ref() => {}
                // The store fails now and then.
                Err(error) if error.retryable() => {}
                other => {
                    let what = other.err().map(|error| error.chain());
                    let id = manifest.snapshot.short();
                    lock(&self.wrong).push(format!("reading {id}: {what:?}"));
                }
            }
        }
        reader.finish().await;
        Ok(())
    }

    /// Forgets all but the last snapshot of an instance, or but the last two.
    async fn forget(&self, host: u64) -> Result<()> {
        let repo = self.process(host).await?;
        let all = repo.snapshots().await?.manifests;
        let mut of: BTreeMap<&str, Vec<&Manifest>> = BTreeMap::new();
        for manifest in &all {
            of.entry(&manifest.instance).or_default().push(manifest);
        }
        let kept = usize::try_from(1 + self.dice().roll(2)).unwrap();
        let going = of.values().flat_map(|all| all.iter().rev().skip(kept));
        let going: Vec<Manifest> = going.map(|manifest| (*manifest).clone()).collect();
        if !going.is_empty() {
            repo.record_forgetting(&going).await?;
        }
        Ok(())
    }

    async fn prune(&self, host: u64) -> Result<()> {
        let repo = self.process(host).await?;
        let options = PruneOptions {
            grace: match self.broken {
                None => Duration::from_secs(self.dice().roll(2) * 60),
                Some(_) => Duration::ZERO,
            },
            max_unused: 0.0,
            ..PruneOptions::default()
        };
        let report = tokio::select! {
            report = repo.prune(&options) => report?,
            () = self.dies() => return Ok(()),
        };
        lock(&self.count).removed += report.removed.count;
        Ok(())
    }

    async fn works(&self, host: u64) {
        while Instant::now() < self.world.ends {
            let pause = match (self.broken, host) {
                (None, _) => 90,
                (Some(_), 0..4) => 20,
                (Some(_), _) => 5,
            };
            sleep(self.dice().seconds(pause)).await;
            // Whatever became of it, the host tries again.
            let _ = match host {
                0 | 1 => self.backup(host).await,
                2 | 3 => self.restore(host).await,
                4 => self.forget(host).await,
                _ => self.prune(host).await,
            };
        }
    }
}

/// Runs the schedule of a seed.
async fn run(seed: u64, broken: Option<Rule>) -> std::result::Result<Count, String> {
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
    let hosts = Hosts {
        world: World {
            store,
            dice: Dice::new(seed),
            resources,
            arrivals: Arrivals::default(),
            ends: Instant::now()
                + Duration::from_secs(if broken.is_none() { SPAN } else { SPAN / 10 }),
        },
        broken,
        meant: Mutex::default(),
        count: Mutex::default(),
        wrong: Mutex::default(),
    };
    futures::future::join_all((0..7).map(|host| hosts.works(host))).await;
    // What was sent has arrived by now.
    sleep(Duration::from_secs(1_000)).await;
    let mut wrong = hosts.wrong.into_inner().unwrap();
    let all = repo.snapshots().await.unwrap();
    wrong.extend(all.damage.iter().map(|damage| damage.what.clone()));
    let report = repo.check(&[], CheckBytes::All).await.unwrap();
    let suffers = report.damage.iter().filter(|d| !d.snapshots.is_empty());
    wrong.extend(suffers.map(|damage| damage.what.clone()));
    let view = repo.view().await.unwrap();
    let meant = hosts.meant.into_inner().unwrap();
    for manifest in &all.manifests {
        let read = restore(&view, manifest).await;
        if read.as_ref().ok() != meant.get(&manifest.session) {
            let why = read.err().map(|error| error.chain());
            wrong.push(format!("{}: {why:?}", manifest.snapshot.short()));
        }
    }
    if let Some(first) = wrong.first() {
        return Err(format!("{first}, and {} more", wrong.len() - 1));
    }
    // Nobody is at work any more: what nobody needs goes, and nothing is left of marks and leases.
    let at_once = PruneOptions {
        grace: Duration::ZERO,
        max_unused: 0.0,
        ..PruneOptions::default()
    };
    for _ in 0..4 {
        repo.prune(&at_once).await.unwrap();
    }
    let last = repo.prune(&at_once).await.unwrap();
    // A mark stays that names a dead session, whose lineage has no later one.
    let marks = repo.marks().await.unwrap().known;
    let packs = marks.iter().flat_map(|mark| &mark.packs).count();
    if last.marked.count > 0 || last.unused_bytes > 0 || packs > 0 {
        return Err(format!("something is left for ever: {last:?}"));
    }
    let report = repo.check(&[], CheckBytes::All).await.unwrap();
    if let Some(damage) = report.damage.first() {
        return Err(damage.what.clone());
    }
    let mut count = hosts.count.into_inner().unwrap();
    count.snapshots = all.manifests.len();
    Ok(count)
}

fn in_simulation(seed: u64, broken: Option<Rule>) -> std::result::Result<Count, String> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .build()
        .unwrap();
    let run = std::panic::AssertUnwindSafe(|| runtime.block_on(run(seed, broken)));
    std::panic::catch_unwind(run).unwrap_or_else(|_| Err("a panic".to_owned()))
}

#[test]
fn no_schedule_of_prunes_removes_what_is_needed_or_leaves_what_is_not_simulated() {
    let first = setting("EYRIE_SEED", 1);
    let mut all = Count::default();
    for seed in first..first + setting("EYRIE_SCHEDULES", SCHEDULES) {
        match in_simulation(seed, None) {
            Ok(count) => {
                all.snapshots += count.snapshots;
                all.removed += count.removed;
                all.read += count.read;
            }
            Err(what) => panic!(
                "the schedule of seed {seed} failed: {what}; EYRIE_SEED={seed} EYRIE_SCHEDULES=1 runs it alone"
            ),
        }
    }
    println!("{all:?}");
    assert!(
        all.snapshots > 0 && all.removed > 0 && all.read > 0,
        "{all:?}"
    );
}

#[test]
fn a_broken_rule_of_pruning_is_noticed_simulated() {
    for rule in [Rule::Waiting, Rule::Proof] {
        let noticed = (1..=SCHEDULES_TO_NOTICE).find_map(|seed| {
            let what = in_simulation(seed, Some(rule)).err()?;
            Some((seed, what))
        });
        println!("{rule:?}: {noticed:?}");
        assert!(noticed.is_some(), "{rule:?} may be broken");
    }
}
