//! Decoding the anchor's keys.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::sync::Arc;

use prost::Message;

use super::super::keys::{Copies, KeyKind, KeyValue, Roots, SegmentKey, Turn, normalise_item};
use super::super::proto::common::KeyValuePair;
use super::super::proto::{meta, query, schema};
use super::{
    Access, Catalog, Collection, ConfigItem, Counters, DROPPED, FieldIndex, IndexVersions, Load,
    MAX_NAMED, MilvusVersion, Partition, PartitionStats, Segment, Tasks, WalEvidence, live,
};
use crate::milvus::catalog::DEFAULT_DATABASE_ID;
use crate::{Cause, Error, Result};

mod state;
mod values;

pub(crate) use state::is_terminal;

/// What a deleted key's copy under `snapshots/` holds.
pub(crate) const TOMBSTONE: &[u8] = &[0xE2, 0x9B, 0xBC];

/// Timestamps from here on are sentinels or damage: their physical part lies after the year 3000.
const ABSURD_TIMESTAMP: u64 = 1 << 63;

impl Catalog {
    /// Decodes the anchor: `keys` are all keys of the instance at one revision, in any order; keys
    /// outside the root are ignored.
    ///
    /// # Errors
    ///
    /// [`Cause::Damage`] naming the key whose value is not what the family holds;
    /// [`Side::Source`](crate::Side::Source) when there is no database key, as under a wrong root path.
    pub fn decode(roots: &Roots, keys: &[KeyValue], version: &MilvusVersion) -> Result<Self> {
        let mut decoder = Decoder::new(roots, version.clone());
        // What belongs to segments comes second, and goes right where it belongs: there is so much
        // of it that it is not collected first.
        for turn in [Turn::First, Turn::WithSegments] {
            for key in keys {
                let kind = roots.parse(&key.key);
                if kind.family().columns().turn == turn && kind != KeyKind::Foreign {
                    decoder.take(key, kind).map_err(|error| {
                        error.context(format!("etcd key {}", String::from_utf8_lossy(&key.key)))
                    })?;
                }
            }
            decoder.sort_segments();
        }
        decoder.finish()
    }

    /// The collection that a key belongs to; counts the key as an orphan when there is none.
    fn owner(&mut self, collection: i64) -> Option<&mut Collection> {
        let found = self.collections.get_mut(&collection);
        self.orphans += u64::from(found.is_none());
        found
    }
}

struct Decoder {
    catalog: Catalog,
    texts: HashSet<Arc<str>>,
    partitions: Vec<(i64, i64, Partition)>,
    fields: Vec<(i64, schema::FieldSchema)>,
    functions: Vec<(i64, schema::FunctionSchema)>,
    structs: Vec<(i64, schema::StructArrayFieldSchema)>,
    aliases: Vec<meta::AliasInfo>,
    field_indexes: Vec<(i64, FieldIndex)>,
    loaded_partitions: Vec<(i64, i64)>,
    replicas: Vec<(i64, String)>,
    plain: BTreeMap<String, Vec<u8>>,
    copies: BTreeMap<String, (u64, Vec<u8>)>,
}

impl Decoder {
    fn new(roots: &Roots, version: MilvusVersion) -> Self {
        Self {
            catalog: Catalog {
                roots: roots.clone(),
                version,
                databases: BTreeMap::new(),
                collections: BTreeMap::new(),
                segments: Vec::new(),
                conflicts: Vec::new(),
                partition_stats: Vec::new(),
                resources: Vec::new(),
                load: Load::default(),
                checkpoints: BTreeMap::new(),
                sessions: Vec::new(),
                config: Vec::new(),
                tasks: Tasks::default(),
                wal: WalEvidence::default(),
                counters: Counters::default(),
                access: Access::default(),
                storage_versions: BTreeSet::new(),
                index_versions: IndexVersions::default(),
                families: BTreeMap::new(),
                unknown: Vec::new(),
                orphans: 0,
                stale_copies: Vec::new(),
                max_timestamp: 0,
            },
            texts: HashSet::new(),
            partitions: Vec::new(),
            fields: Vec::new(),
            functions: Vec::new(),
            structs: Vec::new(),
            aliases: Vec::new(),
            field_indexes: Vec::new(),
            loaded_partitions: Vec::new(),
            replicas: Vec::new(),
            plain: BTreeMap::new(),
            copies: BTreeMap::new(),
        }
    }

    fn take(&mut self, key: &KeyValue, kind: KeyKind<'_>) -> Result<()> {
        *self.catalog.families.entry(kind.family()).or_default() += 1;
        if key.value == TOMBSTONE && !matches!(kind, KeyKind::SnapshotCopy { .. }) {
            return Ok(());
        }
        self.remember_for_copies(key, kind);
        self.decode(key, kind)
    }

    /// The decoding of every family: a new one does not compile without.
    #[allow(clippy::too_many_lines, reason = "it is a table")]
    fn decode(&mut self, key: &KeyValue, kind: KeyKind<'_>) -> Result<()> {
        use KeyKind as K;
        let value = key.value.as_slice();
        let text = || String::from_utf8_lossy(value).into_owned();
        let name = || String::from_utf8_lossy(&key.key).into_owned();
        let catalog = &mut self.catalog;
        match kind {
            K::Database { .. } => self.database(decode(value)?)?,
            K::Collection { database, .. } => self.collection(decode(value)?, database)?,
            K::LegacyCollection { .. } => self.collection(decode(value)?, DEFAULT_DATABASE_ID)?,
            K::Partition {
                collection,
                partition,
            } => self.partition(collection, partition, decode(value)?)?,
            K::Field { collection, .. } => self.fields.push((collection, decode(value)?)),
            K::Function { collection, .. } => self.functions.push((collection, decode(value)?)),
            K::StructField { collection, .. } => self.structs.push((collection, decode(value)?)),
            K::Alias { .. } | K::LegacyAlias { .. } => self.alias(decode(value)?),
            K::Segment(key) => self.segment(key, decode(value)?)?,
            K::Log {
                kind,
                segment,
                field,
            } => self.log(kind, segment, field, &decode(value)?),
            K::SegmentIndex { segment, build } => {
                self.segment_index(segment, build, &decode(value)?)?;
            }
            K::FieldIndex { collection, index } => {
                self.field_index(collection, index, decode(value)?);
            }
            K::CollectionLoad { collection } => self.collection_load(collection, decode(value)?),
            K::PartitionLoad {
                collection,
                partition,
            } => self.loaded_partitions.push((collection, partition)),
            K::Replica { collection, .. } => {
                let replica: query::Replica = decode(value)?;
                self.replicas.push((collection, replica.resource_group));
            }
            K::ResourceGroup { name } => {
                catalog.load.resource_groups.insert(name.to_owned());
            }
            K::ImportJob { job } => self.import_job(job, &decode(value)?),
            K::LegacyImportTask { task } => self.legacy_import(task, value)?,
            K::CompactionTask { plan, .. } => self.compaction(plan, decode(value)?)?,
            K::BroadcastTask { task } => self.broadcast(task, &decode(value)?),
            K::StatsTask | K::AnalyzeTask => catalog.tasks.stats += 1,
            K::Newer => catalog.tasks.newer += 1,
            K::ChannelCheckpoint { vchannel } => self.checkpoint(vchannel, decode(value)?),
            K::ConsumeCheckpoint { .. } => self.consume_checkpoint(decode(value)?),
            K::Replication => catalog.tasks.replicates |= !value.is_empty(),
            K::SnapshotCopy { ts, .. } => self.see(ts),
            K::PartitionStats {
                collection,
                partition,
                vchannel,
                version,
            } => catalog.partition_stats.push(PartitionStats {
                collection,
                partition,
                vchannel: vchannel.to_owned(),
                version,
            }),
            K::FileResource => self.file_resource(name(), value)?,
            K::User { user } => {
                catalog.access.users.insert(user.to_owned());
            }
            K::Role { role } => {
                catalog.access.roles.insert(role.to_owned());
            }
            K::Grant => catalog.access.grants += 1,
            K::PrivilegeGroup { .. } => catalog.access.privilege_groups += 1,
            K::SessionId => {
                let id = text().trim().parse();
                catalog.counters.session_id = Some(id.map_err(|_| not("a decimal number"))?);
            }
            K::Session { name } => catalog.sessions.push(state::session(name, value)),
            K::IdCounter => catalog.counters.ids = Some(state::nanos(value)?),
            K::TsoCounter => catalog.counters.tso = Some(state::nanos(value)?),
            K::QueryIdCounter => catalog.counters.query_ids = Some(state::nanos(value)?),
            K::Config { item } => catalog.config.push(ConfigItem {
                key: name(),
                item: normalise_item(item),
                value: text(),
                lease: key.lease,
            }),
            K::Unknown if catalog.unknown.len() < MAX_NAMED => catalog.unknown.push(name()),
            // Counted by family, and not looked into.
            K::Unknown
            | K::Foreign
            | K::UserRole { .. }
            | K::ChannelRemoval { .. }
            | K::ImportTask
            | K::PartitionStatsVersion { .. }
            | K::ChannelWatch { .. }
            | K::CollectionTarget { .. }
            | K::LegacyQuery
            | K::SessionVersion
            | K::PChannel { .. }
            | K::StreamingVersion
            | K::ControlChannel
            | K::VChannel { .. }
            | K::VChannelSchema { .. }
            | K::SegmentAssignment { .. }
            | K::Woodpecker => {}
        }
        Ok(())
    }

    /// Keeps what is needed to compare plain keys with their newest copies.
    fn remember_for_copies(&mut self, key: &KeyValue, kind: KeyKind<'_>) {
        if let KeyKind::SnapshotCopy { original, ts } = kind {
            let newest = self.copies.entry(original.to_owned()).or_default();
            if ts >= newest.0 {
                *newest = (ts, key.value.clone());
            }
        } else if kind.family().columns().copies == Copies::Copied
            && let Some((_, rest)) = self.catalog.roots.split(&key.key)
        {
            self.plain.insert(rest.to_owned(), key.value.clone());
        }
    }

    fn finish(mut self) -> Result<Catalog> {
        if self.catalog.databases.is_empty() && self.catalog.collections.is_empty() {
            let prefix = self.catalog.roots.prefix();
            return Err(Error::new(
                Cause::Refused,
                format!("no Milvus metadata under {prefix} in etcd: no database and no collection"),
            )
            .with_hint("check instance.etcd.root_path and meta_sub_path against milvus.yaml"));
        }
        self.join_collections();
        self.sort_parts();
        self.compare_copies();
        let mut catalog = self.catalog;
        live::judge(&mut catalog);
        let mut versions = (BTreeSet::new(), IndexVersions::default());
        for segment in catalog.live_segments() {
            versions.0.insert(segment.storage_version);
            let builds = segment.indexes.iter();
            for build in builds.filter(|build| catalog.serves_build(segment, build)) {
                if !build.files.is_empty() {
                    versions.1.vector.insert(build.engine);
                    versions.1.scalar.insert(build.scalar_engine);
                }
            }
        }
        (catalog.storage_versions, catalog.index_versions) = versions;
        Ok(catalog)
    }

    fn join_collections(&mut self) {
        let catalog = &mut self.catalog;
        for (id, partition, info) in self.partitions.drain(..) {
            if let Some(collection) = catalog.owner(id) {
                collection.partitions.insert(partition, info);
            }
        }
        for (id, field) in self.fields.drain(..) {
            if let Some(collection) = catalog.owner(id) {
                collection.fields.push(field);
            }
        }
        for (id, function) in self.functions.drain(..) {
            if let Some(collection) = catalog.owner(id) {
                collection.functions.push(function);
            }
        }
        for (id, field) in self.structs.drain(..) {
            if let Some(collection) = catalog.owner(id) {
                collection.struct_fields.push(field);
            }
        }
        for alias in self.aliases.drain(..) {
            let state = meta::AliasState::try_from(alias.state).unwrap_or_default();
            if let Some(collection) = catalog.owner(alias.collection_id) {
                collection.aliases.insert(alias.alias_name, state);
            }
        }
        for (id, index) in self.field_indexes.drain(..) {
            if let Some(collection) = catalog.owner(id) {
                collection.indexes.insert(index.id, index);
            }
        }
        for collection in catalog.collections.values_mut() {
            collection.fields.sort_by_key(|field| field.field_id);
            collection.functions.sort_by_key(|function| function.id);
            collection.struct_fields.sort_by_key(|field| field.field_id);
        }
        for (collection, partition) in self.loaded_partitions.drain(..) {
            if let Some(load) = catalog.load.collections.get_mut(&collection) {
                load.partitions.insert(partition);
            }
        }
        for (collection, group) in self.replicas.drain(..) {
            if let Some(load) = catalog.load.collections.get_mut(&collection) {
                load.resource_groups.insert(group);
            }
        }
    }

    fn sort_segments(&mut self) {
        let segments = &mut self.catalog.segments;
        segments.sort_by_key(|segment| segment.key);
        segments.shrink_to_fit();
    }

    /// The segment that a key belongs to; counts the key as an orphan when there is none.
    fn segment_of(&mut self, key: SegmentKey) -> Option<&mut Segment> {
        let segments = &mut self.catalog.segments;
        let found = segments.binary_search_by_key(&key, |segment| segment.key);
        if let Ok(at) = found {
            Some(&mut segments[at])
        } else {
            self.catalog.orphans += 1;
            None
        }
    }

    fn sort_parts(&mut self) {
        for segment in &mut self.catalog.segments {
            segment.logs.sort_by_key(|logs| (logs.kind, logs.field));
            segment.logs.shrink_to_fit();
            segment.indexes.sort_by_key(|build| build.build);
            segment.indexes.shrink_to_fit();
        }
        let stats = &mut self.catalog.partition_stats;
        stats.sort_by(|a, b| {
            (a.collection, a.partition, &a.vchannel, a.version).cmp(&(
                b.collection,
                b.partition,
                &b.vchannel,
                b.version,
            ))
        });
        self.catalog.resources.sort_by(|a, b| a.path.cmp(&b.path));
    }

    fn compare_copies(&mut self) {
        let mut stale = Vec::new();
        for (key, (_, copy)) in &self.copies {
            let same = match self.plain.get(key) {
                Some(plain) => plain == copy,
                None => copy == TOMBSTONE,
            };
            if !same && stale.len() < MAX_NAMED {
                stale.push(key.clone());
            }
        }
        self.catalog.stale_copies = stale;
    }

    fn see(&mut self, timestamp: u64) {
        if timestamp != DROPPED && timestamp < ABSURD_TIMESTAMP {
            self.catalog.max_timestamp = self.catalog.max_timestamp.max(timestamp);
        }
    }

    fn intern(&mut self, text: &str) -> Arc<str> {
        if let Some(known) = self.texts.get(text) {
            return known.clone();
        }
        let text: Arc<str> = text.into();
        self.texts.insert(text.clone());
        text
    }
}

fn decode<M: Message + Default>(value: &[u8]) -> Result<M> {
    M::decode(value).map_err(|error| not("the protobuf message it should be").with_source(error))
}

fn not(what: &str) -> Error {
    Error::new(Cause::Damage, format!("the value is not {what}"))
}

fn unknown_state(error: prost::UnknownEnumValue) -> Error {
    Error::new(
        Cause::Damage,
        format!("state or level {} is not known to this eyrie", error.0),
    )
}

fn pairs(list: &[KeyValuePair]) -> BTreeMap<String, String> {
    let pairs = list
        .iter()
        .map(|pair| (pair.key.clone(), pair.value.clone()));
    pairs.collect()
}
