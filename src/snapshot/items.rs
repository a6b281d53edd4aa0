//! The objects of a snapshot, one by one: where each goes, and its bytes.

use std::num::NonZeroUsize;

use bytes::Bytes;
use futures::TryStreamExt;
use futures::stream::BoxStream;

use crate::base::progress::Amount;
use crate::instance::methods::Pins;
use crate::repo::{Content, Entry, KeyRange, ObjectHash, PieceRef};
use crate::snapshot::{Selected, Snapshot, WAL_ROOT};
use crate::store::Key;
use crate::{Cause, Error, Result, Side};

/// One object.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Item {
    /// Where it goes, below its root.
    pub(crate) key: Key,
    /// The plain BLAKE3 hash of its bytes.
    pub(crate) hash: ObjectHash,
    /// Its size in bytes.
    pub(crate) size: u64,
    /// Where its bytes are.
    pub(crate) bytes: Place,
}

/// Where the bytes of an object are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Place {
    /// In the repository: its pieces in order, none when it is empty.
    Pieces(Vec<PieceRef>),
    /// Outside it, as the capture method knows.
    Pin(Bytes),
}

impl Item {
    /// Its pieces in the repository.
    pub(crate) fn pieces(&self) -> &[PieceRef] {
        match &self.bytes {
            Place::Pieces(pieces) => pieces,
            Place::Pin(_) => &[],
        }
    }

    /// Whether it is outside the repository.
    pub(crate) fn is_pinned(&self) -> bool {
        matches!(self.bytes, Place::Pin(_))
    }

    /// Whether it is read as a stream, and not with others by pack.
    pub(crate) fn is_streamed(&self) -> bool {
        self.is_pinned() || self.pieces().len() > 1
    }
}

impl Snapshot {
    /// The bytes of an object in order, verified as far as its method can; `ahead` pieces are read at
    /// once. The caller has taken its share of the memory budget, and compares the hash.
    ///
    /// # Errors
    ///
    /// [`Cause::Damage`] for a pin of a method that has none.
    pub(crate) fn read(
        &self,
        item: &Item,
        ahead: NonZeroUsize,
    ) -> Result<BoxStream<'static, Result<Bytes>>> {
        match &item.bytes {
            Place::Pieces(pieces) => Ok(self.view().read_object(pieces.clone(), ahead)),
            Place::Pin(pin) => Ok(self.pins(item)?.read(pin, item.size)),
        }
    }

    /// Whether an object is still where it was pinned; true for one in the repository, which is not
    /// looked for.
    ///
    /// # Errors
    ///
    /// What keeps it from being told.
    pub(crate) async fn is_in_place(&self, item: &Item) -> Result<bool> {
        match &item.bytes {
            Place::Pieces(_) => Ok(true),
            Place::Pin(pin) => self.pins(item)?.verify(pin).await,
        }
    }

    fn pins(&self, item: &Item) -> Result<&dyn Pins> {
        let none = || {
            odd(
                item.key.as_str(),
                "it is pinned, and its method pins nothing",
            )
        };
        self.method.pins().ok_or_else(none)
    }

    /// The selected objects of the object layer, in the order of their collections and segments.
    pub(crate) fn items(&self, selected: &Selected) -> BoxStream<'static, Result<Item>> {
        let entries = self.entries(selected);
        Box::pin(entries.and_then(|entry| std::future::ready(object(entry))))
    }

    /// The files of the write-ahead log, below `rdb_data/` and `rdb_data_meta_kv/`.
    pub(crate) fn wal_files(&self) -> BoxStream<'static, Result<Item>> {
        let entries = self.map(WAL_ROOT).scan(KeyRange::all());
        Box::pin(entries.and_then(|entry| std::future::ready(wal_file(entry))))
    }

    /// Sums over the files of the write-ahead log, which are few.
    pub(crate) async fn wal_amount(&self) -> Result<Amount> {
        sum(self.wal_files()).await
    }

    /// Sums over the selected objects. Those of a part are counted one by one.
    pub(crate) async fn amount(&self, selected: &Selected) -> Result<Amount> {
        match selected {
            Selected::All => Ok(self.totals()),
            Selected::Collections(_) => sum(self.items(selected)).await,
        }
    }

    /// Sums over all objects.
    pub(crate) fn totals(&self) -> Amount {
        let totals = &self.manifest.totals;
        Amount::new(totals.objects, totals.bytes)
    }
}

async fn sum(items: BoxStream<'_, Result<Item>>) -> Result<Amount> {
    let add = |sum, item: Item| std::future::ready(Ok(sum + Amount::object(item.size)));
    items.try_fold(Amount::default(), add).await
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
            bytes: Place::Pieces(pieces),
        }),
        Content::External {
            hash: Some(hash),
            size,
            pin,
        } => Ok(Item {
            key,
            hash,
            size,
            bytes: Place::Pin(pin),
        }),
        Content::External { hash: None, .. } => {
            let message = format!("the hash of {path} was not taken yet");
            Err(Error::new(Cause::NewerFormat, message)
                .with_hint("use the eyrie that took the snapshot"))
        }
        Content::Volume { .. } => {
            let message = format!("{path} is the image of a volume, which this eyrie cannot place");
            Err(Error::new(Cause::NewerFormat, message)
                .with_hint("use the eyrie that took the snapshot"))
        }
        Content::Lost { why, .. } => Err(odd(path, &format!("it is lost: {why}"))),
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
