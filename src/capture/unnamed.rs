//! Finding the delta logs that Milvus has in memory and not in etcd.
//!
//! This is the one place where a listing adds to a snapshot (I1). A file below the path of a live segment, or of
//! one that it was compacted from, holds deletes that clients were told of, each with its timestamp. What it
//! could add too much, where an older etcd was put back under the bucket, is in docs/consistency.md.

use std::collections::BTreeMap;

use futures::{StreamExt, TryStreamExt, stream};
use tracing::warn;

use crate::milvus::catalog::Catalog;
use crate::milvus::keys::SegmentKey;
use crate::milvus::unnamed::{HEADER_BYTES, Suspects, UnnamedDeltaLog, UnnamedPath, timestamps};
use crate::store::{GetOptions, ListOptions, Meta, SharedStore};
use crate::{Cause, Result};

/// Heads of files that are read at once.
const IN_FLIGHT: usize = 16;

/// What was found.
#[derive(Debug, Default)]
pub(super) struct Found {
    /// Delta logs that belong to the snapshot.
    pub(super) logs: Vec<UnnamedDeltaLog>,
    /// Paths of files at the place of such that are none.
    pub(super) unreadable: Vec<String>,
}

enum Read {
    Log(UnnamedDeltaLog),
    Unreadable(String),
    Nothing,
}

/// Finds the delta logs of live segments of `catalog` that it does not name and that hold a delete from
/// before `cut`; 0 stands for a stopped Milvus, whose deletes are all from before.
pub(super) async fn find(store: &SharedStore, catalog: &Catalog, cut: u64) -> Result<Found> {
    let suspects = Suspects::of(catalog);
    let mut candidates: BTreeMap<(SegmentKey, i64), (UnnamedPath, Meta)> = BTreeMap::new();
    for prefix in suspects.prefixes() {
        let mut listing = store.list(&prefix, ListOptions::default());
        while let Some(meta) = listing.try_next().await? {
            if let Some(path) = suspects.unnamed(meta.key.as_str()) {
                // A compaction copies a log of its input under the log's id.
                let known = candidates.entry((path.segment, path.log));
                let known = known.or_insert_with(|| (path, meta.clone()));
                if path < known.0 {
                    *known = (path, meta);
                }
            }
        }
    }
    let reads = stream::iter(candidates.into_values())
        .map(|(path, meta)| read(store, &suspects, path, meta))
        .buffered(IN_FLIGHT);
    let mut reads = std::pin::pin!(reads);
    let mut found = Found::default();
    while let Some(read) = reads.try_next().await? {
        match read {
            // What is newer than the cut was flushed after the anchor, and is of the next snapshot.
            Read::Log(log) if cut == 0 || log.from <= cut => found.logs.push(log),
            Read::Unreadable(path) => found.unreadable.push(path),
            Read::Log(_) | Read::Nothing => {}
        }
    }
    Ok(found)
}

async fn read(
    store: &SharedStore,
    suspects: &Suspects,
    path: UnnamedPath,
    meta: Meta,
) -> Result<Read> {
    if meta.size == 0 {
        return Ok(Read::Nothing);
    }
    let head = GetOptions {
        range: Some(0..HEADER_BYTES),
        ..GetOptions::default()
    };
    let head = match store.get(&meta.key, head).await {
        Ok(head) => head,
        Err(error) if error.cause() == Cause::NotFound => return Ok(Read::Nothing),
        Err(error) => return Err(error),
    };
    let Some((from, to)) = timestamps(&head) else {
        warn!(
            path = meta.key.as_str(),
            "this file is not a delta log, and etcd does not name it; it is left out"
        );
        return Ok(Read::Unreadable(meta.key.to_string()));
    };
    if to < path.since {
        return Ok(Read::Nothing);
    }
    Ok(Read::Log(UnnamedDeltaLog {
        collection: path.segment.collection,
        partition: path.segment.partition,
        segment: path.segment.segment,
        log: path.log,
        entries: suspects.entries(path.log),
        from,
        to,
        size: meta.size,
        written_below: path.written_below,
    }))
}

#[cfg(test)]
#[path = "unnamed_tests.rs"]
mod tests;
