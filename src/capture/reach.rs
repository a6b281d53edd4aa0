//! Reaching the parts of an instance, and proving that they belong together.

use std::collections::BTreeSet;
use std::time::Duration;

use futures::{StreamExt, stream};
use tracing::{debug, info, warn};

use super::objects::key_of;
use super::{Context, Options, cold_source};
use crate::base::poll::poll;
use crate::etcd::{Etcd, Status, prefix_end};
use crate::instance::connect;
use crate::instance::embedded::EtcdCopy;
use crate::instance::files::Files;
use crate::instance::objects::layer;
use crate::milvus::catalog::Catalog;
use crate::milvus::client::{Client, Identity};
use crate::milvus::inventory::CollectionName;
use crate::milvus::keys::Roots;
use crate::milvus::objects::Scope;
use crate::milvus::version::{MilvusVersion, Rules};
use crate::snapshot::Mode;
use crate::store::limit::limited;
use crate::store::{Meta, SharedStore};
use crate::{Cause, Error, Result, Side};

/// How long a Milvus that was just started may take to be healthy: the sessions of the one before it
/// must run out first, within 60 s by default (docs/milvus.md 3.4).
const HEALTH_WAIT: Duration = Duration::from_secs(90);

/// Between two looks at its health.
const HEALTH_PAUSE: Duration = Duration::from_secs(1);

/// Objects whose presence proves that the bucket and the etcd belong together.
const SAMPLED_OBJECTS: usize = 32;

/// The etcd of a capture.
#[derive(Debug)]
pub(super) struct Reached {
    pub(super) client: Etcd,
    /// Of an embedded etcd in cold mode: our own process on a copy of its directory.
    pub(super) copy: Option<EtcdCopy>,
    /// Of an embedded etcd in cold mode: the files of its directory, as they were before they were copied.
    pub(super) files: Files,
}

/// A running Milvus.
#[derive(Debug)]
pub(super) struct Running {
    pub(super) client: Client,
    pub(super) rules: Rules,
    pub(super) proxies: Vec<Client>,
    pub(super) version: MilvusVersion,
}

pub(super) async fn reach_etcd(context: &Context, mode: Mode) -> Result<(Reached, Status)> {
    let config = &context.instance.etcd;
    if mode == Mode::Cold
        && let Some(embedded) = &config.embedded
    {
        let (copy, files, client, status) =
            cold_source::etcd_copy(config, &embedded.data_dir).await?;
        let copy = Some(copy);
        let reached = Reached {
            client,
            copy,
            files,
        };
        return Ok((reached, status));
    }
    let (client, status) = connect::etcd(config, Side::Source).await?;
    let reached = Reached {
        client,
        copy: None,
        files: Files::default(),
    };
    Ok((reached, status))
}

pub(super) async fn reach_milvus(
    context: &Context,
    options: &Options,
) -> Result<(Client, Identity)> {
    let client = connect::milvus(&context.instance.milvus, Side::Source).await?;
    let mut reasons = String::new();
    let limit = options.flush_timeout.min(HEALTH_WAIT);
    let healthy = poll(limit, HEALTH_PAUSE, async || {
        let health = client.health().await?;
        if health.healthy {
            return Ok(Some(()));
        }
        reasons = health.reasons.join("; ");
        info!(
            reasons,
            "milvus is not healthy yet, as after a start; waiting"
        );
        Ok(None)
    });
    if healthy.await?.is_none() {
        let message = format!("milvus at {} is not healthy: {reasons}", client.address());
        return Err(Side::Source
            .error(Cause::Refused, message)
            .with_hint("wait until it is healthy, or stop it and use --mode cold"));
    }
    let mut identity = client.identity().await?;
    if let Some(declared) = &context.instance.milvus.version {
        identity.version = declared.clone();
    }
    Ok((client, identity))
}

/// Proves that this Milvus is the one whose metadata this etcd holds, and finds its proxies.
pub(super) async fn running_parts(
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
        return Err(Side::Source.error(Cause::Refused,
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

/// Opens the object layer; `None` for one that is empty: Milvus makes its directory with the first
/// object, so it may be missing while etcd names none.
///
/// # Errors
///
/// Those of [`Layer::open`](crate::instance::objects::Layer::open).
pub(super) async fn open_objects(
    context: &Context,
    catalog: &Catalog,
) -> Result<Option<SharedStore>> {
    let layer = layer(&context.instance.objects, Side::Source, &context.env);
    if !layer.is_made() && catalog.objects_in(Scope::WithOpen).next().is_none() {
        return Ok(None);
    }
    Ok(Some(limited(layer.open().await?, &context.resources)))
}

/// Proves that the objects which etcd names are in this store: some of them, spread evenly. Tells
/// whether the store keeps versions, and what is worth a note.
pub(super) async fn belongs_together(
    store: &SharedStore,
    catalog: &Catalog,
) -> Result<(bool, Vec<String>)> {
    let total = catalog.objects().count();
    if total == 0 {
        return Ok((store.capabilities().versions, Vec::new()));
    }
    let step = total.div_ceil(SAMPLED_OBJECTS).max(1);
    let sample: Vec<_> = catalog.objects().step_by(step).collect();
    let found: Vec<Result<Option<Meta>>> = stream::iter(&sample)
        .map(|object| async move {
            match store.head(&key_of(&object.path)?).await {
                Ok(meta) => Ok(Some(meta)),
                Err(error) if error.cause() == Cause::NotFound => Ok(None),
                Err(error) => Err(error),
            }
        })
        .buffered(8)
        .collect()
        .await;
    let found = found.into_iter().collect::<Result<Vec<_>>>()?;
    let missing = found.iter().filter(|found| found.is_none()).count();
    if missing == found.len() {
        return Err(Side::Source.error(Cause::Refused,
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

pub(super) async fn nothing_under_root(etcd: &mut Etcd, roots: &Roots) -> Error {
    let found = milvus_roots(etcd).await.unwrap_or_default();
    let error = Side::Source.error(
        Cause::Refused,
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
        match connect::milvus_at(
            &context.instance.milvus,
            &format!("{host}:{port}"),
            Side::Source,
        )
        .await
        {
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
