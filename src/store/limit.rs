//! A limit of bytes a second.

use std::num::NonZeroU64;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use futures::stream::BoxStream;
use tokio::time::{Instant, sleep_until};

use super::{
    Capabilities, GetOptions, Key, ListOptions, Meta, Part, Parts, Put, PutOptions, SharedStore,
    Store,
};
use crate::Result;
use crate::env::lock;

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

    /// Waits until all bytes before these had their time; these are then on the account. A small
    /// amount is on the account too, and does not wait.
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
        if bytes > SMALL {
            sleep_until(begins).await;
        }
    }
}

/// What never waits, in bytes: a lease, a mark, a manifest. Behind the pieces of 64 objects a lease
/// would run out before it is renewed. Packs and large objects wait for what small ones took as well.
const SMALL: usize = 64 << 10;

/// A store whose traffic is limited. Listings, which are small and may stay open, are not.
#[derive(Debug, Clone)]
pub struct LimitStore {
    inner: SharedStore,
    rate: RateLimit,
}

impl LimitStore {
    /// Wraps `inner`: bytes read and written are on the account of `rate`.
    #[must_use]
    pub fn new(inner: SharedStore, rate: RateLimit) -> Self {
        Self { inner, rate }
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
        let bytes = self.inner.get(key, options).await?;
        self.rate.pass(bytes.len()).await;
        Ok(bytes)
    }

    async fn put(&self, key: &Key, bytes: Bytes, options: PutOptions) -> Result<Put> {
        self.rate.pass(bytes.len()).await;
        self.inner.put(key, bytes, options).await
    }

    async fn parts(&self, key: &Key, options: PutOptions) -> Result<Arc<dyn Parts>> {
        Ok(Arc::new(LimitParts {
            inner: self.inner.parts(key, options).await?,
            rate: self.rate.clone(),
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
}

#[derive(Debug)]
struct LimitParts {
    inner: Arc<dyn Parts>,
    rate: RateLimit,
}

#[async_trait]
impl Parts for LimitParts {
    async fn part(&self, part: Part) -> Result<()> {
        self.rate.pass(part.bytes.len()).await;
        self.inner.part(part).await
    }

    async fn finish(&self, last: Part) -> Result<Put> {
        self.rate.pass(last.bytes.len()).await;
        self.inner.finish(last).await
    }

    async fn abort(&self) -> Result<()> {
        self.inner.abort().await
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::memory::MemoryStore;
    use crate::store::testing::conformance;
    use futures::future;

    fn limited(bytes_per_second: u64) -> LimitStore {
        let rate = RateLimit::new(NonZeroU64::new(bytes_per_second).unwrap());
        LimitStore::new(Arc::new(MemoryStore::new()), rate)
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

    #[tokio::test(start_paused = true)]
    async fn a_lease_does_not_wait_behind_data_and_data_waits_for_leases() {
        let store = limited(100_000);
        let put = |name: &str, bytes: usize| {
            let (store, key) = (store.clone(), Key::new(name).unwrap());
            let bytes = Bytes::from(vec![0; bytes]);
            async move { store.put(&key, bytes, PutOptions::default()).await.unwrap() }
        };
        let started = Instant::now();
        let data = tokio::spawn(future::join_all(
            (0..64).map(|n| put(&format!("data/{n}"), 1_000_000)),
        ));
        tokio::task::yield_now().await;
        put("leases/a", SMALL).await;
        assert_eq!(started.elapsed().as_secs(), 0);
        data.await.unwrap();
        assert_eq!(started.elapsed().as_secs(), 630);
        for _ in 0..100 {
            put("leases/a", 10_000).await;
        }
        put("data/last", 1_000_000).await;
        assert!(
            started.elapsed().as_secs() >= 650,
            "what leases took is waited for"
        );
    }
}
