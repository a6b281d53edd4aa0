//! Reading the index of a repository into memory.

use futures::{StreamExt, TryStreamExt};

use crate::Result;
use crate::base::error::Context;
use crate::repo::format::files::StoredFile;
use crate::repo::format::ids::IndexId;
use crate::repo::format::index::segment::Segment;
use crate::repo::format::index::{Index, Merging};
use crate::repo::format::wire::missing_is_damage;
use crate::repo::repository::Repository;

/// How many segments are read at once: each is about 7 MiB.
const SEGMENTS_AT_ONCE: usize = 8;

impl Index {
    /// Reads all segments.
    ///
    /// # Errors
    ///
    /// [`crate::Cause::Damage`] that names a segment that is damaged or went missing.
    pub(crate) async fn load(repo: &Repository) -> Result<Self> {
        let mut ids: Vec<IndexId> = repo.list_ids(StoredFile::Index).await?;
        ids.sort_unstable();
        let mut merging = Merging::default();
        let mut segments = futures::stream::iter(ids)
            .map(|id| async move { load_segment(repo, &id).await.map(|segment| (id, segment)) })
            .buffered(SEGMENTS_AT_ONCE);
        while let Some((id, segment)) = segments.try_next().await? {
            merging.add(id, segment)?;
        }
        repo.resources().run(move || merging.finish()).await
    }
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
