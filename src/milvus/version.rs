//! Which Milvus this is, and the one table of what differs between versions.

use std::fmt;
use std::time::Duration;

use super::catalog::WalKind;
use crate::{Cause, Error, Result};

/// The key of the write hold, below `{root}/config/` (docs/milvus.md 2.3).
pub const FORCE_DENY_WRITING: &str = "quotaAndLimits/limitWriting/forceDeny";
/// The key of the DDL hold, below `{root}/config/` (docs/milvus.md 2.3).
pub const FORCE_DENY_DDL: &str = "quotaAndLimits/forceDenyAllDDL";
/// The key of the compaction hold, below `{root}/config/` (docs/milvus.md 2.4).
pub const AUTO_COMPACTION: &str = "dataCoord/compaction/enableAutoCompaction";
/// The key of the hold of sort compaction, below `{root}/config/` (docs/milvus.md 2.4).
pub const SORT_COMPACTION: &str = "dataCoord/sortCompaction/enable";
/// The key that keeps garbage collection from starting, below `{root}/config/`; read at start only
/// (docs/milvus.md 2.2).
pub const GARBAGE_COLLECTION: &str = "dataCoord/enableGarbageCollection";

/// The version that a Milvus says it is.
///
/// Releases are `v2.3.5`, with a flavour (`-lite`, `-gpu`) that changes nothing or a mark of a
/// pre-release (`-dev`, `-rc1`, a date) that sorts before the release. Builds of a branch are
/// `2.5-20251012-abcdef`: their patch level is not known. Builds of `master` say no number at all.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MilvusVersion {
    text: String,
    number: Option<Number>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Number {
    major: u64,
    minor: u64,
    patch: Option<u64>,
    stage: Stage,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    PreRelease,
    Release,
}

impl MilvusVersion {
    /// Reads a version; text without a number makes an unknown version, never an error.
    #[must_use]
    pub fn parse(text: &str) -> Self {
        let text = text.trim();
        Self {
            text: text.to_owned(),
            number: parse_number(text),
        }
    }

    /// The release `major.minor.patch`.
    #[must_use]
    pub fn new(major: u64, minor: u64, patch: u64) -> Self {
        Self {
            text: format!("{major}.{minor}.{patch}"),
            number: Some(Number {
                major,
                minor,
                patch: Some(patch),
                stage: Stage::Release,
            }),
        }
    }

    /// What Milvus answered, as it is.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// Major and minor number, which must be equal between snapshot and target; `None` when unknown.
    #[must_use]
    pub fn series(&self) -> Option<(u64, u64)> {
        self.number.map(|number| (number.major, number.minor))
    }

    /// The patch level; `None` for builds of a branch.
    #[must_use]
    pub fn patch(&self) -> Option<u64> {
        self.number.and_then(|number| number.patch)
    }

    /// Whether this certainly is `major.minor.patch` or later: an unknown version is not, a branch's
    /// build is not where the patch level would decide, a pre-release comes before its release.
    #[must_use]
    pub fn at_least(&self, major: u64, minor: u64, patch: u64) -> bool {
        let Some(number) = self.number else {
            return false;
        };
        let series = (number.major, number.minor);
        if series != (major, minor) {
            return series > (major, minor);
        }
        match number.patch {
            None => false,
            Some(own) if own == patch => number.stage == Stage::Release,
            Some(own) => own > patch,
        }
    }

    /// Whether `RootCoord` reads its catalog at start from the copies under `snapshots/` instead of
    /// the plain keys: versions before 2.4.14 (docs/milvus.md 3.1).
    #[must_use]
    pub fn reads_snapshot_copies(&self) -> bool {
        self.number.is_some() && !self.at_least(2, 4, 14)
    }

    /// Whether a compaction loses deletes that are flushed while it runs: before 2.4 etcd gets the delta
    /// logs of one input only (docs/milvus.md 00).
    #[must_use]
    pub fn forgets_deletes(&self) -> bool {
        self.number.is_some() && !self.at_least(2, 4, 0)
    }

    /// Whether Milvus has streaming nodes and their write-ahead log: 2.6 and later.
    #[must_use]
    pub fn has_streaming(&self) -> bool {
        self.series().is_some_and(|series| series >= (2, 6))
    }

    /// Whether dynamic configuration lives at `{root}/config/`: 2.3 and later; 2.2 has it below
    /// `{root}/meta/config/`.
    #[must_use]
    pub fn has_root_config(&self) -> bool {
        self.series().is_none_or(|series| series >= (2, 3))
    }

    /// Whether a snapshot of `self` may be restored onto `target`: same major and minor number, patch
    /// level not lower (docs/milvus.md 8.2).
    #[must_use]
    pub fn fits(&self, target: &Self) -> TargetFit {
        let (Some(source), Some(own)) = (self.number, target.number) else {
            return TargetFit::Unknown;
        };
        if (source.major, source.minor) != (own.major, own.minor) {
            return TargetFit::OtherSeries;
        }
        match (source.patch, own.patch) {
            _ if self == target => TargetFit::Fits,
            (Some(from), Some(to)) if to < from => TargetFit::OlderPatch,
            (Some(_), Some(_)) => TargetFit::Fits,
            _ => TargetFit::Unknown,
        }
    }

    /// What this Milvus does at its first start on a WAL of `kind` that has nothing in it.
    #[must_use]
    pub fn on_fresh_wal(&self, kind: WalKind) -> FreshWal {
        match kind {
            // Query nodes up to 2.6.13 panic on Woodpecker's own earliest position (docs/milvus.md 5.5).
            WalKind::Woodpecker if !self.at_least(2, 6, 14) => FreshWal::Panics,
            WalKind::Natsmq => FreshWal::NoFirstPosition,
            WalKind::Rocksmq if !self.has_streaming() => FreshWal::Starts,
            _ => FreshWal::Unproven,
        }
    }

    /// What holds for this version.
    #[must_use]
    pub fn rules(&self) -> Rules {
        let series = self.series();
        let from = |first, key| series.is_some_and(|series| series >= first).then_some(key);
        let ddl = match series {
            Some((2, 4)) => self.at_least(2, 4, 24),
            Some((2, 5)) => self.at_least(2, 5, 8),
            series => series.is_some_and(|series| series >= (2, 6)),
        };
        // Where the version does not say, the keys are worth a try: the probe decides.
        let unknown = |key| series.is_none().then_some(key);
        Rules {
            flush: self.flush_method(),
            flush_shape: self.flush_shape(),
            gc: self.gc_generation(),
            write_hold: from((2, 3), FORCE_DENY_WRITING).or(unknown(FORCE_DENY_WRITING)),
            ddl_hold: ddl.then_some(FORCE_DENY_DDL),
            compaction_hold: from((2, 3), AUTO_COMPACTION).or(unknown(AUTO_COMPACTION)),
            sort_compaction_hold: from((2, 6), SORT_COMPACTION).or(unknown(SORT_COMPACTION)),
            alloc_timestamp: if self.at_least(2, 2, 13) {
                Support::Yes
            } else {
                Support::Uncertain
            },
            session_ttl: session_ttl(series),
        }
    }

    fn flush_shape(&self) -> FlushShape {
        let targets = match self.series() {
            Some((2, 5)) => self.at_least(2, 5, 19),
            Some((2, 6)) => self.at_least(2, 6, 3),
            _ => false,
        };
        if self.at_least(2, 6, 8) {
            FlushShape::Broadcast
        } else if targets {
            FlushShape::Targets
        } else if self.at_least(2, 3, 1) {
            FlushShape::Database
        } else if self.at_least(2, 2, 5) {
            FlushShape::Timestamp
        } else {
            FlushShape::Absent
        }
    }

    fn flush_method(&self) -> FlushMethod {
        // 2.6.0 to 2.6.2 look up the collections of every database in the default one (Milvus,
        // internal/proxy/task_flush_all_streaming.go at 2.6.0), so FlushAll fails or flushes the
        // wrong ones; 2.6.3 looks them up rightly. A build of the branch may be either.
        let wrong = self.series() == Some((2, 6)) && !self.at_least(2, 6, 3);
        if wrong || !self.at_least(2, 2, 5) {
            FlushMethod::PerCollection
        } else {
            FlushMethod::FlushAll
        }
    }

    fn gc_generation(&self) -> GcGeneration {
        match (self.series(), self.patch()) {
            (None, _) | (Some((2, 3)), None) => GcGeneration::Unknown,
            (Some(series), _) if series < (2, 3) => GcGeneration::Absent,
            (Some((2, 3)), _) if self.at_least(2, 3, 9) => GcGeneration::Blocking,
            (Some((2, 3)), _) => GcGeneration::Absent,
            _ if self.at_least(2, 6, 8) => GcGeneration::Tickets,
            _ => GcGeneration::Simple,
        }
    }
}

impl fmt::Display for MilvusVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.text.is_empty() {
            "unknown"
        } else {
            &self.text
        })
    }
}

impl std::str::FromStr for MilvusVersion {
    type Err = Error;

    /// Reads a version that an operator declares, which must have a number: `2.3.5`, `v2.6.0-gpu`.
    fn from_str(text: &str) -> Result<Self> {
        let version = Self::parse(text);
        if version.patch().is_some() {
            return Ok(version);
        }
        Err(
            Error::new(Cause::Invalid, format!("{text:?} is not a Milvus version"))
                .with_hint("write the version that runs, such as 2.3.5"),
        )
    }
}

/// What a Milvus does at its first start on an empty WAL.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FreshWal {
    /// It starts: this was run.
    Starts,
    /// It should start; no test here ever ran it against a real one.
    Unproven,
    /// It panics on the first position.
    Panics,
    /// What the first position is, is not known.
    NoFirstPosition,
}

/// Whether a snapshot may be restored onto a target of another version.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TargetFit {
    /// It may.
    Fits,
    /// Major or minor number differ.
    OtherSeries,
    /// The target's patch level is lower than the source's.
    OlderPatch,
    /// One of the two does not say.
    Unknown,
}

/// What differs between versions, for one of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rules {
    /// How the instance is flushed.
    pub flush: FlushMethod,
    /// What `FlushAll` and `GetFlushAllState` look like.
    pub flush_shape: FlushShape,
    /// How garbage collection is paused.
    pub gc: GcGeneration,
    /// The key that denies writes, below `{root}/config/`; `None` where it is read at start only (2.2).
    pub write_hold: Option<&'static str>,
    /// The key that denies DDL, below `{root}/config/` (2.4.24, 2.5.8, 2.6).
    pub ddl_hold: Option<&'static str>,
    /// The key that stops automatic compaction when false, below `{root}/config/`.
    pub compaction_hold: Option<&'static str>,
    /// The key that stops sort compaction when false, below `{root}/config/` (2.6).
    pub sort_compaction_hold: Option<&'static str>,
    /// Whether `AllocTimestamp` is certainly there (2.2.13).
    pub alloc_timestamp: Support,
    /// How long a session's lease lives after its process by default (docs/milvus.md 3.4); operators
    /// may set another.
    pub session_ttl: Duration,
}

/// Whether a version has a call for certain.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Support {
    /// It has.
    Yes,
    /// It has not, or the version does not say.
    Uncertain,
}

/// How an instance is flushed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FlushMethod {
    /// One `FlushAll`.
    FlushAll,
    /// `Flush` of each collection: `FlushAll` is absent, wrong, or the version does not say.
    PerCollection,
}

/// What `FlushAll` looks like (docs/milvus.md 1.4).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FlushShape {
    /// There is none, or nobody knows (before 2.2.5).
    Absent,
    /// An empty request; the answer is a timestamp (2.2.5 to 2.3.0).
    Timestamp,
    /// A database may be named; the answer is a timestamp (2.3.1 to 2.5.18, 2.6.0 to 2.6.2).
    Database,
    /// Collections may be named; the answer has results for each (2.5.19 on in 2.5, 2.6.3 to 2.6.7).
    Targets,
    /// The whole instance; the answer has a message for each physical channel (2.6.8).
    Broadcast,
}

/// How garbage collection is paused (docs/milvus.md 2.2).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum GcGeneration {
    /// Not at all: the route answers 404 (before 2.3.9).
    Absent,
    /// The call waits for a running pass; when the caller gives up first nothing is paused. The scan for
    /// orphans does not heed the pause (2.3.9 to 2.3.x).
    Blocking,
    /// Returns at once; a running pass goes on. Resuming clears everyone's pause (2.4.0 to 2.6.7).
    Simple,
    /// Each pause has a ticket, and resuming needs it (2.6.8).
    Tickets,
    /// The version does not say.
    Unknown,
}

/// `common.session.ttl` by default (docs/milvus.md 3.4): the longest that any patch of the series has.
fn session_ttl(series: Option<(u64, u64)>) -> Duration {
    Duration::from_secs(match series {
        Some((2, 0..=2)) => 20,
        Some(series) if series >= (2, 6) => 15,
        _ => 60,
    })
}

fn parse_number(text: &str) -> Option<Number> {
    let text = text.strip_prefix(['v', 'V']).unwrap_or(text);
    let end = text
        .find(|c: char| !c.is_ascii_digit() && c != '.')
        .unwrap_or(text.len());
    let (number, suffix) = text.split_at(end);
    if !suffix.is_empty() && !suffix.starts_with(['-', '+']) {
        return None;
    }
    let mut parts = number.split('.').map(|part| part.parse().ok());
    let (major, minor) = (parts.next()??, parts.next()??);
    let patch = match parts.next() {
        Some(patch) => Some(patch?),
        None => None,
    };
    if parts.next().is_some() {
        return None;
    }
    let mark = suffix.trim_start_matches(['-', '+']).to_ascii_lowercase();
    let pre = ["dev", "rc", "beta", "alpha", "nightly"]
        .iter()
        .any(|stage| mark.starts_with(stage))
        || mark.starts_with(|c: char| c.is_ascii_digit());
    let stage = if pre {
        Stage::PreRelease
    } else {
        Stage::Release
    };
    Some(Number {
        major,
        minor,
        patch,
        stage,
    })
}

#[cfg(test)]
mod tests {
    use std::fmt::Write as _;

    use proptest::prelude::*;

    use super::*;

    fn version(text: &str) -> MilvusVersion {
        MilvusVersion::parse(text)
    }

    #[test]
    fn versions_are_read_in_every_form_milvus_answers() {
        for (text, series, patch) in [
            ("2.3.5", Some((2, 3)), Some(5)),
            ("v2.3.5-lite", Some((2, 3)), Some(5)),
            ("v2.6.0", Some((2, 6)), Some(0)),
            ("v2.6.13-gpu", Some((2, 6)), Some(13)),
            ("2.5-20251012-abcdef", Some((2, 5)), None),
            ("2.3.5-dev", Some((2, 3)), Some(5)),
            (" v3.0.0 ", Some((3, 0)), Some(0)),
            ("master-20260328-7611649078", None, None),
            ("unknown", None, None),
            ("", None, None),
            ("2", None, None),
            ("2.3.x", None, None),
            ("2.3.4.5", None, None),
            ("2..3", None, None),
        ] {
            assert_eq!(
                (version(text).series(), version(text).patch()),
                (series, patch),
                "{text}"
            );
        }
        assert_eq!(version("").to_string(), "unknown");
    }

    #[test]
    fn a_gate_is_open_only_when_it_certainly_is() {
        for (text, gate, open) in [
            ("2.6.8", (2, 6, 8), true),
            ("v2.6.8-gpu", (2, 6, 8), true),
            ("2.6.8-rc1", (2, 6, 8), false),
            ("2.6.8-20260101-abc", (2, 6, 8), false),
            ("2.6.9-dev", (2, 6, 8), true),
            ("2.6.10", (2, 6, 8), true),
            ("2.5.27", (2, 6, 0), false),
            ("2.5-20251012-abcdef", (2, 5, 0), false),
            ("2.5-20251012-abcdef", (2, 4, 24), true),
            ("3.0.0", (2, 6, 8), true),
            ("master", (2, 2, 0), false),
        ] {
            assert_eq!(
                version(text).at_least(gate.0, gate.1, gate.2),
                open,
                "{text} {gate:?}"
            );
        }
    }

    #[test]
    fn a_target_fits_with_the_same_series_and_no_lower_patch() {
        for (source, target, fit) in [
            ("2.3.5", "v2.3.5-lite", TargetFit::Fits),
            ("2.3.5", "2.3.22", TargetFit::Fits),
            ("2.3.22", "2.3.5", TargetFit::OlderPatch),
            ("2.5.27", "2.6.0", TargetFit::OtherSeries),
            ("2.5-20251012-a", "2.5.27", TargetFit::Unknown),
            ("2.5-20251012-a", "2.5-20251012-a", TargetFit::Fits),
            ("2.3.5", "master", TargetFit::Unknown),
        ] {
            assert_eq!(
                version(source).fits(&version(target)),
                fit,
                "{source} onto {target}"
            );
        }
    }

    #[test]
    fn the_table_of_versions() {
        let mut table = String::new();
        for text in [
            "2.2.4",
            "2.2.16",
            "2.3.0",
            "2.3.5",
            "2.3.22",
            "2.4.0",
            "2.4.24",
            "2.5.7",
            "2.5.18",
            "2.5.27",
            "2.6.0",
            "2.6.2",
            "2.6.3",
            "2.6.7",
            "2.6.8",
            "2.6.13",
            "3.0.0",
            "2.5-20251012-abcdef",
            "2.6-20251012-abcdef",
            "2.3-20240112-abc",
            "master-20260328-abc",
        ] {
            let rules = version(text).rules();
            let key = |key: Option<&str>| if key.is_some() { "key" } else { "-" };
            writeln!(
                table,
                "{text:<20} {:<13} {:<9} gc {:<8} write {:<3} ddl {:<3} compaction {:<3} sort {:<3} ts {:<9} ttl {}",
                format!("{:?}", rules.flush),
                format!("{:?}", rules.flush_shape),
                format!("{:?}", rules.gc),
                key(rules.write_hold),
                key(rules.ddl_hold),
                key(rules.compaction_hold),
                key(rules.sort_compaction_hold),
                format!("{:?}", rules.alloc_timestamp),
                rules.session_ttl.as_secs(),
            )
            .unwrap();
        }
        insta::assert_snapshot!(table);
    }

    proptest! {
        #[test]
        fn any_text_is_a_version(text in ".{0,40}") {
            let version = version(&text);
            let _ = version.rules();
            prop_assert_eq!(version.as_str(), text.trim());
        }

        #[test]
        fn a_later_patch_never_loses_a_gate(minor in 2_u64..8, patch in 0_u64..40, gate in (2_u64..8, 0_u64..40)) {
            let older = version(&format!("2.{minor}.{patch}"));
            let newer = version(&format!("2.{minor}.{}", patch + 1));
            prop_assert!(!older.at_least(2, gate.0, gate.1) || newer.at_least(2, gate.0, gate.1));
        }
    }
}
