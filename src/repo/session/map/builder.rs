//! Building a map from entries in ascending order, in bounded memory.

use bytes::Bytes;

use crate::repo::format::hash::PieceRef;
use crate::repo::format::tree::encode::{NodeWriter, Values, check_key};
use crate::repo::format::tree::node::{
    Child, Content, Entry, Extent, NODE_ENTRIES, NodeRef, Shape, pieces_fill, volume_piece,
};
use crate::repo::session::writer::Writer;
use crate::{Cause, Result, Side};

/// Builds one map of a snapshot. Holds one node of each level, about 1 MiB each.
///
/// The same entries give the same nodes, so a map that did not change adds nothing.
#[derive(Debug, Clone)]
pub struct MapBuilder<'a> {
    writer: &'a Writer,
    values: Values,
    levels: Vec<Level>,
    last: Option<Bytes>,
}

#[derive(Debug, Clone, Default)]
struct Level {
    open: NodeWriter,
    /// The first node of this level while it is the only one: perhaps the root.
    only: Option<Child>,
    /// Whether this level has several nodes, so that there is one above it.
    several: bool,
}

impl Writer {
    /// Begins a map; its entries are pushed in ascending order of their keys.
    #[must_use]
    pub fn map(&self, values: Values) -> MapBuilder<'_> {
        let leaf = Level {
            open: NodeWriter::leaf(values),
            ..Level::default()
        };
        MapBuilder {
            writer: self,
            values,
            levels: vec![leaf],
            last: None,
        }
    }

    /// Stores the nodes that name the pieces of a volume, in ascending order of their numbers: what
    /// [`Content::Volume`] has as its extents.
    ///
    /// # Errors
    ///
    /// [`Cause::Failed`] when they are not; what the store fails with.
    pub async fn store_extents(&self, extents: &[Extent]) -> Result<Vec<NodeRef>> {
        let ascending = extents.is_sorted_by(|a, b| a.number < b.number);
        if !ascending || extents.iter().any(|extent| extent.piece.offset != 0) {
            let message = "the pieces of a volume are out of order";
            return Err(Side::Repository.error(Cause::Failed, message));
        }
        let mut nodes = Vec::new();
        for chunk in extents.chunks(FULL) {
            let mut node = NodeWriter::default();
            for extent in chunk {
                node.push_extent(extent);
            }
            nodes.push(self.finish_node(&mut node, 0, Shape::Extents).await?);
        }
        Ok(nodes)
    }

    /// Stores a node, and before it the values that stand apart.
    async fn finish_node(&self, node: &mut NodeWriter, level: u8, shape: Shape) -> Result<NodeRef> {
        let values = match node.take_values() {
            Some(values) => Some(self.store_values(values).await?),
            None => None,
        };
        let node = node.finish(level, shape, values.as_ref());
        let (cv, length) = self.store_node(node).await?;
        Ok(NodeRef { cv, length, level })
    }
}

/// The most pieces of a node.
#[allow(clippy::cast_possible_truncation, reason = "1,024 fits")]
const FULL: usize = NODE_ENTRIES as usize;

impl MapBuilder<'_> {
    /// Appends an entry, whose key is above all before it in byte order.
    ///
    /// # Errors
    ///
    /// [`Cause::Failed`] when the key is not, or has more than 65,535 bytes; what the store fails with.
    pub async fn push(&mut self, entry: Entry) -> Result<()> {
        check_key(&entry.key, self.last.as_deref())?;
        let large = match &entry.content {
            Content::Object { size, pieces, .. } if !pieces_fill(pieces, *size) => {
                let key = String::from_utf8_lossy(&entry.key);
                return Err(Side::Repository
                    .error(Cause::Failed, format!("the pieces of {key} do not fill it")));
            }
            Content::Lost { why, .. } => {
                let message = format!("what is lost cannot be stored: {why}");
                return Err(Side::Repository.error(Cause::Failed, message));
            }
            Content::Volume { piece, .. } if !volume_piece(*piece) => {
                let message = format!("a volume cannot have pieces of {piece} bytes");
                return Err(Side::Repository.error(Cause::Failed, message));
            }
            Content::Object { pieces, .. } if pieces.len() as u64 > NODE_ENTRIES => {
                Some(self.store_pieces(pieces).await?)
            }
            _ => None,
        };
        let open = &mut self.levels[0].open;
        open.push_entry(&entry, large.as_deref());
        let full = open.is_full(&entry.key);
        self.last = Some(entry.key);
        if full { self.close(0).await } else { Ok(()) }
    }

    /// Stores what is left and returns the root; `None` for an empty map.
    pub async fn finish(mut self) -> Result<Option<NodeRef>> {
        let mut level = 0;
        while level < self.levels.len() {
            if !self.levels[level].open.is_empty() {
                self.close(level).await?;
            }
            if let Some(root) = self.levels[level].only.take() {
                return Ok(Some(root.node));
            }
            level += 1;
        }
        Ok(None)
    }

    /// Stores the open node of `level` and hands it to the level above, whose node may close then.
    async fn close(&mut self, mut level: usize) -> Result<()> {
        loop {
            let next = match level {
                0 => NodeWriter::leaf(self.values),
                _ => NodeWriter::default(),
            };
            // Whoever stops waiting leaves it open.
            let mut open = self.levels[level].open.clone();
            let height = u8::try_from(level)
                .map_err(|_| Side::Repository.error(Cause::Failed, "a map has too many levels"))?;
            let stored = self
                .writer
                .finish_node(&mut open, height, Shape::at(height));
            let node = stored.await?;
            self.levels[level].open = next;
            let child = Child {
                node,
                first: open.first,
                entries: open.entries,
                bytes: open.bytes,
            };
            let this = &mut self.levels[level];
            if !this.several && this.only.is_none() {
                this.only = Some(child);
                return Ok(());
            }
            this.several = true;
            let held = this.only.take();
            level += 1;
            if self.levels.len() == level {
                self.levels.push(Level::default());
            }
            let above = &mut self.levels[level].open;
            if let Some(held) = held {
                above.push_child(&held);
            }
            above.push_child(&child);
            if !above.is_full(&child.first) {
                return Ok(());
            }
        }
    }

    async fn store_pieces(&self, pieces: &[PieceRef]) -> Result<Vec<NodeRef>> {
        let mut nodes = Vec::new();
        for chunk in pieces.chunks(FULL) {
            let mut node = NodeWriter::default();
            for piece in chunk {
                node.push_blob(piece);
            }
            let stored = self.writer.finish_node(&mut node, 0, Shape::Pieces);
            nodes.push(stored.await?);
        }
        Ok(nodes)
    }
}
