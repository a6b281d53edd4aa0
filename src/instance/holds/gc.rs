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
use crate::instance::holds::{HoldRecord, HoldState};
use crate::milvus::management::{GcPause, GcRelease, GcSupport, Management};

/// How long one pause lasts. It is renewed at half of it; without tickets it cannot be ended
/// without ending other tools' pauses, so it is left to run out, and is not longer than needed.
const PAUSE: Duration = Duration::from_mins(10);

/// How long a pause is tried: on 2.3.9 to 2.3.x the call waits for a running pass to end.
const BUDGET: Duration = Duration::from_secs(30);

/// The roles whose process runs `DataCoord`, as their sessions are called (docs/milvus.md 3.4).
const COORDINATORS: [&str; 2] = ["datacoord", "mixcoord"];

/// A renewed pause of garbage collection. It is void when it lapsed or `DataCoord` was restarted,
/// which forgets pauses (docs/milvus.md 2.2).
#[derive(Debug)]
pub struct GcHold {
    management: Management,
    coordinator: Coordinator,
    pause: Arc<Mutex<GcPause>>,
    void: Arc<AtomicBool>,
    since: Instant,
    task: JoinHandle<()>,
}

/// Pauses garbage collection and keeps it paused; `None` where this Milvus has no such control.
///
/// `session` is the prefix of the coordinators' sessions in etcd, which tells a restart. They are
/// read before the pause is asked for: a `DataCoord` that begins later does not know of it.
pub async fn hold_gc(
    management: Management,
    etcd: Etcd,
    session: String,
) -> Result<Option<GcHold>> {
    let coordinator = Box::pin(Coordinator::now(etcd, session)).await?;
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
        coordinator: coordinator.clone(),
        pause: pause.clone(),
        void: void.clone(),
    };
    let task = tokio::spawn(renewal.run());
    Ok(Some(GcHold {
        management,
        coordinator,
        pause,
        void,
        since: Instant::now(),
        task,
    }))
}

impl GcHold {
    /// Whether garbage collection has been held off without a gap until now, as the sessions in etcd
    /// tell. Where they cannot be read it is not known, and the answer is no.
    pub async fn held(&self) -> bool {
        if self.coordinator.check(&self.void).await.is_err() {
            return false;
        }
        !self.void.load(Ordering::Acquire)
    }

    /// A new hold of the same kind.
    ///
    /// # Errors
    ///
    /// As [`hold_gc`].
    pub async fn again(&self) -> Result<Option<Self>> {
        let Coordinator { etcd, session, .. } = self.coordinator.clone();
        Box::pin(hold_gc(self.management.clone(), etcd, session)).await
    }

    /// What the manifest says of it, as of the last check or renewal.
    #[must_use]
    pub fn record(&self) -> HoldRecord {
        let (state, detail) = if self.void.load(Ordering::Acquire) {
            let lost = "the pause lapsed, or DataCoord was restarted, which forgets it";
            (HoldState::Lost, lost.to_owned())
        } else {
            let through = format!("paused through {}", self.management.address());
            (HoldState::Held, through)
        };
        HoldRecord {
            hold: "gc".to_owned(),
            state,
            held_ms: u64::try_from(self.since.elapsed().as_millis()).unwrap_or(u64::MAX),
            detail,
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
    coordinator: Coordinator,
    pause: Arc<Mutex<GcPause>>,
    void: Arc<AtomicBool>,
}

impl Renewal {
    async fn run(self) {
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
            if let Err(error) = self.coordinator.check(&self.void).await {
                warn!(error = %error.chain(), "whether DataCoord still runs is not known");
            }
        }
    }
}

/// The incarnations of the processes that ran `DataCoord` when the pause was asked for.
#[derive(Debug, Clone)]
struct Coordinator {
    etcd: Etcd,
    session: String,
    incarnations: Vec<i64>,
}

impl Coordinator {
    async fn now(etcd: Etcd, session: String) -> Result<Self> {
        let incarnations = incarnations(etcd.clone(), &session).await?;
        Ok(Self {
            etcd,
            session,
            incarnations,
        })
    }

    /// Sets `void` when others run it now.
    async fn check(&self, void: &AtomicBool) -> Result<()> {
        if incarnations(self.etcd.clone(), &self.session).await? != self.incarnations {
            void.store(true, Ordering::Release);
        }
        Ok(())
    }
}

/// The revisions at which the sessions of `DataCoord` began.
async fn incarnations(mut etcd: Etcd, session: &str) -> Result<Vec<i64>> {
    let mut found = Vec::new();
    for role in COORDINATORS {
        if let Some(kv) = etcd.get(&format!("{session}{role}")).await? {
            found.push(kv.create_revision);
        }
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::net::TcpListener;

    use super::*;
    use crate::Side;
    use crate::etcd;
    use crate::milvus::simulated::{Script, SimulatedMilvus};

    const SESSIONS: &str = "by-dev/meta/session/";

    async fn begins(etcd: &mut Etcd, role: &str) {
        let key = format!("{SESSIONS}{role}").into_bytes();
        let session = [(key, b"{}".to_vec())];
        let put = etcd.put_all("a test", vec![], &session, None);
        put.await.unwrap();
    }

    #[tokio::test]
    async fn a_datacoord_that_began_after_the_pause_does_not_know_of_it_simulated_milvus_2_6_8() {
        let (mut etcd, _process, _directory) = etcd::scratch().await;
        let milvus = SimulatedMilvus::start(Script::new("2.6.8")).await;
        begins(&mut etcd, "mixcoord").await;
        let hold = hold_gc(milvus.management(), etcd.clone(), SESSIONS.to_owned());
        let hold = Box::pin(hold).await.unwrap().unwrap();
        // A value that is put again is the same session.
        begins(&mut etcd, "mixcoord").await;
        assert!(hold.held().await);
        assert_eq!(hold.record().state, HoldState::Held);

        let gone = [format!("{SESSIONS}mixcoord").into_bytes()];
        let delete = etcd.delete_all("a test", vec![], &gone);
        delete.await.unwrap();
        assert!(!hold.held().await, "nobody runs it");
        begins(&mut etcd, "mixcoord").await;
        assert!(!hold.held().await, "another runs it");
        let again = Box::pin(hold.again()).await.unwrap().unwrap();
        assert!(again.held().await, "the one that runs now was asked");
        assert_eq!(hold.release().await.state, HoldState::Lost);
    }

    /// A proxy whose `DataCoord` begins anew while it is asked for a pause, and that says yes.
    async fn restarts_when_asked(asked: TcpListener, etcd: &mut Etcd) {
        let (mut stream, _) = asked.accept().await.unwrap();
        let session = [format!("{SESSIONS}datacoord").into_bytes()];
        let delete = etcd.delete_all("a test", vec![], &session);
        delete.await.unwrap();
        begins(etcd, "datacoord").await;
        let mut request = [0; 4096];
        assert!(stream.read(&mut request).await.unwrap() > 0);
        let answer =
            b"HTTP/1.1 200 OK\r\nContent-Length: 13\r\nConnection: close\r\n\r\n{\"msg\": \"OK\"}";
        stream.write_all(answer).await.unwrap();
        stream.shutdown().await.unwrap();
    }

    #[tokio::test]
    async fn a_restart_while_the_pause_is_asked_for_is_noticed() {
        let (mut etcd, _process, _directory) = etcd::scratch().await;
        begins(&mut etcd, "datacoord").await;
        let asked = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = asked.local_addr().unwrap().to_string();
        let management = Management::new(&address, None, Side::Source).unwrap();
        let pausing = hold_gc(management, etcd.clone(), SESSIONS.to_owned());
        let (hold, ()) = tokio::join!(pausing, restarts_when_asked(asked, &mut etcd));
        let hold = hold.unwrap().unwrap();
        assert!(!hold.held().await, "nobody knows which of the two said yes");
        assert_eq!(hold.record().state, HoldState::Lost);
    }

    #[tokio::test]
    async fn what_cannot_be_looked_up_is_not_held_simulated_milvus_2_6_8() {
        let (etcd, process, _directory) = etcd::scratch().await;
        let milvus = SimulatedMilvus::start(Script::new("2.6.8")).await;
        let hold = hold_gc(milvus.management(), etcd.clone(), SESSIONS.to_owned());
        let hold = Box::pin(hold).await.unwrap().unwrap();
        assert!(hold.held().await);
        process.stop().await.unwrap();
        assert!(!hold.held().await);
    }
}
