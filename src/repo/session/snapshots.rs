//! The snapshots of a repository: reading their manifests, finding one, what is missing of them.

use std::collections::{BTreeMap, HashMap};

use futures::StreamExt;

use crate::repo::format::config::FORMAT;
use crate::repo::format::damage::{Damage, DamageKind};
use crate::repo::format::files::StoredFile;
use crate::repo::format::ids::SnapshotId;
use crate::repo::format::manifest::Manifest;
use crate::repo::format::sealed::FileKind;
use crate::repo::format::wire::damaged;
use crate::repo::repository::Repository;
use crate::{Cause, Error, Result, Side};

/// How many manifests are read at once: they are small.
const MANIFESTS_AT_ONCE: usize = 16;

/// All manifests of a repository.
#[derive(Debug, Clone, Default)]
pub struct Snapshots {
    /// Those that can be read, ascending by time.
    pub manifests: Vec<Manifest>,
    /// Manifests that are damaged, and what is missing in the order of an instance's snapshots.
    pub damage: Vec<Damage>,
}

impl Manifest {
    /// Reads the manifest of snapshot `id`.
    ///
    /// # Errors
    ///
    /// [`Cause::NotFound`], [`Cause::Damage`].
    pub(crate) async fn read(repo: &Repository, id: &SnapshotId) -> Result<Self> {
        let path = StoredFile::Manifest.path(id);
        let bytes = repo.get_file(&path).await?;
        let manifest: Self = repo.sealer().open_json(FileKind::Manifest, &path, &bytes)?;
        if manifest.snapshot != *id || manifest.format != FORMAT {
            return Err(damaged(format!(
                "{path} is damaged: it is of another snapshot or format"
            )));
        }
        Ok(manifest)
    }

    /// Writes the manifest: the commit.
    pub(crate) async fn write(&self, repo: &Repository) -> Result<()> {
        let path = StoredFile::Manifest.path(&self.snapshot);
        let bytes = repo.sealer().seal_json(FileKind::Manifest, &path, self)?;
        repo.put_once(&path, bytes).await
    }
}

impl Repository {
    /// Reads every manifest once. What is damaged is reported beside the others.
    ///
    /// # Errors
    ///
    /// What the store fails with; never [`Cause::Damage`].
    pub async fn snapshots(&self) -> Result<Snapshots> {
        let ids: Vec<SnapshotId> = self.list_ids(StoredFile::Manifest).await?;
        let mut read = futures::stream::iter(ids)
            .map(|id| async move { (id, Manifest::read(self, &id).await) })
            .buffered(MANIFESTS_AT_ONCE);
        let mut all = Snapshots::default();
        while let Some((id, result)) = read.next().await {
            match result {
                Ok(manifest) => all.manifests.push(manifest),
                // Forgotten between the listing and the reading.
                Err(error) if error.cause() == Cause::NotFound => {}
                Err(error) if error.cause() == Cause::Damage => all.damage.push(Damage {
                    kind: DamageKind::Manifest,
                    what: error.chain(),
                    place: StoredFile::Manifest.path(&id),
                    snapshots: vec![id],
                }),
                Err(error) => return Err(error),
            }
        }
        all.manifests.sort_by(|a, b| {
            (a.time, &a.instance, a.sequence).cmp(&(b.time, &b.instance, b.sequence))
        });
        all.find_gaps();
        Ok(all)
    }
}

impl Snapshots {
    /// Finds a snapshot by `latest`, id or unique prefix of an id, among those of `instance` where
    /// one is given. `latest` is the highest sequence of an instance, or without one the latest time.
    ///
    /// # Errors
    ///
    /// [`Cause::NotFound`]; [`Cause::Invalid`] when several match; [`Cause::Damage`] when the manifest is
    /// damaged, or for `latest` when any is, as that one may be the latest.
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
            let latest = match instance {
                Some(_) => candidates.max_by_key(|manifest| manifest.sequence),
                None => candidates.next_back(),
            };
            return latest.ok_or_else(|| not_found("there is no snapshot yet", instance));
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
                None => Err(not_found(
                    &format!("there is no snapshot {spec:?}"),
                    instance,
                )),
            },
        }
    }

    /// Snapshots whose manifests cannot be read.
    #[must_use]
    pub fn unreadable(&self) -> Vec<SnapshotId> {
        let manifests = self.damage.iter();
        let manifests = manifests.filter(|damage| damage.kind == DamageKind::Manifest);
        manifests
            .flat_map(|damage| &damage.snapshots)
            .copied()
            .collect()
    }

    /// The newest snapshot of `instance`.
    #[must_use]
    pub fn newest_of(&self, instance: &str) -> Option<&Manifest> {
        self.manifests
            .iter()
            .filter(|manifest| manifest.instance == instance)
            .max_by_key(|manifest| manifest.sequence)
    }

    /// Reports sequence numbers that are missing or taken twice.
    fn find_gaps(&mut self) {
        let mut by_instance: BTreeMap<&str, BTreeMap<u64, Vec<SnapshotId>>> = BTreeMap::new();
        let mut skipped: HashMap<SnapshotId, u64> = HashMap::new();
        for manifest in &self.manifests {
            skipped.insert(manifest.snapshot, manifest.unreadable.len() as u64);
            let sequences = by_instance.entry(&manifest.instance).or_default();
            sequences
                .entry(manifest.sequence)
                .or_default()
                .push(manifest.snapshot);
        }
        for (instance, sequences) in by_instance {
            let mut expected: u64 = 1;
            for (sequence, ids) in sequences {
                let mut report = |what: String| {
                    self.damage.push(Damage {
                        kind: DamageKind::Sequence,
                        what,
                        place: StoredFile::Manifest.row().directory.into(),
                        snapshots: ids.clone(),
                    });
                };
                let explained = ids.iter().filter_map(|id| skipped.get(id)).max();
                let explained = explained.copied().unwrap_or(0);
                if sequence > expected.saturating_add(explained) {
                    let last = sequence - 1;
                    report(if last == expected {
                        format!("snapshot {expected} of instance {instance:?} is missing")
                    } else {
                        format!(
                            "snapshots {expected} to {last} of instance {instance:?} are missing"
                        )
                    });
                }
                if ids.len() > 1 {
                    report(format!(
                        "several snapshots of instance {instance:?} are number {sequence}"
                    ));
                }
                expected = sequence.saturating_add(1);
            }
        }
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
    use jiff::Timestamp;

    use super::*;
    use crate::repo::format::manifest::{Roots, Totals};

    fn manifest(id: u8, instance: &str, sequence: u64) -> Manifest {
        Manifest {
            format: 1,
            snapshot: SnapshotId([id; 32]),
            instance: instance.into(),
            sequence,
            parent: None,
            unreadable: vec![],
            time: Timestamp::from_second(i64::from(id)).unwrap(),
            roots: Roots::new(),
            totals: Totals::default(),
            labels: BTreeMap::new(),
            body: serde_json::Value::Null,
        }
    }

    fn snapshots(manifests: Vec<Manifest>) -> Snapshots {
        let mut all = Snapshots {
            manifests,
            damage: vec![],
        };
        all.find_gaps();
        all
    }

    #[test]
    fn snapshots_are_found_by_latest_id_and_unique_prefix() {
        let all = snapshots(vec![
            manifest(0x11, "a", 1),
            manifest(0x12, "a", 2),
            manifest(0x13, "b", 1),
        ]);
        assert!(all.damage.is_empty());
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
    fn gaps_and_doubles_are_reported() {
        let all = snapshots(vec![
            manifest(1, "a", 3),
            manifest(2, "a", 4),
            manifest(3, "a", 4),
        ]);
        let what: Vec<_> = all
            .damage
            .iter()
            .map(|damage| damage.what.as_str())
            .collect();
        assert_eq!(
            what,
            [
                "snapshots 1 to 2 of instance \"a\" are missing",
                "several snapshots of instance \"a\" are number 4"
            ]
        );
    }

    #[test]
    fn latest_is_refused_while_a_manifest_is_unreadable() {
        let mut all = snapshots(vec![manifest(0x11, "a", 1)]);
        all.damage.push(Damage {
            kind: DamageKind::Manifest,
            what: "snapshots/22… is damaged".into(),
            place: format!("snapshots/{}", "22".repeat(32)),
            snapshots: vec![],
        });
        assert_eq!(all.find("latest", None).unwrap_err().cause(), Cause::Damage);
        assert_eq!(all.find("22", None).unwrap_err().cause(), Cause::Damage);
        assert_eq!(all.find("11", None).unwrap().sequence, 1);
    }
}
