//! Ordered maps: what was pushed is found, however it is asked for.

use std::collections::{BTreeMap, HashSet};

use bytes::Bytes;
use futures::TryStreamExt;
use proptest::prelude::*;

use super::support::*;
use crate::repo::format::tree::encode::NodeWriter;
use crate::repo::format::tree::node::{Child, Shape};
use crate::repo::{
    Change, Content, Entry, Extent, KeyRange, Look, NodeRef, ObjectHash, PieceRef, Repository,
    Values, Writer,
};
use crate::{Cause, Result};

type Model = BTreeMap<Vec<u8>, Vec<u8>>;

fn plain(key: &[u8], value: &[u8]) -> Entry {
    Entry {
        key: Bytes::copy_from_slice(key),
        value: Bytes::copy_from_slice(value),
        content: Content::None,
    }
}

async fn build(repo: &Repository, model: &Model) -> (Option<NodeRef>, u64) {
    build_with(repo, model, Values::Inline).await
}

async fn build_with(repo: &Repository, model: &Model, values: Values) -> (Option<NodeRef>, u64) {
    let writer = writer(repo, "maps").await.unwrap();
    let mut map = writer.map(values);
    for (key, value) in model {
        map.push(plain(key, value)).await.unwrap();
    }
    let root = map.finish().await.unwrap();
    writer.flush().await.unwrap();
    let added = writer.bytes_added();
    writer.finish().await.unwrap();
    (root, added)
}

async fn scanned(repo: &Repository, root: Option<NodeRef>, range: KeyRange) -> Model {
    let view = repo.view().await.unwrap();
    let entries: Vec<Entry> = view.map(root).scan(range).try_collect().await.unwrap();
    assert!(entries.is_sorted_by(|a, b| a.key < b.key));
    entries
        .into_iter()
        .map(|entry| (entry.key.to_vec(), entry.value.to_vec()))
        .collect()
}

fn numbered(count: u32) -> Model {
    (0..count)
        .map(|n| (format!("key/{n:08}").into_bytes(), n.to_le_bytes().to_vec()))
        .collect()
}

#[tokio::test]
async fn a_large_map_is_found_by_key_range_and_prefix() {
    let (_, store) = memory();
    let repo = init(store).await;
    let model = numbered(30_000);
    let (root, _) = build(&repo, &model).await;
    assert_eq!(root.unwrap().level, 1);
    assert_eq!(scanned(&repo, root, KeyRange::all()).await, model);
    let prefix = scanned(&repo, root, KeyRange::prefix("key/000123")).await;
    assert_eq!(prefix.len(), 100);
    let range = KeyRange {
        start: "key/00012000x".into(),
        end: Some("key/00029000".into()),
    };
    let ranged = scanned(&repo, root, range).await;
    assert_eq!(ranged.len(), 16_999);
    let map = repo.view().await.unwrap().map(root);
    for n in [0_u32, 1, 7_777, 29_999] {
        let entry = map
            .get(format!("key/{n:08}").as_bytes())
            .await
            .unwrap()
            .unwrap();
        assert_eq!(entry.value[..], n.to_le_bytes());
    }
    for absent in ["", "key/", "key/00000000x", "zzz"] {
        assert!(map.get(absent.as_bytes()).await.unwrap().is_none());
    }
}

#[tokio::test]
async fn long_keys_make_a_higher_tree() {
    let (_, store) = memory();
    let repo = init(store).await;
    let long = |n: u32| {
        let mut key = format!("{n:05}").into_bytes();
        key.resize(40_000, b'x');
        key
    };
    let model: Model = (0..800).map(|n| (long(n), vec![])).collect();
    let (root, _) = build(&repo, &model).await;
    assert_eq!(root.unwrap().level, 2);
    assert_eq!(scanned(&repo, root, KeyRange::all()).await, model);
    let range = KeyRange {
        start: long(30).into(),
        end: Some(long(700).into()),
    };
    assert_eq!(scanned(&repo, root, range).await.len(), 670);
    let map = repo.view().await.unwrap().map(root);
    assert!(map.get(&long(799)).await.unwrap().is_some());
    let changes: Vec<Change> = map.diff(&map.clone()).try_collect().await.unwrap();
    assert_eq!(changes, []);
}

#[tokio::test]
async fn an_unchanged_map_adds_nothing_and_a_changed_one_a_path() {
    let (_, store) = memory();
    let repo = init(store).await;
    let mut model = numbered(30_000);
    let (first, whole) = build(&repo, &model).await;
    assert_eq!(build(&repo, &model).await, (first, 0));
    model.insert(b"key/00015000+".to_vec(), b"new".to_vec());
    model.remove(&b"key/00020000"[..]);
    model.insert(b"key/00025000".to_vec(), b"other".to_vec());
    let (second, added) = build(&repo, &model).await;
    assert!(added * 10 < whole, "{added} of {whole}");

    let view = repo.view().await.unwrap();
    let changes: Vec<Change> = view
        .map(first)
        .diff(&view.map(second))
        .try_collect()
        .await
        .unwrap();
    let told: Vec<String> = changes
        .iter()
        .map(|change| match change {
            Change::Added(entry) => format!("+{}", String::from_utf8_lossy(&entry.key)),
            Change::Removed(entry) => format!("-{}", String::from_utf8_lossy(&entry.key)),
            Change::Changed { to, .. } => format!("~{}", String::from_utf8_lossy(&to.value)),
        })
        .collect();
    assert_eq!(told, ["+key/00015000+", "-key/00020000", "~other"]);

    let mut nodes = (HashSet::new(), HashSet::new());
    let mut seen = HashSet::new();
    let mut walk = view.walk(first, Look::Bodies, &mut seen);
    while let Some((node, _)) = walk.next().await.unwrap() {
        nodes.0.insert(node.node.cv.0);
    }
    drop(walk);
    let mut walk = view.walk(second, Look::Bodies, &mut seen);
    while let Some((node, _)) = walk.next().await.unwrap() {
        nodes.1.insert(node.node.cv.0);
    }
    assert!(
        nodes.0.len() > 50 && nodes.1.len() < 10,
        "{} {}",
        nodes.0.len(),
        nodes.1.len()
    );
}

#[tokio::test]
async fn an_empty_map_has_no_root() {
    let (_, store) = memory();
    let repo = init(store).await;
    let (root, added) = build(&repo, &Model::new()).await;
    assert_eq!((root, added), (None, 0));
    assert_eq!(scanned(&repo, None, KeyRange::all()).await, Model::new());
    let map = repo.view().await.unwrap().map(None);
    assert!(map.get(b"x").await.unwrap().is_none());
}

#[tokio::test]
async fn keys_out_of_order_or_too_long_are_refused() {
    let (_, store) = memory();
    let repo = init(store).await;
    let writer = writer(&repo, "maps").await.unwrap();
    let mut map = writer.map(Values::Inline);
    map.push(plain(b"b", b"")).await.unwrap();
    for bad in [&b"b"[..], b"a", &vec![b'c'; 65_536]] {
        assert_eq!(
            map.push(plain(bad, b"")).await.unwrap_err().cause(),
            Cause::Failed
        );
    }
    map.push(plain(&vec![b'c'; 65_535], b"")).await.unwrap();
    let torn = Content::Object {
        hash: ObjectHash::default(),
        size: 5,
        pieces: vec![],
    };
    let error = map
        .push(Entry {
            content: torn,
            ..plain(b"d", b"")
        })
        .await
        .unwrap_err();
    assert_eq!(error.to_string(), "the pieces of d do not fill it");
}

#[tokio::test]
async fn contents_of_every_kind_come_back() -> Result<()> {
    let (_, backend) = memory();
    let repo = init(backend).await;
    let writer = writer(&repo, "maps").await?;
    let mut map = writer.map(Values::Inline);
    // 1,500 pieces of 4 KiB: more than a node takes.
    let large = store(&writer, "large", &noise(1, 1500 * 4096)).await?;
    let pieces: Vec<PieceRef> = large.pieces.clone();
    let pin = |hash| Content::External {
        hash,
        size: 77,
        pin: "version 3".into(),
    };
    // A volume of 5,000 pieces, of which two in three are zeros and all others the same.
    let zeros = store(&writer, "piece", &noise(2, 4096)).await?.pieces[0];
    let extents: Vec<Extent> = (0..5000)
        .step_by(3)
        .map(|number| Extent {
            number,
            piece: zeros,
        })
        .collect();
    let nodes = writer.store_extents(&extents).await?;
    let volume = |hash| Content::Volume {
        hash,
        size: 5000 * 4096 - 7,
        piece: 4096,
        extents: nodes.clone(),
    };
    let entries = [
        plain(b"a", b"value"),
        entry("b", large),
        Entry {
            content: pin(None),
            ..plain(b"c", b"owed")
        },
        Entry {
            content: pin(Some(ObjectHash([7; 32]))),
            ..plain(b"d", b"")
        },
        entry("e", store(&writer, "empty", &Bytes::new()).await?),
        entry("f", store(&writer, "small", &text(1, 999)).await?),
        Entry {
            content: volume(None),
            ..plain(b"g", b"a volume")
        },
        Entry {
            content: volume(Some(ObjectHash([8; 32]))),
            ..plain(b"h", b"")
        },
    ];
    for entry in &entries {
        map.push(entry.clone()).await?;
    }
    let root = map.finish().await?;
    writer.flush().await?;
    writer.finish().await?;
    let view = repo.view().await?;
    let read: Vec<Entry> = view.map(root).scan(KeyRange::all()).try_collect().await?;
    assert_eq!(read, entries);
    assert_eq!(view.map(root).get(b"b").await?.as_ref(), Some(&entries[1]));
    let changes: Vec<Change> = view.map(None).diff(&view.map(root)).try_collect().await?;
    assert_eq!(changes[1], Change::Added(entries[1].clone()));

    let mut blobs = 0;
    let mut pins = 0;
    let mut seen = HashSet::new();
    let mut walk = view.walk(root, Look::Bodies, &mut seen);
    while let Some((_, envelope)) = walk.next().await? {
        let envelope = envelope?;
        blobs += envelope.blobs.len();
        pins += envelope.pins.len();
    }
    assert_eq!((blobs, pins), (pieces.len() + 1 + extents.len(), 2));
    let read: Vec<Extent> = view
        .extents(5000 * 4096 - 7, 4096, nodes)
        .try_collect()
        .await?;
    assert_eq!(read, extents);
    Ok(())
}

fn change(model: &mut Model, steps: &[(u8, Vec<u8>, Vec<u8>)]) {
    for (action, key, value) in steps {
        if *action == 0 {
            model.remove(key);
        } else {
            model.insert(key.clone(), value.clone());
        }
    }
}

#[tokio::test]
async fn values_apart_are_sealed_as_data_and_keys_are_walked_without() {
    let (_, store) = memory();
    let repo = init(store.clone()).await;
    let mut model = numbered(3000);
    model.insert(b"large".to_vec(), vec![7; 2 << 20]);
    let (inline, _) = build(&repo, &model).await;
    let (root, _) = build_with(&repo, &model, Values::Apart).await;
    assert_ne!(root, inline);
    assert_eq!(scanned(&repo, root, KeyRange::all()).await, model);
    let map = repo.view().await.unwrap().map(root);
    let large = map.get(b"large").await.unwrap().unwrap();
    assert_eq!(large.value, model[&b"large"[..]]);

    // One value more: only its leaf, and what that needs, is stored again.
    let mut more = model.clone();
    more.insert(b"key/00001500x".to_vec(), vec![1]);
    let (after, added) = build_with(&repo, &more, Values::Apart).await;
    assert!(added < 100_000, "{added}");
    let other = repo.view().await.unwrap().map(after);
    let changes: Vec<Change> = map.diff(&other).try_collect().await.unwrap();
    assert_eq!(changes, [Change::Added(plain(b"key/00001500x", &[1]))]);

    // Who has no data key sees the keys and what they refer to, and no value.
    let blind = repo.without_data_keys();
    let view = blind.view().await.unwrap();
    let mut apart = 0;
    let mut seen = HashSet::new();
    let mut walk = view.walk(root, Look::Bodies, &mut seen);
    while let Some((_, envelope)) = walk.next().await.unwrap() {
        apart += envelope.unwrap().values.len();
    }
    assert!(apart > 3, "{apart}");
    let read = view.map(root).get(b"large").await;
    assert_eq!(read.unwrap_err().cause(), Cause::Damage);
}

/// Stores a node as its shape has it, whatever it says.
async fn planted(writer: &Writer, node: &NodeWriter, level: u8) -> NodeRef {
    let bytes = node.finish(level, Shape::at(level), None);
    let (cv, length) = writer.store_node(bytes).await.unwrap();
    NodeRef { cv, length, level }
}

#[tokio::test]
async fn nodes_that_say_what_none_may_are_damage() {
    let (_, store) = memory();
    let repo = init(store).await;
    let writer = writer(&repo, "maps").await.unwrap();
    let leaf = |keys: &[&str]| {
        let mut node = NodeWriter::default();
        for key in keys {
            node.push_entry(&plain(key.as_bytes(), b"v"), None);
        }
        node
    };
    let above = |children: &[(NodeRef, &str)]| {
        let mut node = NodeWriter::default();
        for (child, first) in children {
            node.push_child(&Child {
                node: *child,
                first: Bytes::copy_from_slice(first.as_bytes()),
                entries: 1,
                bytes: 0,
            });
        }
        node
    };
    let many: Vec<String> = (0..1025).map(|n| format!("{n:05}")).collect();
    let many: Vec<&str> = many.iter().map(String::as_str).collect();
    let long = "k".repeat(65_536);
    let a = planted(&writer, &leaf(&["a", "c"]), 0).await;
    let b = planted(&writer, &leaf(&["b"]), 0).await;
    let roots = [
        planted(&writer, &leaf(&many), 0).await,
        planted(&writer, &leaf(&[&long]), 0).await,
        planted(&writer, &leaf(&[]), 0).await,
        // A child under another key, one twice, and two whose keys overlap.
        planted(&writer, &above(&[(a, "b")]), 1).await,
        planted(&writer, &above(&[(a, "a"), (a, "b")]), 1).await,
        planted(&writer, &above(&[(a, "a"), (b, "b")]), 1).await,
    ];
    let good = planted(&writer, &above(&[(b, "b")]), 1).await;
    writer.flush().await.unwrap();
    writer.finish().await.unwrap();
    let view = repo.view().await.unwrap();
    for root in roots {
        let scan = view.map(Some(root)).scan(KeyRange::all());
        let read: Result<Vec<Entry>> = scan.try_collect().await;
        assert_eq!(read.unwrap_err().cause(), Cause::Damage, "{root:?}");
    }
    assert_eq!(scanned(&repo, Some(good), KeyRange::all()).await.len(), 1);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn maps_equal_their_models(
        base in 0_u32..3000,
        steps in proptest::collection::vec((0_u8..3, "[a-c]{0,6}".prop_map(String::into_bytes), any::<Vec<u8>>()), 0..60),
        drop_from in 0_u32..3000,
        drop_count in 0_u32..400,
        long in 0_usize..3,
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let (_, store) = memory();
            let repo = init(store).await;
            let mut before = numbered(base);
            for n in 0..long {
                let mut key = vec![b'l'; 60_000];
                key.push(u8::try_from(n).unwrap());
                before.insert(key, vec![1; 700_000]);
            }
            let mut after = before.clone();
            change(&mut after, &steps);
            for n in drop_from..drop_from + drop_count {
                after.remove(format!("key/{n:08}").as_bytes());
            }
            let (a, _) = build(&repo, &before).await;
            let (b, _) = build(&repo, &after).await;
            prop_assert_eq!(&scanned(&repo, a, KeyRange::all()).await, &before);
            prop_assert_eq!(&scanned(&repo, b, KeyRange::all()).await, &after);
            prop_assert_eq!(a == b, before == after);

            let view = repo.view().await.unwrap();
            let mut replayed = before.clone();
            let changes: Vec<Change> = view.map(a).diff(&view.map(b)).try_collect().await.unwrap();
            for change in changes {
                match change {
                    Change::Added(to) => prop_assert!(replayed.insert(to.key.to_vec(), to.value.to_vec()).is_none()),
                    Change::Removed(from) => prop_assert!(replayed.remove(&from.key[..]).is_some()),
                    Change::Changed { from, to } => {
                        prop_assert_ne!(&from, &to);
                        prop_assert!(replayed.insert(to.key.to_vec(), to.value.to_vec()).is_some());
                    }
                }
            }
            prop_assert_eq!(replayed, after);
            Ok(())
        })?;
    }
}
