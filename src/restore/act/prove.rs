//! Proving, before anything is destroyed, that everything that a restore needs can be there.
//!
//! Every tree node opens, and every blob is in a pack of the right size. The bytes themselves are
//! proved as they are read to be written, and those that can only be written after something old is
//! gone are read once before: a blob that does not open stops the restore before etcd is written.

use std::collections::BTreeSet;

use futures::stream::BoxStream;
use futures::{StreamExt, TryStreamExt, stream};

use crate::base::cancel::Cancel;
use crate::base::progress::{Amount, SharedProgress};
use crate::repo::PackId;
use crate::snapshot::items::Item;
use crate::snapshot::reading::LARGE_AT_ONCE;
use crate::snapshot::{Selected, Snapshot};
use crate::{Cause, Error, Result, Side};

/// Packs that are asked for at once.
const HEADS_AT_ONCE: usize = 16;

/// Objects whose pieces are looked up at once.
const ITEMS_AT_ONCE: usize = 1_024;

/// How many damaged objects an error names.
const NAMED: usize = 5;

/// What was proved.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Proved {
    /// Objects of the object layer.
    pub(crate) objects: Amount,
    /// Files of the write-ahead log.
    pub(crate) wal: Amount,
}

/// Proves that the selected objects of the snapshot, and the queue's files, can be read.
///
/// # Errors
///
/// [`Cause::Damage`] that names the first objects whose blobs are missing; the target is untouched.
pub(crate) async fn prove(
    snapshot: &Snapshot,
    selected: &Selected,
    progress: &SharedProgress,
    cancel: &Cancel,
) -> Result<Proved> {
    let listing = snapshot.view().listing().await?;
    progress.begin("prove", Some(snapshot.amount(selected).await?));
    let mut proved = Proved::default();
    let mut missing = Vec::new();
    let mut damaged = 0_u64;
    let mut archived = BTreeSet::new();
    let parts = [
        (snapshot.items(selected), &mut proved.objects),
        (snapshot.wal_files(), &mut proved.wal),
    ];
    for (items, amount) in parts {
        let mut items = items.try_chunks(ITEMS_AT_ONCE);
        while let Some(items) = items.try_next().await.map_err(|broken| broken.1)? {
            cancel.check()?;
            let pieces: Vec<_> = items.iter().map(Item::pieces).collect();
            let found = snapshot.view().find(&listing, &pieces).await?;
            for (item, found) in items.iter().zip(found) {
                if !found.missing.is_empty() || !snapshot.is_in_place(item).await? {
                    damaged += 1;
                    if missing.len() < NAMED {
                        missing.push(item.key.to_string());
                    }
                }
                archived.extend(found.archived);
                *amount += Amount::object(item.size);
                progress.advance(Amount::object(item.size));
            }
        }
    }
    progress.end();
    let archived: BTreeSet<PackId> = stream::iter(archived)
        .map(|pack| async move {
            let archived = cancel.run(snapshot.view().is_archived(pack)).await?;
            Ok::<_, Error>(archived.then_some(pack))
        })
        .buffer_unordered(HEADS_AT_ONCE)
        .try_filter_map(|pack| std::future::ready(Ok(pack)))
        .try_collect()
        .await?;
    if let Some(pack) = archived.first() {
        let message = format!(
            "snapshot {} cannot be read: {} packs that it needs are in an archive storage class, such as {pack}",
            snapshot.manifest.snapshot.short(),
            archived.len()
        );
        let hint = "bring them back first (aws s3api restore-object), then run the same command again; the target is untouched";
        return Err(Side::Repository
            .error(Cause::Refused, message)
            .with_hint(hint));
    }
    if damaged == 0 {
        return Ok(proved);
    }
    Err(Error::new(
        Cause::Damage,
        format!(
            "snapshot {} cannot be restored: {damaged} objects have blobs that are not in the repository, such as {}",
            snapshot.manifest.snapshot.short(),
            missing.join(", ")
        ),
    )
    .with_hint("eyrie verify names the files; the target is untouched: restore another snapshot, or from a copy of the repository"))
}

/// Proves the bytes of `items` by opening and hashing them; nothing is written.
///
/// # Errors
///
/// [`Cause::Damage`] that names the first object whose bytes are not the captured ones.
pub(crate) async fn bytes(
    snapshot: &Snapshot,
    items: BoxStream<'_, Result<Item>>,
    progress: &SharedProgress,
    cancel: &Cancel,
) -> Result<()> {
    items
        .map(|item| async {
            let item = item?;
            cancel.run(snapshot.prove(&item)).await?;
            progress.advance(Amount::object(item.size));
            Ok(())
        })
        .buffer_unordered(LARGE_AT_ONCE)
        .try_collect()
        .await
}
