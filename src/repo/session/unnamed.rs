//! Packs that no index segment names yet: a session keeps their names in its lease, and who comes after it
//! when it has died names them.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::sync::Mutex;

use tokio::sync::Notify;

use super::index::Index;
use super::index::load::{Trust, keep};
use super::index::recover::directory;
use crate::base::env::lock;
use crate::base::error::Context;
use crate::repo::format::blob::PackKind;
use crate::repo::format::files::StoredFile;
use crate::repo::format::ids::{IndexId, ObjectHash, PackId};
use crate::repo::format::segment::{SEGMENT_RECORDS, Segment};
use crate::repo::format::wire::to_u32;
use crate::repo::repository::Repository;
use crate::store::{self, Unfinished};
use crate::{Cause, Result};

/// By their paths; with their hash, which is that of a whole pack, once they are written.
pub(crate) type Unnamed = BTreeMap<String, Option<ObjectHash>>;

/// The packs of a session that no index segment names yet.
#[derive(Debug, Default)]
pub(crate) struct UnnamedPacks {
    packs: Mutex<Unnamed>,
    /// Those that the lease told of when it was last written.
    told: Mutex<BTreeSet<String>>,
    changed: Notify,
}

impl UnnamedPacks {
    /// A pack is begun, or has come so far that there is more to tell of it.
    pub(crate) fn note(&self, path: &str, hash: Option<ObjectHash>) {
        let before = lock(&self.packs).insert(path.to_owned(), hash);
        if before != Some(hash) {
            self.changed.notify_one();
        }
    }

    /// The store has begun an upload, which it can tell of now.
    pub(crate) fn begun(&self) {
        self.changed.notify_one();
    }

    /// Packs have a name in the index, or are given up.
    pub(crate) fn forget<'a>(&self, paths: impl Iterator<Item = &'a str>) {
        let mut packs = lock(&self.packs);
        for path in paths {
            packs.remove(path);
        }
    }

    /// All of them.
    pub(crate) fn all(&self) -> Unnamed {
        lock(&self.packs).clone()
    }

    /// Whether the lease, as it was last written, tells of a pack.
    pub(crate) fn is_told(&self, path: &str) -> bool {
        lock(&self.told).contains(path)
    }

    /// The lease that was written tells of these.
    pub(crate) fn told(&self, packs: &Unnamed) {
        *lock(&self.told) = packs.keys().cloned().collect();
    }

    /// Waits until there is more to tell.
    pub(crate) async fn changed(&self) {
        self.changed.notified().await;
    }
}

/// Removes what a session that is dead left unfinished, and names the packs that it had not named. What
/// cannot be removed is in nobody's way. Returns whether nothing is left to do.
pub(crate) async fn settle(
    repo: &Repository,
    unnamed: &Unnamed,
    unfinished: &[Unfinished],
) -> Result<bool> {
    for left in unfinished {
        if let Err(error) = repo.unlimited().remove_unfinished(left).await {
            let of = left.key.as_deref().unwrap_or("writes");
            tracing::debug!("what is unfinished of {of} stays behind: {}", error.chain());
        }
    }
    if unnamed.is_empty() {
        return Ok(true);
    }
    let index = Index::load(repo, Trust::Files).await?;
    let named: HashSet<PackId> = index.packs().iter().map(|pack| pack.id).collect();
    let mut all = true;
    let mut segment = Segment::default();
    for (path, hash) in unnamed {
        let one = match written(repo, path, *hash, &named).await {
            Ok(Some(one)) => one,
            Ok(None) => continue,
            Err(error) if error.retryable() => return Err(error),
            Err(error) => {
                tracing::warn!("{path} is left unnamed: {}", error.chain());
                all = false;
                continue;
            }
        };
        if segment.records.len() + one.records.len() > SEGMENT_RECORDS {
            write_segment(repo, std::mem::take(&mut segment)).await?;
        }
        let number = to_u32(segment.packs.len(), "a number of packs")?;
        segment.packs.extend(one.packs);
        segment.records.extend(one.records.into_iter().map(|mut r| {
            r.pack = number;
            r
        }));
    }
    if segment.packs.is_empty() {
        return Ok(all);
    }
    tracing::info!(
        packs = segment.packs.len(),
        "taking over the packs of a session that died"
    );
    write_segment(repo, segment).await?;
    Ok(all)
}

/// A pack and its blobs; `None` when it is named already, was never finished, or is damaged.
async fn written(
    repo: &Repository,
    path: &str,
    hash: Option<ObjectHash>,
    named: &HashSet<PackId>,
) -> Result<Option<Segment>> {
    let kinds = [PackKind::Data, PackKind::Tree];
    let found = kinds.into_iter().find_map(|kind| {
        let id = StoredFile::packs(kind).id(path)?.parse::<PackId>().ok()?;
        Some((kind, id))
    });
    let Some((kind, id)) = found.filter(|(_, id)| !named.contains(id)) else {
        return Ok(None);
    };
    let key = store::Key::new(path)?;
    let size = match repo.store().head(&key).await {
        Err(error) if error.cause() == Cause::NotFound => return Ok(None),
        head => head?.size,
    };
    let mut segment = match directory(repo, kind, id, size).await {
        Err(error) if matches!(error.cause(), Cause::Damage | Cause::NotFound) => {
            tracing::warn!("{path} is left unnamed: {}", error.chain());
            return Ok(None);
        }
        read => read?,
    };
    for pack in &mut segment.packs {
        if let Some(hash) = hash {
            pack.hash = hash.0;
            continue;
        }
        let _share = repo.resources().reserve(size).await?;
        let bytes = repo.get_range(&key, 0, size).await?;
        let resources = repo.resources();
        let hash = resources.run(move || Ok(blake3::hash(&bytes).into()));
        pack.hash = hash.await?;
    }
    Ok(Some(segment))
}

/// Writes a segment of the index. The packs that it names are durable before, so that a power failure never
/// leaves an index that knows blobs which are gone.
pub(crate) async fn write_segment(repo: &Repository, mut segment: Segment) -> Result<()> {
    repo.store().sync().await.context(|| "make packs durable")?;
    let id = IndexId(repo.env().id());
    let path = StoredFile::Index.path(&id);
    let (sealing, name) = (repo.clone(), path.clone());
    let seal = move || {
        let bytes = segment.seal(sealing.sealer(), &name)?;
        Ok((segment, bytes))
    };
    let (segment, bytes) = repo.resources().run(seal).await?;
    let size = bytes.len() as u64;
    repo.put_once(&path, bytes).await?;
    keep(repo, id, size, segment).await
}
