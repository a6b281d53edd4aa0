//! Decoding the anchor's keys.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::sync::Arc;

use prost::Message;

use super::super::keys::{KeyKind, KeyValue, LogKind, Roots, SegmentKey, normalise_item};
use super::super::proto::common::{KeyValuePair, SegmentState};
use super::super::proto::streaming::BroadcastTaskState;
use super::super::proto::{data, index, meta, msg, query, schema, streaming};
use super::live;
use super::{
    Access, Catalog, Checkpoint, Collection, CompactionTask, ConfigItem, Counters, DROPPED,
    Database, FieldIndex, FieldLogs, FieldStats, FileResource, IndexVersions, Load, Log, MAX_NAMED,
    MilvusVersion, Partition, PartitionStats, Segment, SegmentFlags, SegmentIndex, Session,
    Standing, StatsKind, Tasks, WalEvidence,
};
use crate::{Error, Kind, Result};

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
    /// [`Kind::Damage`] naming the key whose value is not what the family holds;
    /// [`Kind::Instance`] when there is no database key, as under a wrong root path.
    pub fn decode(roots: &Roots, keys: &[KeyValue], version: &MilvusVersion) -> Result<Self> {
        let mut decoder = Decoder::new(roots, version.clone());
        for key in keys {
            let kind = roots.parse(&key.key);
            if kind != KeyKind::Foreign {
                decoder.take(key, kind).map_err(|error| {
                    error.context(format!("etcd key {}", String::from_utf8_lossy(&key.key)))
                })?;
            }
        }
        decoder.finish()
    }
}

struct Decoder {
    catalog: Catalog,
    texts: HashSet<Arc<str>>,
    segments: HashMap<i64, Segment>,
    logs: Vec<(SegmentKey, FieldLogs, bool)>,
    indexes: Vec<(SegmentKey, SegmentIndex)>,
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
            segments: HashMap::new(),
            logs: Vec::new(),
            indexes: Vec::new(),
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
        match kind {
            KeyKind::Database { .. }
            | KeyKind::Collection { .. }
            | KeyKind::LegacyCollection { .. }
            | KeyKind::Partition { .. }
            | KeyKind::Field { .. }
            | KeyKind::Function { .. }
            | KeyKind::StructField { .. }
            | KeyKind::Alias { .. }
            | KeyKind::LegacyAlias { .. } => self.take_schema(&key.value, kind),
            KeyKind::Segment(_)
            | KeyKind::Log { .. }
            | KeyKind::SegmentIndex { .. }
            | KeyKind::FieldIndex { .. } => self.take_data(&key.value, kind),
            KeyKind::CollectionLoad { .. }
            | KeyKind::PartitionLoad { .. }
            | KeyKind::Replica { .. }
            | KeyKind::ResourceGroup { .. } => self.take_load(&key.value, kind),
            KeyKind::ImportJob { .. }
            | KeyKind::LegacyImportTask { .. }
            | KeyKind::CompactionTask { .. }
            | KeyKind::BroadcastTask { .. }
            | KeyKind::StatsTask
            | KeyKind::AnalyzeTask
            | KeyKind::Newer => self.take_task(&key.value, kind),
            _ => self.take_rest(key, kind),
        }
    }

    fn take_schema(&mut self, value: &[u8], kind: KeyKind<'_>) -> Result<()> {
        match kind {
            KeyKind::Database { .. } => {
                let info: meta::DatabaseInfo = decode(value)?;
                let database = Database {
                    id: info.id,
                    name: info.name.clone(),
                    state: meta::DatabaseState::try_from(info.state).map_err(unknown_state)?,
                    created_nanos: info.created_time,
                    properties: pairs(&info.properties),
                };
                self.catalog.databases.insert(info.id, database);
            }
            KeyKind::Collection { database, .. } => self.take_collection(value, database)?,
            KeyKind::LegacyCollection { .. } => self.take_collection(value, 1)?,
            KeyKind::Partition {
                collection,
                partition,
            } => {
                let info: meta::PartitionInfo = decode(value)?;
                self.see(info.partition_created_timestamp);
                let info = Partition {
                    name: info.partition_name,
                    state: meta::PartitionState::try_from(info.state).map_err(unknown_state)?,
                    create_timestamp: info.partition_created_timestamp,
                };
                self.partitions.push((collection, partition, info));
            }
            KeyKind::Field { collection, .. } => self.fields.push((collection, decode(value)?)),
            KeyKind::Function { collection, .. } => {
                self.functions.push((collection, decode(value)?));
            }
            KeyKind::StructField { collection, .. } => {
                self.structs.push((collection, decode(value)?));
            }
            KeyKind::Alias { .. } | KeyKind::LegacyAlias { .. } => {
                let info: meta::AliasInfo = decode(value)?;
                self.see(info.created_time);
                self.aliases.push(info);
            }
            _ => {}
        }
        Ok(())
    }

    fn take_collection(&mut self, value: &[u8], database: i64) -> Result<()> {
        let info: meta::CollectionInfo = decode(value)?;
        self.see(info.create_time);
        self.see(info.update_timestamp);
        for position in &info.start_positions {
            self.catalog.wal.see(&position.data, 0);
        }
        // Metadata of 2.1 and older lists the partitions in the collection itself.
        let embedded = info.partition_ids.iter().zip(&info.partition_names);
        let partitions = embedded
            .map(|(id, name)| {
                let partition = Partition {
                    name: name.clone(),
                    state: meta::PartitionState::Created,
                    create_timestamp: info.create_time,
                };
                (*id, partition)
            })
            .collect();
        let schema = info.schema.unwrap_or_default();
        let mut properties = pairs(&schema.properties);
        properties.extend(pairs(&info.properties));
        let collection = Collection {
            id: info.id,
            database,
            name: schema.name,
            description: schema.description,
            state: meta::CollectionState::try_from(info.state).map_err(unknown_state)?,
            create_timestamp: info.create_time,
            consistency: info.consistency_level,
            shards: info.shards_num,
            vchannels: info.virtual_channel_names,
            pchannels: info.physical_channel_names,
            fields: schema.fields,
            functions: schema.functions,
            struct_fields: schema.struct_array_fields,
            dynamic: schema.enable_dynamic_field,
            properties,
            partitions,
            aliases: BTreeMap::new(),
            indexes: BTreeMap::new(),
        };
        self.catalog.collections.insert(collection.id, collection);
        Ok(())
    }

    fn take_data(&mut self, value: &[u8], kind: KeyKind<'_>) -> Result<()> {
        match kind {
            KeyKind::Segment(key) => {
                let segment = self.segment(key, decode(value)?)?;
                self.segments.insert(key.segment, segment);
            }
            KeyKind::Log {
                kind,
                segment,
                field,
            } => {
                let logs: data::FieldBinlog = decode(value)?;
                let legacy = logs.binlogs.iter().any(|log| !log.log_path.is_empty());
                if !logs.binlogs.is_empty() {
                    self.logs
                        .push((segment, field_logs(kind, field, &logs), legacy));
                }
            }
            KeyKind::SegmentIndex { segment, build } => {
                let info: index::SegmentIndex = decode(value)?;
                let build = SegmentIndex {
                    index: info.index_id,
                    build,
                    version: info.index_version,
                    state: info.state.try_into().map_err(unknown_state)?,
                    deleted: info.deleted,
                    rows: info.num_rows,
                    engine: info.current_index_version,
                    scalar_engine: info.current_scalar_index_version,
                    files: info
                        .index_file_keys
                        .iter()
                        .map(|f| self.intern(f))
                        .collect(),
                };
                self.indexes.push((segment, build));
            }
            KeyKind::FieldIndex { collection, index } => {
                let info: index::FieldIndex = decode(value)?;
                let definition = info.index_info.unwrap_or_default();
                let index = FieldIndex {
                    id: index,
                    field: definition.field_id,
                    name: definition.index_name,
                    deleted: info.deleted,
                    params: pairs(&definition.index_params),
                };
                self.field_indexes.push((collection, index));
            }
            _ => {}
        }
        Ok(())
    }

    fn segment(&mut self, key: SegmentKey, info: data::SegmentInfo) -> Result<Segment> {
        // `dropped_at` is nanoseconds since 1970, not a hybrid timestamp (seen on 2.3.5).
        for position in [&info.start_position, &info.dml_position]
            .into_iter()
            .flatten()
        {
            self.see(position.timestamp);
            self.catalog.wal.see(&position.msg_id, position.wal_name);
        }
        let time = |position: &Option<msg::MsgPosition>| {
            position.as_ref().map_or(0, |position| position.timestamp)
        };
        let embedded = [
            &info.binlogs,
            &info.statslogs,
            &info.deltalogs,
            &info.bm25_statslogs,
        ];
        let embedded = embedded.iter().any(|logs| !logs.is_empty());
        let flags = SegmentFlags::default()
            .with(SegmentFlags::INVISIBLE, info.is_invisible)
            .with(SegmentFlags::FAKE, info.is_fake)
            .with(SegmentFlags::IMPORTING, info.is_importing)
            .with(SegmentFlags::SORTED, info.is_sorted)
            .with(SegmentFlags::COMPACTION, info.created_by_compaction)
            .with(SegmentFlags::LEGACY_LOGS, embedded);
        Ok(Segment {
            key,
            state: SegmentState::try_from(info.state).map_err(unknown_state)?,
            level: data::SegmentLevel::try_from(info.level).map_err(unknown_state)?,
            standing: Standing::Empty,
            rows: info.num_of_rows,
            channel: self.intern(&info.insert_channel),
            start_timestamp: time(&info.start_position),
            dml_timestamp: time(&info.dml_position),
            compaction_from: info.compaction_from.into(),
            storage_version: info.storage_version,
            flags,
            logs: Vec::new(),
            indexes: Vec::new(),
            stats: stats(info.text_stats_logs, info.json_key_stats),
            manifest: (!info.manifest_path.is_empty()).then(|| info.manifest_path.into()),
        })
    }

    fn take_load(&mut self, value: &[u8], kind: KeyKind<'_>) -> Result<()> {
        match kind {
            KeyKind::CollectionLoad { collection } => {
                let info: query::CollectionLoadInfo = decode(value)?;
                let load = self.catalog.load.collections.entry(collection).or_default();
                load.replicas = info.replica_number;
                load.whole = info.load_type != query::LoadType::Partition as i32;
                load.fields = info.load_fields;
            }
            KeyKind::PartitionLoad {
                collection,
                partition,
            } => {
                self.loaded_partitions.push((collection, partition));
            }
            KeyKind::Replica { collection, .. } => {
                let replica: query::Replica = decode(value)?;
                self.replicas.push((collection, replica.resource_group));
            }
            KeyKind::ResourceGroup { name } => {
                self.catalog.load.resource_groups.insert(name.to_owned());
            }
            _ => {}
        }
        Ok(())
    }

    fn take_task(&mut self, value: &[u8], kind: KeyKind<'_>) -> Result<()> {
        let tasks = &mut self.catalog.tasks;
        match kind {
            KeyKind::ImportJob { job } => {
                let info: data::ImportJob = decode(value)?;
                let ended = [
                    data::ImportJobState::Completed,
                    data::ImportJobState::Failed,
                ];
                if !ended.iter().any(|state| *state as i32 == info.state) {
                    tasks.imports.push(job);
                }
            }
            KeyKind::LegacyImportTask { task } => {
                let info: LegacyImportTask = decode(value)?;
                let state = info.state.unwrap_or_default().code;
                if !LEGACY_IMPORT_ENDED.contains(&state) {
                    tasks.imports.push(task);
                }
            }
            KeyKind::CompactionTask { plan, .. } => {
                let info: data::CompactionTask = decode(value)?;
                let state =
                    data::CompactionTaskState::try_from(info.state).map_err(unknown_state)?;
                if !is_terminal(state) {
                    tasks.compactions.push(CompactionTask {
                        plan,
                        state,
                        inputs: info.input_segments,
                        outputs: info.result_segments,
                    });
                }
            }
            KeyKind::BroadcastTask { task } => {
                let info: streaming::BroadcastTask = decode(value)?;
                if info.state != BroadcastTaskState::Tombstone as i32 {
                    tasks.broadcasts.push((task, info.state));
                }
            }
            KeyKind::StatsTask | KeyKind::AnalyzeTask => tasks.stats += 1,
            KeyKind::Newer => tasks.newer += 1,
            _ => {}
        }
        Ok(())
    }

    fn take_rest(&mut self, key: &KeyValue, kind: KeyKind<'_>) -> Result<()> {
        let catalog = &mut self.catalog;
        let text = || String::from_utf8_lossy(&key.value).into_owned();
        match kind {
            KeyKind::ChannelCheckpoint { vchannel } => {
                let position: msg::MsgPosition = decode(&key.value)?;
                catalog.wal.see(&position.msg_id, position.wal_name);
                let checkpoint = Checkpoint {
                    timestamp: position.timestamp,
                    message_id: position.msg_id,
                };
                catalog.checkpoints.insert(vchannel.to_owned(), checkpoint);
                self.see(position.timestamp);
            }
            KeyKind::ConsumeCheckpoint { .. } => {
                let checkpoint: streaming::WalCheckpoint = decode(&key.value)?;
                if !(checkpoint.replicate_config.is_empty()
                    && checkpoint.replicate_checkpoint.is_empty())
                {
                    catalog.tasks.replicates = true;
                }
                let wal = checkpoint.message_id.unwrap_or_default().wal_name;
                catalog.wal.see(&[], wal);
                self.see(checkpoint.time_tick);
            }
            KeyKind::Replication => catalog.tasks.replicates |= !key.value.is_empty(),
            KeyKind::SnapshotCopy { ts, .. } => self.see(ts),
            KeyKind::PartitionStats {
                collection,
                partition,
                vchannel,
                version,
            } => {
                catalog.partition_stats.push(PartitionStats {
                    collection,
                    partition,
                    vchannel: vchannel.to_owned(),
                    version,
                });
            }
            KeyKind::FileResource => {
                let info: FileResourceInfo = decode(&key.value)?;
                catalog.resources.push(FileResource {
                    key: String::from_utf8_lossy(&key.key).into_owned(),
                    path: info.path,
                });
            }
            KeyKind::User { .. } => catalog.access.users += 1,
            KeyKind::Role { .. } => catalog.access.roles += 1,
            KeyKind::Grant => catalog.access.grants += 1,
            KeyKind::PrivilegeGroup { .. } => catalog.access.privilege_groups += 1,
            KeyKind::SessionId => {
                let id = text().trim().parse();
                catalog.counters.session_id = Some(id.map_err(|_| not("a decimal number"))?);
            }
            KeyKind::Session { name } => catalog.sessions.push(session(name, &key.value)),
            KeyKind::IdCounter => catalog.counters.ids = Some(nanos(&key.value)?),
            KeyKind::TsoCounter => catalog.counters.tso = Some(nanos(&key.value)?),
            KeyKind::QueryIdCounter => catalog.counters.query_ids = Some(nanos(&key.value)?),
            KeyKind::Config { item } => catalog.config.push(ConfigItem {
                key: String::from_utf8_lossy(&key.key).into_owned(),
                item: normalise_item(item),
                value: text(),
                lease: key.lease,
            }),
            KeyKind::Unknown if catalog.unknown.len() < MAX_NAMED => {
                let name = String::from_utf8_lossy(&key.key).into_owned();
                catalog.unknown.push(name);
            }
            _ => {}
        }
        Ok(())
    }

    /// Keeps what is needed to compare plain keys with their newest copies.
    fn remember_for_copies(&mut self, key: &KeyValue, kind: KeyKind<'_>) {
        match kind {
            KeyKind::SnapshotCopy { original, ts } => {
                let newest = self.copies.entry(original.to_owned()).or_default();
                if ts >= newest.0 {
                    *newest = (ts, key.value.clone());
                }
            }
            KeyKind::Database { .. }
            | KeyKind::Collection { .. }
            | KeyKind::LegacyCollection { .. }
            | KeyKind::Partition { .. }
            | KeyKind::Field { .. }
            | KeyKind::Function { .. }
            | KeyKind::StructField { .. }
            | KeyKind::Alias { .. }
            | KeyKind::LegacyAlias { .. } => {
                if let Some((_, rest)) = self.catalog.roots.split(&key.key) {
                    self.plain.insert(rest.to_owned(), key.value.clone());
                }
            }
            _ => {}
        }
    }

    fn finish(mut self) -> Result<Catalog> {
        if self.catalog.databases.is_empty() && self.catalog.collections.is_empty() {
            let prefix = self.catalog.roots.prefix();
            return Err(Error::new(
                Kind::Instance,
                format!("no Milvus metadata under {prefix} in etcd: no database and no collection"),
            )
            .with_hint("check instance.etcd.root_path and meta_sub_path against milvus.yaml"));
        }
        self.join_collections();
        self.join_segments();
        self.compare_copies();
        let mut catalog = self.catalog;
        live::judge(&mut catalog);
        let live = catalog.segments.iter().filter(|segment| segment.is_live());
        for segment in live {
            catalog.storage_versions.insert(segment.storage_version);
            for build in segment
                .indexes
                .iter()
                .filter(|build| !build.files.is_empty())
            {
                catalog.index_versions.vector.insert(build.engine);
                catalog.index_versions.scalar.insert(build.scalar_engine);
            }
        }
        Ok(catalog)
    }

    fn join_collections(&mut self) {
        let catalog = &mut self.catalog;
        let mut orphans = 0;
        let collections = &mut catalog.collections;
        let mut with = |id: i64, give: &mut dyn FnMut(&mut Collection)| {
            collections.get_mut(&id).map_or_else(|| orphans += 1, give);
        };
        for (id, partition, info) in self.partitions.drain(..) {
            let mut info = Some(info);
            with(id, &mut |c| {
                c.partitions
                    .extend(info.take().map(|info| (partition, info)))
            });
        }
        for (id, field) in self.fields.drain(..) {
            let mut field = Some(field);
            with(id, &mut |c| c.fields.extend(field.take()));
        }
        for (id, function) in self.functions.drain(..) {
            let mut function = Some(function);
            with(id, &mut |c| c.functions.extend(function.take()));
        }
        for (id, field) in self.structs.drain(..) {
            let mut field = Some(field);
            with(id, &mut |c| c.struct_fields.extend(field.take()));
        }
        for alias in self.aliases.drain(..) {
            let state = meta::AliasState::try_from(alias.state).unwrap_or_default();
            with(alias.collection_id, &mut |c| {
                c.aliases.insert(alias.alias_name.clone(), state);
            });
        }
        for (id, index) in self.field_indexes.drain(..) {
            with(id, &mut |c| {
                c.indexes.insert(index.id, index.clone());
            });
        }
        for collection in collections.values_mut() {
            collection.fields.sort_by_key(|field| field.field_id);
            collection.functions.sort_by_key(|function| function.id);
            collection.struct_fields.sort_by_key(|field| field.field_id);
        }
        catalog.orphans += orphans;
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

    fn join_segments(&mut self) {
        for (key, logs, legacy) in self.logs.drain(..) {
            match self.segments.get_mut(&key.segment) {
                Some(segment) if segment.key == key => {
                    segment.flags = segment.flags.with(SegmentFlags::LEGACY_LOGS, legacy);
                    segment.logs.push(logs);
                }
                _ => self.catalog.orphans += 1,
            }
        }
        for (key, build) in self.indexes.drain(..) {
            match self.segments.get_mut(&key.segment) {
                Some(segment) if segment.key == key => segment.indexes.push(build),
                _ => self.catalog.orphans += 1,
            }
        }
        let mut segments: Vec<Segment> = self.segments.drain().map(|(_, s)| s).collect();
        segments.sort_by_key(|segment| segment.key);
        for segment in &mut segments {
            segment.logs.sort_by_key(|logs| (logs.kind, logs.field));
            segment.logs.shrink_to_fit();
            segment.indexes.sort_by_key(|build| build.build);
        }
        self.catalog.segments = segments;
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

/// A bulk load of 2.2 and 2.3 (`data.ImportTaskInfo`).
#[derive(Clone, PartialEq, prost::Message)]
struct LegacyImportTask {
    #[prost(message, optional, tag = "11")]
    state: Option<LegacyImportState>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct LegacyImportState {
    #[prost(int32, tag = "1")]
    code: i32,
}

/// `common.ImportState`: failed, completed, failed and cleaned.
const LEGACY_IMPORT_ENDED: [i32; 3] = [1, 6, 7];

/// `internal.FileResourceInfo`.
#[derive(Clone, PartialEq, prost::Message)]
struct FileResourceInfo {
    #[prost(string, tag = "2")]
    path: String,
}

/// Whether a compaction has ended, well or not.
pub(crate) const fn is_terminal(state: data::CompactionTaskState) -> bool {
    use data::CompactionTaskState as S;
    matches!(state, S::Completed | S::Failed | S::Timeout | S::Cleaned)
}

fn decode<M: Message + Default>(value: &[u8]) -> Result<M> {
    M::decode(value).map_err(|error| not("the protobuf message it should be").with_source(error))
}

fn not(what: &str) -> Error {
    Error::new(Kind::Damage, format!("the value is not {what}"))
}

fn unknown_state(error: prost::UnknownEnumValue) -> Error {
    Error::new(
        Kind::Damage,
        format!("state or level {} is not known to this eyrie", error.0),
    )
}

fn pairs(list: &[KeyValuePair]) -> BTreeMap<String, String> {
    let pairs = list
        .iter()
        .map(|pair| (pair.key.clone(), pair.value.clone()));
    pairs.collect()
}

fn field_logs(kind: LogKind, field: i64, logs: &data::FieldBinlog) -> FieldLogs {
    let log = |log: &data::Binlog| Log {
        id: log.log_id,
        size: log.log_size,
        entries: log.entries_num,
        from: log.timestamp_from,
        to: log.timestamp_to,
    };
    FieldLogs {
        kind,
        field,
        children: logs.child_fields.clone().into(),
        logs: logs.binlogs.iter().map(log).collect(),
    }
}

fn stats(
    text: BTreeMap<i64, data::TextIndexStats>,
    json: BTreeMap<i64, data::JsonKeyStats>,
) -> Vec<FieldStats> {
    let files = |files: Vec<String>| files.into_iter().map(Into::into).collect();
    let text = text.into_iter().map(|(field, info)| FieldStats {
        kind: StatsKind::Text,
        field,
        build: info.build_id,
        version: info.version,
        format: 0,
        files: files(info.files),
    });
    let json = json.into_iter().map(|(field, info)| FieldStats {
        kind: StatsKind::Json,
        field,
        build: info.build_id,
        version: info.version,
        format: info.json_key_stats_data_format,
        files: files(info.files),
    });
    text.chain(json).collect()
}

fn session(name: &str, value: &[u8]) -> Session {
    let json: serde_json::Value = serde_json::from_slice(value).unwrap_or_default();
    let text = |field: &str| json[field].as_str().unwrap_or_default().to_owned();
    Session {
        name: name.to_owned(),
        address: text("Address"),
        server_id: json["ServerID"].as_i64().unwrap_or_default(),
        version: text("Version"),
    }
}

fn nanos(value: &[u8]) -> Result<u64> {
    let bytes = value.try_into().map_err(|_| not("an 8-byte counter"))?;
    Ok(u64::from_be_bytes(bytes))
}
