//! Objects in, the same bytes out.

use std::num::{NonZeroU64, NonZeroUsize};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use futures::{StreamExt, TryStreamExt, stream};
use proptest::prelude::*;

use super::support::*;
use crate::Cause;
use crate::base::env::Env;
use crate::base::resources::{Limits, Resources};
use crate::base::secret::Secret;
use crate::repo::{Compression, Found, InitOptions, ObjectSource, Repository, Unlock};
use crate::store::testing::fault::{Action, FaultStore, Rule};
use crate::store::testing::memory::MemoryStore;

#[tokio::test]
async fn a_snapshot_restores_bit_exact_and_a_second_one_adds_nothing_but_its_manifest() {
    let (_, store) = memory();
    let repo = init(store.clone()).await;
    let data = objects(1);
    let (first, added) = backup(&repo, "a", &data).await.unwrap();
    assert!(added > 75_000);
    assert_eq!((first.sequence, first.parent), (1, None));

    let again = open(store).await.unwrap();
    let (second, added) = backup(&again, "a", &data).await.unwrap();
    assert_eq!(added, 0);
    assert_eq!(
        (second.sequence, second.parent),
        (2, Some(first.as_parent()))
    );
    assert_eq!(second.roots, first.roots);

    let reader = again
        .begin_reader("a", vec![second.snapshot])
        .await
        .unwrap();
    assert_eq!(restore(reader.view(), &second).await.unwrap(), data);
    for entry in entries(reader.view(), &first).await.unwrap() {
        let parts: Vec<_> = reader
            .view()
            .read_object(pieces(&entry).to_vec(), NonZeroUsize::MIN)
            .try_collect()
            .await
            .unwrap();
        assert_eq!(
            parts.concat(),
            data[std::str::from_utf8(&entry.key).unwrap()]
        );
    }
    reader.check_lease().unwrap();
    reader.finish().await;

    let snapshots = again.snapshots().await.unwrap();
    assert!(snapshots.damage.is_empty());
    assert_eq!(
        snapshots.find("latest", Some("a")).unwrap().snapshot,
        second.snapshot
    );
    let report = again
        .check(&[], crate::repo::CheckBytes::All)
        .await
        .unwrap();
    assert_eq!(report.damage, []);
    assert!(report.packs >= 3 && report.bytes_read > 75_000 && report.nodes > 0);
}

#[tokio::test]
async fn with_a_passphrase_only_that_opens_it() {
    let (_, store) = memory();
    let unlock = |text: &str| Unlock::Passphrase(Secret::new(text));
    let env = Env::system();
    let repo = Repository::init(
        store.clone(),
        unlock("right"),
        options(),
        &Resources::of_tests(),
        &env,
    )
    .await
    .unwrap();
    assert!(repo.encrypted());
    let (manifest, _) = backup(&repo, "a", &objects(2)).await.unwrap();

    let error = |unlock| async {
        Repository::open(store.clone(), unlock, &Resources::of_tests(), &env)
            .await
            .unwrap_err()
            .exit_code()
    };
    assert_eq!(error(unlock("wrong")).await, 12);
    assert_eq!(error(Unlock::None).await, 12);
    let repo = Repository::open(store.clone(), unlock("right"), &Resources::of_tests(), &env)
        .await
        .unwrap();
    assert_eq!(
        restore(&repo.view().await.unwrap(), &manifest)
            .await
            .unwrap(),
        objects(2)
    );

    let (_, plain) = memory();
    init(plain.clone()).await;
    let refused = Repository::open(plain, unlock("right"), &Resources::of_tests(), &env)
        .await
        .unwrap_err();
    assert_eq!(refused.cause(), Cause::WrongKey);
}

#[tokio::test]
async fn an_empty_backendis_no_repository_and_an_occupied_one_is_not_made_anew() {
    let (memory, store) = memory();
    let error = open(store.clone()).await.unwrap_err();
    assert_eq!(error.exit_code(), 10);
    let repo = init(store.clone()).await;
    let again = Repository::init(
        store.clone(),
        Unlock::None,
        options(),
        &Resources::of_tests(),
        &Env::system(),
    )
    .await;
    assert!(
        again
            .unwrap_err()
            .to_string()
            .contains("there is a repository")
    );

    backup(&repo, "a", &objects(1)).await.unwrap();
    let headless = Arc::new(memory.fork());
    let config = crate::store::Key::new("config").unwrap();
    crate::store::Store::delete(&*headless, &config, None)
        .await
        .unwrap();
    let again = Repository::init(
        headless,
        Unlock::None,
        options(),
        &Resources::of_tests(),
        &Env::system(),
    )
    .await;
    assert!(
        again
            .unwrap_err()
            .to_string()
            .contains("whose config is missing")
    );
}

#[tokio::test]
async fn impossible_cuts_are_refused() {
    let (_, store) = memory();
    let mut options: InitOptions = options();
    options.cuts.cut = 5000;
    let made = Repository::init(
        store,
        Unlock::None,
        options,
        &Resources::of_tests(),
        &Env::system(),
    )
    .await;
    assert_eq!(made.unwrap_err().cause(), Cause::Invalid);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn many_tasks_backendat_once_and_equal_pieces_are_stored_once() {
    let (_, backend) = memory();
    let repo = init(backend).await;
    let writer = Arc::new(writer(&repo, "a").await.unwrap());
    let stored: Vec<_> = stream::iter(0..600_u64)
        .map(|n| {
            let writer = writer.clone();
            tokio::spawn(async move {
                store(
                    &writer,
                    "x",
                    &noise(n % 40, 1000 + usize::try_from(n % 40).unwrap() * 500),
                )
                .await
                .unwrap()
            })
        })
        .buffer_unordered(64)
        .try_collect()
        .await
        .unwrap();
    let added: u64 = stored.iter().map(|object| object.new_bytes).sum();
    assert_eq!(added, writer.bytes_added());
    writer.flush().await.unwrap();
    let view = repo.view().await.unwrap();
    let unique: std::collections::HashSet<_> = stored
        .iter()
        .flat_map(|object| &object.pieces)
        .map(|piece| piece.cv)
        .collect();
    assert_eq!(view.blobs(), unique.len() as u64);
    for object in &stored {
        assert!(writer.contains(&object.pieces).await.unwrap());
    }
    Arc::into_inner(writer).unwrap().finish().await.unwrap();
}

#[tokio::test]
async fn an_object_that_shrinks_is_an_error_that_names_it() {
    struct Shrinks;
    #[async_trait::async_trait]
    impl crate::repo::ObjectSource for Shrinks {
        fn name(&self) -> String {
            "insert_log/1/2/3".into()
        }
        fn size(&self) -> u64 {
            9000
        }
        async fn piece(&self, offset: u64, len: usize) -> crate::Result<bytes::Bytes> {
            Ok(noise(offset, if offset == 8192 { 7 } else { len }))
        }
    }
    let (_, store) = memory();
    let repo = init(store).await;
    let writer = writer(&repo, "a").await.unwrap();
    let error = writer.store_object(&Shrinks).await.unwrap_err();
    assert_eq!(
        error.to_string(),
        "insert_log/1/2/3 changed while it was read: it had 9000 bytes and ended after 8199"
    );
    // The session goes on.
    write_snapshot(&writer, &objects(3)).await.unwrap();
    writer.finish().await.unwrap();
}

#[tokio::test]
async fn what_a_call_that_was_dropped_still_stores_is_flushed() {
    let (_, backend) = memory();
    let whole = InitOptions {
        kdf: CHEAP,
        ..InitOptions::default()
    };
    let (resources, env) = (Resources::of_tests(), Env::system());
    let made = Repository::init(backend, Unlock::None, whole, &resources, &env);
    let repo = made.await.unwrap();
    for round in 0..5 {
        let writer = writer(&repo, "a").await.unwrap();
        let bytes = text(round, 20 << 20);
        {
            let mut dropped = Box::pin(store(&writer, "x", &bytes));
            assert!(futures::poll!(&mut dropped).is_pending());
        }
        // The piece counts as stored while the first call's work goes on.
        let stored = store(&writer, "x", &bytes).await.unwrap();
        writer.flush().await.unwrap();
        writer.abort().await.unwrap();
        let view = repo.view().await.unwrap();
        let listing = view.listing().await.unwrap();
        let found = view.find(&listing, &[&stored.pieces]).await.unwrap();
        assert_eq!(found, [Found::default()], "{round}");
    }
}

#[tokio::test]
async fn without_compression_nothing_is_compressed() {
    let (_, backend) = memory();
    let repo = init(backend).await;
    let writer = repo
        .begin_writer("a", vec![], Compression::Off)
        .await
        .unwrap();
    let stored = store(&writer, "x", &text(1, 6000)).await.unwrap();
    assert_eq!(stored.new_bytes, 6000 + 92);
    writer.abort().await.unwrap();
    assert_eq!(repo.view().await.unwrap().blobs(), 0);
}

#[tokio::test]
async fn packs_and_index_segments_end_where_they_should() {
    let (memory, backend) = memory();
    let repo = init(backend).await;
    let writer = writer(&repo, "a").await.unwrap();
    // More blobs than a pack takes, in pieces of 1 KiB at least.
    let count = 70_000_u64;
    let tasks = stream::iter(0..count).map(|n| {
        let writer = &writer;
        async move { store(writer, "x", &noise(n, 8)).await }
    });
    let stored: Vec<_> = tasks.buffer_unordered(256).try_collect().await.unwrap();
    writer.flush().await.unwrap();
    writer.finish().await.unwrap();
    let view = repo.view().await.unwrap();
    assert_eq!(view.blobs(), count);
    let listing = view.listing().await.unwrap();
    assert_eq!(listing.sizes.len(), 2);
    let pieces: Vec<_> = stored.iter().map(|object| &object.pieces[..]).collect();
    let found = view.find(&listing, &pieces).await.unwrap();
    assert!(found.iter().all(|found| *found == Found::default()));
    assert_eq!(repo.list("index/").await.unwrap().len(), 1);

    let other = open(Arc::new(memory.fork())).await.unwrap();
    let report = other
        .check(&[], crate::repo::CheckBytes::All)
        .await
        .unwrap();
    assert_eq!((report.damage, report.packs), (vec![], 2));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn any_objects_come_back(
        power in 0_u32..3,
        spare in 0_u32..4000,
        sizes in proptest::collection::vec(0_usize..20_000, 0..12),
        compressible: bool,
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let mut options = options();
            options.cuts.cut = 1024 << power;
            options.cuts.whole = options.cuts.cut + spare;
            let store = Arc::new(MemoryStore::new());
            let repo = Repository::init(store, Unlock::None, options, &Resources::of_tests(), &Env::system()).await.unwrap();
            let make = if compressible { text } else { noise };
            let data: Objects = (0..)
                .zip(&sizes)
                .map(|(n, size)| (format!("{n:03}"), make(n, *size)))
                .collect();
            let (manifest, _) = backup(&repo, "a", &data).await.unwrap();
            let view = repo.view().await.unwrap();
            prop_assert_eq!(restore(&view, &manifest).await.unwrap(), data);
            Ok(())
        })?;
    }
}

/// What was taken from the source and has not arrived is in memory: it stays within the budget, half of
/// it again for what is on its way, and what a pack holds back.
#[tokio::test]
async fn a_repository_that_does_not_answer_leaves_no_more_in_memory_than_the_budgets() {
    const MIB: u64 = 1 << 20;
    const OBJECT: u64 = 2 * MIB;
    let silent = FaultStore::new(Arc::new(MemoryStore::new()));
    let limits = Limits {
        memory: NonZeroU64::new(32 * MIB),
        ..Limits::default()
    };
    let resources = Resources::new(&limits).unwrap();
    let faults = silent.faults();
    let options = InitOptions {
        kdf: CHEAP,
        ..InitOptions::default()
    };
    let env = Env::system();
    let made = Repository::init(Arc::new(silent), Unlock::None, options, &resources, &env);
    let repo = made.await.unwrap();
    let writer = writer(&repo, "a").await.unwrap();
    faults.add(Rule::on_writes(Action::Delay(Duration::from_hours(1))).key_contains("data/"));
    let taken = AtomicU64::new(0);
    let objects = stream::iter(0..60).map(|n| {
        let source = Taken {
            seed: n,
            size: OBJECT,
            read: &taken,
        };
        let writer = &writer;
        async move { writer.store_object(&source).await }
    });
    let work = objects.buffer_unordered(60).try_collect::<Vec<_>>();
    let stands_still = async {
        let mut before = 0;
        let taken = || taken.load(Ordering::SeqCst);
        while before == 0 || taken() > before {
            before = taken();
            tokio::time::sleep(Duration::from_millis(300)).await;
        }
        before
    };
    tokio::select! {
        done = work => panic!("{:?} without a store", done.map(|stored| stored.len())),
        read = stands_still => assert!(read <= 64 * MIB, "{} MiB were read", read / MIB),
    }
}

/// An object of noise that counts what was read of it.
struct Taken<'a> {
    seed: u64,
    size: u64,
    read: &'a AtomicU64,
}

#[async_trait]
impl ObjectSource for Taken<'_> {
    fn name(&self) -> String {
        self.seed.to_string()
    }

    fn size(&self) -> u64 {
        self.size
    }

    async fn piece(&self, _: u64, len: usize) -> crate::Result<Bytes> {
        self.read.fetch_add(len as u64, Ordering::SeqCst);
        Ok(noise(self.seed, len))
    }
}
