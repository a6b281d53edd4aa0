//! Ordered maps of a snapshot, as trees of content-addressed nodes (section 9).

mod builder;
mod diff;
mod scan;

pub use builder::MapBuilder;
pub use diff::Change;
pub use scan::{KeyRange, Map};
