//! `eyrie backup`: one capture.

use std::num::NonZeroU64;
use std::time::Duration;

use super::how::How;
use super::{denied, weakenings};
use crate::base::label::Label;
use crate::base::resources::Limits;
use crate::base::text::Bytes;
use crate::capture::{self, Captured, Checkpoints, Missing};
use crate::cli::context::Context;
use crate::cli::documents::{self, BackupDocument, BackupPlanDocument, HexId};
use crate::cli::output::{Page, Render, count};
use crate::cli::values::{duration, took};
use crate::instance::connect;
use crate::snapshot::Body;
use crate::{Cause, Error, Result};

/// Take one snapshot of the instance
///
/// Holds garbage collection and compaction, flushes, denies writes for seconds (quiesced), reads
/// the metadata at one revision, lets writes go on, and copies every object that the metadata
/// names and the repository does not have. All holds end by themselves if eyrie dies.
#[derive(Debug, Clone, clap::Args)]
pub struct Args {
    /// Mode and method.
    #[command(flatten)]
    pub how: How,

    /// Say what would be done, and do nothing
    #[arg(long)]
    pub dry_run: bool,

    /// A label of the snapshot; may be given several times
    #[arg(long = "label", value_name = "KEY=VALUE")]
    pub labels: Vec<Label>,

    /// Capture the rest when objects that the metadata names are gone: a weakened snapshot, exit 3
    #[arg(long)]
    pub allow_missing: bool,

    /// Give up (exit 20) rather than deny writes for longer than this
    #[arg(long, value_name = "TIME", default_value = "2m", value_parser = duration)]
    pub max_write_hold: Duration,

    /// Give up (exit 20) when a flush takes longer than this
    #[arg(long, value_name = "TIME", default_value = "5m", value_parser = duration)]
    pub flush_timeout: Duration,

    /// Write down how far the backup has come after so long; a backup that was killed is not read again up to there
    #[arg(long, value_name = "TIME", default_value = "15m", value_parser = duration)]
    pub checkpoint_every: Duration,

    /// The same after so many bytes were read
    #[arg(long, value_name = "SIZE", default_value = "64GiB")]
    pub checkpoint_size: Bytes,

    /// Read and write no faster than this, such as 50MiB/s [default: no limit]
    #[arg(long, value_name = "RATE")]
    pub limit_rate: Option<Bytes>,
}

/// Takes one snapshot, or says what it would do.
///
/// # Errors
///
/// [`Side::Source`](crate::Side::Source) when the instance cannot be captured as asked; see [`capture::capture`].
pub fn run(args: &Args, context: &Context) -> Result<u8> {
    let options = args.options()?;
    let config = context.config()?;
    let repository = context.repository(&config)?;
    let rate = args.limit_rate.map(rate).transpose()?;
    let limits = Limits {
        rate: rate.or(config.limits.rate),
        ..config.limits
    };
    let resources = context.resources(&limits)?;
    let work = capture::Context {
        instance: config.instance()?.clone(),
        env: context.env.clone(),
        progress: context.progress(),
        cancel: context.cancel.clone(),
        accept: config.accept.clone(),
        resources: resources.clone(),
    };
    if args.dry_run {
        let plan = context.run(context.cancel.run(async {
            let opened =
                connect::repository(repository, &config.state_dir, &resources, &context.env)
                    .await?;
            let snapshots = opened.snapshots().await?;
            let parent = snapshots.newest_of(&work.instance.name);
            let previous = parent.map(Body::of).transpose()?;
            work.progress.begin("plan", None);
            let planned = Box::pin(capture::plan(&work, &options, previous.as_ref())).await?;
            let name = &repository.name;
            Ok(documents::backup_plan(
                &planned.plan,
                &options,
                name,
                parent,
                &config.accept,
            ))
        }))?;
        work.progress.end();
        context.output.show(&plan)?;
        return Ok(0);
    }
    let captured = context.run(async {
        let open = connect::repository(repository, &config.state_dir, &resources, &context.env);
        let opened = Box::pin(context.cancel.run(open)).await?;
        let captured = Box::pin(capture::capture(&work, &opened, &options)).await;
        work.progress.end();
        captured
    })?;
    let document = document(&captured, &repository.name, &config.accept);
    context.output.show(&document)?;
    Ok(documents::exit_code(&document.weakened))
}

/// Bytes a second, for all that is read and written.
fn rate(limit: Bytes) -> Result<NonZeroU64> {
    let wrong = || Error::new(Cause::Invalid, "--limit-rate 0 lets nothing through");
    NonZeroU64::new(limit.0).ok_or_else(wrong)
}

impl Args {
    /// How to capture.
    fn options(&self) -> Result<capture::Options> {
        let labels = self.labels.iter();
        Ok(capture::Options {
            labels: labels.map(|l| (l.key.clone(), l.value.clone())).collect(),
            missing: if self.allow_missing {
                Missing::Allow
            } else {
                Missing::Refuse
            },
            max_write_hold: self.max_write_hold,
            flush_timeout: self.flush_timeout,
            checkpoints: Checkpoints {
                time: self.checkpoint_every,
                bytes: self.checkpoint_size.0,
            },
            ..self.how.options()?
        })
    }
}

fn document(captured: &Captured, repository: &str, accept: &[String]) -> BackupDocument {
    let (manifest, body) = (&captured.manifest, &captured.body);
    BackupDocument {
        snapshot: HexId(manifest.snapshot.to_string()),
        instance: manifest.instance.clone(),
        mode: body.mode,
        method: body.method,
        revision: body.revision,
        milvus_version: body.milvus.version.clone(),
        collections: body.counts.collections,
        segments: body.counts.segments,
        objects: manifest.totals.objects,
        bytes: manifest.totals.bytes,
        objects_read: body.objects_read,
        bytes_read: body.bytes_read,
        bytes_added: manifest.totals.bytes_added,
        write_hold_ms: body.write_hold_ms,
        write_hold_spent: body.write_hold_spent,
        duration_ms: body.duration_ms,
        weakened: documents::weakened(body, accept),
        notes: documents::notes(body),
        labels: manifest.labels.clone(),
        repository: repository.to_owned(),
    }
}

impl Render for BackupDocument {
    fn render(&self, page: &mut Page) {
        let ms = |ms| took(Duration::from_millis(ms));
        page.line(format!(
            "snapshot {} of {} in {}",
            self.snapshot.short(),
            self.instance,
            self.repository
        ));
        page.pairs(&[
            ("id", self.snapshot.0.clone()),
            (
                "mode",
                format!("{}, by {}", self.mode.word(), self.method.word()),
            ),
            (
                "milvus",
                format!(
                    "{}, anchor at etcd revision {}",
                    self.milvus_version, self.revision
                ),
            ),
            (
                "contents",
                format!(
                    "{}, {}, {}, {}",
                    count(self.collections, "collection"),
                    count(self.segments, "segment"),
                    count(self.objects, "object"),
                    Bytes(self.bytes)
                ),
            ),
            (
                "read",
                format!(
                    "{}, {}",
                    count(self.objects_read, "object"),
                    Bytes(self.bytes_read)
                ),
            ),
            ("added", Bytes(self.bytes_added).to_string()),
            (
                "writes denied",
                denied(self.write_hold_ms, self.write_hold_spent),
            ),
            ("took", ms(self.duration_ms)),
        ]);
        weakenings(page, &self.weakened);
        page.list("notes", self.notes.iter().map(|note| note.what.clone()));
    }
}

impl Render for BackupPlanDocument {
    fn render(&self, page: &mut Page) {
        page.line(format!(
            "capture {} into {}, {}, by {}",
            self.instance,
            self.repository,
            self.mode.word(),
            self.method.word()
        ));
        for (index, step) in self.steps.iter().enumerate() {
            page.line(format!("{:>3}. {}: {}", index + 1, step.step, step.what));
        }
        weakenings(page, &self.weakened);
        page.list("notes", self.notes.iter().map(|note| note.what.clone()));
    }
}
