//! Values that tell what goes on: load state, tasks, checkpoints, sessions, counters, settings.

use super::super::super::keys::{KeyKind, KeyValue, normalise_item};
use super::super::super::proto::streaming::{self, BroadcastTaskState};
use super::super::super::proto::{data, msg, query};
use super::super::{
    Checkpoint, CompactionTask, ConfigItem, FileResource, MAX_NAMED, PartitionStats, Session,
};
use super::{Decoder, decode, not, unknown_state};
use crate::Result;

impl Decoder {
    pub(super) fn take_load(&mut self, value: &[u8], kind: KeyKind<'_>) -> Result<()> {
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

    pub(super) fn take_task(&mut self, value: &[u8], kind: KeyKind<'_>) -> Result<()> {
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

    pub(super) fn take_rest(&mut self, key: &KeyValue, kind: KeyKind<'_>) -> Result<()> {
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
            KeyKind::User { user } => {
                catalog.access.users.insert(user.to_owned());
            }
            KeyKind::Role { role } => {
                catalog.access.roles.insert(role.to_owned());
            }
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
