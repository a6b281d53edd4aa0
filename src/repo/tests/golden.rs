//! Repositories of every version that was ever released can be read.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use walkdir::WalkDir;

use super::support::*;
use crate::base::env::Env;
use crate::base::resources::Resources;
use crate::base::secret::Secret;
use crate::repo::format::files::StoredFile;
use crate::repo::{CheckBytes, Chunking, InitOptions, Repository, Unlock};
use crate::store::testing::memory::MemoryStore;
use crate::store::{Key, PutOptions, Store};
use crate::{Cause, Result};

const PASSPHRASE: &str = "golden eagle";

fn golden(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/data/golden-v1")
        .join(name)
}

fn unlock(name: &str) -> Unlock {
    match name {
        "encrypted" => Unlock::Passphrase(Secret::new(PASSPHRASE)),
        _ => Unlock::None,
    }
}

/// Two snapshots of instance `main`: small, so that every bit can be flipped.
fn snapshots() -> [Objects; 2] {
    let mut first: Objects = [0, 1, 1024, 1537]
        .iter()
        .map(|size| (format!("noise/{size:06}"), noise(*size as u64, *size)))
        .collect();
    first.insert("text".into(), text(1, 4_000));
    let mut second = first.clone();
    second.remove("noise/000001");
    second.insert("text".into(), text(2, 4_000));
    [first, second]
}

/// What made the repositories in `tests/data/golden-v1`.
async fn build(name: &str) -> MemoryStore {
    let store = MemoryStore::new();
    let env = Env::system();
    let small = Chunking {
        cut: 1024,
        whole: 1536,
    };
    let options = InitOptions {
        cuts: small,
        ..options()
    };
    let repo = Repository::init(
        Arc::new(store.clone()),
        unlock(name),
        options,
        &Resources::of_tests(),
        &env,
    )
    .await
    .unwrap();
    for objects in snapshots() {
        backup(&repo, "main", &objects).await.unwrap();
    }
    store
}

fn load(name: &str) -> MemoryStore {
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
    store
}

async fn reads(store: MemoryStore, name: &str) {
    let repo = Repository::open(
        Arc::new(store),
        unlock(name),
        &Resources::of_tests(),
        &Env::system(),
    )
    .await
    .unwrap();
    let found = repo.snapshots().await.unwrap();
    assert_eq!(found.damage, []);
    let view = repo.view().await.unwrap();
    let expected = snapshots();
    assert_eq!(found.manifests.len(), expected.len());
    for manifest in &found.manifests {
        let expected = &expected[usize::try_from(manifest.sequence - 1).unwrap()];
        assert_eq!(&restore(&view, manifest).await.unwrap(), expected);
    }
    assert_eq!(repo.check(&[], CheckBytes::All).await.unwrap().damage, []);
    let (next, added) = backup(&repo, "main", &expected[0]).await.unwrap();
    assert_eq!((next.sequence, added), (3, 0));
}

#[tokio::test]
async fn the_golden_repositories_are_read_written_and_whole() {
    for name in ["encrypted", "plain"] {
        reads(load(name), name).await;
    }
}

/// With `EYRIE_GOLDEN` set to a directory, what is built is left there: how the golden
/// repositories of a new version of the format are made.
#[tokio::test]
async fn what_the_builder_makes_today_reads_the_same() {
    for name in ["encrypted", "plain"] {
        let store = build(name).await;
        if let Some(out) = std::env::var_os("EYRIE_GOLDEN") {
            let root = PathBuf::from(out).join(name);
            let repo = Repository::open(
                Arc::new(store.clone()),
                unlock(name),
                &Resources::of_tests(),
                &Env::system(),
            )
            .await
            .unwrap();
            for meta in repo.list("").await.unwrap() {
                let path = root.join(meta.key.as_str());
                std::fs::create_dir_all(path.parent().unwrap()).unwrap();
                std::fs::write(path, repo.get_file(meta.key.as_str()).await.unwrap()).unwrap();
            }
        }
        reads(store, name).await;
    }
}

#[tokio::test]
async fn every_flipped_byte_is_found() {
    let good = load("plain");
    let repo = open(Arc::new(good.clone())).await.unwrap();
    for meta in repo.list("").await.unwrap() {
        let opens_with = [StoredFile::Config, StoredFile::Key]
            .iter()
            .any(|file| file.id(meta.key.as_str()).is_some());
        let bytes = repo.get_file(meta.key.as_str()).await.unwrap();
        for at in 0..bytes.len() {
            let mut bad = bytes.to_vec();
            bad[at] ^= 1 << (at % 8);
            good.put(&meta.key, bad.into(), PutOptions::default())
                .await
                .unwrap();
            let case = format!("byte {at} of {}", meta.key);
            if opens_with {
                let error = open(Arc::new(good.clone())).await.err();
                let why = error.as_ref().map(crate::Error::cause);
                assert_eq!(why, Some(Cause::Damage), "{case}: {error:?}");
            }
            let report = repo.check(&[], CheckBytes::All).await.unwrap();
            assert!(!report.damage.is_empty(), "{case}");
        }
        good.put(&meta.key, bytes, PutOptions::default())
            .await
            .unwrap();
    }
    assert_eq!(repo.check(&[], CheckBytes::All).await.unwrap().damage, []);
}
