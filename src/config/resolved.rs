//! The configuration in force: what every other module takes.

use std::path::PathBuf;

use super::retention::Retention;
use super::source::{Setting, Source};
use crate::base::resources::Limits;
use crate::base::secret::{Secret, SecretSource};
use crate::milvus::keys::Roots;
use crate::milvus::{MilvusVersion, catalog};
use crate::store::open::Location;
use crate::store::s3::S3Settings;
use crate::{Cause, Error, Result, Side};

/// Everything that one configuration file says, with discovery and defaults applied.
#[derive(Debug, Clone)]
pub struct Resolved {
    /// The file it was read from.
    pub path: PathBuf,
    /// The instance, if the file has one.
    pub instance: Option<Instance>,
    /// The repositories in file order.
    pub repositories: Vec<Repository>,
    /// Kinds of weakening that the operator accepts, each one of [`crate::base::weakening::CODES`].
    pub accept: Vec<String>,
    /// What eyrie may use of this host.
    pub limits: Limits,
    /// Where eyrie remembers what it saw.
    pub state_dir: PathBuf,
    /// Every setting with where it came from, in the order of the file format.
    pub settings: Vec<Setting>,
}

impl Resolved {
    /// The instance.
    ///
    /// # Errors
    ///
    /// [`Cause::Invalid`] when the file has none.
    pub fn instance(&self) -> Result<&Instance> {
        self.instance.as_ref().ok_or_else(|| {
            let message = format!("{} has no `instance:`", self.path.display());
            Error::new(Cause::Invalid, message)
                .with_hint("add instance.name and instance.milvus_yaml; see `eyrie config example`")
        })
    }

    /// The repository called `name`, or the first when `None`.
    ///
    /// # Errors
    ///
    /// [`Cause::Invalid`] when there is none, naming those that are there.
    pub fn repository(&self, name: Option<&str>) -> Result<&Repository> {
        let found = match name {
            Some(name) => self.repositories.iter().find(|r| r.name == name),
            None => self.repositories.first(),
        };
        found.ok_or_else(|| {
            let file = self.path.display();
            let names: Vec<_> = self.repositories.iter().map(|r| r.name.as_str()).collect();
            match name {
                Some(name) if !names.is_empty() => {
                    let message = format!("{file} has no repository called {name}");
                    let hint = super::parse::suggestion(name, &names);
                    Error::new(Cause::Invalid, message)
                        .with_hint(hint.replace("what belongs there is one of", "there are"))
                }
                _ => Error::new(Cause::Invalid, format!("{file} has no `repositories:`"))
                    .with_hint("add one with a name, a url and a passphrase_file"),
            }
        })
    }

    /// Who set `key`, such as `instance.etcd.root_path`.
    #[must_use]
    pub fn source(&self, key: &str) -> Option<&Source> {
        self.settings
            .iter()
            .find(|s| s.key == key)
            .map(|s| &s.source)
    }
}

/// One Milvus deployment.
#[derive(Debug, Clone)]
pub struct Instance {
    /// Its name in snapshots.
    pub name: String,
    /// Milvus.
    pub milvus: MilvusEndpoint,
    /// The etcd of its metadata.
    pub etcd: Etcd,
    /// Its object layer.
    pub objects: Objects,
    /// Its write-ahead log.
    pub wal: Wal,
    /// Where Milvus keeps its metadata.
    pub metastore: Metastore,
    /// How Milvus is deployed, as far as its configuration tells.
    pub deploy: Deploy,
    /// `dataCoord.enableGarbageCollection`.
    pub garbage_collection: bool,
}

impl Instance {
    /// What of this instance eyrie cannot capture or restore, as errors that
    /// name the setting, the reason and the way out. Empty when nothing stands in the way.
    #[must_use]
    pub fn refusals(&self) -> Vec<Error> {
        let mut refusals = Vec::new();
        let mut refuse = |message: String, hint: &str| {
            refusals.push(Side::Source.error(Cause::Refused, message).with_hint(hint));
        };
        if let Metastore::Other(kind) = &self.metastore {
            refuse(
                format!(
                    "metastore.type is {kind}: the metadata of {} is not in etcd",
                    self.name
                ),
                "only an etcd metastore can be read at one revision; back this instance up with \
                 the tools of its metastore",
            );
        }
        if let Objects::S3(s3) = &self.objects {
            match &s3.provider {
                CloudProvider::Azure => refuse(
                    format!(
                        "minio.cloudProvider is azure: {} keeps its objects in Azure Blob",
                        self.name
                    ),
                    "only S3 and local storage are supported; put an S3 gateway before it and set \
                     instance.objects",
                ),
                CloudProvider::GcpNative => refuse(
                    format!(
                        "minio.cloudProvider is gcpnative: {} speaks Google's own API",
                        self.name
                    ),
                    "use the bucket's S3 interface: set instance.objects to \
                     https://storage.googleapis.com with an HMAC key",
                ),
                CloudProvider::Aws
                | CloudProvider::Gcp
                | CloudProvider::Aliyun
                | CloudProvider::Other(_) => {}
            }
        }
        refusals
    }
}

/// How to reach Milvus.
#[derive(Debug, Clone)]
pub struct MilvusEndpoint {
    /// `host:port` of a proxy.
    pub address: String,
    /// `http://host:port` of the management interface.
    pub management: String,
    /// The version that the operator declared.
    pub version: Option<MilvusVersion>,
    /// The user.
    pub username: Option<String>,
    /// The user's password.
    pub password: Option<SecretSource>,
    /// `common.security.authorizationEnabled`.
    pub authorization: bool,
    /// TLS towards the proxy.
    pub tls: Tls,
}

impl MilvusEndpoint {
    /// The user and the password's source, where they are set.
    ///
    /// # Errors
    ///
    /// [`Cause::Invalid`] when Milvus asks for a user and none, or no password, is set.
    pub fn credentials(&self) -> Result<Option<(&str, &SecretSource)>> {
        match (&self.username, &self.password) {
            (Some(username), Some(password)) => Ok(Some((username, password))),
            (None, None) if !self.authorization => Ok(None),
            _ => {
                let message = "milvus asks for a user (common.security.authorizationEnabled) and \
                               instance.milvus has not both username and password_file";
                Err(Error::new(Cause::Invalid, message).with_hint(
                    "name a user that may flush and describe every collection, such as root",
                ))
            }
        }
    }
}

/// The etcd of one instance.
#[derive(Debug, Clone)]
pub struct Etcd {
    /// `host:port` of each member.
    pub endpoints: Vec<String>,
    /// Set when etcd runs inside Milvus.
    pub embedded: Option<EmbeddedEtcd>,
    /// `etcd.rootPath`.
    pub root_path: String,
    /// `etcd.metaSubPath`.
    pub meta_sub_path: String,
    /// `etcd.kvSubPath`.
    pub kv_sub_path: String,
    /// The user, where etcd's authentication is on.
    pub username: Option<String>,
    /// The user's password.
    pub password: Option<SecretSource>,
    /// TLS towards etcd.
    pub tls: Tls,
    /// An etcd program to run on a copy of an embedded etcd's directory; on `PATH` when `None`.
    pub binary: Option<PathBuf>,
}

impl Etcd {
    /// Where the instance keeps its keys.
    #[must_use]
    pub fn roots(&self) -> Roots {
        Roots {
            root: self.root_path.clone(),
            meta: self.meta_sub_path.clone(),
            kv: self.kv_sub_path.clone(),
        }
    }
}

/// An etcd that runs inside Milvus.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EmbeddedEtcd {
    /// Its data directory on this host; relative when Milvus's configuration has it relative to
    /// Milvus's own working directory.
    pub data_dir: PathBuf,
    /// Its own configuration file (`etcd.config.path`) on this host.
    pub config_path: Option<PathBuf>,
}

/// Where segment objects live.
#[derive(Debug, Clone)]
pub enum Objects {
    /// A directory.
    Local(LocalObjects),
    /// An S3 bucket.
    S3(Box<S3Objects>),
}

/// Segment objects in a directory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LocalObjects {
    /// The directory on this host.
    pub path: PathBuf,
    /// The directory as Milvus sees it: the paths in its metadata begin with it.
    pub milvus_path: PathBuf,
}

/// Segment objects in an S3 bucket.
#[derive(Debug, Clone)]
pub struct S3Objects {
    /// Where they are; the prefix is `minio.rootPath`, and empty is the whole bucket.
    pub at: S3Settings,
    /// `minio.cloudProvider`.
    pub provider: CloudProvider,
}

/// Whose object storage Milvus was told it is (`minio.cloudProvider`).
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CloudProvider {
    /// AWS, `MinIO` and all that speak S3 with signature version 4.
    Aws,
    /// Google's S3 interface.
    Gcp,
    /// Google's own interface.
    GcpNative,
    /// Azure Blob storage.
    Azure,
    /// Alibaba's OSS.
    Aliyun,
    /// One that we know nothing of; taken for S3.
    Other(String),
}

/// The write-ahead log of one instance.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Wal {
    /// Which queue, and where its data are.
    pub kind: WalKind,
    /// The prefix of its channels (`common.chanNamePrefix.cluster`).
    pub channel_prefix: String,
    /// The number of channels (`rootCoord.dmlChannelNum`).
    pub dml_channel_num: u32,
}

/// A message queue.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum WalKind {
    /// Inside a standalone Milvus: messages in `path`, their positions in `{path}_meta_kv`.
    Rocksmq {
        /// The directory on this host.
        path: PathBuf,
    },
    /// Apache Kafka.
    Kafka {
        /// `kafka.brokerList`.
        brokers: String,
    },
    /// Apache Pulsar.
    Pulsar {
        /// `pulsar.address` and port.
        address: String,
        /// `pulsar.tenant`.
        tenant: String,
        /// `pulsar.namespace`.
        namespace: String,
    },
    /// Woodpecker.
    Woodpecker {
        /// `woodpecker.meta.prefix`, a root in etcd beside Milvus's own.
        meta_prefix: String,
        /// Where its segments are.
        storage: WoodpeckerStorage,
    },
    /// NATS inside a standalone Milvus.
    Natsmq {
        /// `natsmq.server.storeDir` on this host.
        path: PathBuf,
    },
}

impl WalKind {
    /// The kind, without where it is.
    #[must_use]
    pub const fn kind(&self) -> catalog::WalKind {
        match self {
            Self::Rocksmq { .. } => catalog::WalKind::Rocksmq,
            Self::Kafka { .. } => catalog::WalKind::Kafka,
            Self::Pulsar { .. } => catalog::WalKind::Pulsar,
            Self::Woodpecker { .. } => catalog::WalKind::Woodpecker,
            Self::Natsmq { .. } => catalog::WalKind::Natsmq,
        }
    }

    /// The name as Milvus writes it in `mq.type`.
    #[must_use]
    pub const fn name(&self) -> &'static str {
        self.kind().name()
    }
}

/// Where Woodpecker keeps its segments.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum WoodpeckerStorage {
    /// Under `wp/` of the object layer.
    Objects,
    /// In a directory on this host.
    Local(PathBuf),
}

/// Where Milvus keeps its metadata.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Metastore {
    /// In etcd.
    Etcd,
    /// Elsewhere, such as `tikv`; not supported.
    Other(String),
}

/// How Milvus is deployed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Deploy {
    /// One process.
    Standalone,
    /// Many processes.
    Cluster,
    /// Its configuration does not tell; the sessions in etcd do.
    Unknown,
}

/// TLS towards one server; paths are on this host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tls {
    /// Whether the connection is encrypted.
    pub enabled: bool,
    /// Certificates to trust, PEM; the system's when `None`.
    pub ca_file: Option<PathBuf>,
    /// A client certificate and its key, PEM.
    pub client: Option<ClientCertificate>,
    /// The name to check the server's certificate against.
    pub server_name: Option<String>,
}

/// A client certificate.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClientCertificate {
    /// The certificate, PEM.
    pub cert_file: PathBuf,
    /// Its key, PEM.
    pub key_file: PathBuf,
}

/// One repository.
#[derive(Debug, Clone)]
pub struct Repository {
    /// The name that `--repo` takes.
    pub name: String,
    /// Where it is.
    pub location: Location,
    /// The passphrase; `None` when nothing names one.
    pub passphrase: Option<SecretSource>,
    /// Which snapshots stay in it: its own `retention:`, else that at the top.
    pub retention: Option<Retention>,
}

impl Repository {
    /// The passphrase.
    ///
    /// # Errors
    ///
    /// [`Cause::Invalid`] when nothing names one or it cannot be read.
    pub fn require_passphrase(&self) -> Result<Secret> {
        let source = self.passphrase.as_ref().ok_or_else(|| {
            let message = format!("repository {} has no passphrase", self.name);
            Error::new(Cause::Invalid, message).with_hint(
                "set passphrase_file under it, or EYRIE_PASSPHRASE_FILE; a repository that keeps \
                 its keys in the clear is made with `eyrie init --no-encryption`",
            )
        })?;
        source.read()
    }
}
