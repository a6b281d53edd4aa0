//! What is stored, for the verbs that look: an open repository, its snapshots, one of them.

use std::collections::BTreeMap;

use futures::TryStreamExt;

use super::context::Context;
use super::documents::{Time, VerifiedDocument};
use super::values::SnapshotName;
use crate::config::Resolved;
use crate::manifest::{Body, KEYS_ONLY, anchor};
use crate::milvus::catalog::Catalog;
use crate::milvus::keys::{KeyValue, Roots};
use crate::milvus::version::MilvusVersion;
use crate::repo::{KeyRange, Manifest, Map, Repository, SnapshotId, Snapshots, View};
use crate::{Cause, Error, Result, Side, capture, connect};

/// An open repository and its snapshots.
#[derive(Debug)]
pub struct Stored {
    /// The repository.
    pub repository: Repository,
    /// Its snapshots.
    pub snapshots: Snapshots,
    /// The instance that the configuration names, if any.
    instance: Option<String>,
}

/// One snapshot.
#[derive(Debug)]
pub struct Snapshot {
    /// The repository's manifest.
    pub manifest: Manifest,
    /// What the snapshot says of itself.
    pub body: Body,
    view: View,
}

impl Stored {
    /// Opens the repository that the command line names and reads its manifests.
    ///
    /// # Errors
    ///
    /// Those of [`connect::repository`].
    pub async fn open(context: &Context, config: &Resolved) -> Result<Self> {
        let (at, resources) = (
            context.repository(config)?,
            context.resources(&config.limits)?,
        );
        let open = async {
            let repository = connect::repository(at, &resources, &context.env).await?;
            let snapshots = repository.snapshots().await?;
            Ok((repository, snapshots))
        };
        let (repository, snapshots) = Box::pin(context.cancel.run(open)).await?;
        let instance = config.instance.as_ref().map(|i| i.name.clone());
        Ok(Self {
            repository,
            snapshots,
            instance,
        })
    }

    /// The manifest that `name` names. `latest` is the newest of the configured instance; where the
    /// repository has none of it, as on a spare host, the newest of the only instance that it has.
    ///
    /// # Errors
    ///
    /// Those of [`Snapshots::find`]; [`Cause::Invalid`] when `latest` could be of several instances.
    pub fn find(&self, name: &SnapshotName) -> Result<&Manifest> {
        match name {
            SnapshotName::Prefix(prefix) => self.snapshots.find(prefix, None),
            SnapshotName::Latest => self.snapshots.find("latest", self.latest_of()?),
        }
    }

    fn latest_of(&self) -> Result<Option<&str>> {
        let (label, keys_only) = KEYS_ONLY;
        let whole = |m: &&Manifest| m.labels.get(label).is_none_or(|value| value != keys_only);
        let manifests = || self.snapshots.manifests.iter().filter(whole);
        let configured = self.instance.as_deref();
        let known = |name: &&str| manifests().any(|m| m.instance == *name);
        if let Some(name) = configured.filter(known) {
            return Ok(Some(name));
        }
        let mut others: Vec<&str> = manifests().map(|m| m.instance.as_str()).collect();
        others.sort_unstable();
        others.dedup();
        match others[..] {
            [] => Ok(configured),
            [only] => Ok(Some(only)),
            _ => Err(Error::new(
                Cause::Invalid,
                format!(
                    "the repository has snapshots of several instances: {}; the latest of which?",
                    others.join(", ")
                ),
            )
            .with_hint("name a snapshot by its id; eyrie snapshots lists them")),
        }
    }

    /// The newest verification of each snapshot that has one.
    ///
    /// # Errors
    ///
    /// What the store fails with.
    pub async fn verified(&self) -> Result<BTreeMap<SnapshotId, VerifiedDocument>> {
        let mut newest = BTreeMap::new();
        for verification in self.repository.verifications().await? {
            for result in verification.results {
                let document = VerifiedDocument {
                    time: Time(verification.time),
                    level: verification.level.clone(),
                    damage: result.damage,
                };
                newest.insert(result.snapshot, document);
            }
        }
        Ok(newest)
    }

    /// The snapshot that `name` names, as `view` sees it.
    ///
    /// # Errors
    ///
    /// Those of [`Stored::find`], and [`Cause::NewerFormat`] when its own words do not read.
    pub fn snapshot(&self, name: &SnapshotName, view: &View) -> Result<Snapshot> {
        let manifest = self.find(name)?.clone();
        let body = body(&manifest)?;
        Ok(Snapshot {
            manifest,
            body,
            view: view.clone(),
        })
    }
}

/// What a snapshot says of itself.
///
/// # Errors
///
/// [`Cause::NewerFormat`] when it says something that this eyrie does not understand.
pub fn body(manifest: &Manifest) -> Result<Body> {
    serde_json::from_value(manifest.body.clone()).map_err(|error| {
        let message = format!(
            "snapshot {} was made by an eyrie that says more than this one understands",
            manifest.snapshot.short()
        );
        Error::new(Cause::NewerFormat, message).with_source(error)
    })
}

impl Snapshot {
    /// The map of that name.
    fn map(&self, root: &str) -> Map {
        self.view
            .map(self.manifest.roots.get(root).copied().flatten())
    }

    /// The map of objects.
    #[must_use]
    pub fn objects(&self) -> Map {
        self.map(capture::OBJECTS_ROOT)
    }

    /// Decodes the etcd keys of the snapshot.
    ///
    /// # Errors
    ///
    /// [`Cause::Damage`] when tree nodes are missing or damaged.
    pub async fn catalog(&self) -> Result<Catalog> {
        let keys: Vec<KeyValue> = self
            .map(capture::ANCHOR_ROOT)
            .scan(KeyRange::all())
            .and_then(|entry| std::future::ready(anchor::decode(&entry.key, &entry.value)))
            .try_collect()
            .await?;
        let etcd = &self.body.etcd;
        let roots = Roots {
            root: etcd.root_path.clone(),
            meta: etcd.meta_sub_path.clone(),
            kv: etcd.kv_sub_path.clone(),
        };
        let version = MilvusVersion::parse(&self.body.milvus.version);
        Catalog::decode(&roots, &keys, &version).map_err(|error| {
            let message = format!(
                "the keys in snapshot {} cannot be decoded",
                self.manifest.snapshot.short()
            );
            Side::Repository
                .error(Cause::Damage, message)
                .with_source(error)
        })
    }
}
