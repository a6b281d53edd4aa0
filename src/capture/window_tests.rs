//! The window on a simulated Milvus 2.4.24, with a real etcd.

use std::net::SocketAddr;

use super::super::tests::context;
use super::*;
use crate::base::env::lock;
use crate::base::progress::{Amount, Progress};
use crate::etcd::{self, Process};
use crate::instance::holds::HoldState;
use crate::instance::methods::Method;
use crate::instance::methods::pinning::Pinning;
use crate::milvus::MilvusVersion;
use crate::milvus::simulated::keys::SimulatedKeys;
use crate::milvus::simulated::{Backing, Script, SimulatedMilvus, Writes};
use crate::store::SharedStore;
use crate::store::testing::memory::MemoryStore;

/// Later than anything that the simulated Milvus gives a timestamp.
const FUTURE: u64 = 1_900_000_000_000 << 18;

const WRITES_KEY: &str = "by-dev/config/quotaAndLimits/limitWriting/forceDeny";

/// An instance with flushed segments.
struct World {
    backing: Backing,
    running: Running,
    context: Context,
    _servers: (SimulatedMilvus, Process, tempfile::TempDir),
}

impl World {
    async fn new() -> Self {
        let (etcd, process, directory) = etcd::scratch().await;
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
            _servers: (milvus, process, directory),
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

/// Lets etcd forget all but its newest revision each time that the rest of an anchor is about to be
/// read: when that phase begins and writes are not denied any more.
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
async fn writes_pass_before_the_rest_is_read_and_it_is_of_the_same_revision_simulated_milvus_2_4_24()
 {
    let world = World::new().await;
    let options = Options::new(Method::Copy.open().unwrap());
    let window = world.window(&options);
    let mut holds = Holds::default();
    let settled = window
        .settled(&mut holds, ReadScope::CutPoint)
        .await
        .unwrap();
    let (revision, decided) = (settled.read.revision, settled.read.keys.len());
    let mut etcd = world.backing.etcd.clone();
    let config = etcd.read_prefix("by-dev/config/").await.unwrap();
    assert_eq!(config.keys, [], "nothing is held any more");
    let is_log = |kv: &crate::etcd::KeyValue| String::from_utf8_lossy(&kv.key).contains("log/");
    assert!(!settled.read.keys.iter().any(is_log), "no log was read");

    let before = etcd.read_at("by-dev/", revision).await.unwrap().unwrap();
    world.with_rows_of_the_future().await;
    let Completed::Anchored(anchored) = complete(&window.reader, settled).await.unwrap() else {
        panic!("nothing contradicts the anchor");
    };
    assert_eq!(anchored.revision, revision);
    assert_eq!(anchored.etcd_keys, before.len() as u64);
    assert!(before.len() > decided + 5 * 7, "the logs are in it");
    assert_eq!(anchored.catalog.live_segments().count(), 5);
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
async fn a_revision_compacted_after_the_release_is_taken_again_under_the_hold_simulated_milvus_2_4_24()
 {
    let mut world = World::new().await;
    world.context.progress = std::sync::Arc::new(Compacting(world.backing.etcd.clone()));
    let options = Options::new(Method::Copy.open().unwrap());
    let mut holds = Holds::default();
    let anchored = world.window(&options).take(&mut holds).await.unwrap();
    assert_eq!(writes_holds(&holds), [HoldState::Held, HoldState::Held]);
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
