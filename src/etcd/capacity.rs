//! What an etcd has room for: found out before a restore writes to it, and without storing anything.

use etcd_client::{Compare, CompareOp, Error as ClientError, Txn, TxnOp};

use super::{Etcd, TxnLimits};
use crate::Result;

/// Bytes that a value of a transaction takes beside those of a put alone: a comparison with its key,
/// and one more frame. Some bytes fewer than it really is, so that what passes also fits.
const TXN_FRAME: usize = 8;

/// Bytes that the conditions of a transaction may take beside its keys and values.
const CONDITIONS: usize = 8 << 10;

/// What the members that answer say of their databases.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Capacity {
    /// Bytes of the largest database file.
    pub size: u64,
    /// Bytes in use in the fullest; the rest comes back when it is defragmented.
    pub in_use: u64,
    /// The smallest quota in bytes, as etcd 3.6 tells it; before, only the metrics do.
    pub quota: Option<u64>,
    /// Alarms in force, as etcd words them, such as `memberID:… alarm:NOSPACE`.
    pub alarms: Vec<String>,
}

impl Etcd {
    /// Asks every member that answers for the size and the quota of its database.
    pub async fn capacity(&self) -> Capacity {
        let mut found = Capacity::default();
        for status in Box::pin(self.members.ask_all()).await.into_iter().flatten() {
            let bytes = |size: i64| u64::try_from(size).unwrap_or(0);
            found.size = found.size.max(bytes(status.db_size()));
            found.in_use = found.in_use.max(bytes(status.raft_used_db_size()));
            let quota = bytes(status.db_size_quota());
            if quota > 0 {
                found.quota = Some(found.quota.map_or(quota, |least| least.min(quota)));
            }
            found.alarms.extend_from_slice(status.errors());
        }
        found.alarms.sort_unstable();
        found.alarms.dedup();
        found
    }

    /// Whether etcd takes a transaction with `operations` puts below `prefix` of `bytes` together. Its
    /// comparison is never true: limits are checked, nothing is stored.
    ///
    /// It goes to etcd's quota as any other does: ask only where there is room.
    ///
    /// # Errors
    ///
    /// What etcd refuses for another reason, such as rights.
    pub async fn takes(&mut self, prefix: &str, operations: usize, bytes: usize) -> Result<bool> {
        let name = |n: usize| format!("{prefix}probe-{n:04}");
        let each = (bytes / operations.max(1)).saturating_sub(name(0).len());
        let value = vec![0; each];
        let puts: Vec<_> = (0..operations)
            .map(|n| TxnOp::put(name(n), value.clone(), None))
            .collect();
        let never = Compare::version(name(0), CompareOp::Equal, -1);
        let txn = Txn::new().when([never]).and_then(puts);
        let ask = |mut client: etcd_client::Client| {
            let txn = txn.clone();
            async move { client.txn(txn).await }
        };
        match self.members.call(ask).await {
            Ok(_) => Ok(true),
            Err(error) if is_limit(&error) => Ok(false),
            Err(error) => Err(self.error(&error, "asking etcd how much it takes at once")),
        }
    }

    /// The greatest of the usual transactions below `prefix` that etcd takes, by halves; `None` when not even one
    /// operation of 1 KiB.
    ///
    /// # Errors
    ///
    /// Those of [`takes`](Self::takes).
    pub async fn limits(&mut self, prefix: &str) -> Result<Option<TxnLimits>> {
        let mut limits = TxnLimits::default();
        while !self
            .takes(prefix, limits.operations, limits.operations * 64)
            .await?
        {
            if limits.operations == 1 {
                return Ok(None);
            }
            limits.operations /= 2;
        }
        while !self.takes(prefix, 1, limits.bytes + CONDITIONS).await? {
            if limits.bytes <= 1 << 10 {
                return Ok(None);
            }
            limits.bytes /= 2;
        }
        Ok(Some(limits))
    }

    /// Whether etcd takes one key with its value, of `bytes` together, by [`put_large`](Self::put_large).
    ///
    /// # Errors
    ///
    /// Those of [`takes`](Self::takes).
    pub async fn takes_large(&mut self, prefix: &str, bytes: usize) -> Result<bool> {
        // The comparison has the probe's key, and the transaction a frame more than the put with its lease.
        let frame = prefix.len() + TXN_FRAME;
        self.takes(prefix, 1, bytes.saturating_sub(frame)).await
    }
}

/// Whether a transaction was refused for its size or its number of operations.
fn is_limit(error: &ClientError) -> bool {
    let ClientError::GRpcStatus(status) = error else {
        return false;
    };
    [
        "too many operations",
        "request is too large",
        "message larger than max",
    ]
    .iter()
    .any(|limit| status.message().contains(limit))
}
