//! Sessions at work in a repository: under a lease, on a view of the index, reading or writing.

pub(crate) mod checkpoint;
pub(crate) mod index;
pub(crate) mod lease;
pub(crate) mod map;
pub(crate) mod marks;
pub(crate) mod order;
pub(crate) mod read_plan;
pub(crate) mod records;
pub(crate) mod remember;
pub(crate) mod snapshots;
pub(crate) mod unnamed;
pub(crate) mod verified;
pub(crate) mod view;
pub(crate) mod writer;
