//! What a host remembers: a step back in a repository's history is damage.

use std::sync::Arc;

use super::support::*;
use crate::Cause;
use crate::repo::format::files::StoredFile;
use crate::repo::{Memory, Repository};
use crate::store::testing::fault::{Action, FaultStore, Rule};
use crate::store::testing::memory::MemoryStore;
use crate::store::{GetOptions, Key, PutOptions, SharedStore, Store};

async fn on_host(store: &MemoryStore, state: &SharedStore) -> Repository {
    let repo = open(Arc::new(store.clone())).await.unwrap();
    let memory = Memory::new(state.clone(), repo.id(), "here").unwrap();
    repo.remembering(memory).await.unwrap()
}

async fn damage_of(repo: &Repository) -> Vec<String> {
    let damage = repo.snapshots().await.unwrap().damage;
    damage.into_iter().map(|damage| damage.what).collect()
}

#[tokio::test]
async fn the_newest_snapshot_cannot_go_unnoticed() {
    let store = MemoryStore::new();
    init(Arc::new(store.clone())).await;
    let (_, state) = memory();
    let repo = on_host(&store, &state).await;
    backup(&repo, "a", &objects(1)).await.unwrap();
    let before = store.fork();
    let (second, _) = backup(&repo, "a", &objects(2)).await.unwrap();
    assert_eq!(damage_of(&repo).await, [""; 0]);
    let path = Key::new(StoredFile::Manifest.path(&second.snapshot)).unwrap();
    let whole = store.get(&path, GetOptions::default()).await.unwrap();
    store.delete(&path, None).await.unwrap();

    // Nobody but this host can know.
    assert_eq!(
        damage_of(&open(Arc::new(store.clone())).await.unwrap()).await,
        [""; 0]
    );
    let repo = on_host(&store, &state).await;
    let told = damage_of(&repo).await;
    assert_eq!(told.len(), 1, "{told:?}");
    let what = "snapshot 2 of instance \"a\", ";
    assert!(
        told[0].starts_with(what) && told[0].contains("is gone"),
        "{told:?}"
    );
    // So is the whole repository as it was before.
    assert_eq!(damage_of(&on_host(&before, &state).await).await, told);

    // Another backup does not take its number, and what is gone stays told.
    let (third, _) = backup(&repo, "a", &objects(3)).await.unwrap();
    assert_eq!((third.sequence, third.parent.unwrap().sequence), (3, 1));
    let repo = on_host(&store, &state).await;
    assert_eq!(damage_of(&repo).await, told);
    let (fourth, _) = backup(&repo, "a", &objects(3)).await.unwrap();
    assert_eq!(fourth.sequence, 4);

    // It comes back, or somebody says that it is forgotten.
    let back = store.fork();
    back.put(&path, whole, PutOptions::default()).await.unwrap();
    let other_state: SharedStore = Arc::new({
        let copy = MemoryStore::new();
        for meta in repo_files(&state).await {
            let bytes = state.get(&meta, GetOptions::default()).await.unwrap();
            copy.put(&meta, bytes, PutOptions::default()).await.unwrap();
        }
        copy
    });
    assert_eq!(
        damage_of(&on_host(&back, &other_state).await).await,
        [""; 0]
    );
    assert_eq!(
        damage_of(&on_host(&store, &other_state).await).await,
        [""; 0],
        "3 and 4 were last"
    );
    repo.record_forgetting(&[second]).await.unwrap();
    assert_eq!(damage_of(&on_host(&store, &state).await).await, [""; 0]);
}

async fn repo_files(store: &SharedStore) -> Vec<Key> {
    use futures::TryStreamExt;
    let files = store.list("", crate::store::ListOptions::default());
    files.map_ok(|meta| meta.key).try_collect().await.unwrap()
}

#[tokio::test]
async fn another_manifest_in_the_place_of_the_newest_is_damage() {
    let store = MemoryStore::new();
    init(Arc::new(store.clone())).await;
    let (_, state) = memory();
    let repo = on_host(&store, &state).await;
    let (mut only, _) = backup(&repo, "a", &objects(1)).await.unwrap();
    let path = Key::new(StoredFile::Manifest.path(&only.snapshot)).unwrap();
    store.delete(&path, None).await.unwrap();
    only.labels
        .insert("forged".into(), "by who has the keys".into());
    only.write(&repo, std::time::Duration::MAX).await.unwrap();
    let told = damage_of(&on_host(&store, &state).await).await;
    assert!(
        told.len() == 1 && told[0].contains("is another than"),
        "{told:?}"
    );
}

#[tokio::test]
async fn a_keyring_that_is_gone_stops_writers() {
    let store = MemoryStore::new();
    init(Arc::new(store.clone())).await;
    let (_, state) = memory();
    on_host(&store, &state).await.begin_epoch().await.unwrap();
    let repo = on_host(&store, &state).await;
    let (manifest, _) = backup(&repo, "a", &objects(1)).await.unwrap();
    for path in paths(&store, "keys/ring-00000001").await {
        store.delete(&path, None).await.unwrap();
    }
    let repo = on_host(&store, &state).await;
    let error = writer(&repo, "a").await.unwrap_err();
    assert_eq!(error.cause(), Cause::Damage);
    let report = repo
        .check(&[], crate::repo::CheckBytes::None)
        .await
        .unwrap();
    assert!(
        report.damage[0].what.contains("keyring 1"),
        "{:?}",
        report.damage
    );
    let view = repo.view().await.unwrap();
    let error = restore(&view, &manifest).await.unwrap_err();
    assert_eq!(error.cause(), Cause::Damage, "its key is gone");
}

#[tokio::test]
async fn a_state_directory_that_fails_or_holds_noise_stops_nothing() {
    let store = MemoryStore::new();
    init(Arc::new(store.clone())).await;
    let (_, state) = memory();
    let repo = on_host(&store, &state).await;
    backup(&repo, "a", &objects(1)).await.unwrap();
    let key = repo_files(&state).await.remove(0);
    state
        .put(&key, "noise".into(), PutOptions::default())
        .await
        .unwrap();
    backup(&on_host(&store, &state).await, "a", &objects(2))
        .await
        .unwrap();
    let failing = FaultStore::new(state);
    failing
        .faults()
        .add(Rule::any(Action::Fail(Cause::AccessDenied)));
    let failing: SharedStore = Arc::new(failing);
    let repo = on_host(&store, &failing).await;
    backup(&repo, "a", &objects(3)).await.unwrap();
    assert_eq!(damage_of(&repo).await, [""; 0]);
}

#[tokio::test]
async fn what_another_process_commits_during_a_listing_is_no_alarm() {
    let store = MemoryStore::new();
    init(Arc::new(store.clone())).await;
    let (_, state) = memory();
    let other = on_host(&store, &state).await;
    backup(&other, "a", &objects(1)).await.unwrap();

    let lists = Arc::new(Lists::new(store.clone()));
    let repo = open(lists.clone()).await.unwrap();
    let memory = Memory::new(state.clone(), repo.id(), "here").unwrap();
    let repo = repo.remembering(memory).await.unwrap();
    let gate = Arc::new(Gate::default());
    *crate::base::env::lock(&lists.gate) = Some(("snapshots/".into(), gate.clone()));
    let listing = tokio::spawn(async move { damage_of(&repo).await });
    gate.listed.notified().await;
    let (second, _) = backup(&other, "a", &objects(2)).await.unwrap();
    gate.go_on.notify_one();
    assert_eq!(listing.await.unwrap(), [""; 0]);
    // Nor does the one that was late forget what the other saw.
    let path = Key::new(StoredFile::Manifest.path(&second.snapshot)).unwrap();
    store.delete(&path, None).await.unwrap();
    assert_eq!(damage_of(&on_host(&store, &state).await).await.len(), 1);
}

#[tokio::test]
async fn a_snapshot_that_was_damaged_before_it_went_is_not_forgotten() {
    let store = MemoryStore::new();
    init(Arc::new(store.clone())).await;
    let (_, state) = memory();
    let repo = on_host(&store, &state).await;
    backup(&repo, "a", &objects(1)).await.unwrap();
    let (second, _) = backup(&repo, "a", &objects(2)).await.unwrap();
    let path = Key::new(StoredFile::Manifest.path(&second.snapshot)).unwrap();
    damage(&store, &path, |bytes| bytes[30] ^= 1).await;
    let told = damage_of(&on_host(&store, &state).await).await;
    assert!(
        told.len() == 1 && told[0].contains("not authentic"),
        "{told:?}"
    );
    store.delete(&path, None).await.unwrap();
    let told = damage_of(&on_host(&store, &state).await).await;
    assert!(told.len() == 1 && told[0].contains("is gone"), "{told:?}");
}

#[tokio::test]
async fn a_planted_name_of_a_keyring_is_no_memory() {
    let store = MemoryStore::new();
    let repo = init(Arc::new(store.clone())).await;
    let (_, state) = memory();
    backup(&on_host(&store, &state).await, "a", &objects(1))
        .await
        .unwrap();
    let id = &repo.id().to_string()[..8];
    let planted = format!("keys/ring-ffffffff-{id}-{}-a", "0".repeat(16));
    let planted = Key::new(planted).unwrap();
    store
        .put(&planted, "noise".into(), PutOptions::default())
        .await
        .unwrap();
    let repo = on_host(&store, &state).await;
    assert_eq!(writer(&repo, "a").await.unwrap_err().cause(), Cause::Damage);
    repo.snapshots().await.unwrap();
    store.delete(&planted, None).await.unwrap();
    backup(&on_host(&store, &state).await, "a", &objects(2))
        .await
        .unwrap();
}
