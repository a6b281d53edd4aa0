//! Whether an anchor's metadata holds together (docs/milvus.md 3.8), and what it cannot be captured
//! with.

use std::collections::BTreeSet;
use std::fmt;

use serde::Serialize;

use super::catalog::{
    Catalog, Collection, Conflict, FieldLogs, Keeps, Segment, SegmentFlags, Standing,
};
use super::keys::LogKind;
use super::proto::common::{IndexState, SegmentState};
use super::proto::data::SegmentLevel;
use super::proto::meta::{AliasState, CollectionState, DatabaseState, PartitionState};
use super::proto::schema::FieldSchema;
use super::version::MilvusVersion;

mod half_saved;
mod refusals;

pub use refusals::{Refusal, RefusalKind};

/// How much a finding matters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Severity {
    /// Worth knowing; what was promised still holds.
    Note,
    /// A snapshot of this anchor would not be whole: read the anchor again, or fail.
    Error,
}

/// What a finding is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum FindingKind {
    /// The entries of a field's logs do not add up to the segment's rows.
    RowCount,
    /// A field has no logs.
    MissingField,
    /// Fields of one segment have unequal numbers of files.
    FileCount,
    /// The primary key has no stats log.
    MissingStats,
    /// Rows that are not flushed, so that a restore onto a fresh WAL does not have them.
    Unflushed,
    /// Parents and children of one compaction are both there.
    Compaction,
    /// A schema without fields, primary key or partitions.
    Schema,
    /// A segment of a channel that its collection does not have.
    Channel,
    /// The copies under `snapshots/` and the plain keys differ.
    StaleCopy,
    /// Keys that belong to nothing.
    Orphan,
    /// An index that is not built yet.
    UnfinishedIndex,
    /// Keys that this version does not know.
    Unknown,
    /// The instance replicates to or from another (CDC).
    Replication,
    /// A collection or partition that was dropped and is not cleaned up yet; it is not captured.
    Dropped,
}

/// Something that validation found.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// How much it matters.
    pub severity: Severity,
    /// What it is about.
    pub kind: FindingKind,
    /// The database's name.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub database: Option<String>,
    /// The collection's name.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub collection: Option<String>,
    /// The segment's id.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub segment: Option<i64>,
    /// The field, log directory or key.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub file: Option<String>,
    /// What was found, in words.
    pub message: String,
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let (Some(database), Some(collection)) = (&self.database, &self.collection) {
            write!(f, "{database}.{collection}: ")?;
        }
        if let Some(segment) = self.segment {
            write!(f, "segment {segment}: ")?;
        }
        if let Some(file) = &self.file {
            write!(f, "{file}: ")?;
        }
        f.write_str(&self.message)
    }
}

/// What is wrong with one segment, before names are put to it.
type Problem = (FindingKind, Option<String>, String);

impl Catalog {
    /// Checks the anchor against docs/milvus.md 3.8: rows and files of every live segment, compactions
    /// that were half saved, rows that are not flushed, schemas, copies and leftovers.
    #[must_use]
    pub fn validate(&self) -> Vec<Finding> {
        let mut findings = Vec::new();
        for collection in self.collections.values().filter(|c| c.is_created()) {
            let about = |(kind, file, message)| Finding {
                severity: Severity::Error,
                kind,
                database: Some(self.database_name(collection.database)),
                collection: Some(collection.name.clone()),
                segment: None,
                file,
                message,
            };
            findings.extend(schema_problems(collection).into_iter().map(about));
        }
        for collection in self.collections.values() {
            findings.extend(self.dropped(collection));
        }
        for segment in &self.segments {
            self.check_segment(segment, &mut findings);
        }
        findings.extend(
            self.conflicts
                .iter()
                .map(|conflict| self.conflict(conflict)),
        );
        self.check_rest(&mut findings);
        findings
    }

    fn dropped(&self, collection: &Collection) -> Option<Finding> {
        use CollectionState as C;
        use PartitionState as P;
        let gone = matches!(collection.state, C::Dropping | C::Dropped);
        let partitions = collection.partitions.values();
        let partitions: Vec<&str> = partitions
            .filter(|p| matches!(p.state, P::Dropping | P::Dropped))
            .map(|p| p.name.as_str())
            .collect();
        let message = match (gone, partitions.as_slice()) {
            (true, _) => "dropped, not cleaned up yet; it is not captured".to_owned(),
            (false, []) => return None,
            (false, names) => format!(
                "partitions {} are dropped, not cleaned up yet; they are not captured",
                names.join(", ")
            ),
        };
        Some(Finding {
            severity: Severity::Note,
            kind: FindingKind::Dropped,
            database: Some(self.database_name(collection.database)),
            collection: Some(collection.name.clone()),
            segment: None,
            file: None,
            message,
        })
    }

    fn check_segment(&self, segment: &Segment, findings: &mut Vec<Finding>) {
        let Some(collection) = self.collections.get(&segment.key.collection) else {
            return;
        };
        let mut add = |severity, (kind, file, message): Problem| {
            findings.push(Finding {
                severity,
                kind,
                database: Some(self.database_name(collection.database)),
                collection: Some(collection.name.clone()),
                segment: Some(segment.key.segment),
                file,
                message,
            });
        };
        if segment.standing.is_open() {
            // The row count of a growing segment is behind: none in etcd does not mean none.
            let severity = if segment.rows > 0 || segment.has_logs() {
                Severity::Error
            } else {
                Severity::Note
            };
            let state = match segment.state {
                SegmentState::Growing => "growing",
                _ => "sealed",
            };
            let message = format!(
                "{state} with {} rows in etcd: rows in it may be in the WAL only",
                segment.rows
            );
            add(severity, (FindingKind::Unflushed, None, message));
        }
        if !segment.is_live() {
            return;
        }
        for problem in segment_problems(&self.version, collection, segment) {
            add(Severity::Error, problem);
        }
        if !collection.vchannels.iter().any(|v| **v == *segment.channel) {
            let message = format!("channel {} is not the collection's", segment.channel);
            add(Severity::Error, (FindingKind::Channel, None, message));
        }
        for build in &segment.indexes {
            let index = collection.indexes.get(&build.index);
            let wanted = index.is_some_and(|index| !index.deleted) && !build.deleted;
            if wanted && build.state != IndexState::Finished {
                let file = format!("index build {}", build.build);
                let message = "not finished; it is built again after a restore".to_owned();
                let problem = (FindingKind::UnfinishedIndex, Some(file), message);
                add(Severity::Note, problem);
            }
        }
    }

    fn conflict(&self, conflict: &Conflict) -> Finding {
        let (database, collection) = self.names(conflict.collection);
        let (kept, left) = match conflict.keeps {
            Keeps::Parents => (&conflict.parents, &conflict.children),
            Keeps::Children => (&conflict.children, &conflict.parents),
        };
        Finding {
            severity: Severity::Note,
            kind: FindingKind::Compaction,
            database: Some(database),
            collection: Some(collection),
            segment: kept.first().copied(),
            file: None,
            message: format!(
                "compaction was half done: segments {kept:?} are live, {left:?} are left out"
            ),
        }
    }

    fn check_rest(&self, findings: &mut Vec<Finding>) {
        let mut add = |severity, kind, file, message| {
            findings.push(Finding {
                severity,
                kind,
                database: None,
                collection: None,
                segment: None,
                file,
                message,
            });
        };
        let copies_count = self.version.reads_snapshot_copies();
        for key in &self.stale_copies {
            let severity = if copies_count {
                Severity::Error
            } else {
                Severity::Note
            };
            let message = "the newest copy under snapshots/ is not the plain key's value";
            add(
                severity,
                FindingKind::StaleCopy,
                Some(key.clone()),
                message.to_owned(),
            );
        }
        if self.orphans > 0 {
            let message = format!("{} keys belong to no collection or segment", self.orphans);
            add(Severity::Note, FindingKind::Orphan, None, message);
        }
        for key in &self.unknown {
            let message = "not a key that eyrie knows; it is kept as it is".to_owned();
            add(
                Severity::Note,
                FindingKind::Unknown,
                Some(key.clone()),
                message,
            );
        }
        if self.tasks.replicates {
            let message = "the instance replicates (CDC); a restore drops the topology".to_owned();
            add(Severity::Note, FindingKind::Replication, None, message);
        }
    }
}

/// Whether a segment's metadata names all its rows: what decides between parents and children of
/// a compaction.
pub(super) fn is_complete(
    version: &MilvusVersion,
    collection: &Collection,
    segment: &Segment,
) -> bool {
    segment_problems(version, collection, segment).is_empty()
}

fn schema_problems(collection: &Collection) -> Vec<Problem> {
    let mut problems = Vec::new();
    let mut add = |message: &str| {
        problems.push((FindingKind::Schema, None, message.to_owned()));
    };
    if collection.fields.is_empty() {
        add("the collection has no fields");
    } else if collection.primary_key().is_none() {
        add("the collection has no primary key");
    }
    if collection.partitions.is_empty() {
        add("the collection has no partitions");
    }
    if collection.vchannels.is_empty() {
        add("the collection has no channels");
    }
    problems
}

/// Everything that is wrong with the logs of a live segment.
fn segment_problems(
    version: &MilvusVersion,
    collection: &Collection,
    segment: &Segment,
) -> Vec<Problem> {
    let mut problems = Vec::new();
    // Level 0 has deletes only; a manifest is refused elsewhere; no rows, no logs.
    let empty = segment.rows == 0 && segment.logs_of(LogKind::Insert).next().is_none();
    if segment.level == SegmentLevel::L0 || segment.manifest.is_some() || empty {
        return problems;
    }
    check_rows(segment, &mut problems);
    check_files(segment, &mut problems);
    if segment.storage_version >= 2 {
        check_groups(version, collection, segment, &mut problems);
    } else {
        check_fields(version, collection, segment, &mut problems);
    }
    check_stats(collection, segment, &mut problems);
    problems
}

fn check_rows(segment: &Segment, problems: &mut Vec<Problem>) {
    for logs in segment.logs_of(LogKind::Insert) {
        let entries: i64 = logs.logs.iter().map(|log| log.entries).sum();
        if entries != segment.rows {
            let message = format!(
                "insert logs hold {entries} rows, the segment has {}",
                segment.rows
            );
            problems.push((
                FindingKind::RowCount,
                Some(directory(segment, logs)),
                message,
            ));
        }
    }
}

fn check_files(segment: &Segment, problems: &mut Vec<Problem>) {
    let mut counts = segment.logs_of(LogKind::Insert).map(|logs| logs.logs.len());
    let Some(first) = counts.next() else {
        return;
    };
    if counts.any(|count| count != first) {
        let each: Vec<String> = segment
            .logs_of(LogKind::Insert)
            .map(|logs| format!("{}: {}", logs.field, logs.logs.len()))
            .collect();
        let message = format!(
            "fields have unequal numbers of insert logs ({})",
            each.join(", ")
        );
        problems.push((FindingKind::FileCount, None, message));
    }
}

/// Whether a segment may lack a field: computed by a function, or added later with a value for the
/// rows that were there (nullable or with a default, 2.5 and later).
fn is_optional(version: &MilvusVersion, field: &FieldSchema) -> bool {
    let added = field.nullable || !field.default_value.is_empty();
    field.is_function_output || (version.at_least(2, 5, 0) && added)
}

fn check_fields(
    version: &MilvusVersion,
    collection: &Collection,
    segment: &Segment,
    problems: &mut Vec<Problem>,
) {
    let there: BTreeSet<i64> = segment
        .logs_of(LogKind::Insert)
        .map(|logs| logs.field)
        .collect();
    missing_fields(version, collection, &there, problems);
}

/// Storage version 2: the members of the groups together are the schema; before 2.6.2 the groups
/// do not name them.
fn check_groups(
    version: &MilvusVersion,
    collection: &Collection,
    segment: &Segment,
    problems: &mut Vec<Problem>,
) {
    let mut groups = segment.logs_of(LogKind::Insert).peekable();
    if groups.peek().is_none() {
        let message = "there are no insert logs".to_owned();
        problems.push((FindingKind::MissingField, None, message));
        return;
    }
    let groups: Vec<&FieldLogs> = groups.collect();
    if groups.iter().any(|group| group.children.is_empty()) {
        return;
    }
    let there = groups
        .iter()
        .flat_map(|group| group.children.iter().copied())
        .collect();
    missing_fields(version, collection, &there, problems);
}

fn missing_fields(
    version: &MilvusVersion,
    collection: &Collection,
    there: &BTreeSet<i64>,
    problems: &mut Vec<Problem>,
) {
    for field in collection.columns() {
        if !there.contains(&field.field_id) && !is_optional(version, field) {
            let file = format!("field {} ({})", field.field_id, field.name);
            let message = "there are no insert logs".to_owned();
            problems.push((FindingKind::MissingField, Some(file), message));
        }
    }
}

fn check_stats(collection: &Collection, segment: &Segment, problems: &mut Vec<Problem>) {
    let Some(key) = collection.primary_key() else {
        return;
    };
    let mut stats = segment.logs_of(LogKind::Stats);
    if !stats.any(|logs| logs.field == key.field_id && !logs.logs.is_empty()) {
        let file = format!("field {} ({})", key.field_id, key.name);
        let message = "the primary key has no stats log".to_owned();
        problems.push((FindingKind::MissingStats, Some(file), message));
    }
}

fn directory(segment: &Segment, logs: &FieldLogs) -> String {
    let key = segment.key;
    format!(
        "insert_log/{}/{}/{}/{}",
        key.collection, key.partition, key.segment, logs.field
    )
}

/// Names of what is not there yet. What is being dropped is gone for clients already: Milvus 2.3
/// keeps it in the state Dropping until the garbage collector has removed its segments, which takes
/// hours.
fn unfinished_ddl(catalog: &Catalog) -> Vec<String> {
    let mut names = Vec::new();
    for database in catalog.databases.values() {
        if database.state == DatabaseState::Creating {
            names.push(format!("database {}", database.name));
        }
    }
    for collection in catalog.collections.values() {
        let name = format!(
            "{}.{}",
            catalog.database_name(collection.database),
            collection.name
        );
        if collection.state == CollectionState::Creating {
            names.push(format!("collection {name}"));
            continue;
        }
        let partitions = collection.partitions.values();
        let unfinished = partitions.filter(|p| p.state == PartitionState::Creating);
        names.extend(unfinished.map(|p| format!("partition {} of {name}", p.name)));
        let aliases = collection.aliases.iter();
        let unfinished = aliases.filter(|(_, state)| **state == AliasState::Creating);
        names.extend(unfinished.map(|(alias, _)| format!("alias {alias} of {name}")));
    }
    names
}

/// Live segments with a property, as `database.collection (n segments)`.
fn live_with(catalog: &Catalog, has: impl Fn(&Segment) -> bool) -> Vec<String> {
    let mut counts: Vec<(i64, u64)> = Vec::new();
    for segment in catalog.live_segments().filter(|segment| has(segment)) {
        match counts.last_mut() {
            Some((collection, count)) if *collection == segment.key.collection => *count += 1,
            _ => counts.push((segment.key.collection, 1)),
        }
    }
    let name = |(collection, count): (i64, u64)| {
        let (database, collection) = catalog.names(collection);
        format!("{database}.{collection} ({count} segments)")
    };
    counts.into_iter().map(name).collect()
}

/// Segments that an import is writing.
fn importing(catalog: &Catalog) -> usize {
    let segments = catalog.segments.iter();
    segments
        .filter(|s| s.standing == Standing::Importing)
        .count()
}

const fn has_legacy_logs(segment: &Segment) -> bool {
    segment.flags.has(SegmentFlags::LEGACY_LOGS)
}
