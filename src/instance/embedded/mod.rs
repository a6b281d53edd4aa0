//! An etcd inside Milvus, which nobody can ask while Milvus is stopped: only its directory is there.

mod copy;
mod directory;

pub use copy::EtcdCopy;
pub(crate) use directory::{Embedded, Holds};
