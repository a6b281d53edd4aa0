//! An etcd of our own on a copy of the data that an embedded etcd left.
//!
//! The copy is what may be changed: an etcd that starts on a directory writes to it, and the
//! directory that Milvus left is to stay as it is, in a capture and before a restore replaces it.

use std::fs::{File, TryLockError};
use std::io::Read;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;
use std::time::{Duration, SystemTime};

use tempfile::TempDir;
use tokio_util::sync::CancellationToken;
use tracing::debug;
use walkdir::WalkDir;

use crate::base::error::Context as _;
use crate::etcd::{Etcd, MEMBER, Process, Status};
use crate::{Cause, Error, Result, Side};

/// Names of directories with copies begin with this.
const PREFIX: &str = "eyrie-etcd-";

/// The file in such a directory that is locked while somebody uses it.
const LOCK: &str = "lock";

/// A directory that nobody has locked for so long is not one that is being made.
const MAKING: Duration = Duration::from_mins(1);

/// So much is copied between two looks at whether the copy is still wanted, in bytes.
const CHUNK: u64 = 64 << 20;

/// A running etcd on a copy; both are gone when it is dropped.
#[derive(Debug)]
pub struct EtcdCopy {
    process: Process,
    scratch: Scratch,
    side: Side,
}

impl EtcdCopy {
    /// Copies the data below `data_dir`, which is of an instance on `side` and which no etcd may hold,
    /// and starts `binary` on the copy.
    ///
    /// # Errors
    ///
    /// [`Cause::NoSpace`] when the temporary directory is too small, otherwise those of
    /// [`Process::start`]. The copy is removed then.
    pub async fn start(binary: &Path, data_dir: &Path, side: Side) -> Result<(Self, Etcd, Status)> {
        Self::start_on_copy(binary, data_dir, side).await.on(side)
    }

    async fn start_on_copy(
        binary: &Path,
        data_dir: &Path,
        side: Side,
    ) -> Result<(Self, Etcd, Status)> {
        let from = data_dir.join(MEMBER);
        let scratch = copied(&tempfile::env::temp_dir(), &from).await?;
        let (copy, log) = (scratch.data(), scratch.directory.path().join("etcd.log"));
        let (process, etcd, status) = Process::start(binary, &copy, &log, side).await?;
        let copy = Self {
            process,
            scratch,
            side,
        };
        Ok((copy, etcd, status))
    }

    /// Stops it and removes the copy.
    pub async fn stop(self) -> Result<()> {
        self.process.stop().await?;
        self.scratch
            .directory
            .close()
            .map_err(|error| Error::from(error).on(self.side))
            .context(|| "removing the copy of etcd's data")
    }
}

/// A directory for a copy, which is gone when this is dropped. Its lock tells a later run that what a
/// killed one left is of no use to anybody.
#[derive(Debug)]
struct Scratch {
    directory: TempDir,
    _lock: File,
}

impl Scratch {
    fn new(temp: &Path) -> std::io::Result<Self> {
        let directory = tempfile::Builder::new()
            .prefix(PREFIX)
            .permissions(PermissionsExt::from_mode(0o700))
            .tempdir_in(temp)?;
        let lock = File::create(directory.path().join(LOCK))?;
        // Where a file system has no locks no other eyrie gets one either, and removes nothing.
        if let Err(error) = lock.lock() {
            debug!(%error, "locking {}", directory.path().display());
        }
        Ok(Self {
            directory,
            _lock: lock,
        })
    }

    fn data(&self) -> std::path::PathBuf {
        self.directory.path().join("data")
    }
}

/// A copy of the directory `from` in a new directory below `temp`. When this future is dropped, the
/// copying ends soon after, and the directory goes.
async fn copied(temp: &Path, from: &Path) -> Result<Scratch> {
    let unwanted = CancellationToken::new();
    let _unwanted_when_dropped = unwanted.clone().drop_guard();
    let (temp, from) = (temp.to_owned(), from.to_owned());
    let work = move || {
        sweep(&temp);
        let scratch = Scratch::new(&temp).map_err(|error| {
            Error::from(error).context("making a directory for a copy of etcd's data")
        })?;
        let copy = scratch.data();
        copy_tree(&from, &copy.join(MEMBER), &unwanted)?;
        // etcd refuses a data directory that others may read.
        std::fs::set_permissions(&copy, PermissionsExt::from_mode(0o700))
            .map_err(|error| copying(&copy, error))?;
        Ok(scratch)
    };
    let done = tokio::task::spawn_blocking(work).await;
    done.map_err(|error| Error::new(Cause::Failed, "copying etcd's data").with_source(error))?
}

/// Removes the copies of eyries that were killed.
fn sweep(temp: &Path) {
    let entries = std::fs::read_dir(temp).into_iter().flatten().flatten();
    let named = entries.filter(|e| e.file_name().to_string_lossy().starts_with(PREFIX));
    for entry in named {
        let path = entry.path();
        if is_left(&path).unwrap_or(false) {
            match std::fs::remove_dir_all(&path) {
                Ok(()) => debug!("removed {}, which a killed eyrie left", path.display()),
                Err(error) => debug!(%error, "removing {}", path.display()),
            }
        }
    }
}

/// Whether the directory is a copy of ours that nobody uses.
fn is_left(directory: &Path) -> std::io::Result<bool> {
    let metadata = std::fs::symlink_metadata(directory)?;
    let age = SystemTime::now().duration_since(metadata.modified()?);
    let old = age.is_ok_and(|age| age > MAKING);
    if !old || !metadata.is_dir() || metadata.uid() != nix::unistd::geteuid().as_raw() {
        return Ok(false);
    }
    match File::open(directory.join(LOCK))?.try_lock() {
        Ok(()) => Ok(true),
        Err(TryLockError::WouldBlock) => Ok(false),
        Err(TryLockError::Error(error)) => Err(error),
    }
}

/// Copies a directory; what links in it point to is copied in their place, as etcd's log may lie
/// on another disk.
fn copy_tree(from: &Path, to: &Path, unwanted: &CancellationToken) -> Result<()> {
    for entry in WalkDir::new(from).follow_links(true) {
        let entry = entry.map_err(|error| copying(from, error.into()))?;
        let relative = entry.path().strip_prefix(from).unwrap_or(entry.path());
        let target = to.join(relative);
        let copied = if entry.file_type().is_dir() {
            std::fs::create_dir_all(&target)
        } else {
            copy_file(entry.path(), &target, unwanted)
        };
        copied.map_err(|error| copying(entry.path(), error))?;
    }
    Ok(())
}

fn copy_file(from: &Path, to: &Path, unwanted: &CancellationToken) -> std::io::Result<()> {
    let (from, mut to) = (File::open(from)?, File::create(to)?);
    while std::io::copy(&mut (&from).take(CHUNK), &mut to)? > 0 {
        if unwanted.is_cancelled() {
            return Err(std::io::ErrorKind::Interrupted.into());
        }
    }
    Ok(())
}

fn copying(path: &Path, error: std::io::Error) -> Error {
    Error::from(error).context(format!("copying etcd's {}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_log_on_another_disk_is_copied_with_the_rest() {
        let dir = tempfile::tempdir().unwrap();
        let (member, elsewhere) = (dir.path().join(MEMBER), dir.path().join("elsewhere"));
        std::fs::create_dir_all(member.join("snap")).unwrap();
        std::fs::create_dir(&elsewhere).unwrap();
        std::fs::write(member.join("snap/db"), "db").unwrap();
        std::fs::write(elsewhere.join("0.wal"), "log").unwrap();
        std::os::unix::fs::symlink(&elsewhere, member.join("wal")).unwrap();
        let copy = dir.path().join("copy");
        copy_tree(&member, &copy, &CancellationToken::new()).unwrap();
        let read = |name: &str| std::fs::read_to_string(copy.join(name)).unwrap();
        assert_eq!(
            (read("snap/db"), read("wal/0.wal")),
            ("db".into(), "log".into())
        );
        assert!(!copy.join("wal").is_symlink());
    }

    #[tokio::test]
    async fn a_copy_that_nobody_waits_for_any_more_is_gone() {
        let dir = tempfile::tempdir().unwrap();
        let (member, temp) = (dir.path().join(MEMBER), dir.path().join("temp"));
        std::fs::create_dir_all(&temp).unwrap();
        for n in 0..200 {
            let directory = member.join(n.to_string());
            std::fs::create_dir_all(&directory).unwrap();
            std::fs::write(directory.join("file"), [7; 10_000]).unwrap();
        }
        let copies = || std::fs::read_dir(&temp).unwrap().count();
        let waited = async {
            while copies() == 0 {
                tokio::task::yield_now().await;
            }
        };
        tokio::select! {
            biased;
            () = waited => {}
            copy = copied(&temp, &member) => panic!("{copy:?} is too fast for this test"),
        }
        while copies() > 0 {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        let kept = copied(&temp, &member).await.unwrap();
        let copy = kept.data().join(MEMBER).join("199/file");
        assert_eq!(std::fs::read(copy).unwrap(), [7; 10_000]);
        assert_eq!(copies(), 1);
    }

    #[test]
    fn what_a_killed_eyrie_left_is_removed_by_the_next() {
        let temp = tempfile::tempdir().unwrap();
        let used = Scratch::new(temp.path()).unwrap();
        let old = SystemTime::now() - 2 * MAKING;
        let make = |name: &str, lock: bool| {
            let path = temp.path().join(name);
            std::fs::create_dir_all(path.join("data")).unwrap();
            if lock {
                std::fs::write(path.join(LOCK), "").unwrap();
            }
            path
        };
        let left = make("eyrie-etcd-left", true);
        let new = make("eyrie-etcd-new", true);
        let others = [make("other", true), make("eyrie-etcd-no-lock", false)];
        let aged = others
            .iter()
            .chain([&left])
            .map(std::path::PathBuf::as_path);
        for path in aged.chain([used.directory.path()]) {
            File::open(path).unwrap().set_modified(old).unwrap();
        }
        sweep(temp.path());
        assert!(!left.exists());
        assert!(new.exists() && others.iter().all(|path| path.exists()));
        assert!(used.directory.path().exists());
    }
}
