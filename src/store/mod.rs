//! Object storage as eyrie sees it: a small trait, its backends and what wraps them.
//!
//! A [`Store`] is a flat map from [`Key`] to immutable bytes under one root (a directory, a bucket
//! prefix). The repository lives on one; the segment objects of an instance live on another.
//!
//! Every backend passes the same conformance suite. Retries, limits, recording
//! and injected faults are decorators, never part of a backend.

use std::fmt;
use std::ops::Range;
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use futures::stream::BoxStream;
use jiff::Timestamp;

use crate::{Error, Kind, Result};

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
    /// [`Kind::Usage`] when a component is empty, `.` or `..`, or holds a NUL byte.
    pub fn new(path: impl Into<String>) -> Result<Self> {
        let path = path.into();
        let bad = |part: &str| matches!(part, "" | "." | "..") || part.contains('\0');
        if path.split('/').any(bad) {
            return Err(Error::new(
                Kind::Usage,
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

/// What a write does when the key exists.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum PutMode {
    /// Replace it.
    #[default]
    Overwrite,
    /// Fail with [`Kind::AlreadyExists`]; where the store has no conditional write
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
    /// The version id; `None` where the store keeps no versions.
    pub version: Option<String>,
    /// Changes whenever the bytes may have changed: S3 version id or etag with size; locally size,
    /// mtime, ctime (nanoseconds) and inode. Equal identities mean equal bytes.
    pub identity: String,
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
}

/// An object being written in parts.
///
/// Dropping an upload without [`finish`](Upload::finish) or [`abort`](Upload::abort) leaves no
/// object; a multipart upload may stay behind in the store until its own clean-up.
#[async_trait]
pub trait Upload: Send {
    /// Appends `bytes`. Several calls may be in flight inside; an error surfaces here or in
    /// `finish`. Parts may have any size, but every part except the last should be
    /// [`PART_SIZE`] or more.
    async fn write(&mut self, bytes: Bytes) -> Result<()>;

    /// Makes the object visible with all that was written, durable as the options asked.
    ///
    /// After an error other than [`Kind::AlreadyExists`] it is unknown whether the object exists.
    async fn finish(self: Box<Self>) -> Result<Put>;

    /// Gives the upload up and removes what it left.
    async fn abort(self: Box<Self>) -> Result<()>;
}

/// The size of an upload's parts, in bytes: S3's minimum is 5 MiB and its own guide advises 8 to
/// 16 MiB.
pub const PART_SIZE: usize = 8 << 20;

/// A flat map from keys to immutable bytes.
#[async_trait]
pub trait Store: fmt::Debug + Send + Sync {
    /// Where this store is, for people: a path or URL without secrets.
    fn location(&self) -> String;

    /// What it can do.
    fn capabilities(&self) -> Capabilities;

    /// Reads an object or a range of it.
    ///
    /// # Errors
    ///
    /// [`Kind::NotFound`] when there is no such object or version.
    async fn get(&self, key: &Key, options: GetOptions) -> Result<Bytes>;

    /// Writes an object in one operation: readers see all of it or nothing.
    ///
    /// # Errors
    ///
    /// [`Kind::AlreadyExists`] under [`PutMode::Create`]. After [`Kind::Unavailable`] it is unknown
    /// whether the object was written.
    async fn put(&self, key: &Key, bytes: Bytes, options: PutOptions) -> Result<Put>;

    /// Begins an object that is written in parts and visible only when finished.
    async fn upload(&self, key: &Key, options: PutOptions) -> Result<Box<dyn Upload>>;

    /// What the store says of an object.
    ///
    /// # Errors
    ///
    /// [`Kind::NotFound`] when there is none.
    async fn head(&self, key: &Key) -> Result<Meta>;

    /// Lists objects whose key begins with `prefix` (a plain string prefix; `""` for all), in
    /// byte order of their keys. A prefix that matches nothing is an empty list.
    fn list(&self, prefix: &str, options: ListOptions) -> BoxStream<'_, Result<Meta>>;

    /// Deletes an object, or with `version` that version for good. A missing key is no error.
    async fn delete(&self, key: &Key, version: Option<&str>) -> Result<()>;

    /// Makes every write that has returned durable.
    async fn sync(&self) -> Result<()>;
}

/// A store that several parts of the program share.
pub type SharedStore = Arc<dyn Store>;
