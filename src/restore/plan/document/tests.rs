use std::path::PathBuf;

use super::super::guard::tests::{source, target};
use super::*;
use crate::base::progress::Amount;
use crate::restore::plan::inputs::{Contents, EtcdFacts, StorageFacts, TargetVersion, WalFacts};
use crate::restore::plan::target_keys::TargetKeys;
use crate::snapshot::WalState;
use crate::snapshot::fixture::body;

fn changes() -> Vec<KeyChange> {
    let change = |family: &str, action: &str, keys, why: &str| KeyChange {
        family: family.into(),
        action: action.into(),
        keys,
        why: why.into(),
    };
    vec![
        change("fields", "keep", 40, ""),
        change("channel-cp", "rewrite", 6, "a fresh queue begins anew"),
        change("session", "drop", 4, "sessions of the source"),
        change("gid", "advance", 2, "ids and timestamps never go back"),
    ]
}

fn make(
    source: &SourceFacts,
    target: &TargetFacts,
    options: &Options,
    gc: &GcGuard,
) -> RestorePlan {
    let keys = (0..673_u32).map(|n| (n.to_be_bytes().to_vec(), vec![]));
    let made = Made {
        target: TargetKeys {
            keys: keys.collect(),
            last: 0,
        },
        changes: changes(),
        expiring: vec![TtlCollection {
            database: "default".into(),
            collection: "events".into(),
            ttl_seconds: 86400,
            newest_row_seconds: None,
            suspended: false,
        }],
        load: "9 collections were loaded and load again at the first start".into(),
        ..Made::default()
    };
    RestorePlan::new(Inputs {
        source,
        body: &body(),
        time: "2026-11-23T03:00:00Z".parse().unwrap(),
        objects: Amount::new(389, 3 << 30),
        wal_files: match source.wal_state {
            WalState::Captured => Amount::new(14, 1 << 20),
            WalState::Reset => Amount::default(),
        },
        made: &made,
        lack: &MissingData::default(),
        gc,
        target,
        management: "http://127.0.0.1:9091",
        options,
    })
}

fn gc_key() -> GcGuard {
    GcGuard::Key("by-dev/config/dataCoord/enableGarbageCollection".into())
}

#[test]
fn a_plan_onto_an_empty_target() {
    let plan = make(&source(), &target(), &Options::default(), &gc_key());
    insta::assert_snapshot!(plan);
}

#[test]
fn a_plan_that_replaces_names_exactly_what_it_wipes() {
    let old = TargetFacts {
        version: TargetVersion::new(&source().version, Known::Assumed),
        etcd: EtcdFacts {
            keys: 715,
            example: Some("by-dev/kv/gid/timestamp".into()),
            ..target().etcd
        },
        storage: StorageFacts {
            families: vec![
                (
                    "delta_log".into(),
                    Amount {
                        objects: 3,
                        bytes: 300,
                    },
                ),
                (
                    "insert_log".into(),
                    Amount {
                        objects: 300,
                        bytes: 5 << 30,
                    },
                ),
            ],
            foreign: Amount {
                objects: 2,
                bytes: 10,
            },
            ..target().storage
        },
        wal: WalFacts {
            directories: vec![
                (
                    PathBuf::from("/srv/milvus/rdb_data"),
                    Amount {
                        objects: 9,
                        bytes: 4096,
                    },
                ),
                (
                    PathBuf::from("/srv/milvus/rdb_data_meta_kv"),
                    Amount::default(),
                ),
            ],
            ..target().wal
        },
        ..target()
    };
    let options = Options {
        occupied: Occupied::Replace,
        ttl: Ttl::Suspend,
        ..Options::default()
    };
    insta::assert_snapshot!(make(&source(), &old, &options, &gc_key()));
}

#[test]
fn a_plan_onto_a_target_that_refuses_says_why() {
    let busy = TargetFacts {
        running: vec!["it answers at 127.0.0.1:19530".into()],
        etcd: EtcdFacts {
            embedded: true,
            place: "/srv/milvus/etcd".into(),
            ..target().etcd
        },
        storage: StorageFacts {
            state: Presence::Missing {
                why: "/srv/milvus is missing".into(),
                hint: "make the directory above it",
            },
            ..target().storage
        },
        ..target()
    };
    let cold = SourceFacts {
        wal_state: WalState::Captured,
        contents: Contents::Whole,
        ..source()
    };
    insta::assert_snapshot!(make(&cold, &busy, &Options::default(), &GcGuard::Setting));
}

#[test]
fn what_stays_is_not_counted_as_rewritten() {
    let plan = make(&source(), &target(), &Options::default(), &gc_key());
    let rewritten = plan.rewritten();
    assert_eq!(rewritten.len(), 3);
    assert_eq!(rewritten["channel-cp"], 6);
}

#[test]
fn missing_objects_are_told_as_found_and_other_weakenings_as_the_manifest_has_them() {
    let weak = |code: &str| Weakening {
        code: code.into(),
        message: "as captured".into(),
        items: vec![],
    };
    let said = Body {
        weakenings: [
            weakening::MISSING_OBJECTS,
            weakening::FILE_RESOURCES,
            weakening::HOT_STRADDLE,
        ]
        .map(weak)
        .to_vec(),
        ..body()
    };
    let found = MissingData {
        objects: 2,
        ..MissingData::default()
    };
    let told = weakened(&said, &found);
    let codes: Vec<&str> = told.iter().map(|weak| weak.code.as_str()).collect();
    assert_eq!(
        codes,
        [weakening::FILE_RESOURCES, weakening::MISSING_OBJECTS]
    );
    assert!(told[1].message.contains("2 objects"), "{}", told[1].message);
    assert_eq!(weakened(&said, &MissingData::default()).len(), 2);
}
