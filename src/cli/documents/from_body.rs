//! From what a manifest says of a snapshot to the words of the documents.

use super::{HexId, Note, SnapshotDocument, Time, VerifiedDocument, Weakening};
use crate::base::text::first;
use crate::base::weakening;
use crate::repo::Manifest;
use crate::snapshot::{Body, Mode};

/// Items of a weakening that a document names; the manifest has all of them.
const ITEMS_NAMED: usize = 20;

/// The weakenings of a snapshot, marked where `accept` or the configuration of the capture names
/// them.
#[must_use]
pub fn weakened(body: &Body, accept: &[String]) -> Vec<Weakening> {
    let mut accept: Vec<String> = accept.iter().chain(&body.accepted).cloned().collect();
    if body.asked_mode == Mode::Hot {
        accept.push(weakening::HOT_STRADDLE.to_owned());
    }
    weakened_by(&body.weakenings, &accept)
}

/// Weakenings, marked where `accept` names them.
#[must_use]
pub fn weakened_by(weakenings: &[weakening::Weakening], accept: &[String]) -> Vec<Weakening> {
    let weakening = |w: &weakening::Weakening| {
        let mut what = w.message.clone();
        if !w.items.is_empty() {
            what = format!("{what}; {}", first(&w.items, ITEMS_NAMED, "; "));
        }
        Weakening::new(&w.code, what, accept)
    };
    weakenings.iter().map(weakening).collect()
}

/// The notes of a snapshot.
#[must_use]
pub fn notes(body: &Body) -> Vec<Note> {
    let notes = body.notes.iter();
    notes.map(|what| Note::new("note", what)).collect()
}

/// One snapshot of a list.
#[must_use]
pub fn snapshot(
    manifest: &Manifest,
    body: &Body,
    accept: &[String],
    verified: Option<&VerifiedDocument>,
) -> SnapshotDocument {
    SnapshotDocument {
        snapshot: HexId(manifest.snapshot.to_string()),
        time: Time(manifest.time),
        instance: manifest.instance.clone(),
        mode: body.mode,
        method: body.method,
        milvus_version: body.milvus.version.clone(),
        collections: body.counts.collections,
        objects: manifest.totals.objects,
        bytes: manifest.totals.bytes,
        bytes_added: manifest.totals.bytes_added,
        parent: manifest.parent.map(|p| HexId(p.snapshot.to_string())),
        labels: manifest.labels.clone(),
        weakened: weakened(body, accept),
        verified: verified.cloned(),
    }
}
