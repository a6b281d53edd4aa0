use std::sync::Arc;

use bytes::Bytes;
use futures::TryStreamExt;
use jiff::Timestamp;

use super::*;
use crate::base::progress::testing::Silent;
use crate::snapshot::fixture::{Contents, body, commit, noise, pinned, repository, told};
use crate::store::testing::memory::MemoryStore;
use crate::store::{GetOptions, Key, ListOptions, PutOptions, Store};

fn contents() -> Contents {
    let objects = (0..20).map(|n| (format!("insert_log/1/2/3/100/{n:02}"), noise(n, 900)));
    Contents {
        objects: objects
            .chain([("index_files/1/1/2/3/x".to_owned(), noise(99, 50_000))])
            .collect(),
        wal: std::collections::BTreeMap::new(),
        keys: vec![],
        body: body(),
    }
}

async fn run(repository: &Repository, level: Level, sample: Sample) -> VerifyReport {
    let options = Options {
        snapshots: vec![],
        level,
        sample,
    };
    let env = Env::simulated(Timestamp::UNIX_EPOCH, 5).0;
    let silent: SharedProgress = Arc::new(Silent);
    told(verify(repository, &options, &env, &silent, &Cancel::new()).await)
}

async fn files(store: &MemoryStore) -> Vec<(Key, Bytes)> {
    let metas: Vec<_> = store
        .list("", ListOptions::default())
        .try_collect()
        .await
        .unwrap();
    let mut files = Vec::new();
    for meta in metas {
        let bytes = store.get(&meta.key, GetOptions::default()).await.unwrap();
        files.push((meta.key, bytes));
    }
    files
}

#[tokio::test]
async fn a_whole_repository_passes_every_level() {
    let (_, repository) = repository().await;
    commit(&repository, &contents()).await;
    commit(&repository, &contents()).await;
    for level in [Level::Existence, Level::Structure, Level::Bytes] {
        let report = run(&repository, level, Sample::All).await;
        assert_eq!((report.snapshots, report.objects), (2, 42));
        assert!(report.damage.is_empty(), "{:?}", report.damage);
        assert_eq!(report.bytes_read > 0, level == Level::Bytes);
    }
}

#[tokio::test]
async fn each_level_finds_what_it_looks_at() {
    let (store, repository) = repository().await;
    let manifest = commit(&repository, &contents()).await;
    for (key, whole) in files(&store).await {
        let name = key.as_str();
        let needed = ["leases/", "claims/", "keys/"]
            .iter()
            .all(|d| !name.starts_with(d));
        if !needed || name == "config" {
            continue;
        }
        store.delete(&key, None).await.unwrap();
        let report = run(&repository, Level::Existence, Sample::All).await;
        if !name.starts_with("snapshots/") {
            assert!(!report.damage.is_empty(), "{name} is missing");
            assert!(
                report
                    .damage
                    .iter()
                    .any(|d| d.snapshots.contains(&manifest.snapshot)),
                "{name}"
            );
        }
        let middle = whole.len() / 2;
        let mut flipped = whole.to_vec();
        flipped[middle] ^= 1;
        store
            .put(&key, flipped.into(), PutOptions::default())
            .await
            .unwrap();
        let report = run(&repository, Level::Bytes, Sample::All).await;
        assert!(!report.damage.is_empty(), "a bit of {name} is flipped");
        if name.starts_with("tree/") {
            let report = run(&repository, Level::Existence, Sample::All).await;
            assert!(report.damage.is_empty(), "{:?}", report.damage);
        }
        store.put(&key, whole, PutOptions::default()).await.unwrap();
    }
    assert!(
        run(&repository, Level::Bytes, Sample::All)
            .await
            .damage
            .is_empty()
    );
}

#[tokio::test]
async fn the_parts_of_a_sample_are_the_whole() {
    let (_, repository) = repository().await;
    commit(&repository, &contents()).await;
    let all = run(&repository, Level::Bytes, Sample::All).await.bytes_read;
    let mut sum = 0;
    for part in 1..=3 {
        sum += run(&repository, Level::Bytes, Sample::Part { part, of: 3 })
            .await
            .bytes_read;
    }
    assert_eq!(sum, all);
    let every = run(&repository, Level::Bytes, Sample::Percent(100.0))
        .await
        .bytes_read;
    assert_eq!(every, all);
}

#[test]
fn a_share_of_packs_is_about_that_share() {
    let hits = (0..10_000_u32).filter(|n| {
        let pack = PackId(blake3::hash(&n.to_le_bytes()).into());
        chosen(Sample::Percent(10.0), &[1; 32], &pack)
    });
    let hits = hits.count();
    assert!((800..1200).contains(&hits), "{hits}");
}

#[tokio::test]
async fn pinned_objects_that_are_lost_or_changed_are_named() {
    let (_, repository) = repository().await;
    let source = MemoryStore::new();
    let snapshot = pinned(&repository, &contents().objects, &source).await;
    let lost = async |level| {
        let found = told(pinned::lost(&snapshot, level).await);
        let named = |damage: &Damage| damage.snapshots == [snapshot.manifest.snapshot];
        assert!(found.iter().all(named));
        found
            .into_iter()
            .map(|damage| damage.what)
            .collect::<Vec<_>>()
            .join("; ")
    };
    assert_eq!(lost(Level::Bytes).await, "");
    let key = |path| Key::new(path).unwrap();
    let (changed, gone) = (key("index_files/1/1/2/3/x"), key("insert_log/1/2/3/100/05"));
    let other = source.put(&changed, noise(3, 50_000), PutOptions::default());
    other.await.unwrap();
    source.delete(&gone, None).await.unwrap();
    let seen = lost(Level::Structure).await;
    assert!(
        seen.contains(gone.as_str()) && !seen.contains(changed.as_str()),
        "{seen}"
    );
    let seen = lost(Level::Bytes).await;
    assert!(
        seen.contains(gone.as_str()) && seen.contains(changed.as_str()),
        "{seen}"
    );
}
