//! A segment in a local file, of which a look-up reads one chunk.
//!
//! What index segments say is kept on disk in another shape, so that a look-up costs microseconds: records in
//! sealed chunks of a few KiB, and at the end what is needed in memory: where the chunks begin, and a filter that
//! says of most blobs that they are not here. Everything is authenticated when it is read. The file is a copy:
//! whoever finds it damaged reads the segment from the repository again.

use std::fs::File;
use std::io::{self, Write};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use xorf::{BinaryFuse8, Descriptor, Filter};

use crate::Result;
use crate::repo::format::crypto::{Key, NONCE, TAG};
use crate::repo::format::files::StoredFile;
use crate::repo::format::ids::{BlobId, IndexId};
use crate::repo::format::sealer::Sealer;
use crate::repo::format::segment::{
    PackInfo, RECORD, Record, Segment, put_ids, put_packs, put_record, read_ids, read_packs,
    read_records,
};
use crate::repo::format::wire::{Reader, to_u32};

/// Records of a chunk: 3.3 KiB.
const CHUNK_RECORDS: usize = 64;
const CHUNK: usize = CHUNK_RECORDS * RECORD + NONCE + TAG;
/// The first bytes of a file; another layout has others.
const HEADER: &[u8; 8] = b"EYRIEIC1";
/// The length of the summary stands at the end.
const TRAILER: usize = 4;

/// Where the bytes of a filed segment are.
#[derive(Debug)]
pub(super) enum Body {
    /// A file, which is opened for each read: a process may have few open files, and there may be many
    /// segments. Another process may put another copy in its place, with the same content in the same places.
    File(PathBuf),
    /// A file without a name.
    Spooled(File),
    Memory(Vec<u8>),
}

impl Body {
    fn length(&self) -> io::Result<u64> {
        Ok(match self {
            Self::File(path) => std::fs::metadata(path)?.len(),
            Self::Spooled(file) => file.metadata()?.len(),
            Self::Memory(all) => all.len() as u64,
        })
    }

    fn read_at(&self, at: u64, length: usize) -> io::Result<Vec<u8>> {
        let mut bytes = vec![0; length];
        match self {
            Self::File(path) => {
                File::open(path)?.read_exact_at(&mut bytes, at)?;
                Ok(bytes)
            }
            Self::Spooled(file) => {
                file.read_exact_at(&mut bytes, at)?;
                Ok(bytes)
            }
            Self::Memory(all) => {
                let at = usize::try_from(at).map_err(io::Error::other)?;
                let bytes = all.get(at..at.saturating_add(length));
                bytes
                    .map(<[u8]>::to_vec)
                    .ok_or_else(|| io::ErrorKind::UnexpectedEof.into())
            }
        }
    }
}

/// A segment, whose records are read when they are needed.
#[derive(Debug)]
pub(super) struct Filed {
    /// Whether its records are here: a segment that another supersedes needs none.
    pub(super) whole: bool,
    /// How many records the segment has.
    pub(super) records: usize,
    /// The first eight bytes of the last id.
    pub(super) last: u64,
    /// The first eight bytes of the first id of each chunk.
    fences: Vec<u64>,
    filter: Option<BinaryFuse8>,
    seal: Seal,
    body: Body,
}

/// What a file says of its segment but for the records, which is needed once.
#[derive(Debug, Default)]
pub(super) struct Summary {
    pub(super) packs: Vec<PackInfo>,
    pub(super) supersedes: Vec<IndexId>,
}

/// Why a file cannot be read.
#[derive(Debug)]
pub(super) enum BadFile {
    /// It is not there, or the system does not let us read it now.
    Unread(String),
    /// Something that it has is not what was written there.
    Wrong(String),
}

impl BadFile {
    pub(super) fn why(self) -> String {
        match self {
            Self::Unread(why) | Self::Wrong(why) => why,
        }
    }
}

impl From<io::Error> for BadFile {
    fn from(error: io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::UnexpectedEof => Self::Wrong("it ends early".into()),
            _ => Self::Unread(error.to_string()),
        }
    }
}

impl From<crate::Error> for BadFile {
    fn from(error: crate::Error) -> Self {
        Self::Wrong(error.chain())
    }
}

/// The key and associated data of a file's parts.
#[derive(Debug)]
struct Seal {
    key: Key,
    aad: Vec<u8>,
}

impl Seal {
    /// `size` is that of the segment in the repository.
    fn new(sealer: &Sealer, id: &IndexId, size: u64) -> Self {
        let path = StoredFile::Index.path(id);
        let aad = [&HEADER[..], &sealer.repository.0, &size.to_le_bytes()].concat();
        Self {
            key: sealer.file_key(&path),
            aad,
        }
    }

    fn chunk(&self, number: usize) -> Vec<u8> {
        [&self.aad[..], b"chunk", &number.to_le_bytes()].concat()
    }

    fn summary(&self) -> Vec<u8> {
        [&self.aad[..], b"summary"].concat()
    }
}

/// The first eight bytes of an id, which are in its order.
pub(super) fn prefix(id: &BlobId) -> u64 {
    let mut first = [0; 8];
    first.copy_from_slice(&id.0[..8]);
    u64::from_be_bytes(first)
}

impl Filed {
    /// The file of a segment that has `size` bytes and so many records in the repository; they are in order here,
    /// or all left out.
    pub(super) fn encode(
        sealer: &Sealer,
        id: &IndexId,
        size: u64,
        segment: &Segment,
        count: usize,
    ) -> Result<Vec<u8>> {
        let seal = Seal::new(sealer, id, size);
        let records = &segment.records;
        let mut out = HEADER.to_vec();
        let mut fences = Vec::new();
        for (number, chunk) in records.chunks(CHUNK_RECORDS).enumerate() {
            let mut plain = Vec::with_capacity(CHUNK_RECORDS * RECORD);
            for record in chunk {
                put_record(&mut plain, record);
            }
            fences.extend_from_slice(&prefix(&chunk[0].entry.id).to_le_bytes());
            out.extend(seal.key.seal(&seal.chunk(number), &plain)?);
        }
        let mut summary = Vec::new();
        put_packs(&mut summary, &segment.packs)?;
        put_ids(&mut summary, &segment.supersedes)?;
        summary.push((records.len() == count).into());
        summary.extend_from_slice(&to_u32(count, "a number of records")?.to_le_bytes());
        let last = records.last().map_or(0, |last| prefix(&last.entry.id));
        summary.extend_from_slice(&last.to_le_bytes());
        summary.extend(fences);
        if let Some(filter) = filter_of(records) {
            let Descriptor {
                seed,
                segment_length,
                segment_length_mask,
                segment_count_length,
            } = filter.descriptor;
            summary.extend_from_slice(&seed.to_le_bytes());
            for part in [segment_length, segment_length_mask, segment_count_length] {
                summary.extend_from_slice(&part.to_le_bytes());
            }
            summary.extend_from_slice(&filter.fingerprints);
        }
        let summary = seal.key.seal(&seal.summary(), &summary)?;
        let length = to_u32(summary.len(), "the length of a summary")?;
        out.extend(summary);
        out.extend_from_slice(&length.to_le_bytes());
        Ok(out)
    }

    /// Opens the file of a segment that has `size` bytes in the repository: reads all but its records.
    pub(super) fn open(
        sealer: &Sealer,
        id: &IndexId,
        size: u64,
        body: Body,
    ) -> std::result::Result<(Self, Summary), BadFile> {
        let ends_early = || BadFile::Wrong("it ends early".into());
        let at = body
            .length()?
            .checked_sub(TRAILER as u64)
            .ok_or_else(ends_early)?;
        let mut length = [0; TRAILER];
        length.copy_from_slice(&body.read_at(at, TRAILER)?);
        let length = u32::from_le_bytes(length);
        let start = at.checked_sub(length.into()).ok_or_else(ends_early)?;
        let seal = Seal::new(sealer, id, size);
        let summary = body.read_at(start, length as usize)?;
        let summary = seal
            .key
            .open(&seal.summary(), &summary)
            .ok_or_else(|| BadFile::Wrong("its summary is not authentic".into()))?;
        let mut reader = Reader::new(&summary, "the summary");
        let packs = read_packs(&mut reader)?;
        let supersedes = read_ids(&mut reader)?;
        let whole = reader.u8()? != 0;
        let records = reader.u32()? as usize;
        let last = reader.u64()?;
        let chunks = if whole {
            records.div_ceil(CHUNK_RECORDS)
        } else {
            0
        };
        let fences = (0..chunks).map(|_| reader.u64()).collect::<Result<_>>()?;
        let filter = match reader.remaining() {
            0 => None,
            _ => Some(BinaryFuse8 {
                descriptor: Descriptor {
                    seed: reader.u64()?,
                    segment_length: reader.u32()?,
                    segment_length_mask: reader.u32()?,
                    segment_count_length: reader.u32()?,
                },
                fingerprints: reader.take(reader.remaining())?.into(),
            }),
        };
        let filed = Self {
            whole,
            records,
            last,
            fences,
            filter,
            seal,
            body,
        };
        Ok((filed, Summary { packs, supersedes }))
    }

    /// The first eight bytes of the first id.
    pub(super) fn first(&self) -> u64 {
        self.fences.first().copied().unwrap_or_default()
    }

    /// How many chunks it has.
    pub(super) fn chunks(&self) -> usize {
        self.fences.len()
    }

    /// Adds the records of a blob to `found`.
    pub(super) fn find(
        &self,
        id: &BlobId,
        found: &mut Vec<Record>,
    ) -> std::result::Result<(), BadFile> {
        let wanted = prefix(id);
        if self
            .filter
            .as_ref()
            .is_some_and(|filter| !filter.contains(&wanted))
        {
            return Ok(());
        }
        // Ids with these first bytes may begin in the chunk before the first that begins with them.
        let before = self.fences.partition_point(|fence| *fence < wanted);
        let chunks = before.saturating_sub(1)..self.fences.partition_point(|f| *f <= wanted);
        for number in chunks {
            let records = self.chunk(number)?;
            found.extend(records.into_iter().filter(|record| record.entry.id == *id));
        }
        Ok(())
    }

    /// The records of a chunk, in order.
    pub(super) fn chunk(&self, number: usize) -> std::result::Result<Vec<Record>, BadFile> {
        let first = number * CHUNK_RECORDS;
        let count = self.records.saturating_sub(first).min(CHUNK_RECORDS);
        let at = (HEADER.len() + number * CHUNK) as u64;
        let sealed = self.body.read_at(at, count * RECORD + NONCE + TAG)?;
        let plain = self.seal.key.open(&self.seal.chunk(number), &sealed);
        let wrong = || BadFile::Wrong(format!("its chunk {number} is not authentic"));
        let plain = plain.ok_or_else(wrong)?;
        Ok(read_records(&plain, "a chunk")?)
    }

    /// All records.
    pub(super) fn all(&self) -> std::result::Result<Vec<Record>, BadFile> {
        let mut records = Vec::with_capacity(self.records);
        for number in 0..self.chunks() {
            records.extend(self.chunk(number)?);
        }
        Ok(records)
    }
}

/// A filter of the first eight bytes of all ids; none where there are none.
fn filter_of(records: &[Record]) -> Option<BinaryFuse8> {
    let mut keys: Vec<u64> = records.iter().map(|r| prefix(&r.entry.id)).collect();
    keys.dedup();
    if keys.is_empty() {
        return None;
    }
    // Without one each look-up reads a chunk.
    let filter = BinaryFuse8::try_from(&keys).ok()?;
    // One that denies what is here would deny it for as long as the file is there.
    keys.iter()
        .all(|key| filter.contains(key))
        .then_some(filter)
}

/// The local files of a repository's segments.
#[derive(Debug, Clone)]
pub(crate) struct Cache(PathBuf);

impl Cache {
    /// Files in `directory`, which is made when the first is written.
    pub(super) fn new(directory: &Path) -> Self {
        Self(directory.to_owned())
    }

    fn path(&self, id: &IndexId) -> PathBuf {
        self.0.join(id.to_string())
    }

    /// The file of a segment; `None` where there is none that is right. One that is wrong is removed.
    pub(super) fn open(
        &self,
        sealer: &Sealer,
        id: &IndexId,
        size: u64,
    ) -> Option<(Filed, Summary)> {
        let path = self.path(id);
        match Filed::open(sealer, id, size, Body::File(path.clone())) {
            Ok(filed) => Some(filed),
            Err(BadFile::Unread(why)) => {
                tracing::trace!("{} is not read: {why}", path.display());
                None
            }
            Err(BadFile::Wrong(why)) => {
                tracing::debug!("removing {}: {why}", path.display());
                self.forget(id);
                None
            }
        }
    }

    /// All of a segment, where its file has it and is right.
    pub(super) fn segment(&self, sealer: &Sealer, id: &IndexId, size: u64) -> Option<Segment> {
        let (filed, summary) = self.open(sealer, id, size)?;
        let records = filed.whole.then(|| filed.all().ok())??;
        Some(Segment {
            packs: summary.packs,
            supersedes: summary.supersedes,
            records,
        })
    }

    /// Writes the file of a segment.
    pub(super) fn keep(&self, id: &IndexId, bytes: &[u8]) -> io::Result<PathBuf> {
        let mut file = tempfile::NamedTempFile::new_in(self.directory()?)?;
        file.write_all(bytes)?;
        let path = self.path(id);
        file.persist(&path).map_err(|error| error.error)?;
        Ok(path)
    }

    /// The directory, which is made where it is not there.
    pub(super) fn directory(&self) -> io::Result<&Path> {
        std::fs::create_dir_all(&self.0)?;
        Ok(&self.0)
    }

    /// Removes the file of a segment.
    pub(super) fn forget(&self, id: &IndexId) {
        // Where it stays, it is not believed the next time either.
        let _ = std::fs::remove_file(self.path(id));
    }

    /// Removes the files of segments that are not among `ids`. Files that are being written are younger than
    /// a day.
    pub(super) fn retain(&self, ids: impl Fn(&IndexId) -> bool) {
        let Ok(files) = std::fs::read_dir(&self.0) else {
            return;
        };
        for file in files.flatten() {
            let name = file.file_name();
            let id = name.to_str().and_then(|name| name.parse::<IndexId>().ok());
            let is_old = || {
                let changed = file.metadata().and_then(|metadata| metadata.modified());
                let age = changed.ok().and_then(|changed| changed.elapsed().ok());
                age.is_some_and(|age| age.as_secs() > 86_400)
            };
            if id.map_or_else(is_old, |id| !ids(&id)) {
                let _ = std::fs::remove_file(file.path());
            }
        }
    }
}
