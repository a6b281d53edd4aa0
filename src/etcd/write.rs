//! Writing to etcd within its limits.

use std::sync::atomic::Ordering;

use etcd_client::{Compare, CompareOp, GetOptions, PutOptions, Txn, TxnOp, TxnOpResponse};
use tracing::debug;

use super::{Etcd, KeyValue, Lease, members};
use crate::Result;

/// A key and its value.
pub type Pair = (Vec<u8>, Vec<u8>);

/// Operations in one transaction: Milvus itself uses 64, etcd's default limit is 128
/// (`--max-txn-ops`).
pub const MAX_TXN_OPS: usize = 64;

/// Bytes of keys and values in one transaction, below etcd's default `--max-request-bytes` of
/// 1.5 MiB.
pub const MAX_TXN_BYTES: usize = 1 << 20;

/// How much goes into one transaction.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TxnLimits {
    /// Operations.
    pub operations: usize,
    /// Bytes of keys and values; a single larger value stands alone.
    pub bytes: usize,
}

impl Default for TxnLimits {
    fn default() -> Self {
        Self {
            operations: MAX_TXN_OPS,
            bytes: MAX_TXN_BYTES,
        }
    }
}

/// Cuts `keys` into batches that fit one transaction each; a single larger value stands alone.
pub fn batches<'k>(
    keys: impl IntoIterator<Item = &'k Pair>,
    limits: TxnLimits,
) -> impl Iterator<Item = Vec<Pair>> {
    let mut rest = keys.into_iter().peekable();
    std::iter::from_fn(move || {
        let mut batch = vec![rest.next()?.clone()];
        let mut bytes = size(&batch[0]);
        while batch.len() < limits.operations
            && let Some(pair) = rest.next_if(|pair| bytes + size(pair) <= limits.bytes)
        {
            bytes += size(pair);
            batch.push(pair.clone());
        }
        Some(batch)
    })
}

/// Bytes of a key and its value.
#[must_use]
pub fn size((key, value): &Pair) -> usize {
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
    /// No key from the first up to, but not at, the second was put after this revision.
    UnchangedIn(Vec<u8>, Vec<u8>, i64),
}

impl Condition {
    fn compare(self) -> Compare {
        match self {
            Self::Absent(key) => Compare::create_revision(key, CompareOp::Equal, 0),
            Self::NoneIn(from, to) => {
                Compare::create_revision(from, CompareOp::Equal, 0).with_range(to)
            }
            Self::Equals(key, value) => Compare::value(key, CompareOp::Equal, value),
            Self::UnchangedIn(from, to, revision) => {
                Compare::mod_revision(from, CompareOp::Less, revision + 1).with_range(to)
            }
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

/// What a transaction does.
enum Change<'a> {
    Put(&'a [Pair], i64),
    Delete(&'a [Vec<u8>]),
    /// Takes the lease from a key, whose value stays.
    Keep(&'a [u8]),
    /// Nothing. A transaction without operations is answered from what one member knows, which may be
    /// old; one that reads a key is not.
    Look(&'a [u8]),
    #[cfg(any(test, feature = "testing"))]
    DeletePrefix(&'a [u8]),
}

impl Change<'_> {
    fn operations(&self) -> Vec<TxnOp> {
        match self {
            Self::Put(pairs, lease) => {
                let options = (*lease != 0).then(|| PutOptions::new().with_lease(*lease));
                let put = |(key, value): &Pair| {
                    TxnOp::put(key.as_slice(), value.as_slice(), options.clone())
                };
                pairs.iter().map(put).collect()
            }
            Self::Delete(keys) => {
                let delete = |key: &Vec<u8>| TxnOp::delete(key.as_slice(), None);
                keys.iter().map(delete).collect()
            }
            Self::Look(key) => {
                let options = GetOptions::new().with_keys_only();
                vec![TxnOp::get(*key, Some(options))]
            }
            Self::Keep(key) => {
                let options = PutOptions::new().with_ignore_value();
                vec![TxnOp::put(*key, "", Some(options))]
            }
            #[cfg(any(test, feature = "testing"))]
            Self::DeletePrefix(prefix) => {
                let options = etcd_client::DeleteOptions::new().with_prefix();
                vec![TxnOp::delete(*prefix, Some(options))]
            }
        }
    }

    /// What shows whether the transaction took place: of puts one key, as all or none are there.
    fn traces(&self) -> Vec<TxnOp> {
        match self {
            Self::Put(pairs, _) => {
                let first = pairs.iter().take(1);
                first
                    .map(|(key, _)| TxnOp::get(key.as_slice(), None))
                    .collect()
            }
            Self::Delete(keys) => {
                let options = GetOptions::new().with_keys_only();
                let get = |key: &Vec<u8>| TxnOp::get(key.as_slice(), Some(options.clone()));
                keys.iter().map(get).collect()
            }
            Self::Keep(key) | Self::Look(key) => {
                let options = GetOptions::new().with_keys_only();
                vec![TxnOp::get(*key, Some(options))]
            }
            #[cfg(any(test, feature = "testing"))]
            Self::DeletePrefix(prefix) => {
                let options = GetOptions::new()
                    .with_prefix()
                    .with_keys_only()
                    .with_limit(1);
                vec![TxnOp::get(*prefix, Some(options))]
            }
        }
    }

    /// Whether what was found of its traces shows that it took place after the revision `since`.
    fn took_place(&self, found: &[etcd_client::KeyValue], since: i64) -> bool {
        match self {
            Self::Put(pairs, lease) => pairs.iter().take(1).any(|(key, value)| {
                found.iter().any(|kv| {
                    kv.key() == key.as_slice()
                        && kv.value() == value.as_slice()
                        && kv.lease() == *lease
                        && kv.mod_revision() > since
                })
            }),
            Self::Keep(_) => found
                .iter()
                .any(|kv| kv.lease() == 0 && kv.mod_revision() > since),
            // Made again: it changes nothing.
            Self::Look(_) => false,
            _ => found.is_empty(),
        }
    }
}

impl Etcd {
    /// Puts keys in one transaction when all `conditions` hold, under `lease` when one is given.
    ///
    /// `doing` names the write in errors. When an answer is lost it is looked up whether the transaction
    /// took place before it is made again. After [`crate::Cause::Unavailable`] that is unknown.
    pub async fn put_all(
        &mut self,
        doing: &str,
        conditions: Vec<Condition>,
        keys: &[(Vec<u8>, Vec<u8>)],
        lease: Option<&Lease>,
    ) -> Result<Applied> {
        let put = Change::Put(keys, lease.map_or(0, Lease::id));
        self.transaction(doing, conditions, put).await
    }

    /// Whether all `conditions` hold now; `key` is read beside them.
    ///
    /// # Errors
    ///
    /// What etcd fails with.
    pub async fn holds(
        &mut self,
        doing: &str,
        conditions: Vec<Condition>,
        key: &[u8],
    ) -> Result<Applied> {
        self.transaction(doing, conditions, Change::Look(key)).await
    }

    /// Puts one key whose value leaves no room for conditions beside it, when all `conditions` hold: first under
    /// `lease`, so that it is refused when the lease has ended and goes with it when this process dies,
    /// then for good in a transaction that names the key only.
    ///
    /// # Errors
    ///
    /// As [`put_all`](Self::put_all).
    pub async fn put_large(
        &mut self,
        doing: &str,
        conditions: Vec<Condition>,
        (key, value): &Pair,
        lease: &Lease,
    ) -> Result<Applied> {
        if self.holds(doing, conditions.clone(), key).await? == Applied::No {
            return Ok(Applied::No);
        }
        let put = |mut client: etcd_client::Client| {
            let options = PutOptions::new().with_lease(lease.id());
            let (key, value) = (key.clone(), value.clone());
            async move { client.put(key, value, Some(options)).await }
        };
        match self.members.call(put).await {
            Ok(_) => {}
            Err(error) if super::lease::is_gone(&error) => return Ok(Applied::No),
            Err(error) => return Err(self.error(&error, doing)),
        }
        self.transaction(doing, conditions, Change::Keep(key)).await
    }

    /// Deletes keys in one transaction when all `conditions` hold. Lost answers are looked up as those
    /// of [`put_all`](Self::put_all).
    pub async fn delete_all(
        &mut self,
        doing: &str,
        conditions: Vec<Condition>,
        keys: &[Vec<u8>],
    ) -> Result<Applied> {
        self.transaction(doing, conditions, Change::Delete(keys))
            .await
    }

    /// Deletes every key that begins with `prefix`, when all `conditions` hold.
    #[cfg(any(test, feature = "testing"))]
    pub async fn delete_prefix(
        &mut self,
        doing: &str,
        conditions: Vec<Condition>,
        prefix: &[u8],
    ) -> Result<Applied> {
        let delete = Change::DeletePrefix(prefix);
        self.transaction(doing, conditions, delete).await
    }

    async fn transaction(
        &mut self,
        doing: &str,
        conditions: Vec<Condition>,
        change: Change<'_>,
    ) -> Result<Applied> {
        let compares: Vec<Compare> = conditions.into_iter().map(Condition::compare).collect();
        let txn = Txn::new().when(compares).and_then(change.operations());
        let since = self.seen.load(Ordering::Relaxed);
        let mut attempts = self.members.attempts();
        let mut in_doubt = false;
        loop {
            let commit = |mut client: etcd_client::Client| {
                let txn = txn.clone();
                async move { client.txn(txn).await }
            };
            match attempts.attempt(commit).await {
                Ok(answer) => {
                    let revision = self.noted(answer.header());
                    if answer.succeeded() {
                        return Ok(Applied::At(revision));
                    }
                    // The attempt whose answer was lost may be what keeps this one from taking place.
                    if !in_doubt {
                        return Ok(Applied::No);
                    }
                    let found = self.look_up(doing, &change, since).await?;
                    return Ok(found.unwrap_or(Applied::No));
                }
                Err(error) => {
                    let passing = members::is_passing(&error);
                    debug!(%error, doing, "a transaction failed");
                    let gone_on = attempts.go_on(error).await;
                    gone_on.map_err(|e| self.error(&e, doing))?;
                    in_doubt |= passing;
                }
            }
            if let Some(applied) = self.look_up(doing, &change, since).await? {
                return Ok(applied);
            }
        }
    }

    /// Whether a transaction whose answer was lost took place.
    async fn look_up(
        &self,
        doing: &str,
        change: &Change<'_>,
        since: i64,
    ) -> Result<Option<Applied>> {
        let traces = Txn::new().and_then(change.traces());
        let look = |mut client: etcd_client::Client| {
            let traces = traces.clone();
            async move { client.txn(traces).await }
        };
        let answer = self.members.call(look).await.map_err(|error| {
            let doing = format!("{doing}; whether it took place is unknown");
            self.error(&error, &doing)
        })?;
        let revision = self.noted(answer.header());
        let found: Vec<_> = answer
            .op_responses()
            .into_iter()
            .filter_map(|answer| match answer {
                TxnOpResponse::Get(mut got) => Some(got.take_kvs()),
                _ => None,
            })
            .flatten()
            .collect();
        if !change.took_place(&found, since) {
            return Ok(None);
        }
        let put = found.first().map(etcd_client::KeyValue::mod_revision);
        Ok(Some(Applied::At(put.unwrap_or(revision))))
    }
}

impl From<&KeyValue> for (Vec<u8>, Vec<u8>) {
    fn from(kv: &KeyValue) -> Self {
        (kv.key.clone(), kv.value.clone())
    }
}

#[cfg(test)]
mod tests {
    use super::{MAX_TXN_BYTES, MAX_TXN_OPS, TxnLimits, batches};

    fn key(size: usize) -> (Vec<u8>, Vec<u8>) {
        (b"k".to_vec(), vec![0; size])
    }

    #[test]
    fn batches_respect_both_limits_and_lose_nothing() {
        let mut keys = vec![key(10); 150];
        keys.push(key(MAX_TXN_BYTES * 2));
        keys.extend(vec![key(MAX_TXN_BYTES / 2); 3]);
        let cut: Vec<_> = batches(&keys, TxnLimits::default()).collect();
        assert_eq!(cut.concat(), keys);
        for batch in &cut {
            let bytes: usize = batch.iter().map(|(k, v)| k.len() + v.len()).sum();
            assert!(batch.len() <= MAX_TXN_OPS);
            assert!(bytes <= MAX_TXN_BYTES || batch.len() == 1);
        }
    }
}
