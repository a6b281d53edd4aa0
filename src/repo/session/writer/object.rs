//! Storing objects: one pass over the bytes, several pieces at once.

use async_trait::async_trait;
use bytes::Bytes;
use futures::{StreamExt, TryStreamExt};

use super::Writer;
use super::packer::Class;
use crate::repo::format::blob::BlobKind;
use crate::repo::format::hash::{PIECE_MAX, PieceRef, merge};
use crate::repo::format::ids::ObjectHash;
use crate::{Cause, Error, Result, Side};

/// How many pieces of one object are read and worked on at once: enough to keep both the source
/// and a few processors busy with a single large object.
const PIECES_AT_ONCE: usize = 4;

/// The bytes of an object to store.
#[async_trait]
pub trait ObjectSource: Send + Sync {
    /// What the object is called in errors.
    fn name(&self) -> String;

    /// Its size, in bytes.
    fn size(&self) -> u64;

    /// The `len` bytes at `offset`; fewer where the object has become shorter. Bytes that nobody
    /// else holds are encrypted without a copy.
    async fn piece(&self, offset: u64, len: usize) -> Result<Bytes>;
}

/// What storing an object gave.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredObject {
    /// The plain BLAKE3 hash of the bytes.
    pub hash: ObjectHash,
    /// Its size, in bytes.
    pub size: u64,
    /// Its pieces, in order; none for an empty object.
    pub pieces: Vec<PieceRef>,
    /// Stored bytes that it added to the repository; 0 when everything was there.
    pub new_bytes: u64,
}

impl Writer {
    /// Stores an object: reads it once, hashes, and stores what the repository does not have.
    ///
    /// The object is in the repository for good only after [`flush`](Writer::flush) or
    /// [`commit`](Writer::commit); an error of the store may surface there.
    ///
    /// # Errors
    ///
    /// [`Cause::Failed`] of the source that names the object when it becomes shorter meanwhile; what the source or
    /// the store fails with.
    pub async fn store_object<S: ObjectSource + ?Sized>(&self, source: &S) -> Result<StoredObject> {
        let size = source.size();
        let cuts = self.view().repo().cuts();
        let class = if size >= u64::from(cuts.cut) {
            Class::Large
        } else {
            Class::Small
        };
        let done: Vec<_> = futures::stream::iter(cuts.pieces(size))
            .map(|(offset, length)| async move {
                let share = self
                    .view()
                    .repo()
                    .resources()
                    .reserve(u64::from(length))
                    .await?;
                let bytes = source.piece(offset, length as usize).await?;
                if bytes.len() != length as usize {
                    return Err(changed(&source.name(), size, offset + bytes.len() as u64));
                }
                let kind = BlobKind::Data;
                let stored = self.store_blob(class, kind, bytes, offset, Some(share));
                let stored = stored.await?;
                Ok((
                    PieceRef {
                        cv: stored.cv,
                        offset,
                        length,
                    },
                    stored,
                ))
            })
            .buffered(PIECES_AT_ONCE)
            .try_collect()
            .await?;
        let new_bytes = done.iter().map(|(_, stored)| stored.new_bytes).sum();
        let pieces: Vec<PieceRef> = done.iter().map(|(piece, _)| *piece).collect();
        let hash = match &done[..] {
            [] => ObjectHash(blake3::hash(b"").into()),
            [(_, stored)] => stored.whole.ok_or_else(|| self.session.failure())?,
            _ => merge(&pieces, size)?,
        };
        Ok(StoredObject {
            hash,
            size,
            pieces,
            new_bytes,
        })
    }
}

impl Writer {
    /// Stores a piece of a volume, which is hashed as an object of its own. It must not be empty, and have
    /// at most 64 MiB.
    ///
    /// # Errors
    ///
    /// [`Cause::Failed`] for another length; what the store fails with.
    pub async fn store_piece(&self, bytes: Bytes) -> Result<PieceRef> {
        let length = u32::try_from(bytes.len()).unwrap_or(u32::MAX);
        if !(1..=PIECE_MAX).contains(&length) {
            let message = format!("a piece of {} bytes is not possible", bytes.len());
            return Err(Side::Repository.error(Cause::Failed, message));
        }
        let share = self.view().repo().resources().reserve(u64::from(length));
        let share = Some(share.await?);
        let (class, kind) = (Class::Large, BlobKind::Data);
        let stored = self.store_blob(class, kind, bytes, 0, share).await?;
        Ok(PieceRef {
            cv: stored.cv,
            offset: 0,
            length,
        })
    }
}

fn changed(name: &str, size: u64, found: u64) -> Error {
    let message =
        format!("{name} changed while it was read: it had {size} bytes and ended after {found}");
    Side::Source.error(Cause::Failed, message)
}
