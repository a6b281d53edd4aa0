//! Updates of simulated Milvus versions that are cut in two at every place.

use std::collections::BTreeMap;

use super::*;
use crate::milvus::MilvusVersion;
use crate::milvus::proto::data::{Binlog, FieldBinlog};
use crate::milvus::simulated::keys::{COLLECTION, PARTITION, SimulatedKeys};

/// The revision of what was there before the update.
const BASE: i64 = 100;

/// What one update puts, in an order that changes with `seed`: Milvus's own is that of a hash map.
fn shuffled(mut puts: Vec<KeyValue>, seed: u64) -> Vec<KeyValue> {
    let mut n = seed;
    for at in (1..puts.len()).rev() {
        n = n.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        let with = usize::try_from((n >> 33) % (at as u64 + 1)).unwrap();
        puts.swap(at, with);
    }
    puts
}

/// What is put by `fill`.
fn puts(version: &MilvusVersion, fill: impl FnOnce(&mut SimulatedKeys)) -> Vec<KeyValue> {
    let mut set = SimulatedKeys::empty(version.clone());
    fill(&mut set);
    set.keys
}

fn delta(set: &mut SimulatedKeys, partition: i64, segment: i64, log: i64) {
    let logs = FieldBinlog {
        binlogs: vec![Binlog {
            entries_num: 3,
            timestamp_to: set.time,
            log_id: log,
            ..Default::default()
        }],
        ..Default::default()
    };
    set.meta(
        &format!("datacoord-meta/deltalog/{COLLECTION}/{partition}/{segment}/0"),
        &logs,
    );
}

fn dropped(set: &SimulatedKeys, id: i64) -> SegmentInfo {
    SegmentInfo {
        state: SegmentState::Dropped.into(),
        ..set.segment(id)
    }
}

fn level_0(set: &SimulatedKeys, state: SegmentState) -> SegmentInfo {
    SegmentInfo {
        partition_id: -1,
        num_of_rows: 0,
        level: SegmentLevel::L0.into(),
        state: state.into(),
        ..set.segment(120)
    }
}

/// What happens to `before` when `update` is cut after `cut` of its puts: what is said, and the catalog.
/// The revision is reached `later` than the puts before it.
fn at_cut_later(
    version: &MilvusVersion,
    before: &[KeyValue],
    update: &[KeyValue],
    cut: usize,
    later: Duration,
) -> (Option<String>, Catalog) {
    let at = Instant::now();
    let changes: Vec<Timed> = update
        .iter()
        .zip(BASE + 1..)
        .map(|(kv, revision)| Timed {
            at,
            change: Change::Put(KeyValue {
                mod_revision: revision,
                ..kv.clone()
            }),
        })
        .collect();
    let mut keys: BTreeMap<Vec<u8>, KeyValue> = before
        .iter()
        .map(|kv| (kv.key.clone(), kv.clone()))
        .collect();
    for kv in &update[..cut] {
        keys.insert(kv.key.clone(), kv.clone());
    }
    let keys: Vec<_> = keys.into_values().collect();
    let roots = SimulatedKeys::roots();
    let catalog = Catalog::decode(&roots, &keys, version).unwrap();
    let revision = BASE + i64::try_from(cut).unwrap();
    let said = half_saved(&roots, &changes, revision, at + later, &catalog).unwrap();
    (said, catalog)
}

fn at_cut(
    version: &MilvusVersion,
    before: &[KeyValue],
    update: &[KeyValue],
    cut: usize,
) -> (Option<String>, Catalog) {
    at_cut_later(version, before, update, cut, Duration::ZERO)
}

fn live(catalog: &Catalog) -> BTreeSet<i64> {
    catalog.live_segments().map(|s| s.key.segment).collect()
}

/// Delta logs of a live segment.
fn deletes(catalog: &Catalog, id: i64) -> usize {
    let mut live = catalog.live_segments();
    let segment = live.find(|segment| segment.key.segment == id);
    segment.map_or(0, |segment| segment.logs_of(LogKind::Delta).count())
}

/// Cuts `update` at every place, in many orders: between its ends either it is said that the update is half
/// saved, or the catalog is `right`. At its ends nothing is said.
fn every_cut_is_noticed(
    version: &str,
    before: &[KeyValue],
    update: impl Fn(&MilvusVersion) -> Vec<KeyValue>,
    right: impl Fn(&Catalog) -> bool,
) {
    let version = MilvusVersion::parse(version);
    let mut noticed = 0;
    for seed in 0..200 {
        let update = shuffled(update(&version), seed);
        for cut in 0..=update.len() {
            let (said, catalog) = at_cut(&version, before, &update, cut);
            if cut == 0 || cut == update.len() {
                assert_eq!(said, None, "{version}, order {seed}");
                assert!(right(&catalog), "{version}, order {seed}");
            } else {
                let sound =
                    right(&catalog) && catalog.validate().iter().all(|f| f.segment.is_none());
                assert!(
                    said.is_some() || sound,
                    "{version}, order {seed}, cut {cut}"
                );
                noticed += usize::from(said.is_some());
            }
        }
    }
    assert!(noticed > 0);
}

#[test]
fn a_mix_compaction_that_is_cut_anywhere_is_noticed_simulated_milvus_2_3_to_2_6() {
    for version in ["2.3.5", "2.4.24", "2.5.27", "2.6.13"] {
        let base = puts(&MilvusVersion::parse(version), |set| {
            set.keys = SimulatedKeys::new(set.version.clone()).keys;
            for id in [110, 111] {
                let segment = set.segment(id);
                set.whole(&segment);
            }
        });
        let update = |version: &MilvusVersion| {
            puts(version, |set| {
                for id in [110, 111] {
                    let input = dropped(set, id);
                    set.record(&input);
                }
                let output = SegmentInfo {
                    num_of_rows: 20,
                    compaction_from: vec![110, 111],
                    created_by_compaction: true,
                    ..set.segment(112)
                };
                set.whole(&output);
                delta(set, PARTITION, 112, 900);
            })
        };
        let right = |catalog: &Catalog| {
            let live = live(catalog);
            live == [110, 111].into() || live == [112].into() && deletes(catalog, 112) == 1
        };
        every_cut_is_noticed(version, &base, update, right);
    }
}

#[test]
fn deletes_of_level_0_that_are_moved_and_cut_anywhere_are_noticed_simulated_milvus_2_4_to_2_6() {
    for version in ["2.4.24", "2.5.27", "2.6.13"] {
        let base = puts(&MilvusVersion::parse(version), |set| {
            set.keys = SimulatedKeys::new(set.version.clone()).keys;
            for id in [110, 111] {
                let segment = set.segment(id);
                set.whole(&segment);
            }
            let deletes = level_0(set, SegmentState::Flushed);
            set.record(&deletes);
            delta(set, -1, 120, 1201);
        });
        let update = |version: &MilvusVersion| {
            puts(version, |set| {
                let deletes = level_0(set, SegmentState::Dropped);
                set.record(&deletes);
                delta(set, PARTITION, 110, 901);
                delta(set, PARTITION, 111, 902);
            })
        };
        let right = |catalog: &Catalog| {
            live(catalog).contains(&120) || deletes(catalog, 110) + deletes(catalog, 111) == 2
        };
        every_cut_is_noticed(version, &base, update, right);
    }
}

#[test]
fn what_is_saved_of_others_does_not_disturb_and_the_end_of_a_flush_neither_simulated_milvus_2_4_24()
{
    let version = MilvusVersion::parse("2.4.24");
    let base = puts(&version, |set| {
        set.keys = SimulatedKeys::new(set.version.clone()).keys;
        let flushing = SegmentInfo {
            state: SegmentState::Flushing.into(),
            ..set.segment(110)
        };
        set.whole(&flushing);
        let growing = SegmentInfo {
            state: SegmentState::Growing.into(),
            num_of_rows: 0,
            ..set.segment(130)
        };
        set.record(&growing);
    });
    // The flush of 110 was saved, then it ends; 130 grows on; 140 is new.
    let update = puts(&version, |set| {
        let flushing = SegmentInfo {
            state: SegmentState::Flushing.into(),
            ..set.segment(110)
        };
        set.record(&flushing);
        let growing = SegmentInfo {
            state: SegmentState::Growing.into(),
            num_of_rows: 3,
            ..set.segment(130)
        };
        set.record(&growing);
        set.record(&growing);
        let segment = set.segment(110);
        set.record(&segment);
        let new = set.segment(140);
        set.whole(&new);
    });
    let (said, _) = at_cut(&version, &base, &update, 2);
    assert_eq!(said, None);
    // What lies further apart than the parts of one update is two.
    let (said, _) = at_cut(&version, &base, &update, 6);
    assert!(said.is_some_and(|why| why.contains("segment 140")));
    let later = QUIET + Duration::from_millis(1);
    let (said, _) = at_cut_later(&version, &base, &update, 6, later);
    assert_eq!(said, None);
}

#[test]
fn a_flush_and_the_compaction_that_follows_it_are_two_updates_simulated_milvus_2_5_27() {
    let version = MilvusVersion::parse("2.5.27");
    let base = puts(&version, |set| {
        set.keys = SimulatedKeys::new(set.version.clone()).keys;
    });
    let flush = puts(&version, |set| {
        let segment = set.segment(110);
        set.whole(&segment);
    });
    let sort = puts(&version, |set| {
        let input = dropped(set, 110);
        set.record(&input);
        let output = SegmentInfo {
            compaction_from: vec![110],
            is_sorted: true,
            ..set.segment(111)
        };
        set.whole(&output);
    });
    let update: Vec<_> = flush.iter().chain(&sort).cloned().collect();
    let (said, catalog) = at_cut(&version, &base, &update, flush.len());
    assert_eq!((said, live(&catalog)), (None, [110].into()));
    // The input is dropped, and the output is not there yet.
    let (said, _) = at_cut(&version, &base, &update, flush.len() + 1);
    assert!(said.is_some_and(|why| why.contains("segment 111")));
}

#[test]
fn changes_of_one_segment_that_follow_each_other_all_the_time_are_not_one_simulated_milvus_2_3_5() {
    let version = MilvusVersion::parse("2.3.5");
    let base = puts(&version, |set| {
        set.keys = SimulatedKeys::new(set.version.clone()).keys;
        let segment = set.segment(110);
        set.whole(&segment);
    });
    // Each flush of deletes puts the record and the delta logs in one transaction.
    let flush = puts(&version, |set| {
        let segment = set.segment(110);
        set.record(&segment);
        delta(set, PARTITION, 110, 900);
    });
    let at = Instant::now();
    let timed = |revision: i64| {
        flush.iter().map(move |kv| Timed {
            at,
            change: Change::Put(KeyValue {
                mod_revision: revision,
                ..kv.clone()
            }),
        })
    };
    let changes: Vec<Timed> = (BASE..BASE + 6).flat_map(timed).collect();
    let roots = SimulatedKeys::roots();
    let keys: BTreeMap<_, _> = base
        .iter()
        .chain(&flush)
        .map(|kv| (kv.key.clone(), kv.clone()))
        .collect();
    let keys: Vec<_> = keys.into_values().collect();
    let catalog = Catalog::decode(&roots, &keys, &version).unwrap();
    let said = half_saved(&roots, &changes, BASE + 2, at, &catalog);
    assert_eq!(said.unwrap(), None);
    // The record without the logs is half of one.
    let said = half_saved(&roots, &changes[4..6], BASE + 2, at, &catalog);
    assert_eq!(said.unwrap(), None, "one transaction is never half saved");
    let mut halves = changes[4..6].to_vec();
    let Change::Put(kv) = &mut halves[1].change else {
        panic!("it is a put");
    };
    kv.mod_revision += 1;
    let said = half_saved(&roots, &halves, BASE + 2, at, &catalog);
    assert!(said.unwrap().is_some());
}
