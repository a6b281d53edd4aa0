//! What an anchor cannot be captured with.

use std::fmt;

use serde::Serialize;

use super::super::catalog::Catalog;
use super::{has_legacy_logs, importing, live_with, unfinished_ddl};
use crate::base::text::first;

/// Things that a refusal names.
const NAMED: usize = 5;

/// Why a capture of this anchor is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum RefusalKind {
    /// An import is running.
    Import,
    /// A broadcast of the write-ahead log is not settled.
    Broadcast,
    /// A database, collection, partition or alias is being created. It ends by itself: read the
    /// anchor again.
    Ddl,
    /// A compaction of which only a part was saved. It ends by itself, unless `DataCoord` died in the middle.
    Compaction,
    /// Metadata of Milvus 2.1 whose logs have paths of their own.
    LegacyLogs,
    /// Segments whose files only a manifest in the storage names.
    Manifest,
    /// Milvus 3 or metadata that only it writes.
    Version,
}

impl RefusalKind {
    /// Whether the reason passes by itself within seconds, so that the anchor is worth reading again
    /// while clients are denied. An import takes as long as its files.
    #[must_use]
    pub const fn passes(self) -> bool {
        matches!(self, Self::Broadcast | Self::Ddl | Self::Compaction)
    }
}

/// A reason why a capture is refused, and the way out.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Refusal {
    /// The reason's kind.
    pub kind: RefusalKind,
    /// What was found; names the things.
    pub what: String,
    /// The way out.
    pub hint: String,
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.what)
    }
}

impl Catalog {
    /// Everything that this anchor cannot be captured with; asked at planning and of the anchor itself.
    #[must_use]
    pub fn refusals(&self) -> Vec<Refusal> {
        let mut refusals = Vec::new();
        let mut refuse = |kind, what: String, hint: &str| {
            refusals.push(Refusal {
                kind,
                what,
                hint: hint.to_owned(),
            });
        };
        let (jobs, segments) = (&self.tasks.imports, importing(self));
        if !jobs.is_empty() || segments > 0 {
            refuse(
                RefusalKind::Import,
                format!("imports are running: jobs {jobs:?}, {segments} segments"),
                "wait until ListImportTasks shows all of them completed or failed",
            );
        }
        if !self.tasks.broadcasts.is_empty() {
            let ids: Vec<i64> = self.tasks.broadcasts.iter().map(|(id, _)| *id).collect();
            refuse(
                RefusalKind::Broadcast,
                format!("broadcast tasks are not settled: {ids:?}"),
                "wait for running DDL to end; restart Milvus when a task never settles",
            );
        }
        let ddl = unfinished_ddl(self);
        if !ddl.is_empty() {
            refuse(
                RefusalKind::Ddl,
                format!("being created: {}", ddl.join(", ")),
                "wait until it is done",
            );
        }
        let halves = self.half_saved_compactions();
        if !halves.is_empty() {
            refuse(
                RefusalKind::Compaction,
                format!(
                    "compactions are half saved: {}",
                    first(&halves, NAMED, "; ")
                ),
                "wait until Milvus has finished them; restart it when one never ends, so that it takes them up again",
            );
        }
        let legacy = live_with(self, has_legacy_logs);
        if !legacy.is_empty() {
            refuse(
                RefusalKind::LegacyLogs,
                format!(
                    "segments carry log paths of Milvus 2.1: {}",
                    legacy.join(", ")
                ),
                "compact these collections, so that this version writes their logs anew",
            );
        }
        let manifests = live_with(self, |s| s.manifest.is_some() || s.storage_version >= 3);
        if !manifests.is_empty() {
            refuse(
                RefusalKind::Manifest,
                format!(
                    "segments of storage version 3, whose files only a manifest in the storage \
                     names: {}",
                    manifests.join(", ")
                ),
                "set common.storage.useLoonFFI to false and compact these collections",
            );
        }
        if self.version.at_least(3, 0, 0) || self.tasks.newer > 0 {
            refuse(
                RefusalKind::Version,
                format!(
                    "Milvus {} or metadata that only Milvus 3 writes",
                    self.version
                ),
                "eyrie knows Milvus 2.2 to 2.6",
            );
        }
        refusals
    }
}
