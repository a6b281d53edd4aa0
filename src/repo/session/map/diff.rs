//! What differs between two maps, without reading what they share.

use bytes::Bytes;
use futures::stream::{self, BoxStream, Peekable};
use futures::{Stream, StreamExt, TryStreamExt};

use crate::Result;
use crate::repo::format::tree::node::{Body, Entry, Large, NodeRef};
use crate::repo::session::map::scan::envelope_node;
use crate::repo::session::map::{KeyRange, Map};
use crate::repo::session::view::View;

/// One difference between two maps.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change {
    /// Only in the second.
    Added(Entry),
    /// Only in the first.
    Removed(Entry),
    /// In both, with another value or content.
    Changed {
        /// As in the first.
        from: Entry,
        /// As in the second.
        to: Entry,
    },
}

/// What comes next on one side, the next one last.
type Side = Vec<Item>;

#[derive(Debug, Clone, PartialEq, Eq)]
enum Item {
    Node(NodeRef, Bytes),
    Entry(Box<(Entry, Option<Large>)>),
}

impl Item {
    fn key(&self) -> &Bytes {
        match self {
            Self::Node(_, first) => first,
            Self::Entry(entry) => &entry.0.key,
        }
    }
}

/// What to do next.
enum Step {
    Skip,
    ExpandLeft,
    ExpandRight,
    ExpandBoth,
    Emit(Option<Item>, Option<Item>),
    End,
}

impl Map {
    /// The differences from this map to `other`, in ascending order of their keys. Subtrees that
    /// both share are not read, unless one of them is amended. The stream ends after an error.
    pub fn diff(&self, other: &Self) -> BoxStream<'static, Result<Change>> {
        if self.is_amended() || other.is_amended() {
            let all = KeyRange::all;
            return joined(self.scan(all()).peekable(), other.scan(all()).peekable()).boxed();
        }
        let begin = |map: &Self| -> Side {
            map.root
                .map(|root| Item::Node(root, Bytes::new()))
                .into_iter()
                .collect()
        };
        let state = (
            self.view.clone(),
            other.view.clone(),
            begin(self),
            begin(other),
        );
        stream::try_unfold(
            state,
            |(left_view, right_view, mut left, mut right)| async move {
                loop {
                    match step(&mut left, &mut right) {
                        Step::Skip => {}
                        Step::ExpandLeft => expand(&left_view, &mut left).await?,
                        Step::ExpandRight => expand(&right_view, &mut right).await?,
                        Step::ExpandBoth => {
                            expand(&left_view, &mut left).await?;
                            expand(&right_view, &mut right).await?;
                        }
                        Step::Emit(from, to) => {
                            let from = entry(&left_view, from).await?;
                            let to = entry(&right_view, to).await?;
                            let change = match (from, to) {
                                (Some(from), Some(to)) => Some(Change::Changed { from, to }),
                                (Some(from), None) => Some(Change::Removed(from)),
                                (None, Some(to)) => Some(Change::Added(to)),
                                (None, None) => None,
                            };
                            return Ok(Some((change, (left_view, right_view, left, right))));
                        }
                        Step::End => return Ok(None),
                    }
                }
            },
        )
        .try_filter_map(|change| std::future::ready(Ok(change)))
        .boxed()
    }
}

/// The differences of two scans.
fn joined(
    left: Peekable<BoxStream<'static, Result<Entry>>>,
    right: Peekable<BoxStream<'static, Result<Entry>>>,
) -> impl Stream<Item = Result<Change>> + Send {
    let state = (Box::pin(left), Box::pin(right));
    stream::try_unfold(state, |(mut left, mut right)| async move {
        loop {
            let key = |next: Option<&Result<Entry>>| match next {
                Some(Ok(entry)) => Some(entry.key.clone()),
                Some(Err(_)) | None => None,
            };
            let (a, b) = (
                key(left.as_mut().peek().await),
                key(right.as_mut().peek().await),
            );
            let takes_left = a.is_some() && b.as_ref().is_none_or(|b| a.as_ref() <= Some(b));
            let takes_right = b.is_some() && a.as_ref().is_none_or(|a| b.as_ref() <= Some(a));
            // What is no entry is the end, or an error.
            let from = if takes_left || a.is_none() {
                left.try_next().await?
            } else {
                None
            };
            let to = if takes_right || b.is_none() {
                right.try_next().await?
            } else {
                None
            };
            let change = match (from, to) {
                (None, None) => return Ok(None),
                (Some(from), Some(to)) if from == to => continue,
                (Some(from), Some(to)) => Change::Changed { from, to },
                (Some(from), None) => Change::Removed(from),
                (None, Some(to)) => Change::Added(to),
            };
            return Ok(Some((change, (left, right))));
        }
    })
}

/// Decides on what comes next on both sides, and takes it where it is not to be expanded.
///
/// What has the smaller key goes first. A node's key is that of its first entry, except a root's,
/// which is below all: it is expanded before anything is emitted.
fn step(left: &mut Side, right: &mut Side) -> Step {
    use std::cmp::Ordering::{Equal, Greater, Less};
    let order = match (left.last(), right.last()) {
        (None, None) => return Step::End,
        (Some(_), None) => Less,
        (None, Some(_)) => Greater,
        (Some(Item::Node(a, _)), Some(Item::Node(b, _))) if a == b => {
            left.pop();
            right.pop();
            return Step::Skip;
        }
        (Some(a), Some(b)) => a.key().cmp(b.key()),
    };
    match (left.last(), right.last(), order) {
        (Some(Item::Node(a, _)), Some(Item::Node(b, _)), Equal) => match a.level.cmp(&b.level) {
            Less => Step::ExpandRight,
            Equal => Step::ExpandBoth,
            Greater => Step::ExpandLeft,
        },
        (Some(Item::Node(..)), _, Less | Equal) => Step::ExpandLeft,
        (_, Some(Item::Node(..)), Greater | Equal) => Step::ExpandRight,
        (Some(a), Some(b), Equal) if a == b => {
            left.pop();
            right.pop();
            Step::Skip
        }
        (_, _, Equal) => Step::Emit(left.pop(), right.pop()),
        (_, _, Less) => Step::Emit(left.pop(), None),
        (_, _, Greater) => Step::Emit(None, right.pop()),
    }
}

async fn expand(view: &View, side: &mut Side) -> Result<()> {
    let Some(Item::Node(node, first)) = side.pop() else {
        return Ok(());
    };
    // The key of a root is not known; it is below all.
    let first = Some(&first).filter(|first| !first.is_empty());
    match view.child(&envelope_node(node), first).await? {
        Body::Leaf(entries) => {
            side.extend(
                entries
                    .into_iter()
                    .rev()
                    .map(|entry| Item::Entry(Box::new(entry))),
            );
        }
        Body::Inner(children) => {
            side.extend(
                children
                    .into_iter()
                    .rev()
                    .map(|child| Item::Node(child.node, child.first)),
            );
        }
        Body::Keys(..) | Body::Pieces | Body::Extents(_) => {}
    }
    Ok(())
}

async fn entry(view: &View, item: Option<Item>) -> Result<Option<Entry>> {
    match item {
        Some(Item::Entry(entry)) => view.resolve(*entry).await.map(Some),
        Some(Item::Node(..)) | None => Ok(None),
    }
}
