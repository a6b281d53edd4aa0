//! What Milvus itself is told: its environment file and `milvus.yaml` files, looked up as Milvus
//! looks them up.
//!
//! Milvus lower-cases a key and drops `/`, `_` and `.`, so `etcd.rootPath`, `ETCD_ROOTPATH` and
//! `etcd_root_path` are one setting; the environment outranks the files, and of several files the
//! later wins (`pkg/config/config.go` and `env_source.go`, `pkg/util/paramtable/base_table.go`).

use std::collections::{BTreeMap, HashMap};
use std::fs;
use std::path::{Path, PathBuf};

use super::parse::read_tree;
use super::source::{Place, Source};
use super::yaml::{Node, Value};
use super::{env_file, recognise, scalar};
use crate::{Cause, Error, Result};

/// The prefix by which a variable outranks its plain spelling (`pkg/config/env_source.go`).
const ENV_PREFIX: &str = "MILVUS_CONF_";

/// One value as Milvus would read it, and where it stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Found {
    /// The text; empty when the key is there without a value.
    pub text: String,
    /// Where it was read.
    pub source: Source,
}

/// All settings of Milvus that are known here.
#[derive(Debug, Clone, Default)]
pub struct MilvusSettings {
    env: HashMap<String, Found>,
    yaml: HashMap<String, Found>,
    path_map: BTreeMap<PathBuf, PathBuf>,
}

impl MilvusSettings {
    /// Reads the files.
    ///
    /// # Errors
    ///
    /// [`Cause::Invalid`], naming the key of our own configuration and the file, when one cannot be
    /// read or is not what it should be.
    pub fn read(
        yaml: &[PathBuf],
        env_file: Option<&Path>,
        path_map: &BTreeMap<PathBuf, PathBuf>,
    ) -> Result<Self> {
        let mut settings = Self {
            path_map: path_map.clone(),
            ..Self::default()
        };
        let mut told = yaml.is_empty();
        for path in yaml {
            let text = read("instance.milvus_yaml", path)?;
            told |= settings.add_yaml(&text, path)?;
        }
        // One may be empty, as a user.yaml often is: the others speak for this Milvus.
        if !told {
            return Err(recognise::empty(&yaml[0].display().to_string()));
        }
        if let Some(path) = env_file {
            let text = read("instance.milvus_env_file", path)?;
            settings.add_env(&text, path)?;
        }
        Ok(settings)
    }

    /// Whether any file of Milvus's was given.
    #[must_use]
    pub fn is_known(&self) -> bool {
        !(self.env.is_empty() && self.yaml.is_empty())
    }

    /// The value of the first of `keys` that is set anywhere: each key is looked up in the
    /// environment, then in the files, before the next key is tried, as Milvus does it.
    #[must_use]
    pub fn get(&self, keys: &[&str]) -> Option<&Found> {
        keys.iter().find_map(|key| {
            let key = normalise(key);
            self.env.get(&key).or_else(|| self.yaml.get(&key))
        })
    }

    /// As [`get`](Self::get), for what is on or off: Go's `strconv.ParseBool` reads it, and what that does
    /// not know is off.
    #[must_use]
    pub fn switch(&self, keys: &[&str]) -> Option<(bool, Source)> {
        let found = self.get(keys)?;
        let on = ["1", "t", "T", "true", "TRUE", "True"].contains(&found.text.as_str());
        Some((on, found.source.clone()))
    }

    /// Who switched something on; `None` when it is off or not set.
    #[must_use]
    pub fn on(&self, keys: &[&str]) -> Option<Source> {
        let (on, source) = self.switch(keys)?;
        on.then_some(source)
    }

    /// Where a path of Milvus's is on this host: the longest prefix in `path_map` is replaced.
    #[must_use]
    pub fn on_host(&self, path: &str) -> PathBuf {
        let path = Path::new(path);
        let longest = self
            .path_map
            .iter()
            .filter(|(from, _)| path.starts_with(from))
            .max_by_key(|(from, _)| from.components().count());
        match longest.and_then(|(from, to)| Some((to, path.strip_prefix(from).ok()?))) {
            Some((to, rest)) if rest.as_os_str().is_empty() => to.clone(),
            Some((to, rest)) => to.join(rest),
            None => path.to_owned(),
        }
    }

    /// Adds what a file says, and says whether it says anything.
    fn add_yaml(&mut self, text: &str, path: &Path) -> Result<bool> {
        let name = path.display().to_string();
        let tree = read_tree(text, &name)?;
        let told = recognise::recognise(&tree, &name)?;
        if told {
            self.flatten("", &tree, path);
        }
        Ok(told)
    }

    fn flatten(&mut self, prefix: &str, node: &Node, path: &Path) {
        let text = match &node.value {
            Value::Map(entries) => {
                for entry in entries {
                    let key = format!("{prefix}.{}", entry.key);
                    self.flatten(&key, &entry.node, path);
                }
                return;
            }
            Value::Null => String::new(),
            Value::Scalar(scalar) => scalar::text(scalar),
            Value::List(items) => list(items),
        };
        let source = Source::MilvusYaml(Place::new(path, node.line));
        self.yaml.insert(normalise(prefix), Found { text, source });
    }

    fn add_env(&mut self, text: &str, path: &Path) -> Result<()> {
        let mut prefixed = Vec::new();
        for variable in env_file::parse(text, path)? {
            let found = Found {
                text: variable.value,
                source: Source::MilvusEnv(variable.place),
            };
            match variable.key.strip_prefix(ENV_PREFIX) {
                Some(rest) => prefixed.push((normalise(rest), found)),
                None => {
                    self.env.insert(normalise(&variable.key), found);
                }
            }
        }
        self.env.extend(prefixed);
        Ok(())
    }
}

fn read(key: &str, path: &Path) -> Result<String> {
    fs::read_to_string(path).map_err(|error| {
        Error::new(
            Cause::Invalid,
            format!("cannot read {} ({key})", path.display()),
        )
        .with_source(error)
    })
}

/// The items that are text, with commas between them. Until 2.4 an empty first one leaves no comma.
fn list(items: &[Node]) -> String {
    let mut all = String::new();
    for (at, item) in items.iter().enumerate() {
        let text = match &item.value {
            Value::Scalar(scalar) => scalar::text(scalar),
            Value::Null => String::new(),
            Value::List(_) | Value::Map(_) => continue,
        };
        if at > 0 {
            all.push(',');
        }
        all.push_str(&text);
    }
    all
}

fn normalise(key: &str) -> String {
    let kept = key.chars().filter(|c| !matches!(c, '/' | '_' | '.'));
    kept.flat_map(char::to_lowercase).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings(yaml: &[&str], env: &str) -> MilvusSettings {
        let dir = tempfile::tempdir().unwrap();
        let mut paths = Vec::new();
        for (index, text) in yaml.iter().enumerate() {
            let path = dir.path().join(format!("{index}.yaml"));
            fs::write(&path, text).unwrap();
            paths.push(path);
        }
        let env_path = dir.path().join("milvus.env");
        fs::write(&env_path, env).unwrap();
        let map = BTreeMap::from([
            (
                PathBuf::from("/var/lib/milvus"),
                PathBuf::from("/srv/milvus"),
            ),
            (
                PathBuf::from("/var/lib/milvus/data"),
                PathBuf::from("/data"),
            ),
        ]);
        MilvusSettings::read(&paths, Some(&env_path), &map).unwrap()
    }

    fn text<'a>(settings: &'a MilvusSettings, keys: &[&str]) -> Option<&'a str> {
        settings.get(keys).map(|found| found.text.as_str())
    }

    #[test]
    fn the_environment_outranks_the_last_file() {
        let one = "etcd:\n  rootPath: a\n  endpoints: [x:1, y:2]\nminio: {accessKeyID: \"0123\"}\n";
        let two = "etcd:\n  rootPath: b\n";
        let settings = settings(&[one, two], "# c\nexport ETCD_METASUBPATH='m'\nA_B=1\n");
        assert_eq!(text(&settings, &["etcd.rootPath"]), Some("b"));
        assert_eq!(text(&settings, &["etcd.endpoints"]), Some("x:1,y:2"));
        assert_eq!(text(&settings, &["minio.accessKeyID"]), Some("0123"));
        assert_eq!(text(&settings, &["etcd.metaSubPath"]), Some("m"));
        assert_eq!(text(&settings, &["none", "a.b"]), Some("1"));
    }

    /// What Milvus has, by the libraries that it is built with: `tests/lab/loader` says how the table was made.
    #[derive(serde::Deserialize)]
    struct Document {
        text: String,
        viper: Option<HashMap<String, String>>,
        yaml: Option<HashMap<String, String>>,
    }

    #[test]
    fn every_document_means_what_milvus_makes_of_it() {
        let table = include_str!("../../tests/data/milvus_yaml.json");
        let table: Vec<Document> = serde_json::from_str(table).unwrap();
        for document in table {
            let text = &document.text;
            let tree = read_tree(text, "milvus.yaml").ok();
            let tree = tree.filter(|tree| matches!(tree.value, Value::Map(_) | Value::Null));
            let found = tree.map(|tree| {
                let mut settings = MilvusSettings::default();
                if matches!(tree.value, Value::Map(_)) {
                    settings.flatten("", &tree, Path::new("milvus.yaml"));
                }
                let found = settings.yaml.into_iter();
                found.map(|(key, found)| (key, found.text)).collect()
            });
            assert_eq!(found, document.yaml, "{text:?}");
            // The older loader has other texts only for lists of which a part is empty.
            let differs = document.viper != document.yaml;
            assert!(!differs || text.contains('['), "{text:?}");
        }
    }

    #[test]
    fn a_prefixed_variable_outranks_the_plain_one_in_any_order() {
        let env = "MILVUS_CONF_MINIO_PORT=9001\nMINIO_PORT=9000\n";
        assert_eq!(text(&settings(&[], env), &["minio.port"]), Some("9001"));
    }

    #[test]
    fn the_first_key_set_anywhere_wins_over_its_fallbacks() {
        let yaml = "msgChannel: {chanNamePrefix: {cluster: new}}\n";
        let settings = settings(&[yaml], "COMMON_CHANNAMEPREFIX_CLUSTER=old\n");
        let keys = [
            "msgChannel.chanNamePrefix.cluster",
            "common.chanNamePrefix.cluster",
        ];
        assert_eq!(text(&settings, &keys), Some("new"));
    }

    #[test]
    fn the_longest_mapped_prefix_is_replaced() {
        let settings = settings(&[], "");
        for (container, host) in [
            ("/var/lib/milvus/data/", "/data"),
            ("/var/lib/milvus/data/insert_log", "/data/insert_log"),
            ("/var/lib/milvus/rdb_data", "/srv/milvus/rdb_data"),
            ("/var/lib/milvus2", "/var/lib/milvus2"),
        ] {
            assert_eq!(settings.on_host(container), PathBuf::from(host));
        }
    }
}
