//! The object layer: a directory or an S3 bucket.

use std::path::Path;

use super::super::milvus::truth;
use super::super::model::{ObjectsSection, ObjectsType};
use super::super::parse::shown;
use super::super::resolved::{CloudProvider, Deploy, LocalObjects, Objects, S3Objects, Switch};
use super::super::source::Source;
use super::{MilvusTls, Resolver, Sourced, wrong};
use crate::Result;
use crate::base::secret::{MASK, Secret, SecretSource};
use crate::store::s3::{Addressing, S3Credentials, S3Settings};

/// The key that Milvus's shipped configuration and `MinIO`'s own start with.
const MINIO_KEY: &str = "minioadmin";

const LOCAL_KEYS: &[&str] = &["localStorage.path"];
const DEFAULT_LOCAL_PATH: &str = "/var/lib/milvus/data";

impl Resolver<'_> {
    pub(super) fn objects(&mut self, section: &ObjectsSection, deploy: Deploy) -> Result<Objects> {
        match self.objects_type(section, deploy)? {
            ObjectsType::Local => self.local_objects(section).map(Objects::Local),
            ObjectsType::S3 => Ok(Objects::S3(Box::new(self.s3_objects(section)?))),
        }
    }

    fn objects_type(&mut self, section: &ObjectsSection, deploy: Deploy) -> Result<ObjectsType> {
        let key = "instance.objects.type";
        let word = |kind| match kind {
            ObjectsType::Local => "local",
            ObjectsType::S3 => "s3",
        };
        let milvus = self.milvus.get(&["common.storageType"]).cloned();
        let milvus = match &milvus {
            Some(found) => match found.text.as_str() {
                "local" => Some((ObjectsType::Local, found.source.clone())),
                "minio" | "remote" | "opendal" => Some((ObjectsType::S3, found.source.clone())),
                other => {
                    let message = format!("common.storageType is {other:?}");
                    let hint = "Milvus knows local, minio and remote";
                    return Err(wrong(&found.source, &message, hint));
                }
            },
            None => None,
        };
        if let Some((ObjectsType::Local, source)) = &milvus
            && deploy == Deploy::Cluster
        {
            return Err(wrong(
                source,
                "common.storageType is local, but DEPLOY_MODE says that Milvus is a cluster",
                "a cluster shares its objects through minio or S3: correct one of them",
            ));
        }
        let (kind, source) = match (section.kind, milvus) {
            (Some(kind), _) => (kind, self.explicit(key)),
            (None, Some(told)) => told,
            (None, None) if section.path.is_some() => {
                let why = "instance.objects.path is set".to_owned();
                (ObjectsType::Local, Source::Derived(why))
            }
            (None, None) => (ObjectsType::S3, Source::Default),
        };
        self.record(key, Some(word(kind).to_owned()), &source);
        let misplaced = match kind {
            ObjectsType::Local => s3_keys(section),
            ObjectsType::S3 => section.path.as_ref().map(|_| "path"),
        };
        match misplaced {
            None => Ok(kind),
            Some(part) => {
                let at = self.explicit(&format!("instance.objects.{part}"));
                let message = format!(
                    "instance.objects.{part} does not belong to {} objects ({key} is {}, {source})",
                    word(kind),
                    word(kind),
                );
                Err(wrong(&at, &message, &format!("remove it, or set {key}")))
            }
        }
    }

    fn local_objects(&mut self, section: &ObjectsSection) -> Result<LocalObjects> {
        let key = "instance.objects.path";
        let given = section.path.as_deref();
        let found = self.path(key, given, LOCAL_KEYS, Some(DEFAULT_LOCAL_PATH));
        let Some(found) = found else {
            let source = self
                .milvus
                .get(LOCAL_KEYS)
                .map_or(Source::Default, |f| f.source.clone());
            let message = "common.storageType is local, but localStorage.path is empty";
            return Err(wrong(
                &source,
                message,
                &format!("set {key} to the directory"),
            ));
        };
        if !found.value.is_absolute() {
            let message = format!(
                "localStorage.path is {}, relative to a directory that only Milvus knows",
                found.value.display()
            );
            return Err(wrong(
                &found.source,
                &message,
                &format!("set {key} to the whole path"),
            ));
        }
        let milvus_path = match (self.milvus.get(LOCAL_KEYS), given) {
            (Some(told), _) if !told.text.is_empty() => Path::new(&told.text).to_owned(),
            (_, Some(_)) => found.value.clone(),
            _ => Path::new(DEFAULT_LOCAL_PATH).to_owned(),
        };
        Ok(LocalObjects {
            path: found.value,
            milvus_path,
        })
    }

    fn s3_objects(&mut self, section: &ObjectsSection) -> Result<S3Objects> {
        let provider = self.provider();
        let (endpoint, tls_source) = self.s3_endpoint(section)?;
        let given = section.bucket.as_deref();
        let bucket = self.required(
            "instance.objects.bucket",
            given,
            &["minio.bucketName"],
            "a-bucket",
        )?;
        let given = section.prefix.as_deref();
        let prefix = self.text(
            "instance.objects.prefix",
            given,
            &["minio.rootPath"],
            Some("files"),
        );
        let given = section.region.as_deref();
        let region = self.text("instance.objects.region", given, &["minio.region"], None);
        let virtual_host = matches!(provider, CloudProvider::Aliyun);
        let host_style = &["minio.useVirtualHost"];
        let told = self
            .milvus
            .get(host_style)
            .is_some_and(|found| truth(&found.text));
        let style = match section.path_style {
            Some(style) => style,
            None => !(virtual_host || told),
        };
        let key = "instance.objects.path_style";
        let source = match (section.path_style, self.milvus.get(host_style)) {
            (Some(_), _) => self.explicit(key),
            (None, Some(found)) if told => found.source.clone(),
            _ => Source::Default,
        };
        self.record(key, Some(style.to_string()), &source);
        let credentials = self.s3_object_keys(section)?;
        let enabled = Sourced {
            value: if endpoint.starts_with("https://") {
                Switch::On
            } else {
                Switch::Off
            },
            source: tls_source,
        };
        let told = MilvusTls {
            ca: &["minio.ssl.tlsCACert"],
            ..MilvusTls::without_files(enabled)
        };
        let tls = self.tls_of_s3("instance.objects.tls", &section.tls, &told)?;
        let prefix = prefix.map(|p| p.value).unwrap_or_default();
        let at = S3Settings {
            endpoint: Some(endpoint),
            bucket: bucket.value,
            prefix: prefix.trim_matches('/').to_owned(),
            region: region.map(|r| r.value).filter(|r| !r.is_empty()),
            addressing: if style {
                Addressing::Path
            } else {
                Addressing::VirtualHost
            },
            credentials,
            ca_file: tls.ca_file,
            server_name: tls.server_name,
            ..S3Settings::default()
        };
        Ok(S3Objects { at, provider })
    }

    fn provider(&mut self) -> CloudProvider {
        let keys = &["minio.cloudProvider"];
        let provider = self.text("minio.cloudProvider", None, keys, Some("aws"));
        match provider.map(|p| p.value).unwrap_or_default().as_str() {
            "" | "aws" => CloudProvider::Aws,
            "gcp" => CloudProvider::Gcp,
            "gcpnative" => CloudProvider::GcpNative,
            "azure" => CloudProvider::Azure,
            "aliyun" => CloudProvider::Aliyun,
            other => CloudProvider::Other(other.to_owned()),
        }
    }

    /// The endpoint as a URL, and who decided between http and https.
    fn s3_endpoint(&mut self, section: &ObjectsSection) -> Result<(String, Source)> {
        let key = "instance.objects.endpoint";
        let ssl = self.milvus.get(&["minio.useSSL"]).cloned();
        let tls_key = "instance.objects.tls.enabled";
        let (secure, told) = match (section.tls.enabled, &ssl) {
            (Some(on), _) => (on, self.explicit(tls_key)),
            (None, Some(found)) => (truth(&found.text), found.source.clone()),
            (None, None) => (false, Source::Default),
        };
        let given = section.endpoint.as_deref();
        let found = self.required(key, given, &["minio.address"], "localhost")?;
        let (address, told) = match found.value.split_once("://") {
            Some((scheme @ ("http" | "https"), _)) => {
                let https = scheme == "https";
                if section.tls.enabled.is_some_and(|on| on != https) {
                    let message = format!("{key} is {} but {tls_key} says otherwise", found.value);
                    return Err(wrong(&found.source, &message, "correct one of them"));
                }
                (found.value.clone(), found.source.clone())
            }
            Some((scheme, _)) => {
                let message = format!("{key}: {scheme}:// is no S3 endpoint");
                return Err(wrong(
                    &found.source,
                    &message,
                    "write http://host:port or https://host",
                ));
            }
            None => {
                let scheme = if secure { "https" } else { "http" };
                (format!("{scheme}://{}", self.with_port(&found)), told)
            }
        };
        self.settings.retain(|s| s.key != key);
        self.record(key, Some(address.clone()), &found.source);
        Ok((address.trim_end_matches('/').to_owned(), told))
    }

    /// Milvus adds `minio.port` to an address without one.
    fn with_port(&self, address: &Sourced<String>) -> String {
        if matches!(address.source, Source::Explicit(_)) || address.value.contains(':') {
            return address.value.clone();
        }
        let port = self
            .milvus
            .get(&["minio.port"])
            .map_or("9000", |found| found.text.as_str());
        format!("{}:{port}", address.value)
    }

    fn s3_object_keys(&mut self, section: &ObjectsSection) -> Result<S3Credentials> {
        let keys = self.explicit_keys(
            "instance.objects",
            section.access_key_id.as_deref(),
            section.secret_access_key_file.as_deref(),
            section.session_token_file.as_deref(),
        )?;
        if let Some(keys) = keys {
            return Ok(keys);
        }
        let key = "instance.objects.access_key_id";
        let iam = self
            .milvus
            .get(&["minio.useIAM"])
            .filter(|found| truth(&found.text))
            .cloned();
        if let Some(iam) = iam {
            self.record(
                key,
                Some("the AWS credential chain".to_owned()),
                &iam.source,
            );
            return Ok(S3Credentials::Chain);
        }
        if !self.milvus.is_known() {
            let why = Source::Derived("no keys are set".to_owned());
            self.record(key, Some("the AWS credential chain".to_owned()), &why);
            return Ok(S3Credentials::Chain);
        }
        let id = self.text(key, None, &["minio.accessKeyID"], Some(MINIO_KEY));
        let file = "instance.objects.secret_access_key_file";
        let secret = self
            .secret(file, None, &["minio.secretAccessKey"])
            .unwrap_or_else(|| {
                self.record(file, Some(MASK.to_owned()), &Source::Default);
                SecretSource::Inline {
                    key: "minio.secretAccessKey".to_owned(),
                    secret: Secret::new(MINIO_KEY),
                }
            });
        Ok(S3Credentials::Keys {
            access_key_id: id.map(|id| id.value).unwrap_or_default(),
            secret_access_key: secret,
            session_token: None,
        })
    }

    /// Keys that our own file gives under `at`, all or none.
    pub(super) fn explicit_keys(
        &mut self,
        at: &str,
        id: Option<&str>,
        secret: Option<&Path>,
        token: Option<&Path>,
    ) -> Result<Option<S3Credentials>> {
        let key = |part: &str| format!("{at}.{part}");
        match (id, secret) {
            (Some(id), Some(secret)) => {
                self.note(&key("access_key_id"), id);
                let secret = self.secret(&key("secret_access_key_file"), Some(secret), &[]);
                let token = match token {
                    Some(file) => self.secret(&key("session_token_file"), Some(file), &[]),
                    None => None,
                };
                Ok(secret.map(|secret_access_key| S3Credentials::Keys {
                    access_key_id: id.to_owned(),
                    secret_access_key,
                    session_token: token,
                }))
            }
            (None, None) if token.is_none() => Ok(None),
            (id, _) => {
                let (has, lacks) = match (id, secret) {
                    (Some(_), _) => ("access_key_id", "secret_access_key_file"),
                    (None, Some(_)) => ("secret_access_key_file", "access_key_id"),
                    (None, None) => ("session_token_file", "access_key_id"),
                };
                let source = self.explicit(&key(has));
                let message = format!("{} is set without {lacks}", shown(&key(has)));
                Err(wrong(
                    &source,
                    &message,
                    &format!("set {} too", shown(&key(lacks))),
                ))
            }
        }
    }
}

/// The first key of `section` that only S3 has.
fn s3_keys(section: &ObjectsSection) -> Option<&'static str> {
    let set = [
        ("endpoint", section.endpoint.is_some()),
        ("bucket", section.bucket.is_some()),
        ("prefix", section.prefix.is_some()),
        ("region", section.region.is_some()),
        ("path_style", section.path_style.is_some()),
        ("access_key_id", section.access_key_id.is_some()),
        (
            "secret_access_key_file",
            section.secret_access_key_file.is_some(),
        ),
        ("session_token_file", section.session_token_file.is_some()),
    ];
    set.iter().find(|(_, set)| *set).map(|(key, _)| *key)
}
