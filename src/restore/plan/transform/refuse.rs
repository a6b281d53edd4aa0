//! What cannot be restored, and what was never tried.

use super::{Options, Unproven, Wal};
use crate::milvus::catalog::{Catalog, WalKind};
use crate::milvus::validate::RefusalKind;
use crate::milvus::version::FreshWal;
use crate::{Cause, Result, Side};

/// Steps of this restore that never ran against a real broker here; `plan` and `check` name them.
#[must_use]
pub fn unproven(catalog: &Catalog, options: &Options) -> Vec<String> {
    let mut steps = Vec::new();
    if let Wal::Reset(kind) = options.wal {
        let version = &options.target_version;
        if version.on_fresh_wal(kind) != FreshWal::Starts {
            steps.push(match kind {
                WalKind::Rocksmq => "starting Milvus 2.6 or later on a fresh rocksmq".to_owned(),
                kind => format!("starting Milvus on a fresh {kind}"),
            });
        }
    } else if options.target_version.has_streaming() {
        steps.push("starting Milvus 2.6 or later on a captured WAL".to_owned());
    }
    if catalog.tasks.replicates {
        steps.push("taking an instance out of its replication (CDC)".to_owned());
    }
    steps
}

pub(super) fn check(catalog: &Catalog, options: &Options) -> Result<()> {
    let refused =
        |what: String, hint: &str| Err(Side::Target.error(Cause::Refused, what).with_hint(hint));
    let cannot = [
        RefusalKind::LegacyLogs,
        RefusalKind::Manifest,
        RefusalKind::Version,
    ];
    for refusal in catalog.refusals() {
        if cannot.contains(&refusal.kind) {
            return refused(refusal.what, &refusal.hint);
        }
    }
    if let Wal::Reset(kind) = options.wal {
        let version = &options.target_version;
        match version.on_fresh_wal(kind) {
            FreshWal::Panics => {
                return refused(
                    format!("Milvus {version} panics on the first position of a fresh {kind}"),
                    "restore onto a version after 2.6.13, or onto another kind of WAL (mq.type)",
                );
            }
            FreshWal::NoFirstPosition => {
                return refused(
                    format!("the first position of a fresh {kind} is not known"),
                    "set mq.type of the target to rocksmq, pulsar or kafka",
                );
            }
            FreshWal::Starts | FreshWal::Unproven => {}
        }
        if !catalog.tasks.broadcasts.is_empty() {
            let ids: Vec<i64> = catalog.tasks.broadcasts.iter().map(|(id, _)| *id).collect();
            return refused(
                format!("broadcast tasks were not settled in the snapshot: {ids:?}"),
                "take another snapshot, or restore with the captured WAL (--keep-wal)",
            );
        }
    }
    let steps = unproven(catalog, options);
    if options.unproven == Unproven::Refuse && !steps.is_empty() {
        return refused(
            format!("never tried against a real broker: {}", steps.join("; ")),
            "add --accept-unproven-wal to do it all the same",
        );
    }
    Ok(())
}
