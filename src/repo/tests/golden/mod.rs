//! Repositories of every version that was ever released can be read, and hold what they held.

mod build;
mod truth;

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use futures::TryStreamExt;
use walkdir::WalkDir;

use self::build::build;
use self::truth::{Content as Truly, Entry as TrueEntry, Runs, Snapshot as TrueSnapshot, Truth};
use super::support::*;
use crate::base::env::Env;
use crate::base::resources::Resources;
use crate::base::secret::Secret;
use crate::repo::format::blob::PackKind;
use crate::repo::format::config::Config;
use crate::repo::format::features::Features;
use crate::repo::format::files::{Names, Seal, StoredFile};
use crate::repo::format::keys;
use crate::repo::format::pack::{PACK_HEADER, PackEntry};
use crate::repo::format::ring::open_ring;
use crate::repo::format::segment::Segment;
use crate::repo::format::tree::EnvelopeNode;
use crate::repo::format::tree::node::{Body, Shape};
use crate::repo::{
    CheckBytes, Content, DamageKind, Entry, KeyRange, Manifest, PieceRef, Repository, Roots,
    Unlock, View,
};
use crate::store::testing::memory::MemoryStore;
use crate::store::{GetOptions, Key, ListOptions, PutOptions, Store};
use crate::{Cause, Result};

const PASSPHRASES: [&str; 2] = ["golden eagle", "the second key: schlüssel"];
const NAMES: [&str; 2] = ["encrypted", "plain"];

fn golden(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/data/golden-v1")
        .join(name)
}

/// What opens a golden repository, each alone.
fn unlocks(name: &str) -> Vec<Unlock> {
    match name {
        "encrypted" => PASSPHRASES
            .iter()
            .map(|passphrase| Unlock::Passphrase(Secret::new(*passphrase)))
            .collect(),
        _ => vec![Unlock::None],
    }
}

async fn open_golden(store: &MemoryStore, name: &str, nth: usize) -> Result<Repository> {
    let (unlock, env) = (unlocks(name).remove(nth), Env::system());
    let store = Arc::new(store.clone());
    Repository::open(store, unlock, &Resources::of_tests(), &env).await
}

fn load(name: &str) -> (MemoryStore, Truth) {
    let store = MemoryStore::new();
    let root = golden(name);
    for file in WalkDir::new(&root).into_iter().map(Result::unwrap) {
        if file.file_type().is_file() {
            let path = file.path().strip_prefix(&root).unwrap().to_str().unwrap();
            let bytes = Bytes::from(std::fs::read(file.path()).unwrap());
            let key = Key::new(path).unwrap();
            let put = store.put(&key, bytes, PutOptions::default());
            futures::executor::block_on(put).unwrap();
        }
    }
    let truth = std::fs::read(golden(&format!("{name}.json"))).unwrap();
    (store, serde_json::from_slice(&truth).unwrap())
}

async fn bytes_of(view: &View, pieces: &[PieceRef]) -> Result<Vec<u8>> {
    let read = view.read_object(pieces.to_vec(), 4.try_into().unwrap());
    let parts: Vec<Bytes> = read.try_collect().await?;
    Ok(parts.concat())
}

async fn described(view: &View, entry: Entry) -> Result<TrueEntry> {
    let content = match entry.content {
        Content::None => Truly::None,
        Content::Object { hash, size, pieces } => Truly::Object {
            hash,
            size,
            bytes: Runs::of(&bytes_of(view, &pieces).await?),
        },
        Content::External { hash, size, pin } => Truly::External {
            hash,
            size,
            pin: Runs::of(&pin),
        },
        Content::Volume {
            hash,
            size,
            piece,
            extents,
        } => {
            let mut bytes = vec![0; usize::try_from(size).unwrap()];
            let mut extents = view.extents(size, piece, extents);
            while let Some(extent) = extents.try_next().await? {
                let start = usize::try_from(extent.number * u64::from(piece)).unwrap();
                let read = bytes_of(view, &[extent.piece]).await?;
                bytes[start..start + read.len()].copy_from_slice(&read);
            }
            Truly::Volume {
                hash,
                size,
                piece,
                bytes: Runs::of(&bytes),
            }
        }
        Content::Lost { hash, size, why } => Truly::Lost { hash, size, why },
    };
    Ok(TrueEntry {
        key: Runs::of(&entry.key),
        value: Runs::of(&entry.value),
        content,
    })
}

async fn snapshot(view: &View, manifest: &Manifest) -> Result<TrueSnapshot> {
    let mut maps = BTreeMap::new();
    for name in manifest.roots.keys() {
        let of = |roots: &Roots| roots.get(name).copied().flatten();
        let map = view.map(of(&manifest.roots));
        let map = map.amended(manifest.amended.iter().filter_map(of));
        let entries = map.scan(KeyRange::all());
        let entries = entries.and_then(|entry| described(view, entry));
        maps.insert(name.clone(), entries.try_collect().await?);
    }
    Ok(TrueSnapshot {
        id: manifest.snapshot,
        instance: manifest.instance.clone(),
        sequence: manifest.sequence,
        parent: manifest.parent.map(|parent| parent.snapshot),
        origin: manifest.origin.map(|origin| origin.repository),
        maps,
    })
}

/// Reads all of the repository and compares it with what it truly holds; then writes to it.
async fn reads(store: &MemoryStore, name: &str, truth: &Truth) {
    for nth in 0..unlocks(name).len() {
        let repo = open_golden(store, name, nth).await.unwrap();
        let found = repo.snapshots().await.unwrap();
        assert_eq!(found.damage, []);
        assert_eq!(found.void, truth.void);
        let view = repo.view().await.unwrap();
        let mut manifests = found.manifests;
        manifests.sort_by_key(|manifest| manifest.snapshot);
        assert_eq!(manifests.len(), truth.snapshots.len());
        for (manifest, expected) in manifests.iter().zip(&truth.snapshots) {
            let mut expected = expected.clone();
            for entries in expected.maps.values_mut() {
                *entries = entries.iter().map(TrueEntry::expanded).collect();
            }
            assert_eq!(snapshot(&view, manifest).await.unwrap(), expected);
        }
        for id in &truth.forgotten {
            let path = Key::new(StoredFile::Manifest.path(id)).unwrap();
            let head = store.head(&path).await;
            assert_eq!(head.unwrap_err().cause(), Cause::NotFound);
        }
        let report = repo.check(&[], CheckBytes::All).await.unwrap();
        assert_eq!(report.damage, []);
    }
    let repo = open_golden(store, name, 0).await.unwrap();
    let marks = repo.marks().await.unwrap();
    assert_eq!((marks.known.len(), marks.unknown.len()), (1, 0));
    let beside_it = writer(&repo, "main").await.unwrap();
    assert_eq!(beside_it.view().marks().ids(), marks.ids());
    beside_it.abort().await.unwrap();
    let objects = Objects::from([("text".to_owned(), text(2, 4_000))]);
    let (next, _) = backup(&repo, "main", &objects).await.unwrap();
    assert_eq!(next.sequence, 4);
    let report = repo.check(&[], CheckBytes::All).await.unwrap();
    assert_eq!(report.damage, []);
}

#[tokio::test]
async fn the_golden_repositories_hold_what_they_held() {
    for name in NAMES {
        let (store, truth) = load(name);
        reads(&store, name, &truth).await;
    }
}

/// With `EYRIE_GOLDEN` set to a directory, what is built is left there: how the golden
/// repositories of a new version of the format are made.
#[tokio::test]
async fn what_the_builder_makes_today_reads_the_same() {
    for name in NAMES {
        let (store, truth) = build(name).await;
        if let Some(out) = std::env::var_os("EYRIE_GOLDEN") {
            let root = PathBuf::from(out);
            let repo = open_golden(&store, name, 0).await.unwrap();
            for meta in repo.list("").await.unwrap() {
                let path = root.join(name).join(meta.key.as_str());
                std::fs::create_dir_all(path.parent().unwrap()).unwrap();
                std::fs::write(path, repo.get_file(meta.key.as_str()).await.unwrap()).unwrap();
            }
            let json = serde_json::to_vec(&truth).unwrap();
            std::fs::write(root.join(format!("{name}.json")), json).unwrap();
        }
        reads(&store, name, &truth).await;
    }
}

#[tokio::test]
async fn the_golden_repositories_have_a_file_of_every_kind_and_all_that_the_page_names() {
    for name in NAMES {
        let (store, truth) = load(name);
        let repo = open_golden(&store, name, 0).await.unwrap();
        let files = repo.list("").await.unwrap();
        for file in StoredFile::ALL {
            let own = files
                .iter()
                .filter(|meta| file.id(meta.key.as_str()).is_some());
            let least = match file {
                StoredFile::Config => 1..=1,
                StoredFile::Ring => 4..=4,
                StoredFile::Index => 3..=99,
                StoredFile::Key if name == "encrypted" => 2..=2,
                _ => 1..=99,
            };
            assert!(least.contains(&own.count()), "{name} has too few {file:?}");
        }
        assert_eq!(repo.sealer().current().unwrap().0, 2);
        let kinds: Vec<u8> = truth
            .snapshots
            .iter()
            .flat_map(|snapshot| snapshot.maps.values().flatten())
            .map(|entry| match entry.content {
                Truly::None => 0,
                Truly::Object { size, .. } if size <= 1024 * 1024 => 1,
                Truly::Object { .. } => 2,
                Truly::External { .. } => 3,
                Truly::Volume { .. } => 4,
                Truly::Lost { .. } => 5,
            })
            .collect();
        assert!((0..=5).all(|kind| kinds.contains(&kind)));
        let mut codecs: Vec<u8> = Vec::new();
        for meta in &files {
            let path = meta.key.as_str();
            let is_json =
                |f: &&StoredFile| f.id(path).is_some() && matches!(f.row().seal, Seal::Meta(_));
            if StoredFile::ALL.iter().any(|f| is_json(&f)) {
                codecs.push(repo.get_file(path).await.unwrap()[7]);
            }
        }
        assert!(codecs.contains(&0) && codecs.contains(&1));

        let all = repo.snapshots().await.unwrap();
        let mut roots = all.manifests.iter().map(|m| &m.roots);
        let root = roots
            .find_map(|roots| roots.get("of-a-later-eyrie"))
            .unwrap();
        let node = EnvelopeNode {
            node: root.unwrap(),
            shape: Shape::at(1),
        };
        let view = repo.view().await.unwrap();
        let Body::Inner(leaves) = view.node(&node).await.unwrap().body else {
            panic!("{node:?} is no inner node");
        };
        let entries: Vec<u64> = leaves.iter().map(|leaf| leaf.entries).collect();
        assert_eq!(
            entries,
            [1024, 64, 3, 1],
            "by number, key, size, and what is left"
        );
    }
}

/// A part of a file that is opened by itself, and must find any byte of it that is wrong.
#[derive(Debug)]
enum Part {
    /// All of a file that is no pack.
    Whole,
    /// A blob of a pack.
    Blob(Range<usize>),
    /// What is around the blobs: header, directory, trailer.
    Around(PackKind),
}

fn parts(repo: &Repository, file: StoredFile, path: &str, bytes: &[u8]) -> Vec<(Part, Vec<usize>)> {
    let Seal::Blobs(kind) = file.row().seal else {
        return vec![(Part::Whole, (0..bytes.len()).collect())];
    };
    let id = file.id(path).unwrap().parse().unwrap();
    let entries = repo.sealer().open_directory(kind, &id, bytes).unwrap();
    let place = |entry: &PackEntry| {
        let start = entry.position as usize;
        start..start + entry.stored as usize
    };
    let end = entries.last().map_or(PACK_HEADER, |last| place(last).end);
    let around = (0..PACK_HEADER).chain(end..bytes.len()).collect();
    let blobs = entries.iter().map(|entry| {
        let place = place(entry);
        (Part::Blob(place.clone()), place.collect())
    });
    blobs.chain([(Part::Around(kind), around)]).collect()
}

fn opens(repo: &Repository, file: StoredFile, path: &str, bytes: &[u8], part: &Part) -> Result<()> {
    let (sealer, id) = (repo.sealer(), repo.id());
    match (part, file.row().seal) {
        (Part::Blob(place), _) => {
            let blob = BytesMut::from(&bytes[place.clone()]);
            sealer.open_blob(blob).map(drop)
        }
        (Part::Around(kind), _) => {
            let pack = file.id(path).unwrap().parse()?;
            sealer.open_directory(*kind, &pack, bytes).map(drop)
        }
        (Part::Whole, Seal::Mac) if file == StoredFile::Features => {
            Features::read(path, bytes, &id)?.prove(sealer).map(drop)
        }
        (Part::Whole, Seal::Mac) => Config::read(bytes)?.prove(sealer).map(drop),
        (Part::Whole, Seal::Unlocker) => keys::check(path, bytes, &id),
        (Part::Whole, Seal::Master) => open_ring(bytes, repo.master(), &id, path).map(drop),
        (Part::Whole, Seal::Meta(_)) if file == StoredFile::Index => {
            Segment::open(sealer, path, bytes).map(drop)
        }
        (Part::Whole, Seal::Meta(kind)) => sealer.open_body(kind as u8, path, bytes).map(drop),
        (Part::Whole, Seal::Blobs(_)) => panic!("a pack is opened in parts"),
    }
}

#[tokio::test]
async fn every_flipped_byte_is_found_by_what_opens_it() {
    for name in NAMES {
        let (store, _) = load(name);
        let repo = open_golden(&store, name, 0).await.unwrap();
        for meta in repo.list("").await.unwrap() {
            let path = meta.key.as_str();
            let of = |file: &&StoredFile| file.id(path).is_some();
            let file = *StoredFile::ALL.iter().find(of).unwrap();
            let good = repo.get_file(path).await.unwrap();
            let parts = parts(&repo, file, path, &good);
            let bytes: usize = parts.iter().map(|(_, bytes)| bytes.len()).sum();
            assert_eq!(bytes, good.len(), "{path}");
            let mut bad = good.to_vec();
            for (part, bytes) in parts {
                opens(&repo, file, path, &bad, &part).unwrap();
                for at in bytes {
                    bad[at] ^= 1 << (at % 8);
                    let error = opens(&repo, file, path, &bad, &part).err();
                    let cause = error.as_ref().map(crate::Error::cause);
                    assert_eq!(cause, Some(Cause::Damage), "byte {at} of {path}");
                    bad[at] = good[at];
                }
            }
        }
    }
}

/// What a check of the repository finds, by kind; for one that does not open, why.
async fn found(
    store: &MemoryStore,
    name: &str,
) -> std::result::Result<BTreeSet<DamageKind>, Cause> {
    let opened = open_golden(store, name, 0).await;
    let repo = opened.map_err(|error| error.cause())?;
    let report = repo.check(&[], CheckBytes::None).await.unwrap();
    Ok(report.damage.iter().map(|damage| damage.kind).collect())
}

/// What section 14 of the page says of a file that is missing.
fn missing(
    file: StoredFile,
    name: &str,
    path: &str,
) -> std::result::Result<Vec<DamageKind>, Cause> {
    match file {
        StoredFile::Config => Err(Cause::Absent),
        // The first passphrase's key is not the second's, whose id is known.
        StoredFile::Key if name == "plain" => Err(Cause::Damage),
        StoredFile::Key if path.contains(&"2b".repeat(32)) => Ok(vec![]),
        StoredFile::Key => Err(Cause::WrongKey),
        StoredFile::Ring => Ok(vec![DamageKind::Key]),
        StoredFile::Data => Ok(vec![DamageKind::Pack]),
        StoredFile::Tree => Ok(vec![DamageKind::Pack, DamageKind::Tree]),
        StoredFile::Index => Ok(vec![DamageKind::Index]),
        StoredFile::Forgotten => Ok(vec![DamageKind::Sequence]),
        StoredFile::Manifest
        | StoredFile::Features
        | StoredFile::Claim
        | StoredFile::Amendment
        | StoredFile::Checkpoint
        | StoredFile::Lease
        | StoredFile::Mark
        | StoredFile::Verification => Ok(vec![]),
    }
}

#[tokio::test]
async fn cut_missing_and_doubled_files_are_what_the_page_says() {
    for name in NAMES {
        let (good, truth) = load(name);
        let parents: Vec<_> = truth.snapshots.iter().filter_map(|s| s.parent).collect();
        let repo = open_golden(&good, name, 0).await.unwrap();
        for meta in repo.list("").await.unwrap() {
            let path = meta.key.as_str();
            let of = |file: &&StoredFile| file.id(path).is_some();
            let file = *StoredFile::ALL.iter().find(of).unwrap();
            let bytes = repo.get_file(path).await.unwrap();
            let kind = file.row().damage;

            for cut in [0, bytes.len() / 2, bytes.len() - 1] {
                let store = good.fork();
                let short = bytes.slice(..cut);
                let put = store.put(&meta.key, short, PutOptions::default());
                put.await.unwrap();
                let superseded = file == StoredFile::Index && {
                    let id = file.id(path).unwrap();
                    without(&repo, id).await.is_empty()
                };
                match found(&store, name).await {
                    Ok(kinds) if superseded => assert_eq!(kinds, BTreeSet::new(), "{path}"),
                    Ok(kinds) => {
                        assert!(kinds.contains(&kind), "{path} has {cut} bytes: {kinds:?}");
                    }
                    Err(cause) => assert_eq!(cause, Cause::Damage, "{path} has {cut} bytes"),
                }
            }

            let store = good.fork();
            store.delete(&meta.key, None).await.unwrap();
            let mut expected = missing(file, name, path);
            let id = file.id(path).unwrap();
            let successor = parents.iter().any(|parent| parent.to_string() == id);
            if file == StoredFile::Manifest && successor {
                expected = Ok(vec![DamageKind::Sequence]);
            }
            if file == StoredFile::Index {
                expected = Ok(without(&repo, id).await);
            }
            let expected = expected.map(BTreeSet::from_iter);
            assert_eq!(found(&store, name).await, expected, "{path} is missing");

            let Some(other) = another_name(file, id) else {
                continue;
            };
            let store = good.fork();
            let key = Key::new(file.path(&other)).unwrap();
            let put = store.put(&key, bytes, PutOptions::default());
            put.await.unwrap();
            let expected = match file.row().seal {
                // Nothing names it: it is as if it were not there, and is pruned.
                Seal::Blobs(_) => BTreeSet::new(),
                _ => BTreeSet::from([kind]),
            };
            assert_eq!(found(&store, name).await, Ok(expected), "{path} as {key}");
        }
    }
}

#[tokio::test]
async fn foreign_files_are_left_alone() {
    for name in NAMES {
        let (store, truth) = load(name);
        for file in StoredFile::ALL {
            let directory = file.row().directory;
            let id = "4f".repeat(32);
            for foreign in [
                "x".to_owned(),
                id.to_uppercase(),
                format!("{id}.tmp"),
                format!("old/{id}"),
            ] {
                let key = Key::new(format!("{directory}{foreign}")).unwrap();
                store
                    .put(&key, "noise".into(), PutOptions::default())
                    .await
                    .unwrap();
            }
        }
        // A whole pack in a directory that is not the one of its name.
        let mut data = store.list("data/", ListOptions::default());
        let pack = loop {
            let meta = data.try_next().await.unwrap().unwrap();
            if StoredFile::Data.id(meta.key.as_str()).is_some() {
                break meta.key;
            }
        };
        let bytes = store.get(&pack, GetOptions::default()).await.unwrap();
        let (_, id) = pack.as_str().rsplit_once('/').unwrap();
        let fan = if id.starts_with("00") { "01" } else { "00" };
        let key = Key::new(format!("data/{fan}/{id}")).unwrap();
        store.put(&key, bytes, PutOptions::default()).await.unwrap();
        reads(&store, name, &truth).await;
    }
}

/// What is damaged without this index segment.
async fn without(repo: &Repository, id: &str) -> Vec<DamageKind> {
    let (mut gone, mut supersedes) = (BTreeSet::new(), false);
    for meta in repo.list("index/").await.unwrap() {
        let path = meta.key.as_str();
        let bytes = repo.get_file(path).await.unwrap();
        let segment = Segment::open(repo.sealer(), path, &bytes).unwrap();
        supersedes |= path.ends_with(id) && !segment.supersedes.is_empty();
        gone.extend(segment.supersedes.iter().map(ToString::to_string));
    }
    if gone.contains(id) {
        vec![]
    } else if supersedes {
        // What it superseded counts again, and names the pack that is lost.
        vec![DamageKind::Pack]
    } else {
        vec![DamageKind::Index]
    }
}

/// Another name that a file of this kind could have.
fn another_name(file: StoredFile, id: &str) -> Option<String> {
    let last = if id.ends_with('0') { "1" } else { "0" };
    match file.row().names {
        Names::One(_) => None,
        Names::Id | Names::FannedOut => Some(format!("{}{last}", &id[..id.len() - 1])),
        // The random part, before the letter of the copy.
        Names::Ring => {
            let (random, copy) = id.rsplit_once('-')?;
            let last = if random.ends_with('0') { "1" } else { "0" };
            Some(format!("{}{last}-{copy}", &random[..random.len() - 1]))
        }
    }
}
