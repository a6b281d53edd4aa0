//! Collects the records of finished packs and writes index segments.

use tokio::sync::Mutex;

use crate::Result;
use crate::base::error::Context;
use crate::repo::format::files::StoredFile;
use crate::repo::format::ids::IndexId;
use crate::repo::format::index::segment::{PackInfo, Record, SEGMENT_RECORDS, Segment};
use crate::repo::format::pack::PackEntry;
use crate::repo::format::wire::to_u32;
use crate::repo::repository::Repository;

/// The records of packs that are finished and in no segment yet.
#[derive(Debug)]
pub(super) struct Indexer {
    repo: Repository,
    next: Mutex<Segment>,
}

impl Indexer {
    pub(super) fn new(repo: Repository) -> Self {
        Self {
            repo,
            next: Mutex::default(),
        }
    }

    /// Takes the records of a finished pack, and writes a segment first where they would not fit.
    pub(super) async fn add(&self, pack: PackInfo, entries: Vec<PackEntry>) -> Result<()> {
        let mut next = self.next.lock().await;
        if next.records.len() + entries.len() > SEGMENT_RECORDS {
            self.write(&mut next).await?;
        }
        let number = to_u32(next.packs.len(), "a number of packs")?;
        next.packs.push(pack);
        let record = |entry| Record {
            entry,
            pack: number,
        };
        next.records.extend(entries.into_iter().map(record));
        Ok(())
    }

    /// Writes what has been collected.
    pub(super) async fn flush(&self) -> Result<()> {
        let mut next = self.next.lock().await;
        if next.packs.is_empty() {
            return Ok(());
        }
        self.write(&mut next).await
    }

    /// Writes a segment. The packs it names are durable before, so that a power failure never
    /// leaves an index that knows blobs which are gone.
    async fn write(&self, next: &mut Segment) -> Result<()> {
        let repo = self.repo.clone();
        repo.store().sync().await.context(|| "make packs durable")?;
        let path = StoredFile::Index.path(&IndexId(repo.env().id()));
        let mut segment = std::mem::take(next);
        let name = path.clone();
        let resources = repo.resources().clone();
        let bytes = resources
            .run(move || segment.seal(repo.sealer(), &name))
            .await?;
        self.repo.put_once(&path, bytes).await
    }
}
