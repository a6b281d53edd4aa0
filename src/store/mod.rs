//! Object storage as eyrie sees it: a small trait, its backends and what wraps them.
//!
//! A [`Store`] is a flat map from [`Key`] to immutable bytes under one root (a directory, a bucket
//! prefix). The repository lives on one; the segment objects of an instance live on another.
//!
//! Every backend passes the same conformance suite. Retries ([`retry`]), limits ([`limit`]),
//! recording and injected faults (both in `testing`) are decorators, never part of a backend.
//! [`open`] turns a URL into a store, [`probe`] finds out what a store really does.

mod backend;
pub mod limit;
pub mod local;
pub mod open;
pub mod probe;
mod read_back;
pub mod retry;
pub mod s3;
pub mod sided;
#[cfg(any(test, feature = "testing"))]
pub mod testing;
mod upload;

pub(crate) use upload::PARTS_AT_ONCE;

use std::fmt;
use std::num::NonZeroUsize;
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use futures::stream::BoxStream;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::base::resources::MemoryPermit;
use crate::{Cause, Error, Result};

/// A path inside a store: components joined by `/`, without a leading or trailing one.
///
/// No component is empty, `.` or `..`, and none holds a NUL byte, so a key never leaves its root.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Key(String);

impl Key {
    /// Checks `path` and makes a key of it.
    ///
    /// # Errors
    ///
    /// [`Cause::Invalid`] when a component is empty, `.` or `..`, or holds a NUL byte.
    pub fn new(path: impl Into<String>) -> Result<Self> {
        let path = path.into();
        if path.split('/').any(is_bad_component) {
            return Err(Error::new(
                Cause::Invalid,
                format!("the object path {path:?} has an empty, dot or NUL component"),
            ));
        }
        Ok(Self(path))
    }

    /// The path.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

fn is_bad_component(part: &str) -> bool {
    matches!(part, "" | "." | "..") || part.contains('\0')
}

/// Whether some key can begin with `prefix`: what comes before its last `/` has to be one.
fn may_begin_a_key(prefix: &str) -> bool {
    match prefix.rsplit_once('/') {
        Some((directories, _)) => !directories.split('/').any(is_bad_component),
        None => true,
    }
}

/// What a write does when the key exists.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum PutMode {
    /// Replace it.
    #[default]
    Overwrite,
    /// Fail with [`Cause::AlreadyExists`]; where the store has no conditional write
    /// ([`Capabilities::conditional_create`]) the check is a HEAD before, which is not atomic.
    Create,
}

/// How durable a write is when it returns.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Durability {
    /// On stable storage, its name included.
    #[default]
    Synced,
    /// Visible to readers of this host; durable after [`Store::sync`].
    Deferred,
}

/// How to write one object.
#[derive(Debug, Clone, Copy, Default)]
pub struct PutOptions {
    /// What to do when the key exists.
    pub mode: PutMode,
    /// When the object is durable.
    pub durability: Durability,
    /// How long [`Store::put`] may take, its tries included, before it is given up: for a write that the
    /// caller can do without, and tells of itself. As long as the store is tried at all when `None`.
    pub patience: Option<Duration>,
}

/// Which part of which version to read.
#[derive(Debug, Clone, Default)]
pub struct GetOptions {
    /// Byte range; all when `None`. A range past the end is cut at the end.
    pub range: Option<Range<u64>>,
    /// The version to read; the current one when `None`. Ignored without versions.
    pub version: Option<String>,
}

/// What to list.
#[derive(Debug, Clone, Default)]
pub struct ListOptions {
    /// List keys strictly after this one.
    pub after: Option<Key>,
    /// Tell the version ids, where the store keeps versions. On S3 this asks for every version and
    /// every delete marker below the prefix, of which a thousand are a page.
    pub versions: bool,
}

/// What a store says of one object.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Meta {
    /// The key, relative to the store's root.
    pub key: Key,
    /// Size in bytes.
    pub size: u64,
    /// When it was last modified, where the store tells.
    pub modified: Option<Timestamp>,
    /// The version id of the current object; `None` in listings that were not asked for it
    /// ([`ListOptions::versions`]), and where the store keeps no versions, unless it is S3, which may call
    /// what it holds of an object there `null`.
    pub version: Option<String>,
    /// Changes whenever the bytes may have changed: on S3 etag, size and last-modified (seconds, the
    /// resolution of HEAD); locally size, mtime, ctime (nanoseconds) and inode. Equal identities of
    /// one key mean equal bytes; [`Store::head`] and [`Store::list`] tell the same one.
    pub identity: String,
    /// Whether it has to be brought back from an archive storage class before it can be read. A listing says
    /// so of every object of such a class, [`Store::head`] only of those that are not brought back.
    pub archived: bool,
}

impl Meta {
    /// Whether the store keeps this object's versions; `false` where that was not told.
    #[must_use]
    pub fn has_version(&self) -> bool {
        // S3's name for what a bucket without versions, or with suspended ones, holds.
        self.version
            .as_deref()
            .is_some_and(|version| version != "null")
    }
}

/// What a write leaves that does not end, in words of the store.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Unfinished {
    /// The object that it would have become; `None` when it stands for all writes of the process.
    pub key: Option<String>,
    /// What the store calls it.
    pub id: String,
}

/// What [`Store::put`] or [`Upload::finish`] made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Put {
    /// The version id, where the store keeps versions.
    pub version: Option<String>,
}

/// What a store can do; found by a probe or known by the backend.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Capabilities {
    /// [`PutMode::Create`] is one atomic operation.
    pub conditional_create: bool,
    /// Deleted and replaced objects stay readable by version id.
    pub versions: bool,
    /// The parts of an upload may have any size; otherwise all but the last have [`MIN_PART_SIZE`] or more.
    pub any_part_size: bool,
}

impl Capabilities {
    /// Bytes of the first part where an upload in parts is tried out.
    pub(crate) const fn probed_part(self) -> usize {
        if self.any_part_size {
            4 << 10
        } else {
            MIN_PART_SIZE
        }
    }
}

/// An object being written piece by piece, as callers see it.
///
/// Dropping an upload without [`finish`](Upload::finish) or [`abort`](Upload::abort) leaves no
/// object; a multipart upload may stay behind in the store until its own clean-up.
#[async_trait]
pub trait Upload: Send {
    /// Sends `at_once` parts at once, and not the usual 4.
    fn limit_parts(&mut self, at_once: NonZeroUsize);

    /// Appends `bytes`. Several parts are in flight inside; the error of one surfaces here or in
    /// `finish`. Pieces may have any size; those of [`PART_SIZE`] or more are never copied.
    async fn write(&mut self, bytes: Bytes) -> Result<()>;

    /// Makes the object visible with all that was written, durable as the options asked.
    ///
    /// After an error other than [`Cause::AlreadyExists`] it is unknown whether the object exists.
    async fn finish(self: Box<Self>) -> Result<Put>;

    /// Gives the upload up and removes what it left.
    async fn abort(self: Box<Self>) -> Result<()>;
}

/// One part of an object being written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Part {
    /// Its number, from 1, without gaps.
    pub number: u32,
    /// Where it begins in the object, in bytes: the sum of the parts before it.
    pub offset: u64,
    /// Its bytes. Every part but the last has [`MIN_PART_SIZE`] or more.
    pub bytes: Bytes,
}

/// An object being written in parts, as backends and decorators see it.
///
/// Every call may be made again after [`Cause::Unavailable`]; that is why this is not [`Upload`],
/// where an error cannot be laid at the door of one part.
#[async_trait]
pub trait Parts: fmt::Debug + Send + Sync {
    /// Stores a part; the same part again replaces it. Parts may arrive in any order and at once.
    async fn part(&self, part: Part) -> Result<()>;

    /// Waits until `bytes` more may be on their way. What it gives is dropped when they have arrived.
    async fn admit(&self, bytes: usize) -> Result<Option<MemoryPermit>> {
        let _ = bytes;
        Ok(None)
    }

    /// Stores the last part, which may be empty, and makes the object visible.
    ///
    /// # Errors
    ///
    /// [`Cause::AlreadyExists`] under [`PutMode::Create`]; [`Cause::NotFound`] when the upload is gone,
    /// because it was finished or aborted before. After [`Cause::Unavailable`] it is unknown whether
    /// the object exists.
    async fn finish(&self, last: Part) -> Result<Put>;

    /// Gives the upload up and removes what it left. Aborting twice is no error.
    async fn abort(&self) -> Result<()>;
}

/// The size of an upload's parts, in bytes: S3's minimum is 5 MiB and its own guide advises 8 to
/// 16 MiB.
pub const PART_SIZE: usize = 8 << 20;

/// The least size of a part that is not the last, in bytes
/// (<https://docs.aws.amazon.com/AmazonS3/latest/userguide/qfacts.html>).
pub const MIN_PART_SIZE: usize = 5 << 20;

/// A flat map from keys to immutable bytes.
///
/// No key may be a directory of another (`a` beside `a/b`): a file system cannot hold both, and
/// `MinIO` refuses it too.
#[async_trait]
pub trait Store: fmt::Debug + Send + Sync {
    /// Where this store is, for people: a path or URL without secrets.
    fn location(&self) -> String;

    /// What it can do.
    fn capabilities(&self) -> Capabilities;

    /// Bytes of objects that were read and that neither TLS nor a checksum of the store vouches for.
    fn unverified_bytes(&self) -> u64 {
        0
    }

    /// Reads an object or a range of it.
    ///
    /// # Errors
    ///
    /// [`Cause::NotFound`] when there is no such object or version.
    async fn get(&self, key: &Key, options: GetOptions) -> Result<Bytes>;

    /// Writes an object in one operation: readers see all of it or nothing.
    ///
    /// # Errors
    ///
    /// [`Cause::AlreadyExists`] under [`PutMode::Create`]. After [`Cause::Unavailable`] it is unknown
    /// whether the object was written.
    async fn put(&self, key: &Key, bytes: Bytes, options: PutOptions) -> Result<Put>;

    /// Begins an object that is written in parts and visible only when finished. Callers use
    /// [`upload`](Store::upload), which is made of this.
    async fn parts(&self, key: &Key, options: PutOptions) -> Result<Arc<dyn Parts>>;

    /// Begins an object that is written piece by piece and visible only when finished.
    async fn upload(&self, key: &Key, options: PutOptions) -> Result<Box<dyn Upload>> {
        let parts = self.parts(key, options).await?;
        Ok(Box::new(upload::PartsUpload::new(parts)))
    }

    /// What the store says of an object.
    ///
    /// # Errors
    ///
    /// [`Cause::NotFound`] when there is none.
    async fn head(&self, key: &Key) -> Result<Meta>;

    /// Lists objects whose key begins with `prefix` (a plain string prefix; `""` for all), in
    /// byte order of their keys. A prefix that matches nothing is an empty list. What cannot be a
    /// [`Key`] (an S3 "directory" that ends in `/`) is left out. The stream ends after an error.
    fn list(&self, prefix: &str, options: ListOptions) -> BoxStream<'_, Result<Meta>>;

    /// Deletes an object, or with `version` that version for good. A missing key is no error.
    async fn delete(&self, key: &Key, version: Option<&str>) -> Result<()>;

    /// Makes every write that has returned durable.
    async fn sync(&self) -> Result<()>;

    /// What writes of this process have in the store now that is no object yet: for whoever comes after it,
    /// should it die.
    fn unfinished(&self) -> Vec<Unfinished>;

    /// Removes what a process that is dead left unfinished. What is gone already is no error.
    async fn remove_unfinished(&self, left: &Unfinished) -> Result<()>;
}

/// A store that several parts of the program share.
pub type SharedStore = Arc<dyn Store>;
