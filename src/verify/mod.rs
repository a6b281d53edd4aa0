//! The ladder: existence, structure, bytes.
//!
//! Each step includes those before it. Existence and bytes are the repository's own affair;
//! structure also decodes each snapshot's metadata and asks whether every object that it requires
//! is in the snapshot (I2).

mod objects;

use serde::Serialize;

use crate::cancel::Cancel;
use crate::env::Env;
use crate::progress::SharedProgress;
use crate::repo::{self, CheckBytes, CheckReport, Manifest, PackId, Repository, SnapshotId};
use crate::{Error, Kind, Result};

/// How far a verification looks; each level includes those before it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Level {
    /// Every file that is needed is there, with its size.
    Existence,
    /// Index, trees, manifests and metadata open and agree.
    Structure,
    /// Every byte is read, opened and hashed again.
    Bytes,
}

/// Which of the packs that hold data are read.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Sample {
    /// All.
    All,
    /// A random share, in percent, above 0 and at most 100; another one each time.
    Percent(f64),
    /// The `part`th of `of` parts, counted from 1: `of` verifications read everything once. A pack
    /// stays in its part.
    Part {
        /// From 1 to `of`.
        part: u32,
        /// How many parts.
        of: u32,
    },
}

/// What to verify.
#[derive(Debug, Clone)]
pub struct Options {
    /// How far to look.
    pub level: Level,
    /// Which bytes to read at [`Level::Bytes`].
    pub sample: Sample,
    /// The snapshots to look at; all when empty.
    pub only: Vec<SnapshotId>,
}

/// What a verification runs in.
#[derive(Debug, Clone)]
pub struct Context {
    /// Clock, randomness and ids.
    pub env: Env,
    /// Who is told how it goes.
    pub progress: SharedProgress,
    /// Ends it.
    pub cancel: Cancel,
}

/// What was looked at and what is wrong with it.
#[derive(Debug, Clone)]
pub struct Verified {
    /// How far it looked.
    pub level: Level,
    /// Snapshots that were looked at.
    pub snapshots: Vec<SnapshotId>,
    /// Their objects; one that several snapshots have is counted in each.
    pub objects: u64,
    /// Bytes of packs that were read.
    pub bytes_read: u64,
    /// What is wrong; nothing when all is well.
    pub damage: Vec<Damage>,
}

/// One damage.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Damage {
    /// Its name: the repository's kinds, `anchor` for metadata that does not decode, `object` for
    /// one that the metadata requires and the snapshot does not have.
    pub kind: String,
    /// What is wrong.
    pub what: String,
    /// The file of the repository.
    #[serde(rename = "where")]
    pub place: String,
    /// The snapshots that need it.
    pub snapshots: Vec<SnapshotId>,
}

/// Verifies `repository`.
///
/// # Errors
///
/// What the store fails with; damage is in the result. [`Kind::Usage`] when only a sample is asked
/// for at a level that reads no bytes.
pub async fn verify(
    context: &Context,
    repository: &Repository,
    options: &Options,
) -> Result<Verified> {
    if options.level != Level::Bytes && options.sample != Sample::All {
        let message = "a sample is of bytes, which this level does not read";
        return Err(Error::new(Kind::Usage, message).with_hint("add --level bytes"));
    }
    let reader = match repository
        .begin_reader("verify", options.only.clone())
        .await
    {
        Ok(reader) => Some(reader),
        // The index cannot be read: that is a finding, and nothing else needs protection.
        Err(error) if error.kind() == Kind::Damage => None,
        Err(error) => return Err(error),
    };
    let work = context
        .cancel
        .run(Box::pin(run(context, repository, options)));
    let outcome = work.await;
    if let Some(reader) = reader {
        reader.finish().await?;
    }
    outcome
}

async fn run(context: &Context, repository: &Repository, options: &Options) -> Result<Verified> {
    let phase = match options.level {
        Level::Existence => "existence",
        Level::Structure => "structure",
        Level::Bytes => "bytes",
    };
    context.progress.begin(phase, None);
    let report = check(context, repository, options).await?;
    let mut damage: Vec<Damage> = report.damage.into_iter().map(Damage::from).collect();
    let manifests = repository.snapshots().await?.manifests;
    let asked = |m: &Manifest| options.only.is_empty() || options.only.contains(&m.snapshot);
    let manifests: Vec<Manifest> = manifests.into_iter().filter(asked).collect();
    // Without an index no tree can be read: the check has said so.
    let readable = !damage
        .iter()
        .any(|d| d.kind == "index" && d.place == "index/");
    if options.level >= Level::Structure && readable {
        context.progress.begin("metadata", None);
        let view = repository.view().await?;
        for manifest in &manifests {
            // Damage of the trees is told already, with the pack that has it.
            let broken = |d: &Damage| d.snapshots.contains(&manifest.snapshot);
            if !damage.iter().any(broken) {
                damage.extend(objects::damage(&view, manifest).await?);
            }
        }
    }
    context.progress.end();
    Ok(Verified {
        level: options.level,
        snapshots: manifests.iter().map(|m| m.snapshot).collect(),
        objects: manifests.iter().map(|m| m.totals.objects).sum(),
        bytes_read: report.bytes_read,
        damage,
    })
}

async fn check(
    context: &Context,
    repository: &Repository,
    options: &Options,
) -> Result<CheckReport> {
    let only = &options.only;
    let seed = context.env.id();
    let chosen = |pack: &PackId| match options.sample {
        Sample::All => true,
        Sample::Percent(percent) => drawn(&seed, pack) < percent / 100.0,
        Sample::Part { part, of } => part_of(pack, of) == part,
    };
    match options.level {
        Level::Existence if only.is_empty() => repository.check_existence().await,
        // What one snapshot needs is known from its trees only.
        Level::Existence | Level::Structure => repository.check(only, CheckBytes::None).await,
        Level::Bytes => repository.check(only, CheckBytes::Some(&chosen)).await,
    }
}

/// A number from 0 to below 1 for a pack, another one for each seed.
fn drawn(seed: &[u8; 32], pack: &PackId) -> f64 {
    let hash = blake3::keyed_hash(seed, pack.as_bytes());
    let [a, b, c, d, ..] = *hash.as_bytes();
    f64::from(u32::from_le_bytes([a, b, c, d])) / (f64::from(u32::MAX) + 1.0)
}

/// Which of `of` parts a pack is in, from 1; pack ids are random.
fn part_of(pack: &PackId, of: u32) -> u32 {
    let [a, b, c, d, ..] = *pack.as_bytes();
    u32::from_le_bytes([a, b, c, d]) % of.max(1) + 1
}

impl From<repo::Damage> for Damage {
    fn from(damage: repo::Damage) -> Self {
        let kind = serde_json::to_value(damage.kind).unwrap_or_default();
        Self {
            kind: kind.as_str().unwrap_or("damage").to_owned(),
            what: damage.what,
            place: damage.place,
            snapshots: damage.snapshots,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pack(number: u8) -> PackId {
        PackId::from_bytes(*blake3::hash(&[number]).as_bytes())
    }

    #[test]
    fn parts_together_are_everything_and_no_pack_is_in_two() {
        for of in [1, 2, 7] {
            for number in 0..=255 {
                let part = part_of(&pack(number), of);
                assert!((1..=of).contains(&part));
                assert_eq!(part, part_of(&pack(number), of));
            }
            let parts: std::collections::BTreeSet<u32> =
                (0..=255).map(|number| part_of(&pack(number), of)).collect();
            assert_eq!(parts.len() as u32, of);
        }
    }

    #[test]
    fn a_share_is_about_what_was_asked_for_and_all_is_all() {
        let seed = [7; 32];
        let below = |share: f64| {
            (0..=255)
                .filter(|n| drawn(&seed, &pack(*n)) < share)
                .count()
        };
        assert_eq!(below(1.0), 256);
        assert!((90..170).contains(&below(0.5)), "{}", below(0.5));
        let other = (0..=255).filter(|n| drawn(&[8; 32], &pack(*n)) < 0.5);
        let this = (0..=255).filter(|n| drawn(&seed, &pack(*n)) < 0.5);
        assert!(!this.eq(other), "another seed draws others");
    }
}
