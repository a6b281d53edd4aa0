//! What `--replace` does beside the restore itself: it saves the old keys and removes old objects.

use std::collections::HashSet;

use futures::{StreamExt, TryStreamExt};
use tracing::{info, warn};

use crate::Result;
use crate::base::cancel::Cancel;
use crate::base::env::Env;
use crate::base::progress::{Amount, SharedProgress};
use crate::etcd::KeyValue;
use crate::instance::objects::short_hash;
use crate::repo::{Compression, Repository, Totals};
use crate::restore::scope::Scope;
use crate::snapshot::{Body, Draft, KEYS_ONLY, Snapshot, store_keys};
use crate::store::{ListOptions, Store};

/// Objects being deleted at once.
const DELETES_AT_ONCE: usize = 16;

/// What is saved of a target before it is replaced.
#[derive(Debug, Clone)]
pub(crate) struct Old {
    /// The instance's name.
    pub(crate) instance: String,
    /// Its keys.
    pub(crate) keys: Vec<KeyValue>,
    /// What a snapshot of the keys says of itself.
    pub(crate) body: Body,
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
    let label = |(key, value): (&str, &str)| (key.to_owned(), value.to_owned());
    let saved = async {
        let draft = Draft {
            time: env.now(),
            keys: store_keys(&writer, old.keys.iter().cloned()).await?,
            objects: None,
            wal: None,
            totals: Totals::default(),
            labels: [label(KEYS_ONLY), label(("eyrie.replaced-by", by))].into(),
            body: old.body.clone(),
        };
        writer.commit(draft.manifest()?).await
    }
    .await;
    if let Err(error) = writer.finish().await {
        warn!(error = %error.chain(), "the lease of the writer session was not removed; it runs out");
    }
    let id = saved?.snapshot.to_string();
    info!(snapshot = %id, keys = old.keys.len(), "saved the old keys into the repository");
    Ok(id)
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
        .map_ok(|item| short_hash(item.key.as_str()))
        .try_collect()
        .await?;
    progress.begin("remove", None);
    let mut removed = 0;
    for prefix in &scope.replaced {
        let mut gone = store
            .list(prefix, ListOptions::default())
            .try_filter(|meta| {
                let key = meta.key.as_str();
                let ours = wanted.contains(&short_hash(key));
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
