//! Restore: plan, prove, guard, rehydrate, transform, write, compare.

mod keyspace;
mod marker;
mod write;
