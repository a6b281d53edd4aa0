//! A lease that a background task keeps alive and that ends by itself when this process does (I3).

use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::task::JoinHandle;
use tracing::{debug, warn};

use super::Etcd;
use crate::base::env::{Env, lock};
use crate::{Cause, Result};

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
    released: bool,
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
        let granted = self
            .client
            .lease_grant(seconds, None)
            .await
            .map_err(|e| self.error(&e, "asking etcd for a lease"))?;
        let ttl = Duration::from_secs(u64::try_from(granted.ttl()).unwrap_or(0));
        let renewed = Arc::new(Mutex::new(Renewal {
            at: asked_at,
            gone: false,
        }));
        let task = tokio::spawn(keep_alive(
            self.clone(),
            granted.id(),
            ttl,
            env.clone(),
            renewed.clone(),
        ));
        Ok(Lease {
            id: granted.id(),
            ttl,
            etcd: self.clone(),
            env: env.clone(),
            renewed,
            task,
            released: false,
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
            LeaseState::Lost => Err(self.etcd.side.error(Cause::Refused,
                format!("the lease of the {what} was lost: etcd did not renew it within {} s", self.ttl.as_secs()),
            )
            .with_hint("is this host or etcd overloaded, or was the process suspended? nothing was left behind; run the backup again")),
        }
    }

    /// Ends the lease and with it every key under it.
    ///
    /// After an error the keys may live until the lease runs out.
    pub async fn release(mut self) -> Result<()> {
        self.task.abort();
        let revoked = Box::pin(revoke(self.etcd.clone(), self.id)).await;
        // Only now: who drops this future leaves the revocation to the drop.
        self.released = true;
        revoked
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        self.task.abort();
        if self.released {
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

async fn revoke(mut etcd: Etcd, id: i64) -> Result<()> {
    match etcd.client.lease_revoke(id).await {
        Ok(_) => Ok(()),
        Err(etcd_client::Error::GRpcStatus(status))
            if status.message().contains("lease not found") =>
        {
            Ok(())
        }
        Err(error) => Err(etcd.error(&error, "revoking a lease in etcd")),
    }
}

async fn keep_alive(etcd: Etcd, id: i64, ttl: Duration, env: Env, renewed: Arc<Mutex<Renewal>>) {
    let pause = ttl / 3;
    loop {
        tokio::time::sleep(pause).await;
        if let Err(error) = keep_alive_stream(&etcd, id, pause, &env, &renewed).await {
            debug!(%error, "the keep-alive stream broke; opening another");
        }
        if lock(&renewed).gone {
            return;
        }
    }
}

async fn keep_alive_stream(
    etcd: &Etcd,
    id: i64,
    pause: Duration,
    env: &Env,
    renewed: &Mutex<Renewal>,
) -> Result<()> {
    let renewing = |e: etcd_client::Error| etcd.error(&e, "renewing a lease in etcd");
    let mut client = etcd.client.lease_client();
    loop {
        let (mut keeper, mut answers) = client.keep_alive(id).await.map_err(renewing)?;
        loop {
            let asked_at = env.boottime();
            keeper.keep_alive().await.map_err(renewing)?;
            let Some(answer) = answers.message().await.map_err(renewing)? else {
                break;
            };
            if answer.ttl() <= 0 {
                lock(renewed).gone = true;
                return Ok(());
            }
            lock(renewed).at = asked_at;
            tokio::time::sleep(pause).await;
        }
    }
}
