//! The transform table: what becomes of each etcd key at restore (docs/milvus.md 3, 5.3 to 5.5, 7.3,
//! 8.1 and 8.2.3).
//!
//! [`transform`] is a pure function of the anchor's keys. It decides for each key whether it is
//! kept, rewritten, dropped or advanced, and says so in a [`Report`] that a dry run prints. Values
//! are edited on the wire, so that fields of newer versions survive.
//!
//! Copies under `snapshots/` follow their key: they stay with it and are rewritten with it, because
//! `RootCoord` before 2.4.14 reads its catalog from the newest copies, not from the plain keys;
//! copies of what is gone go.

use std::collections::{BTreeSet, HashSet};

use jiff::Timestamp;

use crate::milvus::MilvusVersion;
use crate::milvus::catalog::{Catalog, WalKind};
use crate::milvus::keys::{Area, KeyKind, KeyValue, Roots, normalise_item, parse_meta};
use crate::milvus::version::GARBAGE_COLLECTION;
use crate::{Cause, Result, Side};

mod counters;
mod edit;
mod refuse;
mod report;
mod table;

pub use refuse::unproven;
pub use report::{Action, Report, TtlCollection};

use counters::Advance;
use table::Table;

/// How the keys are to be transformed.
#[derive(Debug, Clone)]
pub struct Options {
    /// Where the keys were.
    pub source: Roots,
    /// Where they go.
    pub target: Roots,
    /// The version that will start on them.
    pub target_version: MilvusVersion,
    /// What the restored Milvus finds as its WAL.
    pub wal: Wal,
    /// Whether what never ran against a real broker here may be done.
    pub unproven: Unproven,
    /// Storage roots as Milvus puts them before paths; `None` when the root stays.
    pub storage: Option<StorageRoots>,
    /// Wall-clock time of the target; counters never fall behind it.
    pub now: Timestamp,
    /// What becomes of collections with a time to live.
    pub ttl: Ttl,
    /// Whether garbage collection is held off for the first start.
    pub gc: FirstStart,
    /// Keys that are holds of the capture (whole keys, source root), in any spelling.
    pub holds: Vec<Vec<u8>>,
    /// Index builds whose files are not in the snapshot: their keys are dropped, so that Milvus
    /// builds them again.
    pub rebuild: BTreeSet<i64>,
    /// The least next node id: the target's own `session/id` when it had one, else 0.
    pub least_session_id: i64,
}

/// What the restored Milvus finds as its WAL.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wal {
    /// A fresh one of this kind: positions are rewritten to its beginning.
    Reset(WalKind),
    /// The captured one: positions stay.
    Keep,
}

/// Whether unproven steps are accepted (`--accept-unproven-wal`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unproven {
    /// They are refused.
    Refuse,
    /// They are done, and named in the report.
    Accept,
}

/// Storage roots, such as `files` or `/var/lib/milvus/data`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StorageRoots {
    /// The root that the captured metadata names.
    pub source: String,
    /// The root under which the objects are put back.
    pub target: String,
}

/// What becomes of collections with a time to live.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ttl {
    /// Rows expire as if time had gone on.
    Keep,
    /// `collection.ttl.seconds` becomes 0, so that nothing expires until it is set again.
    Suspend,
}

/// What protects the objects at the first start.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FirstStart {
    /// A key switches garbage collection off. Only Milvus with an external etcd reads it.
    HoldGc,
    /// Nothing is written.
    AsConfigured,
}

/// A key to write, under the target's root.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewKey {
    /// The whole key.
    pub key: Vec<u8>,
    /// The value.
    pub value: Vec<u8>,
}

/// The keys to write and what was done.
#[derive(Debug, Clone)]
pub struct Transformed {
    /// Keys in ascending order, those that make collections visible last.
    pub keys: Vec<NewKey>,
    /// How many of [`Transformed::keys`], from the end, make collections visible.
    pub collection_keys: usize,
    /// What was done and why.
    pub report: Report,
}

/// Transforms the keys of an anchor, which decode to `catalog`, for a target.
///
/// # Errors
///
/// [`Side::Target`] when the keys cannot be restored as asked, with the reason and the way out;
/// [`Cause::Damage`] naming the key that cannot be decoded.
pub fn transform(catalog: &Catalog, keys: &[KeyValue], options: &Options) -> Result<Transformed> {
    refuse::check(catalog, options)?;
    let table = Table::new(catalog, options);
    let mut run = Run {
        table: &table,
        options,
        report: Report::new(catalog, options),
        plain: Vec::new(),
        collections: Vec::new(),
        kept: HashSet::new(),
    };
    let is_copy = |kind: &KeyKind<'_>| matches!(kind, KeyKind::SnapshotCopy { .. });
    for key in keys {
        let kind = options.source.parse(&key.key);
        if !is_copy(&kind) {
            run.take(key, kind)?;
        }
    }
    for key in keys {
        let kind = options.source.parse(&key.key);
        if is_copy(&kind) {
            run.take(key, kind)?;
        }
    }
    run.finish(catalog, keys.len())
}

/// What the table says about one key.
struct Verdict {
    action: Action,
    why: &'static str,
    value: Option<Vec<u8>>,
}

impl Verdict {
    const fn keep(why: &'static str) -> Self {
        Self::of(Action::Keep, why)
    }

    const fn drop(why: &'static str) -> Self {
        Self::of(Action::Drop, why)
    }

    const fn of(action: Action, why: &'static str) -> Self {
        Self {
            action,
            why,
            value: None,
        }
    }

    fn changed(action: Action, why: &'static str, value: Vec<u8>) -> Self {
        Self {
            action,
            why,
            value: Some(value),
        }
    }
}

struct Run<'a> {
    table: &'a Table<'a>,
    options: &'a Options,
    report: Report,
    plain: Vec<NewKey>,
    collections: Vec<NewKey>,
    /// Keys below the meta path that stay, for their copies.
    kept: HashSet<&'a str>,
}

impl<'a> Run<'a> {
    fn take(&mut self, key: &'a KeyValue, kind: KeyKind<'a>) -> Result<()> {
        let name = || format!("etcd key {}", String::from_utf8_lossy(&key.key));
        let verdict = match kind {
            KeyKind::SnapshotCopy { original, .. } if !self.kept.contains(original) => {
                Verdict::drop("copies of what is gone")
            }
            KeyKind::SnapshotCopy { original, .. } => {
                let kind = parse_meta(original);
                let edits = self.table.copy(key, kind, &mut self.report);
                edits.map_err(|error| error.context(name()))?
            }
            _ => {
                let verdict = self.table.decide(key, kind, &mut self.report);
                verdict.map_err(|error| error.context(name()))?
            }
        };
        let family = kind.family();
        self.report.count(family, verdict.action, verdict.why);
        if verdict.action == Action::Drop {
            return Ok(());
        }
        if let Some((Area::Meta, rest)) = self.options.source.split(&key.key) {
            self.kept.insert(rest);
        }
        let moved = self.options.source.reroot(&key.key, &self.options.target);
        let moved = moved.ok_or_else(|| {
            Side::Target.error(
                Cause::Refused,
                format!("{} is outside the root path", name()),
            )
        })?;
        let new = NewKey {
            key: moved,
            value: verdict.value.unwrap_or_else(|| key.value.clone()),
        };
        if family.is_collection() {
            self.collections.push(new);
        } else {
            self.plain.push(new);
        }
        Ok(())
    }

    fn finish(mut self, catalog: &Catalog, taken: usize) -> Result<Transformed> {
        self.hold_gc(catalog);
        if let Some(warning) = Advance::new(catalog, self.options.now).clock_behind() {
            self.report.warn(warning);
        }
        self.report.finish(catalog, self.options);
        self.plain.sort_by(|a, b| a.key.cmp(&b.key));
        self.collections.sort_by(|a, b| a.key.cmp(&b.key));
        let collection_keys = self.collections.len();
        let mut keys = self.plain;
        keys.append(&mut self.collections);
        let mut seen = BTreeSet::new();
        if let Some(twice) = keys.iter().find(|key| !seen.insert(&key.key)) {
            let key = String::from_utf8_lossy(&twice.key);
            return Err(Side::Target.error(Cause::Refused, format!("two keys become {key}")));
        }
        self.report.adds_up(taken, keys.len())?;
        Ok(Transformed {
            keys,
            collection_keys,
            report: self.report,
        })
    }

    /// Adds the key that keeps garbage collection off, unless the operator has that item already.
    fn hold_gc(&mut self, catalog: &Catalog) {
        if self.options.gc == FirstStart::AsConfigured {
            return;
        }
        let item = normalise_item(GARBAGE_COLLECTION);
        let holds = &self.table.holds;
        let own = catalog
            .config
            .iter()
            .find(|config| config.item == item && config.lease == 0 && !holds.contains(&item));
        if let Some(own) = own {
            if !own.value.eq_ignore_ascii_case("false") {
                self.report.warn(format!(
                    "garbage collection is not held off for the first start: {} is set to {}",
                    own.key, own.value
                ));
            }
            return;
        }
        let area = if self.options.target_version.has_root_config() {
            Area::Root
        } else {
            Area::Meta
        };
        let key = format!(
            "{}config/{GARBAGE_COLLECTION}",
            self.options.target.area(area)
        );
        self.report.added.push(key.clone());
        self.plain.push(NewKey {
            key: key.into_bytes(),
            value: b"false".to_vec(),
        });
    }
}

#[cfg(test)]
pub(crate) mod tests;
