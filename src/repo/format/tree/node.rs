//! Tree nodes as bytes (section 9).

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::Result;
use crate::repo::format::hash::{PIECE_MAX, PieceRef, piece_possible};
use crate::repo::format::ids::{Cv, ObjectHash};
use crate::repo::format::wire::{Reader, damaged};

pub(super) const MAGIC: &[u8; 4] = b"EYT1";
const NODE_ENTRY: usize = 38;
const BLOB_ENTRY: usize = 44;
const VALUES_ENTRY: usize = 36;

/// A node holds at most this many entries, children or pieces.
pub(crate) const NODE_ENTRIES: u64 = 1_024;

/// A key has at most this many bytes, so that an inner node holds many children.
pub(super) const KEY_MAX: usize = 65_535;

/// What a node's body is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Shape {
    Leaf,
    Inner,
    Pieces,
    Extents,
    /// Of a later eyrie: what it refers to is in the envelope.
    Other(u8),
}

impl Shape {
    /// The shape of a map's node at `level`.
    pub(crate) fn at(level: u8) -> Self {
        if level == 0 { Self::Leaf } else { Self::Inner }
    }

    pub(super) fn number(self) -> u8 {
        match self {
            Self::Leaf => 1,
            Self::Inner => 2,
            Self::Pieces => 3,
            Self::Extents => 4,
            Self::Other(number) => number,
        }
    }

    fn of(number: u8) -> Self {
        match number {
            1 => Self::Leaf,
            2 => Self::Inner,
            3 => Self::Pieces,
            4 => Self::Extents,
            other => Self::Other(other),
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
    /// Values that stand apart; their offset is 0.
    pub values: Vec<PieceRef>,
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
    /// The image of a volume, in pieces that are hashed as objects of their own so that equal ones
    /// are stored once. Read with [`View::extents`](crate::repo::View::extents).
    Volume {
        /// The plain BLAKE3 hash of all its bytes; `None` while it is owed.
        hash: Option<ObjectHash>,
        /// Its size, in bytes.
        size: u64,
        /// The size of its pieces, in bytes; the last one may be shorter.
        piece: u32,
        /// The nodes that name the pieces; those that they leave out are zeros.
        extents: Vec<NodeRef>,
    },
    /// An object that was outside the repository and is lost, as an amendment says. It is read so and
    /// never stored.
    Lost {
        /// The plain BLAKE3 hash of its bytes, where it is known.
        hash: Option<ObjectHash>,
        /// Its size, in bytes.
        size: u64,
        /// What became of it.
        why: String,
    },
}

impl Content {
    /// The plain BLAKE3 hash of the object; none without an object, or while it is owed.
    #[must_use]
    pub fn hash(&self) -> Option<&ObjectHash> {
        match self {
            Self::None => None,
            Self::Object { hash, .. } => Some(hash),
            Self::External { hash, .. } | Self::Volume { hash, .. } | Self::Lost { hash, .. } => {
                hash.as_ref()
            }
        }
    }

    /// The same with this hash; `None` where no hash can be owed.
    pub(crate) fn with_hash(&self, hash: ObjectHash) -> Option<Self> {
        let mut paid = self.clone();
        match &mut paid {
            Self::External { hash: owed, .. } | Self::Volume { hash: owed, .. } => {
                *owed = Some(hash);
                Some(paid)
            }
            Self::None | Self::Object { .. } | Self::Lost { .. } => None,
        }
    }

    /// The size of the object, in bytes; 0 without one.
    #[must_use]
    pub fn size(&self) -> u64 {
        match self {
            Self::None => 0,
            Self::Object { size, .. }
            | Self::External { size, .. }
            | Self::Volume { size, .. }
            | Self::Lost { size, .. } => *size,
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

/// The entries of a leaf; the pieces of those with a [`Large`] are still to be read.
pub(crate) type Entries = Vec<(Entry, Option<Large>)>;

/// A piece of a volume, and which one it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Extent {
    /// Its number in the volume, from 0.
    pub number: u64,
    /// The piece; its offset is 0, as it is an object of its own.
    pub piece: PieceRef,
}

/// What a node holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Body {
    Leaf(Entries),
    /// Entries without their values, whose lengths these are: the values stand apart.
    Keys(Entries, Vec<usize>),
    Inner(Vec<Child>),
    Pieces,
    Extents(Vec<Extent>),
}

/// A decoded node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Node {
    pub(crate) envelope: Envelope,
    pub(crate) body: Body,
}

impl Envelope {
    fn read(bytes: &Bytes, reader: &mut Reader<'_>) -> Result<Self> {
        let (nodes, blobs, values, pins) = (
            reader.count(NODE_ENTRY)?,
            reader.count(BLOB_ENTRY)?,
            reader.count(VALUES_ENTRY)?,
            reader.count(1)?,
        );
        let fixed = nodes * NODE_ENTRY + blobs * BLOB_ENTRY + values * VALUES_ENTRY;
        if fixed > reader.remaining() {
            return Err(reader.damaged("a count does not fit"));
        }
        let mut envelope = Self::default();
        envelope.nodes.reserve_exact(nodes);
        envelope.blobs.reserve_exact(blobs);
        for _ in 0..nodes {
            let (cv, length, level) = (Cv(reader.array()?), reader.u32()?, reader.u8()?);
            let shape = Shape::of(reader.u8()?);
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
        for _ in 0..values {
            let piece = PieceRef {
                cv: Cv(reader.array()?),
                offset: 0,
                length: reader.u32()?,
            };
            envelope.values.push(piece);
        }
        for _ in 0..pins {
            envelope.pins.push(bytes.slice_ref(reader.bytes()?));
        }
        Ok(envelope)
    }
}

impl Node {
    /// Reads what the node that was referred to as `expected` refers to, of whatever shape it is.
    pub(crate) fn envelope(bytes: &Bytes, expected: &EnvelopeNode) -> Result<Envelope> {
        let what = format!("tree node {}", expected.node.cv);
        Self::begin(bytes, expected, &mut Reader::new(bytes, &what))
    }

    fn begin(bytes: &Bytes, expected: &EnvelopeNode, reader: &mut Reader<'_>) -> Result<Envelope> {
        reader.expect(MAGIC, "mark")?;
        reader.expect(
            &[expected.node.level, expected.shape.number(), 0, 0],
            "level or shape",
        )?;
        Envelope::read(bytes, reader)
    }

    /// Reads a node that was referred to as `expected`.
    pub(crate) fn read(bytes: &Bytes, expected: &EnvelopeNode) -> Result<Self> {
        let what = format!("tree node {}", expected.node.cv);
        let mut reader = Reader::new(bytes, &what);
        let envelope = Self::begin(bytes, expected, &mut reader)?;
        let mut used = Used {
            nodes: envelope.nodes.iter(),
            blobs: envelope.blobs.iter(),
            pins: envelope.pins.iter(),
        };
        let apart = match &envelope.values[..] {
            _ if !matches!(expected.shape, Shape::Leaf) => None,
            [] => None,
            [values] => Some(values.length),
            _ => return Err(reader.damaged("a leaf has its values twice")),
        };
        let body = match expected.shape {
            Shape::Leaf => match apart {
                None => Body::Leaf(used.leaf(bytes, &mut reader)?),
                Some(length) => {
                    let (entries, lengths) = used.keys(&mut reader)?;
                    let all = lengths
                        .iter()
                        .try_fold(0_usize, |all, next| all.checked_add(*next));
                    if all != usize::try_from(length).ok() {
                        return Err(reader.damaged("its values have another length"));
                    }
                    Body::Keys(entries, lengths)
                }
            },
            Shape::Inner => Body::Inner(used.inner(bytes, &mut reader, expected.node.level)?),
            Shape::Pieces => {
                used.blobs = [].iter();
                Body::Pieces
            }
            Shape::Extents => Body::Extents(used.extents(&mut reader)?),
            Shape::Other(_) => return Err(reader.damaged("its shape is unknown")),
        };
        reader.end()?;
        let values = if apart.is_some() {
            0
        } else {
            envelope.values.len()
        };
        if used.nodes.len() + used.blobs.len() + used.pins.len() + values > 0 {
            return Err(reader.damaged("its envelope names more than its body"));
        }
        Ok(Self { envelope, body })
    }

    /// Puts in the values that stand apart.
    pub(crate) fn with_values(self, values: &Bytes) -> Result<Self> {
        let Body::Keys(mut entries, lengths) = self.body else {
            return Err(damaged("a tree node has no values that stand apart"));
        };
        let mut at = 0;
        for ((entry, _), length) in entries.iter_mut().zip(lengths) {
            let end = at + length;
            if end > values.len() {
                return Err(damaged("the values of a tree node end early"));
            }
            entry.value = values.slice(at..end);
            at = end;
        }
        let (envelope, body) = (self.envelope, Body::Leaf(entries));
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
    fn leaf(&mut self, bytes: &Bytes, reader: &mut Reader<'_>) -> Result<Entries> {
        let mut entries = Entries::new();
        for _ in 0..count(reader)? {
            let value = |reader: &mut Reader<'_>| Ok(bytes.slice_ref(reader.bytes()?));
            self.entry(&mut entries, reader, value)?;
        }
        Ok(entries)
    }

    fn keys(&mut self, reader: &mut Reader<'_>) -> Result<(Entries, Vec<usize>)> {
        let (mut entries, mut lengths) = (Entries::new(), Vec::new());
        for _ in 0..count(reader)? {
            self.entry(&mut entries, reader, |reader| {
                lengths.push(reader.varint_usize()?);
                Ok(Bytes::new())
            })?;
        }
        Ok((entries, lengths))
    }

    fn entry(
        &mut self,
        entries: &mut Entries,
        reader: &mut Reader<'_>,
        value: impl FnOnce(&mut Reader<'_>) -> Result<Bytes>,
    ) -> Result<()> {
        let last = entries.last().map(|(entry, _)| &entry.key[..]);
        let key = read_key(reader, last)?;
        let value = value(reader)?;
        let (content, large) = self.content(reader)?;
        let entry = Entry {
            key,
            value,
            content,
        };
        entries.push((entry, large));
        Ok(())
    }

    fn extents(&mut self, reader: &mut Reader<'_>) -> Result<Vec<Extent>> {
        let mut extents: Vec<Extent> = Vec::new();
        for piece in self.blobs.by_ref() {
            let number = reader.varint()?;
            let above = extents.last().is_none_or(|last| last.number < number);
            if !above || piece.offset != 0 || extents.len() as u64 >= NODE_ENTRIES {
                return Err(reader.damaged("its extents are out of order"));
            }
            let piece = *piece;
            extents.push(Extent { number, piece });
        }
        if extents.is_empty() {
            return Err(reader.damaged("it has no extents"));
        }
        Ok(extents)
    }

    /// The next `count` nodes, which are all of `shape` at level 0.
    fn nodes(&mut self, count: usize, shape: Shape, reader: &Reader<'_>) -> Result<Vec<NodeRef>> {
        let next = self.nodes.by_ref().take(count);
        let nodes: Vec<NodeRef> = next
            .filter(|child| child.shape == shape && child.node.level == 0)
            .map(|child| child.node)
            .collect();
        if nodes.len() == count {
            return Ok(nodes);
        }
        Err(reader.damaged("an object's nodes are missing"))
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
                let nodes = self.nodes(count, Shape::Pieces, reader)?;
                if nodes.len() < 2 {
                    return Err(reader.damaged("a large object has one node of pieces"));
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
                let hash = owed(reader, hash)?;
                let pin = self
                    .pins
                    .next()
                    .ok_or_else(|| reader.damaged("a pin is missing"))?
                    .clone();
                Ok((Content::External { hash, size, pin }, None))
            }
            4 => {
                let hash = owed(reader, hash)?;
                let (piece, count) = (reader.varint()?, reader.varint_usize()?);
                let piece = u32::try_from(piece).ok().filter(|p| volume_piece(*p));
                let piece =
                    piece.ok_or_else(|| reader.damaged("a volume's pieces are not possible"))?;
                let extents = self.nodes(count, Shape::Extents, reader)?;
                let volume = Content::Volume {
                    hash,
                    size,
                    piece,
                    extents,
                };
                Ok((volume, None))
            }
            _ => Err(reader.damaged("the kind of a content is unknown")),
        }
    }

    fn inner(&mut self, bytes: &Bytes, reader: &mut Reader<'_>, level: u8) -> Result<Vec<Child>> {
        let mut children: Vec<Child> = Vec::new();
        for _ in 0..count(reader)? {
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

/// The hash that an entry states; none while it is owed.
fn owed(reader: &mut Reader<'_>, hash: ObjectHash) -> Result<Option<ObjectHash>> {
    match reader.u8()? {
        0 => Ok(Some(hash)),
        1 if hash == ObjectHash::default() => Ok(None),
        _ => Err(reader.damaged("an owed hash is not one")),
    }
}

/// Whether a volume may be cut into pieces of this many bytes.
pub(crate) fn volume_piece(bytes: u32) -> bool {
    (4 << 10..=PIECE_MAX).contains(&bytes) && bytes.is_power_of_two()
}

/// The number of a node's entries or children.
fn count(reader: &mut Reader<'_>) -> Result<u64> {
    let count = reader.varint()?;
    if (1..=NODE_ENTRIES).contains(&count) {
        return Ok(count);
    }
    Err(reader.damaged("it has too many entries, or none"))
}

fn read_key(reader: &mut Reader<'_>, last: Option<&[u8]>) -> Result<Bytes> {
    let shared = reader.varint_usize()?;
    let rest = reader.bytes()?;
    let Some(prefix) = last.unwrap_or_default().get(..shared) else {
        return Err(reader.damaged("a key shares more than the one before has"));
    };
    if shared + rest.len() > KEY_MAX {
        return Err(reader.damaged("a key is too long"));
    }
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
