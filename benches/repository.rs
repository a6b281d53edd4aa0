//! How fast a repository takes objects in and gives them back, as ratios to what the same bytes
//! cost without one, measured in the same run.
//!
//! `cargo bench` prints a table. The first figure of a row is in MB/s and means nothing by itself;
//! the ratio does. `EYRIE_BENCH_MB` sets the amount (default 512), `TMPDIR` where it lies.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use async_trait::async_trait;
use bytes::Bytes;
use eyrie::Result;
use eyrie::env::Env;
use eyrie::repo::{Compression, InitOptions, ObjectSource, Repository, Sink, StoredObject, Unlock};
use eyrie::secret::Secret;
use eyrie::store::local::{LocalSettings, LocalStore, MissingRoot};
use eyrie::store::{GetOptions, Key, PutOptions, SharedStore};
use futures::{StreamExt as _, TryStreamExt as _};

/// Runs of each case; the median counts.
const RUNS: usize = 3;

/// Objects under way at once, as in a capture.
const IN_FLIGHT: usize = 64;

/// Sizes of the objects: most files of Milvus are tiny, most bytes are in few.
const SIZES: [usize; 4] = [1 << 10, 64 << 10, 4 << 20, 32 << 20];

fn main() -> Result<()> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()?;
    runtime.block_on(run())
}

async fn run() -> Result<()> {
    let megabytes: usize = std::env::var("EYRIE_BENCH_MB")
        .ok()
        .and_then(|text| text.parse().ok())
        .unwrap_or(512);
    let folder = tempfile::tempdir()?;
    let source = open(&folder.path().join("source"))?;
    let (keys, bytes) = fill(&source, megabytes << 20).await?;
    println!(
        "{} objects, {} MB, {}",
        keys.len(),
        bytes >> 20,
        folder.path().display()
    );

    let copied = median(bytes, || async {
        let target = fresh(folder.path(), "copy")?;
        each(&keys, |key| async {
            let data = source.get(key, GetOptions::default()).await?;
            target.put(key, data, PutOptions::default()).await?;
            Ok(())
        })
        .await
    })
    .await?;
    let hashed = median(bytes, || async {
        each(&keys, |key| async {
            let data = source.get(key, GetOptions::default()).await?;
            std::hint::black_box(blake3::hash(&data));
            Ok(())
        })
        .await
    })
    .await?;
    row("copy the files", copied, copied);
    row("read and hash the files", hashed, copied);
    for (name, compression) in [
        ("backup", Compression::Auto),
        ("backup, not compressed", Compression::Off),
    ] {
        let speed = median(bytes, || async {
            let repository = repository(folder.path()).await?;
            store(&repository, &source, &keys, compression).await?;
            Ok(())
        })
        .await?;
        row(name, speed, copied);
    }
    let repository = repository(folder.path()).await?;
    let stored = store(&repository, &source, &keys, Compression::Auto).await?;
    let restored = median(bytes, || async {
        let view = repository.view().await?;
        let plan = view.read_plan(
            stored
                .iter()
                .enumerate()
                .map(|(n, o)| (n as u64, &o.pieces)),
        );
        plan.execute(&Discard).await
    })
    .await?;
    row("read back, decrypted and proved", restored, copied);
    Ok(())
}

fn row(name: &str, speed: f64, baseline: f64) {
    println!(
        "{name:<34} {speed:>8.0} MB/s   {:>5.2} x copy",
        speed / baseline
    );
}

/// Runs `case` and gives its median speed in MB/s.
async fn median<F, W>(bytes: usize, case: F) -> Result<f64>
where
    F: Fn() -> W,
    W: Future<Output = Result<()>>,
{
    let mut times = Vec::new();
    for _ in 0..RUNS {
        let begun = Instant::now();
        case().await?;
        times.push(begun.elapsed());
    }
    times.sort();
    let middle: Duration = times[RUNS / 2];
    let microseconds = u32::try_from(middle.as_micros()).unwrap_or(u32::MAX);
    let kilobytes = u32::try_from(bytes / 1000).unwrap_or(u32::MAX);
    Ok(f64::from(kilobytes) * 1e3 / f64::from(microseconds))
}

async fn each<'a, F, W>(keys: &'a [Key], work: F) -> Result<()>
where
    F: Fn(&'a Key) -> W,
    W: Future<Output = Result<()>>,
{
    futures::stream::iter(keys)
        .map(work)
        .buffer_unordered(IN_FLIGHT)
        .try_collect()
        .await
}

fn open(path: &Path) -> Result<SharedStore> {
    let settings = LocalSettings {
        missing: MissingRoot::Create,
        ..LocalSettings::default()
    };
    Ok(Arc::new(LocalStore::open(path, settings)?))
}

fn fresh(folder: &Path, name: &str) -> Result<SharedStore> {
    let path = folder.join(name);
    if path.exists() {
        std::fs::remove_dir_all(&path)?;
    }
    open(&path)
}

async fn repository(folder: &Path) -> Result<Repository> {
    let store = fresh(folder, "repository")?;
    let unlock = Unlock::Passphrase(Secret::new("a passphrase of the bench"));
    Repository::init(store, unlock, InitOptions::default(), &Env::system()).await
}

/// Fills a store with objects of each size in turn, each size the same number of bytes but the
/// smallest.
async fn fill(store: &SharedStore, bytes: usize) -> Result<(Vec<Key>, usize)> {
    let mut keys = Vec::new();
    let mut total = 0;
    for (n, size) in SIZES.into_iter().enumerate() {
        let share = if n == 0 { bytes / 256 } else { bytes / 3 };
        for at in 0..share.div_ceil(size) {
            let key = Key::new(format!("{n}/{at}"))?;
            let mut data = vec![0; size];
            let seed = format!("{n}/{at}");
            blake3::Hasher::new()
                .update(seed.as_bytes())
                .finalize_xof()
                .fill(&mut data);
            total += size;
            store.put(&key, data.into(), PutOptions::default()).await?;
            keys.push(key);
        }
    }
    Ok((keys, total))
}

async fn store(
    repository: &Repository,
    source: &SharedStore,
    keys: &[Key],
    compression: Compression,
) -> Result<Vec<StoredObject>> {
    let writer = repository
        .begin_writer("bench", vec![], compression)
        .await?;
    let stored: Vec<StoredObject> = futures::stream::iter(keys)
        .map(|key| async {
            let size = source.head(key).await?.size;
            let object = Object {
                store: source.clone(),
                key: key.clone(),
                size,
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

struct Discard;

#[async_trait]
impl Sink for Discard {
    async fn piece(&self, _: u64, _: u64, bytes: Bytes) -> Result<()> {
        std::hint::black_box(bytes);
        Ok(())
    }
}
