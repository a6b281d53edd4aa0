//! **eyrie** is a storage-snapshot backup agent for Milvus.
//!
//! It takes both layers of a Milvus instance, the metadata in etcd and the segment objects in
//! `MinIO`, S3 or a directory, as one consistent snapshot, and puts both back.
//!
//! # Guarantees
//!
//! - **I1 anchor**: the object set of a snapshot is a pure function of etcd at one revision, but for delta logs that Milvus
//!   before 2.4 has in memory only (docs/consistency.md).
//! - **I2 complete**: a snapshot commits only when every required object is captured and hashed.
//! - **I3 leased holds**: what the agent suspends ends by itself when the agent dies.
//! - **I4 one-write commit**: a snapshot exists when its manifest is written, the last write.
//! - **I5 guarded restore**: a restore refuses a running or non-empty target.
//! - **I6 never silent**: what weakens a snapshot is in its manifest and in the output.
//! - **I7 safe prune**: nothing reachable is ever deleted.
//! - **I8 same bytes**: object hashes are plain BLAKE3 of the object's bytes.
//! - **I9 secrets**: no secret of ours in arguments, logs, errors or manifests.
//!
//! # Module map
//!
//! [`cli`] knows everything; `capture`, `restore` and `verify` know [`instance`] and [`snapshot`], and
//! do not know each other; `retention` knows [`snapshot`]; [`repo`] stands on [`store`] and knows nothing of [`milvus`].
//! docs/architecture.md has the whole order, and a test holds it. A module is public where the tests
//! outside the crate use it, or the command.

pub mod base;
mod capture;
pub mod cli;
mod config;
pub mod etcd;
pub mod instance;
pub mod milvus;
pub mod repo;
mod restore;
mod retention;
pub mod snapshot;
pub mod store;
mod sys;
mod verify;

pub use base::error::{Cause, Error, Result, Side};
