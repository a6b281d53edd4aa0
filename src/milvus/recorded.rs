//! Keys and files recorded from a real Milvus, for tests.

use std::collections::BTreeMap;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::Deserialize;

use super::keys::KeyValue;

const KEYS: &str = include_str!("../../tests/data/milvus-2.3.5/keys.jsonl");
const FILES: &str = include_str!("../../tests/data/milvus-2.3.5/objects.tsv");

#[derive(Deserialize)]
struct Line {
    key: String,
    value: String,
    create_revision: i64,
    mod_revision: i64,
    version: i64,
    lease: i64,
}

/// All keys under `by-dev/`.
///
/// # Panics
///
/// When the recording is damaged.
#[must_use]
pub fn keys() -> Vec<KeyValue> {
    let keys = KEYS.lines().map(|line| {
        let line: Line = serde_json::from_str(line).unwrap();
        KeyValue {
            key: STANDARD.decode(line.key).unwrap(),
            value: STANDARD.decode(line.value).unwrap(),
            create_revision: line.create_revision,
            mod_revision: line.mod_revision,
            version: line.version,
            lease: line.lease,
        }
    });
    keys.collect()
}

/// Sizes of all files below the storage root.
///
/// # Panics
///
/// When the recording is damaged.
#[must_use]
pub fn files() -> BTreeMap<String, u64> {
    let files = FILES.lines().map(|line| {
        let (path, size) = line.split_once('\t').unwrap();
        (path.to_owned(), size.parse().unwrap())
    });
    files.collect()
}
