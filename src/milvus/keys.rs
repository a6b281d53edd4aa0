//! The layout of Milvus's etcd keys: one table of key families, shared by the catalog and the
//! restore transform (docs/milvus.md 3).

use std::fmt;

use serde::{Deserialize, Serialize};

mod table;

pub use crate::etcd::KeyValue;
pub use table::{Copies, Cut, Family, KeyKind, Turn, View};

/// Where an instance keeps its keys: `etcd.rootPath`, `etcd.metaSubPath` and `etcd.kvSubPath`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Roots {
    /// The root path, without slashes at its ends; `by-dev` by default.
    pub root: String,
    /// The sub path of metadata; `meta` by default.
    pub meta: String,
    /// The sub path of counters; `kv` by default.
    pub kv: String,
}

impl Default for Roots {
    fn default() -> Self {
        Self::new("by-dev")
    }
}

impl Roots {
    /// The root `root` with the default sub paths.
    #[must_use]
    pub fn new(root: &str) -> Self {
        Self {
            root: root.trim_matches('/').to_owned(),
            meta: "meta".to_owned(),
            kv: "kv".to_owned(),
        }
    }

    /// The prefix of everything that is the instance's: `{root}/`.
    #[must_use]
    pub fn prefix(&self) -> String {
        format!("{}/", self.root)
    }

    /// The prefix of one area, slash at the end.
    #[must_use]
    pub fn area(&self, area: Area) -> String {
        match area {
            Area::Meta => format!("{}/{}/", self.root, self.meta),
            Area::Kv => format!("{}/{}/", self.root, self.kv),
            Area::Root => self.prefix(),
        }
    }

    /// Splits a key into its area and the rest; `None` when it is outside the root (Woodpecker's
    /// own keys of 2.6.0 to 2.6.13, other tenants of the same etcd) or not UTF-8.
    #[must_use]
    pub fn split<'k>(&self, key: &'k [u8]) -> Option<(Area, &'k str)> {
        let key = std::str::from_utf8(key).ok()?;
        let rest = key.strip_prefix(self.root.as_str())?.strip_prefix('/')?;
        let below = |sub: &str| rest.strip_prefix(sub).and_then(|r| r.strip_prefix('/'));
        Some(match (below(&self.meta), below(&self.kv)) {
            (Some(rest), _) => (Area::Meta, rest),
            (None, Some(rest)) => (Area::Kv, rest),
            (None, None) => (Area::Root, rest),
        })
    }

    /// What a key is. Keys of the instance that the table does not know are [`KeyKind::Unknown`],
    /// keys outside the root [`KeyKind::Foreign`].
    #[must_use]
    pub fn parse<'k>(&self, key: &'k [u8]) -> KeyKind<'k> {
        match self.split(key) {
            Some((area, rest)) => table::parse(area, rest),
            None if self.owns(key) => KeyKind::Unknown,
            None => KeyKind::Foreign,
        }
    }

    /// The same key under other roots; `None` for a key outside this root. A key of the meta or
    /// counter area moves with the sub path, any other with the root alone.
    #[must_use]
    pub fn reroot(&self, key: &[u8], target: &Self) -> Option<Vec<u8>> {
        if let Some((area, rest)) = self.split(key) {
            return Some((target.area(area) + rest).into_bytes());
        }
        let rest = key.strip_prefix(self.prefix().as_bytes())?;
        Some([target.prefix().as_bytes(), rest].concat())
    }

    fn owns(&self, key: &[u8]) -> bool {
        key.starts_with(self.prefix().as_bytes())
    }
}

impl fmt::Display for Roots {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{{{},{}}}", self.root, self.meta, self.kv)
    }
}

/// What a key of the meta area is, given without root and sub path, as copies under `snapshots/`
/// name their originals.
#[must_use]
pub fn parse_meta(rest: &str) -> KeyKind<'_> {
    table::parse(Area::Meta, rest)
}

/// Where below the root a key lives.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Area {
    /// `{root}/{meta}/`: metadata and sessions.
    Meta,
    /// `{root}/{kv}/`: counters.
    Kv,
    /// `{root}/` itself: dynamic configuration.
    Root,
}

/// The ids in a segment's keys. A segment of level 0 may have partition −1, all partitions.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SegmentKey {
    /// The collection.
    pub collection: i64,
    /// The partition.
    pub partition: i64,
    /// The segment.
    pub segment: i64,
}

/// Which of a segment's logs a key lists.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LogKind {
    /// Rows.
    Insert,
    /// Deleted primary keys.
    Delta,
    /// Bloom filters and ranges of primary keys.
    Stats,
    /// Term statistics of BM25 functions, 2.5 and later.
    Bm25,
}

/// The spelling to which Milvus reduces the name of a configuration item: lower case, without
/// `/`, `_` and `.` (docs/milvus.md 2.3). Two keys with the same spelling are the same item.
#[must_use]
pub fn normalise_item(name: &str) -> String {
    name.chars()
        .filter(|c| !matches!(c, '/' | '_' | '.'))
        .flat_map(char::to_lowercase)
        .collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn roots() -> Roots {
        Roots::new("by-dev")
    }

    #[test]
    fn every_family_parses_its_own_example_and_knows_its_pattern() {
        for family in Family::ALL {
            for example in family.examples() {
                let key = format!("by-dev/{example}");
                assert_eq!(roots().parse(key.as_bytes()).family(), *family, "{key}");
            }
        }
    }

    #[test]
    fn both_spellings_of_streaming_keys_are_the_same_family() {
        for (key, family) in [
            (
                "by-dev/meta/streamingcoord-meta/version",
                Family::StreamingVersion,
            ),
            (
                "by-dev/meta/streamingcoord-meta/version/",
                Family::StreamingVersion,
            ),
            (
                "by-dev/meta/streamingcoord-meta/cchannel",
                Family::ControlChannel,
            ),
            (
                "by-dev/meta/streamingcoord-meta/cchannel/",
                Family::ControlChannel,
            ),
        ] {
            assert_eq!(roots().parse(key.as_bytes()).family(), family, "{key}");
        }
    }

    #[test]
    fn woodpecker_outside_the_root_is_not_ours() {
        for key in ["woodpecker/instance", "by-dev2/meta/session/id", "by-dev"] {
            assert_eq!(roots().parse(key.as_bytes()), KeyKind::Foreign, "{key}");
        }
        let key = b"by-dev/meta/no-such-family/1";
        assert_eq!(roots().parse(key), KeyKind::Unknown);
        assert_eq!(roots().parse(b"by-dev/meta/\xff\xfe"), KeyKind::Unknown);
    }

    #[test]
    fn snapshot_copies_name_the_key_they_copy_and_their_time() {
        let key = b"by-dev/meta/snapshots/root-coord/database/collection-info/1/445_ts446";
        let KeyKind::SnapshotCopy { original, ts } = roots().parse(key) else {
            panic!("not a copy");
        };
        assert_eq!(original, "root-coord/database/collection-info/1/445");
        assert_eq!(ts, 446);
        let alias = b"by-dev/meta/snapshots/root-coord/database/aliases/1/my_ts_ts7";
        assert!(matches!(
            roots().parse(alias),
            KeyKind::SnapshotCopy {
                original: "root-coord/database/aliases/1/my_ts",
                ts: 7
            }
        ));
    }

    #[test]
    fn spellings_of_a_configuration_item_are_one() {
        let wanted = "quotaandlimitslimitwritingforcedeny";
        for name in [
            "quotaAndLimits/limitWriting/forceDeny",
            "quotaAndLimits.limitWriting.forceDeny",
            "QUOTA_AND_LIMITS/limitwriting.forcedeny",
        ] {
            assert_eq!(normalise_item(name), wanted);
        }
    }

    #[test]
    fn rerooting_moves_root_and_sub_paths() {
        let target = Roots {
            root: "prod".to_owned(),
            meta: "m".to_owned(),
            kv: "k".to_owned(),
        };
        for (from, to) in [
            ("by-dev/meta/session/id", "prod/m/session/id"),
            ("by-dev/kv/gid/timestamp", "prod/k/gid/timestamp"),
            ("by-dev/config/a/b", "prod/config/a/b"),
        ] {
            assert_eq!(
                roots().reroot(from.as_bytes(), &target),
                Some(to.as_bytes().to_vec())
            );
        }
        assert_eq!(roots().reroot(b"other/x", &target), None);
    }

    proptest! {
        #[test]
        fn parsing_any_bytes_never_fails(key in proptest::collection::vec(any::<u8>(), 0..80)) {
            let _ = roots().parse(&key);
            let _ = roots().parse(&[b"by-dev/meta/".as_slice(), &key].concat());
        }

        #[test]
        fn segment_keys_round_trip(c in 1..i64::MAX, p in -1..i64::MAX, s in 1..i64::MAX) {
            let key = format!("by-dev/meta/datacoord-meta/s/{c}/{p}/{s}");
            prop_assert_eq!(
                roots().parse(key.as_bytes()),
                KeyKind::Segment(SegmentKey { collection: c, partition: p, segment: s })
            );
        }
    }
}
