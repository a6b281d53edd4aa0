//! Keys, key derivation and AES-256-GCM sealing (sections 1 and 4 of the format).

use std::fmt;

use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use zeroize::Zeroize;

use crate::base::env::fill_secret;
use crate::{Cause, Error, Result, Side};

/// Length of a GCM nonce, in bytes.
pub(crate) const NONCE: usize = NONCE_LEN;
/// Length of a GCM tag, in bytes.
pub(crate) const TAG: usize = 16;

/// A 256-bit key; never shown, wiped when dropped.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Key(pub(crate) [u8; 32]);

impl Drop for Key {
    fn drop(&mut self) {
        self.0.zeroize();
    }
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Key(..)")
    }
}

impl Key {
    /// A new key from the system's generator.
    pub(crate) fn generate() -> Self {
        let mut key = Self([0; 32]);
        fill_secret(&mut key.0);
        key
    }

    /// `derive(context, self)`.
    pub(crate) fn derive(&self, context: &str) -> Self {
        Self(blake3::derive_key(context, &self.0))
    }

    /// `BLAKE3k(self, parts[0] ‖ parts[1] ‖ …)`.
    pub(crate) fn keyed(&self, parts: &[&[u8]]) -> [u8; 32] {
        let mut hasher = blake3::Hasher::new_keyed(&self.0);
        for part in parts {
            hasher.update(part);
        }
        hasher.finalize().into()
    }

    /// `seal(self, aad, plain)`: nonce, ciphertext, tag.
    pub(crate) fn seal(&self, aad: &[u8], plain: &[u8]) -> Result<Vec<u8>> {
        let nonce = new_nonce();
        let mut out = Vec::with_capacity(NONCE + plain.len() + TAG);
        out.extend_from_slice(&nonce);
        out.extend_from_slice(plain);
        let tag = self.seal_in_place(nonce, aad, &mut out[NONCE..])?;
        out.extend_from_slice(&tag);
        Ok(out)
    }

    /// Opens what [`seal`](Self::seal) made; `None` when it is not authentic.
    pub(crate) fn open(&self, aad: &[u8], sealed: &[u8]) -> Option<Vec<u8>> {
        let (nonce, rest) = sealed.split_first_chunk::<NONCE>()?;
        let (cipher, tag) = rest.split_at_checked(rest.len().checked_sub(TAG)?)?;
        let mut plain = vec![0; cipher.len()];
        self.cipher()
            .ok()?
            .open_separate_gather(
                Nonce::assume_unique_for_key(*nonce),
                Aad::from(aad),
                cipher,
                tag,
                &mut plain,
            )
            .ok()?;
        Some(plain)
    }

    /// Encrypts `data` where it is and returns the tag.
    pub(crate) fn seal_in_place(
        &self,
        nonce: [u8; NONCE],
        aad: &[u8],
        data: &mut [u8],
    ) -> Result<[u8; TAG]> {
        let mut tag = [0; TAG];
        self.cipher()?
            .seal_in_place_scatter(
                Nonce::assume_unique_for_key(nonce),
                Aad::from(aad),
                data,
                &[],
                &mut tag,
            )
            .map_err(|_| cipher_failed())?;
        Ok(tag)
    }

    /// Encrypts `plain` into `out`, of the same length, and writes the tag.
    pub(crate) fn seal_to(
        &self,
        nonce: [u8; NONCE],
        aad: &[u8],
        plain: &[u8],
        out: &mut [u8],
        tag: &mut [u8],
    ) -> Result<()> {
        self.cipher()?
            .seal_out_of_place_scatter(
                Nonce::assume_unique_for_key(nonce),
                Aad::from(aad),
                plain,
                out,
                &[],
                tag,
            )
            .map_err(|_| cipher_failed())
    }

    /// Decrypts `data` (ciphertext and tag) where it is; `None` when it is not authentic.
    pub(crate) fn open_in_place<'a>(
        &self,
        nonce: [u8; NONCE],
        aad: &[u8],
        data: &'a mut [u8],
    ) -> Option<&'a mut [u8]> {
        self.cipher()
            .ok()?
            .open_in_place(Nonce::assume_unique_for_key(nonce), Aad::from(aad), data)
            .ok()
    }

    fn cipher(&self) -> Result<LessSafeKey> {
        UnboundKey::new(&AES_256_GCM, &self.0)
            .map(LessSafeKey::new)
            .map_err(|_| cipher_failed())
    }
}

/// A fresh nonce from the system's generator.
pub(crate) fn new_nonce() -> [u8; NONCE] {
    let mut nonce = [0; NONCE];
    fill_secret(&mut nonce);
    nonce
}

fn cipher_failed() -> Error {
    Side::Repository.error(Cause::Failed, "AES-256-GCM refused the data")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sealed_bytes_open_under_the_same_key_and_data_only() {
        let key = Key::generate();
        let sealed = key.seal(b"aad", b"plain").unwrap();
        assert_eq!(key.open(b"aad", &sealed).unwrap(), b"plain");
        assert!(key.open(b"other", &sealed).is_none());
        assert!(Key::generate().open(b"aad", &sealed).is_none());
        assert!(key.open(b"aad", &sealed[..10]).is_none());
        for at in 0..sealed.len() {
            let mut bad = sealed.clone();
            bad[at] ^= 1;
            assert!(key.open(b"aad", &bad).is_none(), "byte {at}");
        }
    }

    #[test]
    fn keys_do_not_show() {
        assert_eq!(format!("{:?}", Key([7; 32])), "Key(..)");
    }
}
