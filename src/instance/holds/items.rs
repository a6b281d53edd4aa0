//! One item of Milvus's dynamic configuration, held under a lease.

use std::time::Duration;

use tokio::time::Instant;
use tracing::info;

use super::TTL;
use crate::etcd::{Applied, Condition, Etcd, KeyValue, Lease};
use crate::milvus::version;
use crate::{Cause, Result, Side};

/// An item of the dynamic configuration and the value that holds something off.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ConfigItem {
    /// What it holds, for people: `writes`, `ddl`, `compaction`.
    pub name: &'static str,
    /// The path below `{root}/config/`.
    pub path: &'static str,
    /// The value.
    pub value: &'static str,
}

/// Denies Insert, Upsert, Delete and Import; Flush goes on. Since 2.3.0.
pub const WRITES: ConfigItem = ConfigItem {
    name: "writes",
    path: version::FORCE_DENY_WRITING,
    value: "true",
};

/// Denies DDL on collections, partitions, indexes and databases. 2.4.24, 2.5.8 and 2.6.
pub const DDL: ConfigItem = ConfigItem {
    name: "ddl",
    path: version::FORCE_DENY_DDL,
    value: "true",
};

/// Stops new automatic compactions; running ones finish. Re-read at each trigger since 2.4.
pub const COMPACTION: ConfigItem = ConfigItem {
    name: "compaction",
    path: version::AUTO_COMPACTION,
    value: "false",
};

/// Stops sort compactions, which a flush would otherwise begin. 2.6.
pub const SORT_COMPACTION: ConfigItem = ConfigItem {
    name: "sort compaction",
    path: version::SORT_COMPACTION,
    value: "false",
};

/// How an item came to be in force.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Placed {
    /// We put it, under our lease.
    Ours {
        /// The item.
        item: ConfigItem,
        /// The full key.
        key: Vec<u8>,
        /// The revision that created it.
        create_revision: i64,
        /// Our lease.
        lease: i64,
    },
    /// An operator had set it to the same value.
    External {
        /// The item.
        item: ConfigItem,
        /// The full key as the operator spelled it.
        key: Vec<u8>,
        /// The revision of its last change when it was found.
        mod_revision: i64,
    },
}

impl Placed {
    /// The full key.
    #[must_use]
    pub fn key(&self) -> &[u8] {
        match self {
            Self::Ours { key, .. } | Self::External { key, .. } => key,
        }
    }

    /// The item.
    #[must_use]
    pub const fn item(&self) -> ConfigItem {
        match self {
            Self::Ours { item, .. } | Self::External { item, .. } => *item,
        }
    }

    /// Whether `keys`, read at one revision, show that this hold stood from when it was placed
    /// until then: the same incarnation, unchanged, on the same lease.
    #[must_use]
    pub fn proven_by(&self, keys: &[KeyValue]) -> bool {
        let Ok(at) = keys.binary_search_by(|kv| kv.key.as_slice().cmp(self.key())) else {
            return false;
        };
        let found = &keys[at];
        match self {
            Self::Ours {
                create_revision,
                lease,
                ..
            } => {
                found.create_revision == *create_revision
                    && found.mod_revision == *create_revision
                    && found.lease == *lease
            }
            Self::External { mod_revision, .. } => found.mod_revision == *mod_revision,
        }
    }
}

/// How long a hold that another agent left behind is waited for: its lease ends by then when that
/// agent is dead.
const FOREIGN_WAIT: Duration = Duration::from_secs(TTL.as_secs() + 10);

/// Puts `item` under `lease` below `{root}/config/`, unless an operator has set it. An item that
/// hangs on another agent's lease is waited for, as a dead agent's ends by itself. Says since when it may be in
/// force: from before it is put.
///
/// # Errors
///
/// [`Side::Source`] when it is set to another value in any spelling that Milvus takes for the
/// same item. After [`Cause::Unavailable`] the key may exist; it ends with the lease.
pub async fn place(
    etcd: &mut Etcd,
    root: &str,
    item: ConfigItem,
    lease: &Lease,
) -> Result<(Placed, Instant)> {
    let prefix = format!("{root}/config/");
    let key = format!("{prefix}{}", item.path).into_bytes();
    let give_up = Instant::now() + FOREIGN_WAIT;
    loop {
        let set = etcd.read_prefix(&prefix).await?.keys;
        if let Some(found) = in_force(&set, root, item) {
            if found.lease != 0 && Instant::now() < give_up {
                info!(
                    hold = item.name,
                    "another agent's hold is in place; waiting for its lease"
                );
                tokio::time::sleep(Duration::from_secs(1)).await;
                continue;
            }
            return Ok((external(found, item)?, Instant::now()));
        }
        let since = Instant::now();
        let doing = format!("putting the {} hold into etcd", item.name);
        let put = [(key.clone(), item.value.as_bytes().to_vec())];
        let absent = vec![Condition::Absent(key.clone())];
        if let Applied::At(create_revision) =
            etcd.put_all(&doing, absent, &put, Some(lease)).await?
        {
            let ours = Placed::Ours {
                item,
                key,
                create_revision,
                lease: lease.id(),
            };
            return Ok((ours, since));
        }
    }
}

/// Fails when `keys`, which hold all of `{root}/config/`, show that an operator has set `item` to
/// another value.
///
/// # Errors
///
/// [`Side::Source`], naming the key.
pub fn allowed(keys: &[KeyValue], root: &str, item: ConfigItem) -> Result<()> {
    match in_force(keys, root, item) {
        Some(found) if found.lease == 0 => external(found, item).map(|_| ()),
        _ => Ok(()),
    }
}

/// The key that spells `item`; of several the one whose value is not the item's, as Milvus may take
/// that one.
fn in_force<'a>(keys: &'a [KeyValue], root: &str, item: ConfigItem) -> Option<&'a KeyValue> {
    let prefix = format!("{root}/config/");
    let spelled = || keys.iter().filter(|kv| spells(&kv.key, &prefix, item.path));
    let differs = |kv: &&KeyValue| !kv.value.eq_ignore_ascii_case(item.value.as_bytes());
    spelled().find(differs).or_else(|| spelled().next())
}

/// Whether an operator has set `item`, in any spelling and without a lease.
pub async fn is_set(etcd: &mut Etcd, root: &str, item: ConfigItem) -> Result<bool> {
    let prefix = format!("{root}/config/");
    let set = etcd.read_prefix(&prefix).await?.keys;
    Ok(set
        .iter()
        .any(|kv| kv.lease == 0 && spells(&kv.key, &prefix, item.path)))
}

fn external(found: &KeyValue, item: ConfigItem) -> Result<Placed> {
    let spelling = String::from_utf8_lossy(&found.key).into_owned();
    let value = String::from_utf8_lossy(&found.value);
    if !value.eq_ignore_ascii_case(item.value) {
        return Err(Side::Source
            .error(
                Cause::Refused,
                format!(
                    "the {} hold is refused: an operator has set {spelling} to {value:?} in etcd",
                    item.name
                ),
            )
            .with_hint(format!(
                "remove that key, or set it to {:?} yourself for the time of the backup",
                item.value
            )));
    }
    if found.lease != 0 {
        return Err(Side::Source
            .error(
                Cause::Refused,
                format!(
                    "the {} hold is refused: {spelling} is held by another agent under lease {:x}",
                    item.name, found.lease
                ),
            )
            .with_hint("another backup of this instance is running: wait until it has ended"));
    }
    Ok(Placed::External {
        item,
        key: found.key.clone(),
        mod_revision: found.mod_revision,
    })
}

/// Whether `key` is a spelling of the item at `path`: Milvus lower-cases and drops `/`, `_`
/// and `.` (docs/milvus.md 2.3).
fn spells(key: &[u8], prefix: &str, path: &str) -> bool {
    let normal = |text: &str| -> String {
        text.chars()
            .filter(|c| !matches!(c, '/' | '_' | '.'))
            .flat_map(char::to_lowercase)
            .collect()
    };
    key.strip_prefix(prefix.as_bytes())
        .and_then(|rest| std::str::from_utf8(rest).ok())
        .is_some_and(|rest| normal(rest) == normal(path))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kv(key: &str, create: i64, modified: i64, lease: i64, value: &str) -> KeyValue {
        KeyValue {
            key: key.into(),
            value: value.into(),
            create_revision: create,
            mod_revision: modified,
            version: 1,
            lease,
        }
    }

    #[test]
    fn every_spelling_of_an_item_is_found() {
        for spelling in [
            "quotaAndLimits/limitWriting/forceDeny",
            "quotaAndLimits.limitWriting.forceDeny",
            "QUOTAANDLIMITS_LIMITWRITING_FORCEDENY",
        ] {
            let key = format!("by-dev/config/{spelling}");
            assert!(spells(key.as_bytes(), "by-dev/config/", WRITES.path));
        }
        assert!(!spells(
            b"by-dev/config/quotaAndLimits/enabled",
            "by-dev/config/",
            WRITES.path
        ));
    }

    #[test]
    fn a_hold_is_proven_only_by_the_same_incarnation_on_the_same_lease() {
        let ours = Placed::Ours {
            item: WRITES,
            key: b"k".to_vec(),
            create_revision: 7,
            lease: 9,
        };
        assert!(ours.proven_by(&[kv("a", 1, 1, 0, ""), kv("k", 7, 7, 9, "true")]));
        assert!(!ours.proven_by(&[]));
        assert!(!ours.proven_by(&[kv("k", 8, 8, 9, "true")]));
        assert!(!ours.proven_by(&[kv("k", 7, 8, 9, "true")]));
        assert!(!ours.proven_by(&[kv("k", 7, 7, 0, "true")]));
    }

    #[test]
    fn of_two_spellings_the_one_that_differs_decides() {
        let keys = [
            kv(
                "by-dev/config/quotaAndLimits.limitWriting.forceDeny",
                1,
                1,
                0,
                "true",
            ),
            kv(
                "by-dev/config/quotaAndLimits/limitWriting/forceDeny",
                2,
                2,
                0,
                "false",
            ),
        ];
        assert!(allowed(&keys[..1], "by-dev", WRITES).is_ok());
        let error = allowed(&keys, "by-dev", WRITES).unwrap_err();
        assert_eq!(error.exit_code(), 20);
        assert!(error.chain().contains("limitWriting/forceDeny"));
        let leased = [kv(
            "by-dev/config/quotaAndLimits/limitWriting/forceDeny",
            1,
            1,
            7,
            "false",
        )];
        assert!(
            allowed(&leased, "by-dev", WRITES).is_ok(),
            "a lease ends by itself"
        );
    }

    #[test]
    fn an_operators_setting_is_used_and_another_value_or_agent_is_refused() {
        let same = external(&kv("k", 1, 4, 0, "True"), WRITES).unwrap();
        assert!(matches!(
            same,
            Placed::External {
                mod_revision: 4,
                ..
            }
        ));
        for other in [kv("k", 1, 1, 0, "false"), kv("k", 1, 1, 5, "true")] {
            assert_eq!(external(&other, WRITES).unwrap_err().exit_code(), 20);
        }
    }
}
