//! Retries: what may pass is tried again, with growing random pauses, until a deadline.

use std::collections::BTreeMap;
use std::future::Future;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use futures::stream::{self, BoxStream, StreamExt, TryStreamExt};
use tokio::time::{Instant, sleep, timeout};

use super::{
    Capabilities, GetOptions, Key, ListOptions, Meta, Part, Parts, Put, PutMode, PutOptions,
    SharedStore, Store, Unfinished,
};
use crate::base::env::{Env, lock};
use crate::{Cause, Error, Result};

/// When to try again and when to give up. Times are those of tokio, which a test can pause.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RetryPolicy {
    /// The longest pause before the second try; it doubles from try to try. The pause itself is
    /// random between nothing and that ("full jitter":
    /// <https://aws.amazon.com/blogs/architecture/exponential-backoff-and-jitter/>).
    pub first_pause: Duration,
    /// The longest pause there is.
    pub longest_pause: Duration,
    /// How long one operation, all its tries included, may take before the last error is final. A
    /// try that has begun is not cut short. A listing starts anew with each object it brings.
    pub deadline: Duration,
}

impl Default for RetryPolicy {
    /// 0.1 s, 20 s (as the AWS SDKs), and 10 minutes: a server's restart or a failed-over node is
    /// outlived.
    fn default() -> Self {
        Self {
            first_pause: Duration::from_millis(100),
            longest_pause: Duration::from_secs(20),
            deadline: Duration::from_mins(10),
        }
    }
}

/// A store that tries again what failed with a [retryable](Error::retryable) cause, or
/// [may pass](Error::passes_within).
///
/// A creation whose answer was lost finds its own object at the next try; it is read back, and
/// when the bytes are those that were to be written, the creation succeeded.
#[derive(Debug, Clone)]
pub struct RetryStore {
    inner: SharedStore,
    policy: RetryPolicy,
    env: Env,
}

impl RetryStore {
    /// Wraps `inner`; the pauses' randomness comes from `env`.
    #[must_use]
    pub fn new(inner: SharedStore, policy: RetryPolicy, env: Env) -> Self {
        Self { inner, policy, env }
    }

    async fn run<T, F>(&self, call: impl FnMut() -> F) -> Result<T>
    where
        F: Future<Output = Result<T>>,
    {
        self.run_with(Backoff::new(self), call).await
    }

    async fn run_with<T, F>(
        &self,
        mut backoff: Backoff<'_>,
        mut call: impl FnMut() -> F,
    ) -> Result<T>
    where
        F: Future<Output = Result<T>>,
    {
        loop {
            match call().await {
                Err(error) if may_pass(&error) => backoff.pause(error).await?,
                result => return result,
            }
        }
    }

    /// Whether the object is `bytes`, and of which version.
    async fn holds(&self, key: &Key, bytes: &Bytes) -> Result<Option<Put>> {
        let version = self.head(key).await?.version;
        let options = GetOptions {
            range: None,
            version: version.clone(),
        };
        let found = self.get(key, options).await?;
        Ok((found == *bytes).then_some(Put { version }))
    }
}

fn may_pass(error: &Error) -> bool {
    error.retryable() || error.passes_within().is_some()
}

/// The pauses of one operation.
struct Backoff<'a> {
    store: &'a RetryStore,
    started: Instant,
    tries: u32,
    /// How long the caller waits, where it does not wait as long as the store is tried.
    patience: Option<Duration>,
}

impl<'a> Backoff<'a> {
    fn new(store: &'a RetryStore) -> Self {
        Self {
            store,
            started: Instant::now(),
            tries: 0,
            patience: None,
        }
    }

    /// Waits before the next try, or gives `error` back when the deadline would pass meanwhile.
    async fn pause(&mut self, error: Error) -> Result<()> {
        let policy = &self.store.policy;
        let doubled = 2_u32.saturating_pow(self.tries);
        self.tries += 1;
        let longest = policy.first_pause.saturating_mul(doubled);
        let pause = self.jitter(longest.min(policy.longest_pause));
        let tries = self.tries;
        let deadline = self.patience.unwrap_or(policy.deadline);
        let deadline = error.passes_within().map_or(deadline, |t| t.min(deadline));
        if self.started.elapsed() + pause >= deadline {
            return Err(error.context(format!("gave up after {tries} tries")));
        }
        let error = error.chain();
        if self.patience.is_none() {
            tracing::warn!(tries, ?pause, error, "trying again");
        } else {
            // The caller tells of it.
            tracing::debug!(tries, ?pause, error, "trying again");
        }
        sleep(pause).await;
        Ok(())
    }

    fn jitter(&self, longest: Duration) -> Duration {
        let mut bytes = [0; 8];
        bytes.copy_from_slice(&self.store.env.id()[..8]);
        let random = u128::from(u64::from_le_bytes(bytes));
        let nanoseconds = (longest.as_nanos() * random) >> 64;
        Duration::from_nanos(u64::try_from(nanoseconds).unwrap_or(u64::MAX))
    }
}

#[async_trait]
impl Store for RetryStore {
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
        self.run(|| self.inner.get(key, options.clone())).await
    }

    async fn put(&self, key: &Key, bytes: Bytes, options: PutOptions) -> Result<Put> {
        let doubt = Doubt::default();
        let mut backoff = Backoff::new(self);
        backoff.patience = options.patience;
        let put = async {
            let put = self.run_with(backoff, || async {
                doubt.note(self.inner.put(key, bytes.clone(), options).await)
            });
            match put.await {
                Err(error) if error.cause() == Cause::AlreadyExists && doubt.exists() => {
                    self.holds(key, &bytes).await?.ok_or(error)
                }
                put => put,
            }
        };
        let Some(patience) = options.patience else {
            return put.await;
        };
        // A try that hangs is cut short as well.
        let hung = |_| {
            let message = format!("write {key}: no answer in {} s", patience.as_secs_f32());
            Err(Error::new(Cause::Unavailable, message))
        };
        timeout(patience, put).await.unwrap_or_else(hung)
    }

    async fn parts(&self, key: &Key, options: PutOptions) -> Result<Arc<dyn Parts>> {
        let inner = self.run(|| self.inner.parts(key, options)).await?;
        Ok(Arc::new(RetryParts {
            inner,
            store: self.clone(),
            key: key.clone(),
            options,
            sent: Mutex::default(),
        }))
    }

    async fn head(&self, key: &Key) -> Result<Meta> {
        self.run(|| self.inner.head(key)).await
    }

    fn list(&self, prefix: &str, options: ListOptions) -> BoxStream<'_, Result<Meta>> {
        let walk = Walk {
            listing: self.inner.list(prefix, options.clone()),
            prefix: prefix.to_owned(),
            options,
            backoff: Backoff::new(self),
        };
        stream::try_unfold(walk, |mut walk| async move {
            let meta = walk.next().await?;
            Ok::<_, Error>(meta.map(|meta| (meta, walk)))
        })
        .into_stream()
        .boxed()
    }

    async fn delete(&self, key: &Key, version: Option<&str>) -> Result<()> {
        self.run(|| self.inner.delete(key, version)).await
    }

    async fn sync(&self) -> Result<()> {
        self.run(|| self.inner.sync()).await
    }

    fn unfinished(&self) -> Vec<Unfinished> {
        self.inner.unfinished()
    }

    async fn remove_unfinished(&self, left: &Unfinished) -> Result<()> {
        self.run(|| self.inner.remove_unfinished(left)).await
    }
}

/// Whether a try may have succeeded without our being told.
#[derive(Debug, Default)]
struct Doubt(AtomicBool);

impl Doubt {
    fn note<T>(&self, result: Result<T>) -> Result<T> {
        if matches!(&result, Err(error) if error.cause() == Cause::Unavailable) {
            self.0.store(true, Ordering::Relaxed);
        }
        result
    }

    fn exists(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}

/// A listing that goes on after the last key when it breaks off.
struct Walk<'a> {
    listing: BoxStream<'a, Result<Meta>>,
    prefix: String,
    options: ListOptions,
    backoff: Backoff<'a>,
}

impl Walk<'_> {
    async fn next(&mut self) -> Result<Option<Meta>> {
        loop {
            match self.listing.try_next().await {
                Ok(Some(meta)) => {
                    self.options.after = Some(meta.key.clone());
                    self.backoff.tries = 0;
                    self.backoff.started = Instant::now();
                    return Ok(Some(meta));
                }
                Err(error) if may_pass(&error) => {
                    self.backoff.pause(error).await?;
                    let options = self.options.clone();
                    self.listing = self.backoff.store.inner.list(&self.prefix, options);
                }
                end => return end,
            }
        }
    }
}

#[derive(Debug)]
struct RetryParts {
    inner: Arc<dyn Parts>,
    store: RetryStore,
    key: Key,
    options: PutOptions,
    /// What was sent, to know our own object by; hashes are taken only where the object's name may
    /// be contested.
    sent: Mutex<BTreeMap<u32, Sent>>,
}

#[derive(Debug, Clone)]
struct Sent {
    offset: u64,
    size: u64,
    hash: Option<blake3::Hash>,
}

impl RetryParts {
    fn remember(&self, part: &Part) {
        let create = self.options.mode == PutMode::Create;
        let sent = Sent {
            offset: part.offset,
            size: part.bytes.len() as u64,
            hash: create.then(|| blake3::hash(&part.bytes)),
        };
        lock(&self.sent).insert(part.number, sent);
    }

    /// Whether the object is what was sent, and of which version.
    async fn holds_sent(&self) -> Result<Option<Put>> {
        let head = match self.store.head(&self.key).await {
            Err(error) if error.cause() == Cause::NotFound => return Ok(None),
            head => head?,
        };
        let sent: Vec<Sent> = lock(&self.sent).values().cloned().collect();
        if head.size != sent.iter().map(|part| part.size).sum::<u64>() {
            return Ok(None);
        }
        for part in sent {
            let Some(hash) = part.hash else { continue };
            let options = GetOptions {
                range: Some(part.offset..part.offset + part.size),
                version: head.version.clone(),
            };
            let found = self.store.get(&self.key, options).await?;
            if blake3::hash(&found) != hash {
                return Ok(None);
            }
        }
        let version = head.version;
        Ok(Some(Put { version }))
    }
}

#[async_trait]
impl Parts for RetryParts {
    async fn part(&self, part: Part) -> Result<()> {
        self.remember(&part);
        self.store.run(|| self.inner.part(part.clone())).await
    }

    async fn finish(&self, last: Part) -> Result<Put> {
        self.remember(&last);
        let doubt = Doubt::default();
        let put = self
            .store
            .run(|| async { doubt.note(self.inner.finish(last.clone()).await) })
            .await;
        match put {
            // The upload is gone because it was finished, or the name is taken by ourselves.
            Err(error)
                if matches!(error.cause(), Cause::NotFound | Cause::AlreadyExists)
                    && doubt.exists() =>
            {
                self.holds_sent().await?.ok_or(error)
            }
            put => put,
        }
    }

    async fn abort(&self) -> Result<()> {
        self.store.run(|| self.inner.abort()).await
    }
}

#[cfg(test)]
mod tests;
