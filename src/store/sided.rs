//! Says of each error of a store on which side it is.

use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use futures::stream::{BoxStream, StreamExt};

use super::{
    Capabilities, GetOptions, Key, ListOptions, Meta, Part, Parts, Put, PutOptions, SharedStore,
    Store, Unfinished,
};
use crate::base::error::Context as _;
use crate::{Result, Side};

/// A store whose errors are on one side.
#[derive(Debug, Clone)]
pub struct SidedStore {
    inner: SharedStore,
    side: Side,
}

impl SidedStore {
    /// Wraps `inner`.
    #[must_use]
    pub fn new(inner: SharedStore, side: Side) -> Self {
        Self { inner, side }
    }
}

#[async_trait]
impl Store for SidedStore {
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
        self.inner.get(key, options).await.on(self.side)
    }

    async fn put(&self, key: &Key, bytes: Bytes, options: PutOptions) -> Result<Put> {
        self.inner.put(key, bytes, options).await.on(self.side)
    }

    async fn parts(&self, key: &Key, options: PutOptions) -> Result<Arc<dyn Parts>> {
        let inner = self.inner.parts(key, options).await.on(self.side)?;
        let side = self.side;
        Ok(Arc::new(SidedParts { inner, side }))
    }

    async fn head(&self, key: &Key) -> Result<Meta> {
        self.inner.head(key).await.on(self.side)
    }

    fn list(&self, prefix: &str, options: ListOptions) -> BoxStream<'_, Result<Meta>> {
        let listed = self.inner.list(prefix, options);
        listed.map(|one| one.on(self.side)).boxed()
    }

    async fn delete(&self, key: &Key, version: Option<&str>) -> Result<()> {
        self.inner.delete(key, version).await.on(self.side)
    }

    async fn sync(&self) -> Result<()> {
        self.inner.sync().await.on(self.side)
    }

    fn unfinished(&self) -> Vec<Unfinished> {
        self.inner.unfinished()
    }

    async fn remove_unfinished(&self, left: &Unfinished) -> Result<()> {
        self.inner.remove_unfinished(left).await.on(self.side)
    }
}

#[derive(Debug)]
struct SidedParts {
    inner: Arc<dyn Parts>,
    side: Side,
}

#[async_trait]
impl Parts for SidedParts {
    async fn part(&self, part: Part) -> Result<()> {
        self.inner.part(part).await.on(self.side)
    }

    async fn finish(&self, last: Part) -> Result<Put> {
        self.inner.finish(last).await.on(self.side)
    }

    async fn abort(&self) -> Result<()> {
        self.inner.abort().await.on(self.side)
    }
}

#[cfg(test)]
mod tests {
    use futures::TryStreamExt as _;

    use super::*;
    use crate::Cause;
    use crate::store::testing::conformance;
    use crate::store::testing::fault::{Action, FaultStore, Rule};
    use crate::store::testing::memory::MemoryStore;

    #[tokio::test]
    async fn it_is_a_store() {
        let store = SidedStore::new(Arc::new(MemoryStore::new()), Side::Target);
        conformance::run(&store).await.unwrap();
    }

    #[tokio::test]
    async fn every_error_is_on_its_side() {
        let faulty = FaultStore::new(Arc::new(MemoryStore::new()));
        faulty.faults().add(Rule::any(Action::Fail(Cause::NoSpace)));
        let store = SidedStore::new(Arc::new(faulty), Side::Source);
        let key = Key::new("a").unwrap();
        let errors = [
            store.get(&key, GetOptions::default()).await.err(),
            store
                .put(&key, Bytes::new(), PutOptions::default())
                .await
                .err(),
            store.parts(&key, PutOptions::default()).await.err(),
            store.head(&key).await.err(),
            store
                .list("", ListOptions::default())
                .try_next()
                .await
                .err(),
            store.delete(&key, None).await.err(),
            store.sync().await.err(),
        ];
        for error in errors {
            assert_eq!(error.unwrap().side(), Some(Side::Source));
        }
    }
}
