//! Edits of values, on the wire.

use super::StorageRoots;
use crate::milvus::MilvusVersion;
use crate::milvus::catalog::{TTL_PROPERTY, WalKind};
use crate::milvus::wire::Message;
use crate::{Cause, Error, Result};

/// Positions at the beginning of a fresh WAL (docs/milvus.md 5.3).
#[derive(Debug, Clone)]
pub(super) struct Earliest {
    kind: WalKind,
    version: MilvusVersion,
}

/// Pulsar's `MessageIdData`: ledger, entry, partition and batch −1, batch size 0.
const PULSAR_EARLIEST: [u8; 46] = {
    let mut bytes = [0xff; 46];
    let mut field = 0;
    // Four varints of −1 (nine bytes 0xff and one 0x01) after their tags.
    while field < 4 {
        bytes[field * 11] = [0x08, 0x10, 0x18, 0x20][field];
        bytes[field * 11 + 10] = 0x01;
        field += 1;
    }
    bytes[44] = 0x30;
    bytes[45] = 0x00;
    bytes
};

/// The same in base64, as consume checkpoints have it.
const PULSAR_EARLIEST_TEXT: &str =
    "CP///////////wEQ////////////ARj///////////8BIP///////////wEwAA==";

/// Positions name their WAL from this version on.
const POSITIONS_NAME_WAL: (u64, u64, u64) = (2, 6, 8);

/// Message ids of consume checkpoints name their WAL from this version on.
const MESSAGE_IDS_NAME_WAL: (u64, u64, u64) = (2, 6, 2);

impl Earliest {
    pub(super) const fn new(kind: WalKind, version: MilvusVersion) -> Self {
        Self { kind, version }
    }

    fn at_least(&self, (major, minor, patch): (u64, u64, u64)) -> bool {
        self.version.at_least(major, minor, patch)
    }

    const fn bytes(&self) -> &'static [u8] {
        match self.kind {
            WalKind::Rocksmq | WalKind::Kafka | WalKind::Natsmq => &[0; 8],
            WalKind::Pulsar => &PULSAR_EARLIEST,
            WalKind::Woodpecker => &[],
        }
    }

    const fn text(&self) -> &'static str {
        match self.kind {
            WalKind::Rocksmq | WalKind::Kafka | WalKind::Natsmq => "0",
            WalKind::Pulsar => PULSAR_EARLIEST_TEXT,
            WalKind::Woodpecker => "",
        }
    }

    fn number(&self) -> Option<u64> {
        self.kind
            .number()
            .and_then(|number| u64::try_from(number).ok())
    }

    /// Sets a `MsgPosition` to the beginning; channel, group and timestamp stay, as readers wait
    /// for a tick past the timestamp.
    pub(super) fn position(&self, position: &mut Message) {
        position.set_bytes(2, self.bytes());
        if let Some(number) = self.number()
            && (self.at_least(POSITIONS_NAME_WAL) || position.has(5))
        {
            position.set_varint(5, number);
        }
    }

    /// A channel checkpoint.
    pub(super) fn checkpoint(&self, value: &[u8]) -> Result<Vec<u8>> {
        let mut position = Message::parse(value)?;
        self.position(&mut position);
        Ok(position.encode())
    }

    /// The start positions of a collection, and how many there were.
    pub(super) fn start_positions(&self, collection: &mut Message) -> Result<usize> {
        collection.edit(11, |pair| {
            pair.set_bytes(2, self.bytes());
            Ok(())
        })
    }

    /// Start and DML position of a segment, and how many there were.
    pub(super) fn segment(&self, segment: &mut Message) -> Result<usize> {
        let mut count = 0;
        for number in [9, 10] {
            count += segment.edit(number, |position| {
                self.position(position);
                Ok(())
            })?;
        }
        Ok(count)
    }

    /// A streaming node's checkpoint: the id moves, the time tick stays; what it says of a change
    /// of the WAL or of replication goes.
    pub(super) fn consume_checkpoint(&self, value: &[u8]) -> Result<Vec<u8>> {
        let mut checkpoint = Message::parse(value)?;
        let mut id = Message::default();
        id.set_bytes(1, self.text().as_bytes());
        if let Some(number) = self.number()
            && self.at_least(MESSAGE_IDS_NAME_WAL)
        {
            id.set_varint(2, number);
        }
        checkpoint.set_message(1, &id);
        for number in [4, 5, 6] {
            checkpoint.remove(number);
        }
        Ok(checkpoint.encode())
    }
}

/// Sets `collection.ttl.seconds` to 0 where it is set, and says in how many places.
pub(super) fn suspend_ttl(collection: &mut Message) -> Result<usize> {
    let mut count = 0;
    let mut suspend = |pair: &mut Message| {
        let key = pair.bytes(1)?.unwrap_or_default();
        let value = pair.bytes(2)?.unwrap_or_default();
        if key == TTL_PROPERTY.as_bytes() && value != b"0" {
            pair.set_bytes(2, b"0");
            count += 1;
        }
        Ok(())
    };
    collection.edit_path(&[14], &mut suspend)?;
    collection.edit_path(&[2, 6], &mut suspend)?;
    Ok(count)
}

/// Puts the target's storage root into the paths that a segment's record holds whole
/// (docs/milvus.md 4.4): text and JSON statistics before 2.6.8, the manifest. Says how many there were.
pub(super) fn storage_root(segment: &mut Message, roots: &StorageRoots) -> Result<usize> {
    let mut count = 0;
    for (statistics, directories) in [
        (26, &["text_log/"][..]),
        (29, &["json_key_index_log/", "json_stats/"][..]),
    ] {
        segment.edit_path(&[statistics, 2], &mut |stats| {
            count += stats.edit_bytes(3, |path| moved(path, directories, roots))?;
            Ok(())
        })?;
    }
    if let Some(manifest) = segment.bytes(32)?.map(<[u8]>::to_vec) {
        let manifest = move_manifest(&manifest, roots)?;
        segment.set_bytes(32, &manifest);
        count += 1;
    }
    Ok(count)
}

fn moved(path: &[u8], directories: &[&str], roots: &StorageRoots) -> Option<Vec<u8>> {
    let path = std::str::from_utf8(path).ok()?;
    let rest = below(path, &roots.source)?;
    let known = directories
        .iter()
        .any(|directory| rest.starts_with(directory));
    known.then(|| join(&roots.target, rest).into_bytes())
}

fn move_manifest(manifest: &[u8], roots: &StorageRoots) -> Result<Vec<u8>> {
    let bad = || {
        Error::new(
            Cause::Damage,
            "the manifest path is not the JSON that it should be",
        )
    };
    let mut json: serde_json::Value = serde_json::from_slice(manifest).map_err(|_| bad())?;
    let base = json
        .get("base_path")
        .and_then(|base| base.as_str())
        .ok_or_else(bad)?;
    if let Some(rest) = below(base, &roots.source) {
        json["base_path"] = join(&roots.target, rest).into();
    }
    Ok(json.to_string().into_bytes())
}

fn below<'p>(path: &'p str, root: &str) -> Option<&'p str> {
    let root = root.trim_end_matches('/');
    match root {
        "" => Some(path),
        _ => path.strip_prefix(root)?.strip_prefix('/'),
    }
}

fn join(root: &str, rest: &str) -> String {
    match root.trim_end_matches('/') {
        "" => rest.to_owned(),
        root => format!("{root}/{rest}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pulsars_earliest_is_the_documented_bytes_and_its_text_is_their_base64() {
        use base64::Engine;
        let hex = "08ffffffffffffffffff0110ffffffffffffffffff0118ffffffffffffffffff01\
                   20ffffffffffffffffff013000";
        assert_eq!(hex::encode(PULSAR_EARLIEST), hex);
        let text = base64::engine::general_purpose::STANDARD.encode(PULSAR_EARLIEST);
        assert_eq!(text, PULSAR_EARLIEST_TEXT);
    }

    #[test]
    fn paths_move_between_roots_and_names_stay() {
        let roots = StorageRoots {
            source: "files".to_owned(),
            target: "/data/milvus/".to_owned(),
        };
        let directories = ["text_log/"];
        assert_eq!(
            moved(b"files/text_log/1/2/a", &directories, &roots),
            Some(b"/data/milvus/text_log/1/2/a".to_vec())
        );
        for stays in ["a_0", "filesystem/text_log/1", "files/other/1"] {
            assert_eq!(
                moved(stays.as_bytes(), &directories, &roots),
                None,
                "{stays}"
            );
        }
        let manifest = br#"{"ver":3,"base_path":"files/insert_log/1/2/3"}"#;
        assert_eq!(
            move_manifest(manifest, &roots).unwrap(),
            br#"{"ver":3,"base_path":"/data/milvus/insert_log/1/2/3"}"#
        );
    }
}
