//! Finding the delta logs that Milvus has in memory and not in etcd.
//!
//! This is the one place where a listing adds to a snapshot (I1). It cannot add too much: a file below a live
//! segment's own path holds deletes that clients were told of, each with its timestamp.

use futures::{StreamExt, TryStreamExt, stream};
use tracing::warn;

use crate::milvus::catalog::Catalog;
use crate::milvus::keys::SegmentKey;
use crate::milvus::unnamed::{HEADER_BYTES, Suspects, UnnamedDeltaLog, timestamps};
use crate::store::{GetOptions, ListOptions, Meta, SharedStore};
use crate::{Cause, Result};

/// Heads of files that are read at once.
const IN_FLIGHT: usize = 16;

/// Finds the delta logs below live segments of `catalog` that it does not name and that hold a delete from
/// before `cut`; 0 stands for a stopped Milvus, whose deletes are all from before.
pub(super) async fn find(
    store: &SharedStore,
    catalog: &Catalog,
    cut: u64,
) -> Result<Vec<UnnamedDeltaLog>> {
    let suspects = Suspects::of(catalog);
    let mut candidates = Vec::new();
    for prefix in suspects.prefixes() {
        let mut listing = store.list(&prefix, ListOptions::default());
        while let Some(meta) = listing.try_next().await? {
            if let Some((segment, log)) = suspects.unnamed(meta.key.as_str()) {
                candidates.push((segment, log, meta));
            }
        }
    }
    let reads = stream::iter(candidates)
        .map(|(segment, log, meta)| read(store, &suspects, segment, log, meta));
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
    segment: SegmentKey,
    log: i64,
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
        collection: segment.collection,
        partition: segment.partition,
        segment: segment.segment,
        log,
        entries: suspects.entries(log),
        from,
        to,
        size: meta.size,
    }))
}
