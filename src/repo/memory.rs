//! What this host remembers of a repository, so that a step back in its history is noticed.
//!
//! A repository cannot prove alone that its newest snapshot was not removed. A host that saw it can.

use std::collections::BTreeMap;

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::repo::format::ids::RepositoryId;
use crate::repo::format::lineage::{Lineage, Parent};
use crate::store::{GetOptions, Key, PutOptions, SharedStore};
use crate::{Cause, Error, Result};

/// The version of the file.
const VERSION: u32 = 1;
/// Where the files lie in the state directory.
const DIRECTORY: &str = "repositories";

/// A host's memory of one repository at one place: two places may hold copies of different ages.
#[derive(Debug, Clone)]
pub struct Memory {
    store: SharedStore,
    key: Key,
}

/// What is remembered.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Remembered {
    v: u32,
    repository: RepositoryId,
    location: String,
    /// The highest sequence of a keyring.
    pub(crate) ring: u32,
    pub(crate) lineages: Vec<Last>,
    /// Snapshots that were there, are not, and are in no record of forgetting.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) gone: Vec<Last>,
}

/// The last snapshot of a lineage that this host has seen.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub(crate) struct Last {
    #[serde(flatten)]
    pub(crate) lineage: Lineage,
    #[serde(flatten)]
    pub(crate) snapshot: Parent,
}

/// How a snapshot that is remembered stands now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Standing {
    /// It is there, or what became of it is known.
    Explained,
    /// It is there as another file.
    Another,
    /// It is there and cannot be read, which is told of it anyway.
    Unread,
    /// It is not there.
    Gone,
}

/// What files of a state directory are called that are of one repository at one place.
pub(crate) fn name(repository: RepositoryId, location: &str) -> String {
    let place = blake3::hash(location.as_bytes()).to_hex();
    format!("{repository}-{}", &place[..16])
}

impl Memory {
    /// The memory of the repository with this id at `location`, in the state directory `store`.
    ///
    /// # Errors
    ///
    /// None that a state directory could cause.
    pub fn new(store: SharedStore, repository: RepositoryId, location: &str) -> Result<Self> {
        let name = name(repository, location);
        let key = Key::new(format!("{DIRECTORY}/{name}.json"))?;
        Ok(Self { store, key })
    }

    /// Where it is kept, for people.
    pub(crate) fn place(&self) -> String {
        format!("{}/{}", self.store.location(), self.key)
    }

    /// What is remembered; `None` when nothing is, or the file is damaged, of a later version, or of
    /// another repository.
    ///
    /// # Errors
    ///
    /// What the state directory fails with.
    pub(crate) async fn read(&self, repository: RepositoryId) -> Result<Option<Remembered>> {
        let bytes = match self.store.get(&self.key, GetOptions::default()).await {
            Err(error) if error.cause() == Cause::NotFound => return Ok(None),
            other => other?,
        };
        let read: Option<Remembered> = serde_json::from_slice(&bytes).ok();
        Ok(read.filter(|r| r.v == VERSION && r.repository == repository))
    }

    /// Remembers this.
    ///
    /// # Errors
    ///
    /// What the state directory fails with.
    pub(crate) async fn write(&self, remembered: &Remembered) -> Result<()> {
        let json = serde_json::to_vec_pretty(remembered).map_err(|error| {
            Error::new(Cause::Failed, "the memory cannot be written").with_source(error)
        })?;
        let put = self
            .store
            .put(&self.key, Bytes::from(json), PutOptions::default());
        put.await.map(|_| ())
    }
}

impl Remembered {
    pub(crate) fn new(repository: RepositoryId, location: String) -> Self {
        Self {
            v: VERSION,
            repository,
            location,
            ..Self::default()
        }
    }

    /// Takes over that these are the last snapshots now. What was last before and has no explanation
    /// is gone, until it comes back or is explained.
    pub(crate) fn take_over(
        &mut self,
        now: &BTreeMap<Lineage, Parent>,
        standing: impl Fn(&Last) -> Standing,
    ) {
        let before = self.lineages.drain(..).chain(self.gone.drain(..));
        let mut lost: Vec<Last> = before
            .filter(|last| standing(last) != Standing::Explained)
            .collect();
        lost.sort();
        lost.dedup();
        self.gone = lost;
        self.lineages = now
            .iter()
            .map(|(lineage, snapshot)| Last {
                lineage: lineage.clone(),
                snapshot: *snapshot,
            })
            .collect();
    }

    /// The highest number of `lineage` that was ever seen; 0 when none was.
    pub(crate) fn highest(&self, lineage: &Lineage) -> u64 {
        let all = self.lineages.iter().chain(&self.gone);
        let of = all.filter(|last| last.lineage == *lineage);
        of.map(|last| last.snapshot.sequence).max().unwrap_or(0)
    }
}
