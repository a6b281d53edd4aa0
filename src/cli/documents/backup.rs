//! What `init`, `check` and `backup` print.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::Serialize;

use super::{HexId, Note, Weakening};
use crate::instance::holds::HoldSpent;
use crate::instance::methods::Method;
use crate::snapshot::Mode;

/// `eyrie backup --json`: one capture.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, JsonSchema)]
pub struct BackupDocument {
    /// The snapshot's id.
    pub snapshot: HexId,
    /// The instance's name.
    pub instance: String,
    /// The consistency mode that was reached.
    pub mode: Mode,
    /// The capture method that was used.
    pub method: Method,
    /// The etcd revision of the anchor.
    pub revision: i64,
    /// The version of Milvus.
    pub milvus_version: String,
    /// Collections in the snapshot.
    pub collections: u64,
    /// Segments in the snapshot.
    pub segments: u64,
    /// Objects in the snapshot.
    pub objects: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Objects that had to be read, since they were not known by identity.
    pub objects_read: u64,
    /// Their bytes.
    pub bytes_read: u64,
    /// Bytes that the repository grew by.
    pub bytes_added: u64,
    /// How long writes were denied.
    pub write_hold_ms: u64,
    /// How long it took altogether.
    pub duration_ms: u64,
    /// What is less than was asked for.
    pub weakened: Vec<Weakening>,
    /// What the time was spent on while writes were denied; `null` where they were not.
    pub write_hold_spent: Option<HoldSpent>,
    /// Fallbacks that kept the promise.
    pub notes: Vec<Note>,
    /// The snapshot's labels.
    pub labels: BTreeMap<String, String>,
    /// The name of the repository.
    pub repository: String,
}

/// `eyrie backup --dry-run --json`: what a capture would do.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, JsonSchema)]
pub struct BackupPlanDocument {
    /// The instance's name.
    pub instance: String,
    /// The name of the repository.
    pub repository: String,
    /// The consistency mode.
    pub mode: Mode,
    /// The capture method.
    pub method: Method,
    /// What would be done, in order.
    pub steps: Vec<PlanStep>,
    /// What would be less than was asked for.
    pub weakened: Vec<Weakening>,
    /// The version of Milvus.
    pub milvus_version: String,
    /// Collections that there are now.
    pub collections: u64,
    /// Segments that are live now.
    pub segments: u64,
    /// Objects that etcd names now; a capture names those of its own revision.
    pub objects: u64,
    /// The newest snapshot of the instance: what it has is not read again.
    pub parent: Option<HexId>,
    /// What a capture would find fault with, or do otherwise than one may expect.
    pub notes: Vec<Note>,
}

/// One step of a plan.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, JsonSchema)]
pub struct PlanStep {
    /// Its name, as progress shows it.
    pub step: String,
    /// What it does, and why.
    pub what: String,
}

/// `eyrie check --json`: what was found and what a backup would do.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, JsonSchema)]
pub struct CheckDocument {
    /// The instance's name.
    pub instance: String,
    /// Whether a backup could start now.
    pub ready: bool,
    /// Milvus.
    pub milvus: CheckedMilvus,
    /// The etcd of its metadata.
    pub etcd: CheckedEtcd,
    /// The object layer.
    pub objects: CheckedObjects,
    /// The write-ahead log.
    pub wal: CheckedWal,
    /// The repository.
    pub repository: CheckedRepository,
    /// All that was noticed, the gravest first.
    pub findings: Vec<Finding>,
    /// What a backup would do; `null` when none could start.
    pub backup: Option<BackupPlanDocument>,
    /// The exit code: 0 when a backup could start, 20 when the instance is in the way, else what
    /// the repository fails with.
    pub exit_code: u8,
    /// The mode that was asked for, which all of the above is about.
    pub mode: Mode,
    /// The capture method that was asked for.
    pub method: Method,
    /// Whether a backup could start now in each mode, as far as the instance goes.
    pub modes: Vec<Choice>,
    /// Whether one could start by each method.
    pub methods: Vec<Choice>,
}

/// A mode or a method, and whether it would work.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, JsonSchema)]
pub struct Choice {
    /// As on the command line.
    pub name: String,
    /// Whether a backup could start so now; `null` where that is not known.
    pub works: Option<bool>,
    /// Why not, or why it is not known; `null` where it would work.
    pub why: Option<String>,
}

/// Milvus as `check` found it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, JsonSchema)]
pub struct CheckedMilvus {
    /// `host:port`.
    pub address: String,
    /// Whether it answered.
    pub reachable: bool,
    /// Its version, when it answered or the configuration says.
    pub version: Option<String>,
    /// `standalone` or `cluster`, when known.
    pub deploy: Option<String>,
    /// Proxies found by their sessions.
    pub proxies: u64,
    /// Collections, when it answered.
    pub collections: Option<u64>,
    /// Whether garbage collection can be paused through the management interface.
    pub gc_pause: Option<bool>,
}

/// Etcd as `check` found it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, JsonSchema)]
pub struct CheckedEtcd {
    /// Its members.
    pub endpoints: Vec<String>,
    /// Whether one answered.
    pub reachable: bool,
    /// Its version.
    pub version: Option<String>,
    /// Whether it runs inside Milvus.
    pub embedded: bool,
    /// Milvus's root path in it.
    pub root_path: String,
    /// Keys under that root.
    pub keys: Option<u64>,
    /// Its current revision.
    pub revision: Option<i64>,
}

/// The object layer as `check` found it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, JsonSchema)]
pub struct CheckedObjects {
    /// `local` or `s3`.
    #[serde(rename = "type")]
    pub kind: String,
    /// The directory, or `endpoint/bucket/prefix`.
    pub location: String,
    /// Whether it can be read.
    pub reachable: bool,
    /// Whether the bucket keeps versions.
    pub versions: Option<bool>,
}

/// The write-ahead log as `check` found it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, JsonSchema)]
pub struct CheckedWal {
    /// `rocksmq`, `kafka`, `pulsar`, `woodpecker` or `natsmq`.
    pub kind: String,
    /// Its directory, where it has one.
    pub path: Option<String>,
    /// The prefix of its channels.
    pub channel_prefix: String,
    /// Whether restoring onto a fresh queue of this kind was ever run against a real one.
    pub reset_proven: bool,
}

/// The repository as `check` found it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, JsonSchema)]
pub struct CheckedRepository {
    /// Its name.
    pub name: String,
    /// Where it is.
    pub location: String,
    /// Whether it is there and opens.
    pub opens: bool,
    /// Whether it is encrypted; unknown when it does not open.
    pub encrypted: Option<bool>,
    /// Snapshots of this instance in it.
    pub snapshots: Option<u64>,
    /// The newest of them.
    pub latest: Option<HexId>,
    /// Snapshots of all instances in it.
    pub snapshots_of_all: Option<u64>,
}

/// Something that `check` noticed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, JsonSchema)]
pub struct Finding {
    /// How grave it is.
    pub severity: Severity,
    /// Its name, such as `gc-pause-missing`.
    pub kind: String,
    /// What it is.
    pub what: String,
    /// The way out, where there is one.
    pub hint: Option<String>,
}

/// How grave a finding is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// No backup can start.
    Refusal,
    /// A backup would be weakened.
    Weakening,
    /// A fallback keeps the promise.
    Note,
    /// As it should be.
    Ok,
}

/// `eyrie init --json`: the repository that was made.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, JsonSchema)]
#[allow(
    clippy::struct_excessive_bools,
    reason = "facts of a store, not switches"
)]
pub struct InitDocument {
    /// The name of the repository.
    pub repository: String,
    /// Its id.
    pub id: HexId,
    /// Where it is.
    pub location: String,
    /// Whether its keys are protected by a passphrase.
    pub encrypted: bool,
    /// The version of its format.
    pub format: u32,
    /// Whether the store creates a key only where none is, in one operation.
    pub conditional_create: bool,
    /// Whether the store keeps what is deleted or replaced.
    pub versions: bool,
    /// Whether the credentials used can delete what they wrote.
    pub writer_can_destroy: bool,
    /// What the probe found worth saying.
    pub notes: Vec<Note>,
}
