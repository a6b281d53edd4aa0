//! Writing a snapshot: its maps in a writer session, and the manifest that names them.

use std::collections::BTreeMap;

use jiff::Timestamp;

use super::{ANCHOR_ROOT, Body, OBJECTS_ROOT, WAL_ROOT, WalState, anchor};
use crate::etcd::KeyValue;
use crate::repo::{Content, Entry, ManifestDraft, NodeRef, Totals, Values, Writer};
use crate::{Cause, Error, Result};

/// Stores etcd keys as the map of an anchor (docs/format.md, section 10).
///
/// # Errors
///
/// What the repository's store fails with; nothing refers to what was written then.
pub async fn store_keys(
    writer: &Writer,
    keys: impl IntoIterator<Item = KeyValue>,
) -> Result<Option<NodeRef>> {
    let mut map = writer.map(Values::Apart);
    for kv in keys {
        map.push(Entry {
            value: anchor::encode(&kv).into(),
            key: kv.key.into(),
            content: Content::None,
        })
        .await?;
    }
    map.finish().await
}

/// A snapshot whose maps are written.
#[derive(Debug)]
pub struct Draft {
    /// The moment that it stands for.
    pub time: Timestamp,
    /// The map of keys.
    pub keys: Option<NodeRef>,
    /// The map of objects.
    pub objects: Option<NodeRef>,
    /// The map of the queue's files; not looked at unless the body says that they were captured.
    pub wal: Option<NodeRef>,
    /// Sums over the objects.
    pub totals: Totals,
    /// Labels.
    pub labels: BTreeMap<String, String>,
    /// What it says of itself.
    pub body: Body,
}

impl Draft {
    /// The manifest to commit.
    ///
    /// # Errors
    ///
    /// [`Cause::Failed`] when the body cannot be written.
    pub fn manifest(&self) -> Result<ManifestDraft> {
        let mut roots = BTreeMap::from([
            (ANCHOR_ROOT.to_owned(), self.keys),
            (OBJECTS_ROOT.to_owned(), self.objects),
        ]);
        if self.body.wal.state == WalState::Captured {
            roots.insert(WAL_ROOT.to_owned(), self.wal);
        }
        let body = serde_json::to_value(&self.body).map_err(|error| {
            Error::new(Cause::Failed, "writing the manifest").with_source(error)
        })?;
        Ok(ManifestDraft {
            time: self.time,
            roots,
            totals: self.totals,
            labels: self.labels.clone(),
            body,
        })
    }
}
