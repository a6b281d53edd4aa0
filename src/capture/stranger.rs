//! Whether the snapshot before is of another Milvus that has the same name.

use futures::TryStreamExt;

use crate::milvus::catalog::Catalog;
use crate::milvus::keys::{Family, KeyKind, Roots};
use crate::repo::{KeyRange, Manifest, Map, NodeRef};
use crate::snapshot::{ANCHOR_ROOT, Body};
use crate::{Cause, Result};

/// Where an earlier snapshot has its keys.
#[derive(Debug, Clone)]
pub(super) struct Earlier {
    /// The map of its anchor.
    pub(super) anchor: NodeRef,
    /// Where they are.
    pub(super) roots: Roots,
}

impl Earlier {
    pub(super) fn of(parent: &Manifest, body: &Body) -> Option<Self> {
        Some(Self {
            anchor: parent.roots.get(ANCHOR_ROOT).copied().flatten()?,
            roots: body.roots(),
        })
    }

    /// Whether both have collections and none is in both: Milvus gives no collection the id of another. `keys` is
    /// the map of the anchor; what is damaged tells nothing.
    pub(super) async fn is_of_another(&self, keys: &Map, catalog: &Catalog) -> Result<bool> {
        if catalog.collections.is_empty() {
            return Ok(false);
        }
        let mut others = false;
        let records = Family::ALL.iter().filter(|family| family.is_collection());
        for (area, prefix) in records.flat_map(|family| family.prefixes()) {
            let range = KeyRange::prefix(self.roots.area(area) + prefix);
            let mut records = keys.scan(range);
            loop {
                let record = match records.try_next().await {
                    Ok(Some(record)) => record,
                    Ok(None) => break,
                    Err(error) if error.cause() == Cause::Damage => return Ok(false),
                    Err(error) => return Err(error),
                };
                let (KeyKind::Collection { collection, .. }
                | KeyKind::LegacyCollection { collection }) = self.roots.parse(&record.key)
                else {
                    continue;
                };
                if catalog.collections.contains_key(&collection) {
                    return Ok(false);
                }
                others = true;
            }
        }
        Ok(others)
    }
}
