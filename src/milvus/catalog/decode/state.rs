//! Values that tell what goes on: load state, tasks, checkpoints, sessions, counters, settings.

use super::super::super::proto::streaming::{self, BroadcastTaskState};
use super::super::super::proto::{data, msg, query};
use super::super::{Checkpoint, CompactionTask, FileResource, Session};
use super::{Decoder, decode, not, unknown_state};
use crate::Result;

impl Decoder {
    pub(super) fn collection_load(&mut self, collection: i64, info: query::CollectionLoadInfo) {
        let load = self.catalog.load.collections.entry(collection).or_default();
        load.replicas = info.replica_number;
        load.whole = info.load_type != query::LoadType::Partition as i32;
        load.fields = info.load_fields;
    }

    pub(super) fn import_job(&mut self, job: i64, info: &data::ImportJob) {
        let ended = [
            data::ImportJobState::Completed,
            data::ImportJobState::Failed,
        ];
        if !ended.iter().any(|state| *state as i32 == info.state) {
            self.catalog.tasks.imports.push(job);
        }
    }

    pub(super) fn legacy_import(&mut self, task: i64, value: &[u8]) -> Result<()> {
        let info: LegacyImportTask = decode(value)?;
        let state = info.state.unwrap_or_default().code;
        if !LEGACY_IMPORT_ENDED.contains(&state) {
            self.catalog.tasks.imports.push(task);
        }
        Ok(())
    }

    pub(super) fn compaction(&mut self, plan: i64, info: data::CompactionTask) -> Result<()> {
        let state = data::CompactionTaskState::try_from(info.state).map_err(unknown_state)?;
        self.catalog.tasks.compactions.push(CompactionTask {
            plan,
            state,
            inputs: info.input_segments,
            outputs: info.result_segments,
        });
        Ok(())
    }

    pub(super) fn broadcast(&mut self, task: i64, info: &streaming::BroadcastTask) {
        if info.state != BroadcastTaskState::Tombstone as i32 {
            self.catalog.tasks.broadcasts.push((task, info.state));
        }
    }

    pub(super) fn checkpoint(&mut self, vchannel: &str, position: msg::MsgPosition) {
        let catalog = &mut self.catalog;
        catalog.wal.see(&position.msg_id, position.wal_name);
        let checkpoint = Checkpoint {
            timestamp: position.timestamp,
            message_id: position.msg_id,
        };
        catalog.checkpoints.insert(vchannel.to_owned(), checkpoint);
        self.see(position.timestamp);
    }

    pub(super) fn consume_checkpoint(&mut self, checkpoint: streaming::WalCheckpoint) {
        if !(checkpoint.replicate_config.is_empty() && checkpoint.replicate_checkpoint.is_empty()) {
            self.catalog.tasks.replicates = true;
        }
        let wal = checkpoint.message_id.unwrap_or_default().wal_name;
        self.catalog.wal.see(&[], wal);
        self.see(checkpoint.time_tick);
    }

    pub(super) fn file_resource(&mut self, key: String, value: &[u8]) -> Result<()> {
        let FileResourceInfo { path } = decode(value)?;
        self.catalog.resources.push(FileResource { key, path });
        Ok(())
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

pub(super) fn session(name: &str, value: &[u8]) -> Session {
    let json: serde_json::Value = serde_json::from_slice(value).unwrap_or_default();
    let text = |field: &str| json[field].as_str().unwrap_or_default().to_owned();
    Session {
        name: name.to_owned(),
        address: text("Address"),
        server_id: json["ServerID"].as_i64().unwrap_or_default(),
        version: text("Version"),
    }
}

pub(super) fn nanos(value: &[u8]) -> Result<u64> {
    let bytes = value.try_into().map_err(|_| not("an 8-byte counter"))?;
    Ok(u64::from_be_bytes(bytes))
}
