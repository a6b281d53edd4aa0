//! The parts of a pack file around its blobs (section 7).

use super::blob::{BlobKind, Codec, OVERHEAD, PackKind};
use super::crypto::{Key, NONCE, TAG};
use super::files::StoredFile;
use super::ids::{BlobId, PackId};
use super::sealer::Sealer;
use super::wire::{Reader, to_u32};
use crate::{Result, store};

/// Length of a pack's header, in bytes.
pub(crate) const PACK_HEADER: usize = 16;

const MAGIC: &[u8; 8] = b"EYRIEPK1";
/// Length of a pack's trailer, in bytes.
pub(crate) const TRAILER: usize = 16;
const TRAILER_MAGIC: &[u8; 8] = b"EYRIEDIR";
const ENTRY: usize = 48;

/// Where a blob is in its pack.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct PackEntry {
    pub(crate) kind: BlobKind,
    pub(crate) id: BlobId,
    pub(crate) position: u32,
    pub(crate) stored: u32,
    pub(crate) plain: u32,
    pub(crate) codec: Codec,
    pub(crate) epoch: u16,
}

/// The path of a pack.
pub(crate) fn pack_key(kind: PackKind, pack: &PackId) -> Result<store::Key> {
    store::Key::new(StoredFile::packs(kind).path(pack))
}

/// What a pack of so many blobs has beside these, in bytes.
pub(crate) fn frame(blobs: u32) -> u64 {
    (PACK_HEADER + NONCE + TAG + TRAILER) as u64 + u64::from(blobs) * ENTRY as u64
}

/// The first bytes of a pack.
pub(crate) fn pack_header(kind: PackKind) -> [u8; PACK_HEADER] {
    let mut out = [0; PACK_HEADER];
    out[..8].copy_from_slice(MAGIC);
    out[8] = kind as u8;
    out
}

/// Where the sealed directory of a pack is: from `start` on, up to the trailer.
pub(crate) struct DirectoryPlace {
    pub(crate) start: usize,
    pub(crate) length: usize,
    blobs: usize,
}

impl DirectoryPlace {
    /// Reads the trailer of a pack of `size` bytes.
    pub(crate) fn read(pack: &PackId, size: u64, trailer: &[u8]) -> Result<Self> {
        let what = format!("pack {pack}");
        let mut reader = Reader::new(trailer, &what);
        let (length, blobs) = (reader.u32()? as usize, reader.u32()? as usize);
        reader.expect(TRAILER_MAGIC, "end mark")?;
        let before = usize::try_from(size).ok();
        let start = before.and_then(|size| size.checked_sub(TRAILER + length));
        match start.filter(|start| *start >= PACK_HEADER) {
            Some(start) => Ok(Self {
                start,
                length,
                blobs,
            }),
            None => Err(reader.damaged("its directory does not fit")),
        }
    }
}

impl Sealer {
    /// The last bytes of a pack: the sealed directory and the trailer.
    pub(crate) fn seal_directory(
        &self,
        kind: PackKind,
        pack: &PackId,
        entries: &[PackEntry],
    ) -> Result<Vec<u8>> {
        let mut plain = Vec::with_capacity(entries.len() * ENTRY);
        for entry in entries {
            plain.extend_from_slice(&entry.id.0);
            plain.extend_from_slice(&entry.position.to_le_bytes());
            plain.extend_from_slice(&entry.stored.to_le_bytes());
            plain.extend_from_slice(&entry.plain.to_le_bytes());
            plain.extend_from_slice(&[entry.kind as u8, entry.codec as u8]);
            plain.extend_from_slice(&entry.epoch.to_le_bytes());
        }
        let mut out = self
            .directory_key(pack)
            .seal(&self.directory_aad(kind, pack), &plain)?;
        let length = to_u32(out.len(), "a directory's length")?;
        out.extend_from_slice(&length.to_le_bytes());
        out.extend_from_slice(&to_u32(entries.len(), "a number of blobs")?.to_le_bytes());
        out.extend_from_slice(TRAILER_MAGIC);
        Ok(out)
    }

    /// Reads the directory of a whole pack and checks that its entries fill the pack.
    pub(crate) fn open_directory(
        &self,
        kind: PackKind,
        pack: &PackId,
        bytes: &[u8],
    ) -> Result<Vec<PackEntry>> {
        let what = format!("pack {pack}");
        let mut head = Reader::new(bytes, &what);
        head.expect(&pack_header(kind), "header")?;
        let Some(at) = bytes.len().checked_sub(TRAILER) else {
            return Err(head.damaged("it ends early"));
        };
        let place = DirectoryPlace::read(pack, bytes.len() as u64, &bytes[at..])?;
        self.open_directory_at(kind, pack, &place, &bytes[place.start..at])
    }

    /// Reads the directory of a pack, whose sealed bytes these are, and checks that its entries fill the
    /// pack.
    pub(crate) fn open_directory_at(
        &self,
        kind: PackKind,
        pack: &PackId,
        place: &DirectoryPlace,
        sealed: &[u8],
    ) -> Result<Vec<PackEntry>> {
        let what = format!("pack {pack}");
        let (start, count) = (place.start, place.blobs);
        let fault = Reader::new(sealed, &what);
        let aad = self.directory_aad(kind, pack);
        let Some(plain) = self.directory_key(pack).open(&aad, sealed) else {
            return Err(fault.damaged("its directory is not authentic"));
        };
        if plain.len() != count.saturating_mul(ENTRY) {
            return Err(fault.damaged("its directory has another number of blobs"));
        }
        let mut reader = Reader::new(&plain, &what);
        let mut entries = Vec::with_capacity(count);
        let mut next = PACK_HEADER;
        while reader.remaining() > 0 {
            let id = BlobId(reader.array()?);
            let (position, stored, plain) = (reader.u32()?, reader.u32()?, reader.u32()?);
            let blob = BlobKind::read(&mut reader)?;
            let codec = Codec::read(&mut reader)?;
            let epoch = reader.u16()?;
            if blob.pack() != kind {
                return Err(reader.damaged("its directory names a blob of another kind"));
            }
            if position as usize != next || (stored as usize) < OVERHEAD {
                return Err(reader.damaged("its directory has a gap"));
            }
            next = next.saturating_add(stored as usize);
            entries.push(PackEntry {
                kind: blob,
                id,
                position,
                stored,
                plain,
                codec,
                epoch,
            });
        }
        if next == start {
            Ok(entries)
        } else {
            Err(reader.damaged("its blobs do not fill it"))
        }
    }

    fn directory_key(&self, pack: &PackId) -> Key {
        Key(self.ring.meta_key.keyed(&[b"eyrie 1 pack", &pack.0]))
    }

    fn directory_aad(&self, kind: PackKind, pack: &PackId) -> Vec<u8> {
        let mut aad = b"eyrie 1 directory".to_vec();
        aad.extend_from_slice(&self.repository.0);
        aad.extend_from_slice(&pack.0);
        aad.push(kind as u8);
        aad
    }
}
