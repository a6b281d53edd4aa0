//! Writing the target's etcd: behind a marker, in bounded transactions, collections last.
//!
//! Every transaction compares that the marker is ours, how far the restore came, that this process holds
//! the lock, and that no Milvus has a session. A copy of a transaction that arrives late, after it was made
//! again on another member, finds a later stage and does nothing.

use tracing::{debug, info};

use super::keyspace::{Keyspace, Lock, lock};
use crate::base::env::Env;
use crate::etcd::{
    Applied, Condition, KeyValue, Pages, Pair, TxnLimits, batches, prefix_end, size,
};
use crate::instance::liveness::{keys_beside_sessions, no_session, sessions};
use crate::instance::neighbours::other_root;
use crate::milvus::keys::Roots;
use crate::restore::options::Occupied;
use crate::restore::plan::marker::{Marker, MarkerKeys, Pinned, Stage};
use crate::restore::plan::target_keys::{Pairs, TargetKeys, in_the_way};
use crate::restore::scope::{Scope, covers};
use crate::{Cause, Error, Result, Side};

/// What is being done where only conditions are looked at.
const LOOKING: &str = "looking whether the target is still this restore's alone";

/// The one writer of a target's etcd.
pub struct Writer<'a> {
    keys: &'a mut dyn Keyspace,
    roots: Roots,
    scope: &'a Scope,
    limits: TxnLimits,
    sessions: Vec<Condition>,
    names: MarkerKeys,
    marker: Vec<u8>,
    stage: Stage,
    owner: Vec<u8>,
    lock: Lock,
}

/// What a writer begins on.
#[derive(Debug, Clone, Copy)]
pub struct Beginning<'a> {
    /// The marker.
    pub marker: &'a Marker,
    /// How far an earlier run came.
    pub stage: Stage,
    /// The value of another restore's marker, in whose place it is put.
    pub given_up: Option<&'a [u8]>,
    /// What etcd takes at once.
    pub limits: TxnLimits,
    /// The revision at which the target was read; `None` where nobody else can write it.
    pub seen: Option<i64>,
    /// The value of this restore's marker as it was found.
    pub found: Option<&'a [u8]>,
}

impl std::fmt::Debug for Writer<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Writer({})", self.roots.root)
    }
}

impl<'a> Writer<'a> {
    /// Takes the lock and puts the marker, or finds it there.
    ///
    /// # Errors
    ///
    /// [`Side::Target`] when another restore is at work, another marker is there, or a Milvus has a
    /// session.
    pub async fn begin(
        keys: &'a mut dyn Keyspace,
        roots: &Roots,
        scope: &'a Scope,
        beginning: Beginning<'_>,
        env: &Env,
    ) -> Result<Self> {
        let names = MarkerKeys::new(&roots.root);
        let owner = hex::encode(env.id()).into_bytes();
        let lock = lock(keys, &names.lock, &owner, env).await?;
        let mut writer = Self {
            keys,
            roots: roots.clone(),
            scope,
            limits: beginning.limits,
            sessions: no_session(roots),
            names,
            marker: match beginning.found {
                Some(found) => found.to_vec(),
                None => beginning.marker.to_value()?,
            },
            stage: beginning.stage,
            owner,
            lock,
        };
        writer
            .place_marker(beginning.given_up, beginning.seen)
            .await?;
        Ok(writer)
    }

    async fn place_marker(&mut self, given_up: Option<&[u8]>, seen: Option<i64>) -> Result<()> {
        let doing = "putting the restore's marker into etcd";
        let name = self.names.marker.clone();
        let mut put = vec![
            (self.names.stage.clone(), self.stage.as_str().into()),
            (name.clone(), self.marker.clone()),
        ];
        if given_up.is_some() {
            // What another restore had saved is not this one's.
            put.push((self.names.saved.clone(), vec![]));
        }
        let mut conditions = self.sessions.clone();
        conditions.push(self.locked());
        conditions.push(match given_up {
            None => Condition::Absent(name),
            Some(other) => Condition::Equals(name, other.to_vec()),
        });
        // Otherwise what was written since would be older than the stage that it is compared with.
        conditions.extend(seen.into_iter().flat_map(|seen| self.unchanged(seen)));
        if let Applied::At(_) = self.keys.put(doing, conditions, &put).await? {
            return Ok(());
        }
        let found = self.keys.read(&self.names.area).await?.keys;
        let get = |key: &[u8]| found.iter().find(|kv| kv.key == key);
        if get(&self.names.marker).is_none_or(|kv| kv.value != self.marker) {
            return Err(self.refused(doing).await);
        }
        let stage = get(&self.names.stage).and_then(|kv| Stage::from_value(&kv.value));
        if stage != Some(self.stage) {
            let message = "another run of this restore has gone on meanwhile";
            let hint = "run the same command again";
            return Err(Side::Target.error(Cause::Refused, message).with_hint(hint));
        }
        self.check_unchanged(seen).await
    }

    fn locked(&self) -> Condition {
        Condition::Equals(self.names.lock.clone(), self.owner.clone())
    }

    fn conditions(&self) -> Vec<Condition> {
        let mut conditions = self.sessions.clone();
        conditions.push(self.locked());
        let marker = (self.names.marker.clone(), self.marker.clone());
        conditions.push(Condition::Equals(marker.0, marker.1));
        let stage = self.stage.as_str().into();
        conditions.push(Condition::Equals(self.names.stage.clone(), stage));
        conditions
    }

    /// Fails unless the usual conditions hold, and `more`.
    async fn holds(&mut self, doing: &str, more: Vec<Condition>) -> Result<()> {
        let mut conditions = self.conditions();
        conditions.extend(more);
        let key = self.names.marker.clone();
        match self.keys.holds(doing, conditions, &key).await? {
            Applied::At(_) => Ok(()),
            Applied::No => Err(self.refused(doing).await),
        }
    }

    /// That no key below the root but eyrie's own was put after `revision`.
    fn unchanged(&self, revision: i64) -> [Condition; 2] {
        let (root, area) = (self.roots.prefix().into_bytes(), self.names.area.as_bytes());
        let (end, after) = (prefix_end(&root), prefix_end(area));
        [
            Condition::UnchangedIn(root, area.to_vec(), revision),
            Condition::UnchangedIn(after, end, revision),
        ]
    }

    async fn put(&mut self, doing: &str, keys: &Pairs) -> Result<()> {
        match self.keys.put(doing, self.conditions(), keys).await? {
            Applied::At(_) => Ok(()),
            Applied::No => Err(self.refused(doing).await),
        }
    }

    async fn put_large(&mut self, doing: &str, pair: &Pair) -> Result<()> {
        let conditions = self.conditions();
        let put = self.keys.put_large(doing, conditions, pair, &self.lock);
        match put.await? {
            Applied::At(_) => Ok(()),
            Applied::No => Err(self.refused(doing).await),
        }
    }

    async fn delete(&mut self, doing: &str, keys: &[Vec<u8>]) -> Result<()> {
        match self.keys.delete(doing, self.conditions(), keys).await? {
            Applied::At(_) => Ok(()),
            Applied::No => Err(self.refused(doing).await),
        }
    }

    /// Says which condition of a transaction did not hold.
    async fn refused(&mut self, doing: &str) -> Error {
        let found = match self.keys.read(&self.roots.prefix()).await {
            Ok(found) => found.keys,
            Err(error) => return error.context(doing),
        };
        let holds =
            |key: &[u8], value: &[u8]| found.iter().any(|kv| kv.key == key && kv.value == value);
        let why = if let Some(session) = sessions(&self.roots, &found).first() {
            format!("a Milvus has started on the target: {}", session.name)
        } else if !holds(&self.names.lock, &self.owner) {
            "this restore lost its lock: etcd did not hear of it in time".to_owned()
        } else if !holds(&self.names.marker, &self.marker) {
            "the marker in etcd is of another restore, or gone".to_owned()
        } else {
            "something has written to the target meanwhile, as a Milvus that was started and stopped"
                .to_owned()
        };
        Side::Target.error(Cause::Refused, format!("{doing}: {why}"))
            .with_hint("stop what runs on the target, then run the same command again: it goes on where it stopped")
    }

    /// Fails unless this process holds the lock, the marker is ours, and no Milvus has or had a session
    /// since the keys of `target` were written: each start advances the counter of sessions.
    ///
    /// # Errors
    ///
    /// [`Side::Target`] that says which of them does not hold.
    pub async fn check(&mut self, target: &TargetKeys) -> Result<()> {
        let [counter, _] = keys_beside_sessions(&self.roots);
        let written = target.keys.iter().find(|(key, _)| *key == counter);
        let same = written.map(|(key, value)| Condition::Equals(key.clone(), value.clone()));
        self.holds(LOOKING, same.into_iter().collect()).await
    }

    /// Fails unless nothing was written to the target since it was read at revision `seen`. `None`: nobody but
    /// this restore can write there.
    pub async fn check_unchanged(&mut self, seen: Option<i64>) -> Result<()> {
        let unchanged = seen.map(|seen| self.unchanged(seen));
        self.holds(LOOKING, unchanged.into_iter().flatten().collect())
            .await
    }

    /// Begins the swap of what was read at revision `seen`, and notes what the target said of itself.
    pub async fn begin_swap(&mut self, seen: Option<i64>, pinned: &Pinned) -> Result<()> {
        let doing = "beginning the swap in etcd";
        let pinned = serde_json::to_vec(pinned).map_err(|error| {
            Error::new(Cause::Failed, "writing what the target said of itself").with_source(error)
        })?;
        let mut conditions = self.conditions();
        conditions.extend(seen.into_iter().flat_map(|seen| self.unchanged(seen)));
        let put = [
            (self.names.pinned.clone(), pinned),
            (self.names.stage.clone(), Stage::Swap.as_str().into()),
        ];
        match self.keys.put(doing, conditions, &put).await? {
            Applied::At(_) => {}
            Applied::No => return Err(self.refused(doing).await),
        }
        self.stage = Stage::Swap;
        Ok(())
    }

    /// Notes how far the restore came, unless it is noted already.
    pub async fn stage(&mut self, stage: Stage) -> Result<()> {
        if self.stage == stage {
            return Ok(());
        }
        let put = [(self.names.stage.clone(), stage.as_str().into())];
        self.put("noting the stage of the restore", &put).await?;
        self.stage = stage;
        Ok(())
    }

    /// Notes the snapshot that holds the keys that were there before.
    pub async fn saved(&mut self, snapshot: &str) -> Result<()> {
        let put = [(self.names.saved.clone(), snapshot.into())];
        self.put("noting where the old keys are", &put).await
    }

    /// Deletes every key of the scope that is not to be there, and those that make collections
    /// visible. Returns how many went.
    ///
    /// # Errors
    ///
    /// [`Side::Target`] when keys are in the way and nothing is to be replaced.
    pub async fn clear(&mut self, target: &TargetKeys, occupied: Occupied) -> Result<u64> {
        if occupied == Occupied::Refuse {
            let found = self.keys.read(&self.roots.prefix()).await?.keys;
            let mut others = in_the_way(&found, self.scope, &self.names, &self.roots, target);
            if let Some(key) = others.next() {
                let key = String::from_utf8_lossy(&key.key).into_owned();
                return Err(Side::Target
                    .error(
                        Cause::Refused,
                        format!("something wrote to the target while it was restored: {key}"),
                    )
                    .with_hint("look at it, then run the same command again"));
            }
        }
        let early = target.split().0.len();
        let places = target.places();
        // Those that make collections visible go first.
        let (mut gone, mut others) = (Vec::new(), Vec::new());
        let roots = self.roots.clone();
        self.visit(|kv| {
            if kv.lease != 0 || other_root(&roots, &kv.key).is_some() {
                let key = String::from_utf8_lossy(&kv.key);
                let message = format!("{key} is not of the instance that is replaced, or a process keeps it");
                let hint = "look at it: nothing below the root may be of others; then run the same command again";
                return Err(Side::Target.error(Cause::Refused, message).with_hint(hint));
            }
            match places.find(target, &kv.key) {
                Some(at) if at >= early => gone.push(kv.key.clone()),
                Some(at) if target.keys[at].1 == kv.value => {}
                Some(_) | None => others.push(kv.key.clone()),
            }
            Ok(())
        })
        .await?;
        gone.append(&mut others);
        debug!(keys = gone.len(), "clearing the target");
        for batch in gone.chunks(self.limits.operations) {
            self.delete("removing the old keys from etcd", batch)
                .await?;
        }
        Ok(gone.len() as u64)
    }

    /// Puts what is not there yet, in order. `written` hears of each key.
    pub async fn write(
        &mut self,
        target: &TargetKeys,
        mut written: impl FnMut(u64) -> Result<()>,
    ) -> Result<()> {
        let there = self.there(target).await?;
        let is_there = there.iter().filter(|there| **there).count();
        written(is_there as u64)?;
        let missing = target.keys.iter().zip(&there);
        let missing = missing.filter(|(_, there)| !**there).map(|(pair, _)| pair);
        let doing = "writing the snapshot's keys into etcd";
        for batch in batches(missing, self.limits) {
            match &batch[..] {
                [pair] if size(pair) > self.limits.bytes => self.put_large(doing, pair).await?,
                pairs => self.put(doing, pairs).await?,
            }
            written(batch.len() as u64)?;
        }
        Ok(())
    }

    /// Which of the target's keys are in etcd as they will be.
    async fn there(&mut self, target: &TargetKeys) -> Result<Vec<bool>> {
        let mut there = vec![false; target.keys.len()];
        let places = target.places();
        self.visit(|kv| {
            if let Some(at) = places.find(target, &kv.key) {
                there[at] = target.keys[at].1 == kv.value && kv.lease == 0;
            }
            Ok(())
        })
        .await?;
        Ok(there)
    }

    /// Whether everything is in etcd, byte for byte, and nothing else.
    pub async fn is_complete(&mut self, target: &TargetKeys) -> Result<bool> {
        match self.compare(target).await {
            Ok(()) => Ok(true),
            Err(error) if error.cause() == Cause::Failed => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Reads everything back and compares it byte for byte.
    ///
    /// # Errors
    ///
    /// [`Cause::Failed`] when a key is missing, differs or should not be there.
    pub async fn compare(&mut self, target: &TargetKeys) -> Result<()> {
        let differs = |key: &[u8], what: &str| {
            let key = String::from_utf8_lossy(key).into_owned();
            Side::Target
                .error(
                    Cause::Failed,
                    format!("etcd does not hold what was written: {key} {what}"),
                )
                .with_hint(
                    "does something else write to this etcd root? run the same command again",
                )
        };
        let mut found = vec![false; target.keys.len()];
        let places = target.places();
        self.visit(|kv| {
            let at = places
                .find(target, &kv.key)
                .ok_or_else(|| differs(&kv.key, "should not be there"))?;
            if target.keys[at].1 != kv.value {
                return Err(differs(&kv.key, "has another value"));
            }
            if kv.lease != 0 {
                return Err(differs(&kv.key, "hangs on a lease"));
            }
            found[at] = true;
            Ok(())
        })
        .await?;
        let missing = target.keys.iter().zip(&found).find(|(_, found)| !**found);
        match missing {
            Some(((key, _), _)) => Err(differs(key, "is missing")),
            None => Ok(()),
        }
    }

    /// Hands every key of the scope that is not eyrie's own to `take`, page by page: there may be as
    /// many as fill the memory.
    async fn visit(&mut self, mut take: impl FnMut(&KeyValue) -> Result<()>) -> Result<()> {
        for keys in &self.scope.keys {
            let mut pages = Pages::of(keys);
            while let Some(page) = self.keys.page(&mut pages).await? {
                let ours = |kv: &&KeyValue| covers(keys, &kv.key) && !self.names.owns(&kv.key);
                for kv in page.iter().filter(ours) {
                    take(kv)?;
                }
                // A single key comes before all that begin with it.
                if !keys.ends_with('/') {
                    break;
                }
            }
        }
        Ok(())
    }

    /// Releases the lock and leaves the marker: the same command is to go on.
    pub async fn leave(self) -> Result<()> {
        self.lock.release().await
    }

    /// Leaves the record of the restore, removes the marker and releases the lock.
    pub async fn finish(mut self) -> Result<()> {
        let record = [(self.names.record.clone(), self.marker.clone())];
        self.put("recording the restore in etcd", &record).await?;
        let own = [
            self.names.stage.clone(),
            self.names.saved.clone(),
            self.names.marker.clone(),
        ];
        let doing = "removing the restore's marker from etcd";
        self.delete(doing, &own).await?;
        info!(root = %self.roots.root, "the restore's marker is removed");
        self.lock.release().await
    }
}

#[cfg(test)]
#[path = "write_tests.rs"]
mod tests;
