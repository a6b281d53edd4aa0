//! Objects in a directory.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use async_trait::async_trait;

use super::{Layer, ObjectLayer, Presence, proof};
use crate::base::env::Env;
use crate::base::error::Context as _;
use crate::base::file_system::FileSystem;
use crate::config::resolved::LocalObjects;
use crate::instance::ownership::Owner;
use crate::store::SharedStore;
use crate::store::local::{Access, LocalSettings, LocalStore, MissingRoot, TEMP_DIRECTORY};
use crate::store::open::Location;
use crate::store::probe::Deletion;
use crate::store::sided::SidedStore;
use crate::{Cause, Error, Result, Side};

/// A directory of this host.
#[derive(Debug)]
pub(crate) struct Local {
    /// Here.
    path: PathBuf,
    /// As Milvus sees it.
    milvus_path: PathBuf,
    /// What should be there, and the setting that says where it is, for people.
    what: (&'static str, &'static str),
    side: Side,
    env: Env,
}

impl Local {
    pub(super) fn of(objects: &LocalObjects, side: Side, env: &Env) -> Self {
        Self {
            path: objects.path.clone(),
            milvus_path: objects.milvus_path.clone(),
            what: ("the segment objects", "instance.objects.path"),
            side,
            env: env.clone(),
        }
    }

    /// A directory of a message queue.
    pub(crate) fn of_queue(path: &Path, side: Side, env: &Env) -> Self {
        Self {
            path: path.to_owned(),
            milvus_path: path.to_owned(),
            what: ("the message queue's files", "instance.wal.path"),
            side,
            env: env.clone(),
        }
    }

    fn store(&self, settings: LocalSettings) -> Result<LocalStore> {
        LocalStore::open(&self.path, settings).on(self.side)
    }

    fn sided(&self, store: LocalStore) -> SharedStore {
        Arc::new(SidedStore::new(Arc::new(store), self.side))
    }
}

#[async_trait]
impl Layer for Local {
    fn record(&self) -> ObjectLayer {
        ObjectLayer::Local {
            path: self.milvus_path.display().to_string(),
        }
    }

    fn place(&self) -> String {
        self.path.display().to_string()
    }

    fn file_system(&self) -> Option<FileSystem> {
        FileSystem::of(&self.path)
    }

    fn is_made(&self) -> bool {
        self.path.exists()
    }

    async fn open(&self) -> Result<SharedStore> {
        if self.path.is_dir() {
            return Ok(self.sided(self.store(LocalSettings::default())?));
        }
        let (what, setting) = self.what;
        let message = format!(
            "{what} should be in {}, which is no directory on this host",
            self.path.display()
        );
        Err(self.side.error(Cause::Absent, message).with_hint(format!(
            "if Milvus runs in a container, instance.path_map says where its paths are on this \
                 host; otherwise set {setting}"
        )))
    }

    async fn look(&self) -> Result<(Presence, Option<SharedStore>)> {
        let path = self.path.display();
        let why = if self.path.is_dir() {
            return Ok((Presence::There, Some(self.open().await?)));
        } else if self.path.exists() {
            format!("{path} is no directory")
        } else if self.path.parent().is_some_and(Path::is_dir) {
            return Ok((Presence::ToBeMade, None));
        } else {
            format!("{path} cannot be made: the directory above it is missing on this host")
        };
        let hint = "make the directory above it; if Milvus runs in a container, instance.path_map \
                    says where its paths are on this host";
        Ok((Presence::Missing { why, hint }, None))
    }

    async fn make(&self) -> Result<SharedStore> {
        let owner = Owner::of(&self.path)?;
        let is_new = !self.path.exists();
        let store = self.store(LocalSettings {
            access: Access::Umask,
            missing: MissingRoot::Create,
        })?;
        if is_new {
            owner.adopt(std::slice::from_ref(&self.path))?;
        }
        Ok(self.sided(store))
    }

    async fn prove(&self, env: &Env) -> Result<(SharedStore, Deletion)> {
        let store = self.make().await?;
        let deletion = proof::prove(&*store, env).await?;
        // Where Milvus runs as another user, every file is given to it.
        let owner = Owner::of(&self.path)?;
        let probe = tempfile::Builder::new()
            .tempfile_in(self.path.join(TEMP_DIRECTORY))
            .map_err(|error| Error::from(error).on(self.side))?;
        owner.adopt(&[probe.path().to_owned()])?;
        Ok((store, deletion))
    }

    async fn settle(&self, folders: &[String]) -> Result<()> {
        let store = self.store(LocalSettings::default())?;
        store.remove_leftovers(self.env.now()).await.on(self.side)?;
        let owner = Owner::of(&self.path)?;
        let paths: Vec<PathBuf> = folders
            .iter()
            .map(|folder| self.path.join(folder))
            .collect();
        let adopted = tokio::task::spawn_blocking(move || owner.adopt(&paths));
        adopted.await.map_err(|error| {
            Error::new(Cause::Failed, "giving files to their owner").with_source(error)
        })?
    }

    fn prefixes_of(&self, directories: &[PathBuf]) -> Vec<String> {
        let root = real(&self.path);
        let relative = |other: &PathBuf| {
            let path = real(other);
            let rest = path.strip_prefix(&root).ok()?.to_str()?.to_owned();
            (!rest.is_empty()).then(|| rest + "/")
        };
        directories.iter().filter_map(relative).collect()
    }

    async fn overlap(&self, location: &Location) -> Option<String> {
        let Location::Directory(other) = location else {
            return None;
        };
        let (other, own) = (real(other), real(&self.path));
        (other.starts_with(&own) || own.starts_with(&other))
            .then(|| format!("{} and {}", other.display(), own.display()))
    }
}

/// The path without symbolic links; of one that is missing, as far as it is there.
pub(crate) fn real(path: &Path) -> PathBuf {
    let path = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
    for ancestor in path.ancestors() {
        if let (Ok(found), Ok(rest)) = (ancestor.canonicalize(), path.strip_prefix(ancestor)) {
            return if rest.as_os_str().is_empty() {
                found
            } else {
                found.join(rest)
            };
        }
    }
    path
}

#[cfg(test)]
mod tests {
    use futures::StreamExt;

    use super::*;
    use crate::config::WalKind;
    use crate::instance::wal::directories;
    use crate::store::ListOptions;

    fn local(path: &Path) -> Local {
        Local::of_queue(path, Side::Target, &Env::system())
    }

    #[test]
    fn a_queue_below_the_storage_root_is_found_through_links() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().join("data");
        std::fs::create_dir_all(root.join("rocksmq")).unwrap();
        std::os::unix::fs::symlink(&root, dir.path().join("link")).unwrap();
        let queue = WalKind::Rocksmq {
            path: dir.path().join("link/rocksmq"),
        };
        let found = local(&root).prefixes_of(&directories(&queue));
        assert_eq!(found, ["rocksmq/", "rocksmq_meta_kv/"]);
        assert!(
            local(&root)
                .prefixes_of(&[dir.path().join("etcd")])
                .is_empty()
        );
    }

    #[tokio::test]
    async fn a_repository_below_or_above_the_storage_root_is_found_through_links() {
        let dir = tempfile::tempdir().unwrap();
        let data = dir.path().join("data");
        std::fs::create_dir_all(&data).unwrap();
        let link = dir.path().join("backup");
        std::os::unix::fs::symlink(&data, &link).unwrap();
        let layer = local(&data);
        let overlap = async |path: PathBuf| layer.overlap(&Location::Directory(path)).await;
        assert!(overlap(link.join("repo")).await.is_some());
        assert!(overlap(dir.path().to_owned()).await.is_some());
        assert!(overlap(dir.path().join("data2")).await.is_none());
    }

    #[tokio::test]
    async fn a_directory_is_proved_and_nothing_is_left_in_it() {
        let dir = tempfile::tempdir().unwrap();
        let new = dir.path().join("new");
        let (store, deletion) = local(&new).prove(&Env::system()).await.unwrap();
        assert_eq!(deletion, Deletion::Allowed);
        assert!(store.location().contains("new"));
        let left = store.list("", ListOptions::default()).next().await;
        assert!(left.is_none(), "{left:?}");
    }

    #[tokio::test]
    async fn a_directory_is_made_where_the_one_above_it_is_there() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("file");
        std::fs::write(&file, "x").unwrap();
        let place = async |path: &Path| local(path).look().await.unwrap().0;
        assert_eq!(place(dir.path()).await, Presence::There);
        assert_eq!(place(&dir.path().join("new")).await, Presence::ToBeMade);
        for (path, expected) in [
            (file, "is no directory"),
            (dir.path().join("a/b"), "the directory above it is missing"),
        ] {
            let Presence::Missing { why, .. } = place(&path).await else {
                panic!("{} is not missing", path.display());
            };
            assert!(why.contains(expected), "{why}");
        }
        let new = local(&dir.path().join("new"));
        let absent = new.open().await.unwrap_err();
        assert_eq!(absent.cause(), Cause::Absent);
        assert!(absent.hint().unwrap().contains("instance.wal.path"));
        new.make().await.unwrap();
        assert!(new.is_made());
        new.open().await.unwrap();
    }
}
