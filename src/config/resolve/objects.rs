//! The object layer: a directory or an S3 bucket.

use std::path::Path;

use super::super::model::{ObjectsSection, ObjectsType};
use super::super::resolved::{CloudProvider, Deploy, LocalObjects, Objects, S3Objects};
use super::super::source::Source;
use super::s3::{CHAIN, ToldOfS3};
use super::{Resolver, Sourced, wrong};
use crate::Result;
use crate::base::secret::{MASK, Secret, SecretSource};
use crate::store::s3::{S3Credentials, S3Settings};

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
        let at = "instance.objects";
        let provider = self.provider();
        let s3 = section.s3();
        let given = s3.endpoint.as_deref();
        let key = "instance.objects.endpoint";
        let address = self.required(key, given, &["minio.address"], "localhost")?;
        let address = Sourced::new(self.with_port(&address), address.source);
        let (ssl, source) = self
            .milvus
            .switch(&["minio.useSSL"])
            .unwrap_or((false, Source::Default));
        let endpoint = self.s3_endpoint(at, &address, &s3, Sourced::new(ssl, source))?;
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
        let prefix = prefix.map(|p| p.value).unwrap_or_default();
        let url = S3Settings {
            bucket: bucket.value,
            prefix: prefix.trim_matches('/').to_owned(),
            ..S3Settings::default()
        };
        let path_style = match self.milvus.on(&["minio.useVirtualHost"]) {
            Some(source) => Sourced::new(false, source),
            None => Sourced::new(provider != CloudProvider::Aliyun, Source::Default),
        };
        let told = ToldOfS3 {
            endpoint: Some(endpoint),
            path_style,
            region: &["minio.region"],
            ca: &["minio.ssl.tlsCACert"],
            keys: Self::keys_of_milvus,
        };
        let at = self.s3(at, url, &s3, told)?;
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

    /// The keys that Milvus itself uses.
    fn keys_of_milvus(&mut self, _: &str) -> S3Credentials {
        let key = "instance.objects.access_key_id";
        let chain = match self.milvus.on(&["minio.useIAM"]) {
            Some(source) => Some(source),
            None if !self.milvus.is_known() => Some(Source::Derived("no keys are set".to_owned())),
            None => None,
        };
        if let Some(source) = chain {
            self.record(key, Some(CHAIN.to_owned()), &source);
            return S3Credentials::Chain;
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
        S3Credentials::Keys {
            access_key_id: id.map(|id| id.value).unwrap_or_default(),
            secret_access_key: secret,
            session_token: None,
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
