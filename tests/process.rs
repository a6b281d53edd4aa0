//! What a process has once: its signals, its threads, its memory. These tests are in a binary of
//! their own, since a signal reaches every listener of a process.

use std::num::{NonZeroU64, NonZeroUsize};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use async_trait::async_trait;
use bytes::Bytes;
use eyrie::base::cancel::Cancel;
use eyrie::base::env::Env;
use eyrie::base::resources::{Limits, Resources};
use eyrie::repo::{Compression, InitOptions, KdfCost, ObjectSource, Repository, Unlock};
use eyrie::store::testing::memory::MemoryStore;
use eyrie::{Cause, Result};
use futures::future::try_join_all;
use nix::sys::signal::{Signal, raise};

/// Set in the child that is to die of its second signal.
const CHILD: &str = "EYRIE_TEST_SECOND_SIGNAL";

#[test]
fn the_first_signal_asks_and_the_second_ends_at_once() {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    runtime.block_on(async {
        let cancel = Cancel::new();
        cancel.on_signals().unwrap();
        raise(Signal::SIGTERM).unwrap();
        cancel.requested().await;
        assert_eq!(cancel.error().cause(), Cause::Terminated);
        if std::env::var_os(CHILD).is_some() {
            raise(Signal::SIGINT).unwrap();
            std::future::pending::<()>().await;
        }
    });
    if std::env::var_os(CHILD).is_none() {
        let mut child = Command::new(std::env::current_exe().unwrap());
        let status = child.env(CHILD, "1").output().unwrap().status;
        assert_eq!(status.code(), Some(130));
    }
}

/// How many repositories are open at once, as those of an agent's tenants.
const REPOSITORIES: usize = 20;
const THREADS: usize = 3;
/// The budget: two of the largest pieces.
const MEMORY: usize = 32 << 20;

/// An object that counts how much of all such objects is in memory.
struct Counted {
    name: String,
    size: u64,
    memory: Arc<Memory>,
}

#[derive(Default)]
struct Memory {
    now: AtomicUsize,
    peak: AtomicUsize,
}

/// Bytes that are counted until they are dropped.
struct Held(Vec<u8>, Arc<Memory>);

impl AsRef<[u8]> for Held {
    fn as_ref(&self) -> &[u8] {
        &self.0
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.1.now.fetch_sub(self.0.len(), Ordering::SeqCst);
    }
}

#[async_trait]
impl ObjectSource for Counted {
    fn name(&self) -> String {
        self.name.clone()
    }

    fn size(&self) -> u64 {
        self.size
    }

    async fn piece(&self, offset: u64, len: usize) -> Result<Bytes> {
        let now = self.memory.now.fetch_add(len, Ordering::SeqCst) + len;
        self.memory.peak.fetch_max(now, Ordering::SeqCst);
        tokio::task::yield_now().await;
        let seed = self.name.bytes().map(u64::from).sum::<u64>() + offset;
        let noise = (0..len as u64).map(|n| (n + seed).wrapping_mul(0x9e37_79b9).to_le_bytes()[2]);
        Ok(Bytes::from_owner(Held(
            noise.collect(),
            self.memory.clone(),
        )))
    }
}

/// Threads of this process whose name begins with `name`.
fn threads(name: &str) -> usize {
    let tasks = std::fs::read_dir("/proc/self/task").unwrap();
    let names = tasks.map(|task| std::fs::read_to_string(task.unwrap().path().join("comm")));
    names
        .filter(|found| found.as_ref().is_ok_and(|found| found.starts_with(name)))
        .count()
}

#[tokio::test(flavor = "multi_thread")]
async fn twenty_repositories_work_with_one_pool_and_one_budget() {
    let limits = Limits {
        threads: NonZeroUsize::new(THREADS),
        memory: NonZeroU64::new(MEMORY as u64),
        rate: None,
    };
    let (resources, env) = (Resources::new(&limits).unwrap(), Env::system());
    let memory = Arc::new(Memory::default());
    let backups = (0..REPOSITORIES).map(|tenant| {
        let (resources, env, memory) = (resources.clone(), env.clone(), memory.clone());
        async move {
            let store = Arc::new(MemoryStore::new());
            let options = InitOptions {
                kdf: KdfCost {
                    m_kib: 8,
                    t: 1,
                    p: 1,
                },
                ..InitOptions::default()
            };
            let made = Repository::init(store, Unlock::None, options, &resources, &env).await?;
            let writer = made.begin_writer("main", vec![], Compression::Auto).await?;
            let objects = [1 << 10, 5 << 20, 20 << 20].map(|size| Counted {
                name: format!("{tenant}/{size}"),
                size,
                memory: memory.clone(),
            });
            try_join_all(objects.iter().map(|object| writer.store_object(object))).await?;
            writer.finish().await
        }
    });
    try_join_all(backups).await.unwrap();
    assert_eq!(threads("cpu-"), THREADS);
    let peak = memory.peak.load(Ordering::SeqCst);
    assert!(peak > MEMORY / 2, "the repositories worked at once: {peak}");
    assert!(peak <= MEMORY, "{peak} bytes were in memory at once");
    assert_eq!(memory.now.load(Ordering::SeqCst), 0);
}
