//! `eyrie diff`: what changed between two snapshots.

use crate::cli::documents::{Change, DiffDocument};
use crate::cli::output::{Page, Render, count};
use crate::cli::values::{Bytes, SnapshotName};

/// Say what changed from one snapshot to another
///
/// Compares metadata and trees of hashes; reads no object. Lines begin with + for what only the
/// second has, - for what only the first has, ~ for what differs.
#[derive(Debug, Clone, clap::Args)]
pub struct Args {
    /// The first: latest, an id or the beginning of one
    #[arg(value_name = "FROM")]
    pub from: SnapshotName,

    /// The second
    #[arg(value_name = "TO")]
    pub to: SnapshotName,
}

impl Render for DiffDocument {
    fn render(&self, page: &mut Page) {
        for entry in self.metadata.iter().chain(&self.entries) {
            let sign = match entry.change {
                Change::Added => '+',
                Change::Removed => '-',
                Change::Changed => '~',
            };
            let size = entry
                .size
                .map(|size| format!(" ({})", Bytes(size)))
                .unwrap_or_default();
            page.line(format!("{sign} {}{size}", entry.what));
        }
        let objects = &self.objects;
        page.heading(&format!("{} to {}", self.from.short(), self.to.short()));
        page.pairs(&[
            (
                "added",
                format!(
                    "{}, {}",
                    count(objects.added, "object"),
                    Bytes(objects.bytes_added)
                ),
            ),
            (
                "removed",
                format!(
                    "{}, {}",
                    count(objects.removed, "object"),
                    Bytes(objects.bytes_removed)
                ),
            ),
            ("changed", count(objects.changed, "object")),
            ("same", count(objects.same, "object")),
        ]);
    }
}
