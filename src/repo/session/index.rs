//! Reading the index of a repository into memory.

use futures::StreamExt;

use crate::base::error::Context;
use crate::repo::format::files::StoredFile;
use crate::repo::format::ids::IndexId;
use crate::repo::format::index::segment::Segment;
use crate::repo::format::index::{Index, Merging};
use crate::repo::format::wire::missing_is_damage;
use crate::repo::repository::Repository;
use crate::{Cause, Result};

/// How many segments are read at once: each is about 7 MiB.
const SEGMENTS_AT_ONCE: usize = 8;

impl Index {
    /// Reads all segments. One that is damaged or went missing is left out and named: its blobs are
    /// unknown, which is damage for what needs them and nothing else.
    ///
    /// # Errors
    ///
    /// [`Cause::Damage`] when segments contradict each other; what the store fails with.
    pub(crate) async fn load(repo: &Repository) -> Result<Self> {
        let mut ids: Vec<IndexId> = repo.list_ids(StoredFile::Index).await?;
        ids.sort_unstable();
        let mut merging = Merging::default();
        let mut segments = futures::stream::iter(ids)
            .map(|id| async move { (id, load_segment(repo, &id).await) })
            .buffered(SEGMENTS_AT_ONCE);
        while let Some((id, segment)) = segments.next().await {
            match segment {
                Ok(segment) => merging.add(id, segment)?,
                Err(error) if error.cause() == Cause::Damage => {
                    if repo.first_told(id.to_string()) {
                        tracing::warn!("its blobs are unknown: {}", error.chain());
                    }
                    merging.leave_out(id, error.chain());
                }
                Err(error) => return Err(error),
            }
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
