//! Key sets of Milvus versions that do not run here, constructed from docs/milvus.md 3.
//!
//! Simulated: no server wrote these keys.

use prost::Message;

use crate::milvus::MilvusVersion;
use crate::milvus::hybrid;
use crate::milvus::keys::{KeyValue, Roots};
use crate::milvus::proto::common::{IndexState, KeyDataPair, KeyValuePair, SegmentState};
use crate::milvus::proto::data::{Binlog, FieldBinlog, SegmentInfo};
use crate::milvus::proto::msg::MsgPosition;
use crate::milvus::proto::schema::{CollectionSchema, DataType, FieldSchema};
use crate::milvus::proto::{index, meta, query};

mod versions;

/// The collection; ids ascend with what they stand for.
pub const COLLECTION: i64 = 100;
/// Its partition.
pub const PARTITION: i64 = 101;
/// Its index.
pub const INDEX: i64 = 150;
/// The collection of a second database, where there is one.
pub const OTHER_COLLECTION: i64 = 300;
/// The virtual channel of the first collection.
pub const VCHANNEL: &str = "by-dev-rootcoord-dml_0_100v0";
/// The physical channel of all collections.
pub const PCHANNEL: &str = "by-dev-rootcoord-dml_0";

/// 2026-01-01T00:00:00Z as a hybrid timestamp.
pub const TIME: u64 = hybrid::of_millis(1_767_225_600_000);
/// The same in nanoseconds.
pub const NANOS: u64 = 1_767_225_600_000_000_000;

/// A position's message id; the kind of WAL decides its bytes.
const ROCKSMQ_ID: u64 = 470_654_271_533_613_077;

/// A growing set of keys.
#[derive(Debug, Clone)]
pub struct SimulatedKeys {
    /// The version that would have written them.
    pub version: MilvusVersion,
    /// The keys.
    pub keys: Vec<KeyValue>,
    /// The timestamp of logs that are put.
    pub time: u64,
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
    /// No keys yet.
    #[must_use]
    pub fn empty(version: MilvusVersion) -> Self {
        Self {
            version,
            keys: Vec::new(),
            time: TIME,
            message_id: ROCKSMQ_ID.to_le_bytes().to_vec(),
        }
    }

    /// One collection `docs` with an HNSW index and no segments.
    #[must_use]
    pub fn new(version: MilvusVersion) -> Self {
        let mut set = Self::empty(version);
        set.database(1, "default");
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

    /// Where all key sets are.
    #[must_use]
    pub fn roots() -> Roots {
        Roots::new("by-dev")
    }

    /// A raw value below the root.
    pub fn raw(&mut self, key: &str, value: &[u8]) -> &mut KeyValue {
        self.keys
            .push(KeyValue::new(format!("by-dev/{key}"), value));
        let last = self.keys.len() - 1;
        &mut self.keys[last]
    }

    /// A message below the meta path.
    pub fn meta(&mut self, key: &str, value: &impl Message) {
        self.raw(&format!("meta/{key}"), &value.encode_to_vec());
    }

    fn with_copy(&mut self, key: &str, value: &impl Message) {
        self.meta(key, value);
        self.meta(&format!("snapshots/{key}_ts{TIME}"), value);
    }

    /// A database.
    pub fn database(&mut self, id: i64, name: &str) {
        let database = meta::DatabaseInfo {
            name: name.to_owned(),
            id,
            state: meta::DatabaseState::Created.into(),
            ..Default::default()
        };
        self.with_copy(&format!("root-coord/database/db-info/{id}"), &database);
    }

    /// A second database with a collection of the first one's name.
    pub fn second_database(&mut self) {
        self.database(2, "other");
        self.collection_in(2, OTHER_COLLECTION, "docs", meta::CollectionState::Created);
    }

    /// A collection of the default database.
    pub fn collection(&mut self, id: i64, name: &str, state: meta::CollectionState) {
        self.collection_in(1, id, name, state);
    }

    /// A collection with an id, a text, a JSON and a vector field.
    fn collection_in(&mut self, db: i64, id: i64, name: &str, state: meta::CollectionState) {
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
            db_id: db,
            ..Default::default()
        };
        self.with_copy(
            &format!("root-coord/database/collection-info/{db}/{id}"),
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

    /// A position in a channel.
    #[must_use]
    pub fn position(&self, timestamp: u64, channel: &str) -> MsgPosition {
        MsgPosition {
            channel_name: channel.to_owned(),
            msg_id: self.message_id.clone(),
            timestamp,
            ..Default::default()
        }
    }

    /// The record of a flushed segment of the first collection with 10 rows.
    #[must_use]
    pub fn segment(&self, id: i64) -> SegmentInfo {
        self.segment_of(COLLECTION, id)
    }

    /// The record of a flushed segment with 10 rows.
    #[must_use]
    pub fn segment_of(&self, collection: i64, id: i64) -> SegmentInfo {
        let vchannel = format!("{PCHANNEL}_{collection}v0");
        SegmentInfo {
            id,
            collection_id: collection,
            partition_id: collection + 1,
            num_of_rows: 10,
            state: SegmentState::Flushed.into(),
            start_position: Some(self.position(TIME, &vchannel)),
            dml_position: Some(self.position(TIME, &vchannel)),
            insert_channel: vchannel,
            ..Default::default()
        }
    }

    fn logs(&self, field: i64, first: i64, entries: i64) -> FieldBinlog {
        FieldBinlog {
            field_id: field,
            binlogs: vec![Binlog {
                entries_num: entries,
                timestamp_from: self.time,
                timestamp_to: self.time,
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
    pub fn whole(&mut self, segment: &SegmentInfo) {
        self.record(segment);
        for field in [0, 1, 100, 101, 102, 103] {
            let logs = self.logs(field, segment.id * 10 + 1, segment.num_of_rows);
            self.put_logs("binlog", segment, &logs);
        }
        let stats = self.logs(100, segment.id * 10 + 2, 0);
        self.put_logs("statslog", segment, &stats);
        self.build(segment, IndexState::Finished);
    }

    /// Writes a segment's record only.
    pub fn record(&mut self, segment: &SegmentInfo) {
        let key = format!(
            "datacoord-meta/s/{}/{}/{}",
            segment.collection_id, segment.partition_id, segment.id
        );
        self.meta(&key, segment);
    }

    /// Writes a segment's index build.
    pub fn build(&mut self, segment: &SegmentInfo, state: IndexState) {
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
    pub fn load(&mut self) {
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
}
