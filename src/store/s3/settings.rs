//! How to reach a bucket, and the SDK's client made of it.

use std::fmt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use aws_config::BehaviorVersion;
use aws_sdk_s3::Client;
use aws_sdk_s3::config::{
    Builder, IdentityCache, Region, RequestChecksumCalculation, ResponseChecksumValidation,
    StalledStreamProtectionConfig,
};
use aws_sdk_s3::types::ChecksumAlgorithm;
use aws_smithy_http_client::tls::rustls_provider::CryptoMode;
use aws_smithy_http_client::tls::{Provider, ServerName, TlsContext, TrustStore};
use aws_smithy_types::retry::RetryConfig;
use aws_smithy_types::timeout::TimeoutConfig;
use serde::{Deserialize, Serialize};

use super::credentials::{Renewed, S3Credentials};
use crate::store::read_back::ReadBack;
use crate::{Cause, Error, Result};

/// How long connecting may take, TLS included: several lost SYN packets (1, 2, 4 s) are survived.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// How long a request may take until its answer begins, the sending of its body included: a part of
/// 16 MiB passes at 140 KB/s.
const READ_TIMEOUT: Duration = Duration::from_mins(2);

/// How long a body may stand still in either direction before the request fails.
const STALL_TIMEOUT: Duration = Duration::from_secs(30);

/// The region that is signed for when none is set and the AWS chain knows none: what `MinIO` and
/// most others expect.
const DEFAULT_REGION: &str = "us-east-1";

/// How a bucket's name gets into the URL.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Addressing {
    /// `Path` where an endpoint is set, `VirtualHost` on AWS.
    #[default]
    Auto,
    /// In the path, as `MinIO` and Ceph expect.
    Path,
    /// In the host name, as AWS expects.
    VirtualHost,
}

/// Whether a payload's SHA-256 is part of the request's signature, which costs up to a core's
/// second for each 190 MB.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum PayloadSigning {
    /// Only over plain HTTP, where nothing else keeps a payload from being changed on its way.
    #[default]
    WithoutTls,
    /// Always.
    Always,
    /// Never: for a network that is trusted.
    Never,
}

/// The checksum that goes with each upload, checked by the store before it answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Checksum {
    /// CRC32C, with the uploads that the store was found to take with one.
    #[default]
    Auto,
    /// CRC32C.
    Crc32c,
    /// CRC64NVME.
    Crc64Nvme,
    /// None, for a store that knows neither.
    None,
}

/// Which uploads a store takes with a checksum.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum UploadChecksums {
    /// All.
    #[default]
    All,
    /// Those of one piece; parts are uploaded without.
    Single,
    /// None.
    None,
}

impl UploadChecksums {
    /// From the most that is proved to the least.
    pub const EACH: [Self; 3] = [Self::All, Self::Single, Self::None];
}

/// Whether the store honours `If-None-Match: *` on PUT and on completing an upload.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum ConditionalWrites {
    /// It does (AWS, `MinIO`); the probe proves it.
    #[default]
    Honoured,
    /// It does not: a HEAD goes before, which is not atomic.
    Missing,
}

/// Whether the bucket keeps versions.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Versioning {
    /// It does not, it is suspended, or nobody looked.
    #[default]
    Off,
    /// It does.
    On,
}

/// A bucket, or what lies under a prefix of it, and how to reach it.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct S3Settings {
    /// `http://host:port` or `https://host:port`; AWS's own for the region when `None`.
    pub endpoint: Option<String>,
    /// The region. When `None`: `us-east-1` with an endpoint that is not AWS's, else what the AWS
    /// chain says, else `us-east-1`.
    pub region: Option<String>,
    /// The bucket.
    pub bucket: String,
    /// What all keys begin with, without a `/` at either end; empty for the whole bucket.
    pub prefix: String,
    /// How the bucket's name gets into the URL.
    pub addressing: Addressing,
    /// Where the credentials come from.
    pub credentials: S3Credentials,
    /// Certificates in PEM that are trusted instead of the system's.
    pub ca_file: Option<PathBuf>,
    /// A name that the server's certificate may be for, besides that of the endpoint.
    pub server_name: Option<String>,
    /// Whether payloads are signed.
    pub payload_signing: PayloadSigning,
    /// The checksum of uploads.
    pub checksum: Checksum,
    /// With which uploads it goes, where `checksum` leaves it open.
    pub uploads: UploadChecksums,
    /// Whether conditional writes work.
    pub conditional_writes: ConditionalWrites,
    /// Whether the bucket keeps versions.
    pub versioning: Versioning,
}

impl S3Settings {
    /// Endpoint, bucket and prefix, for people.
    #[must_use]
    pub fn place(&self) -> String {
        let endpoint = self.endpoint.as_deref().unwrap_or("AWS");
        let place = format!("{endpoint}/{}/{}", self.bucket, self.prefix);
        place.trim_end_matches('/').to_owned()
    }

    /// The checksums of uploads in one piece, and of parts.
    pub(super) fn checksums(&self) -> [Option<ChecksumAlgorithm>; 2] {
        let crc32c = || Some(ChecksumAlgorithm::Crc32C);
        match (self.checksum, self.uploads) {
            (Checksum::Auto, UploadChecksums::All) | (Checksum::Crc32c, _) => [crc32c(), crc32c()],
            (Checksum::Auto, UploadChecksums::Single) => [crc32c(), None],
            (Checksum::Crc64Nvme, _) => [(); 2].map(|()| Some(ChecksumAlgorithm::Crc64Nvme)),
            (Checksum::Auto, UploadChecksums::None) | (Checksum::None, _) => [None, None],
        }
    }

    /// Which uploads are read back, as no checksum goes with them.
    pub(super) fn read_back(&self) -> Option<ReadBack> {
        match self.checksums() {
            [Some(_), Some(_)] => None,
            [Some(_), None] => Some(ReadBack::OfParts),
            [None, _] => Some(ReadBack::Every),
        }
    }

    /// Whether payloads are to be signed with this endpoint.
    pub(super) fn signs_payloads(&self) -> bool {
        match self.payload_signing {
            PayloadSigning::Always => true,
            PayloadSigning::Never => false,
            PayloadSigning::WithoutTls => self.is_plain(),
        }
    }

    /// Whether the endpoint is reached without TLS.
    pub(super) fn is_plain(&self) -> bool {
        let plain = |endpoint: &String| !endpoint.starts_with("https://");
        self.endpoint.as_ref().is_some_and(plain)
    }

    /// Makes a client; reads the CA file, and asks the AWS chain for what is not set.
    ///
    /// # Errors
    ///
    /// [`Cause::Invalid`] when the settings contradict themselves or the CA file holds no certificate.
    pub(super) async fn client(&self) -> Result<Client> {
        // Keys that cannot be read are an error now, not at the first request.
        self.credentials.read()?;
        let region = self.region.clone().or_else(|| self.default_region());
        if let Some(endpoint) = &self.endpoint {
            check_endpoint(endpoint)?;
        }
        let keys = matches!(self.credentials, S3Credentials::Keys { .. });
        let mut config = if keys && region.is_some() {
            Builder::new().behavior_version(BehaviorVersion::latest())
        } else {
            let chain = aws_config::defaults(BehaviorVersion::latest());
            Builder::from(&chain.no_credentials().load().await)
        };
        // It holds them itself, and knows when a server takes them no more.
        let credentials = Renewed::new(self.credentials.clone());
        config = config
            .credentials_provider(credentials.clone())
            .identity_cache(IdentityCache::no_cache())
            .interceptor(credentials);
        if let Some(endpoint) = &self.endpoint {
            config = config.endpoint_url(endpoint);
        }
        if let Some(region) = region {
            config = config.region(Region::new(region));
        }
        if let Some(tls) = self.tls()? {
            let http = aws_smithy_http_client::Builder::new()
                .tls_provider(Provider::Rustls(CryptoMode::AwsLc))
                .tls_context(tls);
            config = config.http_client(http.build_https());
        }
        let path_style = match self.addressing {
            Addressing::Auto => self.endpoint.is_some(),
            Addressing::Path => true,
            Addressing::VirtualHost => false,
        };
        let checksums = match self.checksums() {
            [None, _] => RequestChecksumCalculation::WhenRequired,
            // Otherwise the SDK leaves out even what a request asks for.
            [Some(_), _] => RequestChecksumCalculation::WhenSupported,
        };
        let timeouts = TimeoutConfig::builder()
            .connect_timeout(CONNECT_TIMEOUT)
            .read_timeout(READ_TIMEOUT);
        let stalls = StalledStreamProtectionConfig::enabled().grace_period(STALL_TIMEOUT);
        let config = config
            .force_path_style(path_style)
            .request_checksum_calculation(checksums)
            .response_checksum_validation(ResponseChecksumValidation::WhenRequired)
            .retry_config(RetryConfig::disabled())
            .timeout_config(timeouts.build())
            .stalled_stream_protection(stalls.build());
        let built = config.clone().build();
        let config = match built.region() {
            Some(_) => built,
            None => config.region(Region::from_static(DEFAULT_REGION)).build(),
        };
        Ok(Client::from_conf(config))
    }

    /// Without a region the SDK would ask the metadata service of a cloud that the endpoint is not.
    fn default_region(&self) -> Option<String> {
        let elsewhere = |url: &String| !url.contains("amazonaws.com");
        let is_elsewhere = self.endpoint.as_ref().is_some_and(elsewhere);
        is_elsewhere.then(|| DEFAULT_REGION.to_owned())
    }

    /// What is trusted; the system's certificates for the endpoint's name when `None`.
    fn tls(&self) -> Result<Option<TlsContext>> {
        if self.ca_file.is_none() && self.server_name.is_none() {
            return Ok(None);
        }
        let mut tls = TlsContext::builder();
        if let Some(file) = &self.ca_file {
            tls = tls.with_trust_store(trust_only(file)?);
        }
        if let Some(name) = &self.server_name {
            let bad = |error| usage(format!("{name:?} is no name of a server")).with_source(error);
            let name = ServerName::try_from(name.as_str()).map_err(bad)?;
            tls = tls.with_additional_server_names(vec![name]);
        }
        let built = tls.build().map_err(|error| {
            usage("the TLS settings of the S3 endpoint are not accepted").with_source(error)
        })?;
        Ok(Some(built))
    }
}

/// As the URL of the bucket and the prefix, without what it takes to get there.
impl fmt::Display for S3Settings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "s3://{}", self.bucket)?;
        match self.prefix.as_str() {
            "" => Ok(()),
            prefix => write!(f, "/{prefix}"),
        }
    }
}

fn usage(message: impl Into<String>) -> Error {
    Error::new(Cause::Invalid, message)
}

fn check_endpoint(endpoint: &str) -> Result<()> {
    let url = url::Url::parse(endpoint).map_err(|error| {
        usage(format!("the S3 endpoint {endpoint:?} is no URL")).with_source(error)
    })?;
    let no_login = url.username().is_empty() && url.password().is_none();
    if !no_login {
        return Err(usage("the S3 endpoint holds a user name or password")
            .with_hint("set the access key and its secret by their own settings"));
    }
    if !matches!(url.scheme(), "http" | "https") || url.host_str().is_none() {
        return Err(usage(format!(
            "the S3 endpoint {endpoint:?} is not http://HOST:PORT or https://HOST:PORT"
        )));
    }
    Ok(())
}

/// Reads certificates and checks each: the SDK panics over one that does not parse.
fn trust_only(file: &Path) -> Result<TrustStore> {
    let name = file.display();
    let unreadable = |error| usage(format!("cannot read the CA file {name}")).with_source(error);
    let pem = std::fs::read(file).map_err(unreadable)?;
    let bad = |error| usage(format!("the CA file {name} is damaged")).with_source(error);
    let certificates = reqwest::Certificate::from_pem_bundle(&pem).map_err(bad)?;
    if certificates.is_empty() {
        return Err(usage(format!(
            "the CA file {name} holds no PEM certificate"
        )));
    }
    let checked = reqwest::Client::builder().tls_certs_only(certificates);
    checked.build().map_err(bad)?;
    Ok(TrustStore::empty().with_pem_certificate(pem))
}
