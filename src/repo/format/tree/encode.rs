//! Writing tree nodes (section 9).

use bytes::Bytes;

use super::node::{Child, Content, Entry, MAGIC, NODE_ENTRIES, NodeRef, Shape};
use crate::repo::format::hash::PieceRef;
use crate::repo::format::ids::ObjectHash;
use crate::repo::format::wire::{put_bytes, put_varint, to_u32};
use crate::{Cause, Result, Side};

/// A node closes when it has reached this size, in bytes.
const NODE_SIZE: usize = 1 << 20;
/// A key has at most this many bytes, so that an inner node holds many children.
const KEY_MAX: usize = 65_535;
/// A node closes by its keys only when it has this many entries.
const NODE_LEAST: u64 = 64;

/// A node under construction.
#[derive(Debug, Default)]
pub(crate) struct NodeWriter {
    counts: [usize; 3],
    nodes: Vec<u8>,
    blobs: Vec<u8>,
    pins: Vec<u8>,
    body: Vec<u8>,
    count: u64,
    pub(crate) first: Bytes,
    last: Bytes,
    pub(crate) entries: u64,
    pub(crate) bytes: u64,
}

impl NodeWriter {
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
        put_bytes(&mut self.body, &entry.value);
        self.push_content(&entry.content, large);
        self.last = entry.key.clone();
        self.pushed(&entry.key, 1, entry.content.size());
    }

    fn push_content(&mut self, content: &Content, large: Option<&[NodeRef]>) {
        match (content, large) {
            (Content::None, _) => self.body.push(0),
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
                put_bytes(&mut self.pins, pin);
                self.counts[2] += 1;
            }
        }
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
        self.nodes.extend_from_slice(&node.cv.0);
        self.nodes.extend_from_slice(&node.length.to_le_bytes());
        self.nodes.extend_from_slice(&[node.level, shape as u8]);
        self.counts[0] += 1;
    }

    pub(crate) fn push_blob(&mut self, piece: &PieceRef) {
        self.blobs.extend_from_slice(&piece.cv.0);
        self.blobs.extend_from_slice(&piece.offset.to_le_bytes());
        self.blobs.extend_from_slice(&piece.length.to_le_bytes());
        self.counts[1] += 1;
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
        let size = self.nodes.len() + self.blobs.len() + self.pins.len() + self.body.len();
        let cut = || {
            let hash = blake3::hash(key);
            let [low, high, ..] = *hash.as_bytes();
            u16::from_le_bytes([low, high]).is_multiple_of(256)
        };
        self.count >= NODE_ENTRIES || size >= NODE_SIZE || (self.count >= NODE_LEAST && cut())
    }

    /// The bytes of the node.
    pub(crate) fn finish(&self, level: u8, shape: Shape) -> Result<Vec<u8>> {
        let mut out = Vec::with_capacity(
            32 + self.nodes.len() + self.blobs.len() + self.pins.len() + self.body.len(),
        );
        out.extend_from_slice(MAGIC);
        out.extend_from_slice(&[level, shape as u8, 0, 0]);
        for count in self.counts {
            out.extend_from_slice(&to_u32(count, "a node's references")?.to_le_bytes());
        }
        out.extend_from_slice(&self.nodes);
        out.extend_from_slice(&self.blobs);
        out.extend_from_slice(&self.pins);
        if shape != Shape::Pieces {
            put_varint(&mut out, self.count);
        }
        out.extend_from_slice(&self.body);
        Ok(out)
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
