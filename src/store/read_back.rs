//! Uploads to a store that takes no checksum with them: each is read back.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use bytes::Bytes;
use futures::stream::BoxStream;

use super::{
    Capabilities, GetOptions, Key, ListOptions, Meta, Part, Parts, Put, PutOptions, SharedStore,
    Store, Unfinished,
};
use crate::base::env::lock;
use crate::base::resources::MemoryPermit;
use crate::{Cause, Error, Result};

/// Which uploads are read back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum ReadBack {
    /// Those of several parts.
    OfParts,
    /// All.
    Every,
}

/// A store that proves each upload by its length and by reading it back. It stands above the retries, so
/// that a reading that fails does not look like a writing that did.
#[derive(Debug, Clone)]
pub(super) struct ReadBackStore {
    inner: SharedStore,
    which: ReadBack,
}

impl ReadBackStore {
    pub(super) fn new(inner: SharedStore, which: ReadBack) -> Self {
        Self { inner, which }
    }

    /// # Errors
    ///
    /// [`Cause::Failed`] when the store has other bytes than were sent.
    async fn prove(
        &self,
        key: &Key,
        put: &Put,
        sent: impl IntoIterator<Item = Sent>,
    ) -> Result<()> {
        let mut size = 0;
        for part in sent {
            size += part.size;
            if part.size == 0 {
                continue;
            }
            let options = GetOptions {
                range: Some(part.offset..part.offset + part.size),
                version: put.version.clone(),
            };
            if blake3::hash(&self.inner.get(key, options).await?) != part.hash {
                return Err(self.differs(key));
            }
        }
        if self.inner.head(key).await?.size == size {
            return Ok(());
        }
        Err(self.differs(key))
    }

    fn differs(&self, key: &Key) -> Error {
        let location = self.inner.location();
        let message = format!("{location} has other bytes of {key} than were sent to it");
        let hint = "something between here and the store changes them, or the store is broken: do not rely on it";
        Error::new(Cause::Failed, message).with_hint(hint)
    }
}

#[async_trait]
impl Store for ReadBackStore {
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
        self.inner.get(key, options).await
    }

    async fn put(&self, key: &Key, bytes: Bytes, options: PutOptions) -> Result<Put> {
        let put = self.inner.put(key, bytes.clone(), options).await?;
        if self.which == ReadBack::Every {
            self.prove(key, &put, [Sent::new(0, &bytes)]).await?;
        }
        Ok(put)
    }

    async fn parts(&self, key: &Key, options: PutOptions) -> Result<Arc<dyn Parts>> {
        Ok(Arc::new(ReadBackParts {
            inner: self.inner.parts(key, options).await?,
            store: self.clone(),
            key: key.clone(),
            sent: Mutex::default(),
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

/// What was sent, without its bytes.
#[derive(Debug, Clone, Copy)]
struct Sent {
    offset: u64,
    size: u64,
    hash: blake3::Hash,
}

impl Sent {
    fn new(offset: u64, bytes: &Bytes) -> Self {
        Self {
            offset,
            size: bytes.len() as u64,
            hash: blake3::hash(bytes),
        }
    }
}

#[derive(Debug)]
struct ReadBackParts {
    inner: Arc<dyn Parts>,
    store: ReadBackStore,
    key: Key,
    sent: Mutex<BTreeMap<u32, Sent>>,
}

impl ReadBackParts {
    fn remember(&self, part: &Part) {
        let sent = Sent::new(part.offset, &part.bytes);
        lock(&self.sent).insert(part.number, sent);
    }
}

#[async_trait]
impl Parts for ReadBackParts {
    async fn part(&self, part: Part) -> Result<()> {
        self.remember(&part);
        self.inner.part(part).await
    }

    async fn admit(&self, bytes: usize) -> Result<Option<MemoryPermit>> {
        self.inner.admit(bytes).await
    }

    async fn finish(&self, last: Part) -> Result<Put> {
        self.remember(&last);
        let put = self.inner.finish(last).await?;
        let sent: Vec<Sent> = lock(&self.sent).values().copied().collect();
        // What fits into one part is written by one PUT.
        if sent.len() > 1 || self.store.which == ReadBack::Every {
            self.store.prove(&self.key, &put, sent).await?;
        }
        Ok(put)
    }

    async fn abort(&self) -> Result<()> {
        self.inner.abort().await
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::MIN_PART_SIZE;
    use crate::store::testing::conformance;
    use crate::store::testing::memory::MemoryStore;

    /// A store that changes the last byte of what it is given.
    #[derive(Debug)]
    struct Changing(MemoryStore);

    fn changed(bytes: &Bytes) -> Bytes {
        let mut bytes = bytes.to_vec();
        if let Some(last) = bytes.last_mut() {
            *last ^= 1;
        }
        bytes.into()
    }

    #[async_trait]
    impl Store for Changing {
        fn location(&self) -> String {
            self.0.location()
        }

        fn capabilities(&self) -> Capabilities {
            self.0.capabilities()
        }

        async fn get(&self, key: &Key, options: GetOptions) -> Result<Bytes> {
            self.0.get(key, options).await
        }

        async fn put(&self, key: &Key, bytes: Bytes, options: PutOptions) -> Result<Put> {
            self.0.put(key, changed(&bytes), options).await
        }

        async fn parts(&self, key: &Key, options: PutOptions) -> Result<Arc<dyn Parts>> {
            let inner = self.0.parts(key, options).await?;
            Ok(Arc::new(ChangingParts(inner)))
        }

        async fn head(&self, key: &Key) -> Result<Meta> {
            self.0.head(key).await
        }

        fn list(&self, prefix: &str, options: ListOptions) -> BoxStream<'_, Result<Meta>> {
            self.0.list(prefix, options)
        }

        async fn delete(&self, key: &Key, version: Option<&str>) -> Result<()> {
            self.0.delete(key, version).await
        }

        async fn sync(&self) -> Result<()> {
            self.0.sync().await
        }

        fn unfinished(&self) -> Vec<Unfinished> {
            self.0.unfinished()
        }

        async fn remove_unfinished(&self, left: &Unfinished) -> Result<()> {
            self.0.remove_unfinished(left).await
        }
    }

    #[derive(Debug)]
    struct ChangingParts(Arc<dyn Parts>);

    #[async_trait]
    impl Parts for ChangingParts {
        async fn part(&self, part: Part) -> Result<()> {
            let bytes = changed(&part.bytes);
            self.0.part(Part { bytes, ..part }).await
        }

        async fn finish(&self, last: Part) -> Result<Put> {
            self.0.finish(last).await
        }

        async fn abort(&self) -> Result<()> {
            self.0.abort().await
        }
    }

    #[tokio::test]
    async fn it_is_a_store() {
        for which in [ReadBack::OfParts, ReadBack::Every] {
            let store = ReadBackStore::new(Arc::new(MemoryStore::new()), which);
            conformance::run(&store).await.unwrap();
        }
    }

    #[tokio::test]
    async fn an_upload_whose_bytes_changed_on_the_way_is_an_error() {
        let key = Key::new("a").unwrap();
        let put = Bytes::from_static(b"bytes");
        for (which, refused) in [(ReadBack::OfParts, false), (ReadBack::Every, true)] {
            let store = ReadBackStore::new(Arc::new(Changing(MemoryStore::new())), which);
            let written = store.put(&key, put.clone(), PutOptions::default()).await;
            assert_eq!(written.is_err(), refused);
            let mut upload = store.upload(&key, PutOptions::default()).await.unwrap();
            let part = Bytes::from(vec![7; MIN_PART_SIZE]);
            upload.write(part.clone()).await.unwrap();
            upload.write(part).await.unwrap();
            let error = upload.finish().await.unwrap_err();
            assert_eq!(error.cause(), Cause::Failed);
            assert!(error.to_string().contains("other bytes of a"), "{error}");
        }
    }
}
