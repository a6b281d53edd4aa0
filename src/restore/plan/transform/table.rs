//! The table itself: one decision for each family of keys.

use std::collections::{BTreeSet, HashMap, HashSet};

use super::edit::{Earliest, storage_root, suspend_ttl};
use super::{Action, Advance, Options, Report, Ttl, Verdict, Wal, counters};
use crate::milvus::catalog::{Catalog, DROPPED, Segment, Standing, TOMBSTONE, is_terminal};
use crate::milvus::keys::{KeyKind, KeyValue, SegmentKey, normalise_item};
use crate::milvus::proto::meta::{AliasInfo, AliasState, DatabaseState};
use crate::milvus::proto::{data, index, msg, streaming};
use crate::milvus::wire::Message;
use crate::{Cause, Error, Result};

pub(super) struct Table<'a> {
    catalog: &'a Catalog,
    options: &'a Options,
    segments: HashMap<SegmentKey, &'a Segment>,
    vchannels: HashSet<&'a str>,
    advance: Advance,
    /// Our hold keys, as normalised items.
    pub(super) holds: BTreeSet<String>,
}

/// Items that an operator may have set and forgotten: nobody can write, or change a schema.
const DENIALS: [&str; 3] = [
    "quotaandlimitslimitwritingforcedeny",
    "quotaandlimitslimitreadingforcedeny",
    "quotaandlimitsforcedenyallddl",
];

impl<'a> Table<'a> {
    pub(super) fn new(catalog: &'a Catalog, options: &'a Options) -> Self {
        let segments = catalog.segments.iter().map(|s| (s.key, s)).collect();
        let collections = catalog.collections.values();
        let vchannels = collections
            .filter(|c| c.is_created() || options.wal == Wal::Keep)
            .flat_map(|c| c.vchannels.iter().map(String::as_str))
            .collect();
        let holds = options.holds.iter();
        let holds = holds.filter_map(|key| match options.source.parse(key) {
            KeyKind::Config { item } => Some(normalise_item(item)),
            _ => None,
        });
        Self {
            catalog,
            options,
            segments,
            vchannels,
            advance: Advance::new(catalog, options.now),
            holds: holds.collect(),
        }
    }

    /// The decision for every key but copies.
    pub(super) fn decide(
        &self,
        key: &KeyValue,
        kind: KeyKind<'_>,
        report: &mut Report,
    ) -> Result<Verdict> {
        use KeyKind as K;
        let tombstone = key.value == TOMBSTONE;
        Ok(match kind {
            _ if tombstone => Verdict::drop("what is gone"),
            K::Database { database } => self.database(database),
            K::Collection { collection, .. } | K::LegacyCollection { collection } => {
                if self.has_collection(collection) {
                    self.collection(key, report)?
                } else {
                    Verdict::drop("collections that were dropped or not made yet")
                }
            }
            K::Field { collection, .. }
            | K::Function { collection, .. }
            | K::StructField { collection, .. } => self.with_collection(collection),
            K::Alias { .. } | K::LegacyAlias { .. } => self.alias(key)?,
            K::User { .. }
            | K::Role { .. }
            | K::UserRole { .. }
            | K::Grant
            | K::PrivilegeGroup { .. }
            | K::FileResource => Verdict::keep("as it was"),
            K::Segment(segment) => self.segment(key, segment, report)?,
            K::Log { segment, .. } => self.log(segment),
            K::SegmentIndex { segment, build } => self.segment_index(key, segment, build)?,
            K::FieldIndex { collection, index } => self.field_index(collection, index),
            K::ChannelCheckpoint { vchannel } => self.checkpoint(key, vchannel, report)?,
            K::ChannelRemoval { .. } => match self.options.wal {
                Wal::Reset(_) => Verdict::drop("of the old WAL"),
                Wal::Keep => Verdict::keep("goes with the WAL"),
            },
            K::ChannelWatch { vchannel, .. } => self.with_vchannel(vchannel),
            K::CollectionLoad { .. }
            | K::PartitionLoad { .. }
            | K::Replica { .. }
            | K::ResourceGroup { .. } => self.load(kind),
            K::Partition {
                collection,
                partition,
            }
            | K::PartitionStats {
                collection,
                partition,
                ..
            }
            | K::PartitionStatsVersion {
                collection,
                partition,
                ..
            } => self.with_partition(collection, partition),
            K::CollectionTarget { .. } => Verdict::drop("holds positions; computed again"),
            K::LegacyQuery => Verdict::drop("not read since 2.2"),
            K::ImportJob { .. } | K::ImportTask | K::LegacyImportTask { .. } => {
                Verdict::drop("imports do not go on after a restore")
            }
            K::CompactionTask { .. } => compaction(key)?,
            K::AnalyzeTask | K::StatsTask => Verdict::drop("made again where still needed"),
            K::SessionId | K::IdCounter | K::TsoCounter | K::QueryIdCounter => {
                self.counter(key, kind)?
            }
            K::SessionVersion => Verdict::keep("an older Milvus must not start on it"),
            K::Session { .. } => Verdict::drop("of processes that are gone"),
            K::Config { item } => self.config(key, item, report),
            K::PChannel { .. }
            | K::BroadcastTask { .. }
            | K::StreamingVersion
            | K::ControlChannel
            | K::Replication
            | K::ConsumeCheckpoint { .. }
            | K::VChannel { .. }
            | K::VChannelSchema { .. }
            | K::SegmentAssignment { .. }
            | K::Woodpecker => self.streaming(key, kind, report)?,
            K::Newer | K::Unknown => Verdict::keep("not known to eyrie"),
            K::Foreign => Verdict::drop("not of this instance"),
            K::SnapshotCopy { .. } => Verdict::drop("copies of what is gone"),
        })
    }

    /// The decision for a copy of a key that stays: what is rewritten in the key is in the copy.
    pub(super) fn copy(
        &self,
        key: &KeyValue,
        original: KeyKind<'_>,
        report: &mut Report,
    ) -> Result<Verdict> {
        let collection = matches!(
            original,
            KeyKind::Collection { .. } | KeyKind::LegacyCollection { .. }
        );
        if collection && key.value != TOMBSTONE {
            return self.collection(key, report);
        }
        Ok(Verdict::keep(
            "go with their keys; Milvus before 2.4.14 reads them",
        ))
    }

    /// Whether a collection stays. One that is being dropped stays only with the WAL that holds
    /// the rest of its drop.
    fn has_collection(&self, id: i64) -> bool {
        let collection = self.catalog.collections.get(&id);
        collection.is_some_and(|c| c.is_created() || self.options.wal == Wal::Keep)
    }

    fn with_collection(&self, id: i64) -> Verdict {
        if self.has_collection(id) {
            Verdict::keep("as it was")
        } else {
            Verdict::drop("of collections that are gone")
        }
    }

    fn with_partition(&self, collection: i64, partition: i64) -> Verdict {
        let there = self.catalog.serves_partition(collection, partition);
        if there || (self.options.wal == Wal::Keep && self.has_collection(collection)) {
            Verdict::keep("as it was")
        } else {
            Verdict::drop("of collections or partitions that are gone")
        }
    }

    fn with_vchannel(&self, vchannel: &str) -> Verdict {
        if self.vchannels.contains(vchannel) {
            Verdict::keep("assigned anew, as after any restart")
        } else {
            Verdict::drop("of collections that are gone")
        }
    }

    fn database(&self, id: i64) -> Verdict {
        let state = self
            .catalog
            .databases
            .get(&id)
            .map(|database| database.state);
        match state {
            Some(DatabaseState::Created | DatabaseState::Unknown) => Verdict::keep("as it was"),
            _ => Verdict::drop("databases that were dropped or not made yet"),
        }
    }

    fn alias(&self, key: &KeyValue) -> Result<Verdict> {
        let info: AliasInfo = decode(&key.value)?;
        let created = info.state == AliasState::Created as i32;
        Ok(if created && self.has_collection(info.collection_id) {
            Verdict::keep("as it was")
        } else {
            Verdict::drop("of collections that are gone")
        })
    }

    fn earliest(&self) -> Option<Earliest> {
        match self.options.wal {
            Wal::Reset(kind) => Some(Earliest::new(kind, self.options.target_version.clone())),
            Wal::Keep => None,
        }
    }

    fn collection(&self, key: &KeyValue, report: &mut Report) -> Result<Verdict> {
        let mut value = Message::parse(&key.value)?;
        let mut why = "as it was";
        if let Some(earliest) = self.earliest() {
            report.rewrote("start positions", earliest.start_positions(&mut value)?);
            why = "positions start at the fresh WAL";
        }
        if self.options.ttl == Ttl::Suspend {
            report.rewrote("times to live", suspend_ttl(&mut value)?);
        }
        Ok(rewritten(key, value.encode(), why))
    }

    fn segment(&self, key: &KeyValue, id: SegmentKey, report: &mut Report) -> Result<Verdict> {
        let Some(segment) = self.segments.get(&id) else {
            return Ok(Verdict::drop("not live"));
        };
        let kept_for_wal = self.options.wal == Wal::Keep && !is_lost(segment.standing);
        if !segment.is_live() && !kept_for_wal {
            return Ok(Verdict::drop(reason(segment.standing)));
        }
        let mut value = Message::parse(&key.value)?;
        let mut why = "as it was";
        if let Some(earliest) = self.earliest() {
            report.rewrote("segment positions", earliest.segment(&mut value)?);
            why = "positions start at the fresh WAL";
        } else if !segment.compaction_from.is_empty() {
            // With the dropped parents kept for the replay, a query node must not fall back to
            // them: their objects are not in the snapshot (docs/milvus.md 7.3).
            value.remove(15);
            why = "parents are not fallen back to";
        }
        if let Some(storage) = &self.options.storage {
            report.rewrote("storage paths", storage_root(&mut value, storage)?);
        }
        Ok(rewritten(key, value.encode(), why))
    }

    fn log(&self, id: SegmentKey) -> Verdict {
        let segment = self.segments.get(&id);
        let open = |s: &&Segment| self.options.wal == Wal::Keep && s.standing.is_open();
        match segment {
            Some(segment) if segment.is_live() || open(segment) => Verdict::keep("as it was"),
            _ => Verdict::drop("of segments that are not live"),
        }
    }

    fn segment_index(&self, key: &KeyValue, id: SegmentKey, build: i64) -> Result<Verdict> {
        let info: index::SegmentIndex = decode(&key.value)?;
        let collection = self.catalog.collections.get(&id.collection);
        let index = collection.and_then(|collection| collection.indexes.get(&info.index_id));
        let wanted = !info.deleted && index.is_some_and(|index| !index.deleted);
        let live = self
            .segments
            .get(&id)
            .is_some_and(|segment| segment.is_live());
        Ok(match (live, wanted) {
            (true, true) if self.options.rebuild.contains(&build) => {
                Verdict::drop("their files are not in the snapshot: Milvus builds them again")
            }
            (true, true) => Verdict::keep("no index is built again"),
            (true, false) => Verdict::drop("of indexes that were dropped"),
            (false, _) => Verdict::drop("of segments that are not live"),
        })
    }

    fn field_index(&self, collection: i64, index: i64) -> Verdict {
        let known = self.catalog.collections.get(&collection);
        let index = known.and_then(|collection| collection.indexes.get(&index));
        match index {
            Some(index) if index.deleted => Verdict::drop("indexes that were dropped"),
            _ => self.with_collection(collection),
        }
    }

    fn checkpoint(&self, key: &KeyValue, vchannel: &str, report: &mut Report) -> Result<Verdict> {
        let position: msg::MsgPosition = decode(&key.value)?;
        if !self.vchannels.contains(vchannel) || position.timestamp == DROPPED {
            return Ok(Verdict::drop("of collections that are gone"));
        }
        Ok(match self.earliest() {
            Some(earliest) => {
                report.rewrote("channel checkpoints", 1);
                let value = earliest.checkpoint(&key.value)?;
                rewritten(
                    key,
                    value,
                    "positions start at the fresh WAL; timestamps stay",
                )
            }
            None => Verdict::keep("goes with the WAL"),
        })
    }

    fn load(&self, kind: KeyKind<'_>) -> Verdict {
        let there = match kind {
            KeyKind::CollectionLoad { collection } | KeyKind::Replica { collection, .. } => {
                self.catalog.collection(collection).is_some()
            }
            KeyKind::PartitionLoad {
                collection,
                partition,
            } => self.catalog.serves_partition(collection, partition),
            _ => return Verdict::keep("nodes that are gone are replaced by Milvus"),
        };
        if there {
            Verdict::keep("what was loaded comes back loaded")
        } else {
            Verdict::drop("of collections or partitions that are gone")
        }
    }

    fn counter(&self, key: &KeyValue, kind: KeyKind<'_>) -> Result<Verdict> {
        if kind == KeyKind::SessionId {
            let text = String::from_utf8_lossy(&key.value);
            let saved: i64 = text
                .trim()
                .parse()
                .map_err(|_| Error::new(Cause::Damage, "the value is not a decimal number"))?;
            let next = counters::session_id(saved, self.options.least_session_id);
            let why = "node ids are never given out twice";
            return Ok(Verdict::changed(
                Action::Advance,
                why,
                next.to_string().into_bytes(),
            ));
        }
        let saved = counters::read_mark(&key.value)?;
        let next = self.advance.mark(saved);
        let why = "past every id and timestamp in the snapshot, and past now";
        Ok(Verdict::changed(
            Action::Advance,
            why,
            next.to_be_bytes().to_vec(),
        ))
    }

    fn config(&self, key: &KeyValue, item: &str, report: &mut Report) -> Verdict {
        let item = normalise_item(item);
        let name = String::from_utf8_lossy(&key.key);
        if self.holds.contains(&item) {
            return Verdict::drop("our own holds");
        }
        if key.lease != 0 {
            report.warn(format!(
                "{name} was set under a lease, so it is not restored"
            ));
            return Verdict::drop("set under a lease, so by nature temporary");
        }
        if DENIALS.contains(&item.as_str()) && key.value.eq_ignore_ascii_case(b"true") {
            report.warn(format!(
                "{name} is true: it denies requests after the restore too"
            ));
        }
        Verdict::keep("the operator's setting")
    }

    fn streaming(&self, key: &KeyValue, kind: KeyKind<'_>, report: &mut Report) -> Result<Verdict> {
        let reset = self.earliest();
        Ok(match (kind, reset) {
            (KeyKind::Replication, _) => {
                report.warn("the copy takes no part in the replication (CDC)".to_owned());
                Verdict::drop("a copy must not go on replicating")
            }
            (KeyKind::ConsumeCheckpoint { .. }, Some(earliest)) => {
                report.rewrote("consume checkpoints", 1);
                let value = earliest.consume_checkpoint(&key.value)?;
                rewritten(
                    key,
                    value,
                    "positions start at the fresh WAL; time ticks stay",
                )
            }
            (KeyKind::SegmentAssignment { .. } | KeyKind::Woodpecker, Some(_)) => {
                Verdict::drop("of the old WAL")
            }
            (KeyKind::VChannel { .. }, _) => {
                let meta: streaming::VChannelMeta = decode(&key.value)?;
                let collection = meta.collection_info.unwrap_or_default().collection_id;
                // The control channel has no collection.
                match collection {
                    0 => Verdict::keep("as it was"),
                    id => self.with_collection(id),
                }
            }
            (KeyKind::VChannelSchema { vchannel, .. }, _) => {
                if self.vchannels.contains(vchannel) {
                    Verdict::keep("as it was")
                } else {
                    Verdict::drop("of collections that are gone")
                }
            }
            _ => Verdict::keep("as it was"),
        })
    }
}

fn compaction(key: &KeyValue) -> Result<Verdict> {
    let task: data::CompactionTask = decode(&key.value)?;
    let state = data::CompactionTaskState::try_from(task.state).unwrap_or_default();
    Ok(if is_terminal(state) {
        Verdict::keep("ended")
    } else {
        Verdict::drop("under way; planned again where still needed")
    })
}

/// The side of a compaction that lost, and unfinished imports, go with any WAL.
const fn is_lost(standing: Standing) -> bool {
    use Standing as S;
    matches!(standing, S::Compacted | S::Unserved | S::Importing)
}

const fn reason(standing: Standing) -> &'static str {
    match standing {
        Standing::Growing | Standing::Sealed => "not flushed: their rows are in the old WAL",
        Standing::Importing => "imports do not go on after a restore",
        Standing::Compacted | Standing::Unserved => "the other side of a half-done compaction",
        Standing::Orphan => "of collections or partitions that are gone",
        Standing::Live | Standing::Dropped | Standing::Empty => {
            "dropped: their objects are not in the snapshot"
        }
    }
}

/// A rewrite, or a keep where the value came out as it was.
fn rewritten(key: &KeyValue, value: Vec<u8>, why: &'static str) -> Verdict {
    if value == key.value {
        Verdict::keep("as it was")
    } else {
        Verdict::changed(Action::Rewrite, why, value)
    }
}

fn decode<M: prost::Message + Default>(value: &[u8]) -> Result<M> {
    M::decode(value).map_err(|error| {
        Error::new(
            Cause::Damage,
            "the value is not the protobuf message it should be",
        )
        .with_source(error)
    })
}
