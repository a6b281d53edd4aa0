//! Index segments as files (section 8).

use std::ops::Range;

use bytes::Bytes;

use crate::repo::format::blob::{BlobKind, Codec, OVERHEAD, PackKind};
use crate::repo::format::crypto::Key;
use crate::repo::format::ids::{BlobId, IndexId, PackId};
use crate::repo::format::pack::PackEntry;
use crate::repo::format::sealed::{FILE_HEADER, FileKind, file_header};
use crate::repo::format::sealer::Sealer;
use crate::repo::format::wire::{Reader, to_u32};
use crate::{Cause, Result, Side};

/// A segment holds at most this many records: about 7 MiB.
pub(crate) const SEGMENT_RECORDS: usize = 131_072;

const BLOCK_RECORDS: usize = 1_024;
/// What a record takes, in bytes.
pub(crate) const RECORD: usize = 52;
const PACK: usize = 80;
const FENCE: usize = 48;
const MAGIC: &[u8; 8] = b"EYRIEIDX";
const TRAILER: usize = 12;

/// A pack, as the index knows it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct PackInfo {
    pub(crate) id: PackId,
    /// BLAKE3 of the pack file; zero where it is not known.
    pub(crate) hash: [u8; 32],
    pub(crate) size: u64,
    pub(crate) kind: PackKind,
    /// The number of blobs in the pack, of which this segment may hold some.
    pub(crate) blobs: u32,
}

impl PackInfo {
    /// Whether the hash is known: it is not of a pack that is known by its directory alone.
    pub(crate) fn hash_known(&self) -> bool {
        self.hash != [0; 32]
    }
}

/// A record of a segment: a blob's place in the pack with number `pack`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Record {
    pub(crate) entry: PackEntry,
    pub(crate) pack: u32,
}

impl Record {
    /// The order of records: a blob has one for each of its places.
    pub(crate) fn order(&self) -> (BlobId, u32, u32) {
        (self.entry.id, self.pack, self.entry.position)
    }
}

/// The content of a segment.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Segment {
    pub(crate) packs: Vec<PackInfo>,
    pub(crate) supersedes: Vec<IndexId>,
    /// Ascending by blob id, number of the pack and position in a file.
    pub(crate) records: Vec<Record>,
}

/// What the end of a segment file says: enough to know what it supersedes, before the rest is read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Footer {
    pub(crate) packs: Vec<PackInfo>,
    pub(crate) supersedes: Vec<IndexId>,
    blocks: Vec<Fence>,
}

/// Where a block is.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Fence {
    first: BlobId,
    bytes: Range<usize>,
    records: usize,
}

/// The end of a segment file, as far as it has been read.
#[derive(Debug)]
pub(crate) enum End {
    /// All of the footer is there.
    Whole(Footer),
    /// The footer begins so many bytes before the end of the file.
    Longer(u64),
}

impl Footer {
    /// Opens the footer of the segment file at `name`, which has `size` bytes, of which `end` are the last.
    pub(crate) fn open(sealer: &Sealer, name: &str, size: u64, end: &[u8]) -> Result<End> {
        let short = || Reader::new(end, name).damaged("it ends early");
        let at = end.len().checked_sub(TRAILER).ok_or_else(short)?;
        let mut trailer = Reader::new(&end[at..], name);
        let length = trailer.u32()? as usize;
        trailer.expect(MAGIC, "end mark")?;
        let size = usize::try_from(size).map_err(|_| short())?;
        let start = size
            .checked_sub(TRAILER + length)
            .filter(|start| *start >= FILE_HEADER)
            .ok_or_else(short)?;
        let Some(from) = at.checked_sub(length) else {
            return Ok(End::Longer((TRAILER + length) as u64));
        };
        let seals = Seals::new(sealer, name);
        let footer = seals
            .key
            .open(&seals.footer_aad(), &end[from..at])
            .ok_or_else(|| trailer.damaged("its footer is not authentic"))?;
        let mut reader = Reader::new(&footer, name);
        let packs = read_packs(&mut reader)?;
        let supersedes = read_ids(&mut reader)?;
        let mut blocks = Vec::new();
        let mut position = FILE_HEADER;
        for _ in 0..reader.count(FENCE)? {
            let first = BlobId(reader.array()?);
            let from = reader.u64()?;
            let (length, records) = (reader.u32()? as usize, reader.u32()? as usize);
            let end = position.saturating_add(length);
            if from != position as u64 || end > start || !(1..=BLOCK_RECORDS).contains(&records) {
                return Err(reader.damaged("its blocks do not fill it"));
            }
            blocks.push(Fence {
                first,
                bytes: position..end,
                records,
            });
            position = end;
        }
        reader.end()?;
        if position != start {
            return Err(reader.damaged("its blocks do not fill it"));
        }
        Ok(End::Whole(Self {
            packs,
            supersedes,
            blocks,
        }))
    }

    /// How many records the segment has.
    pub(crate) fn records(&self) -> usize {
        self.blocks.iter().map(|block| block.records).sum()
    }
}

impl Segment {
    /// Sorts the records and seals the segment as the file at `name`.
    pub(crate) fn seal(&mut self, sealer: &Sealer, name: &str) -> Result<Bytes> {
        self.records.sort_unstable_by_key(Record::order);
        self.records.dedup_by_key(|record| record.order());
        if self.records.len() > SEGMENT_RECORDS {
            return Err(
                Side::Repository.error(Cause::Failed, "an index segment has too many records")
            );
        }
        let header = file_header(FileKind::Index, 0);
        let seals = Seals::new(sealer, name);
        let mut out = header.to_vec();
        let mut fences = Vec::new();
        let blocks = self.records.chunks(BLOCK_RECORDS);
        fences.extend_from_slice(&to_u32(blocks.len(), "a number of blocks")?.to_le_bytes());
        for (number, block) in (0_u32..).zip(blocks) {
            let mut plain = Vec::with_capacity(block.len() * RECORD);
            for record in block {
                put_record(&mut plain, record);
            }
            let block_bytes = seals.key.seal(&seals.block_aad(number), &plain)?;
            fences.extend_from_slice(&block[0].entry.id.0);
            fences.extend_from_slice(&(out.len() as u64).to_le_bytes());
            fences.extend_from_slice(&to_u32(block_bytes.len(), "a block's length")?.to_le_bytes());
            fences.extend_from_slice(&to_u32(block.len(), "a block's records")?.to_le_bytes());
            out.extend(block_bytes);
        }
        let mut footer = Vec::new();
        put_packs(&mut footer, &self.packs)?;
        put_ids(&mut footer, &self.supersedes)?;
        footer.extend(fences);
        let footer = seals.key.seal(&seals.footer_aad(), &footer)?;
        let length = to_u32(footer.len(), "a footer's length")?;
        out.extend(footer);
        out.extend_from_slice(&length.to_le_bytes());
        out.extend_from_slice(MAGIC);
        Ok(out.into())
    }

    /// Opens the segment file at `name`.
    pub(crate) fn open(sealer: &Sealer, name: &str, bytes: &[u8]) -> Result<Self> {
        let mut head = Reader::new(bytes, name);
        head.expect(&file_header(FileKind::Index, 0), "header")?;
        let End::Whole(footer) = Footer::open(sealer, name, bytes.len() as u64, bytes)? else {
            return Err(head.damaged("it ends early"));
        };
        let seals = Seals::new(sealer, name);
        let reader = Reader::new(bytes, name);
        let mut records: Vec<Record> = Vec::with_capacity(footer.records());
        for (number, block) in (0_u32..).zip(&footer.blocks) {
            let plain = seals
                .key
                .open(&seals.block_aad(number), &bytes[block.bytes.clone()])
                .filter(|plain| plain.len() == block.records * RECORD)
                .ok_or_else(|| reader.damaged(&format!("its block {number} is not authentic")))?;
            let before = records.len();
            for record in read_records(&plain, name)? {
                check_record(&record, &footer.packs).map_err(|why| reader.damaged(why))?;
                let last = records.last();
                if last.is_some_and(|last| last.order() >= record.order()) {
                    return Err(reader.damaged("its records are out of order"));
                }
                records.push(record);
            }
            if records[before].entry.id != block.first {
                return Err(reader.damaged("a fence is wrong"));
            }
        }
        Ok(Self {
            packs: footer.packs,
            supersedes: footer.supersedes,
            records,
        })
    }
}

/// Whether a record can be one of a segment with these packs.
fn check_record(record: &Record, packs: &[PackInfo]) -> std::result::Result<(), &'static str> {
    let entry = &record.entry;
    let info = packs.get(record.pack as usize);
    let info = info.ok_or("a record names no pack")?;
    let end = u64::from(entry.position) + u64::from(entry.stored);
    let fits = info.kind == entry.kind.pack() && end <= info.size;
    if fits && entry.stored as usize >= OVERHEAD {
        Ok(())
    } else {
        Err("a record does not fit its pack")
    }
}

/// Reads records, in the order in which they stand.
pub(crate) fn read_records(bytes: &[u8], name: &str) -> Result<Vec<Record>> {
    let mut reader = Reader::new(bytes, name);
    let mut records = Vec::with_capacity(bytes.len() / RECORD);
    while reader.remaining() > 0 {
        let id = BlobId(reader.array()?);
        let pack = reader.u32()?;
        let (position, stored, plain) = (reader.u32()?, reader.u32()?, reader.u32()?);
        let kind = BlobKind::read(&mut reader)?;
        let codec = Codec::read(&mut reader)?;
        let epoch = reader.u16()?;
        let entry = PackEntry {
            kind,
            id,
            position,
            stored,
            plain,
            codec,
            epoch,
        };
        records.push(Record { entry, pack });
    }
    Ok(records)
}

/// Appends a record.
pub(crate) fn put_record(out: &mut Vec<u8>, record: &Record) {
    let entry = &record.entry;
    out.extend_from_slice(&entry.id.0);
    out.extend_from_slice(&record.pack.to_le_bytes());
    out.extend_from_slice(&entry.position.to_le_bytes());
    out.extend_from_slice(&entry.stored.to_le_bytes());
    out.extend_from_slice(&entry.plain.to_le_bytes());
    out.extend_from_slice(&[entry.kind as u8, entry.codec as u8]);
    out.extend_from_slice(&entry.epoch.to_le_bytes());
}

/// Appends packs with their number.
pub(crate) fn put_packs(out: &mut Vec<u8>, packs: &[PackInfo]) -> Result<()> {
    out.extend_from_slice(&to_u32(packs.len(), "a number of packs")?.to_le_bytes());
    for pack in packs {
        out.extend_from_slice(&pack.id.0);
        out.extend_from_slice(&pack.hash);
        out.extend_from_slice(&pack.size.to_le_bytes());
        out.extend_from_slice(&[pack.kind as u8, 0, 0, 0]);
        out.extend_from_slice(&pack.blobs.to_le_bytes());
    }
    Ok(())
}

/// Appends ids with their number.
pub(crate) fn put_ids(out: &mut Vec<u8>, ids: &[IndexId]) -> Result<()> {
    out.extend_from_slice(&to_u32(ids.len(), "a number of segments")?.to_le_bytes());
    for id in ids {
        out.extend_from_slice(&id.0);
    }
    Ok(())
}

/// Reads what [`put_ids`] appended.
pub(crate) fn read_ids(reader: &mut Reader<'_>) -> Result<Vec<IndexId>> {
    let count = reader.count(32)?;
    (0..count).map(|_| reader.array().map(IndexId)).collect()
}

/// Reads what [`put_packs`] appended.
pub(crate) fn read_packs(reader: &mut Reader<'_>) -> Result<Vec<PackInfo>> {
    let count = reader.count(PACK)?;
    let mut packs = Vec::with_capacity(count);
    for _ in 0..count {
        let (id, hash, size) = (PackId(reader.array()?), reader.array()?, reader.u64()?);
        let kind = PackKind::read(reader)?;
        reader.expect(&[0; 3], "reserved part of a pack")?;
        packs.push(PackInfo {
            id,
            hash,
            size,
            kind,
            blobs: reader.u32()?,
        });
    }
    Ok(packs)
}

/// The key and associated data of a segment's parts.
struct Seals {
    key: Key,
    aad: Vec<u8>,
}

impl Seals {
    fn new(sealer: &Sealer, name: &str) -> Self {
        let header = file_header(FileKind::Index, 0);
        Self {
            key: sealer.file_key(name),
            aad: sealer.file_aad(&header, name),
        }
    }

    fn block_aad(&self, number: u32) -> Vec<u8> {
        [&self.aad[..], b"block", &number.to_le_bytes()].concat()
    }

    fn footer_aad(&self) -> Vec<u8> {
        [&self.aad[..], b"footer"].concat()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::repo::format::ids::RepositoryId;
    use crate::repo::format::sealer::Keyring;
    use jiff::Timestamp;

    fn sealer() -> Sealer {
        Sealer {
            repository: RepositoryId([9; 32]),
            ring: Keyring::generate(Timestamp::UNIX_EPOCH),
        }
    }

    fn segment(records: u32) -> Segment {
        let pack = |n: u8, kind| PackInfo {
            id: PackId([n; 32]),
            hash: [n + 1; 32],
            size: 1 << 30,
            kind,
            blobs: 5,
        };
        let packs = vec![pack(1, PackKind::Data), pack(2, PackKind::Tree)];
        let records = (0..records)
            .map(|n| {
                let id = BlobId(*blake3::hash(&n.to_le_bytes()).as_bytes());
                let kind = if n % 2 == 0 {
                    BlobKind::Data
                } else {
                    BlobKind::Values
                };
                let entry = PackEntry {
                    kind,
                    id,
                    position: 16 + n * 100,
                    stored: 100,
                    plain: 8,
                    codec: Codec::Raw,
                    epoch: 1,
                };
                Record { entry, pack: n % 2 }
            })
            .collect();
        Segment {
            packs,
            supersedes: vec![IndexId([4; 32])],
            records,
        }
    }

    #[test]
    fn segments_round_trip_sorted() {
        let sealer = sealer();
        for count in [0, 1, 1024, 1025, 5000] {
            let mut made = segment(count);
            let bytes = made.seal(&sealer, "index/x").unwrap();
            assert_eq!(Segment::open(&sealer, "index/x", &bytes).unwrap(), made);
            assert!(made.records.is_sorted_by_key(|record| record.entry.id));
            assert!(Segment::open(&sealer, "index/y", &bytes).is_err());
        }
    }

    #[test]
    fn every_flipped_bit_and_every_cut_is_damage() {
        let sealer = sealer();
        let bytes = segment(3).seal(&sealer, "index/x").unwrap();
        for bit in 0..bytes.len() * 8 {
            let mut bad = bytes.to_vec();
            bad[bit / 8] ^= 1 << (bit % 8);
            let error = Segment::open(&sealer, "index/x", &bad).unwrap_err();
            assert_eq!(error.cause(), Cause::Damage, "bit {bit}");
        }
        for len in 0..bytes.len() {
            assert!(Segment::open(&sealer, "index/x", &bytes[..len]).is_err());
        }
    }
}
