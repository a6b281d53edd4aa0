//! What a restore puts back of a snapshot.

use futures::TryStreamExt;
use futures::stream::BoxStream;

use crate::base::progress::Amount;
use crate::repo::{Content, Entry, KeyRange, ObjectHash, PieceRef};
use crate::snapshot::{OBJECTS_ROOT, Snapshot, WAL_ROOT};
use crate::store::Key;
use crate::{Cause, Error, Result, Side};

/// One object to put back.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Item {
    /// Where it goes, below its root.
    pub(crate) key: Key,
    /// The plain BLAKE3 hash of its bytes.
    pub(crate) hash: ObjectHash,
    /// Its size in bytes.
    pub(crate) size: u64,
    /// Its pieces in order; none when it is empty.
    pub(crate) pieces: Vec<PieceRef>,
}

/// Which objects of a snapshot.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Which {
    /// Those of the object layer, below the storage root.
    Objects,
    /// The files of the write-ahead log, below `rdb_data/` and `rdb_data_meta_kv/`.
    Wal,
}

impl Snapshot {
    /// The objects in the order of their collections and segments.
    pub(crate) fn items(&self, which: Which) -> BoxStream<'static, Result<Item>> {
        let (root, read): (_, fn(Entry) -> Result<Item>) = match which {
            Which::Objects => (OBJECTS_ROOT, object),
            Which::Wal => (WAL_ROOT, wal_file),
        };
        let items = self.map(root).scan(KeyRange::all());
        Box::pin(items.and_then(move |entry| async move { read(entry) }))
    }

    /// Sums over the files of the write-ahead log, which are few.
    pub(crate) async fn wal_files(&self) -> Result<Amount> {
        self.items(Which::Wal)
            .try_fold(Amount::default(), |mut sum, item| async move {
                sum.objects += 1;
                sum.bytes += item.size;
                Ok(sum)
            })
            .await
    }

    /// Sums over the objects.
    pub(crate) fn totals(&self) -> Amount {
        Amount {
            objects: self.manifest.totals.objects,
            bytes: self.manifest.totals.bytes,
        }
    }
}

/// An entry of the `objects` map: `<collection>/<partition>/<segment>/<path>`.
fn object(entry: Entry) -> Result<Item> {
    let name = text(&entry.key)?;
    let path = name
        .splitn(4, '/')
        .nth(3)
        .ok_or_else(|| odd(&name, "its key is not collection/partition/segment/path"))?;
    item(path, entry.content)
}

fn wal_file(entry: Entry) -> Result<Item> {
    let path = text(&entry.key)?;
    item(&path, entry.content)
}

fn item(path: &str, content: Content) -> Result<Item> {
    let key = Key::new(path).map_err(|error| {
        let message = format!("the snapshot names an object {path:?}");
        Side::Repository
            .error(Cause::Damage, message)
            .with_source(error)
    })?;
    match content {
        Content::Object { hash, size, pieces } => Ok(Item {
            key,
            hash,
            size,
            pieces,
        }),
        Content::External { .. } => {
            let message =
                format!("the bytes of {path} are not in the repository but pinned elsewhere");
            Err(Error::new(Cause::NewerFormat, message)
                .with_hint("restore with the eyrie that took the snapshot"))
        }
        Content::None => Err(odd(path, "it has no content")),
    }
}

fn text(key: &[u8]) -> Result<String> {
    String::from_utf8(key.to_vec())
        .map_err(|_| odd(&String::from_utf8_lossy(key), "its name is no text"))
}

fn odd(name: &str, why: &str) -> Error {
    Error::new(
        Cause::Damage,
        format!("object {name} of the snapshot is damaged: {why}"),
    )
}
