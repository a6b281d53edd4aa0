use std::collections::BTreeSet;
use std::os::unix::fs::{PermissionsExt, symlink};

use futures::stream::TryStreamExt;
use proptest::prelude::*;

use super::*;
use crate::store::testing::conformance;
use crate::store::{Durability, PutMode};

fn scratch(settings: LocalSettings) -> (tempfile::TempDir, LocalStore) {
    let scratch = tempfile::tempdir().unwrap();
    let store = LocalStore::open(scratch.path(), settings).unwrap();
    (scratch, store)
}

fn key(path: &str) -> Key {
    Key::new(path).unwrap()
}

async fn put(store: &LocalStore, path: &str) -> Result<Put> {
    let bytes = Bytes::from_static(b"bytes");
    store.put(&key(path), bytes, PutOptions::default()).await
}

async fn keys(store: &LocalStore, prefix: &str, after: Option<&str>) -> Result<Vec<String>> {
    let after = after.map(key);
    let listed = store.list(
        prefix,
        ListOptions {
            after,
            ..ListOptions::default()
        },
    );
    listed
        .map_ok(|meta| meta.key.to_string())
        .try_collect()
        .await
}

#[tokio::test]
async fn conforms() {
    let (scratch, store) = scratch(LocalSettings::default());
    conformance::run(&store).await.unwrap();
    let left: Vec<_> = std::fs::read_dir(scratch.path()).unwrap().collect();
    assert_eq!(
        left.len(),
        1,
        "only the temporary directory stays: {left:?}"
    );
    assert_eq!(store.remove_leftovers(Timestamp::MAX).await.unwrap(), 0);
    assert_eq!(std::fs::read_dir(scratch.path()).unwrap().count(), 0);
}

#[tokio::test]
async fn a_missing_root_is_an_error_or_made() {
    let scratch = tempfile::tempdir().unwrap();
    let root = scratch.path().join("a/b");
    let error = LocalStore::open(&root, LocalSettings::default()).unwrap_err();
    assert_eq!(error.cause(), Cause::NotFound);
    assert!(error.to_string().contains("a/b"), "{error:?}");
    let missing = MissingRoot::Create;
    let access = Access::Private;
    LocalStore::open(&root, LocalSettings { access, missing }).unwrap();
    assert_eq!(mode(&root), 0o700);
}

fn mode(path: &Path) -> u32 {
    std::fs::metadata(path).unwrap().permissions().mode() & 0o777
}

#[tokio::test]
async fn access_decides_who_may_read() {
    let (_private, store) = scratch(LocalSettings::default());
    put(&store, "a/b").await.unwrap();
    assert_eq!(mode(&store.path_of(&key("a/b"))), 0o600);
    assert_eq!(mode(&store.path_of(&key("a"))), 0o700);

    let (open, store) = scratch(LocalSettings {
        access: Access::Umask,
        ..LocalSettings::default()
    });
    put(&store, "a/b").await.unwrap();
    std::fs::write(open.path().join("file"), "").unwrap();
    std::fs::create_dir(open.path().join("directory")).unwrap();
    let same = |ours: &str, plain: &str| {
        assert_eq!(
            mode(&open.path().join(ours)),
            mode(&open.path().join(plain))
        );
    };
    same("a/b", "file");
    same("a", "directory");
}

#[tokio::test]
async fn links_below_the_root_are_never_followed() {
    let outside = tempfile::tempdir().unwrap();
    std::fs::write(outside.path().join("secret"), "x").unwrap();
    let (scratch, store) = scratch(LocalSettings::default());
    symlink(outside.path(), scratch.path().join("directory")).unwrap();
    symlink(outside.path().join("secret"), scratch.path().join("file")).unwrap();
    for path in ["directory/secret", "file"] {
        let options = GetOptions::default();
        let errors = [
            store.get(&key(path), options).await.unwrap_err(),
            store.head(&key(path)).await.unwrap_err(),
        ];
        for error in errors {
            assert!(
                error.to_string().ends_with("is a symbolic link"),
                "{error:?}"
            );
        }
    }
    assert!(put(&store, "directory/new").await.is_err());
    assert!(store.delete(&key("directory/secret"), None).await.is_err());
    assert!(keys(&store, "", None).await.is_err());
    assert!(keys(&store, "directory/", None).await.is_err());
    assert_eq!(std::fs::read_dir(outside.path()).unwrap().count(), 1);
    // Replacing a link as an object replaces the link, not what it leads to.
    put(&store, "file").await.unwrap();
    assert_eq!(std::fs::read(outside.path().join("secret")).unwrap(), b"x");
}

#[tokio::test]
async fn temporary_files_are_no_objects() {
    let (scratch, store) = scratch(LocalSettings::default());
    let mut upload = store
        .upload(&key("a"), PutOptions::default())
        .await
        .unwrap();
    upload.write(Bytes::from_static(b"x")).await.unwrap();
    let temporary = std::fs::read_dir(scratch.path().join(TEMP_DIRECTORY));
    let name = temporary.unwrap().next().unwrap().unwrap().file_name();
    let path = format!("{TEMP_DIRECTORY}/{}", name.display());
    assert_eq!(
        store.head(&key(&path)).await.unwrap_err().cause(),
        Cause::NotFound
    );
    assert_eq!(
        put(&store, ".eyrie-tmp/x").await.unwrap_err().cause(),
        Cause::Invalid
    );
    store.delete(&key(&path), None).await.unwrap();
    assert!(keys(&store, "", None).await.unwrap().is_empty());
    assert!(keys(&store, ".eyrie-tmp/", None).await.unwrap().is_empty());
    let removed = store.remove_leftovers(Timestamp::UNIX_EPOCH).await.unwrap();
    assert_eq!(removed, 0, "young files stay");
    let foreign = ["mine", "0123-4x", "-1", "notes-2"];
    for name in foreign {
        std::fs::write(scratch.path().join(TEMP_DIRECTORY).join(name), "mine").unwrap();
    }
    assert_eq!(store.remove_leftovers(Timestamp::MAX).await.unwrap(), 1);
    for name in foreign {
        let path = scratch.path().join(TEMP_DIRECTORY).join(name);
        assert!(path.exists(), "{name} is not ours");
    }
    assert_eq!(upload.finish().await.unwrap_err().cause(), Cause::NotFound);
}

#[tokio::test]
async fn a_dropped_upload_leaves_no_file() {
    let (scratch, store) = scratch(LocalSettings::default());
    let mut upload = store
        .upload(&key("a"), PutOptions::default())
        .await
        .unwrap();
    upload.write(Bytes::from_static(b"x")).await.unwrap();
    drop(upload);
    let temporary = std::fs::read_dir(scratch.path().join(TEMP_DIRECTORY)).unwrap();
    assert_eq!(temporary.count(), 0);
}

#[tokio::test]
async fn a_file_is_no_directory() {
    let (_scratch, store) = scratch(LocalSettings::default());
    put(&store, "a").await.unwrap();
    assert_eq!(
        store.head(&key("a/b")).await.unwrap_err().cause(),
        Cause::NotFound
    );
    store.delete(&key("a/b"), None).await.unwrap();
    assert_eq!(put(&store, "a/b").await.unwrap_err().cause(), Cause::Failed);
    put(&store, "b/c").await.unwrap();
    assert_eq!(
        store.head(&key("b")).await.unwrap_err().cause(),
        Cause::NotFound
    );
    assert!(put(&store, "b").await.is_err());
    store.delete(&key("b"), None).await.unwrap();
    assert_eq!(keys(&store, "", None).await.unwrap(), ["a", "b/c"]);
}

#[tokio::test]
async fn writers_and_deleters_of_one_directory_do_not_disturb_each_other() {
    let (_scratch, store) = scratch(LocalSettings::default());
    let churn = |name: &'static str| {
        let store = store.clone();
        async move {
            for _ in 0..200 {
                let path = key(&format!("a/b/{name}"));
                let options = PutOptions {
                    mode: PutMode::Create,
                    durability: Durability::Deferred,
                    ..PutOptions::default()
                };
                store.put(&path, Bytes::new(), options).await.unwrap();
                store.head(&path).await.unwrap();
                store.delete(&path, None).await.unwrap();
            }
        }
    };
    let tasks = ["x", "y", "z"].map(|name| tokio::spawn(churn(name)));
    for task in tasks {
        task.await.unwrap();
    }
    assert!(keys(&store, "", None).await.unwrap().is_empty());
}

#[tokio::test]
async fn a_full_disk_is_no_space_and_names_the_path() {
    // Every write to it fails with ENOSPC; it stands for a full file system.
    let full = std::fs::File::options()
        .write(true)
        .open("/dev/full")
        .unwrap();
    let error = full.write_all_at(b"x", 0).unwrap_err();
    let (_scratch, store) = scratch(LocalSettings::default());
    let error = store.tree.failed("write", "data/x", error);
    assert_eq!(error.cause(), Cause::NoSpace);
    assert!(error.to_string().ends_with("data/x"), "{error}");
    assert!(error.hint().is_some());
}

#[tokio::test]
async fn a_large_object_reads_by_ranges() {
    let (_scratch, store) = scratch(LocalSettings::default());
    let file = std::fs::File::create(store.path_of(&key("sparse"))).unwrap();
    file.set_len(1 << 42).unwrap();
    file.write_all_at(b"end", (1 << 42) - 3).unwrap();
    let options = GetOptions {
        range: Some((1 << 42) - 5..u64::MAX),
        version: None,
    };
    let end = store.get(&key("sparse"), options).await.unwrap();
    assert_eq!(end, b"\0\0end"[..]);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn listings_are_sorted_filtered_sets(
        paths in proptest::collection::btree_set("[a!/0-]{1,6}", 0..20),
        prefix in "[a!/0-]{0,3}",
        after in "[a!0-](/?[a!0-]){0,2}",
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(async {
            let (_scratch, store) = scratch(LocalSettings::default());
            let mut written = BTreeSet::new();
            for path in paths {
                // A file and a directory of one name cannot both be.
                let valid = Key::new(&path).is_ok();
                if valid && put(&store, &path).await.is_ok() {
                    written.insert(path);
                }
            }
            let expected: Vec<String> = written
                .into_iter()
                .filter(|path| path.starts_with(&prefix) && *path > after)
                .collect();
            assert_eq!(keys(&store, &prefix, Some(&after)).await.unwrap(), expected);
        });
    }
}

#[tokio::test]
async fn what_another_process_left_unfinished_is_removed_and_nothing_else() {
    let scratch = tempfile::tempdir().unwrap();
    let open = || LocalStore::open(scratch.path(), LocalSettings::default()).unwrap();
    let (dead, alive, successor) = (open(), open(), open());
    let parts = async |store: &LocalStore, name: &str| {
        let parts = store
            .parts(&key(name), PutOptions::default())
            .await
            .unwrap();
        let part = Part {
            number: 1,
            offset: 0,
            bytes: Bytes::from_static(b"x"),
        };
        parts.part(part).await.unwrap();
        parts
    };
    let end = || Part {
        number: 2,
        offset: 1,
        bytes: Bytes::new(),
    };
    let left = parts(&dead, "dead").await;
    let goes_on = parts(&alive, "alive").await;
    for unfinished in dead.unfinished() {
        // It is not dead for itself.
        dead.remove_unfinished(&unfinished).await.unwrap();
        successor.remove_unfinished(&unfinished).await.unwrap();
    }
    left.finish(end()).await.unwrap_err();
    goes_on.finish(end()).await.unwrap();
    assert_eq!(successor.head(&key("alive")).await.unwrap().size, 1);
}
