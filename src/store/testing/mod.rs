//! What tests of stores and on stores need; behind the feature `testing`.

pub mod conformance;
pub mod fault;
pub mod memory;
pub mod record;
