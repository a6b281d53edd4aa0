//! Real etcds with small quotas and limits.

use super::*;
use crate::base::env::Env;
use crate::etcd::scratch_with;
use crate::restore::act::keyspace::Keyspace as _;
use crate::{Cause, Side};

fn config(endpoint: &str) -> config::Etcd {
    config::Etcd {
        endpoints: vec![endpoint.to_owned()],
        embedded: None,
        root_path: "by-dev".into(),
        meta_sub_path: "meta".into(),
        kv_sub_path: "kv".into(),
        username: None,
        password: None,
        tls: config::Tls {
            enabled: false,
            ca_file: None,
            client: None,
            server_name: None,
        },
        binary: None,
    }
}

fn target(keys: impl IntoIterator<Item = usize>) -> TargetKeys {
    let key =
        |(n, size): (usize, usize)| (format!("by-dev/meta/{n:05}").into_bytes(), vec![7; size]);
    TargetKeys {
        keys: keys.into_iter().enumerate().map(key).collect(),
        last: 0,
    }
}

/// An etcd of 64 MiB that holds 40 MiB of keys, all of which change: no room, said with the numbers. With the quota
/// as a probe would find it, no alarm is raised.
#[tokio::test]
async fn a_quota_that_the_swap_would_reach_is_found_before_it() {
    let (mut etcd, process, _directory) =
        scratch_with(&["--quota-backend-bytes", "67108864"]).await;
    let config = config(process.endpoint());
    let keys = target(vec![40 << 10; 1024]);
    for batch in crate::etcd::batches(&keys.keys, TxnLimits::default()) {
        etcd.put_all("filling", vec![], &batch, None).await.unwrap();
    }
    let there = etcd.read_prefix("by-dev/").await.unwrap().keys;
    let (same, _) = room(&config, &mut etcd, "3.5.21", (&there, &keys))
        .await
        .unwrap();
    assert_eq!((same.quota, same.lack), (Some(64 << 20), None));

    let mut changed = keys.clone();
    for (_, value) in &mut changed.keys {
        value[0] = 8;
    }
    let (full, _) = room(&config, &mut etcd, "3.5.21", (&there, &changed))
        .await
        .unwrap();
    let Lack {
        found,
        hint,
        is_full,
    } = full.lack.unwrap();
    assert!(is_full && found.contains("64.0 MiB"), "{found}");
    assert!(hint.contains("--quota-backend-bytes"), "{hint}");
    assert!(!etcd.status().await.unwrap().no_space);
}

/// What etcd takes by itself can be restored, and whether it does is known before.
#[tokio::test]
async fn a_value_at_the_limit_of_etcd_fits_and_a_larger_one_is_refused() {
    for limit in [64 << 10, 1_572_864] {
        let arguments = [
            "--max-request-bytes",
            &limit.to_string(),
            "--max-txn-ops",
            "20",
        ];
        let (mut etcd, process, _directory) = scratch_with(&arguments).await;
        let config = config(process.endpoint());
        let key = b"by-dev/meta/00000".len();
        // A put by itself takes 64 bytes less than the limit.
        let (mut fits, over) = (
            target([limit - 64 - key, 100, 50_000]),
            target([limit - key]),
        );
        fits.last = 1;
        let (room_for, limits) = room(&config, &mut etcd, "3.5.21", (&[], &fits))
            .await
            .unwrap();
        assert_eq!(room_for.lack, None);
        assert!(limits.operations <= 20 && limits.bytes < limit);
        let (room_for, _) = room(&config, &mut etcd, "3.5.21", (&[], &over))
            .await
            .unwrap();
        assert!(room_for.lack.unwrap().hint.contains("--max-request-bytes"));

        let lock = etcd
            .lock(b"by-dev/eyrie/restore-lock", b"owner", &Env::system())
            .await;
        let lock = lock.unwrap().unwrap();
        let held = vec![crate::etcd::Condition::Equals(
            b"by-dev/eyrie/restore-lock".to_vec(),
            b"owner".to_vec(),
        )];
        let pair = &fits.keys[0];
        let put = crate::restore::act::keyspace::Keyspace::put_large(
            &mut etcd,
            "putting",
            held.clone(),
            pair,
            &lock,
        );
        assert!(matches!(put.await.unwrap(), crate::etcd::Applied::At(_)));
        let found = etcd.get("by-dev/meta/00000").await.unwrap().unwrap();
        assert_eq!((found.lease, found.value.len()), (0, limit - 64 - key));
        lock.release().await.unwrap();
        assert!(
            etcd.get("by-dev/meta/00000").await.unwrap().is_some(),
            "it went with the lock"
        );
    }
}

#[tokio::test]
async fn an_alarm_and_an_old_version_are_found() {
    let (mut etcd, process, _directory) = scratch_with(&["--quota-backend-bytes", "1048576"]).await;
    let config = config(process.endpoint());
    let (old, _) = room(&config, &mut etcd, "3.3.27", (&[], &target([1])))
        .await
        .unwrap();
    assert!(old.lack.unwrap().found.contains("3.3.27"));
    let filled = loop {
        let pair = [(b"k".to_vec(), vec![0; 100_000])];
        if let Err(error) = etcd.put_all("filling", vec![], &pair, None).await {
            break error;
        }
    };
    assert_eq!(
        (filled.cause(), filled.side()),
        (Cause::NoSpace, Some(Side::Source))
    );
    let (full, _) = room(&config, &mut etcd, "3.5.21", (&[], &target([1])))
        .await
        .unwrap();
    assert!(full.lack.unwrap().found.contains("NOSPACE"));
}
