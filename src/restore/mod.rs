//! Restore: plan, prove, guard, rehydrate, transform, write, compare.
//!
//! [`plan`] looks at everything and touches nothing; [`restore`] makes the same plan, refuses what
//! the guard refuses, proves the snapshot, and does it (I5). `docs/restore.md` is the runbook.

mod act;
mod context;
mod options;
mod plan;
mod scope;

use std::time::Duration;

pub use context::Context;
pub use options::{KeepWal, Occupied, Options, ReadBack, Ttl, Unproven};
pub use plan::document::RestorePlan;
pub use plan::keys::KeyChange;
pub use plan::marker::Stage;
pub use plan::missing_data::{Lacking, LackingFiles, LackingObject, Outcome};

use crate::base::cancel::Turn;
use crate::base::progress::Amount;
use crate::base::weakening::{self, Weakening};
use crate::etcd::TxnLimits;
use crate::instance::embedded::Holds;
use crate::instance::objects::ObjectLayer;
use crate::milvus::MilvusVersion;
use crate::repo::{Manifest, Reader};
use crate::snapshot::{Body, EtcdIdentity, MilvusIdentity, Snapshot, Wal, WalState, is_keys_only};
use crate::{Error, Result, config};
use act::replace::Old;
use act::steps::{Done, Steps};
use act::wal::WalDirectories;
use act::write::Beginning;
use context::Purpose;
use plan::document::Inputs;
use plan::inputs::{Contents, Known, Marked, SourceFacts, TargetFacts, TargetVersion};
use plan::keys::{Anchor, Made, Onto};
use plan::marker::{Marker, MarkerKeys, Pinned};
use plan::missing_data::MissingData;
use plan::nesting::nesting;
use plan::target::{TargetEtcd, TargetStorage};
use scope::Scope;

/// What a restore did.
#[derive(Debug, Clone, PartialEq)]
pub struct Restored {
    /// The plan that was carried out.
    pub plan: RestorePlan,
    /// Objects that were written, the queue's files left out.
    pub written: Amount,
    /// Objects that were in place already and whose bytes are the snapshot's.
    pub kept: Amount,
    /// Files of the queue.
    pub queue: Amount,
    /// Old objects that were removed.
    pub removed: u64,
    /// How long it took.
    pub duration: Duration,
    /// What is less than a whole restore.
    pub weakened: Vec<Weakening>,
}

impl Restored {
    /// Objects that are in place now.
    #[must_use]
    pub fn objects(&self) -> Amount {
        Amount {
            objects: self.written.objects + self.kept.objects,
            bytes: self.written.bytes + self.kept.bytes,
        }
    }
}

/// Says what a restore of the snapshot would do; nothing is changed.
///
/// What the target refuses is in the plan.
///
/// # Errors
///
/// [`crate::Cause::Damage`] when the snapshot's keys do not read, [`crate::Side::Target`] when the
/// target's etcd does not answer.
pub async fn plan(
    context: &Context<'_>,
    manifest: &Manifest,
    options: &Options,
) -> Result<RestorePlan> {
    let cancel = context.cancel;
    let mut prepared = Prepared::make(context, manifest, options, Purpose::Plan).await?;
    let closed = cancel.in_order(Turn::Last, prepared.home.close()).await;
    cancel.in_order(Turn::Last, prepared.reader.finish()).await;
    closed.unwrap_or_else(|| Err(cancel.error()))?;
    Ok(prepared.plan)
}

/// Restores the snapshot.
///
/// # Errors
///
/// [`crate::Side::Target`] when the target refuses; nothing is changed then, as with
/// [`crate::Cause::Damage`] before the first object is written. After any other error the same call
/// goes on where it stopped.
pub async fn restore(
    context: &Context<'_>,
    manifest: &Manifest,
    options: &Options,
) -> Result<Restored> {
    let began = context.env.boottime();
    let mut prepared = Prepared::make(context, manifest, options, Purpose::Restore).await?;
    let cancel = context.cancel;
    // It ends by itself at the next step that may be the last. Where a server does not answer it is cut
    // short, as by a kill: the same call goes on.
    let run = Box::pin(prepared.run(context, options));
    let done = cancel.in_order(Turn::First, run).await;
    let done = done.unwrap_or_else(|| Err(cancel.error()));
    let closed = cancel.in_order(Turn::Last, prepared.home.close()).await;
    cancel.in_order(Turn::Last, prepared.reader.finish()).await;
    let done = done?;
    closed.unwrap_or_else(|| Err(cancel.error()))?;
    let left = left(&done).map(|message| Weakening {
        code: weakening::OLD_OBJECTS.to_owned(),
        message: format!("everything is restored; {message}"),
        items: vec![],
    });
    let weakened = prepared.plan.weakened.iter().cloned().chain(left);
    Ok(Restored {
        weakened: weakened.collect(),
        plan: prepared.plan,
        written: done.written,
        kept: done.kept,
        queue: done.queue,
        removed: done.removed,
        duration: context.env.boottime().saturating_sub(began),
    })
}

/// What of the old instance was not removed, and the way out.
fn left(done: &Done) -> Option<String> {
    match (&done.left, done.changed) {
        (Some(error), _) => Some(format!(
            "what it replaced could not all be removed: {}. To finish, run the same command again before Milvus is started",
            error.chain()
        )),
        (None, 0) => None,
        (None, changed) => Some(format!(
            "{changed} old objects are not what they were when the swap began, and stay: look at them; Milvus's garbage \
             collection removes what it does not know"
        )),
    }
}

/// Everything looked at, nothing changed.
struct Prepared {
    reader: Reader,
    snapshot: Snapshot,
    home: TargetEtcd,
    storage: Option<TargetStorage>,
    objects: ObjectLayer,
    queue: WalDirectories,
    made: Made,
    marker: Marker,
    marked: Marked,
    limits: TxnLimits,
    pinned: Pinned,
    scope: Scope,
    plan: RestorePlan,
}

impl Prepared {
    async fn make(
        context: &Context<'_>,
        manifest: &Manifest,
        options: &Options,
        purpose: Purpose,
    ) -> Result<Self> {
        let parents = vec![manifest.snapshot];
        let repository = context.repository;
        let cancel = context.cancel;
        let begun = repository.begin_reader(&manifest.instance, parents);
        let reader = cancel.run(begun).await?;
        let look = Self::look(context, manifest, options, purpose, &reader);
        match Box::pin(cancel.run(look)).await {
            Ok(looked) => Ok(looked(reader)),
            Err(error) => {
                cancel.in_order(Turn::Last, reader.finish()).await;
                Err(error)
            }
        }
    }

    async fn look(
        context: &Context<'_>,
        manifest: &Manifest,
        options: &Options,
        purpose: Purpose,
        reader: &Reader,
    ) -> Result<impl FnOnce(Reader) -> Self + use<>> {
        let snapshot = Snapshot::open(reader.view(), manifest.clone())?;
        let body = &snapshot.body;
        let anchor = Anchor::new(&snapshot, context.cancel.run(snapshot.keys()).await?)?;
        let scope = Scope::whole(&context.instance.etcd.roots());
        let mut home = TargetEtcd::open(context, purpose).await?;
        let storage = TargetStorage::look(context, options, &scope).await?;
        let wal = plan::target::wal(context, &mut home).await?;
        let queue = WalDirectories::new(&wal);

        let marker = marker(context, manifest, options, &home);
        let whose = home.marked(&marker);
        let version = home.milvus_version(context, (&manifest.instance, &anchor.version));
        let objects = storage.layer.record();
        let found = home.found.pinned.as_ref();
        let (pinned, version) = pinned(found, home.session_id(context), &whose, version);
        let onto = Onto {
            instance: context.instance,
            objects: &objects,
            version: version.get().unwrap_or_else(|| anchor.version.clone()),
            session_id: pinned.session_id,
            now: marker.started,
        };
        let contents = contents(manifest);
        let lack = match contents {
            Contents::Whole => {
                context
                    .cancel
                    .run(MissingData::find(
                        &snapshot,
                        &anchor.catalog,
                        &scope.selected,
                    ))
                    .await?
            }
            Contents::KeysOnly => MissingData::default(),
        };
        let made = anchor.make(body, &onto, &lack, options)?;
        made.target.check(&scope)?;
        let (room, limits) = Box::pin(context.cancel.run(home.room(context, &made.target))).await?;
        let objects_to_write = context.cancel.run(snapshot.amount(&scope.selected)).await?;
        let source = SourceFacts {
            snapshot: manifest.snapshot.to_string(),
            instance: manifest.instance.clone(),
            version: anchor.version.clone(),
            wal: body.wal.kind.clone(),
            wal_state: body.wal.state,
            channel_prefix: body.wal.channel_prefix.clone(),
            channels: anchor.channels(),
            bytes: objects_to_write.bytes,
            contents,
            unproven: anchor.unproven(body, &onto, options),
        };
        // A plan is made for the time when it is stopped.
        let (running, to_stop) = match purpose {
            Purpose::Restore => (home.running.clone(), vec![]),
            Purpose::Plan => (vec![], home.running.clone()),
        };
        let target = TargetFacts {
            instance: context.instance.name.clone(),
            version,
            unsupported: unsupported(context.instance),
            running,
            to_stop,
            etcd: home.facts(context, &scope, &made.target, whose.clone(), room),
            storage: storage.facts.clone(),
            wal,
            overlap: storage.layer.overlap(context.location).await,
            nesting: nesting(context.instance, context.location),
        };
        let plan = RestorePlan::new(Inputs {
            source: &source,
            body,
            time: manifest.time,
            objects: objects_to_write,
            wal_files: context.cancel.run(snapshot.wal_amount()).await?,
            made: &made,
            lack: &lack,
            gc: &made.gc(context.instance),
            target: &target,
            management: &context.instance.milvus.management,
            options,
        });
        Ok(move |reader| Self {
            reader,
            snapshot,
            home,
            storage: Some(storage),
            objects,
            queue,
            made,
            marker,
            marked: whose,
            limits,
            pinned,
            scope,
            plan,
        })
    }

    async fn run(&mut self, context: &Context<'_>, options: &Options) -> Result<Done> {
        if let Some(refusal) = self.plan.refusals.first() {
            return Err(refusal.to_error());
        }
        let (progress, cancel) = (context.progress, context.cancel);
        act::prove::prove(&self.snapshot, &self.scope.selected, progress, cancel).await?;
        let old = self.old(context, options);
        let Some(storage) = self.storage.take() else {
            return Err(Error::new(
                crate::Cause::Failed,
                "the restore has run already",
            ));
        };
        let storage = storage.prepare(context, options.occupied).await?;
        if old.is_some() {
            act::replace::prove(context.repository, &context.instance.name).await?;
        }
        let (mut etcd, mut embedded) = Box::pin(self.home.prepare(&self.marked)).await?;
        let roots = context.instance.etcd.roots();
        let value = self.home.found.value.as_deref();
        let beginning = Beginning {
            marker: &self.marker,
            stage: match self.marked {
                Marked::Ours(stage) => stage,
                Marked::No | Marked::Other { .. } => Stage::Objects,
            },
            // An embedded etcd is prepared anew, and nobody but this restore writes it.
            given_up: value
                .filter(|_| matches!(self.marked, Marked::Other { .. }) && embedded.is_none()),
            found: value.filter(|_| matches!(self.marked, Marked::Ours(_))),
            limits: self.limits,
            seen: embedded.is_none().then_some(self.home.revision),
        };
        let steps = Steps {
            snapshot: &self.snapshot,
            repository: context.repository,
            options,
            beginning,
            target: &self.made.target,
            scope: &self.scope,
            roots: &roots,
            storage: &storage,
            queue: &self.queue,
            old: old.as_ref(),
            pinned: self.pinned.clone(),
            instance: Some(context.instance),
            saved: self.home.found.saved.clone(),
            command: context.command,
            env: context.env,
            progress: context.progress,
            cancel: context.cancel,
        };
        let done = Box::pin(steps.run(&mut etcd, embedded.as_mut())).await;
        if let Some(embedded) = &mut embedded {
            embedded.stop().await?;
        }
        done
    }

    /// What is to be saved before it is replaced; nothing once the swap has begun.
    fn old(&self, context: &Context<'_>, options: &Options) -> Option<Old> {
        let began = matches!(self.marked, Marked::Ours(stage) if stage > Stage::Objects);
        if options.occupied == Occupied::Refuse || began {
            return None;
        }
        let instance = context.instance;
        let names = MarkerKeys::new(&instance.etcd.root_path);
        let home = &self.home;
        let keys = match &home.embedded {
            // What another restore had prepared is given up when nothing else is there.
            Some(_) if !home.left.is_empty() => &home.left,
            _ => &home.keys,
        };
        let keys: Vec<_> = keys
            .iter()
            .filter(|kv| self.scope.has_key(&kv.key) && !names.owns(&kv.key))
            .cloned()
            .collect();
        let milvus = MilvusIdentity {
            version: self.plan.target.version.version.clone(),
            commit: None,
            deploy_mode: None,
        };
        let body = Body::keys_only(
            home.revision,
            keys.len() as u64,
            EtcdIdentity::new(&instance.etcd, &home.version, home.cluster),
            milvus,
            self.objects.clone(),
            Wal::new(&instance.wal, WalState::Reset),
        );
        Some(Old {
            instance: instance.name.clone(),
            keys,
            body,
        })
    }
}

/// The marker of this restore: that of the run that goes on, or a new one.
fn marker(
    context: &Context<'_>,
    manifest: &Manifest,
    options: &Options,
    home: &TargetEtcd,
) -> Marker {
    let found = &home.found;
    // What an embedded etcd that was prepared holds goes with it.
    let prepared = home.embedded.as_ref().is_some_and(|directory| {
        let staged = directory.holds() == Holds::Staged && found.stage > Some(Stage::Objects);
        !directory.has_left() && (staged || directory.is_moved_aside())
    });
    // A marker that is there is of an unfinished one.
    let unfinished = found.marker.as_ref().filter(|_| found.value.is_some());
    let begun = unfinished.is_some_and(|marker| match found.stage {
        Some(Stage::Swap | Stage::Keys) => true,
        Some(Stage::Objects) | None => marker.over_swap,
        Some(Stage::Clean) => false,
    });
    let new = Marker {
        over_swap: prepared || begun,
        restore: hex::encode(&context.env.id()[..16]),
        repository: context.repository.id().to_string(),
        snapshot: manifest.snapshot.to_string(),
        options: Marker::asked(options),
        started: context.env.now(),
    };
    match &home.found.marker {
        Some(found) if found.continues(&new) => found.clone(),
        _ => new,
    }
}

/// What the target says of itself: once the swap has begun, what it said before.
fn pinned(
    found: Option<&Pinned>,
    session_id: i64,
    whose: &Marked,
    version: TargetVersion,
) -> (Pinned, TargetVersion) {
    match found {
        Some(found) if matches!(whose, Marked::Ours(stage) if *stage > Stage::Objects) => {
            let version = match version.known {
                Known::Declared => version,
                _ => TargetVersion::new(&MilvusVersion::parse(&found.version), Known::Recorded),
            };
            (found.clone(), version)
        }
        // No node id is given out twice, whatever a restore that is given up has removed.
        found => {
            let pinned = Pinned {
                session_id: session_id.max(found.map_or(0, |found| found.session_id)),
                version: version.version.clone(),
            };
            (pinned, version)
        }
    }
}

/// What of the configuration eyrie cannot restore onto, and the way out.
fn unsupported(instance: &config::Instance) -> Vec<(String, String)> {
    let said = |error: Error| {
        let hint = error.hint().unwrap_or_default().to_owned();
        (error.to_string(), hint)
    };
    instance.refusals().into_iter().map(said).collect()
}

fn contents(manifest: &Manifest) -> Contents {
    if is_keys_only(manifest) {
        Contents::KeysOnly
    } else {
        Contents::Whole
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A target says something else once its keys are gone: every run after the swap began writes what the
    /// first one would have.
    #[test]
    fn what_the_target_said_before_the_swap_counts_after_it() {
        let version = |text: &str, known| TargetVersion::new(&MilvusVersion::parse(text), known);
        let before = Pinned {
            session_id: 40,
            version: "2.6.14".into(),
        };
        let swapped = Marked::Ours(Stage::Keys);
        let (kept, known) = pinned(Some(&before), 0, &swapped, TargetVersion::unknown());
        assert_eq!(kept, before);
        assert_eq!(known, version("2.6.14", Known::Recorded));
        let written = version("2.6.5", Known::Recorded);
        let (kept, known) = pinned(Some(&before), 56, &swapped, written);
        assert_eq!((kept.session_id, known.version.as_str()), (40, "2.6.14"));
        // The operator's word counts at any time.
        let declared = version("2.6.15", Known::Declared);
        let (_, known) = pinned(Some(&before), 56, &swapped, declared.clone());
        assert_eq!(known, declared);
        // Before the swap, and when another restore is given up, the target's own, but no node id twice.
        for whose in [Marked::No, Marked::Ours(Stage::Objects)] {
            let own = version("2.6.13", Known::Recorded);
            let (pinned, known) = pinned(Some(&before), 3, &whose, own);
            assert_eq!((pinned.session_id, pinned.version.as_str()), (40, "2.6.13"));
            assert_eq!(known.version, "2.6.13");
        }
    }
}
