//! etcd as eyrie uses it: reading a prefix at one revision, leases, bounded writes.

mod lease;
mod page;
mod process;
mod read;
mod write;

use std::fmt;
use std::time::Duration;

use etcd_client::{Client, ConnectOptions, TlsOptions};

pub use lease::{Lease, LeaseState};
#[cfg(test)]
pub(crate) use process::scratch;
pub use process::{MEMBER, Process, find_binary};
pub use read::{Anchor, PAGE_KEYS, prefix_end};
pub use write::{Applied, Condition, MAX_TXN_BYTES, MAX_TXN_OPS, batches};

use crate::base::secret::Secret;
use crate::{Cause, Error, Result, Side};

/// How long a connection may take to come up.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// How long one call may take; a page of keys or a transaction answers in milliseconds.
const CALL_TIMEOUT: Duration = Duration::from_secs(30);

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
}

/// A connection to an etcd cluster.
#[derive(Clone)]
pub struct Etcd {
    client: Client,
    endpoints: String,
    side: Side,
}

impl fmt::Debug for Etcd {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Etcd({})", self.endpoints)
    }
}

impl Etcd {
    /// Connects and asks for the status, so that a wrong address or password shows here.
    ///
    /// # Errors
    ///
    /// [`Cause::Unavailable`] when no endpoint answers, [`Cause::AccessDenied`] when the user is refused.
    pub async fn connect(settings: &Settings) -> Result<(Self, Status)> {
        let endpoints = settings.endpoints.join(", ");
        let mut options = ConnectOptions::new()
            .with_connect_timeout(CONNECT_TIMEOUT)
            .with_timeout(CALL_TIMEOUT)
            .with_keep_alive(Duration::from_secs(10), Duration::from_secs(5))
            .with_keep_alive_while_idle(true)
            .with_auto_token_refresh(true);
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
        let connect = Client::connect(&settings.endpoints, Some(options));
        let client = tokio::time::timeout(CONNECT_TIMEOUT * 2, connect)
            .await
            .map_err(|_| {
                settings
                    .side
                    .error(
                        Cause::Unavailable,
                        format!("etcd at {endpoints} did not answer within 10 s"),
                    )
                    .with_hint(hint)
            })?
            .map_err(failed)?;
        let mut etcd = Self {
            client,
            endpoints,
            side: settings.side,
        };
        let status = etcd.status().await.map_err(|error| {
            let message = format!("etcd at {} does not answer", etcd.endpoints);
            error.context(message).with_hint(hint)
        })?;
        Ok((etcd, status))
    }

    /// Where this etcd is, for people.
    #[must_use]
    pub fn endpoints(&self) -> &str {
        &self.endpoints
    }

    /// The error of this crate for one of etcd's; `doing` says what was being done.
    fn error(&self, error: &etcd_client::Error, doing: &str) -> Error {
        classify(error, doing).on(self.side)
    }

    /// Version, identity and newest revision.
    pub async fn status(&mut self) -> Result<Status> {
        let status = self
            .client
            .status()
            .await
            .map_err(|e| self.error(&e, "asking etcd for its status"))?;
        let header = status.header();
        Ok(Status {
            version: status.version().to_owned(),
            cluster_id: header.map_or(0, etcd_client::ResponseHeader::cluster_id),
            revision: header.map_or(0, etcd_client::ResponseHeader::revision),
            db_size: status.db_size(),
            no_space: status.errors().iter().any(|e| e.contains("NOSPACE")),
        })
    }
}

/// Turns an etcd error into ours: `doing` says what was being done.
fn classify(error: &etcd_client::Error, doing: &str) -> Error {
    use etcd_client::Error as E;
    use tonic::Code;
    let (kind, text) = match error {
        E::GRpcStatus(status) => {
            let kind = match status.code() {
                Code::Unavailable | Code::DeadlineExceeded | Code::Aborted | Code::Cancelled => {
                    Cause::Unavailable
                }
                Code::Unauthenticated | Code::PermissionDenied => Cause::AccessDenied,
                Code::ResourceExhausted if status.message().contains("space exceeded") => {
                    Cause::NoSpace
                }
                Code::InvalidArgument if status.message().contains("authentication failed") => {
                    Cause::AccessDenied
                }
                _ => Cause::Failed,
            };
            (kind, status.message().to_owned())
        }
        E::TransportError(_) | E::IoError(_) => (Cause::Unavailable, source_chain(error)),
        _ => (Cause::Failed, source_chain(error)),
    };
    Error::new(kind, format!("{doing}: {text}"))
}

fn source_chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        text = format!("{text}: {cause}");
        next = cause.source();
    }
    text
}
