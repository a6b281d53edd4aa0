//! Leases: who excludes whom, and for how long.

use std::collections::{BTreeMap, BTreeSet};
use std::num::NonZeroU64;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;

use super::support::*;
use crate::base::env::Env;
use crate::base::resources::{Limits, Resources};
use crate::repo::format::files::StoredFile;
use crate::repo::format::ids::SessionId;
use crate::repo::format::sealed::FileKind;
use crate::repo::host::Host;
use crate::repo::session::lease::{Lease, LeaseFile, SessionKind, leases};
use crate::repo::{Compression, Repository, Unlock};
use crate::store::testing::fault::{Action, FaultStore, Rule};
use crate::store::testing::memory::MemoryStore;
use crate::store::testing::record::{Op, RecordStore};
use crate::store::{Key, PutOptions, SharedStore, Store};
use crate::{Cause, Result};

async fn plant(repo: &Repository, host: Host, renewals: u64) {
    let session = SessionId([7; 32]);
    let lease = LeaseFile {
        session,
        kind: SessionKind::Writer,
        lineage: repo.lineage("a"),
        host,
        created: Timestamp::UNIX_EPOCH,
        ttl_s: 120,
        renewals,
        parents: vec![],
        checkpoint: false,
        dead: BTreeSet::new(),
        uncertain: false,
        packs: BTreeMap::new(),
        unfinished: vec![],
        marks: BTreeSet::new(),
    };
    let path = StoredFile::Lease.path(&session);
    let bytes = repo
        .sealer()
        .seal_json(FileKind::Lease, &path, &lease)
        .unwrap();
    repo.store()
        .put(&Key::new(path).unwrap(), bytes, PutOptions::default())
        .await
        .unwrap();
}

fn elsewhere() -> Host {
    Host {
        name: "elsewhere".into(),
        boot: "another".into(),
        ..Host::current()
    }
}

#[tokio::test]
async fn two_writers_of_one_instance_exclude_each_other_and_others_do_not() {
    let (_, store) = memory();
    let repo = init(store.clone()).await;
    let first = writer(&repo, "a").await.unwrap();
    let error = writer(&open(store).await.unwrap(), "a").await.unwrap_err();
    assert_eq!(error.exit_code(), 11);
    assert!(
        error
            .to_string()
            .contains(&format!("process {}", std::process::id())),
        "{error}"
    );
    assert!(error.hint().is_some());
    let other = writer(&repo, "b").await.unwrap();
    let reader = repo.begin_reader("a", vec![]).await.unwrap();
    assert_eq!(leases(&repo).await.unwrap().len(), 3);
    first.finish().await.unwrap();
    writer(&repo, "a").await.unwrap().finish().await.unwrap();
    other.finish().await.unwrap();
    reader.finish().await;
    assert_eq!(repo.list("leases/").await.unwrap(), []);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn writers_of_two_instances_work_at_once() {
    let (_, store) = memory();
    let repo = init(store.clone()).await;
    let other = open(store).await.unwrap();
    let (a, b) = (objects(1), objects(3));
    let (first, second) = tokio::join!(backup(&repo, "a", &a), backup(&other, "b", &b));
    let (first, second) = (first.unwrap().0, second.unwrap().0);
    assert_eq!((first.sequence, second.sequence), (1, 1));
    let view = repo.view().await.unwrap();
    assert_eq!(restore(&view, &first).await.unwrap(), a);
    assert_eq!(restore(&view, &second).await.unwrap(), b);
}

#[tokio::test]
async fn at_most_one_of_many_that_begin_at_once_wins() {
    let (_, store) = memory();
    let repo = init(store).await;
    for _ in 0..10 {
        let began = futures::future::join_all((0..4).map(|_| writer(&repo, "a"))).await;
        let (won, lost): (Vec<_>, Vec<_>) = began.into_iter().partition(Result::is_ok);
        assert!(won.len() <= 1);
        assert!(
            lost.iter()
                .all(|lost| lost.as_ref().unwrap_err().cause() == Cause::Locked)
        );
        for writer in won {
            writer.unwrap().finish().await.unwrap();
        }
        assert_eq!(repo.list("leases/").await.unwrap(), []);
    }
}

#[tokio::test]
async fn a_writer_that_died_here_is_replaced_at_once() {
    let (_, store) = memory();
    let repo = init(store).await;
    plant(
        &repo,
        Host {
            pid: u32::MAX,
            ..Host::current()
        },
        3,
    )
    .await;
    let writer = writer(&repo, "a").await.unwrap();
    assert_eq!(leases(&repo).await.unwrap().len(), 1);
    writer.finish().await.unwrap();
}

#[tokio::test]
async fn a_writer_elsewhere_is_dead_only_after_two_lifetimes_without_a_beat() {
    let (env, clock) = Env::simulated(Timestamp::UNIX_EPOCH, 1);
    let store = Arc::new(MemoryStore::new());
    let repo = Repository::init(store, Unlock::None, options(), &Resources::of_tests(), &env)
        .await
        .unwrap();
    plant(&repo, elsewhere(), 1).await;
    let locked = || async { writer(&repo, "a").await.unwrap_err().cause() == Cause::Locked };
    assert!(locked().await);
    clock.advance(Duration::from_secs(239));
    assert!(locked().await);
    // It beats: the watch begins anew, whatever the wall clock says.
    plant(&repo, elsewhere(), 2).await;
    clock.set_wall(Timestamp::MAX);
    assert!(locked().await);
    clock.advance(Duration::from_mins(4));
    assert!(locked().await);
    clock.advance(Duration::from_secs(1));
    writer(&repo, "a").await.unwrap().finish().await.unwrap();
}

#[tokio::test]
async fn a_session_that_slept_through_its_lease_cannot_commit() {
    let (env, clock) = Env::simulated(Timestamp::UNIX_EPOCH, 2);
    let store = Arc::new(MemoryStore::new());
    let repo = Repository::init(store, Unlock::None, options(), &Resources::of_tests(), &env)
        .await
        .unwrap();
    let writer = repo
        .begin_writer("a", vec![], Compression::Auto)
        .await
        .unwrap();
    clock.advance(Duration::from_mins(2));
    writer.check_lease().unwrap();
    clock.advance(Duration::from_secs(1));
    assert!(writer.check_lease().is_err());
    let error = write_snapshot(&writer, &objects(1)).await.unwrap_err();
    assert!(error.to_string().contains("lapsed"), "{error}");
    assert_eq!(repo.snapshots().await.unwrap().manifests, []);
    writer.abort().await.unwrap();
}

#[tokio::test]
async fn a_lease_is_renewed_while_the_session_lives_and_released_when_it_is_dropped() {
    let (_, store) = memory();
    let repo = init(store).await;
    let writer = writer(&repo, "a").await.unwrap();
    tokio::time::pause();
    let renewals = || async {
        let lease = leases(&repo).await.unwrap().remove(0);
        lease.file.unwrap().renewals
    };
    assert_eq!(renewals().await, 1);
    tokio::time::sleep(Duration::from_secs(121)).await;
    assert_eq!(renewals().await, 4);
    drop(writer);
    while !repo.list("leases/").await.unwrap().is_empty() {
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn a_lease_that_cannot_be_read_is_named_and_waited_out_like_one_of_the_dead() {
    for bytes in ["", "noise"] {
        let (env, clock) = Env::simulated(Timestamp::UNIX_EPOCH, 1);
        let store = Arc::new(MemoryStore::new());
        let resources = Resources::of_tests();
        let made = Repository::init(store.clone(), Unlock::None, options(), &resources, &env);
        let repo = made.await.unwrap();
        let session = SessionId([1; 32]);
        let key = Key::new(StoredFile::Lease.path(&session)).unwrap();
        let put = store.put(&key, bytes.into(), PutOptions::default());
        put.await.unwrap();
        let report = repo.check(&[], crate::repo::CheckBytes::None).await;
        assert_eq!(report.unwrap().damage[0].place, key.as_str());
        let reader = repo.begin_reader("a", vec![]).await.unwrap();
        reader.finish().await;
        // Its session may be alive, and of any lineage.
        let error = writer(&repo, "a").await.unwrap_err();
        assert_eq!(error.cause(), Cause::Locked);
        assert!(error.hint().unwrap().contains("leases/0101"));
        clock.advance(Duration::from_secs(241));
        let writer = writer(&repo, "a").await.unwrap();
        let (manifest, _) = write_snapshot(&writer, &objects(1)).await.unwrap();
        assert!(manifest.dead.contains_key(&session));
        writer.finish().await.unwrap();
        assert_eq!(repo.list("leases/").await.unwrap(), []);
    }
}

#[tokio::test(start_paused = true)]
async fn a_reader_waits_seconds_for_its_lease_where_the_store_takes_no_writes() {
    use crate::store::retry::{RetryPolicy, RetryStore};
    for refusal in [
        Action::Fail(Cause::Unavailable),
        Action::Fail(Cause::Throttled),
        Action::Fail(Cause::AccessDenied),
        Action::Fail(Cause::NoSpace),
        Action::Delay(Duration::from_hours(1)),
    ] {
        let (_, backend) = memory();
        let faults = FaultStore::new(backend);
        let script = faults.faults();
        let policy = RetryPolicy::default();
        let repo = init(Arc::new(RetryStore::new(
            Arc::new(faults),
            policy,
            Env::system(),
        )))
        .await;
        let (manifest, _) = backup(&repo, "a", &objects(1)).await.unwrap();
        let (kind, lineage) = (SessionKind::Reader, repo.lineage("a"));
        let take = || Lease::take(&repo, kind, lineage.clone(), vec![]);
        let written = take().await.unwrap();
        script.add(Rule::on_writes(refusal));
        let began = tokio::time::Instant::now();
        written.finish().await.unwrap_err();
        take().await.unwrap().finish().await.unwrap();
        let took = began.elapsed();
        assert!(took <= Duration::from_secs(11), "{refusal:?}: {took:?}");
        let reader = repo.begin_reader("a", vec![]).await.unwrap();
        assert_eq!(restore(reader.view(), &manifest).await.unwrap(), objects(1));
        reader.finish().await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_rival_that_cannot_be_looked_at_is_outlasted_unless_it_beats() {
    let (env, clock) = Env::simulated(Timestamp::UNIX_EPOCH, 3);
    let store = Arc::new(MemoryStore::new());
    let repo = Repository::init(store, Unlock::None, options(), &Resources::of_tests(), &env)
        .await
        .unwrap();
    let time_passes = async {
        loop {
            tokio::time::sleep(Duration::from_secs(1)).await;
            clock.advance(Duration::from_secs(1));
        }
    };
    let lives = async {
        plant(&repo, elsewhere(), 1).await;
        tokio::join!(repo.wait_for_other_writers("a"), async {
            tokio::time::sleep(Duration::from_secs(40)).await;
            plant(&repo, elsewhere(), 2).await;
        })
    };
    let began = env.boottime();
    tokio::select! {
        (outcome, ()) = lives => assert_eq!(outcome.unwrap_err().cause(), Cause::Locked),
        () = time_passes => {}
    }
    assert!(
        env.boottime().saturating_sub(began) < Duration::from_mins(1),
        "told at its first renewal"
    );

    let time_passes = async {
        loop {
            tokio::time::sleep(Duration::from_secs(1)).await;
            clock.advance(Duration::from_secs(1));
        }
    };
    let began = env.boottime();
    tokio::select! {
        outcome = repo.wait_for_other_writers("a") => outcome.unwrap(),
        () = time_passes => {}
    }
    assert!(
        env.boottime().saturating_sub(began) >= Duration::from_mins(3),
        "it was watched"
    );
    repo.wait_for_other_writers("b").await.unwrap();
    writer(&repo, "a").await.unwrap().finish().await.unwrap();
}

#[tokio::test]
async fn a_writer_of_this_host_that_runs_is_told_at_once() {
    let (_, store) = memory();
    let repo = init(store).await;
    plant(&repo, Host::current(), 1).await;
    let error = repo.wait_for_other_writers("a").await.unwrap_err();
    assert_eq!(error.cause(), Cause::Locked);
}

#[tokio::test]
async fn where_nothing_may_be_removed_everything_goes_on() {
    let (_, backend) = memory();
    let faults = FaultStore::new(backend);
    faults
        .faults()
        .add(Rule::on(Op::Delete, Action::Fail(Cause::AccessDenied)));
    let store: SharedStore = Arc::new(faults);
    let repo = init(store.clone()).await;
    for round in 0..3 {
        let (manifest, _) = backup(&repo, "a", &objects(round)).await.unwrap();
        let reader = repo.begin_reader("a", vec![manifest.snapshot]).await;
        let reader = reader.unwrap();
        assert_eq!(
            restore(reader.view(), &manifest).await.unwrap(),
            objects(round)
        );
        reader.finish().await;
        assert!(leases(&repo).await.unwrap().iter().all(|lease| lease.dead));
        repo.wait_for_other_writers("a").await.unwrap();
    }
}

#[tokio::test]
async fn a_repository_that_cannot_be_written_can_be_read() {
    for kind in [Cause::AccessDenied, Cause::NoSpace, Cause::Failed] {
        let (_, backend) = memory();
        let faults = FaultStore::new(backend);
        let script = faults.faults();
        let repo = init(Arc::new(faults)).await;
        let (manifest, _) = backup(&repo, "a", &objects(1)).await.unwrap();
        let reader = repo.begin_reader("a", vec![]).await.unwrap();
        script.add(Rule::on_writes(Action::Fail(kind)));
        reader.finish().await;
        let reader = repo.begin_reader("a", vec![]).await.unwrap();
        reader.check_lease().unwrap();
        assert_eq!(restore(reader.view(), &manifest).await.unwrap(), objects(1));
        reader.finish().await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_lease_is_renewed_while_data_waits_for_its_rate() {
    let record = RecordStore::new(Arc::new(MemoryStore::new()));
    let log = record.log();
    let limits = Limits {
        rate: NonZeroU64::new(100_000),
        ..Limits::default()
    };
    let resources = Resources::new(&limits).unwrap();
    let store: SharedStore = Arc::new(record);
    let env = Env::system();
    let made = Repository::init(store, Unlock::None, options(), &resources, &env);
    let repo = made.await.unwrap();
    let writer = writer(&repo, "a").await.unwrap();
    let began = tokio::time::Instant::now();
    super::support::store(&writer, "large", &noise(1, 24 << 20))
        .await
        .unwrap();
    writer.flush().await.unwrap();
    assert!(began.elapsed().as_secs() > 200, "{:?}", began.elapsed());
    let puts = log.keys(Op::Put);
    let renewed = puts.iter().filter(|key| key.starts_with("leases/")).count();
    assert!(renewed >= 5, "put {renewed} times");
    writer.finish().await.unwrap();
}
