//! Putting objects back: read by pack, hashed as they are handed to write, never twice.
//!
//! An object becomes visible only when it is whole, so after a crash what is there is whole, unless
//! the power failed; what is found in place is therefore read and hashed, and kept only when it is
//! the snapshot's.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use bytes::Bytes;
use futures::{StreamExt, TryStreamExt, stream};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tracing::warn;

use crate::base::cancel::{Cancel, Turn};
use crate::base::env::lock;
use crate::base::error::Context;
use crate::base::progress::{Amount, SharedProgress};
use crate::base::resources::Resources;
use crate::instance::objects::Listed;
use crate::repo::{ObjectHash, Sink};
use crate::snapshot::Snapshot;
use crate::snapshot::items::Item;
use crate::snapshot::reading::{Flow, LARGE_AT_ONCE, proved, updated};
use crate::store::{Durability, GetOptions, PutOptions, SharedStore, Store};
use crate::{Cause, Error, Result, Side};

/// Objects that are planned at once: a plan costs about 120 bytes a piece.
const WINDOW: usize = 65_536;

/// Objects up to this size are written in the background, many at a time, in bytes.
const SMALL: u64 = 1 << 20;

/// Small objects being written at once; a store answers each in milliseconds.
const SMALL_AT_ONCE: usize = 64;

/// Objects being read back at once.
const READS_AT_ONCE: usize = 8;

/// How much of an object is read back in one call, in bytes.
const READ: u64 = 8 << 20;

/// What to do with an object in place whose bytes are not the snapshot's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Other {
    /// Write over it.
    Overwrite,
    /// Leave it, and report it: the instance that it belongs to is to stay whole for now.
    Defer,
}

/// What was placed.
#[derive(Debug, Default)]
pub(crate) struct Placed {
    /// Objects that were written.
    pub(crate) written: Amount,
    /// Objects that were in place with the snapshot's bytes.
    pub(crate) kept: Amount,
    /// Objects in whose place others are.
    pub(crate) deferred: Vec<Item>,
}

/// Places objects in a store.
#[derive(Debug)]
pub(crate) struct Placing<'a> {
    pub(crate) snapshot: &'a Snapshot,
    pub(crate) store: &'a SharedStore,
    /// What is in place.
    pub(crate) in_place: Listed,
    pub(crate) other: Other,
    pub(crate) progress: &'a SharedProgress,
    pub(crate) cancel: &'a Cancel,
}

impl Placing<'_> {
    /// Places all `items`. Nothing is durable until the store is synced.
    ///
    /// # Errors
    ///
    /// [`Cause::Damage`] when bytes of the snapshot do not prove; what the store fails with. Some
    /// objects are in place then, each of them whole.
    pub(crate) async fn place(
        &self,
        items: impl futures::Stream<Item = Result<Item>> + Send + Unpin,
    ) -> Result<Placed> {
        let mut placed = Placed::default();
        let mut windows = items.try_chunks(WINDOW);
        while let Some(window) = windows.try_next().await.map_err(|error| error.1)? {
            let needed = self.sort_out(window, &mut placed).await?;
            let (large, small): (Vec<_>, Vec<_>) = needed.into_iter().partition(Item::is_streamed);
            for item in small.iter().chain(&large) {
                placed.written += Amount::object(item.size);
            }
            self.write_small(small).await?;
            // One that fails keeps others from beginning, and those that have begun from being dropped
            // before they have aborted their uploads.
            let failed = AtomicBool::new(false);
            let written = stream::iter(large)
                .map(|item| {
                    let failed = &failed;
                    async move {
                        if failed.load(Ordering::Relaxed) {
                            return Ok(());
                        }
                        let written = self.write_large(&item).await;
                        failed.fetch_or(written.is_err(), Ordering::Relaxed);
                        written
                    }
                })
                .buffer_unordered(LARGE_AT_ONCE);
            let written: Vec<Result<()>> = written.collect().await;
            written.into_iter().collect::<Result<()>>()?;
        }
        Ok(placed)
    }

    /// Those of `window` that have to be written.
    async fn sort_out(&self, window: Vec<Item>, placed: &mut Placed) -> Result<Vec<Item>> {
        let mut found = stream::iter(window)
            .map(|item| async move {
                let state = self.cancel.run(self.look(&item)).await?;
                Ok::<_, Error>((item, state))
            })
            .buffered(READS_AT_ONCE);
        let mut needed = Vec::new();
        while let Some((item, state)) = found.try_next().await? {
            match state {
                State::Absent => needed.push(item),
                State::Same => {
                    placed.kept += Amount::object(item.size);
                    self.progress.advance(Amount::object(item.size));
                }
                State::Different if self.other == Other::Overwrite => needed.push(item),
                State::Different => placed.deferred.push(item),
            }
        }
        Ok(needed)
    }

    async fn look(&self, item: &Item) -> Result<State> {
        match self.in_place.get(item.key.as_str()) {
            None => Ok(State::Absent),
            Some(found) if found.size != item.size => Ok(State::Different),
            Some(_) => match hash(self.snapshot.view().resources(), &**self.store, item).await {
                Ok(hash) if hash == item.hash => Ok(State::Same),
                Ok(_) => Ok(State::Different),
                Err(error) if error.cause() == Cause::NotFound => Ok(State::Absent),
                Err(error) => Err(error),
            },
        }
    }

    /// Writes objects of one piece or none, by pack.
    async fn write_small(&self, items: Vec<Item>) -> Result<()> {
        let sink = PieceSink {
            resources: self.snapshot.view().resources().clone(),
            store: self.store.clone(),
            items,
            permits: Arc::new(Semaphore::new(SMALL_AT_ONCE)),
            writes: Mutex::default(),
            progress: self.progress.clone(),
            cancel: self.cancel.clone(),
        };
        for item in sink.items.iter().filter(|item| item.pieces().is_empty()) {
            self.cancel.check()?;
            write(&**self.store, item, Bytes::new(), self.progress).await?;
        }
        let pieces = (0..).zip(sink.items.iter().map(Item::pieces));
        let plan = self.snapshot.view().read_plan(pieces).await?;
        self.cancel.run(plan.execute(&sink)).await?;
        self.cancel.run(sink.finish()).await
    }

    /// Streams an object of several pieces.
    async fn write_large(&self, item: &Item) -> Result<()> {
        let resources = self.snapshot.view().resources();
        let flow = Flow::of(item, resources.memory());
        let _share = self.cancel.run(resources.reserve(flow.bytes)).await?;
        let mut pieces = self.snapshot.read(item, flow.ahead)?;
        let begun = self.store.upload(&item.key, options());
        let mut upload = self.cancel.run(begun).await?;
        upload.limit_parts(flow.parts);
        let mut hasher = blake3::Hasher::new();
        let copied = self.cancel.run(async {
            while let Some(bytes) = pieces.try_next().await? {
                hasher = updated(resources, hasher.clone(), bytes.clone()).await?;
                upload.write(bytes).await?;
            }
            proved(item, &hasher.finalize())
        });
        if let Err(error) = copied.await.context(|| writing(item, &**self.store)) {
            let aborted = self.cancel.in_order(Turn::Last, upload.abort()).await;
            if let Some(Err(left)) = aborted {
                warn!("parts of {} may be left behind: {}", item.key, left.chain());
            }
            return Err(error);
        }
        let finished = self.cancel.run(upload.finish()).await;
        finished.context(|| writing(item, &**self.store))?;
        self.progress.advance(Amount::object(item.size));
        Ok(())
    }
}

/// What is in an object's place.
enum State {
    Absent,
    Same,
    Different,
}

/// Takes the pieces of objects that have one.
struct PieceSink {
    resources: Resources,
    store: SharedStore,
    items: Vec<Item>,
    permits: Arc<Semaphore>,
    writes: Mutex<JoinSet<Result<()>>>,
    progress: SharedProgress,
    cancel: Cancel,
}

impl PieceSink {
    async fn finish(self) -> Result<()> {
        let mut writes = std::mem::take(&mut *lock(&self.writes));
        while let Some(done) = writes.join_next().await {
            ended(done)?;
        }
        Ok(())
    }

    /// Hears of writes that have ended.
    fn reap(&self) -> Result<()> {
        let mut writes = lock(&self.writes);
        while let Some(done) = writes.try_join_next() {
            ended(done)?;
        }
        Ok(())
    }
}

fn ended(done: std::result::Result<Result<()>, tokio::task::JoinError>) -> Result<()> {
    done.unwrap_or_else(|error| {
        Err(Error::new(Cause::Failed, "writing an object stopped").with_source(error))
    })
}

#[async_trait]
impl Sink for PieceSink {
    async fn piece(&self, item: u64, _offset: u64, bytes: Bytes) -> Result<()> {
        self.cancel.check()?;
        let item = usize::try_from(item)
            .ok()
            .and_then(|at| self.items.get(at))
            .ok_or_else(|| Error::new(Cause::Failed, "a piece of an unknown object was read"))?;
        let hasher = updated(&self.resources, blake3::Hasher::new(), bytes.clone()).await?;
        proved(item, &hasher.finalize())?;
        if item.size > SMALL {
            return write(&*self.store, item, bytes, &self.progress).await;
        }
        self.reap()?;
        let permit = self
            .permits
            .clone()
            .acquire_owned()
            .await
            .map_err(|error| {
                Error::new(Cause::Failed, "the restore has ended already").with_source(error)
            })?;
        let (store, item, progress) = (self.store.clone(), item.clone(), self.progress.clone());
        lock(&self.writes).spawn(async move {
            let written = write(&*store, &item, bytes, &progress).await;
            drop(permit);
            written
        });
        Ok(())
    }

    async fn damaged(&self, item: u64, _: crate::repo::PieceRef, error: Error) -> Result<()> {
        let at = usize::try_from(item).unwrap_or(usize::MAX);
        let name = self.items.get(at).map_or("", |item| item.key.as_str());
        Err(error.context(format!("object {name} of the snapshot is damaged")))
    }
}

fn options() -> PutOptions {
    PutOptions {
        durability: Durability::Deferred,
        ..PutOptions::default()
    }
}

fn writing(item: &Item, store: &dyn Store) -> String {
    format!("write {} to {}", item.key, store.location())
}

async fn write(
    store: &dyn Store,
    item: &Item,
    bytes: Bytes,
    progress: &SharedProgress,
) -> Result<()> {
    store
        .put(&item.key, bytes, options())
        .await
        .context(|| writing(item, store))?;
    progress.advance(Amount::object(item.size));
    Ok(())
}

/// The hash of an object as the store has it.
async fn hash(resources: &Resources, store: &dyn Store, item: &Item) -> Result<ObjectHash> {
    let mut hasher = blake3::Hasher::new();
    let mut offset = 0;
    let _share = resources.reserve(item.size.min(READ)).await?;
    while offset < item.size {
        let options = GetOptions {
            range: Some(offset..(offset + READ).min(item.size)),
            version: None,
        };
        let bytes = store
            .get(&item.key, options)
            .await
            .context(|| format!("read {} back from {}", item.key, store.location()))?;
        if bytes.is_empty() {
            break;
        }
        offset += bytes.len() as u64;
        hasher = updated(resources, hasher, bytes).await?;
    }
    Ok(ObjectHash(hasher.finalize().into()))
}

/// Reads every object back and compares its hash.
///
/// # Errors
///
/// [`Cause::Failed`] that names the first object that is not what was written.
pub(crate) async fn read_back(
    resources: &Resources,
    store: &dyn Store,
    items: impl futures::Stream<Item = Result<Item>> + Send,
    progress: &SharedProgress,
    cancel: &Cancel,
) -> Result<()> {
    items
        .map(|item| async {
            let item = item?;
            if cancel.run(hash(resources, store, &item)).await? != item.hash {
                return Err(Side::Target.error(Cause::Failed, format!("{} of {} is not what was written to it",
                        item.key,
                        store.location()
                    ),
                )
                .with_hint(
                    "is the disk or the network of the target damaged? run the same command again",
                ));
            }
            progress.advance(Amount::object(item.size));
            Ok(())
        })
        .buffer_unordered(READS_AT_ONCE)
        .try_collect()
        .await
}

#[cfg(test)]
#[path = "objects_tests.rs"]
mod tests;
