//! The consistency manifest.
