//! `eyrie snapshots`: what there is.

use serde::Serialize;

use crate::base::text::Bytes;
use crate::cli::context::Context;
use crate::cli::documents::{self, SnapshotDocument};
use crate::cli::output::{Column, Page, Render};
use crate::cli::report;
use crate::cli::stored::Stored;
use crate::snapshot::Body;
use crate::{Cause, Error, Result};

/// List the snapshots in the repository, in the order in which they were made
///
/// Reads manifests only. A snapshot marked with `!` is weakened; `eyrie show` says how.
#[derive(Debug, Clone, Copy, clap::Args)]
pub struct Args {}

/// The snapshots of a repository.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(transparent)]
pub struct Snapshots(pub Vec<SnapshotDocument>);

/// Lists the snapshots of all instances. What cannot be read is told on standard error after the
/// list of what can, and is the exit code.
///
/// # Errors
///
/// Those of [`Stored::open`].
pub fn run(_: &Args, context: &Context) -> Result<u8> {
    let config = context.config()?;
    let (stored, verified) = context.run(context.cancel.run(async {
        let stored = Stored::open(context, &config).await?;
        let verified = stored.verified().await?;
        Ok((stored, verified))
    }))?;
    let mut wrong = Vec::new();
    let mut listed = Vec::new();
    for manifest in &stored.snapshots.manifests {
        match Body::of(manifest) {
            Ok(body) => {
                let verified = verified.get(&manifest.snapshot);
                listed.push(documents::snapshot(
                    manifest,
                    &body,
                    &config.accept,
                    verified,
                ));
            }
            Err(error) => wrong.push(error),
        }
    }
    let damage = stored.snapshots.damage.iter();
    wrong.extend(damage.map(|damage| Error::new(Cause::Damage, damage.what.clone())));
    if let Some(what) = stored.snapshots.out_of_time(None) {
        tracing::warn!("{what}");
    }
    context.output.show(&Snapshots(listed))?;
    let mut code = 0;
    for error in wrong {
        report::report(&error, context.global.format());
        code = code.max(error.exit_code());
    }
    Ok(code)
}

impl Render for Snapshots {
    fn render(&self, page: &mut Page) {
        if self.0.is_empty() {
            page.line("no snapshots");
            return;
        }
        let columns = [
            Column::text("snapshot"),
            Column::text("time"),
            Column::text("instance"),
            Column::text("mode"),
            Column::text("milvus"),
            Column::number("collections"),
            Column::number("objects"),
            Column::number("size"),
            Column::number("added"),
            Column::text("verified"),
            Column::text("labels"),
        ];
        let rows = self.0.iter().map(|s| {
            let mark = if s.weakened.is_empty() { "" } else { "!" };
            let verified = s.verified.as_ref().map(|v| match v.damage {
                0 => v.level.clone(),
                _ => "DAMAGED".to_owned(),
            });
            let labels = s.labels.iter().map(|(key, value)| format!("{key}={value}"));
            vec![
                format!("{}{mark}", s.snapshot.short()),
                s.time.to_second(),
                s.instance.clone(),
                s.mode.word().to_owned(),
                s.milvus_version.clone(),
                s.collections.to_string(),
                s.objects.to_string(),
                Bytes(s.bytes).to_string(),
                Bytes(s.bytes_added).to_string(),
                verified.unwrap_or_else(|| "-".to_owned()),
                labels.collect::<Vec<_>>().join(" "),
            ]
        });
        page.table(&columns, rows);
    }
}
