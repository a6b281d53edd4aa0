//! What happens around a simulated Milvus while a capture decides: DDL that ends, objects that vanish, holds
//! that take too long.

#![allow(clippy::large_futures, reason = "each is awaited once, by a test")]

use std::time::Duration;

use eyrie::milvus::proto::common::SegmentState;
use eyrie::milvus::proto::data::SegmentInfo;
use eyrie::milvus::proto::meta::CollectionState;
use eyrie::milvus::simulated::keys::{COLLECTION, SimulatedKeys};
use eyrie::milvus::simulated::{GcRoute, Script};
use serde_json::json;

use crate::simulated_versions::{nobody_felt_it, nothing_is_left, obedient, of_2_4};

const WRITES: &str = "quotaAndLimits/limitWriting/forceDeny";

/// The collection that is being made.
const NEW: i64 = 700;

#[tokio::test(flavor = "multi_thread")]
async fn simulated_2_4_24_a_collection_that_is_being_created_is_waited_for_before_and_in_the_window()
 {
    for in_the_window in [false, true] {
        let world = of_2_4([obedient("2.4.24")]).await;
        let creating = || world.put(|set| set.collection(NEW, "new", CollectionState::Creating));
        let running;
        if in_the_window {
            running = world.start_command(&["--json", "backup"]);
            world.until_set(WRITES).await;
            creating().await;
        } else {
            creating().await;
            running = world.start_command(&["--json", "backup"]);
        }
        tokio::time::sleep(Duration::from_secs(4)).await;
        world
            .put(|set| set.collection(NEW, "new", CollectionState::Created))
            .await;
        let document = running.await.expect(0).json("backup");
        assert_eq!(document["weakened"], json!([]), "{in_the_window}");
        let shown = world.json("show", &["show", "latest"]).await;
        assert!(
            shown["catalog"].to_string().contains("\"new\""),
            "{in_the_window}"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn simulated_2_4_24_a_collection_that_stays_half_created_is_refused_before_anybody_feels_anything()
 {
    let world = of_2_4([obedient("2.4.24")]).await;
    world
        .put(|set| set.collection(NEW, "new", CollectionState::Creating))
        .await;
    let refused = world.run(&["backup"]).await.expect(20);
    assert!(
        refused
            .stderr()
            .contains("being created: collection default.new"),
        "{}",
        refused.stderr()
    );
    nobody_felt_it(&world).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn simulated_2_4_24_objects_that_vanish_while_garbage_collection_is_not_held_make_a_second_anchor()
 {
    let script = Script {
        gc: GcRoute::Absent,
        ..obedient("2.4.24")
    };
    let world = of_2_4([script]).await;
    let running = world.start_command(&["--json", "backup"]);
    world.until_put("eyrie/capture-fence").await;
    // The first anchor is decided on, with segment 110 in it. Now Milvus compacts it, and removes its objects
    // before they are copied.
    let mut set = SimulatedKeys::empty(world.backing.version.clone());
    let output = SegmentInfo {
        compaction_from: vec![110],
        ..set.segment(710)
    };
    set.whole(&output);
    let input = SegmentInfo {
        state: SegmentState::Dropped.into(),
        ..set.segment(110)
    };
    set.record(&input);
    world.backing.seed(&set).await.unwrap();
    for folder in ["insert_log", "stats_log"] {
        let at = format!("{folder}/{COLLECTION}/101/110");
        std::fs::remove_dir_all(world.backing.storage.join(at)).unwrap();
    }
    let document = running.await.expect(0).json("backup");
    assert_eq!(document["weakened"], json!([]));
    let listed = world.listed().await;
    assert!(listed.iter().any(|path| path.contains("/710/")));
    assert!(
        !listed
            .iter()
            .any(|path| path.starts_with("insert_log/") && path.contains("/110/"))
    );
    let history = world.config_history().await;
    let puts = history.iter().filter(|change| change.contains("forceDeny"));
    assert!(
        puts.count() > 2,
        "writes were denied once more: {history:?}"
    );
    world.run(&["verify", "--level", "bytes"]).await.expect(0);
}

#[tokio::test(flavor = "multi_thread")]
async fn simulated_2_4_24_a_hold_that_would_last_too_long_ends_the_capture_and_is_gone() {
    // It never denies, and is waited for.
    let world = of_2_4([Script::new("2.4.24")]).await;
    let refused = world
        .run(&["backup", "--max-write-hold", "5s"])
        .await
        .expect(20);
    assert!(
        refused
            .stderr()
            .contains("would have exceeded 5 s (--max-write-hold)"),
        "{}",
        refused.stderr()
    );
    nothing_is_left(&world).await;
}
