//! `eyrie verify`: is what was stored still there.

use std::time::Duration;

use jiff::Timestamp;

use crate::base::text::Bytes;
use crate::cli::context::Context;
use crate::cli::documents::{DamageDocument, HexId, VerifyDocument};
use crate::cli::output::{Page, Render, count};
use crate::cli::stored::Stored;
use crate::cli::values::{SnapshotName, took};
use crate::repo::{DamageKind, SnapshotId, Verification, VerifiedSnapshot};
use crate::verify::{self, Level, Sample, VerifyReport};
use crate::{Cause, Error, Result, Side};

/// Verify snapshots: that everything is there, fits together, and has the same bytes
///
/// Exits 22 when damage is found, and names the snapshots that need what is damaged.
#[derive(Debug, Clone, clap::Args)]
pub struct Args {
    /// latest, an id or the beginning of one [default: all snapshots]
    #[arg(value_name = "SNAPSHOT")]
    pub snapshot: Option<SnapshotName>,

    /// How far to look; each level includes those before it
    #[arg(long, value_enum, default_value_t = Level::Structure)]
    pub level: Level,

    /// Look at a part of the data only: 10% at random, or 3/7 for the third of seven equal parts
    #[arg(long, value_name = "PART")]
    pub sample: Option<Sample>,
}

/// Verifies one snapshot or all.
///
/// # Errors
///
/// Those of [`Stored::open`] and [`Stored::find`]; damage that is found is in the document.
pub fn run(args: &Args, context: &Context) -> Result<u8> {
    let config = context.config()?;
    if args.sample.is_some() && args.level != Level::Bytes {
        let message = "--sample is of bytes, which this level does not read";
        return Err(Error::new(Cause::Invalid, message).with_hint("add --level bytes"));
    }
    let progress = context.progress();
    let report = context.run(async {
        let stored = Stored::open(context, &config).await?;
        let named = args.snapshot.iter().map(|name| stored.find(name));
        let only = named.map(|found| found.map(|manifest| manifest.snapshot));
        let options = verify::Options {
            level: args.level,
            sample: args.sample.unwrap_or(Sample::All),
            snapshots: only.collect::<Result<_>>()?,
        };
        let (repository, cancel) = (&stored.repository, &context.cancel);
        let work = verify::verify(repository, &options, &context.env, &progress, cancel);
        let report = Box::pin(work).await?;
        let result = result(&stored, &options, &report, context.env.now());
        // What was found is told whatever becomes of its record.
        let recorded = cancel.run(repository.record_verification(&result)).await;
        if let Err(error) = &recorded {
            tracing::warn!("the result is not recorded: {}", error.chain());
        }
        Ok((report, recorded.is_ok()))
    })?;
    let (report, recorded) = report;
    let document = document(args.level, &report, recorded)?;
    context.output.show(&document)?;
    Ok(exit_code(&document))
}

/// What is kept of a verification. One that read a sample looked at everything only as far as the
/// structure.
fn result(
    stored: &Stored,
    options: &verify::Options,
    report: &VerifyReport,
    time: Timestamp,
) -> Verification {
    let sampled = options.sample != Sample::All;
    let level = match options.level {
        Level::Existence => Level::Existence,
        Level::Bytes if !sampled => Level::Bytes,
        Level::Structure | Level::Bytes => Level::Structure,
    };
    let asked = |id: &SnapshotId| options.snapshots.is_empty() || options.snapshots.contains(id);
    let manifests = stored.snapshots.manifests.iter().map(|m| m.snapshot);
    let results = manifests.filter(asked).map(|snapshot| {
        let suffers = report
            .damage
            .iter()
            .filter(|d| d.snapshots.contains(&snapshot));
        VerifiedSnapshot {
            snapshot,
            damage: suffers.count() as u64,
        }
    });
    Verification {
        time,
        level: level.word().to_owned(),
        results: results.collect(),
        places: report.places.clone(),
        segments: report.segments.clone(),
    }
}

fn document(level: Level, report: &VerifyReport, recorded: bool) -> Result<VerifyDocument> {
    let damage = report.damage.iter().map(|damage| {
        Ok(DamageDocument {
            kind: kind(damage.kind)?,
            what: damage.what.clone(),
            place: damage.place.clone(),
            snapshots: damage
                .snapshots
                .iter()
                .map(|id| HexId(id.to_string()))
                .collect(),
        })
    });
    Ok(VerifyDocument {
        level: level.word().to_owned(),
        snapshots: report.snapshots,
        objects: report.objects,
        bytes_read: report.bytes_read,
        damage: damage.collect::<Result<_>>()?,
        duration_ms: u64::try_from(report.duration.as_millis()).unwrap_or(u64::MAX),
        recorded,
    })
}

/// The name of a kind of damage.
fn kind(kind: DamageKind) -> Result<String> {
    serde_json::to_value(kind)
        .and_then(serde_json::from_value)
        .map_err(|error| Error::new(Cause::Failed, "naming a kind of damage").with_source(error))
}

/// The exit code of a verification.
#[must_use]
pub const fn exit_code(document: &VerifyDocument) -> u8 {
    if document.damage.is_empty() {
        0
    } else {
        Cause::Damage.exit_code(Some(Side::Repository))
    }
}

impl Render for VerifyDocument {
    fn render(&self, page: &mut Page) {
        for damage in &self.damage {
            let snapshots: Vec<_> = damage.snapshots.iter().map(HexId::short).collect();
            page.line(format!("DAMAGE {}: {}", damage.kind, damage.what));
            page.line(format!("  at {}", damage.place));
            page.line(match snapshots.len() {
                0 => "  no snapshot needs it".to_owned(),
                _ => format!("  needed by {}", snapshots.join(", ")),
            });
        }
        page.line(format!(
            "{}: {} in {} of {}, {} read in {}{}",
            self.level,
            match self.damage.len() {
                0 => "no damage".to_owned(),
                n => format!("DAMAGE in {}", count(n as u64, "place")),
            },
            count(self.objects, "object"),
            count(self.snapshots, "snapshot"),
            Bytes(self.bytes_read),
            took(Duration::from_millis(self.duration_ms)),
            if self.recorded { "" } else { ", not recorded" },
        ));
    }
}
