//! Whether the objects that a capture method left where they were are still there.

use futures::TryStreamExt;

use super::{Level, damaged};
use crate::base::text::cut;
use crate::repo::Damage;
use crate::snapshot::Snapshot;
use crate::snapshot::items::Which;
use crate::{Cause, Result};

/// Objects that are named for each snapshot; the rest are counted.
const NAMED: usize = 20;

/// What is lost of the pinned objects of one snapshot; at [`Level::Bytes`] each is read.
///
/// # Errors
///
/// What keeps it from being told; damage is in the result.
pub(super) async fn lost(snapshot: &Snapshot, level: Level) -> Result<Vec<Damage>> {
    if snapshot.method.pins().is_none() {
        return Ok(Vec::new());
    }
    let mut lost = Vec::new();
    let mut items = snapshot.items(Which::Objects);
    while let Some(item) = items.try_next().await? {
        if !snapshot.is_pinned(&item).await? {
            lost.push(format!("{} is not where it was pinned any more", item.key));
        } else if level == Level::Bytes && item.is_pinned() {
            match snapshot.prove(&item).await {
                Err(error) if error.cause() == Cause::Damage => lost.push(error.chain()),
                proved => proved?,
            }
        }
    }
    let more = |more| format!("{more} more pinned objects are lost or changed");
    let told = cut(lost, NAMED, more).into_iter();
    Ok(told.map(|what| damaged(&snapshot.manifest, what)).collect())
}
