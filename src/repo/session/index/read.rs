//! Reading single segments, from the repository or by their local files.

use std::collections::HashMap;
use std::io::Write;
use std::sync::Arc;

use bytes::Bytes;

use super::filed::{BadFile, Body, Cache, Filed, prefix};
use crate::base::error::Context;
use crate::repo::format::files::StoredFile;
use crate::repo::format::ids::{IndexId, PackId};
use crate::repo::format::segment::{End, Footer, PackInfo, Record, Segment};
use crate::repo::format::wire::{damaged, to_u32};
use crate::repo::opening::read_twice;
use crate::repo::repository::Repository;
use crate::{Cause, Result, store};

/// How much is read of the end of a segment before more is known of it, in bytes: all of a small one, and of
/// a large one the footer, unless it has many packs.
const END: u64 = 64 << 10;

/// What is known of a segment before its records are read.
#[derive(Debug)]
pub(super) struct Begun {
    pub(super) id: IndexId,
    pub(super) size: u64,
    /// Their numbers in the table.
    pub(super) packs: Arc<[u32]>,
    pub(super) supersedes: Vec<IndexId>,
    pub(super) records: usize,
    pub(super) read: Read,
}

/// As far as it was read.
#[derive(Debug)]
pub(super) enum Read {
    /// By its local file.
    File(Filed),
    /// All its bytes.
    Whole(Bytes),
    /// Its end.
    End,
}

/// The records of a segment.
#[derive(Debug)]
pub(super) enum Part {
    Records(Vec<Record>),
    Filed(Filed),
}

impl Part {
    /// The first eight bytes of the first and the last id.
    pub(super) fn ends(&self) -> (u64, u64) {
        match self {
            Self::Records(records) => {
                let of = |record: Option<&Record>| record.map_or(0, |r| prefix(&r.entry.id));
                (of(records.first()), of(records.last()))
            }
            Self::Filed(filed) => (filed.first(), filed.last),
        }
    }
}

/// Packs as segments describe them, each with a number: one has several where segments contradict each other.
#[derive(Debug, Default)]
pub(super) struct Table {
    pub(super) packs: Vec<PackInfo>,
    known: HashMap<(PackId, u64, u8, u32), u32>,
}

impl Table {
    /// The numbers of these packs, in their order.
    pub(super) fn number(&mut self, packs: &[PackInfo]) -> Result<Arc<[u32]>> {
        let number = |pack: &PackInfo| {
            let next = to_u32(self.packs.len(), "a number of packs")?;
            let described = (pack.id, pack.size, pack.kind as u8, pack.blobs);
            let number = *self.known.entry(described).or_insert(next);
            match self.packs.get_mut(number as usize) {
                None => self.packs.push(*pack),
                // Which hash is right, the bytes tell.
                Some(known) if !known.hash_known() => known.hash = pack.hash,
                Some(_) => {}
            }
            Ok(number)
        };
        packs.iter().map(number).collect()
    }
}

/// All that was read.
#[derive(Debug)]
pub(super) struct Loaded {
    pub(super) begun: Vec<Begun>,
    pub(super) table: Table,
    pub(super) unread: Vec<(IndexId, u64, String)>,
    pub(super) parts: HashMap<IndexId, Part>,
}

/// Says once that local files of the index cannot be written.
pub(super) fn told_once<T>(repo: &Repository, kept: std::io::Result<T>) -> Option<T> {
    match kept {
        Ok(kept) => Some(kept),
        Err(error) => {
            if repo.first_told("local index") {
                tracing::warn!(
                    "the index cannot be kept below state_dir, and is read from the repository again next time: {error}"
                );
            }
            None
        }
    }
}

/// What the end of a segment says.
pub(super) struct Ended {
    pub(super) packs: Vec<PackInfo>,
    pub(super) supersedes: Vec<IndexId>,
    pub(super) records: usize,
    pub(super) read: Read,
}

/// Reads what a segment of `size` bytes says at its end, from its local file where there is one.
pub(super) async fn begin(
    repo: &Repository,
    cache: Option<&Cache>,
    id: IndexId,
    size: u64,
) -> Result<Ended> {
    if let Some(cache) = cache {
        let (cache, opener) = (cache.clone(), repo.clone());
        let open = move || Ok(cache.open(opener.sealer(), &id, size));
        if let Some((filed, summary)) = repo.resources().run(open).await? {
            return Ok(Ended {
                packs: summary.packs,
                supersedes: summary.supersedes,
                records: filed.records,
                read: Read::File(filed),
            });
        }
    }
    let path = StoredFile::Index.path(&id);
    let key = store::Key::new(&*path)?;
    let mut length = END.min(size);
    loop {
        let end = match length {
            0 => Bytes::new(),
            _ => repo.get_range(&key, size - length, length).await?,
        };
        let read = Footer::open(repo.sealer(), &path, size, &end);
        match read.context(|| format!("load {path}"))? {
            End::Longer(whole) if whole > length => length = whole,
            End::Longer(_) => return Err(damaged(format!("{path} is damaged: it ends early"))),
            End::Whole(footer) => {
                let records = footer.records();
                return Ok(Ended {
                    packs: footer.packs,
                    supersedes: footer.supersedes,
                    records,
                    read: if length == size {
                        Read::Whole(end)
                    } else {
                        Read::End
                    },
                });
            }
        }
    }
}

/// Reads the records of a segment into memory, or into a local file.
pub(super) async fn read_part(
    repo: &Repository,
    cache: Option<&Cache>,
    id: IndexId,
    size: u64,
    read: Read,
    resident: bool,
) -> Result<Part> {
    let segment = match read {
        Read::File(filed) if filed.whole && !resident => return Ok(Part::Filed(filed)),
        Read::File(filed) if filed.whole => {
            let records = move || Ok(filed.all());
            match repo.resources().run(records).await? {
                Ok(records) => return Ok(Part::Records(records)),
                Err(bad) => {
                    let why = bad.why();
                    tracing::debug!("the local file of segment {id} is left out: {why}");
                    None
                }
            }
        }
        // What is damaged may have become so on the way.
        Read::Whole(bytes) => match open(repo, id, bytes).await {
            Err(error) if error.cause() == Cause::Damage => None,
            opened => Some(opened?),
        },
        Read::File(_) | Read::End => None,
    };
    // The bytes, and what they are in memory.
    let _share = repo.resources().reserve(2 * size).await?;
    let segment = match segment {
        Some(segment) => segment,
        None => fetch(repo, id, size).await?,
    };
    let (keeper, cache) = (repo.clone(), cache.cloned());
    let keep = move || {
        let sealer = keeper.sealer();
        let mut body = None;
        if cache.is_some() || !resident {
            let bytes = Filed::encode(sealer, &id, size, &segment, segment.records.len())?;
            let kept = cache.and_then(|cache| told_once(&keeper, cache.keep(&id, &bytes)));
            let kept = kept.map(Body::File);
            body = (!resident).then(|| kept.unwrap_or_else(|| spool(&keeper, bytes)));
        }
        let Some(body) = body else {
            return Ok(Part::Records(segment.records));
        };
        let filed = Filed::open(sealer, &id, size, body);
        let bad = |bad: BadFile| {
            let why = bad.why();
            damaged(format!("the local file of index segment {id}: {why}"))
        };
        filed.map(|(filed, _)| Part::Filed(filed)).map_err(bad)
    };
    repo.resources().run(keep).await
}

/// A file without a name, or memory where there is none to be had.
pub(super) fn spool(repo: &Repository, bytes: Vec<u8>) -> Body {
    let unnamed = || {
        let below = repo.local_index().map(Cache::new);
        let below = below.and_then(|cache| tempfile::tempfile_in(cache.directory().ok()?).ok());
        below.map_or_else(tempfile::tempfile, Ok)
    };
    let made = unnamed().and_then(|mut file| {
        file.write_all(&bytes)?;
        Ok(file)
    });
    match made {
        Ok(file) => Body::Spooled(file),
        Err(error) => {
            if repo.first_told("spooled index") {
                tracing::warn!("the index is kept in memory, as no file can be written: {error}");
            }
            Body::Memory(bytes)
        }
    }
}

/// Reads a segment from the repository. It takes no share of the memory budget, as some callers hold one.
pub(super) async fn fetch(repo: &Repository, id: IndexId, size: u64) -> Result<Segment> {
    let path = StoredFile::Index.path(&id);
    let key = store::Key::new(&*path)?;
    let read = || async {
        let bytes = match size {
            0 => Bytes::new(),
            _ => repo.get_range(&key, 0, size).await?,
        };
        open(repo, id, bytes).await
    };
    read_twice(read).await
}

async fn open(repo: &Repository, id: IndexId, bytes: Bytes) -> Result<Segment> {
    let path = StoredFile::Index.path(&id);
    let (opener, name) = (repo.clone(), path.clone());
    let open = move || Segment::open(opener.sealer(), &name, &bytes);
    let segment = repo.resources().run(open).await;
    segment.context(|| format!("load {path}"))
}
