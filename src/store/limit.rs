//! Limits: bytes a second, and requests at a time.

use std::num::NonZeroU64;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use futures::stream::BoxStream;
use tokio::sync::{Semaphore, SemaphorePermit};
use tokio::time::{Instant, sleep_until};

use super::{
    Capabilities, GetOptions, Key, ListOptions, Meta, Part, Parts, Put, PutOptions, SharedStore,
    Store,
};
use crate::env::lock;
use crate::{Cause, Error, Result};

/// So many bytes a second. Clones share one budget, also across stores.
#[derive(Debug, Clone)]
pub struct RateLimit {
    bytes_per_second: NonZeroU64,
    /// When the budget for the next byte is there.
    free_at: Arc<Mutex<Option<Instant>>>,
}

impl RateLimit {
    /// A budget of `bytes_per_second`.
    #[must_use]
    pub fn new(bytes_per_second: NonZeroU64) -> Self {
        Self {
            bytes_per_second,
            free_at: Arc::default(),
        }
    }

    /// Waits until all bytes before these had their time; these are then on the account.
    async fn pass(&self, bytes: usize) {
        let nanoseconds = u128::try_from(bytes)
            .unwrap_or(u128::MAX)
            .saturating_mul(1_000_000_000)
            / u128::from(self.bytes_per_second.get());
        let takes = Duration::from_nanos(u64::try_from(nanoseconds).unwrap_or(u64::MAX));
        let begins = {
            let mut free_at = lock(&self.free_at);
            let now = Instant::now();
            let begins = free_at.map_or(now, |free| free.max(now));
            *free_at = Some(begins + takes);
            begins
        };
        sleep_until(begins).await;
    }
}

/// A store whose traffic is limited. Listings, which are small and may stay open, are not.
#[derive(Debug, Clone)]
pub struct LimitStore {
    inner: SharedStore,
    rate: Option<RateLimit>,
    requests: Option<Arc<Semaphore>>,
}

impl LimitStore {
    /// Wraps `inner`, without a limit yet.
    #[must_use]
    pub fn new(inner: SharedStore) -> Self {
        Self {
            inner,
            rate: None,
            requests: None,
        }
    }

    /// Limits the bytes read and written.
    #[must_use]
    pub fn with_rate(mut self, rate: RateLimit) -> Self {
        self.rate = Some(rate);
        self
    }

    /// Limits the requests at a time; at least one is let through.
    #[must_use]
    pub fn with_requests(mut self, most: usize) -> Self {
        self.requests = Some(Arc::new(Semaphore::new(most.max(1))));
        self
    }

    async fn enter(&self) -> Result<Option<SemaphorePermit<'_>>> {
        let Some(requests) = &self.requests else {
            return Ok(None);
        };
        let permit = requests.acquire().await;
        permit
            .map(Some)
            .map_err(|error| Error::new(Cause::Failed, "the limit is closed").with_source(error))
    }

    async fn pass(&self, bytes: usize) {
        if let Some(rate) = &self.rate {
            rate.pass(bytes).await;
        }
    }
}

#[async_trait]
impl Store for LimitStore {
    fn location(&self) -> String {
        self.inner.location()
    }

    fn capabilities(&self) -> Capabilities {
        self.inner.capabilities()
    }

    async fn get(&self, key: &Key, options: GetOptions) -> Result<Bytes> {
        let bytes = {
            let _permit = self.enter().await?;
            self.inner.get(key, options).await?
        };
        self.pass(bytes.len()).await;
        Ok(bytes)
    }

    async fn put(&self, key: &Key, bytes: Bytes, options: PutOptions) -> Result<Put> {
        self.pass(bytes.len()).await;
        let _permit = self.enter().await?;
        self.inner.put(key, bytes, options).await
    }

    async fn parts(&self, key: &Key, options: PutOptions) -> Result<Arc<dyn Parts>> {
        let _permit = self.enter().await?;
        Ok(Arc::new(LimitParts {
            inner: self.inner.parts(key, options).await?,
            store: self.clone(),
        }))
    }

    async fn head(&self, key: &Key) -> Result<Meta> {
        let _permit = self.enter().await?;
        self.inner.head(key).await
    }

    fn list(&self, prefix: &str, options: ListOptions) -> BoxStream<'_, Result<Meta>> {
        self.inner.list(prefix, options)
    }

    async fn delete(&self, key: &Key, version: Option<&str>) -> Result<()> {
        let _permit = self.enter().await?;
        self.inner.delete(key, version).await
    }

    async fn sync(&self) -> Result<()> {
        let _permit = self.enter().await?;
        self.inner.sync().await
    }
}

#[derive(Debug)]
struct LimitParts {
    inner: Arc<dyn Parts>,
    store: LimitStore,
}

#[async_trait]
impl Parts for LimitParts {
    async fn part(&self, part: Part) -> Result<()> {
        self.store.pass(part.bytes.len()).await;
        let _permit = self.store.enter().await?;
        self.inner.part(part).await
    }

    async fn finish(&self, last: Part) -> Result<Put> {
        self.store.pass(last.bytes.len()).await;
        let _permit = self.store.enter().await?;
        self.inner.finish(last).await
    }

    async fn abort(&self) -> Result<()> {
        let _permit = self.store.enter().await?;
        self.inner.abort().await
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::memory::MemoryStore;
    use crate::store::testing::conformance;
    use crate::store::testing::fault::{Action, FaultStore, Rule};
    use futures::future;

    fn rate(bytes_per_second: u64) -> RateLimit {
        RateLimit::new(NonZeroU64::new(bytes_per_second).unwrap())
    }

    #[tokio::test(start_paused = true)]
    async fn conforms() {
        let store = LimitStore::new(Arc::new(MemoryStore::new()));
        let store = store.with_rate(rate(1_000)).with_requests(2);
        conformance::run(&store).await.unwrap();
    }

    #[tokio::test(start_paused = true)]
    async fn bytes_take_their_time() {
        let store = LimitStore::new(Arc::new(MemoryStore::new())).with_rate(rate(1_000));
        let key = Key::new("a").unwrap();
        let started = Instant::now();
        let bytes = Bytes::from(vec![0; 5_000]);
        store.put(&key, bytes, PutOptions::default()).await.unwrap();
        assert_eq!(started.elapsed().as_secs(), 0, "nothing was before it");
        store.get(&key, GetOptions::default()).await.unwrap();
        assert_eq!(started.elapsed().as_secs(), 5);
        store.get(&key, GetOptions::default()).await.unwrap();
        assert_eq!(started.elapsed().as_secs(), 10);
    }

    #[tokio::test(start_paused = true)]
    async fn requests_wait_for_each_other() {
        let slow = FaultStore::new(Arc::new(MemoryStore::new()));
        let delay = Action::Delay(Duration::from_secs(1));
        slow.faults().add(Rule::any(delay));
        let store = LimitStore::new(Arc::new(slow)).with_requests(2);
        let started = Instant::now();
        let key = Key::new("a").unwrap();
        future::join_all((0..6).map(|_| store.delete(&key, None))).await;
        assert_eq!(started.elapsed().as_secs(), 3);
    }
}
