//! The snapshot's keys as the target will have them.

use std::collections::BTreeSet;

use jiff::Timestamp;
use schemars::JsonSchema;
use serde::Serialize;

use super::guard::Refusal;
use super::marker::AREA;
use super::missing_data::MissingData;
use super::transform::{self, Action, FirstStart, Report, StorageRoots, TtlCollection, Wal};
use crate::etcd::KeyValue;
use crate::instance::holds::{COMPACTION, DDL, SORT_COMPACTION, WRITES};
use crate::instance::neighbours;
use crate::instance::objects::ObjectLayer;
use crate::milvus::MilvusVersion;
use crate::milvus::catalog::Catalog;
use crate::milvus::keys::Roots;
use crate::restore::options::{Options, Ttl};
use crate::restore::plan::target_keys::TargetKeys;
use crate::snapshot::{Body, Snapshot, WalState};
use crate::{Result, Side, config};

/// The anchor of a snapshot, decoded.
#[derive(Debug)]
pub(crate) struct Anchor {
    pub(crate) roots: Roots,
    pub(crate) version: MilvusVersion,
    pub(crate) catalog: Catalog,
    keys: Vec<KeyValue>,
}

/// What the transform made of it.
#[derive(Debug, Default)]
pub(crate) struct Made {
    pub(crate) target: TargetKeys,
    pub(crate) changes: Vec<KeyChange>,
    pub(crate) expiring: Vec<TtlCollection>,
    pub(crate) load: String,
    pub(crate) notes: Vec<String>,
    pub(crate) added: Vec<String>,
    pub(crate) refusal: Option<Refusal>,
}

/// What happens to one family of keys.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, JsonSchema)]
pub struct KeyChange {
    /// The family.
    pub family: String,
    /// `keep`, `rewrite`, `drop`, `advance` or `add`.
    pub action: String,
    /// How many keys.
    pub keys: u64,
    /// Why.
    pub why: String,
}

/// How garbage collection is held off for the first start.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum GcGuard {
    /// By this key in etcd.
    Key(String),
    /// By a key that the snapshot brought: the source's operator had set it.
    Brought,
    /// By the operator, in `milvus.yaml`: an embedded etcd's keys are not read.
    Setting,
}

/// Where the keys go.
#[derive(Debug, Clone)]
pub(crate) struct Onto<'a> {
    pub(crate) instance: &'a config::Instance,
    pub(crate) objects: &'a ObjectLayer,
    pub(crate) version: MilvusVersion,
    /// The target's own next node id, 0 when it has none.
    pub(crate) session_id: i64,
    /// Counters are advanced to this time.
    pub(crate) now: Timestamp,
}

impl Anchor {
    /// Decodes the keys of a snapshot; eyrie's own are left out, and those of other instances that were
    /// below the root.
    pub(crate) fn new(snapshot: &Snapshot, found: Vec<KeyValue>) -> Result<Self> {
        let roots = snapshot.body.roots();
        let own = format!("{}/{AREA}", roots.root);
        let others = neighbours::other_roots(&roots, &found);
        let is_own = |kv: &KeyValue| {
            !kv.key.starts_with(own.as_bytes()) && !neighbours::is_of(&others, &kv.key)
        };
        let keys: Vec<_> = found.into_iter().filter(is_own).collect();
        Ok(Self {
            roots,
            version: snapshot.body.version(),
            catalog: snapshot.decode(&keys)?,
            keys,
        })
    }

    /// The number of DML channels that the collections need: the highest in use and one.
    pub(crate) fn channels(&self) -> u32 {
        let number = |channel: &String| channel.rsplit_once('_')?.1.parse::<u32>().ok();
        let channels = self.catalog.collections.values().flat_map(|c| &c.pchannels);
        channels
            .filter_map(number)
            .max()
            .map_or(0, |highest| highest + 1)
    }

    /// Steps of this restore that were never run against a real broker.
    pub(crate) fn unproven(&self, body: &Body, onto: &Onto<'_>, options: &Options) -> Vec<String> {
        transform::unproven(&self.catalog, &self.options(body, onto, options))
    }

    /// Transforms the keys. What cannot be restored is a refusal.
    ///
    /// # Errors
    ///
    /// [`Cause::Damage`] when a key cannot be decoded.
    pub(crate) fn make(
        &self,
        body: &Body,
        onto: &Onto<'_>,
        lack: &MissingData,
        options: &Options,
    ) -> Result<Made> {
        let options = transform::Options {
            rebuild: lack.rebuild.clone(),
            ..self.options(body, onto, options)
        };
        let made = match transform::transform(&self.catalog, &self.keys, &options) {
            Ok(made) => made,
            Err(error) if error.side() == Some(Side::Target) => {
                let hint = error.hint().unwrap_or_default().to_owned();
                return Ok(Made {
                    refusal: Some(Refusal::new("keys", error.chain(), hint)),
                    ..Made::default()
                });
            }
            Err(error) => return Err(error),
        };
        let keys = made.keys.into_iter().map(|new| (new.key, new.value));
        Ok(Made {
            target: TargetKeys {
                keys: keys.collect(),
                last: made.collection_keys,
            },
            changes: changes(&made.report),
            expiring: made.report.ttl.clone(),
            load: load(&made.report),
            notes: made.report.warnings,
            added: made.report.added,
            refusal: None,
        })
    }

    /// Keys of the capture's own holds: they hung on its lease.
    fn holds(&self) -> Vec<Vec<u8>> {
        let config = format!("{}/config/", self.roots.root);
        let items = [WRITES, DDL, COMPACTION, SORT_COMPACTION];
        let own = items.map(|item| format!("{config}{}", item.path).into_bytes());
        let held = self
            .keys
            .iter()
            .filter(|kv| kv.lease != 0 && own.contains(&kv.key));
        held.map(|kv| kv.key.clone()).collect()
    }

    fn options(&self, body: &Body, onto: &Onto<'_>, options: &Options) -> transform::Options {
        let instance = onto.instance;
        transform::Options {
            source: self.roots.clone(),
            target: instance.etcd.roots(),
            target_version: onto.version.clone(),
            wal: match body.wal.state {
                WalState::Captured => Wal::Keep,
                WalState::Reset => Wal::Reset(instance.wal.kind.kind()),
            },
            // The guard asks for the word, with every other reason beside it.
            unproven: transform::Unproven::Accept,
            storage: storage(&body.objects, onto.objects),
            now: onto.now,
            ttl: match options.ttl {
                Ttl::Keep => transform::Ttl::Keep,
                Ttl::Suspend => transform::Ttl::Suspend,
            },
            gc: match instance.etcd.embedded {
                Some(_) => FirstStart::AsConfigured,
                None => FirstStart::HoldGc,
            },
            holds: self.holds(),
            rebuild: BTreeSet::new(),
            least_session_id: onto.session_id,
        }
    }
}

impl Made {
    /// How garbage collection is held off for the first start.
    pub(crate) fn gc(&self, instance: &config::Instance) -> GcGuard {
        match (self.added.first(), &instance.etcd.embedded) {
            (Some(key), _) => GcGuard::Key(key.clone()),
            (None, Some(_)) => GcGuard::Setting,
            (None, None) => GcGuard::Brought,
        }
    }
}

/// The storage roots as Milvus sees them, when they differ.
fn storage(source: &ObjectLayer, target: &ObjectLayer) -> Option<StorageRoots> {
    let (source, target) = (source.root().to_owned(), target.root().to_owned());
    (source != target).then_some(StorageRoots { source, target })
}

fn changes(report: &Report) -> Vec<KeyChange> {
    let added = report.added.iter().map(|key| KeyChange {
        family: "config".to_owned(),
        action: "add".to_owned(),
        keys: 1,
        why: format!("{key} holds garbage collection off for the first start"),
    });
    let lines = report.table.iter().map(|line| KeyChange {
        family: line.family.to_string(),
        action: match line.action {
            Action::Keep => "keep",
            Action::Rewrite => "rewrite",
            Action::Advance => "advance",
            Action::Drop => "drop",
        }
        .to_owned(),
        keys: line.keys,
        why: line.why.to_owned(),
    });
    lines.chain(added).collect()
}

fn load(report: &Report) -> String {
    match report.loaded {
        0 => "nothing was loaded".to_owned(),
        1 => "1 collection was loaded; its load state is kept".to_owned(),
        n => format!("{n} collections were loaded; their load state is kept"),
    }
}
