//! `eyrie ls`: the objects of a snapshot.

use serde::Serialize;

use crate::cli::documents::LsEntry;
use crate::cli::output::{Page, Render};
use crate::cli::values::SnapshotName;

/// List the objects in a snapshot with their size and BLAKE3
///
/// The hash is what `b3sum` prints for the restored file. Reads no object.
#[derive(Debug, Clone, clap::Args)]
pub struct Args {
    /// latest, an id or the beginning of one
    #[arg(value_name = "SNAPSHOT")]
    pub snapshot: SnapshotName,

    /// Only paths that contain this; `*` stands for anything, such as 'insert_log/*/100/*'
    #[arg(value_name = "PATTERN")]
    pub pattern: Option<String>,
}

/// The objects of a snapshot.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(transparent)]
pub struct Listing(pub Vec<LsEntry>);

impl Render for Listing {
    fn render(&self, page: &mut Page) {
        // Lines and not a table: a snapshot may hold a million objects.
        let kind = self
            .0
            .iter()
            .map(|entry| entry.kind.len())
            .max()
            .unwrap_or(0);
        let size = self.0.iter().map(|entry| entry.size).max().unwrap_or(0);
        let size = size.to_string().len();
        for entry in &self.0 {
            let hash = entry.blake3.as_ref().map_or("owed", |id| id.0.as_str());
            let line = format!(
                "{:>size$}  {hash:64}  {:kind$}  {}",
                entry.size, entry.kind, entry.path
            );
            page.line(line);
        }
    }
}

/// Whether `path` contains `pattern`, in which `*` stands for any text.
#[must_use]
pub fn matches(pattern: &str, path: &str) -> bool {
    let mut rest = path;
    pattern.split('*').all(|piece| match rest.find(piece) {
        Some(at) => {
            rest = &rest[at + piece.len()..];
            true
        }
        None => false,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_star_stands_for_anything() {
        let path = "insert_log/444/445/446/100/449";
        for pattern in ["", "*", "insert_log", "insert*/446/*", "*449", "444*100"] {
            assert!(matches(pattern, path), "{pattern}");
        }
        for pattern in ["delta_log", "446*444", "449*449", "INSERT"] {
            assert!(!matches(pattern, path), "{pattern}");
        }
    }
}
