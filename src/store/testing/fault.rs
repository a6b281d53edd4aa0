//! Faults by script: the nth call fails, is slow, or does its work and says that it failed.

use std::future::Future;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use futures::stream::{self, BoxStream, StreamExt};
use tokio::time::sleep;

use super::record::Op;
use crate::base::env::lock;
use crate::store::{
    Capabilities, GetOptions, Key, ListOptions, Meta, Part, Parts, Put, PutOptions, SharedStore,
    Store, Unfinished,
};
use crate::{Cause, Error, Result};

/// What happens to a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    /// It fails without any effect.
    Fail(Cause),
    /// It fails without any effect, and says that it may succeed within so long.
    Refuse(Cause, Duration),
    /// It takes effect, but its answer is an error.
    LoseAnswer(Cause),
    /// It takes effect with the first half of its bytes, and its answer is an error: what a store
    /// that is not atomic leaves.
    Tear(Cause),
    /// It begins later, by tokio's clock; then other rules apply.
    Delay(Duration),
    /// What a write of one piece writes is on its way for so long, by tokio's clock, and arrives whether or not
    /// the caller waits. Other calls are as they are.
    Late(Duration),
}

/// To which calls a rule applies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Ops {
    Any,
    Writes,
    One(Op),
}

/// To which of the calls that match, counted from 1, a rule applies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum When {
    Always,
    Nth(u64),
    UpTo(u64),
    From(u64),
}

/// One line of the script: which calls, and what happens to them.
#[derive(Debug, Clone)]
pub struct Rule {
    ops: Ops,
    key_part: String,
    when: When,
    action: Action,
    seen: u64,
}

impl Rule {
    fn new(ops: Ops, action: Action) -> Self {
        Self {
            ops,
            key_part: String::new(),
            when: When::Always,
            action,
            seen: 0,
        }
    }

    /// For every call.
    #[must_use]
    pub fn any(action: Action) -> Self {
        Self::new(Ops::Any, action)
    }

    /// For calls of `op`.
    #[must_use]
    pub fn on(op: Op, action: Action) -> Self {
        Self::new(Ops::One(op), action)
    }

    /// For calls that [write](Op::writes).
    #[must_use]
    pub fn on_writes(action: Action) -> Self {
        Self::new(Ops::Writes, action)
    }

    /// Only where the key contains `part`.
    #[must_use]
    pub fn key_contains(mut self, part: impl Into<String>) -> Self {
        self.key_part = part.into();
        self
    }

    /// Only the `n`th call that matches, counted from 1.
    #[must_use]
    pub fn nth(mut self, n: u64) -> Self {
        self.when = When::Nth(n);
        self
    }

    /// Only the first `n` calls that match.
    #[must_use]
    pub fn first(mut self, n: u64) -> Self {
        self.when = When::UpTo(n);
        self
    }

    /// The `n`th call that matches, counted from 1, and all after it: with
    /// [`on_writes`](Rule::on_writes), a crash at write `n`.
    #[must_use]
    pub fn from(mut self, n: u64) -> Self {
        self.when = When::From(n);
        self
    }

    fn applies(&mut self, op: Op, key: &str) -> bool {
        let op_matches = match self.ops {
            Ops::Any => true,
            Ops::Writes => op.writes(),
            Ops::One(one) => one == op,
        };
        if !op_matches || !key.contains(&self.key_part) {
            return false;
        }
        self.seen += 1;
        match self.when {
            When::Always => true,
            When::Nth(n) => self.seen == n,
            When::UpTo(n) => self.seen <= n,
            When::From(n) => self.seen >= n,
        }
    }
}

#[derive(Debug, Default)]
struct Script {
    rules: Vec<Rule>,
    space: Option<u64>,
    fired: u64,
}

/// The script of a [`FaultStore`], open to change while the store is used. Clones share it.
#[derive(Debug, Clone, Default)]
pub struct Faults(Arc<Mutex<Script>>);

impl Faults {
    /// Adds a rule. Of several failures that apply to one call the one added first happens; delays
    /// add up.
    pub fn add(&self, rule: Rule) {
        lock(&self.0).rules.push(rule);
    }

    /// Lets `bytes` more be written, then every write of more than is left fails with
    /// [`Cause::NoSpace`]. Deleting frees nothing.
    pub fn leave_space(&self, bytes: u64) {
        lock(&self.0).space = Some(bytes);
    }

    /// Removes all rules and gives unlimited space.
    pub fn clear(&self) {
        let mut script = lock(&self.0);
        script.rules.clear();
        script.space = None;
    }

    /// How many calls were made to fail.
    #[must_use]
    pub fn fired(&self) -> u64 {
        lock(&self.0).fired
    }

    /// How long a write of this key is on its way.
    fn late(&self, key: &str) -> Option<Duration> {
        let mut script = lock(&self.0);
        let rules = script.rules.iter_mut();
        let mut late = rules.filter_map(|rule| match rule.action {
            Action::Late(late) => rule.applies(Op::Put, key).then_some(late),
            _ => None,
        });
        late.next()
    }

    /// The delay and the failure that the script has for a call.
    fn judge(&self, op: Op, key: &str, bytes: usize) -> (Duration, Option<Action>) {
        let mut script = lock(&self.0);
        let mut delay = Duration::ZERO;
        let mut failure = None;
        for rule in &mut script.rules {
            if !matches!(rule.action, Action::Late(_)) && rule.applies(op, key) {
                match rule.action {
                    Action::Delay(more) => delay += more,
                    action => failure = failure.or(Some(action)),
                }
            }
        }
        if let (None, Some(space)) = (failure, script.space) {
            match space.checked_sub(bytes as u64) {
                Some(left) => script.space = Some(left),
                None => failure = Some(Action::Fail(Cause::NoSpace)),
            }
        }
        script.fired += u64::from(failure.is_some());
        (delay, failure)
    }

    async fn apply<T, F>(
        &self,
        op: Op,
        key: &str,
        bytes: Bytes,
        call: impl FnOnce(Bytes) -> F,
    ) -> Result<T>
    where
        F: Future<Output = Result<T>>,
    {
        let (delay, failure) = self.judge(op, key, bytes.len());
        if !delay.is_zero() {
            sleep(delay).await;
        }
        let (cause, written) = match failure {
            None | Some(Action::Delay(_) | Action::Late(_)) => return call(bytes).await,
            Some(Action::Fail(cause)) => (cause, None),
            Some(Action::Refuse(cause, time)) => {
                return Err(injected(cause, op, key).passing_within(time));
            }
            Some(Action::LoseAnswer(cause)) => (cause, Some(bytes)),
            Some(Action::Tear(cause)) => (cause, Some(bytes.slice(..bytes.len() / 2))),
        };
        if let Some(bytes) = written {
            call(bytes).await?;
        }
        Err(injected(cause, op, key))
    }
}

fn injected(cause: Cause, op: Op, key: &str) -> Error {
    Error::new(cause, format!("an injected fault: {op:?} of {key:?}"))
}

/// A store that fails by script.
#[derive(Debug, Clone)]
pub struct FaultStore {
    inner: SharedStore,
    faults: Faults,
}

impl FaultStore {
    /// Wraps `inner`, with an empty script.
    #[must_use]
    pub fn new(inner: SharedStore) -> Self {
        let faults = Faults::default();
        Self { inner, faults }
    }

    /// The script.
    #[must_use]
    pub fn faults(&self) -> Faults {
        self.faults.clone()
    }
}

#[async_trait]
impl Store for FaultStore {
    fn location(&self) -> String {
        self.inner.location()
    }

    fn capabilities(&self) -> Capabilities {
        self.inner.capabilities()
    }

    async fn get(&self, key: &Key, options: GetOptions) -> Result<Bytes> {
        let call = |_| self.inner.get(key, options);
        self.faults
            .apply(Op::Get, key.as_str(), Bytes::new(), call)
            .await
    }

    async fn put(&self, key: &Key, bytes: Bytes, options: PutOptions) -> Result<Put> {
        let late = self.faults.late(key.as_str());
        let (inner, key_again) = (self.inner.clone(), key.clone());
        let call = |bytes| async move {
            let Some(late) = late else {
                return inner.put(&key_again, bytes, options).await;
            };
            let arrives = tokio::spawn(async move {
                sleep(late).await;
                inner.put(&key_again, bytes, options).await
            });
            arrives.await.map_err(|error| {
                Error::new(Cause::Failed, "a late write was cut short").with_source(error)
            })?
        };
        self.faults.apply(Op::Put, key.as_str(), bytes, call).await
    }

    async fn parts(&self, key: &Key, options: PutOptions) -> Result<Arc<dyn Parts>> {
        let call = |_| self.inner.parts(key, options);
        let begun = self
            .faults
            .apply(Op::Parts, key.as_str(), Bytes::new(), call);
        Ok(Arc::new(FaultParts {
            inner: begun.await?,
            key: key.clone(),
            faults: self.faults.clone(),
        }))
    }

    async fn head(&self, key: &Key) -> Result<Meta> {
        let call = |_| self.inner.head(key);
        self.faults
            .apply(Op::Head, key.as_str(), Bytes::new(), call)
            .await
    }

    fn list(&self, prefix: &str, options: ListOptions) -> BoxStream<'_, Result<Meta>> {
        let prefix = prefix.to_owned();
        let begin = async move {
            let begun = |_| async { Ok(()) };
            let begun = self
                .faults
                .apply(Op::List, &prefix, Bytes::new(), begun)
                .await;
            match begun {
                Ok(()) => self.inner.list(&prefix, options),
                Err(error) => stream::iter([Err(error)]).boxed(),
            }
        };
        let listed = stream::once(begin)
            .flatten()
            .then(move |listed| async move {
                let meta = listed?;
                let key = meta.key.to_string();
                let call = |_| async { Ok(meta) };
                self.faults
                    .apply(Op::Listed, &key, Bytes::new(), call)
                    .await
            });
        // As any listing, it ends after an error.
        let ended = |failed: &mut bool, listed: Result<Meta>| {
            let item = (!*failed).then_some(listed);
            *failed |= item.as_ref().is_some_and(Result::is_err);
            std::future::ready(item)
        };
        listed.scan(false, ended).boxed()
    }

    async fn delete(&self, key: &Key, version: Option<&str>) -> Result<()> {
        let call = |_| self.inner.delete(key, version);
        self.faults
            .apply(Op::Delete, key.as_str(), Bytes::new(), call)
            .await
    }

    async fn sync(&self) -> Result<()> {
        let call = |_| self.inner.sync();
        self.faults.apply(Op::Sync, "", Bytes::new(), call).await
    }

    fn unfinished(&self) -> Vec<Unfinished> {
        self.inner.unfinished()
    }

    async fn remove_unfinished(&self, left: &Unfinished) -> Result<()> {
        self.inner.remove_unfinished(left).await
    }
}

#[derive(Debug)]
struct FaultParts {
    inner: Arc<dyn Parts>,
    key: Key,
    faults: Faults,
}

#[async_trait]
impl Parts for FaultParts {
    async fn part(&self, part: Part) -> Result<()> {
        let bytes = part.bytes.clone();
        let call = |bytes| self.inner.part(Part { bytes, ..part });
        self.faults
            .apply(Op::Part, self.key.as_str(), bytes, call)
            .await
    }

    async fn finish(&self, last: Part) -> Result<Put> {
        let bytes = last.bytes.clone();
        let call = |bytes| self.inner.finish(Part { bytes, ..last });
        self.faults
            .apply(Op::Finish, self.key.as_str(), bytes, call)
            .await
    }

    async fn abort(&self) -> Result<()> {
        let call = |_| self.inner.abort();
        self.faults
            .apply(Op::Abort, self.key.as_str(), Bytes::new(), call)
            .await
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::testing::conformance;
    use crate::store::testing::memory::MemoryStore;
    use futures::stream::TryStreamExt;

    fn store() -> (FaultStore, Faults) {
        let store = FaultStore::new(Arc::new(MemoryStore::new()));
        let faults = store.faults();
        (store, faults)
    }

    fn key(path: &str) -> Key {
        Key::new(path).unwrap()
    }

    async fn put(store: &FaultStore, path: &str) -> Option<Cause> {
        let bytes = Bytes::from_static(b"12345678");
        let put = store.put(&key(path), bytes, PutOptions::default()).await;
        put.err().map(|error| error.cause())
    }

    async fn size(store: &FaultStore, path: &str) -> Option<u64> {
        store.head(&key(path)).await.ok().map(|meta| meta.size)
    }

    #[tokio::test]
    async fn conforms_without_a_script() {
        conformance::run(&store().0).await.unwrap();
    }

    #[tokio::test]
    async fn rules_count_the_calls_they_match() {
        let (store, faults) = store();
        let down = Action::Fail(Cause::Unavailable);
        faults.add(Rule::on(Op::Put, down).key_contains("a/").nth(2));
        faults.add(Rule::on_writes(Action::Fail(Cause::Failed)).from(5));
        assert_eq!(put(&store, "a/1").await, None);
        assert_eq!(put(&store, "b/1").await, None);
        assert_eq!(put(&store, "a/2").await, Some(Cause::Unavailable));
        assert_eq!(put(&store, "a/2").await, None);
        assert_eq!(put(&store, "a/3").await, Some(Cause::Failed));
        assert!(store.delete(&key("a/1"), None).await.is_err());
        assert_eq!(faults.fired(), 3);
        assert_eq!(size(&store, "a/1").await, Some(8), "reads go on");
        faults.clear();
        assert_eq!(put(&store, "a/3").await, None);
    }

    #[tokio::test]
    async fn a_lost_answer_leaves_the_object_and_a_torn_write_half() {
        let (store, faults) = store();
        faults.add(Rule::on(Op::Put, Action::LoseAnswer(Cause::Unavailable)).nth(1));
        faults.add(Rule::on(Op::Put, Action::Tear(Cause::Failed)).nth(2));
        assert_eq!(put(&store, "lost").await, Some(Cause::Unavailable));
        assert_eq!(size(&store, "lost").await, Some(8));
        assert_eq!(put(&store, "torn").await, Some(Cause::Failed));
        assert_eq!(size(&store, "torn").await, Some(4));
    }

    #[tokio::test]
    async fn space_runs_out() {
        let (store, faults) = store();
        faults.leave_space(20);
        assert_eq!(put(&store, "a").await, None);
        let mut upload = store
            .upload(&key("b"), PutOptions::default())
            .await
            .unwrap();
        upload.write(Bytes::from_static(b"12345678")).await.unwrap();
        upload.finish().await.unwrap();
        assert_eq!(put(&store, "c").await, Some(Cause::NoSpace));
        assert_eq!(size(&store, "c").await, None);
    }

    #[tokio::test]
    async fn a_listing_breaks_off_and_ends() {
        let (store, faults) = store();
        for path in ["a", "b", "c"] {
            put(&store, path).await;
        }
        faults.add(Rule::on(Op::Listed, Action::Fail(Cause::Throttled)).nth(2));
        let mut listing = store.list("", ListOptions::default());
        assert!(listing.try_next().await.unwrap().is_some());
        assert_eq!(
            listing.try_next().await.unwrap_err().cause(),
            Cause::Throttled
        );
        assert!(listing.try_next().await.unwrap().is_none());
    }
}
