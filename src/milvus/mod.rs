//! All that eyrie knows of Milvus: protobuf, client, management API, key layout, catalog, version rules.

pub mod keys;
pub mod proto;
pub mod version;
pub mod wire;

pub use version::MilvusVersion;
