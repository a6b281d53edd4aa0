//! What is to be in the target's etcd when a restore has ended.

use std::collections::BTreeMap;

use super::marker::MarkerKeys;
use crate::etcd::KeyValue;
use crate::instance::liveness::keys_beside_sessions;
use crate::milvus::keys::Roots;
use crate::restore::scope::Scope;
use crate::{Cause, Error, Result};

/// Keys and their values.
pub type Pairs = [(Vec<u8>, Vec<u8>)];

/// What is to be in etcd at the end.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct TargetKeys {
    /// Keys and values in the order of writing.
    pub keys: Vec<(Vec<u8>, Vec<u8>)>,
    /// How many at the end of `keys` make collections visible: they are absent until all others
    /// are there.
    pub last: usize,
}

impl TargetKeys {
    pub(crate) fn split(&self) -> (&Pairs, &Pairs) {
        self.keys
            .split_at(self.keys.len().saturating_sub(self.last))
    }

    /// Checks that all of it belongs to `scope`: anything else would be neither compared nor, by the
    /// next restore, found.
    ///
    /// # Errors
    ///
    /// [`Cause::Failed`] that names a key outside.
    pub(crate) fn check(&self, scope: &Scope) -> Result<()> {
        let outside = self.keys.iter().find(|(key, _)| !scope.has_key(key));
        outside.map_or(Ok(()), |(key, _)| {
            let (key, keys) = (String::from_utf8_lossy(key), scope.keys.join(" and "));
            let message = format!("the restore would write {key}, which is not below {keys}");
            Err(Error::new(Cause::Failed, message))
        })
    }

    /// The places in `keys` in the order of the keys, 4 bytes each.
    pub(crate) fn places(&self) -> Places {
        let mut places: Vec<u32> = (0..).take(self.keys.len()).collect();
        places.sort_unstable_by_key(|at| &self.keys[*at as usize].0);
        Places(places)
    }

    fn values(&self) -> BTreeMap<&[u8], &[u8]> {
        self.keys
            .iter()
            .map(|(key, value)| (&key[..], &value[..]))
            .collect()
    }
}

/// Where each key of a [`TargetKeys`] is; etcd takes fewer keys than 2^32.
pub(crate) struct Places(Vec<u32>);

impl Places {
    pub(crate) fn find(&self, target: &TargetKeys, key: &[u8]) -> Option<usize> {
        let at = |place: &u32| *place as usize;
        let found = self
            .0
            .binary_search_by(|place| target.keys[at(place)].0[..].cmp(key));
        found.ok().map(|found| at(&self.0[found]))
    }
}

/// The keys that a restore of `target` would destroy: all of its scope but eyrie's own, those that are
/// as they will be, and `session/id` and `session/version`, which any etcd that Milvus once used has.
pub(crate) fn in_the_way<'k>(
    found: &'k [KeyValue],
    scope: &'k Scope,
    names: &'k MarkerKeys,
    roots: &Roots,
    target: &'k TargetKeys,
) -> impl Iterator<Item = &'k KeyValue> {
    let wanted = target.values();
    let tolerated = keys_beside_sessions(roots);
    found.iter().filter(move |kv| {
        scope.has_key(&kv.key)
            && !names.owns(&kv.key)
            && !tolerated.contains(&kv.key)
            && wanted.get(kv.key.as_slice()) != Some(&kv.value.as_slice())
    })
}
