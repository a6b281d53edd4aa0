//! What the verbs that only look print: `snapshots`, `show`, `ls`, `diff`, `config show`.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::Serialize;

use super::{HexId, Note, Time, Weakening};
use crate::instance::holds::HoldSpent;
use crate::instance::methods::Method;
use crate::snapshot::{FlushRecord, Mode};

/// One element of `eyrie snapshots --json`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, JsonSchema)]
pub struct SnapshotDocument {
    /// The snapshot's id.
    pub snapshot: HexId,
    /// The point in time that it stands for.
    pub time: Time,
    /// The instance's name.
    pub instance: String,
    /// The consistency mode.
    pub mode: Mode,
    /// The capture method.
    pub method: Method,
    /// The version of Milvus.
    pub milvus_version: String,
    /// Collections in it.
    pub collections: u64,
    /// Objects in it.
    pub objects: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Bytes that the repository grew by.
    pub bytes_added: u64,
    /// The snapshot of the same instance before it.
    pub parent: Option<HexId>,
    /// Its labels.
    pub labels: BTreeMap<String, String>,
    /// What is less than was asked for.
    pub weakened: Vec<Weakening>,
    /// Its newest verification, if there was one.
    pub verified: Option<VerifiedDocument>,
}

/// A verification of a snapshot.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, JsonSchema)]
pub struct VerifiedDocument {
    /// When.
    pub time: Time,
    /// `existence`, `structure`, `bytes` or `drill`.
    pub level: String,
    /// Pieces of damage found.
    pub damage: u64,
}

/// `eyrie show --json`: one snapshot in full.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, JsonSchema)]
pub struct ShowDocument {
    /// What `snapshots` says of it.
    #[serde(flatten)]
    pub snapshot: SnapshotDocument,
    /// The etcd revision of the anchor.
    pub revision: i64,
    /// Keys in the anchor.
    pub etcd_keys: u64,
    /// Its place in the sequence of this instance's snapshots, from 1.
    pub sequence: u64,
    /// Segments in it.
    pub segments: u64,
    /// Rows in it, deletions not yet applied included.
    pub rows: u64,
    /// The message queue's kind.
    pub wal_kind: String,
    /// `captured` or `reset`.
    pub wal: String,
    /// How long the capture took.
    pub duration_ms: u64,
    /// How long writes were denied.
    pub write_hold_ms: u64,
    /// What that time was spent on; `null` where writes were not denied.
    pub write_hold_spent: Option<HoldSpent>,
    /// The mode that was asked for.
    pub asked_mode: Mode,
    /// The point in time that the snapshot stands for.
    pub cut: ShownCut,
    /// How the flush went; `null` in a cold snapshot.
    pub flush: Option<FlushRecord>,
    /// What was held and for how long.
    pub holds: Vec<ShownHold>,
    /// Its databases.
    pub databases: Vec<String>,
    /// Its collections.
    pub catalog: Vec<ShownCollection>,
    /// Fallbacks that kept the promise.
    pub notes: Vec<Note>,
    /// Where Milvus's own view differed from what etcd held.
    pub differences: Vec<String>,
    /// Delta logs that the snapshot has although etcd did not name them, as paths below the storage root:
    /// deletes that this Milvus would lose at its next restart.
    pub unnamed_delta_logs: Vec<String>,
    /// Objects that were gone when the snapshot was taken, by database, collection, segment and
    /// file.
    pub missing: Vec<String>,
}

/// The point in time that a snapshot stands for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, JsonSchema)]
pub struct ShownCut {
    /// Milvus's hybrid timestamp; 0 for a stopped Milvus.
    pub timestamp: u64,
    /// The same as a time of day; `null` for a stopped Milvus.
    pub time: Option<Time>,
    /// Whether no row in the snapshot is newer.
    pub proven: bool,
    /// Logs that hold something newer, at most 10,000 of them.
    pub straddling: Vec<String>,
    /// How many more there are.
    pub straddling_unnamed: u64,
}

/// A hold of a capture.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, JsonSchema)]
pub struct ShownHold {
    /// `writes`, `ddl`, `gc` or `compaction`.
    pub kind: String,
    /// `held` by us, `lost` by us before the capture ended, `external` where an operator had set it,
    /// `absent` where Milvus has no such control.
    pub state: String,
    /// How it was held, or why it was not.
    pub how: String,
    /// For how long.
    pub held_ms: u64,
}

/// A collection in a snapshot.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, JsonSchema)]
pub struct ShownCollection {
    /// Its database.
    pub database: String,
    /// Its name.
    pub name: String,
    /// Its id.
    pub id: i64,
    /// Its aliases.
    pub aliases: Vec<String>,
    /// Partitions.
    pub partitions: u64,
    /// Segments.
    pub segments: u64,
    /// Rows, deletions not yet applied included.
    pub rows: u64,
    /// Objects.
    pub objects: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Its indexes.
    pub indexes: Vec<ShownIndex>,
    /// Whether it was loaded, wholly or in part.
    pub loaded: bool,
    /// The names of its partitions.
    pub partition_names: Vec<String>,
    /// How it was loaded; `null` when it was not.
    pub load: Option<ShownLoad>,
    /// After how many seconds its rows expire; `null` when they do not.
    pub ttl_seconds: Option<u64>,
}

/// How a collection was loaded.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, JsonSchema)]
pub struct ShownLoad {
    /// Number of replicas.
    pub replicas: i32,
    /// The loaded partitions; empty when the whole collection was.
    pub partitions: Vec<String>,
}

/// An index in a snapshot.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, JsonSchema)]
pub struct ShownIndex {
    /// Its name.
    pub name: String,
    /// The field.
    pub field: String,
    /// Its type, such as `HNSW`.
    #[serde(rename = "type")]
    pub kind: String,
}

/// One element of `eyrie ls --json`: an object in a snapshot.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, JsonSchema)]
pub struct LsEntry {
    /// Its path relative to the storage root.
    pub path: String,
    /// Its bytes.
    pub size: u64,
    /// The plain BLAKE3 of its bytes: what `b3sum` prints. `null` while a snapshot owes it.
    pub blake3: Option<HexId>,
    /// What it holds, such as `insert_log`.
    pub kind: String,
    /// The collection's id.
    pub collection: i64,
    /// The partition's id.
    pub partition: i64,
    /// The segment's id.
    pub segment: i64,
}

/// `eyrie diff --json`: what changed from one snapshot to another.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, JsonSchema)]
pub struct DiffDocument {
    /// The first snapshot.
    pub from: HexId,
    /// The second.
    pub to: HexId,
    /// Objects by change.
    pub objects: DiffSummary,
    /// Changes of databases, collections, indexes and users.
    pub metadata: Vec<DiffEntry>,
    /// Changed objects by path.
    pub entries: Vec<DiffEntry>,
}

/// How much changed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, JsonSchema)]
pub struct DiffSummary {
    /// Objects that only the second has.
    pub added: u64,
    /// Their bytes.
    pub bytes_added: u64,
    /// Objects that only the first has.
    pub removed: u64,
    /// Their bytes.
    pub bytes_removed: u64,
    /// Objects of one path with other bytes.
    pub changed: u64,
    /// Objects that are the same.
    pub same: u64,
}

/// One difference.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, JsonSchema)]
pub struct DiffEntry {
    /// What happened.
    pub change: Change,
    /// To what: a path, or a collection's name.
    pub what: String,
    /// Bytes in the second snapshot, or in the first when removed.
    pub size: Option<u64>,
}

/// What happened between two snapshots.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Change {
    /// Only the second has it.
    Added,
    /// Only the first has it.
    Removed,
    /// Both have it, not the same.
    Changed,
}

/// `eyrie config show --json`: what is in force.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, JsonSchema)]
pub struct ConfigShowDocument {
    /// The file that was read.
    pub file: String,
    /// Every setting in the order of the file format; secrets are masked.
    pub settings: Vec<ValueDocument>,
}

/// One setting in force.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, JsonSchema)]
pub struct ValueDocument {
    /// Its key.
    pub key: String,
    /// Its value; `null` when not set.
    pub value: Option<String>,
    /// `explicit`, `variable`, `milvus_env`, `milvus_yaml`, `derived` or `default`.
    pub origin: String,
    /// The place: `file:line`, a variable's name, or why it follows from others.
    pub source: String,
}
