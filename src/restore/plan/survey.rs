//! Looking at a target without touching it.

use std::collections::BTreeMap;
use std::path::Path;

use futures::{StreamExt, TryStreamExt, stream};

use crate::base::progress::Amount;
use crate::instance::objects::PROBE_FOLDER;
use crate::milvus::objects::folders;
use crate::restore::plan::inputs::Counted;
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

/// Counts what is in `store` below `prefixes`; what begins with one of `outside` is not the object
/// layer's, as the queue of the package's default configuration lies below the storage root.
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
        let probe = key.starts_with(PROBE_FOLDER);
        if probe || outside.iter().any(|prefix| key.starts_with(prefix)) {
            continue;
        }
        let family = key.split_once('/').map_or("", |(first, _)| first);
        let usage = if folders().any(|own| own == family) {
            families.entry(family.to_owned()).or_default()
        } else {
            &mut found.foreign
        };
        *usage += Amount::object(meta.size);
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
            usage += Amount::object(meta.len());
        }
    }
    Ok(usage)
}

fn looking(path: &Path, error: std::io::Error) -> Error {
    Error::from(error)
        .on(Side::Target)
        .context(format!("looking into {}", path.display()))
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;
    use crate::store::testing::memory::MemoryStore;
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
}
