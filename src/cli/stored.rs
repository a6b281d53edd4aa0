//! What is stored, for the verbs that look: an open repository, its snapshots, one of them.

use std::collections::BTreeMap;

use super::context::Context;
use super::documents::{Time, VerifiedDocument};
use super::values::SnapshotName;
use crate::config::Resolved;
use crate::instance::connect;
use crate::repo::{Manifest, Repository, SnapshotId, Snapshots, View};
use crate::retention::Verified;
use crate::snapshot::{Snapshot, is_keys_only};
use crate::{Cause, Error, Result};

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

impl Stored {
    /// Opens the repository that the command line names and reads its manifests.
    ///
    /// # Errors
    ///
    /// Those of [`connect::repository`].
    pub async fn open(context: &Context, config: &Resolved) -> Result<Self> {
        let at = context.repository(config)?;
        let resources = context.resources(&config.limits)?;
        let open = async {
            let repository =
                connect::repository(at, &config.state_dir, &resources, &context.env).await?;
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
        let whole = |m: &&Manifest| !is_keys_only(m);
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

    /// How many pieces of damage the newest verification of each snapshot found.
    ///
    /// # Errors
    ///
    /// What the store fails with.
    pub async fn damage_found(&self) -> Result<Verified> {
        let verified = self.verified().await?.into_iter();
        Ok(verified.map(|(id, found)| (id, found.damage)).collect())
    }

    /// The snapshot that `name` names, as `view` sees it.
    ///
    /// # Errors
    ///
    /// Those of [`Stored::find`], and [`Cause::NewerFormat`] when its own words do not read.
    pub fn snapshot(&self, name: &SnapshotName, view: &View) -> Result<Snapshot> {
        Snapshot::open(view, self.find(name)?.clone())
    }
}
