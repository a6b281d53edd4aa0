//! Reading the bytes of a snapshot's objects, and proving that they are the captured ones.

use std::num::NonZeroUsize;

use bytes::Bytes;
use futures::TryStreamExt;

use super::items::Item;
use super::reader::Snapshot;
use crate::base::resources::Resources;
use crate::store::{MIN_PART_SIZE, PARTS_AT_ONCE};
use crate::{Cause, Error, Result};

/// Objects being streamed at once.
pub(crate) const LARGE_AT_ONCE: usize = 2;

/// Pieces of an object that are read ahead at most: enough to keep a store and a few processors busy.
const AHEAD: u64 = 4;

/// Hashing more than this takes long enough to leave the I/O threads alone, in bytes.
const HASH_INLINE: usize = 128 << 10;

/// How an object of several pieces is streamed within its part of the memory budget.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Flow {
    /// Pieces that are read at once.
    pub(crate) ahead: NonZeroUsize,
    /// Parts that are written at once.
    pub(crate) parts: NonZeroUsize,
    /// What is in memory for it at most, in bytes.
    pub(crate) bytes: u64,
}

impl Flow {
    pub(crate) fn of(item: &Item, memory: u64) -> Self {
        let lengths = item.pieces().iter().map(|piece| u64::from(piece.length));
        let piece = lengths.max().unwrap_or(0).max(MIN_PART_SIZE as u64);
        let fit = memory / LARGE_AT_ONCE as u64 / piece;
        // One piece is held back until it is known whether it is the last; one that is read is there
        // twice, as it is stored and as it is expanded.
        let ahead = (fit.saturating_sub(1) / 3).clamp(1, AHEAD);
        let rest = fit.saturating_sub(1 + 2 * ahead);
        let parts = rest.clamp(1, PARTS_AT_ONCE as u64);
        let whole = |n: u64| usize::try_from(n).ok().and_then(NonZeroUsize::new);
        Self {
            ahead: whole(ahead).unwrap_or(NonZeroUsize::MIN),
            parts: whole(parts).unwrap_or(NonZeroUsize::MIN),
            bytes: (1 + 2 * ahead + parts) * piece,
        }
    }
}

impl Snapshot {
    /// Reads an object and compares its hash; nothing is written.
    ///
    /// # Errors
    ///
    /// [`Cause::Damage`] that names the object when its bytes are not the captured ones.
    pub(crate) async fn prove(&self, item: &Item) -> Result<()> {
        let resources = self.view().resources();
        let mut hasher = blake3::Hasher::new();
        let flow = Flow::of(item, resources.memory());
        let _share = resources.reserve(flow.bytes).await?;
        let mut pieces = self.read(item, flow.ahead)?;
        let damaged = |error: Error| error.context(format!("object {} of the snapshot", item.key));
        while let Some(bytes) = pieces.try_next().await.map_err(damaged)? {
            hasher = updated(resources, hasher, bytes).await?;
        }
        proved(item, &hasher.finalize())
    }
}

/// Fails unless the bytes that were read are the captured ones (I8).
pub(crate) fn proved(item: &Item, hash: &blake3::Hash) -> Result<()> {
    if *hash.as_bytes() == item.hash.0 {
        return Ok(());
    }
    Err(Error::new(
        Cause::Damage,
        format!(
            "object {} of the snapshot is damaged: its BLAKE3 is {hash} and should be {}",
            item.key, item.hash
        ),
    ))
}

/// The hasher after `bytes`.
pub(crate) async fn updated(
    resources: &Resources,
    mut hasher: blake3::Hasher,
    bytes: Bytes,
) -> Result<blake3::Hasher> {
    if bytes.len() <= HASH_INLINE {
        hasher.update(&bytes);
        return Ok(hasher);
    }
    let work = move || {
        hasher.update(&bytes);
        Ok(hasher)
    };
    resources.run(work).await
}
