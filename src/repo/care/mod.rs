//! What keeps a repository whole.

pub(crate) mod check;
pub(crate) mod prune;
