//! The barrier of a flush, and the checkpoints that must reach it.

use std::collections::BTreeMap;
use std::fmt;

use async_trait::async_trait;

use super::proto::{common, milvus as api};
use crate::Result;

/// The property of a message of the write-ahead log that holds its time tick, in base 36 (Milvus,
/// pkg/streaming/util/message/properties.go).
const TIME_TICK: &str = "_tt";

/// The point up to which a flush writes everything.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Barrier {
    timestamp: u64,
    channels: BTreeMap<String, u64>,
}

impl Barrier {
    /// A barrier at one timestamp for all channels.
    #[must_use]
    pub const fn at(timestamp: u64) -> Self {
        Self {
            timestamp,
            channels: BTreeMap::new(),
        }
    }

    /// The latest timestamp of any channel (hybrid, as Milvus counts).
    #[must_use]
    pub const fn timestamp(&self) -> u64 {
        self.timestamp
    }

    /// The earliest timestamp of any channel: what was acknowledged before it is flushed everywhere.
    #[must_use]
    pub fn earliest(&self) -> u64 {
        self.channels
            .values()
            .copied()
            .min()
            .unwrap_or(self.timestamp)
    }

    /// Physical channels with timestamps of their own; empty before 2.6.8.
    #[must_use]
    pub const fn channels(&self) -> &BTreeMap<String, u64> {
        &self.channels
    }

    /// The timestamp that the checkpoint of a virtual channel (`{physical channel}_{collection}v{n}`)
    /// must have reached.
    #[must_use]
    pub fn of_vchannel(&self, vchannel: &str) -> u64 {
        vchannel
            .rsplit_once('_')
            .and_then(|(physical, _)| self.channels.get(physical))
            .copied()
            .unwrap_or(self.timestamp)
    }

    /// The barrier of an answer: its timestamp, and the ticks of 2.6.8's messages; `None` when it has
    /// neither, since a barrier at 0 would be reached by anything.
    pub(super) fn of_answer(answer: api::FlushAllResponse) -> Option<Self> {
        let tick = |message: &common::ImmutableMessage| {
            message
                .properties
                .get(TIME_TICK)
                .and_then(|tick| u64::from_str_radix(tick, 36).ok())
        };
        let channels: BTreeMap<_, _> = answer
            .flush_all_msgs
            .into_iter()
            .filter_map(|(channel, message)| tick(&message).map(|tick| (channel, tick)))
            .collect();
        let timestamp = channels
            .values()
            .copied()
            .max()
            .unwrap_or(0)
            .max(answer.flush_all_ts);
        (timestamp > 0).then_some(Self {
            timestamp,
            channels,
        })
    }
}

/// A virtual channel whose checkpoint has not reached the barrier.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Lag {
    /// The virtual channel.
    pub vchannel: String,
    /// Its checkpoint's timestamp; `None` when it has none yet.
    pub checkpoint: Option<u64>,
}

impl fmt::Display for Lag {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.checkpoint {
            Some(checkpoint) => write!(f, "{} (checkpoint {checkpoint})", self.vchannel),
            None => write!(f, "{} (no checkpoint)", self.vchannel),
        }
    }
}

/// Where the channels' checkpoints are read: etcd, `datacoord-meta/channel-cp/{vchannel}`.
#[async_trait]
pub trait Checkpoints: Send + Sync {
    /// The virtual channels of live collections that have not reached `barrier`; a channel without a
    /// checkpoint has not.
    async fn lagging(&self, barrier: &Barrier) -> Result<Vec<Lag>>;
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_vchannel_has_the_tick_of_its_physical_channel() {
        let message = |tick: &str| common::ImmutableMessage {
            properties: [(TIME_TICK.to_owned(), tick.to_owned())].into(),
            ..Default::default()
        };
        let barrier = Barrier::of_answer(api::FlushAllResponse {
            flush_all_ts: 70,
            flush_all_msgs: [
                ("p_0".to_owned(), message("1z")),
                ("p_1".to_owned(), message("zz")),
            ]
            .into(),
            ..Default::default()
        })
        .unwrap();
        assert_eq!(barrier.of_vchannel("p_0_449v0"), 71);
        assert_eq!(barrier.of_vchannel("p_1_449v1"), 1295);
        assert_eq!(
            barrier.of_vchannel("p_2_449v1"),
            1295,
            "an unknown channel waits for the latest"
        );
        assert_eq!((barrier.timestamp(), barrier.earliest()), (1295, 71));
        assert_eq!(Barrier::of_answer(api::FlushAllResponse::default()), None);
    }

    proptest! {
        #[test]
        fn ticks_are_read_in_base_36(tick in any::<u64>()) {
            let mut text = Vec::new();
            let mut rest = tick;
            while rest > 0 || text.is_empty() {
                text.push(char::from_digit((rest % 36) as u32, 36).unwrap());
                rest /= 36;
            }
            let text: String = text.into_iter().rev().collect();
            let message = common::ImmutableMessage {
                properties: [(TIME_TICK.to_owned(), text)].into(),
                ..Default::default()
            };
            let answer = api::FlushAllResponse {
                flush_all_msgs: [("p".to_owned(), message)].into(),
                ..Default::default()
            };
            prop_assert_eq!(Barrier::of_answer(answer).map_or(0, |barrier| barrier.of_vchannel("p_1v0")), tick);
        }
    }
}
