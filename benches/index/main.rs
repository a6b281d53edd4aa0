//! What an index of many blobs costs: opening it, looking up in it, and a backup that finds everything known.
//!
//! `EYRIE_BENCH_BLOBS` sets how many blobs there are (default 10^6), `EYRIE_BENCH_SIZE` how many bytes each has
//! (default 16, of which some 10,000 fill a pack), and `TMPDIR` where they lie: 250 bytes more for each. Packs have
//! 1 MiB, so with 16 KiB there are 64 blobs in a pack, as there are of pieces of 1 MiB in packs of 64 MiB.
//! They are stored by sessions, as backups do, and each session merges the index. Times mean nothing by
//! themselves; each stands beside the time of what it cannot do without, measured in the same run.

use std::num::NonZeroU64;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use async_trait::async_trait;
use bytes::Bytes;
use eyrie::Result;
use eyrie::base::env::Env;
use eyrie::base::resources::{Limits, Resources};
use eyrie::repo::{
    Compression, Content, Entry, InitOptions, KeyRange, Manifest, ManifestDraft, ObjectSource,
    PieceRef, Repository, Roots, Totals, Unlock, Values, View,
};
use eyrie::store::local::{LocalSettings, LocalStore, MissingRoot};
use futures::{StreamExt as _, TryStreamExt as _};

/// Sessions that fill the repository.
const SESSIONS: u64 = 20;
/// Objects under way at once, as in a capture.
const IN_FLIGHT: usize = 64;
/// Look-ups of one kind.
const LOOK_UPS: usize = 100_000;
/// Bytes of an object, unless set.
const SIZE: u64 = 16;
/// Bytes of a pack, so that there are many without many bytes.
const PACK: u32 = 1 << 20;
/// Objects of a session that another session stored, too: one of so many.
const AGAIN: u64 = 50;

fn main() -> Result<()> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()?;
    runtime.block_on(run())
}

async fn run() -> Result<()> {
    let blobs = setting("EYRIE_BENCH_BLOBS").unwrap_or(1_000_000);
    let bytes = setting("EYRIE_BENCH_SIZE").unwrap_or(SIZE);
    let folder = tempfile::tempdir()?;
    println!(
        "{blobs} blobs of {bytes} bytes in {}",
        folder.path().display()
    );
    let (store, state) = (
        folder.path().join("repository"),
        folder.path().join("state"),
    );
    let limits = Limits {
        memory: NonZeroU64::new(256 << 20),
        ..Limits::default()
    };
    let resources = Resources::new(&limits)?;
    make(&store, &resources).await?;

    let before = resident();
    let begun = Instant::now();
    let mut newest = None;
    for session in 0..SESSIONS {
        let repo = open(&store, &state, &resources).await?;
        let objects = Objects {
            count: blobs / SESSIONS,
            bytes,
        };
        newest = Some(session_of(&repo, session, objects, newest).await?);
    }
    let filled = begun.elapsed();
    let Some(newest) = newest else { return Ok(()) };
    let (packs, _) = size(&store.join("data"));
    let (files, bytes) = size(&store.join("index"));
    println!("stored in {filled:.1?}; {packs} packs; {files} index segments of {bytes} MB in all");
    println!("\n| | time | beside it | ratio |\n|---|---|---|---|");

    // A copy of the bytes by one thread.
    let copied = time(async || {
        let copy = folder.path().join("copy");
        std::fs::create_dir_all(&copy)?;
        for file in std::fs::read_dir(store.join("index"))? {
            let file = file?;
            std::fs::copy(file.path(), copy.join(file.file_name()))?;
        }
        Ok(())
    });
    let ((), copied) = copied.await?;
    let repo = open(&store, &folder.path().join("other"), &resources).await?;
    let (_, cold) = time(async || repo.view().await).await?;
    row(
        "opening, nothing on this host",
        cold,
        "a copy of the segments",
        copied,
    );
    let repo = open(&store, &state, &resources).await?;
    let (view, warm) = time(async || repo.view().await).await?;
    row(
        "opening, as the session before left it",
        warm,
        "a copy of the segments",
        copied,
    );
    let opened = resident();

    look_ups(&view, &newest).await?;
    let scan = time(async || {
        let mut entries = view.map(newest.roots["objects"]).scan(KeyRange::all());
        let mut count = 0_u64;
        while entries.try_next().await?.is_some() {
            count += 1;
        }
        Ok(count)
    });
    let (count, scanned) = scan.await?;
    let repo = open(&store, &state, &resources).await?;
    let none = Objects { count: 0, bytes };
    let idle = time(async || session_of(&repo, SESSIONS, none, Some(newest.clone())).await);
    let (_, idle) = idle.await?;
    row(
        &format!("a backup of {count} objects, all known"),
        idle,
        "reading the list of them",
        scanned,
    );
    println!(
        "\nmemory: {before} MB before, {opened} MB when opened, {} MB at most",
        peak()
    );
    Ok(())
}

async fn look_ups(view: &View, newest: &Manifest) -> Result<()> {
    // Each look-up needs the id of its blob, which is hashed from its chaining value.
    let known = some_pieces(view, newest).await?;
    let unknown: Vec<PieceRef> = known.iter().map(|piece| shifted(*piece)).collect();
    let listing = view.listing().await?;
    let hashed = time(async || {
        let hashed = known
            .iter()
            .map(|piece| blake3::hash(&piece.cv.to_string().into_bytes()));
        std::hint::black_box(hashed.collect::<Vec<_>>());
        Ok(())
    });
    let ((), hashed) = hashed.await?;
    for (name, pieces, missing) in [("known", &known, false), ("unknown", &unknown, true)] {
        let found = time(async || {
            for piece in pieces {
                let found = view.find(&listing, &[std::slice::from_ref(piece)]).await?;
                assert_eq!(found[0].missing.is_empty(), !missing);
            }
            Ok(())
        });
        let ((), took) = found.await?;
        let each = took / u32::try_from(pieces.len().max(1)).unwrap_or(u32::MAX);
        row(
            &format!(
                "{} look-ups of {name} blobs, one after the other, each {each:.1?}",
                pieces.len()
            ),
            took,
            "hashing as many ids",
            hashed,
        );
    }
    Ok(())
}

fn row(name: &str, took: Duration, beside: &str, other: Duration) {
    let ratio = took.as_secs_f64() / other.as_secs_f64();
    println!("| {name} | {took:.2?} | {beside}: {other:.2?} | {ratio:.1} |");
}

async fn time<T>(work: impl AsyncFnOnce() -> Result<T>) -> Result<(T, Duration)> {
    let begun = Instant::now();
    let done = work().await?;
    Ok((done, begun.elapsed()))
}

async fn make(path: &Path, resources: &Resources) -> Result<()> {
    let options = InitOptions {
        pack_size: PACK,
        ..InitOptions::default()
    };
    let env = Env::system();
    let made = Repository::init(directory(path)?, Unlock::None, options, resources, &env);
    made.await.map(drop)
}

async fn open(path: &Path, state: &Path, resources: &Resources) -> Result<Repository> {
    let env = Env::system();
    let opened = Repository::open(directory(path)?, Unlock::None, resources, &env);
    opened.await?.with_local_index(state)
}

fn directory(path: &Path) -> Result<Arc<LocalStore>> {
    let settings = LocalSettings {
        missing: MissingRoot::Create,
        ..LocalSettings::default()
    };
    Ok(Arc::new(LocalStore::open(path, settings)?))
}

/// So many objects of so many bytes.
#[derive(Clone, Copy)]
struct Objects {
    count: u64,
    bytes: u64,
}

/// A backup: what the one before had is known, and `new` objects are stored.
async fn session_of(
    repo: &Repository,
    session: u64,
    new: Objects,
    before: Option<Manifest>,
) -> Result<Manifest> {
    let writer = repo.begin_writer("bench", vec![], Compression::Off).await?;
    let mut map = writer.map(Values::Inline);
    let before = before.and_then(|before| before.roots["objects"]);
    let keeper = &writer;
    let known = writer.view().map(before).scan(KeyRange::all());
    let known = known.map_ok(|entry| async move {
        let Content::Object { pieces, .. } = &entry.content else {
            return Ok(entry);
        };
        assert!(keeper.contains(pieces).await?);
        Ok(entry)
    });
    let mut known = known.try_buffered(IN_FLIGHT).boxed();
    while let Some(entry) = known.try_next().await? {
        map.push(entry).await?;
    }
    drop(known);
    let stored = futures::stream::iter(0..new.count)
        .map(|n| {
            let object = Object {
                number: if n % AGAIN == 0 { n } else { session << 40 | n },
                bytes: new.bytes,
            };
            async move {
                let stored = keeper.store_object(&object).await?;
                Ok::<_, eyrie::Error>(Entry {
                    key: format!("{session:03}/{n:012}").into(),
                    value: "{}".into(),
                    content: Content::Object {
                        hash: stored.hash,
                        size: stored.size,
                        pieces: stored.pieces,
                    },
                })
            }
        })
        .buffered(IN_FLIGHT);
    let mut stored = stored.boxed();
    while let Some(entry) = stored.try_next().await? {
        map.push(entry).await?;
    }
    drop(stored);
    let roots = Roots::from([
        ("objects".into(), map.finish().await?),
        ("anchor".into(), None),
    ]);
    let draft = ManifestDraft {
        time: Env::system().now(),
        roots,
        totals: Totals::default(),
        labels: std::collections::BTreeMap::new(),
        body: serde_json::Value::Null,
    };
    let manifest = writer.commit(draft).await?;
    writer.merge_index().await?;
    writer.finish().await?;
    Ok(manifest)
}

/// Pieces of objects here and there.
async fn some_pieces(view: &View, manifest: &Manifest) -> Result<Vec<PieceRef>> {
    let entries = view.map(manifest.roots["objects"]).scan(KeyRange::all());
    let pieces = entries.try_filter_map(|entry| {
        let piece = match &entry.content {
            // Its hash is as good as a die.
            Content::Object { hash, pieces, .. } if hash.to_string().ends_with('7') => {
                pieces.first().copied()
            }
            _ => None,
        };
        std::future::ready(Ok(piece))
    });
    pieces.take(LOOK_UPS).try_collect().await
}

/// A piece that no object has.
fn shifted(piece: PieceRef) -> PieceRef {
    PieceRef {
        length: piece.length + 1,
        ..piece
    }
}

/// Files below a directory, and their megabytes.
fn size(path: &Path) -> (usize, u64) {
    let files = walkdir::WalkDir::new(path).into_iter().flatten();
    let files = files.filter_map(|entry| entry.metadata().ok());
    let files: Vec<u64> = files
        .filter(std::fs::Metadata::is_file)
        .map(|m| m.len())
        .collect();
    (files.len(), files.iter().sum::<u64>() / 1_000_000)
}

fn status(name: &str) -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix(name));
    let kib = line.and_then(|line| line.split_whitespace().next()?.parse::<u64>().ok());
    kib.unwrap_or_default() / 1_000
}

/// Megabytes in memory.
fn resident() -> u64 {
    status("VmRSS:")
}

/// Megabytes in memory at most.
fn peak() -> u64 {
    status("VmHWM:")
}

fn setting(name: &str) -> Option<u64> {
    std::env::var(name).ok()?.parse().ok()
}

/// An object whose bytes follow from its number.
struct Object {
    number: u64,
    bytes: u64,
}

#[async_trait]
impl ObjectSource for Object {
    fn name(&self) -> String {
        self.number.to_string()
    }

    fn size(&self) -> u64 {
        self.bytes
    }

    async fn piece(&self, _: u64, len: usize) -> Result<Bytes> {
        let bytes = Bytes::from(self.number.to_le_bytes().repeat(len.div_ceil(8)));
        Ok(bytes.slice(..len))
    }
}
