//! What a snapshot says of itself, besides its objects and keys.
//!
//! It is the `body` of the repository's manifest (docs/format.md, section 10); fields are added,
//! never changed.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::base::weakening::{self, Weakening};
use crate::config;
use crate::instance::holds::{HoldRecord, HoldSpent};
use crate::instance::methods::Method;
use crate::instance::objects::ObjectLayer;
use crate::milvus::catalog::Catalog;
use crate::milvus::unnamed::UnnamedDeltaLog;

/// How the writers are treated while a snapshot is taken.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema, clap::ValueEnum,
)]
#[serde(rename_all = "lowercase")]
pub enum Mode {
    /// Writes are denied for seconds: the snapshot is one point in time, proved.
    Quiesced,
    /// Writes go on: all that was acknowledged before the flush is in, some of what came later too.
    Hot,
    /// Milvus is stopped: everything that was acknowledged is in, with the message queue.
    Cold,
}

impl Mode {
    /// Every mode, the default first.
    pub const ALL: &[Self] = &[Self::Quiesced, Self::Hot, Self::Cold];

    /// The word on the command line and in documents.
    #[must_use]
    pub const fn word(self) -> &'static str {
        match self {
            Self::Quiesced => "quiesced",
            Self::Hot => "hot",
            Self::Cold => "cold",
        }
    }
}

impl std::fmt::Display for Mode {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.word())
    }
}

/// What a snapshot says of itself.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Body {
    /// The eyrie that made it.
    pub eyrie_version: String,
    /// How writes were treated. When a quiesced capture could not prove its cut this says `hot`,
    /// and `weakenings` says why.
    pub mode: Mode,
    /// The mode that was asked for.
    pub asked_mode: Mode,
    /// How objects were captured.
    pub method: Method,
    /// The etcd revision R of the anchor.
    pub revision: i64,
    /// The etcd that the anchor was read from.
    pub etcd: EtcdIdentity,
    /// The Milvus that was captured.
    pub milvus: MilvusIdentity,
    /// Where the objects were.
    pub objects: ObjectLayer,
    /// The write-ahead log.
    pub wal: Wal,
    /// The point in time that the snapshot stands for.
    pub cut: Cut,
    /// What was suspended, and for how long.
    pub holds: Vec<HoldRecord>,
    /// Milliseconds from the moment the write hold was asked for until it was released; of several
    /// holds one after the other the sum; 0 without.
    pub write_hold_ms: u64,
    /// What that time was spent on; absent where writes were not denied.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub write_hold_spent: Option<HoldSpent>,
    /// Milliseconds from the start of the capture to its commit.
    pub duration_ms: u64,
    /// How the flush went; absent in cold mode.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub flush: Option<FlushRecord>,
    /// What was found in the anchor.
    pub counts: Counts,
    /// Objects whose bytes were read in this capture.
    pub objects_read: u64,
    /// Bytes that were read in this capture.
    pub bytes_read: u64,
    /// Delta logs below live segments that etcd did not name, and Milvus had in memory only. Their objects
    /// are in the snapshot, and a restore names them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub unnamed_delta_logs: Vec<UnnamedDeltaLog>,
    /// Where Milvus's own view differs from the anchor.
    #[serde(default)]
    pub differences: Vec<String>,
    /// Something less than the promise that was asked for (I6).
    #[serde(default)]
    pub weakenings: Vec<Weakening>,
    /// Fallbacks that kept the promise.
    #[serde(default)]
    pub notes: Vec<String>,
    /// Codes of weakenings that the operator had said are known and wanted.
    #[serde(default)]
    pub accepted: Vec<String>,
}

impl Body {
    /// What a snapshot says of itself that holds etcd keys and no objects, such as those that a restore
    /// with `--replace` found.
    #[must_use]
    pub fn keys_only(
        revision: i64,
        etcd_keys: u64,
        etcd: EtcdIdentity,
        milvus: MilvusIdentity,
        objects: ObjectLayer,
        wal: Wal,
    ) -> Self {
        Self {
            eyrie_version: env!("CARGO_PKG_VERSION").to_owned(),
            mode: Mode::Cold,
            asked_mode: Mode::Cold,
            method: Method::Copy,
            revision,
            etcd,
            milvus,
            objects,
            wal,
            cut: Cut::default(),
            holds: vec![],
            write_hold_ms: 0,
            write_hold_spent: None,
            duration_ms: 0,
            flush: None,
            counts: Counts {
                etcd_keys,
                ..Counts::default()
            },
            objects_read: 0,
            bytes_read: 0,
            unnamed_delta_logs: vec![],
            differences: vec![],
            weakenings: vec![Weakening {
                code: weakening::KEYS_ONLY.to_owned(),
                message: "holds the etcd keys that a restore with --replace found, and no objects"
                    .to_owned(),
                items: vec![],
            }],
            notes: vec![],
            accepted: vec![weakening::KEYS_ONLY.to_owned()],
        }
    }
}

/// The etcd of an anchor.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct EtcdIdentity {
    /// Server version.
    pub version: String,
    /// Cluster id, 16 hexadecimal digits.
    pub cluster_id: String,
    /// Whether it runs inside Milvus.
    pub embedded: bool,
    /// The instance's root, e.g. `by-dev`.
    pub root_path: String,
    /// The path of the metadata below the root.
    pub meta_sub_path: String,
    /// The path of the counters below the root.
    pub kv_sub_path: String,
}

impl EtcdIdentity {
    /// The etcd that `config` names, as its server answers.
    #[must_use]
    pub fn new(config: &config::Etcd, version: &str, cluster: u64) -> Self {
        Self {
            version: version.to_owned(),
            cluster_id: format!("{cluster:016x}"),
            embedded: config.embedded.is_some(),
            root_path: config.root_path.clone(),
            meta_sub_path: config.meta_sub_path.clone(),
            kv_sub_path: config.kv_sub_path.clone(),
        }
    }
}

/// The Milvus of an anchor.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct MilvusIdentity {
    /// Version, e.g. `2.3.5`.
    pub version: String,
    /// Git commit of the build, where Milvus told it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub commit: Option<String>,
    /// `STANDALONE` or `CLUSTER`, where Milvus told it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub deploy_mode: Option<String>,
}

/// The write-ahead log of a snapshot.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Wal {
    /// `rocksmq`, `kafka`, `pulsar`, `woodpecker` or `natsmq`.
    pub kind: String,
    /// `captured`: its files are in the snapshot; `reset`: a restore starts a fresh one.
    pub state: WalState,
    /// The prefix of channel names (`common.chanNamePrefix.cluster`), which a target must share.
    pub channel_prefix: String,
}

impl Wal {
    /// The log that `config` names.
    #[must_use]
    pub fn new(config: &config::resolved::Wal, state: WalState) -> Self {
        Self {
            kind: config.kind.name().to_owned(),
            state,
            channel_prefix: config.channel_prefix.clone(),
        }
    }
}

/// Whether the write-ahead log is in the snapshot.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum WalState {
    /// Its files are in the snapshot.
    Captured,
    /// A restore starts a fresh one and rewrites positions.
    Reset,
}

/// The point in time that a snapshot stands for.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Cut {
    /// Milvus's hybrid timestamp allocated after writes were denied (`T_hold`) or, in hot mode,
    /// that of the flush; 0 when there is none.
    pub timestamp: u64,
    /// Greatest timestamp of any insert or delete log in the anchor.
    pub newest_log: u64,
    /// Whether no log is newer than the timestamp: the snapshot is exactly what was acknowledged.
    pub proven: bool,
    /// Logs that hold data newer than the timestamp, or may (object paths), the first 10,000 of them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub straddling: Vec<String>,
    /// How many more there are.
    #[serde(default)]
    pub straddling_unnamed: u64,
}

/// How a flush went.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct FlushRecord {
    /// Which calls were used.
    pub shape: String,
    /// The timestamp up to which everything is on storage.
    pub timestamp: u64,
    /// Calls until it succeeded.
    pub attempts: u32,
    /// Milliseconds from the first call until every channel's checkpoint had passed.
    pub duration_ms: u64,
}

impl Counts {
    /// What the metadata alone tells.
    #[must_use]
    pub fn of(catalog: &Catalog) -> Self {
        let live = || catalog.live_segments();
        let created = catalog.collections.values().filter(|c| c.is_created());
        Self {
            databases: catalog.databases.len() as u64,
            collections: created.count() as u64,
            segments: live().count() as u64,
            rows: live().map(|s| u64::try_from(s.rows).unwrap_or(0)).sum(),
            ..Self::default()
        }
    }
}

/// What was found in an anchor.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Counts {
    /// Keys under the root.
    pub etcd_keys: u64,
    /// Databases.
    pub databases: u64,
    /// Collections.
    pub collections: u64,
    /// Live segments.
    pub segments: u64,
    /// Rows of live segments, deletes not subtracted.
    pub rows: u64,
    /// Objects that the anchor requires.
    pub objects: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Objects of each kind.
    #[serde(default)]
    pub objects_by_kind: BTreeMap<String, u64>,
}
