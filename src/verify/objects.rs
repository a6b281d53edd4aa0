//! Whether a snapshot has every object that its metadata requires, in the repository or pinned.

use std::collections::HashSet;

use super::{Level, damaged, pinned};
use crate::base::text::cut;
use crate::base::weakening;
use crate::milvus::catalog::Catalog;
use crate::milvus::objects::ObjectRef;
use crate::repo::{Damage, Manifest, SnapshotId, View};
use crate::snapshot::{Snapshot, is_keys_only, missing};
use crate::{Cause, Error, Result};

/// Objects that are named for each snapshot; the rest are counted.
const NAMED: usize = 20;

/// Looks at every snapshot in question whose trees are whole; damage of the others is told already.
pub(super) async fn check(
    view: &View,
    manifests: &[Manifest],
    asked: impl Fn(&SnapshotId) -> bool,
    level: Level,
    found: &mut Vec<Damage>,
) -> Result<()> {
    for manifest in manifests.iter().filter(|m| asked(&m.snapshot)) {
        let broken = |d: &Damage| d.snapshots.contains(&manifest.snapshot);
        if !found.iter().any(broken) {
            found.extend(damage(view, manifest, level).await?);
        }
    }
    Ok(())
}

/// What is wrong between the metadata and the objects of one snapshot.
async fn damage(view: &View, manifest: &Manifest, level: Level) -> Result<Vec<Damage>> {
    if is_keys_only(manifest) {
        return Ok(Vec::new());
    }
    let snapshot = Snapshot::open(view, manifest.clone())?;
    let looked = async {
        let mut found = missing(&snapshot).await?;
        found.extend(pinned::lost(&snapshot, level).await?);
        Ok::<_, Error>(found)
    };
    match looked.await {
        Ok(found) => Ok(found),
        Err(error) if error.cause() == Cause::Damage => Ok(vec![damaged(manifest, error.chain())]),
        Err(error) => Err(error),
    }
}

async fn missing(snapshot: &Snapshot) -> Result<Vec<Damage>> {
    let (manifest, body) = (&snapshot.manifest, &snapshot.body);
    let keys = snapshot.keys().await?;
    if keys.is_empty() {
        // No capture makes such a snapshot, and damage cannot: the manifest says that there are none.
        return Ok(Vec::new());
    }
    let catalog = snapshot.decode(&keys)?;
    let weakenings = body.weakenings.iter();
    let named: Vec<&String> = weakenings
        .filter(|weakening| weakening.code == weakening::MISSING_OBJECTS)
        .flat_map(|weakening| &weakening.items)
        .collect();
    if named.len() >= weakening::MISSING_NAMED {
        // So many were gone that not all are named: which others should be there is not known.
        return Ok(Vec::new());
    }
    let paths = named.iter().filter_map(|item| item.rsplit_once(": "));
    let known: HashSet<&str> = paths.map(|(_, path)| path).collect();
    let mut gone = Vec::new();
    missing::find(
        &snapshot.objects(),
        &catalog,
        body.wal.state.scope(),
        |object| {
            if !known.contains(object.path.as_str()) {
                gone.push(object);
            }
        },
    )
    .await?;
    Ok(told(manifest, &catalog, &gone))
}

fn told(manifest: &Manifest, catalog: &Catalog, gone: &[ObjectRef]) -> Vec<Damage> {
    let named = gone.iter().map(|object| {
        let (database, collection) = catalog.names(object.collection);
        format!(
            "{database}.{collection} segment {}: {} is required and not in the snapshot",
            object.segment, object.path
        )
    });
    let more = |more| format!("{more} more objects are required and not in the snapshot");
    let told = cut(named, NAMED, more).into_iter();
    told.map(|what| damaged(manifest, what)).collect()
}
