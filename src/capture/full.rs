//! An etcd at its quota (alarm `NOSPACE`) takes no key: nothing can be held or flushed. What was flushed before is
//! a snapshot, and what was not is named.

use std::collections::BTreeMap;

use jiff::Timestamp;

use crate::base::text::cut;
use crate::base::weakening::{self, Weakening};
use crate::config::Instance;
use crate::etcd::MAKE_ROOM;
use crate::milvus::catalog::{Catalog, DROPPED, Segment};
use crate::milvus::hybrid;
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
    let mut since: BTreeMap<i64, u64> = BTreeMap::new();
    for segment in catalog.segments.iter().filter(|s| s.standing.is_open()) {
        let from = since.entry(segment.key.collection).or_insert(u64::MAX);
        *from = segment_begins(segment).unwrap_or(u64::MAX).min(*from);
    }
    let items: Vec<String> = since
        .into_iter()
        .map(|(id, from)| {
            let (database, collection) = catalog.names(id);
            let of_channels = catalog.collections.get(&id).map_or(u64::MAX, |collection| {
                let channels = collection.vchannels.iter();
                let passed =
                    channels.map(|channel| passed(catalog, channel, collection.create_timestamp));
                passed.min().unwrap_or(u64::MAX)
            });
            format!(
                "{database}.{collection}: since {}",
                said(from.min(of_channels))
            )
        })
        .collect();
    Weakening {
        code: weakening::NOT_FLUSHED.to_owned(),
        message: format!(
            "etcd was at its quota, so Milvus could flush nothing: rows and deletes that were acknowledged after {} are not in the snapshot unless they had been flushed",
            said(flushed_until(catalog, now))
        ),
        items: cut(items, NAMED, |more| format!("{more} more collections")),
    }
}

/// The timestamp until which everything that was acknowledged is flushed, in every collection; `now` where there
/// is none.
pub(super) fn flushed_until(catalog: &Catalog, now: Timestamp) -> u64 {
    let collections = catalog.collections.values().filter(|c| c.is_created());
    let channels = collections.flat_map(|collection| {
        let channels = collection.vchannels.iter();
        channels.map(|channel| passed(catalog, channel, collection.create_timestamp))
    });
    // Logs of an open segment may be behind a checkpoint, and are not part of a snapshot.
    let open = catalog.segments.iter().filter(|s| s.standing.is_open());
    let until = channels.chain(open.filter_map(segment_begins)).min();
    until.unwrap_or_else(|| hybrid::of_millis(u64::try_from(now.as_millisecond()).unwrap_or(0)))
}

/// How far a channel is flushed: its checkpoint, and before the first one its collection's creation.
fn passed(catalog: &Catalog, vchannel: &str, created: u64) -> u64 {
    let checkpoint = catalog.checkpoints.get(vchannel);
    match checkpoint.map(|checkpoint| checkpoint.timestamp) {
        None => created,
        Some(DROPPED) => u64::MAX,
        Some(timestamp) => timestamp,
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

/// A hybrid timestamp as a time of day.
fn said(timestamp: u64) -> String {
    let time = i64::try_from(hybrid::millis(timestamp)).map(Timestamp::from_millisecond);
    match time {
        Ok(Ok(time)) => time.to_string(),
        _ => "an unknown time".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::milvus::proto::common::SegmentState;
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
        let weakening = not_flushed(&catalog, now);
        assert_eq!(weakening.items.len(), 1, "{:?}", weakening.items);
        assert!(weakening.items[0].ends_with(&said(begins - 1)));
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
