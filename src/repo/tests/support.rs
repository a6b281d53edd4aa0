//! What the tests share: small cuts, objects from seeds, a backup and a restore.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use bytes::Bytes;
use futures::stream::BoxStream;
use futures::{StreamExt, TryStreamExt};
use jiff::Timestamp;
use tokio::sync::Notify;

use crate::base::env::{Env, lock};
use crate::base::resources::Resources;
use crate::repo::{
    Chunking, Compression, Content, Entry, InitOptions, KdfCost, KeyRange, Manifest, ManifestDraft,
    ObjectSource, PieceRef, Repository, Roots, Sink, StoredObject, Totals, Unlock, Values, View,
    Writer,
};
use crate::store::testing::memory::MemoryStore;
use crate::store::{
    Capabilities, GetOptions, Key, ListOptions, Meta, Part, Parts, Put, PutOptions, SharedStore,
    Store, Unfinished,
};
use crate::{Cause, Error, Result};

/// Pieces of 4 KiB, so that small objects have many.
pub const CUTS: Chunking = Chunking {
    cut: 4096,
    whole: 6144,
};
/// A key derivation that costs nothing.
pub const CHEAP: KdfCost = KdfCost {
    m_kib: 8,
    t: 1,
    p: 1,
};

pub type Objects = BTreeMap<String, Bytes>;

/// `len` bytes that do not compress, different for each `seed`.
pub fn noise(seed: u64, len: usize) -> Bytes {
    let mut out = vec![0; len];
    blake3::Hasher::new()
        .update(&seed.to_le_bytes())
        .finalize_xof()
        .fill(&mut out);
    out.into()
}

/// `len` bytes that compress, different for each `seed`.
pub fn text(seed: u64, len: usize) -> Bytes {
    format!("object {seed} says the same again; ")
        .into_bytes()
        .into_iter()
        .cycle()
        .take(len)
        .collect()
}

/// A handful of objects of every kind: empty, small, compressible, at the cuts, large.
pub fn objects(seed: u64) -> Objects {
    let sizes = [0, 1, 100, 1024, 1025, 4096, 6144, 6145, 8192, 50_000];
    let mut all: Objects = sizes
        .iter()
        .map(|size| {
            (
                format!("noise/{size:06}"),
                noise(seed + *size as u64, *size),
            )
        })
        .collect();
    all.insert("text/large".into(), text(seed, 30_000));
    all.insert("text/small".into(), text(seed, 3_000));
    all
}

/// An object in memory.
pub struct Source(pub String, pub Bytes);

#[async_trait]
impl ObjectSource for Source {
    fn name(&self) -> String {
        self.0.clone()
    }

    fn size(&self) -> u64 {
        self.1.len() as u64
    }

    async fn piece(&self, offset: u64, len: usize) -> Result<Bytes> {
        let from = usize::try_from(offset).unwrap();
        Ok(self.1.slice(from..self.1.len().min(from + len)))
    }
}

pub fn memory() -> (Arc<MemoryStore>, SharedStore) {
    let store = Arc::new(MemoryStore::new());
    (store.clone(), store)
}

pub fn options() -> InitOptions {
    InitOptions {
        cuts: CUTS,
        kdf: CHEAP,
        label: "test".into(),
        ..InitOptions::default()
    }
}

pub async fn init(store: SharedStore) -> Repository {
    Repository::init(
        store,
        Unlock::None,
        options(),
        &Resources::of_tests(),
        &Env::system(),
    )
    .await
    .unwrap()
}

pub async fn open(store: SharedStore) -> Result<Repository> {
    Repository::open(store, Unlock::None, &Resources::of_tests(), &Env::system()).await
}

pub async fn writer(repo: &Repository, instance: &str) -> Result<Writer> {
    repo.begin_writer(instance, vec![], Compression::Auto).await
}

pub fn draft(roots: Roots) -> ManifestDraft {
    ManifestDraft {
        time: Timestamp::UNIX_EPOCH,
        roots,
        totals: Totals::default(),
        labels: BTreeMap::new(),
        body: serde_json::json!({"note": "made by a test"}),
    }
}

pub async fn store(writer: &Writer, name: &str, bytes: &Bytes) -> Result<StoredObject> {
    let stored = writer
        .store_object(&Source(name.into(), bytes.clone()))
        .await?;
    assert_eq!(&stored.hash.0, blake3::hash(bytes).as_bytes(), "{name}");
    Ok(stored)
}

pub fn entry(key: &str, stored: StoredObject) -> Entry {
    let StoredObject {
        hash, size, pieces, ..
    } = stored;
    Entry {
        key: key.to_owned().into(),
        value: format!("{{\"about\":\"{key}\"}}").into(),
        content: Content::Object { hash, size, pieces },
    }
}

/// Stores `objects` and commits a snapshot of them. Returns it with the bytes it added.
pub async fn write_snapshot(writer: &Writer, objects: &Objects) -> Result<(Manifest, u64)> {
    let mut map = writer.map(Values::Inline);
    for (key, bytes) in objects {
        map.push(entry(key, store(writer, key, bytes).await?))
            .await?;
    }
    let roots = Roots::from([
        ("objects".into(), map.finish().await?),
        ("anchor".into(), None),
    ]);
    Ok((writer.commit(draft(roots)).await?, writer.bytes_added()))
}

/// A whole session that backs up `objects`.
pub async fn backup(
    repo: &Repository,
    instance: &str,
    objects: &Objects,
) -> Result<(Manifest, u64)> {
    let writer = writer(repo, instance).await?;
    let done = write_snapshot(&writer, objects).await;
    writer.finish().await?;
    done
}

/// Collects what a plan reads.
#[derive(Default)]
pub struct Collect(pub Mutex<BTreeMap<u64, BTreeMap<u64, Bytes>>>);

#[async_trait]
impl Sink for Collect {
    async fn piece(&self, item: u64, offset: u64, bytes: Bytes) -> Result<()> {
        // What is kept must not count in the memory budget for ever.
        let bytes = Bytes::copy_from_slice(&bytes);
        lock(&self.0).entry(item).or_default().insert(offset, bytes);
        Ok(())
    }
}

/// The map of a snapshot.
pub async fn entries(view: &View, manifest: &Manifest) -> Result<Vec<Entry>> {
    view.map(manifest.roots["objects"])
        .scan(KeyRange::all())
        .try_collect()
        .await
}

pub fn pieces(entry: &Entry) -> &[PieceRef] {
    match &entry.content {
        Content::Object { pieces, .. } => pieces,
        other => panic!("{other:?} is no object"),
    }
}

/// Reads a snapshot back, by plan.
pub async fn restore(view: &View, manifest: &Manifest) -> Result<Objects> {
    let entries = entries(view, manifest).await?;
    let collect = Collect::default();
    let plan = view
        .read_plan((0..).zip(entries.iter().map(pieces)))
        .await?;
    plan.execute(&collect).await?;
    let mut read = collect.0.into_inner().unwrap();
    Ok((0..)
        .zip(&entries)
        .map(|(item, entry)| {
            let parts = read.remove(&item).unwrap_or_default();
            let bytes: Vec<u8> = parts.values().flatten().copied().collect();
            (String::from_utf8(entry.key.to_vec()).unwrap(), bytes.into())
        })
        .collect())
}

/// A store that keeps what a crash after each of its writes would leave, and that can be told to
/// run full at one of them.
#[derive(Debug, Clone, Default)]
pub struct Journal {
    pub now: MemoryStore,
    pub states: Arc<Mutex<Vec<(String, MemoryStore)>>>,
    /// Writes until the store is full.
    pub room: Arc<Mutex<Option<usize>>>,
}

impl Journal {
    fn write(&self) -> Result<()> {
        match &mut *lock(&self.room) {
            Some(0) => Err(Error::new(Cause::NoSpace, "the store is full")),
            Some(room) => {
                *room -= 1;
                Ok(())
            }
            None => Ok(()),
        }
    }

    fn wrote(&self, what: &Key) {
        lock(&self.states).push((what.to_string(), self.now.fork()));
    }
}

#[derive(Debug)]
struct JournalParts(Journal, Key, Arc<dyn Parts>);

#[async_trait]
impl Parts for JournalParts {
    async fn part(&self, part: Part) -> Result<()> {
        self.0.write()?;
        self.2.part(part).await
    }

    async fn finish(&self, last: Part) -> Result<Put> {
        self.0.write()?;
        let put = self.2.finish(last).await?;
        self.0.wrote(&self.1);
        Ok(put)
    }

    async fn abort(&self) -> Result<()> {
        self.2.abort().await
    }
}

#[async_trait]
impl Store for Journal {
    fn location(&self) -> String {
        "journal".into()
    }

    fn capabilities(&self) -> Capabilities {
        self.now.capabilities()
    }

    async fn get(&self, key: &Key, options: GetOptions) -> Result<Bytes> {
        self.now.get(key, options).await
    }

    async fn put(&self, key: &Key, bytes: Bytes, options: PutOptions) -> Result<Put> {
        self.write()?;
        let put = self.now.put(key, bytes, options).await?;
        self.wrote(key);
        Ok(put)
    }

    async fn parts(&self, key: &Key, options: PutOptions) -> Result<Arc<dyn Parts>> {
        let parts = self.now.parts(key, options).await?;
        Ok(Arc::new(JournalParts(self.clone(), key.clone(), parts)))
    }

    async fn head(&self, key: &Key) -> Result<Meta> {
        self.now.head(key).await
    }

    fn list(&self, prefix: &str, options: ListOptions) -> BoxStream<'_, Result<Meta>> {
        self.now.list(prefix, options)
    }

    async fn delete(&self, key: &Key, version: Option<&str>) -> Result<()> {
        self.now.delete(key, version).await?;
        self.wrote(key);
        Ok(())
    }

    async fn sync(&self) -> Result<()> {
        self.now.sync().await
    }

    fn unfinished(&self) -> Vec<Unfinished> {
        self.now.unfinished()
    }

    async fn remove_unfinished(&self, left: &Unfinished) -> Result<()> {
        self.now.remove_unfinished(left).await
    }
}

/// The files of a store under `prefix`.
pub async fn paths(store: &MemoryStore, prefix: &str) -> Vec<Key> {
    let repo = open(Arc::new(store.fork())).await.unwrap();
    repo.list(prefix)
        .await
        .unwrap()
        .into_iter()
        .map(|meta| meta.key)
        .collect()
}

/// Changes a stored file.
pub async fn damage(store: &MemoryStore, key: &Key, how: impl Fn(&mut Vec<u8>)) {
    let mut bytes = store
        .get(key, GetOptions::default())
        .await
        .unwrap()
        .to_vec();
    how(&mut bytes);
    store
        .put(key, Bytes::from(bytes), PutOptions::default())
        .await
        .unwrap();
}

/// A store whose listings hide what they are told to, or are answered late: after something was done.
#[derive(Debug)]
pub struct Lists {
    pub inner: MemoryStore,
    pub hides: Mutex<Option<String>>,
    /// Answers the next listing of this prefix after it was told to go on.
    pub gate: Mutex<Option<(String, Arc<Gate>)>>,
}

/// Where a listing waits.
#[derive(Debug, Default)]
pub struct Gate {
    pub listed: Notify,
    pub go_on: Notify,
}

impl Lists {
    pub fn new(inner: MemoryStore) -> Self {
        let (hides, gate) = (Mutex::default(), Mutex::default());
        Self { inner, hides, gate }
    }
}

#[async_trait]
impl Store for Lists {
    fn location(&self) -> String {
        self.inner.location()
    }

    fn capabilities(&self) -> Capabilities {
        self.inner.capabilities()
    }

    async fn get(&self, key: &Key, options: GetOptions) -> Result<Bytes> {
        self.inner.get(key, options).await
    }

    async fn put(&self, key: &Key, bytes: Bytes, options: PutOptions) -> Result<Put> {
        self.inner.put(key, bytes, options).await
    }

    async fn parts(&self, key: &Key, options: PutOptions) -> Result<Arc<dyn Parts>> {
        self.inner.parts(key, options).await
    }

    async fn head(&self, key: &Key) -> Result<Meta> {
        self.inner.head(key).await
    }

    fn list(&self, prefix: &str, options: ListOptions) -> BoxStream<'_, Result<Meta>> {
        let hides = lock(&self.hides).clone();
        let shown = move |meta: &Meta| hides.as_deref() != Some(meta.key.as_str());
        let gate = lock(&self.gate).take_if(|(of, _)| of == prefix);
        let prefix = prefix.to_owned();
        let listed = async move {
            let all: Vec<Result<Meta>> = self.inner.list(&prefix, options).collect().await;
            if let Some((_, gate)) = gate {
                gate.listed.notify_one();
                gate.go_on.notified().await;
            }
            futures::stream::iter(all)
        };
        futures::stream::once(listed)
            .flatten()
            .try_filter(move |meta| std::future::ready(shown(meta)))
            .boxed()
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
