use std::collections::BTreeMap;
use std::num::NonZeroU64;
use std::sync::Arc;
use std::time::Duration;

use futures::TryStreamExt;

use super::*;
use crate::base::env::Env;
use crate::base::progress::testing::Silent;
use crate::base::resources::{Limits, Resources};
use crate::repo::{Cv, Manifest, PieceRef, Repository, Unlock};
use crate::restore::act::prove::prove;
use crate::snapshot::fixture::{Contents, body, commit, noise, pinned, repository, told};
use crate::snapshot::items::Place;
use crate::snapshot::{Selected, Snapshot};
use crate::store::testing::fault::{Action, FaultStore, Rule};
use crate::store::testing::memory::MemoryStore;
use crate::store::testing::record::{Op, RecordStore};
use crate::store::{Key, ListOptions};

fn contents() -> Contents {
    let mut objects: BTreeMap<String, Bytes> = (0..40)
        .map(|n| {
            (
                format!("insert_log/1/2/3/100/{n:03}"),
                noise(n, usize::from(n) * 37),
            )
        })
        .collect();
    objects.insert("index_files/9/1/2/3/big".into(), noise(200, 70_000));
    objects.insert("index_files/9/1/2/3/whole".into(), noise(201, 8192));
    objects.insert("stats_log/1/2/3/100/1".into(), Bytes::new());
    Contents {
        objects,
        wal: BTreeMap::new(),
        keys: vec![],
        body: body(),
    }
}

struct Case {
    repo_store: MemoryStore,
    repo: Repository,
    manifest: Manifest,
}

async fn case() -> Case {
    let (repo_store, repo) = repository().await;
    let manifest = commit(&repo, &contents()).await;
    Case {
        repo_store,
        repo,
        manifest,
    }
}

/// Puts the objects of `snapshot` into an empty store.
fn placing<'a>(
    snapshot: &'a Snapshot,
    store: &'a SharedStore,
    progress: &'a SharedProgress,
    cancel: &'a Cancel,
) -> Placing<'a> {
    Placing {
        snapshot,
        store,
        in_place: Listed::default(),
        other: Other::Overwrite,
        progress,
        cancel,
    }
}

impl Case {
    async fn snapshot(&self) -> Snapshot {
        let view = told(self.repo.view().await);
        told(Snapshot::open(&view, self.manifest.clone()))
    }

    async fn place(&self, store: &SharedStore, other: Other) -> Result<Placed> {
        let snapshot = self.snapshot().await;
        let (progress, cancel): (SharedProgress, _) = (Arc::new(Silent), Cancel::new());
        let placing = Placing {
            in_place: Listed::all(&**store).await?,
            other,
            ..placing(&snapshot, store, &progress, &cancel)
        };
        placing.place(snapshot.items(&Selected::All)).await
    }
}

async fn all(store: &MemoryStore) -> BTreeMap<String, Bytes> {
    let metas: Vec<_> = store
        .list("", ListOptions::default())
        .try_collect()
        .await
        .unwrap();
    let mut found = BTreeMap::new();
    for meta in metas {
        let bytes = store.get(&meta.key, GetOptions::default()).await.unwrap();
        found.insert(meta.key.to_string(), bytes);
    }
    found
}

async fn put(store: &MemoryStore, key: &str, bytes: &[u8]) {
    let key = Key::new(key).unwrap();
    let bytes = Bytes::copy_from_slice(bytes);
    store.put(&key, bytes, PutOptions::default()).await.unwrap();
}

#[tokio::test]
async fn every_object_comes_back_byte_for_byte() {
    let case = case().await;
    let memory = MemoryStore::new();
    let store: SharedStore = Arc::new(memory.clone());
    let placed = told(case.place(&store, Other::Overwrite).await);
    assert_eq!(placed.written.objects, 43);
    assert_eq!(all(&memory).await, contents().objects);
    let again = told(case.place(&store, Other::Overwrite).await);
    assert_eq!((again.written.objects, again.kept.objects), (0, 43));
}

/// A crash at every write of the objects, then the same again.
#[tokio::test]
async fn a_crash_at_any_write_is_resumed() {
    let case = case().await;
    for crash in 1.. {
        let memory = MemoryStore::new();
        let rule = Rule::on_writes(Action::Fail(Cause::Failed)).from(crash);
        let faulty = FaultStore::new(Arc::new(memory.clone()));
        faulty.faults().add(rule);
        let faulty: SharedStore = Arc::new(faulty);
        let first = case.place(&faulty, Other::Overwrite).await;
        let whole = contents().objects;
        for (key, bytes) in all(&memory).await {
            assert_eq!(whole[&key], bytes, "a torn object is visible");
        }
        let store: SharedStore = Arc::new(memory.clone());
        told(case.place(&store, Other::Overwrite).await);
        assert_eq!(all(&memory).await, whole);
        if first.is_ok() {
            break;
        }
    }
}

#[tokio::test]
async fn what_is_in_place_is_hashed_and_replaced_or_left_for_later() {
    let case = case().await;
    let memory = MemoryStore::new();
    let path = "insert_log/1/2/3/100/007";
    put(&memory, path, &[0; 7 * 37]).await;
    put(
        &memory,
        "index_files/9/1/2/3/whole",
        &contents().objects["index_files/9/1/2/3/whole"],
    )
    .await;
    put(&memory, "index_files/9/1/2/3/big", b"shorter").await;
    let store: SharedStore = Arc::new(memory.clone());
    let placed = told(case.place(&store, Other::Defer).await);
    assert_eq!(placed.kept.objects, 1);
    let deferred: Vec<_> = placed
        .deferred
        .iter()
        .map(|item| item.key.as_str())
        .collect();
    assert_eq!(deferred, ["index_files/9/1/2/3/big", path]);
    assert_eq!(all(&memory).await[path], vec![0; 7 * 37]);
    let placed = told(case.place(&store, Other::Overwrite).await);
    assert_eq!(placed.written.objects, 2);
    assert_eq!(all(&memory).await, contents().objects);
}

#[tokio::test]
async fn read_back_names_what_is_not_what_was_written() {
    let case = case().await;
    let memory = MemoryStore::new();
    let store: SharedStore = Arc::new(memory.clone());
    told(case.place(&store, Other::Overwrite).await);
    let snapshot = case.snapshot().await;
    let silent: SharedProgress = Arc::new(Silent);
    let cancel = Cancel::new();
    told(
        read_back(
            &Resources::of_tests(),
            &*store,
            snapshot.items(&Selected::All),
            &silent,
            &cancel,
        )
        .await,
    );
    put(&memory, "insert_log/1/2/3/100/009", &[7; 9 * 37]).await;
    let error = read_back(
        &Resources::of_tests(),
        &*store,
        snapshot.items(&Selected::All),
        &silent,
        &cancel,
    )
    .await;
    assert!(error.unwrap_err().to_string().contains("100/009"));
}

#[tokio::test]
async fn damage_is_found_before_it_harms() {
    let case = case().await;
    let names: Vec<_> = all(&case.repo_store).await.into_keys().collect();
    let silent: SharedProgress = Arc::new(Silent);
    for name in names
        .iter()
        .filter(|name| name.starts_with("data/") || name.starts_with("tree/"))
    {
        let key = Key::new(name.clone()).unwrap();
        let whole = case
            .repo_store
            .get(&key, GetOptions::default())
            .await
            .unwrap();

        let snapshot = case.snapshot().await;
        case.repo_store.delete(&key, None).await.unwrap();
        let error = prove(&snapshot, &Selected::All, &silent, &Cancel::new())
            .await
            .unwrap_err();
        assert_eq!(error.cause(), Cause::Damage, "{name} missing");

        put(&case.repo_store, name, &whole[..whole.len() - 1]).await;
        if name.starts_with("data/") {
            let error = prove(&snapshot, &Selected::All, &silent, &Cancel::new())
                .await
                .unwrap_err();
            assert_eq!(error.cause(), Cause::Damage, "{name} cut short");
        }
        for at in (0..whole.len()).step_by(whole.len() / 50 + 1) {
            let mut flipped = whole.to_vec();
            flipped[at] ^= 4;
            put(&case.repo_store, name, &flipped).await;
            let memory = MemoryStore::new();
            let store: SharedStore = Arc::new(memory.clone());
            match case.place(&store, Other::Overwrite).await {
                Ok(_) => assert_eq!(all(&memory).await, contents().objects),
                Err(error) => {
                    assert_eq!(
                        error.cause(),
                        Cause::Damage,
                        "{name} at {at}: {}",
                        error.chain()
                    );
                }
            }
            for (key, bytes) in all(&memory).await {
                assert_eq!(
                    contents().objects[&key],
                    bytes,
                    "a damaged object is visible"
                );
            }
        }
        put(&case.repo_store, name, &whole).await;
    }
}

#[tokio::test]
async fn being_told_to_stop_stops() {
    let case = case().await;
    let snapshot = case.snapshot().await;
    let memory = MemoryStore::new();
    let store: SharedStore = Arc::new(memory.clone());
    let cancel = Cancel::new();
    cancel.request(Cause::Interrupted);
    let progress: SharedProgress = Arc::new(Silent);
    let placing = placing(&snapshot, &store, &progress, &cancel);
    let error = placing
        .place(snapshot.items(&Selected::All))
        .await
        .unwrap_err();
    assert_eq!(error.cause(), Cause::Interrupted);
    assert!(all(&memory).await.is_empty());
}

/// Bytes that nobody takes are not read: the target is what the memory budget waits for.
#[tokio::test]
async fn a_target_that_does_not_answer_leaves_no_more_in_memory_than_the_budget() {
    const BUDGET: u64 = 64 << 10;
    let (repo_store, repo) = repository().await;
    let object = |n: u8| (format!("insert_log/1/2/3/100/{n:03}"), noise(n, 4000));
    let objects = (0..100).map(object).collect();
    let contents = Contents {
        objects,
        ..contents()
    };
    let manifest = commit(&repo, &contents).await;
    let record = RecordStore::new(Arc::new(repo_store));
    let log = record.log();
    let limits = Limits {
        memory: NonZeroU64::new(BUDGET),
        ..Limits::default()
    };
    let resources = told(Resources::new(&limits));
    let env = Env::system();
    let opened = Repository::open(Arc::new(record), Unlock::None, &resources, &env);
    let repo = told(opened.await);
    let snapshot = told(Snapshot::open(&told(repo.view().await), manifest));
    let silent = FaultStore::new(Arc::new(MemoryStore::new()));
    silent
        .faults()
        .add(Rule::on_writes(Action::Delay(Duration::from_hours(1))));
    let store: SharedStore = Arc::new(silent);
    let data = || {
        let calls = log.calls();
        let data = calls.iter().filter(|call| call.key.starts_with("data/"));
        data.map(|call| call.bytes).sum::<u64>()
    };
    let progress: SharedProgress = Arc::new(Silent);
    let cancel = Cancel::new();
    let placing = placing(&snapshot, &store, &progress, &cancel);
    let place = placing.place(snapshot.items(&Selected::All));
    let stands_still = async {
        let mut before = 0;
        while before == 0 || data() > before {
            before = data();
            tokio::time::sleep(Duration::from_millis(300)).await;
        }
        before
    };
    tokio::select! {
        placed = place => panic!("{placed:?} without a target"),
        read = stands_still => assert!(read <= BUDGET, "{read} bytes were read"),
    }
}

#[test]
fn an_object_is_streamed_within_its_part_of_the_budget() {
    const MIB: u64 = 1 << 20;
    let piece = PieceRef {
        cv: Cv([0; 32]),
        offset: 0,
        length: 16 << 20,
    };
    let item = Item {
        key: Key::new("index_files/1/2/3/4/x").unwrap(),
        size: 1 << 30,
        hash: ObjectHash([0; 32]),
        bytes: Place::Pieces(vec![piece; 64]),
    };
    let of = |memory| {
        let Flow {
            ahead,
            parts,
            bytes,
        } = Flow::of(&item, memory);
        (ahead.get(), parts.get(), bytes / MIB)
    };
    assert_eq!(of(256 * MIB), (2, 3, 128));
    assert_eq!(of(1024 * MIB), (4, 4, 208), "more is of no use");
    assert_eq!(of(128 * MIB), (1, 1, 64));
    assert_eq!(of(1), (1, 1, 64), "less is not possible");
}

#[tokio::test]
async fn an_upload_that_is_stopped_is_aborted() {
    let case = case().await;
    let snapshot = case.snapshot().await;
    // In memory all would be done before anybody is told to stop.
    let slow = FaultStore::new(Arc::new(MemoryStore::new()));
    let delay = Action::Delay(std::time::Duration::from_millis(50));
    slow.faults().add(Rule::on_writes(delay));
    let record = RecordStore::new(Arc::new(slow));
    let log = record.log();
    let store: SharedStore = Arc::new(record);
    let cancel = Cancel::new();
    let progress: SharedProgress = Arc::new(Silent);
    let placing = placing(&snapshot, &store, &progress, &cancel);
    let place = placing.place(snapshot.items(&Selected::All));
    let stop = async {
        while log.keys(Op::Parts).is_empty() {
            tokio::task::yield_now().await;
        }
        cancel.request(Cause::Terminated);
        std::future::pending::<()>().await;
    };
    tokio::select! {
        placed = place => assert_eq!(placed.unwrap_err().cause(), Cause::Terminated),
        () = stop => {}
    }
    assert_eq!(log.keys(Op::Parts), log.keys(Op::Abort));
}

#[tokio::test]
async fn pinned_objects_are_placed_and_proved_by_their_method() {
    let (_, repo) = repository().await;
    let source = MemoryStore::new();
    let objects = contents().objects;
    let snapshot = pinned(&repo, &objects, &source).await;
    let (progress, cancel): (SharedProgress, _) = (Arc::new(Silent), Cancel::new());
    told(prove(&snapshot, &Selected::All, &progress, &cancel).await);
    let target = MemoryStore::new();
    let store: SharedStore = Arc::new(target.clone());
    let place = || async {
        let placing = Placing {
            in_place: told(Listed::all(&*store).await),
            ..placing(&snapshot, &store, &progress, &cancel)
        };
        placing.place(snapshot.items(&Selected::All)).await
    };
    let placed = told(place().await);
    assert_eq!(placed.written.objects, objects.len() as u64);
    assert_eq!(all(&target).await, objects);
    let again = told(place().await);
    assert_eq!(again.kept.objects, objects.len() as u64);

    let big = Key::new("index_files/9/1/2/3/big").unwrap();
    let other = source.put(&big, noise(7, 70_000), PutOptions::default());
    other.await.unwrap();
    target.delete(&big, None).await.unwrap();
    let error = place().await.unwrap_err();
    assert_eq!(error.cause(), Cause::Damage);
    assert!(error.chain().contains(big.as_str()), "{}", error.chain());
    assert!(!all(&target).await.contains_key(big.as_str()));

    source.delete(&big, None).await.unwrap();
    let error = prove(&snapshot, &Selected::All, &progress, &cancel)
        .await
        .unwrap_err();
    assert_eq!(error.cause(), Cause::Damage);
    assert!(error.chain().contains(big.as_str()), "{}", error.chain());
}
