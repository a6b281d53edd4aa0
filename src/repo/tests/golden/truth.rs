//! What a golden repository truly holds, as plain JSON: a reader in any language can be judged by it.

use std::collections::BTreeMap;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::repo::{ObjectHash, RepositoryId, SnapshotId};

/// Bytes as runs, so that what repeats is short.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Runs(pub Vec<(Vec<u8>, usize)>);

#[derive(Serialize, Deserialize)]
struct Run {
    base64: String,
    times: usize,
}

impl Runs {
    pub fn of(bytes: &[u8]) -> Self {
        if bytes.is_empty() {
            return Self::default();
        }
        Self(vec![(bytes.to_vec(), 1)])
    }

    pub fn expand(&self) -> Vec<u8> {
        let run = |(bytes, times): &(Vec<u8>, usize)| bytes.repeat(*times);
        self.0.iter().flat_map(run).collect()
    }
}

impl Serialize for Runs {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let run = |(bytes, times): &(Vec<u8>, usize)| Run {
            base64: BASE64.encode(bytes),
            times: *times,
        };
        serializer.collect_seq(self.0.iter().map(run))
    }
}

impl<'de> Deserialize<'de> for Runs {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let runs = Vec::<Run>::deserialize(deserializer)?;
        let run = |run: Run| Ok((BASE64.decode(run.base64)?, run.times));
        let runs: Result<_, base64::DecodeError> = runs.into_iter().map(run).collect();
        runs.map(Self).map_err(serde::de::Error::custom)
    }
}

/// The content of an entry.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Content {
    None,
    Object {
        hash: ObjectHash,
        size: u64,
        bytes: Runs,
    },
    External {
        hash: Option<ObjectHash>,
        size: u64,
        pin: Runs,
    },
    Volume {
        hash: Option<ObjectHash>,
        size: u64,
        piece: u32,
        bytes: Runs,
    },
    Lost {
        hash: Option<ObjectHash>,
        size: u64,
        why: String,
    },
}

/// One entry of a map, amendments applied.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    pub key: Runs,
    pub value: Runs,
    pub content: Content,
}

/// One snapshot.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Snapshot {
    #[serde(rename = "snapshot")]
    pub id: SnapshotId,
    pub instance: String,
    pub sequence: u64,
    pub parent: Option<SnapshotId>,
    /// The repository that a copy was made in.
    pub origin: Option<RepositoryId>,
    pub maps: BTreeMap<String, Vec<Entry>>,
}

/// A whole repository.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Truth {
    /// What opens it; none when it is not encrypted.
    pub passphrases: Vec<String>,
    /// Ascending by id.
    pub snapshots: Vec<Snapshot>,
    /// Manifests that are no snapshots.
    pub void: Vec<SnapshotId>,
    /// Snapshots that were forgotten: their manifests are gone.
    pub forgotten: Vec<SnapshotId>,
}

impl Entry {
    /// The same with each run expanded, to be compared.
    pub fn expanded(&self) -> Self {
        let plain = |runs: &Runs| Runs::of(&runs.expand());
        let mut content = self.content.clone();
        match &mut content {
            Content::None | Content::Lost { .. } => {}
            Content::Object { bytes, .. } | Content::Volume { bytes, .. } => *bytes = plain(bytes),
            Content::External { pin, .. } => *pin = plain(pin),
        }
        Self {
            key: plain(&self.key),
            value: plain(&self.value),
            content,
        }
    }
}
