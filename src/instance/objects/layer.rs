//! Where the objects of an instance are.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Where segment objects were.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "type", rename_all = "lowercase")]
pub enum ObjectLayer {
    /// In a directory.
    Local {
        /// Milvus's `localStorage.path`.
        path: String,
    },
    /// In a bucket.
    S3 {
        /// The endpoint as Milvus uses it.
        endpoint: String,
        /// The bucket.
        bucket: String,
        /// The root path within it.
        prefix: String,
    },
}
