//! Sessions at work in a repository: under a lease, on a view of the index, reading or writing.

pub(crate) mod host;
pub(crate) mod lease;
pub(crate) mod read_plan;
pub(crate) mod view;
pub(crate) mod writer;
