//! Sealed files: manifests, leases and the like (section 5).

use bytes::Bytes;
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::blob::expand;
use super::crypto::Key;
use super::sealer::Sealer;
use super::wire::{Reader, damaged};
use crate::{Cause, Result, Side};

/// What a sealed file is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum FileKind {
    Index = 1,
    Manifest = 2,
    Checkpoint = 3,
    Lease = 4,
    Mark = 5,
    Verification = 6,
    Forgotten = 7,
    Amendment = 8,
    Claim = 9,
}

const MAGIC: &[u8; 6] = b"EYRIE1";
/// Length of a sealed file's header, in bytes.
pub(crate) const FILE_HEADER: usize = 8;
/// A body of this size or more is compressed.
const COMPRESS_FROM: usize = 1 << 10;
/// A body expands to at most this many bytes.
const BODY_MAX: u64 = 1 << 30;

/// The header of a sealed file.
pub(crate) fn file_header(kind: FileKind, codec: u8) -> [u8; FILE_HEADER] {
    let mut out = [0; FILE_HEADER];
    out[..6].copy_from_slice(MAGIC);
    out[6] = kind as u8;
    out[7] = codec;
    out
}

impl Sealer {
    /// The key of the sealed file at path `name`.
    pub(crate) fn file_key(&self, name: &str) -> Key {
        Key(self
            .ring
            .meta_key
            .keyed(&[b"eyrie 1 file", name.as_bytes()]))
    }

    /// The associated data of the sealed file at path `name`, before what its kind appends.
    pub(crate) fn file_aad(&self, header: &[u8], name: &str) -> Vec<u8> {
        [header, &self.repository.0, name.as_bytes()].concat()
    }

    /// The bytes of the file at path `name` that holds `body` as JSON.
    pub(crate) fn seal_json(
        &self,
        kind: FileKind,
        name: &str,
        body: &impl Serialize,
    ) -> Result<Bytes> {
        let json = serde_json::to_vec(body).map_err(|error| {
            Side::Repository
                .error(Cause::Failed, format!("{name} cannot be written as JSON"))
                .with_source(error)
        })?;
        let (codec, body) = if json.len() < COMPRESS_FROM {
            (0, json)
        } else {
            (1, zstd::bulk::compress(&json, 3)?)
        };
        let mut out = file_header(kind, codec).to_vec();
        out.extend(
            self.file_key(name)
                .seal(&self.file_aad(&out, name), &body)?,
        );
        Ok(out.into())
    }

    /// Opens the bytes of the file at path `name`.
    ///
    /// # Errors
    ///
    /// [`Cause::Damage`] that names the file.
    pub(crate) fn open_json<T: DeserializeOwned>(
        &self,
        kind: FileKind,
        name: &str,
        bytes: &[u8],
    ) -> Result<T> {
        let body = self.open_body(kind as u8, name, bytes)?;
        serde_json::from_slice(&body)
            .map_err(|error| damaged(format!("{name} is damaged: {error}")))
    }

    /// Opens the body of the file at path `name`, whose kind byte must be `kind`.
    pub(crate) fn open_body(&self, kind: u8, name: &str, bytes: &[u8]) -> Result<Bytes> {
        let mut reader = Reader::new(bytes, name);
        reader.expect(MAGIC, "mark")?;
        if reader.u8()? != kind {
            return Err(reader.damaged("it is of another kind"));
        }
        let codec = reader.u8()?;
        let (header, sealed) = bytes.split_at(FILE_HEADER);
        let body = self
            .file_key(name)
            .open(&self.file_aad(header, name), sealed)
            .ok_or_else(|| reader.damaged("it is not authentic"))?;
        match codec {
            0 => Ok(body.into()),
            1 => {
                let size = zstd::zstd_safe::get_frame_content_size(&body)
                    .ok()
                    .flatten();
                let size = size.filter(|size| *size <= BODY_MAX).map(usize::try_from);
                let Some(Ok(size)) = size else {
                    return Err(reader.damaged("its content has no possible size"));
                };
                expand(&body, size).map_err(|_| reader.damaged("it does not expand"))
            }
            _ => Err(reader.damaged("its codec is unknown")),
        }
    }
}
