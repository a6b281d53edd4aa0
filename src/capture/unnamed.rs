//! Finding the delta logs that Milvus has in memory and not in etcd.
//!
//! This is the one place where a listing adds to a snapshot (I1). It cannot add too much: a file below the path
//! of a live segment, or of one that it was compacted from, holds deletes that clients were told of, each with
//! its timestamp.

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

/// Finds the delta logs of live segments of `catalog` that it does not name and that hold a delete from
/// before `cut`; 0 stands for a stopped Milvus, whose deletes are all from before.
pub(super) async fn find(
    store: &SharedStore,
    catalog: &Catalog,
    cut: u64,
) -> Result<Vec<UnnamedDeltaLog>> {
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
        .map(|(path, meta)| read(store, &suspects, path, meta));
    let mut found: Vec<UnnamedDeltaLog> = reads
        .buffered(IN_FLIGHT)
        .try_filter_map(|log| std::future::ready(Ok(log)))
        .try_collect()
        .await?;
    // What is newer than the cut was flushed after the anchor, and is of the next snapshot.
    found.retain(|log| cut == 0 || log.from <= cut);
    Ok(found)
}

async fn read(
    store: &SharedStore,
    suspects: &Suspects,
    path: UnnamedPath,
    meta: Meta,
) -> Result<Option<UnnamedDeltaLog>> {
    let head = GetOptions {
        range: Some(0..HEADER_BYTES),
        ..GetOptions::default()
    };
    let head = match store.get(&meta.key, head).await {
        Ok(head) => head,
        Err(error) if error.cause() == Cause::NotFound => return Ok(None),
        Err(error) => return Err(error),
    };
    let Some((from, to)) = timestamps(&head) else {
        warn!(
            path = meta.key.as_str(),
            "this file is not a delta log, and etcd does not name it; it is left out"
        );
        return Ok(None);
    };
    Ok(Some(UnnamedDeltaLog {
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
