//! `eyrie restore`: put a snapshot back.

use std::path::PathBuf;
use std::time::Duration;

use super::weakenings;
use crate::base::text::Bytes;
use crate::base::weakening;
use crate::cli::context::Context;
use crate::cli::documents::{
    self, DestroyedDocument, HexId, Note, PlanStep, RestoreDocument, RestorePlanDocument, Weakening,
};
use crate::cli::output::{Page, Render, count};
use crate::cli::stored::Stored;
use crate::cli::values::{SnapshotName, took};
use crate::config::Resolved;
use crate::restore::{
    self, KeepWal, Occupied, Options, ReadBack, RestorePlan, Restored, Ttl, Unproven,
};
use crate::{Cause, Result, Side};

/// Restore a snapshot onto its own instance or another
///
/// Milvus must be stopped, and etcd root, storage root and message queue of the target empty,
/// unless --replace is given. Nothing is destroyed before everything that the snapshot needs is
/// proved to be in the repository; bytes are proved as they are read. An interrupted restore goes on where it was when the same command is run again.
/// --dry-run says what would happen and how long it would take.
#[derive(Debug, Clone, clap::Args)]
#[allow(
    clippy::struct_excessive_bools,
    reason = "the flags of the interface contract"
)]
pub struct Args {
    /// latest, an id or the beginning of one
    #[arg(value_name = "SNAPSHOT")]
    pub snapshot: SnapshotName,

    /// The configuration whose instance is restored onto [default: the one in force]
    #[arg(long, value_name = "FILE")]
    pub target: Option<PathBuf>,

    /// Say what would be done, and do nothing
    #[arg(long)]
    pub dry_run: bool,

    /// Replace what the target holds; its metadata is first saved into the repository
    #[arg(long)]
    pub replace: bool,

    /// Keep the message queue that was captured: no row is lost, not even unflushed ones [default
    /// for a snapshot that holds one]
    #[arg(long)]
    pub keep_wal: bool,

    /// Suspend the collections' time to live, so that old rows do not expire at the first start
    #[arg(long)]
    pub suspend_ttl: bool,

    /// Read every restored object again and compare its hash
    #[arg(long)]
    pub read_back: bool,

    /// Go on although a fresh message queue of this kind was never restored onto here
    #[arg(long)]
    pub accept_unproven_wal: bool,
}

/// Restores, or says what a restore would do.
///
/// # Errors
///
/// [`Side::Target`](crate::Side::Target) when the target refuses, [`Cause::Damage`] when the snapshot does not prove.
pub fn run(args: &Args, context: &Context) -> Result<u8> {
    let config = context.config()?;
    let repository = context.repository(&config)?;
    let other = match &args.target {
        Some(path) => Some(Resolved::load(path, &context.variables)?),
        None => None,
    };
    let target = other.as_ref().unwrap_or(&config).instance()?;
    let options = args.options();
    let progress = context.progress();
    let outcome = context.run(async {
        let stored = Stored::open(context, &config).await?;
        let snapshot = stored.find(&args.snapshot)?.clone();
        let command = args.command(context, &snapshot.snapshot.short());
        let work = restore::Context {
            command: &command,
            instance: target,
            repository: &stored.repository,
            location: &repository.location,
            env: &context.env,
            progress: &progress,
            cancel: &context.cancel,
        };
        if args.dry_run {
            let plan = Box::pin(restore::plan(&work, &snapshot, &options)).await?;
            return Ok(Outcome::Planned(plan));
        }
        let restored = Box::pin(restore::restore(&work, &snapshot, &options)).await?;
        Ok(Outcome::Restored(restored))
    })?;
    drop(progress);
    match outcome {
        Outcome::Planned(plan) => {
            let refused = !plan.refusals.is_empty();
            context.output.show(&Shown {
                document: plan_document(&plan, &config.accept),
                text: plan.to_string(),
            })?;
            Ok(if refused {
                Cause::Refused.exit_code(Some(Side::Target))
            } else {
                0
            })
        }
        Outcome::Restored(restored) => {
            let document = document(&restored, &config.accept);
            context.output.show(&document)?;
            Ok(documents::exit_code(&document.weakened))
        }
    }
}

/// What came of it.
enum Outcome {
    Planned(RestorePlan),
    Restored(Restored),
}

impl Args {
    /// The command that restores the same snapshot in the same way, for people.
    fn command(&self, context: &Context, snapshot: &str) -> String {
        let mut words = vec!["eyrie".to_owned()];
        let global = &context.global;
        let path = |path: &PathBuf| path.display().to_string();
        let mut named = |name: &str, value: Option<String>| {
            words.extend(value.into_iter().flat_map(|value| [name.to_owned(), value]));
        };
        named("--config", global.config.as_ref().map(path));
        named("--repo", global.repo.clone());
        named("restore", Some(snapshot.to_owned()));
        named("--target", self.target.as_ref().map(path));
        let flags = [
            ("--replace", self.replace),
            ("--keep-wal", self.keep_wal),
            ("--suspend-ttl", self.suspend_ttl),
            ("--read-back", self.read_back),
            ("--accept-unproven-wal", self.accept_unproven_wal),
        ];
        let given = flags.iter().filter(|(_, given)| *given);
        words.extend(given.map(|(flag, _)| (*flag).to_owned()));
        words.join(" ")
    }

    fn options(&self) -> Options {
        Options {
            occupied: if self.replace {
                Occupied::Replace
            } else {
                Occupied::Refuse
            },
            keep_wal: if self.keep_wal {
                KeepWal::Require
            } else {
                KeepWal::WhenCaptured
            },
            ttl: if self.suspend_ttl {
                Ttl::Suspend
            } else {
                Ttl::Keep
            },
            read_back: if self.read_back {
                ReadBack::Yes
            } else {
                ReadBack::No
            },
            unproven: if self.accept_unproven_wal {
                Unproven::Accept
            } else {
                Unproven::Refuse
            },
        }
    }
}

fn document(restored: &Restored, accept: &[String]) -> RestoreDocument {
    let plan = &restored.plan;
    let placed = restored.objects();
    RestoreDocument {
        snapshot: HexId(plan.snapshot.clone()),
        objects: placed.objects,
        bytes: placed.bytes,
        etcd_keys: plan.etcd_keys,
        rewritten: plan.rewritten(),
        wal: plan.wal.state.clone(),
        duration_ms: u64::try_from(restored.duration.as_millis()).unwrap_or(u64::MAX),
        next_steps: plan.next_steps.clone(),
        target: plan.target.instance.clone(),
        objects_resumed: restored.kept.objects,
        weakened: restored
            .weakened
            .iter()
            .map(|weak| weakening(weak, accept))
            .collect(),
        lacking: plan.lacking.clone(),
        notes: notes(plan),
    }
}

fn notes(plan: &RestorePlan) -> Vec<Note> {
    plan.notes
        .iter()
        .map(|what| Note::new("plan", what))
        .collect()
}

fn weakening(weak: &weakening::Weakening, accept: &[String]) -> Weakening {
    let what = if weak.items.is_empty() {
        weak.message.clone()
    } else {
        format!("{}: {}", weak.message, weak.items.join(", "))
    };
    Weakening::new(&weak.code, what, accept)
}

fn plan_document(plan: &RestorePlan, accept: &[String]) -> RestorePlanDocument {
    RestorePlanDocument {
        snapshot: HexId(plan.snapshot.clone()),
        target: plan.target.instance.clone(),
        objects: plan.objects,
        bytes: plan.bytes,
        etcd_keys: plan.etcd_keys,
        wal: plan.wal.state.clone(),
        expected_ms: Some(plan.expected_seconds.saturating_mul(1000)),
        transforms: plan.changes.clone(),
        destroys: plan
            .wipes
            .iter()
            .map(|wipe| DestroyedDocument {
                place: wipe.place.clone(),
                entries: wipe.entries,
            })
            .collect(),
        to_stop: plan.target.to_stop.clone(),
        steps: (1..)
            .zip(&plan.steps)
            .map(|(number, what)| PlanStep {
                step: format!("{number}"),
                what: what.clone(),
            })
            .collect(),
        refusals: plan
            .refusals
            .iter()
            .map(|refusal| format!("{} ({})", refusal.found, refusal.hint))
            .collect(),
        weakened: plan
            .weakened
            .iter()
            .map(|weak| weakening(weak, accept))
            .collect(),
        lacking: plan.lacking.clone(),
        notes: notes(plan),
        next_steps: plan.next_steps.clone(),
    }
}

/// A plan: a document for programs, its own text for people.
struct Shown {
    document: RestorePlanDocument,
    text: String,
}

impl serde::Serialize for Shown {
    fn serialize<S: serde::Serializer>(
        &self,
        serializer: S,
    ) -> std::result::Result<S::Ok, S::Error> {
        self.document.serialize(serializer)
    }
}

impl Render for Shown {
    fn render(&self, page: &mut Page) {
        for line in self.text.lines() {
            page.line(line);
        }
    }
}

impl Render for RestoreDocument {
    fn render(&self, page: &mut Page) {
        let took = took(Duration::from_millis(self.duration_ms));
        page.line(format!(
            "snapshot {} restored onto {}",
            self.snapshot.short(),
            self.target
        ));
        let resumed = match self.objects_resumed {
            0 => String::new(),
            n => format!(", {n} of them in place already"),
        };
        page.pairs(&[
            (
                "objects",
                format!(
                    "{}{resumed}, {}",
                    count(self.objects, "object"),
                    Bytes(self.bytes)
                ),
            ),
            ("etcd", count(self.etcd_keys, "key")),
            ("wal", self.wal.clone()),
            ("took", took),
        ]);
        let rewritten = self.rewritten.iter();
        page.list(
            "rewritten",
            rewritten.map(|(family, n)| format!("{family}: {}", count(*n, "key"))),
        );
        weakenings(page, &self.weakened);
        page.list("lacking", self.lacking.iter().map(ToString::to_string));
        page.list("notes", self.notes.iter().map(|note| note.what.clone()));
        numbered(page, "what to do next", &self.next_steps);
    }
}

fn numbered(page: &mut Page, heading: &str, lines: &[String]) {
    if lines.is_empty() {
        return;
    }
    page.heading(heading);
    for (index, line) in lines.iter().enumerate() {
        page.line(format!("{:>3}. {line}", index + 1));
    }
}
