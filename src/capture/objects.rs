//! Capturing every object that the anchor requires, in one pass, knowing what is there already.

use std::cmp::Ordering;
use std::collections::{BTreeMap, BTreeSet};
use std::pin::Pin;

use futures::stream::{self, BoxStream, Peekable};
use futures::{StreamExt, TryStreamExt};

use super::Context;
use super::stored::Stored;
use crate::base::error::Context as _;
use crate::base::progress::Amount;
use crate::base::weakening::MISSING_NAMED;
use crate::instance::methods::{CaptureMethod, Captured};
use crate::instance::objects::{Found, LayerObject, Listed};
use crate::milvus::catalog::Catalog;
use crate::milvus::objects::{ObjectKind, ObjectRef, Scope};
use crate::repo::{Content, Entry, KeyRange, Map, NodeRef, StoredObject, Writer};
use crate::snapshot::{ObjectEntry, object_entry};
use crate::store::{Key, SharedStore};
use crate::{Cause, Error, Result, Side};

/// Objects under way at once: enough to hide a store's latency for the many tiny ones; the bytes
/// in flight are bounded by the repository's own budget.
const IN_FLIGHT: usize = 64;

/// What the copy made.
#[derive(Debug, Default)]
pub(super) struct Copied {
    /// The map of objects.
    pub(super) root: Option<NodeRef>,
    /// Objects in it.
    pub(super) objects: u64,
    /// Their bytes.
    pub(super) bytes: u64,
    /// Objects whose bytes were read.
    pub(super) objects_read: u64,
    /// Bytes that were read.
    pub(super) bytes_read: u64,
    /// Objects of each kind.
    pub(super) by_kind: BTreeMap<String, u64>,
    /// Required objects that are gone.
    pub(super) missing: Vec<ObjectRef>,
    /// Missing ones beyond those named.
    pub(super) missing_unnamed: u64,
    /// Bytes that were read and that neither TLS nor a checksum vouches for.
    pub(super) unverified: u64,
    /// Packs that the repository has lost; what they held was read again.
    pub(super) lost_packs: usize,
    /// Blobs that are damaged in the repository; they were read again, too.
    pub(super) damaged_blobs: usize,
}

/// The objects that an anchor requires.
#[derive(Debug)]
pub(super) struct Required<'a> {
    pub(super) catalog: &'a Catalog,
    pub(super) scope: Scope,
    /// Where the source has those that it has at another path than the snapshot, by their paths in this.
    pub(super) elsewhere: BTreeMap<String, String>,
}

impl Required<'_> {
    fn objects(&self) -> impl Iterator<Item = ObjectRef> {
        self.catalog.objects_in(self.scope)
    }

    fn source_path<'o>(&'o self, object: &'o ObjectRef) -> &'o str {
        self.elsewhere.get(&object.path).unwrap_or(&object.path)
    }

    /// How much there is to capture, as the listings have it.
    fn expected(&self, listed: &Listed) -> Amount {
        let mut amount = Amount::default();
        for object in self.objects() {
            let found = listed.get(self.source_path(&object));
            amount += Amount::object(found.map_or(0, |found| found.size));
        }
        amount
    }
}

/// Captures `required` from `store`, which is there unless there are no objects, by `method` through
/// the writer of `stored`. An object that a map of `known`, captured by the same method, has under the same
/// identity is not captured again; of several maps the first counts.
pub(super) async fn capture(
    context: &Context,
    method: &dyn CaptureMethod,
    stored: &mut Stored<'_>,
    store: Option<&SharedStore>,
    required: &Required<'_>,
    known: &[Map],
) -> Result<Copied> {
    let writer = stored.writer();
    stored.renew();
    let mut done = Copied::default();
    let Some(store) = store else {
        done.lost_packs = writer.lost_packs();
        return Ok(done);
    };
    let prefixes = prefixes(required);
    let listed = Listed::read(store.as_ref(), prefixes, method.needs_versions()).await?;
    // What cannot be read of it is read from the source again.
    let known = known.iter().map(|map| map.scan_readable(KeyRange::all()));
    let known = known
        .reduce(preferred)
        .unwrap_or_else(|| stream::empty().boxed());
    let capturer = Capturer {
        method,
        writer,
        store,
        listed: &listed,
        required,
    };
    context.progress.expect(required.expected(&listed));
    let work = joined(required.objects(), known)
        .map_ok(|(object, known)| capturer.one(object, known))
        .try_buffered(IN_FLIGHT);
    let mut work = std::pin::pin!(work);
    while let Some(one) = work.try_next().await? {
        let (object, entry, read) = match one {
            One::Gone(object) if done.missing.len() < MISSING_NAMED => {
                done.missing.push(object);
                continue;
            }
            One::Gone(_) => {
                done.missing_unnamed += 1;
                continue;
            }
            One::Known(object, entry) => (object, entry, false),
            One::Read(object, entry) => (object, entry, true),
        };
        let size = entry.content.size();
        done.objects += 1;
        done.bytes += size;
        *done.by_kind.entry(object.kind.to_string()).or_default() += 1;
        if read {
            done.objects_read += 1;
            done.bytes_read += size;
            stored.push_read(entry).await?;
        } else {
            stored.push_known(entry).await?;
        }
        context.progress.advance(Amount::object(size));
    }
    done.root = stored.finish().await?;
    done.unverified = store.unverified_bytes();
    done.lost_packs = writer.lost_packs();
    done.damaged_blobs = writer.damaged_blobs();
    Ok(done)
}

enum One {
    Known(ObjectRef, Entry),
    Read(ObjectRef, Entry),
    Gone(ObjectRef),
}

struct Capturer<'a> {
    method: &'a dyn CaptureMethod,
    writer: &'a Writer,
    store: &'a SharedStore,
    listed: &'a Listed,
    required: &'a Required<'a>,
}

impl Capturer<'_> {
    async fn one(&self, object: ObjectRef, known: Option<Entry>) -> Result<One> {
        let Some(found) = self.identify(&object).await? else {
            return Ok(One::Gone(object));
        };
        let named = found.identity.to_hex();
        if let Some(entry) = known
            && entry.content.size() == found.size
            && describes(&entry, &named)
            && self.is_kept(&entry.content).await?
        {
            return Ok(One::Known(object, entry));
        }
        let source = LayerObject {
            store: self.store.clone(),
            key: key_of(self.required.source_path(&object))?,
            size: found.size,
            version: found.version.filter(|_| self.method.needs_versions()),
        };
        let captured = self.method.capture(&source, self.writer).await;
        let content = match captured.context(|| format!("capturing {}", source.key))? {
            Captured::Gone => return Ok(One::Gone(object)),
            Captured::Stored(stored) => {
                let pieces = stored.pieces.len();
                // The bytes of a version do not change while they are read.
                if pieces > 1 && source.version.is_none() {
                    let now = self.now(&object).await?;
                    if now.is_none_or(|now| now.identity != found.identity) {
                        return Err(changed(&source.key));
                    }
                }
                content(stored)
            }
            Captured::Pinned { hash, size, pin } => Content::External { hash, size, pin },
        };
        let size = content.size();
        if let Some(expected) = object.expected_size.filter(|expected| *expected != size) {
            return Err(Side::Source.error(
                Cause::Refused,
                format!(
                    "{} has {size} bytes and etcd says {expected}: the file is not what Milvus wrote",
                    source.key
                ),
            ));
        }
        let entry = object_entry(&object, named, content)?;
        Ok(One::Read(object, entry))
    }

    /// Whether what a snapshot before this holds of an object need not be captured again.
    async fn is_kept(&self, content: &Content) -> Result<bool> {
        match (content, self.method.pins()) {
            (Content::Object { pieces, .. }, _) => self.writer.contains(pieces).await,
            (Content::External { pin, .. }, Some(pins)) => pins.verify(pin).await,
            (Content::External { .. }, None)
            | (Content::Volume { .. } | Content::Lost { .. } | Content::None, _) => Ok(false),
        }
    }

    /// What the listings say of an object; one that they do not show is asked for by itself before
    /// it counts as gone.
    async fn identify(&self, object: &ObjectRef) -> Result<Option<Found>> {
        if let Some(found) = self.listed.get(self.required.source_path(object)) {
            return Ok(Some(found));
        }
        self.now(object).await
    }

    async fn now(&self, object: &ObjectRef) -> Result<Option<Found>> {
        let key = key_of(self.required.source_path(object))?;
        match self.store.head(&key).await {
            Ok(meta) => Ok(Some(Found::of(meta))),
            Err(error) if error.cause() == Cause::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }
}

/// What was stored, as the content of a map's entry.
pub(super) fn content(stored: StoredObject) -> Content {
    Content::Object {
        hash: stored.hash,
        size: stored.size,
        pieces: stored.pieces,
    }
}

fn describes(entry: &Entry, identity: &str) -> bool {
    serde_json::from_slice::<ObjectEntry>(&entry.value)
        .is_ok_and(|described| described.identity == identity)
}

/// What either has; of what both have, what the first has. Both are in the order of their keys.
fn preferred(
    first: BoxStream<'static, Result<Entry>>,
    second: BoxStream<'static, Result<Entry>>,
) -> BoxStream<'static, Result<Entry>> {
    let both = (first.peekable(), second.peekable());
    let next = |(mut first, mut second): (Peekable<_>, Peekable<_>)| async move {
        let key =
            |next: Option<&Result<Entry>>| next.map(|n| n.as_ref().map(|e| e.key.clone()).ok());
        let a = key(Pin::new(&mut first).peek().await);
        let b = key(Pin::new(&mut second).peek().await);
        let order = match (a, b) {
            (None, None) => return Ok(None),
            (Some(Some(a)), Some(Some(b))) => a.cmp(&b),
            // An error comes first.
            (Some(None), _) | (Some(_), None) => Ordering::Less,
            (_, Some(_)) => Ordering::Greater,
        };
        if order == Ordering::Equal {
            second.try_next().await?;
        }
        let entry = match order {
            Ordering::Less | Ordering::Equal => first.try_next().await?,
            Ordering::Greater => second.try_next().await?,
        };
        Ok(entry.map(|entry| (entry, (first, second))))
    };
    stream::try_unfold(both, next).boxed()
}

/// Joins the required objects with what is known of them; both are in the order of their keys.
fn joined<'a>(
    objects: impl Iterator<Item = ObjectRef> + Send + 'a,
    known: BoxStream<'a, Result<Entry>>,
) -> impl futures::Stream<Item = Result<(ObjectRef, Option<Entry>)>> + Send + 'a {
    stream::try_unfold(
        (objects, known.peekable()),
        |(mut objects, mut known)| async move {
            let Some(object) = objects.next() else {
                return Ok(None);
            };
            let key = object.tree_key().into_bytes();
            let found = loop {
                let before =
                    |next: &Result<Entry>| next.as_ref().is_ok_and(|entry| entry.key < key);
                let mut pinned = std::pin::Pin::new(&mut known);
                if pinned.as_mut().next_if(before).await.is_some() {
                    continue;
                }
                let same =
                    |next: &Result<Entry>| next.as_ref().map_or(true, |entry| entry.key == key);
                break pinned.next_if(same).await.transpose()?;
            };
            Ok(Some(((object, found), (objects, known))))
        },
    )
}

/// What is listed: each live collection's folders, and the folders that are not by collection.
fn prefixes(required: &Required<'_>) -> BTreeSet<String> {
    let mut prefixes = BTreeSet::new();
    let mut last = String::new();
    for object in required.objects() {
        let depth = listing_depth(object.kind);
        let prefix: String = object.path.split_inclusive('/').take(depth).collect();
        if prefix != last {
            prefixes.insert(prefix.clone());
            last = prefix;
        }
    }
    prefixes
}

/// How many components of its path an object is listed by: the folder of its collection, or where
/// paths do not begin with one the folder of its kind.
const fn listing_depth(kind: ObjectKind) -> usize {
    match kind {
        ObjectKind::InsertLog
        | ObjectKind::DeltaLog
        | ObjectKind::StatsLog
        | ObjectKind::Bm25Stats
        | ObjectKind::PartStats => 2,
        ObjectKind::IndexFile
        | ObjectKind::TextLog
        | ObjectKind::JsonKeyIndexLog
        | ObjectKind::JsonStats => 1,
    }
}

/// The key of an object at a path of the instance's storage.
pub(super) fn key_of(path: &str) -> Result<Key> {
    Key::new(path).map_err(|error| {
        let message = format!("etcd names an object {path:?}");
        let refused = Side::Source.error(Cause::Refused, message);
        refused.with_source(error)
    })
}

fn changed(key: &Key) -> Error {
    let message = format!("{key} changed while it was read");
    Side::Source
        .error(Cause::Refused, message)
        .with_hint("Milvus writes an object once: does something else write into its storage?")
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use async_trait::async_trait;
    use bytes::Bytes;

    use super::*;
    use crate::base::env::lock;
    use crate::instance::methods::Method;
    use crate::milvus::simulated::keys::SimulatedKeys;
    use crate::repo::Compression;
    use crate::snapshot::fixture::repository;
    use crate::store::testing::memory::MemoryStore;
    use crate::store::{PutOptions, Store};

    /// A method that notes the version of what it is handed.
    #[derive(Debug)]
    struct Noting {
        needs: bool,
        handed: Mutex<Option<String>>,
    }

    #[async_trait]
    impl CaptureMethod for Noting {
        fn method(&self) -> Method {
            Method::Versions
        }

        fn needs_versions(&self) -> bool {
            self.needs
        }

        async fn capture(&self, object: &LayerObject, _: &Writer) -> Result<Captured> {
            lock(&self.handed).clone_from(&object.version);
            Ok(Captured::Gone)
        }
    }

    #[tokio::test]
    async fn an_object_that_no_listing_showed_has_its_version_for_a_method_that_needs_it_alone() {
        let (_, repository) = repository().await;
        let writer = repository.begin_writer("main", vec![], Compression::Auto);
        let writer = writer.await.unwrap();
        let set = SimulatedKeys::v2_3();
        let catalog = Catalog::decode(&SimulatedKeys::roots(), &set.keys, &set.version).unwrap();
        let object = ObjectRef {
            path: "insert_log/1/2/3/100/4".to_owned(),
            kind: ObjectKind::InsertLog,
            collection: 1,
            partition: 2,
            segment: 3,
            field: 100,
            id: 4,
            expected_size: None,
        };
        let store = MemoryStore::versioned();
        let (key, bytes) = (Key::new(&object.path).unwrap(), Bytes::from_static(b"x"));
        let put = store.put(&key, bytes, PutOptions::default()).await;
        let version = put.unwrap().version;
        assert!(version.is_some());
        let store: SharedStore = Arc::new(store);
        for (needs, expected) in [(false, None), (true, version)] {
            let method = Noting {
                needs,
                handed: Mutex::default(),
            };
            let capturer = Capturer {
                method: &method,
                writer: &writer,
                store: &store,
                listed: &Listed::default(),
                required: &Required {
                    catalog: &catalog,
                    scope: Scope::Live,
                    elsewhere: BTreeMap::new(),
                },
            };
            assert!(matches!(
                capturer.one(object.clone(), None).await.unwrap(),
                One::Gone(_)
            ));
            assert_eq!(*lock(&method.handed), expected, "needs versions: {needs}");
        }
        writer.abort().await.unwrap();
    }
}
