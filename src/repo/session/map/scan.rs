//! Reading maps: scanning ranges, looking up keys, walking envelopes.

use std::collections::HashSet;
use std::pin::Pin;

use bytes::Bytes;
use futures::future::BoxFuture;
use futures::stream::{self, BoxStream, FuturesUnordered, Peekable};
use futures::{FutureExt, StreamExt, TryStreamExt};

use crate::repo::format::amendment::amend;
use crate::repo::format::hash::PieceRef;
use crate::repo::format::ids::Cv;
use crate::repo::format::tree::node::{
    Body, Child, Content, Entries, Entry, Envelope, EnvelopeNode, Extent, Large, NODE_ENTRIES,
    NodeRef, Shape, pieces_fill,
};
use crate::repo::format::wire::damaged;
use crate::repo::session::view::{Look, View};
use crate::{Cause, Error, Result};

/// How many nodes are read ahead: they are small, and a store answers in tens of milliseconds.
const NODES_AT_ONCE: usize = 16;

/// One map of a snapshot.
#[derive(Debug, Clone)]
pub struct Map {
    pub(super) view: View,
    pub(super) root: Option<NodeRef>,
    /// Maps of some of its keys, which say what became of their entries.
    amended: Vec<NodeRef>,
}

/// Which keys to scan.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct KeyRange {
    /// The first key of interest.
    pub start: Bytes,
    /// The first key that is not of interest any more; none for all that follow.
    pub end: Option<Bytes>,
}

impl KeyRange {
    /// All keys.
    #[must_use]
    pub fn all() -> Self {
        Self::default()
    }

    /// All keys that begin with `prefix`.
    #[must_use]
    pub fn prefix(prefix: impl AsRef<[u8]>) -> Self {
        let prefix = prefix.as_ref();
        let end = prefix.iter().rposition(|byte| *byte < u8::MAX).map(|at| {
            let mut end = prefix[..=at].to_vec();
            end[at] += 1;
            end.into()
        });
        Self {
            start: Bytes::copy_from_slice(prefix),
            end,
        }
    }

    fn contains(&self, key: &[u8]) -> bool {
        self.start <= key && self.end.as_ref().is_none_or(|end| key < end)
    }

    /// The children that may hold keys of the range.
    fn children(&self, children: Vec<Child>) -> Vec<(EnvelopeNode, Bytes)> {
        let before_start = children.partition_point(|child| child.first <= self.start);
        let ended = |child: &Child| self.end.as_ref().is_some_and(|end| child.first >= *end);
        children
            .into_iter()
            .skip(before_start.saturating_sub(1))
            .take_while(|child| !ended(child))
            .map(|child| (envelope_node(child.node), child.first))
            .collect()
    }
}

/// A walk of the nodes of trees, in no particular order.
pub struct Walk<'a> {
    view: &'a View,
    look: Look,
    seen: &'a mut HashSet<Cv>,
    queue: Vec<EnvelopeNode>,
    reading: FuturesUnordered<BoxFuture<'a, (EnvelopeNode, Result<Envelope>)>>,
}

impl Walk<'_> {
    /// The next node; one that cannot be read comes with its error.
    ///
    /// # Errors
    ///
    /// What the store fails with other than [`Cause::Damage`].
    pub async fn next(&mut self) -> Result<Option<(EnvelopeNode, Result<Envelope>)>> {
        while self.reading.len() < NODES_AT_ONCE
            && let Some(next) = self.queue.pop()
        {
            if self.seen.insert(next.node.cv) {
                let (view, look) = (self.view, self.look);
                let read = async move { (next, view.envelope(&next, look).await) };
                self.reading.push(read.boxed());
            }
        }
        let Some((node, read)) = self.reading.next().await else {
            return Ok(None);
        };
        match read {
            Err(error) if error.cause() != Cause::Damage => Err(error),
            read => {
                let below = read.iter().flat_map(|envelope| &envelope.nodes);
                self.queue.extend(below.copied());
                Ok(Some((node, read)))
            }
        }
    }
}

/// What becomes of a scan at a node that is damaged.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Damaged {
    /// It fails.
    Fails,
    /// It goes on without what is below the node.
    PassedOver,
}

impl Damaged {
    /// What was read, unless it is damaged and passed over.
    fn passed<T>(self, read: Result<T>) -> Result<Option<T>> {
        match read {
            Err(error) if self == Self::PassedOver && error.cause() == Cause::Damage => {
                tracing::warn!("a part of a map is passed over: {}", error.chain());
                Ok(None)
            }
            read => read.map(Some),
        }
    }
}

/// A reference to a node of a map, as its parent's envelope has it.
pub(super) fn envelope_node(node: NodeRef) -> EnvelopeNode {
    EnvelopeNode {
        node,
        shape: Shape::at(node.level),
    }
}

impl View {
    /// The map with this root; an empty one without.
    #[must_use]
    pub fn map(&self, root: Option<NodeRef>) -> Map {
        Map {
            view: self.clone(),
            root,
            amended: vec![],
        }
    }

    /// Walks every node under `roots` whose chaining value is not in `seen` yet, and adds it there. Values that
    /// stand apart are not read, so no data key is needed.
    pub fn walk<'a>(
        &'a self,
        roots: impl IntoIterator<Item = NodeRef>,
        look: Look,
        seen: &'a mut HashSet<Cv>,
    ) -> Walk<'a> {
        Walk {
            view: self,
            look,
            seen,
            queue: roots.into_iter().map(envelope_node).collect(),
            reading: FuturesUnordered::new(),
        }
    }

    /// Reads a node of a map whose parent says that it begins with the key `first`.
    pub(super) async fn child(&self, node: &EnvelopeNode, first: Option<&Bytes>) -> Result<Body> {
        let body = self.node(node).await?.body;
        let begins = match &body {
            Body::Leaf(entries) => entries.first().map(|(entry, _)| &entry.key),
            Body::Inner(children) => children.first().map(|child| &child.first),
            Body::Keys(..) | Body::Pieces | Body::Extents(_) => return Err(wrong_shape()),
        };
        if first.is_none() || begins == first {
            return Ok(body);
        }
        Err(damaged(
            "a tree node begins with another key than its parent says",
        ))
    }

    fn leaves(
        self,
        node: EnvelopeNode,
        first: Option<Bytes>,
        range: KeyRange,
        damaged: Damaged,
    ) -> BoxStream<'static, Result<Entries>> {
        let expanded = async move {
            let body = self.child(&node, first.as_ref()).await;
            let Some(body) = damaged.passed(body)? else {
                return Ok(stream::empty().boxed());
            };
            let children = match body {
                Body::Leaf(entries) => {
                    return Ok(stream::once(std::future::ready(Ok(entries))).boxed());
                }
                Body::Inner(children) => range.children(children),
                Body::Keys(..) | Body::Pieces | Body::Extents(_) => return Err(wrong_shape()),
            };
            let children = stream::iter(children);
            Ok(if node.node.level == 1 {
                children
                    .map(move |(child, first)| {
                        let view = self.clone();
                        async move {
                            let read = view.child(&child, Some(&first)).await.and_then(leaf);
                            Ok(damaged.passed(read)?.unwrap_or_default())
                        }
                    })
                    .buffered(NODES_AT_ONCE)
                    .boxed()
            } else {
                children
                    .flat_map(move |(child, first)| {
                        self.clone()
                            .leaves(child, Some(first), range.clone(), damaged)
                    })
                    .boxed()
            })
        };
        stream::once(expanded).try_flatten().boxed()
    }

    /// The pieces of a volume of `size` bytes in pieces of `piece` bytes, whose nodes these are, in
    /// ascending order of their numbers; those between them are zeros. The stream ends after an error.
    pub fn extents(
        &self,
        size: u64,
        piece: u32,
        nodes: Vec<NodeRef>,
    ) -> BoxStream<'static, Result<Extent>> {
        let (view, piece) = (self.clone(), u64::from(piece));
        let mut least = 0;
        stream::iter(nodes)
            .map(move |node| {
                let (view, shape) = (view.clone(), Shape::Extents);
                async move { view.node(&EnvelopeNode { node, shape }).await }
            })
            .buffered(NODES_AT_ONCE)
            .and_then(|node| {
                std::future::ready(match node.body {
                    Body::Extents(extents) => Ok(stream::iter(extents).map(Ok)),
                    _ => Err(wrong_shape()),
                })
            })
            .try_flatten()
            .and_then(move |extent| {
                let start = extent.number.checked_mul(piece);
                let room = start.and_then(|start| size.checked_sub(start)).unwrap_or(0);
                let fits = u64::from(extent.piece.length) == room.min(piece);
                let above = extent.number >= least;
                least = extent.number.saturating_add(1);
                let fault = || damaged("a piece of a volume has another place or length");
                std::future::ready((fits && above).then_some(extent).ok_or_else(fault))
            })
            .boxed()
    }

    /// Reads the pieces of a large object, where the entry has one.
    pub(super) async fn resolve(&self, entry: (Entry, Option<Large>)) -> Result<Entry> {
        let (mut entry, large) = entry;
        let (Some(large), Content::Object { size, pieces, .. }) = (large, &mut entry.content)
        else {
            return Ok(entry);
        };
        for node in large.nodes {
            // All but the last are full, so that the same object has the same nodes.
            let full = (pieces.len() as u64).is_multiple_of(NODE_ENTRIES);
            let node = EnvelopeNode {
                node,
                shape: Shape::Pieces,
            };
            let next = self.node(&node).await?.envelope.blobs;
            let end = |piece: &PieceRef| piece.offset.saturating_add(u64::from(piece.length));
            let follows = next.first().map(|p| p.offset) == Some(pieces.last().map_or(0, end));
            if !full || !follows || next.len() as u64 > NODE_ENTRIES {
                return Err(damaged(
                    "the nodes of a large object are not full or do not follow each other",
                ));
            }
            pieces.extend(next);
        }
        if pieces.len() as u64 > NODE_ENTRIES && pieces_fill(pieces, *size) {
            return Ok(entry);
        }
        let key = String::from_utf8_lossy(&entry.key);
        Err(damaged(format!("the pieces of {key} do not fill it")))
    }
}

impl Map {
    /// The root.
    #[must_use]
    pub fn root(&self) -> Option<NodeRef> {
        self.root
    }

    /// The same map with its entries as these maps amend them.
    #[must_use]
    pub fn amended(mut self, by: impl IntoIterator<Item = NodeRef>) -> Self {
        self.amended.extend(by);
        self
    }

    pub(super) fn is_amended(&self) -> bool {
        !self.amended.is_empty()
    }

    /// The entries in `range`, in ascending order. The stream ends after an error; an amendment that is
    /// damaged or does not fit its entry is one.
    pub fn scan(&self, range: KeyRange) -> BoxStream<'static, Result<Entry>> {
        let Some(root) = self.root else {
            return stream::empty().boxed();
        };
        let fails = Damaged::Fails;
        let scans = self.amended.iter();
        let scans: Vec<_> = scans
            .map(|by| self.scan_of(*by, range.clone(), fails))
            .collect();
        let entries = self.scan_of(root, range, fails);
        if scans.is_empty() {
            return entries;
        }
        amended(entries, scans)
    }

    /// The entries that can be read, without amendments, in ascending order: what is damaged is passed over.
    pub fn scan_readable(&self, range: KeyRange) -> BoxStream<'static, Result<Entry>> {
        match self.root {
            Some(root) => self.scan_of(root, range, Damaged::PassedOver),
            None => stream::empty().boxed(),
        }
    }

    fn scan_of(
        &self,
        root: NodeRef,
        range: KeyRange,
        at_damage: Damaged,
    ) -> BoxStream<'static, Result<Entry>> {
        let resolver = self.view.clone();
        let mut last: Option<Bytes> = None;
        self.view
            .clone()
            .leaves(envelope_node(root), None, range.clone(), at_damage)
            .map_ok(move |entries| {
                let range = range.clone();
                stream::iter(entries)
                    .filter(move |(entry, _)| std::future::ready(range.contains(&entry.key)))
                    .map(Ok)
            })
            .try_flatten()
            .and_then(move |entry| {
                let view = resolver.clone();
                async move { at_damage.passed(view.resolve(entry).await) }
            })
            .try_filter_map(|entry| std::future::ready(Ok(entry)))
            .and_then(move |entry| {
                let above = last.as_ref().is_none_or(|last| *last < entry.key);
                last = Some(entry.key.clone());
                let fault = || damaged("the keys of a map are out of order");
                std::future::ready(above.then_some(entry).ok_or_else(fault))
            })
            .boxed()
    }

    /// The entry under `key`.
    pub async fn get(&self, key: &[u8]) -> Result<Option<Entry>> {
        let Some(root) = self.root else {
            return Ok(None);
        };
        let Some(entry) = self.get_of(root, key).await? else {
            return Ok(None);
        };
        let mut said = Vec::new();
        for by in &self.amended {
            said.extend(self.get_of(*by, key).await?);
        }
        all_said(entry, said).map(Some)
    }

    async fn get_of(&self, root: NodeRef, key: &[u8]) -> Result<Option<Entry>> {
        let (mut next, mut first) = (envelope_node(root), None);
        loop {
            match self.view.child(&next, first.as_ref()).await? {
                Body::Inner(children) => {
                    let at = children.partition_point(|child| child.first <= key);
                    let Some(child) = at.checked_sub(1).and_then(|at| children.get(at)) else {
                        return Ok(None);
                    };
                    next = envelope_node(child.node);
                    first = Some(child.first.clone());
                }
                Body::Leaf(mut entries) => {
                    let found = entries.binary_search_by(|(entry, _)| entry.key[..].cmp(key));
                    return match found {
                        Ok(at) => self.view.resolve(entries.swap_remove(at)).await.map(Some),
                        Err(_) => Ok(None),
                    };
                }
                Body::Keys(..) | Body::Pieces | Body::Extents(_) => return Err(wrong_shape()),
            }
        }
    }
}

type Scan = BoxStream<'static, Result<Entry>>;
type Ahead = Pin<Box<Peekable<Scan>>>;

/// `entries` as those of `by` with the same keys amend them; all ascend.
fn amended(entries: Scan, by: Vec<Scan>) -> Scan {
    let by: Vec<Ahead> = by.into_iter().map(|by| Box::pin(by.peekable())).collect();
    let next = |(mut entries, mut by): (Scan, Vec<Ahead>)| async move {
        let Some(entry) = entries.try_next().await? else {
            return Ok(None);
        };
        let mut said = Vec::new();
        for by in &mut by {
            let at = |next: &Result<Entry>| next.as_ref().map_or(true, |n| n.key <= entry.key);
            while let Some(next) = by.as_mut().next_if(at).await.transpose()? {
                // An amendment of a key that the map does not have says nothing.
                if next.key == entry.key {
                    said.push(next);
                }
            }
        }
        Ok(Some((all_said(entry, said)?, (entries, by))))
    };
    stream::try_unfold((entries, by), next).boxed()
}

/// An entry after all that was said of it: first what was paid, then what was lost, whenever each was
/// said.
fn all_said(entry: Entry, said: Vec<Entry>) -> Result<Entry> {
    let (lost, paid): (Vec<_>, Vec<_>) = said.into_iter().partition(|e| e.content == Content::None);
    paid.iter().chain(&lost).try_fold(entry, amend)
}

fn leaf(body: Body) -> Result<Entries> {
    match body {
        Body::Leaf(entries) => Ok(entries),
        Body::Keys(..) | Body::Inner(_) | Body::Pieces | Body::Extents(_) => Err(wrong_shape()),
    }
}

fn wrong_shape() -> Error {
    damaged("a tree node is of another shape than its parent says")
}
