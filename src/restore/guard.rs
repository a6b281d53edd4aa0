//! What makes a target refuse: every rule in one place, as a pure function of facts (I5).

use schemars::JsonSchema;
use serde::Serialize;

use super::facts::{
    Contents, Counted, KeepWal, Layer, Marked, Occupied, Options, Place, SourceFacts, TargetFacts,
    Unproven,
};
use crate::manifest::WalState;
use crate::milvus::version::TargetFit;
use crate::{Error, Kind};

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
        Error::new(Kind::Target, self.found.clone()).with_hint(self.hint.clone())
    }
}

/// Every reason why `target` refuses `source`, the gravest first; empty when the restore may begin.
#[must_use]
pub fn refusals(source: &SourceFacts, target: &TargetFacts, options: &Options) -> Vec<Refusal> {
    let rules = [
        contents(source),
        unsupported(target),
        overlap(target),
        running(target),
        marker(target, options),
        version(source, target),
        channels(source, target),
        wal_kind(source, target, options),
        wal_unproven(source, target, options),
        place(target),
        whole_bucket(target, options),
        etcd_empty(target, options),
        storage_empty(target, options),
        wal_empty(target, options),
        wal_keys(target),
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
            "run that restore again to finish it, or replace what it left with --replace",
        )
    })
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
    match target.wal.kind.as_str() {
        "woodpecker" if !version.at_least(2, 6, 14) => Some(Refusal::new(
            "woodpecker",
            format!("Milvus {version} panics on the first position of a fresh Woodpecker queue"),
            "restore onto Milvus 2.6.14 or later, or with another mq.type",
        )),
        "rocksmq" | "kafka" | "pulsar" | "woodpecker" => None,
        other => Some(Refusal::new(
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
    let Place::Missing(why) = &target.storage.state else {
        return None;
    };
    let hint = match target.storage.layer {
        Layer::Local => {
            "make the directory above it; if Milvus runs in a container, instance.path_map says where its paths are on this host"
        }
        Layer::S3 => "make the bucket first, or correct instance.objects",
    };
    Some(Refusal::new("storage-missing", why.clone(), hint))
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
pub(crate) mod tests {
    use std::path::PathBuf;

    use jiff::Timestamp;

    use super::super::facts::{EtcdFacts, Known, StorageFacts, TargetVersion, Usage, WalFacts};
    use super::super::marker::Stage;
    use super::*;
    use crate::milvus::MilvusVersion;

    pub(crate) fn source() -> SourceFacts {
        SourceFacts {
            snapshot: "5a5a".into(),
            instance: "main".into(),
            version: MilvusVersion::new(2, 3, 5),
            wal: "rocksmq".into(),
            wal_state: WalState::Reset,
            channel_prefix: "by-dev".into(),
            channels: 2,
            contents: Contents::Whole,
            unproven: vec![],
        }
    }

    fn declared(major: u64, minor: u64, patch: u64) -> TargetVersion {
        TargetVersion::new(&MilvusVersion::new(major, minor, patch), Known::Declared)
    }

    pub(crate) fn target() -> TargetFacts {
        TargetFacts {
            instance: "other".into(),
            version: declared(2, 3, 5),
            unsupported: vec![],
            running: vec![],
            etcd: EtcdFacts {
                place: "127.0.0.1:2379".into(),
                embedded: false,
                root: "by-dev".into(),
                keys: 0,
                example: None,
                marked: Marked::No,
            },
            storage: StorageFacts {
                place: "/srv/milvus/data".into(),
                layer: Layer::Local,
                state: Place::There,
                whole_bucket: false,
                families: vec![],
                foreign: Usage::default(),
                example: None,
                counted: Counted::All,
            },
            wal: WalFacts {
                kind: "rocksmq".into(),
                channel_prefix: "by-dev".into(),
                channels: 16,
                directories: vec![],
                keys: 0,
            },
            overlap: None,
        }
    }

    fn replace() -> Options {
        Options {
            occupied: Occupied::Replace,
            ..Options::default()
        }
    }

    fn rules(target: &TargetFacts, options: &Options) -> Vec<&'static str> {
        let refusals = refusals(&source(), target, options);
        for refusal in &refusals {
            assert_eq!(refusal.to_error().kind().exit_code(), 21);
            assert!(!refusal.hint.is_empty());
        }
        refusals.iter().map(|refusal| refusal.rule).collect()
    }

    fn changed(change: impl FnOnce(&mut TargetFacts)) -> TargetFacts {
        let mut target = target();
        change(&mut target);
        target
    }

    #[test]
    fn an_empty_stopped_target_of_the_same_version_is_taken() {
        assert!(rules(&target(), &Options::default()).is_empty());
    }

    #[test]
    fn a_running_milvus_is_refused_even_with_replace() {
        let target = changed(|t| t.running.push("session/rootcoord".into()));
        assert_eq!(rules(&target, &Options::default()), ["running"]);
        assert_eq!(rules(&target, &replace()), ["running"]);
    }

    #[test]
    fn what_is_not_empty_is_refused_unless_replaced_or_ours() {
        let full = changed(|t| {
            t.etcd.keys = 3;
            t.storage.foreign.objects = 1;
            t.wal.directories = vec![(
                PathBuf::from("/rdb"),
                Usage {
                    objects: 4,
                    bytes: 9,
                },
            )];
        });
        let empty = ["etcd-not-empty", "storage-not-empty", "wal-not-empty"];
        assert_eq!(rules(&full, &Options::default()), empty);
        assert!(rules(&full, &replace()).is_empty());
        let mut ours = full;
        ours.etcd.marked = Marked::Ours(Stage::Objects);
        assert_eq!(rules(&ours, &Options::default()), ["etcd-not-empty"]);
        ours.etcd.keys = 0;
        assert!(rules(&ours, &Options::default()).is_empty());
    }

    #[test]
    fn another_restores_marker_is_refused() {
        let target = changed(|t| {
            t.etcd.marked = Marked::Other {
                snapshot: "77".into(),
                started: Timestamp::UNIX_EPOCH,
            };
        });
        assert_eq!(rules(&target, &Options::default()), ["marker"]);
        assert!(rules(&target, &replace()).is_empty());
    }

    #[test]
    fn versions_must_be_known_and_fit() {
        let at = |major, minor, patch| changed(|t| t.version = declared(major, minor, patch));
        assert!(rules(&at(2, 3, 22), &Options::default()).is_empty());
        for other in [at(2, 3, 4), at(2, 4, 5), at(2, 2, 16)] {
            assert_eq!(rules(&other, &Options::default()), ["version"]);
        }
        let unknown = changed(|t| t.version = TargetVersion::unknown());
        assert_eq!(rules(&unknown, &Options::default()), ["version"]);
    }

    #[test]
    fn channels_must_be_named_alike_and_be_enough() {
        let other = changed(|t| t.wal.channel_prefix = "prod".into());
        assert_eq!(rules(&other, &Options::default()), ["channel-prefix"]);
        let few = changed(|t| t.wal.channels = 1);
        assert_eq!(rules(&few, &Options::default()), ["channels"]);
    }

    #[test]
    fn what_was_never_tried_needs_a_word_and_what_cannot_be_is_refused() {
        let kafka = changed(|t| t.wal.kind = "kafka".into());
        let unproven = SourceFacts {
            unproven: vec!["starting Milvus on a fresh kafka".into()],
            ..source()
        };
        let found = refusals(&unproven, &kafka, &Options::default());
        assert_eq!(found[0].rule, "wal-unproven");
        let accept = Options {
            unproven: Unproven::Accept,
            ..Options::default()
        };
        assert!(refusals(&unproven, &kafka, &accept).is_empty());
        let nats = changed(|t| t.wal.kind = "natsmq".into());
        assert_eq!(rules(&nats, &accept), ["wal-kind"]);
        let woodpecker = changed(|t| {
            t.wal.kind = "woodpecker".into();
            t.wal.keys = 7;
        });
        assert_eq!(rules(&woodpecker, &accept), ["woodpecker", "wal-not-empty"]);
    }

    #[test]
    fn a_captured_queue_needs_the_same_kind_and_keep_wal_needs_a_captured_queue() {
        let kafka = changed(|t| t.wal.kind = "kafka".into());
        let cold = SourceFacts {
            wal_state: WalState::Captured,
            ..source()
        };
        let found = refusals(&cold, &kafka, &Options::default());
        assert_eq!(found[0].rule, "wal-kind");
        let require = Options {
            keep_wal: KeepWal::Require,
            ..Options::default()
        };
        assert_eq!(rules(&target(), &require), ["keep-wal"]);
        assert!(refusals(&cold, &target(), &require).is_empty());
    }

    #[test]
    fn places_that_cannot_be_are_refused() {
        let missing = changed(|t| t.storage.state = Place::Missing("bucket b is missing".into()));
        assert_eq!(rules(&missing, &Options::default()), ["storage-missing"]);
        let whole = changed(|t| t.storage.whole_bucket = true);
        assert!(rules(&whole, &Options::default()).is_empty());
        assert_eq!(rules(&whole, &replace()), ["whole-bucket"]);
        let overlap = changed(|t| t.overlap = Some("/backup lies below /".into()));
        assert_eq!(rules(&overlap, &replace()), ["overlap"]);
        let tikv = ("metastore.type is tikv".to_owned(), "use etcd".to_owned());
        let tikv = changed(|t| t.unsupported.push(tikv));
        assert_eq!(rules(&tikv, &Options::default()), ["unsupported"]);
    }

    #[test]
    fn saved_keys_are_no_snapshot_to_restore() {
        let saved = SourceFacts {
            contents: Contents::KeysOnly,
            ..source()
        };
        let found = refusals(&saved, &target(), &Options::default());
        assert_eq!(found[0].rule, "keys-only");
    }
}
