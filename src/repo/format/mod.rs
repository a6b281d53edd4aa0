//! What is stored, byte for byte, as docs/format.md says it.

pub(crate) mod amendment;
pub(crate) mod blob;
pub(crate) mod config;
pub(crate) mod crypto;
pub(crate) mod damage;
pub(crate) mod features;
pub(crate) mod files;
pub(crate) mod forgotten;
pub(crate) mod hash;
pub(crate) mod ids;
pub(crate) mod keys;
pub(crate) mod lineage;
pub(crate) mod manifest;
pub(crate) mod mark;
pub(crate) mod pack;
pub(crate) mod ring;
pub(crate) mod sealed;
pub(crate) mod sealer;
pub(crate) mod segment;
pub(crate) mod tree;
pub(crate) mod wire;
