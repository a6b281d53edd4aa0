//! Pruning: what nobody needs goes, and nothing else does.

use std::sync::Arc;
use std::time::Duration;

use super::support::*;
use crate::repo::format::files::StoredFile;
use crate::repo::session::lease::leases;
use crate::repo::{CheckBytes, Compression, Manifest, PruneOptions, PruneReport, Repository, View};
use crate::store::testing::memory::MemoryStore;
use crate::store::{Key, Store as _};
use crate::{Cause, Result};

/// No grace: what is marked goes with the next prune.
const AT_ONCE: PruneOptions<'static> = PruneOptions {
    grace: Duration::ZERO,
    max_unused: 0.0,
    max_repack: u64::MAX,
    dry_run: false,
    keeps: &|_| false,
};

async fn prune(repo: &Repository) -> PruneReport {
    repo.prune(&AT_ONCE).await.unwrap()
}

async fn forget(repo: &Repository, manifest: &Manifest) {
    let one = std::slice::from_ref(manifest);
    repo.record_forgetting(one).await.unwrap();
}

/// What is stored, in bytes, of packs.
async fn stored(repo: &Repository) -> u64 {
    let mut bytes = 0;
    for directory in ["data/", "tree/"] {
        let listed = repo.list(directory).await.unwrap();
        bytes += listed.iter().map(|meta| meta.size).sum::<u64>();
    }
    bytes
}

async fn is_empty(repo: &Repository, file: StoredFile) -> bool {
    repo.list(file.row().directory).await.unwrap().is_empty()
}

/// That nothing is damaged, and that these snapshots and no others have their objects.
async fn holds(repo: &Repository, all: &[(&Manifest, &Objects)]) {
    let report = repo.check(&[], CheckBytes::All).await.unwrap();
    assert_eq!(report.damage, []);
    let snapshots = repo.snapshots().await.unwrap();
    assert_eq!(snapshots.manifests.len(), all.len());
    let view: View = repo.view().await.unwrap();
    for (manifest, objects) in all {
        assert_eq!(&restore(&view, manifest).await.unwrap(), *objects);
    }
}

/// Objects that two snapshots share, and some of each.
fn sharing(seed: u64) -> Objects {
    let mut objects = objects(1);
    for n in 0..20 {
        let name = format!("own/{seed}/{n:02}");
        objects.insert(name, noise(1_000 * seed + n, 5_000));
    }
    objects
}

#[tokio::test]
async fn what_only_forgotten_snapshots_need_goes_and_the_rest_stays() {
    let (_, store) = memory();
    let repo = init(store).await;
    let (one, two) = (sharing(1), sharing(2));
    let (first, _) = backup(&repo, "a", &one).await.unwrap();
    let (second, _) = backup(&repo, "a", &two).await.unwrap();
    let before = stored(&repo).await;
    assert_eq!(prune(&repo).await.marked.count, 0, "everything is needed");
    assert_eq!(stored(&repo).await, before);

    forget(&repo, &first).await;
    let marked = prune(&repo).await;
    assert_eq!(marked.removed.count, 0);
    assert!(marked.newly_marked.count > 0 && marked.marked == marked.newly_marked);
    assert!(marked.repacked.bytes > 0, "some of a pack is needed");
    assert_eq!(marked.manifests_removed, [first.snapshot]);
    holds(&repo, &[(&second, &two)]).await;

    let swept = prune(&repo).await;
    assert_eq!(swept.removed, marked.marked);
    assert_eq!(swept.marked.count, 0);
    let after = stored(&repo).await;
    assert!(after < before - 90_000, "{after} of {before}");
    assert!(is_empty(&repo, StoredFile::Mark).await);
    assert!(is_empty(&repo, StoredFile::Lease).await);
    holds(&repo, &[(&second, &two)]).await;
    // The next backup finds all that is there, and nothing that is gone.
    let writer = writer(&repo, "a").await.unwrap();
    assert_eq!(writer.lost_packs(), 0);
    let (third, added) = write_snapshot(&writer, &one).await.unwrap();
    assert!(added > 90_000);
    writer.finish().await.unwrap();
    holds(&repo, &[(&second, &two), (&third, &one)]).await;
    let nothing = prune(&repo).await;
    assert_eq!((nothing.marked.count, nothing.removed.count), (0, 0));
}

#[tokio::test]
async fn nothing_goes_before_the_grace_is_over() {
    let (_, store) = memory();
    let repo = init(store).await;
    let (one, two) = (sharing(1), sharing(2));
    let (first, _) = backup(&repo, "a", &one).await.unwrap();
    let (second, _) = backup(&repo, "a", &two).await.unwrap();
    forget(&repo, &first).await;
    let options = PruneOptions {
        grace: Duration::from_hours(1),
        ..AT_ONCE
    };
    for _ in 0..2 {
        let report = repo.prune(&options).await.unwrap();
        assert_eq!(report.removed.count, 0);
        assert!(report.marked.count > 0 && report.due.is_some());
    }
    holds(&repo, &[(&second, &two)]).await;
}

#[tokio::test]
async fn a_dry_run_says_what_would_be_done_and_does_nothing() {
    let (memory, store) = memory();
    let repo = init(store).await;
    let (first, _) = backup(&repo, "a", &sharing(1)).await.unwrap();
    backup(&repo, "a", &sharing(2)).await.unwrap();
    forget(&repo, &first).await;
    let dry = PruneOptions {
        dry_run: true,
        ..AT_ONCE
    };
    let before = paths(&memory, "").await;
    let would = repo.prune(&dry).await.unwrap();
    assert_eq!(paths(&memory, "").await, before);
    let did = prune(&repo).await;
    assert_eq!(would.newly_marked, did.newly_marked);
    let would = repo.prune(&dry).await.unwrap();
    assert_eq!(would.removed, did.newly_marked);
    assert_eq!(prune(&repo).await.removed, would.removed);
}

#[tokio::test]
async fn what_a_reader_reads_stays_until_it_has_ended() {
    let (_, store) = memory();
    let repo = init(store).await;
    let (one, two) = (sharing(1), sharing(2));
    let (first, _) = backup(&repo, "a", &one).await.unwrap();
    let (second, _) = backup(&repo, "a", &two).await.unwrap();
    let reader = repo.begin_reader("a", vec![first.snapshot]).await.unwrap();
    forget(&repo, &first).await;
    for _ in 0..3 {
        let report = prune(&repo).await;
        assert_eq!((report.marked.count, report.removed.count), (0, 0));
        assert_eq!(report.manifests_removed, []);
    }
    assert_eq!(restore(reader.view(), &first).await.unwrap(), one);
    reader.finish().await;
    prune(&repo).await;
    assert!(prune(&repo).await.removed.count > 0);
    holds(&repo, &[(&second, &two)]).await;
}

#[tokio::test]
async fn a_mark_waits_for_no_session_that_heeds_it() {
    let (_, store) = memory();
    let repo = init(store).await;
    let (one, two) = (sharing(1), sharing(2));
    let (first, _) = backup(&repo, "a", &one).await.unwrap();
    let (second, _) = backup(&repo, "a", &two).await.unwrap();
    forget(&repo, &first).await;
    assert!(prune(&repo).await.newly_marked.count > 0);
    let later = repo.begin_reader("a", vec![second.snapshot]).await;
    let later = later.unwrap();
    // Its lease says so as soon as it is renewed.
    let waits = prune(&repo).await;
    assert_eq!((waits.removed.count, waits.waits_for.len()), (0, 1));
    later.renew().await.unwrap();
    let swept = prune(&repo).await;
    assert!(swept.removed.count > 0 && swept.waits_for.is_empty());
    assert_eq!(restore(later.view(), &second).await.unwrap(), two);
    later.finish().await;
    holds(&repo, &[(&second, &two)]).await;
}

#[tokio::test]
async fn a_mark_waits_for_a_session_that_began_before_it_and_relies_on_its_packs() {
    let (_, store) = memory();
    let repo = init(store).await;
    let (one, two) = (sharing(1), sharing(2));
    let (first, _) = backup(&repo, "a", &one).await.unwrap();
    let (second, _) = backup(&repo, "a", &two).await.unwrap();
    forget(&repo, &first).await;
    let older = writer(&repo, "b").await.unwrap();
    for (name, bytes) in &one {
        assert_eq!(store_of(&older, name, bytes).await, 0);
    }
    assert!(prune(&repo).await.newly_marked.count > 0);
    for _ in 0..2 {
        let waits = prune(&repo).await;
        assert_eq!((waits.removed.count, waits.waits_for.len()), (0, 1));
    }
    let (third, added) = write_snapshot(&older, &one).await.unwrap();
    assert!(added > 0, "it stored again what was marked");
    let reader = repo.begin_reader("b", vec![third.snapshot]).await.unwrap();
    reader.renew().await.unwrap();
    older.finish().await.unwrap();
    // The mark does not say where else that is, so another one is made, once, which the reader does not heed.
    let again = prune(&repo).await;
    assert_eq!(repo.marks().await.unwrap().known.len(), 2);
    assert!(again.removed.count <= 1, "{again:?}");
    prune(&repo).await;
    assert_eq!(repo.marks().await.unwrap().known.len(), 2);
    assert_eq!(restore(reader.view(), &third).await.unwrap(), one);
    reader.finish().await;
    assert!(prune(&repo).await.removed.count > 0);
    holds(&repo, &[(&second, &two), (&third, &one)]).await;
    assert!(is_empty(&repo, StoredFile::Mark).await);
}

async fn store_of(writer: &crate::repo::Writer, name: &str, bytes: &bytes::Bytes) -> u64 {
    store(writer, name, bytes).await.unwrap().new_bytes
}

#[tokio::test]
async fn what_a_session_left_that_died_goes() {
    let (_, store) = memory();
    let repo = init(store).await;
    let two = sharing(2);
    let (second, _) = backup(&repo, "a", &two).await.unwrap();
    let clean = stored(&repo).await;
    let died = writer(&repo, "b").await.unwrap();
    for (name, bytes) in &sharing(3) {
        store_of(&died, name, bytes).await;
    }
    died.flush().await.unwrap();
    died.abort().await.unwrap();
    assert!(stored(&repo).await > clean);
    prune(&repo).await;
    prune(&repo).await;
    assert_eq!(stored(&repo).await, clean);
    holds(&repo, &[(&second, &two)]).await;
}

#[tokio::test]
async fn packs_that_no_index_names_go() {
    let (memory, store) = memory();
    let repo = init(store).await;
    let two = sharing(2);
    let (second, _) = backup(&repo, "a", &two).await.unwrap();
    // Two packs of a session whose index never came.
    let clean = stored(&repo).await;
    for (kind, fan) in [("data", "0f"), ("tree", "1f")] {
        let name = fan.repeat(32);
        let key = Key::new(format!("{kind}/{fan}/{name}")).unwrap();
        let put = memory.put(&key, noise(1, 100), crate::store::PutOptions::default());
        put.await.unwrap();
    }
    assert_eq!(prune(&repo).await.newly_marked.count, 2);
    assert_eq!(prune(&repo).await.removed.bytes, 200);
    assert_eq!(stored(&repo).await, clean);
    holds(&repo, &[(&second, &two)]).await;
}

#[tokio::test]
async fn who_has_no_data_key_prunes_and_repacks() {
    let (_, store) = memory();
    let repo = init(store).await;
    let (one, two) = (sharing(1), sharing(2));
    let (first, _) = backup(&repo, "a", &one).await.unwrap();
    let (second, _) = backup(&repo, "a", &two).await.unwrap();
    forget(&repo, &first).await;
    let pruner = repo.without_data_keys();
    assert!(prune(&pruner).await.repacked.bytes > 0);
    assert!(prune(&pruner).await.removed.count > 0);
    holds(&repo, &[(&second, &two)]).await;
}

#[tokio::test]
async fn forgotten_snapshots_that_the_policy_keeps_stay_whole() {
    let (_, store) = memory();
    let repo = init(store).await;
    let (one, two) = (sharing(1), sharing(2));
    let (first, _) = backup(&repo, "a", &one).await.unwrap();
    let (second, _) = backup(&repo, "a", &two).await.unwrap();
    let record = repo.record_forgetting(std::slice::from_ref(&first));
    let record = record.await.unwrap();
    let keeps = |manifest: &Manifest| manifest.snapshot == first.snapshot;
    let options = PruneOptions {
        keeps: &keeps,
        ..AT_ONCE
    };
    for _ in 0..2 {
        let report = repo.prune(&options).await.unwrap();
        assert_eq!(report.kept_back, [first.snapshot]);
        assert_eq!((report.marked.count, report.removed.count), (0, 0));
    }
    repo.revoke_forgetting(record).await.unwrap();
    holds(&repo, &[(&first, &one), (&second, &two)]).await;
}

#[tokio::test]
async fn what_is_needed_again_is_not_removed_by_a_mark_that_does_not_know_it() {
    let (_, store) = memory();
    let repo = init(store).await;
    let (one, two) = (sharing(1), sharing(2));
    let (first, _) = backup(&repo, "a", &one).await.unwrap();
    let (second, _) = backup(&repo, "a", &two).await.unwrap();
    let record = repo.record_forgetting(std::slice::from_ref(&first));
    let record = record.await.unwrap();
    // A session that reads it keeps the manifest there, and the mark is made all the same by who does not see that.
    let manifest = Key::new(StoredFile::Manifest.path(&first.snapshot)).unwrap();
    let bytes = repo.get_file(manifest.as_str()).await.unwrap();
    assert!(prune(&repo).await.marked.count > 0);
    repo.put_once(manifest.as_str(), bytes).await.unwrap();
    repo.revoke_forgetting(record).await.unwrap();
    holds(&repo, &[(&first, &one), (&second, &two)]).await;
    // It is stored again elsewhere, marked once more, and goes with the prune after that.
    let again = prune(&repo).await;
    assert_eq!(again.removed.count, 0);
    assert!(again.repacked.bytes > 0);
    holds(&repo, &[(&first, &one), (&second, &two)]).await;
    assert!(prune(&repo).await.removed.count > 0);
    holds(&repo, &[(&first, &one), (&second, &two)]).await;
    assert!(is_empty(&repo, StoredFile::Mark).await);
}

/// What a prune fails with.
async fn refused(repo: &Repository) -> Cause {
    let before = stored(repo).await;
    let error = repo.prune(&AT_ONCE).await.unwrap_err();
    assert_eq!(stored(repo).await, before);
    assert!(is_empty(repo, StoredFile::Mark).await);
    error.cause()
}

#[tokio::test]
async fn nothing_is_removed_while_it_is_not_known_what_is_needed() {
    let (memory, store) = memory();
    let repo = init(store).await;
    let (one, two) = (sharing(1), sharing(2));
    let (first, _) = backup(&repo, "a", &one).await.unwrap();
    backup(&repo, "a", &two).await.unwrap();
    let open_again = |store: MemoryStore| async move { open(Arc::new(store)).await.unwrap() };

    let manifest = Key::new(StoredFile::Manifest.path(&first.snapshot)).unwrap();
    let broken = memory.fork();
    damage(&broken, &manifest, |bytes| bytes[50] ^= 1).await;
    assert_eq!(refused(&open_again(broken).await).await, Cause::Damage);

    for segment in paths(&memory, "index/").await {
        let broken = memory.fork();
        damage(&broken, &segment, |bytes| bytes.truncate(20)).await;
        assert_eq!(refused(&open_again(broken).await).await, Cause::Damage);
        let broken = memory.fork();
        broken.delete(&segment, None).await.unwrap();
        assert_eq!(refused(&open_again(broken).await).await, Cause::Damage);
    }
    for pack in paths(&memory, "tree/").await {
        let broken = memory.fork();
        damage(&broken, &pack, |bytes| bytes.fill(0)).await;
        assert_eq!(refused(&open_again(broken).await).await, Cause::Damage);
    }
}

#[tokio::test]
async fn two_prunes_do_not_work_at_once() {
    let (_, store) = memory();
    let repo = init(store).await;
    backup(&repo, "a", &sharing(1)).await.unwrap();
    let other = repo.begin_maintenance().await.unwrap();
    let error = repo.prune(&AT_ONCE).await.unwrap_err();
    assert_eq!(error.cause(), Cause::Locked);
    assert!(error.chain().contains("prunes"), "{}", error.chain());
    other.finish().await.unwrap();
    prune(&repo).await;
}

/// Everything that is done to a repository in which snapshots are forgotten and pruned.
async fn life(repo: &Repository) -> Result<()> {
    let all = repo.snapshots().await?;
    if let Some(first) = all.manifests.iter().find(|m| m.sequence == 1) {
        let one = std::slice::from_ref(first);
        repo.record_forgetting(one).await?;
    }
    for _ in 0..2 {
        repo.prune(&AT_ONCE).await?;
    }
    Ok(())
}

#[tokio::test]
async fn a_crash_at_any_write_of_forget_and_prune_loses_nothing_and_the_next_run_completes() {
    let journal = Journal::default();
    let repo = init(Arc::new(journal.clone())).await;
    let (one, two) = (sharing(1), sharing(2));
    backup(&repo, "a", &one).await.unwrap();
    let (second, _) = backup(&repo, "a", &two).await.unwrap();
    journal.states.lock().unwrap().clear();
    life(&repo).await.unwrap();
    let after = stored(&repo).await;
    let states = std::mem::take(&mut *journal.states.lock().unwrap());
    assert!(states.len() > 12, "{}", states.len());
    let mut kinds = std::collections::BTreeSet::new();
    for (write, state) in states {
        kinds.insert(write.split('/').next().unwrap().to_owned());
        let repo = open(Arc::new(state)).await.unwrap();
        let report = repo.check(&[], CheckBytes::All).await.unwrap();
        let suffers = report.damage.iter().any(|d| !d.snapshots.is_empty());
        assert!(!suffers, "after {write}: {:?}", report.damage);
        let view = repo.view().await.unwrap();
        assert_eq!(restore(&view, &second).await.unwrap(), two, "after {write}");
        life(&repo).await.unwrap();
        // What a prune that was cut off stored again, and did not mark, takes one more.
        life(&repo).await.unwrap();
        holds(&repo, &[(&second, &two)]).await;
        let left = stored(&repo).await;
        assert!(
            left <= after + after / 20,
            "after {write}: {left} of {after}"
        );
        for lease in leases(&repo).await.unwrap() {
            assert!(lease.dead, "after {write}");
        }
    }
    let expected = [
        "data",
        "forgotten",
        "index",
        "leases",
        "marks",
        "snapshots",
        "tree",
    ];
    assert_eq!(kinds, expected.map(str::to_owned).into());
}

#[tokio::test]
async fn an_empty_repository_is_pruned() {
    let (_, store) = memory();
    let repo = init(store).await;
    let report = prune(&repo).await;
    assert_eq!((report.snapshots, report.marked.count), (0, 0));
    let (only, _) = backup(&repo, "a", &sharing(1)).await.unwrap();
    forget(&repo, &only).await;
    prune(&repo).await;
    prune(&repo).await;
    assert_eq!(stored(&repo).await, 0);
    let view = repo.view().await.unwrap();
    assert_eq!(view.blobs(), 0);
    let auto = Compression::Auto;
    let writer = repo.begin_writer("a", vec![], auto).await.unwrap();
    let (next, _) = write_snapshot(&writer, &sharing(1)).await.unwrap();
    assert_eq!(next.sequence, 2, "numbers go on");
    writer.finish().await.unwrap();
    holds(&repo, &[(&next, &sharing(1))]).await;
}

#[tokio::test]
async fn what_a_segment_superseded_goes_only_while_that_segment_is_whole_in_the_store() {
    let (memory, store) = memory();
    let repo = init(store.clone()).await;
    let two = sharing(2);
    let mut last = None;
    for _ in 0..9 {
        let writer = writer(&repo, "a").await.unwrap();
        last = Some(write_snapshot(&writer, &two).await.unwrap().0);
        store_of(&writer, "new", &noise(stored(&repo).await, 3_000)).await;
        writer.flush().await.unwrap();
        writer.finish().await.unwrap();
    }
    let merging = writer(&repo, "a").await.unwrap();
    merging.merge_index().await.unwrap();
    merging.finish().await.unwrap();
    let segments = paths(&memory, "index/").await;
    // A host with copies of its own does not see that the one which supersedes is damaged.
    let state = tempfile::tempdir().unwrap();
    let host = |store| async move { open(store).await.unwrap() };
    let seeing = host(store.clone())
        .await
        .with_local_index(state.path())
        .unwrap();
    let superseding = seeing.view().await.unwrap();
    let superseding = superseding
        .index()
        .live()
        .iter()
        .find(|l| !l.supersedes.is_empty());
    let superseding = Key::new(StoredFile::Index.path(&superseding.unwrap().id)).unwrap();
    let keep_all = PruneOptions {
        max_unused: 1_000.0,
        ..AT_ONCE
    };
    let whole = repo.get_file(superseding.as_str()).await.unwrap();
    damage(&memory, &superseding, |bytes| {
        let middle = bytes.len() / 2;
        bytes[middle] ^= 1;
    })
    .await;
    seeing.prune(&keep_all).await.unwrap();
    let left = paths(&memory, "index/").await;
    assert!(segments.iter().all(|segment| left.contains(segment)));
    let put = memory.put(&superseding, whole, crate::store::PutOptions::default());
    put.await.unwrap();
    seeing.prune(&keep_all).await.unwrap();
    let left = paths(&memory, "index/").await;
    assert!(left.len() < segments.len() && left.contains(&superseding));
    let last = last.unwrap();
    let view = repo.view().await.unwrap();
    assert_eq!(restore(&view, &last).await.unwrap(), two);
}
