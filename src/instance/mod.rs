//! What is outside: whether a Milvus runs, and where its message queue lies.

pub mod liveness;
pub mod wal;
