//! Directories of a target that lie in one another, or hold the repository.
//!
//! A restore moves the content of the queue's directories and the data of an embedded etcd away, and
//! removes it at the end. Nothing that is to stay may lie there.

use std::path::{Path, PathBuf};

use crate::config::{Instance, Objects};
use crate::instance::objects::local::real;
use crate::instance::wal::directories;
use crate::store::open::Location;

/// A directory and what it is, for people.
type Named = (&'static str, PathBuf);

/// The first two directories that lie in one another and may not; `None` when all is well. A queue or an
/// etcd below the storage root may: Milvus's own default configuration is so.
pub(crate) fn nesting(instance: &Instance, repository: &Location) -> Option<String> {
    let queue = directories(&instance.wal.kind);
    let queue = queue.iter().map(|path| ("the message queue", real(path)));
    let queue: Vec<Named> = queue.collect();
    let storage = match &instance.objects {
        Objects::Local(local) => Some(("the storage root", real(&local.path))),
        Objects::S3(_) => None,
    };
    let repository = if let Location::Directory(path) = repository {
        Some(("the repository", real(path)))
    } else {
        None
    };
    let etcd = instance.etcd.embedded.as_ref();
    let data = etcd.map(|etcd| ("the embedded etcd", real(&etcd.data_dir)));
    let member = data
        .iter()
        .map(|(name, path)| (*name, path.join(crate::etcd::MEMBER)));
    let moved: Vec<Named> = queue.iter().cloned().chain(member).collect();
    let kept = storage.iter().chain(&repository);
    let held = kept
        .chain(&data)
        .find_map(|kept| holder(&moved, kept).map(|outer| said(outer, kept)));
    // Whose files a queue would find among its own.
    let apart = repository.iter().chain(&data);
    held.or_else(|| {
        let mut apart = apart.filter_map(|outer| Some(said(outer, within(&queue, &outer.1)?)));
        apart.next()
    })
}

fn holder<'a>(moved: &'a [Named], kept: &Named) -> Option<&'a Named> {
    moved.iter().find(|(_, path)| kept.1.starts_with(path))
}

fn within<'a>(queue: &'a [Named], outer: &Path) -> Option<&'a Named> {
    queue.iter().find(|(_, path)| path.starts_with(outer))
}

fn said(outer: &Named, inner: &Named) -> String {
    format!(
        "{} in {} holds {} in {}",
        outer.0,
        outer.1.display(),
        inner.0,
        inner.1.display()
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Resolved, Variables};

    fn found(storage: &str, queue: &str, etcd: &str, repository: &str) -> Option<String> {
        let dir = tempfile::tempdir().unwrap();
        let milvus = format!(
            "etcd: {{rootPath: by-dev, use: {{embed: true}}, data: {{dir: {etcd}}}}}\n\
             localStorage: {{path: {storage}}}\nrocksmq: {{path: {queue}}}\ncommon: {{storageType: local}}\n"
        );
        std::fs::write(dir.path().join("milvus.yaml"), milvus).unwrap();
        let config = dir.path().join("eyrie.yaml");
        let text = "instance: {name: main, milvus_yaml: milvus.yaml}\nrepositories: []\n";
        let resolved = Resolved::from_text(text, &config, &Variables::default()).unwrap();
        let location = Location::Directory(repository.into());
        nesting(&resolved.instance.unwrap(), &location)
    }

    #[test]
    fn what_is_moved_away_holds_nothing_that_is_to_stay() {
        assert_eq!(found("/m/data", "/m/rdb", "/m/etcd", "/backup"), None);
        assert_eq!(
            found("/m", "/m/rdb", "/m/etcd", "/backup"),
            None,
            "Milvus's default"
        );
        for (storage, queue, etcd, repository, named) in [
            (
                "/m/data",
                "/m",
                "/n/etcd",
                "/backup",
                "the storage root in /m/data",
            ),
            (
                "/m/data",
                "/m/data",
                "/n/etcd",
                "/backup",
                "the storage root",
            ),
            (
                "/m/data",
                "/q",
                "/q/etcd",
                "/backup",
                "the embedded etcd in /q/etcd",
            ),
            (
                "/m/data",
                "/e/q",
                "/e",
                "/backup",
                "the embedded etcd in /e holds",
            ),
            (
                "/m/data",
                "/q",
                "/m/etcd",
                "/q/backup",
                "the repository in /q/backup",
            ),
            (
                "/m/data",
                "/q",
                "/m/etcd",
                "/q_meta_kv/backup",
                "the repository",
            ),
            (
                "/m/data",
                "/backup/q",
                "/m/etcd",
                "/backup",
                "the repository in /backup holds",
            ),
            (
                "/e/member/data",
                "/q",
                "/e",
                "/backup",
                "the embedded etcd in /e/member holds",
            ),
        ] {
            let found = found(storage, queue, etcd, repository).unwrap_or_default();
            assert!(found.contains(named), "{found:?} and not {named}");
        }
    }
}
