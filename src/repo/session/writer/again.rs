//! Storing blobs again that lie in packs which are about to go, as they are: no data key is needed for it.

use std::collections::HashSet;

use bytes::Bytes;

use super::packer::Class;
use super::{Session, Writer, short};
use crate::Result;
use crate::base::env::lock;
use crate::repo::format::blob::{BlobKind, SealedBlob};
use crate::repo::format::files::StoredFile;
use crate::repo::format::ids::PackId;
use crate::repo::format::mark::Mark;
use crate::repo::format::segment::{PackInfo, Record};
use crate::repo::format::wire::damaged;
use crate::repo::repository::Rule;
use crate::repo::session::index::recover::directory;
use crate::repo::session::view::{Listing, View};

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
            if !relied_on.is_empty() && session.view.repo().keeps(Rule::Heeding) {
                let fresh = session.view.repo().view().await?;
                let listing = fresh.listing().await?;
                let mut marked = fresh.marks().packs();
                marked.extend(marks.packs());
                for pack in &relied_on {
                    self.store_again_of(pack, &fresh, &listing, &marked).await?;
                }
            }
            self.flush().await?;
            lock(&session.heeded).extend(new.iter().map(|mark| mark.id));
            self.lease.heeds(marks.ids()).await;
        }
    }

    /// Stores again what has no other place, of a pack that is marked. `fresh` is the index as it is now, with the
    /// packs that the store has: what was moved there is relied on.
    async fn store_again_of(
        &self,
        pack: &PackInfo,
        fresh: &View,
        listing: &Listing,
        marked: &HashSet<PackId>,
    ) -> Result<()> {
        let read = directory(fresh.repo(), pack.kind, pack.id, pack.size).await?;
        let stays = |record: &&Record| {
            let pack = fresh.index().pack(record.pack);
            let there = listing.sizes.get(&pack.id) == Some(&pack.size);
            there && !marked.contains(&pack.id) && !fresh.is_bad(record)
        };
        let ids = read.records.iter().map(|record| record.entry.id).collect();
        let places = fresh.look_up(ids).await?;
        let mut lacking = Vec::new();
        for (record, places) in read.records.into_iter().zip(places) {
            match places.iter().find(stays) {
                Some(place) => {
                    let pack = *fresh.index().pack(place.pack);
                    lock(&self.session.found).insert(pack.id, pack);
                }
                None => lacking.push(record),
            }
        }
        self.store_again(pack, &lacking).await
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
        let (own, found) = (lock(&self.own), lock(&self.found));
        let all = own.iter().chain(found.values());
        all.filter(|pack| packs.contains(&pack.id))
            .copied()
            .collect()
    }

    /// Whether the blob is in one of these places, which are relied on then.
    pub(super) fn rely_on(&self, places: &[Record]) -> bool {
        let whole = places.iter().filter(|record| !self.is_absent(record));
        let packs = whole.map(|record| *self.view.index().pack(record.pack));
        let packs: Vec<PackInfo> = packs.collect();
        lock(&self.found).extend(packs.iter().map(|pack| (pack.id, *pack)));
        !packs.is_empty()
    }
}
