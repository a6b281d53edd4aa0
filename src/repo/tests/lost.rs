//! Packs that were lost: noticed by the next writer, and healed by what it stores again.

use std::sync::Arc;

use super::support::*;
use crate::Cause;
use crate::repo::format::ids::IndexId;
use crate::repo::format::segment::Segment;
use crate::repo::session::unnamed::write_segment;
use crate::repo::{BadPlace, CheckBytes, CheckReport, Repository, Verification};
use crate::store::testing::fault::{Action, FaultStore, Rule};
use crate::store::testing::record::Op;
use crate::store::{Key, PutOptions, Store};

async fn packs(store: &dyn Store, directory: &str) -> Vec<Key> {
    use futures::TryStreamExt as _;
    let listed = store.list(directory, crate::store::ListOptions::default());
    let listed: Vec<_> = listed.try_collect().await.unwrap();
    listed.into_iter().map(|meta| meta.key).collect()
}

async fn damage_count(repo: &Repository) -> usize {
    let report = repo.check(&[], CheckBytes::All).await.unwrap();
    report.damage.len()
}

/// What becomes of a pack.
#[derive(Debug, Clone, Copy)]
enum Loss {
    Gone,
    CutShort,
}

async fn lose(store: &dyn Store, key: &Key, loss: Loss) {
    let bytes = store.get(key, crate::store::GetOptions::default()).await;
    let bytes = bytes.unwrap();
    store.delete(key, None).await.unwrap();
    if matches!(loss, Loss::CutShort) {
        let half = bytes.slice(..bytes.len() / 2);
        let put = store.put(key, half, PutOptions::default());
        put.await.unwrap();
    }
}

#[tokio::test]
async fn the_next_backup_stores_again_what_lost_packs_held() {
    for directory in ["data/", "tree/"] {
        for loss in [Loss::Gone, Loss::CutShort] {
            let (_, store) = memory();
            let repo = init(store.clone()).await;
            let (data, other) = (objects(1), objects(2));
            let (first, _) = backup(&repo, "a", &data).await.unwrap();
            backup(&repo, "b", &other).await.unwrap();
            let of_first = packs(&*store, directory).await;
            lose(&*store, &of_first[0], loss).await;
            assert!(damage_count(&open(store.clone()).await.unwrap()).await > 0);

            // Each instance stores again what it has.
            let repo = open(store.clone()).await.unwrap();
            let (again, _) = backup(&repo, "a", &data).await.unwrap();
            backup(&repo, "b", &other).await.unwrap();
            let healed = open(store.clone()).await.unwrap();
            assert_eq!(damage_count(&healed).await, 0, "{directory} {loss:?}");
            let view = healed.view().await.unwrap();
            for manifest in [&first, &again] {
                assert_eq!(restore(&view, manifest).await.unwrap(), data);
            }

            let (_, added) = backup(&healed, "a", &data).await.unwrap();
            assert_eq!(added, 0, "all of it is known again");
        }
    }
}

/// What a verification keeps of a check.
async fn verified(repo: &Repository) -> CheckReport {
    let report = repo.check(&[], CheckBytes::All).await.unwrap();
    let verification = Verification {
        time: repo.env().now(),
        level: "bytes".into(),
        results: vec![],
        places: report.places.clone(),
        segments: report.segments.clone(),
    };
    repo.record_verification(&verification).await.unwrap();
    report
}

#[tokio::test]
async fn the_next_backup_stores_again_what_a_verification_found_damaged_wherever_it_is() {
    let (memory, _) = memory();
    let repo = init(memory.clone()).await;
    let data = objects(1);
    let (first, _) = backup(&repo, "a", &data).await.unwrap();
    for directory in ["data/", "tree/"] {
        for key in packs(&*memory, directory).await {
            let size = usize::try_from(memory.head(&key).await.unwrap().size).unwrap();
            // Its ends, with the header, the trailer and much of the directory, and what is between them.
            let ends = (0..100).chain(size - 200..size).step_by(9);
            for at in ends.chain((100..size - 200).step_by(size / 40)) {
                let store = Arc::new(memory.fork());
                damage(&store, &key, |bytes| bytes[at] ^= 1).await;
                let found = verified(&open(store.clone()).await.unwrap()).await;
                assert!(!found.damage.is_empty(), "{key} {at}");
                let repo = open(store.clone()).await.unwrap();
                let (again, added) = backup(&repo, "a", &data).await.unwrap();
                assert!(added > 0, "{key} {at}");
                let healed = open(store.clone()).await.unwrap();
                let report = healed.check(&[], CheckBytes::All).await.unwrap();
                assert_eq!(report.damage, [], "{key} {at}");
                let view = healed.view().await.unwrap();
                for manifest in [&first, &again] {
                    assert_eq!(restore(&view, manifest).await.unwrap(), data, "{key} {at}");
                }
                let (_, added) = backup(&healed, "a", &data).await.unwrap();
                assert_eq!(added, 0, "{key} {at}: all of it is known again");
            }
        }
    }
}

#[tokio::test]
async fn what_an_unreadable_index_segment_named_is_found_and_named_again() {
    let (memory, _) = memory();
    let repo = init(memory.clone()).await;
    let (data, other) = (objects(1), objects(2));
    let (first, _) = backup(&repo, "a", &data).await.unwrap();
    let (second, _) = backup(&repo, "a", &other).await.unwrap();
    let segments = packs(&*memory, "index/").await;
    assert!(segments.len() >= 2);
    let blobs = repo.view().await.unwrap().blobs();
    let stray = Key::new(format!("index/{}", "5a".repeat(32))).unwrap();
    for key in segments.iter().chain([&stray]) {
        for half in [false, true] {
            let store = Arc::new(memory.fork());
            if *key == stray {
                let put = store.put(key, "".into(), PutOptions::default());
                put.await.unwrap();
            } else {
                damage(&store, key, |bytes| {
                    let middle = bytes.len() / 2;
                    bytes[middle] ^= 1;
                    bytes.truncate(if half { middle } else { usize::MAX });
                })
                .await;
            }
            let repo = open(store.clone()).await.unwrap();
            let view = repo.view().await.unwrap();
            assert_eq!(view.blobs(), blobs);
            for (manifest, data) in [(&first, &data), (&second, &other)] {
                assert_eq!(&restore(&view, manifest).await.unwrap(), data);
            }
            let report = repo.check(&[], CheckBytes::All).await.unwrap();
            assert_eq!(report.damage.len(), 1, "{:?}", report.damage);
            assert_eq!(report.damage[0].place, key.as_str());
            assert_eq!(report.damage[0].snapshots, [], "nobody suffers");

            let (third, added) = backup(&repo, "a", &other).await.unwrap();
            assert_eq!(added, 0, "nothing is stored again");
            let healed = open(store.clone()).await.unwrap();
            assert_eq!(damage_count(&healed).await, 0, "{key}");
            let view = healed.view().await.unwrap();
            assert_eq!(view.blobs(), blobs);
            for (manifest, data) in [(&first, &data), (&third, &other)] {
                assert_eq!(&restore(&view, manifest).await.unwrap(), data);
            }
        }
    }
}

#[tokio::test]
async fn packs_that_other_segments_name_in_part_are_found_whole() {
    let (memory, _) = memory();
    let repo = init(memory.clone()).await;
    let data = objects(1);
    let (first, _) = backup(&repo, "a", &data).await.unwrap();
    // As a rewritten index is: each segment has some blobs of each pack, and the last supersedes.
    let view = repo.view().await.unwrap();
    let index = view.index();
    assert!(index.is_in_memory());
    let old: Vec<IndexId> = index.live().iter().map(|live| live.id).collect();
    let (low, high) = index.resident().split_at(index.resident().len() / 2);
    for (records, supersedes) in [(low, vec![]), (high, old.clone())] {
        let segment = Segment {
            packs: index.packs().to_vec(),
            supersedes,
            records: records.to_vec(),
        };
        write_segment(&repo, segment).await.unwrap();
    }
    let all = packs(&*memory, "index/").await;
    let old: Vec<String> = old.iter().map(ToString::to_string).collect();
    let new = all
        .iter()
        .filter(|key| !old.iter().any(|id| key.as_str().ends_with(id)));
    for key in new {
        let store = Arc::new(memory.fork());
        damage(&store, key, |bytes| bytes[60] ^= 1).await;
        let repo = open(store.clone()).await.unwrap();
        let view = repo.view().await.unwrap();
        assert_eq!(view.blobs(), index.records(), "{key}");
        let (again, added) = backup(&repo, "a", &data).await.unwrap();
        assert_eq!(added, 0);
        let healed = open(store).await.unwrap();
        let report = healed.check(&[], CheckBytes::All).await.unwrap();
        assert_eq!(report.damage, [], "{key}");
        let view = healed.view().await.unwrap();
        for manifest in [&first, &again] {
            assert_eq!(restore(&view, manifest).await.unwrap(), data, "{key}");
        }
    }
}

#[tokio::test]
async fn a_pack_that_cannot_be_read_hinders_no_recovery_of_the_others() {
    let (memory, backend) = memory();
    let repo = init(backend.clone()).await;
    let (data, other) = (objects(1), objects(2));
    let (first, _) = backup(&repo, "a", &data).await.unwrap();
    let of_first = packs(&*memory, "data/").await;
    backup(&repo, "b", &other).await.unwrap();
    let segments = packs(&*memory, "index/").await;
    let of_b = packs(&*memory, "data/").await;
    let of_b = of_b.into_iter().find(|key| !of_first.contains(key));
    let denied = of_b.unwrap();
    // All segments are unreadable, and one pack is not ours to read.
    for segment in &segments {
        damage(&memory, segment, |bytes| bytes[60] ^= 1).await;
    }
    let faults = FaultStore::new(backend.clone());
    let rule = Rule::on(Op::Get, Action::Fail(Cause::AccessDenied));
    faults.faults().add(rule.key_contains(denied.as_str()));
    let repo = open(Arc::new(faults)).await.unwrap();
    let view = repo.view().await.unwrap();
    assert_eq!(restore(&view, &first).await.unwrap(), data);
    let (again, added) = backup(&repo, "a", &data).await.unwrap();
    assert_eq!(added, 0);
    // The segments that may have named it are not given up, so that it is found when it can be read.
    let repo = open(backend).await.unwrap();
    let view = repo.view().await.unwrap();
    assert_eq!(restore(&view, &again).await.unwrap(), data);
    assert_eq!(view.index().unread().len(), segments.len());
    let (of_b, added) = backup(&repo, "b", &other).await.unwrap();
    assert_eq!((added, damage_count(&repo).await), (0, 0));
    let view = repo.view().await.unwrap();
    assert_eq!(restore(&view, &of_b).await.unwrap(), other);
}

#[tokio::test]
async fn an_unreadable_index_segment_and_a_lost_pack_are_mended_at_once() {
    let (memory, _) = memory();
    let repo = init(memory.clone()).await;
    let (data, other) = (objects(1), objects(2));
    backup(&repo, "a", &data).await.unwrap();
    let before = packs(&*memory, "data/").await;
    backup(&repo, "b", &other).await.unwrap();
    let segments = packs(&*memory, "index/").await;
    for segment in &segments {
        for pack in packs(&*memory, "data/").await {
            let store = Arc::new(memory.fork());
            damage(&store, segment, |bytes| bytes[60] ^= 1).await;
            lose(&*store, &pack, Loss::Gone).await;
            let repo = open(store.clone()).await.unwrap();
            let of_a = backup(&repo, "a", &data).await.unwrap().0;
            let of_b = backup(&repo, "b", &other).await.unwrap().0;
            let healed = open(store).await.unwrap();
            let count = damage_count(&healed).await;
            assert_eq!(count, 0, "{segment} {pack} of {before:?}");
            let view = healed.view().await.unwrap();
            assert_eq!(restore(&view, &of_a).await.unwrap(), data);
            assert_eq!(restore(&view, &of_b).await.unwrap(), other);
        }
    }
}

#[tokio::test]
async fn a_pack_that_a_verification_missed_and_that_is_back_is_used() {
    let (_, store) = memory();
    let repo = init(store.clone()).await;
    backup(&repo, "a", &objects(1)).await.unwrap();
    let key = packs(&*store, "data/").await.remove(0);
    let bytes = store.get(&key, crate::store::GetOptions::default()).await;
    lose(&*store, &key, Loss::Gone).await;
    assert!(!verified(&repo).await.places.is_empty());
    let put = store.put(&key, bytes.unwrap(), PutOptions::default());
    put.await.unwrap();
    let (_, added) = backup(&repo, "a", &objects(1)).await.unwrap();
    assert_eq!(added, 0);
}

#[tokio::test]
async fn a_blob_in_two_packs_is_read_from_the_one_that_is_whole() {
    let (memory, _) = memory();
    let repo = init(memory.clone()).await;
    let data = objects(1);
    // Neither knows what the other stores.
    let (a, b) = (
        writer(&repo, "a").await.unwrap(),
        writer(&repo, "b").await.unwrap(),
    );
    let (of_a, _) = write_snapshot(&a, &data).await.unwrap();
    let (of_b, _) = write_snapshot(&b, &data).await.unwrap();
    a.finish().await.unwrap();
    b.finish().await.unwrap();
    for directory in ["data/", "tree/"] {
        for key in packs(&*memory, directory).await {
            for loss in [None, Some(Loss::Gone), Some(Loss::CutShort)] {
                let store = memory.fork();
                match loss {
                    None => damage(&store, &key, |bytes| bytes[100] ^= 1).await,
                    Some(loss) => lose(&store, &key, loss).await,
                }
                let repo = open(Arc::new(store.clone())).await.unwrap();
                let view = repo.view().await.unwrap();
                for manifest in [&of_a, &of_b] {
                    assert_eq!(
                        restore(&view, manifest).await.unwrap(),
                        data,
                        "{key} {loss:?}"
                    );
                }
                let report = repo.check(&[], CheckBytes::All).await.unwrap();
                assert_eq!(report.damage.len(), 1, "{:?}", report.damage);
                assert_eq!(report.damage[0].snapshots, [], "no snapshot suffers");
                let here = |place: &BadPlace| key.as_str().ends_with(&place.pack.to_string());
                assert!(!report.places.is_empty() && report.places.iter().all(here));
                let blobs = report.places.iter().all(|place| place.blob.is_some());
                assert_eq!(blobs, loss.is_none(), "{key} {loss:?}");
                let (_, added) = backup(&repo, "a", &data).await.unwrap();
                assert_eq!(added, 0, "it is still there");
            }
        }
    }
}

#[tokio::test]
async fn what_nobody_stores_again_stays_named_and_comes_back_with_its_pack() {
    let (_, store) = memory();
    let repo = init(store.clone()).await;
    let (data, other) = (objects(1), objects(2));
    let (old, _) = backup(&repo, "a", &data).await.unwrap();
    let key = packs(&*store, "data/").await.remove(0);
    let bytes = store.get(&key, crate::store::GetOptions::default()).await;
    let bytes = bytes.unwrap();
    store.delete(&key, None).await.unwrap();

    // The source has lost half of it meanwhile.
    let mut half = other.clone();
    half.extend(
        data.iter()
            .take(6)
            .map(|(k, v)| (format!("z/{k}"), v.clone())),
    );
    let repo = open(store.clone()).await.unwrap();
    let (new, _) = backup(&repo, "a", &half).await.unwrap();
    let repo = open(store.clone()).await.unwrap();
    let report = repo.check(&[old.snapshot], CheckBytes::All).await.unwrap();
    assert!(
        !report.damage.is_empty(),
        "the old snapshot needs what is gone"
    );
    let report = repo.check(&[new.snapshot], CheckBytes::All).await.unwrap();
    assert_eq!(report.damage, []);

    store.put(&key, bytes, PutOptions::default()).await.unwrap();
    let repo = open(store).await.unwrap();
    assert_eq!(damage_count(&repo).await, 0);
    let view = repo.view().await.unwrap();
    assert_eq!(restore(&view, &old).await.unwrap(), data);
}

#[tokio::test]
async fn a_backup_beside_an_unreadable_manifest_takes_no_number_that_it_may_have() {
    let (_, store) = memory();
    let repo = init(store.clone()).await;
    backup(&repo, "a", &objects(1)).await.unwrap();
    let (hidden, _) = backup(&repo, "a", &objects(2)).await.unwrap();
    backup(&repo, "b", &objects(3)).await.unwrap();
    let key = Key::new(format!("snapshots/{}", hidden.snapshot)).unwrap();
    let bytes = store.get(&key, crate::store::GetOptions::default()).await;
    let bytes = bytes.unwrap();
    let put = |bytes| async {
        store.delete(&key, None).await.unwrap();
        store.put(&key, bytes, PutOptions::default()).await.unwrap();
    };
    put(bytes.slice(..bytes.len() - 1)).await;
    let (of_a, _) = backup(&repo, "a", &objects(4)).await.unwrap();
    let (of_b, _) = backup(&repo, "b", &objects(5)).await.unwrap();
    assert_eq!((of_a.sequence, of_b.sequence), (3, 3));
    assert_eq!(of_a.unreadable, [hidden.snapshot]);
    let damage = repo.snapshots().await.unwrap().damage;
    assert_eq!(damage.len(), 1, "the manifest itself: {damage:?}");
    put(bytes).await;
    assert_eq!(repo.snapshots().await.unwrap().damage, []);
    let (next, _) = backup(&repo, "a", &objects(6)).await.unwrap();
    assert_eq!((next.sequence, next.unreadable), (4, vec![]));
    assert_eq!(damage_count(&repo).await, 0);
}
