//! Milvus and etcd: where they listen and who may enter.

use std::path::{Path, PathBuf};

use super::super::model::{EtcdSection, MilvusSection};
use super::super::resolved::{Deploy, EmbeddedEtcd, Etcd, MilvusEndpoint};
use super::super::source::Source;
use super::super::yaml::{Node, Value};
use super::{MilvusTls, Resolver, Sourced, wrong};
use crate::Result;
use crate::milvus::MilvusVersion;

/// Where an embedded etcd listens when its own configuration does not say.
const EMBEDDED_ENDPOINT: &str = "127.0.0.1:2379";

impl Resolver<'_> {
    pub(super) fn milvus_endpoint(&mut self, section: &MilvusSection) -> Result<MilvusEndpoint> {
        let key = "instance.milvus.address";
        let address = self.port(key, section.address.as_deref(), &["proxy.port"], 19530, "");
        let key = "instance.milvus.management";
        // metrics.port, whose only documented spelling is the variable METRICS_PORT.
        let given = section.management.as_deref();
        let management = self.port(key, given, &["metrics.port"], 9091, "http://");
        let management = match management {
            bare if bare.contains("://") => bare,
            bare => format!("http://{bare}"),
        };
        let key = "instance.milvus.version";
        let version = self.text(key, section.version.as_deref(), &[], None);
        let version = match version {
            Some(text) => Some(declared(&text)?),
            None => None,
        };
        let key = "instance.milvus.username";
        let username = self.text(key, section.username.as_deref(), &[], None);
        let file = section.password_file.as_deref();
        let password = self.secret("instance.milvus.password_file", file, &[]);
        let key = "common.security.authorizationEnabled";
        let authorization = self.switch(key, false);
        let key = "common.security.tlsMode";
        let enabled = match self.text(key, None, &[key], Some("0")) {
            Some(mode) => Sourced::new(["1", "2"].contains(&mode.value.as_str()), mode.source),
            None => Sourced::new(false, Source::Default),
        };
        let told = MilvusTls {
            ca: &["tls.caPemPath"],
            ..MilvusTls::without_files(enabled)
        };
        let tls = self.tls("instance.milvus.tls", &section.tls, &told)?;
        Ok(MilvusEndpoint {
            address,
            management,
            version,
            username: username.map(|u| u.value),
            password,
            authorization,
            tls,
        })
    }

    /// An address that is given whole, or follows from a port of Milvus's on this host.
    fn port(
        &mut self,
        key: &str,
        explicit: Option<&str>,
        keys: &[&str],
        default: u16,
        scheme: &str,
    ) -> String {
        let (value, source) = match (explicit, self.milvus.get(keys)) {
            (Some(address), _) => (address.to_owned(), self.explicit(key)),
            (None, Some(port)) if !port.text.is_empty() => (
                format!("{scheme}localhost:{}", port.text),
                port.source.clone(),
            ),
            (None, _) => (format!("{scheme}localhost:{default}"), Source::Default),
        };
        self.record(key, Some(value.clone()), &source);
        value
    }

    pub(super) fn etcd(&mut self, section: &EtcdSection, deploy: Deploy) -> Result<Etcd> {
        let embedded = self.embedded(section, deploy)?;
        let (endpoints, https) = self.endpoints(section, embedded.as_ref())?;
        let given = section.root_path.as_deref();
        let root_path = self.etcd_path("root_path", given, "etcd.rootPath", "by-dev")?;
        let given = section.meta_sub_path.as_deref();
        let meta_sub_path = self.etcd_path("meta_sub_path", given, "etcd.metaSubPath", "meta")?;
        let given = section.kv_sub_path.as_deref();
        let kv_sub_path = self.etcd_path("kv_sub_path", given, "etcd.kvSubPath", "kv")?;
        let (user_keys, password_keys): (&[&str], &[&str]) =
            match self.milvus.on(&["etcd.auth.enabled"]) {
                Some(_) => (&["etcd.auth.userName"], &["etcd.auth.password"]),
                None => (&[], &[]),
            };
        let key = "instance.etcd.username";
        let username = self.text(key, section.username.as_deref(), user_keys, None);
        let file = section.password_file.as_deref();
        let password = self.secret("instance.etcd.password_file", file, password_keys);
        if let (Some(user), None) = (&username, &password) {
            let message = format!("etcd user {} has no password", user.value);
            let hint = "set instance.etcd.password_file";
            return Err(wrong(&user.source, &message, hint));
        }
        let (on, source) = self
            .milvus
            .switch(&["etcd.ssl.enabled"])
            .unwrap_or((false, Source::Default));
        let told = if https && !on {
            let why = "an endpoint begins with https://".to_owned();
            MilvusTls::without_files(Sourced::new(true, Source::Derived(why)))
        } else {
            MilvusTls {
                enabled: Sourced::new(on, source),
                ca: &["etcd.ssl.tlsCACert"],
                cert: &["etcd.ssl.tlsCert"],
                key: &["etcd.ssl.tlsKey"],
            }
        };
        let tls = self.tls("instance.etcd.tls", &section.tls, &told)?;
        let binary = section.binary.as_deref();
        let binary = self.path("instance.etcd.binary", binary, &[], None);
        Ok(Etcd {
            endpoints,
            embedded,
            root_path,
            meta_sub_path,
            kv_sub_path,
            username: username.map(|u| u.value),
            password,
            tls,
            binary: binary.map(|b| b.value),
        })
    }

    fn etcd_path(
        &mut self,
        part: &str,
        explicit: Option<&str>,
        milvus: &str,
        default: &str,
    ) -> Result<String> {
        let key = format!("instance.etcd.{part}");
        let found = self.required(&key, explicit, &[milvus], default)?;
        let clean = found.value.trim_matches('/');
        if clean.is_empty() || clean.split('/').any(str::is_empty) {
            let message = format!("{:?} is no path in etcd", found.value);
            return Err(wrong(&found.source, &message, &format!("set {key}")));
        }
        Ok(clean.to_owned())
    }

    fn embedded(&mut self, section: &EtcdSection, deploy: Deploy) -> Result<Option<EmbeddedEtcd>> {
        let embed = self.milvus.on(&["etcd.use.embed"]);
        if let Some(embed) = &embed {
            if deploy == Deploy::Cluster {
                return Err(wrong(
                    embed,
                    "etcd.use.embed is on, but DEPLOY_MODE says that Milvus is a cluster",
                    "Milvus itself refuses to start so: correct one of them",
                ));
            }
            if let Some(auth) = self.milvus.on(&["etcd.auth.enabled"]) {
                return Err(wrong(
                    &auth,
                    "etcd.auth.enabled is on, but etcd is embedded (etcd.use.embed)",
                    "Milvus itself refuses to start so: switch one of them off",
                ));
            }
        } else if section.data_dir.is_none() {
            return Ok(None);
        }
        let default = embed.as_ref().map(|_| "default.etcd");
        let dir = section.data_dir.as_deref();
        let data_dir = self.path("instance.etcd.data_dir", dir, &["etcd.data.dir"], default);
        let config_path = self.path("etcd.config.path", None, &["etcd.config.path"], None);
        Ok(data_dir.map(|dir| EmbeddedEtcd {
            data_dir: dir.value,
            config_path: config_path.map(|path| path.value),
        }))
    }

    /// The members' addresses without scheme, and whether one had `https://`.
    fn endpoints(
        &mut self,
        section: &EtcdSection,
        embedded: Option<&EmbeddedEtcd>,
    ) -> Result<(Vec<String>, bool)> {
        let key = "instance.etcd.endpoints";
        let given = section.endpoints.as_slice().join(",");
        let given = Some(given.as_str()).filter(|text| !text.is_empty());
        let text = match (given, embedded) {
            (None, Some(embedded)) => {
                let listens = embedded.config_path.as_deref().and_then(client_urls);
                let why = match &listens {
                    Some(_) => "etcd.config.path of the embedded etcd",
                    None => "where an embedded etcd listens by itself",
                };
                let text = listens.unwrap_or_else(|| EMBEDDED_ENDPOINT.to_owned());
                self.derive(key, &text, why);
                text
            }
            _ => {
                self.required(key, given, &["etcd.endpoints"], "localhost:2379")?
                    .value
            }
        };
        let parts: Vec<_> = text
            .split(',')
            .map(str::trim)
            .filter(|p| !p.is_empty())
            .collect();
        let https = parts.iter().any(|p| p.starts_with("https://"));
        let bare = |part: &&str| {
            let part = part
                .trim_start_matches("https://")
                .trim_start_matches("http://");
            part.trim_end_matches('/').to_owned()
        };
        Ok((parts.iter().map(bare).collect(), https))
    }
}

/// The version that the operator declares, in all three numbers: a restore compares them.
fn declared(text: &Sourced<String>) -> Result<MilvusVersion> {
    let version = MilvusVersion::parse(&text.value);
    if version.patch().is_some() {
        return Ok(version);
    }
    let message = format!("instance.milvus.version: {} is no version", text.value);
    let hint = "write all three numbers, such as 2.3.5";
    Err(wrong(&text.source, &message, hint))
}

/// Where etcd's own configuration file says that clients connect; unspecified addresses become the
/// loopback one.
fn client_urls(path: &Path) -> Option<String> {
    let text = std::fs::read_to_string(PathBuf::from(path)).ok()?;
    let tree = Node::parse(&text).ok()?;
    let urls = ["listen-client-urls", "advertise-client-urls"];
    let urls = urls.iter().find_map(|key| match &tree.at(key)?.value {
        Value::Scalar(scalar) if !scalar.text.is_empty() => Some(scalar.text.clone()),
        _ => None,
    })?;
    Some(
        urls.replace("0.0.0.0", "127.0.0.1")
            .replace("[::]", "127.0.0.1"),
    )
}
