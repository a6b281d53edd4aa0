//! The one error type: what was being done to what, why it failed, on which side, and the way out.

use std::fmt;
use std::time::Duration;

/// The result of anything in this crate that can fail.
pub type Result<T, E = Error> = std::result::Result<T, E>;

type Source = Box<dyn std::error::Error + Send + Sync + 'static>;

/// Why something failed. It tells nothing about who is to blame: that is the [`Side`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Cause {
    /// The operation failed; nothing more specific is known.
    Failed,
    /// The command line or the configuration is wrong.
    Invalid,
    /// The place named is not there: a bucket, or a repository in it.
    Absent,
    /// Another session holds the repository.
    Locked,
    /// The passphrase or key does not open the repository.
    WrongKey,
    /// The repository needs a newer eyrie.
    NewerFormat,
    /// It cannot be done as asked: what stands in the way is named.
    Refused,
    /// Stored data is damaged or missing.
    Damage,
    /// The key does not exist. Never retried.
    NotFound,
    /// The key exists already (conditional create). Never retried.
    AlreadyExists,
    /// These credentials are refused. Never retried.
    AccessDenied,
    /// The store is full. Never retried.
    NoSpace,
    /// The other side asks to slow down. Always retried.
    Throttled,
    /// A passing fault: a dropped connection, a 5xx answer, a time-out. Retried.
    Unavailable,
    /// SIGINT ended the run.
    Interrupted,
    /// SIGTERM ended the run.
    Terminated,
}

impl Cause {
    /// All of them.
    pub const ALL: [Self; 16] = [
        Self::Failed,
        Self::Invalid,
        Self::Absent,
        Self::Locked,
        Self::WrongKey,
        Self::NewerFormat,
        Self::Refused,
        Self::Damage,
        Self::NotFound,
        Self::AlreadyExists,
        Self::AccessDenied,
        Self::NoSpace,
        Self::Throttled,
        Self::Unavailable,
        Self::Interrupted,
        Self::Terminated,
    ];

    /// The exit code of the interface contract for a failure on `side` (docs/errors.md has the
    /// table).
    ///
    /// What the person at the command line did wrong, and a signal, are what they are on any side. An
    /// instance has one code for each side; the repository, and what is on no side, one for each cause.
    #[must_use]
    pub const fn exit_code(self, side: Option<Side>) -> u8 {
        match (self, side) {
            (Self::Invalid, _) => 2,
            (Self::Interrupted, _) => 130,
            (Self::Terminated, _) => 143,
            (_, Some(Side::Source)) => 20,
            (_, Some(Side::Target)) => 21,
            (Self::Absent, _) => 10,
            (Self::Locked, _) => 11,
            (Self::WrongKey, _) => 12,
            (Self::NewerFormat, _) => 13,
            (Self::Damage, _) => 22,
            (
                Self::Failed
                | Self::Refused
                | Self::NotFound
                | Self::AlreadyExists
                | Self::AccessDenied
                | Self::NoSpace
                | Self::Throttled
                | Self::Unavailable,
                _,
            ) => 1,
        }
    }

    /// Whether the same call may succeed when it is made again.
    #[must_use]
    pub const fn retryable(self) -> bool {
        matches!(self, Self::Throttled | Self::Unavailable)
    }

    /// The name in JSON documents.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Failed => "failed",
            Self::Invalid => "invalid",
            Self::Absent => "absent",
            Self::Locked => "locked",
            Self::WrongKey => "wrong-key",
            Self::NewerFormat => "newer-format",
            Self::Refused => "refused",
            Self::Damage => "damage",
            Self::NotFound => "not-found",
            Self::AlreadyExists => "already-exists",
            Self::AccessDenied => "access-denied",
            Self::NoSpace => "no-space",
            Self::Throttled => "throttled",
            Self::Unavailable => "unavailable",
            Self::Interrupted => "interrupted",
            Self::Terminated => "terminated",
        }
    }
}

/// Where something failed: stamped once, by what was opened on that side.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Side {
    /// The repository.
    Repository,
    /// The instance that is captured, checked or looked at.
    Source,
    /// The instance that is restored onto.
    Target,
}

impl Side {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Repository, Self::Source, Self::Target];

    /// Makes an error on this side; `message` is lower case and ends without a period.
    pub fn error(self, cause: Cause, message: impl Into<String>) -> Error {
        Error::new(cause, message).on(self)
    }

    /// The name in JSON documents.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Repository => "repository",
            Self::Source => "source",
            Self::Target => "target",
        }
    }
}

/// An error: a cause, a side, a lower-case message that names the thing, an optional hint of the way
/// out, and an optional source.
pub struct Error(Box<Inner>);

struct Inner {
    cause: Cause,
    side: Option<Side>,
    message: String,
    hint: Option<String>,
    passes_within: Option<Duration>,
    source: Option<Source>,
}

impl Error {
    /// Makes an error on no side yet; `message` is lower case and ends without a period.
    pub fn new(cause: Cause, message: impl Into<String>) -> Self {
        Self(Box::new(Inner {
            cause,
            side: None,
            message: message.into(),
            hint: None,
            passes_within: None,
            source: None,
        }))
    }

    /// Adds the error that this one comes from.
    #[must_use]
    pub fn with_source(mut self, source: impl Into<Source>) -> Self {
        self.0.source = Some(source.into());
        self
    }

    /// Adds the way out, shown on a line of its own.
    #[must_use]
    pub fn with_hint(mut self, hint: impl Into<String>) -> Self {
        self.0.hint = Some(hint.into());
        self
    }

    /// Says that the same call may succeed within `time`, though its cause does not: somebody else may put right
    /// what is wrong, and if so, soon.
    #[must_use]
    pub fn passing_within(mut self, time: Duration) -> Self {
        self.0.passes_within = Some(time);
        self
    }

    /// Says on which side it failed, unless that is known already: who was nearest knows best.
    #[must_use]
    pub fn on(mut self, side: Side) -> Self {
        self.0.side.get_or_insert(side);
        self
    }

    /// Wraps this error under a message that says what was being done; cause, side and hint stay.
    #[must_use]
    pub fn context(self, message: impl Into<String>) -> Self {
        let (cause, side, hint) = (self.0.cause, self.0.side, self.0.hint.clone());
        Self(Box::new(Inner {
            cause,
            side,
            message: message.into(),
            hint,
            passes_within: self.0.passes_within,
            source: Some(Box::new(self)),
        }))
    }

    /// Why it failed.
    #[must_use]
    pub fn cause(&self) -> Cause {
        self.0.cause
    }

    /// Where it failed; `None` for what belongs to no side, such as the command line.
    #[must_use]
    pub fn side(&self) -> Option<Side> {
        self.0.side
    }

    /// The process exit code of the interface contract.
    #[must_use]
    pub fn exit_code(&self) -> u8 {
        self.0.cause.exit_code(self.0.side)
    }

    /// The way out, when one is known.
    #[must_use]
    pub fn hint(&self) -> Option<&str> {
        self.0.hint.as_deref()
    }

    /// Whether the same call may succeed when it is made again.
    #[must_use]
    pub fn retryable(&self) -> bool {
        self.0.cause.retryable()
    }

    /// For how long the same call is worth being made again although its cause stays; see
    /// [`passing_within`](Self::passing_within).
    #[must_use]
    pub fn passes_within(&self) -> Option<Duration> {
        self.0.passes_within
    }

    /// Whether somebody asked to stop.
    #[must_use]
    pub fn is_stop(&self) -> bool {
        matches!(self.0.cause, Cause::Interrupted | Cause::Terminated)
    }

    /// The message and all its causes in one line, each once.
    #[must_use]
    pub fn chain(&self) -> String {
        let mut text = self.to_string();
        let mut cause = std::error::Error::source(self);
        while let Some(error) = cause {
            let part = error.to_string();
            if !text.contains(&part) {
                text.push_str(": ");
                text.push_str(&part);
            }
            cause = error.source();
        }
        text
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.message)
    }
}

impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0.side {
            Some(side) => write!(f, "{:?} on {side:?}: {}", self.0.cause, self.chain()),
            None => write!(f, "{:?}: {}", self.0.cause, self.chain()),
        }
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.0.source.as_ref().map(|s| &**s as _)
    }
}

/// Adds to a failed result what was being done, and on which side.
pub trait Context<T> {
    /// Wraps the error under `message()`; its cause, side and hint stay.
    fn context<M: Into<String>>(self, message: impl FnOnce() -> M) -> Result<T>;

    /// As [`Error::on`].
    fn on(self, side: Side) -> Result<T>;
}

impl<T> Context<T> for Result<T> {
    fn context<M: Into<String>>(self, message: impl FnOnce() -> M) -> Self {
        self.map_err(|error| error.context(message()))
    }

    fn on(self, side: Side) -> Self {
        self.map_err(|error| error.on(side))
    }
}

impl From<std::io::Error> for Error {
    fn from(error: std::io::Error) -> Self {
        use std::io::ErrorKind as E;
        let cause = match error.kind() {
            E::NotFound => Cause::NotFound,
            E::AlreadyExists => Cause::AlreadyExists,
            E::PermissionDenied => Cause::AccessDenied,
            E::StorageFull | E::QuotaExceeded | E::FileTooLarge => Cause::NoSpace,
            E::TimedOut | E::ConnectionReset | E::ConnectionAborted | E::ConnectionRefused => {
                Cause::Unavailable
            }
            _ => Cause::Failed,
        };
        Self::new(cause, error.to_string()).with_source(error)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn context_keeps_cause_side_and_hint_and_chain_names_each_cause_once() {
        let error = Side::Target
            .error(Cause::Refused, "etcd root by-dev is not empty")
            .with_hint("use --replace")
            .context("restore 1234")
            .context("restore 1234");
        assert_eq!(error.exit_code(), 21);
        assert_eq!(error.hint(), Some("use --replace"));
        assert_eq!(error.chain(), "restore 1234: etcd root by-dev is not empty");
    }

    #[test]
    fn the_side_that_was_nearest_stays() {
        let error = Side::Repository.error(Cause::NoSpace, "full");
        assert_eq!(error.on(Side::Target).side(), Some(Side::Repository));
        let error = Error::new(Cause::NoSpace, "full").on(Side::Target);
        assert_eq!(error.context("restore").side(), Some(Side::Target));
    }

    #[test]
    fn only_passing_faults_are_retryable() {
        assert!(Cause::Throttled.retryable() && Cause::Unavailable.retryable());
        for cause in [
            Cause::NotFound,
            Cause::AccessDenied,
            Cause::Damage,
            Cause::NoSpace,
        ] {
            assert!(!cause.retryable());
        }
    }

    #[test]
    fn the_page_about_errors_has_the_table_of_all_causes_and_sides() {
        let page = include_str!(concat!(env!("CARGO_MANIFEST_DIR"), "/docs/errors.md"));
        for cause in Cause::ALL {
            let [repository, source, target] = Side::ALL.map(|side| cause.exit_code(Some(side)));
            let (name, alone) = (cause.name(), cause.exit_code(None));
            let row = format!("| `{name}` | {alone} | {repository} | {source} | {target} |");
            assert!(page.contains(&row), "docs/errors.md lacks {row}");
        }
        let rows = page.lines().filter(|line| line.starts_with("| `")).count();
        assert_eq!(rows, Cause::ALL.len());
    }
}
