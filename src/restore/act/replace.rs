//! What `--replace` does beside the restore itself: it saves the old keys and the list of old objects,
//! and removes those objects at the end.
//!
//! The list is made before the swap, while nothing runs on the target, and is what is removed: whatever
//! came later is not on it.

use std::collections::HashSet;

use bytes::Bytes;
use futures::stream::{self, BoxStream};
use futures::{StreamExt, TryStreamExt};
use tracing::{info, warn};

use super::write::Writer;
use crate::base::cancel::Cancel;
use crate::base::env::Env;
use crate::base::error::Context as _;
use crate::base::progress::{Amount, SharedProgress};
use crate::etcd::KeyValue;
use crate::instance::embedded::Embedded;
use crate::instance::liveness;
use crate::instance::objects::{Identity, short_hash};
use crate::repo::{
    Compression, Content, Entry, KeyRange, NodeRef, Repository, Totals, Values, Writer as Session,
};
use crate::restore::plan::target_keys::TargetKeys;
use crate::restore::scope::Scope;
use crate::snapshot::{Body, Draft, KEYS_ONLY, REPLACED_ROOT, Snapshot, store_keys};
use crate::store::{Key, ListOptions, Meta, Store};
use crate::{Cause, Error, Result, Side, config};

/// Objects being deleted at once.
const DELETES_AT_ONCE: usize = 16;

/// Objects that are deleted between two looks at whether the target is still this restore's alone.
const BATCH: usize = 256;

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

/// Proves that the repository takes what [`save`] stores, by beginning a session as it does.
///
/// # Errors
///
/// What keeps the session from beginning.
pub(crate) async fn prove(repository: &Repository, instance: &str) -> Result<()> {
    let lineage = lineage(instance);
    repository.wait_for_other_writers(&lineage).await?;
    let session = repository
        .begin_writer(&lineage, vec![], Compression::Auto)
        .await;
    let ended = match session {
        Ok(session) => session.finish().await,
        Err(error) => Err(error),
    };
    let unsaved = |error: Error| {
        let saves =
            "--replace saves the old keys into the repository first, which does not take them";
        let error = error.context(saves);
        let mend = error.hint().unwrap_or("make the repository writable");
        let hint = format!("{mend}; or empty the target yourself, and restore without --replace");
        error.with_hint(hint)
    };
    ended.map_err(unsaved)
}

/// The lineage of what is saved before an instance is replaced.
fn lineage(instance: &str) -> String {
    format!("{instance}.replaced")
}

/// The objects of the scope, in the order of their paths.
fn listed<'s>(store: &'s dyn Store, scope: &Scope) -> BoxStream<'s, Result<Meta>> {
    let mut prefixes = scope.replaced.clone();
    prefixes.sort_unstable();
    let lists = prefixes
        .into_iter()
        .map(|prefix| store.list(&prefix, ListOptions::default()));
    stream::iter(lists.collect::<Vec<_>>()).flatten().boxed()
}

/// The objects of the scope that the snapshot does not have, in the order of their paths. What begins
/// with one of `outside` is not the object layer's.
pub(crate) async fn old_objects<'s>(
    snapshot: &Snapshot,
    scope: &Scope,
    store: &'s dyn Store,
    outside: &[String],
) -> Result<BoxStream<'s, Result<Meta>>> {
    let wanted: HashSet<[u8; 16]> = snapshot
        .items(&scope.selected)
        .map_ok(|item| short_hash(item.key.as_str()))
        .try_collect()
        .await?;
    let outside = outside.to_vec();
    let old = listed(store, scope).try_filter(move |meta| {
        let key = meta.key.as_str();
        let ours = wanted.contains(&short_hash(key));
        let other = outside.iter().any(|prefix| key.starts_with(prefix));
        std::future::ready(!ours && !other)
    });
    Ok(old.boxed())
}

/// Saves the old keys and the list of old objects as a snapshot of its own lineage, `NAME.replaced`: the
/// keys can be looked at and put back by hand, the objects of the list are what is removed at the end.
/// Returns its id, or `None` when there is nothing old.
pub(crate) async fn save(
    repository: &Repository,
    old: &Old,
    objects: BoxStream<'_, Result<Meta>>,
    by: &str,
    env: &Env,
) -> Result<Option<String>> {
    let mut objects = std::pin::pin!(objects.peekable());
    if old.keys.is_empty() && objects.as_mut().peek().await.is_none() {
        return Ok(None);
    }
    let lineage = lineage(&old.instance);
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
        let mut manifest = draft.manifest()?;
        let list = store_list(&writer, objects).await?;
        manifest.roots.insert(REPLACED_ROOT.to_owned(), list);
        writer.commit(manifest).await
    }
    .await;
    if let Err(error) = writer.finish().await {
        warn!(error = %error.chain(), "the lease of the writer session was not removed; it runs out");
    }
    let id = saved?.snapshot.to_string();
    info!(snapshot = %id, keys = old.keys.len(), "saved the old keys and the list of old objects into the repository");
    Ok(Some(id))
}

/// Stores what is to be removed: each path with the identity of what is there now.
async fn store_list(
    writer: &Session,
    mut objects: impl futures::Stream<Item = Result<Meta>> + Unpin,
) -> Result<Option<NodeRef>> {
    let mut map = writer.map(Values::Inline);
    while let Some(meta) = objects.try_next().await? {
        map.push(Entry {
            value: Bytes::copy_from_slice(Identity::of(&meta).as_bytes()),
            key: Bytes::from(meta.key.as_str().to_owned()),
            content: Content::None,
        })
        .await?;
    }
    map.finish().await
}

/// The paths and identities that [`save`] stored as snapshot `id`.
async fn list_of(
    repository: &Repository,
    id: &str,
) -> Result<BoxStream<'static, Result<(Key, Identity)>>> {
    let snapshots = repository.snapshots().await?;
    let manifest = snapshots.find(id, None)?.clone();
    let snapshot = Snapshot::open(&repository.view().await?, manifest)?;
    let entries = snapshot.map(REPLACED_ROOT).scan(KeyRange::all());
    let read = |entry: Entry| {
        let path = String::from_utf8_lossy(&entry.key).into_owned();
        let damaged = || {
            let message = format!("the list of old objects is damaged at {path}");
            Side::Repository.error(Cause::Damage, message)
        };
        let identity = Identity::from_bytes(&entry.value).ok_or_else(damaged)?;
        Ok((Key::new(&path).map_err(|_| damaged())?, identity))
    };
    Ok(entries
        .and_then(move |entry| std::future::ready(read(entry)))
        .boxed())
}

/// What became of the old objects.
#[derive(Debug, Default)]
pub(crate) struct Removal {
    /// Those that were removed.
    pub(crate) removed: u64,
    /// Those that are not what they were when the list was made, and stay.
    pub(crate) changed: u64,
    /// Why some could not be removed.
    pub(crate) failed: Option<Error>,
    /// Whether nobody knows any more what to remove.
    pub(crate) list_is_gone: bool,
}

/// Removes old objects from a target that is still this restore's alone.
pub(crate) struct Removing<'a, 'w> {
    pub(crate) repository: &'a Repository,
    /// Where the list is.
    pub(crate) saved: &'a str,
    pub(crate) scope: &'a Scope,
    pub(crate) store: &'a dyn Store,
    pub(crate) writer: &'a mut Writer<'w>,
    pub(crate) home: Option<&'a Embedded>,
    pub(crate) instance: Option<&'a config::Instance>,
    pub(crate) target: &'a TargetKeys,
    pub(crate) progress: &'a SharedProgress,
    pub(crate) cancel: &'a Cancel,
}

impl Removing<'_, '_> {
    /// Removes what is on the list and still identical, never by version id. What the store or the
    /// repository fails with is in the result: the rest of the restore is done.
    ///
    /// # Errors
    ///
    /// [`Side::Target`] when the target is no longer this restore's alone; what ends the restore.
    pub(crate) async fn run(&mut self) -> Result<Removal> {
        self.progress.begin("remove", None);
        let mut removal = Removal::default();
        let list = self.cancel.run(list_of(self.repository, self.saved)).await;
        let mut list = match list {
            Err(error) if !error.is_stop() => {
                removal.list_is_gone = matches!(error.cause(), Cause::NotFound | Cause::Damage);
                removal.failed = Some(error);
                return Ok(removal);
            }
            list => list?,
        };
        let mut there = listed(self.store, self.scope).peekable();
        let mut batch = Vec::new();
        loop {
            let next = self.cancel.run(next_match(&mut list, &mut there)).await;
            match next {
                Err(error) if error.is_stop() => return Err(error),
                Err(error) => {
                    removal.list_is_gone = error.cause() == Cause::Damage;
                    removal.failed = Some(error);
                    return Ok(removal);
                }
                Ok(Some(Match::Same(meta))) => batch.push(meta),
                Ok(Some(Match::Changed(key))) => {
                    info!(%key, "is not what it was before the swap, and stays");
                    removal.changed += 1;
                }
                Ok(Some(Match::Gone)) => {}
                Ok(None) => break,
            }
            if batch.len() == BATCH {
                self.batch(std::mem::take(&mut batch), &mut removal).await?;
                if removal.failed.is_some() {
                    return Ok(removal);
                }
            }
        }
        self.batch(batch, &mut removal).await?;
        self.progress.end();
        Ok(removal)
    }

    async fn batch(&mut self, batch: Vec<Meta>, removal: &mut Removal) -> Result<()> {
        if batch.is_empty() {
            return Ok(());
        }
        self.cancel.check()?;
        if let Some(home) = self.home {
            home.alone()?;
        }
        if let Some(instance) = self.instance {
            liveness::refuse(&liveness::queue_holders(instance).on(Side::Target)?)?;
        }
        self.writer.check(self.target).await?;
        let store = self.store;
        let mut gone = stream::iter(batch)
            .map(|meta| async move {
                store.delete(&meta.key, None).await?;
                Ok(meta.size)
            })
            .buffer_unordered(DELETES_AT_ONCE);
        // All that have begun are waited for.
        while let Some(done) = gone.next().await {
            match done {
                Ok(size) => {
                    removal.removed += 1;
                    self.progress.advance(Amount::object(size));
                }
                Err(error) => removal.failed = Some(error),
            }
        }
        Ok(())
    }
}

/// What a path of the list leads to.
enum Match {
    /// What was there when the list was made.
    Same(Meta),
    /// Something else.
    Changed(Key),
    /// Nothing.
    Gone,
}

/// The next path of the list, compared with what is there; both are in the order of the paths.
async fn next_match(
    list: &mut (impl futures::Stream<Item = Result<(Key, Identity)>> + Unpin),
    there: &mut stream::Peekable<BoxStream<'_, Result<Meta>>>,
) -> Result<Option<Match>> {
    let Some((key, identity)) = list.try_next().await? else {
        return Ok(None);
    };
    loop {
        let next = std::pin::Pin::new(&mut *there);
        let found = next
            .next_if(|meta| meta.as_ref().map_or(true, |meta| meta.key <= key))
            .await;
        match found.transpose()? {
            None => return Ok(Some(Match::Gone)),
            Some(meta) if meta.key < key => {}
            Some(meta) if Identity::of(&meta) == identity => return Ok(Some(Match::Same(meta))),
            Some(meta) => return Ok(Some(Match::Changed(meta.key))),
        }
    }
}
