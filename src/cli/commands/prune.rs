//! `eyrie prune`: free what nobody needs.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use crate::base::text::Bytes;
use crate::cli::context::Context;
use crate::cli::documents::{PackCount, PruneDocument};
use crate::cli::output::{Page, Render, count};
use crate::cli::stored::Stored;
use crate::cli::values::{patience, percent, took};
use crate::repo::{Manifest, PruneOptions, SnapshotId};
use crate::retention;
use crate::{Cause, Result, Side};

/// Free what no snapshot needs: remove packs that were marked long enough ago, and mark others
///
/// Backups and restores may run meanwhile. A pack is marked first, and removed by a later prune once the
/// grace is over and no session is at work that began before. What is still needed of it is stored
/// elsewhere before. Killed at any time, it loses nothing, and the next one goes on.
#[derive(Debug, Clone, clap::Args)]
pub struct Args {
    /// How long a marked pack stays; 0s removes it with the next prune
    #[arg(long, value_name = "TIME", default_value = "24h", value_parser = patience)]
    pub grace: Duration,

    /// How much of the packs may be unused, as a part of what is needed, before some are stored again without it
    #[arg(long, value_name = "PERCENT", default_value = "5%", value_parser = percent)]
    pub max_unused: f64,

    /// Store no more than this again [default: as much as --max-unused asks for]
    #[arg(long, value_name = "SIZE")]
    pub max_repack: Option<Bytes>,

    /// Free every forgotten snapshot, also those that `retention:` would keep
    #[arg(long)]
    pub accept_forgotten: bool,

    /// Say what would be done, and do nothing
    #[arg(long)]
    pub dry_run: bool,
}

/// Prunes the repository.
///
/// # Errors
///
/// Those of [`Stored::open`] and [`Repository::prune`](crate::repo::Repository::prune).
pub fn run(args: &Args, context: &Context) -> Result<u8> {
    let config = context.config()?;
    let began = Instant::now();
    let report = context.run(context.cancel.run(async {
        let stored = Stored::open(context, &config).await?;
        let policy = &context.repository(&config)?.retention;
        let keeps: Box<dyn Fn(&Manifest) -> bool + Send + Sync> = match policy {
            Some(policy) if !args.accept_forgotten && !policy.is_empty() => {
                let verified = stored.damage_found().await?;
                let now = context.env.now();
                let go: BTreeSet<SnapshotId> =
                    retention::lets_go(policy, &stored.snapshots, &verified, now);
                Box::new(move |manifest| !go.contains(&manifest.snapshot))
            }
            _ => Box::new(|_| false),
        };
        let options = PruneOptions {
            grace: args.grace,
            max_unused: args.max_unused,
            max_repack: args.max_repack.map_or(u64::MAX, |bytes| bytes.0),
            dry_run: args.dry_run,
            keeps: &*keeps,
        };
        stored.repository.prune(&options).await
    }))?;
    let duration_ms = u64::try_from(began.elapsed().as_millis()).unwrap_or(u64::MAX);
    let document = PruneDocument::new(&report, args.dry_run, duration_ms);
    context.output.show(&document)?;
    Ok(exit_code(&document))
}

/// The exit code of a prune that was done: 22 when it met damage.
#[must_use]
pub const fn exit_code(document: &PruneDocument) -> u8 {
    if document.damaged_packs.is_empty() && document.lost_blobs == 0 {
        0
    } else {
        Cause::Damage.exit_code(Some(Side::Repository))
    }
}

impl Render for PruneDocument {
    fn render(&self, page: &mut Page) {
        let packs =
            |packs: PackCount| format!("{} ({})", Bytes(packs.bytes), count(packs.packs, "pack"));
        let would = if self.dry_run { "would be " } else { "" };
        let mut pairs = vec![
            ("freed", format!("{would}{}", packs(self.removed))),
            ("to be freed", {
                let when = self.due;
                let when = when.map(|due| format!(", by a prune after {}", due.to_second()));
                format!("{}{}", packs(self.marked), when.unwrap_or_default())
            }),
            ("stored again", {
                let again = count(self.repacked.packs, "pack");
                format!("{would}{} of {again}", Bytes(self.repacked.bytes))
            }),
            (
                "needed",
                format!(
                    "{} by {}, and {} unused beside it",
                    Bytes(self.needed_bytes),
                    count(self.snapshots, "snapshot"),
                    Bytes(self.unused_bytes)
                ),
            ),
        ];
        if self.locked.packs > 0 {
            pairs.push(("locked", packs(self.locked)));
        }
        page.pairs(&pairs);
        let short = |ids: &[crate::cli::documents::HexId]| -> Vec<String> {
            ids.iter().map(|id| id.short().to_owned()).collect()
        };
        page.list("marked packs wait for", self.waits_for.clone());
        page.list(
            "forgotten, and kept by the policy of this configuration (--accept-forgotten frees them)",
            short(&self.kept_back),
        );
        page.list("DAMAGED packs stay as they are", short(&self.damaged_packs));
        if self.lost_blobs > 0 {
            page.line(format!(
                "DAMAGE: {} that snapshots need are lost; eyrie verify names these snapshots",
                count(self.lost_blobs, "blob")
            ));
        }
        page.line(format!(
            "{} in {}",
            if self.dry_run { "looked" } else { "done" },
            took(Duration::from_millis(self.duration_ms))
        ));
    }
}
