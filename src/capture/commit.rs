//! The steps in their order: plan, hold, anchor, copy, audit, commit.

use std::collections::BTreeSet;
use std::time::Duration;

use tokio::time::Instant;
use tracing::{info, warn};

use super::anchor::Anchored;
use super::denial::Writes;
use super::objects::{self, Copied};
use super::plan::{Planned, plan};
use super::reach::{Running, open_objects};
use super::{ANCHOR_ATTEMPTS, Captured, Context, Missing, Options, cold, view, window};
use crate::base::error::Context as _;
use crate::base::text::{cut, first};
use crate::base::weakening::{self, Weakening};
use crate::instance::connect;
use crate::instance::holds::{self, HoldRecord, HoldState, Holds};
use crate::instance::liveness::sessions_prefix;
use crate::milvus::catalog::Catalog;
use crate::milvus::objects::ObjectRef;
use crate::milvus::validate::{Finding, FindingKind, Severity};
use crate::repo::{Compression, ManifestDraft, NodeRef, Repository, SnapshotId, Totals, Writer};
use crate::snapshot::{ANCHOR_ROOT, Body, Counts, Mode, OBJECTS_ROOT, WAL_ROOT, WalState};
use crate::{Cause, Error, Result, Side};

/// How long Milvus may take until it accepts writes again: as long as it may take to deny them.
const RELEASE_TIMEOUT: Duration = Duration::from_secs(25);

/// Notes of the metadata's validation that a manifest keeps.
const NOTES_NAMED: usize = 30;

/// Missing objects that an error names; the manifest has more.
const NAMED_IN_ERROR: usize = 10;

/// A snapshot that only its manifest is missing of.
pub(super) struct Prepared {
    draft: ManifestDraft,
    body: Body,
    /// The Milvus whose writes we held.
    held: Option<Running>,
}

impl Prepared {
    /// Commits; gives the Milvus whose writes were held beside what was captured.
    pub(super) async fn commit(self, writer: Writer) -> Result<(Captured, Option<Running>)> {
        let manifest = match writer.commit(self.draft).await {
            Ok(manifest) => manifest,
            Err(error) => {
                give_up(writer).await;
                return Err(error);
            }
        };
        info!(snapshot = %manifest.snapshot, "committed");
        if let Err(error) = writer.finish().await {
            warn!(error = %error.chain(), "the lease of the writer session was not removed; it runs out");
        }
        let body = self.body;
        Ok((Captured { manifest, body }, self.held))
    }
}

/// The error of a run that was stopped while its snapshot was being committed.
pub(super) fn unknown(stopped: &Error) -> Error {
    let message = "stopped while the snapshot was being committed: whether it exists is not known";
    Error::new(stopped.cause(), message).with_hint("eyrie snapshots tells")
}

/// Ends a session of which nothing is kept.
pub(super) async fn give_up(writer: Writer) {
    if let Err(error) = writer.abort().await {
        warn!(error = %error.chain(), "the writer session was not ended in order; its lease runs out");
    }
}

/// A capture that is planned, and has written nothing.
pub(super) struct Begun {
    since: Instant,
    planned: Planned,
    parents: Vec<SnapshotId>,
    known: Option<NodeRef>,
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
    repository.outlast_writers(&context.instance.name).await?;
    Ok(Begun {
        since,
        planned,
        parents: parent.iter().map(|p| p.snapshot).collect(),
        known: parent.and_then(|p| p.roots.get(OBJECTS_ROOT).copied().flatten()),
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
    writer: &Writer,
) -> Result<Prepared> {
    let Begun {
        since,
        planned,
        known,
        ..
    } = begun;
    let work = store(context, options, holds, planned, writer, *known, *since);
    let (draft, body) = Box::pin(work).await?;
    let ours = options.mode == Mode::Quiesced && !held_by_operator(&body);
    Ok(Prepared {
        draft,
        body,
        held: planned.milvus.take().filter(|_| ours),
    })
}

async fn store(
    context: &Context,
    options: &Options,
    holds: &mut Holds,
    planned: &mut Planned,
    writer: &Writer,
    known: Option<NodeRef>,
    begun: Instant,
) -> Result<(ManifestDraft, Body)> {
    if planned.milvus.is_some() {
        Box::pin(hold_gc(context, planned, holds)).await?;
    }
    let mut known = writer.view().map(known);
    let mut attempt = 1;
    let (anchored, keys, copied) = loop {
        let mut anchored = match options.mode {
            Mode::Cold => cold::anchor(context, planned).await.on(Side::Source)?,
            Mode::Quiesced | Mode::Hot => Box::pin(window::take(context, planned, options, holds))
                .await
                .on(Side::Source)?,
        };
        let problems = problems(&anchored.catalog);
        if !problems.is_empty() && options.missing == Missing::Refuse {
            return Err(invalid(&problems));
        }
        let keys = anchored.store_keys(writer).await?;
        context.progress.begin("copy", None);
        let scope = planned.plan.wal.state.scope();
        let store = open_objects(context, &anchored.catalog).await?;
        let copied = objects::copy(
            context,
            writer,
            &store,
            &anchored.catalog,
            scope,
            known.clone(),
        )
        .await?;
        let held = holds.gc_held().await;
        let vanished = !copied.missing.is_empty() && options.mode != Mode::Cold && !held;
        if vanished && attempt < ANCHOR_ATTEMPTS && !same_missing(&planned.missing_before, &copied)
        {
            info!(
                missing = copied.missing.len(),
                "objects are gone and GC is not held; taking another anchor"
            );
            planned.missing_before = copied.missing.iter().map(|o| o.path.clone()).collect();
            if copied.root.is_some() {
                // What this attempt read is not read again.
                writer.flush().await?;
                known = writer.view().repo().view().await?.map(copied.root);
            }
            Box::pin(holds.retake_gc()).await?;
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
    let mut roots = std::collections::BTreeMap::new();
    roots.insert(ANCHOR_ROOT.to_owned(), keys);
    roots.insert(OBJECTS_ROOT.to_owned(), copied.root);
    if planned.plan.wal.state == WalState::Captured {
        roots.insert(WAL_ROOT.to_owned(), cold::copy_wal(context, writer).await?);
    }
    if options.mode == Mode::Cold {
        cold::still_stopped(context).await.on(Side::Source)?;
    }
    if let Some(copy) = planned.etcd.copy.take() {
        copy.stop().await.on(Side::Source)?;
    }
    let time = anchored.time;
    let totals = Totals {
        objects: copied.objects,
        bytes: copied.bytes,
        bytes_added: writer.bytes_added(),
    };
    let mut body = body(context, options, holds, planned, anchored, &copied);
    body.weakenings.extend(missing);
    body.duration_ms = u64::try_from(begun.elapsed().as_millis()).unwrap_or(u64::MAX);
    let draft = ManifestDraft {
        time,
        roots,
        totals,
        labels: options.labels.clone(),
        body: serde_json::to_value(&body).map_err(|error| {
            Error::new(Cause::Failed, "writing the manifest").with_source(error)
        })?,
    };
    Ok((draft, body))
}

/// Pauses garbage collection, before anything else: no client feels it.
async fn hold_gc(context: &Context, planned: &Planned, holds: &mut Holds) -> Result<()> {
    let management = connect::management(&context.instance.milvus, Side::Source)?;
    let sessions = sessions_prefix(&planned.roots);
    let hint = "check instance.milvus.management (metrics.port of Milvus, 9091 by default)";
    let hold = holds::hold_gc(management, planned.etcd.client.clone(), sessions);
    match Box::pin(hold).await {
        Ok(Some(hold)) => holds.hold_gc(hold),
        Ok(None) => holds.absent("gc", "this version of Milvus cannot pause it"),
        Err(error) => {
            return Err(error
                .context("garbage collection cannot be held")
                .with_hint(hint));
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
pub(super) async fn release_is_felt(running: &Running) {
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

/// Findings that make a snapshot of this anchor less than whole. Rows that are not flushed are
/// none: the window has waited for those from before the cut, and a cold capture has the queue.
fn problems(catalog: &Catalog) -> Vec<Finding> {
    let mut findings = catalog.validate();
    findings.retain(|finding| {
        finding.severity == Severity::Error && finding.kind != FindingKind::Unflushed
    });
    findings
}

fn invalid(problems: &[Finding]) -> Error {
    Side::Source.error(Cause::Refused,
        format!("the metadata contradicts itself: {}", first(problems, NAMED_IN_ERROR, "; ")),
    )
    .with_hint("a compaction may have been half saved: run the backup again; --allow-missing captures it as it is, weakened")
}

pub(super) fn missing_weakening(catalog: &Catalog, copied: &Copied) -> Option<Weakening> {
    let count = copied.missing.len() as u64 + copied.missing_unnamed;
    (count > 0).then(|| Weakening {
        code: weakening::MISSING_OBJECTS.to_owned(),
        message: format!("{count} objects that etcd names are gone; what needs them will not load"),
        items: copied
            .missing
            .iter()
            .map(|object| named(catalog, object))
            .collect(),
    })
}

/// File resources lie outside the storage root, so no capture of it has them.
pub(super) fn resources_weakening(catalog: &Catalog) -> Option<Weakening> {
    let resources = &catalog.resources;
    (!resources.is_empty()).then(|| Weakening {
        code: weakening::FILE_RESOURCES.to_owned(),
        message: "file resources (dictionaries of analyzers) are not in the snapshot, only their names are: keep \
                  copies of the files, and after a restore put them at the same paths of the target's bucket before \
                  Milvus starts"
            .to_owned(),
        items: resources
            .iter()
            .map(|resource| resource.path.clone())
            .collect(),
    })
}

/// An object by database, collection, segment and file.
fn named(catalog: &Catalog, object: &ObjectRef) -> String {
    let (database, collection) = catalog.names(object.collection);
    format!(
        "{database}.{collection} segment {}: {}",
        object.segment, object.path
    )
}

fn gone(missing: &Weakening) -> Error {
    let named = first(&missing.items, NAMED_IN_ERROR, "; ");
    Side::Source.error(Cause::Refused, format!("{}: {named}", missing.message))
        .with_hint("run the backup again; what is missing then too, Milvus itself cannot load any more: drop or rebuild the collection, or capture the rest with --allow-missing")
}

/// What is worth a note of the hold on garbage collection: the audit passed without it.
pub(super) fn gc_note(records: &[HoldRecord]) -> Option<&'static str> {
    let gc = |state| records.iter().any(|r| r.hold == "gc" && r.state == state);
    if gc(HoldState::Absent) {
        return Some(
            "garbage collection could not be held; every object was there when it was read",
        );
    }
    gc(HoldState::Lost).then_some(
        "the hold on garbage collection was lost; what is in the snapshot was there when it was read",
    )
}

fn body(
    context: &Context,
    options: &Options,
    holds: &Holds,
    planned: &Planned,
    anchored: Anchored,
    copied: &Copied,
) -> Body {
    let catalog = &anchored.catalog;
    let mut weakenings = Vec::new();
    let mut notes = Vec::new();
    let mut mode = options.mode;
    if mode == Mode::Quiesced && !anchored.cut.proven {
        mode = Mode::Hot;
        weakenings.push(Weakening {
            code: weakening::CUT_UNPROVEN.to_owned(),
            message: "logs are newer than the write hold: some proxy let writes through, so this is a hot snapshot".to_owned(),
            items: anchored.cut.straddling.clone(),
        });
    }
    if options.mode == Mode::Hot && !anchored.cut.straddling.is_empty() {
        weakenings.push(Weakening {
            code: weakening::HOT_STRADDLE.to_owned(),
            message: "logs hold data from after the flush: an upsert of that time may be torn, its delete in and its row not".to_owned(),
            items: anchored.cut.straddling.clone(),
        });
    }
    if !anchored.differences.is_empty() {
        weakenings.push(Weakening {
            code: weakening::MILVUS_DIFFERS.to_owned(),
            message:
                "what Milvus answers is not what etcd holds; a restart of Milvus would lose it too"
                    .to_owned(),
            items: view::named(&anchored.differences),
        });
    }
    weakenings.extend(resources_weakening(catalog));
    let errors: Vec<String> = match options.missing {
        Missing::Allow => problems(catalog).iter().map(ToString::to_string).collect(),
        Missing::Refuse => Vec::new(),
    };
    if !errors.is_empty() {
        weakenings.push(Weakening {
            code: weakening::METADATA_INVALID.to_owned(),
            message: "the metadata contradicts itself".to_owned(),
            items: errors,
        });
    }
    if copied.lost_packs > 0 {
        notes.push(format!(
            "the repository had lost {} packs: what they held was read again as far as this instance still has it; verify tells which older snapshots are damaged",
            copied.lost_packs
        ));
    }
    let remarks = catalog.validate();
    let remarks = remarks
        .iter()
        .filter(|finding| finding.severity == Severity::Note);
    notes.extend(cut(remarks, NOTES_NAMED, |unnamed| {
        format!("{unnamed} more of the kind")
    }));
    let records = holds.records();
    notes.extend(gc_note(&records).map(str::to_owned));
    let live = || catalog.live_segments();
    Body {
        eyrie_version: env!("CARGO_PKG_VERSION").to_owned(),
        mode,
        asked_mode: options.mode,
        method: options.method,
        revision: anchored.revision,
        etcd: planned.plan.etcd.clone(),
        milvus: planned.plan.milvus.clone(),
        objects: planned.plan.objects.clone(),
        wal: planned.plan.wal.clone(),
        holds: records,
        write_hold_ms: u64::try_from(holds.writes_held().as_millis()).unwrap_or(u64::MAX),
        duration_ms: 0,
        flush: anchored.flush,
        counts: Counts {
            etcd_keys: anchored.etcd_keys,
            databases: catalog.databases.len() as u64,
            collections: catalog
                .collections
                .values()
                .filter(|c| c.is_created())
                .count() as u64,
            segments: live().count() as u64,
            rows: live().map(|s| u64::try_from(s.rows).unwrap_or(0)).sum(),
            objects: copied.objects,
            bytes: copied.bytes,
            objects_by_kind: copied.by_kind.clone(),
        },
        objects_read: copied.objects_read,
        bytes_read: copied.bytes_read,
        differences: view::named(&anchored.differences),
        cut: anchored.cut,
        weakenings,
        notes,
        accepted: context.accept.clone(),
    }
}
