//! Restore: plan, rehydrate, transform, write, verify.

pub mod transform;
