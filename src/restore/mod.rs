//! Restore: plan, prove, guard, rehydrate, transform, write, compare.

mod aside;
mod facts;
#[cfg(test)]
mod fixture;
mod guard;
mod home;
mod keys;
mod keyspace;
mod marker;
mod objects;
mod owner;
mod plan;
mod prove;
mod queue;
mod render;
mod replace;
mod snapshot;
mod survey;
pub mod transform;
mod work;
mod write;
