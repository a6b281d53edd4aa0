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

type Digest = [u8; 16];

/// A digest of what the store says of an object: equal digests mean equal bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Identity(Digest);

impl Identity {
    /// The identity of a listed object.
    #[must_use]
    pub fn of(meta: &Meta) -> Self {
        Self(short_hash(&meta.identity))
    }

    /// As it is stored.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// Reads what [`as_bytes`](Self::as_bytes) gave; `None` for anything else.
    #[must_use]
    pub fn from_bytes(bytes: &[u8]) -> Option<Self> {
        Some(Self(bytes.try_into().ok()?))
    }

    /// As lower-case hexadecimal digits.
    #[must_use]
    pub fn to_hex(self) -> String {
        hex::encode(self.0)
    }
}

/// What a store says of an object.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Found {
    /// Equal ones mean equal bytes.
    pub identity: Identity,
    /// Its size, in bytes.
    pub size: u64,
    /// Its version id, where the store told one.
    pub version: Option<String>,
}

impl Found {
    /// What of an answer matters here.
    #[must_use]
    pub fn of(meta: Meta) -> Self {
        Self {
            identity: Identity::of(&meta),
            size: meta.size,
            version: meta.version,
        }
    }
}

/// What listings said, by a digest of each object's path: 40 bytes an object, and about 80 more where
/// version ids were asked for and told.
#[derive(Debug, Default)]
pub struct Listed {
    objects: Vec<(Digest, Identity, u64)>,
    versions: Vec<(Digest, Box<str>)>,
}

impl Listed {
    /// Lists everything below `prefixes`, each of which ends with `/` or is empty; with `versions` version ids too.
    ///
    /// # Errors
    ///
    /// What the store fails with.
    pub async fn read(
        store: &dyn Store,
        prefixes: BTreeSet<String>,
        versions: bool,
    ) -> Result<Self> {
        let options = ListOptions {
            versions,
            ..ListOptions::default()
        };
        let mut listings = stream::iter(prefixes)
            .map(|prefix| store.list(&prefix, options.clone()))
            .flatten_unordered(LISTINGS);
        let mut found = Self::default();
        while let Some(meta) = listings.try_next().await? {
            let path = short_hash(meta.key.as_str());
            found.objects.push((path, Identity::of(&meta), meta.size));
            if let Some(version) = meta.version {
                found.versions.push((path, version.into()));
            }
        }
        found.objects.sort_unstable_by_key(|(path, ..)| *path);
        found.objects.shrink_to_fit();
        found.versions.sort_unstable_by_key(|(path, _)| *path);
        found.versions.shrink_to_fit();
        Ok(found)
    }

    /// Lists a whole store, without version ids.
    ///
    /// # Errors
    ///
    /// What the store fails with.
    pub async fn all(store: &dyn Store) -> Result<Self> {
        Self::read(store, [String::new()].into(), false).await
    }

    /// The object at `path`; `None` when no listing showed it.
    #[must_use]
    pub fn get(&self, path: &str) -> Option<Found> {
        let path = short_hash(path);
        let at = self
            .objects
            .binary_search_by_key(&path, |(path, ..)| *path)
            .ok()?;
        let (_, identity, size) = self.objects[at];
        let version = self.versions.binary_search_by_key(&path, |(path, _)| *path);
        Some(Found {
            identity,
            size,
            version: version.ok().map(|at| self.versions[at].1.to_string()),
        })
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
    /// The version to read; the current one when `None`.
    pub version: Option<String>,
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
            version: self.version.clone(),
        };
        self.store.get(&self.key, options).await
    }
}

/// The first half of a text's BLAKE3: enough to tell 10^9 paths apart.
pub(crate) fn short_hash(text: &str) -> Digest {
    let mut short = [0; 16];
    short.copy_from_slice(&blake3::hash(text.as_bytes()).as_bytes()[..16]);
    short
}
