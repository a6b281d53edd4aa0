//! Nodes of the trees that a snapshot's maps are stored as (section 9).

pub(crate) mod encode;
pub(crate) mod node;

pub use encode::Values;
pub use node::{Content, Entry, Envelope, EnvelopeNode, Extent, NodeRef};
