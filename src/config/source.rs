//! Where a setting comes from, and the list of all settings in force.

use std::fmt;
use std::path::{Path, PathBuf};

/// A line in a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    /// The file.
    pub file: PathBuf,
    /// Line, counted from 1.
    pub line: usize,
}

impl Place {
    /// A line of `file`.
    #[must_use]
    pub fn new(file: &Path, line: usize) -> Self {
        Self {
            file: file.to_owned(),
            line,
        }
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.file.display(), self.line)
    }
}

/// Who set a value; an earlier variant wins over a later one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Source {
    /// Our own configuration file.
    Explicit(Place),
    /// A variable beginning with `EYRIE_`.
    Variable(String),
    /// The file of variables that Milvus is started with.
    MilvusEnv(Place),
    /// A `milvus.yaml`.
    MilvusYaml(Place),
    /// Follows from other settings, as told.
    Derived(String),
    /// What the `milvus.yaml` that Milvus ships says.
    Default,
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Explicit(place) | Self::MilvusEnv(place) | Self::MilvusYaml(place) => {
                write!(f, "{place}")
            }
            Self::Variable(name) => write!(f, "${name}"),
            Self::Derived(why) => f.write_str(why),
            Self::Default => f.write_str("default"),
        }
    }
}

/// One setting in force.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Setting {
    /// Its key, as it could be set in our own file.
    pub key: String,
    /// Its value for people; secrets are masked, `None` is not set.
    pub value: Option<String>,
    /// Who set it.
    pub source: Source,
}
