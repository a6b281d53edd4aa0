//! Errors on standard error: for people, or one JSON line each with `--json`.

use std::fmt::Write as _;
use std::io::{self, Write as _};

use schemars::JsonSchema;
use serde::Serialize;

use super::output::Format;
use crate::{Error, Kind};

/// What `--json` writes to standard error when a verb fails.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, JsonSchema)]
pub struct ErrorDocument {
    /// The failure.
    pub error: ErrorBody,
}

/// A failure.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, JsonSchema)]
pub struct ErrorBody {
    /// What class of failure it is.
    pub kind: &'static str,
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
                kind: kind_name(error.kind()),
                message: error.to_string(),
                chain: causes(error),
                hint: error.hint().map(ToOwned::to_owned),
                exit_code: error.kind().exit_code(),
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

const fn kind_name(kind: Kind) -> &'static str {
    match kind {
        Kind::Failed => "failed",
        Kind::Usage => "usage",
        Kind::NoRepository => "no-repository",
        Kind::Locked => "locked",
        Kind::WrongKey => "wrong-key",
        Kind::NewerFormat => "newer-format",
        Kind::Instance => "instance",
        Kind::Target => "target",
        Kind::Damage => "damage",
        Kind::NotFound => "not-found",
        Kind::AlreadyExists => "already-exists",
        Kind::AccessDenied => "access-denied",
        Kind::NoSpace => "no-space",
        Kind::Throttled => "throttled",
        Kind::Unavailable => "unavailable",
        Kind::Interrupted => "interrupted",
        Kind::Terminated => "terminated",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> Error {
        Error::new(Kind::Unavailable, "connection refused")
            .context("cannot reach etcd at localhost:2379")
            .with_kind(Kind::Instance)
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
