//! The plan of a restore: what goes where, what is rewritten, what is wiped, how long it takes.
//!
//! A pure function of what the snapshot, the catalog, the transform and the target say.

use std::collections::BTreeMap;

use jiff::Timestamp;

use super::guard::{self, Refusal};
use super::keys::{GcGuard, KeyChange, Made};
use super::marker::Stage;
use super::missing_data::{Lacking, MissingData};
use super::transform::TtlCollection;
use crate::base::progress::Amount;
use crate::base::weakening::{self, Weakening};
use crate::instance::objects::Presence;
use crate::restore::options::{Occupied, Options, Ttl};
use crate::restore::plan::inputs::{Counted, Known, Marked, SourceFacts, TargetFacts};
use crate::snapshot::Body;

/// Bytes a second that a restore is expected to write, until a drill has measured it: a server-side
/// copy of insert logs ran at 170 to 370 MB/s on two cores (docs/milvus.md 00), and a restore also opens,
/// hashes and writes each byte itself.
pub(super) const ASSUMED_BYTES_PER_SECOND: u64 = 100_000_000;

/// Small objects a second that a restore is expected to write, until a drill has measured it: S3
/// takes 3,500 PUTs a second for each prefix, a disk about that many files.
pub(super) const ASSUMED_OBJECTS_PER_SECOND: u64 = 2_000;

/// What a restore will do.
#[derive(Debug, Clone, PartialEq)]
pub struct RestorePlan {
    /// The snapshot's id.
    pub snapshot: String,
    /// The instance that it was taken of.
    pub source: String,
    /// The time of its anchor.
    pub time: Timestamp,
    /// The version of Milvus that wrote it.
    pub milvus_version: String,
    /// Where it goes.
    pub target: TargetFacts,
    /// Whether an interrupted restore of the same snapshot goes on, and from where.
    pub resumes: Option<Stage>,
    /// Objects to write.
    pub objects: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Index files among the objects: no index is built again.
    pub index_files: u64,
    /// Keys to write to etcd.
    pub etcd_keys: u64,
    /// What happens to each family of keys.
    pub changes: Vec<KeyChange>,
    /// The write-ahead log.
    pub wal: PlannedWal,
    /// Collections whose rows expire by the clock.
    pub expiring: Vec<TtlCollection>,
    /// What happens to their time to live.
    pub ttl: Ttl,
    /// What becomes of loaded collections.
    pub load: String,
    /// What is destroyed, in order; empty without `--replace`.
    pub wipes: Vec<Wipe>,
    /// How long it takes, in seconds, at [`ASSUMED_BYTES_PER_SECOND`] and
    /// [`ASSUMED_OBJECTS_PER_SECOND`].
    pub expected_seconds: u64,
    /// What is less than a whole restore.
    pub weakened: Vec<Weakening>,
    /// What the snapshot lacks, by collection, and what comes of it.
    pub lacking: Vec<Lacking>,
    /// Worth knowing.
    pub notes: Vec<String>,
    /// Why the target refuses; empty when the restore may begin.
    pub refusals: Vec<Refusal>,
    /// What is done, in order.
    pub steps: Vec<String>,
    /// What to do afterwards, in order.
    pub next_steps: Vec<String>,
}

/// What happens to the write-ahead log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PlannedWal {
    /// `captured`: it comes back; `reset`: a fresh one, positions are rewritten.
    pub state: String,
    /// The target's kind.
    pub kind: String,
    /// Files to write.
    pub files: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Steps that were never tried on a real one.
    pub unproven: Vec<String>,
}

/// Something that `--replace` destroys.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Wipe {
    /// Where: an etcd root, a storage prefix, a directory of the queue.
    pub place: String,
    /// Keys, objects or files there.
    pub entries: u64,
    /// Their bytes; 0 for keys.
    pub bytes: u64,
}

/// What a plan is made of.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Inputs<'a> {
    /// The snapshot, as far as the guard cares.
    pub(crate) source: &'a SourceFacts,
    /// What the snapshot says of itself.
    pub(crate) body: &'a Body,
    /// The time of its anchor.
    pub(crate) time: Timestamp,
    /// The objects to write.
    pub(crate) objects: Amount,
    /// The files of its write-ahead log.
    pub(crate) wal_files: Amount,
    /// The keys to write.
    pub(crate) made: &'a Made,
    /// What the snapshot lacks.
    pub(crate) lack: &'a MissingData,
    /// How garbage collection is held off for the first start.
    pub(crate) gc: &'a GcGuard,
    /// The target.
    pub(crate) target: &'a TargetFacts,
    /// Where Milvus's management interface will be.
    pub(crate) management: &'a str,
    /// How to restore.
    pub(crate) options: &'a Options,
}

impl RestorePlan {
    /// Makes the plan.
    #[must_use]
    pub(crate) fn new(inputs: Inputs<'_>) -> Self {
        let Inputs {
            source,
            body,
            made,
            target,
            options,
            ..
        } = inputs;
        let keeps = guard::keeps_wal(source);
        let index_files = body.counts.objects_by_kind.get("index_files");
        let all = inputs.objects + inputs.wal_files;
        let mut plan = Self {
            snapshot: source.snapshot.clone(),
            source: source.instance.clone(),
            time: inputs.time,
            milvus_version: source.version.to_string(),
            target: target.clone(),
            resumes: match target.etcd.marked {
                Marked::Ours(stage) => Some(stage),
                Marked::No | Marked::Other { .. } => None,
            },
            objects: inputs.objects.objects,
            bytes: inputs.objects.bytes,
            index_files: index_files.copied().unwrap_or_default(),
            etcd_keys: made.target.keys.len() as u64,
            changes: made.changes.clone(),
            wal: PlannedWal {
                state: if keeps { "captured" } else { "reset" }.to_owned(),
                kind: target.wal.kind.clone(),
                files: inputs.wal_files.objects,
                bytes: inputs.wal_files.bytes,
                unproven: source.unproven.clone(),
            },
            expiring: made.expiring.clone(),
            ttl: options.ttl,
            load: made.load.clone(),
            wipes: wipes(target, options),
            expected_seconds: all.bytes / ASSUMED_BYTES_PER_SECOND
                + all.objects / ASSUMED_OBJECTS_PER_SECOND
                + 1,
            weakened: weakened(body, inputs.lack),
            lacking: inputs.lack.lacking.clone(),
            notes: made.notes.clone(),
            refusals: guard::refusals(source, target, options)
                .into_iter()
                .chain(made.refusal.clone())
                .collect(),
            steps: vec![],
            next_steps: next_steps(inputs.gc, inputs.management, source),
        };
        plan.steps = steps(&plan, options);
        plan.notes.extend(notes(&plan, target, options));
        let told = weakenings_of(body, |code| !is_less(code));
        let told = told
            .iter()
            .map(|weak| format!("the snapshot itself: {}", weak.message));
        plan.notes.extend(told);
        plan
    }

    /// How many keys of each family do not stay as they are.
    #[must_use]
    pub fn rewritten(&self) -> BTreeMap<String, u64> {
        let mut counts = BTreeMap::new();
        for change in self.changes.iter().filter(|change| change.action != "keep") {
            *counts.entry(change.family.clone()).or_default() += change.keys;
        }
        counts
    }
}

/// Weakenings of a snapshot that leave a restored instance with something that does not work; the
/// others were settled when the snapshot was taken.
fn is_less(code: &str) -> bool {
    matches!(
        code,
        weakening::MISSING_OBJECTS | weakening::FILE_RESOURCES | weakening::METADATA_INVALID
    )
}

/// What the restored instance is less than a whole one: of missing objects what was found, not what
/// the manifest says.
fn weakened(body: &Body, lack: &MissingData) -> Vec<Weakening> {
    let found = lack.weakening();
    let said = weakenings_of(body, is_less);
    let said = said
        .into_iter()
        .filter(|weak| found.is_none() || weak.code != weakening::MISSING_OBJECTS);
    said.chain(found.clone()).collect()
}

fn weakenings_of(body: &Body, wanted: impl Fn(&str) -> bool) -> Vec<Weakening> {
    let of = |weak: &&Weakening| wanted(&weak.code);
    body.weakenings.iter().filter(of).cloned().collect()
}

fn wipes(target: &TargetFacts, options: &Options) -> Vec<Wipe> {
    if options.occupied == Occupied::Refuse {
        return vec![];
    }
    let etcd = Wipe {
        place: format!("etcd {} {}/", target.etcd.place, target.etcd.root),
        entries: target.etcd.keys,
        bytes: 0,
    };
    let queue = target.wal.directories.iter().map(|(path, usage)| Wipe {
        place: path.display().to_string(),
        entries: usage.objects,
        bytes: usage.bytes,
    });
    let storage = target.storage.families.iter().map(|(family, usage)| Wipe {
        place: format!("{}/{family}/", target.storage.place),
        entries: usage.objects,
        bytes: usage.bytes,
    });
    std::iter::once(etcd)
        .chain(queue)
        .chain(storage)
        .filter(|wipe| wipe.entries > 0)
        .collect()
}

fn steps(plan: &RestorePlan, options: &Options) -> Vec<String> {
    let mut steps = Vec::new();
    if !plan.target.to_stop.is_empty() {
        steps.push("stop Milvus on the target".to_owned());
    }
    steps.extend([
        "prove that every needed blob is in the repository".to_owned(),
        "prove that the storage takes an object, by a probe that is removed".to_owned(),
        "mark the target in etcd".to_owned(),
    ]);
    if plan.resumes.is_some() {
        steps.push("hash what is in place from the interrupted restore".to_owned());
    }
    if !plan.wipes.is_empty() {
        steps.push("save the old keys into the repository".to_owned());
    }
    steps.push("write the objects, hashing each, and make them durable".to_owned());
    if plan.wal.state == "captured" {
        steps.push("bring the queue back".to_owned());
    }
    if !plan.wipes.is_empty() {
        steps.push("remove the old keys and move the old queue aside".to_owned());
    }
    steps.push("write the keys, collections last; read them back and compare".to_owned());
    if options.read_back == crate::restore::options::ReadBack::Yes {
        steps.push("read every object back and compare its hash".to_owned());
    }
    if !plan.wipes.is_empty() {
        steps.push(
            "remove old objects that the snapshot does not have, and the old queue".to_owned(),
        );
    }
    steps.push("remove the mark".to_owned());
    steps
}

fn notes(plan: &RestorePlan, target: &TargetFacts, options: &Options) -> Vec<String> {
    let mut notes = Vec::new();
    if target.version.known == Known::Assumed {
        notes.push(format!(
            "the target is the snapshot's own instance; that it still is Milvus {} is assumed \
             (instance.milvus.version says otherwise)",
            target.version.version
        ));
    }
    if target.storage.state == Presence::ToBeMade {
        notes.push(format!("{} will be made", target.storage.place));
    }
    if target.storage.counted == Counted::AtLeast {
        notes.push("the objects on the target were not all counted".to_owned());
    }
    let foreign = target.storage.foreign;
    if options.occupied == Occupied::Replace && foreign.objects > 0 {
        notes.push(format!(
            "{} files below {} are not Milvus's objects and stay",
            foreign.objects, target.storage.place
        ));
    }
    for step in &plan.wal.unproven {
        notes.push(format!("unproven: {step}"));
    }
    if let (false, Ttl::Keep) = (plan.expiring.is_empty(), options.ttl) {
        notes.push(
            "rows of collections with a time to live expire by the clock as soon as Milvus starts; \
             --suspend-ttl sets it to 0"
                .to_owned(),
        );
    }
    notes
}

fn next_steps(gc: &GcGuard, management: &str, source: &SourceFacts) -> Vec<String> {
    let (before, after) = match gc {
        GcGuard::Key(key) => (
            "start Milvus; garbage collection is held off by a key in etcd".to_owned(),
            format!(
                "after a day without surprises remove the key {key} from etcd and restart Milvus: \
                 garbage collection is on again"
            ),
        ),
        GcGuard::Brought => (
            "start Milvus; garbage collection is as the source's operator had set it in etcd".to_owned(),
            "after a day without surprises see to dataCoord/enableGarbageCollection in etcd".to_owned(),
        ),
        GcGuard::Setting => (
            "set dataCoord.enableGarbageCollection: false in milvus.yaml for the first start \
             (an embedded etcd's keys are not read), then start Milvus"
                .to_owned(),
            "after a day without surprises set dataCoord.enableGarbageCollection to true again and \
             restart Milvus"
                .to_owned(),
        ),
    };
    vec![
        before,
        format!("wait until it is healthy: curl {management}/healthz"),
        format!(
            "compare each collection's rows with `eyrie show {}`",
            &source.snapshot[..source.snapshot.len().min(12)]
        ),
        "let clients in".to_owned(),
        after,
    ]
}

#[cfg(test)]
pub(crate) mod tests;
