//! What a snapshot is less than what was asked for (guarantee I6).

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Objects that the metadata names were gone; the items name them, each as database, collection,
/// segment, `: ` and path.
pub const MISSING_OBJECTS: &str = "missing-objects";

/// Objects that the items of [`MISSING_OBJECTS`] name at most; the message counts all.
pub const MISSING_NAMED: usize = 1_000;

/// A quiesced capture found logs newer than its hold, and is a hot one.
pub const CUT_UNPROVEN: &str = "cut-unproven";

/// The logs of a hot snapshot hold more than the flush promised; asked for with the mode.
pub const HOT_STRADDLE: &str = "hot-straddle";

/// Etcd was at its quota, so a hot capture could flush nothing.
pub const NOT_FLUSHED: &str = "not-flushed";

/// What Milvus answers is not what its metadata says.
pub const MILVUS_DIFFERS: &str = "milvus-differs";

/// Milvus holds file resources, which are not captured; the items are their paths.
pub const FILE_RESOURCES: &str = "file-resources";

/// The metadata contradicts itself.
pub const METADATA_INVALID: &str = "metadata-invalid";

/// The snapshot holds only the keys that a restore with `--replace` found.
pub const KEYS_ONLY: &str = "keys-only";

/// What a restore with `--replace` replaced could not all be removed.
pub const OLD_OBJECTS: &str = "old-objects";

/// Every code, as `accept:` takes them and docs/consistency.md explains them.
pub const CODES: &[&str] = &[
    MISSING_OBJECTS,
    CUT_UNPROVEN,
    HOT_STRADDLE,
    NOT_FLUSHED,
    MILVUS_DIFFERS,
    FILE_RESOURCES,
    METADATA_INVALID,
    KEYS_ONLY,
    OLD_OBJECTS,
];

/// Something less than the promise asked for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Weakening {
    /// What it is, a stable word: `missing-objects`, `cut-unproven`, `hot-straddle`, …
    pub code: String,
    /// What it means, for people.
    pub message: String,
    /// What it touches: objects, collections, settings.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub items: Vec<String>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_code_is_explained_to_users() {
        let page = include_str!(concat!(env!("CARGO_MANIFEST_DIR"), "/docs/consistency.md"));
        for code in CODES {
            assert!(page.contains(&format!("| `{code}` |")), "{code}");
        }
    }
}
