//! Kinds of write-ahead log, and what stored positions tell about them.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// The message queue or log that an instance writes through.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema,
)]
#[serde(rename_all = "lowercase")]
pub enum WalKind {
    /// `RocksDB` in the Milvus process; standalone only.
    Rocksmq,
    /// Apache Pulsar.
    Pulsar,
    /// Apache Kafka.
    Kafka,
    /// Woodpecker, 2.6 and later.
    Woodpecker,
    /// NATS in the Milvus process, 2.3 to 2.5.
    Natsmq,
}

impl WalKind {
    /// The number by which Milvus names the kind in positions (`WALName`, 2.6.2 and later); none for
    /// natsmq, which 2.6 does not have.
    #[must_use]
    pub const fn number(self) -> Option<i32> {
        match self {
            Self::Rocksmq => Some(1),
            Self::Pulsar => Some(2),
            Self::Kafka => Some(3),
            Self::Woodpecker => Some(4),
            Self::Natsmq => None,
        }
    }

    /// The kind of that number.
    #[must_use]
    pub const fn from_number(number: i32) -> Option<Self> {
        match number {
            1 => Some(Self::Rocksmq),
            2 => Some(Self::Pulsar),
            3 => Some(Self::Kafka),
            4 => Some(Self::Woodpecker),
            _ => None,
        }
    }
}

impl WalKind {
    /// All of them.
    pub const ALL: [Self; 5] = [
        Self::Rocksmq,
        Self::Pulsar,
        Self::Kafka,
        Self::Woodpecker,
        Self::Natsmq,
    ];

    /// The name as Milvus writes it in `mq.type`.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Rocksmq => "rocksmq",
            Self::Pulsar => "pulsar",
            Self::Kafka => "kafka",
            Self::Woodpecker => "woodpecker",
            Self::Natsmq => "natsmq",
        }
    }

    /// The kind of that name.
    #[must_use]
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.name() == name)
    }
}

impl fmt::Display for WalKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// What the positions in an anchor tell about the kind of WAL.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct WalEvidence {
    /// Kinds that positions name (2.6.2 and later), with how many do.
    pub named: BTreeMap<WalKind, u64>,
    /// Kinds that the bytes of message ids fit, with how many do.
    pub fitting: BTreeMap<WalKind, u64>,
}

impl WalEvidence {
    /// The kinds that the anchor allows: those it names, else those that its message ids fit; empty
    /// when it has no positions.
    #[must_use]
    pub fn kinds(&self) -> BTreeSet<WalKind> {
        let evidence = if self.named.is_empty() {
            &self.fitting
        } else {
            &self.named
        };
        evidence.keys().copied().collect()
    }

    pub(super) fn see(&mut self, message_id: &[u8], number: i32) {
        if let Some(kind) = WalKind::from_number(number) {
            *self.named.entry(kind).or_default() += 1;
        }
        for kind in fitting(message_id) {
            *self.fitting.entry(*kind).or_default() += 1;
        }
    }
}

/// Message ids of rocksmq come from the id allocator and look like hybrid timestamps; offsets of
/// Kafka and sequence numbers of NATS are counted from 0.
const LEAST_ROCKSMQ_ID: u64 = 1 << 50;

/// Kinds whose message ids may look like this (docs/milvus.md 5.3).
fn fitting(message_id: &[u8]) -> &'static [WalKind] {
    if let Ok(bytes) = <[u8; 8]>::try_from(message_id) {
        return match u64::from_le_bytes(bytes) {
            0 => &[],
            id if id >= LEAST_ROCKSMQ_ID => &[WalKind::Rocksmq],
            _ => &[WalKind::Kafka, WalKind::Natsmq],
        };
    }
    // Pulsar's MessageIdData starts with the ledger (field 1) and has at least four fields.
    match message_id {
        [] => &[],
        [0x08, ..] if has_partition(message_id) => &[WalKind::Pulsar],
        _ => &[WalKind::Woodpecker],
    }
}

/// Whether a protobuf message of varints has field 3, as Pulsar's ids have and Woodpecker's do not.
fn has_partition(message_id: &[u8]) -> bool {
    let mut at_tag = true;
    for &byte in message_id {
        if at_tag && byte == 0x18 {
            return true;
        }
        // A tag of fields 1 to 15 is one byte; a varint ends where the high bit is clear.
        at_tag = if at_tag { false } else { byte & 0x80 == 0 };
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn message_ids_tell_their_kind() {
        let pulsar = [0x08, 0x95, 0x01, 0x10, 0x07, 0x18, 0xff, 0x01, 0x30, 0x00];
        assert_eq!(fitting(&pulsar), [WalKind::Pulsar]);
        assert_eq!(fitting(&[0x08, 0x18, 0x10, 0x18]), [WalKind::Woodpecker]);
        assert_eq!(
            fitting(&470_654_271_533_613_077_u64.to_le_bytes()),
            [WalKind::Rocksmq]
        );
        assert_eq!(
            fitting(&77_u64.to_le_bytes()),
            [WalKind::Kafka, WalKind::Natsmq]
        );
        assert!(fitting(&[0; 8]).is_empty() && fitting(&[]).is_empty());
    }

    #[test]
    fn what_positions_name_counts_more_than_their_bytes() {
        let mut evidence = WalEvidence::default();
        evidence.see(&77_u64.to_le_bytes(), 0);
        assert_eq!(evidence.kinds().len(), 2);
        evidence.see(&77_u64.to_le_bytes(), 3);
        assert_eq!(evidence.kinds(), BTreeSet::from([WalKind::Kafka]));
    }
}
