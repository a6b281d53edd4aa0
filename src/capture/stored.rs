//! The map of objects as far as it is stored, which is written down from time to time and at every orderly
//! end, so that the next capture need not read again what this one has read.

use tokio::time::Instant;
use tracing::{debug, info};

use super::Checkpoints;
use crate::Result;
use crate::base::text::Bytes;
use crate::instance::methods::Method;
use crate::repo::{Checkpoint, Entry, MapBuilder, NodeRef, Roots, Values, Writer};
use crate::snapshot::OBJECTS_ROOT;

/// The map of objects of a capture.
#[derive(Debug)]
pub(super) struct Stored<'w> {
    writer: &'w Writer,
    method: Method,
    map: MapBuilder<'w>,
    checkpoints: Checkpoints,
    /// Since the last checkpoint.
    since: Instant,
    bytes: u64,
    objects: u64,
    /// Of the map.
    entries: u64,
    /// Of the map in the last checkpoint.
    written: u64,
}

impl<'w> Stored<'w> {
    pub(super) fn begin(writer: &'w Writer, method: Method, checkpoints: Checkpoints) -> Self {
        Self {
            writer,
            method,
            map: writer.map(Values::Inline),
            checkpoints,
            since: Instant::now(),
            bytes: 0,
            objects: 0,
            entries: 0,
            written: 0,
        }
    }

    /// The session that stores it.
    pub(super) fn writer(&self) -> &'w Writer {
        self.writer
    }

    /// Begins a new map, of another anchor.
    pub(super) fn renew(&mut self) {
        self.map = self.writer.map(Values::Inline);
        self.entries = 0;
    }

    /// Appends an object that was there already.
    pub(super) async fn push_known(&mut self, entry: Entry) -> Result<()> {
        self.entries += 1;
        self.map.push(entry).await
    }

    /// Appends an object that was read, and writes down how far the capture has come when it is time.
    pub(super) async fn push_read(&mut self, entry: Entry) -> Result<()> {
        self.entries += 1;
        self.objects += 1;
        self.bytes += entry.content.size();
        self.map.push(entry).await?;
        let due =
            self.bytes >= self.checkpoints.bytes || self.since.elapsed() >= self.checkpoints.time;
        if due { self.write().await } else { Ok(()) }
    }

    /// The root of the whole map.
    pub(super) async fn finish(&self) -> Result<Option<NodeRef>> {
        self.map.clone().finish().await
    }

    /// Writes down how far the capture has come when it ends without a snapshot. Nothing is lost but time
    /// where that fails.
    pub(super) async fn write_down(&mut self) {
        if self.objects > 0
            && let Err(error) = self.write().await
        {
            debug!("no checkpoint was written: {}", error.chain());
        }
    }

    /// Writes out what is stored, and a checkpoint unless the last one says more, as it does when another
    /// anchor has been taken since.
    pub(super) async fn write(&mut self) -> Result<()> {
        if self.entries < self.written {
            return self.writer.flush().await;
        }
        let root = self.finish().await?;
        let roots = Roots::from([(OBJECTS_ROOT.to_owned(), root)]);
        let body = serde_json::json!({"method": self.method.word()});
        if self.writer.checkpoint(roots, body).await? {
            info!(
                objects = self.objects,
                bytes = %Bytes(self.bytes),
                "wrote a checkpoint: what was read is not read again by a later backup"
            );
            self.written = self.entries;
        }
        // One that was refused is not tried again with each object.
        (self.since, self.bytes, self.objects) = (Instant::now(), 0, 0);
        Ok(())
    }
}

/// The map of objects of a checkpoint by the same method.
pub(super) fn objects_of(checkpoint: &Checkpoint, method: Method) -> Option<NodeRef> {
    let same = checkpoint.body["method"] == method.word();
    checkpoint
        .roots
        .get(OBJECTS_ROOT)
        .copied()
        .flatten()
        .filter(|_| same)
}
