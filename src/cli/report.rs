//! Errors on standard error: for people, or one JSON line each with `--json`.

use std::fmt::Write as _;
use std::io::{self, Write as _};

use schemars::JsonSchema;
use serde::Serialize;

use super::output::Format;
use crate::{Cause, Error, Side};

/// What `--json` writes to standard error when a verb fails.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, JsonSchema)]
pub struct ErrorDocument {
    /// The failure.
    pub error: ErrorBody,
}

/// A failure.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, JsonSchema)]
pub struct ErrorBody {
    /// What class of failure it is, as the exit code tells it.
    pub kind: &'static str,
    /// Why it failed, whoever is to blame.
    pub cause: &'static str,
    /// Where it failed: `repository`, `source` or `target`; null for what is on no side, such as the
    /// command line.
    pub side: Option<&'static str>,
    /// What failed.
    pub message: String,
    /// The causes, the outermost first.
    pub chain: Vec<String>,
    /// The way out, when one is known.
    pub hint: Option<String>,
    /// The exit code.
    pub exit_code: u8,
}

impl ErrorDocument {
    /// The document of `error`.
    #[must_use]
    pub fn new(error: &Error) -> Self {
        Self {
            error: ErrorBody {
                kind: kind_name(error),
                cause: error.cause().name(),
                side: error.side().map(Side::name),
                message: error.to_string(),
                chain: causes(error),
                hint: error.hint().map(ToOwned::to_owned),
                exit_code: error.exit_code(),
            },
        }
    }
}

/// Writes `error` to standard error; that this fails is not told to anyone.
pub fn report(error: &Error, format: Format) {
    let text = match format {
        Format::Text => text(error),
        Format::Json => json(error),
    };
    let _nowhere_to_say = io::stderr().write_all(text.as_bytes());
}

/// `error` for people: what failed, its causes, the way out.
#[must_use]
pub fn text(error: &Error) -> String {
    let mut text = format!("error: {error}\n");
    for cause in causes(error) {
        let _infallible = writeln!(text, "  caused by: {cause}");
    }
    if let Some(hint) = error.hint() {
        let _infallible = writeln!(text, "hint: {hint}");
    }
    text
}

fn json(error: &Error) -> String {
    let document = serde_json::to_string(&ErrorDocument::new(error));
    document.unwrap_or_default() + "\n"
}

/// The causes, each once: one that only repeats what was said is left out.
fn causes(error: &Error) -> Vec<String> {
    let mut said = vec![error.to_string()];
    let mut next = std::error::Error::source(error);
    while let Some(cause) = next {
        let text = cause.to_string();
        if !said.iter().any(|known| known.contains(&text)) {
            said.push(text);
        }
        next = cause.source();
    }
    said.split_off(1)
}

/// The class of a failure as the exit codes tell it, and where they do not the cause.
fn kind_name(error: &Error) -> &'static str {
    match (error.exit_code(), error.side(), error.cause()) {
        (20, ..) => "instance",
        (21, ..) => "target",
        (_, _, Cause::Invalid) => "usage",
        (_, _, Cause::Absent) => "no-repository",
        (_, _, cause) => cause.name(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> Error {
        Side::Source
            .error(Cause::Unavailable, "connection refused")
            .context("cannot reach etcd at localhost:2379")
            .with_hint("is etcd running?")
            .context("backup of main")
    }

    #[test]
    fn people_see_what_why_and_the_way_out() {
        insta::assert_snapshot!(text(&sample()));
    }

    #[test]
    fn machines_see_the_same_on_one_line() {
        let line = json(&sample());
        assert_eq!(line.lines().count(), 1);
        insta::assert_snapshot!(line);
    }
}
