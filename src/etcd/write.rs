//! Writing to etcd within its limits.

use etcd_client::{Compare, CompareOp, PutOptions, Txn, TxnOp};

use super::{Etcd, KeyValue, Lease};
use crate::Result;

/// A key and its value.
pub type Pair = (Vec<u8>, Vec<u8>);

/// Operations in one transaction: Milvus itself uses 64, etcd's default limit is 128
/// (`--max-txn-ops`).
pub const MAX_TXN_OPS: usize = 64;

/// Bytes of keys and values in one transaction, below etcd's default `--max-request-bytes` of
/// 1.5 MiB.
pub const MAX_TXN_BYTES: usize = 1 << 20;

/// Cuts `keys` into batches that fit one transaction each; a single larger value stands alone.
pub fn batches<'k>(keys: impl IntoIterator<Item = &'k Pair>) -> impl Iterator<Item = Vec<Pair>> {
    let mut rest = keys.into_iter().peekable();
    std::iter::from_fn(move || {
        let mut batch = vec![rest.next()?.clone()];
        let mut bytes = size(&batch[0]);
        while batch.len() < MAX_TXN_OPS
            && let Some(pair) = rest.next_if(|pair| bytes + size(pair) <= MAX_TXN_BYTES)
        {
            bytes += size(pair);
            batch.push(pair.clone());
        }
        Some(batch)
    })
}

fn size((key, value): &Pair) -> usize {
    key.len() + value.len()
}

/// A condition of a transaction.
#[derive(Debug, Clone)]
pub enum Condition {
    /// The key does not exist.
    Absent(Vec<u8>),
    /// There is no key from the first up to, but not at, the second.
    NoneIn(Vec<u8>, Vec<u8>),
    /// The key exists and has this value.
    Equals(Vec<u8>, Vec<u8>),
}

impl Condition {
    fn compare(self) -> Compare {
        match self {
            Self::Absent(key) => Compare::create_revision(key, CompareOp::Equal, 0),
            Self::NoneIn(from, to) => {
                Compare::create_revision(from, CompareOp::Equal, 0).with_range(to)
            }
            Self::Equals(key, value) => Compare::value(key, CompareOp::Equal, value),
        }
    }
}

/// Whether a conditional transaction took place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Applied {
    /// Yes, and this is its revision.
    At(i64),
    /// No: a condition did not hold, and nothing was changed.
    No,
}

impl Etcd {
    /// Puts keys in one transaction when all `conditions` hold, under `lease` when one is given.
    ///
    /// `doing` names the write in errors. After [`crate::Cause::Unavailable`] it is unknown whether
    /// the transaction took place.
    pub async fn put_all(
        &mut self,
        doing: &str,
        conditions: Vec<Condition>,
        keys: &[(Vec<u8>, Vec<u8>)],
        lease: Option<&Lease>,
    ) -> Result<Applied> {
        let options = lease.map(|lease| PutOptions::new().with_lease(lease.id()));
        let puts: Vec<TxnOp> = keys
            .iter()
            .map(|(key, value)| TxnOp::put(key.as_slice(), value.as_slice(), options.clone()))
            .collect();
        self.transaction(doing, conditions, puts).await
    }

    /// Deletes keys in one transaction when all `conditions` hold.
    pub async fn delete_all(
        &mut self,
        doing: &str,
        conditions: Vec<Condition>,
        keys: &[Vec<u8>],
    ) -> Result<Applied> {
        let deletes: Vec<TxnOp> = keys
            .iter()
            .map(|key| TxnOp::delete(key.as_slice(), None))
            .collect();
        self.transaction(doing, conditions, deletes).await
    }

    /// Deletes every key that begins with `prefix`, when all `conditions` hold.
    #[cfg(any(test, feature = "testing"))]
    pub async fn delete_prefix(
        &mut self,
        doing: &str,
        conditions: Vec<Condition>,
        prefix: &[u8],
    ) -> Result<Applied> {
        let options = etcd_client::DeleteOptions::new().with_prefix();
        let delete = TxnOp::delete(prefix, Some(options));
        self.transaction(doing, conditions, vec![delete]).await
    }

    async fn transaction(
        &mut self,
        doing: &str,
        conditions: Vec<Condition>,
        operations: Vec<TxnOp>,
    ) -> Result<Applied> {
        let compares: Vec<Compare> = conditions.into_iter().map(Condition::compare).collect();
        let txn = Txn::new().when(compares).and_then(operations);
        let answer = self
            .client
            .txn(txn)
            .await
            .map_err(|e| self.error(&e, doing))?;
        let revision = answer
            .header()
            .map_or(0, etcd_client::ResponseHeader::revision);
        Ok(if answer.succeeded() {
            Applied::At(revision)
        } else {
            Applied::No
        })
    }
}

impl From<&KeyValue> for (Vec<u8>, Vec<u8>) {
    fn from(kv: &KeyValue) -> Self {
        (kv.key.clone(), kv.value.clone())
    }
}

#[cfg(test)]
mod tests {
    use super::{MAX_TXN_BYTES, MAX_TXN_OPS, batches};

    fn key(size: usize) -> (Vec<u8>, Vec<u8>) {
        (b"k".to_vec(), vec![0; size])
    }

    #[test]
    fn batches_respect_both_limits_and_lose_nothing() {
        let mut keys = vec![key(10); 150];
        keys.push(key(MAX_TXN_BYTES * 2));
        keys.extend(vec![key(MAX_TXN_BYTES / 2); 3]);
        let cut: Vec<_> = batches(&keys).collect();
        assert_eq!(cut.concat(), keys);
        for batch in &cut {
            let bytes: usize = batch.iter().map(|(k, v)| k.len() + v.len()).sum();
            assert!(batch.len() <= MAX_TXN_OPS);
            assert!(bytes <= MAX_TXN_BYTES || batch.len() == 1);
        }
    }
}
