use std::sync::LazyLock;

use jiff::Timestamp;

use super::super::keyspace::memory::{Fault, MemoryKeys};
use super::*;
use crate::restore::plan::marker::Found;

fn env() -> Env {
    Env::simulated(Timestamp::UNIX_EPOCH, 7).0
}

fn from(marker: &Marker) -> Beginning<'_> {
    Beginning {
        marker,
        stage: Stage::Objects,
        given_up: None,
        limits: TxnLimits::default(),
        seen: None,
        found: None,
    }
}

fn marker() -> Marker {
    Marker {
        over_swap: false,
        restore: "r".into(),
        repository: "a".into(),
        snapshot: "s".into(),
        options: String::new(),
        started: Timestamp::UNIX_EPOCH,
    }
}

fn target() -> TargetKeys {
    let key = |n: usize| (format!("r/meta/k{n:04}").into_bytes(), vec![1; 8]);
    let mut keys: Vec<_> = (0..150).map(key).collect();
    keys.push((b"r/meta/session/id".to_vec(), b"5".to_vec()));
    for n in 0..3 {
        keys.push((
            format!("r/meta/a-collection/{n}").into_bytes(),
            b"c".to_vec(),
        ));
    }
    TargetKeys { keys, last: 3 }
}

static WHOLE: LazyLock<Scope> = LazyLock::new(|| Scope::whole(&Roots::new("r")));

async fn run(keys: &mut MemoryKeys) -> Result<()> {
    Box::pin(steps(keys)).await
}

async fn steps(keys: &mut MemoryKeys) -> Result<()> {
    let all = keys.read("r/").await?.keys;
    let stage = Found::read(&MarkerKeys::new("r"), &all).stage;
    let marker = marker();
    let beginning = Beginning {
        stage: stage.unwrap_or(Stage::Objects),
        ..from(&marker)
    };
    let mut writer = Writer::begin(keys, &Roots::new("r"), &WHOLE, beginning, &env()).await?;
    writer.stage(Stage::Swap).await?;
    writer.clear(&target(), Occupied::Replace).await?;
    writer.write(&target(), |_| Ok(())).await?;
    writer.compare(&target()).await?;
    writer.stage(Stage::Clean).await?;
    Box::pin(writer.finish()).await
}

fn complete(keys: &MemoryKeys) {
    let dump = keys.dump();
    for (key, value) in target().keys {
        assert_eq!(dump[&String::from_utf8(key).unwrap()], value);
    }
    assert!(!dump.contains_key("r/meta/old"));
    assert!(!dump.contains_key("r/eyrie/restore"), "{:?}", dump.keys());
    assert!(dump.contains_key("other/key"));
}

fn before() -> MemoryKeys {
    let keys = MemoryKeys::default();
    keys.insert("other/key", b"1");
    keys.insert("r/meta/old", b"1");
    keys.insert("r/meta/a-collection/0", b"c");
    keys
}

/// A crash at every write, then the same again.
#[tokio::test(start_paused = true)]
async fn a_crash_at_any_write_is_resumed() {
    for fault in [Fault::CrashBefore, Fault::CrashAfter, Fault::Lost] {
        for at in 0.. {
            let mut keys = before();
            keys.arm(at, fault);
            let first = run(&mut keys).await;
            if keys.armed() {
                break;
            }
            let dump = keys.dump();
            let early = target().split().0.len();
            let visible = dump.keys().filter(|k| k.contains("a-collection")).count();
            let there = dump.keys().filter(|k| k.starts_with("r/meta/k")).count();
            let old = dump.contains_key("r/meta/old");
            assert!(old || visible == 0 || there + 1 == early, "{fault:?} {at}");
            keys.revive();
            if first.is_err() {
                run(&mut keys).await.unwrap();
            }
            complete(&keys);
        }
    }
}

#[tokio::test]
async fn only_a_replacing_restore_removes_keys() {
    let mut keys = before();
    keys.insert("r/meta/session/id", b"3");
    let left = keys.clone();
    let mut writer = Writer::begin(&mut keys, &Roots::new("r"), &WHOLE, from(&marker()), &env())
        .await
        .unwrap();
    let error = writer.clear(&target(), Occupied::Refuse).await.unwrap_err();
    assert_eq!(error.exit_code(), 21);
    assert!(left.dump().contains_key("r/meta/old"));
    assert_eq!(writer.clear(&target(), Occupied::Replace).await.unwrap(), 3);
    writer.clear(&target(), Occupied::Refuse).await.unwrap();
}

#[tokio::test]
async fn a_session_stops_the_writer() {
    // Whatever the component calls itself, before, between and after the keys that are no session.
    for name in ["querynode-7", "a-later-component", "indexnode", "w"] {
        let mut keys = MemoryKeys::default();
        keys.insert("r/meta/session/id", b"3");
        keys.insert("r/meta/session/version", b"2.3.5");
        let mut other = keys.clone();
        let mut writer =
            Writer::begin(&mut keys, &Roots::new("r"), &WHOLE, from(&marker()), &env())
                .await
                .unwrap();
        other.insert(&format!("r/meta/session/{name}"), b"{}");
        let error = writer.write(&target(), |_| Ok(())).await.unwrap_err();
        assert_eq!(error.exit_code(), 21);
        assert!(error.to_string().contains(name), "{error}");
        assert!(!other.dump().contains_key("r/meta/k0000"));
        let _ = other.read("").await;
    }
}

#[tokio::test]
async fn another_restores_marker_is_refused() {
    let mut keys = MemoryKeys::default();
    keys.insert("r/eyrie/restore", b"{}");
    let error = Writer::begin(&mut keys, &Roots::new("r"), &WHOLE, from(&marker()), &env())
        .await
        .unwrap_err();
    assert_eq!(error.exit_code(), 21);
}

/// The marker of a restore that is given up goes in the transaction that puts the new one, under the lock.
#[tokio::test(start_paused = true)]
async fn another_restores_marker_is_replaced_only_under_the_lock() {
    let other = Marker {
        restore: "other".into(),
        ..marker()
    };
    let other = other.to_value().unwrap();
    let mut keys = MemoryKeys::default();
    keys.insert("r/eyrie/restore", &other);
    keys.insert("r/eyrie/restore-saved", b"of the other");
    let (mut held, seen) = (keys.clone(), keys.clone());
    // Whoever is at work keeps its marker.
    let locked = held
        .lock(b"r/eyrie/restore-lock", b"o", &env())
        .await
        .unwrap();
    let begin = async |keys: &mut MemoryKeys, given_up: &[u8]| {
        let roots = Roots::new("r");
        let begun = Writer::begin(
            keys,
            &roots,
            &WHOLE,
            Beginning {
                given_up: Some(given_up),
                ..from(&marker())
            },
            &env(),
        )
        .await;
        begun.map(drop)
    };
    begin(&mut keys, &other).await.unwrap_err();
    assert_eq!(seen.dump()["r/eyrie/restore"], other);
    drop(locked);
    keys.revive();
    // A marker that has changed since it was looked at stays too.
    begin(&mut keys, b"{}").await.unwrap_err();
    assert_eq!(seen.dump()["r/eyrie/restore"], other);
    keys.revive();
    begin(&mut keys, &other).await.unwrap();
    assert_eq!(seen.dump()["r/eyrie/restore"], marker().to_value().unwrap());
    assert!(seen.dump()["r/eyrie/restore-saved"].is_empty());
}

/// What somebody wrote since the target was looked at would be older than the stage that is put.
#[tokio::test]
async fn no_marker_is_put_on_a_target_that_was_written_since_it_was_looked_at() {
    let mut keys = before();
    let seen = keys.read("r/").await.unwrap().revision;
    let (other, roots, marker) = (keys.clone(), Roots::new("r"), marker());
    let beginning = Beginning {
        seen: Some(seen),
        ..from(&marker)
    };
    let written = keys.clone();
    written.insert("other/key", b"2");
    let writer = Writer::begin(&mut keys, &roots, &WHOLE, beginning, &env())
        .await
        .unwrap();
    writer.leave().await.unwrap();
    keys.revive();
    other.insert("r/meta/session/id", b"9");
    let error = Writer::begin(&mut keys, &roots, &WHOLE, beginning, &env())
        .await
        .unwrap_err();
    assert_eq!(error.exit_code(), 21);
    let mut fresh = before();
    let seen = fresh.read("r/").await.unwrap().revision;
    fresh.insert("r/meta/session/id", b"9");
    let beginning = Beginning {
        seen: Some(seen),
        ..from(&marker)
    };
    Writer::begin(&mut fresh, &roots, &WHOLE, beginning, &env())
        .await
        .unwrap_err();
    assert!(!fresh.dump().contains_key("r/eyrie/restore"));
}

/// What a living process keeps, or another instance has, stops the removal before anything goes.
#[tokio::test]
async fn keys_of_others_stop_the_clearing() {
    for (key, leased) in [("r/other/held", true), ("r/b/meta/session/id", false)] {
        let mut keys = before();
        let (other, roots) = (keys.clone(), Roots::new("r"));
        let mut writer = Writer::begin(&mut keys, &roots, &WHOLE, from(&marker()), &env())
            .await
            .unwrap();
        other.insert(key, b"1");
        if leased {
            other.hang_on_a_lease(key);
        }
        let error = writer
            .clear(&target(), Occupied::Replace)
            .await
            .unwrap_err();
        assert_eq!(error.exit_code(), 21);
        assert!(error.to_string().contains(key), "{error}");
        let dump = other.dump();
        assert!(dump.contains_key("r/meta/old") && dump.contains_key(key));
    }
}

/// A key that would end with the lock is not in place, whatever its value.
#[tokio::test]
async fn a_key_on_a_lease_does_not_compare() {
    let mut keys = MemoryKeys::default();
    let (other, roots) = (keys.clone(), Roots::new("r"));
    let mut writer = Writer::begin(&mut keys, &roots, &WHOLE, from(&marker()), &env())
        .await
        .unwrap();
    writer.write(&target(), |_| Ok(())).await.unwrap();
    writer.compare(&target()).await.unwrap();
    other.hang_on_a_lease("r/meta/k0007");
    let error = writer.compare(&target()).await.unwrap_err();
    assert!(error.to_string().contains("k0007 hangs on a lease"));
}

#[tokio::test]
async fn a_milvus_that_was_started_and_stopped_is_noticed() {
    let mut keys = before();
    let other = keys.clone();
    let roots = Roots::new("r");
    let mut writer = Writer::begin(&mut keys, &roots, &WHOLE, from(&marker()), &env())
        .await
        .unwrap();
    writer.clear(&target(), Occupied::Replace).await.unwrap();
    writer.write(&target(), |_| Ok(())).await.unwrap();
    writer.check(&target()).await.unwrap();
    other.insert("r/meta/session/id", b"9");
    let error = writer.check(&target()).await.unwrap_err();
    assert_eq!(error.exit_code(), 21);
    assert!(error.to_string().contains("started and stopped"), "{error}");
}

#[tokio::test(start_paused = true)]
async fn a_second_restore_waits_for_the_lock_and_gives_up() {
    let mut keys = MemoryKeys::default();
    let mut other = keys.clone();
    let _held = Writer::begin(
        &mut other,
        &Roots::new("r"),
        &WHOLE,
        from(&marker()),
        &env(),
    )
    .await
    .unwrap();
    let error = Writer::begin(&mut keys, &Roots::new("r"), &WHOLE, from(&marker()), &env())
        .await
        .unwrap_err();
    assert_eq!(error.exit_code(), 21);
}

#[tokio::test]
async fn what_does_not_compare_is_named() {
    let mut keys = MemoryKeys::default();
    let other = keys.clone();
    let mut writer = Writer::begin(&mut keys, &Roots::new("r"), &WHOLE, from(&marker()), &env())
        .await
        .unwrap();
    writer.write(&target(), |_| Ok(())).await.unwrap();
    other.insert("r/meta/k0007", b"flipped");
    let error = writer.compare(&target()).await.unwrap_err();
    assert!(
        error.to_string().contains("k0007 has another value"),
        "{error}"
    );
    other.insert("r/meta/k0007", &[1; 8]);
    other.insert("r/meta/zzz", b"");
    let error = writer.compare(&target()).await.unwrap_err();
    assert!(
        error.to_string().contains("zzz should not be there"),
        "{error}"
    );
}

#[tokio::test]
async fn a_finished_restore_leaves_a_record_that_goes_on_until_milvus_writes() {
    let mut keys = before();
    run(&mut keys).await.unwrap();
    let names = MarkerKeys::new("r");
    let all = keys.read("r/").await.unwrap().keys;
    assert_eq!(Found::read(&names, &all).marker, Some(marker()));
    keys.insert("r/meta/session/id", b"6");
    let all = keys.read("r/").await.unwrap().keys;
    assert_eq!(Found::read(&names, &all).marker, None);
}
