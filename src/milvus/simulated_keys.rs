//! Key sets of Milvus versions that do not run here, constructed from docs/milvus.md 3.
//!
//! Simulated: no server wrote these keys.

use prost::Message;

use super::MilvusVersion;
use super::keys::{KeyValue, Roots};
use super::proto::common::{IndexState, KeyDataPair, KeyValuePair, MessageId, SegmentState};
use super::proto::data::{Binlog, FieldBinlog, SegmentInfo, SegmentLevel};
use super::proto::msg::MsgPosition;
use super::proto::schema::{CollectionSchema, DataType, FieldSchema, FunctionSchema};
use super::proto::{data, index, meta, query, streaming};

/// The collection, its partition and its segments; ids ascend with what they stand for.
pub(crate) const COLLECTION: i64 = 100;
pub(crate) const PARTITION: i64 = 101;
pub(crate) const INDEX: i64 = 150;
pub(crate) const VCHANNEL: &str = "by-dev-rootcoord-dml_0_100v0";
const PCHANNEL: &str = "by-dev-rootcoord-dml_0";

/// 2026-01-01T00:00:00Z as a hybrid timestamp and in nanoseconds.
pub(crate) const TIME: u64 = 1_767_225_600_000 << 18;
pub(crate) const NANOS: u64 = 1_767_225_600_000_000_000;

/// A position's message id; the kind of WAL decides its bytes.
const ROCKSMQ_ID: u64 = 470_654_271_533_613_077;

/// A growing set of keys.
pub(crate) struct SimulatedKeys {
    pub(crate) version: MilvusVersion,
    pub(crate) keys: Vec<KeyValue>,
    message_id: Vec<u8>,
}

fn pair(key: &str, value: &str) -> KeyValuePair {
    KeyValuePair {
        key: key.to_owned(),
        value: value.to_owned(),
    }
}

fn field(id: i64, name: &str, kind: DataType) -> FieldSchema {
    FieldSchema {
        field_id: id,
        name: name.to_owned(),
        data_type: kind.into(),
        is_primary_key: name == "id",
        ..Default::default()
    }
}

impl SimulatedKeys {
    /// One collection `docs` with an HNSW index and no segments.
    pub(crate) fn new(version: MilvusVersion) -> Self {
        let mut set = Self {
            version,
            keys: Vec::new(),
            message_id: ROCKSMQ_ID.to_le_bytes().to_vec(),
        };
        let database = meta::DatabaseInfo {
            name: "default".to_owned(),
            id: 1,
            state: meta::DatabaseState::Created.into(),
            ..Default::default()
        };
        set.with_copy("root-coord/database/db-info/1", &database);
        set.collection(COLLECTION, "docs", meta::CollectionState::Created);
        let definition = index::FieldIndex {
            index_info: Some(index::IndexInfo {
                collection_id: COLLECTION,
                field_id: 103,
                index_name: "vector".to_owned(),
                index_id: INDEX,
                index_params: vec![pair("index_type", "HNSW")],
                ..Default::default()
            }),
            ..Default::default()
        };
        set.meta(&format!("field-index/{COLLECTION}/{INDEX}"), &definition);
        set.raw("meta/session/id", b"7");
        set.raw(
            "meta/session/rootcoord",
            br#"{"ServerID":5,"Address":"10.0.0.1:53100"}"#,
        );
        set.raw("kv/gid/idTimestamp", &NANOS.to_be_bytes());
        let tso = if set.version.has_root_config() {
            "kv/gid/timestamp"
        } else {
            "kv/tso/timestamp"
        };
        set.raw(tso, &NANOS.to_be_bytes());
        set
    }

    pub(crate) fn roots() -> Roots {
        Roots::new("by-dev")
    }

    /// A raw value below the root.
    pub(crate) fn raw(&mut self, key: &str, value: &[u8]) -> &mut KeyValue {
        self.keys
            .push(KeyValue::new(format!("by-dev/{key}"), value));
        let last = self.keys.len() - 1;
        &mut self.keys[last]
    }

    /// A message below the meta path.
    pub(crate) fn meta(&mut self, key: &str, value: &impl Message) {
        self.raw(&format!("meta/{key}"), &value.encode_to_vec());
    }

    fn with_copy(&mut self, key: &str, value: &impl Message) {
        self.meta(key, value);
        self.meta(&format!("snapshots/{key}_ts{TIME}"), value);
    }

    /// A collection with an id, a text, a JSON and a vector field.
    pub(crate) fn collection(&mut self, id: i64, name: &str, state: meta::CollectionState) {
        let vchannel = format!("{PCHANNEL}_{id}v0");
        let info = meta::CollectionInfo {
            id,
            schema: Some(CollectionSchema {
                name: name.to_owned(),
                ..Default::default()
            }),
            create_time: TIME,
            virtual_channel_names: vec![vchannel.clone()],
            physical_channel_names: vec![PCHANNEL.to_owned()],
            shards_num: 1,
            start_positions: vec![KeyDataPair {
                key: PCHANNEL.to_owned(),
                data: self.message_id.clone(),
            }],
            state: state.into(),
            properties: vec![pair("collection.ttl.seconds", "3600")],
            db_id: 1,
            ..Default::default()
        };
        self.with_copy(
            &format!("root-coord/database/collection-info/1/{id}"),
            &info,
        );
        let fields = [
            field(0, "RowID", DataType::Int64),
            field(1, "Timestamp", DataType::Int64),
            field(100, "id", DataType::Int64),
            field(101, "text", DataType::VarChar),
            field(102, "json", DataType::Json),
            field(103, "vector", DataType::FloatVector),
        ];
        for field in fields {
            let key = format!("root-coord/fields/{id}/{}", field.field_id);
            self.with_copy(&key, &field);
        }
        let partition = meta::PartitionInfo {
            partition_id: id + 1,
            partition_name: "_default".to_owned(),
            collection_id: id,
            ..Default::default()
        };
        self.with_copy(
            &format!("root-coord/partitions/{id}/{}", id + 1),
            &partition,
        );
        let position = self.position(TIME, &vchannel);
        self.meta(&format!("datacoord-meta/channel-cp/{vchannel}"), &position);
        self.raw(
            &format!("meta/datacoord-meta/channel-removal/{vchannel}"),
            b"non-removed",
        );
    }

    pub(crate) fn position(&self, timestamp: u64, channel: &str) -> MsgPosition {
        MsgPosition {
            channel_name: channel.to_owned(),
            msg_id: self.message_id.clone(),
            timestamp,
            ..Default::default()
        }
    }

    /// The record of a flushed segment with 10 rows.
    pub(crate) fn segment(&self, id: i64) -> SegmentInfo {
        SegmentInfo {
            id,
            collection_id: COLLECTION,
            partition_id: PARTITION,
            insert_channel: VCHANNEL.to_owned(),
            num_of_rows: 10,
            state: SegmentState::Flushed.into(),
            start_position: Some(self.position(TIME, VCHANNEL)),
            dml_position: Some(self.position(TIME, VCHANNEL)),
            ..Default::default()
        }
    }

    fn logs(field: i64, first: i64, entries: i64) -> FieldBinlog {
        FieldBinlog {
            field_id: field,
            binlogs: vec![Binlog {
                entries_num: entries,
                timestamp_from: TIME,
                timestamp_to: TIME,
                log_size: 64,
                log_id: first,
                ..Default::default()
            }],
            ..Default::default()
        }
    }

    fn put_logs(&mut self, prefix: &str, segment: &SegmentInfo, logs: &FieldBinlog) {
        let key = format!(
            "datacoord-meta/{prefix}/{}/{}/{}/{}",
            segment.collection_id, segment.partition_id, segment.id, logs.field_id
        );
        self.meta(&key, logs);
    }

    /// Writes a segment with a log for each field, stats and an index build.
    pub(crate) fn whole(&mut self, segment: &SegmentInfo) {
        self.record(segment);
        for field in [0, 1, 100, 101, 102, 103] {
            let logs = Self::logs(field, segment.id * 10 + 1, segment.num_of_rows);
            self.put_logs("binlog", segment, &logs);
        }
        self.put_logs(
            "statslog",
            segment,
            &Self::logs(100, segment.id * 10 + 2, 0),
        );
        self.build(segment, IndexState::Finished);
    }

    /// Writes a segment's record only.
    pub(crate) fn record(&mut self, segment: &SegmentInfo) {
        let key = format!(
            "datacoord-meta/s/{}/{}/{}",
            segment.collection_id, segment.partition_id, segment.id
        );
        self.meta(&key, segment);
    }

    /// Writes a segment's index build.
    pub(crate) fn build(&mut self, segment: &SegmentInfo, state: IndexState) {
        let build = segment.id * 10 + 5;
        let info = index::SegmentIndex {
            collection_id: segment.collection_id,
            partition_id: segment.partition_id,
            segment_id: segment.id,
            num_rows: segment.num_of_rows,
            index_id: INDEX,
            build_id: build,
            index_version: 1,
            state: state.into(),
            index_file_keys: vec!["HNSW_0".to_owned()],
            ..Default::default()
        };
        let key = format!(
            "segment-index/{}/{}/{}/{build}",
            segment.collection_id, segment.partition_id, segment.id
        );
        self.meta(&key, &info);
    }

    /// A loaded collection.
    pub(crate) fn load(&mut self) {
        let load = query::CollectionLoadInfo {
            collection_id: COLLECTION,
            replica_number: 2,
            status: query::LoadStatus::Loaded.into(),
            load_type: query::LoadType::Collection.into(),
            ..Default::default()
        };
        self.meta(
            &format!("querycoord-collection-loadinfo/{COLLECTION}"),
            &load,
        );
        let partition = query::PartitionLoadInfo {
            collection_id: COLLECTION,
            partition_id: PARTITION,
            ..Default::default()
        };
        self.meta(
            &format!("querycoord-partition-loadinfo/{COLLECTION}/{PARTITION}"),
            &partition,
        );
        let replica = query::Replica {
            id: 900,
            collection_id: COLLECTION,
            nodes: vec![3],
            resource_group: "__default_resource_group".to_owned(),
            ..Default::default()
        };
        self.meta(&format!("querycoord-replica/{COLLECTION}/900"), &replica);
    }

    /// Simulated 2.2: collection keys before databases, the old place of timestamps and settings,
    /// a bulk load that ended.
    pub(crate) fn v2_2() -> Self {
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
    pub(crate) fn v2_3() -> Self {
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
    pub(crate) fn v2_4() -> Self {
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
        set.put_logs("deltalog", &level0, &Self::logs(100, 1201, 4));
        let stats = format!("datacoord-meta/partition-stats/{COLLECTION}/{PARTITION}/{VCHANNEL}/9");
        set.meta(&stats, &data::PartitionStatsInfo::default());
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
        let job = data::ImportJob {
            job_id: 5,
            state: data::ImportJobState::Importing.into(),
            ..Default::default()
        };
        set.meta("datacoord-meta/import-job/5", &job);
        set.raw("meta/datacoord-meta/analyze-task/6", b"");
        set.raw("meta/queryCoord-Collection-Target/100", b"zstd");
        set.load();
        set
    }

    /// Simulated 2.5: text and JSON statistics with whole paths, BM25, the sort flow.
    pub(crate) fn v2_5() -> Self {
        let mut set = Self::new(MilvusVersion::new(2, 5, 4));
        let file = |directory: &str, name: &str| {
            vec![format!(
                "files/{directory}/7/1/{COLLECTION}/{PARTITION}/110/101/{name}"
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
        set.put_logs("bm25log", &sorted, &Self::logs(104, 1, 0));
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
    pub(crate) fn v2_6(message_id: &[u8]) -> Self {
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
                ..Self::logs(group, 1101 + group, 10)
            };
            set.put_logs("binlog", &segment, &logs);
        }
        set.put_logs("statslog", &segment, &Self::logs(100, 1, 0));
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
        let settled = streaming::BroadcastTask {
            state: streaming::BroadcastTaskState::Tombstone.into(),
            ..Default::default()
        };
        self.meta("streamingcoord-meta/broadcast-task/4", &settled);
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
