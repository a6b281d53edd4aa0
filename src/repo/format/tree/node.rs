//! Tree nodes as bytes (section 9).

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::Result;
use crate::repo::format::hash::{PieceRef, piece_possible};
use crate::repo::format::ids::{Cv, ObjectHash};
use crate::repo::format::wire::Reader;

pub(super) const MAGIC: &[u8; 4] = b"EYT1";
const NODE_ENTRY: usize = 38;
const BLOB_ENTRY: usize = 44;

/// A node holds at most this many entries, children or pieces.
pub(crate) const NODE_ENTRIES: u64 = 1_024;

/// What a node's body is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Shape {
    Leaf = 1,
    Inner = 2,
    Pieces = 3,
}

impl Shape {
    /// The shape of a map's node at `level`.
    pub(crate) fn at(level: u8) -> Self {
        if level == 0 { Self::Leaf } else { Self::Inner }
    }

    fn read(reader: &mut Reader<'_>) -> Result<Self> {
        match reader.u8()? {
            1 => Ok(Self::Leaf),
            2 => Ok(Self::Inner),
            3 => Ok(Self::Pieces),
            _ => Err(reader.damaged("a shape is unknown")),
        }
    }
}

/// A reference to a tree node: what a manifest says of a map's root.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct NodeRef {
    /// The node's chaining value.
    pub cv: Cv,
    /// Its length, in bytes.
    pub length: u32,
    /// Its height over the leaves.
    pub level: u8,
}

/// A node that another one refers to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct EnvelopeNode {
    /// The node.
    pub node: NodeRef,
    pub(crate) shape: Shape,
}

/// Everything that a node refers to, in the order of its body.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Envelope {
    /// Other nodes.
    pub nodes: Vec<EnvelopeNode>,
    /// Pieces of objects.
    pub blobs: Vec<PieceRef>,
    /// References to something outside the repository.
    pub pins: Vec<Bytes>,
}

/// What an entry of a map has besides its value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Content {
    /// Nothing.
    None,
    /// An object in the repository.
    Object {
        /// The plain BLAKE3 hash of its bytes.
        hash: ObjectHash,
        /// Its size, in bytes.
        size: u64,
        /// Its pieces, in order.
        pieces: Vec<PieceRef>,
    },
    /// An object outside the repository.
    External {
        /// The plain BLAKE3 hash of its bytes; `None` while it is owed.
        hash: Option<ObjectHash>,
        /// Its size, in bytes.
        size: u64,
        /// Where it is; the capture method knows what this means.
        pin: Bytes,
    },
}

impl Content {
    /// The size of the object, in bytes; 0 without one.
    #[must_use]
    pub fn size(&self) -> u64 {
        match self {
            Self::None => 0,
            Self::Object { size, .. } | Self::External { size, .. } => *size,
        }
    }
}

/// One entry of a map.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// The key.
    pub key: Bytes,
    /// The value.
    pub value: Bytes,
    /// The object, where there is one.
    pub content: Content,
}

/// A child of an inner node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Child {
    pub(crate) node: NodeRef,
    pub(crate) first: Bytes,
    pub(crate) entries: u64,
    pub(crate) bytes: u64,
}

/// A large object whose pieces are in nodes of their own.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Large {
    pub(crate) nodes: Vec<NodeRef>,
}

/// What a node holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Body {
    /// Entries; the pieces of those with a [`Large`] are still to be read.
    Leaf(Vec<(Entry, Option<Large>)>),
    Inner(Vec<Child>),
    Pieces,
}

/// A decoded node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Node {
    pub(crate) envelope: Envelope,
    pub(crate) body: Body,
}

impl Envelope {
    fn read(bytes: &Bytes, reader: &mut Reader<'_>) -> Result<Self> {
        let (nodes, blobs, pins) = (
            reader.count(NODE_ENTRY)?,
            reader.count(BLOB_ENTRY)?,
            reader.count(1)?,
        );
        if nodes * NODE_ENTRY + blobs * BLOB_ENTRY > reader.remaining() {
            return Err(reader.damaged("a count does not fit"));
        }
        let mut envelope = Self::default();
        envelope.nodes.reserve_exact(nodes);
        envelope.blobs.reserve_exact(blobs);
        for _ in 0..nodes {
            let (cv, length, level) = (Cv(reader.array()?), reader.u32()?, reader.u8()?);
            let shape = Shape::read(reader)?;
            envelope.nodes.push(EnvelopeNode {
                node: NodeRef { cv, length, level },
                shape,
            });
        }
        for _ in 0..blobs {
            let piece = PieceRef {
                cv: Cv(reader.array()?),
                offset: reader.u64()?,
                length: reader.u32()?,
            };
            if !piece_possible(piece.offset, u64::from(piece.length)) {
                return Err(reader.damaged("a piece is not possible"));
            }
            envelope.blobs.push(piece);
        }
        for _ in 0..pins {
            envelope.pins.push(bytes.slice_ref(reader.bytes()?));
        }
        Ok(envelope)
    }
}

impl Node {
    /// Reads a node that was referred to as `expected`.
    pub(crate) fn read(bytes: &Bytes, expected: &EnvelopeNode) -> Result<Self> {
        let what = format!("tree node {}", expected.node.cv);
        let mut reader = Reader::new(bytes, &what);
        reader.expect(MAGIC, "mark")?;
        reader.expect(
            &[expected.node.level, expected.shape as u8, 0, 0],
            "level or shape",
        )?;
        let envelope = Envelope::read(bytes, &mut reader)?;
        let mut used = Used {
            nodes: envelope.nodes.iter(),
            blobs: envelope.blobs.iter(),
            pins: envelope.pins.iter(),
        };
        let body = match expected.shape {
            Shape::Leaf => Body::Leaf(used.leaf(bytes, &mut reader)?),
            Shape::Inner => Body::Inner(used.inner(bytes, &mut reader, expected.node.level)?),
            Shape::Pieces => {
                used.blobs = [].iter();
                Body::Pieces
            }
        };
        reader.end()?;
        if used.nodes.len() + used.blobs.len() + used.pins.len() > 0 {
            return Err(reader.damaged("its envelope names more than its body"));
        }
        Ok(Self { envelope, body })
    }
}

/// What of an envelope the body has not used yet.
struct Used<'a> {
    nodes: std::slice::Iter<'a, EnvelopeNode>,
    blobs: std::slice::Iter<'a, PieceRef>,
    pins: std::slice::Iter<'a, Bytes>,
}

impl Used<'_> {
    fn leaf(
        &mut self,
        bytes: &Bytes,
        reader: &mut Reader<'_>,
    ) -> Result<Vec<(Entry, Option<Large>)>> {
        let mut entries: Vec<(Entry, Option<Large>)> = Vec::new();
        for _ in 0..reader.varint()? {
            let last = entries.last().map(|(entry, _)| &entry.key[..]);
            let key = read_key(reader, last)?;
            let value = bytes.slice_ref(reader.bytes()?);
            let (content, large) = self.content(reader)?;
            entries.push((
                Entry {
                    key,
                    value,
                    content,
                },
                large,
            ));
        }
        Ok(entries)
    }

    fn content(&mut self, reader: &mut Reader<'_>) -> Result<(Content, Option<Large>)> {
        let kind = reader.u8()?;
        if kind == 0 {
            return Ok((Content::None, None));
        }
        let (hash, size) = (ObjectHash(reader.array()?), reader.varint()?);
        match kind {
            1 => {
                let count = reader.varint_usize()?;
                let pieces: Vec<PieceRef> = self.blobs.by_ref().take(count).copied().collect();
                if pieces.len() != count || !pieces_fill(&pieces, size) {
                    return Err(reader.damaged("the pieces of an object do not fill it"));
                }
                Ok((Content::Object { hash, size, pieces }, None))
            }
            2 => {
                let count = reader.varint_usize()?;
                let nodes: Vec<NodeRef> = self
                    .nodes
                    .by_ref()
                    .take(count)
                    .filter(|child| child.shape == Shape::Pieces && child.node.level == 0)
                    .map(|child| child.node)
                    .collect();
                if nodes.len() != count {
                    return Err(reader.damaged("an object's nodes are missing"));
                }
                Ok((
                    Content::Object {
                        hash,
                        size,
                        pieces: vec![],
                    },
                    Some(Large { nodes }),
                ))
            }
            3 => {
                let owed = match reader.u8()? {
                    0 => false,
                    1 if hash == ObjectHash::default() => true,
                    _ => return Err(reader.damaged("an owed hash is not one")),
                };
                let pin = self
                    .pins
                    .next()
                    .ok_or_else(|| reader.damaged("a pin is missing"))?
                    .clone();
                Ok((
                    Content::External {
                        hash: (!owed).then_some(hash),
                        size,
                        pin,
                    },
                    None,
                ))
            }
            _ => Err(reader.damaged("the kind of a content is unknown")),
        }
    }

    fn inner(&mut self, bytes: &Bytes, reader: &mut Reader<'_>, level: u8) -> Result<Vec<Child>> {
        let mut children: Vec<Child> = Vec::new();
        for _ in 0..reader.varint()? {
            let first = bytes.slice_ref(reader.bytes()?);
            if children.last().is_some_and(|last| last.first >= first) {
                return Err(reader.damaged("its keys are out of order"));
            }
            let (entries, bytes) = (reader.varint()?, reader.varint()?);
            let below = level
                .checked_sub(1)
                .ok_or_else(|| reader.damaged("its level is wrong"))?;
            let child = self
                .nodes
                .next()
                .filter(|child| child.node.level == below && child.shape == Shape::at(below));
            let node = child
                .ok_or_else(|| reader.damaged("a child is missing"))?
                .node;
            children.push(Child {
                node,
                first,
                entries,
                bytes,
            });
        }
        Ok(children)
    }
}

fn read_key(reader: &mut Reader<'_>, last: Option<&[u8]>) -> Result<Bytes> {
    let shared = reader.varint_usize()?;
    let rest = reader.bytes()?;
    let Some(prefix) = last.unwrap_or_default().get(..shared) else {
        return Err(reader.damaged("a key shares more than the one before has"));
    };
    let key = [prefix, rest].concat();
    if last.is_some_and(|last| last >= &key[..]) {
        return Err(reader.damaged("its keys are out of order"));
    }
    Ok(key.into())
}

/// Whether `pieces` follow each other from 0 to `size`.
pub(crate) fn pieces_fill(pieces: &[PieceRef], size: u64) -> bool {
    let mut next = 0_u64;
    for piece in pieces {
        if piece.offset != next {
            return false;
        }
        next = next.saturating_add(u64::from(piece.length));
    }
    next == size
}
