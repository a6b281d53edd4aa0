//! Tests of the repository as a whole, over stores in memory.

mod amendments;
mod crash;
mod damage;
mod fencing;
mod golden;
mod growth;
mod index;
mod lost;
mod maps;
mod marks;
mod memory;
mod objects;
mod prune;
mod prune_schedules;
mod schedules;
mod sessions;
mod support;
mod vectors;
