//! The repository, on a store: packs, index, trees, crypto, leases.
