//! Sessions that were taken for dead: what of theirs arrives late is no snapshot.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;

use super::support::*;
use crate::base::env::Env;
use crate::base::resources::Resources;
use crate::repo::format::files::StoredFile;
use crate::repo::format::ids::{SessionId, SnapshotId};
use crate::repo::format::lineage::{Claim, Dead};
use crate::repo::format::sealed::FileKind;
use crate::repo::host::Host;
use crate::repo::session::lease::{LeaseFile, SessionKind};
use crate::repo::{CheckBytes, Manifest, Repository, Unlock};
use crate::store::retry::{RetryPolicy, RetryStore};
use crate::store::testing::fault::{Action, FaultStore, Rule};
use crate::store::testing::record::Op;
use crate::store::{Key, PutOptions};
use crate::{Cause, Result};

const CUT_OFF: SessionId = SessionId([7; 32]);

/// Leaves the lease of a writer whose process is gone.
async fn cut_off(repo: &Repository) {
    let pid = u32::MAX;
    let host = Host {
        pid,
        ..Host::current()
    };
    leave_lease(repo, host).await;
}

async fn leave_lease(repo: &Repository, host: Host) {
    let lease = LeaseFile {
        session: CUT_OFF,
        kind: SessionKind::Writer,
        lineage: repo.lineage("a"),
        host,
        created: Timestamp::UNIX_EPOCH,
        ttl_s: 120,
        renewals: 1,
        parents: vec![],
        checkpoint: false,
        dead: BTreeSet::new(),
        uncertain: false,
        packs: BTreeMap::new(),
        unfinished: vec![],
        marks: BTreeSet::new(),
    };
    let path = StoredFile::Lease.path(&CUT_OFF);
    let bytes = repo.sealer().seal_json(FileKind::Lease, &path, &lease);
    repo.put_once(&path, bytes.unwrap()).await.unwrap();
}

/// A manifest of the session that was cut off arrives: what it would have committed after `parent`.
async fn arrives(repo: &Repository, parent: &Manifest, id: u8) -> SnapshotId {
    let mut late = parent.clone();
    late.snapshot = SnapshotId([id; 32]);
    late.session = CUT_OFF;
    late.sequence = parent.sequence + 1;
    late.parent = Some(parent.as_parent());
    late.write(repo, std::time::Duration::MAX).await.unwrap();
    late.snapshot
}

/// The snapshots and the manifests that are none.
async fn judged(repo: &Repository) -> (Vec<SnapshotId>, Vec<SnapshotId>) {
    let report = repo.check(&[], CheckBytes::All).await.unwrap();
    assert_eq!(report.damage, []);
    let all = repo.snapshots().await.unwrap();
    let snapshots = all.manifests.iter().map(|m| m.snapshot).collect();
    (snapshots, all.void)
}

#[tokio::test]
async fn what_a_session_commits_after_it_was_taken_for_dead_is_no_snapshot() {
    let (_, store) = memory();
    let repo = init(store).await;
    let (first, _) = backup(&repo, "a", &objects(1)).await.unwrap();
    cut_off(&repo).await;
    // Its manifest counts while nobody took it for dead, and for who saw it.
    let early = arrives(&repo, &first, 50).await;
    let (next, _) = backup(&repo, "a", &objects(2)).await.unwrap();
    assert_eq!(next.dead, Dead::from([(CUT_OFF, vec![early])]));
    assert_eq!((next.sequence, next.parent.unwrap().snapshot), (3, early));
    assert!(repo.list("leases/").await.unwrap().is_empty());
    let late = arrives(&repo, &first, 51).await;
    let (snapshots, void) = judged(&repo).await;
    assert_eq!(void, [late]);
    assert_eq!(
        BTreeSet::from_iter(snapshots),
        BTreeSet::from([first.snapshot, early, next.snapshot])
    );
    // It is in nobody's way, and stays what it is when its successor is forgotten.
    let (last, _) = backup(&repo, "a", &objects(3)).await.unwrap();
    assert_eq!(
        (last.sequence, last.parent.unwrap().snapshot),
        (4, next.snapshot)
    );
    repo.record_forgetting(std::slice::from_ref(&next))
        .await
        .unwrap();
    let manifest = Key::new(StoredFile::Manifest.path(&next.snapshot)).unwrap();
    repo.store().delete(&manifest, None).await.unwrap();
    let (snapshots, void) = judged(&repo).await;
    assert_eq!((snapshots.len(), void), (3, vec![late]));
}

#[tokio::test]
async fn who_ends_without_a_commit_leaves_word_of_the_dead() {
    let (_, store) = memory();
    let repo = init(store).await;
    let (first, _) = backup(&repo, "a", &objects(1)).await.unwrap();
    cut_off(&repo).await;
    for _ in 0..2 {
        writer(&repo, "a").await.unwrap().abort().await.unwrap();
        let leases = repo.list("leases/").await.unwrap();
        assert_eq!(leases.len(), 1, "one lease says it all");
        let cut_off = StoredFile::Lease.path(&CUT_OFF);
        assert!(leases.iter().all(|meta| meta.key.as_str() != cut_off));
    }
    // A writer of another instance has nothing to do with it.
    let (other, _) = backup(&repo, "b", &objects(1)).await.unwrap();
    assert_eq!(other.dead, Dead::new());
    let (next, _) = backup(&repo, "a", &objects(2)).await.unwrap();
    assert!(next.dead.contains_key(&CUT_OFF), "{:?}", next.dead);
    assert!(repo.list("leases/").await.unwrap().is_empty());
    let late = arrives(&repo, &first, 51).await;
    assert_eq!(judged(&repo).await.1, [late]);
}

/// Fails the write of a manifest in this way; whether it arrived is up to the way.
async fn commit_fails(action: Action) -> Result<(Repository, Arc<FaultStore>, Manifest)> {
    let (_, memory) = memory();
    let store = Arc::new(FaultStore::new(memory));
    let repo = init(store.clone()).await;
    let (first, _) = backup(&repo, "a", &objects(1)).await?;
    let rule = Rule::on_writes(action).key_contains("snapshots/");
    store.faults().add(rule);
    let error = backup(&repo, "a", &objects(2)).await.unwrap_err();
    assert!(
        matches!(
            error.cause(),
            Cause::Unavailable | Cause::NoSpace | Cause::AccessDenied
        ),
        "{error:?}"
    );
    store.faults().clear();
    Ok((repo, store, first))
}

#[tokio::test]
async fn a_commit_that_failed_is_fenced_as_it_may_still_arrive() {
    // Also after an error that sounds certain: it is that of the last try.
    for cause in [Cause::Unavailable, Cause::NoSpace, Cause::AccessDenied] {
        let (repo, _, first) = commit_fails(Action::Fail(cause)).await.unwrap();
        let lease = repo.list("leases/").await.unwrap();
        assert_eq!(lease.len(), 1, "its session is told of");
        let session = StoredFile::Lease.id(lease[0].key.as_str()).unwrap();
        let session: SessionId = session.parse().unwrap();
        let (next, _) = backup(&repo, "a", &objects(3)).await.unwrap();
        assert_eq!(next.dead, Dead::from([(session, vec![])]));
        // Its number was claimed, so the next one is taken, and nothing is missing.
        assert_eq!((next.sequence, next.parent), (3, Some(first.as_parent())));
        assert_eq!(judged(&repo).await.0.len(), 2);
        assert!(repo.list("leases/").await.unwrap().is_empty());
    }
}

#[tokio::test]
async fn a_session_that_cannot_even_say_that_it_ended_is_named_all_the_same() {
    let (_, memory) = memory();
    let store = Arc::new(FaultStore::new(memory));
    let repo = init(store.clone()).await;
    let (first, _) = backup(&repo, "a", &objects(1)).await.unwrap();
    let writer = writer(&repo, "a").await.unwrap();
    let session = writer.session();
    let fails = Action::Fail(Cause::Unavailable);
    store
        .faults()
        .add(Rule::on_writes(fails).key_contains("snapshots/"));
    write_snapshot(&writer, &objects(2)).await.unwrap_err();
    // Nothing can be written any more, and things can be deleted.
    store
        .faults()
        .add(Rule::on(Op::Put, Action::Fail(Cause::NoSpace)));
    writer.finish().await.unwrap_err();
    store.faults().clear();
    let (next, _) = backup(&repo, "a", &objects(3)).await.unwrap();
    assert_eq!(next.dead, Dead::from([(session, vec![])]));
    assert_eq!(next.parent, Some(first.as_parent()));
}

#[tokio::test(start_paused = true)]
async fn a_commit_that_took_longer_than_the_lease_is_no_success() {
    let (env, clock) = Env::simulated(Timestamp::UNIX_EPOCH, 0xfe_ce);
    let resources = Resources::of_tests();
    let (_, memory) = memory();
    let store = Arc::new(FaultStore::new(memory.clone()));
    let made = Repository::init(store.clone(), Unlock::None, options(), &resources, &env);
    let repo = made.await.unwrap();
    let (first, _) = backup(&repo, "a", &objects(1)).await.unwrap();
    let writer = writer(&repo, "a").await.unwrap();
    let session = writer.session();
    let late = Action::Delay(std::time::Duration::from_secs(1000));
    store
        .faults()
        .add(Rule::on_writes(late).key_contains("snapshots/"));
    let other = open(memory).await.unwrap();
    let commit = async {
        let done = write_snapshot(&writer, &objects(2)).await;
        (done, writer.finish().await)
    };
    let meanwhile = async {
        // Until it has claimed its number and only the manifest is to be written.
        while other.list("claims/").await.unwrap().len() < 2 {
            tokio::time::sleep(std::time::Duration::from_millis(1)).await;
        }
        tokio::time::sleep(std::time::Duration::from_secs(1)).await;
        // Its machine was suspended; another host waited, and took it for dead.
        clock.advance(std::time::Duration::from_secs(500));
        let mut next = first.clone();
        next.snapshot = SnapshotId([0x44; 32]);
        next.session = SessionId([0x44; 32]);
        next.sequence = 2;
        next.parent = Some(first.as_parent());
        next.dead = Dead::from([(session, vec![])]);
        next.write(&other, std::time::Duration::MAX).await.unwrap();
    };
    let ((done, _), ()) = tokio::join!(commit, meanwhile);
    let error = done.unwrap_err();
    assert!(error.to_string().contains("does not count"), "{error}");
    assert_eq!(judged(&other).await.1.len(), 1);
}

#[tokio::test]
async fn a_manifest_whose_answer_was_lost_is_looked_at_again() {
    let (_, memory) = memory();
    let store = Arc::new(FaultStore::new(memory));
    let repo = init(store.clone()).await;
    let lost = Action::LoseAnswer(Cause::Unavailable);
    store
        .faults()
        .add(Rule::on_writes(lost).key_contains("snapshots/"));
    let (first, _) = backup(&repo, "a", &objects(1)).await.unwrap();
    store.faults().clear();
    assert!(repo.list("leases/").await.unwrap().is_empty());
    let (next, _) = backup(&repo, "a", &objects(2)).await.unwrap();
    assert_eq!(
        (next.parent, next.dead),
        (Some(first.as_parent()), Dead::new())
    );
}

#[tokio::test(start_paused = true)]
async fn a_manifest_is_sent_no_longer_than_the_lease_lasts() {
    let (_, memory) = memory();
    let store = Arc::new(FaultStore::new(memory));
    let policy = RetryPolicy::default();
    let retrying = RetryStore::new(store.clone(), policy, Env::system());
    let repo = init(Arc::new(retrying)).await;
    let (first, _) = backup(&repo, "a", &objects(1)).await.unwrap();
    for (id, refusal) in [
        (2, Action::Fail(Cause::Unavailable)),
        (3, Action::Delay(Duration::from_hours(1))),
    ] {
        store
            .faults()
            .add(Rule::on_writes(refusal).key_contains("snapshots/"));
        let mut next = first.clone();
        next.snapshot = SnapshotId([id; 32]);
        let began = tokio::time::Instant::now();
        let error = next
            .write(&repo, Duration::from_secs(90))
            .await
            .unwrap_err();
        assert_eq!(error.cause(), Cause::Unavailable, "{error:?}");
        let took = began.elapsed();
        assert!(took <= Duration::from_secs(125), "{took:?}");
        store.faults().clear();
    }
}

#[tokio::test(start_paused = true)]
async fn a_renewal_that_is_under_way_does_not_bring_back_a_lease_that_was_removed() {
    let (_, memory) = memory();
    let store = Arc::new(FaultStore::new(memory));
    let repo = init(store.clone()).await;
    for ends in ["finished", "dropped"] {
        let writer = writer(&repo, "a").await.unwrap();
        let late = Action::Late(Duration::from_secs(20));
        store
            .faults()
            .add(Rule::on_writes(late).key_contains("leases/").nth(1));
        tokio::time::sleep(Duration::from_secs(41)).await;
        match ends {
            "finished" => writer.finish().await.unwrap(),
            _ => drop(writer),
        }
        tokio::time::sleep(Duration::from_mins(1)).await;
        assert_eq!(repo.list("leases/").await.unwrap(), [], "{ends}");
        store.faults().clear();
    }
}

#[tokio::test(start_paused = true)]
async fn a_lease_that_is_written_to_tell_of_a_pack_does_not_come_back_when_the_session_is_given_up_simulated()
 {
    let (_, memory) = memory();
    let store = Arc::new(FaultStore::new(memory));
    let (resources, env) = (Resources::simulated(), Env::system());
    let made = Repository::init(store.clone(), Unlock::None, options(), &resources, &env);
    let repo = made.await.unwrap();
    let writer = writer(&repo, "a").await.unwrap();
    writer
        .store_object(&Source("o".into(), noise(1, 5000)))
        .await
        .unwrap();
    let late = Action::Late(Duration::from_secs(20));
    let on_lease = Rule::on_writes(late).key_contains("leases/");
    store.faults().add(on_lease.nth(1));
    tokio::select! {
        flushed = writer.flush() => panic!("the lease was not written: {flushed:?}"),
        () = tokio::time::sleep(Duration::from_secs(10)) => {}
    }
    writer.abort().await.unwrap();
    tokio::time::sleep(Duration::from_mins(1)).await;
    assert_eq!(repo.list("leases/").await.unwrap(), []);
}

#[tokio::test]
async fn a_number_that_a_living_session_claimed_is_refused() {
    let (_, store) = memory();
    let repo = init(store.clone()).await;
    backup(&repo, "a", &objects(1)).await.unwrap();
    let other = writer(&repo, "b").await.unwrap();
    let claim = |session, sequence| Claim {
        lineage: repo.lineage("a"),
        sequence,
        session,
        snapshot: SnapshotId([9; 32]),
    };
    let write = async |claim: &Claim| {
        let name = repo.sealer().claim_name(&claim.lineage, claim.sequence);
        let path = StoredFile::Claim.path(&name);
        let bytes = repo.sealer().seal_json(FileKind::Claim, &path, claim);
        let key = Key::new(path).unwrap();
        let put = store.put(&key, bytes.unwrap(), PutOptions::default());
        put.await.unwrap();
    };
    // As if the store had not shown the lease of one that writes for the same instance.
    write(&claim(other.session(), 2)).await;
    let error = backup(&repo, "a", &objects(2)).await.unwrap_err();
    assert_eq!(error.cause(), Cause::Locked);
    other.abort().await.unwrap();
    write(&claim(SessionId([3; 32]), 3)).await;
    let (next, _) = backup(&repo, "a", &objects(2)).await.unwrap();
    assert_eq!(next.sequence, 4);
    // However many were claimed by sessions that did not commit, the next number is the lowest free one.
    for sequence in 5..80 {
        write(&claim(SessionId([3; 32]), sequence)).await;
    }
    let (after, _) = backup(&repo, "a", &objects(2)).await.unwrap();
    assert_eq!(after.sequence, 80);
    assert_eq!(judged(&repo).await.0.len(), 3);
}

#[tokio::test]
async fn a_snapshot_that_needs_a_newer_eyrie_does_not_lock_the_others() {
    let (_, store) = memory();
    let repo = init(store).await;
    let (first, _) = backup(&repo, "a", &objects(1)).await.unwrap();
    let (mut second, _) = backup(&repo, "a", &objects(2)).await.unwrap();
    let path = Key::new(StoredFile::Manifest.path(&second.snapshot)).unwrap();
    repo.store().delete(&path, None).await.unwrap();
    second.requires.push("known-answers".into());
    second.write(&repo, std::time::Duration::MAX).await.unwrap();
    let all = repo.snapshots().await.unwrap();
    assert_eq!((all.damage.len(), all.manifests.len()), (0, 1));
    for spec in ["latest", &second.snapshot.to_string()] {
        assert_eq!(all.find(spec, None).unwrap_err().exit_code(), 13, "{spec}");
    }
    let view = repo.view().await.unwrap();
    assert_eq!(restore(&view, &first).await.unwrap(), objects(1));
    // It is a snapshot: it has its number, and a check looks at what it needs.
    let (third, _) = backup(&repo, "a", &objects(3)).await.unwrap();
    assert_eq!(
        (third.sequence, third.parent.unwrap()),
        (3, second.as_parent())
    );
    assert_eq!(repo.check(&[], CheckBytes::All).await.unwrap().damage, []);
    let only = repo
        .check(&[second.snapshot], CheckBytes::None)
        .await
        .unwrap();
    assert!(only.nodes > 0);
}

#[tokio::test]
async fn a_manifest_that_cannot_be_read_counts_as_seen() {
    let (memory, store) = memory();
    let repo = init(store).await;
    let (first, _) = backup(&repo, "a", &objects(1)).await.unwrap();
    cut_off(&repo).await;
    let early = arrives(&repo, &first, 50).await;
    let path = Key::new(StoredFile::Manifest.path(&early)).unwrap();
    damage(&memory, &path, |bytes| bytes[30] ^= 1).await;
    let (next, _) = backup(&repo, "a", &objects(2)).await.unwrap();
    assert_eq!(
        (next.unreadable.as_slice(), &next.dead[&CUT_OFF]),
        ([early].as_slice(), &vec![early])
    );
    damage(&memory, &path, |bytes| bytes[30] ^= 1).await;
    let (snapshots, void) = judged(&repo).await;
    assert_eq!((snapshots.len(), void), (3, vec![]));
}

#[tokio::test]
async fn who_is_not_shown_what_was_committed_takes_nobody_for_dead() {
    let (memory, _) = memory();
    let store = Arc::new(Lists::new(memory.fork()));
    let repo = init(store.clone()).await;
    backup(&repo, "a", &objects(1)).await.unwrap();
    let (second, _) = backup(&repo, "a", &objects(2)).await.unwrap();
    *crate::base::env::lock(&store.hides) = Some(StoredFile::Manifest.path(&second.snapshot));
    let error = backup(&repo, "a", &objects(3)).await.unwrap_err();
    assert!(error.to_string().contains("did not list it"), "{error}");
    *crate::base::env::lock(&store.hides) = None;
    let (third, _) = backup(&repo, "a", &objects(3)).await.unwrap();
    assert_eq!(third.parent, Some(second.as_parent()));
    assert_eq!(judged(&repo).await.0.len(), 3);
}

#[tokio::test]
async fn a_session_that_a_snapshot_calls_dead_is_in_nobodys_way() {
    let (_, store) = memory();
    let repo = init(store.clone()).await;
    cut_off(&repo).await;
    let (_, _) = backup(&repo, "a", &objects(1)).await.unwrap();
    // Its lease could not be removed, and nobody can look at its process.
    let elsewhere = Host {
        boot: "another".into(),
        ..Host::current()
    };
    leave_lease(&repo, elsewhere).await;
    let other = open(store).await.unwrap();
    assert_eq!(
        writer(&other, "a").await.unwrap_err().cause(),
        Cause::Locked
    );
    other.snapshots().await.unwrap();
    backup(&other, "a", &objects(2)).await.unwrap();
}

#[tokio::test]
async fn a_lease_whose_first_write_was_in_doubt_locks_nobody_out() {
    let (_, memory) = memory();
    let store = Arc::new(FaultStore::new(memory));
    let repo = init(store.clone()).await;
    let lost = Action::LoseAnswer(Cause::Unavailable);
    store
        .faults()
        .add(Rule::on_writes(lost).key_contains("leases/"));
    let error = writer(&repo, "a").await.unwrap_err();
    assert_eq!(error.cause(), Cause::Unavailable);
    store.faults().clear();
    let again = open(store).await.unwrap();
    again.wait_for_other_writers("a").await.unwrap();
    backup(&again, "a", &objects(1)).await.unwrap();
}

#[tokio::test]
async fn a_newer_snapshot_that_was_forgotten_bars_nothing() {
    let (_, store) = memory();
    let repo = init(store).await;
    let (first, _) = backup(&repo, "a", &objects(1)).await.unwrap();
    let (mut second, _) = backup(&repo, "a", &objects(2)).await.unwrap();
    let path = Key::new(StoredFile::Manifest.path(&second.snapshot)).unwrap();
    repo.store().delete(&path, None).await.unwrap();
    second.requires.push("later".into());
    second.write(&repo, std::time::Duration::MAX).await.unwrap();
    // Of another instance, or forgotten and kept by a lock, it is not the latest.
    let (other, _) = backup(&repo, "b", &objects(1)).await.unwrap();
    let all = repo.snapshots().await.unwrap();
    assert_eq!(
        all.find("latest", Some("b")).unwrap().snapshot,
        other.snapshot
    );
    assert_eq!(all.find("latest", Some("a")).unwrap_err().exit_code(), 13);
    repo.record_forgetting(&[second]).await.unwrap();
    let all = repo.snapshots().await.unwrap();
    assert_eq!(
        all.find("latest", Some("a")).unwrap().snapshot,
        first.snapshot
    );
    assert_eq!(all.unreadable(), []);
}
