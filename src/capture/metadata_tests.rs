//! What is read while writes are denied, on a real etcd with the keys of a simulated Milvus.

use std::sync::Arc;
use std::time::Duration;

use super::*;
use crate::base::env::Env;
use crate::capture::anchor::Anchored;
use crate::capture::followed::Followed;
use crate::etcd::{self, Lease};
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

/// Logs of rows in what was read.
fn logs(read: &MetadataRead) -> usize {
    read.catalog
        .segments
        .iter()
        .flat_map(Segment::row_logs)
        .count()
}

/// What reads a simulated instance.
struct World {
    reader: Reader<'static>,
    lease: Arc<Lease>,
}

impl World {
    async fn new(etcd: &Etcd, set: &SimulatedKeys) -> Self {
        let env = Env::system();
        let lease = etcd.clone().lease(Duration::from_secs(30), &env).await;
        Self {
            // A test's few bytes may stay.
            reader: Reader {
                etcd: etcd.clone(),
                roots: Box::leak(Box::new(SimulatedKeys::roots())),
                version: Box::leak(Box::new(set.version.clone())),
            },
            lease: Arc::new(lease.unwrap()),
        }
    }

    fn cut_point(since: i64) -> CutPoint<'static> {
        CutPoint {
            barrier: Box::leak(Box::new(Barrier::at(TIME))),
            cut: CUT,
            since,
        }
    }

    /// What decides now.
    async fn read(
        &self,
        followed: &Followed<'_>,
        scope: ReadScope,
        cut_point: &CutPoint<'_>,
    ) -> MetadataRead {
        followed.to_now().await.unwrap();
        let read = followed.deciding().await.unwrap();
        followed.with_logs(read, scope, cut_point).await.unwrap()
    }
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
async fn no_log_decides_but_what_was_put_since_the_cut() {
    let (mut etcd, _process, _directory) = etcd::scratch().await;
    let set = large(200);
    put(&mut etcd, &set).await;
    let world = World::new(&etcd, &set).await;
    let followed = Followed::begin(&world.reader, world.lease.clone())
        .await
        .unwrap();
    let cut_point = World::cut_point(revision(&etcd).await);
    let read = world.read(&followed, ReadScope::CutPoint, &cut_point).await;
    assert_eq!(logs(&read), 0);
    assert_eq!(read.catalog.segments.len(), 203);
    assert!(!read.has_newer(CUT));
    let whole = world
        .read(&followed, ReadScope::Everything, &cut_point)
        .await;
    assert!(logs(&whole) > 1_200);

    put(&mut etcd, &newer(&set, 1_000, CUT + 1)).await;
    let read = world.read(&followed, ReadScope::CutPoint, &cut_point).await;
    assert_eq!(logs(&read), 1);
    assert!(read.has_newer(CUT));
}

#[tokio::test]
async fn a_log_without_a_timestamp_is_not_proven_when_it_is_newer_than_the_cut_and_no_noise_when_it_is_old()
 {
    let (mut etcd, _process, _directory) = etcd::scratch().await;
    let set = large(3);
    put(&mut etcd, &set).await;
    put(&mut etcd, &newer(&set, 1_000, 0)).await;
    let world = World::new(&etcd, &set).await;
    let followed = Followed::begin(&world.reader, world.lease.clone())
        .await
        .unwrap();
    let cut_point = World::cut_point(revision(&etcd).await);
    // The key is put again with the log that it had, and with one that has a timestamp.
    let mut again = newer(&set, 1_000, 0);
    let mut logs = FieldBinlog::decode(again.keys[0].value.as_slice()).unwrap();
    logs.binlogs.push(Binlog {
        log_id: 10,
        timestamp_to: TIME,
        ..logs.binlogs[0].clone()
    });
    again.keys[0].value = logs.encode_to_vec();
    put(&mut etcd, &again).await;
    for scope in [ReadScope::CutPoint, ReadScope::Everything] {
        let read = world.read(&followed, scope, &cut_point).await;
        assert!(!read.has_newer(CUT));
    }
    put(&mut etcd, &newer(&set, 1_001, 0)).await;
    for scope in [ReadScope::CutPoint, ReadScope::Everything] {
        let read = world.read(&followed, scope, &cut_point).await;
        assert!(read.has_newer(CUT));
        let (keys, _) = Followed::begin(&world.reader, world.lease.clone())
            .await
            .unwrap()
            .into_keys();
        let anchor = crate::etcd::Anchor {
            revision: read.revision,
            keys,
        };
        let catalog = world.reader.decode(anchor.keys.clone()).unwrap();
        let time = jiff::Timestamp::UNIX_EPOCH;
        let anchored = Anchored::new(time, anchor, catalog, CUT, read.undated);
        let path = format!("insert_log/{COLLECTION}/{PARTITION}/1001/100/9");
        assert_eq!(
            (anchored.cut.proven, anchored.cut.straddling),
            (false, vec![path])
        );
    }
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
    let world = World::new(&etcd, &set).await;
    let followed = Followed::begin(&world.reader, world.lease.clone())
        .await
        .unwrap();
    let cut_point = World::cut_point(revision(&etcd).await);
    let read = followed.deciding().await.unwrap();
    assert_eq!(Blockers::of(&read.catalog, &cut_point).open, [0; 0]);
    let read = world.read(&followed, ReadScope::CutPoint, &cut_point).await;
    assert_eq!(Blockers::of(&read.catalog, &cut_point).open, [2_000]);
}
