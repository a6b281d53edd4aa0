//! A crash after any write, and a store that runs full at any write, leave a whole repository.

use std::collections::HashSet;
use std::sync::Arc;

use super::support::*;
use crate::Cause;
use crate::base::env::lock;
use crate::repo::format::files::StoredFile;
use crate::repo::format::sealed::FileKind;
use crate::repo::session::lease::{LeaseFile, leases};
use crate::repo::{CheckBytes, PackId, Repository};
use crate::store::{Key, PutOptions, SharedStore, Store};

/// What must hold after a crash: no damage, the old snapshots whole, and the next backup works.
async fn survives(after: &str, store: SharedStore, old: &Objects, new: &Objects) {
    let repo = open(store).await.unwrap();
    let report = repo.check(&[], CheckBytes::All).await.unwrap();
    assert_eq!(report.damage, [], "after {after}");
    let view = repo.view().await.unwrap();
    let snapshots = repo.snapshots().await.unwrap();
    assert!(
        (1..=2).contains(&snapshots.manifests.len()),
        "after {after}"
    );
    for manifest in &snapshots.manifests {
        let expected = if manifest.sequence == 1 { old } else { new };
        assert_eq!(
            &restore(&view, manifest).await.unwrap(),
            expected,
            "after {after}"
        );
    }
    release(&repo).await;
    let (next, _) = backup(&repo, "a", new).await.unwrap();
    assert_eq!(unnamed(&repo).await, Vec::<Key>::new(), "after {after}");
    // The number may have been claimed by the session that crashed; the chain has no gap.
    let last = snapshots.manifests.iter().max_by_key(|m| m.sequence);
    let last = last.unwrap();
    assert_eq!(next.parent, Some(last.as_parent()), "after {after}");
    let skipped = next.sequence - last.sequence;
    assert!((1..=2).contains(&skipped), "after {after}: {skipped}");
    assert_eq!(repo.snapshots().await.unwrap().damage, [], "after {after}");
    let view = repo.view().await.unwrap();
    assert_eq!(&restore(&view, &next).await.unwrap(), new, "after {after}");
}

/// Lets the leases say that their process is gone: the one that crashed in these tests is this one.
async fn release(repo: &Repository) {
    for meta in repo.list("leases/").await.unwrap() {
        let (path, sealer) = (meta.key.as_str(), repo.sealer());
        let bytes = repo.get_file(path).await.unwrap();
        let lease = sealer.open_json::<LeaseFile>(FileKind::Lease, path, &bytes);
        let mut lease = lease.unwrap();
        lease.host.pid = u32::MAX;
        let bytes = sealer.seal_json(FileKind::Lease, path, &lease).unwrap();
        let put = repo.store().put(&meta.key, bytes, PutOptions::default());
        put.await.unwrap();
    }
}

/// Packs that are in no index segment.
async fn unnamed(repo: &Repository) -> Vec<Key> {
    let view = repo.view().await.unwrap();
    let named: HashSet<PackId> = view.index().packs().iter().map(|pack| pack.id).collect();
    let mut unnamed = Vec::new();
    for file in [StoredFile::Data, StoredFile::Tree] {
        for meta in repo.list(file.row().directory).await.unwrap() {
            let id = file.id(meta.key.as_str()).unwrap().parse().unwrap();
            if !named.contains(&id) {
                unnamed.push(meta.key);
            }
        }
    }
    unnamed
}

fn old_and_new() -> (Objects, Objects) {
    let old = objects(1);
    let mut new = old.clone();
    new.extend(
        objects(50)
            .into_iter()
            .map(|(key, bytes)| (format!("more/{key}"), bytes)),
    );
    (old, new)
}

#[tokio::test]
async fn a_crash_after_any_write_of_a_backup_leaves_a_whole_repository() {
    let (old, new) = old_and_new();
    let journal = Journal::default();
    let repo = init(Arc::new(journal.clone())).await;
    backup(&repo, "a", &old).await.unwrap();
    lock(&journal.states).clear();
    backup(&repo, "a", &new).await.unwrap();
    let states = std::mem::take(&mut *lock(&journal.states));
    assert!(states.len() >= 6, "{states:?}");
    let kinds: Vec<&str> = states
        .iter()
        .map(|(path, _)| path.split('/').next().unwrap())
        .collect();
    let place = |kind| kinds.iter().rposition(|other| *other == kind).unwrap();
    assert!(place("data") < place("tree") || place("tree") < place("index"));
    assert!(place("data") < place("index") && place("index") < place("snapshots"));
    for (path, state) in states {
        survives(&path, Arc::new(state), &old, &new).await;
    }
}

#[tokio::test]
async fn uploads_of_a_session_that_died_are_removed_by_the_next_one() {
    let (memory, backend) = memory();
    let repo = init(backend).await;
    let first = writer(&repo, "a").await.unwrap();
    store(&first, "x", &noise(1, 20 << 20)).await.unwrap();
    // Until the lease tells of it, a second later.
    let told = async || {
        let lease = leases(&repo).await.unwrap().remove(0);
        !lease.file.unwrap().unfinished.is_empty()
    };
    while !told().await {
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
    let died = Arc::new(memory.fork());
    first.abort().await.unwrap();
    assert_eq!(memory.unfinished(), [], "who ends in order removes its own");

    assert_eq!(died.unfinished().len(), 1);
    let repo = open(died.clone()).await.unwrap();
    release(&repo).await;
    let next = writer(&repo, "a").await.unwrap();
    assert_eq!(died.unfinished(), []);
    assert_eq!(leases(&repo).await.unwrap().len(), 1);
    next.finish().await.unwrap();
}

#[tokio::test]
async fn a_crash_after_any_write_of_init_can_be_repeated() {
    let journal = Journal::default();
    init(Arc::new(journal.clone())).await;
    let states = std::mem::take(&mut *lock(&journal.states));
    let written: Vec<&str> = states.iter().map(|(path, _)| path.as_str()).collect();
    assert_eq!((written.len(), written[3]), (4, "config"));
    for (path, state) in &states[..3] {
        let store: SharedStore = Arc::new(state.fork());
        assert_eq!(
            open(store.clone()).await.unwrap_err().cause(),
            Cause::Absent,
            "{path}"
        );
        init(store.clone()).await;
        let repo = open(store).await.unwrap();
        backup(&repo, "a", &objects(1)).await.unwrap();
        assert_eq!(repo.check(&[], CheckBytes::All).await.unwrap().damage, []);
    }
}

#[tokio::test]
async fn a_store_that_runs_full_at_any_write_fails_the_session_and_nothing_else() {
    let (old, new) = old_and_new();
    let base = Journal::default();
    let repo = init(Arc::new(base.clone())).await;
    backup(&repo, "a", &old).await.unwrap();
    let mut succeeded = false;
    for room in 0..30 {
        let journal = Journal {
            now: base.now.fork(),
            ..Journal::default()
        };
        *lock(&journal.room) = Some(room);
        let repo = open(Arc::new(journal.clone())).await.unwrap();
        match backup(&repo, "a", &new).await {
            Ok(_) => {
                succeeded = true;
                break;
            }
            Err(error) => {
                assert_eq!(error.cause(), Cause::NoSpace, "room for {room}: {error:?}");
                // A manifest whose write failed may still arrive: the lease tells of its session, or
                // of packs that are not named.
                let left = leases(&repo).await.unwrap();
                let left: Vec<_> = left.into_iter().map(|seen| seen.file.unwrap()).collect();
                let claims = repo.list("claims/").await.unwrap().len();
                let uncertain = left.iter().filter(|lease| lease.uncertain).count();
                assert_eq!(uncertain, claims - 1, "room for {room}");
                let needed = |lease: &LeaseFile| lease.uncertain || !lease.packs.is_empty();
                assert!(left.len() <= 1 && left.iter().all(needed), "{left:?}");
            }
        }
        *lock(&journal.room) = None;
        survives(&format!("{room} writes"), Arc::new(journal), &old, &new).await;
    }
    assert!(succeeded);
}

#[tokio::test]
async fn what_an_aborted_session_flushed_is_not_stored_again() {
    let (_, backend) = memory();
    let repo = init(backend).await;
    let first = writer(&repo, "a").await.unwrap();
    store(&first, "x", &noise(1, 20_000)).await.unwrap();
    first.flush().await.unwrap();
    store(&first, "y", &noise(2, 20_000)).await.unwrap();
    first.abort().await.unwrap();
    let second = writer(&repo, "a").await.unwrap();
    assert_eq!(
        store(&second, "x", &noise(1, 20_000))
            .await
            .unwrap()
            .new_bytes,
        0
    );
    assert!(
        store(&second, "y", &noise(2, 20_000))
            .await
            .unwrap()
            .new_bytes
            > 20_000
    );
    second.finish().await.unwrap();
}
