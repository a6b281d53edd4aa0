//! A stored snapshot, opened: what it says of itself, its keys, its maps.

use std::collections::BTreeSet;
use std::sync::Arc;

use futures::stream::{self, BoxStream};
use futures::{StreamExt, TryStreamExt};

use super::{Body, Selected, Selection, anchor};
use crate::etcd::KeyValue;
use crate::instance::methods::CaptureMethod;
use crate::milvus::MilvusVersion;
use crate::milvus::catalog::Catalog;
use crate::milvus::keys::Roots;
use crate::milvus::unnamed;
use crate::repo::{Entry, KeyRange, Manifest, Map, View};
use crate::{Cause, Error, Result, Side, repo};

/// The label of a snapshot that holds only keys, such as those that a `--replace` saved.
pub const KEYS_ONLY: (&str, &str) = ("eyrie.contents", "keys-only");

/// The map of etcd's keys.
pub const ANCHOR_ROOT: &str = "anchor";
/// The map of objects.
pub const OBJECTS_ROOT: &str = "objects";
/// The map of old objects that a restore with `--replace` removes at its end, beside the keys that it
/// saves: each path with the identity of what was there.
pub const REPLACED_ROOT: &str = "replaced";
/// The map of the message queue's files, in a cold snapshot.
pub const WAL_ROOT: &str = "wal";

/// A snapshot as a reader session sees it.
#[derive(Debug, Clone)]
pub struct Snapshot {
    /// The repository's manifest.
    pub manifest: Manifest,
    /// What the snapshot says of itself.
    pub body: Body,
    /// What captured its objects.
    pub method: Arc<dyn CaptureMethod>,
    view: View,
}

impl Snapshot {
    /// Takes a manifest of the repository that `view` sees.
    ///
    /// # Errors
    ///
    /// Those of [`Body::of`].
    pub fn open(view: &View, manifest: Manifest) -> Result<Self> {
        let body = Body::of(&manifest)?;
        let method = body.method.open()?;
        Ok(Self {
            manifest,
            body,
            method,
            view: view.clone(),
        })
    }

    /// The repository as this session sees it.
    #[must_use]
    pub fn view(&self) -> &View {
        &self.view
    }

    /// The map of that name, empty where the snapshot has none.
    #[must_use]
    pub fn map(&self, name: &str) -> Map {
        let of = |roots: &repo::Roots| roots.get(name).copied().flatten();
        let amended = self.manifest.amended.iter().filter_map(of);
        self.view.map(of(&self.manifest.roots)).amended(amended)
    }

    /// The map of objects.
    #[must_use]
    pub fn objects(&self) -> Map {
        self.map(OBJECTS_ROOT)
    }

    /// Finds what is selected; the keys are read only when it is a part. A snapshot of keys only has no
    /// objects to select.
    ///
    /// # Errors
    ///
    /// Those of [`Snapshot::catalog`]; [`Cause::NotFound`] for a name that the snapshot does not have.
    pub async fn select(&self, selection: &Selection) -> Result<Selected> {
        if selection.is_all() {
            return Ok(Selected::All);
        }
        if is_keys_only(&self.manifest) {
            return Ok(Selected::Collections(BTreeSet::new()));
        }
        selection.of(&self.catalog().await?)
    }

    /// The entries of the map of objects that are selected, in ascending order.
    #[must_use]
    pub fn entries(&self, selected: &Selected) -> BoxStream<'static, Result<Entry>> {
        let objects = self.objects();
        let ranges = stream::iter(selected.ranges());
        ranges.flat_map(move |range| objects.scan(range)).boxed()
    }

    /// The etcd keys, in byte order: those of the anchor, with the delta logs named that etcd did not name.
    ///
    /// # Errors
    ///
    /// [`Cause::Damage`] when nodes of the map are missing or damaged.
    pub async fn keys(&self) -> Result<Vec<KeyValue>> {
        let mut keys = self
            .map(ANCHOR_ROOT)
            .scan(KeyRange::all())
            .and_then(|entry| std::future::ready(anchor::decode(&entry.key, &entry.value)))
            .try_collect()
            .await?;
        unnamed::name(&mut keys, &self.body.roots(), &self.body.unnamed_delta_logs)?;
        Ok(keys)
    }

    /// Decodes the keys.
    ///
    /// # Errors
    ///
    /// [`Cause::Damage`] when they do not read or are not Milvus's.
    pub async fn catalog(&self) -> Result<Catalog> {
        self.decode(&self.keys().await?)
    }

    /// Decodes `keys`, which are the snapshot's.
    ///
    /// # Errors
    ///
    /// [`Cause::Damage`] when they are not Milvus's.
    pub fn decode(&self, keys: &[KeyValue]) -> Result<Catalog> {
        Catalog::decode(&self.body.roots(), keys, &self.body.version()).map_err(|error| {
            let id = self.manifest.snapshot.short();
            let message = format!("the keys in snapshot {id} cannot be decoded");
            let damage = Side::Repository.error(Cause::Damage, message);
            damage.with_source(error)
        })
    }
}

impl Body {
    /// What a manifest's snapshot says of itself.
    ///
    /// # Errors
    ///
    /// [`Cause::NewerFormat`] when it says something that this eyrie does not understand.
    pub fn of(manifest: &Manifest) -> Result<Self> {
        let newer = || {
            let message = format!(
                "snapshot {} was made by an eyrie that says more than this one understands",
                manifest.snapshot.short()
            );
            Side::Repository.error(Cause::NewerFormat, message)
        };
        let body: Self = serde_json::from_value(manifest.body.clone())
            .map_err(|error| newer().with_source(error))?;
        if body.method.open().is_ok() {
            return Ok(body);
        }
        let why = format!("its objects were captured by {}", body.method);
        Err(newer().with_source(Error::new(Cause::NewerFormat, why)))
    }

    /// Where the instance kept its keys.
    #[must_use]
    pub fn roots(&self) -> Roots {
        Roots {
            root: self.etcd.root_path.clone(),
            meta: self.etcd.meta_sub_path.clone(),
            kv: self.etcd.kv_sub_path.clone(),
        }
    }

    /// The version of its Milvus.
    #[must_use]
    pub fn version(&self) -> MilvusVersion {
        MilvusVersion::parse(&self.milvus.version)
    }
}

/// Whether a manifest's snapshot holds only keys, such as those that a `--replace` saved.
#[must_use]
pub fn is_keys_only(manifest: &Manifest) -> bool {
    let (label, value) = KEYS_ONLY;
    manifest
        .labels
        .get(label)
        .is_some_and(|found| found == value)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::snapshot::fixture::body;
    use crate::snapshot::fixture::{Contents, commit, repository};

    #[tokio::test]
    async fn what_a_newer_eyrie_says_is_not_taken_for_what_this_one_knows() {
        let (_, repository) = repository().await;
        let contents = Contents {
            objects: [].into(),
            wal: [].into(),
            keys: vec![],
            body: body(),
        };
        let manifest = commit(&repository, &contents).await;
        assert!(Body::of(&manifest).is_ok());
        for method in ["versions", "a-later-one"] {
            let mut newer = manifest.clone();
            newer.body["method"] = json!(method);
            let error = Body::of(&newer).unwrap_err();
            assert_eq!(error.cause(), Cause::NewerFormat);
            assert!(error.chain().contains(method), "{}", error.chain());
        }
    }
}
