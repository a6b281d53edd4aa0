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

/// Whether all that roots lead to has to be there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Roots {
    /// A node that cannot be read is an error: what it refers to is not known.
    OfSnapshots,
    /// What is not there is left out: it may have been pruned before.
    OfOthers,
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
    /// [`Cause::Damage`] when a node of a snapshot cannot be read; what the store fails with.
    pub(super) async fn add(
        &mut self,
        view: &View,
        roots: impl IntoIterator<Item = NodeRef>,
        seen: &mut HashSet<Cv>,
        whose: Roots,
    ) -> Result<()> {
        let mut walk = view.walk(roots, Look::Envelopes, seen);
        while let Some((node, envelope)) = walk.next().await? {
            match envelope {
                Ok(envelope) => {
                    let mut ids = blobs(view, &node, &envelope);
                    if whose == Roots::OfOthers {
                        let places = view.look_up(ids.clone()).await?;
                        let mut there = places.iter().map(|places| !places.is_empty());
                        ids.retain(|_| there.next().unwrap_or_default());
                    }
                    self.push(&ids);
                }
                Err(error) if whose == Roots::OfOthers && error.cause() == Cause::Damage => {
                    tracing::debug!("a tree is left out: {}", error.chain());
                }
                Err(error) => return Err(error),
            }
        }
        self.sort();
        Ok(())
    }

    fn push(&mut self, ids: &[BlobId]) {
        self.ids.extend(ids.iter().map(short));
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

/// The blobs of a node: its own, and those that it refers to.
fn blobs(view: &View, node: &EnvelopeNode, envelope: &Envelope) -> Vec<BlobId> {
    let own = PieceRef {
        cv: node.node.cv,
        offset: 0,
        length: node.node.length,
    };
    let own = std::iter::once((BlobKind::Tree, &own));
    let blobs = envelope.blobs.iter().map(|blob| (BlobKind::Data, blob));
    let values = envelope.values.iter().map(|blob| (BlobKind::Values, blob));
    let all = own.chain(blobs).chain(values);
    all.map(|(kind, piece)| view.id(kind, piece)).collect()
}
