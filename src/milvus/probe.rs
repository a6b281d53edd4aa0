//! The write probe: does Milvus deny writes, and because it was told to?
//!
//! The probe is a `Delete` whose expression is no expression. Where writes are denied the proxy's rate
//! limiter refuses it before anyone reads the expression; where they are not, the parser refuses it. So
//! the probe tells the two apart and never writes, whatever the state: on a live 2.3.5 even
//! `pk in [0]` with no such row appends a delete to the message queue. The collection must exist, since
//! the limiter lets requests for unknown collections pass.

use super::client::{Client, Failure};
use super::inventory::CollectionName;
use super::proto::milvus as api;
use super::status::RefusalClass;
use crate::Error;

/// What no version parses as an expression.
pub const PROBE_EXPRESSION: &str = "eyrie write probe: not an expression";

/// What a write probe found.
#[derive(Debug)]
pub enum ProbeOutcome {
    /// Writes are denied because of the setting `forceDeny`.
    Denied,
    /// Writes are denied or slowed for another reason, which may pass by itself; Milvus's words.
    Limited(String),
    /// Writes are accepted.
    Accepted,
    /// Nothing is proved: the collection is gone, the proxy is starting, the call failed.
    Other(Error),
}

impl Client {
    /// Probes whether a write to `collection` through this proxy is denied. Nothing is ever written.
    pub async fn probe_write(&self, collection: &CollectionName) -> ProbeOutcome {
        let request = api::DeleteRequest {
            db_name: collection.database.clone(),
            collection_name: collection.name.clone(),
            expr: PROBE_EXPRESSION.to_owned(),
            ..Default::default()
        };
        let answer = self.ask(&collection.database, request).await;
        let Err(failure) = answer else {
            return ProbeOutcome::Accepted;
        };
        match (&failure, failure.class()) {
            (_, Some(RefusalClass::ForceDeny)) => ProbeOutcome::Denied,
            (_, Some(RefusalClass::Invalid)) => ProbeOutcome::Accepted,
            (Failure::Refused(refusal), Some(RefusalClass::Quota | RefusalClass::RateLimited)) => {
                ProbeOutcome::Limited(refusal.reason().to_owned())
            }
            _ => ProbeOutcome::Other(self.error(
                failure,
                &format!("probe whether {collection} can be written"),
            )),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::simulated::{Script, SimulatedMilvus, Writes};
    use super::*;
    use crate::Cause;

    async fn probe(version: &str, writes: Writes, collection: &str) -> ProbeOutcome {
        let mut script = Script::new(version);
        script.writes = writes;
        let milvus = SimulatedMilvus::start(script).await;
        let name = CollectionName {
            database: "default".to_owned(),
            name: collection.to_owned(),
            id: 0,
        };
        let outcome = milvus.client().await.probe_write(&name).await;
        assert_eq!(milvus.rows_deleted(), 0, "a probe writes nothing");
        outcome
    }

    #[tokio::test]
    async fn denied_by_the_administrator_simulated_milvus_of_every_series() {
        for version in [
            "2.2.16", "2.3.5", "2.3.22", "2.4.24", "2.5.27", "2.6.2", "2.6.8", "2.6.13",
        ] {
            let outcome = probe(version, Writes::ForceDenied, "docs").await;
            assert!(
                matches!(outcome, ProbeOutcome::Denied),
                "{version}: {outcome:?}"
            );
            let outcome = probe(version, Writes::Accepted, "docs").await;
            assert!(
                matches!(outcome, ProbeOutcome::Accepted),
                "{version}: {outcome:?}"
            );
        }
    }

    #[tokio::test]
    async fn a_full_disk_or_a_busy_proxy_is_not_our_hold_simulated_milvus_2_5_27() {
        for writes in [Writes::DiskFull, Writes::RateLimited] {
            let outcome = probe("2.5.27", writes, "docs").await;
            assert!(matches!(outcome, ProbeOutcome::Limited(_)), "{outcome:?}");
        }
    }

    #[tokio::test]
    async fn a_collection_that_is_gone_proves_nothing_simulated_milvus_2_3_5() {
        match probe("2.3.5", Writes::ForceDenied, "gone").await {
            ProbeOutcome::Other(error) => assert_eq!(error.cause(), Cause::NotFound),
            outcome => panic!("{outcome:?}"),
        }
    }
}
