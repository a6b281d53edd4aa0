//! Whether a Milvus is stopped: the signs of life that a cold capture and a restore look for.
//!
//! Its port answers, a process holds its queue or its embedded etcd, or etcd has its sessions.

use std::fs::File;
use std::io::ErrorKind;
use std::path::Path;
use std::time::Duration;

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, Flock, FlockArg, fcntl};
use tokio::net::TcpStream;
use tracing::info;

use super::wal;
use crate::base::poll::poll;
use crate::config::Instance;
use crate::etcd::{Anchor, Condition, Etcd, KeyValue, prefix_end};
use crate::milvus::keys::{Area, Roots};
use crate::{Cause, Error, Result, Side};

/// How long a port is tried.
const PORT_TIMEOUT: Duration = Duration::from_secs(2);

/// How long sessions of a killed Milvus are waited for: the longest default time to live is 60 s
/// (docs/milvus.md 3.4).
const SESSIONS_WAIT: Duration = Duration::from_secs(75);

/// Between two looks at the sessions.
const SESSIONS_PAUSE: Duration = Duration::from_secs(1);

/// A session of a Milvus component in etcd.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Session {
    /// What it calls itself, such as `rootcoord` or `proxy-3`.
    pub name: String,
    /// The lease that it ends with; 0 for a key that no process keeps and that never ends.
    pub lease: i64,
}

/// The prefix of an instance's sessions.
#[must_use]
pub fn sessions_prefix(roots: &Roots) -> String {
    format!("{}session/", roots.area(Area::Meta))
}

/// Names below `session/` that are no sessions: the counter of node ids, and the highest version.
const BESIDE_SESSIONS: [&str; 2] = ["id", "version"];

/// The keys below `session/` that are no sessions; any etcd that Milvus once used has them.
#[must_use]
pub fn keys_beside_sessions(roots: &Roots) -> [Vec<u8>; 2] {
    let prefix = sessions_prefix(roots);
    BESIDE_SESSIONS.map(|name| format!("{prefix}{name}").into_bytes())
}

/// The conditions under which no component of Milvus has a session, whatever it calls itself.
#[must_use]
pub fn no_session(roots: &Roots) -> Vec<Condition> {
    let prefix = sessions_prefix(roots);
    let mut from = prefix.clone().into_bytes();
    let mut conditions = Vec::new();
    for to in keys_beside_sessions(roots) {
        let after = [&to[..], b"\0"].concat();
        conditions.push(Condition::NoneIn(from, to));
        from = after;
    }
    conditions.push(Condition::NoneIn(from, prefix_end(prefix.as_bytes())));
    conditions
}

/// The sessions among `keys`.
#[must_use]
pub fn sessions(roots: &Roots, keys: &[KeyValue]) -> Vec<Session> {
    let prefix = sessions_prefix(roots);
    keys.iter()
        .filter_map(|kv| Some((kv.key.strip_prefix(prefix.as_bytes())?, kv.lease)))
        .filter(|(name, _)| !BESIDE_SESSIONS.iter().any(|no| no.as_bytes() == *name))
        .map(|(name, lease)| Session {
            name: String::from_utf8_lossy(name).into_owned(),
            lease,
        })
        .collect()
}

/// Reads the keys under `prefix`, which has the sessions in it, again and again until those of a Milvus
/// that was killed have run out, for at most 75 s. Gives the keys as they were last, and the sessions
/// that are left. One without a lease never runs out and is not waited for.
pub async fn wait_for_sessions_to_expire(
    etcd: &mut Etcd,
    roots: &Roots,
    prefix: &str,
) -> Result<(Anchor, Vec<Session>)> {
    let mut seen = None;
    poll(SESSIONS_WAIT, SESSIONS_PAUSE, async || {
        let read = etcd.read_prefix(prefix).await?;
        let left = sessions(roots, &read.keys);
        let over = left.iter().all(|session| session.lease == 0);
        if !over {
            let names: Vec<_> = left.iter().map(|session| &session.name).collect();
            info!(
                ?names,
                "waiting for the sessions of a stopped Milvus to run out"
            );
        }
        seen = Some((read, left));
        Ok(over.then_some(()))
    })
    .await?;
    seen.ok_or_else(|| Error::new(Cause::Failed, "nobody looked for sessions"))
}

/// What shows without asking etcd that the instance runs, for people: its port answers, or a process
/// holds its queue.
///
/// # Errors
///
/// [`Cause::AccessDenied`] when a lock cannot be looked at.
pub async fn signs_of_life(instance: &Instance) -> Result<Vec<String>> {
    let address = &instance.milvus.address;
    let answered = answers(address).await;
    let answered = answered.then(|| format!("something answers at {address}"));
    Ok(answered
        .into_iter()
        .chain(queue_holders(instance)?)
        .collect())
}

/// Processes that hold the instance's queue, for people.
///
/// # Errors
///
/// [`Cause::AccessDenied`] when a lock cannot be looked at.
pub fn queue_holders(instance: &Instance) -> Result<Vec<String>> {
    let mut holders = Vec::new();
    for directory in wal::directories(&instance.wal.kind) {
        if let Some(pid) = rocksdb_holder(&directory)? {
            holders.push(format!("process {pid} holds {}", directory.display()));
        }
    }
    Ok(holders)
}

/// Fails when there is one of `signs`: a Milvus has started on a target that a restore works on.
///
/// # Errors
///
/// [`Side::Target`], naming them.
pub fn refuse(signs: &[String]) -> Result<()> {
    if signs.is_empty() {
        return Ok(());
    }
    let message = format!("a Milvus has started on the target: {}", signs.join("; "));
    let hint = "stop it, then run the same command again: it goes on where it stopped";
    Err(Side::Target.error(Cause::Refused, message).with_hint(hint))
}

/// Whether something answers at `address` (`host:port`).
///
/// A port that neither accepts nor refuses in time counts as silent: Milvus on this host would
/// have accepted.
async fn answers(address: &str) -> bool {
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
fn rocksdb_holder(directory: &Path) -> Result<Option<i32>> {
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
    database_in_use(&data_dir.join("member/snap/db"))
}

/// Whether a process holds the database of an etcd; one that is not there nobody holds.
///
/// # Errors
///
/// [`Cause::AccessDenied`] when it cannot be opened.
pub fn database_in_use(path: &Path) -> Result<bool> {
    let Some(file) = open(path)? else {
        return Ok(false);
    };
    match Flock::lock(file, FlockArg::LockSharedNonblock) {
        Ok(_) => Ok(false),
        Err((_, Errno::EWOULDBLOCK)) => Ok(true),
        Err((_, errno)) => Err(examined(path, errno.into())),
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
