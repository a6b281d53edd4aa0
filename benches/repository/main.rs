//! How fast a repository takes objects in and gives them back, as ratios to what the same bytes
//! cost the bare crates, measured in the same run.
//!
//! `cargo bench` prints a table for a few large objects and one for many small ones. A figure in
//! MB/s means nothing by itself; the ratio does. `EYRIE_BENCH_MB` sets the amount (default 512),
//! `EYRIE_BENCH_FILES` how many small objects there are (default 20,000), `TMPDIR` where they lie.

mod ceiling;

use eyrie::base::resources::Resources;
use std::num::NonZeroUsize;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use async_trait::async_trait;
use bytes::Bytes;
use eyrie::Result;
use eyrie::base::env::Env;
use eyrie::base::secret::Secret;
use eyrie::repo::{
    CheckBytes, Compression, InitOptions, ObjectSource, Repository, Sink, StoredObject, Unlock,
};
use eyrie::store::local::{LocalSettings, LocalStore, MissingRoot};
use eyrie::store::{Durability, GetOptions, Key, PutOptions, SharedStore};
use futures::{StreamExt as _, TryStreamExt as _};

use ceiling::{Ceiling, Source};

/// Runs of each case; the median counts.
const RUNS: usize = 3;

/// Pieces of a large object that are read at once.
const PIECES_AT_ONCE: NonZeroUsize = NonZeroUsize::new(4).unwrap();

/// Objects under way at once, as in a capture.
const IN_FLIGHT: usize = 64;

/// Sizes of small objects in turn, in bytes: those of a real instance's logs.
const SMALL: [usize; 10] = [485, 620, 910, 1_500, 530, 2_900, 4_200, 78_000, 660, 5_200];

/// The size of a large object, in bytes.
const LARGE: usize = 32 << 20;

fn main() -> Result<()> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()?;
    runtime.block_on(run())
}

fn setting(name: &str, default: usize) -> usize {
    let value = std::env::var(name).ok();
    value.and_then(|text| text.parse().ok()).unwrap_or(default)
}

async fn run() -> Result<()> {
    let folder = tempfile::tempdir()?;
    println!("in {}", folder.path().display());
    let large = setting("EYRIE_BENCH_MB", 512) << 20;
    let sizes = std::iter::repeat_n(LARGE, large.div_ceil(LARGE));
    table("large objects", folder.path(), sizes).await?;
    let small = setting("EYRIE_BENCH_FILES", 20_000);
    table(
        "small objects",
        folder.path(),
        SMALL.into_iter().cycle().take(small),
    )
    .await
}

async fn table(name: &str, folder: &Path, sizes: impl Iterator<Item = usize>) -> Result<()> {
    let bench = Bench::fill(folder, sizes).await?;
    println!(
        "\n{} {name}, {} MB\n\n| case | eyrie | bare crates | ratio |\n|---|---|---|---|",
        bench.keys.len(),
        bench.bytes / 1_000_000
    );
    let ceiling = Ceiling::new(&bench.sources)?;
    let empty = |name: &'static str| async move { fresh(folder, name) };
    let copy = bench.median(|| empty("copy"), async |to| ceiling.copy(&to));
    let copied = copy.await?;
    for (name, compression) in [
        ("not compressed", Compression::Off),
        ("compressed where it pays", Compression::Auto),
    ] {
        let bare = bench.median(
            || empty("packs"),
            async |to| ceiling.backup(&to, compression).map(drop),
        );
        let bare = bare.await?;
        let ours = bench.median(
            || repository(folder),
            async |to| bench.store(&to, compression).await.map(drop),
        );
        row(&format!("backup, {name}"), ours.await?, bare);
    }
    let packs = ceiling.backup(&fresh(folder, "packs")?, Compression::Auto)?;
    let from = repository(folder).await?;
    let stored = bench.store(&from, Compression::Auto).await?;
    let ready = || async { Ok(()) };
    let bare = bench
        .median(ready, async |()| ceiling.verify(&packs))
        .await?;
    let ours = bench.median(ready, async |()| {
        let check = from.check(&[], CheckBytes::All);
        check.await.map(drop)
    });
    row("verify of bytes", ours.await?, bare);
    let bare = bench.median(|| empty("files"), async |to| ceiling.restore(&packs, &to));
    let bare = bare.await?;
    let ours = bench.median(
        || empty("files"),
        async |to| bench.restore(&from, &stored, &to).await,
    );
    row("restore", ours.await?, bare);
    println!("\na copy of the files by the same threads: {copied:.0} MB/s");
    Ok(())
}

fn row(name: &str, ours: f64, bare: f64) {
    println!(
        "| {name} | {ours:.0} MB/s | {bare:.0} MB/s | {:.2} |",
        ours / bare
    );
}

/// A set of files, as objects of a store.
struct Bench {
    store: SharedStore,
    keys: Vec<Key>,
    sources: Vec<Source>,
    bytes: u64,
}

impl Bench {
    /// Makes files of `sizes` that have nothing in common; half of each does not compress.
    async fn fill(folder: &Path, sizes: impl Iterator<Item = usize>) -> Result<Self> {
        let root = fresh(folder, "source")?;
        let mut bench = Self {
            store: open(&root)?,
            keys: Vec::new(),
            sources: Vec::new(),
            bytes: 0,
        };
        for (n, size) in sizes.enumerate() {
            let key = Key::new(format!("{}/{n}", n / 1_000))?;
            let mut data = vec![0; size];
            let mut hasher = blake3::Hasher::new();
            hasher
                .update(key.as_str().as_bytes())
                .finalize_xof()
                .fill(&mut data);
            data[size / 2..].iter_mut().for_each(|byte| *byte &= 0x0f);
            bench.sources.push(Source {
                path: root.join(key.as_str()),
                size: size as u64,
            });
            bench.store.put(&key, data.into(), deferred()).await?;
            bench.keys.push(key);
            bench.bytes += size as u64;
        }
        Ok(bench)
    }

    /// Runs `case` on what `prepare` makes, and gives its median speed in MB/s. What is made before,
    /// such as a key from a passphrase, does not count.
    async fn median<P, W>(
        &self,
        prepare: impl Fn() -> W,
        case: impl AsyncFn(P) -> Result<()>,
    ) -> Result<f64>
    where
        W: Future<Output = Result<P>>,
    {
        let mut times = Vec::new();
        for _ in 0..RUNS {
            let prepared = prepare().await?;
            let begun = Instant::now();
            case(prepared).await?;
            times.push(begun.elapsed());
        }
        times.sort();
        let middle: Duration = times[RUNS / 2];
        let kilobytes = u32::try_from(self.bytes / 1_000).unwrap_or(u32::MAX);
        Ok(f64::from(kilobytes) / 1e3 / middle.as_secs_f64())
    }

    async fn store(
        &self,
        repository: &Repository,
        compression: Compression,
    ) -> Result<Vec<StoredObject>> {
        let writer = repository
            .begin_writer("bench", vec![], compression)
            .await?;
        let stored: Vec<StoredObject> = futures::stream::iter(self.keys.iter().zip(&self.sources))
            .map(|(key, source)| async {
                let object = Object {
                    store: self.store.clone(),
                    key: key.clone(),
                    size: source.size,
                };
                writer.store_object(&object).await
            })
            .buffered(IN_FLIGHT)
            .try_collect()
            .await?;
        writer.flush().await?;
        writer.finish().await?;
        Ok(stored)
    }

    /// Writes every object to a file again: by pack where it has one piece, streamed where several.
    async fn restore(
        &self,
        repository: &Repository,
        stored: &[StoredObject],
        to: &Path,
    ) -> Result<()> {
        let view = repository.view().await?;
        let files = Files {
            store: open(to)?,
            keys: &self.keys,
        };
        let (small, large): (Vec<_>, Vec<_>) = (0..)
            .zip(stored)
            .partition(|(_, object)| object.pieces.len() <= 1);
        let plan = view.read_plan(small.iter().map(|(n, object)| (*n, &object.pieces)));
        let plan = plan.await.unwrap();
        plan.execute(&files).await?;
        futures::stream::iter(large)
            .map(|(n, object)| {
                files.stream(n, view.read_object(object.pieces.clone(), PIECES_AT_ONCE))
            })
            .buffer_unordered(2)
            .try_collect()
            .await
    }
}

fn deferred() -> PutOptions {
    PutOptions {
        durability: Durability::Deferred,
        ..PutOptions::default()
    }
}

fn open(path: &Path) -> Result<SharedStore> {
    let settings = LocalSettings {
        missing: MissingRoot::Create,
        ..LocalSettings::default()
    };
    Ok(Arc::new(LocalStore::open(path, settings)?))
}

fn fresh(folder: &Path, name: &str) -> Result<std::path::PathBuf> {
    let path = folder.join(name);
    if path.exists() {
        std::fs::remove_dir_all(&path)?;
    }
    Ok(path)
}

async fn repository(folder: &Path) -> Result<Repository> {
    let store = open(&fresh(folder, "repository")?)?;
    let unlock = Unlock::Passphrase(Secret::new("a passphrase of the bench"));
    Repository::init(
        store,
        unlock,
        InitOptions::default(),
        &Resources::of_tests(),
        &Env::system(),
    )
    .await
}

struct Object {
    store: SharedStore,
    key: Key,
    size: u64,
}

#[async_trait]
impl ObjectSource for Object {
    fn name(&self) -> String {
        self.key.to_string()
    }

    fn size(&self) -> u64 {
        self.size
    }

    async fn piece(&self, offset: u64, len: usize) -> Result<Bytes> {
        let options = GetOptions {
            range: Some(offset..offset + len as u64),
            version: None,
        };
        self.store.get(&self.key, options).await
    }
}

/// Files that objects go back to.
struct Files<'a> {
    store: SharedStore,
    keys: &'a [Key],
}

impl Files<'_> {
    fn key(&self, item: u64) -> &Key {
        &self.keys[usize::try_from(item).unwrap_or(usize::MAX)]
    }

    async fn stream(
        &self,
        item: u64,
        mut pieces: impl futures::Stream<Item = Result<Bytes>> + Unpin,
    ) -> Result<()> {
        let mut upload = self.store.upload(self.key(item), deferred()).await?;
        while let Some(bytes) = pieces.try_next().await? {
            upload.write(bytes).await?;
        }
        upload.finish().await?;
        Ok(())
    }
}

#[async_trait]
impl Sink for Files<'_> {
    async fn piece(&self, item: u64, _: u64, bytes: Bytes) -> Result<()> {
        self.store.put(self.key(item), bytes, deferred()).await?;
        Ok(())
    }
}
