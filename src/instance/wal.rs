//! Message queues that lie in directories of this host.

use std::path::{Path, PathBuf};

use crate::config::WalKind;

/// How the two directories of rocksmq are called in a snapshot, in the order of [`directories`].
pub const ROCKSMQ_NAMES: [&str; 2] = ["rdb_data", "rdb_data_meta_kv"];

/// The directories of a queue that lives in files; none for others.
#[must_use]
pub fn directories(wal: &WalKind) -> Vec<PathBuf> {
    match wal {
        WalKind::Rocksmq { path } => vec![path.clone(), positions(path)],
        WalKind::Natsmq { path } => vec![path.clone()],
        WalKind::Kafka { .. } | WalKind::Pulsar { .. } | WalKind::Woodpecker { .. } => vec![],
    }
}

/// Where rocksmq keeps its positions: beside its messages (docs/milvus.md 5.2).
fn positions(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push("_meta_kv");
    PathBuf::from(name)
}
