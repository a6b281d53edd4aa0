//! From the plan of a capture to its document: numbered steps with their reasons.

use std::time::Duration;

use super::{BackupPlanDocument, HexId, Note, PlanStep, weakened_by};
use crate::capture::{Options, Plan};
use crate::cli::output::count;
use crate::cli::values::took;
use crate::repo::Manifest;
use crate::snapshot::{Mode, WalState};

/// The document of a plan for a capture into `repository`, whose newest snapshot of the instance is
/// `parent`; `accept` are the weakenings that the operator accepts.
#[must_use]
pub fn backup_plan(
    plan: &Plan,
    options: &Options,
    repository: &str,
    parent: Option<&Manifest>,
    accept: &[String],
) -> BackupPlanDocument {
    let notes = plan.notes.iter().map(|what| Note::new("note", what));
    BackupPlanDocument {
        instance: plan.instance.clone(),
        repository: repository.to_owned(),
        mode: plan.mode,
        method: plan.method,
        steps: steps(plan, options, parent),
        weakened: weakened_by(&plan.weakenings, accept),
        milvus_version: plan.milvus.version.clone(),
        collections: plan.counts.collections,
        segments: plan.counts.segments,
        objects: plan.counts.objects,
        parent: parent.map(|manifest| HexId(manifest.snapshot.to_string())),
        notes: notes.collect(),
    }
}

fn steps(plan: &Plan, options: &Options, parent: Option<&Manifest>) -> Vec<PlanStep> {
    let mut steps = vec![step("plan", found(plan))];
    let holds = |names: &'static [&str]| {
        let held = plan.holds.iter();
        held.filter(|hold| names.contains(&hold.hold.as_str()))
            .map(|hold| step("hold", format!("{}: {}", hold.hold, hold.how)))
    };
    steps.extend(holds(&["gc", "compaction"]));
    match plan.mode {
        Mode::Quiesced => steps.extend(window(plan, options, holds(&["writes", "ddl"]))),
        Mode::Hot if plan.is_without_flush() => steps.push(step("anchor", anchor(plan))),
        Mode::Hot => {
            let what = "flush all while writes go on: what was acknowledged before it is in";
            steps.push(step(
                "flush",
                format!("{what}{}", at_most(options.flush_timeout)),
            ));
            steps.push(step("anchor", anchor(plan)));
        }
        Mode::Cold => steps.push(step("anchor", anchor(plan))),
    }
    steps.push(step("copy", copy(plan, parent)));
    let audit = "every object that etcd names is in with its size and BLAKE3, or the capture fails";
    steps.push(step("copy", format!("audit: {audit}")));
    if plan.wal.state == WalState::Captured {
        let what = format!("the files of {}, so that no row is lost", plan.wal.kind);
        steps.push(step("commit", what));
    }
    steps.push(step(
        "commit",
        "write the manifest, the last write: only then there is a snapshot".to_owned(),
    ));
    steps
}

/// What happens while clients may see denied writes.
fn window(plan: &Plan, options: &Options, holds: impl Iterator<Item = PlanStep>) -> Vec<PlanStep> {
    let mut steps = vec![step(
        "flush",
        "flush all once before writes are denied, so that the flush after it is short".to_owned(),
    )];
    steps.extend(holds);
    let proxies = count(plan.proxies.len() as u64, "proxy").replace("proxys", "proxies");
    steps.push(step(
        "hold",
        format!(
            "try writes through {proxies} ({}) until each denies them; they are denied for at most {}",
            plan.proxies.join(", "),
            took(options.max_write_hold)
        ),
    ));
    let until = "flush all, until the checkpoint of every channel has passed it";
    steps.push(step(
        "flush",
        format!("{until}{}", at_most(options.flush_timeout)),
    ));
    steps.push(step("anchor", anchor(plan)));
    steps.push(step(
        "anchor",
        "release writes and compaction; prove that no log is newer than the hold".to_owned(),
    ));
    steps
}

fn found(plan: &Plan) -> String {
    let milvus = match plan.mode {
        Mode::Cold => format!("milvus {}, stopped", plan.milvus.version),
        Mode::Quiesced | Mode::Hot => format!("milvus {}", plan.milvus.version),
    };
    format!(
        "{milvus}, {} in {} at etcd revision {}",
        count(plan.counts.collections, "collection"),
        count(plan.counts.databases, "database"),
        plan.revision
    )
}

fn anchor(plan: &Plan) -> String {
    let root = &plan.etcd.root_path;
    format!(
        "read all keys under {root}/ at one revision: it alone says which objects belong to the snapshot"
    )
}

fn copy(plan: &Plan, parent: Option<&Manifest>) -> String {
    let objects = format!(
        "{} of {} now",
        count(plan.counts.objects, "object"),
        count(plan.counts.segments, "segment")
    );
    match parent {
        Some(parent) => format!(
            "{objects}; what snapshot {} has is not read again",
            parent.snapshot.short()
        ),
        None => format!(
            "{objects}, all read: this is the first snapshot of {}",
            plan.instance
        ),
    }
}

fn at_most(limit: Duration) -> String {
    format!(", at most {}", took(limit))
}

fn step(step: &str, what: String) -> PlanStep {
    PlanStep {
        step: step.to_owned(),
        what,
    }
}
