//! What a repository gets after it was made: features, keyrings.

use std::sync::Arc;

use super::support::*;
use crate::repo::format::files::StoredFile;
use crate::repo::{CheckBytes, DamageKind, Repository};
use crate::store::testing::memory::MemoryStore;
use crate::store::{GetOptions, PutOptions, Store};
use crate::{Cause, Error};

/// Copies what `from` has and `to` lacks.
async fn merge(from: &MemoryStore, to: &MemoryStore) {
    for path in paths(from, "").await {
        let bytes = from.get(&path, GetOptions::default()).await.unwrap();
        to.put(&path, bytes, PutOptions::default()).await.unwrap();
    }
}

async fn kinds(repo: &Repository) -> Vec<DamageKind> {
    let report = repo.check(&[], CheckBytes::All).await.unwrap();
    report.damage.iter().map(|damage| damage.kind).collect()
}

fn exit(error: &Error) -> u8 {
    error.exit_code()
}

#[tokio::test]
async fn features_of_two_upgrades_at_once_unite() {
    let store = MemoryStore::new();
    let repo = init(Arc::new(store.clone())).await;
    backup(&repo, "a", &objects(1)).await.unwrap();
    let (one, two) = (store.fork(), store.fork());
    let require = async |store: &MemoryStore, feature: &str| {
        let repo = open(Arc::new(store.clone())).await.unwrap();
        repo.require_features(vec![], vec![feature.into()])
            .await
            .unwrap();
    };
    let before = open(Arc::new(two.clone())).await.unwrap();
    require(&one, "one").await;
    require(&two, "two").await;
    merge(&one, &two).await;
    let both = open(Arc::new(two.clone())).await.unwrap();
    assert_eq!(both.snapshots().await.unwrap().manifests.len(), 1);
    assert_eq!(kinds(&both).await, []);
    let error = writer(&both, "a").await.unwrap_err();
    assert_eq!(exit(&error), 13);
    // Each counts by itself.
    for path in paths(&two, "features/").await {
        let alone = two.fork();
        alone.delete(&path, None).await.unwrap();
        let alone = open(Arc::new(alone)).await.unwrap();
        assert_eq!(exit(&writer(&alone, "a").await.unwrap_err()), 13);
    }
    let more = both.require_features(vec![], vec![]).await.unwrap_err();
    assert_eq!(exit(&more), 13, "who cannot write adds nothing");
    before
        .require_features(vec!["three".into()], vec![])
        .await
        .unwrap();
    assert_eq!(exit(&open(Arc::new(two)).await.unwrap_err()), 13);
}

#[tokio::test]
async fn a_damaged_file_of_features_stops_writers_only() {
    let store = MemoryStore::new();
    let repo = init(Arc::new(store.clone())).await;
    let (manifest, _) = backup(&repo, "a", &objects(1)).await.unwrap();
    repo.require_features(vec![], vec![]).await.unwrap();
    let good = open(Arc::new(store.clone())).await.unwrap();
    writer(&good, "a").await.unwrap().abort().await.unwrap();
    let path = &paths(&store, "features/").await[0];
    let whole = store.get(path, GetOptions::default()).await.unwrap();
    for at in 0..whole.len() {
        let mut bad = whole.to_vec();
        bad[at] ^= 1 << (at % 8);
        store
            .put(path, bad.into(), PutOptions::default())
            .await
            .unwrap();
        let repo = open(Arc::new(store.clone())).await.unwrap();
        assert_eq!(kinds(&repo).await, [DamageKind::Features], "byte {at}");
        let view = repo.view().await.unwrap();
        assert_eq!(restore(&view, &manifest).await.unwrap(), objects(1));
        let error = writer(&repo, "a").await.unwrap_err();
        assert_eq!(error.cause(), Cause::Damage);
    }
}

#[tokio::test]
async fn what_two_rotations_at_once_sealed_stays_readable() {
    let store = MemoryStore::new();
    let repo = init(Arc::new(store.clone())).await;
    let (old, _) = backup(&repo, "a", &objects(1)).await.unwrap();
    let rotated = async |n: u64| {
        let fork = store.fork();
        let before = open(Arc::new(fork.clone())).await.unwrap();
        before.begin_epoch().await.unwrap();
        let after = open(Arc::new(fork.clone())).await.unwrap();
        let name = format!("instance {n}");
        let (manifest, _) = backup(&after, &name, &objects(n)).await.unwrap();
        (fork, manifest)
    };
    let (one, first) = rotated(2).await;
    let (two, second) = rotated(3).await;
    merge(&one, &two).await;
    let repo = open(Arc::new(two.clone())).await.unwrap();
    assert_eq!(kinds(&repo).await, []);
    let (third, _) = backup(&repo, "b", &objects(4)).await.unwrap();
    let view = repo.view().await.unwrap();
    for (n, manifest) in [(1, &old), (2, &first), (3, &second), (4, &third)] {
        assert_eq!(restore(&view, manifest).await.unwrap(), objects(n));
    }
    assert_eq!(
        repo.sealer().data_keys(2).unwrap().len(),
        2,
        "two keys of one epoch"
    );
    // The next epoch has both.
    repo.begin_epoch().await.unwrap();
    let again = open(Arc::new(two)).await.unwrap();
    assert_eq!(again.sealer().current().unwrap().0, 3);
    assert_eq!(again.sealer().data_keys(2).unwrap().len(), 2);
}

#[tokio::test]
async fn a_ring_is_read_from_either_file_and_without_both_nothing_is_written() {
    let store = MemoryStore::new();
    let repo = init(Arc::new(store.clone())).await;
    let (old, _) = backup(&repo, "a", &objects(1)).await.unwrap();
    repo.begin_epoch().await.unwrap();
    let repo = open(Arc::new(store.clone())).await.unwrap();
    let (new, _) = backup(&repo, "a", &objects(2)).await.unwrap();
    let rings: Vec<_> = paths(&store, "keys/")
        .await
        .into_iter()
        .filter(|path| StoredFile::Ring.id(path.as_str()).is_some())
        .collect();
    assert_eq!(rings.len(), 4);
    for ring in &rings {
        let one = store.fork();
        damage(&one, ring, |bytes| bytes[20] ^= 1).await;
        let gone = store.fork();
        gone.delete(ring, None).await.unwrap();
        for store in [one, gone] {
            let repo = open(Arc::new(store)).await.unwrap();
            assert_eq!(kinds(&repo).await, [DamageKind::Key], "{ring}");
            let view = repo.view().await.unwrap();
            assert_eq!(restore(&view, &new).await.unwrap(), objects(2));
            writer(&repo, "a").await.unwrap().abort().await.unwrap();
        }
    }
    for ring in &rings[2..] {
        damage(&store, ring, |bytes| bytes[20] ^= 1).await;
    }
    let repo = open(Arc::new(store.clone())).await.unwrap();
    assert!(kinds(&repo).await.contains(&DamageKind::Key));
    let error = writer(&repo, "a").await.unwrap_err();
    assert_eq!(error.cause(), Cause::Damage);
    assert_eq!(repo.begin_epoch().await.unwrap_err().cause(), Cause::Damage);
    let view = repo.view().await.unwrap();
    assert_eq!(restore(&view, &old).await.unwrap(), objects(1));
    let error = restore(&view, &new).await.unwrap_err();
    assert_eq!(error.cause(), Cause::Damage);
    for ring in &rings[..2] {
        store.delete(ring, None).await.unwrap();
    }
    assert_eq!(
        open(Arc::new(store)).await.unwrap_err().cause(),
        Cause::Damage
    );
}
