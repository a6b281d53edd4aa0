//! Delta logs of a live segment that etcd does not name (docs/milvus.md 00).
//!
//! Milvus before 2.4 keeps some deletes that were flushed while their segments were compacted in memory
//! only: the files are there, below the segment or below one that it was compacted from, and its own restart
//! brings the deleted rows back. They are the one part of a snapshot that is no function of etcd at the
//! anchor's revision.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use prost::Message as _;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::catalog::{Catalog, Segment, SegmentFlags};
use super::hybrid;
use super::keys::{Area, KeyValue, LogKind, Roots, SegmentKey};
use super::objects::ObjectKind;
use super::proto::data;
use super::proto::data::SegmentLevel;
use super::wire::Message;
use crate::Result;

/// How much of a file [`timestamps`] reads.
pub const HEADER_BYTES: u64 = 69;

/// The first bytes of a file of storage version 1.
const MAGIC: [u8; 4] = [0xbc, 0xfa, 0xff, 0x00];

/// `binlogs` of a `FieldBinlog`.
const BINLOGS: u32 = 2;

/// How long a delete may be in memory before it is flushed, in milliseconds: Milvus flushes what is older
/// than 10 min (`dataNode.segment.syncPeriod`). Twice that.
const UNFLUSHED_MS: u64 = 20 * 60 * 1000;

/// A delta log that etcd does not name.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct UnnamedDeltaLog {
    /// The collection.
    pub collection: i64,
    /// The partition.
    pub partition: i64,
    /// The live segment whose rows it deletes.
    pub segment: i64,
    /// Its id, the last part of its path.
    pub log: i64,
    /// How many deletes it holds; 0 where nothing tells.
    pub entries: i64,
    /// Least hybrid timestamp of a delete in it.
    pub from: u64,
    /// Greatest hybrid timestamp of a delete in it.
    pub to: u64,
    /// Its size, in bytes.
    pub size: u64,
    /// The segment below whose path the source has it, where that is another one: one that was compacted
    /// into the live one before the log was saved.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub written_below: Option<i64>,
}

impl UnnamedDeltaLog {
    /// Its path in the snapshot and in a restored instance, relative to the storage root.
    #[must_use]
    pub fn path(&self) -> String {
        self.path_below(self.segment)
    }

    /// Its path in the source.
    #[must_use]
    pub fn source_path(&self) -> String {
        self.path_below(self.written_below.unwrap_or(self.segment))
    }

    fn path_below(&self, segment: i64) -> String {
        let Self {
            collection,
            partition,
            log,
            ..
        } = self;
        let folder = ObjectKind::DeltaLog.folder();
        format!("{folder}/{collection}/{partition}/{segment}/{log}")
    }
}

/// A path of a delta log that etcd does not name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct UnnamedPath {
    /// The live segment whose rows it deletes.
    pub segment: SegmentKey,
    /// The log's id.
    pub log: i64,
    /// The segment below which it lies, where that is another one.
    pub written_below: Option<i64>,
    /// It counts when it has a delete from this hybrid timestamp on; others were compacted.
    pub since: u64,
}

/// What etcd names of the delta logs of segments that may have others.
#[derive(Debug)]
pub struct Suspects {
    segments: BTreeMap<SegmentKey, BTreeSet<i64>>,
    /// Segments that such a one was compacted from, and that are no more.
    inputs: BTreeMap<SegmentKey, SegmentKey>,
    /// Deletes in each log that etcd names anywhere: a compaction copies logs under their ids.
    entries: BTreeMap<i64, i64>,
}

impl Suspects {
    /// The live segments that a compaction made, where this version forgets deletes.
    #[must_use]
    pub fn of(catalog: &Catalog) -> Self {
        let forgets = catalog.version.forgets_deletes();
        let suspect = |segment: &&Segment| {
            forgets
                && segment.is_live()
                && segment.level != SegmentLevel::L0
                && (segment.flags.has(SegmentFlags::COMPACTION)
                    || !segment.compaction_from.is_empty())
        };
        let segments: BTreeMap<_, _> = catalog
            .segments
            .iter()
            .filter(suspect)
            .map(|segment| {
                let logs = segment.logs_of(LogKind::Delta).flat_map(|l| &l.logs);
                (segment.key, logs.map(|log| log.id).collect())
            })
            .collect();
        let inputs = inputs(catalog, segments.keys());
        let mut entries = BTreeMap::new();
        if !segments.is_empty() {
            let deltas = catalog
                .segments
                .iter()
                .flat_map(|s| s.logs_of(LogKind::Delta));
            entries.extend(
                deltas
                    .flat_map(|l| &l.logs)
                    .map(|log| (log.id, log.entries)),
            );
        }
        Self {
            segments,
            inputs,
            entries,
        }
    }

    /// Where their delta logs are, by collection.
    #[must_use]
    pub fn prefixes(&self) -> BTreeSet<String> {
        let collections = self.segments.keys().map(|key| key.collection);
        let folder = ObjectKind::DeltaLog.folder();
        collections.map(|id| format!("{folder}/{id}/")).collect()
    }

    /// What a path is when it is that of a delta log of one of them that etcd does not name.
    ///
    /// That an input names a log does not say that it was compacted: it may have been saved while the
    /// compaction ended. What was flushed since shortly before it began therefore counts all the same; where
    /// it was compacted after all it deletes nothing more, since it deletes by timestamp.
    #[must_use]
    pub fn unnamed(&self, path: &str) -> Option<UnnamedPath> {
        let mut parts = path.split('/');
        let folder = parts.next()?;
        let mut id = || parts.next()?.parse::<i64>().ok();
        let key = SegmentKey {
            collection: id()?,
            partition: id()?,
            segment: id()?,
        };
        let log = id()?;
        let whole = folder == ObjectKind::DeltaLog.folder() && parts.next().is_none();
        let (segment, written_below) = match self.inputs.get(&key) {
            Some(output) => (*output, Some(key.segment)),
            None => (key, None),
        };
        let is_named = self.segments.get(&segment)?.contains(&log);
        let by_input = written_below.is_some() && self.entries.contains_key(&log);
        (whole && !is_named).then_some(UnnamedPath {
            segment,
            log,
            written_below,
            since: if by_input {
                uncompacted_since(segment.segment)
            } else {
                0
            },
        })
    }

    /// How many deletes a log holds; 0 where no other segment names it.
    #[must_use]
    pub fn entries(&self, log: i64) -> i64 {
        self.entries.get(&log).copied().unwrap_or(0)
    }
}

/// From which hybrid timestamp on a delete may have been flushed after the compaction began that made this
/// segment. It got its id then, and ids are timestamps of the same kind (docs/milvus.md 8.1).
const fn uncompacted_since(output: i64) -> u64 {
    output
        .cast_unsigned()
        .saturating_sub(hybrid::of_millis(UNFLUSHED_MS))
}

/// The segments that `outputs` were compacted from, over several compactions, and that are neither live nor
/// open, each with its output.
fn inputs<'a>(
    catalog: &Catalog,
    outputs: impl Iterator<Item = &'a SegmentKey>,
) -> BTreeMap<SegmentKey, SegmentKey> {
    let records = catalog.segments.iter();
    let records: HashMap<i64, &Segment> = records.map(|s| (s.key.segment, s)).collect();
    let mut found = BTreeMap::new();
    for output in outputs {
        let mut next = vec![output.segment];
        while let Some(id) = next.pop() {
            let Some(record) = records.get(&id) else {
                continue;
            };
            for &input in &record.compaction_from {
                let key = SegmentKey {
                    segment: input,
                    ..*output
                };
                let is_there = |record: &&Segment| record.is_live() || record.standing.is_open();
                if input != output.segment
                    && !records.get(&input).is_some_and(is_there)
                    && found.insert(key, *output).is_none()
                {
                    next.push(input);
                }
            }
        }
    }
    found
}

/// The least and the greatest timestamp in a delta log, of which `head` is the beginning; `None` when it is
/// none (docs/milvus.md 4.5).
#[must_use]
pub fn timestamps(head: &[u8]) -> Option<(u64, u64)> {
    let at = |from: usize| {
        Some(u64::from_le_bytes(
            head.get(from..from + 8)?.try_into().ok()?,
        ))
    };
    // The descriptor event: header of 17 bytes, four ids of 8, then both timestamps.
    let (from, to) = (at(53)?, at(61)?);
    (head.starts_with(&MAGIC) && 0 < from && from <= to).then_some((from, to))
}

/// Names `logs` in `keys`, which are in byte order and stay so: as Milvus would have, had it saved them.
///
/// # Errors
///
/// [`Cause::Damage`](crate::Cause::Damage) when the value of a delta log's key is no message.
pub fn name(keys: &mut Vec<KeyValue>, roots: &Roots, logs: &[UnnamedDeltaLog]) -> Result<()> {
    for log in logs {
        let UnnamedDeltaLog {
            collection,
            partition,
            segment,
            ..
        } = log;
        let area = roots.area(Area::Meta);
        // Delta logs have no field; Milvus saves them under 0.
        let key = format!("{area}datacoord-meta/deltalog/{collection}/{partition}/{segment}/0");
        let key = key.into_bytes();
        let at = match keys.binary_search_by(|kv| kv.key.cmp(&key)) {
            Ok(at) => at,
            Err(at) => {
                keys.insert(at, KeyValue::new(key, vec![]));
                at
            }
        };
        let binlog = data::Binlog {
            entries_num: log.entries,
            timestamp_from: log.from,
            timestamp_to: log.to,
            log_size: i64::try_from(log.size).unwrap_or(i64::MAX),
            log_id: log.log,
            ..Default::default()
        };
        let mut value = Message::parse(&keys[at].value)?;
        value.add_bytes(BINLOGS, &binlog.encode_to_vec());
        keys[at].value = value.encode();
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::milvus::MilvusVersion;
    use crate::milvus::simulated::keys::{COLLECTION, PARTITION, SimulatedKeys, TIME};

    /// Segment 201, compacted from 200, whose delta log 900 etcd still names below 200.
    fn compacted(version: &str) -> (Catalog, Vec<KeyValue>) {
        let version = MilvusVersion::parse(version);
        let mut set = SimulatedKeys::new(version.clone());
        let mut input = set.segment(200);
        input.state = crate::milvus::proto::common::SegmentState::Dropped.into();
        set.whole(&input);
        let logs = data::FieldBinlog {
            binlogs: vec![data::Binlog {
                entries_num: 7,
                log_id: 900,
                ..Default::default()
            }],
            ..Default::default()
        };
        let key = format!("datacoord-meta/deltalog/{COLLECTION}/{PARTITION}/200/0");
        set.meta(&key, &logs);
        let mut output = set.segment(201);
        output.created_by_compaction = true;
        output.compaction_from = vec![200];
        set.whole(&output);
        let other = set.segment(202);
        set.whole(&other);
        set.keys.sort_by(|a, b| a.key.cmp(&b.key));
        let catalog = Catalog::decode(&SimulatedKeys::roots(), &set.keys, &version).unwrap();
        (catalog, set.keys)
    }

    fn unnamed(log: i64) -> UnnamedDeltaLog {
        UnnamedDeltaLog {
            collection: COLLECTION,
            partition: PARTITION,
            segment: 201,
            log,
            entries: 7,
            from: TIME,
            to: TIME + 5,
            size: 1234,
            written_below: None,
        }
    }

    #[test]
    fn only_delta_logs_of_live_outputs_of_compactions_are_suspect_simulated_milvus_2_3_5_and_2_4_0()
    {
        let (catalog, _) = compacted("2.3.5");
        let suspects = Suspects::of(&catalog);
        assert_eq!(
            suspects.prefixes(),
            [format!("delta_log/{COLLECTION}/")].into()
        );
        let path = |segment: i64| format!("delta_log/{COLLECTION}/{PARTITION}/{segment}/900");
        let key = SegmentKey {
            collection: COLLECTION,
            partition: PARTITION,
            segment: 201,
        };
        let found = |written_below, log| UnnamedPath {
            segment: key,
            log,
            written_below,
            since: uncompacted_since(201),
        };
        assert_eq!(suspects.unnamed(&path(201)), Some(found(None, 900)));
        assert_eq!(suspects.entries(900), 7, "as its input has it");
        assert_eq!(
            suspects.unnamed(&path(200)),
            Some(found(Some(200), 900)),
            "its input names it, which does not say that it was compacted"
        );
        let lost = path(200).replace("900", "901");
        assert_eq!(suspects.unnamed(&lost), Some(found(Some(200), 901)));
        assert_eq!(suspects.unnamed(&path(202)), None, "no compaction made it");
        assert_eq!(suspects.unnamed(&format!("{}/1", path(201))), None);
        let insert = path(201).replace("delta_log", "insert_log");
        assert_eq!(suspects.unnamed(&insert), None);

        let (catalog, _) = compacted("2.4.0");
        assert_eq!(Suspects::of(&catalog).prefixes(), BTreeSet::new());
    }

    #[test]
    fn what_was_flushed_long_before_a_compaction_began_was_compacted() {
        let twenty_minutes = hybrid::of_millis(20 * 60_000);
        let began = TIME.cast_signed();
        assert_eq!(uncompacted_since(began), TIME - twenty_minutes);
        assert_eq!(uncompacted_since(201), 0, "such an id tells nothing");
    }

    #[test]
    fn what_is_named_is_in_the_catalog_beside_what_was_and_suspect_no_more() {
        let (catalog, keys) = compacted("2.3.5");
        let (mut named, logs) = (keys, [unnamed(900), unnamed(901)]);
        name(&mut named, &catalog.roots, &logs).unwrap();
        assert!(named.is_sorted_by(|a, b| a.key < b.key));
        let again = Catalog::decode(&catalog.roots, &named, &catalog.version).unwrap();
        let segment = again.segments.iter().find(|s| s.key.segment == 201);
        let delta: Vec<_> = segment.unwrap().logs_of(LogKind::Delta).collect();
        let found: Vec<_> = delta
            .iter()
            .flat_map(|l| &l.logs)
            .map(|log| (log.id, log.entries, log.from, log.to, log.size))
            .collect();
        let expected = |id| (id, 7, TIME, TIME + 5, 1234);
        assert_eq!(found, [expected(900), expected(901)]);
        assert!(
            again
                .objects()
                .any(|object| object.path == unnamed(900).path())
        );
        assert_eq!(Suspects::of(&again).unnamed(&unnamed(901).path()), None);
    }

    #[test]
    fn a_delta_log_tells_its_timestamps_and_another_file_tells_none() {
        let mut head = MAGIC.to_vec();
        head.resize(53, 0);
        head.extend(TIME.to_le_bytes());
        head.extend((TIME + 9).to_le_bytes());
        assert_eq!(head.len() as u64, HEADER_BYTES);
        assert_eq!(timestamps(&head), Some((TIME, TIME + 9)));
        assert_eq!(timestamps(&head[..68]), None, "cut off");
        head[0] = 0;
        assert_eq!(timestamps(&head), None, "no file of Milvus's");
    }
}
