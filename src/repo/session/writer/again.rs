//! Storing blobs again that lie in packs which are about to go, as they are: no data key is needed for it.

use std::collections::HashSet;

use super::packer::Class;
use super::{Session, Writer, short};
use bytes::Bytes;

use crate::Result;
use crate::base::env::lock;
use crate::repo::format::blob::{BlobKind, SealedBlob};
use crate::repo::format::files::StoredFile;
use crate::repo::format::ids::PackId;
use crate::repo::format::mark::Mark;
use crate::repo::format::segment::{PackInfo, Record};
use crate::repo::format::wire::damaged;
use crate::repo::session::index::recover::directory;
use crate::repo::session::marks::Marks;

impl Writer {
    /// Looks for marks that were made since the session began, and stores again what it relies on in their packs.
    /// Whoever made them waits until this session has ended.
    ///
    /// # Errors
    ///
    /// [`Cause::NewerFormat`](crate::Cause::NewerFormat) beside a mark that is not understood,
    /// [`Cause::Damage`](crate::Cause::Damage) when such a pack is not as it was; what the store fails with.
    pub(super) async fn heed_new_marks(&self) -> Result<()> {
        let session = &self.session;
        loop {
            let marks = session.view.repo().marks().await?;
            marks.refuse_unknown()?;
            let heeded = lock(&session.heeded).clone();
            let new: Vec<&Mark> = marks
                .known
                .iter()
                .filter(|mark| !heeded.contains(&mark.id))
                .collect();
            if new.is_empty() {
                return Ok(());
            }
            let packs: HashSet<PackId> = new.iter().flat_map(|mark| &mark.packs).copied().collect();
            let relied_on = session.relied_on(&packs);
            if !relied_on.is_empty() {
                tracing::info!(
                    packs = relied_on.len(),
                    "storing again what is in packs that are about to go"
                );
            }
            for pack in relied_on {
                self.store_again_of(&pack, &marks).await?;
            }
            self.flush().await?;
            lock(&session.heeded).extend(new.iter().map(|mark| mark.id));
            self.lease.heeds(marks.ids()).await;
        }
    }

    /// Stores again what has no other place, of a pack that is marked.
    async fn store_again_of(&self, pack: &PackInfo, marks: &Marks) -> Result<()> {
        let (view, marked) = (&self.session.view, marks.packs());
        let read = directory(view.repo(), pack.kind, pack.id, pack.size).await?;
        let moved = marks.moved();
        let stays = |record: &Record| {
            let id = view.index().pack(record.pack).id;
            !marked.contains(&id) && !self.session.is_absent(record)
        };
        let ids = read.records.iter().map(|record| record.entry.id).collect();
        let places = view.look_up(ids).await?;
        let records = read.records.into_iter().zip(places);
        let wanted = records.filter(|(record, places)| {
            !moved.contains_key(&record.entry.id) && !places.iter().any(stays)
        });
        let wanted: Vec<Record> = wanted.map(|(record, _)| record).collect();
        self.store_again(pack, &wanted).await
    }

    /// Stores blobs of a pack again, byte for byte, in new packs of this session.
    ///
    /// # Errors
    ///
    /// [`Cause::Damage`](crate::Cause::Damage) when the pack is not as the index says; what the store fails with.
    pub(crate) async fn store_again(&self, pack: &PackInfo, records: &[Record]) -> Result<()> {
        if records.is_empty() {
            return Ok(());
        }
        let session = &self.session;
        let read = session.view.pack_bytes(pack).await?;
        let read = read.filter(|read| !pack.hash_known() || read.hash == pack.hash);
        let gone = || {
            let path = StoredFile::packs(pack.kind).path(&pack.id);
            damaged(format!("{path} is damaged or gone")).with_hint("run it again")
        };
        let read = read.ok_or_else(gone)?;
        let cut = session.view.repo().cuts().cut;
        for record in records {
            let entry = record.entry;
            let from = entry.position as usize;
            let bytes = read.bytes.get(from..from + entry.stored as usize);
            let class = match entry.kind {
                BlobKind::Tree | BlobKind::Values => Class::Tree,
                BlobKind::Data if entry.plain >= cut => Class::Large,
                BlobKind::Data => Class::Small,
            };
            let blob = SealedBlob {
                kind: entry.kind,
                id: entry.id,
                plain: entry.plain,
                codec: entry.codec,
                epoch: entry.epoch,
                // What waits for its pack must not keep all of this one in memory.
                bytes: bytes.map(Bytes::copy_from_slice).ok_or_else(gone)?,
            };
            let new_bytes = blob.bytes.len() as u64;
            lock(&session.pending).insert(short(&entry.id));
            self.packers.append(class, blob, None).await?;
            session.note_added(new_bytes);
        }
        Ok(())
    }
}

impl Session {
    /// Of these packs those that the session has written, and those in which it found blobs that it did not
    /// store therefore.
    fn relied_on(&self, packs: &HashSet<PackId>) -> Vec<PackInfo> {
        let own = lock(&self.own);
        let own: Vec<PackInfo> = own
            .iter()
            .filter(|p| packs.contains(&p.id))
            .copied()
            .collect();
        let found = lock(&self.found);
        let index = self.view.index();
        let found = found.iter().map(|number| index.pack(*number));
        let found = found.filter(|pack| packs.contains(&pack.id));
        own.into_iter().chain(found.copied()).collect()
    }

    /// Whether the blob is in one of these places, which are relied on then.
    pub(super) fn rely_on(&self, places: &[Record]) -> bool {
        let whole = places.iter().filter(|record| !self.is_absent(record));
        let whole: Vec<u32> = whole.map(|record| record.pack).collect();
        lock(&self.found).extend(&whole);
        !whole.is_empty()
    }
}
