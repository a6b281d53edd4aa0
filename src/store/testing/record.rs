//! A record of what was asked of a store, for tests that say which objects were read or written.

use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use bytes::Bytes;
use futures::stream::{BoxStream, StreamExt};

use crate::base::env::lock;
use crate::store::{
    Capabilities, GetOptions, Key, ListOptions, Meta, Part, Parts, Put, PutOptions, SharedStore,
    Store, Unfinished,
};
use crate::{Cause, Error, Result};

/// What was asked of a store.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Op {
    /// [`Store::get`].
    Get,
    /// [`Store::put`].
    Put,
    /// [`Store::parts`]: an upload begins.
    Parts,
    /// [`Parts::part`].
    Part,
    /// [`Parts::finish`].
    Finish,
    /// [`Parts::abort`].
    Abort,
    /// [`Store::head`].
    Head,
    /// [`Store::list`]; the key is the prefix.
    List,
    /// One object that a listing brings.
    Listed,
    /// [`Store::delete`].
    Delete,
    /// [`Store::sync`].
    Sync,
}

impl Op {
    /// Whether it changes what a store holds.
    #[must_use]
    pub const fn writes(self) -> bool {
        matches!(
            self,
            Self::Put | Self::Parts | Self::Part | Self::Finish | Self::Abort | Self::Delete
        )
    }
}

/// One call.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Call {
    /// What was asked.
    pub op: Op,
    /// Of which key; the prefix of a listing, empty for [`Op::Sync`].
    pub key: String,
    /// Bytes that were read, or given to be written.
    pub bytes: u64,
    /// Why it failed; `None` for success.
    pub failed: Option<Cause>,
}

/// The calls of a [`RecordStore`], in the order in which they ended. Clones share one list.
#[derive(Debug, Clone, Default)]
pub struct Log(Arc<Mutex<Vec<Call>>>);

impl Log {
    /// All calls so far.
    #[must_use]
    pub fn calls(&self) -> Vec<Call> {
        lock(&self.0).clone()
    }

    /// All calls so far; the list is empty after.
    #[must_use]
    pub fn take(&self) -> Vec<Call> {
        std::mem::take(&mut *lock(&self.0))
    }

    /// The keys of which `op` was asked, in order, as often as it was.
    #[must_use]
    pub fn keys(&self, op: Op) -> Vec<String> {
        let calls = lock(&self.0);
        let asked = calls.iter().filter(|call| call.op == op);
        asked.map(|call| call.key.clone()).collect()
    }

    /// The sum of the bytes that `op` moved.
    #[must_use]
    pub fn bytes(&self, op: Op) -> u64 {
        let calls = lock(&self.0);
        let asked = calls.iter().filter(|call| call.op == op);
        asked.map(|call| call.bytes).sum()
    }

    fn note<T>(
        &self,
        op: Op,
        key: impl Into<String>,
        bytes: usize,
        result: Result<T>,
    ) -> Result<T> {
        self.push(op, key, bytes, result.as_ref().err().map(Error::cause));
        result
    }

    fn push(&self, op: Op, key: impl Into<String>, bytes: usize, failed: Option<Cause>) {
        lock(&self.0).push(Call {
            op,
            key: key.into(),
            bytes: bytes as u64,
            failed,
        });
    }
}

/// A store that records each call.
#[derive(Debug, Clone)]
pub struct RecordStore {
    inner: SharedStore,
    log: Log,
}

impl RecordStore {
    /// Wraps `inner`.
    #[must_use]
    pub fn new(inner: SharedStore) -> Self {
        let log = Log::default();
        Self { inner, log }
    }

    /// Where the calls are.
    #[must_use]
    pub fn log(&self) -> Log {
        self.log.clone()
    }
}

#[async_trait]
impl Store for RecordStore {
    fn location(&self) -> String {
        self.inner.location()
    }

    fn capabilities(&self) -> Capabilities {
        self.inner.capabilities()
    }

    async fn get(&self, key: &Key, options: GetOptions) -> Result<Bytes> {
        let read = self.inner.get(key, options).await;
        let size = read.as_ref().map_or(0, Bytes::len);
        self.log.note(Op::Get, key.as_str(), size, read)
    }

    async fn put(&self, key: &Key, bytes: Bytes, options: PutOptions) -> Result<Put> {
        let size = bytes.len();
        let put = self.inner.put(key, bytes, options).await;
        self.log.note(Op::Put, key.as_str(), size, put)
    }

    async fn parts(&self, key: &Key, options: PutOptions) -> Result<Arc<dyn Parts>> {
        let begun = self.inner.parts(key, options).await;
        Ok(Arc::new(RecordParts {
            inner: self.log.note(Op::Parts, key.as_str(), 0, begun)?,
            key: key.clone(),
            log: self.log.clone(),
        }))
    }

    async fn head(&self, key: &Key) -> Result<Meta> {
        let head = self.inner.head(key).await;
        self.log.note(Op::Head, key.as_str(), 0, head)
    }

    fn list(&self, prefix: &str, options: ListOptions) -> BoxStream<'_, Result<Meta>> {
        self.log.push(Op::List, prefix, 0, None);
        self.inner
            .list(prefix, options)
            .map(|listed| {
                let key = listed.as_ref().map_or("", |meta| meta.key.as_str());
                self.log.note(Op::Listed, key.to_owned(), 0, listed)
            })
            .boxed()
    }

    async fn delete(&self, key: &Key, version: Option<&str>) -> Result<()> {
        let deleted = self.inner.delete(key, version).await;
        self.log.note(Op::Delete, key.as_str(), 0, deleted)
    }

    async fn sync(&self) -> Result<()> {
        let synced = self.inner.sync().await;
        self.log.note(Op::Sync, "", 0, synced)
    }

    fn unfinished(&self) -> Vec<Unfinished> {
        self.inner.unfinished()
    }

    async fn remove_unfinished(&self, left: &Unfinished) -> Result<()> {
        self.inner.remove_unfinished(left).await
    }
}

#[derive(Debug)]
struct RecordParts {
    inner: Arc<dyn Parts>,
    key: Key,
    log: Log,
}

#[async_trait]
impl Parts for RecordParts {
    async fn part(&self, part: Part) -> Result<()> {
        let size = part.bytes.len();
        let sent = self.inner.part(part).await;
        self.log.note(Op::Part, self.key.as_str(), size, sent)
    }

    async fn finish(&self, last: Part) -> Result<Put> {
        let size = last.bytes.len();
        let put = self.inner.finish(last).await;
        self.log.note(Op::Finish, self.key.as_str(), size, put)
    }

    async fn abort(&self) -> Result<()> {
        let aborted = self.inner.abort().await;
        self.log.note(Op::Abort, self.key.as_str(), 0, aborted)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::testing::conformance;
    use crate::store::testing::memory::MemoryStore;
    use futures::stream::TryStreamExt;

    #[tokio::test]
    async fn conforms() {
        let store = RecordStore::new(Arc::new(MemoryStore::new()));
        conformance::run(&store).await.unwrap();
    }

    #[tokio::test]
    async fn calls_are_recorded_with_key_bytes_and_outcome() {
        let store = RecordStore::new(Arc::new(MemoryStore::new()));
        let (a, b) = (Key::new("a").unwrap(), Key::new("b").unwrap());
        let options = PutOptions::default();
        store
            .put(&a, Bytes::from_static(b"four"), options)
            .await
            .unwrap();
        let mut upload = store.upload(&b, options).await.unwrap();
        upload.write(Bytes::from_static(b"seven..")).await.unwrap();
        upload.finish().await.unwrap();
        let range = GetOptions {
            range: Some(1..3),
            version: None,
        };
        store.get(&a, range).await.unwrap();
        store.head(&Key::new("c").unwrap()).await.unwrap_err();
        let listed = store.list("", ListOptions::default());
        listed.try_collect::<Vec<_>>().await.unwrap();
        store.delete(&a, None).await.unwrap();
        store.sync().await.unwrap();

        let log = store.log();
        assert_eq!(log.bytes(Op::Put), 4);
        assert_eq!(log.bytes(Op::Get), 2);
        assert_eq!(log.keys(Op::Listed), ["a", "b"]);
        let calls = log.take();
        let seen: Vec<_> = calls
            .iter()
            .map(|call| (call.op, &*call.key, call.bytes, call.failed))
            .collect();
        let expected = [
            (Op::Put, "a", 4, None),
            (Op::Parts, "b", 0, None),
            (Op::Finish, "b", 7, None),
            (Op::Get, "a", 2, None),
            (Op::Head, "c", 0, Some(Cause::NotFound)),
            (Op::List, "", 0, None),
            (Op::Listed, "a", 0, None),
            (Op::Listed, "b", 0, None),
            (Op::Delete, "a", 0, None),
            (Op::Sync, "", 0, None),
        ];
        assert_eq!(seen, expected);
        assert!(log.calls().is_empty());
    }
}
