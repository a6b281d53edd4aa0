//! An etcd of our own on a copy of the data that an embedded etcd left.
//!
//! The copy is what may be changed: an etcd that starts on a directory writes to it, and the
//! directory that Milvus left is to stay as it is, in a capture and before a restore replaces it.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use tempfile::TempDir;
use walkdir::WalkDir;

use super::process::{MEMBER, Process};
use super::{Etcd, Status};
use crate::error::Context as _;
use crate::{Cause, Error, Result, Side};

/// A running etcd on a copy; both are gone when it is dropped.
#[derive(Debug)]
pub struct EtcdCopy {
    process: Process,
    directory: TempDir,
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
        let directory = tempfile::Builder::new()
            .prefix("eyrie-etcd-")
            .permissions(PermissionsExt::from_mode(0o700))
            .tempdir()
            .map_err(|error| {
                Error::from(error).context("making a directory for a copy of etcd's data")
            })?;
        let copy = directory.path().join("data");
        let (from, to) = (data_dir.join(MEMBER), copy.join(MEMBER));
        tokio::task::spawn_blocking(move || copy_tree(&from, &to))
            .await
            .map_err(|error| {
                Error::new(Cause::Failed, "copying etcd's data").with_source(error)
            })??;
        // etcd refuses a data directory that others may read.
        std::fs::set_permissions(&copy, PermissionsExt::from_mode(0o700))
            .map_err(|error| copying(&copy, error))?;
        let log = directory.path().join("etcd.log");
        let (process, etcd, status) = Process::start(binary, &copy, &log, side).await?;
        Ok((Self { process, directory }, etcd, status))
    }

    /// Stops it and removes the copy.
    pub async fn stop(self) -> Result<()> {
        self.process.stop().await?;
        self.directory
            .close()
            .map_err(|error| Error::from(error).context("removing the copy of etcd's data"))
    }
}

/// Copies a directory; what links in it point to is copied in their place, as etcd's log may lie
/// on another disk.
fn copy_tree(from: &Path, to: &Path) -> Result<()> {
    for entry in WalkDir::new(from).follow_links(true) {
        let entry = entry.map_err(|error| copying(from, error.into()))?;
        let relative = entry.path().strip_prefix(from).unwrap_or(entry.path());
        let target = to.join(relative);
        let copied = if entry.file_type().is_dir() {
            std::fs::create_dir_all(&target)
        } else {
            std::fs::copy(entry.path(), &target).map(|_| ())
        };
        copied.map_err(|error| copying(entry.path(), error))?;
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
        copy_tree(&member, &copy).unwrap();
        let read = |name: &str| std::fs::read_to_string(copy.join(name)).unwrap();
        assert_eq!(
            (read("snap/db"), read("wal/0.wal")),
            ("db".into(), "log".into())
        );
        assert!(!copy.join("wal").is_symlink());
    }
}
