//! Whether the objects that a capture method left where they were are still there.

use futures::{StreamExt, TryStreamExt};

use super::{Level, damaged};
use crate::repo::Damage;
use crate::snapshot::items::Item;
use crate::snapshot::{Selected, Snapshot};
use crate::{Cause, Result};

/// Objects that are looked at at once.
const AT_ONCE: usize = 16;

/// Objects that are named for each snapshot; the rest are counted.
const NAMED: usize = 20;

/// What is lost of the pinned objects of one snapshot; at [`Level::Bytes`] each is read, whatever the sample.
///
/// # Errors
///
/// What keeps it from being told; damage is in the result.
pub(super) async fn lost(snapshot: &Snapshot, level: Level) -> Result<Vec<Damage>> {
    if snapshot.method.pins().is_none() {
        return Ok(Vec::new());
    }
    let mut looked = snapshot
        .items(&Selected::All)
        .map(|item| async { fault(snapshot, &item?, level).await })
        .buffered(AT_ONCE);
    let (mut named, mut more) = (Vec::new(), 0_u64);
    while let Some(fault) = looked.try_next().await? {
        match fault {
            Some(what) if named.len() < NAMED => named.push(what),
            Some(_) => more += 1,
            None => {}
        }
    }
    if more > 0 {
        named.push(format!("{more} more pinned objects are lost or changed"));
    }
    let damage = named.into_iter();
    Ok(damage
        .map(|what| damaged(&snapshot.manifest, what))
        .collect())
}

/// What is wrong with one object, if it is a pinned one.
async fn fault(snapshot: &Snapshot, item: &Item, level: Level) -> Result<Option<String>> {
    if !snapshot.is_in_place(item).await? {
        let what = format!("{} is not where it was pinned any more", item.key);
        return Ok(Some(what));
    }
    if level == Level::Bytes && item.is_pinned() {
        return match snapshot.prove(item).await {
            Err(error) if error.cause() == Cause::Damage => Ok(Some(error.chain())),
            proved => proved.map(|()| None),
        };
    }
    Ok(None)
}
