//! A mirror of real etcds: whatever happens to keys and members, it shows what etcd had.

use std::time::Duration;

use nix::sys::signal::Signal;

use super::members_tests::{Cluster, connect};
use super::mirror::{Compared, Mirror};
use super::watch::{Change, Seen, Watch};
use super::{Etcd, KeyValue, Lease, Settings, scratch, scratch_with};
use crate::Side;
use crate::base::env::Env;
use crate::base::secret::Secret;

const PREFIX: &str = "root/";
const FENCE: &str = "root/fence";

async fn lease(etcd: &Etcd) -> Lease {
    let (mut etcd, env) = (etcd.clone(), Env::system());
    let granted = etcd.lease(Duration::from_secs(30), &env).await;
    granted.unwrap()
}

async fn put(etcd: &Etcd, key: &str, value: &str) {
    let pair = [(key.as_bytes().to_vec(), value.as_bytes().to_vec())];
    let put = etcd.clone().put_all("a test", vec![], &pair, None).await;
    put.unwrap();
}

async fn delete(etcd: &Etcd, key: &str) {
    let key = [key.as_bytes().to_vec()];
    let deleted = etcd.clone().delete_all("a test", vec![], &key).await;
    deleted.unwrap();
}

/// Puts and deletes keys for ever, in an order that looks random.
async fn churn(etcd: Etcd, seed: u64) {
    let mut n = seed;
    loop {
        n = n.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        let key = format!("{PREFIX}{:03}", (n >> 33) % 300);
        if (n >> 50).is_multiple_of(4) {
            delete(&etcd, &key).await;
        } else {
            put(&etcd, &key, &n.to_string()).await;
        }
    }
}

async fn caught_up(mirror: &mut Mirror, lease: &Lease) -> i64 {
    let caught_up = mirror.catch_up(lease).await.unwrap();
    caught_up.expect("nobody compacted it")
}

async fn without_fence(etcd: &Etcd, revision: i64) -> Vec<KeyValue> {
    let read = etcd.clone().read_at(PREFIX, revision).await.unwrap();
    let mut keys = read.unwrap();
    keys.retain(|kv| kv.key != FENCE.as_bytes());
    keys
}

#[tokio::test]
async fn under_writes_it_is_at_every_fence_what_etcd_had_at_that_revision() {
    let (etcd, _process, _directory) = scratch().await;
    for n in 0..250 {
        put(&etcd, &format!("{PREFIX}{n:03}"), "old").await;
    }
    put(&etcd, "other/key", "not of it").await;
    let lease = lease(&etcd).await;
    let writers = [1, 2].map(|seed| tokio::spawn(churn(etcd.clone(), seed)));
    let mut mirror = etcd.mirror(PREFIX, FENCE).await.unwrap();
    let first = mirror.revision();
    for _ in 0..20 {
        let revision = caught_up(&mut mirror, &lease).await;
        mirror.advance(revision);
        assert_eq!(mirror.range(PREFIX), without_fence(&etcd, revision).await);
        let part = etcd.clone().read_at("root/1", revision).await.unwrap();
        assert_eq!(mirror.range("root/1"), part.unwrap());
        // The copy stays where it is while the watch goes on.
        tokio::time::sleep(Duration::from_millis(20)).await;
        assert_eq!(mirror.range(PREFIX), without_fence(&etcd, revision).await);
    }
    let revision = caught_up(&mut mirror, &lease).await;
    for writer in writers {
        writer.abort();
    }
    mirror.advance(revision);
    let changes = mirror.changes();
    assert!(changes.iter().all(|timed| timed.change.revision() > first));
    assert!(changes.len() > 50, "{}", changes.len());
    for timed in changes.iter().filter(|t| t.change.revision() <= revision) {
        let (key, at) = (timed.change.key(), timed.change.revision());
        assert_eq!(mirror.value_at(key, at), timed.change.put().cloned());
    }
    let keys = mirror.into_keys();
    assert_eq!(keys, without_fence(&etcd, revision).await);
    let compared = etcd.compare(PREFIX, FENCE, revision, &keys).await.unwrap();
    assert_eq!(compared, Compared::Same);
}

#[tokio::test]
async fn a_copy_that_is_not_what_etcd_had_is_told_and_after_a_compaction_as_far_as_can_be_known() {
    let (etcd, _process, _directory) = scratch().await;
    for key in ["a", "b", "c", "d"] {
        put(&etcd, &format!("{PREFIX}{key}"), "v").await;
    }
    let lease = lease(&etcd).await;
    let mut mirror = etcd.mirror(PREFIX, FENCE).await.unwrap();
    let revision = caught_up(&mut mirror, &lease).await;
    mirror.advance(revision);
    let keys = mirror.into_keys();
    // What came later is no difference.
    put(&etcd, "root/a", "later").await;
    delete(&etcd, "root/c").await;
    put(&etcd, "root/e", "new").await;
    let mut more = keys.clone();
    more.insert(1, KeyValue::new("root/aa", "never"));
    let mut less = keys.clone();
    less.remove(1);
    let mut old = keys.clone();
    old[1].mod_revision -= 1;
    for compacted in [false, true] {
        if compacted {
            etcd.clone().compact().await;
        }
        let compare = async |keys: &[KeyValue]| {
            let compared = etcd.compare(PREFIX, FENCE, revision, keys).await;
            compared.unwrap()
        };
        assert_eq!(compare(&keys).await, Compared::Same, "{compacted}");
        for wrong in [&less, &old] {
            let told = compare(wrong).await;
            let named = matches!(&told, Compared::Differs(what) if what.contains("root/b"));
            assert!(named, "{told:?} {compacted}");
        }
        let told = compare(&more).await;
        let named = matches!(&told, Compared::Differs(what) if what.contains("root/aa"));
        assert_eq!(named, !compacted, "{told:?}");
    }
}

#[tokio::test]
async fn a_watch_from_a_compacted_revision_says_so() {
    let (etcd, _process, _directory) = scratch().await;
    for n in 0..5 {
        put(&etcd, "root/a", &n.to_string()).await;
    }
    etcd.clone().compact().await;
    let mut watch = Watch::new(etcd.clone(), PREFIX, 2);
    assert!(matches!(watch.next().await.unwrap(), Seen::Compacted));
}

#[tokio::test]
async fn a_member_that_dies_or_goes_mute_costs_seconds_and_no_change_is_lost() {
    let mut cluster = Cluster::start(3).await;
    let (etcd, _) = connect(&cluster.endpoints()).await.unwrap();
    let lease = lease(&etcd).await;
    let writer = tokio::spawn(churn(etcd.clone(), 7));
    let mut mirror = etcd.mirror(PREFIX, FENCE).await.unwrap();
    // The one that calls are made on is the first at the beginning, then one after the other.
    for (at, dies) in [(0, true), (1, false), (2, true), (0, false)] {
        let before = caught_up(&mut mirror, &lease).await;
        if dies {
            cluster.kill(at).await;
        } else {
            cluster.signal(at, Signal::SIGSTOP);
        }
        tokio::time::sleep(Duration::from_millis(500)).await;
        let revision = caught_up(&mut mirror, &lease).await;
        assert!(revision > before);
        mirror.advance(revision);
        assert_eq!(mirror.range(PREFIX), without_fence(&etcd, revision).await);
        if dies {
            cluster.revive(at);
        } else {
            cluster.signal(at, Signal::SIGCONT);
        }
        tokio::time::sleep(Duration::from_secs(2)).await;
    }
    writer.abort();
    let changes = mirror.changes();
    let revisions: Vec<i64> = changes.iter().map(|t| t.change.revision()).collect();
    assert!(revisions.is_sorted(), "in the order in which they happened");
    assert!(
        changes
            .iter()
            .any(|t| matches!(t.change, Change::Deleted { .. }))
    );
}

#[tokio::test]
async fn a_copy_that_was_made_anew_tells_what_is_newer_and_not_what_was_before() {
    let (etcd, _process, _directory) = scratch().await;
    for key in ["root/a", "root/b"] {
        put(&etcd, key, "old").await;
    }
    let since = etcd.clone().status().await.unwrap().revision;
    put(&etcd, "root/a", "newer than that").await;
    let mirror = etcd.mirror(PREFIX, FENCE).await.unwrap();
    let newer = mirror.put_after(since);
    let keys: Vec<_> = newer.iter().map(|kv| kv.key.as_slice()).collect();
    assert_eq!(keys, [b"root/a"]);
    assert_eq!(mirror.value_at(b"root/a", since), None, "nothing tells");
    let unchanged = mirror.value_at(b"root/b", since).unwrap();
    assert_eq!(unchanged.value, b"old");
}

#[tokio::test]
async fn a_token_that_has_run_out_costs_a_watch_nothing_although_its_user_may_read_no_more_than_it_watches()
 {
    let (etcd, process, _directory) = scratch_with(&["--auth-token-ttl", "1"]).await;
    etcd.add_user("backup", "kestrel", PREFIX).await;
    etcd.enable_auth("root", "secret").await;
    let settings = Settings {
        endpoints: vec![process.endpoint().to_owned()],
        user: Some(("backup".to_owned(), Secret::new("kestrel".to_owned()))),
        tls: None,
        side: Side::Source,
    };
    let (etcd, _) = Etcd::connect(&settings).await.unwrap();
    let mut watch = Watch::new(etcd.clone(), PREFIX, 2);
    let unheard = tokio::time::timeout(Duration::from_secs(4), watch.next());
    assert!(unheard.await.is_err(), "nothing happened");
    // By now the token has run out.
    watch.turn();
    let told = watch.next();
    let happens = async {
        tokio::time::sleep(Duration::from_millis(500)).await;
        put(&etcd, "root/a", "v").await;
    };
    let (told, ()) = tokio::join!(told, happens);
    assert!(matches!(told.unwrap(), Seen::Changes(changes) if changes[0].key() == b"root/a"));
}
