//! The object layer of an instance: where its segment objects are, and how they are reached.
//!
//! A kind of layer is one file here and an arm of [`layer`]. Listings answer "is it the same object",
//! never "is it live" (I1).

mod listed;
pub(crate) mod local;
mod proof;
mod record;
mod s3;

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;

use async_trait::async_trait;

pub(crate) use listed::short_hash;
pub use listed::{Found, Identity, LayerObject, Listed};
pub(crate) use proof::PROBE_FOLDER;
pub use record::{LayerKind, ObjectLayer};

use crate::base::env::Env;
use crate::base::file_system::FileSystem;
use crate::config::Objects;
use crate::store::SharedStore;
use crate::store::open::Location;
use crate::store::probe::Deletion;
use crate::{Cause, Error, Result, Side};

/// The object layer of an instance on one side of the work.
#[async_trait]
pub trait Layer: fmt::Debug + Send + Sync {
    /// What a manifest says of it.
    fn record(&self) -> ObjectLayer;

    /// Where it is, for people: a path of this host, or a URL.
    fn place(&self) -> String;

    /// Whether the storage root is a whole bucket, which others may use too.
    fn is_whole_bucket(&self) -> bool {
        false
    }

    /// The file system that it is on, where that is one of this host.
    fn file_system(&self) -> Option<FileSystem> {
        None
    }

    /// Whether its place exists. Milvus makes a directory with the first object, and never a bucket.
    fn is_made(&self) -> bool {
        true
    }

    /// Opens it for reading.
    ///
    /// # Errors
    ///
    /// [`Cause::Absent`](crate::Cause::Absent) when it is not there,
    /// [`Cause::Invalid`](crate::Cause::Invalid) when the credentials cannot be read.
    async fn open(&self) -> Result<SharedStore>;

    /// Looks whether it can be written, and makes nothing; gives a store to read what is there.
    ///
    /// # Errors
    ///
    /// What keeps it from being told; that it is not there is no error.
    async fn look(&self) -> Result<(Presence, Option<SharedStore>)>;

    /// Opens it for writing, and makes its place where that is missing and can be made.
    ///
    /// # Errors
    ///
    /// Those of [`open`](Self::open), and what keeps the place from being made.
    async fn make(&self) -> Result<SharedStore>;

    /// Opens it for writing as [`make`](Self::make) does, and proves that it takes what a restore does: an object of
    /// two parts is written outside of Milvus's folders, read and removed.
    ///
    /// # Errors
    ///
    /// Those of [`make`](Self::make), and what it does not take.
    async fn prove(&self, env: &Env) -> Result<(SharedStore, Deletion)> {
        let store = self.make().await?;
        let deletion = proof::prove(&*store, env).await?;
        Ok((store, deletion))
    }

    /// After writing: removes what writers left that died before now, and gives what is at and below
    /// `folders` of the root, of which an empty one is the root itself, to the owner of the root. Nothing is
    /// durable before the store is synced.
    ///
    /// # Errors
    ///
    /// What the file system refuses.
    async fn settle(&self, _folders: &[String]) -> Result<()> {
        Ok(())
    }

    /// What keys begin with that lie in `directories` of this host, each with a `/` at its end: a queue or
    /// an etcd may keep its files below the storage root.
    fn prefixes_of(&self, _directories: &[PathBuf]) -> Vec<String> {
        vec![]
    }

    /// How it and a repository at `location` overlap, for people; `None` when they do not.
    async fn overlap(&self, location: &Location) -> Option<String>;
}

/// Whether the place of a layer is there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Presence {
    /// It is.
    There,
    /// A directory that will be made.
    ToBeMade,
    /// It is not, and is not made.
    Missing {
        /// Why.
        why: String,
        /// The way out.
        hint: &'static str,
    },
}

impl Presence {
    /// The place that `error` says is not there; any other error is given back.
    pub(crate) fn missing(error: Error) -> Result<Self> {
        match error.cause() {
            Cause::Absent | Cause::NotFound => Ok(Self::Missing {
                why: error.chain(),
                hint: "make the bucket or the directory first, or correct instance.objects",
            }),
            _ => Err(error),
        }
    }
}

/// The object layer that the configuration names.
#[must_use]
pub fn layer(objects: &Objects, side: Side, env: &Env) -> Arc<dyn Layer> {
    match objects {
        Objects::Local(local) => Arc::new(local::Local::of(local, side, env)),
        Objects::S3(s3) => Arc::new(s3::S3::new(s3.at.clone(), side, env)),
    }
}
