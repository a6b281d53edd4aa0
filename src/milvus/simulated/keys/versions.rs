//! One set of keys for each series, with what that series brought.

use super::{COLLECTION, NANOS, PARTITION, PCHANNEL, SimulatedKeys, TIME, VCHANNEL};
use crate::milvus::MilvusVersion;
use crate::milvus::proto::common::{IndexState, MessageId, SegmentState};
use crate::milvus::proto::data::{self, FieldBinlog, SegmentInfo, SegmentLevel};
use crate::milvus::proto::msg::MsgPosition;
use crate::milvus::proto::schema::FunctionSchema;
use crate::milvus::proto::{meta, streaming};

impl SimulatedKeys {
    /// Simulated 2.2: collection keys before databases, the old place of timestamps and settings,
    /// a bulk load that ended.
    #[must_use]
    pub fn v2_2() -> Self {
        let mut set = Self::new(MilvusVersion::new(2, 2, 16));
        let segment = set.segment(110);
        set.whole(&segment);
        for key in &mut set.keys {
            let name = String::from_utf8_lossy(&key.key);
            key.key = name
                .replace("database/collection-info/1/", "collection/")
                .into();
        }
        set.raw("meta/config/common/retentionDuration", b"0");
        // ImportTaskInfo { id: 1, state: { stateCode: Completed } }
        set.raw("meta/importtask/1", &[0x08, 0x01, 0x5a, 0x02, 0x08, 0x06]);
        set.raw("meta/queryCoord-collectionMeta/100", b"x");
        set
    }

    /// Simulated 2.3.22: the checkpoint of a dropped channel, a collection that is being dropped,
    /// a half-done compaction, a leased hold.
    #[must_use]
    pub fn v2_3() -> Self {
        let mut set = Self::new(MilvusVersion::new(2, 3, 22));
        let mut parent = set.segment(110);
        set.whole(&parent);
        let child = SegmentInfo {
            compaction_from: vec![110],
            ..set.segment(111)
        };
        set.whole(&child);
        parent = SegmentInfo {
            state: SegmentState::Dropped.into(),
            dropped_at: NANOS,
            ..set.segment(112)
        };
        set.whole(&parent);
        let dropped = set.position(u64::MAX, "by-dev-rootcoord-dml_0_77v0");
        let dropped = MsgPosition {
            msg_id: Vec::new(),
            ..dropped
        };
        set.meta(
            "datacoord-meta/channel-cp/by-dev-rootcoord-dml_0_77v0",
            &dropped,
        );
        set.collection(200, "gone", meta::CollectionState::Dropping);
        let key = "config/quotaAndLimits/limitWriting/forceDeny";
        set.raw(key, b"true").lease = 77;
        set.raw("config/quotaAndLimits.dml.enabled", b"true");
        set.load();
        set
    }

    /// Simulated 2.4: level 0, partition statistics, tasks, targets.
    #[must_use]
    pub fn v2_4() -> Self {
        let mut set = Self::new(MilvusVersion::new(2, 4, 24));
        let segment = set.segment(110);
        set.whole(&segment);
        let level0 = SegmentInfo {
            partition_id: -1,
            num_of_rows: 0,
            level: SegmentLevel::L0.into(),
            ..set.segment(120)
        };
        set.record(&level0);
        let deletes = set.logs(100, 1201, 4);
        set.put_logs("deltalog", &level0, &deletes);
        let stats =
            format!("meta/datacoord-meta/partition-stats/{COLLECTION}/{PARTITION}/{VCHANNEL}/9");
        set.raw(&stats, b"");
        set.raw(
            &format!(
                "meta/datacoord-meta/current-partition-stats-version/{COLLECTION}/{PARTITION}/{VCHANNEL}"
            ),
            b"9",
        );
        for (plan, state) in [
            (1, data::CompactionTaskState::Executing),
            (2, data::CompactionTaskState::Completed),
        ] {
            let task = data::CompactionTask {
                plan_id: plan,
                state: state.into(),
                ..Default::default()
            };
            set.meta(
                &format!("datacoord-meta/compaction-task/MixCompaction/1/{plan}"),
                &task,
            );
        }
        set.import_job(5, data::ImportJobState::Completed);
        set.raw("meta/datacoord-meta/analyze-task/6", b"");
        set.raw("meta/queryCoord-Collection-Target/100", b"zstd");
        set.load();
        set
    }

    /// A bulk load of 2.4 and later.
    pub fn import_job(&mut self, id: i64, state: data::ImportJobState) {
        let job = data::ImportJob {
            job_id: id,
            state: state.into(),
            ..Default::default()
        };
        self.meta(&format!("datacoord-meta/import-job/{id}"), &job);
    }

    /// A broadcast of 2.6.
    pub fn broadcast(&mut self, id: i64, state: streaming::BroadcastTaskState) {
        let task = streaming::BroadcastTask {
            state: state.into(),
            ..Default::default()
        };
        self.meta(&format!("streamingcoord-meta/broadcast-task/{id}"), &task);
    }

    /// Simulated 2.5: text and JSON statistics with whole paths below `storage`, BM25, the sort flow.
    #[must_use]
    pub fn v2_5(storage: &str) -> Self {
        let mut set = Self::new(MilvusVersion::new(2, 5, 4));
        let file = |directory: &str, name: &str| {
            vec![format!(
                "{storage}/{directory}/7/1/{COLLECTION}/{PARTITION}/110/101/{name}"
            )]
        };
        let text = data::TextIndexStats {
            field_id: 101,
            version: 1,
            files: file("text_log", "a_0"),
            build_id: 7,
            ..Default::default()
        };
        let json = data::JsonKeyStats {
            field_id: 102,
            version: 1,
            files: file("json_key_index_log", "b_0"),
            build_id: 7,
            json_key_stats_data_format: 1,
            ..Default::default()
        };
        let sorted = SegmentInfo {
            is_sorted: true,
            text_stats_logs: [(101, text)].into(),
            json_key_stats: [(102, json)].into(),
            ..set.segment(110)
        };
        set.whole(&sorted);
        let bm25 = set.logs(104, 1, 0);
        set.put_logs("bm25log", &sorted, &bm25);
        // Flushed and not sorted yet: invisible, and the only copy of its rows.
        let raw = SegmentInfo {
            is_invisible: true,
            ..set.segment(111)
        };
        set.whole(&raw);
        // A clustering's output waits for its index while its parent serves.
        let output = SegmentInfo {
            is_invisible: true,
            compaction_from: vec![110],
            level: SegmentLevel::L2.into(),
            ..set.segment(112)
        };
        set.whole(&output);
        let function = FunctionSchema {
            name: "bm25".to_owned(),
            id: 1,
            ..Default::default()
        };
        set.with_copy(&format!("root-coord/functions/{COLLECTION}/1"), &function);
        set.raw("meta/datacoord-meta/stats-task/3", b"");
        set
    }

    /// Simulated 2.6: streaming, column groups, JSON statistics by name, file resources.
    #[must_use]
    pub fn v2_6(message_id: &[u8]) -> Self {
        let mut set = Self::new(MilvusVersion::new(2, 6, 9));
        set.message_id = message_id.to_vec();
        let json = data::JsonKeyStats {
            field_id: 102,
            version: 1,
            files: vec!["meta.json".to_owned(), "shared_key_index/x".to_owned()],
            build_id: 8,
            json_key_stats_data_format: 3,
            ..Default::default()
        };
        let segment = SegmentInfo {
            storage_version: 2,
            json_key_stats: [(102, json)].into(),
            ..set.segment(110)
        };
        set.record(&segment);
        for (group, children) in [(0, vec![0, 1, 100, 101, 102]), (103, vec![103])] {
            let logs = FieldBinlog {
                child_fields: children,
                ..set.logs(group, 1101 + group, 10)
            };
            set.put_logs("binlog", &segment, &logs);
        }
        let stats = set.logs(100, 1, 0);
        set.put_logs("statslog", &segment, &stats);
        set.build(&segment, IndexState::InProgress);
        let growing = SegmentInfo {
            state: SegmentState::Growing.into(),
            num_of_rows: 0,
            is_created_by_streaming: true,
            ..set.segment(130)
        };
        set.record(&growing);
        // file_resource_info: name (1), path (2).
        set.raw(
            "meta/root-coord/file_resource_info/1",
            b"\x0a\x01d\x12\x08dict.txt",
        );
        set.streaming();
        set
    }

    fn streaming(&mut self) {
        self.raw("meta/streamingcoord-meta/version/", &[0x08, 0x02]);
        self.raw("meta/streamingcoord-meta/cchannel", b"\x0a\x01c");
        let pchannel = format!("streamingcoord-meta/pchannel/{PCHANNEL}");
        self.meta(&pchannel, &streaming::PChannelMeta::default());
        self.broadcast(4, streaming::BroadcastTaskState::Tombstone);
        let wal = format!("streamingnode-meta/wal/{PCHANNEL}");
        let checkpoint = streaming::WalCheckpoint {
            message_id: Some(MessageId {
                id: "old".to_owned(),
                wal_name: 2,
            }),
            time_tick: TIME,
            recovery_magic: 1,
            ..Default::default()
        };
        self.meta(&format!("{wal}/consume-checkpoint"), &checkpoint);
        let vchannel = streaming::VChannelMeta {
            vchannel: VCHANNEL.to_owned(),
            collection_info: Some(streaming::CollectionInfoOfVChannel {
                collection_id: COLLECTION,
                ..Default::default()
            }),
            ..Default::default()
        };
        self.meta(&format!("{wal}/vchannel/{VCHANNEL}"), &vchannel);
        self.raw(&format!("meta/{wal}/vchannel/{VCHANNEL}/schema/1"), b"");
        self.raw(&format!("meta/{wal}/segment-assign/130"), b"");
    }
}
