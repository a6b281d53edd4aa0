//! Amendments: what a snapshot owed or has lost since it was made (section 12). A manifest is final.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::ids::{AmendmentId, ManifestHash, SessionId, SnapshotId};
use super::manifest::Roots;
use super::tree::node::{Content, Entry};
use super::wire::damaged;
use crate::Result;

/// What is said of some entries of a snapshot's maps.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Amendment {
    /// The version of the format, 1.
    pub format: u64,
    /// The amendment's id.
    pub amendment: AmendmentId,
    /// The snapshot.
    pub snapshot: SnapshotId,
    /// What its manifest is known by: [`Manifest::known_as`](crate::repo::Manifest::known_as).
    pub manifest: ManifestHash,
    /// The session that wrote it.
    pub session: SessionId,
    /// When it was written.
    pub time: Timestamp,
    /// Maps with the names of the snapshot's maps and some of their keys. An external object or a volume has the
    /// hash that was owed; an entry without content, the value of which says why, is lost.
    pub roots: Roots,
    /// Features that one must know to read this amendment.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub requires: Vec<String>,
}

/// What the value of an entry says whose bytes are lost.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Lost {
    lost: String,
}

/// What an entry of a snapshot's map is after the amendment `by` of the same key.
///
/// # Errors
///
/// [`Cause::Damage`](crate::Cause::Damage) when the amendment says something else of the object than the
/// snapshot, or nothing that an amendment can.
pub(crate) fn amend(mut entry: Entry, by: &Entry) -> Result<Entry> {
    let wrong = |why: &str| {
        let key = String::from_utf8_lossy(&entry.key).into_owned();
        damaged(format!("an amendment of {key} is damaged: {why}"))
    };
    let said = match (&entry.content, &by.content) {
        (Content::Lost { .. }, Content::None) => entry.content.clone(),
        (Content::External { size, .. } | Content::Volume { size, .. }, Content::None) => {
            let lost: Lost = serde_json::from_slice(&by.value)
                .map_err(|error| wrong("it says nothing").with_source(error))?;
            Content::Lost {
                hash: entry.content.hash().copied(),
                size: *size,
                why: lost.lost,
            }
        }
        (before, after) => {
            let hash = after.hash().ok_or_else(|| wrong("it has no hash"))?;
            if before.hash().is_some_and(|known| known != hash) {
                return Err(wrong("it states another hash"));
            }
            let paid = before.with_hash(*hash);
            if paid.as_ref() != Some(after) {
                return Err(wrong("it is of another object"));
            }
            after.clone()
        }
    };
    entry.content = said;
    Ok(entry)
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;
    use crate::repo::format::ids::ObjectHash;

    fn entry(content: Content, value: &'static str) -> Entry {
        Entry {
            key: "k".into(),
            value: value.into(),
            content,
        }
    }

    fn pinned(hash: Option<u8>, size: u64) -> Content {
        Content::External {
            hash: hash.map(|n| ObjectHash([n; 32])),
            size,
            pin: Bytes::from("pin"),
        }
    }

    #[test]
    fn an_owed_hash_is_paid_once_and_never_replaced() {
        let owed = entry(pinned(None, 5), "about");
        let paid = amend(owed.clone(), &entry(pinned(Some(1), 5), "")).unwrap();
        assert_eq!(paid, entry(pinned(Some(1), 5), "about"));
        assert_eq!(
            amend(paid.clone(), &entry(pinned(Some(1), 5), "")).unwrap(),
            paid
        );
        let object = Content::Object {
            hash: ObjectHash([1; 32]),
            size: 0,
            pieces: vec![],
        };
        for bad in [
            pinned(Some(2), 5),
            pinned(None, 5),
            pinned(Some(1), 6),
            object,
        ] {
            let error = amend(paid.clone(), &entry(bad, "")).unwrap_err();
            assert_eq!(error.cause(), crate::Cause::Damage);
        }
    }

    #[test]
    fn what_is_lost_stays_lost() {
        let lost = entry(Content::None, r#"{"lost":"the version was deleted"}"#);
        let gone = amend(entry(pinned(Some(1), 5), ""), &lost).unwrap();
        let why = "the version was deleted".to_owned();
        let hash = Some(ObjectHash([1; 32]));
        assert_eq!(gone.content, Content::Lost { hash, size: 5, why });
        assert_eq!(amend(gone.clone(), &lost).unwrap(), gone);
        let says_nothing = entry(Content::None, "{}");
        assert!(amend(entry(pinned(None, 5), ""), &says_nothing).is_err());
        assert!(
            amend(entry(Content::None, ""), &lost).is_err(),
            "nothing was pinned"
        );
    }
}
