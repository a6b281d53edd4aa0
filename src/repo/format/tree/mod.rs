//! Ordered maps of a snapshot, as trees of content-addressed nodes (section 9).

mod builder;
mod diff;
mod encode;
mod map;
pub(crate) mod node;

pub use builder::MapBuilder;
pub use diff::Change;
pub use map::{KeyRange, Map};
pub use node::{Content, Entry, Envelope, EnvelopeNode, NodeRef};
