//! etcd as eyrie uses it: reading a prefix at one revision, leases, bounded writes.

mod capacity;
mod lease;
mod members;
mod mirror;
mod pages;
mod process;
mod read;
mod watch;
mod write;

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

use etcd_client::{ConnectOptions, TlsOptions};

#[cfg(test)]
pub(crate) mod members_tests;
#[cfg(test)]
mod mirror_tests;

pub use capacity::Capacity;
pub use lease::{Lease, LeaseState};
pub use mirror::{Compared, Mirror, Timed};
pub use pages::{Pages, prefix_end};
pub use process::{MEMBER, Process, find_binary, program_version};
#[cfg(test)]
pub(crate) use process::{scratch, scratch_with};
pub use read::Anchor;
pub use watch::Change;
pub use write::{Applied, Condition, MAX_TXN_BYTES, MAX_TXN_OPS, Pair, TxnLimits, batches, size};

use crate::base::secret::Secret;
use crate::{Cause, Error, Result, Side};
use members::{Greeting, Members};

/// Where an etcd is and how to be let in.
#[derive(Debug, Clone)]
pub struct Settings {
    /// `host:port` or URLs.
    pub endpoints: Vec<String>,
    /// User name and password under etcd authentication.
    pub user: Option<(String, Secret)>,
    /// TLS, when etcd listens with it.
    pub tls: Option<TlsOptions>,
    /// Whose etcd it is: its errors are on that side.
    pub side: Side,
}

/// One etcd key as it was at a revision.
#[derive(Clone, PartialEq, Eq, Default)]
pub struct KeyValue {
    /// The full key, the instance's root included.
    pub key: Vec<u8>,
    /// The value.
    pub value: Vec<u8>,
    /// The revision that created this incarnation of the key.
    pub create_revision: i64,
    /// The revision of the last change.
    pub mod_revision: i64,
    /// Changes since creation, the creation included.
    pub version: i64,
    /// The lease that the key hangs on, 0 for none.
    pub lease: i64,
}

impl KeyValue {
    /// A key without revisions or lease.
    #[must_use]
    pub fn new(key: impl Into<Vec<u8>>, value: impl Into<Vec<u8>>) -> Self {
        Self {
            key: key.into(),
            value: value.into(),
            ..Self::default()
        }
    }
}

impl fmt::Debug for KeyValue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} ({} bytes, revision {})",
            String::from_utf8_lossy(&self.key),
            self.value.len(),
            self.mod_revision
        )
    }
}

/// The way out of the alarm `NOSPACE`.
pub const MAKE_ROOM: &str =
    "compact and defragment etcd, or raise its quota, then `etcdctl alarm disarm`";

/// What an etcd says of itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Status {
    /// Server version, e.g. `3.5.21`.
    pub version: String,
    /// The cluster's id: the same for all members, different after a restore.
    pub cluster_id: u64,
    /// The revision of the newest change.
    pub revision: i64,
    /// Size of the database in bytes.
    pub db_size: i64,
    /// Whether it is at its quota (alarm `NOSPACE`): it takes no writes then.
    pub no_space: bool,
    /// Configured members that were passed over, each with the reason, for people.
    pub silent: Vec<String>,
}

/// A connection to an etcd cluster: of its members the one that answers is asked, and each call is made
/// again on another one when it does not.
///
/// With several members a call gives up after 10 s in which none answered: there is no quorum then. A
/// single one is waited for up to 30 s, as it may be restarted.
#[derive(Clone)]
pub struct Etcd {
    members: Arc<Members>,
    /// The newest revision that an answer told.
    seen: Arc<AtomicI64>,
    endpoints: String,
    side: Side,
}

impl fmt::Debug for Etcd {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Etcd({})", self.endpoints)
    }
}

impl Etcd {
    /// Connects and asks every member for its status, so that a wrong address or password shows here. Members
    /// that do not answer within seconds are passed over, with a warning.
    ///
    /// # Errors
    ///
    /// [`Cause::Unavailable`] when no member answers or they have no quorum, with what each said,
    /// [`Cause::AccessDenied`] when the user is refused, [`Cause::Invalid`] when the members are of several
    /// clusters.
    pub async fn connect(settings: &Settings) -> Result<(Self, Status)> {
        let endpoints = settings.endpoints.join(", ");
        let mut options = ConnectOptions::new();
        if let Some((user, password)) = &settings.user {
            options = options.with_user(user.clone(), password.expose());
        }
        if let Some(tls) = &settings.tls {
            options = options.with_tls(tls.clone());
        }
        let hint = "check instance.etcd (or etcd.* in milvus.yaml): endpoints, tls, username and password_file";
        let failed = |error: etcd_client::Error| {
            classify(&error, &format!("connecting to etcd at {endpoints}"))
                .on(settings.side)
                .with_hint(hint)
        };
        let members = Members::new(&settings.endpoints, options);
        let greeting = members.greet().await.map_err(failed)?;
        let etcd = Self {
            members: Arc::new(members),
            seen: Arc::default(),
            endpoints: endpoints.clone(),
            side: settings.side,
        };
        let Greeting { status, silent } = greeting;
        let status = Status {
            silent,
            ..etcd.told(&status)
        };
        Ok((etcd, status))
    }

    /// Where this etcd is, for people.
    #[must_use]
    pub fn endpoints(&self) -> &str {
        &self.endpoints
    }

    /// The error of this crate for one of etcd's; `doing` says what was being done.
    fn error(&self, error: &etcd_client::Error, doing: &str) -> Error {
        let error = classify(error, doing).on(self.side);
        if error.cause() == Cause::NoSpace {
            return error.with_hint(MAKE_ROOM);
        }
        error
    }

    /// Version, identity and newest revision.
    pub async fn status(&mut self) -> Result<Status> {
        let status = self
            .members
            .call(|mut client| async move { client.status().await })
            .await
            .map_err(|e| self.error(&e, "asking etcd for its status"))?;
        Ok(self.told(&status))
    }

    fn told(&self, status: &etcd_client::StatusResponse) -> Status {
        let header = status.header();
        Status {
            version: status.version().to_owned(),
            cluster_id: header.map_or(0, etcd_client::ResponseHeader::cluster_id),
            revision: self.noted(header),
            db_size: status.db_size(),
            no_space: status.errors().iter().any(|e| e.contains("NOSPACE")),
            silent: vec![],
        }
    }

    /// The revision that an answer tells, which is noted.
    fn noted(&self, header: Option<&etcd_client::ResponseHeader>) -> i64 {
        let revision = header.map_or(0, etcd_client::ResponseHeader::revision);
        self.seen.fetch_max(revision, Ordering::Relaxed);
        revision
    }
}

/// Turns an etcd error into ours: `doing` says what was being done.
fn classify(error: &etcd_client::Error, doing: &str) -> Error {
    use etcd_client::Error as E;
    use tonic::Code;
    let cause = match error {
        _ if members::is_passing(error) => Cause::Unavailable,
        E::GRpcStatus(status) => match status.code() {
            Code::Unauthenticated | Code::PermissionDenied => Cause::AccessDenied,
            Code::ResourceExhausted if status.message().contains("space exceeded") => {
                Cause::NoSpace
            }
            Code::InvalidArgument if status.message().contains("authentication failed") => {
                Cause::AccessDenied
            }
            _ => Cause::Failed,
        },
        E::InvalidArgs(_) => Cause::Invalid,
        _ => Cause::Failed,
    };
    Error::new(cause, format!("{doing}: {}", members::said(error)))
}
