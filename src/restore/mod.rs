//! Restore: plan, prove, guard, rehydrate, transform, write, compare.

mod facts;
mod guard;
mod keyspace;
mod marker;
mod objects;
mod plan;
mod prove;
mod render;
mod snapshot;
mod survey;
mod write;
