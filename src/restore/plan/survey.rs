//! Looking at a target without touching it.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use futures::{StreamExt, TryStreamExt, stream};

use crate::base::progress::Amount;
use crate::config::Objects;
use crate::milvus::objects::folders;
use crate::restore::plan::inputs::Counted;
use crate::store::open::Location;
use crate::store::{ListOptions, Store};
use crate::{Error, Result, Side};

/// How many objects are counted where only "not empty" matters.
const ENOUGH: u64 = 1_000;

/// What lies below a storage root.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Stored {
    pub(crate) families: Vec<(String, Amount)>,
    pub(crate) foreign: Amount,
    pub(crate) example: Option<String>,
    pub(crate) counted: Option<Counted>,
}

/// Counts what is in `store` below `prefixes`; what begins with one of `outside` is not the object layer's, as the
/// queue of the package's default configuration lies below the storage root.
pub(crate) async fn storage(
    store: &dyn Store,
    prefixes: &[String],
    outside: &[String],
    counting: Counted,
) -> Result<Stored> {
    let listings = prefixes
        .iter()
        .map(|prefix| store.list(prefix, ListOptions::default()));
    let mut listing = stream::iter(listings).flatten();
    let mut families: BTreeMap<String, Amount> = BTreeMap::new();
    let mut found = Stored {
        counted: Some(Counted::All),
        ..Stored::default()
    };
    let mut total = 0;
    while let Some(meta) = listing.try_next().await? {
        let key = meta.key.as_str();
        if outside.iter().any(|prefix| key.starts_with(prefix)) {
            continue;
        }
        let family = key.split_once('/').map_or("", |(first, _)| first);
        let usage = if folders().any(|own| own == family) {
            families.entry(family.to_owned()).or_default()
        } else {
            &mut found.foreign
        };
        usage.objects += 1;
        usage.bytes += meta.size;
        found.example.get_or_insert_with(|| key.to_owned());
        total += 1;
        if counting == Counted::AtLeast && total >= ENOUGH {
            found.counted = Some(Counted::AtLeast);
            break;
        }
    }
    found.families = families.into_iter().collect();
    Ok(found)
}

/// Files below a directory; nothing where it is missing.
pub(crate) fn directory(path: &Path) -> Result<Amount> {
    let mut usage = Amount::default();
    if !path.exists() {
        return Ok(usage);
    }
    for entry in walkdir::WalkDir::new(path) {
        let entry = entry.map_err(|e| looking(path, std::io::Error::from(e)))?;
        if !entry.file_type().is_dir() {
            let meta = entry.metadata().map_err(|e| looking(path, e.into()))?;
            usage.objects += 1;
            usage.bytes += meta.len();
        }
    }
    Ok(usage)
}

fn looking(path: &Path, error: std::io::Error) -> Error {
    Error::from(error)
        .on(Side::Target)
        .context(format!("looking into {}", path.display()))
}

/// The prefixes below the directory `root` that belong to `others`, each ending with `/`.
pub(crate) fn below(root: &Path, others: &[PathBuf]) -> Vec<String> {
    let root = real(root);
    let relative = |other: &PathBuf| {
        let path = real(other);
        let rest = path.strip_prefix(&root).ok()?.to_str()?.to_owned();
        (!rest.is_empty()).then(|| rest + "/")
    };
    others.iter().filter_map(relative).collect()
}

/// The path without symbolic links; of one that is missing, as far as it is there.
pub(crate) fn real(path: &Path) -> PathBuf {
    let path = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
    for ancestor in path.ancestors() {
        if let (Ok(found), Ok(rest)) = (ancestor.canonicalize(), path.strip_prefix(ancestor)) {
            return if rest.as_os_str().is_empty() {
                found
            } else {
                found.join(rest)
            };
        }
    }
    path
}

/// How a repository and the objects of a target overlap, for people; `None` when they do not.
pub(crate) async fn overlap(repository: &Location, objects: &Objects) -> Option<String> {
    match (repository, objects) {
        (Location::Directory(repository), Objects::Local(local)) => {
            let (repository, target) = (real(repository), real(&local.path));
            (repository.starts_with(&target) || target.starts_with(&repository))
                .then(|| format!("{} and {}", repository.display(), target.display()))
        }
        (Location::S3(repository), Objects::S3(target)) => {
            let target = &target.at;
            let nested = repository.bucket == target.bucket
                && (within(&repository.prefix, &target.prefix)
                    || within(&target.prefix, &repository.prefix));
            let same = match (&repository.endpoint, &target.endpoint) {
                (Some(one), Some(other)) => nested && same_endpoint(one, other).await,
                (None, None) => nested,
                (Some(url), None) | (None, Some(url)) => nested && url.contains("amazonaws.com"),
            };
            same.then(|| format!("{repository} and {target}"))
        }
        _ => None,
    }
}

/// Whether the prefix `inner` lies in `outer`.
fn within(inner: &str, outer: &str) -> bool {
    outer.is_empty()
        || inner
            .strip_prefix(outer)
            .is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

/// Whether two URLs lead to the same server: by name, or by a common address.
async fn same_endpoint(a: &str, b: &str) -> bool {
    let (Some(a), Some(b)) = (host_port(a), host_port(b)) else {
        return a == b;
    };
    if a == b {
        return true;
    }
    let (a, b) = (addresses(&a).await, addresses(&b).await);
    a.iter().any(|address| b.contains(address))
}

fn host_port(text: &str) -> Option<(String, u16)> {
    let url = url::Url::parse(text).ok()?;
    Some((
        url.host_str()?.to_ascii_lowercase(),
        url.port_or_known_default()?,
    ))
}

async fn addresses((host, port): &(String, u16)) -> Vec<SocketAddr> {
    match tokio::net::lookup_host((host.as_str(), *port)).await {
        Ok(found) => found.collect(),
        Err(_) => vec![],
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;
    use crate::config::WalKind;
    use crate::config::resolved::{CloudProvider, LocalObjects, S3Objects};
    use crate::instance::wal::directories;
    use crate::store::memory::MemoryStore;
    use crate::store::s3::S3Settings;
    use crate::store::{Key, PutOptions};

    async fn store(keys: &[&str]) -> MemoryStore {
        let store = MemoryStore::new();
        for key in keys {
            let key = Key::new(*key).unwrap();
            store
                .put(&key, Bytes::from_static(b"12345"), PutOptions::default())
                .await
                .unwrap();
        }
        store
    }

    #[tokio::test]
    async fn objects_are_counted_by_family_and_the_queue_is_not_among_them() {
        let store = store(&[
            "insert_log/1/2/3/100/4",
            "insert_log/1/2/3/101/5",
            "index_files/1/1/2/3/x",
            "rocksmq/000004.log",
            "notes.txt",
        ])
        .await;
        let found = storage(&store, &[String::new()], &["rocksmq/".into()], Counted::All)
            .await
            .unwrap();
        let usage = |objects| Amount {
            objects,
            bytes: objects * 5,
        };
        assert_eq!(
            found.families,
            [
                ("index_files".to_owned(), usage(1)),
                ("insert_log".to_owned(), usage(2))
            ]
        );
        assert_eq!(found.foreign, usage(1));
        assert_eq!(found.counted, Some(Counted::All));
        let part = ["index_files/1/".into(), "insert_log/2/".into()];
        let found = storage(&store, &part, &[], Counted::All).await.unwrap();
        assert_eq!(found.families, [("index_files".to_owned(), usage(1))]);
    }

    #[test]
    fn a_queue_below_the_storage_root_is_found_through_links() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().join("data");
        std::fs::create_dir_all(root.join("rocksmq")).unwrap();
        std::os::unix::fs::symlink(&root, dir.path().join("link")).unwrap();
        let queue = WalKind::Rocksmq {
            path: dir.path().join("link/rocksmq"),
        };
        let found = below(&root, &directories(&queue));
        assert_eq!(found, ["rocksmq/", "rocksmq_meta_kv/"]);
        assert!(below(&root, &[dir.path().join("etcd")]).is_empty());
    }

    #[test]
    fn directories_are_measured_and_missing_ones_are_empty() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(
            directory(&dir.path().join("none")).unwrap(),
            Amount::default()
        );
        std::fs::create_dir(dir.path().join("a")).unwrap();
        std::fs::write(dir.path().join("a/b"), "123").unwrap();
        assert_eq!(
            directory(dir.path()).unwrap(),
            Amount {
                objects: 1,
                bytes: 3
            }
        );
    }

    fn local(path: &Path) -> Objects {
        Objects::Local(LocalObjects {
            path: path.to_owned(),
            milvus_path: path.to_owned(),
        })
    }

    #[tokio::test]
    async fn a_repository_below_or_above_the_storage_root_is_found_through_links() {
        let dir = tempfile::tempdir().unwrap();
        let data = dir.path().join("data");
        std::fs::create_dir_all(&data).unwrap();
        let link = dir.path().join("backup");
        std::os::unix::fs::symlink(&data, &link).unwrap();
        let at = |path: PathBuf| Location::Directory(path);
        assert!(
            overlap(&at(link.join("repo")), &local(&data))
                .await
                .is_some()
        );
        assert!(
            overlap(&at(dir.path().to_owned()), &local(&data))
                .await
                .is_some()
        );
        assert!(
            overlap(&at(dir.path().join("data2")), &local(&data))
                .await
                .is_none()
        );
    }

    fn s3(endpoint: &str, prefix: &str) -> (Location, Objects) {
        let at = S3Settings {
            bucket: "b".into(),
            prefix: prefix.into(),
            endpoint: Some(endpoint.into()),
            ..S3Settings::default()
        };
        let objects = S3Objects {
            at: at.clone(),
            provider: CloudProvider::Aws,
        };
        (Location::S3(Box::new(at)), Objects::S3(Box::new(objects)))
    }

    #[tokio::test]
    async fn prefixes_of_one_bucket_overlap_when_one_holds_the_other() {
        let at = |prefix| s3("http://127.0.0.1:9000", prefix);
        assert!(
            overlap(&at("files/backup").0, &at("files").1)
                .await
                .is_some()
        );
        assert!(overlap(&at("").0, &at("files").1).await.is_some());
        assert!(overlap(&at("files2").0, &at("files").1).await.is_none());
        let named = s3("http://localhost:9000/", "files");
        assert!(overlap(&named.0, &at("files").1).await.is_some());
        let elsewhere = s3("http://127.0.0.1:9001", "files");
        assert!(overlap(&elsewhere.0, &at("files").1).await.is_none());
    }
}
