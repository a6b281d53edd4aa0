//! Whether a segment is part of a snapshot.

/// Whether a segment is live, and if not why.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Standing {
    /// Its data is part of the snapshot.
    Live,
    /// Dropped; its objects may be gone already.
    Dropped,
    /// Rows are still being written to it.
    Growing,
    /// Closed for writing, not flushed.
    Sealed,
    /// Written by an import that has not ended.
    Importing,
    /// Its collection or partition is gone or going.
    Orphan,
    /// A parent whose complete child is live.
    Compacted,
    /// A child that is incomplete or not served yet, while its parents are live.
    Unserved,
    /// A placeholder, or a state in which a segment holds nothing.
    Empty,
}

impl Standing {
    /// Whether its rows are in the WAL, so that it matters when the WAL is kept.
    #[must_use]
    pub const fn is_open(self) -> bool {
        matches!(self, Self::Growing | Self::Sealed)
    }
}

/// Parents and children of one compaction that were both there at the revision.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Conflict {
    /// The collection.
    pub collection: i64,
    /// Segments that were compacted.
    pub parents: Vec<i64>,
    /// Segments that came out.
    pub children: Vec<i64>,
    /// Which of them are live.
    pub keeps: Keeps,
}

/// Which side of a compaction is live.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Keeps {
    /// The children are not complete or not served yet.
    Parents,
    /// The children are complete.
    Children,
}
