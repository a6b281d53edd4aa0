//! The snapshots of a repository: reading their manifests, finding one, what is missing of them.

use std::collections::{HashMap, HashSet};
use std::time::Duration;

use futures::StreamExt;
use jiff::{SignedDuration, Timestamp};

use super::order::Known;
use crate::repo::format::amendment::Amendment;
use crate::repo::format::config::{FORMAT, knows_to_read};
use crate::repo::format::damage::{Damage, DamageKind};
use crate::repo::format::files::StoredFile;
use crate::repo::format::forgotten::Forgotten;
use crate::repo::format::ids::{ManifestHash, RepositoryId, SessionId, SnapshotId};
use crate::repo::format::lineage::{Dead, Lineage};
use crate::repo::format::manifest::{Manifest, SEQUENCE_MAX};
use crate::repo::format::sealed::FileKind;
use crate::repo::format::wire::damaged;
use crate::repo::memory::Remembered;
use crate::repo::repository::Repository;
use crate::{Cause, Error, Result, Side};

/// How long a writer that does not know whether its manifest was written tries to find out.
const LOOK_AGAIN: Duration = Duration::from_secs(30);

/// How far the clocks of two hosts may be apart without either being wrong.
pub(crate) const CLOCKS_DIFFER: SignedDuration = SignedDuration::from_mins(15);

/// How many manifests are read at once: they are small.
const MANIFESTS_AT_ONCE: usize = 16;

/// All snapshots of a repository.
#[derive(Debug, Clone, Default)]
pub struct Snapshots {
    /// Those that can be read, in the order in which they were made: each after those before it in its lineage,
    /// otherwise by time.
    pub manifests: Vec<Manifest>,
    /// What is wrong: manifests that are damaged, snapshots that are missing in the order of their
    /// lineages.
    pub damage: Vec<Damage>,
    /// Snapshots that need a newer eyrie to be read, and why.
    pub newer: Vec<(SnapshotId, String)>,
    /// Manifests of sessions that had been taken for dead: no snapshots, and pruned.
    pub void: Vec<SnapshotId>,
    repository: RepositoryId,
    /// Those that are forgotten and whose manifests are there.
    forgotten_manifests: Vec<Manifest>,
    /// Those of `newer` whose numbers and parents can be read.
    beyond: Vec<Manifest>,
    /// The places of `manifests` and `beyond` together in the order in which they were made.
    places: HashMap<SnapshotId, usize>,
    /// The time when they were read.
    read: Option<Timestamp>,
    forgotten: Vec<Forgotten>,
    pub(super) remembered: Option<Remembered>,
}

impl Manifest {
    /// Reads the manifest of snapshot `id`.
    ///
    /// # Errors
    ///
    /// [`Cause::NotFound`], [`Cause::Damage`]; [`Cause::NewerFormat`] when it is of a later version.
    pub(crate) async fn read(repo: &Repository, id: &SnapshotId) -> Result<Self> {
        let path = StoredFile::Manifest.path(id);
        let bytes = repo.get_file(&path).await?;
        let value: serde_json::Value =
            repo.sealer().open_json(FileKind::Manifest, &path, &bytes)?;
        if value["format"]
            .as_u64()
            .is_some_and(|format| format > FORMAT)
        {
            return Err(newer(id, &format!("its format is {}", value["format"])));
        }
        let mut manifest: Self = serde_json::from_value(value)
            .map_err(|error| damaged(format!("{path} is damaged: {error}")))?;
        let parent = manifest.parent.map_or(0, |parent| parent.sequence);
        let numbers = parent < manifest.sequence && manifest.sequence <= SEQUENCE_MAX;
        let possible = manifest.format == FORMAT && numbers;
        if manifest.snapshot != *id || !possible {
            return Err(damaged(format!(
                "{path} is damaged: it is of another snapshot, format or number"
            )));
        }
        manifest.hash = ManifestHash(blake3::hash(&bytes).into());
        Ok(manifest)
    }

    /// Writes the manifest: the commit. Gives up after `patience`, and looks once more whether it is there
    /// when that is not known then.
    pub(crate) async fn write(&mut self, repo: &Repository, patience: Duration) -> Result<()> {
        let path = StoredFile::Manifest.path(&self.snapshot);
        let bytes = repo.sealer().seal_json(FileKind::Manifest, &path, self)?;
        self.hash = ManifestHash(blake3::hash(&bytes).into());
        let put = repo.put_once_within(&path, bytes.clone(), Some(patience));
        match put.await {
            Err(error) if error.cause() == Cause::Unavailable => {
                let found = tokio::time::timeout(LOOK_AGAIN, repo.get_file(&path)).await;
                let there = found.is_ok_and(|found| found.is_ok_and(|found| found == bytes));
                if there { Ok(()) } else { Err(error) }
            }
            put => put,
        }
    }
}

impl Repository {
    /// Reads every manifest once. What is damaged is reported beside the others.
    ///
    /// # Errors
    ///
    /// What the store fails with; never [`Cause::Damage`].
    pub async fn snapshots(&self) -> Result<Snapshots> {
        // What another process remembers after this it may have seen after this, too.
        let before = self.remembered().await;
        let ids: Vec<SnapshotId> = self.list_ids(StoredFile::Manifest).await?;
        let mut read = futures::stream::iter(ids)
            .map(|id| async move { (id, Manifest::read(self, &id).await) })
            .buffered(MANIFESTS_AT_ONCE);
        let mut all = Snapshots {
            repository: self.id(),
            ..Snapshots::default()
        };
        let mut manifests = Vec::new();
        let mut unread = HashSet::new();
        while let Some((id, result)) = read.next().await {
            match result {
                Ok(manifest) => {
                    if let Err(error) = knows_to_read(&manifest.requires) {
                        all.newer.push((id, error.chain()));
                    }
                    manifests.push(manifest);
                }
                // Removed between the listing and the reading.
                Err(error) if error.cause() == Cause::NotFound => {}
                Err(error) if error.cause() == Cause::NewerFormat => {
                    unread.insert(id);
                    all.newer.push((id, error.chain()));
                }
                Err(error) if error.cause() == Cause::Damage => {
                    unread.insert(id);
                    all.damage.push(Damage {
                        kind: DamageKind::Manifest,
                        what: error.chain(),
                        place: StoredFile::Manifest.path(&id),
                        snapshots: vec![id],
                    });
                }
                Err(error) => return Err(error),
            }
        }
        all.forgotten = self.forgotten(&mut all.damage).await?;
        let amendments = self.amendments(&mut all.damage).await?;
        let marked = self.marks().await?.dead;
        let known = Known {
            repository: self.id(),
            forgotten: &all.forgotten,
            marked: &marked,
            unread: &unread,
        };
        let mut ordered = known.judge(manifests);
        all.damage.append(&mut ordered.damage);
        all.compare_with_memory(self, before, &ordered, &unread)
            .await;
        all.void = ordered.void.iter().map(|m| m.snapshot).collect();
        for id in all.void.iter().filter(|id| self.first_told(id.to_string())) {
            tracing::warn!(
                "{} is no snapshot: it was written after its session had been taken for dead",
                StoredFile::Manifest.path(id)
            );
        }
        // What is no snapshot bars nothing, whatever one must know to read it.
        let none: HashSet<SnapshotId> = ordered
            .void
            .iter()
            .chain(&ordered.forgotten)
            .map(|m| m.snapshot)
            .collect();
        all.newer.retain(|(id, _)| !none.contains(id));
        self.take_for_dead(ordered.snapshots.iter().map(|m| &m.dead).chain(&marked));
        let mut amendments_of: HashMap<_, Vec<&Amendment>> = HashMap::new();
        for amendment in &amendments {
            let of = (amendment.snapshot, amendment.manifest);
            amendments_of.entry(of).or_default().push(amendment);
        }
        let forgotten = ordered.forgotten.iter_mut();
        for manifest in ordered.snapshots.iter_mut().chain(forgotten) {
            let of = amendments_of.remove(&(manifest.snapshot, manifest.known_as()));
            for amendment in of.unwrap_or_default() {
                if amendment.format > FORMAT {
                    let why = format!("the format of an amendment is {}", amendment.format);
                    all.newer.push((amendment.snapshot, why));
                }
                if let Err(error) = knows_to_read(&amendment.requires) {
                    all.newer.push((amendment.snapshot, error.chain()));
                }
                manifest.amended.push(amendment.roots.clone());
            }
        }
        let newer: HashSet<SnapshotId> = all.newer.iter().map(|(id, _)| *id).collect();
        let now = self.env().now();
        all.read = Some(now);
        let snapshots = as_made(ordered.snapshots, self.id(), now);
        all.forgotten_manifests = ordered.forgotten;
        let places = snapshots.iter().enumerate();
        all.places = places.map(|(place, m)| (m.snapshot, place)).collect();
        let snapshots = snapshots.into_iter();
        (all.beyond, all.manifests) = snapshots.partition(|m| newer.contains(&m.snapshot));
        Ok(all)
    }
}

/// Sorts as they were made: within a lineage by number, and lineages among each other by time. A time before that
/// of a predecessor, or after `now`, is of a clock that was wrong: the predecessor's counts instead.
fn as_made(
    mut manifests: Vec<Manifest>,
    repository: RepositoryId,
    now: Timestamp,
) -> Vec<Manifest> {
    manifests.sort_by_key(|m| m.sequence);
    let mut last: HashMap<Lineage, Timestamp> = HashMap::new();
    let mut timed: Vec<(Option<Timestamp>, Manifest)> = Vec::with_capacity(manifests.len());
    for manifest in manifests {
        let lineage = manifest.lineage(repository);
        let before = last.get(&lineage).copied();
        let own = (!is_ahead(manifest.time, now)).then_some(manifest.time);
        let time = own.max(before);
        if let Some(time) = time {
            last.insert(lineage, time);
        }
        timed.push((time, manifest));
    }
    // What begins a lineage with a time after now has that of its successor.
    let mut next: HashMap<Lineage, Timestamp> = HashMap::new();
    let mut placed: Vec<(Timestamp, Manifest)> = Vec::with_capacity(timed.len());
    for (time, manifest) in timed.into_iter().rev() {
        let lineage = manifest.lineage(repository);
        let time = time.or_else(|| next.get(&lineage).copied()).unwrap_or(now);
        next.insert(lineage, time);
        placed.push((time, manifest));
    }
    placed.sort_by(|(a_time, a), (b_time, b)| {
        let key = |m: &Manifest| (m.instance.clone(), m.sequence, m.snapshot);
        a_time.cmp(b_time).then_with(|| key(a).cmp(&key(b)))
    });
    placed.into_iter().map(|(_, manifest)| manifest).collect()
}

/// Whether a time is after `now` by more than two good clocks differ.
#[must_use]
pub fn is_ahead(time: Timestamp, now: Timestamp) -> bool {
    time.duration_since(now) > CLOCKS_DIFFER
}

fn newer(id: &SnapshotId, why: &str) -> Error {
    Side::Repository
        .error(
            Cause::NewerFormat,
            format!("snapshot {} was made by a newer eyrie: {why}", id.short()),
        )
        .with_hint("use the eyrie that made it, or a later one")
}

impl Snapshots {
    /// Finds a snapshot by `latest`, id or unique prefix of an id, among those of `instance` where
    /// one is given. `latest` is the one that was made last: the last of its lineage, and of several lineages the
    /// one with the latest time.
    ///
    /// # Errors
    ///
    /// [`Cause::NotFound`]; [`Cause::Invalid`] when several match; [`Cause::Damage`] when the manifest is
    /// damaged, or for `latest` when any is, as that one may be the latest; [`Cause::NewerFormat`] in the
    /// same cases, when a newer eyrie is needed to read it.
    pub fn find(&self, spec: &str, instance: Option<&str>) -> Result<&Manifest> {
        let mut candidates = self
            .manifests
            .iter()
            .filter(|manifest| instance.is_none_or(|name| name == manifest.instance));
        let unreadable = |prefix: &str| {
            self.damage.iter().find(|damage| {
                let name = StoredFile::Manifest.id(&damage.place);
                damage.kind == DamageKind::Manifest && name.is_some_and(|id| id.starts_with(prefix))
            })
        };
        if spec == "latest" {
            if let Some(damage) = unreadable("") {
                return Err(damaged(format!(
                    "which snapshot is the latest is not known: {}",
                    damage.what
                ))
                .with_hint("name a snapshot by its id"));
            }
            let of = |m: &&Manifest| instance.is_none_or(|name| name == m.instance);
            let beyond = self.beyond.iter().rfind(of);
            let latest = candidates.next_back();
            let bars = |(id, _): &&(SnapshotId, String)| match self
                .beyond
                .iter()
                .find(|m| m.snapshot == *id)
            {
                Some(known) => {
                    Some(known.snapshot) == beyond.map(|m| m.snapshot)
                        && latest.is_none_or(|latest| !self.is_before(known, latest))
                }
                // Its time and instance are not known.
                None => true,
            };
            if let Some((id, why)) = self.newer.iter().find(bars) {
                return Err(newer(id, why).context("which snapshot is the latest is not known"));
            }
            let latest = latest.ok_or_else(|| not_found("there is no snapshot yet", instance))?;
            if let Some(what) = self.out_of_time(Some(&latest.instance)) {
                tracing::warn!("{what}");
            }
            return Ok(latest);
        }
        let is_id = !spec.is_empty() && spec.bytes().all(|b| b.is_ascii_hexdigit());
        let spec = spec.to_ascii_lowercase();
        let mut matching =
            candidates.filter(|manifest| is_id && manifest.snapshot.to_string().starts_with(&spec));
        match (matching.next(), matching.next()) {
            (Some(only), None) => Ok(only),
            (Some(_), Some(_)) => Err(Side::Repository
                .error(
                    Cause::Invalid,
                    format!("several snapshots begin with {spec:?}"),
                )
                .with_hint("give more digits")),
            (None, _) => match unreadable(&spec).filter(|_| is_id) {
                Some(damage) => Err(damaged(damage.what.clone())),
                None => Err(self.beyond_reach(&spec).unwrap_or_else(|| {
                    not_found(&format!("there is no snapshot {spec:?}"), instance)
                })),
            },
        }
    }

    /// Why a snapshot that begins with `prefix` cannot be read by this eyrie.
    fn beyond_reach(&self, prefix: &str) -> Option<Error> {
        let named = |id: &SnapshotId| !prefix.is_empty() && id.to_string().starts_with(prefix);
        let (id, why) = self.newer.iter().find(|(id, _)| named(id))?;
        Some(newer(id, why))
    }

    /// Snapshots whose manifests are there and whose numbers cannot be read.
    #[must_use]
    pub fn unreadable(&self) -> Vec<SnapshotId> {
        let manifests = self.damage.iter();
        let manifests = manifests.filter(|damage| damage.kind == DamageKind::Manifest);
        let damaged = manifests.flat_map(|damage| &damage.snapshots).copied();
        let known: HashSet<SnapshotId> = self.beyond.iter().map(|m| m.snapshot).collect();
        let newer = self.newer.iter().map(|(id, _)| *id);
        damaged
            .chain(newer.filter(|id| !known.contains(id)))
            .collect()
    }

    /// Snapshots that need a newer eyrie: what they refer to is needed as well.
    pub(crate) fn beyond(&self) -> &[Manifest] {
        &self.beyond
    }

    /// The newest snapshot of `instance`, wherever it was made.
    #[must_use]
    pub fn newest_of(&self, instance: &str) -> Option<&Manifest> {
        let of = |m: &&Manifest| m.instance == instance;
        self.manifests.iter().rfind(of)
    }

    /// The last snapshot of `lineage`: the parent of the next one.
    pub(crate) fn last_of(&self, lineage: &Lineage) -> Option<&Manifest> {
        let all = self.manifests.iter().chain(&self.beyond);
        all.filter(|manifest| manifest.lineage(self.repository) == *lineage)
            .max_by_key(|manifest| manifest.sequence)
    }

    /// The highest number of `lineage` that is known of: of its snapshots, of forgotten ones, and of
    /// those that this host saw and are gone. 0 without any.
    pub(crate) fn highest(&self, lineage: &Lineage) -> u64 {
        let of = |r: &&Forgotten| r.lineage(self.repository) == *lineage;
        let forgotten = self.forgotten.iter().filter(of).map(|r| r.sequence);
        let last = self.last_of(lineage).map(|last| last.sequence);
        let seen = self.remembered.as_ref().map(|seen| seen.highest(lineage));
        forgotten.chain(last).chain(seen).max().unwrap_or(0)
    }

    /// What a manifest of `lineage` says of sessions that its own took for dead: which snapshots of theirs
    /// are known. One whose session cannot be read may be of any of them. Sessions that a snapshot or a
    /// record says the same of already are left out.
    pub(crate) fn seen_of(
        &self,
        lineage: &Lineage,
        sessions: impl IntoIterator<Item = SessionId>,
    ) -> Dead {
        let unreadable = self.unreadable();
        let of = |m: &&Manifest| m.lineage(self.repository) == *lineage;
        let manifests = || self.manifests.iter().chain(&self.beyond).filter(of);
        let records = || {
            let of = |r: &&Forgotten| r.lineage(self.repository) == *lineage;
            self.forgotten.iter().filter(of)
        };
        let named: HashSet<&SessionId> = manifests()
            .flat_map(|m| m.dead.keys())
            .chain(records().flat_map(|r| r.dead.keys()))
            .collect();
        let seen = |session: SessionId| {
            let theirs = manifests().filter(|m| m.session == session);
            let gone = records().filter(|r| r.session == session);
            let theirs = theirs.map(|m| m.snapshot).chain(gone.map(|r| r.snapshot));
            (session, theirs.chain(unreadable.iter().copied()).collect())
        };
        let sessions = sessions
            .into_iter()
            .filter(|session| !named.contains(session));
        sessions.map(seen).collect()
    }

    /// Those that are forgotten and whose manifests are there.
    #[must_use]
    pub fn forgotten_manifests(&self) -> &[Manifest] {
        &self.forgotten_manifests
    }

    /// All snapshots that can be read, those that are forgotten and whose manifests are there among them, in the
    /// order in which they were made.
    #[must_use]
    pub fn with_forgotten(&self) -> Vec<Manifest> {
        let all = self.manifests.iter().chain(&self.forgotten_manifests);
        let now = self.read.unwrap_or(Timestamp::MAX);
        as_made(all.cloned().collect(), self.repository, now)
    }

    /// The snapshots of a session that are known, forgotten ones included.
    pub(crate) fn of_session(&self, session: SessionId) -> Vec<SnapshotId> {
        let manifests = self.manifests.iter().chain(&self.beyond);
        let manifests = manifests.filter(|m| m.session == session);
        let forgotten = self.forgotten.iter().filter(|r| r.session == session);
        let all = manifests.map(|m| m.snapshot);
        all.chain(forgotten.map(|r| r.snapshot)).collect()
    }

    /// Whether this is a snapshot.
    pub(crate) fn is_snapshot(&self, id: SnapshotId) -> bool {
        let mut all = self.manifests.iter().chain(&self.beyond);
        all.any(|m| m.snapshot == id)
    }

    /// Whether the manifest of this snapshot was there, whatever it is.
    pub(crate) fn knows(&self, id: SnapshotId) -> bool {
        self.is_snapshot(id)
            || self.void.contains(&id)
            || self.unreadable().contains(&id)
            || self.forgotten.iter().any(|record| record.snapshot == id)
    }

    pub(super) fn forgotten(&self) -> &[Forgotten] {
        &self.forgotten
    }

    /// Whether `a` was made before `b`.
    fn is_before(&self, a: &Manifest, b: &Manifest) -> bool {
        self.places.get(&a.snapshot) < self.places.get(&b.snapshot)
    }

    /// What to say when the times of snapshots, of `instance` where one is given, are not in the order in which
    /// they were made: a clock was wrong.
    #[must_use]
    pub fn out_of_time(&self, instance: Option<&str>) -> Option<String> {
        let of = |m: &&Manifest| instance.is_none_or(|name| name == m.instance);
        let mut last: HashMap<Lineage, &Manifest> = HashMap::new();
        let mut found: Option<(&Manifest, &Manifest)> = None;
        let mut more = 0_usize;
        for manifest in self.manifests.iter().filter(of) {
            let before = last.insert(manifest.lineage(self.repository), manifest);
            let Some(before) = before.filter(|before| manifest.time < before.time) else {
                continue;
            };
            more += usize::from(found.is_some());
            found = found.or(Some((before, manifest)));
        }
        let Some((before, manifest)) = found else {
            let ahead = |m: &&Manifest| self.read.is_some_and(|now| is_ahead(m.time, now));
            let manifest = self.manifests.iter().filter(of).find(ahead)?;
            return Some(format!(
                "snapshot {} of instance {:?} says that it is of {}, which is later than it is now on this host: a clock was wrong, or is",
                manifest.snapshot.short(),
                manifest.instance,
                manifest.time
            ));
        };
        let others = match more {
            0 => String::new(),
            more => format!(", and {more} more of the kind"),
        };
        Some(format!(
            "snapshot {} of instance {:?} says that it is of {}, and was made after snapshot {}, which says {}{others}: a clock was wrong; they are taken in the order in which they were made",
            manifest.snapshot.short(),
            manifest.instance,
            manifest.time,
            before.snapshot.short(),
            before.time
        ))
    }
}

fn not_found(what: &str, instance: Option<&str>) -> Error {
    let of = instance
        .map(|name| format!(" of instance {name:?}"))
        .unwrap_or_default();
    Side::Repository
        .error(Cause::NotFound, format!("{what}{of}"))
        .with_hint("eyrie snapshots lists them")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::repo::format::lineage::Origin;
    use crate::repo::session::order::tests::after;

    fn manifest(id: u8, instance: &str) -> Manifest {
        Manifest {
            instance: instance.into(),
            ..after(None, id, id)
        }
    }

    fn snapshots(manifests: Vec<Manifest>) -> Snapshots {
        let places = manifests.iter().enumerate();
        Snapshots {
            places: places.map(|(place, m)| (m.snapshot, place)).collect(),
            manifests,
            ..Snapshots::default()
        }
    }

    #[test]
    fn snapshots_are_found_by_latest_id_and_unique_prefix() {
        let all = snapshots(vec![
            manifest(0x11, "a"),
            manifest(0x12, "a"),
            manifest(0x13, "b"),
        ]);
        let whole = "11".repeat(32);
        let found = |spec, instance| all.find(spec, instance).map(|m| m.snapshot.0[0]);
        assert_eq!(found("latest", None).unwrap(), 0x13);
        assert_eq!(found("latest", Some("a")).unwrap(), 0x12);
        assert_eq!(found("1112", None).unwrap_err().cause(), Cause::NotFound);
        assert_eq!(found("12", None).unwrap(), 0x12);
        assert_eq!(found(&whole, None).unwrap(), 0x11);
        assert_eq!(found("1", None).unwrap_err().cause(), Cause::Invalid);
        for none in [
            found("12", Some("b")),
            found("", None),
            found("latest", Some("c")),
        ] {
            assert_eq!(none.unwrap_err().cause(), Cause::NotFound);
        }
    }

    #[test]
    fn latest_goes_by_time_over_all_lineages_of_an_instance() {
        let native = manifest(0x11, "a");
        // A copy of what was made elsewhere later, with a lower number.
        let copy = Manifest {
            origin: Some(Origin {
                repository: RepositoryId([9; 32]),
                manifest: ManifestHash([9; 32]),
            }),
            ..manifest(0x12, "a")
        };
        let mut second = after(Some(&native), 0x10, 0x10);
        second.instance = "a".into();
        let made = vec![copy.clone(), second.clone(), native];
        let now = Timestamp::from_second(1_000).unwrap();
        let all = snapshots(as_made(made, RepositoryId::default(), now));
        assert_eq!(
            all.find("latest", Some("a")).unwrap().snapshot,
            copy.snapshot
        );
        assert_eq!(all.newest_of("a").unwrap().snapshot, copy.snapshot);
        // Numbers and parents are of a lineage, whatever the times say.
        let own = second.lineage(RepositoryId::default());
        assert_eq!(all.last_of(&own).unwrap().snapshot, second.snapshot);
        let elsewhere = copy.lineage(RepositoryId::default());
        assert_eq!(all.last_of(&elsewhere).unwrap().snapshot, copy.snapshot);
    }

    /// The `number`th snapshot of instance `a`, of so many seconds.
    fn timed(number: u8, seconds: i64) -> Manifest {
        Manifest {
            instance: "a".into(),
            time: Timestamp::from_second(seconds).unwrap(),
            sequence: number.into(),
            ..after(None, number, number)
        }
    }

    #[test]
    fn snapshots_are_in_the_order_in_which_they_were_made_whatever_a_clock_said() {
        let b = Manifest {
            instance: "b".into(),
            ..timed(0x21, 150)
        };
        let now = Timestamp::from_second(1_000_000).unwrap();
        for (times, right) in [
            ([100, 200, 300], [1, 0x21, 2, 3]),
            // The second was made with a clock that was ahead, or behind.
            ([100, 900, 300], [1, 0x21, 2, 3]),
            ([100, 50, 300], [1, 2, 0x21, 3]),
            ([100, 200, 50], [1, 0x21, 2, 3]),
            // After now, the first and the last.
            ([2_000_000, 200, 300], [0x21, 1, 2, 3]),
            ([100, 200, 2_000_000], [1, 0x21, 2, 3]),
        ] {
            let mut made = vec![b.clone()];
            made.extend((1..=3).map(|n| timed(n, times[usize::from(n) - 1])));
            made.reverse();
            let all = Snapshots {
                read: Some(now),
                ..snapshots(as_made(made, RepositoryId::default(), now))
            };
            let order: Vec<u8> = all.manifests.iter().map(|m| m.snapshot.0[0]).collect();
            assert_eq!(order, right, "{times:?}");
            assert_eq!(all.newest_of("a").unwrap().snapshot.0[0], 3);
            assert_eq!(all.find("latest", Some("a")).unwrap().snapshot.0[0], 3);
            let wrong = !times.is_sorted() || times.contains(&2_000_000);
            let said = all.out_of_time(None);
            assert_eq!(said.is_some(), wrong, "{said:?}");
            // Another lineage of the instance, from elsewhere: the time decides.
            let ends = times.into_iter().filter(|t| *t <= 1_000_000).max().unwrap();
            for (time, last) in [(ends - 1, 3), (ends + 1, 0x31)] {
                let copy = Manifest {
                    origin: Some(Origin {
                        repository: RepositoryId([9; 32]),
                        manifest: ManifestHash([9; 32]),
                    }),
                    ..timed(0x31, time)
                };
                let mut both = all.manifests.clone();
                both.push(copy);
                let both = Snapshots {
                    read: Some(now),
                    ..snapshots(as_made(both, RepositoryId::default(), now))
                };
                let found = both.find("latest", Some("a")).unwrap().snapshot.0[0];
                assert_eq!((found, both.out_of_time(None)), (last, said.clone()));
            }
            assert_eq!(all.out_of_time(Some("b")), None);
        }
    }

    #[test]
    fn latest_is_refused_while_a_manifest_cannot_be_read() {
        let mut all = snapshots(vec![manifest(0x11, "a")]);
        all.damage.push(Damage {
            kind: DamageKind::Manifest,
            what: "snapshots/22… is damaged".into(),
            place: format!("snapshots/{}", "22".repeat(32)),
            snapshots: vec![],
        });
        assert_eq!(all.find("latest", None).unwrap_err().cause(), Cause::Damage);
        assert_eq!(all.find("22", None).unwrap_err().cause(), Cause::Damage);
        assert_eq!(all.find("11", None).unwrap().sequence, 1);
        all.damage.clear();
        let id = SnapshotId([0x33; 32]);
        all.newer.push((id, "it needs more".into()));
        for spec in ["latest", "33"] {
            assert_eq!(all.find(spec, None).unwrap_err().exit_code(), 13);
        }
        assert_eq!(all.find("11", None).unwrap().sequence, 1);
        assert_eq!(all.unreadable(), [id], "it may have any number");
    }
}
