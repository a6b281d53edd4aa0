//! Configuration: the YAML file, its schema, discovery from `milvus.yaml`, secrets.
//!
//! [`Resolved::load`] is the way in. It reads the file and what it names, applies the precedence
//! (explicit, Milvus's environment, `milvus.yaml`, default), keeps who set what, and leaves
//! secrets unread until [`SecretSource::read`](crate::base::secret::SecretSource::read).

mod env_file;
pub mod milvus;
pub mod model;
mod parse;
mod recognise;
mod resolve;
pub mod resolved;
pub mod retention;
mod scalar;
pub mod source;
pub mod yaml;

pub use resolve::Variables;
pub use resolved::{
    Deploy, Etcd, Instance, MilvusEndpoint, Objects, Repository, Resolved, Tls, WalKind,
};
pub use source::Source;

/// A commented configuration that parses; `eyrie config example` prints it.
pub const EXAMPLE: &str = include_str!("example.yaml");

/// Where the configuration is when neither `--config` nor `$EYRIE_CONFIG` says.
pub const DEFAULT_PATH: &str = "/etc/eyrie/eyrie.yaml";
