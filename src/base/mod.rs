//! What every room stands on: errors, clock, stops, progress, resources, text.

pub mod cancel;
pub(crate) mod contact;
pub mod env;
pub mod error;
pub mod file_system;
pub mod label;
pub(crate) mod poll;
pub(crate) mod progress;
pub mod resources;
pub mod secret;
pub(crate) mod text;
pub mod weakening;
