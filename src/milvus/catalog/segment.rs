//! Segments and what belongs to them.

use std::sync::Arc;

use super::super::keys::{LogKind, SegmentKey};
use super::super::proto::common::{IndexState, SegmentState};
use super::super::proto::data::SegmentLevel;
use super::Standing;

/// A segment.
#[derive(Debug, Clone, PartialEq)]
pub struct Segment {
    /// Collection, partition and id.
    pub key: SegmentKey,
    /// The state in etcd.
    pub state: SegmentState,
    /// The level; `L0` holds deletes only.
    pub level: SegmentLevel,
    /// Whether it is live, and if not why.
    pub standing: Standing,
    /// Rows, deleted ones included. Proves nothing for a growing segment.
    pub rows: i64,
    /// The virtual channel.
    pub channel: Arc<str>,
    /// Hybrid timestamp of the first position, 0 when there is none.
    pub start_timestamp: u64,
    /// Hybrid timestamp of the last position, 0 when there is none.
    pub dml_timestamp: u64,
    /// Segments this one was compacted from.
    pub compaction_from: Box<[i64]>,
    /// 0 and 1: one file a field; 2: column groups; 3: a manifest.
    pub storage_version: i64,
    /// What else the record says.
    pub flags: SegmentFlags,
    /// Logs by kind and field (column group in storage version 2), ascending.
    pub logs: Vec<FieldLogs>,
    /// Index builds, ascending by build id, unfinished and deleted ones included.
    pub indexes: Vec<SegmentIndex>,
    /// Text and JSON statistics, ascending by kind and field.
    pub stats: Vec<FieldStats>,
    /// The manifest of storage version 3, as Milvus wrote it.
    pub manifest: Option<Box<str>>,
}

impl Segment {
    /// Whether it is live (docs/milvus.md 3.8).
    #[must_use]
    pub const fn is_live(&self) -> bool {
        matches!(self.standing, Standing::Live)
    }

    /// Logs of one kind, by field.
    pub fn logs_of(&self, kind: LogKind) -> impl Iterator<Item = &FieldLogs> {
        self.logs.iter().filter(move |logs| logs.kind == kind)
    }

    /// Its logs of rows and of deletes, each with what it is of.
    pub fn row_logs(&self) -> impl Iterator<Item = (&Self, &FieldLogs, &Log)> {
        let logs = self.logs.iter();
        logs.filter(|logs| matches!(logs.kind, LogKind::Insert | LogKind::Delta))
            .flat_map(move |logs| logs.logs.iter().map(move |log| (self, logs, log)))
    }

    /// Whether any log holds rows or deletes.
    #[must_use]
    pub fn has_logs(&self) -> bool {
        self.logs.iter().any(|logs| !logs.logs.is_empty())
    }
}

/// Yes-or-no facts of a segment's record.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct SegmentFlags(u8);

impl SegmentFlags {
    /// Not served until something promotes it.
    pub const INVISIBLE: Self = Self(1);
    /// A placeholder without data.
    pub const FAKE: Self = Self(2);
    /// Written by an import that has not ended.
    pub const IMPORTING: Self = Self(4);
    /// Sorted by primary key.
    pub const SORTED: Self = Self(8);
    /// The record carries log lists itself, or logs carry paths: metadata of 2.1.
    pub const LEGACY_LOGS: Self = Self(16);
    /// Made by compaction.
    pub const COMPACTION: Self = Self(32);

    /// Whether all of `flag` is set.
    #[must_use]
    pub const fn has(self, flag: Self) -> bool {
        self.0 & flag.0 == flag.0
    }

    /// These facts and those of `flag`, where `on`.
    #[must_use]
    pub(crate) const fn with(self, flag: Self, on: bool) -> Self {
        if on { Self(self.0 | flag.0) } else { self }
    }
}

/// The logs of one kind of one field (or column group) of a segment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FieldLogs {
    /// What the logs hold.
    pub kind: LogKind,
    /// The field, or the column group in storage version 2.
    pub field: i64,
    /// Fields of the column group, 2.6.2 and later.
    pub children: Box<[i64]>,
    /// The logs in Milvus's order.
    pub logs: Box<[Log]>,
}

/// One log: 40 bytes, as there are millions.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Log {
    /// Its id, the last part of its path; 1 is a merged stats log.
    pub id: i64,
    /// What Milvus recorded as its size, in bytes; not always the object's size.
    pub size: i64,
    /// Rows or deletes in it.
    pub entries: i64,
    /// Least hybrid timestamp in it; 0 where Milvus does not record it.
    pub from: u64,
    /// Greatest hybrid timestamp in it; 0 where Milvus does not record it.
    pub to: u64,
}

/// One index build of a segment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SegmentIndex {
    /// The index.
    pub index: i64,
    /// The build.
    pub build: i64,
    /// The version in the path.
    pub version: i64,
    /// How far the build is.
    pub state: IndexState,
    /// Whether it was dropped and waits for the garbage collector.
    pub deleted: bool,
    /// Rows that were indexed.
    pub rows: i64,
    /// Version of the vector index engine, 2.3 and later.
    pub engine: i32,
    /// Version of the scalar index engine, 2.5 and later.
    pub scalar_engine: i32,
    /// File names; none for small segments and indexes that need no files.
    pub files: Box<[Arc<str>]>,
}

/// Text or JSON statistics of one field of a segment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FieldStats {
    /// Text index or JSON key statistics.
    pub kind: StatsKind,
    /// The field.
    pub field: i64,
    /// The build.
    pub build: i64,
    /// The version in the path.
    pub version: i64,
    /// The data format of JSON statistics.
    pub format: i64,
    /// Files as Milvus wrote them: whole paths with the storage root before 2.6.8, names after.
    pub files: Box<[Box<str>]>,
}

/// What statistics are of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum StatsKind {
    /// A text index.
    Text,
    /// JSON keys.
    Json,
}
