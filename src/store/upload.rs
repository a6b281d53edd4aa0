//! [`Upload`] on [`Parts`]: cuts a stream of pieces into parts and keeps several in flight.

use std::num::NonZeroUsize;
use std::sync::Arc;

use async_trait::async_trait;
use bytes::{Bytes, BytesMut};
use tokio::task::{JoinError, JoinSet};

use super::{MIN_PART_SIZE, Part, Parts, Put, Upload};
use crate::{Cause, Error, Result};

/// How many parts of one upload are on their way unless the caller says it: with parts
/// of 8 MiB, four fill a loopback `MinIO`.
pub(crate) const PARTS_AT_ONCE: usize = 4;

/// From this part on parts are larger, so that an object may exceed [`MAX_PARTS`] times the minimum.
const LARGE_PARTS_FROM: u32 = 5_000;

/// The size of the late parts of a huge object, in bytes: 5,000 of them hold 640 GiB.
const LARGE_PART_SIZE: usize = 128 << 20;

/// How many parts an object may have
/// (<https://docs.aws.amazon.com/AmazonS3/latest/userguide/qfacts.html>).
const MAX_PARTS: u32 = 10_000;

/// The one upload there is: bounded, and without a copy where the caller's pieces are large.
pub(super) struct PartsUpload {
    parts: Arc<dyn Parts>,
    /// What is not sent yet: the last part is known only when the upload ends.
    held: Bytes,
    number: u32,
    offset: u64,
    running: JoinSet<Result<()>>,
    at_once: usize,
}

impl PartsUpload {
    pub(super) fn new(parts: Arc<dyn Parts>) -> Self {
        Self {
            parts,
            held: Bytes::new(),
            number: 1,
            offset: 0,
            running: JoinSet::new(),
            at_once: PARTS_AT_ONCE,
        }
    }

    fn take_part(&mut self) -> Result<Part> {
        if self.number > MAX_PARTS {
            return Err(Error::new(
                Cause::Failed,
                format!("an object of more than {MAX_PARTS} parts cannot be written"),
            ));
        }
        let part = Part {
            number: self.number,
            offset: self.offset,
            bytes: std::mem::take(&mut self.held),
        };
        self.number += 1;
        self.offset += part.bytes.len() as u64;
        Ok(part)
    }

    async fn send_held(&mut self) -> Result<()> {
        while self.running.len() >= self.at_once {
            self.join_one().await?;
        }
        let admitted = self.parts.admit(self.held.len()).await?;
        let part = self.take_part()?;
        let parts = self.parts.clone();
        self.running.spawn(async move {
            let sent = parts.part(part).await;
            drop(admitted);
            sent
        });
        Ok(())
    }

    async fn join_one(&mut self) -> Result<()> {
        self.running.join_next().await.map_or(Ok(()), flatten)
    }
}

fn flatten(joined: Result<Result<()>, JoinError>) -> Result<()> {
    joined.unwrap_or_else(|error| {
        Err(Error::new(Cause::Failed, "a part's upload stopped").with_source(error))
    })
}

fn least_size(number: u32) -> usize {
    if number < LARGE_PARTS_FROM {
        MIN_PART_SIZE
    } else {
        LARGE_PART_SIZE
    }
}

fn join(held: Bytes, more: &Bytes) -> Bytes {
    let mut joined = held.try_into_mut().unwrap_or_else(|held| {
        let mut copy = BytesMut::with_capacity(MIN_PART_SIZE + more.len());
        copy.extend_from_slice(&held);
        copy
    });
    joined.extend_from_slice(more);
    joined.freeze()
}

#[async_trait]
impl Upload for PartsUpload {
    fn limit_parts(&mut self, at_once: NonZeroUsize) {
        self.at_once = at_once.get();
    }

    async fn write(&mut self, bytes: Bytes) -> Result<()> {
        while let Some(joined) = self.running.try_join_next() {
            flatten(joined)?;
        }
        if bytes.is_empty() {
            return Ok(());
        }
        if self.held.len() >= least_size(self.number) {
            self.send_held().await?;
        }
        self.held = if self.held.is_empty() {
            bytes
        } else {
            join(std::mem::take(&mut self.held), &bytes)
        };
        Ok(())
    }

    async fn finish(mut self: Box<Self>) -> Result<Put> {
        while !self.running.is_empty() {
            self.join_one().await?;
        }
        let _admitted = self.parts.admit(self.held.len()).await?;
        let last = self.take_part()?;
        self.parts.finish(last).await
    }

    async fn abort(mut self: Box<Self>) -> Result<()> {
        self.running.shutdown().await;
        self.parts.abort().await
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::env::lock;
    use std::sync::Mutex;

    #[derive(Debug, Default)]
    struct Seen(Mutex<Vec<(u32, u64, usize)>>);

    #[async_trait]
    impl Parts for Seen {
        async fn part(&self, part: Part) -> Result<()> {
            if part.bytes.first() == Some(&b'!') {
                return Err(Error::new(Cause::NoSpace, "full"));
            }
            lock(&self.0).push((part.number, part.offset, part.bytes.len()));
            Ok(())
        }

        async fn finish(&self, last: Part) -> Result<Put> {
            self.part(last).await?;
            Ok(Put { version: None })
        }

        async fn abort(&self) -> Result<()> {
            Ok(())
        }
    }

    async fn sizes(pieces: &[usize]) -> Vec<(u32, u64, usize)> {
        let seen = Arc::new(Seen::default());
        let mut upload = Box::new(PartsUpload::new(seen.clone()));
        for size in pieces {
            upload.write(Bytes::from(vec![0; *size])).await.unwrap();
        }
        upload.finish().await.unwrap();
        let mut parts = lock(&seen.0).clone();
        parts.sort_unstable();
        parts
    }

    #[tokio::test]
    async fn small_pieces_join_until_a_part_is_large_enough() {
        assert_eq!(sizes(&[]).await, [(1, 0, 0)]);
        assert_eq!(sizes(&[0, 7, 0, 5]).await, [(1, 0, 12)]);
        let large = MIN_PART_SIZE;
        assert_eq!(
            sizes(&[large, 1, large - 1, 3]).await,
            [
                (1, 0, large),
                (2, large as u64, large),
                (3, 2 * large as u64, 3)
            ]
        );
    }

    #[tokio::test]
    async fn the_error_of_a_part_surfaces() {
        let mut upload = Box::new(PartsUpload::new(Arc::new(Seen::default())));
        upload
            .write(Bytes::from(vec![b'!'; MIN_PART_SIZE]))
            .await
            .unwrap();
        upload.write(Bytes::from_static(b"last")).await.unwrap();
        assert_eq!(upload.finish().await.unwrap_err().cause(), Cause::NoSpace);
    }
}
