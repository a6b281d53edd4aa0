//! `eyrie show`: one snapshot in full.

use std::time::Duration;

use super::weakenings;
use crate::cli::documents::{ShowDocument, ShownCollection};
use crate::cli::output::{Column, Page, Render, count};
use crate::cli::values::{Bytes, SnapshotName, took};

/// Show one snapshot: databases, collections, rows, indexes, holds, weakenings
///
/// Reads the manifest and the metadata in the snapshot, no objects.
#[derive(Debug, Clone, clap::Args)]
pub struct Args {
    /// latest, an id or the beginning of one
    #[arg(value_name = "SNAPSHOT")]
    pub snapshot: SnapshotName,
}

impl Render for ShowDocument {
    fn render(&self, page: &mut Page) {
        let s = &self.snapshot;
        let parent = s.parent.as_ref().map_or("none", |id| id.short());
        let verified = s.verified.as_ref().map_or_else(
            || "never".to_owned(),
            |v| {
                format!(
                    "{} at {}: {}",
                    v.level,
                    v.time.0,
                    match v.damage {
                        0 => "no damage".to_owned(),
                        n => format!("DAMAGE in {}", count(n, "place")),
                    }
                )
            },
        );
        page.line(format!("snapshot {} of {}", s.snapshot.short(), s.instance));
        page.pairs(&[
            ("id", s.snapshot.0.clone()),
            ("time", s.time.0.to_string()),
            ("sequence", format!("{}, after {parent}", self.sequence)),
            ("mode", format!("{}, by {}", s.mode.word(), s.method.word())),
            ("milvus", s.milvus_version.clone()),
            (
                "anchor",
                format!(
                    "etcd revision {}, {}",
                    self.revision,
                    count(self.etcd_keys, "key")
                ),
            ),
            (
                "contents",
                format!(
                    "{}, {}, {}, {}, {}",
                    count(s.collections, "collection"),
                    count(self.rows, "row"),
                    count(self.segments, "segment"),
                    count(s.objects, "object"),
                    Bytes(s.bytes),
                ),
            ),
            ("added", Bytes(s.bytes_added).to_string()),
            ("wal", format!("{}, {}", self.wal_kind, self.wal)),
            ("took", took(Duration::from_millis(self.duration_ms))),
            ("verified", verified),
        ]);
        let labels = s.labels.iter().map(|(key, value)| format!("{key}={value}"));
        page.list("labels", labels);
        weakenings(page, &s.weakened);
        page.list(
            "held",
            self.holds.iter().map(|hold| {
                let held = took(Duration::from_millis(hold.held_ms));
                format!("{} for {held}, {}", hold.kind, hold.how)
            }),
        );
        page.list("notes", self.notes.iter().map(|note| note.what.clone()));
        page.heading(&format!(
            "collections in {}",
            count(self.databases.len() as u64, "database")
        ));
        page.table(
            &[
                Column::text("database"),
                Column::text("collection"),
                Column::text("aliases"),
                Column::number("partitions"),
                Column::number("rows"),
                Column::number("segments"),
                Column::number("objects"),
                Column::number("size"),
                Column::text("indexes"),
                Column::text("loaded"),
            ],
            self.catalog.iter().map(row),
        );
    }
}

fn row(collection: &ShownCollection) -> Vec<String> {
    let indexes = collection
        .indexes
        .iter()
        .map(|i| format!("{}:{}", i.field, i.kind));
    vec![
        collection.database.clone(),
        collection.name.clone(),
        collection.aliases.join(","),
        collection.partitions.to_string(),
        collection.rows.to_string(),
        collection.segments.to_string(),
        collection.objects.to_string(),
        Bytes(collection.bytes).to_string(),
        indexes.collect::<Vec<_>>().join(" "),
        if collection.loaded { "yes" } else { "no" }.to_owned(),
    ]
}
