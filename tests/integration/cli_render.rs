//! How results look, and that their JSON has the fields of the interface contract.

use std::collections::BTreeMap;

use eyrie::cli::commands::snapshots::Snapshots;
use eyrie::cli::commands::{prune, verify};
use eyrie::cli::documents::{Lacking, LackingFiles, LackingObject, Outcome, *};
use eyrie::cli::output::{Render, Row as _, plain};
use eyrie::instance::holds::HoldSpent;
use eyrie::instance::methods::Method;
use eyrie::snapshot::{FlushRecord, Mode};
use serde::Serialize;

fn id(digit: char) -> HexId {
    HexId(digit.to_string().repeat(64))
}

fn weakened() -> Vec<Weakening> {
    vec![
        Weakening::new("hot", "2 logs straddle the flush", &["hot".to_owned()]),
        Weakening::new(
            "missing-objects",
            "3 objects of default.books are gone",
            &[],
        ),
    ]
}

fn notes() -> Vec<Note> {
    let kind = "gc-not-held".to_owned();
    let what = "Milvus 2.3.5 cannot pause garbage collection; no object was lost".to_owned();
    vec![Note { kind, what }]
}

fn time(text: &str) -> Time {
    Time(text.parse().unwrap())
}

fn spent() -> HoldSpent {
    HoldSpent {
        denial_ms: 3_900,
        flush_ms: 240,
        reading_ms: 80,
        quiet_ms: 2_040,
    }
}

fn backup() -> BackupDocument {
    BackupDocument {
        snapshot: id('a'),
        instance: "main".into(),
        mode: Mode::Quiesced,
        method: Method::Copy,
        revision: 4711,
        milvus_version: "2.3.5".into(),
        collections: 13,
        segments: 40,
        objects: 389,
        bytes: 3 << 30,
        objects_read: 12,
        bytes_read: 90 << 20,
        bytes_added: 70 << 20,
        write_hold_ms: 6_350,
        write_hold_spent: Some(spent()),
        duration_ms: 92_000,
        weakened: weakened(),
        notes: notes(),
        labels: BTreeMap::from([("env".into(), "prod".into())]),
        repository: "primary".into(),
    }
}

fn snapshot() -> SnapshotDocument {
    SnapshotDocument {
        snapshot: id('a'),
        time: time("2026-11-23T03:10:22Z"),
        instance: "main".into(),
        mode: Mode::Hot,
        method: Method::Copy,
        milvus_version: "2.3.5".into(),
        collections: 13,
        objects: 389,
        bytes: 3 << 30,
        bytes_added: 70 << 20,
        parent: Some(id('b')),
        labels: BTreeMap::from([("env".into(), "prod".into())]),
        weakened: weakened(),
        verified: Some(VerifiedDocument {
            time: time("2026-11-24T00:00:00Z"),
            level: "bytes".into(),
            damage: 0,
        }),
    }
}

fn plan() -> BackupPlanDocument {
    let step = |step: &str, what: &str| PlanStep {
        step: step.into(),
        what: what.into(),
    };
    BackupPlanDocument {
        instance: "main".into(),
        repository: "primary".into(),
        mode: Mode::Quiesced,
        method: Method::Copy,
        steps: vec![
            step(
                "hold",
                "compaction by a leased key; garbage collection cannot be held on 2.3.5",
            ),
            step("flush", "FlushAll, at most 1m 30s"),
        ],
        weakened: Vec::new(),
        milvus_version: "2.3.5".into(),
        collections: 13,
        segments: 40,
        objects: 389,
        parent: Some(id('b')),
        notes: notes(),
    }
}

fn restored() -> RestoreDocument {
    RestoreDocument {
        snapshot: id('a'),
        objects: 389,
        bytes: 3 << 30,
        etcd_keys: 715,
        rewritten: BTreeMap::from([("channel-cp".into(), 26), ("session".into(), 4)]),
        wal: "reset".into(),
        duration_ms: 41_200,
        next_steps: vec!["start Milvus".into(), "run eyrie check".into()],
        target: "spare".into(),
        objects_resumed: 100,
        weakened: Vec::new(),
        lacking: Vec::new(),
        notes: notes(),
    }
}

fn verified(damage: Vec<DamageDocument>) -> VerifyDocument {
    VerifyDocument {
        level: "bytes".into(),
        snapshots: 2,
        objects: 389,
        bytes_read: 3 << 30,
        damage,
        duration_ms: 12_340,
        recorded: true,
    }
}

/// The text and the JSON of a document.
fn both<D: Render + Serialize>(document: &D) -> String {
    let json = serde_json::to_string_pretty(document).unwrap();
    format!("{}\n{json}\n", plain(document))
}

/// The keys of a JSON object.
fn keys<D: Serialize>(document: &D) -> Vec<String> {
    let value = serde_json::to_value(document).unwrap();
    value.as_object().unwrap().keys().cloned().collect()
}

#[test]
fn documents_begin_with_the_fields_of_the_contract() {
    for (found, contract) in [
        (
            keys(&backup()),
            "snapshot instance mode method revision milvus_version collections segments objects \
             bytes objects_read bytes_read bytes_added write_hold_ms duration_ms weakened",
        ),
        (
            keys(&restored()),
            "snapshot objects bytes etcd_keys rewritten wal duration_ms next_steps",
        ),
        (
            keys(&verified(Vec::new())),
            "level snapshots objects bytes_read damage",
        ),
        (
            keys(&snapshot()),
            "snapshot time instance mode method milvus_version collections objects bytes \
             bytes_added parent labels weakened verified",
        ),
    ] {
        let contract: Vec<_> = contract.split_whitespace().collect();
        assert_eq!(found[..contract.len()], contract);
    }
}

#[test]
fn init_looks() {
    insta::assert_snapshot!(both(&InitDocument {
        repository: "primary".into(),
        id: id('c'),
        location: "/backup/milvus".into(),
        encrypted: false,
        format: 1,
        conditional_create: true,
        versions: false,
        writer_can_destroy: true,
        notes: Vec::new(),
    }));
}

#[test]
fn check_looks() {
    let finding = |severity, what: &str, hint: Option<&str>| Finding {
        severity,
        kind: "some-kind".into(),
        what: what.into(),
        hint: hint.map(ToOwned::to_owned),
    };
    let choice = |name: &str, why: Option<&str>| Choice {
        name: name.into(),
        works: Some(why.is_none()),
        why: why.map(ToOwned::to_owned),
    };
    let mut document = CheckDocument {
        instance: "main".into(),
        ready: true,
        milvus: CheckedMilvus {
            address: "localhost:19530".into(),
            reachable: true,
            version: Some("2.3.5".into()),
            ..CheckedMilvus::default()
        },
        etcd: CheckedEtcd {
            endpoints: vec!["127.0.0.1:2379".into()],
            reachable: true,
            version: Some("3.5.21".into()),
            root_path: "by-dev".into(),
            keys: Some(673),
            revision: Some(4711),
            ..CheckedEtcd::default()
        },
        objects: CheckedObjects {
            kind: "local".into(),
            location: "/var/lib/milvus/data".into(),
            reachable: true,
            versions: None,
        },
        wal: CheckedWal {
            kind: "rocksmq".into(),
            path: Some("/var/lib/milvus/rdb_data".into()),
            channel_prefix: "by-dev".into(),
            reset_proven: true,
        },
        repository: CheckedRepository {
            name: "primary".into(),
            location: "/backup/milvus".into(),
            opens: true,
            snapshots: Some(1),
            ..CheckedRepository::default()
        },
        findings: vec![finding(
            Severity::Note,
            "garbage collection cannot be paused",
            None,
        )],
        backup: Some(plan()),
        exit_code: 0,
        mode: Mode::Quiesced,
        method: Method::Copy,
        modes: vec![
            choice("quiesced", None),
            choice("hot", None),
            choice("cold", Some("milvus is not stopped")),
        ],
        methods: vec![choice("copy", None)],
    };
    let ready = both(&document);
    document.ready = false;
    document.exit_code = 20;
    document.backup = None;
    document.milvus.reachable = false;
    document.repository.opens = false;
    document.wal.kind = "kafka".into();
    document.wal.reset_proven = false;
    let hint = Some("is Milvus running?");
    document.findings.insert(
        0,
        finding(Severity::Refusal, "Milvus does not answer", hint),
    );
    insta::assert_snapshot!(format!("{ready}\n{}", plain(&document)));
}

#[test]
fn backup_looks() {
    insta::assert_snapshot!(both(&backup()) + &both(&plan()));
    assert_eq!(exit_code(&backup().weakened), 3);
}

#[test]
fn snapshots_look() {
    let mut older = snapshot();
    older.snapshot = id('b');
    older.parent = None;
    older.weakened.clear();
    older.labels.clear();
    older.verified = None;
    insta::assert_snapshot!(both(&Snapshots(vec![older, snapshot()])));
    assert_eq!(plain(&Snapshots(Vec::new())), "no snapshots\n");
}

#[test]
fn show_looks() {
    let collection = ShownCollection {
        database: "default".into(),
        name: "books".into(),
        id: 449,
        aliases: vec!["library".into()],
        partitions: 2,
        segments: 4,
        rows: 20_000,
        objects: 55,
        bytes: 208 << 20,
        indexes: vec![ShownIndex {
            name: "_default_idx".into(),
            field: "vector".into(),
            kind: "HNSW".into(),
        }],
        loaded: true,
        partition_names: vec!["_default".into(), "spare".into()],
        load: Some(ShownLoad {
            replicas: 1,
            partitions: vec!["spare".into()],
        }),
        ttl_seconds: Some(864_000),
    };
    insta::assert_snapshot!(both(&ShowDocument {
        snapshot: snapshot(),
        revision: 4711,
        etcd_keys: 673,
        sequence: 2,
        segments: 40,
        rows: 400_000,
        wal_kind: "rocksmq".into(),
        wal: "reset".into(),
        duration_ms: 92_000,
        write_hold_ms: 6_350,
        write_hold_spent: Some(spent()),
        asked_mode: Mode::Quiesced,
        cut: ShownCut {
            timestamp: 470_654_271_533_613_077,
            time: Some(time("2026-11-23T03:10:20Z")),
            proven: false,
            straddling: vec!["insert_log/444/445/446/100/449".into()],
            straddling_unnamed: 3,
        },
        flush: Some(FlushRecord {
            shape: "Instance/Plain".into(),
            timestamp: 470_654_271_533_613_077,
            attempts: 2,
            duration_ms: 1_300,
        }),
        holds: vec![
            ShownHold {
                kind: "writes".into(),
                state: "held".into(),
                how: "leased key, proved by a denied insert".into(),
                held_ms: 6_350,
            },
            ShownHold {
                kind: "gc".into(),
                state: "absent".into(),
                how: "this version of Milvus cannot pause it".into(),
                held_ms: 0,
            },
        ],
        databases: vec!["default".into(), "other".into()],
        catalog: vec![collection],
        notes: notes(),
        differences: vec!["default.books: property collection.ttl.seconds differs".into()],
        unnamed_delta_logs: vec!["delta_log/444/445/446/460".into()],
        missing: vec!["default.books segment 446: index_files/1/1/2/3/x".into()],
    }));
}

#[test]
fn ls_looks() {
    let entry = |blake3| LsEntry {
        path: "insert_log/444/445/446/100/449".into(),
        size: 10_485_760,
        blake3,
        kind: "insert_log".into(),
        collection: 444,
        partition: 445,
        segment: 446,
    };
    let entries = [entry(Some(id('d'))), entry(None)];
    let lines: Vec<String> = entries.iter().map(LsEntry::line).collect();
    let json = serde_json::to_string_pretty(&entries).unwrap();
    insta::assert_snapshot!(format!("{}\n\n{json}\n", lines.join("\n")));
}

#[test]
fn diff_looks() {
    let entry = |change, what: &str, size| DiffEntry {
        change,
        what: what.into(),
        size,
    };
    insta::assert_snapshot!(both(&DiffDocument {
        from: id('a'),
        to: id('b'),
        objects: DiffSummary {
            added: 1,
            bytes_added: 1024,
            removed: 2,
            bytes_removed: 4096,
            changed: 0,
            same: 386,
        },
        metadata: vec![entry(
            Change::Changed,
            "index of default.books.vector",
            None
        )],
        entries: vec![
            entry(Change::Added, "insert_log/1/2/3/100/5", Some(1024)),
            entry(Change::Removed, "insert_log/1/2/3/100/4", Some(4096)),
        ],
    }));
}

#[test]
fn forget_looks() {
    let told = |digit, time_of: &str, forgotten, reasons: &[&str]| ToldSnapshot {
        snapshot: id(digit),
        time: time(time_of),
        instance: "main".into(),
        labels: BTreeMap::new(),
        forgotten,
        reasons: reasons.iter().map(|why| (*why).to_owned()).collect(),
    };
    let keep = [("weekly", "4"), ("daily", "7"), ("yearly", "all")];
    let keep = keep.map(|(rule, n)| (rule.to_owned(), n.to_owned()));
    let by_policy = ForgetDocument {
        dry_run: true,
        policy: Some(PolicyDocument {
            keep: keep.into(),
            within: Some("2d".into()),
            labels: vec!["keep=yes".into()],
            time_zone: "Europe/Berlin".into(),
        }),
        forgotten: 1,
        kept: 1,
        snapshots: vec![
            told(
                'a',
                "2026-11-20T01:00:00Z",
                true,
                &[
                    "daily: 2026-11-20 is too long ago",
                    "weekly: 2026-W47 has bbbbbbbb, which is newer",
                ],
            ),
            told(
                'b',
                "2026-11-21T01:00:00Z",
                false,
                &["daily (2026-11-21)", "last good snapshot"],
            ),
        ],
    };
    let by_name = ForgetDocument {
        dry_run: false,
        policy: None,
        forgotten: 1,
        kept: 0,
        snapshots: vec![told('a', "2026-11-20T01:00:00Z", true, &["named"])],
    };
    insta::assert_snapshot!(both(&by_policy) + &plain(&by_name));
}

#[test]
fn prune_looks() {
    let packs = |packs, bytes| PackCount { packs, bytes };
    let quiet = PruneDocument {
        dry_run: false,
        freed_bytes: 5 << 30,
        to_be_freed_bytes: 1 << 20,
        due: Some(time("2026-11-29T02:00:00Z")),
        waits_for: vec![],
        removed: packs(80, 5 << 30),
        locked: packs(0, 0),
        marked: packs(1, 1 << 20),
        newly_marked: packs(1, 1 << 20),
        repacked: packs(1, 300_000),
        snapshots: 23,
        manifests_removed: vec![id('a')],
        kept_back: vec![],
        needed_bytes: 7 << 40,
        unused_bytes: 9 << 30,
        damaged_packs: vec![],
        lost_blobs: 0,
        duration_ms: 61_200,
    };
    let busy = PruneDocument {
        dry_run: true,
        due: None,
        waits_for: vec!["process 7 on milvus-1".into()],
        locked: packs(2, 128 << 20),
        kept_back: vec![id('b')],
        damaged_packs: vec![id('c')],
        lost_blobs: 3,
        ..quiet.clone()
    };
    assert_eq!((prune::exit_code(&quiet), prune::exit_code(&busy)), (0, 22));
    insta::assert_snapshot!(plain(&quiet) + &both(&busy));
}

#[test]
fn verify_looks() {
    let damage = DamageDocument {
        kind: "bad-pack".into(),
        what: "the pack's bytes are not those that were written".into(),
        place: "data/ab/abcdef".into(),
        snapshots: vec![id('a'), id('b')],
    };
    let (good, bad) = (verified(Vec::new()), verified(vec![damage]));
    assert_eq!((verify::exit_code(&good), verify::exit_code(&bad)), (0, 22));
    insta::assert_snapshot!(plain(&good) + &both(&bad));
}

fn lacking() -> Vec<Lacking> {
    let files = |kind: &str, segments, files| LackingFiles {
        kind: kind.into(),
        segments,
        files,
    };
    let lost = Lacking {
        database: "default".into(),
        collection: "books".into(),
        partitions: vec!["_default".into()],
        segments: 2,
        files: vec![files("insert_log", 2, 3), files("delta_log", 1, 1)],
        fields: vec!["title".into()],
        indexes: vec![],
        outcome: Outcome::NotLoaded,
        way_out: "drop the collection when Milvus runs, or restore another snapshot".into(),
        named: vec![LackingObject {
            segment: 3,
            path: "insert_log/1/2/3/100/449".into(),
        }],
    };
    let rebuilt = Lacking {
        collection: "pages".into(),
        segments: 1,
        files: vec![files("index_files", 1, 4)],
        indexes: vec!["by_vector".into()],
        outcome: Outcome::IndexRebuilt,
        way_out: "nothing is to be done; until it is built, searches take longer".into(),
        named: vec![LackingObject {
            segment: 3,
            path: "index_files/7/1/2/3/HNSW_0".into(),
        }],
        ..lost.clone()
    };
    vec![lost, rebuilt]
}

#[test]
fn restore_looks() {
    let plan = RestorePlanDocument {
        snapshot: id('a'),
        target: "spare".into(),
        objects: 389,
        bytes: 3 << 30,
        etcd_keys: 715,
        wal: "reset".into(),
        expected_ms: Some(45_000),
        transforms: vec![KeyChange {
            family: "channel-cp".into(),
            action: "rewrite".into(),
            keys: 26,
            why: "the queue is fresh: positions begin at its beginning".into(),
        }],
        destroys: vec![DestroyedDocument {
            place: "etcd root by-dev".into(),
            entries: 673,
        }],
        to_stop: vec!["something answers at 127.0.0.1:19530".into()],
        steps: vec![PlanStep {
            step: "prove".into(),
            what: "read every pack that is needed".into(),
        }],
        refusals: vec!["Milvus runs: session rootcoord at 10.0.0.1".into()],
        weakened: Vec::new(),
        lacking: lacking(),
        notes: notes(),
        next_steps: vec!["start Milvus".into()],
    };
    let plan = serde_json::to_string_pretty(&plan).unwrap();
    insta::assert_snapshot!(both(&restored()) + &plan);
}
