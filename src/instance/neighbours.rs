//! Keys below an instance's root that are not its own: those of another instance, and those that a
//! living process keeps.

use std::collections::BTreeSet;

use crate::etcd::KeyValue;
use crate::milvus::keys::{Area, Roots};

/// What beside `ROOT/` and Milvus's areas is no other instance's: dynamic configuration, whose names may have
/// a `session` in them, and eyrie's own.
const OWN: [&str; 2] = ["config/", "eyrie/"];

/// The root of another instance that `key` shows to be below `roots`: each Milvus has a counter of its
/// sessions, at `ROOT/META/session/id`. One with the same root and another META has that for its root.
#[must_use]
pub fn other_root<'k>(roots: &Roots, key: &'k [u8]) -> Option<&'k str> {
    let key = std::str::from_utf8(key).ok()?;
    // A user or a role may be called `session`.
    let areas = [Area::Meta, Area::Kv];
    if areas.iter().any(|area| key.starts_with(&roots.area(*area))) {
        return None;
    }
    let below = key.strip_prefix(&roots.prefix())?;
    if OWN.iter().any(|own| below.starts_with(own)) {
        return None;
    }
    let area = below.strip_suffix("/session/id")?;
    let other = area.rsplit_once('/').map_or(area, |(other, _)| other);
    key.get(..roots.prefix().len() + other.len())
}

/// The roots of other instances below `roots`, as `keys` show them.
#[must_use]
pub fn other_roots(roots: &Roots, keys: &[KeyValue]) -> BTreeSet<String> {
    let found = keys.iter().filter_map(|kv| other_root(roots, &kv.key));
    found.map(str::to_owned).collect()
}

/// Whether a key belongs to one of the instances in `others`.
#[must_use]
pub fn is_of(others: &BTreeSet<String>, key: &[u8]) -> bool {
    others.iter().any(|root| {
        let rest = key.strip_prefix(root.as_bytes());
        rest.is_some_and(|rest| rest.starts_with(b"/"))
    })
}

/// What is said of other instances; `None` where there is none.
#[must_use]
pub fn said(roots: &Roots, others: &BTreeSet<String>) -> Option<String> {
    (!others.is_empty()).then(|| {
        let names: Vec<_> = others.iter().map(String::as_str).collect();
        format!(
            "below the root {} lie keys of another Milvus instance: {}",
            roots.root,
            names.join(", ")
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_instance_below_the_root_is_found_by_its_sessions() {
        let roots = Roots::new("by-dev");
        for (key, expected) in [
            ("by-dev/b/meta/session/id", Some("by-dev/b")),
            ("by-dev/b/c/meta/session/id", Some("by-dev/b/c")),
            ("by-dev/meta2/session/id", Some("by-dev/meta2")),
            ("by-dev/config/common/session/id", None),
            ("by-dev/config/common/session/ttl", None),
            ("by-dev/meta/session/id", None),
            ("by-dev/meta/session/querynode-7", None),
            (
                "by-dev/meta/root-coord/credential/user-role-mapping/t/session/r",
                None,
            ),
            ("by-dev2/meta/session/id", None),
            ("by-dev/b/session/other", None),
        ] {
            assert_eq!(other_root(&roots, key.as_bytes()), expected, "{key}");
        }
        let others = BTreeSet::from(["by-dev/b".to_owned()]);
        assert!(is_of(&others, b"by-dev/b/kv/gid/timestamp"));
        assert!(!is_of(&others, b"by-dev/b2/kv/gid/timestamp"));
    }
}
