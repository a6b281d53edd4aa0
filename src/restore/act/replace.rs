//! What `--replace` does beside the restore itself: it saves the old keys and removes old objects.

use std::collections::{BTreeMap, HashSet};

use bytes::Bytes;
use futures::{StreamExt, TryStreamExt};
use tracing::{info, warn};

use super::objects::digest;
use crate::base::cancel::Cancel;
use crate::base::env::Env;
use crate::base::progress::{Amount, SharedProgress};
use crate::base::weakening::{self, Weakening};
use crate::etcd::KeyValue;
use crate::instance::methods::Method;
use crate::instance::objects::ObjectLayer;
use crate::repo::{Compression, Content, Entry, ManifestDraft, Repository, Totals};
use crate::restore::scope::Scope;
use crate::snapshot::{
    ANCHOR_ROOT, Body, Counts, Cut, EtcdIdentity, KEYS_ONLY, MilvusIdentity, Mode, OBJECTS_ROOT,
    Snapshot, Wal, WalState, anchor,
};
use crate::store::{ListOptions, Store};
use crate::{Cause, Error, Result};

/// Objects being deleted at once.
const DELETES_AT_ONCE: usize = 16;

/// What is saved of a target before it is replaced.
#[derive(Debug, Clone)]
pub(crate) struct Old {
    /// The instance's name.
    pub(crate) instance: String,
    /// Its keys.
    pub(crate) keys: Vec<KeyValue>,
    /// The revision at which they were read.
    pub(crate) revision: i64,
    /// Its etcd.
    pub(crate) etcd: EtcdIdentity,
    /// Its version, where it is known.
    pub(crate) version: String,
    /// Its object layer.
    pub(crate) objects: ObjectLayer,
    /// The kind of its queue and its channels' prefix.
    pub(crate) wal: (String, String),
}

/// Saves the old keys as a snapshot of its own lineage, `NAME.replaced`, so that they can be looked
/// at and put back by hand. Returns its id.
pub(crate) async fn save(
    repository: &Repository,
    old: &Old,
    by: &str,
    env: &Env,
) -> Result<String> {
    let lineage = format!("{}.replaced", old.instance);
    let writer = repository
        .begin_writer(&lineage, vec![], Compression::Auto)
        .await?;
    let saved = async {
        let mut map = writer.map();
        for kv in &old.keys {
            map.push(Entry {
                key: Bytes::copy_from_slice(&kv.key),
                value: anchor::encode(kv).into(),
                content: Content::None,
            })
            .await?;
        }
        let root = map.finish().await?;
        let body = serde_json::to_value(body(old)).map_err(|error| {
            Error::new(Cause::Failed, "describing the old keys").with_source(error)
        })?;
        let label = |(key, value): (&str, &str)| (key.to_owned(), value.to_owned());
        writer
            .commit(ManifestDraft {
                time: env.now(),
                roots: [
                    (ANCHOR_ROOT.to_owned(), root),
                    (OBJECTS_ROOT.to_owned(), None),
                ]
                .into(),
                totals: Totals::default(),
                labels: BTreeMap::from([label(KEYS_ONLY), label(("eyrie.replaced-by", by))]),
                body,
            })
            .await
    }
    .await;
    if let Err(error) = writer.finish().await {
        warn!(error = %error.chain(), "the lease of the writer session was not removed; it runs out");
    }
    let id = saved?.snapshot.to_string();
    info!(snapshot = %id, keys = old.keys.len(), "saved the old keys into the repository");
    Ok(id)
}

fn body(old: &Old) -> Body {
    Body {
        eyrie_version: env!("CARGO_PKG_VERSION").to_owned(),
        mode: Mode::Cold,
        asked_mode: Mode::Cold,
        method: Method::Copy,
        revision: old.revision,
        etcd: old.etcd.clone(),
        milvus: MilvusIdentity {
            version: old.version.clone(),
            commit: None,
            deploy_mode: None,
        },
        objects: old.objects.clone(),
        wal: Wal {
            kind: old.wal.0.clone(),
            state: WalState::Reset,
            channel_prefix: old.wal.1.clone(),
        },
        cut: Cut {
            timestamp: 0,
            newest_log: 0,
            proven: false,
            straddling: vec![],
        },
        holds: vec![],
        write_hold_ms: 0,
        duration_ms: 0,
        flush: None,
        counts: Counts {
            etcd_keys: old.keys.len() as u64,
            ..Counts::default()
        },
        objects_read: 0,
        bytes_read: 0,
        differences: vec![],
        weakenings: vec![Weakening {
            code: weakening::KEYS_ONLY.to_owned(),
            message: "holds the etcd keys that a restore with --replace found, and no objects"
                .to_owned(),
            items: vec![],
        }],
        notes: vec![],
        accepted: vec![weakening::KEYS_ONLY.to_owned()],
    }
}

/// Removes the objects of the scope that the snapshot does not have. Returns how many.
pub(crate) async fn remove_old(
    snapshot: &Snapshot,
    scope: &Scope,
    store: &dyn Store,
    outside: &[String],
    progress: &SharedProgress,
    cancel: &Cancel,
) -> Result<u64> {
    let wanted: HashSet<[u8; 16]> = snapshot
        .items(&scope.selected)
        .map_ok(|item| digest(item.key.as_str()))
        .try_collect()
        .await?;
    progress.begin("remove", None);
    let mut removed = 0;
    for prefix in &scope.replaced {
        let mut gone = store
            .list(prefix, ListOptions::default())
            .try_filter(|meta| {
                let key = meta.key.as_str();
                let ours = wanted.contains(&digest(key));
                let queue = outside.iter().any(|prefix| key.starts_with(prefix));
                std::future::ready(!ours && !queue)
            })
            .map_ok(|meta| async move {
                store.delete(&meta.key, None).await?;
                Ok(meta.size)
            })
            .try_buffer_unordered(DELETES_AT_ONCE)
            .boxed();
        while let Some(size) = gone.try_next().await? {
            cancel.check()?;
            removed += 1;
            progress.advance(Amount::object(size));
        }
    }
    progress.end();
    Ok(removed)
}
