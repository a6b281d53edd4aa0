//! The anchor decoded: databases, collections, segments, indexes and what they reference.
//!
//! Everything here is a pure function of the keys at one revision (I1). A value that cannot be
//! decoded is an error that names its key; what is missing or contradictory is not, and is found by
//! [`Catalog::validate`].

use std::collections::{BTreeMap, BTreeSet};

use super::keys::{Family, Roots};
use super::proto::data::CompactionTaskState;
use super::proto::meta::{AliasState, CollectionState, DatabaseState, PartitionState};
use super::proto::schema::{FieldSchema, FunctionSchema, StructArrayFieldSchema};
use super::version::MilvusVersion;

mod decode;
mod live;
mod segment;
mod standing;
mod wal;

pub use segment::{FieldLogs, FieldStats, Log, Segment, SegmentFlags, SegmentIndex, StatsKind};
pub use standing::{Conflict, Keeps, Standing};
pub use wal::{WalEvidence, WalKind};

pub(crate) use decode::{TOMBSTONE, is_terminal};

/// The partition id of a segment of level 0 that covers all partitions.
pub const ALL_PARTITIONS: i64 = -1;

/// The anchor of one instance, decoded.
#[derive(Debug, Clone)]
pub struct Catalog {
    /// Where the keys lie.
    pub roots: Roots,
    /// The version of Milvus that wrote them.
    pub version: MilvusVersion,
    /// Databases by id; database 1 is `default`.
    pub databases: BTreeMap<i64, Database>,
    /// Collections by id, those that are being created or dropped included.
    pub collections: BTreeMap<i64, Collection>,
    /// All segments in ascending order of collection, partition and id, each with its
    /// [`Standing`].
    pub segments: Vec<Segment>,
    /// Parents and children of one compaction that were both there, and which of them is live.
    pub conflicts: Vec<Conflict>,
    /// Partition statistics of clustering compaction, 2.4 and later.
    pub partition_stats: Vec<PartitionStats>,
    /// File resources (analyzer dictionaries), 2.6 and later. They are no objects of the catalog: they
    /// lie anywhere in the bucket, not below the storage root.
    pub resources: Vec<FileResource>,
    /// What is loaded.
    pub load: Load,
    /// Channel checkpoints by virtual channel, those of dropped channels included.
    pub checkpoints: BTreeMap<String, Checkpoint>,
    /// Sessions at the revision: a live process of Milvus has one.
    pub sessions: Vec<Session>,
    /// Dynamic configuration.
    pub config: Vec<ConfigItem>,
    /// Jobs and tasks that were under way.
    pub tasks: Tasks,
    /// What the positions tell about the kind of WAL.
    pub wal: WalEvidence,
    /// Counters as they were saved.
    pub counters: Counters,
    /// Users, roles and grants.
    pub access: Access,
    /// Storage versions of live segments.
    pub storage_versions: BTreeSet<i64>,
    /// Engine versions of the index files of live segments.
    pub index_versions: IndexVersions,
    /// Number of keys by family.
    pub families: BTreeMap<Family, u64>,
    /// Keys below the root that the table does not know, the first [`MAX_NAMED`] of them.
    pub unknown: Vec<String>,
    /// Keys that belong to no collection (left by an interrupted create or drop), by number.
    pub orphans: u64,
    /// Plain keys whose newest copy under `snapshots/` says something else, the first
    /// [`MAX_NAMED`] of them.
    pub stale_copies: Vec<String>,
    /// The greatest hybrid timestamp anywhere in the anchor, the sentinel 2^64−1 left out.
    pub max_timestamp: u64,
}

/// The database that always exists.
pub const DEFAULT_DATABASE: &str = "default";

/// Its id.
const DEFAULT_DATABASE_ID: i64 = 1;

/// How many keys a list of examples names at most.
pub const MAX_NAMED: usize = 16;

/// A database.
#[derive(Debug, Clone, PartialEq)]
pub struct Database {
    /// Its id.
    pub id: i64,
    /// Its name.
    pub name: String,
    /// Whether it is being created or dropped.
    pub state: DatabaseState,
    /// When it was created, in nanoseconds since 1970 (on 2.3.5; not a hybrid timestamp).
    pub created_nanos: u64,
    /// Its properties, 2.4 and later.
    pub properties: BTreeMap<String, String>,
}

/// A collection with its schema.
#[derive(Debug, Clone, PartialEq)]
pub struct Collection {
    /// Its id.
    pub id: i64,
    /// The id of its database; 1 for a collection made before there were databases.
    pub database: i64,
    /// Its name.
    pub name: String,
    /// What its schema says of it.
    pub description: String,
    /// Whether it is being created or dropped.
    pub state: CollectionState,
    /// Hybrid timestamp of its creation.
    pub create_timestamp: u64,
    /// The consistency level's number: 0 strong, 1 session, 2 bounded, 3 eventually, 4 customized.
    pub consistency: i32,
    /// Number of shards.
    pub shards: i32,
    /// Virtual channels, one a shard.
    pub vchannels: Vec<String>,
    /// Physical channels of the virtual ones, in the same order.
    pub pchannels: Vec<String>,
    /// Fields in ascending order of their ids, the system fields 0 and 1 included.
    pub fields: Vec<FieldSchema>,
    /// Functions, 2.5 and later.
    pub functions: Vec<FunctionSchema>,
    /// Struct array fields, 2.6 and later.
    pub struct_fields: Vec<StructArrayFieldSchema>,
    /// Whether rows may hold fields that the schema does not name.
    pub dynamic: bool,
    /// Properties such as `collection.ttl.seconds`.
    pub properties: BTreeMap<String, String>,
    /// Partitions by id.
    pub partitions: BTreeMap<i64, Partition>,
    /// Aliases.
    pub aliases: BTreeMap<String, AliasState>,
    /// Index definitions by id, deleted ones included.
    pub indexes: BTreeMap<i64, FieldIndex>,
}

impl Collection {
    /// Whether clients see it: neither being created nor being dropped.
    #[must_use]
    pub fn is_created(&self) -> bool {
        self.state == CollectionState::Created
    }

    /// The primary key, when the schema has one.
    #[must_use]
    pub fn primary_key(&self) -> Option<&FieldSchema> {
        self.fields.iter().find(|field| field.is_primary_key)
    }

    /// `collection.ttl.seconds`, when it is set and greater than 0.
    #[must_use]
    pub fn ttl_seconds(&self) -> Option<u64> {
        let ttl = self.properties.get(TTL_PROPERTY)?.parse().ok()?;
        (ttl > 0).then_some(ttl)
    }

    /// All fields that have columns: those of the schema and those inside struct array fields.
    pub fn columns(&self) -> impl Iterator<Item = &FieldSchema> {
        let nested = self.struct_fields.iter().flat_map(|field| &field.fields);
        self.fields.iter().chain(nested)
    }
}

/// The collection property that makes rows expire.
pub const TTL_PROPERTY: &str = "collection.ttl.seconds";

/// A partition.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Partition {
    /// Its name.
    pub name: String,
    /// Whether it is being created or dropped.
    pub state: PartitionState,
    /// Hybrid timestamp of its creation.
    pub create_timestamp: u64,
}

/// The definition of an index.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FieldIndex {
    /// Its id.
    pub id: i64,
    /// The field it is on.
    pub field: i64,
    /// Its name.
    pub name: String,
    /// Whether it was dropped and waits for the garbage collector.
    pub deleted: bool,
    /// Index parameters, such as `index_type` and `metric_type`.
    pub params: BTreeMap<String, String>,
}

/// Statistics of one version of a partition's shard, made by clustering compaction.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PartitionStats {
    /// The collection.
    pub collection: i64,
    /// The partition.
    pub partition: i64,
    /// The virtual channel.
    pub vchannel: String,
    /// The version.
    pub version: i64,
}

/// A file that users gave to Milvus.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FileResource {
    /// The key that names it.
    pub key: String,
    /// Its path as Milvus wrote it, relative to the bucket (docs/milvus.md 4.2).
    pub path: String,
}

/// A position in a virtual channel.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Checkpoint {
    /// Hybrid timestamp up to which everything is flushed; 2^64−1 for a dropped channel.
    pub timestamp: u64,
    /// The message id, in the bytes of the WAL's kind.
    pub message_id: Vec<u8>,
}

/// The timestamp that stands for a dropped channel.
pub const DROPPED: u64 = u64::MAX;

/// What is loaded into query nodes.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Load {
    /// Loaded collections by id.
    pub collections: BTreeMap<i64, CollectionLoad>,
    /// Names of resource groups.
    pub resource_groups: BTreeSet<String>,
}

/// How one collection is loaded.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct CollectionLoad {
    /// Number of replicas.
    pub replicas: i32,
    /// Whether the whole collection was loaded, not single partitions.
    pub whole: bool,
    /// Loaded partitions.
    pub partitions: BTreeSet<i64>,
    /// Fields that were asked for; empty for all.
    pub fields: Vec<i64>,
    /// Resource groups of the replicas.
    pub resource_groups: BTreeSet<String>,
}

/// A registered process.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Session {
    /// The part of the key after `session/`, such as `proxy-3` or `rootcoord`.
    pub name: String,
    /// Its address; empty when the value is not the JSON that Milvus writes.
    pub address: String,
    /// Its id.
    pub server_id: i64,
    /// Its version, where it says one.
    pub version: String,
}

/// One item of dynamic configuration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConfigItem {
    /// The whole key.
    pub key: String,
    /// The item in the spelling to which Milvus reduces it.
    pub item: String,
    /// The value.
    pub value: String,
    /// The lease, 0 for none: an item under a lease is somebody's hold.
    pub lease: i64,
}

/// Jobs and tasks.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Tasks {
    /// Imports that have neither completed nor failed.
    pub imports: Vec<i64>,
    /// Broadcast tasks that are not settled (not TOMBSTONE), with their state's number.
    pub broadcasts: Vec<(i64, i32)>,
    /// Compaction tasks, those that have ended included, as far as Milvus has not removed them.
    pub compactions: Vec<CompactionTask>,
    /// Stats and analyze tasks, by number.
    pub stats: u64,
    /// Whether the instance takes part in replication (CDC).
    pub replicates: bool,
    /// Keys that only Milvus 3 has, by number.
    pub newer: u64,
}

impl Tasks {
    /// Compactions that have not ended.
    pub fn compactions_under_way(&self) -> impl Iterator<Item = &CompactionTask> {
        let tasks = self.compactions.iter();
        tasks.filter(|task| !is_terminal(task.state))
    }
}

/// A compaction.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CompactionTask {
    /// The plan's id.
    pub plan: i64,
    /// Its state.
    pub state: CompactionTaskState,
    /// Segments that go in.
    pub inputs: Vec<i64>,
    /// Segments that come out, as far as they are known.
    pub outputs: Vec<i64>,
}

/// Counters as they were saved at the revision.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Counters {
    /// The next node id.
    pub session_id: Option<i64>,
    /// The global id allocator's mark, in nanoseconds since 1970.
    pub ids: Option<u64>,
    /// The timestamp allocator's mark, in nanoseconds since 1970.
    pub tso: Option<u64>,
    /// `QueryCoord`'s id allocator's mark, in nanoseconds since 1970.
    pub query_ids: Option<u64>,
}

/// Who has access.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Access {
    /// Users, by name.
    pub users: BTreeSet<String>,
    /// Roles, by name, the built-in ones included.
    pub roles: BTreeSet<String>,
    /// Grants, by number.
    pub grants: u64,
    /// Privilege groups, by number.
    pub privilege_groups: u64,
}

/// Engine versions of index files, which the target must support (docs/milvus.md 7.2).
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct IndexVersions {
    /// Of vector indexes.
    pub vector: BTreeSet<i32>,
    /// Of scalar indexes.
    pub scalar: BTreeSet<i32>,
}

impl Catalog {
    /// Live segments in ascending order.
    pub fn live_segments(&self) -> impl Iterator<Item = &Segment> {
        self.segments.iter().filter(|segment| segment.is_live())
    }

    /// The collection of that id when clients see it.
    #[must_use]
    pub fn collection(&self, id: i64) -> Option<&Collection> {
        self.collections.get(&id).filter(|c| c.is_created())
    }

    /// Database and collection of an id, for messages; the id itself where the name is unknown.
    #[must_use]
    pub fn names(&self, collection: i64) -> (String, String) {
        match self.collections.get(&collection) {
            Some(c) => (self.database_name(c.database), c.name.clone()),
            None => ("?".to_owned(), collection.to_string()),
        }
    }

    /// The name of a database, or its id. Milvus before 2.2.9 has no key for the only one that it has.
    #[must_use]
    pub fn database_name(&self, id: i64) -> String {
        match self.databases.get(&id) {
            Some(database) => database.name.clone(),
            None if id == DEFAULT_DATABASE_ID => DEFAULT_DATABASE.to_owned(),
            None => id.to_string(),
        }
    }

    /// The greatest hybrid timestamp in the insert and delta logs of live segments: what the cut is
    /// proved by; `None` when there is no log.
    #[must_use]
    pub fn cut(&self) -> Option<u64> {
        self.row_logs().map(|(_, _, log)| log.to).max()
    }

    /// Insert and delta logs of live segments that hold anything later than `timestamp`.
    pub fn logs_after(&self, timestamp: u64) -> impl Iterator<Item = (&Segment, &FieldLogs, &Log)> {
        self.row_logs()
            .filter(move |(_, _, log)| log.to > timestamp)
    }

    /// Rows of live segments, deleted ones included.
    #[must_use]
    pub fn rows(&self) -> i64 {
        self.live_segments().map(|segment| segment.rows).sum()
    }

    /// Insert and delta logs of live segments.
    pub fn row_logs(&self) -> impl Iterator<Item = (&Segment, &FieldLogs, &Log)> {
        self.live_segments().flat_map(Segment::row_logs)
    }
}

#[cfg(test)]
mod recorded_tests;
#[cfg(test)]
mod simulated_tests;
