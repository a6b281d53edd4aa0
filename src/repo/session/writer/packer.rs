//! Open packs: blobs are appended, parts stream to the store, the pack is hashed on the way.
//!
//! Each open pack belongs to one task, so that nobody who stops waiting can tear one.

use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinHandle;

use super::Session;
use crate::base::env::lock;
use crate::base::error::Context;
use crate::base::resources::MemoryPermit;
use crate::repo::format::blob::{PackKind, SealedBlob};
use crate::repo::format::ids::{ObjectHash, PackId};
use crate::repo::format::pack::{PackEntry, pack_header, pack_key};
use crate::repo::format::segment::PackInfo;
use crate::repo::format::wire::to_u32;
use crate::store::{Durability, PART_SIZE, PutOptions, Upload};
use crate::{Cause, Result, Side};

/// A pack is closed when it has this many blobs, so that its records fit into an index segment
/// and its directory stays under 4 MiB.
const PACK_BLOBS: usize = 1 << 16;
/// How many packs of large objects are open at once, so that one is filled while another's part is
/// hashed or its end is written.
const LARGE_PACKS: usize = 2;
/// How long a session that is given up waits for a pack that is being finished.
const GIVE_UP: Duration = Duration::from_secs(1);

/// After so many parts of a pack the lease is written again: the first is sent with the second.
const TELLING_PARTS: u32 = 3;

/// How many sealed blobs wait for an open pack.
const QUEUE: usize = 8;

/// Which blobs share packs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Class {
    /// Pieces of objects that are cut, or nearly.
    Large,
    /// Smaller objects.
    Small,
    /// Tree nodes, and the values of leaves that stand apart.
    Tree,
}

impl Class {
    fn packs(self) -> PackKind {
        match self {
            Self::Large | Self::Small => PackKind::Data,
            Self::Tree => PackKind::Tree,
        }
    }
}

enum Message {
    Append(SealedBlob, Option<MemoryPermit>),
    Flush(oneshot::Sender<Result<()>>),
    Abandon(oneshot::Sender<()>),
}

/// The tasks with the open packs of a session.
#[derive(Debug)]
pub(super) struct Packers {
    session: Arc<Session>,
    large: Vec<mpsc::Sender<Message>>,
    small: Vec<mpsc::Sender<Message>>,
    tree: Vec<mpsc::Sender<Message>>,
}

impl Packers {
    pub(super) fn start(session: &Arc<Session>) -> Self {
        let start = |class: Class, count: usize| {
            (0..count)
                .map(|_| {
                    let (sender, receiver) = mpsc::channel(QUEUE);
                    tokio::spawn(Packer::new(session.clone(), class.packs()).run(receiver));
                    sender
                })
                .collect()
        };
        Self {
            session: session.clone(),
            large: start(Class::Large, LARGE_PACKS),
            small: start(Class::Small, 1),
            tree: start(Class::Tree, 1),
        }
    }

    /// Hands a blob to the open pack with the shortest queue.
    pub(super) async fn append(
        &self,
        class: Class,
        blob: SealedBlob,
        share: Option<MemoryPermit>,
    ) -> Result<()> {
        let senders = match class {
            Class::Large => &self.large,
            Class::Small => &self.small,
            Class::Tree => &self.tree,
        };
        let ended = || self.session.failure();
        let sender = senders
            .iter()
            .max_by_key(|sender| sender.capacity())
            .ok_or_else(ended)?;
        sender
            .send(Message::Append(blob, share))
            .await
            .map_err(|_| ended())
    }

    /// Finishes all open packs, data before trees.
    pub(super) async fn flush(&self) -> Result<()> {
        for senders in [
            [&self.large[..], &self.small[..]].concat(),
            self.tree.clone(),
        ] {
            let mut replies = Vec::new();
            for sender in &senders {
                let (reply, done) = oneshot::channel();
                sender
                    .send(Message::Flush(reply))
                    .await
                    .map_err(|_| self.session.failure())?;
                replies.push(done);
            }
            for done in replies {
                done.await.map_err(|_| self.session.failure())??;
            }
        }
        self.session.check()
    }

    /// Gives up all open packs and removes what their uploads left.
    pub(super) async fn abandon(&self) {
        let all = [&self.large[..], &self.small[..], &self.tree[..]].concat();
        let abandoned = all.into_iter().map(|sender| async move {
            let (reply, done) = oneshot::channel();
            if sender.send(Message::Abandon(reply)).await.is_ok() {
                // The task ends only after it has answered.
                let _ = done.await;
            }
        });
        futures::future::join_all(abandoned).await;
    }
}

struct Packer {
    session: Arc<Session>,
    kind: PackKind,
    open: Option<OpenPack>,
    /// The end of the previous pack, being written.
    finishing: Option<JoinHandle<Result<()>>>,
}

struct OpenPack {
    id: PackId,
    path: String,
    /// How many parts were handed to the upload.
    parts: u32,
    upload: Box<dyn Upload>,
    hasher: Box<blake3::Hasher>,
    entries: Vec<PackEntry>,
    position: u64,
    /// What is not a whole part yet.
    buffer: BytesMut,
}

impl Packer {
    fn new(session: Arc<Session>, kind: PackKind) -> Self {
        Self {
            session,
            kind,
            open: None,
            finishing: None,
        }
    }

    async fn run(mut self, mut messages: mpsc::Receiver<Message>) {
        while let Some(message) = messages.recv().await {
            match message {
                Message::Append(blob, share) => {
                    if self.session.check().is_ok()
                        && let Err(error) = self.append(blob).await
                    {
                        self.session.fail(&error);
                    }
                    drop(share);
                }
                Message::Flush(reply) => {
                    let flushed = self
                        .flush()
                        .await
                        .inspect_err(|error| self.session.fail(error));
                    // Nobody waits any more when the caller was dropped.
                    let _ = reply.send(flushed);
                }
                Message::Abandon(reply) => {
                    self.abandon().await;
                    let _ = reply.send(());
                }
            }
        }
        self.abandon().await;
    }

    async fn append(&mut self, blob: SealedBlob) -> Result<()> {
        let mut pack = match self.open.take() {
            Some(pack) => pack,
            None => OpenPack::begin(&self.session, self.kind).await?,
        };
        let session = self.session.clone();
        let appended = tokio::select! {
            biased;
            () = session.given_up.cancelled() => Err(session.failure()),
            appended = pack.append(&session, blob) => appended,
        };
        let pack_size = session.view.repo().config().pack_size;
        let full = pack.position >= u64::from(pack_size) || pack.entries.len() >= PACK_BLOBS;
        match appended {
            Ok(()) if full => self.close(pack).await,
            other => {
                self.open = Some(pack);
                other
            }
        }
    }

    /// Writes the end of a pack while the next one is filled.
    async fn close(&mut self, pack: OpenPack) -> Result<()> {
        self.finished().await?;
        let (session, kind) = (self.session.clone(), self.kind);
        self.finishing = Some(tokio::spawn(pack.finish(session, kind)));
        Ok(())
    }

    async fn finished(&mut self) -> Result<()> {
        let Some(finishing) = self.finishing.take() else {
            return Ok(());
        };
        let stop = finishing.abort_handle();
        let late = async {
            self.session.given_up.cancelled().await;
            // It gives its pack up by itself, unless it waits for the store to make that visible.
            tokio::time::sleep(GIVE_UP).await;
        };
        let ended = tokio::select! {
            biased;
            ended = finishing => ended,
            () = late => {
                stop.abort();
                return Err(self.session.failure());
            }
        };
        ended.map_err(|error| {
            Side::Repository
                .error(Cause::Failed, "finishing a pack was cut short")
                .with_source(error)
        })?
    }

    async fn flush(&mut self) -> Result<()> {
        self.session.check()?;
        if let Some(pack) = self.open.take() {
            self.close(pack).await?;
        }
        self.finished().await
    }

    async fn abandon(&mut self) {
        if let Err(error) = self.finished().await {
            tracing::debug!("{}", error.chain());
        }
        if let Some(pack) = self.open.take() {
            pack.give_up(&self.session).await;
        }
    }
}

impl OpenPack {
    async fn begin(session: &Session, kind: PackKind) -> Result<Self> {
        let repo = session.view.repo();
        let id = PackId(repo.env().id());
        // The name is random, so nothing can be there; the index is written after a sync.
        let options = PutOptions {
            durability: Durability::Deferred,
            ..PutOptions::default()
        };
        let key = pack_key(kind, &id)?;
        let upload = repo
            .store()
            .upload(&key, options)
            .await
            .context(|| format!("write {key}"))?;
        session.lease.unnamed().note(key.as_str(), None);
        let buffer = BytesMut::from(&pack_header(kind)[..]);
        let position = buffer.len() as u64;
        Ok(Self {
            id,
            path: key.to_string(),
            parts: 0,
            upload,
            hasher: Box::default(),
            entries: Vec::new(),
            position,
            buffer,
        })
    }

    async fn append(&mut self, session: &Session, blob: SealedBlob) -> Result<()> {
        let stored = to_u32(blob.bytes.len(), "a blob's stored length")?;
        let position = u32::try_from(self.position)
            .map_err(|_| Side::Repository.error(Cause::Failed, "a pack is too large"))?;
        let SealedBlob {
            kind,
            id,
            plain,
            codec,
            epoch,
            bytes,
        } = blob;
        self.entries.push(PackEntry {
            kind,
            id,
            position,
            stored,
            plain,
            codec,
            epoch,
        });
        self.position += u64::from(stored);
        self.push(session, bytes).await
    }

    /// Sends whole parts; bytes that come in parts already are not copied.
    async fn push(&mut self, session: &Session, mut bytes: Bytes) -> Result<()> {
        while !bytes.is_empty() {
            if self.buffer.is_empty() && bytes.len() >= PART_SIZE {
                return self.send(session, bytes).await;
            }
            let take = bytes.len().min(PART_SIZE - self.buffer.len());
            self.buffer.extend_from_slice(&bytes.split_to(take));
            if self.buffer.len() == PART_SIZE {
                let part = self.buffer.split().freeze();
                self.send(session, part).await?;
            }
        }
        Ok(())
    }

    /// Hashes a part and hands it to the store at the same time.
    async fn send(&mut self, session: &Session, part: Bytes) -> Result<()> {
        let (mut hasher, bytes) = (std::mem::take(&mut self.hasher), part.clone());
        let hash = session.view.repo().resources().run(move || {
            hasher.update(&bytes);
            Ok(hasher)
        });
        let write = self.upload.write(part);
        let (hasher, ()) = futures::future::try_join(hash, write)
            .await
            .context(|| format!("write pack {}", self.id))?;
        self.hasher = hasher;
        // What the store calls an upload is known soon after its first part was sent.
        self.parts += 1;
        if self.parts <= TELLING_PARTS {
            session.lease.unnamed().begun();
        }
        Ok(())
    }

    /// Removes what was written of it.
    async fn give_up(self, session: &Session) {
        match self.upload.abort().await {
            Ok(()) => session.lease.unnamed().forget(std::iter::once(&*self.path)),
            Err(error) => tracing::warn!(
                "an unfinished upload of a pack may be left: {}",
                error.chain()
            ),
        }
    }

    /// Writes the end of the pack, up to what makes it visible. Returns its size.
    async fn end(&mut self, session: &Session, kind: PackKind) -> Result<u64> {
        let sealer = session.view.repo().sealer();
        let end = sealer.seal_directory(kind, &self.id, &self.entries)?;
        let size = self.position + end.len() as u64;
        self.push(session, end.into()).await?;
        let rest = self.buffer.split().freeze();
        if !rest.is_empty() {
            self.send(session, rest).await?;
        }
        // Should this process die, who comes after it knows of the pack.
        session.lease.tells_of(&self.path).await?;
        Ok(size)
    }

    async fn finish(mut self, session: Arc<Session>, kind: PackKind) -> Result<()> {
        let ended = tokio::select! {
            biased;
            () = session.given_up.cancelled() => Err(session.failure()),
            ended = self.end(&session, kind) => ended,
        };
        let size = match ended {
            Ok(size) => size,
            Err(error) => {
                self.give_up(&session).await;
                return Err(error);
            }
        };
        self.upload
            .finish()
            .await
            .context(|| format!("write pack {}", self.id))?;
        let hash: [u8; 32] = self.hasher.finalize().into();
        let unnamed = session.lease.unnamed();
        unnamed.note(&self.path, Some(ObjectHash(hash)));
        let info = PackInfo {
            id: self.id,
            hash,
            size,
            kind,
            blobs: to_u32(self.entries.len(), "a number of blobs")?,
        };
        lock(&session.own).push(info);
        session.indexer.add(info, self.entries).await
    }
}
