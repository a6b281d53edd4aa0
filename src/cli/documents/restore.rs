//! What `restore` and `verify` print.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::Serialize;

use super::{HexId, Note, PlanStep, Weakening};
use crate::restore::{KeyChange, Lacking};

/// `eyrie restore --json`: one restore.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, JsonSchema)]
pub struct RestoreDocument {
    /// The snapshot's id.
    pub snapshot: HexId,
    /// Objects written.
    pub objects: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Keys written to etcd.
    pub etcd_keys: u64,
    /// How many keys of each family were rewritten, dropped or advanced.
    pub rewritten: BTreeMap<String, u64>,
    /// `captured` or `reset`.
    pub wal: String,
    /// How long it took.
    pub duration_ms: u64,
    /// What to do next, in order.
    pub next_steps: Vec<String>,
    /// The instance that was restored onto.
    pub target: String,
    /// Objects that were found in place from an interrupted run and kept.
    pub objects_resumed: u64,
    /// What is less than was asked for, such as collections that will not load.
    pub weakened: Vec<Weakening>,
    /// What the snapshot lacks, by collection, what comes of it and the way out.
    pub lacking: Vec<Lacking>,
    /// Worth knowing.
    pub notes: Vec<Note>,
}

/// `eyrie restore --dry-run --json`: what a restore would do.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, JsonSchema)]
pub struct RestorePlanDocument {
    /// The snapshot's id.
    pub snapshot: HexId,
    /// The instance it would be restored onto.
    pub target: String,
    /// Objects that would be written.
    pub objects: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Keys that would be written to etcd.
    pub etcd_keys: u64,
    /// `captured` or `reset`.
    pub wal: String,
    /// About how long it would take, when the sample was read fast enough to say.
    pub expected_ms: Option<u64>,
    /// What happens to each family of keys.
    pub transforms: Vec<KeyChange>,
    /// What would be destroyed, in order; empty without `--replace`.
    pub destroys: Vec<DestroyedDocument>,
    /// Signs of a Milvus that runs on the target and has to be stopped first; empty when there is none.
    pub to_stop: Vec<String>,
    /// What would be done, in order.
    pub steps: Vec<PlanStep>,
    /// Why the target refuses; empty when the restore could start.
    pub refusals: Vec<String>,
    /// What would be less than a whole restore.
    pub weakened: Vec<Weakening>,
    /// What the snapshot lacks, by collection, what comes of it and the way out.
    pub lacking: Vec<Lacking>,
    /// Worth knowing.
    pub notes: Vec<Note>,
    /// What to do afterwards, in order.
    pub next_steps: Vec<String>,
}

/// Something that `--replace` destroys.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, JsonSchema)]
pub struct DestroyedDocument {
    /// Where: an etcd root, a storage root, a queue's directory.
    pub place: String,
    /// How many keys or files are there.
    pub entries: u64,
}

/// `eyrie verify --json`: what was looked at and what is wrong with it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, JsonSchema)]
pub struct VerifyDocument {
    /// `existence`, `structure` or `bytes`.
    pub level: String,
    /// Snapshots looked at.
    pub snapshots: u64,
    /// Objects looked at.
    pub objects: u64,
    /// Bytes read.
    pub bytes_read: u64,
    /// What is wrong; empty when nothing is.
    pub damage: Vec<DamageDocument>,
    /// How long it took.
    pub duration_ms: u64,
    /// Whether the result was recorded in the repository, for `show` and the next verification.
    pub recorded: bool,
}

/// One piece of damage.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, JsonSchema)]
pub struct DamageDocument {
    /// Its name: `config`, `key`, `manifest`, `sequence`, `index`, `checkpoint`, `lease`, `mark`,
    /// `verification`, `tree`, `pack`, `bytes` or `contents`.
    pub kind: String,
    /// What is wrong.
    pub what: String,
    /// The file of the repository.
    #[serde(rename = "where")]
    pub place: String,
    /// The snapshots that need it.
    pub snapshots: Vec<HexId>,
}
