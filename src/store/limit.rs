//! Traffic with a store within the limits of the process: bytes a second, and bytes on their way.

use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use futures::stream::BoxStream;

use super::{
    Capabilities, GetOptions, Key, ListOptions, Meta, Part, Parts, Put, PutOptions, SharedStore,
    Store, Unfinished,
};
use crate::Result;
use crate::base::resources::{MemoryPermit, Resources};

/// A store whose traffic is limited. Listings, which are small and may stay open, are not.
#[derive(Debug, Clone)]
struct LimitStore {
    inner: SharedStore,
    resources: Resources,
}

impl LimitStore {
    fn new(inner: SharedStore, resources: &Resources) -> Self {
        let resources = resources.clone();
        Self { inner, resources }
    }
}

/// `store` within the limits of `resources`.
#[must_use]
pub fn limited(store: SharedStore, resources: &Resources) -> SharedStore {
    Arc::new(LimitStore::new(store, resources))
}

#[async_trait]
impl Store for LimitStore {
    fn location(&self) -> String {
        self.inner.location()
    }

    fn capabilities(&self) -> Capabilities {
        self.inner.capabilities()
    }

    fn unverified_bytes(&self) -> u64 {
        self.inner.unverified_bytes()
    }

    async fn get(&self, key: &Key, options: GetOptions) -> Result<Bytes> {
        let bytes = self.inner.get(key, options).await?;
        self.resources.pass(bytes.len()).await;
        Ok(bytes)
    }

    async fn put(&self, key: &Key, bytes: Bytes, options: PutOptions) -> Result<Put> {
        self.resources.pass(bytes.len()).await;
        self.inner.put(key, bytes, options).await
    }

    async fn parts(&self, key: &Key, options: PutOptions) -> Result<Arc<dyn Parts>> {
        Ok(Arc::new(LimitParts {
            inner: self.inner.parts(key, options).await?,
            resources: self.resources.clone(),
        }))
    }

    async fn head(&self, key: &Key) -> Result<Meta> {
        self.inner.head(key).await
    }

    fn list(&self, prefix: &str, options: ListOptions) -> BoxStream<'_, Result<Meta>> {
        self.inner.list(prefix, options)
    }

    async fn delete(&self, key: &Key, version: Option<&str>) -> Result<()> {
        self.inner.delete(key, version).await
    }

    async fn sync(&self) -> Result<()> {
        self.inner.sync().await
    }

    fn unfinished(&self) -> Vec<Unfinished> {
        self.inner.unfinished()
    }

    async fn remove_unfinished(&self, left: &Unfinished) -> Result<()> {
        self.inner.remove_unfinished(left).await
    }
}

#[derive(Debug)]
struct LimitParts {
    inner: Arc<dyn Parts>,
    resources: Resources,
}

#[async_trait]
impl Parts for LimitParts {
    async fn admit(&self, bytes: usize) -> Result<Option<MemoryPermit>> {
        self.resources.admit(bytes as u64).await.map(Some)
    }

    async fn part(&self, part: Part) -> Result<()> {
        self.resources.pass(part.bytes.len()).await;
        self.inner.part(part).await
    }

    async fn finish(&self, last: Part) -> Result<Put> {
        self.resources.pass(last.bytes.len()).await;
        self.inner.finish(last).await
    }

    async fn abort(&self) -> Result<()> {
        self.inner.abort().await
    }
}

#[cfg(test)]
mod tests {
    use std::num::NonZeroU64;

    use tokio::time::Instant;

    use super::*;
    use crate::base::resources::Limits;
    use crate::store::testing::conformance;
    use crate::store::testing::memory::MemoryStore;

    fn limited(bytes_per_second: u64) -> LimitStore {
        let limits = Limits {
            rate: NonZeroU64::new(bytes_per_second),
            ..Limits::default()
        };
        let resources = Resources::new(&limits).unwrap();
        LimitStore::new(Arc::new(MemoryStore::new()), &resources)
    }

    #[tokio::test(start_paused = true)]
    async fn conforms() {
        conformance::run(&limited(1_000)).await.unwrap();
    }

    #[tokio::test(start_paused = true)]
    async fn bytes_take_their_time() {
        let store = limited(100_000);
        let key = Key::new("a").unwrap();
        let started = Instant::now();
        let bytes = Bytes::from(vec![0; 500_000]);
        store.put(&key, bytes, PutOptions::default()).await.unwrap();
        assert_eq!(started.elapsed().as_secs(), 0, "nothing was before it");
        store.get(&key, GetOptions::default()).await.unwrap();
        assert_eq!(started.elapsed().as_secs(), 5);
        store.get(&key, GetOptions::default()).await.unwrap();
        assert_eq!(started.elapsed().as_secs(), 10);
    }
}
