//! Opening a repository: its features, from the passphrase to the master key, and the keyrings.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use bytes::Bytes;
use futures::TryStreamExt;

use crate::base::error::Context;
use crate::base::resources::Resources;
use crate::repo::format::crypto::Key;
use crate::repo::format::damage::{Damage, DamageKind};
use crate::repo::format::features::{self, Features};
use crate::repo::format::files::StoredFile;
use crate::repo::format::ids::RepositoryId;
use crate::repo::format::keys::{Tried, Unlock, unwrap};
use crate::repo::format::ring::{RingName, open_ring, ring_name};
use crate::repo::format::sealer::{Keyring, Sealer};
use crate::repo::format::wire::damaged;
use crate::store::{self, GetOptions, ListOptions, Meta, SharedStore};
use crate::{Cause, Result, Side};

/// The keyrings of a repository together.
pub(super) struct Rings {
    pub(super) ring: Keyring,
    /// What is wrong with their files.
    pub(super) damage: Vec<Damage>,
    /// Why the newest keys may be missing from `ring`: then nothing may be written under it.
    pub(super) fallen_back: Option<String>,
    /// The highest sequence of those that can be read.
    pub(super) newest: u32,
}

/// What is known of one ring.
#[derive(Default)]
struct Found {
    files: usize,
    opened: Option<Keyring>,
    errors: Vec<String>,
}

/// Reads all keyrings of the repository. Each stands in two files, of which one is enough.
///
/// # Errors
///
/// [`Cause::Damage`] when no ring can be read.
pub(crate) async fn read_rings(
    store: &SharedStore,
    names: &[Meta],
    master: &Key,
    repository: RepositoryId,
) -> Result<Rings> {
    let mut rings: BTreeMap<RingName, Found> = BTreeMap::new();
    let mut damage = Vec::new();
    let of_rings = |what: String, place: &str| Damage {
        kind: DamageKind::Key,
        what,
        place: place.to_owned(),
        snapshots: vec![],
    };
    for path in names.iter().map(|meta| meta.key.as_str()) {
        let Some(name) = ring_name(path, &repository) else {
            continue;
        };
        let found = rings.entry(name).or_default();
        found.files += 1;
        let bytes = get(store, path, GetOptions::default()).await?;
        match open_ring(&bytes, master, &repository, path) {
            Ok(ring) => found.opened = Some(ring),
            Err(error) => {
                found.errors.push(error.chain());
                damage.push(of_rings(error.chain(), path));
            }
        }
    }
    let directory = StoredFile::Ring.row().directory;
    let sequences: BTreeSet<u32> = rings.keys().map(|name| name.sequence).collect();
    let highest = sequences.last().copied().unwrap_or_default();
    let gaps = (0..highest).filter(|sequence| !sequences.contains(sequence));
    // A planted name must not make a list of 2^32 damages.
    for sequence in gaps.take(4) {
        damage.push(of_rings(
            format!("the keyring {sequence} of the repository is missing"),
            directory,
        ));
    }
    for (name, found) in &rings {
        if found.files == 1 {
            let what = format!(
                "the keyring {} stands in one file instead of two",
                name.sequence
            );
            damage.push(of_rings(what, directory));
        }
    }
    let readable = rings.iter().filter(|(_, found)| found.opened.is_some());
    let readable = readable.map(|(name, _)| name.sequence).max();
    let newest = readable.unwrap_or_default();
    let lost = rings
        .iter()
        .find(|(name, found)| found.opened.is_none() && Some(name.sequence) >= readable);
    let fallen_back = lost.map(|(_, found)| found.errors.join("; "));
    let opened: Vec<Keyring> = rings
        .into_values()
        .filter_map(|found| found.opened)
        .collect();
    let ring = match (opened.is_empty(), &fallen_back) {
        (true, Some(why)) => return Err(damaged(why.clone())),
        (true, None) => {
            let location = store.location();
            let message = format!("the repository at {location} has no keyring in {directory}");
            return Err(damaged(message));
        }
        (false, _) => Keyring::unite(opened)?,
    };
    Ok(Rings {
        ring,
        damage,
        fallen_back,
        newest,
    })
}

/// Files of features that were read but are not authenticated yet, and why others cannot be.
#[derive(Default)]
pub(super) struct FeatureFiles {
    read: Vec<features::Unproven>,
    errors: Vec<String>,
}

/// Reads the files of features. A damaged one is no error here: what it may require is needed for
/// writing.
///
/// # Errors
///
/// What the store fails with.
pub(crate) async fn read_features(
    store: &SharedStore,
    repository: RepositoryId,
) -> Result<FeatureFiles> {
    let mut files = FeatureFiles::default();
    for meta in list(store, StoredFile::Features.row().directory).await? {
        let path = meta.key.as_str();
        if StoredFile::Features.id(path).is_none() {
            continue;
        }
        let bytes = get(store, path, GetOptions::default()).await?;
        match Features::read(path, &bytes, &repository) {
            Ok(read) => files.read.push(read),
            Err(error) if error.cause() == Cause::Damage => files.errors.push(error.chain()),
            Err(error) => return Err(error),
        }
    }
    Ok(files)
}

impl FeatureFiles {
    /// Checks their MACs: those that are authentic, and what is wrong with the others.
    ///
    /// # Errors
    ///
    /// [`Cause::NewerFormat`] when an authentic one names what this code cannot read.
    pub(super) fn prove(self, sealer: &Sealer) -> Result<(Vec<Features>, Vec<String>)> {
        let (mut proved, mut errors) = (Vec::new(), self.errors);
        for unproven in self.read {
            match unproven.prove(sealer) {
                Ok(features) => {
                    features.check_readable()?;
                    proved.push(features);
                }
                Err(error) => errors.push(error.chain()),
            }
        }
        Ok((proved, errors))
    }
}

pub(super) fn check_unlock(encrypted: bool, unlock: &Unlock, location: &str) -> Result<()> {
    match (encrypted, unlock) {
        (true, Unlock::None) => Err(Side::Repository
            .error(
                Cause::WrongKey,
                format!("the repository at {location} is encrypted"),
            )
            .with_hint("give its passphrase")),
        (false, Unlock::Passphrase(_)) => Err(Side::Repository
            .error(
                Cause::WrongKey,
                format!(
                    "the repository at {location} is not encrypted, but a passphrase was given"
                ),
            )
            .with_hint("leave the passphrase out, if this is the repository you mean")),
        _ => Ok(()),
    }
}

/// The master key, from the first key file that `unlock` opens.
pub(crate) async fn find_master(
    store: &SharedStore,
    resources: &Resources,
    names: &[Meta],
    repository: RepositoryId,
    unlock: Unlock,
    location: &str,
) -> Result<Key> {
    let unlock = Arc::new(unlock);
    let mut damage = None;
    let mut wrong = 0_usize;
    for name in names.iter().map(|meta| meta.key.as_str()) {
        if StoredFile::Key.id(name).is_none() {
            continue;
        }
        let bytes = get(store, name, GetOptions::default()).await?;
        let (path, unlock) = (name.to_owned(), unlock.clone());
        match resources
            .run(move || unwrap(&path, &bytes, &repository, &unlock))
            .await
        {
            Ok(Tried::Opened(master)) => return Ok(master),
            Ok(Tried::Foreign) => {}
            Ok(Tried::Wrong) => wrong += 1,
            Err(error) => damage = Some(error),
        }
    }
    match (damage, wrong, &*unlock) {
        (Some(error), _, _) => Err(error),
        (None, 0, _) => Err(damaged(format!(
            "the repository at {location} has no key file in keys/"
        ))),
        (None, _, Unlock::None) => Err(damaged(format!(
            "the key files of the repository at {location} do not open"
        ))),
        (None, _, Unlock::Passphrase(_)) => Err(Side::Repository.error(
            Cause::WrongKey,
            format!("wrong passphrase for the repository at {location}"),
        )),
    }
}

/// Reads a whole file.
pub(crate) async fn get(store: &SharedStore, path: &str, options: GetOptions) -> Result<Bytes> {
    store
        .get(&store::Key::new(path)?, options)
        .await
        .context(|| format!("read {path}"))
}

/// What `read` gives; where that is damaged it may have become so on the way, and is read once more.
pub(crate) async fn read_twice<T, F>(read: impl Fn() -> F) -> Result<T>
where
    F: Future<Output = Result<T>>,
{
    match read().await {
        Err(error) if error.cause() == Cause::Damage => read().await,
        first => first,
    }
}

/// Lists what is under `prefix`.
pub(crate) async fn list(store: &SharedStore, prefix: &str) -> Result<Vec<Meta>> {
    store
        .list(prefix, ListOptions::default())
        .try_collect()
        .await
        .context(|| format!("list {prefix} of {}", store.location()))
}
