//! Whether Milvus takes writes, as its proxies answer.

use std::time::Duration;

use super::reach::Running;
use crate::base::poll::poll;
use crate::milvus::client::Client;
use crate::milvus::inventory::CollectionName;
use crate::milvus::probe::ProbeOutcome;
use crate::{Cause, Result};

/// Between two probes.
const PROBE_PAUSE: Duration = Duration::from_millis(250);

/// Collections that a probe is tried on, when one is dropped meanwhile.
const PROBED_COLLECTIONS: usize = 5;

/// Whether writes pass.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Writes {
    /// Every reachable proxy takes them.
    Accepted,
    /// Some proxy denies them.
    Denied,
}

/// What came of a hold on writes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Denial {
    /// Every reachable proxy denies writes.
    Complete,
    /// Some proxy does not; what it answered last.
    Incomplete(String),
}

impl Running {
    /// Waits until no proxy denies writes any more, for `limit` at most.
    pub(super) async fn until_accepted(&self, limit: Duration) -> Result<Writes> {
        let accepted = poll(limit, PROBE_PAUSE, async || {
            let targets = self.probe_targets().await?;
            let mut denied = false;
            for proxy in &self.proxies {
                denied |= matches!(probe(proxy, &targets).await, ProbeOutcome::Denied);
            }
            Ok((!denied).then_some(Writes::Accepted))
        });
        Ok(accepted.await?.unwrap_or(Writes::Denied))
    }

    /// Probes through every reachable proxy until each denies a write for the forced reason, for
    /// `limit` at most.
    pub(super) async fn until_denied(&self, limit: Duration) -> Result<Denial> {
        let mut last = "no probe was answered".to_owned();
        let denied = poll(limit, PROBE_PAUSE, async || {
            let targets = self.probe_targets().await?;
            if targets.is_empty() {
                // Nothing can be written where there is no collection.
                return Ok(Some(Denial::Complete));
            }
            let mut denied = 0;
            for proxy in &self.proxies {
                match probe(proxy, &targets).await {
                    ProbeOutcome::Denied => denied += 1,
                    ProbeOutcome::Accepted => {
                        last = format!("{} still accepts writes", proxy.address());
                    }
                    ProbeOutcome::Limited(why) => {
                        last = format!(
                            "{} limits writes for another reason: {why}",
                            proxy.address()
                        );
                    }
                    ProbeOutcome::Other(error) => {
                        last = format!("{}: {}", proxy.address(), error.chain());
                    }
                }
            }
            Ok((denied == self.proxies.len()).then_some(Denial::Complete))
        });
        let denied = denied.await?;
        Ok(denied.unwrap_or(Denial::Incomplete(last)))
    }

    async fn probe_targets(&self) -> Result<Vec<CollectionName>> {
        let mut targets = Vec::new();
        for database in self.client.list_databases().await? {
            targets.extend(self.client.show_collections(&database).await?);
            if targets.len() >= PROBED_COLLECTIONS {
                targets.truncate(PROBED_COLLECTIONS);
                break;
            }
        }
        Ok(targets)
    }
}

async fn probe(proxy: &Client, targets: &[CollectionName]) -> ProbeOutcome {
    let mut outcome = ProbeOutcome::Accepted;
    for target in targets {
        outcome = proxy.probe_write(target).await;
        match &outcome {
            ProbeOutcome::Other(error) if error.cause() == Cause::NotFound => {}
            _ => return outcome,
        }
    }
    outcome
}
