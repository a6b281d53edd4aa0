//! The steps in their order: plan, hold, anchor, copy, audit, commit.

use std::collections::BTreeSet;
use std::time::Duration;

use tokio::time::Instant;
use tracing::{debug, info, warn};

use super::anchor::Anchored;
use super::body::{body, gone, invalid, missing_weakening, problems};
use super::denial::Writes;
use super::objects::{self, Copied};
use super::plan::{Planned, plan};
use super::reach::{Running, open_objects};
use super::stored::{Stored, objects_of};
use super::stranger::Earlier;
use super::{ANCHOR_ATTEMPTS, Captured, Context, Missing, Options};
use super::{cold, cold_source, still, unnamed, window};
use crate::base::cancel::{Cancel, Turn};
use crate::base::error::Context as _;
use crate::etcd::MAKE_ROOM;
use crate::instance::connect;
use crate::instance::holds::{self, HoldRecord, HoldState, Holds};
use crate::instance::liveness::sessions_prefix;
use crate::instance::methods::{CaptureMethod, Ended};
use crate::milvus::validate::Finding;
use crate::repo::{Compression, Map, NodeRef, Repository, SnapshotId, Totals, Writer};
use crate::snapshot::{Body, Draft, Mode, OBJECTS_ROOT, WalState, store_keys};
use crate::{Error, Result, Side};

/// How long Milvus may take until it accepts writes again: as long as it may take to deny them.
const RELEASE_TIMEOUT: Duration = Duration::from_secs(25);

/// A snapshot that only its manifest is missing of.
pub(super) struct Prepared {
    draft: Draft,
    /// The Milvus whose writes we held.
    held: Option<Running>,
}

impl Prepared {
    /// Commits.
    pub(super) async fn commit(
        self,
        writer: Writer,
        method: &dyn CaptureMethod,
    ) -> Result<Committed> {
        let committed = async { writer.commit(self.draft.manifest()?).await };
        let manifest = match committed.await {
            Ok(manifest) => manifest,
            Err(error) => {
                give_up(writer, method).await;
                return Err(error);
            }
        };
        info!(snapshot = %manifest.snapshot, "committed");
        // It has all that they have.
        remove_checkpoints(&writer).await;
        end_method(method, Ended::Committed).await;
        let body = self.draft.body;
        Ok(Committed {
            captured: Captured { manifest, body },
            held: self.held,
            writer,
        })
    }
}

/// A capture that is committed, whose session has not ended yet.
pub(super) struct Committed {
    pub(super) captured: Captured,
    /// The Milvus whose writes we held.
    pub(super) held: Option<Running>,
    writer: Writer,
}

impl Committed {
    /// Merges the index, which may take as long as the caller likes, and ends the session. Nothing that fails
    /// here takes anything from the snapshot.
    pub(super) async fn end(self, cancel: &Cancel) -> (Captured, Option<Running>) {
        let writer = self.writer;
        let merged = cancel.run(writer.merge_index()).await;
        if let Err(error) = merged
            && !cancel.is_requested()
        {
            warn!(
                "the index of the repository is not merged, the next backup tries again: {}",
                error.chain()
            );
        }
        let finished = cancel.in_order(Turn::Last, writer.finish()).await;
        if let Some(Err(error)) = finished {
            warn!(error = %error.chain(), "the lease of the writer session was not removed; it runs out");
        }
        (self.captured, self.held)
    }
}

/// The error of a run that was stopped while its snapshot was being committed.
pub(super) fn unknown(stopped: &Error) -> Error {
    let message = "stopped while the snapshot was being committed: whether it exists is not known";
    Error::new(stopped.cause(), message).with_hint("eyrie snapshots tells")
}

/// Lets the capture method end what it took. What it cannot end is left for the next capture.
pub(super) async fn end_method(method: &dyn CaptureMethod, ended: Ended) {
    if let Err(error) = method.release(ended).await {
        warn!(error = %error.chain(), "what the capture method took was not released; the next capture tries again");
    }
}

/// Removes the checkpoints of this session and of those of the instance that have ended before it.
async fn remove_checkpoints(writer: &Writer) {
    match writer.view().repo().checkpoints(writer.instance()).await {
        Ok(all) => {
            let sessions = all.iter().map(|checkpoint| checkpoint.session);
            writer.remove_checkpoints(sessions).await;
        }
        Err(error) => debug!("checkpoints stay behind: {}", error.chain()),
    }
}

/// Ends a session of which nothing is kept.
pub(super) async fn give_up(writer: Writer, method: &dyn CaptureMethod) {
    end_method(method, Ended::GivenUp).await;
    if let Err(error) = writer.abort().await {
        warn!(error = %error.chain(), "the writer session was not ended in order; its lease runs out");
    }
}

/// A capture that is planned, and has written nothing.
pub(super) struct Begun {
    since: Instant,
    planned: Planned,
    parents: Vec<SnapshotId>,
    /// Maps of objects that need not be read again: of captures that did not end, and of the parent.
    known: Vec<NodeRef>,
    /// The snapshot before.
    earlier: Option<Earlier>,
}

/// Plans, and waits until no other session writes for the instance.
pub(super) async fn begin(
    context: &Context,
    repository: &Repository,
    options: &Options,
) -> Result<Begun> {
    let since = Instant::now();
    context.progress.begin("plan", None);
    let snapshots = repository.snapshots().await?;
    for damage in &snapshots.damage {
        warn!(
            "the repository is damaged: {}; verify tells what else is",
            damage.what
        );
    }
    let parent = snapshots.newest_of(&context.instance.name);
    let previous: Option<Body> = parent.and_then(|p| serde_json::from_value(p.body.clone()).ok());
    let planned = Box::pin(plan(context, options, previous.as_ref())).await?;
    // What another method captured says nothing of what this one has to.
    let method = options.method.method();
    let known = parent.filter(|parent| parent.body["method"] == method.word());
    let of_parent = known.and_then(|p| p.roots.get(OBJECTS_ROOT).copied().flatten());
    repository
        .wait_for_other_writers(&context.instance.name)
        .await?;
    // A session that has committed has removed its own and those before it; no clock is asked.
    let checkpoints = repository.checkpoints(&context.instance.name).await?;
    let unended = checkpoints
        .iter()
        .filter_map(|checkpoint| objects_of(checkpoint, method));
    Ok(Begun {
        since,
        planned,
        parents: parent.iter().map(|p| p.snapshot).collect(),
        known: unended.chain(of_parent).collect(),
        earlier: parent
            .zip(previous.as_ref())
            .and_then(|(parent, body)| Earlier::of(parent, body)),
    })
}

impl Begun {
    /// Begins the writer session. It is not to be cut short, or its lease stays.
    pub(super) async fn writer(
        &self,
        context: &Context,
        repository: &Repository,
    ) -> Result<Writer> {
        let (name, parents) = (&context.instance.name, self.parents.clone());
        let writer = repository.begin_writer(name, parents, Compression::default());
        writer.await
    }
}

/// Runs the protocol up to the commit. `holds` and `writer` are ended by the caller.
pub(super) async fn prepare(
    context: &Context,
    options: &Options,
    holds: &mut Holds,
    begun: &mut Begun,
    stored: &mut Stored<'_>,
) -> Result<Prepared> {
    let Begun {
        since,
        planned,
        known,
        earlier,
        ..
    } = begun;
    let before = (&**known, earlier.as_ref());
    let work = store(context, options, holds, planned, stored, before, *since);
    let draft = Box::pin(work).await?;
    let ours = options.mode == Mode::Quiesced && !held_by_operator(&draft.body);
    Ok(Prepared {
        draft,
        held: planned.milvus.take().filter(|_| ours),
    })
}

async fn store(
    context: &Context,
    options: &Options,
    holds: &mut Holds,
    planned: &mut Planned,
    stored: &mut Stored<'_>,
    (known, earlier): (&[NodeRef], Option<&Earlier>),
    begun: Instant,
) -> Result<Draft> {
    let writer = stored.writer();
    if planned.milvus.is_some() {
        Box::pin(hold_gc(context, planned, holds)).await?;
    }
    let method = &*options.method;
    let known = known.iter().map(|root| writer.view().map(Some(*root)));
    let mut known: Vec<Map> = known.collect();
    let mut attempt = 1;
    let mut stranger = None;
    let (anchored, keys, copied) = loop {
        let mut anchored = match options.mode {
            Mode::Cold => cold::anchor(context, planned, method)
                .await
                .on(Side::Source)?,
            Mode::Quiesced | Mode::Hot => running(context, planned, options, holds)
                .await
                .on(Side::Source)?,
        };
        let problems = problems(&anchored.catalog);
        if !problems.is_empty() && options.missing == Missing::Refuse {
            return Err(invalid_now(planned, &problems));
        }
        if attempt == 1 {
            stranger = stranger_note(context, &anchored, writer, earlier).await?;
        }
        context.progress.begin("copy", None);
        let scope = planned.plan.wal.state.scope();
        let store = open_objects(context, &anchored.catalog).await?;
        if let Some(store) = &store {
            let cut = adopted_until(planned, &anchored);
            let found = unnamed::find(store, &anchored.catalog, cut).await?;
            anchored.adopt(found)?;
        }
        let keys = store_keys(writer, anchored.take_keys()).await?;
        let copied = objects::capture(
            context,
            method,
            stored,
            store.as_ref(),
            &anchored.required(scope),
            &known,
        )
        .await?;
        // What etcd does not name Milvus may remove whatever is held.
        let may_vanish = !holds.gc_held().await || anchored.has_adopted(&copied.missing);
        let vanished = !copied.missing.is_empty() && options.mode != Mode::Cold && may_vanish;
        if vanished && attempt < ANCHOR_ATTEMPTS && !same_missing(&planned.missing_before, &copied)
        {
            info!(
                missing = copied.missing.len(),
                "objects are gone and GC is not held; taking another anchor"
            );
            planned.missing_before = copied.missing.iter().map(|o| o.path.clone()).collect();
            if copied.root.is_some() {
                // What this attempt read is not read again.
                stored.write().await?;
                let view = writer.view().repo().view().await?;
                known = vec![view.map(copied.root)];
            }
            Box::pin(holds.retake_gc()).await;
            attempt += 1;
            continue;
        }
        break (anchored, keys, copied);
    };
    let missing = missing_weakening(&anchored.catalog, &copied);
    if let (Some(missing), Missing::Refuse) = (&missing, options.missing) {
        return Err(gone(missing));
    }
    context.progress.begin("commit", None);
    let wal = match planned.plan.wal.state {
        WalState::Captured => end_of_cold(context, planned, writer, anchored.revision).await?,
        WalState::Reset => None,
    };
    let time = anchored.time;
    let totals = Totals {
        objects: copied.objects,
        bytes: copied.bytes,
        bytes_added: writer.bytes_added(),
    };
    let mut body = body(context, options, holds, planned, anchored, &copied);
    body.weakenings.extend(missing);
    body.notes.extend(stranger);
    body.duration_ms = u64::try_from(begun.elapsed().as_millis()).unwrap_or(u64::MAX);
    Ok(Draft {
        time,
        keys,
        objects: copied.root,
        wal,
        totals,
        labels: options.labels.clone(),
        body,
    })
}

/// The error for metadata that contradicts itself.
fn invalid_now(planned: &Planned, problems: &[Finding]) -> Error {
    let error = invalid(problems);
    if !planned.plan.is_without_flush() {
        return error;
    }
    error.with_hint(format!(
        "{MAKE_ROOM}; --allow-missing captures it as it is, weakened"
    ))
}

/// Until when deletes count that etcd does not name; 0 is all of them. Without a flush the cut is the earliest of
/// all collections, and what others have flushed since counts too.
fn adopted_until(planned: &Planned, anchored: &Anchored) -> u64 {
    if planned.plan.is_without_flush() {
        0
    } else {
        anchored.cut.timestamp
    }
}

/// Takes the anchor of a Milvus that runs.
async fn running(
    context: &Context,
    planned: &mut Planned,
    options: &Options,
    holds: &mut Holds,
) -> Result<Anchored> {
    if planned.plan.is_without_flush() {
        if let Some(anchored) = Box::pin(still::anchor(context, planned, options, holds)).await? {
            return Ok(anchored);
        }
        info!("etcd takes writes again: this becomes a hot capture as any other");
        planned.plan.weakenings.clear();
    }
    Box::pin(window::take(context, planned, options, holds)).await
}

/// Says so when the snapshots before seem to be of another Milvus.
async fn stranger_note(
    context: &Context,
    anchored: &Anchored,
    writer: &Writer,
    earlier: Option<&Earlier>,
) -> Result<Option<String>> {
    let Some(earlier) = earlier else {
        return Ok(None);
    };
    let keys = writer.view().map(Some(earlier.anchor));
    if !earlier.is_of_another(&keys, &anchored.catalog).await? {
        return Ok(None);
    }
    let what = format!(
        "no collection of the last snapshot of instance {:?} is in this Milvus: if another Milvus was captured under that name, give this one a name of its own",
        context.instance.name
    );
    warn!("{what}");
    Ok(Some(what))
}

/// Captures the queue of a stopped Milvus, proves that it stayed stopped all the while, and ends what served
/// its keys.
async fn end_of_cold(
    context: &Context,
    planned: &mut Planned,
    writer: &Writer,
    revision: i64,
) -> Result<Option<NodeRef>> {
    let wal = cold::copy_wal(context, writer).await;
    // A Milvus that was started writes its queue, and is the reason when that cannot be read.
    still_stopped(context, planned, revision).await?;
    if let Some(copy) = planned.etcd.copy.take() {
        copy.stop().await.on(Side::Source)?;
    }
    wal
}

async fn still_stopped(context: &Context, planned: &mut Planned, revision: i64) -> Result<()> {
    let before = cold_source::Before {
        revision,
        files: &planned.etcd.files,
        neighbours: &planned.neighbours,
    };
    let (etcd, roots) = (&mut planned.etcd.client, &planned.roots);
    cold_source::still_stopped(context, etcd, roots, before)
        .await
        .on(Side::Source)
}

/// Pauses garbage collection, before anything else: no client feels it.
async fn hold_gc(context: &Context, planned: &Planned, holds: &mut Holds) -> Result<()> {
    let management = connect::management(&context.instance.milvus, Side::Source)?;
    let sessions = sessions_prefix(&planned.roots);
    let hold = holds::hold_gc(management, planned.etcd.client.clone(), sessions);
    match Box::pin(hold).await {
        Ok(Some(hold)) => holds.hold_gc(hold),
        Ok(None) => holds.absent("gc", "this version of Milvus cannot pause it"),
        // The audit decides: an object that vanishes makes the capture take another anchor.
        Err(error) => {
            warn!(
                error = %error.chain(),
                "garbage collection is not held; is instance.milvus.management right (metrics.port of Milvus, 9091 by default)?"
            );
            holds.absent("gc", format!("it could not be held: {}", error.chain()));
        }
    }
    Ok(())
}

/// Whether an operator denies writes, before us and after us.
fn held_by_operator(body: &Body) -> bool {
    let external = |record: &HoldRecord| record.state == HoldState::External;
    body.holds
        .iter()
        .any(|record| record.hold == holds::WRITES.name && external(record))
}

/// Waits until clients may write again: Milvus notices seconds after the hold was released, and who
/// waits for a backup to end wants to write then. The snapshot exists whatever comes of it.
pub(super) async fn wait_until_writable(running: &Running) {
    match running.until_accepted(RELEASE_TIMEOUT).await {
        Ok(Writes::Accepted) => {}
        Ok(Writes::Denied) => warn!(
            "milvus still denies writes, {} s after the hold was released",
            RELEASE_TIMEOUT.as_secs()
        ),
        Err(error) => warn!(error = %error.chain(), "whether writes pass again is not known"),
    }
}

fn same_missing(before: &BTreeSet<String>, copied: &Copied) -> bool {
    !before.is_empty()
        && copied
            .missing
            .iter()
            .all(|object| before.contains(&object.path))
}
