//! What a capture would do, and whether it can: everything is reached before anything is held.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use futures::{StreamExt, stream};
use schemars::JsonSchema;
use serde::Serialize;
use tokio::time::Instant;
use tracing::{debug, info, warn};

use super::survey::write_hold;
use super::{Context, Options, cold};
use crate::config::{self, WalKind};
use crate::connect;
use crate::etcd::{Etcd, Status, prefix_end};
use crate::manifest::{
    Body, EtcdIdentity, Method, MilvusIdentity, Mode, ObjectLayer, Wal, WalState,
};
use crate::milvus::catalog::Catalog;
use crate::milvus::client::{Client, Identity};
use crate::milvus::inventory::CollectionName;
use crate::milvus::keys::Roots;
use crate::milvus::objects::Scope;
use crate::milvus::validate::{FindingKind, Refusal};
use crate::milvus::version::{GcGeneration, MilvusVersion, Rules};
use crate::store::memory::MemoryStore;
use crate::store::{Key, Meta, SharedStore};
use crate::{Error, Kind, Result};

/// How long a Milvus that was just started may take to be healthy: the sessions of the one before it
/// must run out first, within 60 s by default (facts 3.4).
const HEALTH_WAIT: Duration = Duration::from_secs(90);

/// Between two looks at its health.
const HEALTH_PAUSE: Duration = Duration::from_secs(1);

/// Objects whose presence proves that the bucket and the etcd belong together.
const SAMPLED_OBJECTS: usize = 32;

/// What a capture would do.
#[derive(Debug, Clone, Serialize, JsonSchema)]
pub struct Plan {
    /// The instance's name.
    pub instance: String,
    /// How writes would be treated.
    pub mode: Mode,
    /// How objects would be captured.
    pub method: Method,
    /// Milvus.
    pub milvus: MilvusIdentity,
    /// etcd.
    pub etcd: EtcdIdentity,
    /// The etcd revision at which the plan was made.
    pub revision: i64,
    /// The object layer.
    pub objects: ObjectLayer,
    /// Whether deleted and replaced objects stay readable by version id.
    pub versioned: bool,
    /// The write-ahead log.
    pub wal: Wal,
    /// Proxies that writes are probed through.
    pub proxies: Vec<String>,
    /// What would be held, and how.
    pub holds: Vec<PlannedHold>,
    /// Databases.
    pub databases: u64,
    /// Collections.
    pub collections: u64,
    /// Live segments.
    pub segments: u64,
    /// Objects that the metadata names now.
    pub object_count: u64,
    /// What a capture would find fault with or do otherwise than one may expect.
    pub notes: Vec<String>,
}

/// One hold of a plan.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, JsonSchema)]
pub struct PlannedHold {
    /// `writes`, `ddl`, `compaction` or `gc`.
    pub hold: String,
    /// How it would be held, or why it would not.
    pub how: String,
}

/// A capture that can start.
#[derive(Debug)]
pub struct Planned {
    /// What it would do.
    pub plan: Plan,
    pub(super) etcd: Reached,
    pub(super) milvus: Option<Running>,
    pub(super) roots: Roots,
    pub(super) version: MilvusVersion,
    /// Objects that were gone at an earlier anchor of this capture.
    pub(super) missing_before: BTreeSet<String>,
}

/// The etcd of a capture.
#[derive(Debug)]
pub(super) struct Reached {
    pub(super) client: Etcd,
    /// Of an embedded etcd in cold mode: our own process on a copy of its directory.
    pub(super) copy: Option<cold::EtcdCopy>,
}

/// A running Milvus.
#[derive(Debug)]
pub(super) struct Running {
    pub(super) client: Client,
    pub(super) rules: Rules,
    pub(super) proxies: Vec<Client>,
    pub(super) version: MilvusVersion,
}

/// Reaches everything and says what a capture would do. `previous` is the newest snapshot of this
/// instance, which tells the version of a Milvus that is stopped.
///
/// # Errors
///
/// [`Kind::Instance`] with the reason and the way out when no capture could start.
pub async fn plan(
    context: &Context,
    options: &Options,
    previous: Option<&Body>,
) -> Result<Planned> {
    Box::pin(make(context, options, previous))
        .await
        .map_err(of_instance)
}

/// What a failure of the instance's own servers or storage means for a capture.
pub(super) fn of_instance(error: Error) -> Error {
    match error.kind() {
        Kind::Unavailable | Kind::Throttled | Kind::AccessDenied | Kind::NotFound => {
            error.with_kind(Kind::Instance)
        }
        _ => error,
    }
}

async fn make(context: &Context, options: &Options, previous: Option<&Body>) -> Result<Planned> {
    let instance = &context.instance;
    if let Some(refusal) = instance.refusals().into_iter().next() {
        return Err(refusal);
    }
    let (reached, status) = reach_etcd(context, options.mode).await?;
    let mut client = reached.client.clone();
    let roots = Roots {
        root: instance.etcd.root_path.clone(),
        meta: instance.etcd.meta_sub_path.clone(),
        kv: instance.etcd.kv_sub_path.clone(),
    };
    let anchor = client.read_prefix(&format!("{}/", roots.root)).await?;
    if anchor.keys.is_empty() {
        return Err(nothing_under_root(&mut client, &roots).await);
    }
    let (running, identity) = match options.mode {
        Mode::Cold => {
            cold::prove_stopped(context, &mut client, &roots, reached.copy.is_some()).await?;
            (None, cold::identity(context, &anchor, &roots, previous)?)
        }
        Mode::Quiesced | Mode::Hot => {
            let (client, identity) = reach_milvus(context, options).await?;
            (Some(client), identity)
        }
    };
    let version = identity.version.clone();
    let catalog = Catalog::decode(&roots, &anchor.keys, &version)?;
    refuse(&catalog)?;
    let running = match running {
        Some(client) => Some(running_parts(context, client, &version, &catalog).await?),
        None => None,
    };
    let store = open_objects(context, &catalog).await?;
    let (versioned, mut notes) = belongs_together(&store, &catalog).await?;
    let findings = catalog.validate();
    // The flush of the capture will write what is not flushed yet.
    let lasting = findings
        .iter()
        .filter(|finding| finding.kind != FindingKind::Unflushed);
    notes.extend(lasting.map(ToString::to_string));
    if let Some(doubt) = write_hold(context, options.mode, &version.rules()) {
        notes.push(format!("{doubt}; the probes decide"));
    }
    let holds = planned_holds(context, options, running.as_ref().map(|r| &r.rules));
    let proxies = running
        .iter()
        .flat_map(|r| r.proxies.iter().map(|p| p.address().to_owned()));
    let plan = Plan {
        instance: instance.name.clone(),
        mode: options.mode,
        method: options.method,
        milvus: MilvusIdentity {
            version: version.to_string(),
            commit: Some(identity.git_commit).filter(|c| !c.is_empty()),
            deploy_mode: Some(identity.deploy_mode).filter(|d| !d.is_empty()),
        },
        etcd: etcd_identity(context, &status),
        revision: anchor.revision,
        objects: connect::object_layer(&instance.objects),
        versioned,
        wal: wal(context, options.mode),
        proxies: proxies.collect(),
        holds,
        databases: catalog.databases.len() as u64,
        collections: catalog
            .collections
            .values()
            .filter(|c| c.is_created())
            .count() as u64,
        segments: catalog.live_segments().count() as u64,
        object_count: catalog.objects_in(Scope::Live).count() as u64,
        notes,
    };
    Ok(Planned {
        plan,
        etcd: reached,
        milvus: running,
        roots,
        version,
        missing_before: BTreeSet::new(),
    })
}

/// Refuses what cannot be captured: at planning, and again on the anchor itself.
pub(super) fn refuse(catalog: &Catalog) -> Result<()> {
    match catalog.refusals().into_iter().next() {
        None => Ok(()),
        Some(refusal) => Err(refused(&refusal)),
    }
}

/// Why an anchor is not captured, and the way out.
pub(super) fn refused(refusal: &Refusal) -> Error {
    Error::new(Kind::Instance, refusal.what.clone()).with_hint(refusal.hint.clone())
}

async fn reach_etcd(context: &Context, mode: Mode) -> Result<(Reached, Status)> {
    let config = &context.instance.etcd;
    if mode == Mode::Cold
        && let Some(embedded) = &config.embedded
    {
        let (copy, client, status) = cold::EtcdCopy::start(config, &embedded.data_dir).await?;
        let copy = Some(copy);
        return Ok((Reached { client, copy }, status));
    }
    let (client, status) = connect::etcd(config).await?;
    Ok((Reached { client, copy: None }, status))
}

async fn reach_milvus(context: &Context, options: &Options) -> Result<(Client, Identity)> {
    let client = connect::milvus(&context.instance.milvus).await?;
    let give_up = Instant::now() + options.flush_timeout.min(HEALTH_WAIT);
    loop {
        let health = client.health().await?;
        if health.healthy {
            break;
        }
        let reasons = health.reasons.join("; ");
        if Instant::now() > give_up {
            return Err(Error::new(
                Kind::Instance,
                format!("milvus at {} is not healthy: {reasons}", client.address()),
            )
            .with_hint("wait until it is healthy, or stop it and use --mode cold"));
        }
        info!(
            reasons,
            "milvus is not healthy yet, as after a start; waiting"
        );
        tokio::time::sleep(HEALTH_PAUSE).await;
    }
    let mut identity = client.identity().await?;
    if let Some(declared) = &context.instance.milvus.version {
        identity.version = declared.clone();
    }
    Ok((client, identity))
}

/// Proves that this Milvus is the one whose metadata this etcd holds, and finds its proxies.
async fn running_parts(
    context: &Context,
    client: Client,
    version: &MilvusVersion,
    catalog: &Catalog,
) -> Result<Running> {
    let mut answered = BTreeSet::new();
    for database in client.list_databases().await? {
        for CollectionName { id, .. } in client.show_collections(&database).await? {
            answered.insert(id);
        }
    }
    let created = catalog.collections.values().filter(|c| c.is_created());
    let named: BTreeSet<i64> = created.map(|c| c.id).collect();
    if !answered.is_empty() && !named.is_empty() && answered.is_disjoint(&named) {
        return Err(Error::new(
            Kind::Instance,
            format!(
                "milvus at {} and the keys under {}/ are of two instances: no collection id is in both",
                client.address(),
                catalog.roots.root
            ),
        )
        .with_hint("check instance.milvus.address, instance.etcd.endpoints and root_path"));
    }
    if named.is_empty() != answered.is_empty() {
        warn!(
            milvus = answered.len(),
            etcd = named.len(),
            "milvus and etcd count collections differently"
        );
    }
    let proxies = proxies(context, &client, catalog).await;
    Ok(Running {
        client,
        rules: version.rules(),
        proxies,
        version: version.clone(),
    })
}

/// Opens the object layer. Milvus makes its directory with the first object: one that is missing
/// while etcd names no object is empty.
///
/// # Errors
///
/// As [`connect::objects`].
pub(super) async fn open_objects(context: &Context, catalog: &Catalog) -> Result<SharedStore> {
    let objects = &context.instance.objects;
    if let config::Objects::Local(local) = objects
        && !local.path.exists()
        && catalog.objects_in(Scope::WithOpen).next().is_none()
    {
        return Ok(Arc::new(MemoryStore::new()));
    }
    if let config::Objects::Local(local) = objects {
        local
            .require()
            .map_err(|error| error.with_kind(Kind::Instance))?;
    }
    let store = connect::objects(objects, &context.env).await?;
    Ok(connect::limited(store, context.rate.as_ref()))
}

/// Proves that the objects which etcd names are in this store: some of them, spread evenly. Tells
/// whether the store keeps versions, and what is worth a note.
async fn belongs_together(store: &SharedStore, catalog: &Catalog) -> Result<(bool, Vec<String>)> {
    let total = catalog.objects().count();
    if total == 0 {
        return Ok((store.capabilities().versions, Vec::new()));
    }
    let step = total.div_ceil(SAMPLED_OBJECTS).max(1);
    let sample: Vec<_> = catalog.objects().step_by(step).collect();
    let found: Vec<Result<Option<Meta>>> = stream::iter(&sample)
        .map(|object| async move {
            match store.head(&Key::new(&object.path)?).await {
                Ok(meta) => Ok(Some(meta)),
                Err(error) if error.kind() == Kind::NotFound => Ok(None),
                Err(error) => Err(error),
            }
        })
        .buffered(8)
        .collect()
        .await;
    let found = found.into_iter().collect::<Result<Vec<_>>>()?;
    let missing = found.iter().filter(|found| found.is_none()).count();
    if missing == found.len() {
        return Err(Error::new(
            Kind::Instance,
            format!(
                "none of {missing} objects that etcd names is in {}; the first is {}",
                store.location(),
                sample[0].path
            ),
        )
        .with_hint("the bucket, its root path or the directory is not this instance's: check instance.objects (minio.bucketName, minio.rootPath, localStorage.path)"));
    }
    let notes = if missing == 0 {
        Vec::new()
    } else {
        vec![format!(
            "{missing} of {} sampled objects are missing; a capture will name all",
            found.len()
        )]
    };
    let versioned = found.iter().flatten().any(Meta::has_version);
    Ok((versioned || store.capabilities().versions, notes))
}

async fn nothing_under_root(etcd: &mut Etcd, roots: &Roots) -> Error {
    let found = milvus_roots(etcd).await.unwrap_or_default();
    let error = Error::new(
        Kind::Instance,
        format!(
            "etcd at {} has no key under {}/: nothing to capture",
            etcd.endpoints(),
            roots.root
        ),
    );
    if found.is_empty() {
        error.with_hint("this etcd holds no Milvus at all; check instance.etcd.endpoints and root_path (etcd.rootPath)")
    } else {
        error.with_hint(format!(
            "instance.etcd.root_path may be one of: {}",
            found.join(", ")
        ))
    }
}

fn etcd_identity(context: &Context, status: &Status) -> EtcdIdentity {
    let etcd = &context.instance.etcd;
    EtcdIdentity {
        version: status.version.clone(),
        cluster_id: format!("{:016x}", status.cluster_id),
        embedded: etcd.embedded.is_some(),
        root_path: etcd.root_path.clone(),
        meta_sub_path: etcd.meta_sub_path.clone(),
        kv_sub_path: etcd.kv_sub_path.clone(),
    }
}

fn wal(context: &Context, mode: Mode) -> Wal {
    let wal = &context.instance.wal;
    let captured = mode == Mode::Cold && matches!(wal.kind, WalKind::Rocksmq { .. });
    Wal {
        kind: wal.kind.name().to_owned(),
        state: if captured {
            WalState::Captured
        } else {
            WalState::Reset
        },
        channel_prefix: wal.channel_prefix.clone(),
    }
}

fn planned_holds(context: &Context, options: &Options, rules: Option<&Rules>) -> Vec<PlannedHold> {
    let Some(rules) = rules else {
        return Vec::new();
    };
    let config = |key: Option<&'static str>, absent: &str| match key {
        Some(key) => format!(
            "{}/config/{key} under a lease of 30 s",
            context.instance.etcd.root_path
        ),
        None => absent.to_owned(),
    };
    let mut holds = vec![
        PlannedHold {
            hold: "gc".to_owned(),
            how: describe(rules.gc).to_owned(),
        },
        PlannedHold {
            hold: "compaction".to_owned(),
            how: config(
                rules.compaction_hold,
                "this version has no switch; the anchor is validated instead",
            ),
        },
    ];
    if options.mode == Mode::Quiesced {
        holds.push(PlannedHold {
            hold: "writes".to_owned(),
            how: config(
                rules.write_hold,
                "this version cannot deny writes while it runs",
            ),
        });
        holds.push(PlannedHold {
            hold: "ddl".to_owned(),
            how: config(
                rules.ddl_hold,
                "this version has no switch; DDL that is unfinished at the anchor voids it",
            ),
        });
    }
    holds
}

/// How garbage collection is held.
const fn describe(gc: GcGeneration) -> &'static str {
    match gc {
        GcGeneration::Absent => {
            "not held: this version cannot pause it; an object that vanishes makes the capture take another anchor"
        }
        GcGeneration::Blocking => "paused for 10 min at a time; a running pass is waited for",
        GcGeneration::Simple => "paused for 10 min at a time; the last pause runs out by itself",
        GcGeneration::Tickets => "paused under a ticket, and resumed with it",
        GcGeneration::Unknown => "paused where Milvus has the route",
    }
}

/// Every proxy that can be reached. Their sessions tell their hosts and the port that only Milvus
/// itself uses; clients are served on the port that is configured.
async fn proxies(context: &Context, client: &Client, catalog: &Catalog) -> Vec<Client> {
    let mut proxies = vec![client.clone()];
    let sessions = catalog
        .sessions
        .iter()
        .filter(|s| s.name.starts_with("proxy"));
    let hosts: BTreeSet<&str> = sessions
        .filter_map(|s| s.address.rsplit_once(':'))
        .map(|(host, _)| host)
        .collect();
    if hosts.len() < 2 {
        return proxies;
    }
    let (own, port) = client
        .address()
        .rsplit_once(':')
        .unwrap_or((client.address(), "19530"));
    for host in hosts.into_iter().filter(|host| *host != own) {
        match connect::milvus_at(&context.instance.milvus, &format!("{host}:{port}")).await {
            Ok(proxy) => proxies.push(proxy),
            Err(error) => {
                debug!(host, %error, "a proxy cannot be reached; the cut will show what it let through");
            }
        }
    }
    proxies
}

/// Roots that are looked at when none was found where one should be.
const ROOTS_LOOKED_AT: usize = 50;

/// Root paths under which this etcd has Milvus's metadata, for a hint. Jumps from root to root.
async fn milvus_roots(etcd: &mut Etcd) -> Result<Vec<String>> {
    let mut found = Vec::new();
    let mut from = vec![0];
    for _ in 0..ROOTS_LOOKED_AT {
        let Some(key) = etcd.first_key(&from).await? else {
            break;
        };
        let text = String::from_utf8_lossy(&key).into_owned();
        let root = ["/meta/", "/kv/", "/config/"]
            .iter()
            .find_map(|part| text.split_once(part).map(|(root, _)| root));
        from = match root {
            Some(root) => {
                found.push(root.to_owned());
                prefix_end(format!("{root}/").as_bytes())
            }
            None => prefix_end(text.split_inclusive('/').next().unwrap_or(&text).as_bytes()),
        };
    }
    found.dedup();
    Ok(found)
}
