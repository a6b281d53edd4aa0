//! What makes a target refuse: every rule in one place, as a pure function of facts (I5).

use schemars::JsonSchema;
use serde::Serialize;

use crate::base::text::Bytes;
use crate::instance::objects::Presence;
use crate::milvus::catalog::WalKind;
use crate::milvus::version::{FreshWal, TargetFit};
use crate::restore::options::{KeepWal, Occupied, Options, Unproven};
use crate::restore::plan::inputs::{Contents, Counted, Marked, SourceFacts, TargetFacts};
use crate::restore::plan::marker::{AREA, Stage};
use crate::snapshot::WalState;
use crate::{Cause, Error, Side};

/// The rule of what has no space.
const FULL: &str = "no-space";

/// Why a target refuses.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, JsonSchema)]
pub struct Refusal {
    /// The rule, a stable word.
    pub rule: &'static str,
    /// What was found.
    pub found: String,
    /// The way out.
    pub hint: String,
}

impl Refusal {
    /// A refusal under `rule`.
    pub(crate) fn new(
        rule: &'static str,
        found: impl Into<String>,
        hint: impl Into<String>,
    ) -> Self {
        Self {
            rule,
            found: found.into(),
            hint: hint.into(),
        }
    }

    /// As an error.
    #[must_use]
    pub fn to_error(&self) -> Error {
        let cause = match self.rule {
            FULL => Cause::NoSpace,
            _ => Cause::Refused,
        };
        Side::Target
            .error(cause, self.found.clone())
            .with_hint(self.hint.clone())
    }
}

/// Every reason why `target` refuses `source`, the gravest first; empty when the restore may begin.
#[must_use]
pub fn refusals(source: &SourceFacts, target: &TargetFacts, options: &Options) -> Vec<Refusal> {
    let rules = [
        contents(source),
        unsupported(target),
        overlap(target),
        nesting(target),
        others(target),
        running(target),
        marker(target, options),
        used(target),
        version(source, target),
        channels(source, target),
        wal_kind(source, target, options),
        wal_unproven(source, target, options),
        place(target),
        whole_bucket(target, options),
        etcd_empty(target, options),
        etcd_left(target, options),
        storage_empty(target, options),
        storage_space(source, target),
        wal_empty(target, options),
        wal_keys(target),
        etcd_room(target),
    ];
    rules.into_iter().flatten().collect()
}

/// Whether the restore brings the log of the snapshot back.
#[must_use]
pub fn keeps_wal(source: &SourceFacts) -> bool {
    source.wal_state == WalState::Captured
}

fn contents(source: &SourceFacts) -> Option<Refusal> {
    (source.contents == Contents::KeysOnly).then(|| {
        Refusal::new(
            "keys-only",
            format!(
                "snapshot {} holds only the etcd keys that a restore with --replace saved, no objects",
                source.snapshot
            ),
            "restore a snapshot of the instance itself: eyrie snapshots lists them",
        )
    })
}

fn unsupported(target: &TargetFacts) -> Option<Refusal> {
    let (what, hint) = target.unsupported.first()?;
    Some(Refusal::new("unsupported", what, hint))
}

fn overlap(target: &TargetFacts) -> Option<Refusal> {
    let overlap = target.overlap.as_ref()?;
    Some(Refusal::new(
        "overlap",
        format!("the repository and the target's storage overlap: {overlap}"),
        "a restore could destroy the backup: move one of them, or restore onto another storage root",
    ))
}

fn nesting(target: &TargetFacts) -> Option<Refusal> {
    let nesting = target.nesting.as_ref()?;
    Some(Refusal::new(
        "nesting",
        format!("what a restore replaces and what it must keep lie in one another: {nesting}"),
        "move one of them: a restore moves the old content of these directories away, and removes it at the end",
    ))
}

fn others(target: &TargetFacts) -> Option<Refusal> {
    let others = target.etcd.others.as_ref()?;
    Some(Refusal::new(
        "other-instance",
        others,
        "a restore replaces everything below its root: move one of the two to another root (etcd.rootPath), or restore \
         onto another etcd",
    ))
}

fn running(target: &TargetFacts) -> Option<Refusal> {
    (!target.running.is_empty()).then(|| {
        Refusal::new(
            "running",
            format!(
                "Milvus is running on the target {}: {}",
                target.instance,
                target.running.join("; ")
            ),
            "stop Milvus and run the same command again; if this is another Milvus, instance.milvus.address is wrong",
        )
    })
}

fn marker(target: &TargetFacts, options: &Options) -> Option<Refusal> {
    let Marked::Other { snapshot, started } = &target.etcd.marked else {
        return None;
    };
    (options.occupied == Occupied::Refuse).then(|| {
        Refusal::new(
            "marker",
            format!(
                "the target carries the marker of another restore: snapshot {snapshot}, begun {started}"
            ),
            "run that restore again as it was, with its options, to finish it (one with --replace needs --replace again), or replace what it left with --replace",
        )
    })
}

/// The swap of this restore had begun, or everything was in place, and Milvus has run since: what it wrote is not
/// to go.
fn used(target: &TargetFacts) -> Option<Refusal> {
    let (Marked::Ours(stage), Some(key)) = (&target.etcd.marked, &target.etcd.touched) else {
        return None;
    };
    let root = &target.etcd.root;
    if *stage < Stage::Clean {
        return Some(Refusal::new(
            "used",
            format!(
                "the swap of this restore had begun, and Milvus has run on the target {} since: {key} is newer",
                target.instance
            ),
            format!(
                "to replace what is there now, which is saved first, remove the marker (etcdctl del --prefix {root}/{AREA}) \
                 and restore with --replace"
            ),
        ));
    }
    Some(Refusal::new(
        "used",
        format!(
            "this restore had put everything in place, and Milvus has run on the target {} since: {key} is newer",
            target.instance
        ),
        format!(
            "the target is restored, and only what it replaced was not all removed: Milvus's garbage collection removes \
             objects that it does not know; to restore once more, remove the marker first: etcdctl del --prefix {root}/{AREA}"
        ),
    ))
}

fn version(source: &SourceFacts, target: &TargetFacts) -> Option<Refusal> {
    let Some(version) = target.version.get() else {
        return Some(Refusal::new(
            "version",
            format!(
                "the Milvus version of the target {} is not known; the snapshot is of {}",
                target.instance, source.version
            ),
            "set instance.milvus.version to the version that will be started there",
        ));
    };
    let hint = match source.version.fits(&version) {
        TargetFit::Fits => return None,
        TargetFit::OtherSeries | TargetFit::OlderPatch => {
            "a snapshot goes onto the same major and minor version, and the same patch or a newer one"
        }
        TargetFit::Unknown => {
            "whether they fit cannot be told: set instance.milvus.version to the release that will be started there"
        }
    };
    Some(Refusal::new(
        "version",
        format!(
            "the target {} is Milvus {version}, the snapshot is of {}",
            target.instance, source.version
        ),
        hint,
    ))
}

fn channels(source: &SourceFacts, target: &TargetFacts) -> Option<Refusal> {
    if source.channel_prefix != target.wal.channel_prefix {
        return Some(Refusal::new(
            "channel-prefix",
            format!(
                "the target names its channels {:?}, the snapshot's collections use {:?}",
                target.wal.channel_prefix, source.channel_prefix
            ),
            format!(
                "set common.chanNamePrefix.cluster to {} on the target",
                source.channel_prefix
            ),
        ));
    }
    (target.wal.channels < source.channels).then(|| {
        Refusal::new(
            "channels",
            format!(
                "the target has {} DML channels, the snapshot's collections use {}",
                target.wal.channels, source.channels
            ),
            format!(
                "set rootCoord.dmlChannelNum to {} or more on the target",
                source.channels
            ),
        )
    })
}

fn wal_kind(source: &SourceFacts, target: &TargetFacts, options: &Options) -> Option<Refusal> {
    if options.keep_wal == KeepWal::Require && !keeps_wal(source) {
        return Some(Refusal::new(
            "keep-wal",
            format!(
                "--keep-wal was asked for, and snapshot {} has no write-ahead log",
                source.snapshot
            ),
            "leave --keep-wal out: the snapshot needs a fresh queue; only cold snapshots of rocksmq have one",
        ));
    }
    if keeps_wal(source) && source.wal != target.wal.kind {
        return Some(Refusal::new(
            "wal-kind",
            format!(
                "the snapshot brings its {} queue, the target uses {}",
                source.wal, target.wal.kind
            ),
            format!("set mq.type to {} on the target", source.wal),
        ));
    }
    let version = target.version.get()?;
    let other = target.wal.kind.as_str();
    let kind = WalKind::from_name(other);
    match kind.map(|kind| version.on_fresh_wal(kind)) {
        Some(FreshWal::Panics) => Some(Refusal::new(
            "woodpecker",
            format!("Milvus {version} panics on the first position of a fresh Woodpecker queue"),
            "restore onto Milvus 2.6.14 or later, or with another mq.type",
        )),
        Some(FreshWal::Starts | FreshWal::Unproven) => None,
        Some(FreshWal::NoFirstPosition) | None => Some(Refusal::new(
            "wal-kind",
            format!(
                "the target's queue is {other}: the first position of a fresh one is not known"
            ),
            "restore onto an instance with rocksmq, kafka or pulsar",
        )),
    }
}

fn wal_unproven(source: &SourceFacts, target: &TargetFacts, options: &Options) -> Option<Refusal> {
    if source.unproven.is_empty() || options.unproven == Unproven::Accept {
        return None;
    }
    let unseen = match target.wal.kind.as_str() {
        "rocksmq" | "natsmq" => "",
        _ => "; whether the queue is empty cannot be seen from here",
    };
    Some(Refusal::new(
        "wal-unproven",
        format!(
            "never tried against a real one: {}{unseen}",
            source.unproven.join("; ")
        ),
        "make sure that the queue is fresh and empty, then add --accept-unproven-wal",
    ))
}

fn place(target: &TargetFacts) -> Option<Refusal> {
    let Presence::Missing { why, hint } = &target.storage.state else {
        return None;
    };
    Some(Refusal::new("storage-missing", why, *hint))
}

fn whole_bucket(target: &TargetFacts, options: &Options) -> Option<Refusal> {
    (target.storage.whole_bucket && options.occupied == Occupied::Replace).then(|| {
        Refusal::new(
            "whole-bucket",
            format!(
                "the target's storage root is all of {}: --replace would empty a whole bucket",
                target.storage.place
            ),
            "empty it yourself, or set minio.rootPath",
        )
    })
}

/// Whether what is on the target stays in the way.
fn resists(target: &TargetFacts, options: &Options) -> bool {
    options.occupied == Occupied::Refuse && !matches!(target.etcd.marked, Marked::Ours(_))
}

fn etcd_empty(target: &TargetFacts, options: &Options) -> Option<Refusal> {
    if options.occupied == Occupied::Replace || target.etcd.keys == 0 {
        return None;
    }
    let example = target.etcd.example.as_deref().unwrap_or_default();
    let found = format!(
        "the etcd root {} at {} is not empty: {} keys, such as {example}",
        target.etcd.root, target.etcd.place, target.etcd.keys
    );
    let hint = match target.etcd.marked {
        Marked::Ours(_) => {
            "something wrote to the target after this restore began; look at it, then empty the root or use --replace"
        }
        Marked::No | Marked::Other { .. } => {
            "restore onto another etcd root, or read the plan of --replace --dry-run and replace what is there"
        }
    };
    Some(Refusal::new("etcd-not-empty", found, hint))
}

/// An etcd that left data without a key of this root: what is prepared could not take its place.
fn etcd_left(target: &TargetFacts, options: &Options) -> Option<Refusal> {
    let in_the_way = target.etcd.keys > 0 || options.occupied == Occupied::Replace;
    (target.etcd.has_left && !in_the_way).then(|| {
        Refusal::new(
            "etcd-not-empty",
            format!(
                "the directory {} of the embedded etcd has data already, with no key below {}",
                target.etcd.place, target.etcd.root
            ),
            "remove its member directory when nobody needs it, or read the plan of --replace --dry-run and replace what is \
             there",
        )
    })
}

fn storage_empty(target: &TargetFacts, options: &Options) -> Option<Refusal> {
    let objects = target.storage.objects();
    if !resists(target, options) || objects == 0 {
        return None;
    }
    let least = match target.storage.counted {
        Counted::All => "",
        Counted::AtLeast => "at least ",
    };
    let example = target.storage.example.as_deref().unwrap_or_default();
    Some(Refusal::new(
        "storage-not-empty",
        format!(
            "the storage root {} is not empty: {least}{objects} objects, such as {example}",
            target.storage.place
        ),
        "restore onto another storage root, or read the plan of --replace --dry-run and replace what is there",
    ))
}

/// An empty directory on a file system that is too small for all of the snapshot.
fn storage_space(source: &SourceFacts, target: &TargetFacts) -> Option<Refusal> {
    let file_system = target.storage.file_system.as_ref()?;
    let anew = target.storage.objects() == 0 && target.etcd.marked == Marked::No;
    (anew && source.bytes > file_system.free).then(|| {
        Refusal::new(
            FULL,
            format!(
                "{} has {} free on {}, and the snapshot's objects have {}",
                target.storage.place,
                Bytes(file_system.free),
                file_system.mount.display(),
                Bytes(source.bytes)
            ),
            "free space there, or restore onto another file system",
        )
    })
}

fn wal_empty(target: &TargetFacts, options: &Options) -> Option<Refusal> {
    if !resists(target, options) {
        return None;
    }
    let (path, usage) = target
        .wal
        .directories
        .iter()
        .find(|(_, usage)| usage.objects > 0)?;
    Some(Refusal::new(
        "wal-not-empty",
        format!(
            "the queue of the target is not empty: {} files in {}",
            usage.objects,
            path.display()
        ),
        "the snapshot needs a fresh queue: remove those files, or replace what is there with --replace",
    ))
}

fn etcd_room(target: &TargetFacts) -> Option<Refusal> {
    let lack = target.etcd.room.lack.as_ref()?;
    let rule = if lack.is_full { FULL } else { "etcd-room" };
    Some(Refusal::new(rule, &lack.found, &lack.hint))
}

fn wal_keys(target: &TargetFacts) -> Option<Refusal> {
    (target.wal.keys > 0).then(|| {
        Refusal::new(
            "wal-not-empty",
            format!(
                "the Woodpecker queue of the target is not empty: it has {} keys in etcd",
                target.wal.keys
            ),
            "empty it with `birdwatcher reset wal`, which keeps its ids from being used twice",
        )
    })
}

#[cfg(test)]
#[path = "guard_tests.rs"]
pub(crate) mod tests;
