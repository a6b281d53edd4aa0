use std::collections::BTreeMap;

use jiff::Timestamp;
use proptest::prelude::*;
use prost::Message as _;

use super::*;
use crate::milvus::proto::data::SegmentInfo;
use crate::milvus::proto::meta::CollectionInfo;
use crate::milvus::proto::msg::MsgPosition;
use crate::milvus::proto::streaming::{self, WalCheckpoint};
use crate::milvus::recorded;
use crate::milvus::simulated::keys::{NANOS, SimulatedKeys, TIME, VCHANNEL};

fn now() -> Timestamp {
    Timestamp::from_second(1_795_500_000).unwrap()
}

/// A restore in place, onto a fresh rocksmq, with everything as it was.
pub(crate) fn options(version: MilvusVersion) -> Options {
    Options {
        source: Roots::new("by-dev"),
        target: Roots::new("by-dev"),
        target_version: version,
        wal: Wal::Reset(WalKind::Rocksmq),
        unproven: Unproven::Refuse,
        storage: None,
        now: now(),
        ttl: Ttl::Keep,
        gc: FirstStart::HoldGc,
        holds: Vec::new(),
        rebuild: BTreeSet::new(),
        least_session_id: 0,
    }
}

/// Transforms keys that may not decode.
fn transform(keys: &[KeyValue], options: &Options) -> Result<Transformed> {
    let catalog = Catalog::decode(&options.source, keys, &options.target_version)?;
    super::transform(&catalog, keys, options)
}

fn of(set: &SimulatedKeys) -> Options {
    options(set.version.clone())
}

fn written(transformed: &Transformed) -> BTreeMap<String, Vec<u8>> {
    let keys = transformed.keys.iter();
    keys.map(|key| {
        (
            String::from_utf8(key.key.clone()).unwrap(),
            key.value.clone(),
        )
    })
    .collect()
}

/// The counters: their keys, their values in the snapshot, and those that are written.
fn counters(set: &SimulatedKeys, transformed: &Transformed) -> Vec<(String, u64, u64)> {
    let after = written(transformed);
    let read = |key: &str, value: &[u8]| {
        if key.ends_with("session/id") {
            String::from_utf8_lossy(value).parse().unwrap()
        } else {
            counters::read_mark(value).unwrap()
        }
    };
    let is_counter = |key: &str| key.contains("/kv/") || key.ends_with("session/id");
    let keys = set
        .keys
        .iter()
        .map(|kv| (String::from_utf8(kv.key.clone()).unwrap(), &kv.value));
    keys.filter(|(key, _)| is_counter(key))
        .map(|(key, value)| {
            let (from, to) = (read(&key, value), read(&key, &after[&key]));
            (key, from, to)
        })
        .collect()
}

#[test]
fn recorded_2_3_5_report() {
    let transformed = transform(&recorded::keys(), &options(MilvusVersion::new(2, 3, 5))).unwrap();
    insta::assert_debug_snapshot!(transformed.report);
}

#[test]
fn recorded_2_3_5_is_moved_with_collections_last_and_nothing_changed_that_need_not_be() {
    let source = recorded::keys();
    let mut options = options(MilvusVersion::new(2, 3, 5));
    options.target = Roots::new("prod");
    let transformed = transform(&source, &options).unwrap();
    let split = transformed.keys.len() - transformed.collection_keys;
    let is_collection = |key: &NewKey| {
        let kind = options.target.parse(&key.key);
        kind.family().is_collection()
    };
    assert_eq!(transformed.collection_keys, 15);
    assert!(!transformed.keys[..split].iter().any(is_collection));
    assert!(transformed.keys[split..].iter().all(is_collection));
    assert!(
        transformed
            .keys
            .iter()
            .all(|key| key.key.starts_with(b"prod/"))
    );
    // The transformed keys are an instance of their own: transformed again, only counters move.
    let again: Vec<KeyValue> = transformed
        .keys
        .iter()
        .map(|key| KeyValue::new(key.key.clone(), key.value.clone()))
        .collect();
    options.source = options.target.clone();
    let twice = transform(&again, &options).unwrap();
    let (once, twice) = (written(&transformed), written(&twice));
    assert!(once.keys().eq(twice.keys()));
    for (key, value) in &once {
        let counter = key.contains("/kv/") || key.ends_with("session/id");
        assert!(counter || twice[key] == *value, "{key}");
    }
}

#[test]
fn recorded_2_3_5_segments_keep_all_but_their_message_ids() {
    let source = recorded::keys();
    let transformed = transform(&source, &options(MilvusVersion::new(2, 3, 5))).unwrap();
    let new = written(&transformed);
    let mut compared = 0;
    for key in &source {
        let name = String::from_utf8(key.key.clone()).unwrap();
        if let (true, Some(value)) = (name.contains("datacoord-meta/s/"), new.get(&name)) {
            let mut expected = SegmentInfo::decode(&key.value[..]).unwrap();
            for position in [&mut expected.start_position, &mut expected.dml_position] {
                position.as_mut().unwrap().msg_id = vec![0; 8];
            }
            assert_eq!(SegmentInfo::decode(&value[..]).unwrap(), expected);
            compared += 1;
        }
    }
    assert_eq!(compared, 25);
}

#[test]
fn simulated_reports_of_other_versions() {
    for (name, set) in [
        ("2.2", SimulatedKeys::v2_2()),
        ("2.3.22", SimulatedKeys::v2_3()),
        ("2.4", SimulatedKeys::v2_4()),
        ("2.5", SimulatedKeys::v2_5("files")),
        ("2.6", SimulatedKeys::v2_6(&[])),
    ] {
        let options = Options {
            unproven: Unproven::Accept,
            holds: vec![b"by-dev/config/quotaandlimits.limitwriting.forcedeny".to_vec()],
            ttl: Ttl::Suspend,
            ..of(&set)
        };
        let transformed = transform(&set.keys, &options).unwrap();
        insta::assert_debug_snapshot!(format!("simulated_{name}"), transformed.report);
    }
}

#[test]
fn simulated_2_6_positions_start_at_each_kind_of_wal() {
    let set = SimulatedKeys::v2_6(&[1; 8]);
    for (kind, bytes, text, number) in [
        (WalKind::Rocksmq, 8, "0", 1),
        (WalKind::Kafka, 8, "0", 3),
        (
            WalKind::Pulsar,
            46,
            "CP///////////wEQ////////////ARj///////////8BIP///////////wEwAA==",
            2,
        ),
    ] {
        let options = Options {
            wal: Wal::Reset(kind),
            unproven: Unproven::Accept,
            ..of(&set)
        };
        let keys = written(&transform(&set.keys, &options).unwrap());
        let position = &keys[&format!("by-dev/meta/datacoord-meta/channel-cp/{VCHANNEL}")];
        let position = MsgPosition::decode(&position[..]).unwrap();
        assert_eq!((position.msg_id.len(), position.wal_name), (bytes, number));
        assert_eq!(position.timestamp, TIME);
        let key = "by-dev/meta/streamingnode-meta/wal/by-dev-rootcoord-dml_0/consume-checkpoint";
        let checkpoint = WalCheckpoint::decode(&keys[key][..]).unwrap();
        assert_eq!((checkpoint.time_tick, checkpoint.recovery_magic), (TIME, 1));
        let id = checkpoint.message_id.unwrap();
        assert_eq!((id.id.as_str(), id.wal_name), (text, number));
    }
}

#[test]
fn simulated_refusals_say_the_way_out() {
    let set = SimulatedKeys::v2_6(&[]);
    let refused = |options: Options, keys: &[KeyValue]| {
        let error = transform(keys, &options).unwrap_err();
        assert_eq!(error.exit_code(), 21);
        format!("{error} / {}", error.hint().unwrap())
    };
    let with = |wal| Options {
        wal: Wal::Reset(wal),
        ..of(&set)
    };
    let mut pending = set.keys.clone();
    let task = streaming::BroadcastTask {
        state: streaming::BroadcastTaskState::WaitAck.into(),
        ..Default::default()
    };
    let key = "by-dev/meta/streamingcoord-meta/broadcast-task/9";
    pending.push(KeyValue::new(key, task.encode_to_vec()));
    insta::assert_snapshot!(
        [
            refused(with(WalKind::Woodpecker), &set.keys),
            refused(with(WalKind::Pulsar), &set.keys),
            refused(with(WalKind::Natsmq), &set.keys),
            refused(with(WalKind::Rocksmq), &pending),
        ]
        .join("\n")
    );
    let after = Options {
        target_version: MilvusVersion::new(2, 6, 14),
        unproven: Unproven::Accept,
        ..with(WalKind::Woodpecker)
    };
    assert!(transform(&set.keys, &after).is_ok());
}

#[test]
fn simulated_copies_are_rewritten_with_their_keys_and_go_with_them() {
    let set = SimulatedKeys::v2_3();
    let options = Options {
        ttl: Ttl::Suspend,
        ..of(&set)
    };
    let keys = written(&transform(&set.keys, &options).unwrap());
    for key in [
        "by-dev/meta/root-coord/database/collection-info/1/100".to_owned(),
        format!("by-dev/meta/snapshots/root-coord/database/collection-info/1/100_ts{TIME}"),
    ] {
        let info = CollectionInfo::decode(&keys[&key][..]).unwrap();
        assert_eq!(info.start_positions[0].data, [0; 8]);
        assert_eq!(info.properties[0].value, "0");
    }
    assert!(
        !keys.keys().any(|key| key.contains("/200")),
        "the dropped collection is gone"
    );
}

#[test]
fn simulated_settings_holds_go_and_the_operators_stay() {
    let mut set = SimulatedKeys::v2_3();
    set.raw("config/datacoord.EnableGarbageCollection", b"true");
    let transformed = transform(&set.keys, &of(&set)).unwrap();
    let keys = written(&transformed);
    let config: Vec<&str> = keys
        .keys()
        .filter_map(|key| key.strip_prefix("by-dev/config/"))
        .collect();
    assert_eq!(
        config,
        [
            "datacoord.EnableGarbageCollection",
            "quotaAndLimits.dml.enabled"
        ]
    );
    let warned = |text: &str| transformed.report.warnings.iter().any(|w| w.contains(text));
    assert!(warned("was set under a lease") && warned("garbage collection is not held off"));
}

#[test]
fn simulated_2_5_storage_root_moves_in_whole_paths() {
    let set = SimulatedKeys::v2_5("files");
    let options = Options {
        storage: Some(StorageRoots {
            source: "files".to_owned(),
            target: "other/root".to_owned(),
        }),
        ..of(&set)
    };
    let transformed = transform(&set.keys, &options).unwrap();
    let segment = &written(&transformed)["by-dev/meta/datacoord-meta/s/100/101/110"];
    let segment = SegmentInfo::decode(&segment[..]).unwrap();
    assert_eq!(
        segment.text_stats_logs[&101].files,
        ["other/root/text_log/7/1/100/101/110/101/a_0"]
    );
    assert_eq!(transformed.report.rewritten["storage paths"], 2);
}

#[test]
fn simulated_with_the_wal_positions_and_open_segments_stay() {
    let mut set = SimulatedKeys::v2_3();
    let growing = SegmentInfo {
        state: crate::milvus::proto::common::SegmentState::Growing.into(),
        ..set.segment(130)
    };
    set.record(&growing);
    let options = Options {
        wal: Wal::Keep,
        ..of(&set)
    };
    let keys = written(&transform(&set.keys, &options).unwrap());
    let segment = |id: i64| keys.get(&format!("by-dev/meta/datacoord-meta/s/100/101/{id}"));
    assert_eq!(segment(130), Some(&growing.encode_to_vec()));
    assert!(
        segment(112).is_some(),
        "the replay must know the dropped segment"
    );
    assert!(
        segment(110).is_none(),
        "the replaced parent would serve its rows twice"
    );
    let child = SegmentInfo::decode(&segment(111).unwrap()[..]).unwrap();
    assert!(child.compaction_from.is_empty());
    assert!(keys.keys().any(|key| key.contains("channel-removal")));
}

#[test]
fn a_stray_timestamp_does_not_carry_the_counters_away() {
    let mut set = SimulatedKeys::v2_3();
    let stray = set.position(TIME * 4, VCHANNEL);
    let key = format!("by-dev/meta/datacoord-meta/channel-cp/{VCHANNEL}");
    set.keys.retain(|k| k.key != key.as_bytes());
    set.meta(&format!("datacoord-meta/channel-cp/{VCHANNEL}"), &stray);
    let options = Options {
        now: Timestamp::UNIX_EPOCH,
        ..of(&set)
    };
    let transformed = transform(&set.keys, &options).unwrap();
    let day = 86_400_000_000_000;
    let counters = counters(&set, &transformed);
    let marks: Vec<_> = counters.iter().filter(|c| c.0.contains("/kv/")).collect();
    assert!(!marks.is_empty() && marks.iter().all(|(_, _, to)| *to <= NANOS + 2 * day));
}

#[test]
fn a_clock_behind_the_snapshot_is_told_with_what_it_costs() {
    let set = SimulatedKeys::v2_3();
    let issued = i64::try_from(NANOS / 1_000_000_000).unwrap();
    let told = |now: i64| {
        let options = Options {
            now: Timestamp::from_second(now).unwrap(),
            ..of(&set)
        };
        let transformed = transform(&set.keys, &options).unwrap();
        let warnings = transformed.report.warnings;
        let told: Vec<String> = warnings
            .into_iter()
            .filter(|w| w.contains("clock"))
            .collect();
        assert!(told.len() <= 1, "{told:?}");
        told.into_iter().next()
    };
    assert_eq!(told(issued), None);
    assert_eq!(told(issued + 3_600), None);
    let behind = told(issued - 7_200).unwrap();
    assert!(
        behind.contains("is 2h behind") || behind.contains("is 1h 59m"),
        "{behind}"
    );
    assert!(behind.contains("flush"), "{behind}");
}

proptest! {
    #[test]
    fn counters_never_fall_behind(saved in 0..NANOS * 2, seconds in 0_i64..4_000_000_000) {
        let mut set = SimulatedKeys::v2_3();
        set.keys.retain(|key| !key.key.ends_with(b"gid/timestamp"));
        set.raw("kv/gid/timestamp", &saved.to_be_bytes());
        let options = Options { now: Timestamp::from_second(seconds).unwrap(), ..of(&set) };
        let transformed = transform(&set.keys, &options).unwrap();
        for (key, from, to) in counters(&set, &transformed) {
            prop_assert!(to > from);
            if key.contains("/kv/") {
                prop_assert!(to > seconds.unsigned_abs() * 1_000_000_000);
            }
        }
    }

    #[test]
    fn any_bytes_in_a_value_are_an_error_that_names_the_key_or_no_error(
        at in 0_usize..60, bytes in prop::collection::vec(any::<u8>(), 0..40),
    ) {
        let mut set = SimulatedKeys::v2_6(&[]);
        let at = at % set.keys.len();
        set.keys[at].value = bytes;
        let options = Options { unproven: Unproven::Accept, ..of(&set) };
        if let Err(error) = transform(&set.keys, &options) && error.cause() == Cause::Damage {
            let key = String::from_utf8_lossy(&set.keys[at].key);
            prop_assert!(error.chain().contains(&*key), "{}", error.chain());
        }
    }
}
