//! The restore itself, step by step, each of which can be repeated.
//!
//! ```text
//! mark ─→ objects ─→ durable ─→ [prove the rest, save the old keys] ─→ swap begins ─→ [old queue
//! aside, old keys removed, objects with the paths of old ones] ─→ queue ─→ keys, collections last
//! ─→ compare ─→ [old objects of the saved list and old queue removed] ─→ mark removed
//! ```
//!
//! Until the swap begins what was there before is whole, and when it begins every byte of the
//! snapshot has been read and proved. From then on the same command has to be run
//! again until it ends; the old keys are in the repository, and old objects are removed last: those
//! that were there before the swap and are still the same.

use std::sync::Arc;

use futures::{StreamExt, stream};
use tracing::info;

use super::keyspace::Keyspace;
use super::objects::{Other, Placed, Placing, read_back};
use super::prove;
use super::replace::{self, Old, Removing};
use super::write::{Beginning, Writer};
use crate::base::cancel::Cancel;
use crate::base::env::Env;
use crate::base::error::Context as _;
use crate::base::progress::{Amount, SharedProgress};
use crate::instance::embedded::Embedded;
use crate::instance::liveness;
use crate::instance::objects::{Layer, Listed};
use crate::milvus::keys::Roots;
use crate::repo::Repository;
use crate::restore::act::wal::WalDirectories;
use crate::restore::options::{Occupied, Options, ReadBack};
use crate::restore::plan::marker::{Pinned, Stage};
use crate::restore::plan::target_keys::TargetKeys;
use crate::restore::scope::Scope;
use crate::snapshot::items::Item;
use crate::snapshot::{Snapshot, WalState};
use crate::store::SharedStore;
use crate::{Cause, Error, Result, Side, config};

/// The way out of damage that shows before it harms.
const MEND: &str = "eyrie verify --level bytes names the damaged files: bring them back and go on, or restore another \
     snapshot with --replace";

/// Everything that a restore works with.
#[derive(Debug)]
pub(crate) struct Steps<'a> {
    pub(crate) snapshot: &'a Snapshot,
    pub(crate) repository: &'a Repository,
    pub(crate) options: &'a Options,
    pub(crate) beginning: Beginning<'a>,
    pub(crate) target: &'a TargetKeys,
    pub(crate) scope: &'a Scope,
    pub(crate) roots: &'a Roots,
    pub(crate) storage: &'a Storage,
    pub(crate) queue: &'a WalDirectories,
    /// What is to be saved before it is replaced.
    pub(crate) old: Option<&'a Old>,
    /// What the target said of itself before the swap.
    pub(crate) pinned: Pinned,
    /// The target, whose signs of life are looked for before anything is moved.
    pub(crate) instance: Option<&'a config::Instance>,
    /// Where an earlier run has saved it.
    pub(crate) saved: Option<String>,
    /// The command that goes on, for people.
    pub(crate) command: &'a str,
    pub(crate) env: &'a Env,
    pub(crate) progress: &'a SharedProgress,
    pub(crate) cancel: &'a Cancel,
}

/// Where the objects go.
#[derive(Debug, Clone)]
pub(crate) struct Storage {
    pub(crate) layer: Arc<dyn Layer>,
    /// The layer's store, ready to be written.
    pub(crate) store: SharedStore,
    /// Prefixes below the root that are not the object layer's.
    pub(crate) outside: Vec<String>,
}

/// What a restore did.
#[derive(Debug, Default)]
pub(crate) struct Done {
    pub(crate) written: Amount,
    pub(crate) kept: Amount,
    pub(crate) queue: Amount,
    pub(crate) removed: u64,
    /// Old objects that are not what they were when the swap began, and stay.
    pub(crate) changed: u64,
    /// What was replaced and could not be removed, and why: the rest is done.
    pub(crate) left: Option<Error>,
}

impl Steps<'_> {
    /// Does it. After an error the same call goes on where it stopped.
    ///
    /// # Errors
    ///
    /// [`Cause::Damage`] when the repository's bytes do not prove, before etcd is written and before
    /// anything old is gone; [`Side::Target`](crate::Side::Target) when a Milvus starts meanwhile.
    pub(crate) async fn run(
        &self,
        keys: &mut dyn Keyspace,
        home: Option<&mut Embedded>,
    ) -> Result<Done> {
        let begun = Writer::begin(keys, self.roots, self.scope, self.beginning, self.env);
        let mut writer = self.cancel.run(begun).await?;
        let mut done = Done::default();
        // Once the swap has begun it is the stage of an earlier run that counts, when that came further.
        let reached = |stage: Stage| stage.max(self.beginning.stage);
        let told = |stage| move |error| self.told(error, reached(stage));
        let deferred = self.place(&mut done).await.map_err(told(Stage::Objects))?;
        let saved = self
            .begin_swap(&mut writer, home.as_deref())
            .await
            .map_err(told(Stage::Objects))?;
        let settled =
            self.beginning.stage == Stage::Clean && writer.is_complete(self.target).await?;
        if settled {
            self.files(&mut done).await.map_err(told(Stage::Clean))?;
        } else {
            // Whatever stage an earlier run came to, from here on the keys are not complete.
            let told = |error| self.told(error, Stage::Swap);
            writer.stage(Stage::Swap).await.map_err(told)?;
            self.swap(&mut writer, home.as_deref(), deferred, &mut done)
                .await
                .map_err(told)?;
            writer.stage(Stage::Clean).await.map_err(told)?;
        }
        self.end(writer, home, saved.as_deref(), &mut done)
            .await
            .map_err(|error| self.told(error, Stage::Clean))?;
        Ok(done)
    }

    /// Proves that nothing has written to the target since it was looked at. Saves what is there and notes
    /// that the swap begins, unless it had begun. Gives where the old keys are saved.
    async fn begin_swap(
        &self,
        writer: &mut Writer<'_>,
        home: Option<&Embedded>,
    ) -> Result<Option<String>> {
        self.check_nobody_runs().await?;
        if self.beginning.stage > Stage::Objects {
            if self.beginning.stage == Stage::Clean
                && let Some(home) = home
            {
                home.alone()?;
            }
            writer.check_unchanged(self.beginning.seen).await?;
            return Ok(self.saved.clone());
        }
        let saved = self.save(writer).await?;
        self.cancel.check()?;
        if let Some(home) = home
            && self.options.occupied == Occupied::Replace
        {
            home.check_unchanged()?;
            home.note_what_is_moved()?;
        }
        writer.begin_swap(self.beginning.seen, &self.pinned).await?;
        Ok(saved)
    }

    /// Fails when something of Milvus answers or holds a file.
    async fn check_nobody_runs(&self) -> Result<()> {
        let Some(instance) = self.instance else {
            return Ok(());
        };
        liveness::refuse(&liveness::signs_of_life(instance).await.on(Side::Target)?)
    }

    /// Removes what was replaced, and the mark; puts an embedded etcd in place.
    async fn end(
        &self,
        mut writer: Writer<'_>,
        home: Option<&mut Embedded>,
        saved: Option<&str>,
        done: &mut Done,
    ) -> Result<()> {
        let removable = self
            .clean(&mut writer, home.as_deref(), saved, done)
            .await?;
        if done.left.is_none() || !removable {
            writer.finish().await?;
        } else {
            writer.leave().await?;
        }
        if let Some(home) = home {
            home.alone()?;
            home.settle().await?;
        }
        Ok(())
    }

    /// Places what can be placed beside the old instance, and proves the rest: every byte of the
    /// snapshot has been read when this ends, and nothing old is gone. Gives the objects that are
    /// still to be placed.
    async fn place(&self, done: &mut Done) -> Result<Vec<Item>> {
        let deferred = self.objects(done).await?.deferred;
        if self.replaces() {
            self.prove_rest(&deferred).await?;
        }
        Ok(deferred)
    }

    /// Reads what is written only after the swap has begun: objects in whose place the old instance
    /// has others, and the captured queue.
    async fn prove_rest(&self, deferred: &[Item]) -> Result<()> {
        let captured = self.snapshot.body.wal.state == WalState::Captured;
        let mut total = Amount::default();
        for item in deferred {
            total += Amount::object(item.size);
        }
        if captured {
            total += self.snapshot.wal_amount().await?;
        }
        self.progress.begin("prove", Some(total));
        let objects = stream::iter(deferred.iter().cloned().map(Ok)).boxed();
        prove::bytes(self.snapshot, objects, self.progress, self.cancel).await?;
        if captured {
            let files = self.snapshot.wal_files();
            prove::bytes(self.snapshot, files, self.progress, self.cancel).await?;
        }
        self.progress.end();
        Ok(())
    }

    async fn save(&self, writer: &mut Writer<'_>) -> Result<Option<String>> {
        let Some(old) = self.old else {
            return Ok(None);
        };
        let (store, outside) = (&*self.storage.store, &self.storage.outside);
        let objects = replace::old_objects(self.snapshot, self.scope, store, outside);
        let objects = self.cancel.run(objects).await?;
        let by = self.snapshot.manifest.snapshot.to_string();
        let saving = replace::save(self.repository, old, objects, &by, self.env);
        let saved = self.cancel.run(saving).await?;
        if let Some(saved) = &saved {
            writer.saved(saved).await?;
        }
        Ok(saved)
    }

    /// Puts the snapshot in the place of what was there.
    async fn swap(
        &self,
        writer: &mut Writer<'_>,
        home: Option<&Embedded>,
        deferred: Vec<Item>,
        done: &mut Done,
    ) -> Result<()> {
        if self.options.occupied == Occupied::Replace {
            if let Some(home) = home {
                home.begin_swap()?;
            }
            self.queue.put_aside()?;
        }
        writer.clear(self.target, self.options.occupied).await?;
        // A late copy of a removal finds another stage, and does nothing to the new keys.
        writer.stage(Stage::Keys).await?;
        self.deferred(deferred, done).await?;
        self.files(done).await?;
        self.keys(writer).await
    }

    /// The files of the queue, and every object read again where that was asked for.
    async fn files(&self, done: &mut Done) -> Result<()> {
        if self.snapshot.body.wal.state == WalState::Captured {
            done.queue = self
                .queue
                .bring_back(self.snapshot, self.env, self.progress, self.cancel)
                .await?;
        }
        self.read_back().await
    }

    /// Whether something is replaced that is whole yet.
    fn replaces(&self) -> bool {
        self.options.occupied == Occupied::Replace && self.beginning.stage == Stage::Objects
    }

    /// Adds to an error what is done, what is missing, and how it goes on.
    fn told(&self, error: Error, stage: Stage) -> Error {
        let done = match (self.options.occupied, stage) {
            (_, Stage::Objects) if self.beginning.marker.over_swap => {
                "the target still has what a restore left that had begun its swap and was given up: no Milvus may be started \
                 on it"
            }
            (Occupied::Refuse, Stage::Objects) => {
                "no key was written: the target is marked and has a part of the objects, which no Milvus sees"
            }
            (Occupied::Replace, Stage::Objects) => {
                "nothing was replaced: the old keys, objects and queue are as they were, and Milvus can be started on \
                 them again; a part of the snapshot's objects lies beside them"
            }
            (Occupied::Refuse, Stage::Swap | Stage::Keys) => {
                "the objects are in place and the keys are not all written: no Milvus may be started on the target"
            }
            (Occupied::Replace, Stage::Swap | Stage::Keys) => {
                "the swap has begun: the old keys are saved (the newest snapshot of NAME.replaced) and gone from etcd, the \
                 new ones are not all written, and no Milvus may be started on the target"
            }
            (_, Stage::Clean) => {
                "keys, objects and queue are written and compared: what is missing is to remove what was there before and the \
                 mark, and to put an etcd inside Milvus in place"
            }
        };
        let out = match (error.cause(), error.hint()) {
            (Cause::Damage, _) => format!("; {MEND}"),
            (_, Some(hint)) => format!("; {hint}"),
            (_, None) => String::new(),
        };
        let command = self.command;
        error.with_hint(format!("{done}{out}; to go on: {command}"))
    }

    async fn objects(&self, done: &mut Done) -> Result<Placed> {
        let total = self.snapshot.amount(&self.scope.selected).await?;
        self.progress.begin("objects", Some(total));
        let other = if self.replaces() {
            Other::Defer
        } else {
            Other::Overwrite
        };
        let placing = self.placing(other).await?;
        let placed = placing
            .place(self.snapshot.items(&self.scope.selected))
            .await?;
        self.settle_files().await?;
        self.progress.end();
        done.written = placed.written;
        done.kept = placed.kept;
        info!(
            written = placed.written.objects,
            kept = placed.kept.objects,
            deferred = placed.deferred.len(),
            "the objects are in place"
        );
        Ok(placed)
    }

    async fn placing(&self, other: Other) -> Result<Placing<'_>> {
        let store = &self.storage.store;
        Ok(Placing {
            snapshot: self.snapshot,
            store,
            in_place: self.cancel.run(Listed::all(&**store)).await?,
            other,
            progress: self.progress,
            cancel: self.cancel,
        })
    }

    /// Objects in whose place the old instance had others.
    async fn deferred(&self, items: Vec<Item>, done: &mut Done) -> Result<()> {
        if items.is_empty() {
            return Ok(());
        }
        let items = stream::iter(items.into_iter().map(Ok));
        let placed = self.placing(Other::Overwrite).await?.place(items).await?;
        done.written += placed.written;
        self.settle_files().await
    }

    /// Gives files to their owner and makes everything durable.
    async fn settle_files(&self) -> Result<()> {
        self.storage.layer.settle(&self.scope.replaced).await?;
        self.storage.store.sync().await
    }

    async fn read_back(&self) -> Result<()> {
        if self.options.read_back == ReadBack::No {
            return Ok(());
        }
        let total = self.snapshot.amount(&self.scope.selected).await?;
        self.progress.begin("read back", Some(total));
        let items = self.snapshot.items(&self.scope.selected);
        let resources = self.snapshot.view().resources();
        let store = &*self.storage.store;
        read_back(resources, store, items, self.progress, self.cancel).await?;
        self.progress.end();
        Ok(())
    }

    async fn keys(&self, writer: &mut Writer<'_>) -> Result<()> {
        let total = Amount::new(self.target.keys.len() as u64, 0);
        self.progress.begin("keys", Some(total));
        let told = |keys| {
            self.progress.advance(Amount::new(keys, 0));
            self.cancel.check()
        };
        writer.write(self.target, told).await?;
        writer.compare(self.target).await?;
        self.progress.end();
        Ok(())
    }

    /// Removes what was replaced. That something cannot be removed is told in `done`; whether another run
    /// might is the result.
    async fn clean(
        &self,
        writer: &mut Writer<'_>,
        home: Option<&Embedded>,
        saved: Option<&str>,
        done: &mut Done,
    ) -> Result<bool> {
        if self.options.occupied == Occupied::Refuse {
            return Ok(true);
        }
        let mut removable = true;
        if let Some(saved) = saved {
            let mut removing = Removing {
                repository: self.repository,
                saved,
                scope: self.scope,
                store: &*self.storage.store,
                writer,
                home,
                instance: self.instance,
                target: self.target,
                progress: self.progress,
                cancel: self.cancel,
            };
            let removal = removing.run().await?;
            info!(
                removed = removal.removed,
                changed = removal.changed,
                "the old objects are removed"
            );
            done.removed = removal.removed;
            done.changed = removal.changed;
            done.left = removal.failed;
            removable = !removal.list_is_gone;
        }
        let aside = self.queue.remove_aside();
        let aside = aside.and_then(|()| home.map_or(Ok(()), Embedded::remove_aside));
        done.left = done.left.take().or(aside.err());
        Ok(removable)
    }
}

#[cfg(test)]
#[path = "steps_tests.rs"]
mod tests;
