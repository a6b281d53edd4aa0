//! Collects the records of finished packs and writes index segments.

use tokio::sync::Mutex;

use crate::Result;
use crate::repo::format::files::StoredFile;
use crate::repo::format::pack::PackEntry;
use crate::repo::format::segment::{PackInfo, Record, SEGMENT_RECORDS, Segment};
use crate::repo::format::wire::to_u32;
use crate::repo::repository::Repository;
use crate::repo::session::lease::Handle;
use crate::repo::session::unnamed::write_segment;

/// The records of packs that are finished and in no segment yet.
#[derive(Debug)]
pub(super) struct Indexer {
    repo: Repository,
    lease: Handle,
    next: Mutex<Segment>,
}

impl Indexer {
    pub(super) fn new(repo: Repository, lease: Handle) -> Self {
        Self {
            repo,
            lease,
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

    async fn write(&self, next: &mut Segment) -> Result<()> {
        // Whoever stops waiting leaves it for the next call.
        write_segment(&self.repo, next.clone()).await?;
        let packs = std::mem::take(next).packs;
        let paths = packs
            .iter()
            .map(|pack| StoredFile::packs(pack.kind).path(&pack.id));
        let paths: Vec<String> = paths.collect();
        let paths = paths.iter().map(String::as_str);
        self.lease.unnamed().forget(paths);
        Ok(())
    }
}
