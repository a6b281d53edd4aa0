//! What a plan is made from: what was found of the snapshot and of the target.
//!
//! Plain data, gathered by `survey` and `target`, judged by `guard`, shown by `document`.

use std::path::PathBuf;

use jiff::Timestamp;
use schemars::JsonSchema;
use serde::Serialize;

use super::marker::Stage;
use crate::base::file_system::FileSystem;
use crate::base::progress::Amount;
use crate::instance::objects::{LayerKind, Presence};
use crate::milvus::MilvusVersion;
use crate::snapshot::WalState;

/// The snapshot, as far as the guard cares.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SourceFacts {
    /// Its id.
    pub snapshot: String,
    /// The instance that it was taken of.
    pub instance: String,
    /// The Milvus that wrote it.
    pub version: MilvusVersion,
    /// The kind of its write-ahead log.
    pub wal: String,
    /// Whether the log is in the snapshot.
    pub wal_state: WalState,
    /// `common.chanNamePrefix.cluster`.
    pub channel_prefix: String,
    /// The number of DML channels that its collections need: the highest in use and one.
    pub channels: u32,
    /// Bytes of its objects.
    pub bytes: u64,
    /// Whether it holds keys only, saved by `--replace`.
    pub contents: Contents,
    /// Steps of its restore that never ran against a real broker.
    pub unproven: Vec<String>,
}

/// What a snapshot holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Contents {
    /// Keys and objects.
    Whole,
    /// The keys that a `--replace` saved.
    KeysOnly,
}

/// The target's version.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, JsonSchema)]
pub struct TargetVersion {
    /// The version; empty when nothing tells it.
    pub version: String,
    /// How it is known.
    pub known: Known,
}

impl TargetVersion {
    /// A version and how it is known.
    #[must_use]
    pub fn new(version: &MilvusVersion, known: Known) -> Self {
        Self {
            version: version.as_str().to_owned(),
            known,
        }
    }

    /// Nothing tells it.
    #[must_use]
    pub fn unknown() -> Self {
        Self {
            version: String::new(),
            known: Known::Not,
        }
    }

    /// The version; `None` when nothing tells it.
    #[must_use]
    pub fn get(&self) -> Option<MilvusVersion> {
        (self.known != Known::Not).then(|| MilvusVersion::parse(&self.version))
    }
}

/// How the target's version is known.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Known {
    /// The configuration says it.
    Declared,
    /// The highest version that ever ran there says so in etcd (2.6.8 and later).
    Recorded,
    /// It is the snapshot's own instance, so the snapshot's version is assumed.
    Assumed,
    /// Nothing tells it.
    Not,
}

/// The target.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TargetFacts {
    /// Its name.
    pub instance: String,
    /// Its version.
    pub version: TargetVersion,
    /// What of its configuration eyrie cannot restore onto: what it is, and the way out.
    pub unsupported: Vec<(String, String)>,
    /// Signs of a Milvus that runs, for people.
    pub running: Vec<String>,
    /// Such signs where nothing is done yet: it has to be stopped first.
    pub to_stop: Vec<String>,
    /// Its etcd.
    pub etcd: EtcdFacts,
    /// Its object layer.
    pub storage: StorageFacts,
    /// Its write-ahead log.
    pub wal: WalFacts,
    /// How the repository and the target overlap, when they do.
    pub overlap: Option<String>,
    /// Which directories lie in one another that may not, for people.
    pub nesting: Option<String>,
}

/// Whose restore a target is marked with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Marked {
    /// Nobody's.
    No,
    /// This restore's: it goes on.
    Ours(Stage),
    /// Another's.
    Other {
        /// The other snapshot.
        snapshot: String,
        /// When it began.
        started: Timestamp,
    },
}

/// The target's etcd.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EtcdFacts {
    /// Its endpoints, or the directory of an embedded one.
    pub place: String,
    /// Whether it runs inside Milvus.
    pub embedded: bool,
    /// The root path.
    pub root: String,
    /// Keys below the root that are in the way.
    pub keys: u64,
    /// One of them.
    pub example: Option<String>,
    /// Whose restore it is marked with.
    pub marked: Marked,
    /// What it has room for.
    pub room: EtcdRoom,
    /// What below the root is not this instance's, for people.
    pub others: Option<String>,
    /// Whether the directory of an embedded one has data that this restore did not put there.
    pub has_left: bool,
    /// A key that was written after that restore had written and compared everything.
    pub touched: Option<String>,
}

/// What the target's etcd has room for.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct EtcdRoom {
    /// Its version; empty when it was not asked.
    pub version: String,
    /// Bytes of its database.
    pub size: u64,
    /// Its quota in bytes, where it tells it.
    pub quota: Option<u64>,
    /// What it has no room for.
    pub lack: Option<Lack>,
}

/// What an etcd has no room for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Lack {
    /// Whether its database is full, or would be.
    pub is_full: bool,
    /// What was found, for people.
    pub found: String,
    /// The way out.
    pub hint: String,
}

/// The target's object layer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StorageFacts {
    /// A path or URL.
    pub place: String,
    /// Its type.
    pub layer: LayerKind,
    /// Whether it is there.
    pub state: Presence,
    /// The file system that it is on, where that is one of this host.
    pub file_system: Option<FileSystem>,
    /// Whether the root is a whole bucket.
    pub whole_bucket: bool,
    /// Milvus's own objects by first directory, such as `insert_log`.
    pub families: Vec<(String, Amount)>,
    /// Everything else below the root.
    pub foreign: Amount,
    /// One object.
    pub example: Option<String>,
    /// Whether everything was counted, or only until it was clear that the root is not empty.
    pub counted: Counted,
}

/// Whether a count is complete.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Counted {
    /// All of it.
    All,
    /// At least that much.
    AtLeast,
}

impl StorageFacts {
    /// Objects below the root.
    #[must_use]
    pub fn objects(&self) -> u64 {
        self.families.iter().map(|(_, u)| u.objects).sum::<u64>() + self.foreign.objects
    }
}

/// The target's write-ahead log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WalFacts {
    /// Its kind.
    pub kind: String,
    /// `common.chanNamePrefix.cluster`.
    pub channel_prefix: String,
    /// `rootCoord.dmlChannelNum`.
    pub channels: u32,
    /// Its directories with what is in them.
    pub directories: Vec<(PathBuf, Amount)>,
    /// Keys of Woodpecker outside the root.
    pub keys: u64,
}
