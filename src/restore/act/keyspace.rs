//! What a restore asks of an etcd: a small trait, so that a crash at write 317 is an ordinary test.

use std::time::Duration;

use async_trait::async_trait;

use crate::base::env::Env;
use crate::base::poll::poll;
use crate::etcd::{Anchor, Applied, Condition, Etcd, KeyValue, Lease, Pages, Pair};
use crate::restore::plan::target_keys::Pairs;
use crate::{Cause, Error, Result, Side};

/// How long the lock of a dead restore outlives it.
const LOCK_TTL: Duration = Duration::from_secs(20);

/// How long the lock of another restore is waited for: a dead one's is gone by then.
const LOCK_WAIT: Duration = Duration::from_secs(LOCK_TTL.as_secs() + 10);

/// The etcd that a restore writes.
#[async_trait]
pub trait Keyspace: Send {
    /// Every key that begins with `prefix`, at one revision.
    async fn read(&mut self, prefix: &str) -> Result<Anchor>;

    /// The next page of keys; `None` when there are no more.
    async fn page(&mut self, pages: &mut Pages) -> Result<Option<Vec<KeyValue>>>;

    /// Puts keys in one transaction when all `conditions` hold.
    ///
    /// After [`Cause::Unavailable`] it is unknown whether it took place.
    async fn put(
        &mut self,
        doing: &str,
        conditions: Vec<Condition>,
        keys: &Pairs,
    ) -> Result<Applied>;

    /// Whether all `conditions` hold now; `key` is one that may be read.
    async fn holds(
        &mut self,
        doing: &str,
        conditions: Vec<Condition>,
        key: &[u8],
    ) -> Result<Applied>;

    /// Puts one key that is too large to share a transaction with conditions, when they hold.
    ///
    /// After [`Cause::Unavailable`] the key may be there until the lock ends.
    async fn put_large(
        &mut self,
        doing: &str,
        conditions: Vec<Condition>,
        pair: &Pair,
        lock: &Lock,
    ) -> Result<Applied>;

    /// Deletes keys in one transaction when all `conditions` hold.
    ///
    /// After [`Cause::Unavailable`] it is unknown whether it took place.
    async fn delete(
        &mut self,
        doing: &str,
        conditions: Vec<Condition>,
        keys: &[Vec<u8>],
    ) -> Result<Applied>;

    /// Puts a key that ends with this process; `None` while it exists.
    async fn lock(&mut self, key: &[u8], value: &[u8], env: &Env) -> Result<Option<Lock>>;
}

/// A key that ends with this process, or when it is dropped or released.
#[derive(Debug)]
pub struct Lock(Option<Lease>);

impl Lock {
    /// A lock that nothing keeps alive.
    #[cfg(test)]
    pub(crate) const fn unleased() -> Self {
        Self(None)
    }

    /// Ends the lock now. After an error it ends by itself.
    pub async fn release(self) -> Result<()> {
        match self.0 {
            Some(lease) => Box::pin(lease.release()).await,
            None => Ok(()),
        }
    }
}

#[async_trait]
impl Keyspace for Etcd {
    async fn read(&mut self, prefix: &str) -> Result<Anchor> {
        Box::pin(self.read_prefix(prefix)).await
    }

    async fn page(&mut self, pages: &mut Pages) -> Result<Option<Vec<KeyValue>>> {
        Box::pin(Etcd::page(self, pages)).await
    }

    async fn put(
        &mut self,
        doing: &str,
        conditions: Vec<Condition>,
        keys: &Pairs,
    ) -> Result<Applied> {
        Box::pin(self.put_all(doing, conditions, keys, None)).await
    }

    async fn holds(
        &mut self,
        doing: &str,
        conditions: Vec<Condition>,
        key: &[u8],
    ) -> Result<Applied> {
        Box::pin(Etcd::holds(self, doing, conditions, key)).await
    }

    async fn put_large(
        &mut self,
        doing: &str,
        conditions: Vec<Condition>,
        pair: &Pair,
        lock: &Lock,
    ) -> Result<Applied> {
        let Some(lease) = &lock.0 else {
            return Err(Error::new(Cause::Failed, "the lock has no lease"));
        };
        Box::pin(Etcd::put_large(self, doing, conditions, pair, lease)).await
    }

    async fn delete(
        &mut self,
        doing: &str,
        conditions: Vec<Condition>,
        keys: &[Vec<u8>],
    ) -> Result<Applied> {
        Box::pin(self.delete_all(doing, conditions, keys)).await
    }

    async fn lock(&mut self, key: &[u8], value: &[u8], env: &Env) -> Result<Option<Lock>> {
        let lease = self.lease(LOCK_TTL, env).await?;
        let absent = vec![Condition::Absent(key.to_vec())];
        let put = [(key.to_vec(), value.to_vec())];
        let doing = "locking the target in etcd";
        match Box::pin(self.put_all(doing, absent, &put, Some(&lease))).await? {
            Applied::At(_) => Ok(Some(Lock(Some(lease)))),
            Applied::No => {
                lease.release().await?;
                Ok(None)
            }
        }
    }
}

/// Takes the lock at `key`, waiting for that of a restore that died.
///
/// # Errors
///
/// [`Side::Target`] when another restore is at work.
pub async fn lock(keys: &mut dyn Keyspace, key: &[u8], value: &[u8], env: &Env) -> Result<Lock> {
    let locked = poll(LOCK_WAIT, Duration::from_secs(1), async || {
        keys.lock(key, value, env).await
    });
    locked.await?.ok_or_else(|| {
        let message = format!(
            "another restore is at work on this target: {} exists",
            String::from_utf8_lossy(key)
        );
        Side::Target
            .error(Cause::Refused, message)
            .with_hint("wait until it has ended; the lock of a killed one runs out in 20 s")
    })
}

#[cfg(test)]
pub(crate) mod memory {
    //! An etcd in memory whose writes can fail.

    use std::collections::BTreeMap;
    use std::sync::{Arc, Mutex};

    use super::{
        Anchor, Applied, Condition, Env, KeyValue, Keyspace, Lock, Pair, Pairs, async_trait,
    };
    use crate::base::env::lock as guard;
    use crate::{Cause, Error, Result};

    /// Keys of a page: few, so that there are several.
    const PAGE: usize = 3;

    /// What happens at the write that a test picks.
    #[derive(Debug, Clone, Copy, PartialEq, Eq)]
    pub(crate) enum Fault {
        /// The process dies before the write.
        CrashBefore,
        /// The process dies after the write.
        CrashAfter,
        /// The write takes place and its answer is lost.
        Lost,
    }

    #[derive(Debug, Default)]
    struct State {
        keys: BTreeMap<Vec<u8>, (Vec<u8>, i64)>,
        revision: i64,
        writes: usize,
        fault: Option<(usize, Fault)>,
        dead: bool,
        leased: Vec<Vec<u8>>,
    }

    /// An etcd in memory; clones share it.
    #[derive(Debug, Clone, Default)]
    pub(crate) struct MemoryKeys(Arc<Mutex<State>>);

    impl MemoryKeys {
        pub(crate) fn insert(&self, key: &str, value: &[u8]) {
            let mut state = guard(&self.0);
            state.revision += 1;
            let revision = state.revision;
            state.keys.insert(key.into(), (value.to_vec(), revision));
        }

        /// Says from now on that a process keeps the key.
        pub(crate) fn hang_on_a_lease(&self, key: &str) {
            guard(&self.0).leased.push(key.into());
        }

        pub(crate) fn dump(&self) -> BTreeMap<String, Vec<u8>> {
            guard(&self.0)
                .keys
                .iter()
                .map(|(key, (value, _))| (String::from_utf8_lossy(key).into_owned(), value.clone()))
                .collect()
        }

        /// Arms a fault at write `at` from now on, counted from 0.
        pub(crate) fn arm(&self, at: usize, fault: Fault) {
            let mut state = guard(&self.0);
            state.writes = 0;
            state.fault = Some((at, fault));
        }

        /// Whether the armed fault is still to come.
        pub(crate) fn armed(&self) -> bool {
            guard(&self.0).fault.is_some()
        }

        /// What a new process sees: leased keys are gone, writes work again.
        pub(crate) fn revive(&self) {
            let mut state = guard(&self.0);
            state.dead = false;
            state.fault = None;
            for key in std::mem::take(&mut state.leased) {
                state.keys.remove(&key);
            }
        }

        fn write(&self, conditions: &[Condition], act: impl FnOnce(&mut State)) -> Result<Applied> {
            let mut state = guard(&self.0);
            let dead = || Error::new(Cause::Failed, "the process died");
            if state.dead {
                return Err(dead());
            }
            let now = state.writes;
            state.writes += 1;
            let fault = state.fault.filter(|(at, _)| *at == now).map(|(_, f)| f);
            if fault.is_some() {
                state.fault = None;
            }
            if fault == Some(Fault::CrashBefore) {
                state.dead = true;
                return Err(dead());
            }
            let holds = conditions.iter().all(|c| match c {
                Condition::Absent(key) => !state.keys.contains_key(key),
                Condition::NoneIn(from, to) => {
                    state.keys.range(from.clone()..to.clone()).next().is_none()
                }
                Condition::Equals(key, value) => {
                    state.keys.get(key).is_some_and(|(found, _)| found == value)
                }
                Condition::UnchangedIn(from, to, revision) => state
                    .keys
                    .range(from.clone()..to.clone())
                    .all(|(_, (_, changed))| changed <= revision),
            });
            if holds {
                state.revision += 1;
                act(&mut state);
            }
            match fault {
                Some(Fault::CrashAfter) => {
                    state.dead = true;
                    Err(dead())
                }
                Some(Fault::Lost) => Err(Error::new(Cause::Unavailable, "the answer was lost")),
                _ if holds => Ok(Applied::At(state.revision)),
                _ => Ok(Applied::No),
            }
        }
    }

    #[async_trait]
    impl Keyspace for MemoryKeys {
        async fn read(&mut self, prefix: &str) -> Result<Anchor> {
            let state = guard(&self.0);
            if state.dead {
                return Err(Error::new(Cause::Failed, "the process died"));
            }
            let keys = state
                .keys
                .iter()
                .filter(|(key, _)| key.starts_with(prefix.as_bytes()))
                .map(|(key, (value, revision))| KeyValue {
                    key: key.clone(),
                    value: value.clone(),
                    create_revision: *revision,
                    mod_revision: *revision,
                    version: 1,
                    lease: i64::from(state.leased.contains(key)),
                })
                .collect();
            Ok(Anchor {
                revision: state.revision,
                keys,
            })
        }

        async fn page(&mut self, pages: &mut crate::etcd::Pages) -> Result<Option<Vec<KeyValue>>> {
            let all = self.read(pages.prefix()).await?.keys;
            Ok(pages.next_of(&all, PAGE))
        }

        async fn put(
            &mut self,
            _: &str,
            conditions: Vec<Condition>,
            keys: &Pairs,
        ) -> Result<Applied> {
            assert!(keys.len() <= crate::etcd::MAX_TXN_OPS);
            self.write(&conditions, |state| {
                for (key, value) in keys {
                    let entry = (value.clone(), state.revision);
                    state.keys.insert(key.clone(), entry);
                }
            })
        }

        async fn holds(
            &mut self,
            _: &str,
            conditions: Vec<Condition>,
            _: &[u8],
        ) -> Result<Applied> {
            self.write(&conditions, |_| ())
        }

        async fn put_large(
            &mut self,
            doing: &str,
            conditions: Vec<Condition>,
            pair: &Pair,
            _: &Lock,
        ) -> Result<Applied> {
            self.put(doing, conditions, std::slice::from_ref(pair))
                .await
        }

        async fn delete(
            &mut self,
            _: &str,
            conditions: Vec<Condition>,
            keys: &[Vec<u8>],
        ) -> Result<Applied> {
            assert!(keys.len() <= crate::etcd::MAX_TXN_OPS);
            self.write(&conditions, |state| {
                for key in keys {
                    state.keys.remove(key);
                }
            })
        }

        async fn lock(&mut self, key: &[u8], value: &[u8], _: &Env) -> Result<Option<Lock>> {
            let absent = [Condition::Absent(key.to_vec())];
            let applied = self.write(&absent, |state| {
                let entry = (value.to_vec(), state.revision);
                state.keys.insert(key.to_vec(), entry);
                state.leased.push(key.to_vec());
            })?;
            Ok(matches!(applied, Applied::At(_)).then(Lock::unleased))
        }
    }
}
