//! What listings of an object layer say, and one object as a capture reads it.

use std::collections::BTreeSet;

use async_trait::async_trait;
use bytes::Bytes;
use futures::{StreamExt, TryStreamExt, stream};

use crate::Result;
use crate::repo::ObjectSource;
use crate::store::{GetOptions, Key, ListOptions, Meta, SharedStore, Store};

/// Listings under way at once; S3 answers 5,500 GET and LIST a second for each prefix, a disk
/// fewer.
const LISTINGS: usize = 8;

/// A digest of what the store says of an object: equal digests mean equal bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Identity([u8; 16]);

impl Identity {
    /// The identity of a listed object.
    #[must_use]
    pub fn of(meta: &Meta) -> Self {
        Self(digest(&meta.identity))
    }

    /// As lower-case hexadecimal digits.
    #[must_use]
    pub fn to_hex(self) -> String {
        hex::encode(self.0)
    }
}

/// What listings said: each object's identity and size by a digest of its path, 40 bytes an object.
#[derive(Debug, Default)]
pub struct Listed(Vec<([u8; 16], Identity, u64)>);

impl Listed {
    /// Lists everything below `prefixes`; each ends with `/`.
    pub async fn read(store: &dyn Store, prefixes: BTreeSet<String>) -> Result<Self> {
        let mut listings = stream::iter(prefixes)
            .map(|prefix| store.list(&prefix, ListOptions::default()))
            .flatten_unordered(LISTINGS);
        let mut found = Vec::new();
        while let Some(meta) = listings.try_next().await? {
            found.push((digest(meta.key.as_str()), Identity::of(&meta), meta.size));
        }
        found.sort_unstable_by_key(|(path, ..)| *path);
        found.shrink_to_fit();
        Ok(Self(found))
    }

    /// Identity and size of the object at `path`; `None` when no listing showed it.
    #[must_use]
    pub fn get(&self, path: &str) -> Option<(Identity, u64)> {
        let path = digest(path);
        let at = self
            .0
            .binary_search_by_key(&path, |(path, ..)| *path)
            .ok()?;
        let (_, identity, size) = self.0[at];
        Some((identity, size))
    }
}

/// An object of the object layer, or of a queue in files.
#[derive(Debug)]
pub struct LayerObject {
    /// The store that it is in.
    pub store: SharedStore,
    /// Its key there.
    pub key: Key,
    /// Its size, in bytes.
    pub size: u64,
}

#[async_trait]
impl ObjectSource for LayerObject {
    fn name(&self) -> String {
        self.key.to_string()
    }

    fn size(&self) -> u64 {
        self.size
    }

    async fn piece(&self, offset: u64, len: usize) -> Result<Bytes> {
        let range = Some(offset..offset + len as u64);
        let options = GetOptions {
            range,
            version: None,
        };
        self.store.get(&self.key, options).await
    }
}

fn digest(text: &str) -> [u8; 16] {
    let mut short = [0; 16];
    short.copy_from_slice(&blake3::hash(text.as_bytes()).as_bytes()[..16]);
    short
}
