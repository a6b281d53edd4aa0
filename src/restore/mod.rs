//! Restore: plan, prove, guard, rehydrate, transform, write, compare.

mod facts;
#[cfg(test)]
mod fixture;
mod guard;
mod keyspace;
mod marker;
mod objects;
mod plan;
mod prove;
mod render;
mod snapshot;
mod survey;
pub mod transform;
mod write;
