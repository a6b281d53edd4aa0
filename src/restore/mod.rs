//! Restore: plan, rehydrate, transform, write, verify.
