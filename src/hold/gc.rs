//! The hold on garbage collection, a pause that Milvus itself ends when nobody renews it.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio::sync::Mutex;
use tokio::task::JoinHandle;
use tokio::time::Instant;
use tracing::{info, warn};

use crate::Result;
use crate::etcd::Etcd;
use crate::manifest::{HoldRecord, HoldState};
use crate::milvus::management::{GcPause, GcRelease, GcSupport, Management};

/// How long one pause lasts. It is renewed at half of it; without tickets it cannot be ended
/// without ending other tools' pauses, so it is left to run out, and is not longer than needed.
const PAUSE: Duration = Duration::from_mins(10);

/// How long a pause is tried: on 2.3.9 to 2.3.x the call waits for a running pass to end.
const BUDGET: Duration = Duration::from_secs(30);

/// A renewed pause of garbage collection. It is void when it lapsed or `DataCoord` was restarted,
/// which forgets pauses (docs/milvus.md 2.2).
#[derive(Debug)]
pub struct GcHold {
    management: Management,
    pause: Arc<Mutex<GcPause>>,
    void: Arc<AtomicBool>,
    since: Instant,
    task: JoinHandle<()>,
}

/// Pauses garbage collection and keeps it paused; `None` where this Milvus has no such control.
///
/// `session` is the prefix of the coordinators' sessions in etcd, which tells a restart.
pub async fn hold_gc(
    management: Management,
    etcd: Etcd,
    session: String,
) -> Result<Option<GcHold>> {
    let GcSupport::Paused(pause) = management.pause_gc(PAUSE, BUDGET).await? else {
        return Ok(None);
    };
    info!(
        ticket = pause.ticket().is_some(),
        "paused garbage collection"
    );
    let pause = Arc::new(Mutex::new(pause));
    let void = Arc::new(AtomicBool::new(false));
    let renewal = Renewal {
        management: management.clone(),
        etcd,
        session,
        pause: pause.clone(),
        void: void.clone(),
    };
    let task = tokio::spawn(renewal.run());
    Ok(Some(GcHold {
        management,
        pause,
        void,
        since: Instant::now(),
        task,
    }))
}

impl GcHold {
    /// Whether garbage collection has been held off without a gap.
    #[must_use]
    pub fn held(&self) -> bool {
        !self.void.load(Ordering::Acquire)
    }

    /// What the manifest says of it.
    #[must_use]
    pub fn record(&self) -> HoldRecord {
        HoldRecord {
            hold: "gc".to_owned(),
            state: HoldState::Held,
            held_ms: u64::try_from(self.since.elapsed().as_millis()).unwrap_or(u64::MAX),
            detail: if self.held() {
                format!("paused through {}", self.management.address())
            } else {
                "the pause lapsed, or DataCoord was restarted".to_owned()
            },
        }
    }

    /// Ends the pause where it has a ticket; otherwise it runs out.
    pub async fn release(self) -> HoldRecord {
        let mut record = self.record();
        self.task.abort();
        let pause = self.pause.lock().await.clone();
        match self.management.release_gc(&pause).await {
            Ok(GcRelease::Resumed) => {}
            Ok(GcRelease::RunsOut) => record
                .detail
                .push_str("; it runs out by itself within 10 min"),
            Err(error) => {
                warn!(error = %error.chain(), "the pause of garbage collection was not ended; it runs out by itself");
            }
        }
        record
    }
}

impl Drop for GcHold {
    fn drop(&mut self) {
        self.task.abort();
    }
}

struct Renewal {
    management: Management,
    etcd: Etcd,
    session: String,
    pause: Arc<Mutex<GcPause>>,
    void: Arc<AtomicBool>,
}

impl Renewal {
    async fn run(mut self) {
        let mut coordinator = self.coordinator().await;
        let mut ends = Instant::now() + PAUSE;
        loop {
            tokio::time::sleep(PAUSE / 2).await;
            loop {
                let begun = Instant::now();
                let pause = self.pause.lock().await.clone();
                match self.management.renew_gc(&pause, PAUSE, BUDGET).await {
                    Ok(renewed) => {
                        *self.pause.lock().await = renewed;
                        ends = begun + PAUSE;
                        break;
                    }
                    Err(error) => {
                        warn!(error = %error.chain(), "renewing the pause of garbage collection");
                    }
                }
                if Instant::now() > ends {
                    self.void.store(true, Ordering::Release);
                }
                tokio::time::sleep(Duration::from_secs(5)).await;
            }
            let now = self.coordinator().await;
            if now != coordinator {
                coordinator = now;
                self.void.store(true, Ordering::Release);
            }
        }
    }

    /// The incarnations of the processes that run `DataCoord`.
    async fn coordinator(&mut self) -> Vec<i64> {
        let mut incarnations = Vec::new();
        for role in ["datacoord", "mixcoord"] {
            if let Ok(Some(kv)) = self.etcd.get(&format!("{}{role}", self.session)).await {
                incarnations.push(kv.create_revision);
            }
        }
        incarnations
    }
}
