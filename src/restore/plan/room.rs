//! Whether the target's etcd takes what a restore writes, found out before anything is destroyed.

use super::inputs::{EtcdRoom, Lack};
use super::target_keys::TargetKeys;
use crate::base::text::Bytes;
use crate::etcd::{Etcd, KeyValue, MAX_TXN_BYTES, TxnLimits, size};
use crate::instance::connect;
use crate::{Result, config};

/// Bytes that a revision of a key takes in etcd's database beside key and value: its own key, revisions,
/// version, lease, and the frame of each.
const REVISION: u64 = 64;

/// The oldest etcd whose transactions have all that a restore's conditions need.
const OLDEST: (u64, u64) = (3, 4);

/// Looks at versions, alarms, size, quota and limits. Nothing is stored.
///
/// # Errors
///
/// [`Side::Target`](crate::Side::Target) when etcd does not answer or refuses the user.
pub(crate) async fn room(
    config: &config::Etcd,
    etcd: &mut Etcd,
    version: &str,
    (there, target): (&[KeyValue], &TargetKeys),
) -> Result<(EtcdRoom, TxnLimits)> {
    let capacity = connect::etcd_capacity(config, etcd).await;
    let quota = capacity.quota;
    let mut room = EtcdRoom {
        version: version.to_owned(),
        size: capacity.size,
        quota,
        lack: None,
    };
    let needed = needed(there, target);
    // Free pages of the file are used first.
    let free = capacity.size.saturating_sub(capacity.in_use);
    let growth = needed.saturating_sub(free);
    let place = etcd.endpoints().to_owned();
    if let Some(found) = too_old(version) {
        let hint = "Milvus needs etcd 3.5: upgrade the target's";
        room.lack = Some(lack(false, format!("etcd at {place} is {found}"), hint));
    } else if !capacity.alarms.is_empty() {
        room.lack = Some(lack(
            true,
            format!(
                "etcd at {place} takes no writes: {}",
                capacity.alarms.join(", ")
            ),
            "compact and defragment it or raise its quota, then `etcdctl alarm disarm`; a CORRUPT alarm needs \
             a repaired cluster",
        ));
    } else if let Some(quota) = quota.filter(|quota| capacity.size + growth >= *quota) {
        room.lack = Some(lack(
            true,
            format!(
                "etcd at {place} has no room: its database has {} of a quota of {} ({} in use), and the restore adds \
                 about {}",
                Bytes(capacity.size),
                Bytes(quota),
                Bytes(capacity.in_use),
                Bytes(needed)
            ),
            format!(
                "raise --quota-backend-bytes to {} or more, or compact and defragment etcd first",
                Bytes(capacity.size + growth + (growth >> 2))
            ),
        ));
    }
    if room.lack.is_some() {
        return Ok((room, TxnLimits::default()));
    }
    let prefix = format!("{}/eyrie/", config.root_path);
    let Some(limits) = etcd.limits(&prefix).await? else {
        room.lack = Some(lack(
            false,
            format!("etcd at {place} takes no transaction with one key of 1 KiB"),
            "raise its --max-txn-ops and --max-request-bytes",
        ));
        return Ok((room, TxnLimits::default()));
    };
    let largest = target.keys.iter().max_by_key(|pair| size(pair));
    if let Some(pair) = largest
        && size(pair) > limits.bytes
        && !etcd.takes_large(&prefix, size(pair)).await?
    {
        room.lack = Some(lack(
            false,
            format!(
                "etcd at {place} does not take a key of {}, which {} has",
                Bytes(size(pair) as u64),
                String::from_utf8_lossy(&pair.0)
            ),
            "raise its --max-request-bytes to what the source's etcd has",
        ));
    }
    Ok((room, limits))
}

fn lack(is_full: bool, found: String, hint: impl Into<String>) -> Lack {
    let hint = hint.into();
    Lack {
        is_full,
        found,
        hint,
    }
}

/// Bytes by which the database grows at most when the keys that differ are written: a quarter more than
/// their sum, for pages that are not full. A large value is written twice.
fn needed(there: &[KeyValue], target: &TargetKeys) -> u64 {
    let is_there = |(key, value): &(Vec<u8>, Vec<u8>)| {
        let at = there.binary_search_by(|kv| kv.key.cmp(key));
        at.is_ok_and(|at| there[at].value == *value)
    };
    let written = target.keys.iter().filter(|pair| !is_there(pair));
    let bytes = written.map(|pair| {
        let times = if size(pair) > MAX_TXN_BYTES { 2 } else { 1 };
        times * (size(pair) as u64 + REVISION)
    });
    // What is removed leaves a mark each.
    let sum = bytes.sum::<u64>() + there.len() as u64 * REVISION;
    sum + (sum >> 2)
}

fn too_old(version: &str) -> Option<&str> {
    let mut numbers = version.split('.').map(|part| part.parse::<u64>().ok());
    let (Some(Some(major)), Some(Some(minor))) = (numbers.next(), numbers.next()) else {
        return None;
    };
    ((major, minor) < OLDEST).then_some(version)
}

#[cfg(test)]
#[path = "room_tests.rs"]
mod tests;
