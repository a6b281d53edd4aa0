//! `eyrie restore`: put a snapshot back.

use std::path::PathBuf;
use std::time::Duration;

use super::weakenings;
use crate::cli::documents::{RestoreDocument, RestorePlanDocument};
use crate::cli::output::{Column, Page, Render, count};
use crate::cli::values::{Bytes, SnapshotName, took};

/// Restore a snapshot onto its own instance or another
///
/// Milvus must be stopped, and etcd root, storage root and message queue of the target empty,
/// unless --replace is given. Nothing is destroyed before every byte of the snapshot is proved
/// readable. An interrupted restore goes on where it was when the same command is run again.
/// --dry-run says what would happen and how long it would take.
#[derive(Debug, Clone, clap::Args)]
#[allow(
    clippy::struct_excessive_bools,
    reason = "the flags of the interface contract"
)]
pub struct Args {
    /// latest, an id or the beginning of one
    #[arg(value_name = "SNAPSHOT")]
    pub snapshot: SnapshotName,

    /// The configuration whose instance is restored onto [default: the one in force]
    #[arg(long, value_name = "FILE")]
    pub target: Option<PathBuf>,

    /// Say what would be done, and do nothing
    #[arg(long)]
    pub dry_run: bool,

    /// Replace what the target holds; its metadata is first saved into the repository
    #[arg(long)]
    pub replace: bool,

    /// Keep the message queue that was captured: no row is lost, not even unflushed ones [default
    /// for a snapshot that holds one]
    #[arg(long)]
    pub keep_wal: bool,

    /// Suspend the collections' time to live, so that old rows do not expire at the first start
    #[arg(long)]
    pub suspend_ttl: bool,

    /// Read every restored object again and compare its hash
    #[arg(long)]
    pub read_back: bool,

    /// Go on although a fresh message queue of this kind was never restored onto here
    #[arg(long)]
    pub accept_unproven_wal: bool,
}

impl Render for RestoreDocument {
    fn render(&self, page: &mut Page) {
        let took = took(Duration::from_millis(self.duration_ms));
        page.line(format!(
            "snapshot {} restored onto {}",
            self.snapshot.short(),
            self.target
        ));
        let resumed = match self.objects_resumed {
            0 => String::new(),
            n => format!(", {n} of them from a run before"),
        };
        page.pairs(&[
            (
                "objects",
                format!(
                    "{}{resumed}, {}",
                    count(self.objects, "object"),
                    Bytes(self.bytes)
                ),
            ),
            ("etcd", count(self.etcd_keys, "key")),
            ("wal", self.wal.clone()),
            ("took", took),
        ]);
        let rewritten = self.rewritten.iter();
        page.list(
            "rewritten",
            rewritten.map(|(family, n)| format!("{family}: {}", count(*n, "key"))),
        );
        weakenings(page, &self.weakened);
        page.list("notes", self.notes.iter().map(|note| note.what.clone()));
        numbered(page, "what to do next", &self.next_steps);
    }
}

impl Render for RestorePlanDocument {
    fn render(&self, page: &mut Page) {
        page.line(format!(
            "restore {} onto {}",
            self.snapshot.short(),
            self.target
        ));
        let expected = self.expected_ms.map(Duration::from_millis);
        page.pairs(&[
            (
                "objects",
                format!("{}, {}", count(self.objects, "object"), Bytes(self.bytes)),
            ),
            ("etcd", count(self.etcd_keys, "key")),
            ("wal", self.wal.clone()),
            (
                "takes",
                expected.map_or_else(|| "unknown".to_owned(), |d| format!("about {}", took(d))),
            ),
        ]);
        page.list("the target refuses", self.refusals.iter().cloned());
        page.list(
            "would be destroyed",
            self.destroys
                .iter()
                .map(|place| format!("{} ({} entries)", place.place, place.entries)),
        );
        page.heading("keys");
        page.table(
            &[
                Column::text("family"),
                Column::text("action"),
                Column::number("keys"),
                Column::text("why"),
            ],
            self.transforms.iter().map(|t| {
                vec![
                    t.family.clone(),
                    t.action.clone(),
                    t.keys.to_string(),
                    t.why.clone(),
                ]
            }),
        );
        let steps: Vec<_> = self
            .steps
            .iter()
            .map(|s| format!("{}: {}", s.step, s.what))
            .collect();
        numbered(page, "steps", &steps);
        numbered(page, "what to do afterwards", &self.next_steps);
    }
}

fn numbered(page: &mut Page, heading: &str, lines: &[String]) {
    if lines.is_empty() {
        return;
    }
    page.heading(heading);
    for (index, line) in lines.iter().enumerate() {
        page.line(format!("{:>3}. {line}", index + 1));
    }
}
