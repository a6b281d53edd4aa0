//! The flush: everything that was acknowledged before a point in time is in segments.
//!
//! One barrier works on every version: Milvus answers a flush with a timestamp (2.6.8 and later: one for
//! each physical channel), and the flush is done when the checkpoint of **every** virtual channel of
//! every live collection has reached it (docs/milvus.md 1.4). Row counts and segment states prove
//! nothing.

use std::time::Duration;

use futures::{StreamExt, stream};
use tokio::time::{Instant, sleep};
use tonic::Code;

use super::barrier::{Barrier, Checkpoints, Lag};
use super::client::{Client, Failure};
use super::hybrid;
use super::inventory::CollectionName;
use super::proto::milvus as api;
use super::status::RefusalClass;
use super::version::{FlushMethod, FlushShape, Rules};
use crate::base::text::first;
use crate::{Cause, Error, Result};

/// Collections of one request.
const FLUSHED_AT_ONCE: usize = 64;

/// Requests at once.
const IN_FLIGHT: usize = 8;

/// How many lagging channels an error names.
const NAMED_CHANNELS: usize = 5;

/// How often things are tried.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pace {
    /// Between two looks whether the flush is done.
    pub poll: Duration,
    /// Before a failed flush is tried again.
    pub retry: Duration,
    /// Before a flush that met the rate limit is tried again: `Flush` of one collection is limited to
    /// 0.1 a second since 2.3.9 (quotaAndLimits.flushRate.collection.max).
    pub rate_limited: Duration,
    /// How long no channel may move before a flush that is not done is asked for once more: a channel whose
    /// checkpoint was written just short of the barrier is otherwise left to Milvus's own timer, of a minute
    /// on 2.3.5 (docs/milvus.md 1.4). Each time after that it is twice as long.
    pub nudge: Duration,
}

/// The longest that such a pause becomes.
const LONGEST_NUDGE: Duration = Duration::from_secs(15);

impl Default for Pace {
    fn default() -> Self {
        Self {
            poll: Duration::from_millis(200),
            retry: Duration::from_secs(1),
            rate_limited: Duration::from_secs(10),
            nudge: Duration::from_secs(1),
        }
    }
}

/// How to flush.
#[derive(Clone, Copy)]
pub struct FlushOptions<'a> {
    /// What holds for the instance's version.
    pub rules: Rules,
    /// How long the flush may take from now on, all attempts included.
    pub budget: Duration,
    /// How often things are tried.
    pub pace: Pace,
    /// A timestamp from before the flush is asked for, which every channel must reach; without it that of
    /// Milvus's answer. Some versions take theirs after the channels have reached the flush.
    pub reach: Option<u64>,
    /// Where checkpoints are read; without it Milvus's own word counts alone.
    pub checkpoints: Option<&'a dyn Checkpoints>,
}

/// What happens during a flush.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum FlushEvent {
    /// The flush is asked for, for the n-th time.
    Requested {
        /// Counts from 1.
        attempt: u32,
    },
    /// It failed, and is tried again after a pause.
    Retrying {
        /// What went wrong.
        reason: String,
        /// The pause.
        after: Duration,
    },
    /// Milvus took it; what was acknowledged before the barrier will be in segments.
    Accepted(Barrier),
    /// It is not done: these channels lag, as far as is known.
    Waiting(Vec<Lag>),
    /// It was asked for once more, as it took long.
    Nudged,
}

/// What a flush achieved.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FlushOutcome {
    /// Everything acknowledged before it is in segments.
    pub barrier: Barrier,
    /// How often the flush was asked for until Milvus took it.
    pub attempts: u32,
    /// How it was asked for.
    pub method: FlushMethod,
    /// What the calls looked like.
    pub shape: FlushShape,
}

/// How long nothing may move before a flush is asked for once more: one of a collection may be limited to a
/// rate.
#[must_use]
pub fn nudge_of(method: FlushMethod, pace: &Pace) -> Duration {
    match method {
        FlushMethod::FlushAll => pace.nudge,
        FlushMethod::PerCollection => pace.nudge.max(pace.rate_limited),
    }
}

/// Flushes the whole instance and waits until every channel has reached the barrier.
///
/// # Errors
///
/// [`Cause::Unavailable`] when it is not done within the budget, naming what failed last or the channels that
/// lag, and when Milvus does not permit it. A flush that failed may still go on inside Milvus, which does
/// no harm.
pub async fn flush_all(
    client: &Client,
    options: &FlushOptions<'_>,
    on_event: &mut (dyn FnMut(FlushEvent) + Send),
) -> Result<FlushOutcome> {
    let mut run = Run {
        client,
        options,
        end: Instant::now() + options.budget,
        method: options.rules.flush,
        attempts: 0,
        refused: None,
        on_event,
    };
    let answered = run.request_until_taken().await?;
    let barrier = options.reach.map_or(answered, Barrier::at);
    (run.on_event)(FlushEvent::Accepted(barrier.clone()));
    run.wait(&barrier).await?;
    Ok(FlushOutcome {
        barrier,
        attempts: run.attempts,
        method: run.method,
        shape: options.rules.flush_shape,
    })
}

struct Run<'a> {
    client: &'a Client,
    options: &'a FlushOptions<'a>,
    end: Instant,
    method: FlushMethod,
    attempts: u32,
    /// What Milvus answered last; a call that the deadline cut short says less.
    refused: Option<String>,
    on_event: &'a mut (dyn FnMut(FlushEvent) + Send),
}

impl Run<'_> {
    async fn request_until_taken(&mut self) -> Result<Barrier> {
        loop {
            self.attempts += 1;
            (self.on_event)(FlushEvent::Requested {
                attempt: self.attempts,
            });
            let failure = match self.request().await {
                Ok(barrier) => return Ok(barrier),
                Err(failure) => failure,
            };
            // No rate limits FlushAll. 2.3.5 makes a request of its own for each collection, and takes 1,024 of
            // them at once (proxy.maxTaskNum).
            let too_many = failure.class() == Some(RefusalClass::RateLimited);
            let instead = failure.is_unimplemented() || too_many;
            if instead && self.method == FlushMethod::FlushAll {
                self.method = FlushMethod::PerCollection;
                continue;
            }
            self.pause_after(failure).await?;
        }
    }

    /// Sleeps before the next attempt, or gives up.
    async fn pause_after(&mut self, failure: Failure) -> Result<()> {
        let class = failure.class();
        let hopeless = matches!(class, Some(RefusalClass::Invalid)) || is_hopeless(&failure);
        let answered = matches!(failure, Failure::Refused(_));
        let error = self.client.error(failure, "flush");
        if hopeless {
            return Err(error);
        }
        let reason = error.chain();
        if answered {
            self.refused = Some(reason.clone());
        }
        let after = if class == Some(RefusalClass::RateLimited) {
            self.options.pace.rate_limited
        } else {
            self.options.pace.retry
        };
        if Instant::now() + after >= self.end {
            let why = self.refused.as_deref().unwrap_or(&reason);
            return Err(self.late(why).with_source(error));
        }
        (self.on_event)(FlushEvent::Retrying { reason, after });
        sleep(after).await;
        Ok(())
    }

    async fn request(&mut self) -> Result<Barrier, Failure> {
        match self.method {
            FlushMethod::FlushAll => self.request_all().await,
            FlushMethod::PerCollection => self.request_each().await,
        }
    }

    async fn request_all(&self) -> Result<Barrier, Failure> {
        // No database and no targets: all of them, in every shape.
        let answer = self
            .client
            .ask_within(self.left(), "", api::FlushAllRequest::default())
            .await?;
        Barrier::of_answer(answer).ok_or_else(without_timestamp)
    }

    /// Flushes each collection. The barrier is a timestamp from before the first flush, since then the
    /// checkpoints reach it even while others write.
    async fn request_each(&mut self) -> Result<Barrier, Failure> {
        let before = self.client.alloc_timestamp().await.ok().flatten();
        let mut latest = 0;
        let collections = self.collections().await?;
        let some = collections.chunk_by(|a, b| a.database == b.database);
        let some: Vec<_> = some.flat_map(|all| all.chunks(FLUSHED_AT_ONCE)).collect();
        let client = self.client;
        let left = self.left();
        let asked = stream::iter(some).map(|some| async move {
            let request = api::FlushRequest {
                db_name: some[0].database.clone(),
                collection_names: some.iter().map(|one| one.name.clone()).collect(),
            };
            let answer = client.ask_within(left, &some[0].database, request).await;
            (some, answer)
        });
        let answers: Vec<_> = asked.buffered(IN_FLIGHT).collect().await;
        for (some, answer) in answers {
            match answer {
                Ok(answer) => {
                    let timestamp = timestamp_of(&answer).ok_or_else(without_timestamp)?;
                    latest = latest.max(timestamp);
                }
                // One of them is gone, or was flushed just before: each by itself.
                Err(failure) if is_of_one(&failure) => {
                    for one in some {
                        latest = latest.max(self.request_one(one).await?.unwrap_or(0));
                    }
                }
                Err(failure) => return Err(failure),
            }
        }
        match before {
            Some(timestamp) => Ok(Barrier::at(timestamp)),
            None => Ok(Barrier::at(latest)),
        }
    }

    async fn collections(&self) -> Result<Vec<CollectionName>, Failure> {
        let mut collections = Vec::new();
        let as_failure =
            |error: Error| Failure::Transport(tonic::Status::unavailable(error.chain()));
        for database in self.client.list_databases().await.map_err(as_failure)? {
            collections.extend(
                self.client
                    .show_collections(&database)
                    .await
                    .map_err(as_failure)?,
            );
        }
        Ok(collections)
    }

    /// Flushes one collection; `None` when it is gone. The rate limit counts by collection, so it is
    /// waited for here instead of beginning all over.
    async fn request_one(&mut self, collection: &CollectionName) -> Result<Option<u64>, Failure> {
        loop {
            let request = api::FlushRequest {
                db_name: collection.database.clone(),
                collection_names: vec![collection.name.clone()],
            };
            let answer = self
                .client
                .ask_within(self.left(), &collection.database, request)
                .await;
            let after = self.options.pace.rate_limited;
            match answer {
                Ok(answer) => {
                    return timestamp_of(&answer)
                        .map(Some)
                        .ok_or_else(without_timestamp);
                }
                Err(failure) => match failure.class() {
                    Some(RefusalClass::NotFound) => return Ok(None),
                    Some(RefusalClass::RateLimited) if Instant::now() + after < self.end => {
                        let reason = self
                            .client
                            .error(failure, &format!("flush {collection}"))
                            .chain();
                        (self.on_event)(FlushEvent::Retrying { reason, after });
                        sleep(after).await;
                    }
                    _ => return Err(failure),
                },
            }
        }
    }

    async fn wait(&mut self, barrier: &Barrier) -> Result<()> {
        let mut moved = Instant::now();
        let mut nudge = nudge_of(self.method, &self.options.pace);
        let mut told = None;
        loop {
            let (done, lagging) = self.look(barrier).await?;
            if done {
                return Ok(());
            }
            if Instant::now() + self.options.pace.poll >= self.end {
                return Err(self.late(&name_lagging(&lagging)));
            }
            if told.as_ref() != Some(&lagging) {
                (self.on_event)(FlushEvent::Waiting(lagging.clone()));
                told = Some(lagging);
                moved = Instant::now();
            }
            if moved.elapsed() >= nudge {
                // Another barrier is of no use, and a failure is no worse than not asking.
                if self.request().await.is_ok() {
                    (self.on_event)(FlushEvent::Nudged);
                }
                moved = Instant::now();
                nudge = (2 * nudge).min(LONGEST_NUDGE.max(self.options.pace.nudge));
            }
            sleep(self.options.pace.poll).await;
        }
    }

    /// Whether the flush is done. Milvus's own answer is made of the same checkpoints, of every collection one
    /// after the other; it is asked for where they cannot be read.
    async fn look(&self, barrier: &Barrier) -> Result<(bool, Vec<Lag>)> {
        if let Some(checkpoints) = self.options.checkpoints {
            let lagging = checkpoints.lagging(barrier).await?;
            return Ok((lagging.is_empty(), lagging));
        }
        let request = api::GetFlushAllStateRequest {
            flush_all_ts: barrier.timestamp(),
            flush_all_tss: barrier.channels().clone(),
            ..Default::default()
        };
        let state = self.client.ask("", request).await;
        match state {
            Ok(answer) => Ok((answer.flushed, Vec::new())),
            Err(failure) if is_hopeless(&failure) => {
                Err(self.client.error(failure, "wait for the flush"))
            }
            Err(_) => Ok((false, Vec::new())),
        }
    }

    fn left(&self) -> Duration {
        self.end
            .saturating_duration_since(Instant::now())
            .max(self.options.pace.poll)
    }

    fn late(&self, why: &str) -> Error {
        self.client
            .side()
            .error(
                Cause::Unavailable,
                format!(
                    "the flush of milvus did not finish within {:?}: {why}",
                    self.options.budget
                ),
            )
            .with_hint("give it more time with --flush-timeout, or look at the data nodes' logs")
    }
}

fn is_hopeless(failure: &Failure) -> bool {
    match failure {
        Failure::Transport(status) => matches!(
            status.code(),
            Code::Unauthenticated
                | Code::PermissionDenied
                | Code::InvalidArgument
                | Code::Unimplemented
        ),
        Failure::Refused(_) => false,
    }
}

fn name_lagging(lagging: &[Lag]) -> String {
    if lagging.is_empty() {
        return "milvus says that it is not done".to_owned();
    }
    format!(
        "these channels lag: {}",
        first(lagging, NAMED_CHANNELS, ", ")
    )
}

/// Whether a flush of several collections was refused for one of them.
fn is_of_one(failure: &Failure) -> bool {
    let class = failure.class();
    matches!(
        class,
        Some(RefusalClass::NotFound | RefusalClass::RateLimited)
    )
}

/// A flush that Milvus took without saying when proves nothing.
fn without_timestamp() -> Failure {
    Failure::Transport(tonic::Status::internal("the flush has no timestamp"))
}

/// The timestamp of a collection's flush; before 2.3.1 from the seal time, rounded up to the second.
fn timestamp_of(answer: &api::FlushResponse) -> Option<u64> {
    let exact = answer.coll_flush_ts.values().copied().max();
    let sealed = || {
        let seconds = u64::try_from(*answer.coll_seal_times.values().max()?).ok()?;
        Some(hybrid::of_millis(
            seconds.saturating_add(1).saturating_mul(1000),
        ))
    };
    exact.or_else(sealed).filter(|timestamp| *timestamp > 0)
}

#[cfg(test)]
#[path = "flush_tests.rs"]
mod tests;
