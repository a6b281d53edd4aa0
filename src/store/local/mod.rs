//! A directory as a store.
//!
//! A write goes to a temporary file in [`TEMP_DIRECTORY`] under the same root, is made durable and
//! then gets its name in one step, so that readers and crashes see all of an object or nothing.
//! Symbolic links below the root are never followed. What lies in the temporary directory is no
//! object: it is neither listed nor read.

mod list;
mod temporary;
mod tree;

use std::fmt;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use bytes::Bytes;
use futures::stream::BoxStream;
use jiff::Timestamp;

use self::temporary::Temporary;
use self::tree::{Tree, Whose};
use super::backend::Backend;
pub use super::backend::MissingRoot;
use super::{
    Capabilities, GetOptions, Key, ListOptions, Meta, Part, Parts, Put, PutOptions, SharedStore,
    Store, Unfinished,
};
use crate::base::env::{Env, lock};
use crate::{Cause, Error, Result};

/// The directory under the root where objects are written before they get their names.
pub const TEMP_DIRECTORY: &str = ".eyrie-tmp";

/// Who may read what a store writes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Access {
    /// The owner alone: files 0600, directories 0700. For repositories.
    #[default]
    Private,
    /// As the process's umask says: files 0666, directories 0777 without its bits. For a restore
    /// target, which a server under another user reads.
    Umask,
}

/// How to open a directory as a store.
#[derive(Debug, Clone, Copy, Default)]
pub struct LocalSettings {
    /// Who may read what is written.
    pub access: Access,
    /// What to do when the directory is missing.
    pub missing: MissingRoot,
}

/// A directory as a store.
#[derive(Clone)]
pub struct LocalStore {
    tree: Arc<Tree>,
}

impl fmt::Debug for LocalStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "LocalStore({:?})", self.tree.path())
    }
}

#[async_trait]
impl Backend for PathBuf {
    fn parse(url: &str) -> Option<Result<Self>> {
        if let Some(path) = url.strip_prefix("file://") {
            return path.starts_with('/').then(|| Ok(Self::from(path)));
        }
        if url.contains("://") {
            return None;
        }
        if url == "~" || url.starts_with("~/") {
            let message = format!("{url:?} names a home directory, which only a shell knows");
            return Some(Err(
                Error::new(Cause::Invalid, message).with_hint("write the whole path")
            ));
        }
        Some(Ok(Self::from(url)))
    }

    fn write_url(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.display())
    }

    async fn open(&self, missing: MissingRoot, _: &Env) -> Result<SharedStore> {
        let settings = LocalSettings {
            missing,
            ..LocalSettings::default()
        };
        Ok(Arc::new(LocalStore::open(self, settings)?))
    }
}

impl LocalStore {
    /// Opens the directory `root`, which may itself be a symbolic link.
    ///
    /// # Errors
    ///
    /// [`Cause::NotFound`] when it is missing and is not to be made; [`Cause::AccessDenied`] when it
    /// may not be read.
    pub fn open(root: impl AsRef<Path>, settings: LocalSettings) -> Result<Self> {
        let tree = Arc::new(Tree::open(root.as_ref(), settings)?);
        Ok(Self { tree })
    }

    /// The directory, as an absolute path.
    #[must_use]
    pub fn root(&self) -> &Path {
        self.tree.path()
    }

    /// Where the file of `key` is.
    #[cfg(test)]
    fn path_of(&self, key: &Key) -> std::path::PathBuf {
        self.root().join(key.as_str())
    }

    /// Removes temporary files that were last written before `before`, left by writers that died,
    /// and the temporary directory when it is empty. Returns how many files went.
    ///
    /// A writer that is still at work on an older file fails.
    pub async fn remove_leftovers(&self, before: Timestamp) -> Result<u64> {
        let whose = Whose::Before(before);
        self.blocking(move |tree| tree.remove_leftovers(&whose))
            .await
    }

    async fn blocking<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Tree) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        let tree = self.tree.clone();
        tokio::task::spawn_blocking(move || work(&tree))
            .await
            .unwrap_or_else(|error| {
                Err(Error::new(Cause::Failed, "a file operation stopped").with_source(error))
            })
    }
}

#[async_trait]
impl Store for LocalStore {
    fn location(&self) -> String {
        self.root().display().to_string()
    }

    fn capabilities(&self) -> Capabilities {
        Capabilities {
            conditional_create: true,
            versions: false,
            any_part_size: true,
        }
    }

    async fn get(&self, key: &Key, options: GetOptions) -> Result<Bytes> {
        let key = key.clone();
        self.blocking(move |tree| tree.read(&key, options.range))
            .await
    }

    async fn put(&self, key: &Key, bytes: Bytes, options: PutOptions) -> Result<Put> {
        let key = key.clone();
        self.blocking(move |tree| {
            let temporary = tree.temporary(&key)?;
            write_at(tree, &key, &temporary, &bytes, 0)?;
            tree.publish(&temporary, &key, options)
        })
        .await?;
        Ok(Put { version: None })
    }

    async fn parts(&self, key: &Key, options: PutOptions) -> Result<Arc<dyn Parts>> {
        let named = key.clone();
        let temporary = self.blocking(move |tree| tree.temporary(&named)).await?;
        Ok(Arc::new(LocalParts {
            store: self.clone(),
            key: key.clone(),
            options,
            temporary: Mutex::new(Some(Arc::new(temporary))),
        }))
    }

    async fn head(&self, key: &Key) -> Result<Meta> {
        let key = key.clone();
        self.blocking(move |tree| tree.stat(key)).await
    }

    fn list(&self, prefix: &str, options: ListOptions) -> BoxStream<'_, Result<Meta>> {
        list::stream(self.tree.clone(), prefix, options)
    }

    async fn delete(&self, key: &Key, _version: Option<&str>) -> Result<()> {
        let key = key.clone();
        self.blocking(move |tree| tree.remove(&key)).await
    }

    async fn sync(&self) -> Result<()> {
        self.blocking(Tree::sync).await
    }

    fn unfinished(&self) -> Vec<Unfinished> {
        let id = self.tree.writer().to_owned();
        vec![Unfinished { key: None, id }]
    }

    async fn remove_unfinished(&self, left: &Unfinished) -> Result<()> {
        if left.id == self.tree.writer() {
            // This process is not dead.
            return Ok(());
        }
        let writer = left.id.clone();
        let whose = Whose::Writer(writer);
        self.blocking(move |tree| tree.remove_leftovers(&whose).map(drop))
            .await
    }
}

fn write_at(tree: &Tree, key: &Key, to: &Temporary, bytes: &[u8], offset: u64) -> Result<()> {
    to.file()
        .write_all_at(bytes, offset)
        .map_err(|error| tree.failed("write", key.as_str(), error))
}

#[derive(Debug)]
struct LocalParts {
    store: LocalStore,
    key: Key,
    options: PutOptions,
    /// The file being written; `None` when finished or aborted.
    temporary: Mutex<Option<Arc<Temporary>>>,
}

impl LocalParts {
    fn gone(&self) -> Error {
        Error::new(
            Cause::NotFound,
            format!("the upload of {} has ended", self.key),
        )
    }
}

#[async_trait]
impl Parts for LocalParts {
    async fn part(&self, part: Part) -> Result<()> {
        let temporary = lock(&self.temporary).clone().ok_or_else(|| self.gone())?;
        let key = self.key.clone();
        self.store
            .blocking(move |tree| write_at(tree, &key, &temporary, &part.bytes, part.offset))
            .await
    }

    async fn finish(&self, last: Part) -> Result<Put> {
        // It is let go only when it has its name: who failed may try again.
        let temporary = lock(&self.temporary).clone().ok_or_else(|| self.gone())?;
        let (key, options) = (self.key.clone(), self.options);
        self.store
            .blocking(move |tree| {
                write_at(tree, &key, &temporary, &last.bytes, last.offset)?;
                tree.publish(&temporary, &key, options)
            })
            .await?;
        lock(&self.temporary).take();
        Ok(Put { version: None })
    }

    async fn abort(&self) -> Result<()> {
        let temporary = lock(&self.temporary).take();
        self.store
            .blocking(move |_| {
                drop(temporary);
                Ok(())
            })
            .await
    }
}

#[cfg(test)]
mod tests;
