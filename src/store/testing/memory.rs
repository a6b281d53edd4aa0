//! A store in memory.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound;
use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use bytes::Bytes;
use futures::stream::{self, BoxStream, StreamExt};

use crate::base::env::lock;
use crate::store::{
    Capabilities, GetOptions, Key, ListOptions, Meta, Part, Parts, Put, PutMode, PutOptions, Store,
    Unfinished,
};
use crate::{Cause, Error, Result};

/// A store in memory. Clones share one content; [`fork`](MemoryStore::fork) copies it.
#[derive(Debug, Clone)]
pub struct MemoryStore {
    state: Arc<Mutex<State>>,
    versions: Versions,
    /// What is below this prefix is said to be archived.
    archive: Arc<Mutex<Option<String>>>,
}

/// Whether a [`MemoryStore`] keeps what was replaced or deleted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Versions {
    Kept,
    Forgotten,
}

#[derive(Debug, Clone, Default)]
struct State {
    objects: BTreeMap<Key, Vec<Version>>,
    /// Uploads that have parts and have not ended.
    uploads: BTreeSet<Unfinished>,
    writes: u64,
}

#[derive(Debug, Clone)]
struct Version {
    /// Counts the writes of the store; the identity, and where versions are kept their id.
    number: u64,
    /// The bytes; `None` for a delete marker.
    bytes: Option<Bytes>,
}

impl MemoryStore {
    /// An empty store without versions.
    #[must_use]
    pub fn new() -> Self {
        Self {
            state: Arc::default(),
            versions: Versions::Forgotten,
            archive: Arc::default(),
        }
    }

    /// An empty store that keeps versions, as a bucket with versioning does.
    #[must_use]
    pub fn versioned() -> Self {
        Self {
            state: Arc::default(),
            versions: Versions::Kept,
            archive: Arc::default(),
        }
    }

    /// A store with the same content now, independent from here on: what a crash at this instant
    /// would leave.
    #[must_use]
    pub fn fork(&self) -> Self {
        Self {
            state: Arc::new(Mutex::new(lock(&self.state).clone())),
            versions: self.versions,
            archive: Arc::default(),
        }
    }

    /// Says from now on that what is below `prefix` has to be brought back from an archive; of nothing when
    /// `None`.
    pub fn archive(&self, prefix: Option<&str>) {
        *lock(&self.archive) = prefix.map(ToOwned::to_owned);
    }

    fn version_id(&self, number: u64) -> Option<String> {
        (self.versions == Versions::Kept).then(|| number.to_string())
    }

    fn meta(&self, key: &Key, version: &Version) -> Option<Meta> {
        Some(Meta {
            key: key.clone(),
            size: version.bytes.as_ref()?.len() as u64,
            modified: None,
            version: self.version_id(version.number),
            identity: version.number.to_string(),
            archived: lock(&self.archive)
                .as_ref()
                .is_some_and(|prefix| key.as_str().starts_with(prefix)),
        })
    }

    fn write(&self, key: &Key, bytes: Bytes, mode: PutMode) -> Result<Put> {
        let mut state = lock(&self.state);
        state.writes += 1;
        let number = state.writes;
        let versions = state.objects.entry(key.clone()).or_default();
        let exists = versions.last().is_some_and(|last| last.bytes.is_some());
        if exists && mode == PutMode::Create {
            return Err(Error::new(
                Cause::AlreadyExists,
                format!("{key} exists already in memory"),
            ));
        }
        if self.versions == Versions::Forgotten {
            versions.clear();
        }
        let bytes = Some(bytes);
        versions.push(Version { number, bytes });
        Ok(Put {
            version: self.version_id(number),
        })
    }
}

impl Default for MemoryStore {
    fn default() -> Self {
        Self::new()
    }
}

fn not_found(key: &Key) -> Error {
    Error::new(Cause::NotFound, format!("{key} does not exist in memory"))
}

#[async_trait]
impl Store for MemoryStore {
    fn location(&self) -> String {
        "memory".to_owned()
    }

    fn capabilities(&self) -> Capabilities {
        Capabilities {
            conditional_create: true,
            versions: self.versions == Versions::Kept,
            any_part_size: true,
        }
    }

    async fn get(&self, key: &Key, options: GetOptions) -> Result<Bytes> {
        let state = lock(&self.state);
        let versions = state.objects.get(key).map_or(&[][..], Vec::as_slice);
        let wanted = options.version.filter(|_| self.versions == Versions::Kept);
        let version = match &wanted {
            None => versions.last(),
            Some(id) => versions
                .iter()
                .find(|version| version.number.to_string() == *id),
        };
        let bytes = version.and_then(|version| version.bytes.clone());
        let bytes = bytes.ok_or_else(|| not_found(key))?;
        let Some(range) = options.range else {
            return Ok(bytes);
        };
        let cut = |at: u64| usize::try_from(at).unwrap_or(usize::MAX).min(bytes.len());
        let (start, end) = (cut(range.start), cut(range.end));
        Ok(bytes.slice(start.min(end)..end))
    }

    async fn put(&self, key: &Key, bytes: Bytes, options: PutOptions) -> Result<Put> {
        self.write(key, bytes, options.mode)
    }

    async fn parts(&self, key: &Key, options: PutOptions) -> Result<Arc<dyn Parts>> {
        let id = {
            let mut state = lock(&self.state);
            state.writes += 1;
            state.writes.to_string()
        };
        Ok(Arc::new(MemoryParts {
            store: self.clone(),
            key: key.clone(),
            mode: options.mode,
            upload: Unfinished {
                key: Some(key.to_string()),
                id,
            },
            parts: Mutex::new(Some(BTreeMap::new())),
        }))
    }

    async fn head(&self, key: &Key) -> Result<Meta> {
        let state = lock(&self.state);
        let version = state.objects.get(key).and_then(|versions| versions.last());
        version
            .and_then(|version| self.meta(key, version))
            .ok_or_else(|| not_found(key))
    }

    fn list(&self, prefix: &str, options: ListOptions) -> BoxStream<'_, Result<Meta>> {
        let prefix = prefix.to_owned();
        stream::iter(std::iter::successors(
            self.next_after(&prefix, options.after.as_ref()),
            move |meta| self.next_after(&prefix, Some(&meta.key)),
        ))
        .map(move |mut meta| {
            meta.version.take_if(|_| !options.versions);
            Ok(meta)
        })
        .boxed()
    }

    async fn delete(&self, key: &Key, version: Option<&str>) -> Result<()> {
        let mut state = lock(&self.state);
        state.writes += 1;
        let number = state.writes;
        let Some(versions) = state.objects.get_mut(key) else {
            return Ok(());
        };
        match (self.versions, version) {
            (Versions::Forgotten, _) => versions.clear(),
            (Versions::Kept, None) => {
                let bytes = None;
                versions.push(Version { number, bytes });
            }
            (Versions::Kept, Some(id)) => {
                versions.retain(|version| version.number.to_string() != id);
            }
        }
        if versions.is_empty() {
            state.objects.remove(key);
        }
        Ok(())
    }

    async fn sync(&self) -> Result<()> {
        Ok(())
    }

    fn unfinished(&self) -> Vec<Unfinished> {
        lock(&self.state).uploads.iter().cloned().collect()
    }

    async fn remove_unfinished(&self, left: &Unfinished) -> Result<()> {
        lock(&self.state).uploads.remove(left);
        Ok(())
    }
}

impl MemoryStore {
    fn next_after(&self, prefix: &str, after: Option<&Key>) -> Option<Meta> {
        let from = match after {
            Some(after) if after.as_str() >= prefix => Bound::Excluded(after.clone()),
            _ => Bound::Included(Key(prefix.to_owned())),
        };
        let state = lock(&self.state);
        state
            .objects
            .range((from, Bound::Unbounded))
            .take_while(|(key, _)| key.as_str().starts_with(prefix))
            .find_map(|(key, versions)| self.meta(key, versions.last()?))
    }
}

#[derive(Debug)]
struct MemoryParts {
    store: MemoryStore,
    key: Key,
    mode: PutMode,
    /// What the store knows it by once it has parts.
    upload: Unfinished,
    /// Parts by number; `None` when finished or aborted.
    parts: Mutex<Option<BTreeMap<u32, Part>>>,
}

impl MemoryParts {
    fn gone(&self) -> Error {
        Error::new(
            Cause::NotFound,
            format!("the upload of {} has ended", self.key),
        )
    }
}

#[async_trait]
impl Parts for MemoryParts {
    async fn part(&self, part: Part) -> Result<()> {
        let mut parts = lock(&self.parts);
        let parts = parts.as_mut().ok_or_else(|| self.gone())?;
        if parts.is_empty() {
            let upload = self.upload.clone();
            lock(&self.store.state).uploads.insert(upload);
        }
        parts.insert(part.number, part);
        Ok(())
    }

    async fn finish(&self, last: Part) -> Result<Put> {
        let mut parts = lock(&self.parts);
        let all = parts.as_mut().ok_or_else(|| self.gone())?;
        if !all.is_empty() && !lock(&self.store.state).uploads.contains(&self.upload) {
            return Err(self.gone());
        }
        all.insert(last.number, last);
        let mut bytes = Vec::new();
        for (expected, (number, part)) in (1..).zip(all.iter()) {
            if *number != expected || part.offset != bytes.len() as u64 {
                return Err(Error::new(
                    Cause::Failed,
                    format!("part {expected} of {} is missing", self.key),
                ));
            }
            bytes.extend_from_slice(&part.bytes);
        }
        let put = self.store.write(&self.key, bytes.into(), self.mode)?;
        *parts = None;
        lock(&self.store.state).uploads.remove(&self.upload);
        Ok(put)
    }

    async fn abort(&self) -> Result<()> {
        *lock(&self.parts) = None;
        lock(&self.store.state).uploads.remove(&self.upload);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::testing::conformance;

    #[tokio::test]
    async fn conforms() {
        conformance::run(&MemoryStore::new()).await.unwrap();
    }

    #[tokio::test]
    async fn conforms_with_versions() {
        conformance::run(&MemoryStore::versioned()).await.unwrap();
    }

    #[tokio::test]
    async fn a_fork_does_not_see_later_writes() {
        let store = MemoryStore::new();
        let key = Key::new("a").unwrap();
        let write = |bytes| store.put(&key, bytes, PutOptions::default());
        write(Bytes::from_static(b"old")).await.unwrap();
        let fork = store.fork();
        write(Bytes::from_static(b"new")).await.unwrap();
        let read = fork.get(&key, GetOptions::default()).await.unwrap();
        assert_eq!(read, "old");
    }
}
