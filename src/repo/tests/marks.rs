//! Sessions beside marks: what is in packs that are about to go is relied on by nobody.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::support::*;
use crate::repo::format::files::StoredFile;
use crate::repo::format::ids::{MarkId, PackId};
use crate::repo::format::mark::Mark;
use crate::repo::format::sealed::FileKind;
use crate::repo::repository::Rule;
use crate::repo::session::lease::leases;
use crate::repo::{CheckBytes, Manifest, Repository};
use crate::store::testing::memory::MemoryStore;

/// The packs of both kinds.
async fn packs(repo: &Repository) -> BTreeSet<PackId> {
    let data: Vec<PackId> = repo.list_ids(StoredFile::Data).await.unwrap();
    let tree: Vec<PackId> = repo.list_ids(StoredFile::Tree).await.unwrap();
    data.into_iter().chain(tree).collect()
}

/// Marks packs whose blobs nobody is said to need.
async fn mark(repo: &Repository, packs: &BTreeSet<PackId>) -> MarkId {
    let mark = Mark {
        id: MarkId(repo.env().id()),
        created: repo.env().now(),
        packs: packs.iter().copied().collect(),
        moved: BTreeMap::new(),
        dead: BTreeMap::new(),
    };
    let path = StoredFile::Mark.path(&mark.id);
    let bytes = repo.sealer().seal_json(FileKind::Mark, &path, &mark);
    repo.put_once(&path, bytes.unwrap()).await.unwrap();
    mark.id
}

/// Removes packs, as who marked them does in the end, and forgets these snapshots before.
async fn sweep(repo: &Repository, packs: &BTreeSet<PackId>, forgotten: &[Manifest]) {
    repo.record_forgetting(forgotten).await.unwrap();
    for kind in [StoredFile::Data, StoredFile::Tree] {
        for pack in packs {
            let key = crate::store::Key::new(kind.path(pack)).unwrap();
            repo.store().delete(&key, None).await.unwrap();
        }
    }
}

async fn init_in_memory() -> Repository {
    init(Arc::new(MemoryStore::new())).await
}

/// Whether a snapshot is whole, and has these objects.
async fn is_whole(repo: &Repository, manifest: &Manifest, objects: &Objects) {
    let report = repo.check(&[], CheckBytes::None).await.unwrap();
    // The index still names what was removed; nobody needs it.
    assert!(report.damage.iter().all(|d| d.snapshots.is_empty()));
    let view = repo.view().await.unwrap();
    assert_eq!(restore(&view, manifest).await.unwrap(), *objects);
}

#[tokio::test]
async fn a_writer_that_begins_beside_a_mark_stores_again_what_is_marked() {
    let (repo, data) = (init_in_memory().await, objects(1));
    let (first, _) = backup(&repo, "a", &data).await.unwrap();
    let old = packs(&repo).await;
    let mark = mark(&repo, &old).await;
    let writer = writer(&repo, "b").await.unwrap();
    let (second, added) = write_snapshot(&writer, &data).await.unwrap();
    assert!(added > 0);
    let held = leases(&repo).await.unwrap();
    let heeded = &held[0].file.as_ref().unwrap().marks;
    assert_eq!(*heeded, BTreeSet::from([mark]), "its lease says so");
    writer.finish().await.unwrap();
    sweep(&repo, &old, &[first]).await;
    is_whole(&repo, &second, &data).await;
}

#[tokio::test]
async fn a_writer_stores_again_before_its_commit_what_was_marked_meanwhile() {
    let (repo, data) = (init_in_memory().await, objects(1));
    let (first, _) = backup(&repo, "a", &data).await.unwrap();
    let old = packs(&repo).await;
    let writer = writer(&repo, "b").await.unwrap();
    for (name, bytes) in &data {
        let stored = store(&writer, name, bytes).await.unwrap();
        assert_eq!(stored.new_bytes, 0, "{name} is there");
    }
    let mark = mark(&repo, &old).await;
    let held = leases(&repo).await.unwrap();
    assert!(held[0].file.as_ref().unwrap().marks.is_empty());
    let (second, added) = write_snapshot(&writer, &data).await.unwrap();
    assert!(added > 0);
    let held = leases(&repo).await.unwrap();
    let heeded = &held[0].file.as_ref().unwrap().marks;
    assert!(heeded.contains(&mark));
    // Nothing was marked since: nothing more is stored.
    let (_, again) = write_snapshot(&writer, &data).await.unwrap();
    assert_eq!(again, added);
    writer.finish().await.unwrap();
    sweep(&repo, &old, &[first]).await;
    is_whole(&repo, &second, &data).await;
}

#[tokio::test]
async fn a_writer_stores_again_what_it_has_written_itself_when_that_is_marked() {
    let (repo, data) = (init_in_memory().await, objects(1));
    let writer = writer(&repo, "a").await.unwrap();
    for (name, bytes) in &data {
        store(&writer, name, bytes).await.unwrap();
    }
    writer.flush().await.unwrap();
    let own = packs(&repo).await;
    assert!(!own.is_empty());
    mark(&repo, &own).await;
    let (manifest, _) = write_snapshot(&writer, &data).await.unwrap();
    writer.finish().await.unwrap();
    sweep(&repo, &own, &[]).await;
    is_whole(&repo, &manifest, &data).await;
}

#[tokio::test]
async fn a_pack_that_is_marked_and_gone_fails_the_commit_of_who_relies_on_it() {
    let (repo, data) = (init_in_memory().await, objects(1));
    let (first, _) = backup(&repo, "a", &data).await.unwrap();
    let old = packs(&repo).await;
    let late = writer(&repo, "b").await.unwrap();
    for (name, bytes) in &data {
        store(&late, name, bytes).await.unwrap();
    }
    mark(&repo, &old).await;
    sweep(&repo, &old, &[first]).await;
    write_snapshot(&late, &data).await.unwrap_err();
    late.abort().await.unwrap();
    // The next one finds nothing of it and stores all.
    let (manifest, _) = backup(&repo, "b", &data).await.unwrap();
    is_whole(&repo, &manifest, &data).await;
}

#[tokio::test]
async fn a_reader_says_which_marks_it_heeds_and_reads_marked_packs_last() {
    let (repo, data) = (init_in_memory().await, objects(1));
    let (first, _) = backup(&repo, "a", &data).await.unwrap();
    let old = packs(&repo).await;
    let id = mark(&repo, &old).await;
    let (second, _) = backup(&repo, "b", &data).await.unwrap();
    let reader = repo.begin_reader("a", vec![]).await.unwrap();
    let view = reader.view();
    assert_eq!(view.marks().ids(), BTreeSet::from([id]));
    for manifest in [&first, &second] {
        for entry in entries(view, manifest).await.unwrap() {
            for piece in pieces(&entry) {
                let places = view.look_up(vec![
                    view.id(crate::repo::format::blob::BlobKind::Data, piece),
                ]);
                let places = places.await.unwrap().remove(0);
                let marked: Vec<bool> = places.iter().map(|p| view.is_marked(p)).collect();
                assert_eq!(marked, [false, true]);
            }
        }
    }
    // What is marked is read where there is nothing else.
    assert_eq!(restore(view, &first).await.unwrap(), data);
    reader.finish().await;
}

#[tokio::test]
async fn no_session_begins_on_a_snapshot_that_is_forgotten() {
    let (repo, data) = (init_in_memory().await, objects(1));
    let (first, _) = backup(&repo, "a", &data).await.unwrap();
    let (second, _) = backup(&repo, "a", &data).await.unwrap();
    repo.record_forgetting(std::slice::from_ref(&first))
        .await
        .unwrap();
    let on = |manifest: &Manifest| vec![manifest.snapshot];
    let error = repo.begin_reader("a", on(&first)).await.unwrap_err();
    assert!(error.chain().contains("forgotten"), "{}", error.chain());
    let auto = crate::repo::Compression::Auto;
    let begun = repo.begin_writer("a", on(&first), auto).await;
    assert!(begun.unwrap_err().chain().contains("forgotten"));
    // What is a snapshot is protected by the leases, and nothing is left of those that did not begin.
    let reader = repo.begin_reader("a", on(&second)).await.unwrap();
    let writer = repo.begin_writer("a", on(&second), auto).await.unwrap();
    assert_eq!(leases(&repo).await.unwrap().len(), 2);
    writer.abort().await.unwrap();
    reader.finish().await;
}

/// What the tests above prove depends on the rule.
#[tokio::test]
async fn who_breaks_the_rule_of_heeding_marks_commits_a_snapshot_that_is_not_whole() {
    let (_, store_of_all) = memory();
    let (repo, data) = (init(store_of_all.clone()).await, objects(1));
    let (first, _) = backup(&repo, "a", &data).await.unwrap();
    let old = packs(&repo).await;
    let repo = open(store_of_all).await.unwrap();
    let repo = repo.breaking(Some(Rule::Heeding));
    let late = writer(&repo, "b").await.unwrap();
    for (name, bytes) in &data {
        store(&late, name, bytes).await.unwrap();
    }
    let id = mark(&repo, &old).await;
    write_snapshot(&late, &data).await.unwrap();
    let held = leases(&repo).await.unwrap();
    assert!(held[0].file.as_ref().unwrap().marks.contains(&id));
    late.finish().await.unwrap();
    sweep(&repo, &old, &[first]).await;
    let report = repo.check(&[], CheckBytes::None).await.unwrap();
    assert!(report.damage.iter().any(|d| !d.snapshots.is_empty()));
}
