//! Restore: plan, prove, guard, rehydrate, transform, write, compare.

mod facts;
mod guard;
mod keyspace;
mod marker;
mod plan;
mod render;
mod survey;
mod write;
