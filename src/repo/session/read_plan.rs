//! Reading many objects by pack: each range once, in the order of the packs, many at a time.

use std::ops::Range;
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use futures::{StreamExt, TryStreamExt};

use super::view::{View, open_piece};
use crate::base::error::Context;
use crate::base::resources::MemoryPermit;
use crate::repo::format::blob::{BlobKind, PackKind, into_mut};
use crate::repo::format::hash::PieceRef;
use crate::repo::format::ids::BlobId;
use crate::repo::format::pack::pack_key;
use crate::repo::format::wire::{damaged, missing_is_damage};
use crate::repo::repository::Repository;
use crate::{Cause, Error, Result, store};

/// Ranges of a pack that are closer than this are read as one, in bytes: what lies between costs
/// less than another request.
const JOIN_GAP: u64 = 1 << 20;
/// Ranges are joined up to this size, in bytes: what stores serve well in one request; and up to
/// twice as much once it is expanded.
const JOIN_MAX: u64 = 16 << 20;
/// Ranges are joined up to this part of the memory budget.
const PART_OF_MEMORY: u64 = 8;
/// How many ranges are read at once; the byte budget bounds them too.
const READS_AT_ONCE: usize = 16;

/// Where the pieces of a [`ReadPlan`] go.
#[async_trait]
pub trait Sink: Send + Sync {
    /// Takes a verified piece of `item`; `offset` is its place in the object, in bytes. Pieces come
    /// in no particular order, and several calls are in flight.
    async fn piece(&self, item: u64, offset: u64, bytes: Bytes) -> Result<()>;

    /// Learns that a piece of `item` is damaged or missing. An error ends the reading.
    async fn damaged(&self, item: u64, piece: PieceRef, error: Error) -> Result<()> {
        let (_, _) = (item, piece);
        Err(error)
    }
}

/// Which ranges of which packs to read for a set of objects.
#[derive(Debug)]
pub struct ReadPlan {
    view: View,
    /// By pack and position.
    needs: Vec<Need>,
    missing: Vec<(u64, PieceRef)>,
}

#[derive(Debug, Clone, Copy)]
struct Need {
    pack: u32,
    position: u32,
    stored: u32,
    item: u64,
    id: BlobId,
    piece: PieceRef,
}

/// Bytes that give back their share of the memory budget once nobody holds them any more: a sink may
/// keep them for longer than the call.
struct Counted {
    bytes: Bytes,
    #[expect(dead_code, reason = "it is held, not read")]
    share: Arc<MemoryPermit>,
}

impl AsRef<[u8]> for Counted {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

/// One range of one pack, and the needs that it serves.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Batch {
    pack: u32,
    bytes: Range<u64>,
    needs: Range<usize>,
    /// What its pieces are when they are expanded, in bytes.
    plain: u64,
}

impl View {
    /// Plans reading the pieces of `items`: pairs of the caller's number for an object and its
    /// pieces. Costs about 200 bytes of memory a piece.
    ///
    /// # Errors
    ///
    /// What the store fails with, where a local file of the index is damaged.
    pub async fn read_plan<P: AsRef<[PieceRef]>>(
        &self,
        items: impl IntoIterator<Item = (u64, P)>,
    ) -> Result<ReadPlan> {
        let mut wanted: Vec<(u64, PieceRef)> = Vec::new();
        for (item, pieces) in items {
            wanted.extend(pieces.as_ref().iter().map(|piece| (item, *piece)));
        }
        let ids = wanted
            .iter()
            .map(|(_, piece)| self.id(BlobKind::Data, piece));
        let places = self.look_up(ids.collect()).await?;
        let mut needs = Vec::new();
        let mut missing = Vec::new();
        for ((item, piece), places) in wanted.into_iter().zip(places) {
            match places.first() {
                Some(record) => needs.push(Need {
                    pack: record.pack,
                    position: record.entry.position,
                    stored: record.entry.stored,
                    item,
                    id: record.entry.id,
                    piece,
                }),
                None => missing.push((item, piece)),
            }
        }
        needs.sort_unstable_by_key(|need| (need.pack, need.position));
        Ok(ReadPlan {
            view: self.clone(),
            needs,
            missing,
        })
    }
}

impl ReadPlan {
    /// The pieces that the index does not know.
    #[must_use]
    pub fn missing(&self) -> &[(u64, PieceRef)] {
        &self.missing
    }

    /// Reads everything and hands it to `sink`: ranges are fetched concurrently under the byte
    /// budget, opened and verified on the threads that all share.
    ///
    /// # Errors
    ///
    /// What the sink or the store fails with; [`Cause::Damage`] unless the sink takes damage.
    pub async fn execute(&self, sink: &dyn Sink) -> Result<()> {
        for (item, piece) in &self.missing {
            let error = damaged(format!(
                "the blob with chaining value {} is in no index segment",
                piece.cv
            ));
            sink.damaged(*item, *piece, error).await?;
        }
        futures::stream::iter(self.batches())
            .map(|batch| self.read(batch, sink))
            .buffer_unordered(READS_AT_ONCE)
            .try_collect()
            .await
    }

    async fn read(&self, batch: Batch, sink: &dyn Sink) -> Result<()> {
        let repo = self.view.repo();
        let key = pack_key(PackKind::Data, &self.view.index().pack(batch.pack).id)?;
        let length = batch.bytes.end - batch.bytes.start;
        // What was fetched and what it is expanded to are in memory at once.
        let share = repo.resources().reserve(length + batch.plain).await?;
        let needs: Arc<[Need]> = self.needs[batch.needs.clone()].into();
        let fetched = repo
            .get_range(&key, batch.bytes.start, length)
            .await
            .map_err(missing_is_damage);
        let mut opened = match fetched {
            Ok(bytes) => {
                let (repo, needs, start) = (repo.clone(), needs.clone(), batch.bytes.start);
                let resources = repo.resources().clone();
                resources
                    .run(move || Ok(open_all(&repo, &needs, start, bytes)))
                    .await?
            }
            Err(error) if error.cause() == Cause::Damage => {
                let message = error.chain();
                needs
                    .iter()
                    .map(|_| Err(damaged(message.clone())))
                    .collect()
            }
            Err(error) => return Err(error),
        };
        for (need, result) in needs.iter().zip(&mut opened) {
            let damage = |error: &Error| error.cause() == Cause::Damage;
            if result.as_ref().is_err_and(damage)
                && self.view.look_up(vec![need.id]).await?[0].len() > 1
            {
                // Another of its places may be whole; the first error tells more if none is.
                match self.view.piece(&need.piece).await {
                    Err(error) if error.cause() == Cause::Damage => {}
                    read => *result = read,
                }
            }
        }
        deliver(&key, &needs, opened, &Arc::new(share), sink).await
    }

    fn batches(&self) -> impl Iterator<Item = Batch> {
        let memory = self.view.resources().memory();
        let most = JOIN_MAX.min(memory / PART_OF_MEMORY);
        let mut rest = 0..self.needs.len();
        std::iter::from_fn(move || {
            let first = self.needs.get(rest.start).filter(|_| !rest.is_empty())?;
            let mut batch = Batch {
                pack: first.pack,
                bytes: first.bytes(),
                needs: rest.start..rest.start,
                plain: 0,
            };
            for need in &self.needs[rest.clone()] {
                let bytes = need.bytes();
                let first = batch.needs.is_empty() || bytes.end <= batch.bytes.end;
                let near = || {
                    bytes.start < batch.bytes.end.saturating_add(JOIN_GAP)
                        && bytes.end - batch.bytes.start <= most
                        && batch.plain + u64::from(need.piece.length) <= 2 * most
                };
                if need.pack != batch.pack || !(first || near()) {
                    break;
                }
                batch.bytes.end = batch.bytes.end.max(bytes.end);
                batch.plain += u64::from(need.piece.length);
                batch.needs.end += 1;
            }
            rest.start = batch.needs.end;
            Some(batch)
        })
    }
}

impl Need {
    fn bytes(&self) -> Range<u64> {
        let start = u64::from(self.position);
        start..start + u64::from(self.stored)
    }
}

/// Opens each blob of a range, once also where several pieces want it.
fn open_all(repo: &Repository, needs: &[Need], start: u64, bytes: Bytes) -> Vec<Result<Bytes>> {
    let mut rest = into_mut(bytes);
    let mut at = start;
    let mut opened: Vec<Result<Bytes>> = Vec::with_capacity(needs.len());
    let mut last: Option<&Need> = None;
    for need in needs {
        if let (Some(before), Some(result)) = (last, opened.last())
            && before.id == need.id
        {
            let again = match result {
                Ok(bytes) => Ok(bytes.clone()),
                Err(error) => Err(damaged(error.chain())),
            };
            opened.push(again);
            continue;
        }
        let Range { start, end } = need.bytes();
        let Some(skip) = start
            .checked_sub(at)
            .and_then(|skip| usize::try_from(skip).ok())
        else {
            opened.push(Err(damaged(format!(
                "blob {} overlaps another in its pack",
                need.id
            ))));
            continue;
        };
        let _ = rest.split_to(skip);
        let stored = rest.split_to(need.stored as usize);
        opened.push(open_piece(
            repo.sealer(),
            BlobKind::Data,
            &need.id,
            &need.piece,
            stored,
        ));
        at = end;
        last = Some(need);
    }
    opened
}

async fn deliver(
    key: &store::Key,
    needs: &[Need],
    opened: Vec<Result<Bytes>>,
    share: &Arc<MemoryPermit>,
    sink: &dyn Sink,
) -> Result<()> {
    for (need, opened) in needs.iter().zip(opened) {
        match opened.context(|| format!("read {key}")) {
            Ok(bytes) => {
                let share = share.clone();
                let counted = Bytes::from_owner(Counted { bytes, share });
                sink.piece(need.item, need.piece.offset, counted).await?;
            }
            Err(error) => sink.damaged(need.item, need.piece, error).await?,
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::env::Env;
    use crate::base::resources::Resources;
    use crate::repo::format::ids::Cv;
    use crate::repo::{InitOptions, Unlock};
    use crate::store::testing::memory::MemoryStore;

    async fn plan(places: &[(u32, u32, u32)]) -> Vec<(u32, Range<u64>, usize)> {
        let store = Arc::new(MemoryStore::new());
        let options = InitOptions::default();
        let repo = Repository::init(
            store,
            Unlock::None,
            options,
            &Resources::of_tests(),
            &Env::system(),
        )
        .await
        .unwrap();
        let piece = PieceRef {
            cv: Cv([1; 32]),
            offset: 0,
            length: 1,
        };
        let needs = places
            .iter()
            .map(|(pack, position, stored)| Need {
                pack: *pack,
                position: *position,
                stored: *stored,
                item: 0,
                id: BlobId::default(),
                piece,
            })
            .collect();
        let plan = ReadPlan {
            view: repo.view().await.unwrap(),
            needs,
            missing: vec![],
        };
        plan.batches()
            .map(|batch| (batch.pack, batch.bytes.clone(), batch.needs.len()))
            .collect()
    }

    #[tokio::test]
    async fn near_ranges_of_a_pack_are_joined() {
        const MIB: u32 = 1 << 20;
        let batches = plan(&[
            (0, 16, 100),
            (0, 16, 100),
            (0, 200, 100),
            (0, MIB + 200, 100),
            (0, 3 * MIB, 100),
            (1, 3 * MIB, 15 * MIB),
            (1, 18 * MIB, 100),
            (1, 18 * MIB + 100, MIB),
            (2, 16, 20 * MIB),
            (2, 20 * MIB + 16, 20 * MIB),
            (3, 16, 100),
        ])
        .await;
        let mib = u64::from(MIB);
        assert_eq!(
            batches,
            [
                (0, 16..mib + 300, 4),
                (0, 3 * mib..3 * mib + 100, 1),
                (1, 3 * mib..18 * mib + 100, 2),
                (1, 18 * mib + 100..19 * mib + 100, 1),
                (2, 16..20 * mib + 16, 1),
                (2, 20 * mib + 16..40 * mib + 16, 1),
                (3, 16..116, 1),
            ]
        );
        assert_eq!(plan(&[]).await, []);
    }
}
