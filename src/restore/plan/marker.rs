//! The marker of a restore in the target's etcd: what makes it resumable and keeps others away.
//!
//! Keys below `{root}/eyrie/`, outside Milvus's own areas. `restore` is the marker: put before the
//! first object, never changed, deleted when all is done. `restore-stage` says how far it came,
//! `restore-saved` where the old keys and the list of old objects are. `restored` stays behind as the
//! record of the newest restore.

use jiff::Timestamp;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::etcd::KeyValue;
use crate::instance::OWN_AREA;
use crate::restore::options::{Occupied, Options};
use crate::{Cause, Error, Result};

/// The area of eyrie's own keys below the root.
pub const AREA: &str = OWN_AREA;

/// The keys of one root.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MarkerKeys {
    /// `{root}/eyrie/`.
    pub area: String,
    /// The marker.
    pub marker: Vec<u8>,
    /// The stage.
    pub stage: Vec<u8>,
    /// The snapshot that holds the keys that were there before.
    pub saved: Vec<u8>,
    /// What the target said of itself when the swap began.
    pub pinned: Vec<u8>,
    /// The record of a finished restore.
    pub record: Vec<u8>,
    /// The lock of the process at work.
    pub lock: Vec<u8>,
}

impl MarkerKeys {
    /// The keys below `root`, which has no slash at its end.
    #[must_use]
    pub fn new(root: &str) -> Self {
        let area = format!("{root}/{AREA}");
        let key = |name: &str| format!("{area}{name}").into_bytes();
        Self {
            marker: key("restore"),
            stage: key("restore-stage"),
            saved: key("restore-saved"),
            pinned: key("restore-target"),
            record: key("restored"),
            lock: key("restore-lock"),
            area,
        }
    }

    /// Whether `key` is one of eyrie's own.
    #[must_use]
    pub fn owns(&self, key: &[u8]) -> bool {
        key.starts_with(self.area.as_bytes())
    }
}

/// Which restore a target belongs to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Marker {
    /// Random; the same through all resumptions.
    pub restore: String,
    /// The repository's id.
    pub repository: String,
    /// The snapshot's id.
    pub snapshot: String,
    /// What was asked for and shapes what is written; a resumption must ask for the same.
    pub options: String,
    /// When it began; counters are advanced to this time.
    pub started: Timestamp,
    /// Whether it took the place of a restore whose swap had begun: then nothing whole was there before.
    #[serde(default)]
    pub over_swap: bool,
}

impl Marker {
    /// What of `options` shapes a restore, for [`Marker::options`]. Replacing belongs to it: who went
    /// on without would leave what the first run was to remove.
    #[must_use]
    pub fn asked(options: &Options) -> String {
        let ttl = format!("ttl {:?}", options.ttl).to_lowercase();
        match options.occupied {
            Occupied::Refuse => ttl,
            Occupied::Replace => format!("{ttl}, replace"),
        }
    }

    /// Whether `other` is a restore of the same snapshot with the same options.
    #[must_use]
    pub fn continues(&self, other: &Self) -> bool {
        self.repository == other.repository
            && self.snapshot == other.snapshot
            && self.options == other.options
    }

    /// As the value of its key.
    pub fn to_value(&self) -> Result<Vec<u8>> {
        serde_json::to_vec(self)
            .map_err(|e| Error::new(Cause::Failed, "writing the restore's marker").with_source(e))
    }

    /// Reads a value; `None` when it is not one of ours.
    #[must_use]
    pub fn from_value(value: &[u8]) -> Option<Self> {
        serde_json::from_slice(value).ok()
    }
}

/// What a target said of itself when a swap began: it says something else once keys are gone, and every run
/// is to write the same.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pinned {
    /// Its own counter of sessions.
    pub session_id: i64,
    /// The version of its Milvus.
    pub version: String,
}

/// How far a restore came.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema,
)]
#[serde(rename_all = "lowercase")]
pub enum Stage {
    /// Objects are being placed; what was there before is whole.
    Objects,
    /// What was there before is being replaced; the only way is forward.
    Swap,
    /// The old keys are gone and the new ones are being written.
    Keys,
    /// The keys are written and compared; what is left over is being removed.
    Clean,
}

impl Stage {
    /// As the value of its key.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Objects => "objects",
            Self::Swap => "swap",
            Self::Keys => "keys",
            Self::Clean => "clean",
        }
    }

    pub(crate) fn from_value(value: &[u8]) -> Option<Self> {
        [Self::Objects, Self::Swap, Self::Keys, Self::Clean]
            .into_iter()
            .find(|stage| stage.as_str().as_bytes() == value)
    }
}

/// What an etcd root says of restores.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Found {
    /// The marker of an unfinished restore, or the record of a finished one after which no key
    /// has changed.
    pub marker: Option<Marker>,
    /// How far it came.
    pub stage: Option<Stage>,
    /// The snapshot that the old keys and the list of old objects were saved in.
    pub saved: Option<String>,
    /// What the target said of itself when the swap of the newest restore began.
    pub pinned: Option<Pinned>,
    /// The value of the marker's key, where there is one.
    pub value: Option<Vec<u8>>,
    /// A key that was written after the swap had begun, before any was written by the restore, or after
    /// everything had been compared: Milvus has run since.
    pub touched: Option<String>,
}

impl Found {
    /// Reads it from all keys below a root.
    ///
    /// A finished restore whose result nobody has touched counts as one that can go on: the same
    /// command then checks everything again, and a kill between the last write and the exit does
    /// not make the next run refuse.
    #[must_use]
    pub fn read(keys: &MarkerKeys, found: &[KeyValue]) -> Self {
        let get = |key: &[u8]| found.iter().find(|kv| kv.key == key);
        let stage = get(&keys.stage).and_then(|kv| Stage::from_value(&kv.value));
        let saved = get(&keys.saved).map(|kv| String::from_utf8_lossy(&kv.value).into_owned());
        let saved = saved.filter(|id| !id.is_empty());
        let pinned = get(&keys.pinned).and_then(|kv| serde_json::from_slice(&kv.value).ok());
        let touched = |since: &KeyValue| {
            let others = || found.iter().filter(|kv| !keys.owns(&kv.key));
            let touched = others().find(|kv| kv.mod_revision > since.mod_revision);
            touched.map(|kv| String::from_utf8_lossy(&kv.key).into_owned())
        };
        let value = get(&keys.marker).map(|kv| kv.value.clone());
        if let Some(marker) = value.as_deref().and_then(Marker::from_value) {
            let exact = matches!(stage, Some(Stage::Swap | Stage::Clean));
            let since = get(&keys.stage).filter(|_| exact);
            return Self {
                marker: Some(marker),
                stage,
                saved,
                pinned,
                value,
                touched: since.and_then(touched),
            };
        }
        let record = get(&keys.record).filter(|record| touched(record).is_none());
        let marker = record.and_then(|kv| Marker::from_value(&kv.value));
        Self {
            stage: marker.is_some().then_some(Stage::Clean),
            pinned,
            marker,
            saved,
            value,
            touched: None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kv(key: &[u8], value: &[u8], revision: i64) -> KeyValue {
        KeyValue {
            key: key.to_vec(),
            value: value.to_vec(),
            create_revision: revision,
            mod_revision: revision,
            version: 1,
            lease: 0,
        }
    }

    fn marker() -> Marker {
        Marker {
            over_swap: false,
            restore: "r".into(),
            repository: "a".into(),
            snapshot: "s".into(),
            options: String::new(),
            started: Timestamp::UNIX_EPOCH,
        }
    }

    #[test]
    fn a_restore_that_replaces_is_not_continued_by_one_that_does_not() {
        let of = |occupied| {
            let options = Options {
                occupied,
                ..Options::default()
            };
            Marker {
                options: Marker::asked(&options),
                ..marker()
            }
        };
        let (plain, replacing) = (of(Occupied::Refuse), of(Occupied::Replace));
        assert!(replacing.continues(&replacing) && plain.continues(&plain));
        assert!(!replacing.continues(&plain) && !plain.continues(&replacing));
    }

    #[test]
    fn an_unfinished_restore_is_found_with_its_stage() {
        let keys = MarkerKeys::new("by-dev");
        let found = Found::read(
            &keys,
            &[
                kv(&keys.marker, &marker().to_value().unwrap(), 5),
                kv(&keys.stage, b"swap", 6),
            ],
        );
        assert_eq!(found.marker, Some(marker()));
        assert_eq!(found.stage, Some(Stage::Swap));
    }

    #[test]
    fn a_finished_restore_goes_on_only_while_nothing_has_changed() {
        let keys = MarkerKeys::new("by-dev");
        let record = kv(&keys.record, &marker().to_value().unwrap(), 9);
        let key = |revision| kv(b"by-dev/meta/session/id", b"4", revision);
        let found = Found::read(&keys, &[key(8), record.clone()]);
        assert_eq!(found.stage, Some(Stage::Clean));
        assert_eq!(Found::read(&keys, &[key(10), record]), Found::default());
    }

    #[test]
    fn what_was_written_after_the_comparison_is_seen() {
        let keys = MarkerKeys::new("by-dev");
        let marker = kv(&keys.marker, &marker().to_value().unwrap(), 5);
        let key = |revision| kv(b"by-dev/meta/session/id", b"4", revision);
        for (stage, revision, expected) in [
            ("clean", 8, None),
            ("clean", 10, Some("by-dev/meta/session/id")),
            ("swap", 10, Some("by-dev/meta/session/id")),
            ("keys", 10, None),
        ] {
            let stage = kv(&keys.stage, stage.as_bytes(), 9);
            let lock = kv(&keys.lock, b"o", 11);
            let found = Found::read(&keys, &[key(revision), marker.clone(), stage, lock]);
            assert_eq!(found.touched.as_deref(), expected);
        }
    }

    #[test]
    fn only_the_same_snapshot_and_options_continue() {
        let other = Marker {
            snapshot: "t".into(),
            ..marker()
        };
        assert!(!marker().continues(&other));
        let later = Marker {
            restore: "q".into(),
            started: Timestamp::MAX,
            ..marker()
        };
        assert!(marker().continues(&later));
    }
}
