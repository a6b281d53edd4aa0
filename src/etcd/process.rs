//! An etcd of our own, on a directory that an embedded etcd left or will take over.
//!
//! Milvus with `etcd.use.embed` has no etcd that could be asked while it is stopped. A cold capture
//! runs one on a copy of its directory ([`EtcdCopy`](super::EtcdCopy)), as a restore does to see what
//! it replaces, and a restore one on the empty directory that Milvus will use.
//! It must be etcd 3.5: 3.4 refuses a directory of 3.5 ("cluster cannot be downgraded").

use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tokio::process::{Child, Command};

use super::{Etcd, Settings, Status};
use crate::base::error::Context as _;
use crate::base::file_system::program_on_path;
use crate::base::poll::poll;
use crate::{Cause, Error, Result, Side};

/// The data of an etcd below its data directory.
pub const MEMBER: &str = "member";

/// How long a start may take: etcd replays its log first.
const START_TIMEOUT: Duration = Duration::from_mins(1);

/// How long an etcd program may take to tell its version.
const VERSION_TIMEOUT: Duration = Duration::from_secs(10);

/// How long a stop may take before it is enforced.
const STOP_TIMEOUT: Duration = Duration::from_secs(20);

/// A running etcd that serves one directory on loopback, killed when dropped.
#[derive(Debug)]
pub struct Process {
    child: Child,
    #[cfg(test)]
    endpoint: String,
    log: PathBuf,
    side: Side,
}

impl Process {
    /// Starts `binary` on `data_dir`, which is of an instance on `side`, and connects to it; its log
    /// goes to `log`.
    ///
    /// # Errors
    ///
    /// [`Cause::Failed`] with the end of its log when it does not come up.
    pub async fn start(
        binary: &Path,
        data_dir: &Path,
        log: &Path,
        side: Side,
    ) -> Result<(Self, Etcd, Status)> {
        let quota = ["--quota-backend-bytes", "8589934592"];
        Self::start_with(binary, data_dir, log, side, &quota).await
    }

    async fn start_with(
        binary: &Path,
        data_dir: &Path,
        log: &Path,
        side: Side,
        arguments: &[&str],
    ) -> Result<(Self, Etcd, Status)> {
        let (client, peer) = (free_port().on(side)?, free_port().on(side)?);
        let client_url = format!("http://127.0.0.1:{client}");
        let peer_url = format!("http://127.0.0.1:{peer}");
        let starting = |error: std::io::Error| {
            Error::from(error)
                .on(side)
                .context(format!("starting {}", binary.display()))
        };
        let out = std::fs::File::create(log).map_err(starting)?;
        let mut command = Command::new(binary);
        command
            .arg("--data-dir")
            .arg(data_dir)
            .args(["--listen-client-urls", &client_url])
            .args(["--advertise-client-urls", &client_url])
            .args(["--listen-peer-urls", &peer_url])
            .args(["--initial-advertise-peer-urls", &peer_url])
            .args(["--initial-cluster", &format!("default={peer_url}")])
            .args(arguments)
            .env_clear()
            .stdin(Stdio::null())
            .stdout(out.try_clone().map_err(starting)?)
            .stderr(out)
            .kill_on_drop(true);
        crate::sys::kill_with_parent(&mut command);
        let child = command.spawn().map_err(starting)?;
        let mut process = Self {
            child,
            #[cfg(test)]
            endpoint: client_url.clone(),
            log: log.to_owned(),
            side,
        };
        let settings = Settings {
            endpoints: vec![client_url],
            user: None,
            tls: None,
            side,
        };
        let mut refused = None;
        let up = poll(START_TIMEOUT, Duration::from_millis(200), async || {
            if let Ok(Some(status)) = process.child.try_wait() {
                return Err(process.failed(&format!("ended with {status}")));
            }
            let connected = Etcd::connect(&settings).await;
            Ok(connected.map_err(|error| refused = Some(error)).ok())
        });
        match (up.await?, refused) {
            (Some((etcd, status)), _) => Ok((process, etcd, status)),
            (None, refused) => {
                let error = process.failed("did not come up");
                Err(match refused {
                    Some(cause) => error.with_source(cause),
                    None => error,
                })
            }
        }
    }

    /// Stops it in order, so that its directory is complete on disk.
    pub async fn stop(mut self) -> Result<()> {
        if let Some(pid) = self.child.id().and_then(|pid| i32::try_from(pid).ok()) {
            kill(Pid::from_raw(pid), Signal::SIGTERM).map_err(|errno| {
                Error::from(std::io::Error::from(errno))
                    .on(self.side)
                    .context("stopping etcd")
            })?;
        }
        match tokio::time::timeout(STOP_TIMEOUT, self.child.wait()).await {
            Ok(Ok(_)) => Ok(()),
            Ok(Err(error)) => Err(Error::from(error).on(self.side).context("stopping etcd")),
            Err(_) => Err(self.failed("did not stop within 20 s")),
        }
    }

    fn failed(&self, what: &str) -> Error {
        let log = std::fs::read_to_string(&self.log).unwrap_or_default();
        let tail: Vec<&str> = log.lines().rev().take(5).collect();
        let tail: Vec<&str> = tail.into_iter().rev().collect();
        let downgrade = log.contains("cannot be downgraded");
        let error = self.side.error(
            Cause::Failed,
            format!(
                "the etcd that eyrie started {what}; its log ends: {}",
                tail.join(" | ")
            ),
        );
        if downgrade {
            error.with_hint("this directory needs etcd 3.5: set instance.etcd.binary")
        } else {
            error
        }
    }
}

/// The version that an etcd program tells of itself, e.g. `3.5.21`.
///
/// # Errors
///
/// [`Cause::Invalid`] when it does not tell one within 10 s: it is no etcd.
pub async fn program_version(binary: &Path) -> Result<String> {
    let failed = |why: String| {
        let message = format!("{} --version: {why}", binary.display());
        Error::new(Cause::Invalid, message).with_hint("set instance.etcd.binary to an etcd 3.5")
    };
    let mut command = Command::new(binary);
    command
        .arg("--version")
        .env_clear()
        .stdin(Stdio::null())
        .kill_on_drop(true);
    let told = tokio::time::timeout(VERSION_TIMEOUT, command.output()).await;
    let told = told.map_err(|_| failed("it does not end".to_owned()))?;
    let told = told.map_err(|error| failed(error.to_string()))?;
    let text = String::from_utf8_lossy(&told.stdout);
    let version = text
        .lines()
        .find_map(|line| line.strip_prefix("etcd Version:"));
    let version = version.ok_or_else(|| failed("it tells no version of etcd".to_owned()))?;
    Ok(version.trim().to_owned())
}

/// Finds an etcd program: the configured one, or `etcd` on `PATH`.
///
/// # Errors
///
/// [`Cause::Invalid`] when there is none.
pub fn find_binary(configured: Option<&Path>) -> Result<PathBuf> {
    if let Some(path) = configured {
        if path.is_file() {
            return Ok(path.to_owned());
        }
        let message = format!(
            "instance.etcd.binary is {}, which is no file",
            path.display()
        );
        return Err(Error::new(Cause::Invalid, message));
    }
    program_on_path("etcd").ok_or_else(|| {
        Error::new(
            Cause::Invalid,
            "etcd runs inside this Milvus, and no etcd program was found on PATH",
        )
        .with_hint("install etcd 3.5 on this host, or set instance.etcd.binary to it")
    })
}

pub(super) fn free_port() -> Result<u16> {
    TcpListener::bind("127.0.0.1:0")
        .and_then(|listener| listener.local_addr())
        .map(|address| address.port())
        .map_err(|error| Error::from(error).context("looking for a free port"))
}

#[cfg(test)]
impl Process {
    /// Its URL.
    pub(crate) fn endpoint(&self) -> &str {
        &self.endpoint
    }
}

#[cfg(test)]
impl Etcd {
    /// Asks for a password from now on.
    pub(crate) async fn enable_auth(&self, user: &str, password: &str) {
        let enable = |client: etcd_client::Client| async move {
            let mut auth = client.auth_client();
            auth.role_add("root").await?;
            auth.user_add(user, password, None).await?;
            auth.user_grant_role(user, "root").await?;
            auth.auth_enable().await
        };
        self.members.call(enable).await.unwrap();
    }

    /// Makes a user who may read and write what is under `prefix`, and nothing else.
    pub(crate) async fn add_user(&self, user: &str, password: &str, prefix: &str) {
        let add = |client: etcd_client::Client| async move {
            let mut auth = client.auth_client();
            let granted = etcd_client::Permission::read_write(prefix).with_prefix();
            auth.role_add(user).await?;
            auth.role_grant_permission(user, granted).await?;
            auth.user_add(user, password, None).await?;
            auth.user_grant_role(user, user).await
        };
        self.members.call(add).await.unwrap();
    }

    /// Ends a lease and every key under it.
    pub(crate) async fn revoke(&mut self, lease: i64) {
        let revoke =
            |mut client: etcd_client::Client| async move { client.lease_revoke(lease).await };
        self.members.call(revoke).await.unwrap();
    }

    /// Compacts all but the newest revision.
    pub(crate) async fn compact(&mut self) {
        let newest = self.status().await.unwrap().revision;
        // It may be compacted already.
        let compact =
            |mut client: etcd_client::Client| async move { client.compact(newest, None).await };
        if let Err(error) = self.members.call(compact).await {
            assert!(error.to_string().contains("compacted"), "{error}");
        }
    }
}

/// An empty etcd for a test, and the directory that it dies with.
#[cfg(test)]
pub(crate) async fn scratch() -> (Etcd, Process, tempfile::TempDir) {
    scratch_with(&[]).await
}

/// One that is started with `arguments` more.
#[cfg(test)]
pub(crate) async fn scratch_with(arguments: &[&str]) -> (Etcd, Process, tempfile::TempDir) {
    let directory = tempfile::tempdir().unwrap();
    let binary = find_binary(None).unwrap();
    let (data, log) = (directory.path().join("data"), directory.path().join("log"));
    let started = Process::start_with(&binary, &data, &log, Side::Source, arguments);
    let (process, etcd, _) = started.await.unwrap();
    (etcd, process, directory)
}
