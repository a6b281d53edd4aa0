//! Delta logs that etcd does not name, on the keys of a simulated Milvus 2.3.5.

use std::sync::Arc;

use bytes::Bytes;
use futures::TryStreamExt as _;
use jiff::Timestamp;

use super::super::anchor::Anchored;
use super::super::metadata::Undated;
use super::super::tests::{put_bytes, repository, run_all};
use super::*;
use crate::etcd::Anchor;
use crate::instance::methods::Method;
use crate::milvus::MilvusVersion;
use crate::milvus::hybrid;
use crate::milvus::objects::{ObjectKind, Scope};
use crate::milvus::proto::common::SegmentState;
use crate::milvus::proto::data::{Binlog, FieldBinlog};
use crate::milvus::simulated::keys::{COLLECTION, PARTITION, SimulatedKeys, TIME};
use crate::milvus::simulated::object_bytes;
use crate::repo::{Entry, KeyRange};
use crate::store::testing::memory::MemoryStore;
use crate::store::{Key, Store as _};

/// The cut of the snapshot.
const CUT: u64 = TIME + 5;

/// Three segments of which each was compacted into the next. Their ids are timestamps.
const SEGMENTS: [i64; 3] = [
    TIME.cast_signed(),
    TIME.cast_signed() + 1,
    TIME.cast_signed() + 2,
];

const FIRST: i64 = SEGMENTS[0];
const SECOND: i64 = SEGMENTS[1];
const THIRD: i64 = SEGMENTS[2];

fn path(segment: i64, log: i64) -> String {
    format!("delta_log/{COLLECTION}/{PARTITION}/{segment}/{log}")
}

/// The beginning of a delta log with deletes of these timestamps.
fn delta_log(from: u64, to: u64) -> Bytes {
    let mut head = vec![0xbc, 0xfa, 0xff, 0];
    head.resize(53, 0);
    head.extend(from.to_le_bytes());
    head.extend(to.to_le_bytes());
    head.into()
}

/// A log whose deletes are older than the cut.
fn older() -> Bytes {
    delta_log(TIME + 1, TIME + 2)
}

/// The segments, with two logs that are named below the first alone, and their storage.
async fn compacted_twice() -> (SimulatedKeys, Catalog, MemoryStore) {
    let mut set = SimulatedKeys::new(MilvusVersion::new(2, 3, 5));
    for (at, id) in SEGMENTS.into_iter().enumerate() {
        let mut segment = set.segment(id);
        segment.compaction_from = SEGMENTS[at.saturating_sub(1)..at].to_vec();
        segment.created_by_compaction = at > 0;
        if id != THIRD {
            segment.state = SegmentState::Dropped.into();
        }
        set.whole(&segment);
    }
    let named = |id| Binlog {
        log_id: id,
        ..Default::default()
    };
    let logs = FieldBinlog {
        binlogs: vec![named(904), named(905)],
        ..Default::default()
    };
    let key = format!("datacoord-meta/deltalog/{COLLECTION}/{PARTITION}/{FIRST}/0");
    set.meta(&key, &logs);
    set.keys.sort_by(|a, b| a.key.cmp(&b.key));
    let roots = SimulatedKeys::roots();
    let catalog = Catalog::decode(&roots, &set.keys, &set.version).unwrap();
    let source = MemoryStore::new();
    for object in catalog.objects() {
        put_bytes(&source, &object.path, object_bytes(&object).into()).await;
    }
    (set, catalog, source)
}

/// What is found, as log and the segment below which it was written.
async fn found(source: &MemoryStore, catalog: &Catalog) -> (Found, Vec<(i64, Option<i64>)>) {
    let store: SharedStore = Arc::new(source.clone());
    let found = find(&store, catalog, CUT).await.unwrap();
    let logs = found.logs.iter();
    let logs = logs.map(|log| (log.log, log.written_below)).collect();
    (found, logs)
}

#[tokio::test]
async fn the_logs_of_a_live_segment_and_of_its_inputs_are_found_where_their_deletes_count_simulated_milvus_2_3_5()
 {
    let (_, catalog, source) = compacted_twice().await;
    put_bytes(&source, &path(FIRST, 901), older()).await;
    // What a compaction copied is taken where it lies.
    put_bytes(&source, &path(SECOND, 902), older()).await;
    put_bytes(&source, &path(THIRD, 902), older()).await;
    // This is newer than the cut.
    put_bytes(&source, &path(SECOND, 903), delta_log(CUT + 1, CUT + 1)).await;
    // What was flushed long before a compaction was compacted by it. Shortly before, it may not have been.
    let before = |minutes: u64| TIME - hybrid::of_millis(minutes * 60_000);
    let (long, shortly) = (before(30), before(10));
    put_bytes(&source, &path(FIRST, 904), delta_log(before(60), long)).await;
    put_bytes(&source, &path(FIRST, 905), delta_log(before(60), shortly)).await;
    let (_, logs) = found(&source, &catalog).await;
    assert_eq!(logs, [(901, Some(FIRST)), (902, None), (905, Some(FIRST))]);
}

#[tokio::test]
async fn a_file_in_the_place_of_a_delta_log_that_is_none_is_told_unless_it_is_empty_simulated_milvus_2_3_5()
 {
    let (_, catalog, source) = compacted_twice().await;
    put_bytes(&source, &path(THIRD, 906), Bytes::from_static(b"half")).await;
    put_bytes(&source, &path(THIRD, 907), Bytes::new()).await;
    let (found, logs) = found(&source, &catalog).await;
    assert_eq!((found.unreadable, logs), (vec![path(THIRD, 906)], vec![]));
}

#[tokio::test]
async fn a_delta_log_that_was_written_below_an_input_is_captured_below_the_output_simulated_milvus_2_3_5()
 {
    let (set, catalog, source) = compacted_twice().await;
    put_bytes(&source, &path(FIRST, 901), older()).await;
    put_bytes(&source, &path(THIRD, 902), older()).await;
    let (found, _) = found(&source, &catalog).await;
    let anchor = Anchor {
        revision: 1,
        keys: set.keys,
    };
    let time = Timestamp::UNIX_EPOCH;
    let mut anchored = Anchored::new(time, anchor, catalog, CUT, Undated::default());
    anchored.adopt(found).unwrap();

    let repository = repository().await;
    let method = Method::Copy.open().unwrap();
    let required = anchored.required(Scope::Live);
    let (copied, read) = run_all(&*method, &repository, &source, &required, None).await;
    assert_eq!(copied.missing, []);
    assert!(read.contains(&path(FIRST, 901)) && read.contains(&path(THIRD, 902)));
    let view = repository.view().await.unwrap();
    let captured = view.map(copied.root).scan(KeyRange::all());
    let captured: Vec<Entry> = captured.try_collect().await.unwrap();
    let object = |log| {
        let mut objects = anchored.catalog.objects();
        objects
            .find(|object| object.path == path(THIRD, log))
            .unwrap()
    };
    for log in [901, 902] {
        let key = object(log).tree_key().into_bytes();
        let entry = captured.iter().find(|entry| entry.key == key).unwrap();
        assert_eq!(entry.content.size(), older().len() as u64, "{log}");
    }
    let (again, read) = run_all(&*method, &repository, &source, &required, copied.root).await;
    assert_eq!((again.root, read), (copied.root, vec![]), "it is known");

    let gone = Key::new(path(FIRST, 901)).unwrap();
    source.delete(&gone, None).await.unwrap();
    let (without, _) = run_all(&*method, &repository, &source, &required, None).await;
    assert_eq!(without.missing, [object(901)]);
    assert!(anchored.has_adopted(&without.missing));
    let mut others: Vec<_> = anchored.catalog.objects().collect();
    others.retain(|object| object.kind != ObjectKind::DeltaLog);
    assert!(!anchored.has_adopted(&others));
}
