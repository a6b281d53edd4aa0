//! Verifying a repository: that everything referred to is there, and that every byte is right.

mod bytes;

use std::collections::{HashMap, HashSet};

use futures::{StreamExt, TryStreamExt};
use serde::de::IgnoredAny;

use self::bytes::{PackFaults, check_pack};
use crate::repo::format::blob::BlobKind;
use crate::repo::format::config::Config;
use crate::repo::format::damage::{Damage, DamageKind};
use crate::repo::format::features::Features;
use crate::repo::format::files::{CheckedBy, Names, Seal, StoredFile};
use crate::repo::format::hash::PieceRef;
use crate::repo::format::ids::{BlobId, Cv, IndexId, PackId, SnapshotId};
use crate::repo::format::keys;
use crate::repo::format::manifest::Manifest;
use crate::repo::format::pack::pack_key;
use crate::repo::format::segment::{PackInfo, Record};
use crate::repo::format::tree::{Envelope, EnvelopeNode, NodeRef};
use crate::repo::format::wire::missing_is_damage;
use crate::repo::opening::read_rings;
use crate::repo::repository::Repository;
use crate::repo::session::index::load::Trust;
use crate::repo::session::lease::LeaseFile;
use crate::repo::session::snapshots::Snapshots;
use crate::repo::session::verified::{BadPlace, Verification};
use crate::repo::session::view::{Look, View};
use crate::{Cause, Error, Result};

/// How many small files are read at once.
const FILES_AT_ONCE: usize = 16;

/// How many packs are read at once; the byte budget bounds them too.
const PACKS_AT_ONCE: usize = 4;

/// How many blobs are looked up at once: no longer than nodes that are being read may stand still.
const LOOK_UPS_AT_ONCE: usize = 1 << 12;

/// Which packs' bytes to read.
#[derive(Clone, Copy, Default)]
pub enum CheckBytes<'a> {
    /// None: only the structure is checked.
    #[default]
    None,
    /// All that the snapshots in question need; those that no snapshot needs too, where the
    /// question is all of them.
    All,
    /// Of those, the ones chosen.
    Some(&'a (dyn Fn(&PackId) -> bool + Send + Sync)),
}

/// What a check found.
#[derive(Debug, Clone, Default)]
pub struct CheckReport {
    /// What is wrong; nothing when all is well.
    pub damage: Vec<Damage>,
    /// Where packs and blobs are damaged or missing.
    pub places: Vec<BadPlace>,
    /// Index segments that cannot be read.
    pub segments: Vec<IndexId>,
    /// Snapshots whose structure was checked.
    pub snapshots: u64,
    /// Tree nodes read.
    pub nodes: u64,
    /// Packs whose bytes were read.
    pub packs: u64,
    /// Bytes of packs that were read.
    pub bytes_read: u64,
}

impl View {
    /// Checks config, keys, leases, marks, verifications, index, manifests, trees, and that every blob that the snapshots
    /// refer to is in a pack that is there; with `bytes`, every byte of the packs as well. An empty
    /// `only` means all `snapshots`. View and snapshots are those that [`Repository::begin_check`] gave: what was
    /// committed since is in no index that was read before.
    ///
    /// # Errors
    ///
    /// What the store fails with; damage is in the report.
    pub async fn check(
        &self,
        snapshots: Snapshots,
        only: &[SnapshotId],
        bytes: CheckBytes<'_>,
    ) -> Result<CheckReport> {
        self.repo().check_by(Ok(self), snapshots, only, bytes).await
    }
}

impl Repository {
    /// Lists the snapshots, reads the index, and checks as [`View::check`] does; an index that contradicts itself
    /// is damage.
    ///
    /// # Errors
    ///
    /// What the store fails with; damage is in the report.
    pub async fn check(&self, only: &[SnapshotId], bytes: CheckBytes<'_>) -> Result<CheckReport> {
        let snapshots = self.snapshots().await?;
        let view = self.view_by(Trust::Nothing).await;
        self.check_by(view.as_ref(), snapshots, only, bytes).await
    }

    async fn check_by(
        &self,
        view: std::result::Result<&View, &Error>,
        snapshots: Snapshots,
        only: &[SnapshotId],
        bytes: CheckBytes<'_>,
    ) -> Result<CheckReport> {
        let mut report = CheckReport::default();
        self.check_files(&mut report.damage).await?;
        let asked = |id: &SnapshotId| only.is_empty() || only.contains(id);
        let concerns = |d: &Damage| d.snapshots.is_empty() || d.snapshots.iter().any(asked);
        let beyond = snapshots.beyond().to_vec();
        report
            .damage
            .extend(snapshots.damage.into_iter().filter(concerns));
        let manifests: Vec<Manifest> = snapshots
            .manifests
            .into_iter()
            .filter(|manifest| asked(&manifest.snapshot))
            .collect();
        report.snapshots = manifests.len() as u64;
        let view = match view {
            Ok(view) => view,
            Err(error) if error.cause() == Cause::Damage => {
                report.damage.push(Damage {
                    kind: DamageKind::Index,
                    what: error.chain(),
                    place: StoredFile::Index.row().directory.into(),
                    snapshots: manifests.iter().map(|manifest| manifest.snapshot).collect(),
                });
                return Ok(report);
            }
            Err(error) => return Err(Error::new(error.cause(), error.chain())),
        };
        let mut check = Check {
            view,
            faults: Faults::default(),
            used: HashSet::new(),
            seen: HashSet::new(),
        };
        for (id, why) in view.index().unread() {
            let place = StoredFile::Index.path(id);
            let fault = check.faults.add(DamageKind::Index, why.clone(), place);
            check.faults.unread.push(fault);
            report.segments.push(*id);
        }
        let roots = manifests.iter().flat_map(Manifest::all_roots);
        check.structure(roots, Look::Bodies, &mut report).await?;
        let beyond: Vec<Manifest> = beyond.into_iter().filter(|m| asked(&m.snapshot)).collect();
        let roots = beyond.iter().flat_map(Manifest::all_roots);
        check.structure(roots, Look::Envelopes, &mut report).await?;
        check.packs_present(only.is_empty()).await?;
        check.bytes(only.is_empty(), bytes, &mut report).await?;
        check.attribute(manifests.iter().chain(&beyond)).await?;
        report.places = check.faults.places();
        report.damage.extend(check.faults.damage);
        Ok(report)
    }

    /// Checks the files that open by themselves.
    async fn check_files(&self, damage: &mut Vec<Damage>) -> Result<()> {
        if let Some(gone) = self.ring_gone() {
            damage.push(Damage {
                kind: DamageKind::Key,
                what: gone.to_owned(),
                place: StoredFile::Ring.row().directory.into(),
                snapshots: vec![],
            });
        }
        let keys = self.list(StoredFile::Ring.row().directory).await?;
        match read_rings(self.store(), &keys, self.master(), self.id()).await {
            Ok(rings) => damage.extend(rings.damage),
            Err(error) if error.cause() == Cause::Damage => damage.push(Damage {
                kind: DamageKind::Key,
                what: error.chain(),
                place: StoredFile::Ring.row().directory.into(),
                snapshots: vec![],
            }),
            Err(error) => return Err(error),
        }
        let mut files = Vec::new();
        for file in StoredFile::ALL.iter().copied() {
            if file.row().checked_by != CheckedBy::Opening {
                continue;
            }
            match file.row().names {
                Names::One(name) => files.push((file, name.to_owned())),
                Names::Id | Names::FannedOut | Names::Ring => {
                    let found = self.list(file.row().directory).await?;
                    let found = found.iter().map(|meta| meta.key.as_str());
                    let own = found.filter(|path| file.id(path).is_some());
                    files.extend(own.map(|path| (file, path.to_owned())));
                }
            }
        }
        let mut checked = futures::stream::iter(files)
            .map(|(file, path)| async move {
                let opened = self.check_file(file, &path).await;
                (file, path, opened)
            })
            .buffered(FILES_AT_ONCE);
        while let Some((file, place, opened)) = checked.next().await {
            match opened {
                Err(error) if error.cause() == Cause::Damage => damage.push(Damage {
                    kind: file.row().damage,
                    what: error.chain(),
                    place,
                    snapshots: vec![],
                }),
                other => other?,
            }
        }
        Ok(())
    }

    /// Opens one file; one that is gone since it was listed is well.
    async fn check_file(&self, file: StoredFile, path: &str) -> Result<()> {
        let bytes = match (self.get_file(path).await, file.row().names) {
            (Err(error), Names::One(_)) => return Err(missing_is_damage(error)),
            (Err(error), _) if error.cause() == Cause::NotFound => return Ok(()),
            (read, _) => read?,
        };
        match file.row().seal {
            Seal::Mac if file == StoredFile::Features => {
                let read = Features::read(path, &bytes, &self.id())?;
                read.prove(self.sealer()).map(drop)
            }
            Seal::Mac => Config::read(&bytes)?.prove(self.sealer()).map(|_| ()),
            Seal::Unlocker => keys::check(path, &bytes, &self.id()),
            // The rings are judged together.
            Seal::Master => Ok(()),
            Seal::Meta(kind) => {
                let sealer = self.sealer();
                match file {
                    StoredFile::Lease => {
                        sealer.open_json::<LeaseFile>(kind, path, &bytes).map(drop)
                    }
                    StoredFile::Verification => sealer
                        .open_json::<Verification>(kind, path, &bytes)
                        .map(drop),
                    _ => sealer.open_json::<IgnoredAny>(kind, path, &bytes).map(drop),
                }
            }
            Seal::Blobs(_) => Err(Error::new(Cause::Failed, "a pack does not open by itself")),
        }
    }
}

/// Damage found so far, by what refers to it.
#[derive(Default)]
struct Faults {
    damage: Vec<Damage>,
    packs: HashMap<PackId, usize>,
    /// By pack, as a blob may be whole in another of its places.
    blobs: HashMap<(PackId, BlobId), usize>,
    /// Packs that are damaged outside of their blobs.
    outside: Vec<PackId>,
    /// Whether some blob that a snapshot refers to is in no segment.
    unknown: bool,
    /// Index segments that cannot be read: a blob that nobody knows may be in any of them.
    unread: Vec<usize>,
}

impl Faults {
    fn add(&mut self, kind: DamageKind, what: String, place: String) -> usize {
        self.damage.push(Damage {
            kind,
            what,
            place,
            snapshots: vec![],
        });
        self.damage.len() - 1
    }
}

struct Check<'a> {
    view: &'a View,
    faults: Faults,
    /// The numbers of the packs that the snapshots in question need.
    used: HashSet<u32>,
    /// The nodes that were read.
    seen: HashSet<Cv>,
}

impl Check<'_> {
    /// Reads every tree node once.
    async fn structure(
        &mut self,
        roots: impl IntoIterator<Item = NodeRef>,
        look: Look,
        report: &mut CheckReport,
    ) -> Result<()> {
        let (view, faults, used) = (self.view, &mut self.faults, &mut self.used);
        let mut walk = view.walk(roots, look, &mut self.seen);
        let mut wanted: Vec<BlobId> = Vec::new();
        let mut more = true;
        while more {
            let next = walk.next().await?;
            more = next.is_some();
            if let Some((node, envelope)) = next {
                report.nodes += 1;
                wanted.push(view.id(BlobKind::Tree, &node_piece(&node)));
                match envelope {
                    Ok(envelope) => {
                        wanted.extend(blobs(&envelope).map(|(kind, blob)| view.id(kind, blob)));
                    }
                    // It could be read from none of its places.
                    Err(error) => {
                        let places = view.places(BlobKind::Tree, &node_piece(&node)).await?;
                        if let Some(first) = places.first() {
                            let place = place_of(view.index().pack(first.pack));
                            let fault = faults.add(DamageKind::Tree, error.chain(), place);
                            for record in places {
                                let pack = view.index().pack(record.pack).id;
                                faults.blobs.insert((pack, record.entry.id), fault);
                            }
                        }
                    }
                }
            }
            if wanted.len() >= LOOK_UPS_AT_ONCE || !more {
                for places in view.look_up(std::mem::take(&mut wanted)).await? {
                    faults.unknown |= places.is_empty();
                    used.extend(places.iter().map(|record| record.pack));
                }
            }
        }
        Ok(())
    }

    /// Compares the packs in question with what the store lists.
    async fn packs_present(&mut self, all: bool) -> Result<()> {
        let listing = self.view.listing().await?;
        for (_, pack) in self.packs(all) {
            let place = place_of(&pack);
            let what = match listing.sizes.get(&pack.id) {
                Some(size) if *size == pack.size => continue,
                Some(size) => format!("{place} has {size} bytes instead of {}", pack.size),
                None => format!("{place} is missing"),
            };
            let fault = self.faults.add(DamageKind::Pack, what, place);
            self.faults.packs.insert(pack.id, fault);
        }
        Ok(())
    }

    /// Reads the bytes of the packs in question that are there.
    async fn bytes(
        &mut self,
        all: bool,
        bytes: CheckBytes<'_>,
        report: &mut CheckReport,
    ) -> Result<()> {
        let chosen = |id: &PackId| match bytes {
            CheckBytes::None => false,
            CheckBytes::All => true,
            CheckBytes::Some(choose) => choose(id),
        };
        let packs: Vec<(u32, PackInfo)> = self
            .packs(all)
            .into_iter()
            .filter(|(_, pack)| chosen(&pack.id) && !self.faults.packs.contains_key(&pack.id))
            .collect();
        if packs.is_empty() {
            return Ok(());
        }
        let view = self.view;
        let numbers: HashMap<u32, PackInfo> = packs.iter().copied().collect();
        for numbers_of_some in view.portions(packs.iter().map(|(number, _)| *number)) {
            let mut records = view.records_of(&numbers_of_some).await?;
            let some = numbers_of_some
                .iter()
                .map(|number| (*number, numbers[number]));
            let mut read = futures::stream::iter(some)
                .map(|(number, pack)| {
                    let records = records.remove(&number).unwrap_or_default();
                    async move {
                        let found = check_pack(view, pack, records).await?;
                        Ok::<_, Error>((pack, found))
                    }
                })
                .buffer_unordered(PACKS_AT_ONCE);
            while let Some((pack, found)) = read.try_next().await? {
                report.packs += 1;
                report.bytes_read += pack.size;
                self.faults.add_pack(&pack, found);
            }
        }
        Ok(())
    }

    fn packs(&self, all: bool) -> Vec<(u32, PackInfo)> {
        (0..)
            .zip(self.view.index().packs())
            .filter(|(number, _)| all || self.used.contains(number))
            .map(|(number, pack)| (number, *pack))
            .collect()
    }

    /// Finds out which snapshots each damage hurts. Costs nothing while there is none.
    async fn attribute(&mut self, manifests: impl Iterator<Item = &Manifest>) -> Result<()> {
        let (view, faults) = (self.view, &mut self.faults);
        if faults.packs.is_empty() && faults.blobs.is_empty() && !faults.unknown {
            return Ok(());
        }
        for manifest in manifests {
            let mut hit: HashSet<usize> = HashSet::new();
            let mut unknown = 0_u64;
            let mut seen = HashSet::new();
            let mut walk = view.walk(manifest.all_roots(), Look::Envelopes, &mut seen);
            while let Some((node, envelope)) = walk.next().await? {
                let below = envelope.iter().flat_map(blobs);
                let mut ids: Vec<BlobId> =
                    below.map(|(kind, piece)| view.id(kind, piece)).collect();
                ids.push(view.id(BlobKind::Tree, &node_piece(&node)));
                for places in view.look_up(ids).await? {
                    unknown += u64::from(places.is_empty());
                    hit.extend(faults.of(view, &places));
                }
            }
            for fault in hit {
                faults.damage[fault].snapshots.push(manifest.snapshot);
            }
            for fault in faults.unread.iter().filter(|_| unknown > 0) {
                faults.damage[*fault].snapshots.push(manifest.snapshot);
            }
            if unknown > 0 && faults.unread.is_empty() {
                let id = manifest.snapshot;
                let what = format!(
                    "{unknown} blobs of snapshot {} are in no index segment",
                    id.short()
                );
                let fault = faults.add(
                    DamageKind::Index,
                    what,
                    StoredFile::Index.row().directory.into(),
                );
                faults.damage[fault].snapshots.push(id);
            }
        }
        Ok(())
    }
}

/// The blobs that a node refers to, other than nodes.
fn blobs(envelope: &Envelope) -> impl Iterator<Item = (BlobKind, &PieceRef)> {
    let of = |kind| move |piece| (kind, piece);
    let values = envelope.values.iter().map(of(BlobKind::Values));
    envelope.blobs.iter().map(of(BlobKind::Data)).chain(values)
}

impl Faults {
    fn places(&self) -> Vec<BadPlace> {
        let packs = self.packs.keys().chain(&self.outside);
        let packs = packs.map(|pack| (*pack, None));
        let blobs = self.blobs.keys().map(|(pack, blob)| (*pack, Some(*blob)));
        let places = packs
            .chain(blobs)
            .map(|(pack, blob)| BadPlace { pack, blob });
        let mut places: Vec<BadPlace> = places.collect();
        places.sort_unstable();
        places
    }

    /// The damage of a blob with these places; none while one of them is whole.
    fn of(&self, view: &View, places: &[Record]) -> Vec<usize> {
        let mut all = Vec::new();
        for record in places {
            let pack = view.index().pack(record.pack).id;
            let bad = self.packs.get(&pack);
            let Some(fault) = bad.or_else(|| self.blobs.get(&(pack, record.entry.id))) else {
                return vec![];
            };
            all.push(*fault);
        }
        all
    }

    fn add_pack(&mut self, pack: &PackInfo, found: PackFaults) {
        let place = place_of(pack);
        let Some(why) = found.why else {
            return;
        };
        let what = match found.blobs.len() {
            0 => format!("{place} is damaged: {why}; all its blobs are whole"),
            bad => format!(
                "{place} is damaged: {why}; {bad} of its {} blobs do not open",
                pack.blobs
            ),
        };
        let fault = self.add(DamageKind::Bytes, what, place);
        if found.blobs.is_empty() {
            self.outside.push(pack.id);
        }
        for id in found.blobs {
            self.blobs.entry((pack.id, id)).or_insert(fault);
        }
    }
}

fn node_piece(node: &EnvelopeNode) -> PieceRef {
    PieceRef {
        cv: node.node.cv,
        offset: 0,
        length: node.node.length,
    }
}

fn place_of(pack: &PackInfo) -> String {
    pack_key(pack.kind, &pack.id).map_or_else(|_: Error| pack.id.to_string(), |key| key.to_string())
}
