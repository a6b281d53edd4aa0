//! A lease that a background task keeps alive and that ends by itself when this process does (I3).

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::task::JoinHandle;
use tracing::{debug, warn};

use etcd_client::{Client, Error as ClientError, LeaseGrantOptions};

use super::Etcd;
use crate::base::env::{Env, lock};
use crate::{Cause, Error, Result};

/// Between two attempts to renew a lease when no member of etcd does.
const RENEW_PAUSE: Duration = Duration::from_secs(1);

/// Whether a lease still holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LeaseState {
    /// Renewed within its time to live.
    Held,
    /// Not renewed in time, or etcd said that it is gone. It never comes back.
    Lost,
}

/// An etcd lease, renewed at a third of its time to live until released, dropped or lost.
///
/// Dropping it begins a revocation without waiting; should that fail, the lease runs out by itself.
#[derive(Debug)]
pub struct Lease {
    id: i64,
    ttl: Duration,
    etcd: Etcd,
    env: Env,
    renewed: Arc<Mutex<Renewal>>,
    task: JoinHandle<()>,
    released: AtomicBool,
}

#[derive(Debug)]
struct Renewal {
    at: Duration,
    gone: bool,
}

impl Etcd {
    /// Grants a lease of `ttl` (whole seconds) and keeps it alive.
    pub async fn lease(&mut self, ttl: Duration, env: &Env) -> Result<Lease> {
        let asked_at = env.boottime();
        let seconds = i64::try_from(ttl.as_secs()).unwrap_or(i64::MAX);
        // An id of our own: when an answer is lost, the next one tells that the lease is there.
        let id = new_id(env);
        let grant = |mut client: Client| async move {
            let options = LeaseGrantOptions::new().with_id(id);
            match client.lease_grant(seconds, Some(options)).await {
                Ok(granted) => Ok(granted.ttl()),
                Err(ClientError::GRpcStatus(status))
                    if status.message().contains("lease already exists") =>
                {
                    Ok(seconds)
                }
                Err(error) => Err(error),
            }
        };
        let granted = self.members.call(grant).await;
        let granted = granted.map_err(|e| self.error(&e, "asking etcd for a lease"))?;
        let ttl = Duration::from_secs(u64::try_from(granted).unwrap_or(0));
        let renewed = Arc::new(Mutex::new(Renewal {
            at: asked_at,
            gone: false,
        }));
        let task = tokio::spawn(keep_alive(
            self.clone(),
            id,
            ttl,
            env.clone(),
            renewed.clone(),
        ));
        Ok(Lease {
            id,
            ttl,
            etcd: self.clone(),
            env: env.clone(),
            renewed,
            task,
            released: AtomicBool::new(false),
        })
    }
}

impl Lease {
    /// The lease's id, as keys under it show it.
    #[must_use]
    pub const fn id(&self) -> i64 {
        self.id
    }

    /// Whether the lease holds now, judged by this host's boot-time clock from before each renewal
    /// was sent, so never later than etcd judges.
    #[must_use]
    pub fn state(&self) -> LeaseState {
        let renewal = lock(&self.renewed);
        if renewal.gone || self.env.boottime().saturating_sub(renewal.at) >= self.ttl {
            LeaseState::Lost
        } else {
            LeaseState::Held
        }
    }

    /// Fails when the lease was lost.
    ///
    /// # Errors
    ///
    /// [`Cause::Refused`]: what hangs on the lease may have been gone for a while.
    pub fn check(&self, what: &str) -> Result<()> {
        match self.state() {
            LeaseState::Held => Ok(()),
            LeaseState::Lost => Err(self.lost(
                what,
                &format!("etcd did not renew it within {} s", self.ttl.as_secs()),
            )),
        }
    }

    fn lost(&self, what: &str, why: &str) -> Error {
        let message = format!("the lease of the {what} was lost: {why}");
        self.etcd.side.error(Cause::Refused, message).with_hint(
            "is this host or etcd overloaded, or was the process suspended? nothing was left behind; run the backup again",
        )
    }

    /// What a write under this lease failed with; where etcd does not have the lease any more, that it was lost.
    #[must_use]
    pub fn failed(&self, what: &str, error: Error) -> Error {
        if error.chain().contains("lease not found") {
            self.lost(what, "etcd does not have it any more")
                .with_source(error)
        } else {
            error
        }
    }

    /// Ends the lease and with it every key under it.
    ///
    /// After an error the keys may live until the lease runs out.
    pub async fn release(&self) -> Result<()> {
        self.task.abort();
        let revoked = Box::pin(revoke(self.etcd.clone(), self.id)).await;
        // Only now: who drops this future leaves the revocation to the drop.
        self.released.store(true, Ordering::Release);
        revoked
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        self.task.abort();
        if self.released.load(Ordering::Acquire) {
            return;
        }
        let (etcd, id) = (self.etcd.clone(), self.id);
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            runtime.spawn(async move {
                if let Err(error) = revoke(etcd, id).await {
                    warn!(%error, "a lease was not revoked; it runs out by itself");
                }
            });
        }
    }
}

/// A random lease id: etcd's are positive.
fn new_id(env: &Env) -> i64 {
    let mut bytes = [0; 8];
    bytes.copy_from_slice(&env.id()[..8]);
    (i64::from_le_bytes(bytes) & i64::MAX).max(1)
}

async fn revoke(etcd: Etcd, id: i64) -> Result<()> {
    let revoke = |mut client: Client| async move { client.lease_revoke(id).await };
    match etcd.members.call(revoke).await {
        Ok(_) => Ok(()),
        Err(error) if is_gone(&error) => Ok(()),
        Err(error) => Err(etcd.error(&error, "revoking a lease in etcd")),
    }
}

async fn keep_alive(etcd: Etcd, id: i64, ttl: Duration, env: Env, renewed: Arc<Mutex<Renewal>>) {
    let pause = ttl / 3;
    loop {
        tokio::time::sleep(pause).await;
        let renew = |client: Client| {
            let asked_at = env.boottime();
            async move {
                // Each renewal has a stream of its own, so that each can go to another member.
                client.lease_client().keep_alive(id).await?;
                Ok(asked_at)
            }
        };
        loop {
            match etcd.members.call(renew).await {
                Ok(asked_at) => {
                    lock(&renewed).at = asked_at;
                    break;
                }
                Err(error) if is_gone(&error) => {
                    lock(&renewed).gone = true;
                    return;
                }
                Err(error) => {
                    debug!(%error, "a lease was not renewed; trying again");
                    tokio::time::sleep(RENEW_PAUSE).await;
                }
            }
        }
    }
}

/// Whether etcd says that a lease is not there.
pub(super) fn is_gone(error: &ClientError) -> bool {
    match error {
        ClientError::GRpcStatus(status) => status.message().contains("lease not found"),
        ClientError::LeaseKeepAliveError(text) => text.contains("lease not found"),
        _ => false,
    }
}
