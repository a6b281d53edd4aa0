//! Blobs: pieces as they are stored, compressed where it pays and sealed (section 6).

use std::cell::RefCell;

use bytes::{Bytes, BytesMut};
use zstd::bulk::{Compressor, Decompressor};

use super::crypto::{Key, NONCE, TAG, new_nonce};
use super::hash::{PIECE_MAX, piece_hashes, piece_possible};
use super::ids::{BlobId, Cv};
use super::sealer::Sealer;
use super::wire::{Reader, damaged, to_u32};
use crate::{Cause, Error, Result, Side};

/// Length of a blob's header, in bytes.
pub(crate) const HEADER: usize = 76;
/// What a stored blob has over its content, in bytes.
pub(crate) const OVERHEAD: usize = HEADER + TAG;

const MAGIC: &[u8; 4] = b"EYB1";

/// What a blob holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum BlobKind {
    /// A piece of an object.
    Data = 1,
    /// A node of a tree.
    Tree = 2,
    /// The values of a leaf, which stand apart from its keys as they are secret.
    Values = 3,
}

impl BlobKind {
    pub(crate) fn read(reader: &mut Reader<'_>) -> Result<Self> {
        match reader.u8()? {
            1 => Ok(Self::Data),
            2 => Ok(Self::Tree),
            3 => Ok(Self::Values),
            _ => Err(reader.damaged("its kind is unknown")),
        }
    }

    /// The packs that hold such blobs: what is needed to list a snapshot lies in `tree/`.
    pub(crate) const fn pack(self) -> PackKind {
        match self {
            Self::Data => PackKind::Data,
            Self::Tree | Self::Values => PackKind::Tree,
        }
    }

    /// For messages.
    pub(crate) fn word(self) -> &'static str {
        match self {
            Self::Data => "data",
            Self::Tree => "tree",
            Self::Values => "values",
        }
    }
}

/// What a pack holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum PackKind {
    Data = 1,
    Tree = 2,
}

impl PackKind {
    pub(crate) fn read(reader: &mut Reader<'_>) -> Result<Self> {
        match reader.u8()? {
            1 => Ok(Self::Data),
            2 => Ok(Self::Tree),
            _ => Err(reader.damaged("its kind is unknown")),
        }
    }
}

/// How a blob's bytes are encoded before they are sealed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Codec {
    Raw = 0,
    Zstd = 1,
}

impl Codec {
    pub(crate) fn read(reader: &mut Reader<'_>) -> Result<Self> {
        match reader.u8()? {
            0 => Ok(Self::Raw),
            1 => Ok(Self::Zstd),
            _ => Err(reader.damaged("its codec is unknown")),
        }
    }
}

/// Whether a writer compresses.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Compression {
    /// zstd level 1, blob by blob, where a sample shrinks to 97 % or less.
    #[default]
    Auto,
    /// Store everything as it is.
    Off,
}

/// A blob ready to be appended to a pack.
#[derive(Debug)]
pub(crate) struct SealedBlob {
    pub(crate) kind: BlobKind,
    pub(crate) id: BlobId,
    pub(crate) plain: u32,
    pub(crate) codec: Codec,
    pub(crate) epoch: u16,
    pub(crate) bytes: Bytes,
}

/// A blob's header.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Header {
    pub(crate) kind: BlobKind,
    pub(crate) codec: Codec,
    pub(crate) epoch: u16,
    pub(crate) offset: u64,
    pub(crate) plain: u32,
    pub(crate) stored: u32,
    pub(crate) id: BlobId,
    nonce: [u8; NONCE],
}

impl Header {
    /// Reads the header at the start of `bytes`; the stored length is within bounds afterwards.
    pub(crate) fn read(bytes: &[u8]) -> Result<Self> {
        let mut reader = Reader::new(bytes, "a blob's header");
        reader.expect(MAGIC, "mark")?;
        let header = Self {
            kind: BlobKind::read(&mut reader)?,
            codec: Codec::read(&mut reader)?,
            epoch: reader.u16()?,
            offset: reader.u64()?,
            plain: reader.u32()?,
            stored: reader.u32()?,
            id: BlobId(reader.array()?),
            nonce: reader.array()?,
        };
        reader.expect(&[0; 8], "reserved part")?;
        let fits = (OVERHEAD..=bytes.len()).contains(&(header.stored as usize));
        if fits && header.plain <= PIECE_MAX {
            Ok(header)
        } else {
            Err(reader.damaged("its length does not fit"))
        }
    }

    fn write(&self, out: &mut [u8]) {
        let fields: [&[u8]; 8] = [
            MAGIC,
            &[self.kind as u8, self.codec as u8],
            &self.epoch.to_le_bytes(),
            &self.offset.to_le_bytes(),
            &self.plain.to_le_bytes(),
            &self.stored.to_le_bytes(),
            &self.id.0,
            &self.nonce,
        ];
        let mut at = 0;
        for field in fields {
            out[at..at + field.len()].copy_from_slice(field);
            at += field.len();
        }
    }

    fn associated(&self, sealer: &Sealer) -> [u8; 92] {
        let mut out = [0; 92];
        let fields: [&[u8]; 7] = [
            b"eyrie 1 blob",
            &sealer.repository.0,
            &[self.kind as u8, self.codec as u8],
            &self.epoch.to_le_bytes(),
            &self.offset.to_le_bytes(),
            &self.plain.to_le_bytes(),
            &self.id.0,
        ];
        let mut at = 0;
        for field in fields {
            out[at..at + field.len()].copy_from_slice(field);
            at += field.len();
        }
        out
    }
}

impl Sealer {
    /// The id of the blob with this content.
    pub(crate) fn blob_id(&self, kind: BlobKind, cv: &Cv, offset: u64, length: u32) -> BlobId {
        BlobId(self.ring.id_key.keyed(&[
            b"eyrie 1 blob",
            &[kind as u8],
            &cv.0,
            &offset.to_le_bytes(),
            &length.to_le_bytes(),
        ]))
    }

    /// Compresses `plain` where it pays and seals it.
    pub(crate) fn seal_blob(
        &self,
        kind: BlobKind,
        id: BlobId,
        offset: u64,
        plain: &[u8],
        compression: Compression,
    ) -> Result<SealedBlob> {
        let (epoch, key) = match kind {
            BlobKind::Data | BlobKind::Values => self.current()?,
            BlobKind::Tree => (0, &self.ring.meta_key),
        };
        let key = blob_key(key, &id);
        let nonce = new_nonce();
        let length = to_u32(plain.len(), "a blob's length")?;
        if length > PIECE_MAX {
            let message = format!("a blob of {length} bytes is above {PIECE_MAX}");
            return Err(Side::Repository.error(Cause::Failed, message));
        }
        let mut header = Header {
            kind,
            codec: Codec::Raw,
            epoch,
            offset,
            plain: length,
            stored: 0,
            id,
            nonce,
        };
        let mut out = if let Some(mut out) = compressed(plain, compression)? {
            header.codec = Codec::Zstd;
            let tag = key.seal_in_place(nonce, &header.associated(self), &mut out[HEADER..])?;
            out.extend_from_slice(&tag);
            out
        } else {
            let mut out = vec![0; plain.len() + OVERHEAD];
            let (body, tag) = out[HEADER..].split_at_mut(plain.len());
            key.seal_to(nonce, &header.associated(self), plain, body, tag)?;
            out
        };
        header.stored = to_u32(out.len(), "a blob's stored length")?;
        header.write(&mut out[..HEADER]);
        Ok(SealedBlob {
            kind,
            id,
            plain: length,
            codec: header.codec,
            epoch,
            bytes: out.into(),
        })
    }

    /// Opens the stored blob that fills `stored`, expands it and checks it against its id.
    ///
    /// # Errors
    ///
    /// [`Cause::Damage`] that says what is wrong with it.
    pub(crate) fn open_blob(&self, stored: BytesMut) -> Result<(Header, Bytes)> {
        let header = Header::read(&stored)?;
        let bad = |why: &str| damaged(format!("blob {} is damaged: {why}", header.id));
        if header.stored as usize != stored.len() {
            return Err(bad("its length is wrong"));
        }
        let mut keys = match (header.kind, header.epoch) {
            (BlobKind::Data | BlobKind::Values, epoch) => self.data_keys(epoch)?,
            (BlobKind::Tree, 0) => vec![&self.ring.meta_key],
            (BlobKind::Tree, _) => return Err(bad("its epoch is wrong")),
        };
        let mut body = stored;
        let _ = body.split_to(HEADER);
        let open = |key: &Key, body: &mut [u8]| {
            let key = blob_key(key, &header.id);
            let opened = key.open_in_place(header.nonce, &header.associated(self), body);
            opened.is_some()
        };
        let last = keys.pop().ok_or_else(|| bad("its epoch has no key"))?;
        // A failed attempt leaves nothing usable behind, so all but the last work on a copy.
        let opened = keys.into_iter().find_map(|key| {
            let mut copy = body.clone();
            open(key, &mut copy).then_some(copy)
        });
        let mut body = match opened {
            Some(opened) => opened,
            None if open(last, &mut body) => body,
            None => return Err(bad("it is not authentic")),
        };
        body.truncate(body.len() - TAG);
        let length = header.plain as usize;
        let plain = match header.codec {
            Codec::Raw => body.freeze(),
            Codec::Zstd => expand(&body, length)
                .map_err(|error| bad("it does not expand").with_source(error))?,
        };
        if plain.len() != length || !piece_possible(header.offset, u64::from(header.plain)) {
            return Err(bad("its content has the wrong length"));
        }
        let (cv, _) = piece_hashes(&plain, header.offset);
        if self.blob_id(header.kind, &cv, header.offset, header.plain) != header.id {
            return Err(bad("its content has another hash"));
        }
        Ok((header, plain))
    }
}

fn blob_key(key: &Key, id: &BlobId) -> Key {
    Key(key.keyed(&[b"eyrie 1 blob key", &id.0]))
}

/// The level that pays on vectors: higher ones gain nothing and cost ten times as much.
const LEVEL: i32 = 1;
/// How much of a piece is tried before all of it is compressed, in bytes.
const SAMPLE: usize = 128 << 10;
/// A sample is this many slices, evenly spread.
const SLICES: usize = 4;

thread_local! {
    static COMPRESSOR: RefCell<Option<Compressor<'static>>> = const { RefCell::new(None) };
    static DECOMPRESSOR: RefCell<Option<Decompressor<'static>>> = const { RefCell::new(None) };
}

/// `HEADER` bytes of room and then the zstd frame of `plain`, with room for the tag; `None` where
/// compression does not pay.
fn compressed(plain: &[u8], compression: Compression) -> Result<Option<Vec<u8>>> {
    if compression == Compression::Off || plain.len() < 64 || !sample_pays(plain)? {
        return Ok(None);
    }
    let bound = zstd::zstd_safe::compress_bound(plain.len());
    let mut out = vec![0; HEADER + bound + TAG];
    let length = compress(plain, &mut out[HEADER..HEADER + bound])?;
    if !pays(length, plain.len()) {
        return Ok(None);
    }
    out.truncate(HEADER + length);
    if out.capacity() > 2 * out.len() {
        out.shrink_to(out.len() + TAG);
    }
    Ok(Some(out))
}

/// At most 97 %: what saves less costs more time at every read than it saves space.
fn pays(compressed: usize, plain: usize) -> bool {
    compressed.saturating_mul(100) <= plain.saturating_mul(97)
}

fn sample_pays(plain: &[u8]) -> Result<bool> {
    if plain.len() <= 2 * SAMPLE {
        return Ok(true);
    }
    let slice = SAMPLE / SLICES;
    let step = (plain.len() - slice) / (SLICES - 1);
    let sample: Vec<u8> = (0..SLICES)
        .flat_map(|n| &plain[n * step..n * step + slice])
        .copied()
        .collect();
    let mut out = vec![0; zstd::zstd_safe::compress_bound(SAMPLE)];
    Ok(pays(compress(&sample, &mut out)?, SAMPLE))
}

fn compress(plain: &[u8], out: &mut [u8]) -> Result<usize> {
    COMPRESSOR.with_borrow_mut(|slot| {
        let compressor = match slot {
            Some(compressor) => compressor,
            None => slot.insert(Compressor::new(LEVEL)?),
        };
        Ok(compressor.compress_to_buffer(plain, out)?)
    })
}

/// Expands one zstd frame that must hold exactly `length` bytes.
pub(crate) fn expand(frame: &[u8], length: usize) -> Result<Bytes> {
    let plain = DECOMPRESSOR.with_borrow_mut(|slot| {
        let decompressor = match slot {
            Some(decompressor) => decompressor,
            None => slot.insert(Decompressor::new()?),
        };
        decompressor.decompress(frame, length)
    });
    Ok(plain.map_err(Error::from)?.into())
}

/// `Bytes` as something that can be decrypted in place, without a copy where nobody shares it.
pub(crate) fn into_mut(bytes: Bytes) -> BytesMut {
    bytes
        .try_into_mut()
        .unwrap_or_else(|shared| BytesMut::from(&shared[..]))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::repo::format::ids::RepositoryId;
    use crate::repo::format::sealer::Keyring;
    use jiff::Timestamp;
    use proptest::prelude::*;

    fn sealer() -> Sealer {
        Sealer {
            repository: RepositoryId([9; 32]),
            ring: Keyring::generate(Timestamp::UNIX_EPOCH),
        }
    }

    fn seal(sealer: &Sealer, kind: BlobKind, plain: &[u8], offset: u64) -> SealedBlob {
        let (cv, _) = piece_hashes(plain, offset);
        let length = u32::try_from(plain.len()).unwrap();
        let id = sealer.blob_id(kind, &cv, offset, length);
        sealer
            .seal_blob(kind, id, offset, plain, Compression::Auto)
            .unwrap()
    }

    proptest! {
        #[test]
        fn what_is_sealed_opens(plain in proptest::collection::vec(any::<u8>(), 1..3000), far: bool) {
            let sealer = sealer();
            let offset = if far { 1 << 20 } else { 0 };
            for kind in [BlobKind::Data, BlobKind::Tree, BlobKind::Values] {
                let blob = seal(&sealer, kind, &plain, offset);
                let (header, opened) = sealer.open_blob(into_mut(blob.bytes)).unwrap();
                prop_assert_eq!(&opened[..], &plain[..]);
                prop_assert_eq!((header.id, header.offset, header.kind), (blob.id, offset, kind));
            }
        }

        #[test]
        fn reading_a_header_from_noise_never_panics(noise: Vec<u8>) {
            let mut framed = MAGIC.to_vec();
            framed.extend([1, 0]);
            framed.extend(&noise);
            let _ = (Header::read(&noise), Header::read(&framed));
            let _ = sealer().open_blob(BytesMut::from(&framed[..]));
        }
    }

    #[test]
    fn every_flipped_bit_is_found() {
        let sealer = sealer();
        for plain in [&b"short"[..], &[b'a'; 500]] {
            let blob = seal(&sealer, BlobKind::Data, plain, 0);
            for bit in 0..blob.bytes.len() * 8 {
                let mut bad = BytesMut::from(&blob.bytes[..]);
                bad[bit / 8] ^= 1 << (bit % 8);
                let error = sealer.open_blob(bad).unwrap_err();
                assert_eq!(error.cause(), Cause::Damage, "bit {bit}");
            }
        }
    }

    #[test]
    fn a_blob_of_another_repository_or_under_another_name_does_not_open() {
        let sealer = sealer();
        let blob = seal(&sealer, BlobKind::Data, b"content", 0);
        let ring = Keyring {
            id_key: sealer.ring.id_key.clone(),
            meta_key: sealer.ring.meta_key.clone(),
            data: vec![],
        };
        let other = Sealer {
            repository: RepositoryId([8; 32]),
            ring,
        };
        assert!(other.open_blob(into_mut(blob.bytes.clone())).is_err());

        let lie = sealer
            .seal_blob(BlobKind::Data, blob.id, 0, b"lies!!!", Compression::Off)
            .unwrap();
        let error = sealer.open_blob(into_mut(lie.bytes)).unwrap_err();
        assert!(
            error.to_string().ends_with("its content has another hash"),
            "{error}"
        );
    }

    #[test]
    fn only_what_shrinks_is_compressed() {
        let sealer = sealer();
        let mut noise = vec![0; 1 << 20];
        blake3::Hasher::new().finalize_xof().fill(&mut noise);
        let raw = seal(&sealer, BlobKind::Data, &noise, 0);
        assert_eq!(
            (raw.codec, raw.bytes.len()),
            (Codec::Raw, noise.len() + OVERHEAD)
        );
        let text = b"the same words again and again ".repeat(30_000);
        let small = seal(&sealer, BlobKind::Data, &text, 0);
        assert!(small.codec == Codec::Zstd && small.bytes.len() < text.len() / 10);
        assert_eq!(sealer.open_blob(into_mut(small.bytes)).unwrap().1, text);
    }
}
