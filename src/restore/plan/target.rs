//! A target as it is opened: its etcd, its storage, its queue, and what was found there.

use std::path::PathBuf;
use std::sync::Arc;

use super::marker::{Found, Marker, MarkerKeys};
use super::room;
use super::survey::{self, Stored};
use crate::base::error::Context as _;
use crate::base::progress::Amount;
use crate::config::WalKind;
use crate::etcd::{Etcd, KeyValue, Status, TxnLimits};
use crate::instance::embedded::{Embedded, Holds};
use crate::instance::objects::{Layer, Presence, layer};
use crate::instance::wal::directories;
use crate::instance::{connect, liveness, neighbours};
use crate::milvus::MilvusVersion;
use crate::milvus::keys::Roots;
use crate::restore::context::{Context, Purpose};
use crate::restore::options::{Occupied, Options};
use crate::restore::plan::inputs::{
    Counted, EtcdFacts, EtcdRoom, Known, Lack, Marked, StorageFacts, TargetVersion, WalFacts,
};
use crate::restore::plan::target_keys::{TargetKeys, in_the_way};
use crate::restore::scope::Scope;
use crate::store::limit::limited;
use crate::{Result, Side};

/// The etcd of a target and what is in it.
#[derive(Debug)]
pub(crate) struct TargetEtcd {
    /// Connected, unless it is embedded and nothing is prepared yet.
    pub(crate) etcd: Option<Etcd>,
    /// The directory, when it is embedded.
    pub(crate) embedded: Option<Embedded>,
    /// Where it is, for people.
    pub(crate) place: String,
    /// Keys below the root where the restore writes: of an embedded one those in preparation.
    pub(crate) keys: Vec<KeyValue>,
    /// Keys below the root that an embedded etcd left beside the preparation.
    pub(crate) left: Vec<KeyValue>,
    /// The revision at which the older of them were read, and the server's version and cluster.
    pub(crate) revision: i64,
    pub(crate) version: String,
    pub(crate) cluster: u64,
    /// What the keys say of restores.
    pub(crate) found: Found,
    /// Signs of a Milvus that runs.
    pub(crate) running: Vec<String>,
    /// The program that prepares an embedded one.
    pub(crate) program: EtcdRoom,
}

impl TargetEtcd {
    /// Opens the etcd and reads its root. Of a stopped Milvus that was killed, the sessions are
    /// waited for when a restore is to follow.
    ///
    /// # Errors
    ///
    /// [`Side::Target`] when etcd does not answer, [`Cause::Invalid`] when an etcd program is needed
    /// and there is none.
    pub(crate) async fn open(context: &Context<'_>, purpose: Purpose) -> Result<Self> {
        let running = liveness::signs_of_life(context.instance).await;
        let running = running.on(Side::Target)?;
        match &context.instance.etcd.embedded {
            Some(embedded) => {
                let binary = context.instance.etcd.binary.as_deref();
                let directory = Embedded::open(&embedded.data_dir, binary)?;
                Box::pin(Self::embedded(context, directory, running)).await
            }
            None => Box::pin(Self::external(context, purpose, running)).await,
        }
    }

    async fn external(
        context: &Context<'_>,
        purpose: Purpose,
        mut running: Vec<String>,
    ) -> Result<Self> {
        let (mut etcd, status) = connect::etcd(&context.instance.etcd, Side::Target).await?;
        let names = MarkerKeys::new(&context.instance.etcd.root_path);
        let (roots, prefix) = (context.instance.etcd.roots(), prefix(context));
        let (read, sessions) = if purpose == Purpose::Restore && running.is_empty() {
            liveness::wait_for_sessions_to_expire(&mut etcd, &roots, &prefix).await?
        } else {
            let read = etcd.read_prefix(&prefix).await?;
            let sessions = liveness::sessions(&roots, &read.keys);
            (read, sessions)
        };
        if !sessions.is_empty() {
            let names: Vec<_> = sessions.iter().map(|s| s.name.as_str()).collect();
            running.push(format!(
                "etcd has its sessions {} (after a kill they run out within a minute)",
                names.join(", ")
            ));
        }
        Ok(Self {
            place: etcd.endpoints().to_owned(),
            found: Found::read(&names, &read.keys),
            etcd: Some(etcd),
            embedded: None,
            keys: read.keys,
            left: vec![],
            revision: read.revision,
            version: status.version,
            cluster: status.cluster_id,
            running,
            program: EtcdRoom::default(),
        })
    }

    async fn embedded(
        context: &Context<'_>,
        mut directory: Embedded,
        mut running: Vec<String>,
    ) -> Result<Self> {
        let names = MarkerKeys::new(&context.instance.etcd.root_path);
        running.extend(directory.in_use()?);
        let (version, why) = directory.program().await?;
        let lack = |found| Lack {
            is_full: false,
            found,
            hint: "set instance.etcd.binary to an etcd 3.5".to_owned(),
        };
        let program = EtcdRoom {
            version,
            lack: why.map(lack),
            ..EtcdRoom::default()
        };
        let mut home = Self {
            etcd: None,
            place: directory.place(),
            keys: vec![],
            left: vec![],
            revision: 0,
            version: String::new(),
            cluster: 0,
            found: Found::default(),
            running,
            embedded: None,
            program,
        };
        // An etcd of another series would write to what it only has to read.
        if home.running.is_empty() && home.program.lack.is_none() {
            if directory.has_left() {
                let (read, status) = directory.read_left(&prefix(context)).await?;
                home.note(&status, read.revision);
                home.left = read.keys;
            }
            if directory.holds() == Holds::Staged {
                let mut etcd = directory.start().await?;
                home.keys = etcd.read_prefix(&prefix(context)).await?.keys;
                home.etcd = Some(etcd);
            } else {
                home.keys = std::mem::take(&mut home.left);
            }
            home.found = Found::read(&names, &home.keys);
            if directory.holds() == Holds::Member && home.found.marker.is_none() {
                home.left = std::mem::take(&mut home.keys);
            }
        }
        home.embedded = Some(directory);
        Ok(home)
    }

    fn note(&mut self, status: &Status, revision: i64) {
        self.revision = revision;
        self.version.clone_from(&status.version);
        self.cluster = status.cluster_id;
    }

    /// Whose restore the target is marked with, given the one that is to be done.
    pub(crate) fn marked(&self, ours: &Marker) -> Marked {
        match (&self.found.marker, self.found.stage) {
            (None, _) => Marked::No,
            (Some(found), stage) if found.continues(ours) => {
                Marked::Ours(stage.unwrap_or(crate::restore::Stage::Objects))
            }
            (Some(found), _) => Marked::Other {
                snapshot: found.snapshot.clone(),
                started: found.started,
            },
        }
    }

    /// What is in the way of a restore of `scope` that writes `target`.
    pub(crate) fn facts(
        &self,
        context: &Context<'_>,
        scope: &Scope,
        target: &TargetKeys,
        marked: Marked,
        room: EtcdRoom,
    ) -> EtcdFacts {
        let etcd = &context.instance.etcd;
        let names = MarkerKeys::new(&etcd.root_path);
        let roots = etcd.roots();
        // A key that already has the value which this restore would write is taken for our own work only
        // when the marker says that this restore has begun on this target.
        let none = TargetKeys::default();
        let ours = match marked {
            Marked::Ours(_) => target,
            Marked::No | Marked::Other { .. } => &none,
        };
        let way = |keys| in_the_way(keys, scope, &names, &roots, ours);
        let mut both = way(&self.keys).chain(way(&self.left));
        let left = self.embedded.as_ref().filter(|directory| {
            let settled = directory.holds() == Holds::Member && matches!(marked, Marked::Ours(_));
            directory.has_left() && !settled
        });
        let example = both
            .next()
            .map(|kv| String::from_utf8_lossy(&kv.key).into_owned());
        EtcdFacts {
            place: self.place.clone(),
            embedded: self.embedded.is_some(),
            root: etcd.root_path.clone(),
            keys: both.count() as u64 + u64::from(example.is_some()),
            example,
            marked,
            touched: self.found.touched.clone(),
            room,
            others: self.others(&roots),
            has_left: left.is_some(),
        }
    }

    /// What a server of its own has room for, and what it takes at once. Of an embedded one, whether the
    /// program that prepares it is the right one.
    pub(crate) async fn room(
        &mut self,
        context: &Context<'_>,
        target: &TargetKeys,
    ) -> Result<(EtcdRoom, TxnLimits)> {
        match &mut self.etcd {
            Some(etcd) if self.embedded.is_none() => {
                let keys = (&self.keys[..], target);
                room::room(&context.instance.etcd, etcd, &self.version, keys).await
            }
            _ => Ok((self.program.clone(), TxnLimits::default())),
        }
    }

    /// What below the root is of others, or alive: nothing that a restore may remove.
    fn others(&self, roots: &Roots) -> Option<String> {
        let all = || self.keys.iter().chain(&self.left);
        let mut others = neighbours::other_roots(roots, &self.keys);
        others.append(&mut neighbours::other_roots(roots, &self.left));
        let names = MarkerKeys::new(&roots.root);
        let sessions = liveness::sessions_prefix(roots);
        // What a restore that was killed had half written goes with its lock.
        let locks: Vec<_> = all()
            .filter(|kv| kv.key == names.lock)
            .map(|kv| kv.lease)
            .collect();
        let mut kept = all().filter(|kv| {
            let own = kv.key.starts_with(sessions.as_bytes()) || names.owns(&kv.key);
            kv.lease != 0 && !own && !locks.contains(&kv.lease)
        });
        neighbours::said(roots, &others).or_else(|| {
            let key = String::from_utf8_lossy(&kept.next()?.key);
            Some(format!(
                "a process keeps {key} in etcd, which a restore would remove"
            ))
        })
    }

    /// The target's own next node id, 0 when it has none.
    pub(crate) fn session_id(&self, context: &Context<'_>) -> i64 {
        self.session(context, "id")
            .and_then(|text| text.trim().parse().ok())
            .unwrap_or(0)
    }

    /// The version of the target, as far as something tells it.
    pub(crate) fn milvus_version(
        &self,
        context: &Context<'_>,
        source: (&str, &MilvusVersion),
    ) -> TargetVersion {
        if let Some(version) = &context.instance.milvus.version {
            return TargetVersion::new(version, Known::Declared);
        }
        if let Some(text) = self.session(context, "version") {
            return TargetVersion::new(&MilvusVersion::parse(&text), Known::Recorded);
        }
        if context.instance.name == source.0 {
            return TargetVersion::new(source.1, Known::Assumed);
        }
        TargetVersion::unknown()
    }

    fn session(&self, context: &Context<'_>, name: &str) -> Option<String> {
        let key = liveness::sessions_prefix(&context.instance.etcd.roots()) + name;
        let all = self.keys.iter().chain(&self.left);
        let found = all
            .filter(|kv| kv.key == key.as_bytes())
            .max_by_key(|kv| kv.mod_revision);
        found.map(|kv| String::from_utf8_lossy(&kv.value).into_owned())
    }

    /// Ends what was started to look at the target.
    pub(crate) async fn close(&mut self) -> Result<()> {
        self.etcd = None;
        match &mut self.embedded {
            Some(embedded) => embedded.stop().await,
            None => Ok(()),
        }
    }
}

fn prefix(context: &Context<'_>) -> String {
    format!("{}/", context.instance.etcd.root_path)
}

/// The storage of a target, before anything is made there.
#[derive(Debug)]
pub(crate) struct TargetStorage {
    pub(crate) facts: StorageFacts,
    pub(crate) layer: Arc<dyn Layer>,
    pub(crate) outside: Vec<String>,
}

impl TargetStorage {
    /// Looks at the storage; all of it is counted when it is to be replaced.
    pub(crate) async fn look(
        context: &Context<'_>,
        options: &Options,
        scope: &Scope,
    ) -> Result<Self> {
        let instance = context.instance;
        let layer = layer(&instance.objects, Side::Target, context.env);
        let mut others = directories(&instance.wal.kind);
        others.extend(instance.etcd.embedded.iter().map(|e| e.data_dir.clone()));
        let outside = layer.prefixes_of(&others);
        let (mut state, store) = layer.look().await?;
        let counting = match options.occupied {
            Occupied::Replace => Counted::All,
            Occupied::Refuse => Counted::AtLeast,
        };
        let mut stored = Stored::default();
        if let Some(store) = store {
            let store = limited(store, context.repository.resources());
            let counted = survey::storage(&*store, &scope.empty, &outside, counting);
            match context.cancel.run(counted).await {
                Ok(counted) => stored = counted,
                Err(error) => state = Presence::missing(error)?,
            }
        }
        Ok(Self {
            facts: StorageFacts {
                place: layer.place(),
                layer: layer.record().kind(),
                state,
                file_system: layer.file_system(),
                whole_bucket: layer.is_whole_bucket(),
                families: stored.families,
                foreign: stored.foreign,
                example: stored.example,
                counted: stored.counted.unwrap_or(Counted::All),
            },
            layer,
            outside,
        })
    }
}

/// Looks at the queue.
pub(crate) async fn wal(context: &Context<'_>, home: &mut TargetEtcd) -> Result<WalFacts> {
    let wal = &context.instance.wal;
    let directories = directories(&wal.kind);
    let measured = |path: &PathBuf| -> Result<(PathBuf, Amount)> {
        Ok((path.clone(), survey::directory(path)?))
    };
    let keys = match (&wal.kind, &mut home.etcd) {
        (WalKind::Woodpecker { meta_prefix, .. }, Some(etcd)) => {
            let prefix = format!("{}/", meta_prefix.trim_end_matches('/'));
            etcd.read_prefix(&prefix).await?.keys.len() as u64
        }
        _ => 0,
    };
    Ok(WalFacts {
        kind: wal.kind.name().to_owned(),
        channel_prefix: wal.channel_prefix.clone(),
        channels: wal.dml_channel_num,
        directories: directories.iter().map(measured).collect::<Result<_>>()?,
        keys,
    })
}
