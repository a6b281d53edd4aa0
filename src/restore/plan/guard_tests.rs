use std::path::PathBuf;

use jiff::Timestamp;

use super::*;
use crate::base::file_system::FileSystem;
use crate::base::progress::Amount;
use crate::instance::objects::LayerKind;
use crate::milvus::MilvusVersion;
use crate::restore::plan::inputs::{
    EtcdFacts, EtcdRoom, Known, StorageFacts, TargetVersion, WalFacts,
};

pub(crate) fn source() -> SourceFacts {
    SourceFacts {
        snapshot: "5a5a".into(),
        instance: "main".into(),
        version: MilvusVersion::new(2, 3, 5),
        wal: "rocksmq".into(),
        wal_state: WalState::Reset,
        channel_prefix: "by-dev".into(),
        channels: 2,
        bytes: 5 << 30,
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
        to_stop: vec![],
        etcd: EtcdFacts {
            place: "127.0.0.1:2379".into(),
            embedded: false,
            root: "by-dev".into(),
            keys: 0,
            example: None,
            marked: Marked::No,
            touched: None,
            room: EtcdRoom::default(),
            others: None,
            has_left: false,
        },
        storage: StorageFacts {
            place: "/srv/milvus/data".into(),
            layer: LayerKind::Local,
            state: Presence::There,
            file_system: None,
            whole_bucket: false,
            families: vec![],
            foreign: Amount::default(),
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
        nesting: None,
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
        assert_eq!(refusal.to_error().exit_code(), 21);
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
fn an_empty_directory_must_have_room_for_the_objects() {
    let mut small = target();
    small.storage.file_system = Some(FileSystem {
        kind: "ext4".into(),
        mount: "/srv".into(),
        free: 1 << 30,
    });
    let found = refusals(&source(), &small, &Options::default());
    assert_eq!(found.len(), 1, "{found:?}");
    assert!(found[0].found.contains("1.0 GiB free on /srv"), "{found:?}");
    // What is in place already is not known yet.
    small.etcd.marked = Marked::Ours(Stage::Objects);
    assert_eq!(refusals(&source(), &small, &Options::default()), []);
}

#[test]
fn neighbours_are_never_replaced() {
    let options = Options {
        occupied: Occupied::Replace,
        ..Options::default()
    };
    let mut nested = target();
    nested.etcd.others = Some("below by-dev lies by-dev/b".into());
    nested.nesting = Some("the queue in /srv holds the repository in /srv/backup".into());
    let rules: Vec<_> = refusals(&source(), &nested, &options)
        .iter()
        .map(|refusal| refusal.rule)
        .collect();
    assert_eq!(rules, ["nesting", "other-instance"]);
}

#[test]
fn an_embedded_etcd_that_left_data_without_keys_is_replaced_or_refused() {
    let mut left = target();
    left.etcd.embedded = true;
    left.etcd.has_left = true;
    let found = refusals(&source(), &left, &Options::default());
    assert_eq!(found.len(), 1, "{found:?}");
    assert_eq!(found[0].rule, "etcd-not-empty");
    let replace = Options {
        occupied: Occupied::Replace,
        ..Options::default()
    };
    assert_eq!(refusals(&source(), &left, &replace), []);
}

#[test]
fn a_target_that_was_used_since_it_was_restored_is_refused() {
    let mut used = target();
    used.etcd.touched = Some("by-dev/meta/session/id".into());
    used.etcd.marked = Marked::Ours(Stage::Clean);
    for occupied in [Occupied::Refuse, Occupied::Replace] {
        let options = Options {
            occupied,
            ..Options::default()
        };
        let found = refusals(&source(), &used, &options);
        assert_eq!(found.len(), 1, "{found:?}");
        assert_eq!(found[0].rule, "used");
        assert!(found[0].hint.contains("by-dev/eyrie/"));
    }
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
            Amount {
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
    let why = "bucket b is missing".to_owned();
    let hint = "make the bucket first";
    let missing = changed(|t| t.storage.state = Presence::Missing { why, hint });
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
