//! An etcd at its quota (alarm `NOSPACE`) takes no key: nothing can be held or flushed. What was flushed before is
//! a snapshot, and what was not is named.

use std::collections::{BTreeMap, HashSet};

use jiff::Timestamp;

use crate::base::text::cut;
use crate::base::weakening::{self, Weakening};
use crate::config::Instance;
use crate::etcd::MAKE_ROOM;
use crate::milvus::catalog::{Catalog, DROPPED, Segment};
use crate::milvus::hybrid;
use crate::milvus::proto::common::SegmentState;
use crate::milvus::proto::data::SegmentLevel;
use crate::milvus::proto::meta::PartitionState;
use crate::{Cause, Error, Side};

/// Collections that the manifest names at most.
const NAMED: usize = 1_000;

/// The error of a capture that has to write to an etcd at its quota.
pub(super) fn refused(instance: &Instance) -> Error {
    let message = format!(
        "etcd at {} is at its quota (alarm NOSPACE): it takes no key, so nothing can be held and Milvus flushes nothing",
        instance.etcd.endpoints.join(", ")
    );
    Side::Source.error(Cause::NoSpace, message).with_hint(format!(
        "{MAKE_ROOM}; before that, --mode hot captures what is flushed, and --mode cold a stopped Milvus whole"
    ))
}

/// What a snapshot lacks that was taken without a flush.
pub(super) fn not_flushed(catalog: &Catalog, now: Timestamp) -> Weakening {
    let until = flushed(catalog).into_iter().map(|(id, until)| {
        let (database, name) = catalog.names(id);
        format!("{database}.{name}: flushed until {}", said(until))
    });
    let lost = outputs_lost(catalog).map(|segment| {
        let (database, name) = catalog.names(segment.key.collection);
        format!(
            "{database}.{name} segment {}: dropped, and nothing that it became is there; it may have been half compacted",
            segment.key.segment
        )
    });
    let mut items: Vec<String> = cut(lost, NAMED, |more| format!("{more} more such segments"));
    items.extend(cut(until, NAMED, |more| format!("{more} more collections")));
    Weakening {
        code: weakening::NOT_FLUSHED.to_owned(),
        message: format!(
            "etcd was at its quota, so Milvus could flush nothing: rows and deletes that were acknowledged after {} are not in the snapshot unless they had been flushed, and what Milvus was saving when etcd became full may be half saved",
            said(flushed_until(catalog, now))
        ),
        items,
    }
}

/// Dropped segments of rows that no other was compacted from: the record of what they became may have been
/// refused. Deletes of level 0 go into other segments, and become none.
fn outputs_lost(catalog: &Catalog) -> impl Iterator<Item = &Segment> {
    let all = catalog.segments.iter();
    let compacted: HashSet<i64> = all
        .flat_map(|s| s.compaction_from.iter().copied())
        .collect();
    catalog.segments.iter().filter(move |segment| {
        let collection = catalog.collections.get(&segment.key.collection);
        let served = collection.and_then(|c| c.partitions.get(&segment.key.partition));
        segment.state == SegmentState::Dropped
            && segment.level != SegmentLevel::L0
            && segment.rows > 0
            && segment.has_logs()
            && served.is_some_and(|p| p.state == PartitionState::Created)
            && !compacted.contains(&segment.key.segment)
    })
}

/// The timestamp until which everything that was acknowledged is flushed, in every collection; `now` where there
/// is none.
pub(super) fn flushed_until(catalog: &Catalog, now: Timestamp) -> u64 {
    let now = hybrid::of_millis(u64::try_from(now.as_millisecond()).unwrap_or(0));
    let until = flushed(catalog).into_values().min();
    until.unwrap_or(now)
}

/// The same of each collection that has channels.
fn flushed(catalog: &Catalog) -> BTreeMap<i64, u64> {
    let created = catalog.collections.values().filter(|c| c.is_created());
    let channels = created.filter_map(|collection| {
        let channels = collection.vchannels.iter();
        let created = collection.create_timestamp;
        let passed = channels.filter_map(|channel| passed(catalog, channel, created));
        Some((collection.id, passed.min()?))
    });
    let mut until: BTreeMap<i64, u64> = channels.collect();
    // Logs of an open segment may be behind a checkpoint, and are not part of a snapshot.
    for segment in catalog.segments.iter().filter(|s| s.standing.is_open()) {
        let of_collection = until.get_mut(&segment.key.collection);
        if let (Some(until), Some(begins)) = (of_collection, segment_begins(segment)) {
            *until = begins.min(*until);
        }
    }
    until
}

/// How far a channel is flushed: its checkpoint, and before the first one its collection's creation; `None` for one
/// that is dropped.
fn passed(catalog: &Catalog, vchannel: &str, created: u64) -> Option<u64> {
    let checkpoint = catalog.checkpoints.get(vchannel);
    match checkpoint.map(|checkpoint| checkpoint.timestamp) {
        None => Some(created),
        Some(DROPPED) => None,
        Some(timestamp) => Some(timestamp),
    }
}

/// The timestamp of the first row of an open segment of which something was written.
const fn segment_begins(segment: &Segment) -> Option<u64> {
    match segment.start_timestamp {
        0 => None,
        // What came at that timestamp is in the segment.
        begins => Some(begins - 1),
    }
}

/// A hybrid timestamp, for people.
fn said(timestamp: u64) -> String {
    hybrid::time(timestamp).map_or_else(|| "an unknown time".to_owned(), |time| time.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::milvus::simulated::keys::SimulatedKeys;

    fn decoded(set: &SimulatedKeys) -> Catalog {
        Catalog::decode(&SimulatedKeys::roots(), &set.keys, &set.version).unwrap()
    }

    #[test]
    fn what_is_flushed_ends_where_the_first_open_segment_begins() {
        let now = Timestamp::from_second(2_000_000_000).unwrap();
        let mut set = SimulatedKeys::v2_3();
        let checkpoints = flushed_until(&decoded(&set), now);
        let mut open = set.segment(77);
        open.state = SegmentState::Growing as i32;
        let channel = open.insert_channel.clone();
        let begins = checkpoints - hybrid::of_millis(5_000);
        open.start_position = Some(set.position(begins, &channel));
        set.record(&open);
        let catalog = decoded(&set);
        assert_eq!(flushed_until(&catalog, now), begins - 1);
        let until = format!("default.docs: flushed until {}", said(begins - 1));
        assert!(not_flushed(&catalog, now).items.contains(&until));
        // A compaction whose inputs are dropped and whose output could not be saved.
        let mut input = set.segment(78);
        input.state = SegmentState::Dropped as i32;
        set.whole(&input);
        let lost = not_flushed(&decoded(&set), now).items;
        assert!(
            lost.iter().any(|item| item.contains("segment 78: dropped")),
            "{lost:?}"
        );
        let mut output = set.segment(79);
        output.compaction_from = vec![78];
        set.whole(&output);
        let lost = not_flushed(&decoded(&set), now).items;
        assert!(
            !lost.iter().any(|item| item.contains("segment 78")),
            "{lost:?}"
        );
    }

    #[test]
    fn an_instance_without_collections_is_flushed_until_now() {
        let now = Timestamp::from_second(2_000_000_000).unwrap();
        let mut set = SimulatedKeys::empty(SimulatedKeys::v2_3().version);
        set.database(1, "default");
        assert_eq!(
            hybrid::millis(flushed_until(&decoded(&set), now)),
            2_000_000_000_000
        );
    }
}
