//! What a transform did, and why.

use std::collections::BTreeMap;
use std::fmt;

use super::{FirstStart, Options, Ttl, Wal};
use crate::milvus::catalog::{Catalog, Standing};
use crate::milvus::hybrid;
use crate::milvus::keys::{Family, LogKind};
use crate::{Cause, Error, Result};

/// What becomes of a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
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
#[derive(Debug, Clone)]
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

/// A collection whose rows expire.
#[derive(Debug, Clone, PartialEq, Eq)]
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

/// What a transform does, and why.
#[derive(Debug, Clone)]
pub struct Report {
    /// The table, in the order of the families.
    pub table: Vec<Line>,
    /// Values that were rewritten, by what was rewritten in them.
    pub rewritten: BTreeMap<&'static str, u64>,
    /// Keys that are written and were not in the snapshot.
    pub added: Vec<String>,
    /// How many collections were loaded at the revision.
    pub loaded: usize,
    /// Collections whose rows expire.
    pub ttl: Vec<TtlCollection>,
    /// What an operator should know before it is done.
    pub warnings: Vec<String>,
}

impl Report {
    pub(super) fn new(catalog: &Catalog, options: &Options) -> Self {
        let loads = catalog.load.collections.keys();
        let loaded = loads.filter(|id| catalog.collection(**id).is_some());
        Self {
            table: Vec::new(),
            rewritten: BTreeMap::new(),
            added: Vec::new(),
            loaded: loaded.count(),
            ttl: ttl(catalog, options),
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

    /// Fails when a key of the snapshot was forgotten, or is written twice: of `taken` keys, `written`
    /// are written.
    ///
    /// # Errors
    ///
    /// [`Cause::Failed`]; nothing has been written.
    pub(super) fn adds_up(&self, taken: usize, written: usize) -> Result<()> {
        let sum = |wanted: fn(&&Line) -> bool| {
            let lines = self.table.iter().filter(wanted);
            lines.map(|line| line.keys).sum::<u64>()
        };
        let (all, dropped) = (sum(|_| true), sum(|line| line.action == Action::Drop));
        let added = self.added.len() as u64;
        if all == taken as u64 && all + added == dropped + written as u64 {
            return Ok(());
        }
        Err(Error::new(
            Cause::Failed,
            format!(
                "the plan of the keys does not add up: {taken} are in the snapshot, {all} were decided on, \
                 {dropped} of them dropped, {added} added, and {written} would be written"
            ),
        )
        .with_hint("this is a fault of eyrie: please report it; nothing was written"))
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
                let millis = i64::try_from(hybrid::millis(ts)).unwrap_or_default();
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
