//! The anchor: etcd at revision R, decoded, with the cut that it stands for.

use jiff::Timestamp;

use super::metadata::Undated;
use super::view::Differences;
use crate::Result;
use crate::etcd::{Anchor, KeyValue};
use crate::milvus::catalog::{Catalog, FieldLogs, Log, Segment};
use crate::milvus::keys::LogKind;
use crate::milvus::unnamed::{self, UnnamedDeltaLog};
use crate::snapshot::{Cut, FlushRecord};

/// Logs that are named in a manifest when they are newer than the cut.
const STRADDLING_NAMED: usize = 10_000;

/// A capture whose anchor is taken; writes are released.
#[derive(Debug)]
pub(super) struct Anchored {
    pub(super) revision: i64,
    /// How many keys etcd had at the revision.
    pub(super) etcd_keys: u64,
    /// The keys, until they are stored.
    keys: Vec<KeyValue>,
    pub(super) catalog: Catalog,
    pub(super) time: Timestamp,
    pub(super) cut: Cut,
    undated: Undated,
    pub(super) flush: Option<FlushRecord>,
    pub(super) differences: Differences,
    /// Delta logs that count among the catalog's although etcd does not name them.
    pub(super) unnamed: Vec<UnnamedDeltaLog>,
}

impl Anchored {
    pub(super) fn new(
        time: Timestamp,
        anchor: Anchor,
        catalog: Catalog,
        timestamp: u64,
        undated: Undated,
    ) -> Self {
        let cut = cut(&catalog, timestamp, &undated);
        Self {
            revision: anchor.revision,
            etcd_keys: anchor.keys.len() as u64,
            keys: anchor.keys,
            catalog,
            time,
            cut,
            undated,
            flush: None,
            differences: Differences::default(),
            unnamed: vec![],
        }
    }

    /// Counts delta logs that etcd does not name among those that it does: the catalog names them from now
    /// on, the keys that are stored do not.
    pub(super) fn adopt(&mut self, unnamed: Vec<UnnamedDeltaLog>) -> Result<()> {
        if unnamed.is_empty() {
            return Ok(());
        }
        let mut keys = self.keys.clone();
        unnamed::name(&mut keys, &self.catalog.roots, &unnamed)?;
        self.catalog = Catalog::decode(&self.catalog.roots, &keys, &self.catalog.version)?;
        self.cut = cut(&self.catalog, self.cut.timestamp, &self.undated);
        self.unnamed = unnamed;
        Ok(())
    }

    /// The keys, to be stored: there may be as many as there are objects to copy.
    pub(super) fn take_keys(&mut self) -> Vec<KeyValue> {
        std::mem::take(&mut self.keys)
    }
}

/// Compares the logs of the anchor with the timestamp that the snapshot is to stand for (protocol
/// step 8). `timestamp` 0 stands for a stopped Milvus: nothing is newer.
fn cut(catalog: &Catalog, timestamp: u64, undated: &Undated) -> Cut {
    let newer = |(segment, logs, log): &(&Segment, &FieldLogs, &Log)| {
        timestamp != 0 && (log.to > timestamp || undated.holds(segment, logs, log))
    };
    let mut newer = catalog.row_logs().filter(newer);
    let straddling: Vec<String> = newer
        .by_ref()
        .take(STRADDLING_NAMED)
        .map(|(segment, logs, log)| log_path(segment, logs, log))
        .collect();
    Cut {
        timestamp,
        newest_log: catalog.cut().unwrap_or(0),
        proven: straddling.is_empty(),
        straddling,
        straddling_unnamed: newer.count() as u64,
    }
}

/// The path of a log below the storage root (docs/milvus.md 4.2).
fn log_path(segment: &Segment, logs: &FieldLogs, log: &Log) -> String {
    let key = segment.key;
    let place = format!("{}/{}/{}", key.collection, key.partition, key.segment);
    match logs.kind {
        LogKind::Delta => format!("delta_log/{place}/{}", log.id),
        _ => format!("insert_log/{place}/{}/{}", logs.field, log.id),
    }
}
