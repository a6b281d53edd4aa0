//! Making and opening a repository, and the files in it.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use futures::TryStreamExt;

use crate::base::env::{Env, lock};
use crate::base::error::Context;
use crate::base::resources::Resources;
use crate::repo::format::config::{CONFIG, Config, FORMAT, PACK_SIZE, check_pack_size};
use crate::repo::format::crypto::Key;
use crate::repo::format::features::Features;
use crate::repo::format::files::StoredFile;
use crate::repo::format::hash::Chunking;
use crate::repo::format::ids::{BlobId, FeaturesId, KeyId, PackId, RepositoryId, SessionId};
use crate::repo::format::keys::{KdfCost, NewKey, Unlock, key_path, wrap};
use crate::repo::format::lineage::{Dead, Lineage};
use crate::repo::format::ring::{ring_paths, seal_ring};
use crate::repo::format::sealer::{Keyring, Sealer};
use crate::repo::format::wire::damaged;
use crate::repo::host::Host;
use crate::repo::memory::{self, Memory};
use crate::repo::opening::{check_unlock, find_master, get, list, read_features, read_rings};
use crate::store::limit::limited;
use crate::store::probe::Findings;
use crate::store::{self, GetOptions, ListOptions, Meta, PutMode, PutOptions, SharedStore};
use crate::{Cause, Error, Result, Side};

/// Sessions of this process that have ended: their leases may be there still, where they could not be
/// written, and a process does not prove its own death.
static ENDED: Mutex<BTreeSet<(RepositoryId, SessionId)>> = Mutex::new(BTreeSet::new());

/// Where in a state directory copies of index segments are.
const LOCAL_INDEX: &str = "index";

/// How a repository is made.
#[derive(Debug, Clone)]
pub struct InitOptions {
    /// Where objects are cut; the default is what the format advises.
    pub cuts: Chunking,
    /// A pack is closed when it has reached this many bytes: 1 MiB to 1 GiB.
    pub pack_size: u32,
    /// What the passphrase costs an attacker, and us once for each opening.
    pub kdf: KdfCost,
    /// What the first key file is called, for people.
    pub label: String,
    /// What a probe found out about the store, recorded for information.
    pub store: serde_json::Value,
}

impl Default for InitOptions {
    fn default() -> Self {
        Self {
            cuts: Chunking::default(),
            pack_size: PACK_SIZE,
            kdf: KdfCost::default(),
            label: String::new(),
            store: serde_json::Value::Null,
        }
    }
}

/// An open repository. Clones share everything.
#[derive(Debug, Clone)]
pub struct Repository(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    store: SharedStore,
    /// The same without limits, for what must not wait behind data: a lease that cannot be renewed in
    /// time is lost.
    unlimited: SharedStore,
    env: Env,
    config: Config,
    features: Vec<Features>,
    /// Why nothing may be written: keys or features that count cannot be read.
    unwritable: Option<String>,
    master: Key,
    sealer: Sealer,
    resources: Resources,
    host: Host,
    seen: Mutex<HashMap<SessionId, Sighting>>,
    /// Sessions that snapshots or marks took for dead, as far as they were read.
    dead: Mutex<HashSet<SessionId>>,
    /// Where blobs were found damaged. What another place has, or the source still has, needs none of them.
    bad: Mutex<HashSet<(PackId, BlobId)>>,
    /// What was said once and is not said again.
    told: Mutex<HashSet<String>>,
    memory: Option<Memory>,
    local_index: Option<PathBuf>,
    /// The highest sequence of a keyring.
    newest_ring: u32,
    /// A newer keyring that this host saw is gone.
    ring_gone: Option<String>,
    /// Set by tests only.
    broken: Option<Rule>,
}

/// What makes pruning safe (docs/format.md, sections 11 and 15).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Rule {
    /// A session relies on nothing in the packs of marks that its lease names.
    Heeding,
    /// Packs go once every session at work heeds their mark.
    Waiting,
    /// Packs go once it is proved that all that is needed of them is elsewhere.
    Proof,
}

/// What opening a repository gave.
struct Opened {
    master: Key,
    sealer: Sealer,
    features: Vec<Features>,
    unwritable: Option<String>,
    newest_ring: u32,
}

/// When a lease was first seen with its present bytes, on our boot-time clock.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Sighting {
    pub(crate) hash: blake3::Hash,
    pub(crate) since: Duration,
}

impl Repository {
    /// Makes a repository in `store` and opens it. `config` is written last: until then there is no
    /// repository, and what an interrupted call left is ignored by the next one.
    ///
    /// # Errors
    ///
    /// [`Cause::Failed`] when there is a repository, or the remains of one, already.
    pub async fn init(
        store: SharedStore,
        unlock: Unlock,
        options: InitOptions,
        resources: &Resources,
        env: &Env,
    ) -> Result<Self> {
        let possible = options.cuts.check();
        let cuts = possible.and_then(|cuts| check_pack_size(options.pack_size).map(|_| cuts));
        let cuts = cuts.map_err(|error| Error::new(Cause::Invalid, error.to_string()))?;
        let pack_size = options.pack_size;
        Self::refuse_occupied(&store).await?;
        let repository = RepositoryId(env.id());
        let created = env.now();
        let ring = Keyring::generate(created);
        let key_id = KeyId(env.id());
        let ring_names = ring_paths(0, &repository, &env.id());
        let encrypted = matches!(unlock, Unlock::Passphrase(_));
        let (key_file, ring_files, keys) = resources
            .run(move || {
                let master = Key::generate();
                let new = NewKey {
                    id: key_id,
                    repository,
                    created,
                    label: &options.label,
                    cost: options.kdf,
                };
                let key_file = wrap(&new, &unlock, &master)?;
                let mut ring_files = Vec::new();
                for path in ring_names {
                    let bytes = seal_ring(&ring, &master, &repository, &path)?;
                    ring_files.push((path, bytes));
                }
                let opened = Opened {
                    master,
                    sealer: Sealer { repository, ring },
                    features: vec![],
                    unwritable: None,
                    newest_ring: 0,
                };
                Ok((key_file, ring_files, opened))
            })
            .await?;
        let config = Config {
            format: FORMAT,
            repository,
            created,
            encrypted,
            cuts,
            pack_size,
            required_read: vec![],
            required_write: vec![],
            store: options.store,
        };
        let config_file = config.seal(&keys.sealer)?;
        let opened = Self::assemble(store, env, config, keys, resources.clone());
        opened.put_once(&key_path(&key_id), key_file.into()).await?;
        for (path, bytes) in ring_files {
            opened.put_once(&path, bytes.into()).await?;
        }
        opened.put_once(CONFIG, config_file.into()).await?;
        Ok(opened)
    }

    /// Opens the repository in `store`. With a passphrase it takes as long as the key files cost.
    ///
    /// # Errors
    ///
    /// [`Cause::Absent`] without a `config`, [`Cause::WrongKey`], [`Cause::NewerFormat`],
    /// [`Cause::Damage`].
    pub async fn open(
        store: SharedStore,
        unlock: Unlock,
        resources: &Resources,
        env: &Env,
    ) -> Result<Self> {
        let location = store.location();
        let bytes = match get(&store, CONFIG, GetOptions::default()).await {
            Err(error) if error.cause() == Cause::NotFound => {
                return Err(Side::Repository
                    .error(
                        Cause::Absent,
                        format!("there is no repository at {location}"),
                    )
                    .with_hint("eyrie init makes one"));
            }
            other => other?,
        };
        let unproven =
            Config::read(&bytes).context(|| format!("open the repository at {location}"))?;
        let (repository, encrypted) = (unproven.config.repository, unproven.config.encrypted);
        let features = read_features(&store, repository).await?;
        check_unlock(encrypted, &unlock, &location)?;
        let names = list(&store, StoredFile::Key.row().directory).await?;
        let master = find_master(&store, resources, &names, repository, unlock, &location).await?;
        let rings = read_rings(&store, &names, &master, repository).await?;
        for damage in &rings.damage {
            tracing::warn!("{}", damage.what);
        }
        let ring = rings.ring;
        let sealer = Sealer { repository, ring };
        let config = unproven.prove(&sealer)?;
        let (features, errors) = features.prove(&sealer)?;
        for error in &errors {
            tracing::warn!("{error}");
        }
        let opened = Opened {
            master,
            sealer,
            features,
            unwritable: rings.fallen_back.or_else(|| errors.into_iter().next()),
            newest_ring: rings.newest,
        };
        Ok(Self::assemble(
            store,
            env,
            config,
            opened,
            resources.clone(),
        ))
    }

    /// What a probe of the store found when the repository in it was made; `None` where there is no
    /// repository or nothing was recorded. Not authenticated before [`open`](Self::open) is through.
    ///
    /// # Errors
    ///
    /// What the store fails with; damage is for `open` to tell.
    pub async fn probed(store: &SharedStore) -> Result<Option<Findings>> {
        let bytes = match get(store, CONFIG, GetOptions::default()).await {
            Err(error) if error.cause() == Cause::NotFound => return Ok(None),
            other => other?,
        };
        let recorded = Config::read(&bytes).ok().map(|read| read.config.store);
        Ok(recorded.and_then(|found| serde_json::from_value(found).ok()))
    }

    /// Refuses to make a repository where one is or was: keys that are gone are gone for good.
    ///
    /// # Errors
    ///
    /// [`Cause::Failed`] naming what is there.
    pub async fn refuse_occupied(store: &SharedStore) -> Result<()> {
        let location = store.location();
        match store.head(&store::Key::new(CONFIG)?).await {
            Ok(_) => {
                return Err(Side::Repository.error(
                    Cause::Failed,
                    format!("there is a repository at {location} already"),
                ));
            }
            Err(error) if error.cause() == Cause::NotFound => {}
            Err(error) => return Err(error.context(format!("look for a repository at {location}"))),
        }
        let bars = |file: &&StoredFile| file.row().bars_init && !file.row().directory.is_empty();
        for file in StoredFile::ALL.iter().filter(bars) {
            let prefix = file.row().directory;
            if store
                .list(prefix, ListOptions::default())
                .try_next()
                .await?
                .is_some()
            {
                return Err(Side::Repository
                    .error(
                        Cause::Failed,
                        format!(
                            "{location} holds {prefix} of a repository whose config is missing"
                        ),
                    )
                    .with_hint("bring its config back, or choose an empty place"));
            }
        }
        Ok(())
    }

    fn assemble(
        store: SharedStore,
        env: &Env,
        config: Config,
        keys: Opened,
        resources: Resources,
    ) -> Self {
        let host = Host::current();
        let (env, seen, told) = (env.clone(), Mutex::default(), Mutex::default());
        let Opened {
            master,
            sealer,
            features,
            unwritable,
            newest_ring,
        } = keys;
        Self(Arc::new(Inner {
            store: limited(store.clone(), &resources),
            unlimited: store,
            env,
            config,
            features,
            unwritable,
            master,
            sealer,
            resources,
            host,
            seen,
            dead: Mutex::default(),
            bad: Mutex::default(),
            told,
            memory: None,
            local_index: None,
            newest_ring,
            ring_gone: None,
            broken: None,
        }))
    }

    /// The repository's id.
    #[must_use]
    pub fn id(&self) -> RepositoryId {
        self.0.config.repository
    }

    /// The lineage of what is captured of `instance` into this repository.
    #[must_use]
    pub fn lineage(&self, instance: &str) -> Lineage {
        Lineage {
            origin: self.id(),
            instance: instance.to_owned(),
        }
    }

    /// Whether a passphrase or key is needed to read it.
    #[must_use]
    pub fn encrypted(&self) -> bool {
        self.0.config.encrypted
    }

    /// Where it is, for people.
    #[must_use]
    pub fn location(&self) -> String {
        self.0.store.location()
    }

    /// Where objects are cut.
    #[must_use]
    pub fn cuts(&self) -> Chunking {
        self.0.config.cuts
    }

    pub(crate) fn config(&self) -> &Config {
        &self.0.config
    }

    /// Refuses to write where this code does not know what a writer must, or cannot know it, or where
    /// the newest keys may be missing.
    ///
    /// # Errors
    ///
    /// [`Cause::NewerFormat`], [`Cause::Damage`].
    pub(crate) fn check_writable(&self) -> Result<()> {
        self.0.config.check_writable()?;
        for features in &self.0.features {
            features.check_writable()?;
        }
        let Some(why) = &self.0.unwritable else {
            return Ok(());
        };
        let location = self.location();
        Err(damaged(format!(
            "nothing may be written to the repository at {location}: {why}"
        ))
        .with_hint("bring the file back from a copy of the repository"))
    }

    /// Refuses to write where somebody has required something since the repository was opened.
    ///
    /// # Errors
    ///
    /// As [`check_writable`](Self::check_writable), and what the store fails with.
    pub(crate) async fn check_features_again(&self) -> Result<()> {
        let files = read_features(self.store(), self.id()).await?;
        let (features, errors) = files.prove(self.sealer())?;
        for features in &features {
            features.check_writable()?;
        }
        match errors.into_iter().next() {
            Some(error) => Err(damaged(error)),
            None => Ok(()),
        }
    }

    /// Adds features that readers or writers must know from now on. They are never taken back.
    ///
    /// # Errors
    ///
    /// What the store fails with; the repository is as it was then.
    pub async fn require_features(&self, read: Vec<String>, write: Vec<String>) -> Result<()> {
        self.check_writable()?;
        let features = Features {
            id: FeaturesId(self.env().id()),
            repository: self.id(),
            created: self.env().now(),
            required_read: read,
            required_write: write,
        };
        let path = StoredFile::Features.path(&features.id);
        let bytes = features.seal(self.sealer())?;
        self.put_once(&path, bytes.into()).await
    }

    /// Starts a new epoch: new data is sealed under a new key, what is there stays readable. Two that
    /// do it at once make two keys, and both count.
    ///
    /// # Errors
    ///
    /// What [`check_writable`](Self::check_writable) and the store fail with. With one of the two files
    /// of the new ring written, the new epoch counts.
    pub async fn begin_epoch(&self) -> Result<()> {
        self.check_writable()?;
        let names = self.list(StoredFile::Ring.row().directory).await?;
        let (master, id) = (self.master(), self.id());
        let rings = read_rings(self.store(), &names, master, id).await?;
        if let Some(why) = rings.fallen_back {
            return Err(damaged(format!("no epoch can begin: {why}")));
        }
        let sequence = rings.newest.saturating_add(1);
        let ring = rings.ring.with_new_epoch(self.env().now())?;
        for path in ring_paths(sequence, &id, &self.env().id()) {
            let bytes = seal_ring(&ring, master, &id, &path)?;
            self.put_once(&path, bytes.into()).await?;
        }
        Ok(())
    }

    pub(crate) fn store(&self) -> &SharedStore {
        &self.0.store
    }

    pub(crate) fn unlimited(&self) -> &SharedStore {
        &self.0.unlimited
    }

    pub(crate) fn env(&self) -> &Env {
        &self.0.env
    }

    pub(crate) fn master(&self) -> &Key {
        &self.0.master
    }

    pub(crate) fn sealer(&self) -> &Sealer {
        &self.0.sealer
    }

    pub(crate) fn resources(&self) -> &Resources {
        &self.0.resources
    }

    pub(crate) fn host(&self) -> &Host {
        &self.0.host
    }

    /// Remembers, for all of this process, that one of its sessions has ended.
    pub(crate) fn ended(&self, session: SessionId) {
        lock(&ENDED).insert((self.id(), session));
    }

    /// Whether a session of this process has ended.
    pub(crate) fn has_ended(&self, session: &SessionId) -> bool {
        lock(&ENDED).contains(&(self.id(), *session))
    }

    /// Remembers the sessions that were taken for dead.
    pub(crate) fn take_for_dead<'a>(&self, dead: impl Iterator<Item = &'a Dead>) {
        lock(&self.0.dead).extend(dead.flat_map(Dead::keys));
    }

    /// Whether a snapshot or a mark took the session for dead: then nothing of it counts any more.
    pub(crate) fn is_taken_for_dead(&self, session: &SessionId) -> bool {
        lock(&self.0.dead).contains(session)
    }

    /// Remembers that a blob is damaged in a pack.
    pub(crate) fn note_bad(&self, pack: PackId, blob: BlobId) {
        lock(&self.0.bad).insert((pack, blob));
    }

    /// Whether a blob is known to be damaged in a pack.
    pub(crate) fn is_bad(&self, pack: PackId, blob: BlobId) -> bool {
        let bad = lock(&self.0.bad);
        !bad.is_empty() && bad.contains(&(pack, blob))
    }

    /// The packs in which blobs are known to be damaged.
    pub(crate) fn bad_packs(&self) -> HashSet<PackId> {
        lock(&self.0.bad).iter().map(|(pack, _)| *pack).collect()
    }

    /// How many places of blobs are known to be damaged.
    pub(crate) fn bad_places(&self) -> usize {
        lock(&self.0.bad).len()
    }

    /// Whether this was not said yet.
    pub(crate) fn first_told(&self, what: impl Into<String>) -> bool {
        lock(&self.0.told).insert(what.into())
    }

    /// The same repository, which remembers from now on what it sees, and compares it with what this
    /// host saw before. Where the newest keyring that it saw is gone, nothing may be written.
    ///
    /// # Errors
    ///
    /// [`Cause::Failed`] when the repository is in use already.
    pub async fn remembering(self, memory: Memory) -> Result<Self> {
        let before = memory.read(self.id()).await.unwrap_or_else(|error| {
            tracing::warn!("what this host saw cannot be read: {}", error.chain());
            None
        });
        let (newest, location) = (self.0.newest_ring, self.location());
        let lost = before.filter(|before| before.ring > newest).map(|before| {
            format!(
                "keyring {} of the repository at {location}, which this host saw, is gone ({} remembers it)",
                before.ring,
                memory.place()
            )
        });
        if let Some(lost) = &lost {
            tracing::warn!("{lost}");
        }
        let mut inner = Arc::try_unwrap(self.0).map_err(|_| {
            Error::new(
                Cause::Failed,
                "a repository that is in use begins to remember",
            )
        })?;
        inner.unwritable = inner.unwritable.or_else(|| lost.clone());
        inner.ring_gone = lost;
        inner.memory = Some(memory);
        Ok(Self(Arc::new(inner)))
    }

    /// The same repository, which keeps copies of its index segments below this state directory, so that they
    /// are not read from the store again. They may be deleted at any time.
    ///
    /// # Errors
    ///
    /// [`Cause::Failed`] when the repository is in use already.
    pub fn with_local_index(self, state_dir: &Path) -> Result<Self> {
        let name = memory::name(self.id(), &self.location());
        let mut inner = Arc::try_unwrap(self.0).map_err(|_| {
            Error::new(
                Cause::Failed,
                "a repository that is in use begins to keep its index",
            )
        })?;
        inner.local_index = Some(state_dir.join(LOCAL_INDEX).join(name));
        Ok(Self(Arc::new(inner)))
    }

    /// Where copies of index segments are kept.
    pub(crate) fn local_index(&self) -> Option<&Path> {
        self.0.local_index.as_deref()
    }

    pub(crate) fn memory(&self) -> Option<&Memory> {
        self.0.memory.as_ref()
    }

    pub(crate) fn newest_ring(&self) -> u32 {
        self.0.newest_ring
    }

    /// Why keys may be missing, as far as this host remembers.
    pub(crate) fn ring_gone(&self) -> Option<&str> {
        self.0.ring_gone.as_deref()
    }

    /// What was seen of other sessions' leases.
    pub(crate) fn seen(&self) -> &Mutex<HashMap<SessionId, Sighting>> {
        &self.0.seen
    }

    /// Whether this process keeps a rule that makes pruning safe: it does, unless a test breaks one to see that
    /// this is noticed.
    pub(crate) fn keeps(&self, rule: Rule) -> bool {
        self.0.broken != Some(rule)
    }

    /// The same repository for a process that breaks a rule.
    #[cfg(test)]
    pub(crate) fn breaking(self, rule: Option<Rule>) -> Self {
        let mut inner = Arc::try_unwrap(self.0).unwrap();
        inner.broken = rule;
        Self(Arc::new(inner))
    }

    /// The same repository for a process of another host.
    #[cfg(test)]
    pub(crate) fn on_host(self, host: Host) -> Self {
        let mut inner = Arc::try_unwrap(self.0).unwrap();
        inner.host = host;
        Self(Arc::new(inner))
    }

    /// The same repository for somebody who has all keys but those of data.
    #[cfg(test)]
    pub(crate) fn without_data_keys(&self) -> Self {
        let ring = Keyring {
            id_key: self.sealer().ring.id_key.clone(),
            meta_key: self.sealer().ring.meta_key.clone(),
            data: vec![],
        };
        let repository = self.id();
        let opened = Opened {
            master: self.master().clone(),
            sealer: Sealer { repository, ring },
            features: vec![],
            unwritable: None,
            newest_ring: 0,
        };
        Self::assemble(
            self.0.unlimited.clone(),
            self.env(),
            self.config().clone(),
            opened,
            self.resources().clone(),
        )
    }

    /// Reads a whole file.
    pub(crate) async fn get_file(&self, path: &str) -> Result<Bytes> {
        get(&self.0.store, path, GetOptions::default()).await
    }

    /// Reads a range of a file; exactly that many bytes, else the file is damaged.
    pub(crate) async fn get_range(&self, key: &store::Key, from: u64, len: u64) -> Result<Bytes> {
        let options = GetOptions {
            range: Some(from..from + len),
            ..GetOptions::default()
        };
        let bytes = self
            .0
            .store
            .get(key, options)
            .await
            .context(|| format!("read {key}"))?;
        if bytes.len() as u64 == len {
            return Ok(bytes);
        }
        Err(damaged(format!("{key} is damaged: it ends early")))
    }

    /// Writes a file whose name nobody else writes; writing the same bytes again is no error, so
    /// that a put whose answer was lost can be repeated.
    pub(crate) async fn put_once(&self, path: &str, bytes: Bytes) -> Result<()> {
        self.put_once_within(path, bytes, None).await
    }

    /// The same, given up after `patience`.
    pub(crate) async fn put_once_within(
        &self,
        path: &str,
        bytes: Bytes,
        patience: Option<Duration>,
    ) -> Result<()> {
        let key = store::Key::new(path)?;
        let options = PutOptions {
            mode: PutMode::Create,
            patience,
            ..PutOptions::default()
        };
        match self.0.store.put(&key, bytes.clone(), options).await {
            Ok(_) => Ok(()),
            Err(error) if error.cause() == Cause::AlreadyExists => {
                if self.get_file(path).await? == bytes {
                    return Ok(());
                }
                Err(error.context(format!("write {path}")))
            }
            Err(error) => Err(error.context(format!("write {path}"))),
        }
    }

    /// Lists what is under `prefix`.
    pub(crate) async fn list(&self, prefix: &str) -> Result<Vec<Meta>> {
        list(&self.0.store, prefix).await
    }

    /// The ids of the files of one kind; other names in its directory are foreign and left out.
    pub(crate) async fn list_ids<T: FromStr>(&self, file: StoredFile) -> Result<Vec<T>> {
        let metas = self.list(file.row().directory).await?;
        let ids = metas.iter().filter_map(|meta| file.id(meta.key.as_str()));
        Ok(ids.filter_map(|id| id.parse().ok()).collect())
    }
}
