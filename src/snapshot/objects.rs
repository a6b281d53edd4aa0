//! How the `objects` map describes an object (docs/format.md, section 10).

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// How the value of a key in the `objects` map describes its object.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ObjectEntry {
    /// The kind of object, e.g. `insert_log`.
    pub kind: String,
    /// The identity in the source when its bytes were read; equal identities mean equal bytes.
    pub identity: String,
}
