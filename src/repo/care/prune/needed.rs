//! Which blobs are needed: all that the trees of a set of roots refer to.

use std::collections::HashSet;

use crate::repo::format::blob::BlobKind;
use crate::repo::format::hash::PieceRef;
use crate::repo::format::ids::{BlobId, Cv};
use crate::repo::format::tree::{Envelope, EnvelopeNode, NodeRef};
use crate::repo::session::view::{Look, View};
use crate::{Cause, Result};

/// Blobs by the first eight bytes of their ids, which are 8 bytes a blob in memory. Two that share them, of 10^8 in
/// one repository perhaps, are needed if either is.
#[derive(Debug, Default)]
pub(super) struct Needed {
    /// Ascending, each once, after [`sort`](Self::sort).
    ids: Vec<u64>,
    /// How many of them are sorted.
    sorted: usize,
}

/// What becomes of a tree that cannot be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Unread {
    /// It is an error: what it refers to is not known.
    Fails,
    /// Nothing depends on it.
    IsLeftOut,
}

fn short(id: &BlobId) -> u64 {
    let mut first = [0; 8];
    first.copy_from_slice(&id.0[..8]);
    u64::from_be_bytes(first)
}

impl Needed {
    /// Adds all that is below these roots. `seen` are the nodes whose blobs were added before.
    ///
    /// # Errors
    ///
    /// [`Cause::Damage`] when a node cannot be read, if that `fails`; what the store fails with.
    pub(super) async fn add(
        &mut self,
        view: &View,
        roots: impl IntoIterator<Item = NodeRef>,
        seen: &mut HashSet<Cv>,
        unread: Unread,
    ) -> Result<()> {
        let mut walk = view.walk(roots, Look::Envelopes, seen);
        while let Some((node, envelope)) = walk.next().await? {
            match envelope {
                Ok(envelope) => self.add_node(view, &node, &envelope),
                Err(error) if unread == Unread::IsLeftOut && error.cause() == Cause::Damage => {
                    tracing::debug!("a checkpoint is left out: {}", error.chain());
                }
                Err(error) => return Err(error),
            }
        }
        self.sort();
        Ok(())
    }

    fn add_node(&mut self, view: &View, node: &EnvelopeNode, envelope: &Envelope) {
        let own = PieceRef {
            cv: node.node.cv,
            offset: 0,
            length: node.node.length,
        };
        let own = std::iter::once((BlobKind::Tree, &own));
        let blobs = envelope.blobs.iter().map(|blob| (BlobKind::Data, blob));
        let values = envelope.values.iter().map(|blob| (BlobKind::Values, blob));
        for (kind, piece) in own.chain(blobs).chain(values) {
            self.ids.push(short(&view.id(kind, piece)));
        }
        // Objects of several snapshots come often: what is twice is dropped before it takes more memory than
        // what is there once.
        if self.ids.len() >= 2 * self.sorted.max(1 << 16) {
            self.sort();
        }
    }

    fn sort(&mut self) {
        self.ids.sort_unstable();
        self.ids.dedup();
        self.sorted = self.ids.len();
    }

    /// How many blobs are needed.
    pub(super) fn len(&self) -> usize {
        self.ids.len()
    }

    /// The number of a blob among those that are needed; `None` when it is not.
    pub(super) fn number(&self, id: &BlobId) -> Option<usize> {
        self.ids.binary_search(&short(id)).ok()
    }

    /// Whether a blob is needed.
    pub(super) fn has(&self, id: &BlobId) -> bool {
        self.number(id).is_some()
    }
}
