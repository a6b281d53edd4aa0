//! Reading the index of a repository into memory.

use futures::StreamExt;

use crate::base::error::Context;
use crate::repo::format::blob::PackKind;
use crate::repo::format::files::StoredFile;
use crate::repo::format::ids::{IndexId, PackId};
use crate::repo::format::index::segment::{PackInfo, Record, Segment};
use crate::repo::format::index::{Index, Merging};
use crate::repo::format::pack::{DirectoryPlace, TRAILER, pack_key};
use crate::repo::format::wire::{missing_is_damage, to_u32};
use crate::repo::opening::read_twice;
use crate::repo::repository::Repository;
use crate::{Cause, Result};

/// How many segments are read at once: each is about 7 MiB.
const SEGMENTS_AT_ONCE: usize = 8;
/// How many directories of packs are read at once: each is 4 MiB at most.
const DIRECTORIES_AT_ONCE: usize = 16;

impl Index {
    /// Reads all segments. One that is damaged or went missing is left out and named; its blobs are known
    /// by the directories of the packs of which the others lack some.
    ///
    /// # Errors
    ///
    /// [`Cause::Damage`] when segments contradict each other; what the store fails with.
    pub(crate) async fn load(repo: &Repository) -> Result<Self> {
        let mut ids: Vec<IndexId> = repo.list_ids(StoredFile::Index).await?;
        ids.sort_unstable();
        let mut merging = Merging::default();
        let mut segments = futures::stream::iter(ids)
            .map(|id| async move {
                let segment = read_twice(|| load_segment(repo, &id)).await;
                (id, segment)
            })
            .buffered(SEGMENTS_AT_ONCE);
        while let Some((id, segment)) = segments.next().await {
            match segment {
                Ok(segment) => merging.add(id, segment)?,
                Err(error) if error.cause() == Cause::Damage => {
                    merging.leave_out(id, error.chain());
                }
                Err(error) => return Err(error),
            }
        }
        let mut any = false;
        for (id, why) in merging.missed() {
            any = true;
            if repo.first_told(id.to_string()) {
                tracing::warn!("the packs' own directories are read instead: {why}");
            }
        }
        if any {
            recover(repo, &mut merging).await?;
        }
        repo.resources().run(move || merging.finish()).await
    }
}

/// Adds the blobs of packs of which the segments lack some, by their own directories. One whose directory
/// cannot be read is left out.
async fn recover(repo: &Repository, merging: &mut Merging) -> Result<()> {
    let (whole, described) = (merging.whole()?, merging.described());
    for kind in [PackKind::Data, PackKind::Tree] {
        let packs = StoredFile::packs(kind);
        let listed = repo.list(packs.row().directory).await?;
        let unnamed = listed.into_iter().filter_map(|meta| {
            let id: PackId = packs.id(meta.key.as_str())?.parse().ok()?;
            (!whole.contains(&id)).then_some((id, meta.size))
        });
        let mut read = futures::stream::iter(unnamed.collect::<Vec<_>>())
            .map(|(id, size)| async move { (id, directory(repo, kind, id, size).await) })
            .buffered(DIRECTORIES_AT_ONCE);
        while let Some((id, segment)) = read.next().await {
            match segment {
                Ok(mut segment) => {
                    if let [pack] = &mut segment.packs[..]
                        && let Some(known) = described.get(&id).filter(|k| k.size == pack.size)
                    {
                        pack.hash = known.hash;
                    }
                    merging.recover(segment)?;
                }
                Err(error) if error.retryable() => return Err(error),
                Err(error) => {
                    if !matches!(error.cause(), Cause::Damage | Cause::NotFound) {
                        // It is archived, or not ours to read.
                        merging.recovered_in_part();
                    }
                    tracing::debug!("pack {id} is left out: {}", error.chain());
                }
            }
        }
    }
    Ok(())
}

/// A pack of `size` bytes and its blobs, as its directory has them. Its hash is not known.
pub(super) async fn directory(
    repo: &Repository,
    kind: PackKind,
    id: PackId,
    size: u64,
) -> Result<Segment> {
    let key = pack_key(kind, &id)?;
    let trailer = size.saturating_sub(TRAILER as u64);
    let bytes = repo.get_range(&key, trailer, TRAILER as u64).await?;
    let place = DirectoryPlace::read(&id, size, &bytes)?;
    let (start, length) = (place.start as u64, place.length as u64);
    let _share = repo.resources().reserve(length).await?;
    let sealed = repo.get_range(&key, start, length).await?;
    let entries = repo
        .sealer()
        .open_directory_at(kind, &id, &place, &sealed)?;
    let pack = PackInfo {
        id,
        hash: [0; 32],
        size,
        kind,
        blobs: to_u32(entries.len(), "a number of blobs")?,
    };
    let record = |entry| Record { entry, pack: 0 };
    Ok(Segment {
        packs: vec![pack],
        supersedes: vec![],
        records: entries.into_iter().map(record).collect(),
    })
}

async fn load_segment(repo: &Repository, id: &IndexId) -> Result<Segment> {
    let path = StoredFile::Index.path(id);
    let bytes = repo.get_file(&path).await.map_err(missing_is_damage)?;
    let repo_again = repo.clone();
    let name = path.clone();
    repo.resources()
        .run(move || Segment::open(repo_again.sealer(), &name, &bytes))
        .await
        .context(|| format!("load {path}"))
}
