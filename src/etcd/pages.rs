//! Pages of the keys under a prefix, none of which costs etcd much more than it holds.
//!
//! For each page etcd counts all keys up to the end of the range that it was asked for (3.5:
//! `server/mvcc/index.go`, Revisions), so pages that are asked for up to the end of everything cost as the
//! square of the keys: minutes of a core for a million. A page is asked for up to a bound that is guessed from
//! how far the pages before reached.

use etcd_client::{GetOptions, GetResponse, SortOrder, SortTarget};

#[cfg(test)]
use super::KeyValue;

/// Keys that a page holds at most.
const PAGE_KEYS: i64 = 2_000;

/// Keys of the first page: even with values of etcd's limit (1.5 MiB) it fits into memory.
const FIRST_PAGE_KEYS: i64 = 128;

/// Bytes that a page should have; the number of keys follows from the page before.
const PAGE_BYTES: usize = 8 << 20;

/// How many times as far as the page before a page may reach.
const STRETCH: u64 = 2;

/// How many times further each page may reach as long as there is next to nothing.
const SPARSE: u64 = 8;

/// A page that has less than one key in so many of its limit counts as next to nothing.
const FEW: usize = 4;

/// Where the next page is.
#[derive(Debug)]
pub struct Pages {
    prefix: String,
    /// How many keys it has at most.
    limit: i64,
    over: bool,
    /// Where it begins.
    from: Vec<u8>,
    /// Where it ends at the latest.
    bound: Vec<u8>,
    /// Where everything ends.
    end: Vec<u8>,
    /// Where the distance is measured from.
    origin: Vec<u8>,
    stretch: u64,
}

impl Pages {
    /// The keys under `prefix`, in byte order. The first page is asked for up to the end of all, since nothing
    /// is known yet.
    #[must_use]
    pub fn of(prefix: &str) -> Self {
        let (from, end) = (prefix.as_bytes(), prefix_end(prefix.as_bytes()));
        Self {
            prefix: prefix.to_owned(),
            limit: FIRST_PAGE_KEYS,
            over: false,
            from: from.to_vec(),
            bound: end.clone(),
            end,
            origin: from.to_vec(),
            stretch: STRETCH,
        }
    }

    /// Whether all are read.
    pub(super) const fn is_over(&self) -> bool {
        self.over
    }

    /// From which key on the page is to be read.
    pub(super) fn from(&self) -> &[u8] {
        &self.from
    }

    /// How it is to be read.
    pub(super) fn options(&self) -> GetOptions {
        GetOptions::new()
            .with_range(self.bound.clone())
            .with_limit(self.limit)
            .with_sort(SortTarget::Key, SortOrder::Ascend)
    }

    /// The prefix of all keys.
    pub(crate) fn prefix(&self) -> &str {
        &self.prefix
    }

    /// The next page of `all`, which are in byte order, as etcd would give it.
    #[cfg(test)]
    pub(crate) fn next_of(&mut self, all: &[KeyValue], limit: usize) -> Option<Vec<KeyValue>> {
        if self.over {
            return None;
        }
        self.limit = i64::try_from(limit).unwrap();
        let is_before = |key: &[u8]| self.bound == [0] || key < self.bound.as_slice();
        let from = all.partition_point(|kv| kv.key < self.from);
        let ranged = all[from..].iter().take_while(|kv| is_before(&kv.key));
        let ranged = ranged.count();
        let taken = &all[from..from + ranged.min(limit)];
        let keys: Vec<&[u8]> = taken.iter().map(|kv| kv.key.as_slice()).collect();
        self.go_on(&keys, taken.len() < ranged);
        Some(taken.to_vec())
    }

    /// Goes on after a page.
    pub(super) fn turn(&mut self, page: &GetResponse) {
        let keys: Vec<&[u8]> = page.kvs().iter().map(etcd_client::KeyValue::key).collect();
        self.go_on(&keys, page.more());
        if !keys.is_empty() {
            let sizes = page.kvs().iter();
            let sizes = sizes.map(|kv| kv.key().len() + kv.value().len());
            self.limit = limit(sizes.sum(), keys.len());
        }
    }

    /// Goes on after a page with these keys; `more` says that it was full before its bound.
    fn go_on(&mut self, keys: &[&[u8]], more: bool) {
        let limit = usize::try_from(self.limit).unwrap_or(0);
        match keys.first() {
            Some(first) if more || keys.len() >= limit / FEW => {
                self.origin = first.to_vec();
                self.stretch = STRETCH;
            }
            _ => self.stretch = self.stretch.saturating_mul(SPARSE),
        }
        if let Some(last) = keys.last().filter(|_| more) {
            self.from = [last, &[0_u8][..]].concat();
        } else {
            self.over = self.bound == self.end;
            self.from.clone_from(&self.bound);
        }
        let bound = beyond(&self.origin, &self.from, self.stretch);
        let bound = bound.filter(|bound| self.is_before_end(bound));
        self.bound = bound.unwrap_or_else(|| self.end.clone());
    }

    fn is_before_end(&self, key: &[u8]) -> bool {
        // etcd's word for no end at all.
        self.end == [0] || key < self.end.as_slice()
    }
}

/// The first key after all keys that begin with `prefix`.
#[must_use]
pub fn prefix_end(prefix: &[u8]) -> Vec<u8> {
    let mut end = prefix.to_vec();
    while let Some(last) = end.pop() {
        if last < 0xff {
            end.push(last + 1);
            return end;
        }
    }
    vec![0]
}

/// How many keys the next page may have, when `keys` of the one before had `bytes`.
fn limit(bytes: usize, keys: usize) -> i64 {
    let average = bytes / keys + 1;
    i64::try_from(PAGE_BYTES / average)
        .unwrap_or(PAGE_KEYS)
        .clamp(1, PAGE_KEYS)
}

/// A key that is `stretch` times as far behind `from` as that is behind `origin`; `None` where there is none.
///
/// The distance is that of the eight bytes after what both have in common, as a number.
fn beyond(origin: &[u8], from: &[u8], stretch: u64) -> Option<Vec<u8>> {
    let same = origin.iter().zip(from).take_while(|(a, b)| a == b).count();
    let common = &from[..same];
    let number = |key: &[u8]| {
        let mut bytes = [0; 8];
        for (byte, of_key) in bytes.iter_mut().zip(&key[same..]) {
            *byte = *of_key;
        }
        u64::from_be_bytes(bytes)
    };
    let distance = number(from).saturating_sub(number(origin)).max(1);
    let further = distance.checked_mul(stretch);
    let number = further.and_then(|further| number(from).checked_add(further));
    match number {
        Some(number) => Some([common, &number.to_be_bytes()].concat()),
        None => Some(prefix_end(common)).filter(|end| *end != [0]),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    /// What reading cost.
    #[derive(Debug, Default)]
    struct Cost {
        pages: usize,
        /// Keys that etcd counts.
        counted: usize,
    }

    fn read(keys: &BTreeSet<Vec<u8>>, prefix: &str, limit: usize) -> (Vec<Vec<u8>>, Cost) {
        let (mut pages, mut read, mut cost) = (Pages::of(prefix), Vec::new(), Cost::default());
        let keyed = |key: &Vec<u8>| KeyValue::new(key.clone(), vec![]);
        let all: Vec<KeyValue> = keys.iter().map(keyed).collect();
        loop {
            let (from, bound) = (pages.from.clone(), pages.bound.clone());
            assert!(pages.over || from < bound || bound == [0]);
            let Some(page) = pages.next_of(&all, limit) else {
                return (read, cost);
            };
            let counted = |key: &&Vec<u8>| bound == [0] || **key < bound;
            cost.pages += 1;
            cost.counted += keys.range(from..).take_while(counted).count();
            read.extend(page.into_iter().map(|kv| kv.key));
        }
    }

    #[test]
    fn prefix_end_is_the_next_key_after_the_prefix() {
        assert_eq!(prefix_end(b"by-dev/"), b"by-dev0");
        assert_eq!(prefix_end(&[1, 0xff]), [2]);
        assert_eq!(prefix_end(&[0xff, 0xff]), [0]);
    }

    #[test]
    fn pages_are_short_where_values_are_long() {
        assert_eq!(limit(128 * 200, 128), PAGE_KEYS);
        assert_eq!(limit(128 * 1_500_000, 128), 5);
        assert_eq!(limit(64 << 20, 1), 1);
        assert_eq!(limit(0, 1), PAGE_KEYS);
    }

    #[test]
    fn keys_are_counted_a_few_times_and_not_once_for_each_page_before_them() {
        let mut keys = BTreeSet::new();
        for collection in 0..500 {
            let id = 448_000_000_000_000_000_u64 + collection * 77_777;
            for field in 0..4 {
                keys.insert(format!("by-dev/meta/root-coord/fields/{id}/{field}"));
                keys.insert(format!(
                    "by-dev/meta/snapshots/root-coord/fields/{id}/{field}_ts1"
                ));
            }
            for segment in 0..13 {
                let place = format!("{id}/{}/{}", id + 1, id + 10 + segment);
                keys.insert(format!("by-dev/meta/datacoord-meta/s/{place}"));
                for field in [0, 1, 100, 101, 102, 103] {
                    keys.insert(format!("by-dev/meta/datacoord-meta/binlog/{place}/{field}"));
                }
                keys.insert(format!("by-dev/meta/segment-index/{place}/{id}"));
            }
            keys.insert(format!(
                "by-dev/meta/datacoord-meta/channel-cp/by-dev-rootcoord-dml_0_{id}v0"
            ));
        }
        keys.insert("by-dev/kv/gid/timestamp".to_owned());
        keys.insert("by-dev/meta/zz".to_owned());
        let keys: BTreeSet<Vec<u8>> = keys.into_iter().map(String::into_bytes).collect();
        let (read, cost) = read(&keys, "by-dev/", 200);
        assert_eq!(read, keys.iter().cloned().collect::<Vec<_>>());
        assert!(cost.counted < 12 * keys.len(), "{cost:?} of {}", keys.len());
        assert!(
            cost.pages < keys.len() / 200 * 3,
            "{cost:?} of {}",
            keys.len()
        );
    }

    /// Keys that have much in common, and bytes at both ends of their range.
    fn key() -> impl Strategy<Value = Vec<u8>> {
        let byte = prop::sample::select(vec![0_u8, 1, b'/', b'0', b'a', 0x7f, 254, 255]);
        prop::collection::vec(byte, 1..12)
    }

    proptest! {
        #[test]
        fn every_key_is_read_once_and_in_order(
            keys in prop::collection::btree_set(key(), 0..200),
            prefix in prop::sample::select(vec!["", "/", "a", "a/", "\u{7f}"]),
            limit in 1_usize..20,
        ) {
            let under = keys.iter().filter(|key| key.starts_with(prefix.as_bytes()));
            let under: Vec<Vec<u8>> = under.cloned().collect();
            let (read, _) = read(&keys, prefix, limit);
            prop_assert_eq!(read, under);
        }
    }
}
