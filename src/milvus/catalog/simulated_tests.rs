//! The catalog of simulated key sets of other versions.

use super::{Catalog, Keeps, Standing, WalKind};
use crate::milvus::MilvusVersion;
use crate::milvus::keys::KeyValue;
use crate::milvus::objects::Scope;
use crate::milvus::proto::common::SegmentState;
use crate::milvus::proto::data::{self, CompactionTaskState, ImportJobState, SegmentInfo};
use crate::milvus::proto::meta::CollectionState;
use crate::milvus::proto::streaming::BroadcastTaskState;
use crate::milvus::simulated::keys::{COLLECTION, SimulatedKeys, TIME};
use crate::milvus::validate::{FindingKind, RefusalKind, Severity};

fn decode(set: &SimulatedKeys) -> Catalog {
    Catalog::decode(&SimulatedKeys::roots(), &set.keys, &set.version).unwrap()
}

fn paths(catalog: &Catalog) -> Vec<String> {
    catalog.objects().map(|object| object.path).collect()
}

fn errors(catalog: &Catalog) -> Vec<(FindingKind, String)> {
    let findings = catalog.validate().into_iter();
    findings
        .filter(|f| f.severity == Severity::Error)
        .map(|f| (f.kind, f.to_string()))
        .collect()
}

fn standing(catalog: &Catalog, segment: i64) -> Standing {
    let mut segments = catalog.segments.iter();
    segments
        .find(|s| s.key.segment == segment)
        .unwrap()
        .standing
}

#[test]
fn simulated_2_2_legacy_keys_are_a_collection_of_the_default_database() {
    let catalog = decode(&SimulatedKeys::v2_2());
    assert_eq!(
        catalog.names(COLLECTION),
        ("default".to_owned(), "docs".to_owned())
    );
    assert!(errors(&catalog).is_empty(), "{:?}", errors(&catalog));
    assert!(catalog.refusals().is_empty());
    assert_eq!(catalog.counters.tso, catalog.counters.ids);
    assert_eq!(paths(&catalog).len(), 8);
    assert_eq!(catalog.max_timestamp, TIME);
    let mut running = SimulatedKeys::v2_2();
    running.raw("meta/importtask/2", &[0x08, 0x02, 0x5a, 0x02, 0x08, 0x02]);
    let refusals = decode(&running).refusals();
    assert_eq!(refusals[0].kind, RefusalKind::Import);
}

#[test]
fn simulated_2_3_complete_child_replaces_its_parent_and_dropped_is_left_out() {
    let catalog = decode(&SimulatedKeys::v2_3());
    assert_eq!(standing(&catalog, 110), Standing::Compacted);
    assert_eq!(standing(&catalog, 111), Standing::Live);
    assert_eq!(standing(&catalog, 112), Standing::Dropped);
    assert_eq!(catalog.conflicts[0].keeps, Keeps::Children);
    assert!(paths(&catalog).iter().all(|path| path.contains("/111/")));
    let created = catalog.collections.values().filter(|c| c.is_created());
    assert_eq!(created.flat_map(|c| &c.vchannels).count(), 1);
    // A dropped collection lingers for hours; it is neither captured nor a reason to refuse.
    assert!(catalog.refusals().is_empty(), "{:?}", catalog.refusals());
    assert!(catalog.collection(200).is_none());
}

#[test]
fn simulated_2_3_incomplete_child_waits_behind_its_parent() {
    let mut set = SimulatedKeys::v2_3();
    // The child's text column is not saved yet.
    let missing = b"by-dev/meta/datacoord-meta/binlog/100/101/111/101";
    set.keys.retain(|key| key.key != missing);
    let catalog = decode(&set);
    assert_eq!(standing(&catalog, 110), Standing::Live);
    assert_eq!(standing(&catalog, 111), Standing::Unserved);
    assert_eq!(catalog.conflicts[0].keeps, Keeps::Parents);
    assert!(errors(&catalog).is_empty());
}

#[test]
fn simulated_three_generations_leave_one_live() {
    let mut set = SimulatedKeys::v2_3();
    let grandchild = SegmentInfo {
        compaction_from: vec![111],
        is_invisible: true,
        ..set.segment(113)
    };
    set.whole(&grandchild);
    let catalog = decode(&set);
    let live: Vec<i64> = catalog.live_segments().map(|s| s.key.segment).collect();
    assert_eq!(live, [111]);
}

#[test]
fn simulated_2_4_level_zero_imports_and_partition_statistics() {
    let mut set = SimulatedKeys::v2_4();
    assert!(decode(&set).refusals().is_empty(), "that import has ended");
    set.import_job(6, ImportJobState::Importing);
    let catalog = decode(&set);
    let paths = paths(&catalog);
    assert_eq!(paths[0], "delta_log/100/-1/120/1201");
    assert!(paths.contains(&"part_stats/100/101/by-dev-rootcoord-dml_0_100v0/9".to_owned()));
    assert!(errors(&catalog).is_empty(), "{:?}", errors(&catalog));
    let refusals = catalog.refusals();
    assert_eq!(refusals.len(), 1);
    assert_eq!(
        refusals[0].to_string(),
        "imports are running: jobs [6], 0 segments"
    );
    assert_eq!(catalog.tasks.compactions_under_way().count(), 1);
    assert_eq!(catalog.load.collections[&COLLECTION].replicas, 2);
}

#[test]
fn simulated_2_5_invisible_segments_are_live_while_nothing_else_has_their_rows() {
    let catalog = decode(&SimulatedKeys::v2_5("files"));
    assert_eq!(standing(&catalog, 110), Standing::Live);
    assert_eq!(standing(&catalog, 111), Standing::Live);
    assert_eq!(standing(&catalog, 112), Standing::Unserved);
    let paths = paths(&catalog);
    for path in [
        "text_log/7/1/100/101/110/101/a_0",
        "json_key_index_log/7/1/100/101/110/101/b_0",
        "bm25_stats/100/101/110/104/1",
        "index_files/1105/1/101/110/HNSW_0",
    ] {
        assert!(paths.contains(&path.to_owned()), "{path}");
    }
}

#[test]
fn simulated_2_6_column_groups_statistics_and_resources() {
    let catalog = decode(&SimulatedKeys::v2_6(&[0x08, 0x02, 0x10, 0x09]));
    let objects: Vec<_> = catalog.objects().collect();
    let paths: Vec<&str> = objects.iter().map(|object| object.path.as_str()).collect();
    assert_eq!(
        paths,
        [
            "insert_log/100/101/110/0/1101",
            "insert_log/100/101/110/103/1204",
            "json_stats/3/8/1/100/101/110/102/meta.json",
            "json_stats/3/8/1/100/101/110/102/shared_key_index/x",
            "stats_log/100/101/110/100/1",
        ]
    );
    // A file resource lies outside the storage root.
    assert_eq!(catalog.resources[0].path, "dict.txt");
    assert!(objects.iter().all(|object| object.expected_size.is_none()));
    assert!(errors(&catalog).is_empty(), "{:?}", errors(&catalog));
    assert!(
        catalog.wal.kinds().contains(&WalKind::Pulsar),
        "the checkpoint names it"
    );
    let notes = catalog.validate();
    assert!(notes.iter().any(|f| f.kind == FindingKind::UnfinishedIndex));
}

#[test]
fn simulated_2_6_pending_broadcasts_manifests_and_old_logs_are_refused() {
    let mut set = SimulatedKeys::v2_6(&[]);
    set.broadcast(9, BroadcastTaskState::Pending);
    let manifest = SegmentInfo {
        storage_version: 3,
        manifest_path: r#"{"ver":1,"base_path":"files/insert_log/100/101/140"}"#.to_owned(),
        ..set.segment(140)
    };
    set.record(&manifest);
    let mut legacy = set.segment(141);
    legacy.binlogs = vec![crate::milvus::proto::data::FieldBinlog::default()];
    set.whole(&legacy);
    let refusals = decode(&set).refusals();
    let kinds: Vec<RefusalKind> = refusals.iter().map(|refusal| refusal.kind).collect();
    assert_eq!(
        kinds,
        [
            RefusalKind::Broadcast,
            RefusalKind::LegacyLogs,
            RefusalKind::Manifest
        ]
    );
    assert!(
        refusals[2].what.ends_with("default.docs (1 segments)"),
        "{}",
        refusals[2]
    );
}

#[test]
fn simulated_damage_of_metadata_is_named() {
    let mut set = SimulatedKeys::v2_5("files");
    set.keys
        .retain(|key| !key.key.ends_with(b"binlog/100/101/111/103"));
    set.keys
        .retain(|key| !key.key.ends_with(b"statslog/100/101/111/100"));
    let growing = SegmentInfo {
        state: SegmentState::Growing.into(),
        ..set.segment(119)
    };
    set.record(&growing);
    let short = KeyValue::new(
        "by-dev/meta/datacoord-meta/binlog/100/101/110/101",
        [0x08, 0x65, 0x12, 0x04, 0x08, 0x03, 0x30, 0x05],
    );
    set.keys.retain(|key| key.key != short.key);
    set.keys.push(short);
    let catalog = decode(&set);
    insta::assert_snapshot!(
        errors(&catalog)
            .iter()
            .map(|(_, text)| text.as_str())
            .collect::<Vec<_>>()
            .join("\n")
    );
    // With the WAL, the growing segment counts.
    let open = catalog.objects_in(Scope::WithOpen).count();
    assert_eq!(open, catalog.objects().count(), "it has no logs yet");
}

/// Segments 110 and 111, of which some are dropped, and what came out of them: 112, unless it is `None`.
fn compacted(dropped: &[i64], output: Option<bool>) -> SimulatedKeys {
    let mut set = SimulatedKeys::new(MilvusVersion::new(2, 4, 24));
    for id in [110, 111] {
        let mut segment = set.segment(id);
        if dropped.contains(&id) {
            segment.state = SegmentState::Dropped.into();
        }
        set.whole(&segment);
    }
    if let Some(invisible) = output {
        let segment = SegmentInfo {
            num_of_rows: 20,
            compaction_from: vec![110, 111],
            is_invisible: invisible,
            ..set.segment(112)
        };
        set.whole(&segment);
    }
    set
}

fn refused_compactions(
    mut set: SimulatedKeys,
    tasks: &[(i64, CompactionTaskState)],
) -> Vec<String> {
    for (plan, state) in tasks {
        let task = data::CompactionTask {
            plan_id: *plan,
            state: (*state).into(),
            input_segments: vec![110, 111],
            result_segments: vec![112],
            ..Default::default()
        };
        set.meta(
            &format!("datacoord-meta/compaction-task/MixCompaction/1/{plan}"),
            &task,
        );
    }
    let refusals = decode(&set).refusals();
    assert!(refusals.iter().all(|refusal| refusal.kind.passes()));
    refusals.into_iter().map(|refusal| refusal.what).collect()
}

#[test]
fn simulated_2_4_a_compaction_task_whose_segments_are_saved_in_part_is_refused_and_named() {
    use CompactionTaskState as S;
    let names = |refused: &[String], plan: &str| refused.len() == 1 && refused[0].contains(plan);
    for state in [S::Executing, S::Pipelining] {
        let task = [(7, state)];
        // Nothing was saved yet, or an output that serves nobody until it is promoted.
        assert_eq!(refused_compactions(compacted(&[], None), &task), [""; 0]);
        assert_eq!(
            refused_compactions(compacted(&[], Some(true)), &task),
            [""; 0]
        );
        for (dropped, output) in [
            (&[110][..], None),
            (&[110, 111], None),
            (&[111], Some(false)),
            (&[], Some(false)),
        ] {
            let refused = refused_compactions(compacted(dropped, output), &task);
            assert!(
                names(&refused, "task 7"),
                "{state:?} {dropped:?}: {refused:?}"
            );
        }
    }
    for state in [S::Failed, S::Timeout] {
        let task = [(7, state)];
        assert_eq!(refused_compactions(compacted(&[], None), &task), [""; 0]);
        // Another compaction took the inputs later.
        let later = compacted(&[110, 111], Some(false));
        assert_eq!(refused_compactions(later, &task), [""; 0]);
        let by_task = [(7, state), (8, S::Completed)];
        assert_eq!(
            refused_compactions(compacted(&[110, 111], None), &by_task),
            [""; 0]
        );
        let refused = refused_compactions(compacted(&[110, 111], None), &task);
        assert!(names(&refused, "task 7"), "{refused:?}");
    }
    // What went with its collection is nobody's.
    for state in [S::Executing, S::Failed] {
        let mut gone = compacted(&[110, 111], None);
        gone.keys
            .retain(|kv| !String::from_utf8_lossy(&kv.key).contains("collection-info"));
        gone.collection(COLLECTION, "docs", CollectionState::Dropping);
        assert_eq!(
            refused_compactions(gone, &[(7, state)]),
            [""; 0],
            "{state:?}"
        );
    }
    for state in [S::MetaSaved, S::Indexing, S::Completed, S::Cleaned] {
        let saved = compacted(&[110, 111], Some(false));
        assert_eq!(
            refused_compactions(saved, &[(7, state)]),
            [""; 0],
            "{state:?}"
        );
    }
}
