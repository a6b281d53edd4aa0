//! What a capture says of its snapshot: counts, weakenings, notes.

use std::collections::BTreeSet;

use super::anchor::Anchored;
use super::objects::Copied;
use super::plan::Planned;
use super::{Context, Missing, Options, full, view};
use crate::base::text::{Bytes, cut, first};
use crate::base::weakening::{self, Weakening};
use crate::instance::holds::{HoldRecord, HoldState, Holds};
use crate::milvus::catalog::Catalog;
use crate::milvus::objects::ObjectRef;
use crate::milvus::unnamed::UnnamedDeltaLog;
use crate::milvus::validate::{Finding, FindingKind, Severity};
use crate::snapshot::{Body, Counts, Mode};
use crate::{Cause, Error, Side};

/// Notes of the metadata's validation that a manifest keeps.
const NOTES_NAMED: usize = 30;

/// Missing objects that an error names; the manifest has more.
const NAMED_IN_ERROR: usize = 10;

/// The body of the manifest; how long it took is added at the end.
pub(super) fn body(
    context: &Context,
    options: &Options,
    holds: &mut Holds,
    planned: &Planned,
    anchored: Anchored,
    copied: &Copied,
) -> Body {
    let catalog = &anchored.catalog;
    let mut weakenings = Vec::new();
    let mut notes = Vec::new();
    let mut mode = options.mode;
    let unnamed = match anchored.cut.straddling_unnamed {
        0 => String::new(),
        count => format!("; {count} more such logs are not named"),
    };
    if mode == Mode::Quiesced && !anchored.cut.proven {
        mode = Mode::Hot;
        weakenings.push(Weakening {
            code: weakening::CUT_UNPROVEN.to_owned(),
            message: format!("logs are newer than the write hold: some proxy let writes through, so this is a hot snapshot{unnamed}"),
            items: anchored.cut.straddling.clone(),
        });
    }
    if options.mode == Mode::Hot && !anchored.cut.straddling.is_empty() {
        weakenings.push(Weakening {
            code: weakening::HOT_STRADDLE.to_owned(),
            message: format!("logs hold data from after {}: an upsert of that time may be torn, its delete in and its row not{unnamed}", if planned.plan.is_without_flush() { "the time until which everything is flushed" } else { "the flush" }),
            items: anchored.cut.straddling.clone(),
        });
    }
    if planned.plan.is_without_flush() {
        weakenings.push(full::not_flushed(catalog, anchored.time));
    }
    if !anchored.differences.found.is_empty() {
        weakenings.push(Weakening {
            code: weakening::MILVUS_DIFFERS.to_owned(),
            message:
                "what Milvus answers is not what etcd holds; a restart of Milvus would lose it too"
                    .to_owned(),
            items: view::named(&anchored.differences.found),
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
    notes.extend(planned.version_note.clone());
    notes.extend(repository_notes(copied));
    notes.extend(unnamed_note(catalog, &anchored.unnamed));
    notes.extend(unreadable_note(&anchored.unreadable));
    if copied.unverified > 0 {
        notes.push(format!(
            "{} were read over plain HTTP, and the store offers no checksum of them (parts of large objects, and what was uploaded in parts): nothing would show that they changed on the way; use TLS",
            Bytes(copied.unverified)
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
    Body {
        eyrie_version: env!("CARGO_PKG_VERSION").to_owned(),
        mode,
        asked_mode: options.mode,
        method: options.method.method(),
        revision: anchored.revision,
        etcd: planned.plan.etcd.clone(),
        milvus: planned.plan.milvus.clone(),
        objects: planned.plan.objects.clone(),
        wal: planned.plan.wal.clone(),
        holds: records,
        write_hold_ms: u64::try_from(holds.writes_held().as_millis()).unwrap_or(u64::MAX),
        write_hold_spent: (options.mode == Mode::Quiesced).then(|| *holds.spent()),
        duration_ms: 0,
        flush: anchored.flush,
        counts: Counts {
            etcd_keys: anchored.etcd_keys,
            objects: copied.objects,
            bytes: copied.bytes,
            objects_by_kind: copied.by_kind.clone(),
            ..Counts::of(catalog)
        },
        objects_read: copied.objects_read,
        bytes_read: copied.bytes_read,
        differences: view::named(&anchored.differences.found),
        unnamed_delta_logs: anchored.unnamed,
        cut: anchored.cut,
        weakenings,
        notes,
        accepted: context.accept.clone(),
    }
}

/// What the repository had lost, which is no weakening: what this snapshot needs was stored again.
fn repository_notes(copied: &Copied) -> Vec<String> {
    let tells = "verify tells which older snapshots are damaged";
    let lost = (copied.lost_packs > 0).then(|| {
        format!(
            "the repository had lost {} packs: what they held was read again as far as this instance still has it; {tells}",
            copied.lost_packs
        )
    });
    let damaged = (copied.damaged_blobs > 0).then(|| {
        format!(
            "{} blobs of the repository were damaged: what this instance still has of them was stored again; {tells}",
            copied.damaged_blobs
        )
    });
    lost.into_iter().chain(damaged).collect()
}

/// Collections whose deletes a restart of this Milvus would lose, while the snapshot has them.
fn unnamed_note(catalog: &Catalog, unnamed: &[UnnamedDeltaLog]) -> Option<String> {
    let collections: BTreeSet<i64> = unnamed.iter().map(|log| log.collection).collect();
    let names: Vec<String> = collections
        .into_iter()
        .map(|id| {
            let (database, collection) = catalog.names(id);
            format!("{database}.{collection}")
        })
        .collect();
    (!names.is_empty()).then(|| {
        format!(
            "{} delta logs are in the snapshot although etcd does not name them for the live segments: Milvus {} may have them in memory only, and its next restart would then bring the deleted rows back in {}; compact these collections before you restart it",
            unnamed.len(),
            catalog.version,
            first(&names, NAMED_IN_ERROR, ", ")
        )
    })
}

/// Files that may have been delta logs.
fn unreadable_note(unreadable: &[String]) -> Option<String> {
    (!unreadable.is_empty()).then(|| {
        format!(
            "{} files that etcd does not name lie where delta logs are and are none; if they were, deletes are missing: {}",
            unreadable.len(),
            first(unreadable, NAMED_IN_ERROR, ", ")
        )
    })
}

/// Findings that make a snapshot of this anchor less than whole. Rows that are not flushed are
/// none: the window has waited for those from before the cut, and a cold capture has the queue.
pub(super) fn problems(catalog: &Catalog) -> Vec<Finding> {
    let mut findings = catalog.validate();
    findings.retain(|finding| {
        finding.severity == Severity::Error && finding.kind != FindingKind::Unflushed
    });
    findings
}

pub(super) fn invalid(problems: &[Finding]) -> Error {
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

pub(super) fn gone(missing: &Weakening) -> Error {
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
