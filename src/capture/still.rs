//! The anchor of a running Milvus whose etcd is at its quota (alarm `NOSPACE`): nothing can be held, flushed or
//! marked, but nothing of Milvus's is put into it either, so the metadata stands still.

use tokio::time::Instant;
use tracing::info;

use super::anchor::Anchored;
use super::full::flushed_until;
use super::metadata::Undated;
use super::plan::{Planned, refuse_full};
use super::quiet::QUIET;
use super::{Context, Options, view};
use crate::etcd::MAKE_ROOM;
use crate::instance::holds::{self, Holds};
use crate::milvus::catalog::Catalog;
use crate::{Cause, Error, Result, Side};

/// Takes the anchor once the keys have stood still for as long as the parts of one change may lie apart; `None`
/// when etcd takes writes again. What Milvus was saving when the alarm came may be half saved for good.
pub(super) async fn anchor(
    context: &Context,
    planned: &Planned,
    options: &Options,
    holds: &mut Holds,
) -> Result<Option<Anchored>> {
    let Some(running) = &planned.milvus else {
        let message = "a running Milvus is needed for this mode";
        return Err(Error::new(Cause::Failed, message));
    };
    context.progress.begin("anchor", None);
    let mut etcd = planned.etcd.client.clone();
    let give_up = Instant::now() + options.flush_timeout;
    loop {
        let anchor = etcd.read_prefix(&planned.roots.prefix()).await?;
        tokio::time::sleep(QUIET).await;
        let status = etcd.status().await?;
        if !status.no_space {
            return Ok(None);
        }
        if status.revision != anchor.revision {
            if Instant::now() > give_up {
                let message = "etcd is at its quota and keys go on being removed from it";
                return Err(Side::Source
                    .error(Cause::Refused, message)
                    .with_hint(MAKE_ROOM));
            }
            info!(
                status.revision,
                "keys were removed meanwhile; reading them again"
            );
            continue;
        }
        let catalog = Catalog::decode(&planned.roots, &anchor.keys, &planned.version)?;
        refuse_full(&catalog)?;
        let inventory = running.client.inventory().await?;
        let differences = view::differences(&inventory, &catalog);
        options.method.take(anchor.revision).await?;
        let time = context.env.now();
        let cut = flushed_until(&catalog, time);
        let undated = Undated::all(&catalog);
        let mut anchored = Anchored::new(time, anchor, catalog, cut, undated);
        anchored.differences = differences;
        holds.absent(
            holds::COMPACTION.name,
            "etcd is at its quota and takes no key",
        );
        return Ok(Some(anchored));
    }
}
