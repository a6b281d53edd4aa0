//! Whether a Milvus is stopped: the signs of life that a cold capture and a restore look for.

use std::fs::File;
use std::io::ErrorKind;
use std::path::Path;
use std::time::Duration;

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, Flock, FlockArg, fcntl};
use tokio::net::TcpStream;

use crate::{Cause, Error, Result};

/// How long a port is tried.
const PORT_TIMEOUT: Duration = Duration::from_secs(2);

/// Whether something answers at `address` (`host:port`).
///
/// A port that neither accepts nor refuses in time counts as silent: Milvus on this host would
/// have accepted.
pub async fn answers(address: &str) -> bool {
    matches!(
        tokio::time::timeout(PORT_TIMEOUT, TcpStream::connect(address)).await,
        Ok(Ok(_))
    )
}

/// The process that holds the lock of the `RocksDB` in `directory`, as Milvus's rocksmq does.
///
/// # Errors
///
/// [`Cause::AccessDenied`] when the lock file cannot be opened.
pub fn rocksdb_holder(directory: &Path) -> Result<Option<i32>> {
    let path = directory.join("LOCK");
    let Some(file) = open(&path)? else {
        return Ok(None);
    };
    let mut lock = libc::flock {
        l_type: i16::try_from(libc::F_WRLCK).unwrap_or_default(),
        l_whence: i16::try_from(libc::SEEK_SET).unwrap_or_default(),
        l_start: 0,
        l_len: 0,
        l_pid: 0,
    };
    fcntl(&file, FcntlArg::F_GETLK(&mut lock)).map_err(|errno| examined(&path, errno.into()))?;
    Ok((i32::from(lock.l_type) != libc::F_UNLCK).then_some(lock.l_pid))
}

/// Whether a process holds the database in an etcd data directory, as an embedded etcd does.
///
/// # Errors
///
/// [`Cause::AccessDenied`] when the database cannot be opened.
pub fn etcd_directory_in_use(data_dir: &Path) -> Result<bool> {
    let path = data_dir.join("member/snap/db");
    let Some(file) = open(&path)? else {
        return Ok(false);
    };
    match Flock::lock(file, FlockArg::LockSharedNonblock) {
        Ok(_) => Ok(false),
        Err((_, Errno::EWOULDBLOCK)) => Ok(true),
        Err((_, errno)) => Err(examined(&path, errno.into())),
    }
}

fn open(path: &Path) -> Result<Option<File>> {
    match File::open(path) {
        Ok(file) => Ok(Some(file)),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        Err(error) => Err(examined(path, error)),
    }
}

fn examined(path: &Path, error: std::io::Error) -> Error {
    let kind = Error::from(std::io::Error::from(error.kind())).cause();
    Error::new(
        if kind == Cause::NotFound {
            Cause::Failed
        } else {
            kind
        },
        format!("examining the lock {}", path.display()),
    )
    .with_source(error)
    .with_hint("run eyrie as a user that may read Milvus's data, to prove that Milvus is stopped")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_etcd_directory_is_in_use_while_its_database_is_locked() {
        let dir = tempfile::tempdir().unwrap();
        assert!(!etcd_directory_in_use(dir.path()).unwrap());
        let db = dir.path().join("member/snap/db");
        std::fs::create_dir_all(db.parent().unwrap()).unwrap();
        std::fs::write(&db, "").unwrap();
        assert!(!etcd_directory_in_use(dir.path()).unwrap());
        let held = Flock::lock(File::open(&db).unwrap(), FlockArg::LockExclusive).unwrap();
        assert!(etcd_directory_in_use(dir.path()).unwrap());
        drop(held);
        assert!(!etcd_directory_in_use(dir.path()).unwrap());
    }

    #[test]
    fn a_rocksdb_without_a_lock_file_has_no_holder() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(rocksdb_holder(dir.path()).unwrap(), None);
        std::fs::write(dir.path().join("LOCK"), "").unwrap();
        assert_eq!(rocksdb_holder(dir.path()).unwrap(), None);
    }

    #[tokio::test]
    async fn only_a_listening_port_answers() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        assert!(answers(&address).await);
        drop(listener);
        assert!(!answers(&address).await);
    }
}
