//! What is read while writes are denied, on a real etcd with the keys of a simulated Milvus.

use super::*;
use crate::etcd;
use crate::milvus::proto::common::SegmentState;
use crate::milvus::proto::data::{Binlog, FieldBinlog, SegmentInfo};
use crate::milvus::simulated::keys::{COLLECTION, PARTITION, SimulatedKeys, TIME};

/// A cut after everything that the simulated keys hold.
const CUT: u64 = TIME + (60_000 << 18);

async fn put(etcd: &mut Etcd, set: &SimulatedKeys) {
    let pair = |kv: &KeyValue| (kv.key.clone(), kv.value.clone());
    let pairs: Vec<_> = set.keys.iter().map(pair).collect();
    for some in pairs.chunks(64) {
        let put = etcd.put_all("simulating", vec![], some, None);
        put.await.unwrap();
    }
}

async fn revision(etcd: &Etcd) -> i64 {
    etcd.clone().status().await.unwrap().revision
}

fn names(read: &MetadataRead, family: &str) -> usize {
    let holds = |kv: &&KeyValue| String::from_utf8_lossy(&kv.key).contains(family);
    read.keys.iter().filter(holds).count()
}

/// A set with as many flushed segments as asked for.
fn large(segments: i64) -> SimulatedKeys {
    let mut set = SimulatedKeys::v2_3();
    for id in 0..segments {
        let segment = set.segment(1_000 + id);
        set.whole(&segment);
    }
    set
}

/// A log of a segment whose newest row is of `to`.
fn newer(set: &SimulatedKeys, segment: i64, to: u64) -> SimulatedKeys {
    let mut more = SimulatedKeys::new(set.version.clone());
    more.keys.clear();
    let logs = FieldBinlog {
        field_id: 100,
        binlogs: vec![Binlog {
            entries_num: 1,
            timestamp_from: to,
            timestamp_to: to,
            log_size: 64,
            log_id: 9,
            ..Default::default()
        }],
        ..Default::default()
    };
    let key = format!("datacoord-meta/binlog/{COLLECTION}/{PARTITION}/{segment}/100");
    more.meta(&key, &logs);
    more
}

#[tokio::test]
async fn no_log_is_read_under_the_hold_but_what_was_put_since_the_cut() {
    let (mut etcd, _process, _directory) = etcd::scratch().await;
    let set = large(200);
    put(&mut etcd, &set).await;
    let roots = SimulatedKeys::roots();
    let reader = Reader {
        etcd: etcd.clone(),
        roots: &roots,
        version: &set.version,
    };
    let barrier = Barrier::at(TIME);
    let since = revision(&etcd).await;
    let cut_point = CutPoint {
        barrier: &barrier,
        cut: CUT,
        since,
    };
    let read = reader.read(ReadScope::CutPoint).await.unwrap().unwrap();
    let read = reader.with_logs(read, &cut_point).await.unwrap().unwrap();
    assert_eq!(names(&read, "/binlog/"), 0);
    assert_eq!(names(&read, "/snapshots/"), 0);
    assert_eq!(names(&read, "/datacoord-meta/s/"), 203);
    assert!(!read.has_newer(CUT));
    let whole = reader.whole(read).await.unwrap().unwrap();
    assert!(names(&whole, "/binlog/") > 1_200);

    put(&mut etcd, &newer(&set, 1_000, CUT + 1)).await;
    let read = reader.read(ReadScope::CutPoint).await.unwrap().unwrap();
    let read = reader.with_logs(read, &cut_point).await.unwrap().unwrap();
    assert_eq!(names(&read, "/binlog/"), 1);
    assert!(read.has_newer(CUT));
}

#[tokio::test]
async fn an_open_segment_whose_record_has_no_rows_is_known_by_its_logs() {
    let (mut etcd, _process, _directory) = etcd::scratch().await;
    let mut set = large(1);
    let growing = SegmentInfo {
        state: SegmentState::Growing.into(),
        num_of_rows: 0,
        ..set.segment(2_000)
    };
    set.whole(&growing);
    put(&mut etcd, &set).await;
    let roots = SimulatedKeys::roots();
    let reader = Reader {
        etcd: etcd.clone(),
        roots: &roots,
        version: &set.version,
    };
    let barrier = Barrier::at(TIME);
    let cut_point = CutPoint {
        barrier: &barrier,
        cut: CUT,
        since: revision(&etcd).await,
    };
    let read = reader.read(ReadScope::CutPoint).await.unwrap().unwrap();
    assert_eq!(Blockers::of(&read.catalog, &cut_point).open, [0; 0]);
    let read = reader.with_logs(read, &cut_point).await.unwrap().unwrap();
    assert_eq!(Blockers::of(&read.catalog, &cut_point).open, [2_000]);
}

#[tokio::test]
async fn a_revision_that_etcd_compacted_is_no_anchor() {
    let (mut etcd, _process, _directory) = etcd::scratch().await;
    let set = large(1);
    put(&mut etcd, &set).await;
    let roots = SimulatedKeys::roots();
    let reader = Reader {
        etcd: etcd.clone(),
        roots: &roots,
        version: &set.version,
    };
    let read = reader.read(ReadScope::CutPoint).await.unwrap().unwrap();
    let all = reader.read(ReadScope::Everything).await.unwrap().unwrap();
    put(&mut etcd, &newer(&set, 1_000, CUT + 1)).await;
    etcd.compact().await;
    assert!(reader.whole(read).await.unwrap().is_none());
    let revision = all.revision;
    let kept = reader.whole(all).await.unwrap().unwrap();
    assert_eq!(kept.revision, revision, "all of it was read before");
}
