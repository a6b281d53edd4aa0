//! `eyrie ls`: the objects of a snapshot.

use futures::StreamExt as _;

use crate::cli::context::Context;
use crate::cli::documents::{HexId, LsEntry};
use crate::cli::output::{Row, RowsState};
use crate::cli::stored::Stored;
use crate::cli::values::SnapshotName;
use crate::milvus::objects::TreeKey;
use crate::repo::{Content, Entry};
use crate::snapshot::{CollectionPath, ObjectEntry, Selection};
use crate::{Cause, Error, Result};

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

    /// Only objects of this collection; repeatable
    #[arg(long = "collection", value_name = "[DB.]NAME")]
    pub collections: Vec<CollectionPath>,

    /// Only objects of this database's collections; repeatable
    #[arg(long = "database", value_name = "DB")]
    pub databases: Vec<String>,
}

impl Args {
    fn selection(&self) -> Selection {
        Selection {
            databases: self.databases.iter().cloned().collect(),
            collections: self.collections.iter().cloned().collect(),
        }
    }
}

/// Columns of sizes and kinds: a petabyte in bytes, and the longest kind.
const SIZE_WIDTH: usize = 13;
const KIND_WIDTH: usize = 18;

/// Lists the objects of a snapshot as they are read, in the order of their collections.
///
/// # Errors
///
/// Those of [`Stored::open`] and [`Stored::find`]; [`Cause::NotFound`] for a database or collection that
/// the snapshot does not have; [`Cause::Damage`] when a tree node is missing or damaged, after the
/// objects before it.
pub fn run(args: &Args, context: &Context) -> Result<u8> {
    let config = context.config()?;
    context.run(context.cancel.run(async {
        let stored = Stored::open(context, &config).await?;
        let view = stored.repository.view().await?;
        let snapshot = stored.snapshot(&args.snapshot, &view)?;
        let selected = snapshot.select(&args.selection()).await?;
        let mut entries = snapshot.entries(&selected);
        let mut rows = context.output.rows();
        while let Some(read) = entries.next().await {
            let entry = listed(&read?)?;
            let wanted = args
                .pattern
                .as_deref()
                .is_none_or(|p| matches(p, &entry.path));
            if wanted && rows.push(&entry)? == RowsState::Closed {
                return Ok(0);
            }
        }
        rows.finish()?;
        Ok(0)
    }))
}

/// What a list says of an entry of the `objects` map.
fn listed(entry: &Entry) -> Result<LsEntry> {
    let odd = |why: &str| {
        let key = String::from_utf8_lossy(&entry.key);
        Error::new(
            Cause::Damage,
            format!("object {key} of the snapshot is damaged: {why}"),
        )
    };
    let key = TreeKey::parse(&entry.key)
        .ok_or_else(|| odd("its key is not collection/partition/segment/path"))?;
    let described: ObjectEntry = serde_json::from_slice(&entry.value)
        .map_err(|error| odd("its description does not read").with_source(error))?;
    if entry.content == Content::None {
        return Err(odd("it has no content"));
    }
    let hash = entry.content.hash();
    Ok(LsEntry {
        path: key.path.to_owned(),
        size: entry.content.size(),
        blake3: hash.map(|hash| HexId(hash.to_string())),
        kind: described.kind,
        collection: key.collection,
        partition: key.partition,
        segment: key.segment,
    })
}

impl Row for LsEntry {
    // Lines of fixed widths and not a table: a snapshot may hold a million objects.
    fn line(&self) -> String {
        let hash = self.blake3.as_ref().map_or("owed", |id| id.0.as_str());
        format!(
            "{:>SIZE_WIDTH$}  {hash:64}  {:KIND_WIDTH$}  {}",
            self.size, self.kind, self.path
        )
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
