//! Files of environment variables, as `docker run --env-file`, Compose's `env_file:` and systemd's `EnvironmentFile=`
//! take them.
//!
//! Quotes are taken as Compose and systemd take them; docker keeps them in the value. What one of them puts in and
//! another does not, a reference to another variable, is refused by the name of the variable that has it. A message
//! never has a value: most files of this kind hold secrets.

use std::path::Path;

use super::source::Place;
use crate::{Cause, Error, Result};

/// A variable, and where it begins.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Variable {
    pub(super) key: String,
    pub(super) value: String,
    pub(super) place: Place,
}

/// Reads all variables of a file, in its order. Those that Kubernetes sets for services are left out.
///
/// # Errors
///
/// [`Cause::Invalid`] with the line, and the key where there is one.
pub(super) fn parse(text: &str, path: &Path) -> Result<Vec<Variable>> {
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let mut variables: Vec<Variable> = Vec::new();
    let mut lines = text.lines().enumerate();
    while let Some((number, line)) = lines.next() {
        let place = Place::new(path, number + 1);
        let line = line.trim();
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let line = line.strip_prefix("export ").unwrap_or(line);
        let split = line
            .split_once('=')
            .map(|(key, value)| (key.trim(), value.trim()));
        if let Some(open) = variables.last().filter(|last| is_open(&last.value)) {
            let hint =
                "put the whole of it into quotes, or into a file that a setting of ours names";
            let what = format!("the value of {} goes on in another line", open.key);
            return Err(wrong(&open.place, &what, hint));
        }
        let Some((key, value)) = split.filter(|(key, _)| is_key(key)) else {
            let hint =
                "a line is KEY=VALUE, a comment that begins with #, or part of a value in quotes";
            return Err(wrong(&place, "this line is not KEY=VALUE", hint));
        };
        let quote = value.chars().next();
        let value = match quote {
            Some(quote @ ('"' | '\'')) => {
                let mut all = value[1..].to_owned();
                loop {
                    if let Some(value) = quoted(&all, quote) {
                        break value.map_err(|what| {
                            wrong(
                                &place,
                                &format!("{key}: {what}"),
                                "write one value, in quotes or without",
                            )
                        })?;
                    }
                    let Some((_, more)) = lines.next() else {
                        let what = format!("the quote that begins the value of {key} does not end");
                        return Err(wrong(
                            &place,
                            &what,
                            "end it, or put a quote of the other kind around all",
                        ));
                    };
                    all.push('\n');
                    all.push_str(more);
                }
            }
            _ => value.to_owned(),
        };
        if quote != Some('\'') && has_reference(&value) {
            let what = format!("the value of {key} refers to another variable");
            let hint = "Compose puts that one's value in, docker and systemd do not: write the value itself, or quote \
                        it by ' where it is meant as it stands";
            return Err(wrong(&place, &what, hint));
        }
        if is_of_kubernetes(key, &value) {
            tracing::warn!(
                "{place}: {key} is what Kubernetes sets for a service of that name, and it is left out; Milvus takes \
                 MILVUS_CONF_{key} before it"
            );
            continue;
        }
        variables.push(Variable {
            key: key.to_owned(),
            value,
            place,
        });
    }
    Ok(variables)
}

fn wrong(place: &Place, what: &str, hint: &str) -> Error {
    Error::new(Cause::Invalid, format!("{place}: {what}")).with_hint(hint)
}

/// What every shell takes for a name, and the dots and dashes that docker lets pass.
fn is_key(key: &str) -> bool {
    let good = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '.' | '-' | '/');
    key.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_') && key.chars().all(good)
}

/// The value before the closing quote; `None` where there is none.
fn quoted(text: &str, quote: char) -> Option<std::result::Result<String, &'static str>> {
    let mut value = String::new();
    let mut chars = text.chars().peekable();
    while let Some(c) = chars.next() {
        match c {
            '\\' if quote == '"' && chars.peek().is_some_and(|c| "\"\\`$".contains(*c)) => {
                value.extend(chars.next());
            }
            c if c == quote => {
                let rest: String = chars.collect();
                let rest = rest.trim_start();
                let ends = rest.is_empty() || rest.starts_with('#');
                return Some(if ends {
                    Ok(value)
                } else {
                    Err("something follows the closing quote")
                });
            }
            c => value.push(c),
        }
    }
    None
}

/// Whether a PEM has begun and not ended: its other lines may look like variables.
fn is_open(value: &str) -> bool {
    value.starts_with("-----BEGIN ") && !value.contains("-----END ")
}

/// Whether there is `${NAME}` in it.
fn has_reference(value: &str) -> bool {
    value.split("${").skip(1).any(|rest| {
        let name = rest
            .split(['}', ':', '-', '?', '+'])
            .next()
            .unwrap_or_default();
        rest.contains('}') && !name.is_empty() && is_key(name)
    })
}

/// The variables that Kubernetes sets in every container for each service, such as `MINIO_PORT=tcp://10.0.0.1:9000`
/// (<https://kubernetes.io/docs/concepts/services-networking/service/#environment-variables>).
fn is_of_kubernetes(key: &str, value: &str) -> bool {
    let upper = key.to_ascii_uppercase();
    let of_port = upper.ends_with("_PORT") || upper.contains("_PORT_");
    of_port
        && ["tcp://", "udp://", "sctp://"]
            .iter()
            .any(|scheme| value.starts_with(scheme))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> std::result::Result<Vec<(String, String)>, String> {
        let variables = parse(text, Path::new("m.env")).map_err(|error| error.to_string())?;
        Ok(variables.into_iter().map(|v| (v.key, v.value)).collect())
    }

    #[test]
    fn what_all_tools_agree_on_is_taken() {
        let text = "\u{feff}A=1\n# c\n\n export B = two words \nC='it$ ${D}'\nD=\"a\\\"b\\\\c\\d\" # why\nE=\nF=a=b==\nG=pa$$w$rd\r\n";
        let expected = [
            ("A", "1"),
            ("B", "two words"),
            ("C", "it$ ${D}"),
            ("D", "a\"b\\c\\d"),
            ("E", ""),
            ("F", "a=b=="),
            ("G", "pa$$w$rd"),
        ];
        let expected = expected.map(|(key, value)| (key.to_owned(), value.to_owned()));
        assert_eq!(read(text), Ok(expected.to_vec()));
        let pem = "K=\"-----BEGIN KEY-----\nMII=\nab==\n-----END KEY-----\"\nL=1\n";
        let lines = "-----BEGIN KEY-----\nMII=\nab==\n-----END KEY-----";
        assert_eq!(
            read(pem),
            Ok(vec![("K".into(), lines.into()), ("L".into(), "1".into())])
        );
    }

    #[test]
    fn what_is_refused_is_named_without_a_value() {
        for (text, what) in [
            ("A=1\nS3cret\n", "m.env:2: this line is not KEY=VALUE"),
            ("S3c ret=1\n", "m.env:1: this line is not KEY=VALUE"),
            ("=S3cret\n", "m.env:1: this line is not KEY=VALUE"),
            (
                "K=-----BEGIN KEY-----\nS3cret\n",
                "m.env:1: the value of K goes on in another line",
            ),
            (
                "K=-----BEGIN KEY-----\nS3cret==\n",
                "m.env:1: the value of K goes on in another line",
            ),
            (
                "A=1\nK=\"S3cret\nB=2\n",
                "m.env:2: the quote that begins the value of K does not end",
            ),
            (
                "K='S3'cret\n",
                "m.env:1: K: something follows the closing quote",
            ),
            (
                "K=S3cret${B}\n",
                "m.env:1: the value of K refers to another variable",
            ),
            (
                "K=\"S3cret${B:-x}\"\n",
                "m.env:1: the value of K refers to another variable",
            ),
            (
                "K=S3c'ret${B}\n",
                "m.env:1: the value of K refers to another variable",
            ),
        ] {
            let said = read(text).unwrap_err();
            assert_eq!(said, what);
            assert!(!said.contains("S3c"));
        }
    }

    #[test]
    fn what_kubernetes_sets_for_services_is_left_out() {
        let text = "MINIO_PORT=tcp://10.0.0.1:9000\nETCD_PORT_2379_TCP=tcp://10.0.0.2:2379\nMINIO_ADDRESS=minio\nX_PORT=9\n";
        let keys: Vec<String> = read(text)
            .unwrap()
            .into_iter()
            .map(|(key, _)| key)
            .collect();
        assert_eq!(keys, ["MINIO_ADDRESS", "X_PORT"]);
    }
}
