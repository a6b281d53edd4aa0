//! Milvus's messages, generated from the minimal `.proto` files beside this file.
//!
//! Field numbers are Milvus's own; names are ours, in snake case. Enumerations are open: an unknown
//! value stays the number it is. Decoding drops unknown fields, so a value that is to be written back is
//! edited with [`crate::milvus::wire`], never encoded from these types.

#![allow(missing_docs, clippy::all, clippy::pedantic, reason = "generated code")]

/// What several messages share.
pub mod common {
    tonic::include_proto!("milvus.proto.common");
}
/// Values of `datacoord-meta/` and `channelwatch/`.
pub mod data {
    tonic::include_proto!("milvus.proto.data");
}
/// Values of `field-index/`, `segment-index/` and stats tasks.
pub mod index {
    tonic::include_proto!("milvus.proto.index");
}
/// Values of `root-coord/`.
pub mod meta {
    tonic::include_proto!("milvus.proto.meta");
}
/// The proxy's service.
pub mod milvus {
    tonic::include_proto!("milvus.proto.milvus");
}
/// Positions in the message queue.
pub mod msg {
    tonic::include_proto!("milvus.proto.msg");
}
/// Values of querycoord.
pub mod query {
    tonic::include_proto!("milvus.proto.query");
}
/// Schemas of collections.
pub mod schema {
    tonic::include_proto!("milvus.proto.schema");
}
/// Values of `streamingcoord-meta/` and `streamingnode-meta/`.
pub mod streaming {
    tonic::include_proto!("milvus.proto.streaming");
}
