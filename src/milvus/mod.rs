//! All that eyrie knows of Milvus: protobuf, client, management API, key layout, catalog, version rules.

pub mod proto;
pub mod wire;
