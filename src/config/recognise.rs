//! Whether a file is a milvus.yaml, and if it is not, what it is and where the text of one stands in it.
//!
//! Everything that Milvus does not know in its file it passes over, and so would we: with another file, such as the
//! `ConfigMap` that holds milvus.yaml, every setting would be the default, and so perhaps another Milvus's.

use std::fmt::Write as _;

use super::yaml::{Entry, Node, Value};
use crate::{Cause, Error, Result};

/// What stands at the top of milvus.yaml from 2.3 to 2.6, in lower case, and what Milvus reads besides.
const SECTIONS: &[&str] = &[
    "autoindex",
    "common",
    "credential",
    "datacoord",
    "datanode",
    "etcd",
    "function",
    "gpu",
    "grpc",
    "indexcoord",
    "indexnode",
    "internaltls",
    "kafka",
    "knowhere",
    "localstorage",
    "log",
    "metastore",
    "minio",
    "mixcoord",
    "mq",
    "msgchannel",
    "natsmq",
    "proxy",
    "pulsar",
    "querycoord",
    "querynode",
    "quotaandlimits",
    "rocksmq",
    "rootcoord",
    "streaming",
    "streamingnode",
    "tikv",
    "tls",
    "trace",
    "woodpecker",
];

/// Sections that are not found below other things by chance.
const TELLING: &[&str] = &[
    "common",
    "datacoord",
    "etcd",
    "localstorage",
    "metastore",
    "minio",
    "mq",
    "msgchannel",
    "pulsar",
    "querycoord",
    "quotaandlimits",
    "rocksmq",
    "rootcoord",
    "woodpecker",
];

/// Keys of the values of a Helm chart that are in no milvus.yaml
/// (<https://github.com/zilliztech/milvus-helm/blob/master/charts/milvus/values.yaml>).
const HELM: &[&str] = &[
    "cluster",
    "customConfigMap",
    "externalEtcd",
    "externalKafka",
    "externalPulsar",
    "externalS3",
    "extraConfigFiles",
    "fullnameOverride",
    "image",
    "ingress",
    "mixCoordinator",
    "nameOverride",
    "pulsarv3",
    "service",
    "serviceAccount",
    "standalone",
];

/// What such values say of the charts of Milvus's dependencies, whose names are sections of milvus.yaml.
const HELM_OF_DEPENDENCIES: &[&str] = &[
    "enabled",
    "mode",
    "persistence",
    "replicaCount",
    "resources",
];

/// How deep it is looked for.
const DEPTH: usize = 6;

/// Whether the file says anything.
///
/// # Errors
///
/// [`Cause::Invalid`] when it is no milvus.yaml, with what it is.
pub(super) fn recognise(tree: &Node, file: &str) -> Result<bool> {
    let entries = match &tree.value {
        Value::Null => return Ok(false),
        Value::Map(entries) if entries.is_empty() => return Ok(false),
        Value::Map(entries) => entries.as_slice(),
        Value::Scalar(_) | Value::List(_) => &[],
    };
    let of_dependencies = HELM_OF_DEPENDENCIES.iter().any(|key| {
        let charts = ["etcd", "minio", "pulsar", "kafka"];
        charts
            .iter()
            .any(|chart| tree.at(&format!("{chart}.{key}")).is_some())
    });
    let helm = of_dependencies
        || entries
            .iter()
            .any(|entry| HELM.contains(&entry.key.as_str()));
    if let (Some(kind), Some(_)) = (text_at(tree, "kind"), tree.at("apiVersion")) {
        return Err(kubernetes(tree, file, kind));
    }
    if tree.at("services").is_some() {
        return Err(compose(tree, file));
    }
    if helm {
        let what = "these are values of a Helm chart";
        let hint = "the chart merges extraConfigFiles over what the image has; take what Milvus reads, \
                    /milvus/configs/milvus.yaml and user.yaml in a pod, and name those files in instance.milvus_yaml";
        return Err(none(
            file,
            tree.line,
            what,
            &places_at(tree, "extraConfigFiles"),
            hint,
        ));
    }
    if entries.iter().any(|entry| is_section(&entry.key, SECTIONS)) {
        return Ok(true);
    }
    let what = match entries.first() {
        Some(first) => format!(
            "none of its keys is one of Milvus's, the first is {:?}",
            first.key
        ),
        None => "it is no mapping".to_owned(),
    };
    let hint = "instance.milvus_yaml names the file that Milvus reads, with `etcd:`, `minio:` and so on at the top";
    Err(none(file, tree.line, &what, &places(tree, ""), hint))
}

/// That of a file in which nothing stands.
pub(super) fn empty(file: &str) -> Error {
    let message = format!("{file}: this is no milvus.yaml: nothing stands in it");
    Error::new(Cause::Invalid, message).with_hint(
        "instance.milvus_yaml names the file that Milvus reads; leave it out where Milvus reads none",
    )
}

fn none(file: &str, line: usize, what: &str, places: &[String], hint: &str) -> Error {
    let mut message = format!("{file}:{line}: this is no milvus.yaml: {what}");
    if !places.is_empty() {
        let _ = write!(
            message,
            "; the text of one stands at {}",
            places.join(" and at ")
        );
    }
    Error::new(Cause::Invalid, message).with_hint(hint)
}

fn kubernetes(tree: &Node, file: &str, kind: &str) -> Error {
    let name = text_at(tree, "metadata.name").unwrap_or("NAME");
    let what = format!("this is the Kubernetes resource {kind} {name}");
    let (places, hint) = match kind {
        "ConfigMap" | "Secret" => {
            let hint = format!(
                "write what stands there into a file of its own, as `kubectl get configmap {name} -o \
                 jsonpath='{{.data.milvus\\.yaml}}'` prints it, and name that in instance.milvus_yaml"
            );
            (places_at(tree, "data"), hint)
        }
        "Milvus" | "MilvusCluster" => {
            let line = tree.line_of("spec.config");
            let places = line.map(|line| format!("spec.config (line {line})"));
            let hint = "the operator merges spec.config over what the image has; take what Milvus reads, \
                        /milvus/configs/milvus.yaml and user.yaml in a pod, and name those files in \
                        instance.milvus_yaml";
            (places.into_iter().collect(), hint.to_owned())
        }
        _ => {
            let hint = "instance.milvus_yaml names the file that Milvus reads, such as /milvus/configs/milvus.yaml \
                        in a pod";
            (places(tree, ""), hint.to_owned())
        }
    };
    none(file, tree.line, &what, &places, &hint)
}

fn compose(tree: &Node, file: &str) -> Error {
    let mut mounted = Vec::new();
    if let Some(Node {
        value: Value::Map(services),
        ..
    }) = tree.at("services")
    {
        for service in services {
            let Some(volumes) = service.node.at("volumes") else {
                continue;
            };
            let Value::List(volumes) = &volumes.value else {
                continue;
            };
            let configs = |volume: &&Node| {
                mounts(volume).is_some_and(|(_, to)| to.starts_with("/milvus/configs"))
            };
            for volume in volumes.iter().filter(configs) {
                let from = mounts(volume).map_or("", |(from, _)| from);
                mounted.push(format!(
                    "{from:?} (services.{}, line {})",
                    service.key, volume.line
                ));
            }
        }
    }
    let mut message = format!(
        "{file}:{}: this is no milvus.yaml: this is a compose file",
        tree.line
    );
    let hint = if mounted.is_empty() {
        "it mounts none, so Milvus reads the file in its image, and what `environment:` of its service sets: write \
         the latter as lines KEY=VALUE into a file, name that in instance.milvus_env_file, and leave \
         instance.milvus_yaml out"
    } else {
        let _ = write!(message, ", and Milvus reads {}", mounted.join(" and "));
        "name that file in instance.milvus_yaml; what `environment:` of its service sets belongs into a file that \
         instance.milvus_env_file names"
    };
    Error::new(Cause::Invalid, message).with_hint(hint)
}

/// From where to where a volume of a compose file is mounted.
fn mounts(volume: &Node) -> Option<(&str, &str)> {
    match &volume.value {
        Value::Scalar(scalar) => scalar.text.split_once(':'),
        Value::Map(_) => Some((text_at(volume, "source")?, text_at(volume, "target")?)),
        Value::Null | Value::List(_) => None,
    }
}

fn text_at<'a>(node: &'a Node, path: &str) -> Option<&'a str> {
    match &node.at(path)?.value {
        Value::Scalar(scalar) => Some(&scalar.text),
        _ => None,
    }
}

fn is_section(key: &str, sections: &[&str]) -> bool {
    let first = key.split(['.', '/', '_']).next().unwrap_or(key);
    sections.contains(&first.to_lowercase().as_str())
}

/// Where the settings of a milvus.yaml stand below `node`.
fn places(node: &Node, path: &str) -> Vec<String> {
    let mut found = Vec::new();
    look(node, node.line, path, 0, &mut found);
    found
}

/// The same below the key `path`, where there is one.
fn places_at(tree: &Node, path: &str) -> Vec<String> {
    let below = tree.at(path).map(|node| places(node, path));
    below.unwrap_or_default()
}

fn look(node: &Node, line: usize, path: &str, depth: usize, found: &mut Vec<String>) {
    if depth > DEPTH {
        return;
    }
    let below = |key: &str| match (path, key.contains('.')) {
        ("", false) => key.to_owned(),
        ("", true) => format!("{key:?}"),
        (_, false) => format!("{path}.{key}"),
        (_, true) => format!("{path}.{key:?}"),
    };
    match &node.value {
        Value::Map(entries) if depth > 0 && has_section(entries) => {
            found.push(format!("{path} (line {line})"));
        }
        Value::Map(entries) => {
            for entry in entries {
                look(
                    &entry.node,
                    entry.line,
                    &below(&entry.key),
                    depth + 1,
                    found,
                );
            }
        }
        Value::List(items) => {
            for (at, item) in items.iter().enumerate() {
                look(item, item.line, &below(&at.to_string()), depth + 1, found);
            }
        }
        // A text in which a file stands.
        Value::Scalar(scalar) => {
            let inner = Node::parse(&scalar.text).map(|inner| inner.value);
            if matches!(inner, Ok(Value::Map(entries)) if has_section(&entries)) {
                found.push(format!("{path} (line {line})"));
            }
        }
        Value::Null => {}
    }
}

fn has_section(entries: &[Entry]) -> bool {
    entries.iter().any(|entry| is_section(&entry.key, TELLING))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said(text: &str) -> String {
        let tree = Node::parse(text).unwrap();
        match recognise(&tree, "f.yaml") {
            Ok(told) => told.to_string(),
            Err(error) => {
                assert_eq!(error.cause(), Cause::Invalid);
                assert!(error.hint().is_some());
                error.to_string()
            }
        }
    }

    #[test]
    fn a_milvus_yaml_is_one_in_whole_and_in_part() {
        for text in [
            "etcd:\n  rootPath: by-dev\n",
            "# a user.yaml\nproxy:\n  http:\n    enabled: true\n",
            "ETCD_ROOTPATH: a\n",
            "etcd.rootPath: a\nelse: 1\n",
            "{\"minio\": {\"port\": 9000}}",
            "log: {level: info}\ntrace:\n",
        ] {
            assert_eq!(said(text), "true", "{text}");
        }
        for text in ["", "# nothing\n", "{}", "---\n"] {
            assert_eq!(said(text), "false", "{text}");
        }
    }

    #[test]
    fn another_file_is_named_with_the_place_of_the_right_text() {
        for (text, what) in [
            (
                "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: m}\ndata:\n  milvus.yaml: |\n    etcd:\n      \
                 rootPath: a\n  user.yaml: '# nothing'\n",
                "the Kubernetes resource ConfigMap m; the text of one stands at data.\"milvus.yaml\" (line 5)",
            ),
            (
                "apiVersion: milvus.io/v1beta1\nkind: Milvus\nmetadata: {name: m}\nspec:\n  config:\n    etcd: {}\n",
                "the Kubernetes resource Milvus m; the text of one stands at spec.config (line 5)",
            ),
            (
                "apiVersion: v1\nkind: List\nitems:\n- data: {user.yaml: 'minio: {port: 1}'}\n",
                "at items.0.data.\"user.yaml\" (line 4)",
            ),
            (
                "cluster: {enabled: false}\netcd: {replicaCount: 1}\nextraConfigFiles:\n  user.yaml: |\n    etcd:\n      \
                 rootPath: a\n",
                "values of a Helm chart; the text of one stands at extraConfigFiles.\"user.yaml\" (line 4)",
            ),
            (
                "etcd: {replicaCount: 1}\nminio: {mode: standalone}\n",
                "values of a Helm chart",
            ),
            (
                "services:\n  standalone:\n    image: milvusdb/milvus\n    volumes:\n    - ./m.yaml:/milvus/configs/milvus.yaml\n",
                "a compose file, and Milvus reads \"./m.yaml\" (services.standalone, line 5)",
            ),
            (
                "services: {standalone: {image: milvusdb/milvus}}\n",
                "this is a compose file",
            ),
            (
                "milvus:\n  etcd: {rootPath: a}\n",
                "the first is \"milvus\"; the text of one stands at milvus (line 1)",
            ),
            (
                "user.yaml: |\n  etcd:\n    rootPath: a\n",
                "stands at \"user.yaml\" (line 1)",
            ),
            (
                "foo: 1\n",
                "none of its keys is one of Milvus's, the first is \"foo\"",
            ),
            (
                "- etcd: {rootPath: a}\n",
                "it is no mapping; the text of one stands at 0 (line 1)",
            ),
            ("text\n", "it is no mapping"),
        ] {
            let said = said(text);
            assert!(said.contains(what), "{said}");
        }
    }
}
