//! Following what happens to the keys under a prefix.

use std::time::Duration;

use etcd_client::{Client, EventType, WatchOptions, WatchResponse, WatchStream};
use tokio::time::sleep;
use tracing::{debug, info};

use super::members::is_passing;
use super::pages::prefix_end;
use super::read::convert;
use super::{Etcd, KeyValue};
use crate::{Cause, Error, Result};

/// Before a watch that broke is begun again.
const REOPEN_PAUSE: Duration = Duration::from_millis(100);

/// What happened to one key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change {
    /// It was put.
    Put(KeyValue),
    /// It was deleted, or its lease ended.
    Deleted {
        /// The key.
        key: Vec<u8>,
        /// The revision at which it went.
        revision: i64,
    },
}

impl Change {
    /// The key.
    #[must_use]
    pub fn key(&self) -> &[u8] {
        match self {
            Self::Put(kv) => &kv.key,
            Self::Deleted { key, .. } => key,
        }
    }

    /// The revision at which it happened.
    #[must_use]
    pub const fn revision(&self) -> i64 {
        match self {
            Self::Put(kv) => kv.mod_revision,
            Self::Deleted { revision, .. } => *revision,
        }
    }

    /// What the key has now, unless it is gone.
    #[must_use]
    pub const fn put(&self) -> Option<&KeyValue> {
        match self {
            Self::Put(kv) => Some(kv),
            Self::Deleted { .. } => None,
        }
    }
}

/// What a watch tells.
pub(super) enum Seen {
    /// All changes of one or more revisions, in their order.
    Changes(Vec<Change>),
    /// etcd has compacted revisions that were not told yet.
    Compacted,
}

/// Every change under a prefix, in the order of revisions and without a gap. A watch that breaks is begun
/// again, on another member where the one that it was on does not answer.
pub(super) struct Watch {
    etcd: Etcd,
    prefix: String,
    /// The first revision that was not told yet.
    from: i64,
    stream: Option<WatchStream>,
    /// How often in a row it was refused for its token.
    refused: u32,
}

/// How often in a row a watch is begun again after it was refused for its token.
const TOKENS: u32 = 3;

/// Whether a watch was refused because its token has run out, or users were changed: etcd says so in an answer
/// of the watch.
fn is_stale_token(reason: &str) -> bool {
    reason.contains("invalid auth token") || reason.contains("revision of auth store is old")
}

impl Watch {
    pub(super) fn new(etcd: Etcd, prefix: &str, from: i64) -> Self {
        Self {
            etcd,
            prefix: prefix.to_owned(),
            from,
            stream: None,
            refused: 0,
        }
    }

    /// Begins the watch again, on the member that calls are made on now.
    pub(super) fn turn(&mut self) {
        self.stream = None;
    }

    /// Waits for what happens next. Nothing is lost when this is not waited for to its end.
    pub(super) async fn next(&mut self) -> Result<Seen> {
        loop {
            let stream = match &mut self.stream {
                Some(stream) => stream,
                None => self
                    .stream
                    .insert(Self::open(&self.etcd, &self.prefix, self.from).await?),
            };
            let answer = match stream.message().await {
                Ok(Some(answer)) => answer,
                Ok(None) => {
                    self.again("it ended").await;
                    continue;
                }
                Err(error) if is_passing(&error) => {
                    self.again(&error.to_string()).await;
                    continue;
                }
                Err(error) => return Err(self.etcd.error(&error, &watching(&self.prefix))),
            };
            if answer.compact_revision() > 0 {
                return Ok(Seen::Compacted);
            }
            if answer.canceled() {
                let reason = answer.cancel_reason().to_owned();
                if is_stale_token(&reason) && self.refused < TOKENS {
                    // The client asks for a new token when a call of its own is refused.
                    self.refused += 1;
                    // It asks for no more than the range that is watched: a role may be let read nothing else.
                    self.etcd.clone().get(&self.prefix).await?;
                } else if !reason.contains("no leader") {
                    let message = format!("{}: {reason}", watching(&self.prefix));
                    return Err(Error::new(Cause::Failed, message).on(self.etcd.side));
                }
                self.again(&reason).await;
                continue;
            }
            if let Some(changes) = self.told(&answer) {
                return Ok(Seen::Changes(changes));
            }
        }
    }

    async fn open(etcd: &Etcd, prefix: &str, from: i64) -> Result<WatchStream> {
        let options = WatchOptions::new()
            .with_range(prefix_end(prefix.as_bytes()))
            .with_start_revision(from);
        let open = |client: Client| {
            let options = options.clone();
            async move {
                // One answer may hold a thousand revisions.
                let client = client.watch_client();
                let mut client = client.max_decoding_message_size(usize::MAX);
                client.watch(prefix, Some(options)).await
            }
        };
        let opened = etcd.members.call(open).await;
        debug!(prefix, from, "watching etcd");
        opened.map_err(|error| etcd.error(&error, &watching(prefix)))
    }

    async fn again(&mut self, why: &str) {
        info!(why, "a watch of etcd broke; it is begun again");
        self.stream = None;
        sleep(REOPEN_PAUSE).await;
    }

    fn told(&mut self, answer: &WatchResponse) -> Option<Vec<Change>> {
        let changes: Vec<Change> = answer
            .events()
            .iter()
            .filter_map(|event| {
                let kv = convert(event.kv()?.clone());
                Some(match event.event_type() {
                    EventType::Put => Change::Put(kv),
                    EventType::Delete => Change::Deleted {
                        revision: kv.mod_revision,
                        key: kv.key,
                    },
                })
            })
            .collect();
        self.from = changes.last()?.revision() + 1;
        self.refused = 0;
        Some(changes)
    }
}

fn watching(prefix: &str) -> String {
    format!("watching {prefix} in etcd")
}
