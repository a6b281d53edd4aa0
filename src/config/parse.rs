//! From text to [`File`](super::model::File), with errors that name the key and its line.

use serde::de::DeserializeOwned;
use serde_saphyr::Error as YamlError;

use super::yaml::Node;
use crate::{Cause, Error, Result};

/// Names closer than this to an unknown key are offered instead; 1 is equal, 0 shares nothing.
/// Jaro-Winkler above 0.7 is what cargo and clap use for the same purpose.
const SIMILAR: f64 = 0.7;

/// Parses `text` of the file called `name`.
///
/// # Errors
///
/// [`Cause::Invalid`] as `name:line: key: what is wrong`; for an unknown key the hint names the nearest
/// known one or lists all that would be right there.
pub fn parse<T: DeserializeOwned>(text: &str, name: &str) -> Result<T> {
    let tree = read_tree(text, name)?;
    serde_saphyr::from_str(text).map_err(|error| explain(&error, &tree, name))
}

/// Reads `text` of the file called `name` as a tree.
///
/// # Errors
///
/// [`Cause::Invalid`] as `name:line: what is wrong` when it is not YAML.
pub fn read_tree(text: &str, name: &str) -> Result<Node> {
    Node::parse(text).map_err(|error| {
        let what = error.to_string();
        let what = what.strip_prefix("line ").unwrap_or(&what);
        Error::new(error.cause(), format!("{name}:{what} (not valid YAML)"))
    })
}

fn explain(error: &YamlError, tree: &Node, name: &str) -> Error {
    let error = error.without_snippet();
    let small = |n: u64| usize::try_from(n).unwrap_or(usize::MAX);
    let place = error
        .location()
        .map(|at| (small(at.line()), small(at.column())));
    let (line, column) = place.unwrap_or((1, 1));
    let path = tree.path_at(line, column);
    let at = |what: String| {
        let place = path
            .as_deref()
            .map_or_else(String::new, |p| format!("{}: ", shown(p)));
        Error::new(Cause::Invalid, format!("{name}:{line}: {place}{what}"))
    };
    match error {
        YamlError::SerdeUnknownField {
            field, expected, ..
        } => {
            let key = path.filter(|p| last(p) == field);
            let key = key.map_or_else(|| field.clone(), |p| shown(&p));
            let message = format!("{name}:{line}: unknown key {key}");
            Error::new(Cause::Invalid, message).with_hint(suggestion(field, expected))
        }
        YamlError::SerdeMissingField { field, .. } => {
            let parent = path.and_then(|path| tree.lacking(&path, field));
            let key =
                parent.map_or_else(|| (*field).to_owned(), |p| format!("{}.{field}", shown(&p)));
            let message = format!("{name}:{line}: the key {key} is missing");
            Error::new(Cause::Invalid, message)
                .with_hint("see `eyrie config example` for a complete file")
        }
        YamlError::SerdeUnknownVariant {
            variant, expected, ..
        } => at(format!("{variant} is not one of {}", expected.join(", "))),
        YamlError::SerdeInvalidType {
            unexpected,
            expected,
            ..
        }
        | YamlError::SerdeInvalidValue {
            unexpected,
            expected,
            ..
        } => at(format!("found {unexpected} where {expected} belongs")),
        YamlError::InvalidScalar { ty, .. } => at(format!("this is not {}", article(ty))),
        YamlError::DuplicateMappingKey { .. } => at("the key is there twice".to_owned()),
        YamlError::Unexpected { expected, .. } => at(format!("{} belongs here", article(expected))),
        other => {
            let text = other.render_with_formatter(&serde_saphyr::UserMessageFormatter);
            let text = text.lines().next().unwrap_or("not understood");
            let text = text.find(" at line ").map_or(text, |cut| &text[..cut]);
            at(text.to_owned())
        }
    }
}

fn article(what: &str) -> String {
    match what {
        "bool" | "boolean" => "true or false".to_owned(),
        "mapping start" => "a mapping (indented `key: value` lines)".to_owned(),
        "sequence start" => "a list (lines that begin with `-`)".to_owned(),
        "string scalar" => "a single value".to_owned(),
        other => format!("a valid {other}"),
    }
}

fn last(path: &str) -> &str {
    path.rsplit('.').next().unwrap_or(path)
}

/// A dotted path for people: list positions in brackets.
pub(super) fn shown(path: &str) -> String {
    let mut text = String::new();
    for part in path.split('.') {
        if part.parse::<usize>().is_ok() {
            text = format!("{text}[{part}]");
        } else if text.is_empty() {
            part.clone_into(&mut text);
        } else {
            text = format!("{text}.{part}");
        }
    }
    text
}

/// The nearest of the known names, or all of them.
pub(super) fn suggestion(found: &str, known: &[&str]) -> String {
    let nearest = known
        .iter()
        .map(|name| (strsim::jaro_winkler(found, name), *name))
        .max_by(|a, b| a.0.total_cmp(&b.0));
    match nearest {
        Some((score, name)) if score >= SIMILAR => format!("did you mean {name}?"),
        _ => format!("what belongs there is one of {}", known.join(", ")),
    }
}

impl Node {
    /// The innermost mapping at or above `path` that lacks `field`.
    fn lacking(&self, path: &str, field: &str) -> Option<String> {
        let mut candidate = path;
        loop {
            let node = self.at(candidate)?;
            let is_map = matches!(node.value, super::yaml::Value::Map(_));
            if is_map && node.at(field).is_none() {
                return Some(candidate.to_owned());
            }
            candidate = candidate.rsplit_once('.')?.0;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::model::File;
    use super::*;

    fn message(text: &str) -> String {
        match parse::<File>(text, "eyrie.yaml") {
            Ok(file) => format!("{file:?}"),
            Err(error) => {
                assert_eq!(error.cause(), Cause::Invalid);
                format!("{error}\nhint: {}", error.hint().unwrap_or("-"))
            }
        }
    }

    #[test]
    fn errors_name_key_line_and_way_out() {
        let cases = [
            "instance:\n  name: main\n  etcd:\n    rootpath: by-dev\n",
            "instnace:\n  name: main\n",
            "instance:\n  name: main\n  zzz: 1\n",
            "instance:\n  milvus_yaml: /a\n",
            "repositories:\n  - name: a\n    url: /b\n  - name: c\n",
            "instance:\n  name: main\n  objects:\n    type: azure\n",
            "instance:\n  name: main\n  objects:\n    path_style: perhaps\n",
            "instance:\n  name: [main]\n",
            "instance:\n  name: a\n  name: b\n",
            "instance: 3\n",
            "repositories:\n  name: a\n  url: b\n",
            "instance:\n  name: main\n  milvus_yaml: {a: b}\n",
            "instance:\n  name: main\n\tetcd: 1\n",
            "instance:\n  name: \"main\n",
            "repositories:\n  - name: a\n    url: s3://b\n    s3: {endpiont: x}\n",
        ];
        let report: Vec<_> = cases
            .iter()
            .map(|c| format!("{c}=> {}\n", message(c)))
            .collect();
        insta::assert_snapshot!(report.join("\n"));
    }

    #[test]
    fn an_empty_file_is_an_empty_configuration() -> Result<()> {
        assert_eq!(parse::<File>("# nothing yet\n", "x")?, File::default());
        Ok(())
    }
}
