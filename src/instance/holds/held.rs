//! Everything that one capture suspends, with one way out.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;
use tracing::{info, warn};

use crate::base::env::Env;
use crate::etcd::{Etcd, KeyValue, Lease};
use crate::instance::holds::{
    ConfigItem, GcHold, HoldRecord, HoldSpent, HoldState, Placed, TTL, place,
};
use crate::{Cause, Result, Side};

/// The holds of one capture, released together on every way out.
#[derive(Debug, Default)]
pub struct Holds {
    lease: Option<Arc<Lease>>,
    placed: Vec<(Placed, Instant)>,
    gc: Option<GcHold>,
    records: Vec<HoldRecord>,
    writes_held: Duration,
    spent: HoldSpent,
}

impl Holds {
    /// Places an item of Milvus's configuration under the capture's one lease, and says since when it may be in
    /// force.
    pub async fn place(
        &mut self,
        etcd: &mut Etcd,
        root: &str,
        item: ConfigItem,
        env: &Env,
    ) -> Result<Instant> {
        let lease = self.lease(etcd, env).await?;
        let (placed, since) = place(etcd, root, item, &lease).await?;
        info!(hold = item.name, key = %String::from_utf8_lossy(placed.key()), "placed a hold");
        self.placed.push((placed, since));
        Ok(since)
    }

    /// The capture's one lease.
    pub async fn lease(&mut self, etcd: &Etcd, env: &Env) -> Result<Arc<Lease>> {
        let lease = match self.lease.take() {
            Some(lease) => lease,
            None => Arc::new(etcd.clone().lease(TTL, env).await?),
        };
        Ok(self.lease.insert(lease).clone())
    }

    /// Takes over the GC hold.
    pub fn hold_gc(&mut self, hold: GcHold) {
        self.gc = Some(hold);
    }

    /// Pauses GC again where its hold was lost, so that what follows is held from its beginning. Where Milvus
    /// does not pause it any more, nothing holds it, which is noted.
    pub async fn retake_gc(&mut self) {
        if let Some(lost) = self.gc.take() {
            let again = Box::pin(lost.again()).await;
            self.records.push(lost.release().await);
            match again {
                Ok(again) => self.gc = again,
                Err(error) => {
                    self.absent(
                        "gc",
                        format!("it could not be held again: {}", error.chain()),
                    );
                }
            }
        }
    }

    /// Notes a control that this Milvus does not have.
    pub fn absent(&mut self, hold: &str, why: impl Into<String>) {
        let record = HoldRecord {
            hold: hold.to_owned(),
            state: HoldState::Absent,
            held_ms: 0,
            detail: why.into(),
        };
        // Another anchor of the same capture says it again.
        if !self.records.contains(&record) {
            self.records.push(record);
        }
    }

    /// Whether GC has been held without a gap until now.
    pub async fn gc_held(&self) -> bool {
        match &self.gc {
            Some(hold) => hold.held().await,
            None => false,
        }
    }

    /// Fails unless every configuration hold stood, unbroken, at the revision of `keys`.
    ///
    /// # Errors
    ///
    /// [`Side::Source`]: the capture is void.
    pub fn prove(&self, keys: &[KeyValue], revision: i64) -> Result<()> {
        if let Some(lease) = &self.lease {
            lease.check("holds")?;
        }
        match self.placed.iter().find(|(placed, _)| !placed.proven_by(keys)) {
            None => Ok(()),
            Some((placed, _)) => Err(Side::Source.error(Cause::Refused,
                format!(
                    "the {} hold was lost before revision {revision}: {} is not there as it was placed",
                    placed.item().name,
                    String::from_utf8_lossy(placed.key())
                ),
            )
            .with_hint("the capture is void, nothing was stored; did someone edit etcd, or did its lease run out under load?")),
        }
    }

    /// What the time was spent on while writes were denied, of all holds on writes together.
    pub const fn spent(&mut self) -> &mut HoldSpent {
        &mut self.spent
    }

    /// How long writes have been held, from asking for the hold to its release; of several holds
    /// one after the other the sum.
    #[must_use]
    pub const fn writes_held(&self) -> Duration {
        self.writes_held
    }

    /// Releases writes, DDL and compaction.
    pub async fn release_config(&mut self) -> Result<()> {
        let placed = std::mem::take(&mut self.placed);
        for (placed, since) in placed {
            let held = since.elapsed();
            if placed.item() == crate::instance::holds::WRITES {
                self.writes_held += held;
            }
            let (state, detail) = match &placed {
                Placed::Ours {
                    create_revision, ..
                } => (
                    HoldState::Held,
                    format!(
                        "key {} of revision {create_revision}",
                        String::from_utf8_lossy(placed.key())
                    ),
                ),
                Placed::External { .. } => (
                    HoldState::External,
                    format!(
                        "set by an operator as {}",
                        String::from_utf8_lossy(placed.key())
                    ),
                ),
            };
            self.records.push(HoldRecord {
                hold: placed.item().name.to_owned(),
                state,
                held_ms: u64::try_from(held.as_millis()).unwrap_or(u64::MAX),
                detail,
            });
        }
        if let Some(lease) = self.lease.take() {
            lease.release().await?;
        }
        Ok(())
    }

    /// Releases writes, DDL and compaction when something else is the failure. One of this is logged: the
    /// lease ends by itself.
    pub async fn give_up_config(&mut self) {
        if let Err(error) = self.release_config().await {
            warn!(error = %error.chain(), "a hold was not released; it ends by itself within {} s of etcd's answering again", TTL.as_secs());
        }
    }

    /// Releases all that is left, GC included. A failure is logged: the leases end by themselves.
    pub async fn release(&mut self) {
        self.give_up_config().await;
        if let Some(gc) = self.gc.take() {
            let record = gc.release().await;
            self.records.push(record);
        }
    }

    /// What was suspended, for the manifest. Complete after [`Holds::release`].
    #[must_use]
    pub fn records(&self) -> Vec<HoldRecord> {
        let mut records = self.records.clone();
        if let Some(gc) = &self.gc {
            records.push(gc.record());
        }
        records
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::etcd;
    use crate::instance::holds::hold_gc;
    use crate::milvus::simulated::{Script, SimulatedMilvus};

    async fn begins(etcd: &mut Etcd) {
        let key = b"by-dev/meta/session/mixcoord".to_vec();
        etcd.delete_all("a test", vec![], std::slice::from_ref(&key))
            .await
            .unwrap();
        etcd.put_all("a test", vec![], &[(key, b"{}".to_vec())], None)
            .await
            .unwrap();
    }

    #[tokio::test]
    async fn a_pause_that_a_restart_lost_is_taken_again_and_both_are_recorded_simulated_milvus_2_6_8()
     {
        let (mut etcd, _process, _directory) = etcd::scratch().await;
        let milvus = SimulatedMilvus::start(Script::new("2.6.8")).await;
        begins(&mut etcd).await;
        let sessions = "by-dev/meta/session/".to_owned();
        let hold = hold_gc(milvus.management(), etcd.clone(), sessions).await;
        let mut holds = Holds::default();
        assert!(!holds.gc_held().await);
        holds.hold_gc(hold.unwrap().unwrap());
        assert!(holds.gc_held().await);

        begins(&mut etcd).await;
        assert!(!holds.gc_held().await);
        Box::pin(holds.retake_gc()).await;
        assert!(holds.gc_held().await);
        assert_eq!(milvus.gc_pauses(), 1, "the lost one was given back");
        holds.release().await;
        assert_eq!(milvus.gc_pauses(), 0);
        let states: Vec<_> = holds.records().iter().map(|record| record.state).collect();
        assert_eq!(states, [HoldState::Lost, HoldState::Held]);
    }
}
