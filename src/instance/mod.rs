//! What is outside: an instance of Milvus, and how its parts are opened, held and read.

/// The area of eyrie's own keys below an instance's root: no key of Milvus's is there.
pub(crate) const OWN_AREA: &str = "eyrie/";

pub(crate) mod connect;
pub(crate) mod embedded;
pub(crate) mod files;
pub mod holds;
pub(crate) mod installed;
pub(crate) mod liveness;
pub mod methods;
pub(crate) mod neighbours;
pub mod objects;
pub(crate) mod old_content;
pub(crate) mod ownership;
pub(crate) mod wal;
