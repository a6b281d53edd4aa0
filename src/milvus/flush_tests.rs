//! Flushes of simulated versions of Milvus.

use std::sync::Mutex;

use async_trait::async_trait;

use super::super::simulated::{Script, SimulatedMilvus, refusal};
use super::*;
use crate::base::env::lock;

const FAST: Pace = Pace {
    poll: Duration::from_millis(1),
    retry: Duration::from_millis(1),
    rate_limited: Duration::from_millis(2),
    nudge: Duration::from_mins(1),
};

async fn flush(
    milvus: &SimulatedMilvus,
    budget: Duration,
    pace: Pace,
    checkpoints: Option<&dyn Checkpoints>,
) -> (Result<FlushOutcome>, Vec<FlushEvent>) {
    let client = milvus.client().await;
    let rules = client.identity().await.unwrap().version.rules();
    let mut events = Vec::new();
    let options = FlushOptions {
        rules,
        budget,
        pace,
        reach: None,
        checkpoints,
    };
    let outcome = flush_all(&client, &options, &mut |event| events.push(event)).await;
    (outcome, events)
}

const LONG: Duration = Duration::from_mins(1);
const SHORT: Duration = Duration::from_millis(100);

#[tokio::test]
async fn every_shape_is_flushed_simulated_milvus_of_every_series() {
    for (version, shape, method, per_channel) in [
        (
            "2.2.4",
            FlushShape::Absent,
            FlushMethod::PerCollection,
            false,
        ),
        (
            "2.2.16",
            FlushShape::Timestamp,
            FlushMethod::FlushAll,
            false,
        ),
        ("2.3.5", FlushShape::Database, FlushMethod::FlushAll, false),
        ("2.3.22", FlushShape::Database, FlushMethod::FlushAll, false),
        ("2.4.24", FlushShape::Database, FlushMethod::FlushAll, false),
        ("2.5.27", FlushShape::Targets, FlushMethod::FlushAll, false),
        (
            "2.6.2",
            FlushShape::Database,
            FlushMethod::PerCollection,
            false,
        ),
        ("2.6.3", FlushShape::Targets, FlushMethod::FlushAll, false),
        ("2.6.8", FlushShape::Broadcast, FlushMethod::FlushAll, true),
        ("2.6.13", FlushShape::Broadcast, FlushMethod::FlushAll, true),
        (
            "master-20260328-abc",
            FlushShape::Absent,
            FlushMethod::PerCollection,
            false,
        ),
    ] {
        let mut script = Script::new(version);
        script.polls_until_flushed = 3;
        let milvus = SimulatedMilvus::start(script).await;
        let reached = Reached::default();
        let (outcome, _) = flush(&milvus, LONG, FAST, Some(&reached)).await;
        let outcome = outcome.unwrap_or_else(|error| panic!("{version}: {error:?}"));
        assert_eq!(
            (outcome.shape, outcome.method),
            (shape, method),
            "{version}"
        );
        assert_eq!(
            outcome.barrier.channels().is_empty(),
            !per_channel,
            "{version}"
        );
        assert!(outcome.barrier.timestamp() > 0, "{version}");
        assert_eq!(outcome.attempts, 1, "{version}");
        assert_eq!(
            milvus.unflushed(),
            Vec::<String>::new(),
            "{version} flushes every database"
        );
    }
}

#[tokio::test]
async fn a_flush_that_fails_for_a_while_is_tried_again_simulated_milvus_2_3_5() {
    let mut script = Script::new("2.3.5");
    script.flush_refusals =
        vec![refusal(65535, "node not match[expectedNodeID=1][actualNodeID=2]"); 4];
    let milvus = SimulatedMilvus::start(script).await;
    let (outcome, events) = flush(&milvus, LONG, FAST, None).await;
    assert_eq!(outcome.unwrap().attempts, 5);
    let retries = events
        .iter()
        .filter(|event| matches!(event, FlushEvent::Retrying { .. }));
    assert_eq!(retries.count(), 4);
}

#[tokio::test]
async fn a_flush_that_keeps_failing_says_why_simulated_milvus_2_4_24() {
    let mut script = Script::new("2.4.24");
    script.flush_refusals = vec![refusal(65535, "node not match[expectedNodeID=1]"); 10_000];
    let milvus = SimulatedMilvus::start(script).await;
    let (outcome, _) = flush(&milvus, SHORT, FAST, None).await;
    let error = outcome.unwrap_err();
    assert_eq!(error.cause(), Cause::Unavailable);
    assert!(error.to_string().contains("node not match"), "{error}");
    assert!(error.hint().unwrap().contains("--flush-timeout"));
}

#[tokio::test]
async fn a_flush_that_never_finishes_names_the_channels_simulated_milvus_2_6_8() {
    let mut script = Script::new("2.6.8");
    script.polls_until_flushed = u32::MAX;
    let milvus = SimulatedMilvus::start(script).await;
    let reached = Reached(Mutex::new((0..7).map(lag).collect()));
    let (outcome, events) = flush(&milvus, SHORT, FAST, Some(&reached)).await;
    let error = outcome.unwrap_err();
    assert_eq!(error.cause(), Cause::Unavailable);
    assert!(
        error
            .to_string()
            .contains("by-dev-rootcoord-dml_0_1v0 (no checkpoint)"),
        "{error}"
    );
    assert!(error.to_string().ends_with("and 2 more"), "{error}");
    let waiting = events
        .iter()
        .filter(|event| matches!(event, FlushEvent::Waiting(_)));
    assert_eq!(waiting.count(), 1, "told once while nothing changes");
}

#[tokio::test]
async fn milvus_alone_does_not_decide_simulated_milvus_2_5_27() {
    let milvus = SimulatedMilvus::start(Script::new("2.5.27")).await;
    let reached = Reached(Mutex::new(vec![lag(1)]));
    let (outcome, _) = flush(&milvus, SHORT, FAST, Some(&reached)).await;
    assert!(outcome.unwrap_err().to_string().contains("dml_1_1v0"));
}

#[tokio::test]
async fn a_rate_limit_is_waited_for_by_collection_simulated_milvus_2_6_2() {
    assert!(Pace::default().rate_limited >= Duration::from_secs(10));
    let mut script = Script::new("2.6.2");
    script.flush_refusals = vec![refusal(8, "rate limit exceeded[rate=0.1]"); 4];
    let milvus = SimulatedMilvus::start(script).await;
    let (outcome, events) = flush(&milvus, LONG, FAST, None).await;
    assert_eq!(
        outcome.unwrap().attempts,
        1,
        "the others are not flushed again"
    );
    let pauses: Vec<_> = events
        .iter()
        .filter_map(|event| match event {
            FlushEvent::Retrying { after, .. } => Some(*after),
            _ => None,
        })
        .collect();
    assert_eq!(pauses, [FAST.rate_limited; 2]);
    let flushes = milvus
        .calls()
        .iter()
        .filter(|call| **call == "Flush")
        .count();
    assert_eq!(flushes, 6, "four refused, one for each of two collections");
}

#[tokio::test]
async fn what_is_too_much_for_flush_all_is_flushed_by_collection_simulated_milvus_2_3_5() {
    let mut script = Script::new("2.3.5");
    script.flush_refusals = vec![refusal(4, "request limit exceeded[limit=1024]")];
    let milvus = SimulatedMilvus::start(script).await;
    let (outcome, events) = flush(&milvus, LONG, FAST, None).await;
    let outcome = outcome.unwrap();
    assert_eq!(
        (outcome.method, outcome.attempts),
        (FlushMethod::PerCollection, 2)
    );
    assert!(
        !events
            .iter()
            .any(|event| matches!(event, FlushEvent::Retrying { .. }))
    );
    assert_eq!(milvus.unflushed(), Vec::<String>::new());
}

#[tokio::test]
async fn a_long_flush_is_asked_for_again_simulated_milvus_2_3_5() {
    let mut script = Script::new("2.3.5");
    script.polls_until_flushed = 5;
    let milvus = SimulatedMilvus::start(script).await;
    let (outcome, events) = flush(
        &milvus,
        LONG,
        Pace {
            nudge: Duration::ZERO,
            ..FAST
        },
        None,
    )
    .await;
    let outcome = outcome.unwrap();
    let first = events.iter().find_map(|event| match event {
        FlushEvent::Accepted(barrier) => Some(barrier.clone()),
        _ => None,
    });
    assert_eq!(Some(outcome.barrier), first, "the barrier stays the first");
    assert!(events.contains(&FlushEvent::Nudged));
}

/// A channel that stays short of any barrier until the flush is asked for the second time.
struct Short<'a>(&'a SimulatedMilvus);

#[async_trait]
impl Checkpoints for Short<'_> {
    async fn lagging(&self, _: &Barrier) -> Result<Vec<Lag>> {
        let calls = self.0.calls();
        let asked = calls.iter().filter(|call| **call == "FlushAll").count();
        Ok(if asked < 2 { vec![lag(1)] } else { vec![] })
    }
}

#[tokio::test]
async fn a_channel_that_stays_short_is_asked_for_again_and_the_barrier_is_the_timestamp_from_before_simulated_milvus_2_3_5()
 {
    let milvus = SimulatedMilvus::start(Script::new("2.3.5")).await;
    let client = milvus.client().await;
    let options = FlushOptions {
        rules: client.identity().await.unwrap().version.rules(),
        budget: LONG,
        pace: Pace {
            nudge: Duration::from_millis(5),
            ..FAST
        },
        reach: Some(77),
        checkpoints: Some(&Short(&milvus)),
    };
    let mut events = Vec::new();
    let outcome = flush_all(&client, &options, &mut |event| events.push(event)).await;
    assert_eq!(outcome.unwrap().barrier, Barrier::at(77));
    let nudges = events.iter().filter(|e| **e == FlushEvent::Nudged).count();
    assert_eq!(nudges, 1, "{events:?}");
}

#[test]
fn seal_times_are_rounded_up_and_no_time_is_none() {
    let sealed = |seconds| api::FlushResponse {
        coll_seal_times: [("docs".to_owned(), seconds)].into(),
        ..Default::default()
    };
    assert_eq!(timestamp_of(&sealed(7)), Some(8_000 << 18));
    assert_eq!(timestamp_of(&sealed(-1)), None);
    assert_eq!(timestamp_of(&api::FlushResponse::default()), None);
}

#[tokio::test]
async fn a_user_who_may_not_flush_fails_at_once_simulated_milvus_2_4_24() {
    let mut script = Script::new("2.4.24");
    script.forbid = Some("FlushAll");
    let milvus = SimulatedMilvus::start(script).await;
    let (outcome, events) = flush(&milvus, LONG, FAST, None).await;
    let error = outcome.unwrap_err();
    assert_eq!(error.cause(), Cause::AccessDenied);
    assert!(error.to_string().contains("PrivilegeFlushAll"), "{error}");
    assert_eq!(events.len(), 1);
}

#[derive(Default)]
struct Reached(Mutex<Vec<Lag>>);

#[async_trait]
impl Checkpoints for Reached {
    async fn lagging(&self, barrier: &Barrier) -> Result<Vec<Lag>> {
        assert!(barrier.timestamp() >= barrier.earliest());
        Ok(lock(&self.0).clone())
    }
}

fn lag(channel: u32) -> Lag {
    Lag {
        vchannel: format!("by-dev-rootcoord-dml_{channel}_1v0"),
        checkpoint: None,
    }
}
