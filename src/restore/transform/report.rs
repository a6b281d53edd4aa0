//! What a transform did, for people and `--json`.

use std::collections::BTreeMap;
use std::fmt;

use serde::Serialize;

use super::{FirstStart, LoadState, Options, Ttl, Wal, unproven};
use crate::milvus::catalog::{Catalog, Standing};
use crate::milvus::keys::{Family, LogKind};

/// What becomes of a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Action {
    /// Written as it was, below the target's root.
    Keep,
    /// Written with another value.
    Rewrite,
    /// A counter, written with a greater value.
    Advance,
    /// Not written.
    Drop,
}

impl fmt::Display for Action {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Keep => "keep",
            Self::Rewrite => "rewrite",
            Self::Advance => "advance",
            Self::Drop => "drop",
        })
    }
}

/// One line of the table, as it was applied.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Line {
    /// The keys' family.
    pub family: Family,
    /// What became of them.
    pub action: Action,
    /// How many there were.
    pub keys: u64,
    /// Why.
    pub why: &'static str,
}

/// A collection that was loaded at the revision.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct LoadedCollection {
    /// Its database.
    pub database: String,
    /// Its name.
    pub collection: String,
    /// Names of the loaded partitions; empty when the whole collection was.
    pub partitions: Vec<String>,
    /// Number of replicas.
    pub replicas: i32,
    /// Names of the loaded fields; empty for all.
    pub fields: Vec<String>,
    /// Resource groups of the replicas.
    pub resource_groups: Vec<String>,
}

/// A collection whose rows expire.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct TtlCollection {
    /// Its database.
    pub database: String,
    /// Its name.
    pub collection: String,
    /// `collection.ttl.seconds` at the revision.
    pub ttl_seconds: u64,
    /// Age of its newest row now, in seconds; `None` when it has no flushed rows.
    pub newest_row_seconds: Option<i64>,
    /// Whether the property was set to 0 (`--suspend-ttl`).
    pub suspended: bool,
}

/// A counter that was advanced.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Counter {
    /// The key, below the target's root.
    pub key: String,
    /// Its value in the snapshot: nanoseconds since 1970, or the next node id.
    pub from: u64,
    /// The value that is written.
    pub to: u64,
}

/// What a transform does, and why.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Report {
    /// The version that wrote the keys.
    pub version: String,
    /// `reset to KIND` or `kept`.
    pub wal: String,
    /// `kept` or `released`.
    pub load_state: &'static str,
    /// The table, in the order of the families.
    pub table: Vec<Line>,
    /// Values that were rewritten, by what was rewritten in them.
    pub rewritten: BTreeMap<&'static str, u64>,
    /// Counters.
    pub counters: Vec<Counter>,
    /// Keys that are written and were not in the snapshot.
    pub added: Vec<String>,
    /// What was loaded at the revision.
    pub loaded: Vec<LoadedCollection>,
    /// Collections whose rows expire.
    pub ttl: Vec<TtlCollection>,
    /// Engine versions of vector index files; the target's query nodes must support them.
    pub index_versions: Vec<i32>,
    /// Engine versions of scalar index files.
    pub scalar_index_versions: Vec<i32>,
    /// Steps that never ran against a real broker here.
    pub unproven: Vec<String>,
    /// What an operator should know before it is done.
    pub warnings: Vec<String>,
}

impl Report {
    pub(super) fn new(catalog: &Catalog, options: &Options) -> Self {
        Self {
            version: options.version.to_string(),
            wal: match options.wal {
                Wal::Reset(kind) => format!("reset to {kind}"),
                Wal::Keep => "kept".to_owned(),
            },
            load_state: match options.load {
                LoadState::Keep => "kept",
                LoadState::Release => "released",
            },
            table: Vec::new(),
            rewritten: BTreeMap::new(),
            counters: Vec::new(),
            added: Vec::new(),
            loaded: loaded(catalog),
            ttl: ttl(catalog, options),
            index_versions: catalog.index_versions.vector.iter().copied().collect(),
            scalar_index_versions: catalog.index_versions.scalar.iter().copied().collect(),
            unproven: unproven(catalog, options),
            warnings: Vec::new(),
        }
    }

    pub(super) fn count(&mut self, family: Family, action: Action, why: &'static str) {
        let line = self
            .table
            .iter_mut()
            .find(|line| line.family == family && line.action == action && line.why == why);
        match line {
            Some(line) => line.keys += 1,
            None => self.table.push(Line {
                family,
                action,
                keys: 1,
                why,
            }),
        }
    }

    pub(super) fn rewrote(&mut self, what: &'static str, count: usize) {
        if count > 0 {
            *self.rewritten.entry(what).or_default() += count as u64;
        }
    }

    pub(super) fn warn(&mut self, warning: String) {
        if !self.warnings.contains(&warning) {
            self.warnings.push(warning);
        }
    }

    pub(super) fn finish(&mut self, catalog: &Catalog, options: &Options) {
        self.table.sort_by_key(|line| (line.family, line.action));
        self.counters.sort_by(|a, b| a.key.cmp(&b.key));
        self.warn_unflushed(catalog, options);
        self.warn_ttl();
        if !catalog.unknown.is_empty() {
            let keys = catalog.unknown.join(", ");
            self.warn(format!("keys that eyrie does not know are kept: {keys}"));
        }
        if options.gc == FirstStart::HoldGc && !self.added.is_empty() {
            self.warn(format!(
                "garbage collection stays off until {} is deleted and Milvus is restarted",
                self.added.join(", ")
            ));
        }
    }

    /// Rows that only the WAL has are lost when the WAL is new.
    fn warn_unflushed(&mut self, catalog: &Catalog, options: &Options) {
        if options.wal == Wal::Keep {
            return;
        }
        let mut open: BTreeMap<i64, (u64, i64)> = BTreeMap::new();
        for segment in catalog.segments.iter().filter(|s| s.standing.is_open()) {
            let (segments, rows) = open.entry(segment.key.collection).or_default();
            *segments += 1;
            *rows += segment.rows;
        }
        for (collection, (segments, rows)) in open {
            let (database, name) = catalog.names(collection);
            self.warn(format!(
                "{database}.{name}: {segments} segments that were not flushed are not restored \
                 ({rows} rows by etcd, maybe more); what they hold is in the old WAL only"
            ));
        }
        let importing = catalog.segments.iter();
        let importing = importing
            .filter(|s| s.standing == Standing::Importing)
            .count();
        if importing > 0 {
            self.warn(format!(
                "{importing} segments of unfinished imports are not restored"
            ));
        }
    }

    fn warn_ttl(&mut self) {
        let warnings: Vec<String> = self.ttl.iter().filter_map(TtlCollection::warning).collect();
        for warning in warnings {
            self.warn(warning);
        }
    }
}

impl TtlCollection {
    fn warning(&self) -> Option<String> {
        let Self {
            database,
            collection,
            ttl_seconds,
            ..
        } = self;
        let name = format!("{database}.{collection}");
        if self.suspended {
            return Some(format!(
                "{name}: rows do not expire until collection.ttl.seconds is set to {ttl_seconds} \
                 again"
            ));
        }
        let age = self.newest_row_seconds?;
        let left = i64::try_from(*ttl_seconds)
            .unwrap_or(i64::MAX)
            .saturating_sub(age);
        Some(if left <= 0 {
            format!("{name}: all rows are older than its {ttl_seconds} s to live and will expire")
        } else {
            format!(
                "{name}: rows live {ttl_seconds} s, the newest is {age} s old: older ones expire \
                 at once, the newest in {left} s"
            )
        })
    }
}

fn loaded(catalog: &Catalog) -> Vec<LoadedCollection> {
    let loads = catalog.load.collections.iter();
    loads
        .filter_map(|(id, load)| {
            let collection = catalog.collection(*id)?;
            let partition = |id: &i64| {
                let partition = collection.partitions.get(id);
                partition.map_or_else(|| id.to_string(), |p| p.name.clone())
            };
            let field = |id: &i64| {
                let field = collection.fields.iter().find(|field| field.field_id == *id);
                field.map_or_else(|| id.to_string(), |field| field.name.clone())
            };
            Some(LoadedCollection {
                database: catalog.database_name(collection.database),
                collection: collection.name.clone(),
                partitions: if load.whole {
                    Vec::new()
                } else {
                    load.partitions.iter().map(partition).collect()
                },
                replicas: load.replicas,
                fields: load.fields.iter().map(field).collect(),
                resource_groups: load.resource_groups.iter().cloned().collect(),
            })
        })
        .collect()
}

fn ttl(catalog: &Catalog, options: &Options) -> Vec<TtlCollection> {
    let collections = catalog.collections.values().filter(|c| c.is_created());
    collections
        .filter_map(|collection| {
            let ttl_seconds = collection.ttl_seconds()?;
            let segments = catalog.live_segments();
            let newest = segments
                .filter(|segment| segment.key.collection == collection.id)
                .flat_map(|segment| segment.logs_of(LogKind::Insert))
                .flat_map(|logs| logs.logs.iter().map(|log| log.to))
                .max();
            let age = |ts: u64| {
                let millis = i64::try_from(ts >> super::counters::LOGICAL_BITS).unwrap_or_default();
                (options.now.as_millisecond() - millis) / 1000
            };
            Some(TtlCollection {
                database: catalog.database_name(collection.database),
                collection: collection.name.clone(),
                ttl_seconds,
                newest_row_seconds: newest.map(age),
                suspended: options.ttl == Ttl::Suspend,
            })
        })
        .collect()
}

impl fmt::Display for Report {
    /// What `--dry-run` prints.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "etcd keys of Milvus {}, WAL {}, load state {}",
            self.version, self.wal, self.load_state
        )?;
        for line in &self.table {
            let Line {
                family,
                action,
                keys,
                why,
            } = line;
            writeln!(f, "  {action:<8}{keys:>7}  {family}: {why}")?;
        }
        for (what, count) in &self.rewritten {
            writeln!(f, "  rewritten: {count} {what}")?;
        }
        for counter in &self.counters {
            let Counter { key, from, to } = counter;
            writeln!(f, "  advanced: {key} from {from} to {to}")?;
        }
        for key in &self.added {
            writeln!(f, "  added: {key}")?;
        }
        for load in &self.loaded {
            let LoadedCollection {
                database,
                collection,
                replicas,
                ..
            } = load;
            let parts = match load.partitions.as_slice() {
                [] => String::new(),
                names => format!(", partitions {}", names.join(", ")),
            };
            writeln!(
                f,
                "  was loaded: {database}.{collection}, {replicas} replicas{parts}"
            )?;
        }
        let versions = |versions: &[i32]| {
            let versions: Vec<String> = versions.iter().map(ToString::to_string).collect();
            versions.join(", ")
        };
        if !self.index_versions.is_empty() {
            writeln!(
                f,
                "  index engine versions: vector {}, scalar {}",
                versions(&self.index_versions),
                versions(&self.scalar_index_versions)
            )?;
        }
        for step in &self.unproven {
            writeln!(f, "  unproven: {step}")?;
        }
        for warning in &self.warnings {
            writeln!(f, "  warning: {warning}")?;
        }
        Ok(())
    }
}
