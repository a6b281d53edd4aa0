//! All that eyrie knows of Milvus: protobuf, client, management API, key layout, catalog, version rules.

pub mod catalog;
pub mod keys;
pub mod objects;
pub mod proto;
#[cfg(test)]
pub(crate) mod recorded;
#[cfg(test)]
pub(crate) mod simulated_keys;
pub mod validate;
pub mod version;
pub mod wire;

pub use version::MilvusVersion;
