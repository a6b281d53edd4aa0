//! The index where it does not fit into memory: look-ups in local files, and merging.

use std::collections::HashSet;
use std::num::NonZeroU64;
use std::path::Path;
use std::sync::Arc;

use super::support::*;
use crate::base::env::{Env, lock};
use crate::base::resources::{Limits, Resources};
use crate::repo::format::ids::IndexId;
use crate::repo::format::segment::Segment;
use crate::repo::session::index::merge::{merge, merge_by};
use crate::repo::session::unnamed::write_segment;
use crate::repo::{CheckBytes, Manifest, Repository, Unlock};
use crate::store::testing::memory::MemoryStore;
use crate::store::testing::record::{Op, RecordStore};
use crate::store::{Key, SharedStore, Store};
use crate::{Cause, Error};

/// Memory for a handful of records: whole segments are in files.
const LITTLE: u64 = 4 << 10;
const SESSIONS: u64 = 12;

/// The repository for a process with little memory, which keeps its index below `state`.
async fn little(store: SharedStore, state: Option<&Path>) -> Repository {
    let limits = Limits {
        memory: NonZeroU64::new(LITTLE),
        ..Limits::default()
    };
    let resources = Resources::new(&limits).unwrap();
    let env = Env::system();
    let repo = Repository::open(store, Unlock::None, &resources, &env);
    let repo = repo.await.unwrap();
    match state {
        Some(state) => repo.with_local_index(state).unwrap(),
        None => repo,
    }
}

/// Sessions that share some objects, none of which merged the index.
async fn filled(store: &Arc<MemoryStore>) -> Vec<(Manifest, Objects)> {
    let repo = init(store.clone()).await;
    let mut all = Vec::new();
    for session in 0..SESSIONS {
        let mut data = objects(session * 100);
        data.extend(
            objects(7)
                .into_iter()
                .map(|(key, bytes)| (format!("same/{key}"), bytes)),
        );
        let (manifest, _) = backup(&repo, "a", &data).await.unwrap();
        all.push((manifest, data));
    }
    all
}

/// That everything is found, nothing else, and nothing is stored again.
async fn holds(repo: &Repository, all: &[(Manifest, Objects)]) {
    let view = repo.view().await.unwrap();
    assert!(!view.index().is_in_memory());
    for (manifest, data) in all {
        assert_eq!(&restore(&view, manifest).await.unwrap(), data);
    }
    let unknown =
        (0..2_000_u64).map(|n| crate::repo::BlobId(blake3::hash(&n.to_le_bytes()).into()));
    let places = view.look_up(unknown.collect()).await.unwrap();
    assert!(places.iter().all(Vec::is_empty));
    let writer = writer(repo, "a").await.unwrap();
    for (key, bytes) in all.iter().flat_map(|(_, data)| data) {
        let stored = store(&writer, key, bytes).await.unwrap();
        assert_eq!(stored.new_bytes, 0, "{key}");
        assert!(writer.contains(&stored.pieces).await.unwrap());
    }
    let new = store(&writer, "new", &noise(999, 3_000)).await.unwrap();
    assert!(new.new_bytes > 3_000);
    writer.abort().await.unwrap();
    let report = repo.check(&[], CheckBytes::All).await.unwrap();
    assert_eq!(report.damage, []);
}

fn files(state: &Path) -> Vec<std::path::PathBuf> {
    let all = walkdir::WalkDir::new(state)
        .into_iter()
        .map(|entry| entry.unwrap());
    let files = all.filter(|entry| entry.file_type().is_file());
    files.map(walkdir::DirEntry::into_path).collect()
}

#[tokio::test]
async fn an_index_that_does_not_fit_into_memory_is_looked_up_in_files() {
    let store = Arc::new(MemoryStore::new());
    let all = filled(&store).await;
    let state = tempfile::tempdir().unwrap();
    holds(&little(Arc::new(store.fork()), None).await, &all).await;

    let cold: SharedStore = Arc::new(store.fork());
    holds(&little(cold.clone(), Some(state.path())).await, &all).await;
    assert!(files(state.path()).len() as u64 >= SESSIONS);

    // What is on disk is not read from the repository again.
    let recorded = RecordStore::new(cold);
    let log = recorded.log();
    let repo = little(Arc::new(recorded), Some(state.path())).await;
    let _opened = log.take();
    let view = repo.view().await.unwrap();
    for (manifest, data) in &all {
        assert_eq!(&restore(&view, manifest).await.unwrap(), data);
    }
    let read = log.keys(Op::Get);
    assert!(
        !read.iter().any(|key| key.starts_with("index/")),
        "{read:?}"
    );
    // A check believes the repository alone.
    let report = repo.check(&[], CheckBytes::None).await.unwrap();
    assert_eq!(report.damage, []);
    let read: HashSet<String> = log.keys(Op::Get).into_iter().collect();
    let read = read.iter().filter(|key| key.starts_with("index/"));
    assert!(read.count() as u64 >= SESSIONS);
}

#[tokio::test]
async fn local_files_of_the_index_may_be_damaged_or_deleted_at_any_time() {
    let store = Arc::new(MemoryStore::new());
    let all = filled(&store).await;
    let state = tempfile::tempdir().unwrap();
    let open = async || little(Arc::new(store.fork()), Some(state.path())).await;
    holds(&open().await, &all).await;
    let sound = files(state.path());
    for path in &sound {
        let mut bytes = std::fs::read(path).unwrap();
        for at in [8, bytes.len() / 3, bytes.len() * 2 / 3, bytes.len() - 2] {
            bytes[at] ^= 1;
        }
        std::fs::write(path, &bytes[..bytes.len() - bytes.len() % 7]).unwrap();
    }
    holds(&open().await, &all).await;
    for path in &sound {
        // The ends are right, what a look-up reads is not.
        let mut bytes = std::fs::read(path).unwrap();
        bytes[20] ^= 1;
        std::fs::write(path, bytes).unwrap();
    }
    holds(&open().await, &all).await;

    // While it is in use.
    let repo = open().await;
    let view = repo.view().await.unwrap();
    let session = writer(&repo, "a").await.unwrap();
    for path in files(state.path()) {
        use std::os::unix::fs::FileExt as _;
        let file = std::fs::OpenOptions::new().write(true).open(&path).unwrap();
        file.write_all_at(&[0; 64], 8).unwrap();
    }
    for (manifest, data) in &all {
        assert_eq!(&restore(&view, manifest).await.unwrap(), data);
        for (key, bytes) in data {
            let stored = super::support::store(&session, key, bytes).await.unwrap();
            assert_eq!(stored.new_bytes, 0, "{key}");
        }
    }
    session.abort().await.unwrap();
    std::fs::remove_dir_all(state.path().join("index")).unwrap();
    holds(&repo, &all).await;
    // Where none can be written.
    std::fs::remove_dir_all(state.path().join("index")).unwrap();
    std::fs::write(state.path().join("index"), "no directory").unwrap();
    holds(&open().await, &all).await;
}

#[tokio::test]
async fn many_sessions_are_merged_into_few_segments() {
    let store = Arc::new(MemoryStore::new());
    init(store.clone()).await;
    let state = tempfile::tempdir().unwrap();
    let mut all: Vec<(Manifest, Objects)> = Vec::new();
    for session in 0..30 {
        let repo = if session % 2 == 0 {
            little(store.clone(), Some(state.path())).await
        } else {
            open(store.clone()).await.unwrap()
        };
        let writer = writer(&repo, "a").await.unwrap();
        let data = objects(session * 100);
        let (manifest, _) = write_snapshot(&writer, &data).await.unwrap();
        writer.merge_index().await.unwrap();
        writer.finish().await.unwrap();
        all.push((manifest, data));
        let live = repo.view().await.unwrap().index().live().len();
        assert!(live < 8, "{live} segments after {session} sessions");
    }
    let repo = little(store.clone(), Some(state.path())).await;
    holds(&repo, &all).await;
    // What others supersede can go: nothing of it counts again.
    let view = repo.view().await.unwrap();
    let live: HashSet<IndexId> = view.index().live().iter().map(|live| live.id).collect();
    let listed: Vec<IndexId> = repo
        .list_ids(crate::repo::format::files::StoredFile::Index)
        .await
        .unwrap();
    assert!(listed.len() > 30);
    for id in listed.iter().filter(|id| !live.contains(id)) {
        let key = crate::store::Key::new(format!("index/{id}")).unwrap();
        store.delete(&key, None).await.unwrap();
        let view = repo.view().await.unwrap();
        let now: HashSet<IndexId> = view.index().live().iter().map(|live| live.id).collect();
        assert_eq!(now, live);
    }
    holds(&little(store, None).await, &all).await;
}

#[tokio::test]
async fn a_crash_after_any_write_of_a_merge_leaves_the_index_whole() {
    let store = Arc::new(MemoryStore::new());
    let all = filled(&store).await;
    let journal = Journal {
        now: store.fork(),
        ..Journal::default()
    };
    let repo = little(Arc::new(journal.clone()), None).await;
    // Segments of so few records that the run has several, and that blobs with several places are at their ends.
    let merged = merge_by(&repo, || Ok(()), 50).await.unwrap();
    assert!(merged >= 8, "{merged}");
    assert_eq!(merge(&repo, || Ok(())).await.unwrap(), 0);
    let view = repo.view().await.unwrap();
    let live = view.index().live().len() as u64;
    assert!(
        live > SESSIONS - 8 + 2,
        "{live}: the run has several segments"
    );
    holds(&repo, &all).await;
    let states = std::mem::take(&mut *lock(&journal.states));
    for (path, state) in states {
        let repo = little(Arc::new(state), None).await;
        let view = repo.view().await.unwrap();
        for (manifest, data) in &all {
            assert_eq!(&restore(&view, manifest).await.unwrap(), data, "{path}");
        }
    }
    // A session whose lease has lapsed supersedes nothing.
    let store = Arc::new(store.fork());
    let before = paths(&store, "index/").await;
    let lapsed = || Err(Error::new(Cause::Failed, "the lease lapsed"));
    let repo = little(store.clone(), None).await;
    merge(&repo, lapsed).await.unwrap_err();
    assert_eq!(paths(&store, "index/").await, before);
}

#[tokio::test]
async fn a_segment_that_goes_while_the_index_is_read_is_no_damage() {
    let store = Arc::new(MemoryStore::new());
    let all = filled(&store).await;
    let lists = Arc::new(Lists::new(store.fork()));
    let gate = Arc::new(Gate::default());
    *lock(&lists.gate) = Some(("index/".to_owned(), gate.clone()));
    let repo = open(lists.clone()).await.unwrap();
    let merged = async {
        gate.listed.notified().await;
        let other = open(Arc::new(lists.inner.clone())).await.unwrap();
        let before = paths(&lists.inner, "index/").await;
        assert_eq!(merge(&other, || Ok(())).await.unwrap(), 8);
        let live = other.view().await.unwrap();
        let live: Vec<String> = (live.index().live().iter())
            .map(|live| format!("index/{}", live.id))
            .collect();
        for key in before.iter().filter(|key| !live.contains(&key.to_string())) {
            lists.inner.delete(key, None).await.unwrap();
        }
        gate.go_on.notify_one();
    };
    let (view, ()) = tokio::join!(repo.view(), merged);
    let view = view.unwrap();
    assert_eq!(view.index().unread(), []);
    assert_eq!(view.index().live().len() as u64, SESSIONS - 8 + 1);
    for (manifest, data) in &all {
        assert_eq!(&restore(&view, manifest).await.unwrap(), data);
    }
}

/// A host that has a copy of a segment which is damaged in the repository does not keep that to itself.
#[tokio::test]
async fn a_segment_that_is_damaged_in_the_repository_is_found_by_a_check_and_written_anew_from_a_copy()
 {
    let store = Arc::new(MemoryStore::new());
    let all = filled(&store).await;
    let (here, there) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    for state in [here.path(), there.path()] {
        holds(&little(store.clone(), Some(state)).await, &all).await;
    }
    let key = paths(&store, "index/").await.remove(0);
    damage(&store, &key, |bytes| bytes[60] ^= 1).await;
    let checked = little(store.clone(), Some(here.path())).await;
    let report = checked.check(&[], CheckBytes::None).await.unwrap();
    assert_eq!(report.damage.len(), 1, "{:?}", report.damage);
    assert_eq!(report.damage[0].place, key.as_str());
    assert_eq!(report.segments.len(), 1);
    checked
        .record_verification(&crate::repo::Verification {
            time: jiff::Timestamp::UNIX_EPOCH,
            level: "structure".into(),
            results: vec![],
            places: report.places,
            segments: report.segments,
        })
        .await
        .unwrap();
    // Another host heals it.
    let healer = little(store.clone(), Some(there.path())).await;
    let (_, added) = backup(&healer, "a", &all[0].1).await.unwrap();
    assert_eq!(added, 0);
    let report = checked.check(&[], CheckBytes::None).await.unwrap();
    assert_eq!(report.damage, []);
    holds(&little(store, None).await, &all).await;
}

/// What a snapshot needs that is committed while a check begins is in no index that it has read.
#[tokio::test]
async fn a_snapshot_that_is_committed_while_a_check_begins_is_no_damage() {
    let store = Arc::new(MemoryStore::new());
    filled(&store).await;
    let lists = Arc::new(Lists::new(store.fork()));
    let gate = Arc::new(Gate::default());
    let repo = open(lists.clone()).await.unwrap();
    for session in [false, true] {
        *lock(&lists.gate) = Some(("index/".to_owned(), gate.clone()));
        let commits = async {
            gate.listed.notified().await;
            let other = open(Arc::new(lists.inner.clone())).await.unwrap();
            backup(&other, "b", &objects(5_000 + u64::from(session)))
                .await
                .unwrap();
            gate.go_on.notify_one();
        };
        let check = async {
            if !session {
                return repo.check(&[], CheckBytes::All).await.unwrap();
            }
            let (reader, snapshots) = repo.begin_check("verify", vec![]).await.unwrap();
            let report = reader.view().check(snapshots, &[], CheckBytes::All).await;
            reader.finish().await;
            report.unwrap()
        };
        let (report, ()) = tokio::join!(check, commits);
        assert_eq!(report.damage, []);
    }
}

/// Writes the index anew in two segments, of which the second supersedes all others: their files.
async fn written_in_two(store: &Arc<MemoryStore>) -> [Key; 2] {
    let repo = open(store.clone()).await.unwrap();
    let view = repo.view().await.unwrap();
    let index = view.index();
    assert!(index.is_in_memory());
    let old: Vec<IndexId> = index.live().iter().map(|live| live.id).collect();
    let (low, high) = index.resident().split_at(index.resident().len() / 2);
    let mut written = Vec::new();
    for (records, supersedes) in [(low, vec![]), (high, old)] {
        let before = paths(store, "index/").await;
        let segment = Segment {
            packs: index.packs().to_vec(),
            supersedes,
            records: records.to_vec(),
        };
        write_segment(&repo, segment).await.unwrap();
        let mut now = paths(store, "index/").await;
        now.retain(|key| !before.contains(key));
        written.extend(now);
    }
    written.try_into().unwrap()
}

#[tokio::test]
async fn a_listing_that_shows_the_end_of_a_merge_without_its_beginning_loses_nothing() {
    let store = Arc::new(MemoryStore::new());
    let all = filled(&store).await;
    let [first, _] = written_in_two(&store).await;
    // More than one answer of a store may take.
    let repo = open(store.clone()).await.unwrap();
    for _ in 0..256 {
        write_segment(&repo, Segment::default()).await.unwrap();
    }
    let lists = Arc::new(Lists::new(store.fork()));
    let gate = Arc::new(Gate::default());
    let repo = open(lists.clone()).await.unwrap();
    *lock(&lists.gate) = Some(("index/".to_owned(), gate.clone()));
    *lock(&lists.hides) = Some(first.to_string());
    let shows = async {
        gate.listed.notified().await;
        *lock(&lists.hides) = None;
        gate.go_on.notify_one();
    };
    let (view, ()) = tokio::join!(repo.view(), shows);
    let view = view.unwrap();
    for (manifest, data) in &all {
        assert_eq!(&restore(&view, manifest).await.unwrap(), data);
    }
}

#[tokio::test]
async fn what_a_damaged_part_of_a_merge_had_is_in_the_segments_that_it_superseded() {
    let store = Arc::new(MemoryStore::new());
    let all = filled(&store).await;
    let [first, _] = written_in_two(&store).await;
    damage(&store, &first, |bytes| bytes[60] ^= 1).await;
    // The directories of the packs are of no help.
    for directory in ["data/", "tree/"] {
        for key in paths(&store, directory).await {
            damage(&store, &key, |bytes| {
                let end = bytes.len() - 40;
                bytes[end] ^= 1;
            })
            .await;
        }
    }
    let repo = open(store.clone()).await.unwrap();
    let view = repo.view().await.unwrap();
    assert_eq!(view.index().unread().len(), 1);
    for (manifest, data) in &all {
        assert_eq!(&restore(&view, manifest).await.unwrap(), data);
    }
}
