//! Values of `RootCoord` and `DataCoord`: schemas, segments, logs and indexes.

use std::collections::BTreeMap;

use super::super::super::keys::{LogKind, SegmentKey};
use super::super::super::proto::common::SegmentState;
use super::super::super::proto::{data, index, meta, msg};
use super::super::{
    Collection, Database, FieldIndex, FieldLogs, FieldStats, Log, Partition, Segment, SegmentFlags,
    SegmentIndex, Standing, StatsKind,
};
use super::{Decoder, pairs, unknown_state};
use crate::Result;

impl Decoder {
    pub(super) fn database(&mut self, info: meta::DatabaseInfo) -> Result<()> {
        let database = Database {
            id: info.id,
            name: info.name,
            state: meta::DatabaseState::try_from(info.state).map_err(unknown_state)?,
            created_nanos: info.created_time,
            properties: pairs(&info.properties),
        };
        self.catalog.databases.insert(database.id, database);
        Ok(())
    }

    pub(super) fn partition(
        &mut self,
        collection: i64,
        partition: i64,
        info: meta::PartitionInfo,
    ) -> Result<()> {
        self.see(info.partition_created_timestamp);
        let info = Partition {
            name: info.partition_name,
            state: meta::PartitionState::try_from(info.state).map_err(unknown_state)?,
            create_timestamp: info.partition_created_timestamp,
        };
        self.partitions.push((collection, partition, info));
        Ok(())
    }

    pub(super) fn alias(&mut self, info: meta::AliasInfo) {
        self.see(info.created_time);
        self.aliases.push(info);
    }

    /// Takes a collection of `database`.
    pub(super) fn collection(&mut self, info: meta::CollectionInfo, database: i64) -> Result<()> {
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

    pub(super) fn log(
        &mut self,
        kind: LogKind,
        segment: SegmentKey,
        field: i64,
        logs: &data::FieldBinlog,
    ) {
        let legacy = logs.binlogs.iter().any(|log| !log.log_path.is_empty());
        if logs.binlogs.is_empty() {
            return;
        }
        if let Some(segment) = self.segment_of(segment) {
            segment.flags = segment.flags.with(SegmentFlags::LEGACY_LOGS, legacy);
            segment.logs.push(field_logs(kind, field, logs));
        }
    }

    pub(super) fn segment_index(
        &mut self,
        segment: SegmentKey,
        build: i64,
        info: &index::SegmentIndex,
    ) -> Result<()> {
        let files = info.index_file_keys.iter();
        let build = SegmentIndex {
            index: info.index_id,
            build,
            version: info.index_version,
            state: info.state.try_into().map_err(unknown_state)?,
            deleted: info.deleted,
            rows: info.num_rows,
            engine: info.current_index_version,
            scalar_engine: info.current_scalar_index_version,
            files: files.map(|file| self.intern(file)).collect(),
        };
        if let Some(segment) = self.segment_of(segment) {
            segment.indexes.push(build);
        }
        Ok(())
    }

    pub(super) fn field_index(&mut self, collection: i64, index: i64, info: index::FieldIndex) {
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

    pub(super) fn segment(&mut self, key: SegmentKey, info: data::SegmentInfo) -> Result<()> {
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
        let segment = Segment {
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
        };
        self.catalog.segments.push(segment);
        Ok(())
    }
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
