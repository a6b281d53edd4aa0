//! The one error type: what was being done to what, a kind, and the way out.

use std::fmt;

/// The result of anything in this crate that can fail.
pub type Result<T, E = Error> = std::result::Result<T, E>;

type Source = Box<dyn std::error::Error + Send + Sync + 'static>;

/// What class of failure an [`Error`] is.
///
/// The kind decides the exit code (the contract of the command line) and whether a retry can help.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Kind {
    /// The operation failed; nothing more specific is known.
    Failed,
    /// The command line or the configuration is wrong.
    Usage,
    /// There is no repository at the place named.
    NoRepository,
    /// Another session holds the repository.
    Locked,
    /// The passphrase or key does not open the repository.
    WrongKey,
    /// The repository needs a newer eyrie.
    NewerFormat,
    /// The instance cannot be captured as asked.
    Instance,
    /// The target refuses the restore.
    Target,
    /// Stored data is damaged or missing.
    Damage,
    /// The key does not exist. Never retried.
    NotFound,
    /// The key exists already (conditional create). Never retried.
    AlreadyExists,
    /// The store refuses these credentials. Never retried.
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

impl Kind {
    /// Whether the same call may succeed when it is made again.
    #[must_use]
    pub const fn retryable(self) -> bool {
        matches!(self, Self::Throttled | Self::Unavailable)
    }

    /// The process exit code of the interface contract.
    #[must_use]
    pub const fn exit_code(self) -> u8 {
        match self {
            Self::Usage => 2,
            Self::NoRepository => 10,
            Self::Locked => 11,
            Self::WrongKey => 12,
            Self::NewerFormat => 13,
            Self::Instance => 20,
            Self::Target => 21,
            Self::Damage => 22,
            Self::Interrupted => 130,
            Self::Terminated => 143,
            Self::Failed
            | Self::NotFound
            | Self::AlreadyExists
            | Self::AccessDenied
            | Self::NoSpace
            | Self::Throttled
            | Self::Unavailable => 1,
        }
    }
}

/// An error: a kind, a lower-case message that names the thing, an optional hint of the way out,
/// and an optional source.
pub struct Error(Box<Inner>);

struct Inner {
    kind: Kind,
    message: String,
    hint: Option<String>,
    source: Option<Source>,
}

impl Error {
    /// Makes an error of `kind`; `message` is lower case and ends without a period.
    pub fn new(kind: Kind, message: impl Into<String>) -> Self {
        Self(Box::new(Inner {
            kind,
            message: message.into(),
            hint: None,
            source: None,
        }))
    }

    /// Adds the cause.
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

    /// Replaces the kind, for a caller that knows better what a failure means.
    #[must_use]
    pub fn with_kind(mut self, kind: Kind) -> Self {
        self.0.kind = kind;
        self
    }

    /// Wraps this error under a message that says what was being done; kind and hint stay.
    #[must_use]
    pub fn context(self, message: impl Into<String>) -> Self {
        let (kind, hint) = (self.0.kind, self.0.hint.clone());
        Self(Box::new(Inner {
            kind,
            message: message.into(),
            hint,
            source: Some(Box::new(self)),
        }))
    }

    /// The kind.
    #[must_use]
    pub fn kind(&self) -> Kind {
        self.0.kind
    }

    /// The way out, when one is known.
    #[must_use]
    pub fn hint(&self) -> Option<&str> {
        self.0.hint.as_deref()
    }

    /// Whether the same call may succeed when it is made again.
    #[must_use]
    pub fn retryable(&self) -> bool {
        self.0.kind.retryable()
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
        write!(f, "{:?}: {}", self.0.kind, self.chain())
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.0.source.as_ref().map(|s| &**s as _)
    }
}

/// Adds what was being done to a failed result.
pub trait Context<T> {
    /// Wraps the error under `message()`; its kind and hint stay.
    fn context<M: Into<String>>(self, message: impl FnOnce() -> M) -> Result<T>;
}

impl<T> Context<T> for Result<T> {
    fn context<M: Into<String>>(self, message: impl FnOnce() -> M) -> Self {
        self.map_err(|error| error.context(message()))
    }
}

impl From<std::io::Error> for Error {
    fn from(error: std::io::Error) -> Self {
        use std::io::ErrorKind as E;
        let kind = match error.kind() {
            E::NotFound => Kind::NotFound,
            E::AlreadyExists => Kind::AlreadyExists,
            E::PermissionDenied => Kind::AccessDenied,
            E::StorageFull | E::QuotaExceeded | E::FileTooLarge => Kind::NoSpace,
            E::TimedOut | E::ConnectionReset | E::ConnectionAborted | E::ConnectionRefused => {
                Kind::Unavailable
            }
            _ => Kind::Failed,
        };
        Self::new(kind, error.to_string()).with_source(error)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn context_keeps_kind_and_hint_and_chain_names_each_cause_once() {
        let error = Error::new(Kind::Target, "etcd root by-dev is not empty")
            .with_hint("use --replace")
            .context("restore 1234")
            .context("restore 1234");
        assert_eq!(error.kind().exit_code(), 21);
        assert_eq!(error.hint(), Some("use --replace"));
        assert_eq!(error.chain(), "restore 1234: etcd root by-dev is not empty");
    }

    #[test]
    fn only_passing_faults_are_retryable() {
        assert!(Kind::Throttled.retryable() && Kind::Unavailable.retryable());
        for kind in [
            Kind::NotFound,
            Kind::AccessDenied,
            Kind::Damage,
            Kind::NoSpace,
        ] {
            assert!(!kind.retryable());
        }
    }
}
