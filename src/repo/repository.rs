//! Making and opening a repository, and the files in it.

use std::collections::HashMap;
use std::str::FromStr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use futures::TryStreamExt;

use crate::base::env::Env;
use crate::base::error::Context;
use crate::base::resources::Resources;
use crate::repo::format::config::{CONFIG, Config, FORMAT};
use crate::repo::format::crypto::Key;
use crate::repo::format::files::StoredFile;
use crate::repo::format::hash::Chunking;
use crate::repo::format::ids::{KeyId, RepositoryId, SessionId};
use crate::repo::format::keys::{
    KdfCost, NewKey, Tried, Unlock, is_ring, key_path, open_ring, ring_path, seal_ring, unwrap,
    wrap,
};
use crate::repo::format::sealer::{Keyring, Sealer};
use crate::repo::format::wire::damaged;
use crate::repo::host::Host;
use crate::store::limit::limited;
use crate::store::probe::Findings;
use crate::store::{self, GetOptions, ListOptions, Meta, PutMode, PutOptions, SharedStore};
use crate::{Cause, Error, Result, Side};

/// How a repository is made.
#[derive(Debug, Clone, Default)]
pub struct InitOptions {
    /// Where objects are cut; the default is what the format advises.
    pub cuts: Chunking,
    /// What the passphrase costs an attacker, and us once for each opening.
    pub kdf: KdfCost,
    /// What the first key file is called, for people.
    pub label: String,
    /// What a probe found out about the store, recorded for information.
    pub store: serde_json::Value,
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
    master: Key,
    sealer: Sealer,
    resources: Resources,
    host: Host,
    seen: Mutex<HashMap<SessionId, Sighting>>,
}

/// The keys of an opened repository.
struct Opened {
    master: Key,
    sealer: Sealer,
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
        let cuts = options
            .cuts
            .check()
            .map_err(|error| Error::new(Cause::Invalid, error.to_string()))?;
        Self::refuse_occupied(&store).await?;
        let repository = RepositoryId(env.id());
        let created = env.now();
        let ring = Keyring::generate(created);
        let key_id = KeyId(env.id());
        let ring_name = ring_path(0, &repository, &env.id());
        let encrypted = matches!(unlock, Unlock::Passphrase(_));
        let (key_file, ring_file, keys) = resources
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
                let ring_file = seal_ring(&ring, &master, &repository, &ring_name)?;
                Ok((
                    key_file,
                    (ring_name, ring_file),
                    Opened {
                        master,
                        sealer: Sealer { repository, ring },
                    },
                ))
            })
            .await?;
        let config = Config {
            format: FORMAT,
            repository,
            created,
            encrypted,
            cuts,
            required_read: vec![],
            required_write: vec![],
            store: options.store,
        };
        let config_file = config.seal(&keys.sealer)?;
        let opened = Self::assemble(store, env, config, keys, resources.clone());
        opened.put_once(&key_path(&key_id), key_file.into()).await?;
        opened.put_once(&ring_file.0, ring_file.1.into()).await?;
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
        check_unlock(encrypted, &unlock, &location)?;
        let names = list(&store, StoredFile::Key.row().directory).await?;
        let master = find_master(&store, resources, &names, repository, unlock, &location).await?;
        let ring_name = names
            .iter()
            .map(|meta| meta.key.as_str())
            .filter(|name| is_ring(name, &repository))
            .max()
            .ok_or_else(|| {
                damaged(format!(
                    "the repository at {location} has no keyring in keys/"
                ))
            })?;
        let ring_file = get(&store, ring_name, GetOptions::default()).await?;
        let ring = open_ring(&ring_file, &master, &repository, ring_name)?;
        let sealer = Sealer { repository, ring };
        let config = unproven.prove(&sealer)?;
        Ok(Self::assemble(
            store,
            env,
            config,
            Opened { master, sealer },
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
        let (env, seen) = (env.clone(), Mutex::default());
        let Opened { master, sealer } = keys;
        Self(Arc::new(Inner {
            store: limited(store.clone(), &resources),
            unlimited: store,
            env,
            config,
            master,
            sealer,
            resources,
            host,
            seen,
        }))
    }

    /// The repository's id.
    #[must_use]
    pub fn id(&self) -> RepositoryId {
        self.0.config.repository
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

    /// What was seen of other sessions' leases.
    pub(crate) fn seen(&self) -> &Mutex<HashMap<SessionId, Sighting>> {
        &self.0.seen
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
        let key = store::Key::new(path)?;
        let options = PutOptions {
            mode: PutMode::Create,
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

pub(super) async fn get(store: &SharedStore, path: &str, options: GetOptions) -> Result<Bytes> {
    store
        .get(&store::Key::new(path)?, options)
        .await
        .context(|| format!("read {path}"))
}

async fn list(store: &SharedStore, prefix: &str) -> Result<Vec<Meta>> {
    store
        .list(prefix, ListOptions::default())
        .try_collect()
        .await
        .context(|| format!("list {prefix} of {}", store.location()))
}

fn check_unlock(encrypted: bool, unlock: &Unlock, location: &str) -> Result<()> {
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

async fn find_master(
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
