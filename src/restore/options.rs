//! How to restore.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// What to do with what lives on the target.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Occupied {
    /// Refuse.
    #[default]
    Refuse,
    /// Save its keys into the repository and replace it.
    Replace,
}

/// What to do with the snapshot's write-ahead log.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum KeepWal {
    /// Bring it back when the snapshot has it, else begin a fresh one.
    #[default]
    WhenCaptured,
    /// Bring it back; without one fail.
    Require,
}

/// What to do with collections whose rows expire.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Ttl {
    /// Leave the property as it is.
    #[default]
    Keep,
    /// Set it to 0: nothing expires until an operator sets it again.
    Suspend,
}

/// What to do when a fresh write-ahead log of this kind was never tried on a real one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Unproven {
    /// Refuse.
    #[default]
    Refuse,
    /// Go ahead.
    Accept,
}

/// Whether to read every object back at the end.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum ReadBack {
    /// Trust the hash taken as each object was handed to write.
    #[default]
    No,
    /// Read and hash every object after everything is durable.
    Yes,
}

/// How to restore.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Options {
    /// What to do with what lives on the target.
    pub occupied: Occupied,
    /// What to do with the snapshot's write-ahead log.
    pub keep_wal: KeepWal,
    /// What to do with collections whose rows expire.
    pub ttl: Ttl,
    /// Whether to read every object back.
    pub read_back: ReadBack,
    /// What to do about an unproven write-ahead log.
    pub unproven: Unproven,
}
