//! What a restore does, step by step, each of which can be repeated.

pub(crate) mod keyspace;
pub(crate) mod objects;
pub(crate) mod prepare;
pub(crate) mod prove;
pub(crate) mod replace;
pub(crate) mod steps;
pub(crate) mod wal;
pub(crate) mod write;
