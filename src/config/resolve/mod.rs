//! From the file as written to the configuration in force: explicit value, else Milvus's
//! environment, else `milvus.yaml`, else the default of the `milvus.yaml` that Milvus ships.

mod endpoints;
mod objects;
mod repositories;
mod retention;
mod s3;
mod wal;

use std::collections::BTreeMap;
use std::num::NonZeroU64;
use std::path::{Path, PathBuf};

use super::milvus::MilvusSettings;
use super::model::{File, InstanceSection, ResourcesSection, SizeValue, TlsSection};
use super::parse::{parse, read_tree, shown, suggestion};
use super::resolved::{ClientCertificate, Deploy, Instance, Metastore, Resolved, Tls};
use super::source::{Place, Setting, Source};
use super::yaml::Node;
use crate::base::resources::Limits;
use crate::base::secret::{MASK, Secret, SecretSource};
use crate::base::text::Bytes;
use crate::base::weakening;
use crate::{Cause, Error, Result};

/// The variables of our own process that configuration may come from: those that begin with
/// `EYRIE_`, since `MILVUS_PORT` and its like are set by Kubernetes.
#[derive(Debug, Clone, Default)]
pub struct Variables(BTreeMap<String, Secret>);

/// Where eyrie remembers what it saw, unless it is told another place: what the Filesystem Hierarchy
/// Standard has for the state of a program.
const STATE_DIR: &str = "/var/lib/eyrie";

impl Variables {
    /// Those of this process.
    #[must_use]
    pub fn system() -> Self {
        Self::from_pairs(std::env::vars())
    }

    /// Those of `pairs` that begin with `EYRIE_`; empty ones count as not set.
    pub fn from_pairs(pairs: impl IntoIterator<Item = (String, String)>) -> Self {
        let ours = pairs
            .into_iter()
            .filter(|(key, value)| key.starts_with("EYRIE_") && !value.is_empty());
        Self(ours.map(|(key, value)| (key, Secret::new(value))).collect())
    }

    /// The configuration file that `EYRIE_CONFIG` names.
    #[must_use]
    pub fn config_path(&self) -> Option<PathBuf> {
        self.get("EYRIE_CONFIG")
            .map(|path| PathBuf::from(path.expose()))
    }

    fn get(&self, key: &str) -> Option<&Secret> {
        self.0.get(key)
    }
}

impl Resolved {
    /// Reads the configuration file at `path` and all that it names, except secrets.
    ///
    /// # Errors
    ///
    /// [`Cause::Invalid`] when a file cannot be read, has an unknown key or a wrong type, or when
    /// Milvus's own configuration contradicts itself.
    pub fn load(path: &Path, variables: &Variables) -> Result<Self> {
        let path = &std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
        let text = std::fs::read_to_string(path).map_err(|error| {
            Error::new(
                Cause::Invalid,
                format!("cannot read the configuration {}", path.display()),
            )
            .with_source(error)
            .with_hint(
                "name it by --config or $EYRIE_CONFIG; `eyrie config example` prints one to \
                     begin with",
            )
        })?;
        Self::from_text(&text, path, variables)
    }

    /// Resolves `text` as if it stood in the file `path`; relative paths in it are relative to that
    /// file's directory.
    ///
    /// # Errors
    ///
    /// As [`Resolved::load`].
    pub fn from_text(text: &str, path: &Path, variables: &Variables) -> Result<Self> {
        let name = path.display().to_string();
        let file: File = parse(text, &name)?;
        let tree = read_tree(text, &name)?;
        let mut resolver = Resolver::new(&tree, path);
        let instance = match &file.instance {
            Some(section) => Some(resolver.instance(section)?),
            None => None,
        };
        let retention = match &file.retention {
            Some(section) => Some(resolver.retention("retention", section)?),
            None => None,
        };
        let repositories =
            resolver.repositories(&file.repositories, retention.as_ref(), variables)?;
        let limits = resolver.limits(&file.resources)?;
        let state_dir = resolver.state_dir(file.state_dir.as_deref(), variables);
        let mut accept = resolver.accepted("accept", file.accept)?;
        let of_instance = file.instance.map(|instance| instance.accept);
        accept.extend(resolver.accepted("instance.accept", of_instance.unwrap_or_default())?);
        if !accept.is_empty() {
            let source = resolver
                .place("accept")
                .or(resolver.place("instance.accept"));
            let source = source.map_or(Source::Default, Source::Explicit);
            resolver.record("accept", Some(accept.join(", ")), &source);
        }
        Ok(Self {
            path: path.to_owned(),
            instance,
            repositories,
            accept,
            limits,
            state_dir,
            settings: resolver.settings,
        })
    }
}

/// A value and who set it.
#[derive(Debug, Clone)]
struct Sourced<T> {
    value: T,
    source: Source,
}

impl<T> Sourced<T> {
    const fn new(value: T, source: Source) -> Self {
        Self { value, source }
    }
}

struct Resolver<'a> {
    tree: &'a Node,
    file: &'a Path,
    milvus: MilvusSettings,
    settings: Vec<Setting>,
}

impl<'a> Resolver<'a> {
    fn new(tree: &'a Node, file: &'a Path) -> Self {
        Self {
            tree,
            file,
            milvus: MilvusSettings::default(),
            settings: Vec::new(),
        }
    }

    fn state_dir(&mut self, path: Option<&Path>, variables: &Variables) -> PathBuf {
        let (key, variable) = ("state_dir", "EYRIE_STATE_DIR");
        let (path, source) = match (path, variables.get(variable)) {
            (Some(path), _) => (self.beside(path), self.explicit(key)),
            (None, Some(path)) => {
                let source = Source::Variable(variable.to_owned());
                (PathBuf::from(path.expose()), source)
            }
            (None, None) => (PathBuf::from(STATE_DIR), Source::Default),
        };
        self.record(key, Some(path.display().to_string()), &source);
        path
    }

    fn limits(&mut self, section: &ResourcesSection) -> Result<Limits> {
        let threads = section.threads;
        let key = "resources.threads";
        let source = threads.map_or(Source::Default, |_| self.explicit(key));
        self.record(key, threads.map(|n| n.to_string()), &source);
        Ok(Limits {
            threads,
            memory: self.size("resources.memory", section.memory.as_ref())?,
            rate: self.size("resources.rate", section.rate.as_ref())?,
        })
    }

    fn size(&mut self, key: &str, value: Option<&SizeValue>) -> Result<Option<NonZeroU64>> {
        let source = value.map_or(Source::Default, |_| self.explicit(key));
        let bytes = match value {
            None => None,
            Some(SizeValue::Number(bytes)) => Some(Bytes(*bytes)),
            Some(SizeValue::Text(text)) => {
                let parsed = text.parse();
                Some(parsed.map_err(|what: String| wrong(&source, &what, "write 256MiB"))?)
            }
        };
        self.record(key, bytes.map(|bytes| bytes.to_string()), &source);
        match bytes {
            None => Ok(None),
            Some(Bytes(bytes)) => NonZeroU64::new(bytes).map(Some).ok_or_else(|| {
                let what = format!("{key} 0 lets nothing through");
                wrong(&source, &what, "remove it for the default")
            }),
        }
    }

    fn instance(&mut self, section: &InstanceSection) -> Result<Instance> {
        self.name(&section.name)?;
        self.note("instance.name", &section.name);
        let yaml: Vec<_> = section
            .milvus_yaml
            .as_slice()
            .iter()
            .map(|p| self.beside(p))
            .collect();
        let env = section.milvus_env_file.as_ref().map(|p| self.beside(p));
        for path in &yaml {
            self.note("instance.milvus_yaml", &path.display().to_string());
        }
        if let Some(path) = &env {
            self.note("instance.milvus_env_file", &path.display().to_string());
        }
        let map = section
            .path_map
            .iter()
            .map(|(from, to)| (from.clone(), self.beside(to)));
        let map: BTreeMap<_, _> = map.collect();
        for (from, to) in &map {
            let text = format!("{} -> {}", from.display(), to.display());
            self.note("instance.path_map", &text);
        }
        self.milvus = MilvusSettings::read(&yaml, env.as_deref(), &map)?;

        let deploy = self.deploy()?;
        let milvus = self.milvus_endpoint(&section.milvus)?;
        let etcd = self.etcd(&section.etcd, deploy)?;
        let objects = self.objects(&section.objects, deploy)?;
        let local = matches!(objects, super::resolved::Objects::Local(_));
        let deploy = match deploy {
            Deploy::Unknown if local || etcd.embedded.is_some() => Deploy::Standalone,
            told => told,
        };
        let wal = self.wal(&section.wal, deploy, &objects)?;
        let metastore = self.text("metastore.type", None, &["metastore.type"], Some("etcd"));
        let metastore = match metastore.map(|m| m.value).as_deref() {
            None | Some("" | "etcd") => Metastore::Etcd,
            Some(other) => Metastore::Other(other.to_owned()),
        };
        let collect = "dataCoord.enableGarbageCollection";
        let garbage_collection = self.switch(collect, true);
        Ok(Instance {
            name: section.name.clone(),
            milvus,
            etcd,
            objects,
            wal,
            metastore,
            deploy,
            garbage_collection,
        })
    }

    /// `DEPLOY_MODE`, which Milvus takes from its environment only.
    fn deploy(&mut self) -> Result<Deploy> {
        let Some(found) = self.milvus.get(&["DEPLOY_MODE"]).cloned() else {
            return Ok(Deploy::Unknown);
        };
        self.record("DEPLOY_MODE", Some(found.text.clone()), &found.source);
        match found.text.to_ascii_uppercase().as_str() {
            "STANDALONE" => Ok(Deploy::Standalone),
            "DISTRIBUTED" | "CLUSTER" => Ok(Deploy::Cluster),
            other => Err(wrong(
                &found.source,
                &format!("DEPLOY_MODE is {other}"),
                "Milvus knows STANDALONE and DISTRIBUTED",
            )),
        }
    }

    fn name(&self, name: &str) -> Result<()> {
        let good = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
        if !name.is_empty() && name.chars().all(good) {
            return Ok(());
        }
        let source = self.explicit("instance.name");
        let message = format!("the instance name {name:?} cannot be used");
        Err(wrong(
            &source,
            &message,
            "letters, digits, `-`, `_` and `.` make a name",
        ))
    }

    /// A text setting: explicit, else the first of Milvus's `keys`, else `default`.
    fn text(
        &mut self,
        key: &str,
        explicit: Option<&str>,
        keys: &[&str],
        default: Option<&str>,
    ) -> Option<Sourced<String>> {
        let found = match (explicit, self.milvus.get(keys)) {
            (Some(text), _) => Some(Sourced::new(text, self.explicit(key))),
            (None, Some(found)) => Some(Sourced::new(found.text.trim(), found.source.clone())),
            (None, None) => default.map(|text| Sourced::new(text, Source::Default)),
        };
        let found = found.map(|found| Sourced::new(found.value.to_owned(), found.source));
        let source = found.as_ref().map_or(Source::Default, |f| f.source.clone());
        self.record(key, found.as_ref().map(|f| f.value.clone()), &source);
        found
    }

    /// As [`Self::text`], for a setting that must not be empty.
    fn required(
        &mut self,
        key: &str,
        explicit: Option<&str>,
        keys: &[&str],
        default: &str,
    ) -> Result<Sourced<String>> {
        let found = self.text(key, explicit, keys, Some(default));
        match found {
            Some(found) if !found.value.is_empty() => Ok(found),
            found => {
                let source = found.map_or(Source::Default, |f| f.source);
                let said = keys.first().filter(|_| explicit.is_none()).unwrap_or(&key);
                Err(wrong(
                    &source,
                    &format!("{said} is empty"),
                    &format!("give it a value there, or set {key}"),
                ))
            }
        }
    }

    /// Whether Milvus's own `key` is on.
    fn switch(&mut self, key: &str, default: bool) -> bool {
        let (on, source) = self
            .milvus
            .switch(&[key])
            .unwrap_or((default, Source::Default));
        self.record(key, Some(on.to_string()), &source);
        on
    }

    /// A path: an explicit one is relative to our file, one of Milvus's is mapped to this host.
    fn path(
        &mut self,
        key: &str,
        explicit: Option<&Path>,
        keys: &[&str],
        default: Option<&str>,
    ) -> Option<Sourced<PathBuf>> {
        let found = match (explicit, self.milvus.get(keys)) {
            (Some(path), _) => Some(Sourced::new(self.beside(path), self.explicit(key))),
            (None, Some(found)) if found.text.is_empty() => None,
            (None, Some(found)) => {
                let path = self.milvus.on_host(found.text.trim());
                Some(Sourced::new(path, found.source.clone()))
            }
            (None, None) => {
                default.map(|text| Sourced::new(self.milvus.on_host(text), Source::Default))
            }
        };
        let source = found.as_ref().map_or(Source::Default, |f| f.source.clone());
        self.record(
            key,
            found.as_ref().map(|f| f.value.display().to_string()),
            &source,
        );
        found
    }

    /// A secret: a file named by our own key, else text that Milvus holds under `keys`.
    fn secret(&mut self, key: &str, file: Option<&Path>, keys: &[&str]) -> Option<SecretSource> {
        if let Some(path) = file {
            let path = self.beside(path);
            self.note(key, &path.display().to_string());
            let key = shown(key);
            return Some(SecretSource::File { key, path });
        }
        let found = self
            .milvus
            .get(keys)
            .filter(|found| !found.text.is_empty())
            .cloned()?;
        self.record(key, Some(MASK.to_owned()), &found.source);
        Some(SecretSource::Inline {
            key: keys.first().copied().unwrap_or(key).to_owned(),
            secret: Secret::new(found.text),
        })
    }

    /// A `tls:` block; `keys` are Milvus's spellings of the certificates, used only where Milvus
    /// itself has TLS on, since its shipped files name certificates that do not exist.
    fn tls(&mut self, key: &str, section: &TlsSection, milvus: &MilvusTls) -> Result<Tls> {
        let at = |part: &str| format!("{key}.{part}");
        let (on, told) = (milvus.enabled.value, &milvus.enabled.source);
        let (enabled, source) = match section.enabled {
            Some(enabled) => (enabled, self.explicit(&at("enabled"))),
            None => (on, told.clone()),
        };
        self.record(&at("enabled"), Some(enabled.to_string()), &source);
        let keys = |keys: &'static [&'static str]| if on { keys } else { &[] };
        let file = section.ca_file.as_deref();
        let ca_file = self.path(&at("ca_file"), file, keys(milvus.ca), None);
        let file = section.cert_file.as_deref();
        let cert_file = self.path(&at("cert_file"), file, keys(milvus.cert), None);
        let file = section.key_file.as_deref();
        let key_file = self.path(&at("key_file"), file, keys(milvus.key), None);
        let name = self.text(
            &at("server_name"),
            section.server_name.as_deref(),
            &[],
            None,
        );
        let client = match (cert_file, key_file) {
            (Some(cert), Some(key)) => Some(ClientCertificate {
                cert_file: cert.value,
                key_file: key.value,
            }),
            (None, None) => None,
            (cert, key_file) => {
                let source = cert.or(key_file).map_or(Source::Default, |f| f.source);
                let message = format!("{} has only one of cert_file and key_file", shown(key));
                return Err(wrong(&source, &message, "a client certificate needs both"));
            }
        };
        Ok(Tls {
            enabled,
            ca_file: ca_file.map(|f| f.value),
            client,
            server_name: name.map(|n| n.value),
        })
    }

    /// A `tls:` block of an S3 endpoint, which knows its callers by their access keys: the SDK presents
    /// no client certificate.
    fn tls_of_s3(&mut self, key: &str, section: &TlsSection, milvus: &MilvusTls) -> Result<Tls> {
        let given = [
            ("cert_file", &section.cert_file),
            ("key_file", &section.key_file),
        ];
        if let Some((part, _)) = given.iter().find(|(_, file)| file.is_some()) {
            let key = format!("{key}.{part}");
            let message = format!(
                "{}: eyrie presents no client certificate to S3",
                shown(&key)
            );
            let hint = "remove it: S3 knows its callers by access_key_id; where a proxy before the store \
                        asks for certificates, let eyrie reach the store without it";
            return Err(wrong(&self.explicit(&key), &message, hint));
        }
        let tls = self.tls(key, section, milvus)?;
        let given = [
            ("ca_file", section.ca_file.is_some()),
            ("server_name", section.server_name.is_some()),
        ];
        match given.iter().find(|(_, given)| *given) {
            Some((part, _)) if !tls.enabled => {
                let key = format!("{key}.{part}");
                let message = format!("{}: the endpoint is not reached by TLS", shown(&key));
                let hint = "write https:// before the endpoint, or remove it";
                Err(wrong(&self.explicit(&key), &message, hint))
            }
            _ => Ok(tls),
        }
    }

    fn record(&mut self, key: &str, value: Option<String>, source: &Source) {
        self.settings.push(Setting {
            key: shown(key),
            value,
            source: source.clone(),
        });
    }

    /// Records a value that only our own file can set.
    fn note(&mut self, key: &str, value: &str) {
        let source = self.explicit(key);
        self.record(key, Some(value.to_owned()), &source);
    }

    /// Replaces the value recorded last under `key`, which follows from others.
    fn derive(&mut self, key: &str, value: &str, why: &str) {
        self.settings.retain(|s| s.key != key);
        self.record(
            key,
            Some(value.to_owned()),
            &Source::Derived(why.to_owned()),
        );
    }

    fn place(&self, key: &str) -> Option<Place> {
        self.tree
            .line_of(key)
            .map(|line| Place::new(self.file, line))
    }

    /// The weakenings that the list at `key` names, each one that there is.
    fn accepted(&self, key: &str, words: Vec<String>) -> Result<Vec<String>> {
        for (at, word) in words.iter().enumerate() {
            if !weakening::CODES.contains(&word.as_str()) {
                let source = self.explicit(&format!("{key}.{at}"));
                let what = format!("{key}: {word} is no weakening");
                return Err(wrong(&source, &what, &suggestion(word, weakening::CODES)));
            }
        }
        Ok(words)
    }

    fn explicit(&self, key: &str) -> Source {
        Source::Explicit(self.place(key).unwrap_or_else(|| Place::new(self.file, 1)))
    }

    /// `path` as seen from the directory of our file.
    fn beside(&self, path: &Path) -> PathBuf {
        self.file
            .parent()
            .map_or_else(|| path.to_owned(), |dir| dir.join(path))
    }
}

/// Milvus's own TLS settings for one server.
struct MilvusTls {
    enabled: Sourced<bool>,
    ca: &'static [&'static str],
    cert: &'static [&'static str],
    key: &'static [&'static str],
}

impl MilvusTls {
    fn without_files(enabled: Sourced<bool>) -> Self {
        Self {
            enabled,
            ca: &[],
            cert: &[],
            key: &[],
        }
    }
}

/// An error about what stands at `source`.
fn wrong(source: &Source, what: &str, hint: &str) -> Error {
    let message = match source {
        Source::Explicit(place) | Source::MilvusEnv(place) | Source::MilvusYaml(place) => {
            format!("{place}: {what}")
        }
        Source::Variable(name) => format!("${name}: {what}"),
        Source::Derived(_) | Source::Default => what.to_owned(),
    };
    Error::new(Cause::Invalid, message).with_hint(hint)
}

#[cfg(test)]
mod tests;
