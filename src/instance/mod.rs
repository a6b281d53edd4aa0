//! What is outside: an instance of Milvus, and how its parts are opened, held and read.

pub(crate) mod connect;
pub(crate) mod embedded;
pub mod holds;
pub(crate) mod liveness;
pub mod methods;
pub(crate) mod neighbours;
pub mod objects;
pub(crate) mod old_content;
pub(crate) mod ownership;
pub(crate) mod wal;
