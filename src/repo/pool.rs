//! CPU work on one pool of threads, under a byte budget.

use std::sync::Arc;

use rayon::ThreadPool;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot};

use crate::{Cause, Result, Side};

/// How much data may be between its source and its destination at once, in bytes: enough for a
/// dozen of the largest pieces, and a bound on memory together with about as much again for what
/// is sealed and not yet written.
pub(crate) const BUDGET: usize = 256 << 20;

/// The pool and the budget; clones share both.
#[derive(Debug, Clone)]
pub(crate) struct Pool {
    threads: Arc<ThreadPool>,
    budget: Arc<Semaphore>,
}

/// A share of the budget, given back when dropped.
pub(crate) type Share = OwnedSemaphorePermit;

impl Pool {
    /// A pool of as many threads as there are processors for this process.
    pub(crate) fn new() -> Result<Self> {
        let threads = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
        let threads = rayon::ThreadPoolBuilder::new()
            .num_threads(threads)
            .thread_name(|n| format!("cpu-{n}"))
            .build()
            .map_err(|error| {
                Side::Repository
                    .error(Cause::Failed, "the threads for hashing cannot be started")
                    .with_source(error)
            })?;
        Ok(Self {
            threads: Arc::new(threads),
            budget: Arc::new(Semaphore::new(BUDGET)),
        })
    }

    /// Waits until `bytes` of the budget are free; more than all of it counts as all of it.
    pub(crate) async fn share(&self, bytes: u64) -> Result<Share> {
        let bytes = u32::try_from(bytes.clamp(1, BUDGET as u64)).unwrap_or(u32::MAX);
        self.budget
            .clone()
            .acquire_many_owned(bytes)
            .await
            .map_err(|_| Side::Repository.error(Cause::Failed, "the memory budget is closed"))
    }

    /// Runs `work` on the pool. It runs to its end also when this future is dropped.
    pub(crate) async fn run<T, F>(&self, work: F) -> Result<T>
    where
        T: Send + 'static,
        F: FnOnce() -> Result<T> + Send + 'static,
    {
        let (sender, receiver) = oneshot::channel();
        self.threads.spawn(move || {
            let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(work))
                .unwrap_or_else(|_| {
                    Err(Side::Repository.error(Cause::Failed, "a worker thread panicked"))
                });
            // Nobody waits any more when the session was given up.
            let _ = sender.send(result);
        });
        receiver
            .await
            .map_err(|_| Side::Repository.error(Cause::Failed, "a worker thread ended early"))?
    }
}
