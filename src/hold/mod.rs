//! Leased holds: writes, GC, compaction, freeze.
