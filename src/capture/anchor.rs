//! The anchor: etcd at revision R, decoded, with the cut that it stands for.

use std::collections::BTreeSet;

use jiff::Timestamp;

use super::metadata::Undated;
use super::objects::Required;
use super::unnamed::Found;
use super::view::Differences;
use crate::Result;
use crate::etcd::{Anchor, KeyValue};
use crate::milvus::catalog::{Catalog, FieldLogs, Log, Segment};
use crate::milvus::keys::LogKind;
use crate::milvus::objects::{ObjectRef, Scope};
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
    /// Files at the place of such that are none.
    pub(super) unreadable: Vec<String>,
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
            unreadable: vec![],
        }
    }

    /// Counts delta logs that etcd does not name among those that it does: the catalog names them from now
    /// on, the keys that are stored do not.
    pub(super) fn adopt(&mut self, found: Found) -> Result<()> {
        let unnamed = found.logs;
        self.unreadable = found.unreadable;
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

    /// Whether one of the objects is a delta log that a listing showed and etcd does not name.
    pub(super) fn has_adopted(&self, objects: &[ObjectRef]) -> bool {
        let paths: BTreeSet<String> = self.unnamed.iter().map(UnnamedDeltaLog::path).collect();
        objects.iter().any(|object| paths.contains(&object.path))
    }

    /// The objects that it requires.
    pub(super) fn required(&self, scope: Scope) -> Required<'_> {
        let unnamed = self.unnamed.iter();
        let elsewhere = unnamed.filter(|log| log.written_below.is_some());
        Required {
            catalog: &self.catalog,
            scope,
            elsewhere: elsewhere
                .map(|log| (log.path(), log.source_path()))
                .collect(),
        }
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

#[cfg(test)]
mod tests {
    use prost::Message as _;

    use super::*;
    use crate::milvus::proto::data::{Binlog, FieldBinlog};
    use crate::milvus::simulated::keys::{COLLECTION, PARTITION, SimulatedKeys, TIME};

    #[test]
    fn logs_beyond_those_that_are_named_are_counted() {
        const MORE: usize = 7;
        let mut set = SimulatedKeys::v2_3();
        set.whole(&set.segment(1_000));
        let key = format!("by-dev/meta/datacoord-meta/binlog/{COLLECTION}/{PARTITION}/1000/100");
        let kv = set.keys.iter_mut().find(|kv| kv.key == key.as_bytes());
        let newer = |id| Binlog {
            entries_num: 1,
            timestamp_from: TIME + 1,
            timestamp_to: TIME + 1,
            log_size: 64,
            log_id: id,
            ..Default::default()
        };
        let logs = FieldBinlog {
            field_id: 100,
            binlogs: (1..).map(newer).take(STRADDLING_NAMED + MORE).collect(),
            ..Default::default()
        };
        kv.unwrap().value = logs.encode_to_vec();
        set.keys.sort_by(|a, b| a.key.cmp(&b.key));
        let catalog = Catalog::decode(&SimulatedKeys::roots(), &set.keys, &set.version).unwrap();
        let cut = cut(&catalog, TIME, &Undated::default());
        assert_eq!(cut.straddling.len(), STRADDLING_NAMED);
        assert_eq!(cut.straddling_unnamed, MORE as u64);
        assert!(!cut.proven);
    }
}
