//! Whether a snapshot has every object that its anchor requires (I2).

use futures::TryStreamExt;

use super::WalState;
use crate::Result;
use crate::milvus::catalog::Catalog;
use crate::milvus::objects::{ObjectRef, Scope};
use crate::repo::{Content, KeyRange, Map};

impl WalState {
    /// Which segments' objects a snapshot with such a write-ahead log requires.
    #[must_use]
    pub const fn scope(self) -> Scope {
        match self {
            Self::Captured => Scope::WithOpen,
            Self::Reset => Scope::Live,
        }
    }
}

/// Tells `gone` of every object that `catalog` requires and the map `objects` does not have, in
/// ascending order of [`ObjectRef::tree_key`].
///
/// # Errors
///
/// [`Cause::Damage`](crate::Cause::Damage) when a node of the map is missing or damaged.
pub async fn find(
    objects: &Map,
    catalog: &Catalog,
    scope: Scope,
    mut gone: impl FnMut(ObjectRef),
) -> Result<()> {
    let mut entries = objects.scan(KeyRange::all());
    let mut entry = entries.try_next().await?;
    for object in catalog.objects_in(scope) {
        let key = object.tree_key().into_bytes();
        while entry.as_ref().is_some_and(|entry| entry.key < key) {
            entry = entries.try_next().await?;
        }
        let there = entry
            .as_ref()
            .is_some_and(|entry| entry.key == key && entry.content != Content::None);
        if !there {
            gone(object);
        }
    }
    Ok(())
}
