//! The configuration file as it is written: every key that eyrie knows, and no other.
//!
//! The doc comments below are what `eyrie config schema` prints; [`Resolved::load`](super::Resolved::load)
//! turns the file into what the rest of the program uses.

use std::collections::BTreeMap;
use std::num::NonZeroUsize;
use std::path::PathBuf;

use schemars::JsonSchema;
use serde::Deserialize;

use crate::milvus::catalog::WalKind;

/// The configuration of eyrie.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct File {
    /// The Milvus instance that is captured or restored.
    pub instance: Option<InstanceSection>,
    /// Where snapshots live. The first is used unless `--repo NAME` says otherwise.
    #[serde(default)]
    pub repositories: Vec<RepositorySection>,
    /// Which snapshots `eyrie forget` keeps.
    pub retention: Option<RetentionSection>,
    /// Kinds of weakening that are known and wanted (docs/consistency.md lists them): a snapshot with
    /// no other weakening exits 0.
    #[serde(default)]
    pub accept: Vec<String>,
    /// What eyrie may use of this host.
    #[serde(default)]
    pub resources: ResourcesSection,
    /// Where eyrie remembers what it saw of the repositories, so that it notices when snapshots are gone, and
    /// keeps copies of their indexes, about 60 bytes for each blob, which may be deleted at any time:
    /// without it `EYRIE_STATE_DIR` is used, then `/var/lib/eyrie`.
    pub state_dir: Option<PathBuf>,
}

/// What eyrie may use of this host; what is not set follows the machine and this process's cgroup.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ResourcesSection {
    /// Threads for hashing, compression and encryption: by default one for each processor that the
    /// process may use.
    pub threads: Option<NonZeroUsize>,
    /// Data under way at once, such as `256MiB`: by default 256 MiB, more on many processors, at most
    /// an eighth of the memory. The process takes about twice as much.
    pub memory: Option<SizeValue>,
    /// Bytes a second, read and written together, such as `50MiB`: by default as many as there can be.
    pub rate: Option<SizeValue>,
}

/// A number of bytes, or a size such as `256MiB`.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(untagged)]
pub enum SizeValue {
    /// Bytes.
    Number(u64),
    /// A size with its unit.
    Text(String),
}

/// The Milvus instance. What is not set here is read from `milvus_env_file`, then `milvus_yaml`,
/// then taken from the `milvus.yaml` that Milvus ships with.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct InstanceSection {
    /// The instance's name in snapshots: letters, digits, `-`, `_` and `.`.
    pub name: String,
    /// Milvus's own configuration, one file or several; of several the later wins, as in Milvus.
    #[serde(default)]
    pub milvus_yaml: OneOrMany<PathBuf>,
    /// `KEY=VALUE` lines with the variables that Milvus is started with (compose, systemd). They
    /// outrank `milvus_yaml`, as in Milvus.
    pub milvus_env_file: Option<PathBuf>,
    /// Paths as Milvus sees them (in its container) and where they are on this host.
    #[serde(default)]
    pub path_map: BTreeMap<PathBuf, PathBuf>,
    /// Milvus itself.
    #[serde(default)]
    pub milvus: MilvusSection,
    /// The etcd that holds the metadata.
    #[serde(default)]
    pub etcd: EtcdSection,
    /// The segment objects.
    #[serde(default)]
    pub objects: ObjectsSection,
    /// The write-ahead log (message queue).
    #[serde(default)]
    pub wal: WalSection,
    /// The same as `accept` at the top.
    #[serde(default)]
    pub accept: Vec<String>,
}

/// How to reach Milvus.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct MilvusSection {
    /// gRPC address of a proxy, `host:port`.
    pub address: Option<String>,
    /// Management address, `http://host:port`.
    pub management: Option<String>,
    /// The version of Milvus, `2.3.5`; asked from a running Milvus when not set, and needed to
    /// restore onto one that was never started.
    pub version: Option<String>,
    /// A Milvus user, where `common.security.authorizationEnabled` is on.
    pub username: Option<String>,
    /// A file that holds that user's password.
    pub password_file: Option<PathBuf>,
    /// TLS towards the proxy.
    #[serde(default)]
    pub tls: TlsSection,
}

/// How to reach etcd and what is Milvus's in it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct EtcdSection {
    /// `host:port` of each member, a list or separated by commas.
    #[serde(default)]
    pub endpoints: OneOrMany<String>,
    /// Milvus's `etcd.rootPath`.
    pub root_path: Option<String>,
    /// Milvus's `etcd.metaSubPath`.
    pub meta_sub_path: Option<String>,
    /// Milvus's `etcd.kvSubPath`.
    pub kv_sub_path: Option<String>,
    /// An etcd user, where etcd's authentication is on.
    pub username: Option<String>,
    /// A file that holds that user's password.
    pub password_file: Option<PathBuf>,
    /// TLS towards etcd.
    #[serde(default)]
    pub tls: TlsSection,
    /// The data directory of an etcd that runs inside Milvus (`etcd.use.embed`).
    pub data_dir: Option<PathBuf>,
    /// An etcd 3.5 program, used on a copy of that directory while Milvus is stopped. Found on
    /// `PATH` when not set.
    pub binary: Option<PathBuf>,
}

/// Where segment objects live.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ObjectsSection {
    /// A directory or an S3 bucket.
    #[serde(rename = "type")]
    pub kind: Option<ObjectsType>,
    /// `local`: the directory (`localStorage.path`).
    pub path: Option<PathBuf>,
    /// `s3`: `http://host:port` or `https://host:port`.
    pub endpoint: Option<String>,
    /// `s3`: the bucket.
    pub bucket: Option<String>,
    /// `s3`: the prefix that Milvus calls `minio.rootPath`.
    pub prefix: Option<String>,
    /// `s3`: the region.
    pub region: Option<String>,
    /// `s3`: address the bucket in the path (`MinIO`) and not in the host name.
    pub path_style: Option<bool>,
    /// `s3`: the access key id.
    pub access_key_id: Option<String>,
    /// `s3`: a file that holds the secret access key.
    pub secret_access_key_file: Option<PathBuf>,
    /// `s3`: a file that holds a session token.
    pub session_token_file: Option<PathBuf>,
    /// `s3`: TLS towards the endpoint.
    #[serde(default)]
    pub tls: TlsSection,
    /// `s3`: the checksum that a restore sends with each upload.
    pub checksum: Option<ChecksumChoice>,
}

impl ObjectsSection {
    /// What of it a repository's `s3:` has too.
    pub(super) fn s3(&self) -> S3Section {
        S3Section {
            endpoint: self.endpoint.clone(),
            region: self.region.clone(),
            path_style: self.path_style,
            access_key_id: self.access_key_id.clone(),
            secret_access_key_file: self.secret_access_key_file.clone(),
            session_token_file: self.session_token_file.clone(),
            tls: self.tls.clone(),
            checksum: self.checksum,
        }
    }
}

/// The kind of object layer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum ObjectsType {
    /// A directory.
    Local,
    /// An S3 bucket.
    S3,
}

/// The write-ahead log.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct WalSection {
    /// Which message queue Milvus uses.
    pub kind: Option<WalKind>,
    /// The directory of a queue that keeps its data in one (rocksmq, natsmq, local woodpecker).
    pub path: Option<PathBuf>,
    /// Milvus's `common.chanNamePrefix.cluster`.
    pub channel_prefix: Option<String>,
}

/// TLS towards one server.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct TlsSection {
    /// Whether the connection is encrypted.
    pub enabled: Option<bool>,
    /// Certificates to trust, PEM; the system's when not set.
    pub ca_file: Option<PathBuf>,
    /// A client certificate, PEM; not for S3, which knows its callers by their keys.
    pub cert_file: Option<PathBuf>,
    /// The client certificate's key, PEM.
    pub key_file: Option<PathBuf>,
    /// The name that the server's certificate is for, where it is not the host name. With S3 a
    /// certificate for the host name is accepted too. That of `instance.milvus` holds for the
    /// management port as well, unless that is on a host of another name.
    pub server_name: Option<String>,
}

/// One repository.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct RepositorySection {
    /// The name that `--repo` takes.
    pub name: String,
    /// A directory, or `s3://bucket/prefix`.
    pub url: String,
    /// A file that holds the passphrase. Without it `EYRIE_PASSPHRASE_FILE`, then
    /// `EYRIE_PASSPHRASE` is used.
    pub passphrase_file: Option<PathBuf>,
    /// How to reach an `s3://` repository; what is not set comes from the AWS credential chain.
    pub s3: Option<S3Section>,
    /// Which snapshots `eyrie forget` keeps in this repository, in place of all of `retention` at the top.
    pub retention: Option<RetentionSection>,
}

/// Which snapshots stay when `eyrie forget` runs (docs/retention.md). What any of the rules keeps stays.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct RetentionSection {
    /// So many snapshots, the newest: a number, or `all`, as in the rules that follow.
    pub keep_last: Option<CountValue>,
    /// The newest of each of so many hours that have any.
    pub keep_hourly: Option<CountValue>,
    /// The newest of each of so many days.
    pub keep_daily: Option<CountValue>,
    /// The newest of each of so many weeks, from Monday to Sunday.
    pub keep_weekly: Option<CountValue>,
    /// The newest of each of so many months.
    pub keep_monthly: Option<CountValue>,
    /// The newest of each of so many years.
    pub keep_yearly: Option<CountValue>,
    /// All that are at most so much older than the newest: `36h`, `7d`, `2w`, `6mo`, `1y 6mo`.
    pub keep_within: Option<String>,
    /// All that have this label, `key=value`, or one of several.
    #[serde(default)]
    pub keep_label: OneOrMany<String>,
    /// The time zone of the hours, days, weeks, months and years, such as `Europe/Berlin`; `UTC` when not
    /// set.
    pub time_zone: Option<String>,
}

/// A number, or `all`.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(untagged, expecting = "a number or `all` belongs here")]
pub enum CountValue {
    /// So many.
    Number(u32),
    /// `all`.
    Text(String),
}

/// How to reach an S3 repository.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct S3Section {
    /// `http://host:port` or `https://host:port`; AWS when not set.
    pub endpoint: Option<String>,
    /// The region.
    pub region: Option<String>,
    /// Address the bucket in the path (`MinIO`) and not in the host name.
    pub path_style: Option<bool>,
    /// The access key id.
    pub access_key_id: Option<String>,
    /// A file that holds the secret access key.
    pub secret_access_key_file: Option<PathBuf>,
    /// A file that holds a session token.
    pub session_token_file: Option<PathBuf>,
    /// TLS towards the endpoint.
    #[serde(default)]
    pub tls: TlsSection,
    /// The checksum that goes with each upload.
    pub checksum: Option<ChecksumChoice>,
}

/// The checksum of uploads to S3.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum ChecksumChoice {
    /// CRC32C; none with those uploads that the store refuses with one, which are read back then.
    Auto,
    /// CRC32C.
    Crc32c,
    /// CRC64NVME.
    Crc64nvme,
    /// None: all uploads are read back.
    None,
}

/// One value or a list of them.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(untagged, expecting = "a value or a list of values belongs here")]
pub enum OneOrMany<T> {
    /// A single value.
    One(T),
    /// A list.
    Many(Vec<T>),
}

impl<T> Default for OneOrMany<T> {
    fn default() -> Self {
        Self::Many(Vec::new())
    }
}

impl<T> OneOrMany<T> {
    /// The values in file order.
    #[must_use]
    pub fn as_slice(&self) -> &[T] {
        match self {
            Self::One(value) => std::slice::from_ref(value),
            Self::Many(values) => values,
        }
    }
}
