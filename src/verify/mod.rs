//! The ladder from existence to drill.
