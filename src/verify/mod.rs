//! The ladder from existence to bytes; each level includes those before it.
//!
//! At the level of bytes every blob is opened and hashed again, and every pack compared with its own
//! BLAKE3. An object's hash follows from its blobs' chaining values, or was taken in the same pass;
//! a restore proves it once more from the bytes that it hands to write (I8).

mod objects;
mod pinned;

use std::time::Duration;

use serde::Serialize;

use crate::base::cancel::{Cancel, Turn};
use crate::base::env::Env;
use crate::base::progress::SharedProgress;
use crate::repo::{
    BadPlace, CheckBytes, Damage, DamageKind, IndexId, Manifest, PackId, Reader, Repository,
    SnapshotId, Snapshots, View,
};
use crate::{Cause, Result};

/// How far to look.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum Level {
    // Which files are needed is told by the trees, so this level reads them too, and leaves it to
    // the next one to judge them.
    /// Every file that is needed is there, with its size
    Existence,
    /// Index, trees and manifests open and agree
    Structure,
    /// Every byte is read, decrypted and hashed again
    Bytes,
}

impl Level {
    /// The word on the command line and in documents.
    #[must_use]
    pub const fn word(self) -> &'static str {
        match self {
            Self::Existence => "existence",
            Self::Structure => "structure",
            Self::Bytes => "bytes",
        }
    }
}

/// Which part of the data to read at the level of bytes.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Sample {
    /// All of it.
    All,
    /// A random share of the packs, in percent.
    Percent(f64),
    /// The `part`th of `of` equal parts, from 1: `of` runs read everything once.
    Part {
        /// From 1 to `of`.
        part: u32,
        /// How many parts.
        of: u32,
    },
}

/// What to verify.
#[derive(Debug, Clone, PartialEq)]
pub struct Options {
    /// The snapshots; all when empty.
    pub snapshots: Vec<SnapshotId>,
    /// How far to look.
    pub level: Level,
    /// Which part of the data to read.
    pub sample: Sample,
}

/// What a verification found.
#[derive(Debug, Clone, Serialize)]
pub struct VerifyReport {
    /// How far it looked.
    pub level: Level,
    /// Snapshots that were looked at.
    pub snapshots: u64,
    /// Objects in them; one in several snapshots counts in each.
    pub objects: u64,
    /// Bytes of packs that were read.
    pub bytes_read: u64,
    /// What is wrong; nothing when all is well.
    pub damage: Vec<Damage>,
    /// Where packs and blobs are damaged or missing.
    #[serde(skip)]
    pub places: Vec<BadPlace>,
    /// Index segments that cannot be read.
    #[serde(skip)]
    pub segments: Vec<IndexId>,
    /// How long it took.
    #[serde(skip)]
    pub duration: Duration,
}

/// Verifies snapshots of a repository. Damage is in the report, not an error.
///
/// # Errors
///
/// What the store fails with; [`Cause::Interrupted`] when told to stop.
pub async fn verify(
    repository: &Repository,
    options: &Options,
    env: &Env,
    progress: &SharedProgress,
    cancel: &Cancel,
) -> Result<VerifyReport> {
    let began = env.boottime();
    progress.begin("verify", None);
    let parents = options.snapshots.clone();
    let reader = repository.begin_check("verify", parents);
    let session = match cancel.run(reader).await {
        Ok(session) => Some(session),
        // The index is damaged: what is wrong with it is the report's business.
        Err(error) if error.cause() == Cause::Damage => None,
        Err(error) => return Err(error),
    };
    let (reader, snapshots) = session.unzip();
    let view = reader.as_ref().map(Reader::view);
    let looked = cancel
        .run(look(repository, view, snapshots, options, env))
        .await;
    if let Some(reader) = reader {
        cancel.in_order(Turn::Last, reader.finish()).await;
    }
    let mut report = looked?;
    progress.end();
    report.duration = env.boottime().saturating_sub(began);
    Ok(report)
}

async fn look(
    repository: &Repository,
    view: Option<&View>,
    snapshots: Option<Snapshots>,
    options: &Options,
    env: &Env,
) -> Result<VerifyReport> {
    let all = match snapshots {
        Some(snapshots) => snapshots,
        None => repository.snapshots().await?,
    };
    let asked = |id: &SnapshotId| options.snapshots.is_empty() || options.snapshots.contains(id);
    let manifests = all
        .manifests
        .iter()
        .filter(|manifest| asked(&manifest.snapshot));
    let (mut snapshots, mut objects) = (0, 0);
    for manifest in manifests {
        snapshots += 1;
        objects += manifest.totals.objects;
    }
    let mut report = VerifyReport {
        level: options.level,
        snapshots,
        objects,
        bytes_read: 0,
        damage: vec![],
        places: vec![],
        segments: vec![],
        duration: Duration::ZERO,
    };
    let sample = options.sample;
    let seed = env.id();
    let choose = move |pack: &PackId| chosen(sample, &seed, pack);
    let bytes = match (options.level, sample) {
        (Level::Existence | Level::Structure, _) => CheckBytes::None,
        (Level::Bytes, Sample::All) => CheckBytes::All,
        (Level::Bytes, _) => CheckBytes::Some(&choose),
    };
    let found = match view {
        Some(view) => view.check(all.clone(), &options.snapshots, bytes).await?,
        None => repository.check(&options.snapshots, bytes).await?,
    };
    report.bytes_read = found.bytes_read;
    report.damage = found.damage;
    report.places = found.places;
    report.segments = found.segments;
    if options.level == Level::Existence {
        let deeper = [DamageKind::Tree, DamageKind::Bytes];
        report
            .damage
            .retain(|damage| !deeper.contains(&damage.kind));
    } else if let Some(view) = view {
        let level = options.level;
        objects::check(view, &all.manifests, asked, level, &mut report.damage).await?;
    }
    Ok(report)
}

/// Damage of what a snapshot holds.
fn damaged(manifest: &Manifest, what: String) -> Damage {
    Damage {
        kind: DamageKind::Contents,
        what,
        place: format!("snapshots/{}", manifest.snapshot),
        snapshots: vec![manifest.snapshot],
    }
}

fn chosen(sample: Sample, seed: &[u8; 32], pack: &PackId) -> bool {
    match sample {
        Sample::All => true,
        Sample::Percent(percent) => {
            let hash = blake3::keyed_hash(seed, &pack.0);
            share(hash.as_bytes()) < percent / 100.0
        }
        Sample::Part { part, of } => {
            let [a, b, c, d, ..] = pack.0;
            u32::from_le_bytes([a, b, c, d]) % of.max(1) == part.saturating_sub(1)
        }
    }
}

/// The first bytes of `hash` as a number from 0 to 1.
fn share(hash: &[u8; 32]) -> f64 {
    let [a, b, c, d, ..] = *hash;
    f64::from(u32::from_le_bytes([a, b, c, d])) / f64::from(u32::MAX)
}

#[cfg(test)]
mod tests;
