//! Opens what the configuration names: etcd, Milvus, the object layer, a repository's store.

use std::net::IpAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use etcd_client::TlsOptions;
use tonic::transport::{Certificate, Identity};
use url::Url;
use zeroize::Zeroizing;

use crate::base::env::Env;
use crate::base::error::Context as _;
use crate::base::resources::Resources;
use crate::etcd::{Capacity, Etcd, Settings, Status};
use crate::milvus::auth::{self as milvus_auth, Credentials};
use crate::milvus::client::{Client, ClientOptions};
use crate::milvus::management::{Management, http_client};
use crate::repo::{Memory, Repository, Unlock};
use crate::store::local::MissingRoot;
use crate::store::open::{Location, OpenSettings};
use crate::store::probe::{Findings, probe};
use crate::store::s3::UploadChecksums;
use crate::store::sided::SidedStore;
use crate::store::{self, SharedStore};
use crate::{Cause, Error, Result, Side, config};

/// How long a member of etcd may take to tell its metrics.
const METRICS_TIMEOUT: Duration = Duration::from_secs(3);

/// Connects to the etcd of an instance on `side` and asks for its status.
///
/// # Errors
///
/// [`Cause::Invalid`] when a password or certificate cannot be read, otherwise those of
/// [`Etcd::connect`].
pub async fn etcd(etcd: &config::Etcd, side: Side) -> Result<(Etcd, Status)> {
    let user = match (&etcd.username, &etcd.password) {
        (Some(name), Some(password)) => Some((name.clone(), password.read()?)),
        _ => None,
    };
    Etcd::connect(&Settings {
        endpoints: etcd.endpoints.clone(),
        user,
        tls: etcd_tls(&etcd.tls)?,
        side,
    })
    .await
}

/// What the members of an etcd have room for; their metrics are asked for a quota that etcd itself does not
/// tell, as before 3.6.
pub async fn etcd_capacity(config: &config::Etcd, etcd: &Etcd) -> Capacity {
    let mut capacity = etcd.capacity().await;
    if let (None, Ok(tls)) = (capacity.quota, milvus_tls(&config.tls)) {
        let endpoints = config.endpoints.iter();
        let asked = endpoints.map(|endpoint| quota_of(endpoint, tls.as_ref()));
        let told = futures::future::join_all(asked).await;
        capacity.quota = told.into_iter().flatten().min();
    }
    capacity
}

async fn quota_of(endpoint: &str, tls: Option<&milvus_auth::Tls>) -> Option<u64> {
    let host = endpoint
        .split_once("://")
        .map_or(endpoint, |(_, rest)| rest);
    let scheme = if tls.is_some() { "https" } else { "http" };
    let base = Url::parse(&format!("{scheme}://{host}")).ok()?;
    let (http, named) = http_client(&base, tls).ok()?;
    let asked = http
        .get(named.join("metrics").ok()?)
        .timeout(METRICS_TIMEOUT);
    let metrics = asked.send().await.ok()?.text().await.ok()?;
    quota(&metrics)
}

/// The quota in etcd's metrics. They tell it in bytes, as a floating-point number.
fn quota(metrics: &str) -> Option<u64> {
    let line = metrics
        .lines()
        .find_map(|line| line.strip_prefix("etcd_server_quota_backend_bytes "));
    let bytes: f64 = line?.trim().parse().ok()?;
    // A quota is a whole number far below 2^53.
    let quota: u64 = format!("{bytes:.0}").parse().ok()?;
    (quota > 0).then_some(quota)
}

fn etcd_tls(tls: &config::Tls) -> Result<Option<TlsOptions>> {
    if !tls.enabled {
        return Ok(None);
    }
    let mut options = match &tls.ca_file {
        Some(file) => TlsOptions::new().ca_certificate(Certificate::from_pem(pem(file)?)),
        None => TlsOptions::new().with_native_roots(),
    };
    if let Some(client) = &tls.client {
        let identity = Identity::from_pem(pem(&client.cert_file)?, pem(&client.key_file)?);
        options = options.identity(identity);
    }
    if let Some(name) = &tls.server_name {
        options = options.domain_name(name);
    }
    Ok(Some(options))
}

/// Reads a certificate or key.
fn pem(file: &Path) -> Result<Vec<u8>> {
    std::fs::read(file).map_err(|error| {
        Error::new(
            Cause::Invalid,
            format!("cannot read the certificate {}", file.display()),
        )
        .with_source(error)
    })
}

/// Opens a store on `side`, with retries.
///
/// # Errors
///
/// Those of [`store::open::open`].
pub async fn open(
    location: &Location,
    settings: OpenSettings,
    side: Side,
    env: &Env,
) -> Result<SharedStore> {
    let store = store::open::open(location, settings, env).await;
    Ok(Arc::new(SidedStore::new(store.on(side)?, side)))
}

/// Connects to the configured proxy of a Milvus on `side`.
///
/// # Errors
///
/// [`Cause::Invalid`] when a password or certificate is missing, otherwise those of
/// [`Client::connect`].
pub async fn milvus(milvus: &config::MilvusEndpoint, side: Side) -> Result<Client> {
    milvus_at(milvus, &milvus.address, side).await
}

/// Connects to another proxy of the same Milvus, at `address`.
///
/// # Errors
///
/// As [`milvus`].
pub async fn milvus_at(
    milvus: &config::MilvusEndpoint,
    address: &str,
    side: Side,
) -> Result<Client> {
    let mut options = ClientOptions::new(address, side);
    if let Some((user, password)) = milvus.credentials()? {
        let password = Zeroizing::new(password.read()?.expose().to_owned());
        options.credentials = Some(Credentials::new(user, password));
    }
    options.tls = milvus_tls(&milvus.tls)?;
    let client = Client::connect(options).await?;
    client.hear().await?;
    Ok(client)
}

/// The management interface of a Milvus on `side`. Nothing is connected yet.
///
/// # Errors
///
/// [`Cause::Invalid`] when the address or a certificate is not usable.
pub fn management(milvus: &config::MilvusEndpoint, side: Side) -> Result<Management> {
    let mut tls = milvus_tls(&milvus.tls)?;
    let (proxy, own) = (host(&milvus.address), host(&milvus.management));
    if let Some(tls) = tls
        .as_mut()
        .filter(|_| own != proxy && own.parse::<IpAddr>().is_err())
    {
        // A host of its own has a certificate for its own name.
        tls.server_name = None;
    }
    Management::new(&milvus.management, tls.as_ref(), side)
}

/// The host of `http://host:port` or `host:port`.
fn host(address: &str) -> &str {
    let bare = address.split_once("://").map_or(address, |(_, rest)| rest);
    let bare = bare.split('/').next().unwrap_or(bare);
    let host = bare.rsplit_once(':').map_or(bare, |(host, _)| host);
    host.trim_matches(['[', ']'])
}

fn milvus_tls(tls: &config::Tls) -> Result<Option<milvus_auth::Tls>> {
    if !tls.enabled {
        return Ok(None);
    }
    let identity = match &tls.client {
        Some(client) => Some((
            pem(&client.cert_file)?,
            Zeroizing::new(pem(&client.key_file)?),
        )),
        None => None,
    };
    Ok(Some(milvus_auth::Tls {
        ca: tls.ca_file.as_deref().map(pem).transpose()?,
        identity,
        server_name: tls.server_name.clone(),
    }))
}

/// Whether a repository's directory is made when it is missing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Make {
    /// It is, with its parents.
    Directory,
    /// It is not: a missing one holds no repository.
    Nothing,
}

/// Opens the store of a repository.
///
/// # Errors
///
/// [`Cause::Absent`] when its directory is missing and is not to be made.
pub async fn repository_store(
    repository: &config::Repository,
    make: Make,
    env: &Env,
) -> Result<SharedStore> {
    let settings = OpenSettings {
        missing: match make {
            Make::Directory => MissingRoot::Create,
            Make::Nothing => MissingRoot::Fail,
        },
        ..OpenSettings::default()
    };
    open(&repository.location, settings, Side::Repository, env)
        .await
        .map_err(|error| {
            if error.cause() != Cause::NotFound {
                return error;
            }
            let message = format!(
                "there is no repository at {}: the directory is missing",
                repository.location
            );
            Side::Repository
                .error(Cause::Absent, message)
                .with_source(error)
                .with_hint("is its volume mounted? otherwise `eyrie init` makes a repository")
        })
}

/// Probes `store`, which is a repository's, and opens it as the probe advises. One that refuses uploads with a
/// checksum is probed again without.
///
/// # Errors
///
/// Those of [`probe`]: what the store said first.
pub async fn probed(
    store: SharedStore,
    repository: &config::Repository,
    env: &Env,
) -> Result<(SharedStore, Findings)> {
    let (store, uploads, mut found) = with_checksums_taken(
        store,
        &repository.location,
        Side::Repository,
        env,
        |store| async move { probe(&*store, env).await },
    )
    .await?;
    found.checksums = uploads;
    let store = as_probed(store, repository, &found, env).await?;
    Ok((store, found))
}

/// Tries something on the `store` that is at `location`, and where it is refused, again with fewer of the
/// uploads bringing a checksum: what a store says to a header that it does not know is anything, 400, 403 or
/// 501. Returns the store on which it succeeded, and which uploads that one sends with a checksum.
///
/// # Errors
///
/// What was said first, when nothing helps.
pub async fn with_checksums_taken<T, F: Future<Output = Result<T>>>(
    store: SharedStore,
    location: &Location,
    side: Side,
    env: &Env,
    attempt: impl Fn(SharedStore) -> F,
) -> Result<(SharedStore, UploadChecksums, T)> {
    let refusal = match attempt(store.clone()).await {
        Ok(done) => return Ok((store, UploadChecksums::All, done)),
        Err(error) if !matches!(error.cause(), Cause::Failed | Cause::AccessDenied) => {
            return Err(error);
        }
        Err(error) => error,
    };
    for uploads in UploadChecksums::EACH {
        let Some(location) = location.with_checksums(uploads) else {
            continue;
        };
        let store = open(&location, OpenSettings::default(), side, env).await?;
        if let Ok(done) = attempt(store.clone()).await {
            tracing::info!(
                "{location} refuses some uploads with a checksum: {}",
                refusal.chain()
            );
            return Ok((store, uploads, done));
        }
    }
    Err(refusal)
}

/// Opens `store`, which is a repository's, once more as a probe of it advises.
pub async fn as_probed(
    store: SharedStore,
    repository: &config::Repository,
    findings: &Findings,
    env: &Env,
) -> Result<SharedStore> {
    let mut location = repository.location.clone();
    location.heed(findings);
    if location == repository.location {
        return Ok(store);
    }
    open(&location, OpenSettings::default(), Side::Repository, env).await
}

/// Opens a repository with its passphrase; one that is not encrypted needs none.
///
/// # Errors
///
/// [`Cause::Absent`], [`Cause::WrongKey`], [`Cause::NewerFormat`], [`Cause::Damage`], and
/// [`Cause::Invalid`] when a passphrase is needed and none is set.
pub async fn repository(
    repository: &config::Repository,
    state_dir: &Path,
    resources: &Resources,
    env: &Env,
) -> Result<Repository> {
    let mut store = repository_store(repository, Make::Nothing, env).await?;
    if let Some(findings) = Repository::probed(&store).await? {
        store = as_probed(store, repository, &findings, env).await?;
    }
    let unlock = match &repository.passphrase {
        Some(source) => Unlock::Passphrase(source.read()?),
        None => Unlock::None,
    };
    let opened = Repository::open(store, unlock, resources, env).await?;
    match memory(&opened, state_dir, env).await {
        Ok(memory) => opened
            .remembering(memory)
            .await?
            .with_local_index(state_dir),
        Err(error) => {
            tracing::warn!(
                "what this host sees of the repository is not remembered: {}; state_dir says where it would be",
                error.chain()
            );
            Ok(opened)
        }
    }
}

/// What this host remembers of a repository.
async fn memory(repository: &Repository, state_dir: &Path, env: &Env) -> Result<Memory> {
    let settings = OpenSettings {
        missing: MissingRoot::Create,
        ..OpenSettings::default()
    };
    let at = Location::Directory(state_dir.to_owned());
    let store = open(&at, settings, Side::Repository, env).await?;
    Memory::new(store, repository.id(), &repository.location())
}

#[cfg(test)]
mod tests {
    use super::{host, quota};

    #[test]
    fn the_quota_is_read_from_the_metrics() {
        let metrics = "# HELP etcd_server_quota_backend_bytes Current backend storage quota size in bytes.\n\
                       # TYPE etcd_server_quota_backend_bytes gauge\netcd_server_quota_backend_bytes 2.147483648e+09\n";
        assert_eq!(quota(metrics), Some(2 << 30));
        assert_eq!(quota("etcd_server_quota_backend_bytes 0\n"), None);
        assert_eq!(quota(""), None);
    }

    #[test]
    fn the_host_of_an_address() {
        for (address, expected) in [
            ("localhost:19530", "localhost"),
            ("https://milvus.internal:9091/x", "milvus.internal"),
            ("http://[::1]:9091", "::1"),
            ("10.0.0.1:9091", "10.0.0.1"),
        ] {
            assert_eq!(host(address), expected, "{address}");
        }
    }
}
