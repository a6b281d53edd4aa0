//! `eyrie verify`: is what was stored still there.

use std::time::Duration;

use clap::ValueEnum;

use crate::Kind;
use crate::cli::documents::{HexId, VerifyDocument};
use crate::cli::output::{Page, Render, count};
use crate::cli::values::{Bytes, Sample, SnapshotName, took};

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

/// How far a verification looks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, ValueEnum)]
pub enum Level {
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

/// The exit code of a verification.
#[must_use]
pub const fn exit_code(document: &VerifyDocument) -> u8 {
    if document.damage.is_empty() {
        0
    } else {
        Kind::Damage.exit_code()
    }
}

impl Render for VerifyDocument {
    fn render(&self, page: &mut Page) {
        for damage in &self.damage {
            let snapshots: Vec<_> = damage.snapshots.iter().map(HexId::short).collect();
            page.line(format!("DAMAGE {}: {}", damage.kind, damage.what));
            page.line(format!("  at {}", damage.place));
            page.line(format!("  needed by {}", snapshots.join(", ")));
        }
        page.line(format!(
            "{}: {} in {} of {}, {} read in {}",
            self.level,
            match self.damage.len() {
                0 => "no damage".to_owned(),
                n => format!("DAMAGE in {}", count(n as u64, "place")),
            },
            count(self.objects, "object"),
            count(self.snapshots, "snapshot"),
            Bytes(self.bytes_read),
            took(Duration::from_millis(self.duration_ms)),
        ));
    }
}
