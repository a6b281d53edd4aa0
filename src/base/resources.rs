//! What all work of one process shares: processors, memory, and bytes a second.
//!
//! They are made once and handed to every repository, source and restore, so that twenty open
//! repositories hash on as many threads, and hold as much data, as one.

use std::num::{NonZeroU64, NonZeroUsize};
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use rayon::ThreadPool;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot};
use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;

use crate::base::env::lock;
use crate::{Cause, Error, Result};

/// Memory that the default budget has at most for so many threads: two of the largest pieces
/// (16 MiB) each.
const MEMORY_PER_THREAD: u64 = 32 << 20;

/// The default budget where memory and threads would give more, or the threads less.
const MEMORY: u64 = 256 << 20;

/// The least default budget: a few of the largest pieces.
const LEAST_MEMORY: u64 = 64 << 20;

/// The default budget is no more than this part of the memory there is.
const PART_OF_MEMORY: u64 = 8;

/// So many bytes a second.
#[derive(Debug)]
struct RateLimit {
    bytes_per_second: NonZeroU64,
    /// When the budget for the next byte is there.
    free_at: Mutex<Option<Instant>>,
    /// There is no limit any more.
    lifted: CancellationToken,
}

impl RateLimit {
    fn new(bytes_per_second: NonZeroU64) -> Self {
        Self {
            bytes_per_second,
            free_at: Mutex::default(),
            lifted: CancellationToken::new(),
        }
    }

    /// Waits until all bytes before these had their time; these are then on the account.
    async fn pass(&self, bytes: usize) {
        let nanoseconds = u128::try_from(bytes)
            .unwrap_or(u128::MAX)
            .saturating_mul(1_000_000_000)
            / u128::from(self.bytes_per_second.get());
        let takes = Duration::from_nanos(u64::try_from(nanoseconds).unwrap_or(u64::MAX));
        let begins = {
            let mut free_at = lock(&self.free_at);
            let now = Instant::now();
            let begins = free_at.map_or(now, |free| free.max(now));
            *free_at = Some(begins + takes);
            begins
        };
        tokio::select! {
            () = self.lifted.cancelled() => {}
            () = sleep_until(begins) => {}
        }
    }
}

/// What may be set; what is not follows the machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Limits {
    /// Threads for hashing, compression and encryption; by default one for each processor that this
    /// process may use, its cgroup's quota included.
    pub threads: Option<NonZeroUsize>,
    /// Bytes that may be between their source and their destination at once; half as many more may be
    /// on their way to a store. By default 256 MiB, on more than 8 threads 32 MiB for each, but no more
    /// than an eighth of the memory that the machine or this process's cgroup has, and at least 64 MiB.
    pub memory: Option<NonZeroU64>,
    /// Bytes a second, read and written together; by default as many as there can be.
    pub rate: Option<NonZeroU64>,
}

/// Processors, memory and bytes a second; clones share them.
#[derive(Debug, Clone)]
pub struct Resources(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    threads: ThreadPool,
    budget: Arc<Semaphore>,
    sending: Arc<Semaphore>,
    memory: u64,
    rate: Option<RateLimit>,
    /// Work is done where it is asked for.
    #[cfg(test)]
    inline: bool,
}

/// Part of the memory budget, given back when dropped.
pub(crate) type MemoryPermit = OwnedSemaphorePermit;

impl Resources {
    /// Makes them; the threads start here.
    ///
    /// # Errors
    ///
    /// [`Cause::Failed`] when the threads cannot be started.
    pub fn new(limits: &Limits) -> Result<Self> {
        let count = limits
            .threads
            .or_else(|| std::thread::available_parallelism().ok())
            .map_or(1, NonZeroUsize::get);
        let threads = rayon::ThreadPoolBuilder::new()
            .num_threads(count)
            .thread_name(|n| format!("cpu-{n}"))
            .build()
            .map_err(|error| {
                Error::new(Cause::Failed, "the threads for hashing cannot be started")
                    .with_source(error)
            })?;
        let memory = limits
            .memory
            .map_or_else(|| default_memory(count, memory_there_is()), NonZeroU64::get);
        let budget = |bytes: u64| {
            let permits = usize::try_from(bytes).unwrap_or(usize::MAX);
            Arc::new(Semaphore::new(permits.min(Semaphore::MAX_PERMITS)))
        };
        Ok(Self(Arc::new(Inner {
            threads,
            budget: budget(memory),
            sending: budget((memory / 2).max(1)),
            memory,
            rate: limits.rate.map(RateLimit::new),
            #[cfg(test)]
            inline: false,
        })))
    }

    /// How many threads there are.
    #[must_use]
    pub fn threads(&self) -> usize {
        self.0.threads.current_num_threads()
    }

    /// The memory budget in bytes.
    #[must_use]
    pub fn memory(&self) -> u64 {
        self.0.memory
    }

    /// Waits until all bytes before these had their time, where a rate is set.
    pub(crate) async fn pass(&self, bytes: usize) {
        if let Some(rate) = &self.0.rate {
            rate.pass(bytes).await;
        }
    }

    /// Lets all bytes pass from now on: for a process that has been told to stop, and shall put in order
    /// within seconds what it has under way.
    pub(crate) fn lift_rate(&self) {
        if let Some(rate) = &self.0.rate {
            rate.lifted.cancel();
        }
    }

    /// Waits until `bytes` of the memory budget are free; more than all of it counts as all of it.
    pub(crate) async fn reserve(&self, bytes: u64) -> Result<MemoryPermit> {
        take(&self.0.budget, bytes, self.0.memory).await
    }

    /// Waits until `bytes` more may be on their way to a store. That is a budget of its own, half as
    /// large: what is on its way needs nothing more to arrive, so this never waits for what waits in
    /// [`reserve`](Self::reserve).
    pub(crate) async fn admit(&self, bytes: u64) -> Result<MemoryPermit> {
        take(&self.0.sending, bytes, self.0.memory / 2).await
    }

    /// Runs `work` on the threads. It runs to its end also when this future is dropped.
    pub(crate) async fn run<T, F>(&self, work: F) -> Result<T>
    where
        T: Send + 'static,
        F: FnOnce() -> Result<T> + Send + 'static,
    {
        #[cfg(test)]
        if self.0.inline {
            return work();
        }
        let (sender, receiver) = oneshot::channel();
        self.0.threads.spawn(move || {
            let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(work))
                .unwrap_or_else(|_| Err(Error::new(Cause::Failed, "a worker thread panicked")));
            // Nobody waits any more when the session was given up.
            let _ = sender.send(result);
        });
        receiver
            .await
            .map_err(|_| Error::new(Cause::Failed, "a worker thread ended early"))?
    }
}

#[cfg(any(test, feature = "testing"))]
impl Resources {
    /// Those that all tests of a process share.
    ///
    /// # Panics
    ///
    /// When the threads cannot be started.
    #[must_use]
    pub fn of_tests() -> Self {
        static SHARED: std::sync::OnceLock<Resources> = std::sync::OnceLock::new();
        let made = || Self::new(&Limits::default()).expect("threads");
        SHARED.get_or_init(made).clone()
    }
}

#[cfg(test)]
impl Resources {
    /// Those of a simulation, whose clock must not run on while other threads work.
    pub(crate) fn simulated() -> Self {
        let limits = Limits {
            threads: NonZeroUsize::new(1),
            ..Limits::default()
        };
        let mut inner = Arc::try_unwrap(Self::new(&limits).expect("threads").0).expect("unshared");
        inner.inline = true;
        Self(Arc::new(inner))
    }
}

/// Takes `bytes` of a budget, or all of it when it is smaller.
async fn take(budget: &Arc<Semaphore>, bytes: u64, all: u64) -> Result<MemoryPermit> {
    let bytes = bytes.min(all).max(1);
    let permits = u32::try_from(bytes).unwrap_or(u32::MAX);
    let taken = budget.clone().acquire_many_owned(permits).await;
    taken.map_err(|_| Error::new(Cause::Failed, "the memory budget is closed"))
}

/// The memory budget of so many threads where there are so many bytes of memory.
fn default_memory(threads: usize, there_is: Option<u64>) -> u64 {
    let wanted = (threads as u64)
        .saturating_mul(MEMORY_PER_THREAD)
        .max(MEMORY);
    let most = there_is.map_or(wanted, |bytes| bytes / PART_OF_MEMORY);
    wanted.min(most).max(LEAST_MEMORY)
}

/// The memory of the machine, or of the cgroup that this process is in, in bytes.
fn memory_there_is() -> Option<u64> {
    let machine = std::fs::read_to_string("/proc/meminfo").ok();
    let machine = machine.as_deref().and_then(memory_total);
    let groups = std::fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
    let cgroup = cgroup_limit(&groups, Path::new("/sys/fs/cgroup"));
    machine.into_iter().chain(cgroup).min()
}

/// `MemTotal` of `/proc/meminfo`.
fn memory_total(meminfo: &str) -> Option<u64> {
    let line = meminfo.lines().find_map(|l| l.strip_prefix("MemTotal:"))?;
    let kib: u64 = line.split_whitespace().next()?.parse().ok()?;
    kib.checked_mul(1024)
}

/// The least memory limit of the cgroups that `/proc/self/cgroup` names and of those above them
/// (<https://docs.kernel.org/admin-guide/cgroup-v2.html>, memory.max; version 1 has one hierarchy for
/// each controller).
fn cgroup_limit(groups: &str, mount: &Path) -> Option<u64> {
    groups
        .lines()
        .filter_map(|line| {
            let (controllers, path) = line.split_once(':')?.1.split_once(':')?;
            let (root, file) = if controllers.is_empty() {
                (mount.to_owned(), "memory.max")
            } else if controllers.split(',').any(|c| c == "memory") {
                (mount.join("memory"), "memory.limit_in_bytes")
            } else {
                return None;
            };
            let group = root.join(path.trim_start_matches('/'));
            let above = group.ancestors().take_while(|path| path.starts_with(&root));
            above
                .filter_map(|path| std::fs::read_to_string(path.join(file)).ok())
                .filter_map(|text| text.trim().parse::<u64>().ok())
                .min()
        })
        .min()
}

#[cfg(test)]
mod tests {
    use super::*;

    const GIB: u64 = 1 << 30;

    #[test]
    fn the_budget_follows_threads_and_memory() {
        assert_eq!(default_memory(2, Some(24 * GIB)), MEMORY);
        assert_eq!(default_memory(64, Some(256 * GIB)), 2 * GIB);
        assert_eq!(default_memory(64, Some(4 * GIB)), GIB / 2);
        assert_eq!(default_memory(2, Some(GIB)), 128 << 20);
        assert_eq!(default_memory(2, Some(64 << 20)), LEAST_MEMORY);
        assert_eq!(default_memory(2, None), MEMORY);
    }

    #[test]
    fn memory_is_read_from_the_kernel() {
        let text = "MemTotal:       24592344 kB\nMemFree: 1 kB\n";
        assert_eq!(memory_total(text), Some(24_592_344 * 1024));
        assert!(memory_there_is().is_some());
    }

    #[test]
    fn the_tightest_cgroup_counts_in_both_versions() {
        let dir = tempfile::tempdir().unwrap();
        let put = |path: &str, text: &str| {
            let path = dir.path().join(path);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, text).unwrap();
        };
        put("system.slice/memory.max", "2147483648\n");
        put("system.slice/eyrie.service/memory.max", "max\n");
        let unit = "0::/system.slice/eyrie.service\n";
        assert_eq!(cgroup_limit(unit, dir.path()), Some(2 * GIB));
        put("system.slice/eyrie.service/memory.max", "1073741824\n");
        assert_eq!(cgroup_limit(unit, dir.path()), Some(GIB));
        assert_eq!(cgroup_limit("0::/elsewhere\n", dir.path()), None);
        put("memory/pod/memory.limit_in_bytes", "536870912\n");
        let first = "4:cpu,cpuacct:/pod\n3:memory:/pod\n";
        assert_eq!(cgroup_limit(first, dir.path()), Some(GIB / 2));
    }

    #[tokio::test]
    async fn more_than_all_memory_is_all_of_it_and_a_panic_is_an_error() {
        let limits = Limits {
            threads: NonZeroUsize::new(1),
            memory: NonZeroU64::new(10),
            rate: None,
        };
        let resources = Resources::new(&limits).unwrap();
        let all = resources.reserve(1_000).await.unwrap();
        assert_eq!(all.num_permits(), 10);
        assert_eq!((resources.threads(), resources.memory()), (1, 10));
        let panicked = resources.run::<(), _>(|| panic!("in a test")).await;
        assert_eq!(panicked.unwrap_err().cause(), Cause::Failed);
        assert_eq!(resources.run(|| Ok(7)).await.unwrap(), 7);
    }
}
