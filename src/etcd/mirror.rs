//! A copy of the keys under a prefix that follows etcd: one read, and a watch from then on.
//!
//! What it costs to bring it to a revision depends on what changed, not on how many keys there are. It is
//! there to be brought to a revision quickly while something is held.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::task::JoinHandle;
use tokio::time::{Instant, timeout};
use tracing::info;

use super::pages::{Pages, prefix_end};
use super::read::{convert, is_compacted};
use super::watch::{Change, Seen, Watch};
use super::{Applied, Etcd, KeyValue, Lease};
use crate::base::env::lock;
use crate::{Cause, Error, Result};

/// How long a watch may lag behind a key that was put before it is begun again on the member that took the
/// key: its own member may have gone mute. Each time after that for twice as long, since an answer may be large.
const LAG: Duration = Duration::from_secs(1);

/// How long a watch is waited for altogether.
const PATIENCE: Duration = Duration::from_secs(30);

/// The keys under a prefix at one revision, and what happened to them since. It holds each key and value
/// once, with about 100 bytes beside them, and every change since it began.
#[derive(Debug)]
pub struct Mirror {
    etcd: Etcd,
    /// The key whose arrival tells that the watch has told everything before it. It is not part of the copy.
    fence: Vec<u8>,
    base: Vec<KeyValue>,
    /// What differs from the base at `revision`.
    changed: BTreeMap<Vec<u8>, Option<KeyValue>>,
    /// The revision that the copy shows.
    revision: i64,
    /// Since when every change is told.
    began: Instant,
    /// How often the fence was put.
    fences: u64,
    told: Arc<Told>,
    task: JoinHandle<()>,
}

/// A change and when it was told.
#[derive(Debug, Clone)]
pub struct Timed {
    /// When this process was told.
    pub at: Instant,
    /// What happened.
    pub change: Change,
}

#[derive(Debug, Default)]
struct Told {
    state: Mutex<State>,
    /// Something was told.
    news: Notify,
    /// The watch is to be begun again.
    turn: Notify,
}

#[derive(Debug, Default)]
struct State {
    changes: Vec<Timed>,
    /// What happened before this revision is in the base.
    first: i64,
    /// How many of them the copy shows.
    applied: usize,
    /// The newest revision that was told.
    newest: i64,
    end: Option<End>,
}

impl State {
    /// Leaves out what happened until `revision`, also where it is told later.
    fn begins_after(&mut self, revision: i64) {
        self.first = revision + 1;
        self.changes
            .retain(|timed| timed.change.revision() > revision);
    }

    fn add(&mut self, changes: Vec<Change>) {
        let at = Instant::now();
        if let Some(last) = changes.last() {
            self.newest = last.revision();
        }
        let first = self.first;
        let changes = changes
            .into_iter()
            .filter(|change| change.revision() >= first);
        self.changes
            .extend(changes.map(|change| Timed { at, change }));
    }
}

#[derive(Debug)]
enum End {
    Compacted,
    Failed(Error),
}

/// What comes of comparing a copy with what etcd has.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Compared {
    /// It is what etcd had.
    Same,
    /// It is not, and this differs.
    Differs(String),
}

impl Etcd {
    /// Reads every key under `prefix` and follows them. `fence` is a key under the prefix that nobody else
    /// uses; it is put by [`Mirror::catch_up`] and is not part of the copy.
    pub async fn mirror(&self, prefix: &str, fence: &str) -> Result<Mirror> {
        // The watch begins first: compaction cannot come between it and the read.
        let from = self.clone().status().await?.revision + 1;
        let told = Arc::new(Told::default());
        let watch = Watch::new(self.clone(), prefix, from);
        let task = tokio::spawn(follow(watch, told.clone()));
        let mut mirror = Mirror {
            etcd: self.clone(),
            fence: fence.as_bytes().to_vec(),
            base: Vec::new(),
            changed: BTreeMap::new(),
            revision: 0,
            began: Instant::now(),
            fences: 0,
            told,
            task,
        };
        let read = self.clone().read_prefix(prefix).await?;
        mirror.base = read.keys;
        mirror.base.retain(|kv| kv.key != mirror.fence);
        mirror.revision = read.revision;
        lock(&mirror.told.state).begins_after(read.revision);
        mirror.began = Instant::now();
        Ok(mirror)
    }
}

async fn follow(mut watch: Watch, told: Arc<Told>) {
    loop {
        let seen = tokio::select! {
            biased;
            () = told.turn.notified() => {
                watch.turn();
                continue;
            }
            seen = watch.next() => seen,
        };
        let mut state = lock(&told.state);
        match seen {
            Ok(Seen::Changes(changes)) => state.add(changes),
            Ok(Seen::Compacted) => state.end = Some(End::Compacted),
            Err(error) => state.end = Some(End::Failed(error)),
        }
        let ended = state.end.is_some();
        drop(state);
        told.news.notify_one();
        if ended {
            return;
        }
    }
}

impl Mirror {
    /// The revision that the copy shows.
    #[must_use]
    pub const fn revision(&self) -> i64 {
        self.revision
    }

    /// Since when every change is told.
    #[must_use]
    pub const fn began(&self) -> Instant {
        self.began
    }

    /// Puts the fence key under `lease` and waits until the watch tells it: everything before it is told
    /// then. Gives the key's revision; the copy stays at its own until [`Mirror::advance`]. `None` when etcd has
    /// compacted revisions that were not told yet: the copy has a gap, and is to be made anew.
    ///
    /// # Errors
    ///
    /// What etcd fails with. The fence key may exist then; it ends with the lease.
    pub async fn catch_up(&mut self, lease: &Lease) -> Result<Option<i64>> {
        // Another value each time: when an answer is lost, it tells whether this put took place.
        self.fences += 1;
        let put = [(self.fence.clone(), self.fences.to_string().into_bytes())];
        let mut etcd = self.etcd.clone();
        let doing = "marking a revision in etcd";
        let revision = match etcd.put_all(doing, vec![], &put, Some(lease)).await? {
            Applied::At(revision) => revision,
            Applied::No => return Err(Error::new(Cause::Failed, doing)),
        };
        let give_up = Instant::now() + PATIENCE;
        let mut lag = LAG;
        loop {
            {
                let mut state = lock(&self.told.state);
                let failed = |end: &mut End| matches!(end, End::Failed(_));
                if let Some(End::Failed(error)) = state.end.take_if(failed) {
                    return Err(error);
                }
                if state.end.is_some() {
                    return Ok(None);
                }
                if state.newest >= revision {
                    return Ok(Some(revision));
                }
            }
            if timeout(lag, self.told.news.notified()).await.is_err() {
                if Instant::now() > give_up {
                    let message = "a watch of etcd does not tell what was put; does something between here and etcd hold its answers back?";
                    return Err(Error::new(Cause::Unavailable, message).on(self.etcd.side));
                }
                info!("a watch of etcd lags behind; it is begun again");
                self.told.turn.notify_one();
                lag *= 2;
            }
        }
    }

    /// Brings the copy to `revision`, which [`Mirror::catch_up`] gave, or to what was told of it.
    pub fn advance(&mut self, revision: i64) {
        let mut state = lock(&self.told.state);
        let State {
            changes, applied, ..
        } = &mut *state;
        while let Some(timed) = changes.get(*applied)
            && timed.change.revision() <= revision
        {
            *applied += 1;
            let key = timed.change.key();
            if key != self.fence {
                let value = timed.change.put().cloned();
                self.changed.insert(key.to_vec(), value);
            }
        }
        self.revision = self.revision.max(revision);
    }

    /// Brings the copy to the newest revision that was told, without waiting. It may be behind etcd, also for
    /// ever where the watch has ended, and shows one revision all the same.
    pub fn advance_to_told(&mut self) {
        let newest = lock(&self.told.state).newest;
        self.advance(newest);
    }

    /// The keys under `prefix` at the copy's revision, in byte order.
    #[must_use]
    pub fn range(&self, prefix: &str) -> Vec<KeyValue> {
        let (from, to) = (prefix.as_bytes(), prefix_end(prefix.as_bytes()));
        let start = self.base.partition_point(|kv| kv.key.as_slice() < from);
        let end = self.base.partition_point(|kv| kv.key < to);
        let base = self.base.get(start..end).unwrap_or_default().iter();
        let mut changed = self.changed.range(from.to_vec()..to).peekable();
        let mut found = Vec::new();
        for kv in base {
            while let Some((_, put)) = changed.next_if(|(key, _)| **key < kv.key) {
                found.extend(put.clone());
            }
            match changed.next_if(|(key, _)| **key == kv.key) {
                Some((_, put)) => found.extend(put.clone()),
                None => found.push(kv.clone()),
            }
        }
        found.extend(changed.filter_map(|(_, put)| put.clone()));
        found
    }

    /// What the key had at the revision `at`; `None` when it was not there, or when it was changed between
    /// that and the copy's first revision, so that nothing tells.
    #[must_use]
    pub fn value_at(&self, key: &[u8], at: i64) -> Option<KeyValue> {
        let state = lock(&self.told.state);
        // Most of what was told is newer, and this is asked for each of it.
        let older = |timed: &Timed| timed.change.revision() <= at;
        let until = &state.changes[..state.changes.partition_point(older)];
        if let Some(timed) = until.iter().rev().find(|timed| timed.change.key() == key) {
            return timed.change.put().cloned();
        }
        let found = self.base.binary_search_by(|kv| kv.key.as_slice().cmp(key));
        let found = found.ok().map(|at| &self.base[at]);
        found.filter(|kv| kv.mod_revision <= at).cloned()
    }

    /// The keys that were put after the revision `since`, as they are at the copy's.
    #[must_use]
    pub fn put_after(&self, since: i64) -> Vec<KeyValue> {
        let unchanged = |kv: &&KeyValue| !self.changed.contains_key(&kv.key);
        let newer = |kv: &&KeyValue| kv.mod_revision > since;
        // All of the base is older, unless the copy was made anew.
        let anew = lock(&self.told.state).first > since + 1;
        let base = if anew { self.base.as_slice() } else { &[] };
        let base = base.iter().filter(newer).filter(unchanged);
        let changed = self.changed.values().flatten().filter(newer);
        base.chain(changed).cloned().collect()
    }

    /// Every change that was told, from the copy's first revision on, but those of the fence.
    #[must_use]
    pub fn changes(&self) -> Vec<Timed> {
        let state = lock(&self.told.state);
        let others = state
            .changes
            .iter()
            .filter(|timed| timed.change.key() != self.fence);
        others.cloned().collect()
    }

    /// All keys at the copy's revision, in byte order.
    #[must_use]
    pub fn into_keys(mut self) -> Vec<KeyValue> {
        self.task.abort();
        let changed = std::mem::take(&mut self.changed);
        let mut keys = std::mem::take(&mut self.base);
        keys.retain(|kv| !changed.contains_key(&kv.key));
        keys.extend(changed.into_values().flatten());
        keys.sort_by(|a, b| a.key.cmp(&b.key));
        keys
    }
}

impl Drop for Mirror {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Etcd {
    /// Compares `keys`, all under `prefix` at `revision` in byte order and without `fence`, with what etcd
    /// has: every key with its revisions, which stand for its value. Where etcd has compacted that revision,
    /// the keys that were not changed since are compared.
    pub async fn compare(
        &self,
        prefix: &str,
        fence: &str,
        revision: i64,
        keys: &[KeyValue],
    ) -> Result<Compared> {
        let mut comparison = Comparison {
            keys,
            revision,
            exact: true,
        };
        let mut pages = Pages::of(prefix);
        let mut at = 0;
        while !pages.is_over() {
            let mut options = pages.options().with_keys_only();
            if comparison.exact {
                options = options.with_revision(revision);
            }
            let mut page = match self.range(pages.from(), options).await {
                Ok(page) => page,
                Err(error) if comparison.exact && is_compacted(&error) => {
                    comparison.exact = false;
                    continue;
                }
                Err(error) => {
                    return Err(self.error(&error, &format!("reading {prefix} from etcd")));
                }
            };
            pages.turn(&page);
            let page: Vec<KeyValue> = page.take_kvs().into_iter().map(convert).collect();
            for found in page.iter().filter(|kv| kv.key != fence.as_bytes()) {
                if let Some(differs) = comparison.next(&mut at, Some(found)) {
                    return Ok(Compared::Differs(differs));
                }
            }
        }
        let rest = comparison.next(&mut at, None);
        Ok(rest.map_or(Compared::Same, Compared::Differs))
    }
}

struct Comparison<'a> {
    keys: &'a [KeyValue],
    revision: i64,
    /// Whether etcd tells of the revision itself.
    exact: bool,
}

impl Comparison<'_> {
    /// Compares up to `found`, the next key that etcd has; `None` stands for its end.
    fn next(&self, at: &mut usize, found: Option<&KeyValue>) -> Option<String> {
        let named = |kv: &KeyValue| String::from_utf8_lossy(&kv.key).into_owned();
        while let Some(copied) = self.keys.get(*at)
            && found.is_none_or(|found| copied.key < found.key)
        {
            *at += 1;
            if self.exact {
                return Some(format!("etcd does not have {}", named(copied)));
            }
        }
        let found = found?;
        let copied = self.keys.get(*at).filter(|copied| copied.key == found.key);
        *at += usize::from(copied.is_some());
        if found.mod_revision > self.revision {
            return None;
        }
        let same = copied.is_some_and(|copied| {
            copied.mod_revision == found.mod_revision
                && copied.create_revision == found.create_revision
        });
        (!same).then(|| {
            format!(
                "{} is at revision {} in etcd",
                named(found),
                found.mod_revision
            )
        })
    }
}
