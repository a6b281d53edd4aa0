//! Writing tree nodes (section 9).

use bytes::Bytes;

use super::node::{Child, Content, Entry, Extent, KEY_MAX, MAGIC, NODE_ENTRIES, NodeRef, Shape};
use crate::repo::format::hash::PieceRef;
use crate::repo::format::ids::ObjectHash;
use crate::repo::format::wire::{put_bytes, put_varint};
use crate::{Cause, Result, Side};

/// A node closes when it has reached this size, in bytes.
const NODE_SIZE: usize = 1 << 20;
/// A node closes by its keys only when it has this many entries.
const NODE_LEAST: u64 = 64;

/// Where the values of a map's entries are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Values {
    /// In the leaves, sealed as they are: whoever maintains the repository could read them.
    #[default]
    Inline,
    /// Apart, sealed as data is: whoever maintains the repository reads the keys alone.
    Apart,
}

/// A node under construction.
#[derive(Clone, Debug, Default)]
pub(crate) struct NodeWriter {
    nodes: (u32, Vec<u8>),
    blobs: (u32, Vec<u8>),
    pins: (u32, Vec<u8>),
    /// Where its values stand apart: all of them, one after the other.
    values: Option<Vec<u8>>,
    body: Vec<u8>,
    count: u64,
    pub(crate) first: Bytes,
    last: Bytes,
    pub(crate) entries: u64,
    pub(crate) bytes: u64,
}

impl NodeWriter {
    /// A leaf of a map.
    pub(crate) fn leaf(values: Values) -> Self {
        Self {
            values: (values == Values::Apart).then(Vec::new),
            ..Self::default()
        }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// Appends an entry; `large` names the nodes of an object with too many pieces for this one.
    pub(crate) fn push_entry(&mut self, entry: &Entry, large: Option<&[NodeRef]>) {
        let shared = entry
            .key
            .iter()
            .zip(&self.last[..])
            .take_while(|(a, b)| a == b)
            .count();
        put_varint(&mut self.body, shared as u64);
        put_bytes(&mut self.body, &entry.key[shared..]);
        match &mut self.values {
            None => put_bytes(&mut self.body, &entry.value),
            Some(values) => {
                put_varint(&mut self.body, entry.value.len() as u64);
                values.extend_from_slice(&entry.value);
            }
        }
        self.push_content(&entry.content, large);
        self.last = entry.key.clone();
        self.pushed(&entry.key, 1, entry.content.size());
    }

    fn push_content(&mut self, content: &Content, large: Option<&[NodeRef]>) {
        match (content, large) {
            // Refused by the builder: it is what an amendment makes of an entry.
            (Content::None | Content::Lost { .. }, _) => self.body.push(0),
            (Content::Object { hash, size, .. }, Some(nodes)) => {
                self.push_object(2, hash, *size);
                put_varint(&mut self.body, nodes.len() as u64);
                for node in nodes {
                    self.push_node(node, Shape::Pieces);
                }
            }
            (Content::Object { hash, size, pieces }, None) => {
                self.push_object(1, hash, *size);
                put_varint(&mut self.body, pieces.len() as u64);
                for piece in pieces {
                    self.push_blob(piece);
                }
            }
            (Content::External { hash, size, pin }, _) => {
                self.push_object(3, &hash.unwrap_or_default(), *size);
                self.body.push(u8::from(hash.is_none()));
                put_bytes(&mut self.pins.1, pin);
                self.pins.0 += 1;
            }
            (
                Content::Volume {
                    hash,
                    size,
                    piece,
                    extents,
                },
                _,
            ) => {
                self.push_object(4, &hash.unwrap_or_default(), *size);
                self.body.push(u8::from(hash.is_none()));
                put_varint(&mut self.body, u64::from(*piece));
                put_varint(&mut self.body, extents.len() as u64);
                for node in extents {
                    self.push_node(node, Shape::Extents);
                }
            }
        }
    }

    /// Appends a piece of a volume.
    pub(crate) fn push_extent(&mut self, extent: &Extent) {
        self.push_blob(&extent.piece);
        put_varint(&mut self.body, extent.number);
    }

    fn push_object(&mut self, content: u8, hash: &ObjectHash, size: u64) {
        self.body.push(content);
        self.body.extend_from_slice(&hash.0);
        put_varint(&mut self.body, size);
    }

    pub(crate) fn push_child(&mut self, child: &Child) {
        put_bytes(&mut self.body, &child.first);
        put_varint(&mut self.body, child.entries);
        put_varint(&mut self.body, child.bytes);
        self.push_node(&child.node, Shape::at(child.node.level));
        self.pushed(&child.first, child.entries, child.bytes);
    }

    fn push_node(&mut self, node: &NodeRef, shape: Shape) {
        let (count, nodes) = &mut self.nodes;
        nodes.extend_from_slice(&node.cv.0);
        nodes.extend_from_slice(&node.length.to_le_bytes());
        nodes.extend_from_slice(&[node.level, shape.number()]);
        *count += 1;
    }

    pub(crate) fn push_blob(&mut self, piece: &PieceRef) {
        let (count, blobs) = &mut self.blobs;
        blobs.extend_from_slice(&piece.cv.0);
        blobs.extend_from_slice(&piece.offset.to_le_bytes());
        blobs.extend_from_slice(&piece.length.to_le_bytes());
        *count += 1;
    }

    fn pushed(&mut self, key: &Bytes, entries: u64, bytes: u64) {
        if self.count == 0 {
            self.first = key.clone();
        }
        self.count += 1;
        self.entries += entries;
        self.bytes += bytes;
    }

    /// Whether the node ends after what was pushed last, under `key`.
    pub(crate) fn is_full(&self, key: &[u8]) -> bool {
        let values = self.values.as_ref().map_or(0, Vec::len);
        let size = self.references() + self.body.len() + values;
        let cut = || blake3::hash(key).as_bytes()[0] == 0;
        self.count >= NODE_ENTRIES || size >= NODE_SIZE || (self.count >= NODE_LEAST && cut())
    }

    fn references(&self) -> usize {
        self.nodes.1.len() + self.blobs.1.len() + self.pins.1.len()
    }

    /// The values that stand apart; none where they do not, or are all empty.
    pub(crate) fn take_values(&mut self) -> Option<Vec<u8>> {
        let values = self.values.as_mut().map(std::mem::take);
        values.filter(|values| !values.is_empty())
    }

    /// The bytes of the node, whose values are the blob `values` where they stand apart.
    pub(crate) fn finish(&self, level: u8, shape: Shape, values: Option<&PieceRef>) -> Vec<u8> {
        let mut out = Vec::with_capacity(64 + self.references() + self.body.len());
        out.extend_from_slice(MAGIC);
        out.extend_from_slice(&[level, shape.number(), 0, 0]);
        let apart = u32::from(values.is_some());
        for count in [self.nodes.0, self.blobs.0, apart, self.pins.0] {
            out.extend_from_slice(&count.to_le_bytes());
        }
        out.extend_from_slice(&self.nodes.1);
        out.extend_from_slice(&self.blobs.1);
        if let Some(values) = values {
            out.extend_from_slice(&values.cv.0);
            out.extend_from_slice(&values.length.to_le_bytes());
        }
        out.extend_from_slice(&self.pins.1);
        if matches!(shape, Shape::Leaf | Shape::Inner) {
            put_varint(&mut out, self.count);
        }
        out.extend_from_slice(&self.body);
        out
    }
}

/// Refuses a key that is too long or not above the last one.
pub(crate) fn check_key(key: &[u8], last: Option<&[u8]>) -> Result<()> {
    let shown = String::from_utf8_lossy(&key[..key.len().min(64)]);
    if key.len() > KEY_MAX {
        let message = format!(
            "the key {shown}… has {} bytes; a map takes {KEY_MAX}",
            key.len()
        );
        return Err(Side::Repository.error(Cause::Failed, message));
    }
    if last.is_some_and(|last| last >= key) {
        return Err(Side::Repository.error(
            Cause::Failed,
            format!("the key {shown} is not above the one before it"),
        ));
    }
    Ok(())
}
