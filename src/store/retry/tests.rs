use jiff::Timestamp;
use rstest::rstest;

use super::*;
use crate::store::testing::conformance;
use crate::store::testing::fault::{Action, FaultStore, Faults, Rule};
use crate::store::testing::memory::MemoryStore;
use crate::store::testing::record::Op;
use crate::store::{MIN_PART_SIZE, Upload};

const CREATE: PutOptions = PutOptions {
    mode: PutMode::Create,
    durability: super::super::Durability::Synced,
    patience: None,
};

fn over(inner: SharedStore) -> RetryStore {
    let (env, _) = Env::simulated(Timestamp::UNIX_EPOCH, 7);
    RetryStore::new(inner, RetryPolicy::default(), env)
}

fn faulty() -> (RetryStore, Faults, MemoryStore) {
    let memory = MemoryStore::versioned();
    let inner = FaultStore::new(Arc::new(memory.clone()));
    let faults = inner.faults();
    (over(Arc::new(inner)), faults, memory)
}

fn key(path: &str) -> Key {
    Key::new(path).unwrap()
}

fn bytes() -> Bytes {
    Bytes::from_static(b"some bytes")
}

#[tokio::test]
async fn conforms() {
    conformance::run(&over(Arc::new(MemoryStore::new())))
        .await
        .unwrap();
}

#[tokio::test(start_paused = true)]
async fn every_operation_survives_passing_faults() {
    let inner = FaultStore::new(Arc::new(MemoryStore::new()));
    for n in 0..4_000 {
        let down = Action::Fail([Cause::Unavailable, Cause::Throttled][n % 2]);
        inner.faults().add(Rule::any(down).nth(3 * n as u64 + 1));
    }
    let faults = inner.faults();
    let store = over(Arc::new(inner));
    let key = key("a");
    for _ in 0..50 {
        store
            .put(&key, bytes(), PutOptions::default())
            .await
            .unwrap();
        store.get(&key, GetOptions::default()).await.unwrap();
        store.head(&key).await.unwrap();
        store.delete(&key, None).await.unwrap();
        store.sync().await.unwrap();
    }
    assert!(faults.fired() >= 100, "{}", faults.fired());
}

#[rstest]
#[case(Cause::NotFound)]
#[case(Cause::AccessDenied)]
#[case(Cause::NoSpace)]
#[case(Cause::Failed)]
#[tokio::test(start_paused = true)]
async fn what_cannot_pass_is_not_tried_again(#[case] kind: Cause) {
    let (store, faults, _) = faulty();
    faults.add(Rule::any(Action::Fail(kind)));
    let started = Instant::now();
    assert_eq!(store.head(&key("a")).await.unwrap_err().cause(), kind);
    assert_eq!(faults.fired(), 1);
    assert_eq!(started.elapsed(), Duration::ZERO);
}

#[tokio::test(start_paused = true)]
async fn what_says_that_it_may_pass_is_tried_for_so_long() {
    let (store, faults, _) = faulty();
    let soon = Duration::from_secs(10);
    let refused = Action::Refuse(Cause::AccessDenied, soon);
    let started = Instant::now();
    faults.add(Rule::any(refused).first(5));
    store.put(&key("a"), bytes(), CREATE).await.unwrap();
    assert_eq!(faults.fired(), 5);
    assert!(started.elapsed() < soon, "{:?}", started.elapsed());
    faults.add(Rule::any(refused));
    let started = Instant::now();
    let error = store.head(&key("a")).await.unwrap_err();
    assert_eq!(error.cause(), Cause::AccessDenied);
    let elapsed = started.elapsed();
    assert!(elapsed < soon && elapsed > soon / 4, "{elapsed:?}");
}

#[tokio::test(start_paused = true)]
async fn tries_end_before_the_deadline() {
    let (store, faults, _) = faulty();
    faults.add(Rule::any(Action::Fail(Cause::Unavailable)));
    let started = Instant::now();
    let error = store.head(&key("a")).await.unwrap_err();
    assert_eq!(error.cause(), Cause::Unavailable);
    assert!(error.to_string().starts_with("gave up after"), "{error:?}");
    let (elapsed, policy) = (started.elapsed(), RetryPolicy::default());
    assert!(
        elapsed < policy.deadline && elapsed > policy.deadline / 2,
        "{elapsed:?}"
    );
    // Jitter halves the pauses on average: some 60 tries in 600 s, never thousands.
    assert!((20..200).contains(&faults.fired()), "{}", faults.fired());
}

#[tokio::test(start_paused = true)]
async fn a_creation_whose_answer_was_lost_succeeded() {
    let (store, faults, memory) = faulty();
    faults.add(Rule::on(Op::Put, Action::LoseAnswer(Cause::Unavailable)).first(1));
    let put = store.put(&key("a"), bytes(), CREATE).await.unwrap();
    assert_eq!(put.version, memory.head(&key("a")).await.unwrap().version);
    let again = store.put(&key("a"), bytes(), CREATE).await;
    assert_eq!(
        again.unwrap_err().cause(),
        Cause::AlreadyExists,
        "no doubt, no excuse"
    );
}

#[tokio::test(start_paused = true)]
async fn a_creation_does_not_take_anothers_object_for_its_own() {
    let (store, faults, memory) = faulty();
    let theirs = Bytes::from_static(b"their byte");
    memory.put(&key("a"), theirs, CREATE).await.unwrap();
    faults.add(Rule::on(Op::Put, Action::Fail(Cause::Unavailable)).first(2));
    let put = store.put(&key("a"), bytes(), CREATE).await;
    assert_eq!(put.unwrap_err().cause(), Cause::AlreadyExists);
}

#[tokio::test(start_paused = true)]
async fn a_torn_creation_is_no_success() {
    let (store, faults, _) = faulty();
    faults.add(Rule::on(Op::Put, Action::Tear(Cause::Unavailable)).first(1));
    let put = store.put(&key("a"), bytes(), CREATE).await;
    assert_eq!(put.unwrap_err().cause(), Cause::AlreadyExists);
}

#[tokio::test(start_paused = true)]
async fn a_listing_goes_on_after_the_last_key() {
    let (store, faults, memory) = faulty();
    let paths: Vec<String> = (0..100).map(|n| format!("p/{n:03}")).collect();
    for path in &paths {
        memory
            .put(&key(path), bytes(), PutOptions::default())
            .await
            .unwrap();
    }
    faults.add(Rule::on(Op::List, Action::Fail(Cause::Throttled)).first(2));
    for n in [1, 2, 50, 51, 52, 99] {
        faults.add(Rule::on(Op::Listed, Action::Fail(Cause::Unavailable)).nth(n));
    }
    let listed: Vec<Meta> = store
        .list("p/", ListOptions::default())
        .try_collect()
        .await
        .unwrap();
    let listed: Vec<_> = listed.iter().map(|meta| meta.key.as_str()).collect();
    assert_eq!(listed, paths);
    assert_eq!(faults.fired(), 8);
}

async fn upload(store: &RetryStore, options: PutOptions) -> Result<Put> {
    let mut upload: Box<dyn Upload> = store.upload(&key("u"), options).await?;
    for seed in 0..3 {
        upload.write(Bytes::from(vec![seed; MIN_PART_SIZE])).await?;
    }
    upload.finish().await
}

#[rstest]
#[case(Rule::on(Op::Parts, Action::Fail(Cause::Unavailable)).first(2))]
#[case(Rule::on(Op::Part, Action::Fail(Cause::Throttled)).first(3))]
#[case(Rule::on(Op::Part, Action::LoseAnswer(Cause::Unavailable)).first(3))]
#[case(Rule::on(Op::Part, Action::Tear(Cause::Unavailable)).first(1))]
#[case(Rule::on(Op::Finish, Action::Fail(Cause::Unavailable)).first(2))]
#[case(Rule::on(Op::Finish, Action::LoseAnswer(Cause::Unavailable)).first(1))]
#[tokio::test(start_paused = true)]
async fn an_upload_survives(#[case] rule: Rule) {
    for options in [CREATE, PutOptions::default()] {
        let (store, faults, memory) = faulty();
        faults.add(rule.clone());
        let put = upload(&store, options).await.unwrap();
        assert!(faults.fired() > 0);
        let meta = memory.head(&key("u")).await.unwrap();
        assert_eq!(
            (meta.size, meta.version),
            (3 * MIN_PART_SIZE as u64, put.version)
        );
        let whole = memory.get(&key("u"), GetOptions::default()).await.unwrap();
        let byte = |at: usize| whole[at];
        assert_eq!([0, 1, 2].map(|part| byte(part * MIN_PART_SIZE)), [0, 1, 2]);
    }
}

#[tokio::test(start_paused = true)]
async fn an_upload_does_not_take_anothers_object_for_its_own() {
    let (store, faults, memory) = faulty();
    let theirs = Bytes::from(vec![9; 3 * MIN_PART_SIZE]);
    memory.put(&key("u"), theirs, CREATE).await.unwrap();
    faults.add(Rule::on(Op::Finish, Action::Fail(Cause::Unavailable)).first(1));
    let put = upload(&store, CREATE).await;
    assert_eq!(put.unwrap_err().cause(), Cause::AlreadyExists);
}
