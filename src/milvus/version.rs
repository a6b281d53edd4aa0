//! Milvus versions and the rules that hang on them.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::{Error, Kind};

/// A Milvus version: major, minor, patch; a suffix such as `-gpu` or `-rc1` is dropped.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct MilvusVersion {
    major: u32,
    minor: u32,
    patch: u32,
}

impl MilvusVersion {
    /// The version `major.minor.patch`.
    #[must_use]
    pub const fn new(major: u32, minor: u32, patch: u32) -> Self {
        Self {
            major,
            minor,
            patch,
        }
    }

    /// The major version.
    #[must_use]
    pub const fn major(self) -> u32 {
        self.major
    }

    /// The minor version.
    #[must_use]
    pub const fn minor(self) -> u32 {
        self.minor
    }

    /// The patch version.
    #[must_use]
    pub const fn patch(self) -> u32 {
        self.patch
    }

    /// Whether this is `major.minor` of any patch.
    #[must_use]
    pub const fn is_line(self, major: u32, minor: u32) -> bool {
        self.major == major && self.minor == minor
    }

    /// Whether a snapshot of `source` may be restored onto this version: the same major and minor,
    /// and no lower patch (facts 8.2.1).
    #[must_use]
    pub fn accepts(self, source: Self) -> bool {
        self.is_line(source.major, source.minor) && self.patch >= source.patch
    }

    /// Whether `RootCoord` reads its catalog at start from the copies under `snapshots/` instead of
    /// the plain keys: versions before 2.4.14 (Milvus #36934, read in the source of 2.2.16, 2.3.5
    /// and 2.3.22).
    #[must_use]
    pub fn reads_snapshot_copies(self) -> bool {
        self < Self::new(2, 4, 14)
    }

    /// Whether Milvus has streaming nodes and their write-ahead log: 2.6 and later.
    #[must_use]
    pub fn has_streaming(self) -> bool {
        self >= Self::new(2, 6, 0)
    }

    /// Whether dynamic configuration lives at `{root}/config/`: 2.3 and later; 2.2 has it below
    /// `{root}/meta/config/`.
    #[must_use]
    pub fn has_root_config(self) -> bool {
        self >= Self::new(2, 3, 0)
    }
}

impl fmt::Display for MilvusVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}.{}", self.major, self.minor, self.patch)
    }
}

impl FromStr for MilvusVersion {
    type Err = Error;

    /// Reads `2.3.5`, `v2.3.5`, `2.3.5-gpu` and the like; [`Kind::Instance`] for anything else.
    fn from_str(text: &str) -> Result<Self, Error> {
        let bad = || {
            Error::new(Kind::Instance, format!("`{text}` is not a Milvus version"))
                .with_hint("set instance.milvus.version to the version that runs, such as 2.3.5")
        };
        let trimmed = text.trim();
        let bare = trimmed.strip_prefix(['v', 'V']).unwrap_or(trimmed);
        let numbers = bare.split(['-', '+']).next().unwrap_or(bare);
        let mut parts = numbers.split('.').map(str::parse::<u32>);
        let mut next = || parts.next().and_then(Result::ok).ok_or_else(bad);
        let version = Self::new(next()?, next()?, next()?);
        if parts.next().is_some() {
            return Err(bad());
        }
        Ok(version)
    }
}

impl TryFrom<String> for MilvusVersion {
    type Error = Error;

    fn try_from(text: String) -> Result<Self, Error> {
        text.parse()
    }
}

impl From<MilvusVersion> for String {
    fn from(version: MilvusVersion) -> Self {
        version.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parses_what_servers_answer() {
        for text in [
            "2.3.5",
            "v2.3.5",
            "2.3.5-gpu",
            " v2.3.5-lite \n",
            "2.3.5+dirty",
        ] {
            assert_eq!(
                text.parse::<MilvusVersion>().ok(),
                Some(MilvusVersion::new(2, 3, 5)),
                "{text}"
            );
        }
        for text in ["", "master", "2.3", "2.3.5.1", "20240101-abcdef"] {
            assert!(text.parse::<MilvusVersion>().is_err(), "{text}");
        }
    }

    #[test]
    fn a_target_is_the_same_line_and_no_older() {
        let source = MilvusVersion::new(2, 3, 5);
        assert!(MilvusVersion::new(2, 3, 22).accepts(source));
        assert!(!MilvusVersion::new(2, 3, 4).accepts(source));
        assert!(!MilvusVersion::new(2, 4, 5).accepts(source));
    }
}
