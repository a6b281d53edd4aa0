//! The window on a simulated Milvus 2.4.24, with a real etcd.

use std::net::SocketAddr;

use nix::sys::signal::Signal;

use super::super::quiet::QUIET;
use super::super::tests::context;
use super::*;
use crate::base::env::lock;
use crate::base::progress::{Amount, Progress};
use crate::etcd::KeyValue;
use crate::etcd::members_tests::{Cluster, connect};
use crate::etcd::{self, Process};
use crate::instance::holds::HoldState;
use crate::instance::methods::Method;
use crate::instance::methods::pinning::Pinning;
use crate::milvus::MilvusVersion;
use crate::milvus::proto::common::SegmentState;
use crate::milvus::proto::data::SegmentInfo;
use crate::milvus::simulated::keys::SimulatedKeys;
use crate::milvus::simulated::{Backing, Script, SimulatedMilvus, Writes};
use crate::store::SharedStore;
use crate::store::testing::memory::MemoryStore;

/// Later than anything that the simulated Milvus gives a timestamp.
const FUTURE: u64 = 1_900_000_000_000 << 18;

const WRITES_KEY: &str = "by-dev/config/quotaAndLimits/limitWriting/forceDeny";

const FENCE: &str = "by-dev/eyrie/capture-fence";

/// An instance with flushed segments.
struct World {
    backing: Backing,
    running: Running,
    context: Context,
    milvus: SimulatedMilvus,
    _directory: tempfile::TempDir,
    _process: Option<Process>,
}

impl World {
    async fn new() -> Self {
        let (etcd, process, directory) = etcd::scratch().await;
        Self {
            _process: Some(process),
            ..Self::on(etcd, directory).await
        }
    }

    async fn on(etcd: Etcd, directory: tempfile::TempDir) -> Self {
        let version = MilvusVersion::new(2, 4, 24);
        let backing = Backing {
            etcd,
            roots: SimulatedKeys::roots(),
            version: version.clone(),
            storage: directory.path().join("objects"),
        };
        let mut set = SimulatedKeys::new(version.clone());
        for id in 0..5 {
            let segment = set.segment(1_000 + id);
            set.whole(&segment);
        }
        backing.seed(&set).await.unwrap();
        let script = Script {
            writes: Writes::AsConfigured,
            ..Script::new("2.4.24")
        };
        let any_port = SocketAddr::from(([127, 0, 0, 1], 0));
        let milvus = SimulatedMilvus::start_on(&backing, script, any_port).await;
        let client = milvus.client().await;
        let running = Running {
            proxies: vec![client.clone()],
            client,
            rules: version.rules(),
            version,
        };
        Self {
            backing,
            running,
            context: context(),
            milvus,
            _directory: directory,
            _process: None,
        }
    }

    /// Waits until a flush was asked for so many times. Of a quiesced capture the second is under the hold.
    async fn flushed(&self, times: usize) {
        let asked = || {
            let calls = self.milvus.calls();
            calls.iter().filter(|call| **call == "FlushAll").count()
        };
        while asked() < times {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    /// A segment whose rows are newer than any cut.
    async fn with_rows_of_the_future(&self) {
        let mut set = SimulatedKeys::empty(self.running.version.clone());
        set.time = FUTURE;
        set.whole(&set.segment(2_000));
        self.backing.seed(&set).await.unwrap();
    }

    fn window<'a>(&'a self, options: &'a Options) -> Window<'a> {
        let etcd = self.backing.etcd.clone();
        let roots = &self.backing.roots;
        Window::new(&self.context, options, &self.running, roots, etcd)
    }
}

/// How the holds on writes ended, one after the other.
fn writes_holds(holds: &Holds) -> Vec<HoldState> {
    let records = holds.records().into_iter();
    let writes = records.filter(|record| record.hold == holds::WRITES.name);
    writes.map(|record| record.state).collect()
}

/// Lets etcd forget all but its newest revision each time that the whole anchor is about to be judged: when
/// that phase begins and writes are not denied any more.
#[derive(Debug)]
struct Compacting(Etcd);

impl Progress for Compacting {
    fn begin(&self, phase: &'static str, _: Option<Amount>) {
        if phase != "anchor" {
            return;
        }
        let mut etcd = self.0.clone();
        let compact = async move {
            if etcd.get(WRITES_KEY).await.unwrap().is_none() {
                etcd.compact().await;
            }
        };
        tokio::task::block_in_place(|| tokio::runtime::Handle::current().block_on(compact));
    }
    fn expect(&self, _: Amount) {}
    fn advance(&self, _: Amount) {}
    fn note(&self, _: &str) {}
    fn end(&self) {}
}

#[tokio::test]
async fn writes_pass_before_the_whole_is_judged_and_it_is_of_the_same_revision_simulated_milvus_2_4_24()
 {
    let world = World::new().await;
    let options = Options::new(Method::Copy.open().unwrap());
    let window = world.window(&options);
    let mut holds = Holds::default();
    let settled = window
        .settled(&mut holds, ReadScope::CutPoint)
        .await
        .unwrap();
    let decided = &settled.decided.read;
    let revision = decided.revision;
    let mut etcd = world.backing.etcd.clone();
    let config = etcd.read_prefix("by-dev/config/").await.unwrap();
    assert_eq!(config.keys, [], "nothing is held any more");
    let with_logs = decided.catalog.segments.iter().filter(|s| s.has_logs());
    assert_eq!(with_logs.count(), 0, "no log decided");

    let before = etcd.read_at("by-dev/", revision).await.unwrap().unwrap();
    world.with_rows_of_the_future().await;
    let Completed::Anchored(anchored) = complete(&window.reader, settled).await.unwrap() else {
        panic!("nothing contradicts the anchor");
    };
    assert_eq!(anchored.revision, revision);
    let fence = |kv: &&KeyValue| kv.key == FENCE.as_bytes();
    assert_eq!(before.iter().filter(fence).count(), 1);
    assert_eq!(
        anchored.etcd_keys,
        before.len() as u64 - 1,
        "the fence is none of them"
    );
    let with_logs = anchored.catalog.live_segments().filter(|s| s.has_logs());
    assert_eq!(with_logs.count(), 5);
    assert!(anchored.cut.proven);
}

#[tokio::test]
async fn the_method_takes_once_at_the_revision_of_the_anchor_simulated_milvus_2_4_24() {
    let world = World::new().await;
    let store: SharedStore = std::sync::Arc::new(MemoryStore::new());
    let method = std::sync::Arc::new(Pinning::new(store));
    let options = Options::new(method.clone());
    let mut holds = Holds::default();
    let anchored = world.window(&options).take(&mut holds).await.unwrap();
    assert_eq!(writes_holds(&holds), [HoldState::Held]);
    let asked = lock(&method.asked).clone();
    assert_eq!(asked, [format!("take {}", anchored.revision)]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_revision_that_etcd_compacts_after_the_release_is_known_already_simulated_milvus_2_4_24()
{
    let mut world = World::new().await;
    world.context.progress = std::sync::Arc::new(Compacting(world.backing.etcd.clone()));
    let options = Options::new(Method::Copy.open().unwrap());
    let mut holds = Holds::default();
    let anchored = world.window(&options).take(&mut holds).await.unwrap();
    assert_eq!(writes_holds(&holds), [HoldState::Held]);
    assert_eq!(anchored.catalog.live_segments().count(), 5);
    assert!(
        anchored
            .catalog
            .live_segments()
            .all(crate::milvus::catalog::Segment::has_logs)
    );
    assert!(anchored.cut.proven);
}

#[tokio::test]
async fn a_log_that_the_decision_did_not_see_voids_it_and_another_window_says_so_simulated_milvus_2_4_24()
 {
    let world = World::new().await;
    world.with_rows_of_the_future().await;
    let options = Options::new(Method::Copy.open().unwrap());
    let window = world.window(&options);
    let mut holds = Holds::default();
    let settled = window
        .settled(&mut holds, ReadScope::CutPoint)
        .await
        .unwrap();
    match complete(&window.reader, settled).await.unwrap() {
        Completed::Void(why) => assert!(why.contains("newer than the cut"), "{why}"),
        Completed::Anchored(anchored) => panic!("{:?}", anchored.cut),
    }

    let mut holds = Holds::default();
    let anchored = window.take(&mut holds).await.unwrap();
    assert_eq!(writes_holds(&holds), [HoldState::Held, HoldState::Held]);
    assert!(!anchored.cut.proven);
    assert!(
        anchored
            .cut
            .straddling
            .iter()
            .all(|log| log.contains("/2000/"))
    );
}

/// Puts the first half of an update when the last flush was asked for, and the rest after a revision was
/// marked.
async fn saves_in_two_parts(
    world: &World,
    flushes: usize,
    first: &SimulatedKeys,
    rest: &SimulatedKeys,
) {
    let mut etcd = world.backing.etcd.clone();
    world.flushed(flushes).await;
    put(&mut etcd, first).await;
    while etcd.get(FENCE).await.unwrap().is_none() {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    tokio::time::sleep(QUIET / 4).await;
    put(&mut etcd, rest).await;
}

async fn put(etcd: &mut Etcd, set: &SimulatedKeys) {
    for kv in &set.keys {
        let pair = [(kv.key.clone(), kv.value.clone())];
        let put = etcd.put_all("simulating", vec![], &pair, None);
        put.await.unwrap();
    }
}

#[tokio::test]
async fn a_compaction_that_is_half_saved_at_a_revision_voids_it_and_a_later_one_has_all_of_it_simulated_milvus_2_4_24()
 {
    for (mode, flushes) in [(Mode::Quiesced, 2), (Mode::Hot, 1)] {
        let world = World::new().await;
        let set = SimulatedKeys::empty(world.running.version.clone());
        let mut inputs = set.clone();
        for id in [1_000, 1_001] {
            let input = SegmentInfo {
                state: SegmentState::Dropped.into(),
                ..set.segment(id)
            };
            inputs.record(&input);
        }
        let mut output = set.clone();
        output.whole(&SegmentInfo {
            num_of_rows: 20,
            compaction_from: vec![1_000, 1_001],
            created_by_compaction: true,
            ..set.segment(3_000)
        });
        let options = Options {
            mode,
            ..Options::new(Method::Copy.open().unwrap())
        };
        let (window, mut holds) = (world.window(&options), Holds::default());
        let (anchored, ()) = tokio::join!(
            window.take(&mut holds),
            saves_in_two_parts(&world, flushes, &inputs, &output)
        );
        let anchored = anchored.unwrap();
        let live = anchored.catalog.live_segments().map(|s| s.key.segment);
        assert_eq!(
            live.collect::<Vec<_>>(),
            [1_002, 1_003, 1_004, 3_000],
            "{mode}"
        );
    }
}

/// What happens to a member of etcd during a capture.
#[derive(Debug, Clone, Copy)]
enum Member {
    DeadBefore(usize),
    FrozenBefore(usize),
    KilledWhileHeld(usize),
    FrozenWhileHeld(usize),
}

#[tokio::test(flavor = "multi_thread")]
async fn a_member_of_etcd_that_is_dead_or_frozen_or_dies_while_writes_are_held_costs_no_capture_simulated_milvus_2_4_24()
 {
    use Member as M;
    // Whichever is the leader is among them.
    let all = [
        M::DeadBefore(0),
        M::FrozenBefore(0),
        M::KilledWhileHeld(0),
        M::KilledWhileHeld(1),
        M::KilledWhileHeld(2),
        M::FrozenWhileHeld(0),
    ];
    for some in all.chunks(2) {
        futures::future::join_all(some.iter().map(|member| survives(*member))).await;
    }
}

async fn survives(what: Member) {
    let mut cluster = Cluster::start(3).await;
    let (etcd, _) = connect(&cluster.endpoints()).await.unwrap();
    let world = World::on(etcd, tempfile::tempdir().unwrap()).await;
    match what {
        Member::DeadBefore(at) => cluster.kill(at).await,
        Member::FrozenBefore(at) => cluster.signal(at, Signal::SIGSTOP),
        Member::KilledWhileHeld(_) | Member::FrozenWhileHeld(_) => {}
    }
    // As an agent that begins now.
    let (etcd, _) = connect(&cluster.endpoints()).await.unwrap();
    let options = Options::new(Method::Copy.open().unwrap());
    let window = Window::new(
        &world.context,
        &options,
        &world.running,
        &world.backing.roots,
        etcd.clone(),
    );
    let happens = async {
        while etcd.clone().get(FENCE).await.unwrap().is_none() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        match what {
            Member::KilledWhileHeld(at) => cluster.kill(at).await,
            Member::FrozenWhileHeld(at) => cluster.signal(at, Signal::SIGSTOP),
            Member::DeadBefore(_) | Member::FrozenBefore(_) => {}
        }
    };
    let mut holds = Holds::default();
    let (anchored, ()) = tokio::join!(window.take(&mut holds), happens);
    let anchored = anchored.unwrap_or_else(|error| panic!("{what:?}: {}", error.chain()));
    assert_eq!(anchored.catalog.live_segments().count(), 5, "{what:?}");
    assert!(anchored.cut.proven, "{what:?}");
    assert_eq!(writes_holds(&holds), [HoldState::Held], "{what:?}");
    let left = etcd.clone().read_prefix("by-dev/config/").await.unwrap();
    assert_eq!(left.keys, [], "{what:?}");
}

#[tokio::test]
async fn a_hold_that_is_lost_before_the_anchor_is_refused_for_that_reason_simulated_milvus_2_4_24()
{
    for revoked in [false, true] {
        let world = World::new().await;
        let mut etcd = world.backing.etcd.clone();
        let options = Options::new(Method::Copy.open().unwrap());
        let (window, mut holds) = (world.window(&options), Holds::default());
        let lost = async {
            world.flushed(2).await;
            let hold = etcd.get(WRITES_KEY).await.unwrap().unwrap();
            if revoked {
                etcd.revoke(hold.lease).await;
            } else {
                let key = [hold.key];
                etcd.delete_all("an operator", vec![], &key).await.unwrap();
            }
        };
        let (taken, ()) = tokio::join!(window.take(&mut holds), lost);
        let error = taken.unwrap_err();
        assert_eq!(error.exit_code(), 20, "{revoked}: {}", error.chain());
        let said = error.chain();
        assert!(said.contains("lost"), "{revoked}: {said}");
    }
}
