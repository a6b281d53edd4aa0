//! What a manifest says of an object layer.

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

/// The kinds of object layers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum LayerKind {
    /// A directory.
    Local,
    /// A bucket.
    S3,
}

impl LayerKind {
    /// The word in the configuration and in documents.
    #[must_use]
    pub const fn word(self) -> &'static str {
        match self {
            Self::Local => "local",
            Self::S3 => "s3",
        }
    }
}

impl ObjectLayer {
    /// Its kind.
    #[must_use]
    pub const fn kind(&self) -> LayerKind {
        match self {
            Self::Local { .. } => LayerKind::Local,
            Self::S3 { .. } => LayerKind::S3,
        }
    }

    /// The storage root as Milvus knows it: paths in its metadata may begin with it.
    #[must_use]
    pub fn root(&self) -> &str {
        match self {
            Self::Local { path } => path,
            Self::S3 { prefix, .. } => prefix,
        }
    }
}
