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
    File(File),
    Memory(Vec<u8>),
}

impl Body {
    fn read_at(&self, at: u64, length: usize) -> io::Result<Vec<u8>> {
        match self {
            Self::File(file) => {
                let mut bytes = vec![0; length];
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
    pub(super) packs: Vec<PackInfo>,
    pub(super) supersedes: Vec<IndexId>,
    /// Whether its records are here: a segment that another supersedes needs none.
    pub(super) whole: bool,
    /// How many records are here.
    pub(super) records: usize,
    /// The first eight bytes of the last id.
    pub(super) last: u64,
    /// The first eight bytes of the first id of each chunk.
    fences: Vec<u64>,
    filter: Option<BinaryFuse8>,
    seal: Seal,
    body: Body,
}

/// Something that a file has is not what was written there.
#[derive(Debug)]
pub(super) struct BadFile(pub(super) String);

impl From<io::Error> for BadFile {
    fn from(error: io::Error) -> Self {
        Self(error.to_string())
    }
}

impl From<crate::Error> for BadFile {
    fn from(error: crate::Error) -> Self {
        Self(error.chain())
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
    /// The file of a segment that has `size` bytes in the repository; its records are in order, or all left
    /// out.
    pub(super) fn encode(
        sealer: &Sealer,
        id: &IndexId,
        size: u64,
        segment: &Segment,
        whole: bool,
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
        summary.push(whole.into());
        summary.extend_from_slice(&to_u32(records.len(), "a number of records")?.to_le_bytes());
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
    ) -> std::result::Result<Self, BadFile> {
        let bytes = match &body {
            Body::File(file) => file.metadata()?.len(),
            Body::Memory(all) => all.len() as u64,
        };
        let ends_early = || BadFile("it ends early".into());
        let at = bytes.checked_sub(TRAILER as u64).ok_or_else(ends_early)?;
        let mut length = [0; TRAILER];
        length.copy_from_slice(&body.read_at(at, TRAILER)?);
        let length = u32::from_le_bytes(length);
        let start = at.checked_sub(length.into()).ok_or_else(ends_early)?;
        let seal = Seal::new(sealer, id, size);
        let summary = body.read_at(start, length as usize)?;
        let summary = seal
            .key
            .open(&seal.summary(), &summary)
            .ok_or_else(|| BadFile("its summary is not authentic".into()))?;
        let mut reader = Reader::new(&summary, "the summary");
        let packs = read_packs(&mut reader)?;
        let supersedes = read_ids(&mut reader)?;
        let whole = reader.u8()? != 0;
        let records = reader.u32()? as usize;
        let last = reader.u64()?;
        let chunks = records.div_ceil(CHUNK_RECORDS);
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
        Ok(Self {
            packs,
            supersedes,
            whole,
            records,
            last,
            fences,
            filter,
            seal,
            body,
        })
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
        let plain = plain.ok_or_else(|| BadFile(format!("its chunk {number} is not authentic")))?;
        Ok(read_records(&plain, "a chunk")?)
    }

    /// All of the segment.
    pub(super) fn segment(&self) -> std::result::Result<Segment, BadFile> {
        let mut records = Vec::with_capacity(self.records);
        for number in 0..self.chunks() {
            records.extend(self.chunk(number)?);
        }
        Ok(Segment {
            packs: self.packs.clone(),
            supersedes: self.supersedes.clone(),
            records,
        })
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
    BinaryFuse8::try_from(keys).ok()
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
    pub(super) fn open(&self, sealer: &Sealer, id: &IndexId, size: u64) -> Option<Filed> {
        let path = self.path(id);
        let opened = File::open(&path).map_err(BadFile::from);
        match opened.and_then(|file| Filed::open(sealer, id, size, Body::File(file))) {
            Ok(filed) => Some(filed),
            Err(BadFile(why)) => {
                if std::fs::remove_file(&path).is_ok() {
                    tracing::debug!("removed {}: {why}", path.display());
                }
                None
            }
        }
    }

    /// Writes the file of a segment, and opens it.
    pub(super) fn keep(&self, id: &IndexId, bytes: &[u8]) -> io::Result<File> {
        std::fs::create_dir_all(&self.0)?;
        let mut file = tempfile::NamedTempFile::new_in(&self.0)?;
        file.write_all(bytes)?;
        file.persist(self.path(id)).map_err(|error| error.error)
    }

    /// Removes the file of a segment.
    pub(super) fn forget(&self, id: &IndexId) {
        // Where it stays, it is authentic all the same.
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
