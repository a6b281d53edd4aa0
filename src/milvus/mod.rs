//! All that eyrie knows of Milvus: protobuf, client, management API, key layout, catalog, version rules.

pub mod auth;
pub mod barrier;
pub mod catalog;
pub mod client;
pub mod flush;
pub mod hybrid;
pub mod inventory;
pub mod keys;
pub mod management;
pub mod objects;
pub mod probe;
pub mod proto;
#[cfg(any(test, feature = "testing"))]
pub mod recorded;
#[cfg(any(test, feature = "testing"))]
pub mod simulated;
pub mod status;
pub mod unnamed;
pub mod validate;
pub mod version;
pub mod wire;

pub use version::MilvusVersion;
