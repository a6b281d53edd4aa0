//! Whole captures and restores of simulated Milvus versions: scripted proxies and management
//! interfaces, a real etcd with constructed keys, the real command and a real repository.
//!
//! No Milvus but 2.3.5 runs where these tests do; `tests/e2e` has that one.

#![allow(clippy::large_futures, reason = "each is awaited once, by a test")]

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use eyrie::milvus::MilvusVersion;
use eyrie::milvus::catalog::Catalog;
use eyrie::milvus::proto::common::SegmentState;
use eyrie::milvus::proto::data::{ImportJobState, SegmentInfo};
use eyrie::milvus::proto::streaming::BroadcastTaskState;
use eyrie::milvus::simulated::keys::{COLLECTION, OTHER_COLLECTION, SimulatedKeys};
use eyrie::milvus::simulated::{GcRoute, Script, Writes, refusal};
use serde_json::{Value, json};

use crate::simulated::World;

/// A position of Pulsar: ledger 2, entry 9.
const PULSAR: &[u8] = &[0x08, 0x02, 0x10, 0x09];

/// Milvus that denies writes while it is told to.
pub fn obedient(version: &str) -> Script {
    Script {
        writes: Writes::AsConfigured,
        ..Script::new(version)
    }
}

/// Rows in both databases that only a flush brings into segments.
fn unflushed(mut set: SimulatedKeys, version: (u64, u64, u64)) -> SimulatedKeys {
    set.version = MilvusVersion::new(version.0, version.1, version.2);
    set.second_database();
    for (collection, segment) in [(COLLECTION, 140), (OTHER_COLLECTION, 340)] {
        let growing = SegmentInfo {
            state: SegmentState::Growing.into(),
            ..set.segment_of(collection, segment)
        };
        set.record(&growing);
    }
    set
}

/// Keys of 2.6 without the dictionary that no snapshot holds.
fn v2_6() -> SimulatedKeys {
    let mut set = SimulatedKeys::v2_6(PULSAR);
    let resource = b"by-dev/meta/root-coord/file_resource_info/";
    set.keys.retain(|kv| !kv.key.starts_with(resource));
    set
}

/// What a capture asked of Milvus and of etcd, and what became of the keys at restore.
async fn record(world: &World, plan: &Value) -> Value {
    let shown = world.json("show", &["show", "latest"]).await;
    let holds = shown["holds"].as_array().unwrap().iter();
    let holds: Vec<String> = holds
        .map(|hold| format!("{} {}", hold["kind"], hold["state"]).replace('"', ""))
        .collect();
    let calls = ["FlushAll", "Flush", "GetFlushAllState", "AllocTimestamp"];
    let calls: BTreeMap<_, _> = calls.map(|name| (name, world.calls(name))).into();
    let transforms = plan["transforms"].as_array().unwrap().iter();
    let transforms: Vec<String> = transforms
        .map(|t| {
            format!(
                "{}: {} {}; {}",
                t["family"], t["action"], t["keys"], t["why"]
            )
            .replace('"', "")
        })
        .collect();
    json!({
        "mode": shown["mode"],
        "flush": shown["flush"]["shape"],
        "calls": calls,
        "channels in questions after the flush": world.proxies[0].flush_state_channels(),
        "garbage collection": world.proxies[0].gc_calls(),
        "dynamic configuration": world.config_history().await,
        "holds": holds,
        "weakened": shown["weakened"],
        "notes": shown["notes"],
        "objects": world.listed().await,
        "restore": transforms,
    })
}

/// Captures in `mode`, verifies, restores beside it, and compares both ends.
async fn round_trip(world: &mut World, mode: &str, onto: &'static str) -> Value {
    let document = world.json("backup", &["backup", "--mode", mode]).await;
    assert_eq!(document["mode"], mode);
    assert_eq!(document["weakened"], json!([]));
    let catalog = world.backing.catalog().await.unwrap();
    let required: BTreeSet<String> = catalog.objects().map(|object| object.path).collect();
    assert_eq!(
        world.listed().await,
        required,
        "exactly what the keys require"
    );
    assert!(required.len() > 8);
    for proxy in &world.proxies {
        assert_eq!(proxy.unflushed(), Vec::<String>::new());
        assert_eq!(proxy.rows_deleted(), 0, "a probe writes nothing");
    }

    let verified = world.json("verify", &["verify", "--level", "bytes"]).await;
    assert_eq!(verified["objects"], document["objects"]);
    world.target(&catalog.version.to_string(), onto);
    let target = world.path("target.yaml");
    let mut restore = vec!["restore", "latest", "--target", target.to_str().unwrap()];
    if onto != "rocksmq" {
        let refused = world.run(&restore).await.expect(21);
        assert!(
            refused.stderr().contains("--accept-unproven-wal"),
            "{}",
            refused.stderr()
        );
        restore.push("--accept-unproven-wal");
    }
    let planned: Vec<_> = restore.iter().copied().chain(["--dry-run"]).collect();
    let plan = world.json("restore-plan", &planned).await;
    assert_eq!(plan["refusals"], json!([]));
    world.json("restore", &restore).await;
    let restored = world.restored().await;
    world.restored_objects_are_those_of(&catalog);
    same_data(&catalog, &restored);
    plan
}

/// The restored keys stand for the same collections, segments and objects, and for no server.
fn same_data(source: &Catalog, restored: &Catalog) {
    let names = |catalog: &Catalog| -> BTreeSet<(String, String)> {
        let created = catalog.collections.values().filter(|c| c.is_created());
        created.map(|c| catalog.names(c.id)).collect()
    };
    let rows = |catalog: &Catalog| -> BTreeMap<i64, i64> {
        catalog
            .live_segments()
            .map(|s| (s.key.segment, s.rows))
            .collect()
    };
    assert_eq!(names(source), names(restored));
    assert_eq!(rows(source), rows(restored));
    let paths = |catalog: &Catalog| -> Vec<String> { catalog.objects().map(|o| o.path).collect() };
    assert_eq!(paths(source), paths(restored));
    assert!(restored.sessions.is_empty());
    assert!(restored.counters.tso > source.counters.tso);
    assert!(restored.refusals().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn simulated_2_2_16_is_captured_hot_and_cold_and_never_quiesced() {
    let mut world = World::new("rocksmq", |_| {
        let mut set = SimulatedKeys::v2_2();
        let growing = SegmentInfo {
            state: SegmentState::Growing.into(),
            ..set.segment(140)
        };
        set.record(&growing);
        set
    })
    .await;
    world.start([obedient("2.2.16")]).await;
    world.run(&["init"]).await.expect(0);
    let refused = world.run(&["backup"]).await.expect(20);
    for words in [
        "reads the setting at its start only",
        "--mode hot",
        "--mode cold",
    ] {
        assert!(refused.stderr().contains(words), "{}", refused.stderr());
    }
    assert_eq!(
        world.config_history().await,
        Vec::<String>::new(),
        "nothing was held"
    );
    let plan = round_trip(&mut world, "hot", "rocksmq").await;
    insta::assert_json_snapshot!(record(&world, &plan).await);
}

#[tokio::test(flavor = "multi_thread")]
async fn simulated_2_2_16_stopped_is_captured_cold_with_its_queue() {
    let world = World::new("rocksmq", |_| {
        let mut set = SimulatedKeys::v2_2();
        let growing = SegmentInfo {
            state: SegmentState::Growing.into(),
            ..set.segment(140)
        };
        set.record(&growing);
        set
    });
    let mut world = world.await;
    world.stopped();
    world.run(&["init"]).await.expect(0);
    let document = world.json("backup", &["backup", "--mode", "cold"]).await;
    assert_eq!(document["mode"], "cold");
    world.target("2.2.16", "rocksmq");
    let target = world.path("target.yaml");
    world
        .json(
            "restore",
            &["restore", "latest", "--target", target.to_str().unwrap()],
        )
        .await;
    let catalog = world.backing.catalog().await.unwrap();
    same_data(&catalog, &world.restored().await);
    let queue = |name: &str| std::fs::read(world.path(name)).unwrap();
    assert_eq!(queue("target-wal/000004.log"), queue("main-wal/000004.log"));
    let growing = |catalog: &Catalog| {
        catalog
            .segments
            .iter()
            .filter(|s| s.standing.is_open())
            .count()
    };
    assert_eq!(
        growing(&world.restored().await),
        1,
        "the queue brings its rows"
    );
}

async fn quiesced(
    version: (u64, u64, u64),
    wal: &'static str,
    onto: &'static str,
    keys: impl FnOnce(&str) -> SimulatedKeys,
) -> Value {
    let mut world = World::new(wal, |storage| unflushed(keys(storage), version)).await;
    let text = format!("{}.{}.{}", version.0, version.1, version.2);
    world.start([obedient(&text)]).await;
    world.run(&["init"]).await.expect(0);
    let plan = round_trip(&mut world, "quiesced", onto).await;
    record(&world, &plan).await
}

#[tokio::test(flavor = "multi_thread")]
async fn simulated_2_3_22_whole() {
    let keys = |_: &str| SimulatedKeys::v2_3();
    insta::assert_json_snapshot!(quiesced((2, 3, 22), "rocksmq", "rocksmq", keys).await);
}

#[tokio::test(flavor = "multi_thread")]
async fn simulated_2_4_24_whole() {
    let keys = |_: &str| SimulatedKeys::v2_4();
    insta::assert_json_snapshot!(quiesced((2, 4, 24), "kafka", "kafka", keys).await);
}

#[tokio::test(flavor = "multi_thread")]
async fn simulated_2_5_27_whole() {
    let record = quiesced((2, 5, 27), "rocksmq", "rocksmq", SimulatedKeys::v2_5).await;
    insta::assert_json_snapshot!(record);
}

#[tokio::test(flavor = "multi_thread")]
async fn simulated_2_6_2_whole() {
    let keys = |_: &str| v2_6();
    insta::assert_json_snapshot!(quiesced((2, 6, 2), "pulsar", "pulsar", keys).await);
}

#[tokio::test(flavor = "multi_thread")]
async fn simulated_2_6_3_whole() {
    let keys = |_: &str| v2_6();
    insta::assert_json_snapshot!(quiesced((2, 6, 3), "pulsar", "pulsar", keys).await);
}

#[tokio::test(flavor = "multi_thread")]
async fn simulated_2_6_14_whole_onto_woodpecker() {
    let keys = |_: &str| v2_6();
    insta::assert_json_snapshot!(quiesced((2, 6, 14), "pulsar", "woodpecker", keys).await);
}

#[tokio::test(flavor = "multi_thread")]
async fn simulated_2_6_14_with_a_dictionary_is_captured_without_it_and_says_so() {
    let keys = || unflushed(SimulatedKeys::v2_6(PULSAR), (2, 6, 14));
    let mut world = World::new("pulsar", |_| keys()).await;
    world.start([obedient("2.6.14")]).await;
    world.run(&["init"]).await.expect(0);
    let ran = world.run(&["--json", "backup"]).await.expect(3);
    let weakened = ran.json("backup")["weakened"].to_string();
    for words in ["file-resources", "dict.txt"] {
        assert!(weakened.contains(words), "{weakened}");
    }
    assert!(
        !world
            .listed()
            .await
            .iter()
            .any(|path| path.contains("dict"))
    );
    world.target("2.6.14", "pulsar");
    let target = world.path("target.yaml");
    let onto = [
        "--target",
        target.to_str().unwrap(),
        "--accept-unproven-wal",
    ];
    let restore: Vec<_> = ["restore", "latest"].into_iter().chain(onto).collect();
    let restored = world.run(&restore).await.expect(3);
    assert!(
        restored.stdout().contains("dict.txt"),
        "{}",
        restored.stdout()
    );
    let (source, restored) = (
        world.backing.catalog().await.unwrap(),
        world.restored().await,
    );
    same_data(&source, &restored);
}

pub async fn of_2_4(scripts: impl IntoIterator<Item = Script>) -> World {
    let mut world = World::new("rocksmq", |_| unflushed(SimulatedKeys::v2_4(), (2, 4, 24))).await;
    world.start(scripts).await;
    world.run(&["init"]).await.expect(0);
    world
}

fn probes(world: &World) -> Vec<usize> {
    let of = |calls: Vec<&str>| calls.into_iter().filter(|call| *call == "Delete").count();
    world
        .proxies
        .iter()
        .map(|proxy| of(proxy.calls()))
        .collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn simulated_2_4_24_with_two_proxies_is_held_when_both_deny() {
    let mut late = obedient("2.4.24");
    late.writes = Writes::Accepted;
    let world = of_2_4([obedient("2.4.24"), late]).await;
    let running = world.start_command(&["--json", "backup"]);
    world
        .until_set("quotaAndLimits/limitWriting/forceDeny")
        .await;
    let before = probes(&world);
    // The first denies at once; the hold does not count before the second does.
    tokio::time::sleep(Duration::from_secs(3)).await;
    let flushes = world.calls("FlushAll");
    world.proxies[1].set_writes(Writes::AsConfigured);
    let document = running.await.expect(0).json("backup");
    assert_eq!((document["mode"].as_str(), flushes), (Some("quiesced"), 1));
    assert!(document["write_hold_ms"].as_u64().unwrap() >= 3000);
    for (before, after) in before.into_iter().zip(probes(&world)) {
        assert!(after > before + 1, "each proxy was probed until it denied");
    }
    assert_eq!(
        world.calls("FlushAll"),
        2,
        "one before the hold and one in it"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn simulated_2_4_24_with_a_proxy_that_never_denies_is_refused_and_the_proxy_named() {
    let stray = Script::new("2.4.24");
    let world = of_2_4([obedient("2.4.24"), stray]).await;
    let refused = world.run(&["backup"]).await.expect(20);
    let named = format!("{} still accepts writes", world.proxies[1].address());
    for words in [named.as_str(), "--mode hot"] {
        assert!(refused.stderr().contains(words), "{}", refused.stderr());
    }
    nothing_is_left(&world).await;
}

/// No hold is in etcd, and no snapshot in the repository.
pub async fn nothing_is_left(world: &World) {
    let config = world.backing.catalog().await.unwrap().config;
    let leased: Vec<_> = config.iter().filter(|item| item.lease != 0).collect();
    assert!(leased.is_empty(), "{leased:?}");
    assert_eq!(world.json("snapshots", &["snapshots"]).await, json!([]));
    world.run(&["verify"]).await.expect(0);
}

#[tokio::test(flavor = "multi_thread")]
async fn simulated_2_4_24_that_lets_writes_through_is_captured_hot_and_weakened() {
    let leaking = Script {
        writes: Writes::ProbesDenied,
        busy: true,
        ..Script::new("2.4.24")
    };
    let world = of_2_4([leaking]).await;
    let document = world
        .run(&["--json", "backup"])
        .await
        .expect(3)
        .json("backup");
    assert_eq!(document["mode"], "hot");
    assert!(
        document["weakened"].to_string().contains("cut-unproven"),
        "{document}"
    );
    let shown = world.json("show", &["show", "latest"]).await;
    assert_eq!(
        (&shown["asked_mode"], &shown["cut"]["proven"]),
        (&json!("quiesced"), &json!(false))
    );
    let straddling = shown["cut"]["straddling"].as_array().unwrap();
    assert!(!straddling.is_empty());
    let listed = world.listed().await;
    assert!(
        straddling
            .iter()
            .all(|path| listed.contains(path.as_str().unwrap()))
    );
    world.run(&["verify", "--level", "bytes"]).await.expect(0);
}

#[tokio::test(flavor = "multi_thread")]
async fn simulated_2_4_24_with_clients_that_never_stop_is_captured_quiesced_and_whole() {
    let busy = Script {
        busy: true,
        ..obedient("2.4.24")
    };
    let mut world = of_2_4([busy]).await;
    round_trip(&mut world, "quiesced", "rocksmq").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn simulated_2_6_14_without_a_pause_of_garbage_collection_is_captured_with_a_note() {
    let mut world = World::new("pulsar", |_| unflushed(v2_6(), (2, 6, 14))).await;
    let script = Script {
        gc: GcRoute::Absent,
        ..obedient("2.6.14")
    };
    world.start([script]).await;
    world.run(&["init"]).await.expect(0);
    round_trip(&mut world, "quiesced", "pulsar").await;
    let shown = world.json("show", &["show", "latest"]).await;
    let notes = shown["notes"].to_string();
    assert!(
        notes.contains("garbage collection could not be held"),
        "{notes}"
    );
    assert_eq!(world.proxies[0].gc_calls(), Vec::<String>::new());
}

#[tokio::test(flavor = "multi_thread")]
async fn simulated_2_3_22_whose_flush_fails_for_a_while_is_captured() {
    let mut world = World::new("rocksmq", |_| unflushed(SimulatedKeys::v2_3(), (2, 3, 22))).await;
    let mut script = obedient("2.3.22");
    script.flush_refusals =
        vec![refusal(901, "node not match[expectedNodeID=9][actualNodeID=5]"); 3];
    world.start([script]).await;
    world.run(&["init"]).await.expect(0);
    let ran = world.run(&["backup"]).await.expect(0);
    assert!(ran.stderr().contains("node not match"), "{}", ran.stderr());
    assert_eq!(
        world.calls("FlushAll"),
        5,
        "three refused, one before the hold, one in it"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn simulated_2_5_27_whose_flush_never_works_is_refused_and_writes_are_never_denied() {
    let mut world = World::new("rocksmq", |storage| {
        unflushed(SimulatedKeys::v2_5(storage), (2, 5, 27))
    })
    .await;
    let mut script = obedient("2.5.27");
    script.flush_refusals =
        vec![refusal(901, "node not match[expectedNodeID=9][actualNodeID=5]"); 100];
    world.start([script]).await;
    world.run(&["init"]).await.expect(0);
    let refused = world
        .run(&["backup", "--flush-timeout", "4s"])
        .await
        .expect(20);
    assert!(
        refused.stderr().contains("node not match"),
        "{}",
        refused.stderr()
    );
    nobody_felt_it(&world).await;
}

/// Writes were never denied, and nothing is left.
pub async fn nobody_felt_it(world: &World) {
    let denied = |change: &String| change.contains("forceDeny");
    assert!(!world.config_history().await.iter().any(denied));
    nothing_is_left(world).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn simulated_2_6_14_keeps_its_holds_longer_than_their_leases_last() {
    let mut world = World::new("pulsar", |_| unflushed(v2_6(), (2, 6, 14))).await;
    world.start([obedient("2.6.14")]).await;
    world.run(&["init"]).await.expect(0);
    // Writes are denied, and the second flush is asked for, only when the proxy is told so.
    world.proxies[0].set_writes(Writes::Accepted);
    let running = world.start_command(&["--json", "backup"]);
    world
        .until_set("quotaAndLimits/limitWriting/forceDeny")
        .await;
    world.proxies[0].set_polls_until_flushed(u32::MAX);
    world.proxies[0].set_writes(Writes::AsConfigured);
    tokio::time::sleep(eyrie::instance::holds::TTL + Duration::from_secs(5)).await;
    world.proxies[0].set_polls_until_flushed(0);
    let document = running.await.expect(0).json("backup");
    assert_eq!(
        (&document["mode"], &document["weakened"]),
        (&json!("quiesced"), &json!([]))
    );
    assert!(
        document["write_hold_ms"].as_u64().unwrap() > 35_000,
        "{document}"
    );
    let history = world.config_history().await;
    let of = |item: &str| {
        history
            .iter()
            .filter(|change| change.contains(item))
            .count()
    };
    for item in [
        "forceDeny",
        "forceDenyAllDDL",
        "enableAutoCompaction",
        "sortCompaction",
    ] {
        let expected = if item == "forceDeny" { 4 } else { 2 };
        assert_eq!(
            of(item),
            expected,
            "{item} was put once and removed once: {history:?}"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn simulated_2_4_24_with_an_import_under_way_is_refused() {
    let world = of_2_4([obedient("2.4.24")]).await;
    world
        .put(|set| set.import_job(7, ImportJobState::Importing))
        .await;
    for mode in ["quiesced", "hot"] {
        let refused = world.run(&["backup", "--mode", mode]).await.expect(20);
        assert!(
            refused.stderr().contains("imports are running: jobs [7]"),
            "{}",
            refused.stderr()
        );
    }
    assert_eq!(
        world.calls("FlushAll"),
        0,
        "it is refused before anything is asked of Milvus"
    );
    nothing_is_left(&world).await;
    world
        .put(|set| set.import_job(7, ImportJobState::Completed))
        .await;
    world.run(&["backup"]).await.expect(0);
}

#[tokio::test(flavor = "multi_thread")]
async fn simulated_2_4_24_with_an_import_that_begins_in_the_window_is_refused() {
    let world = of_2_4([obedient("2.4.24")]).await;
    let running = world.start_command(&["backup"]);
    world
        .until_set("dataCoord/compaction/enableAutoCompaction")
        .await;
    world
        .put(|set| set.import_job(7, ImportJobState::Pending))
        .await;
    let refused = running.await.expect(20);
    assert!(
        refused.stderr().contains("imports are running: jobs [7]"),
        "{}",
        refused.stderr()
    );
    nothing_is_left(&world).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn simulated_2_6_14_with_a_broadcast_pending_is_refused() {
    let mut world = World::new("pulsar", |_| unflushed(v2_6(), (2, 6, 14))).await;
    world.start([obedient("2.6.14")]).await;
    world.run(&["init"]).await.expect(0);
    world
        .put(|set| set.broadcast(9, BroadcastTaskState::Pending))
        .await;
    let refused = world.run(&["backup"]).await.expect(20);
    assert!(
        refused.stderr().contains("broadcast"),
        "{}",
        refused.stderr()
    );
    assert!(
        refused.stderr().contains("hint") || refused.stderr().contains("again"),
        "{}",
        refused.stderr()
    );
    nothing_is_left(&world).await;
    world
        .put(|set| set.broadcast(9, BroadcastTaskState::Tombstone))
        .await;
    world.run(&["backup"]).await.expect(0);
}

#[tokio::test(flavor = "multi_thread")]
async fn simulated_2_4_24_whose_etcd_asks_for_a_password_is_captured_and_restored() {
    let mut world = World::new("rocksmq", |_| unflushed(SimulatedKeys::v2_4(), (2, 4, 24))).await;
    world.authenticate().await;
    world.start([obedient("2.4.24")]).await;
    world.run(&["init"]).await.expect(0);
    round_trip(&mut world, "quiesced", "rocksmq").await;

    // A token that nobody uses for longer than it lasts is replaced.
    let mut etcd = world.etcd_as("eyrie", "kestrel").await;
    tokio::time::sleep(Duration::from_secs(4)).await;
    assert!(etcd.get("by-dev/none").await.unwrap().is_none());

    world.set_etcd_password("merlin");
    let refused = world.run(&["backup"]).await.expect(20);
    for words in ["etcd", "authentication failed", "password_file"] {
        assert!(refused.stderr().contains(words), "{}", refused.stderr());
    }
    assert!(!refused.stderr().contains("merlin"), "{}", refused.stderr());
}
