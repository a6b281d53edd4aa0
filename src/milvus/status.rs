//! What Milvus's answers mean: its status messages and gRPC's, as errors of this crate.

use std::fmt;

use super::proto::common;
use crate::{Cause, Error};

/// A refusal in a message's `status` (docs/milvus.md 1.1): a code since 2.3, a deprecated one in 2.2, a
/// reason.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    code: i32,
    legacy: i32,
    reason: String,
    retriable: bool,
}

/// What a [`Refusal`] amounts to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RefusalClass {
    /// Writes are denied by the setting `forceDeny`.
    ForceDeny,
    /// Writes are denied for another quota: memory, disk, time tick delay.
    Quota,
    /// Too many requests.
    RateLimited,
    /// A component is starting, or its predecessor's session has not run out yet.
    NotReady,
    /// There is no such database, collection, partition or index.
    NotFound,
    /// The request makes no sense to Milvus.
    Invalid,
    /// Anything else.
    Other,
}

// Codes of 2.3 and later (Milvus, pkg/util/merr/errors.go).
const SERVICE_NOT_READY: i32 = 1;
const SERVICE_UNAVAILABLE: i32 = 2;
const REQUEST_LIMIT: i32 = 4;
const RATE_LIMIT: i32 = 8;
const QUOTA_EXCEEDED: i32 = 9;
const COLLECTION_NOT_FOUND: i32 = 100;
const PARTITION_NOT_FOUND: i32 = 200;
const INDEX_NOT_FOUND: i32 = 700;
const DATABASE_NOT_FOUND: i32 = 800;
const NODE_ERRORS: std::ops::RangeInclusive<i32> = 901..=905;
const PARAMETER_INVALID: std::ops::RangeInclusive<i32> = 1100..=1102;
// Codes of 2.2 (milvus-proto, common.proto, ErrorCode).
const LEGACY_COLLECTION_NOT_EXISTS: i32 = 4;
const LEGACY_ILLEGAL_ARGUMENT: i32 = 5;
const LEGACY_INDEX_NOT_EXIST: i32 = 25;
const LEGACY_COLLECTION_NAME_NOT_FOUND: i32 = 28;
const LEGACY_FORCE_DENY: i32 = 48;
const LEGACY_RATE_LIMIT: i32 = 49;
const LEGACY_NODE_NOT_MATCH: i32 = 50;
const LEGACY_MEMORY_QUOTA: i32 = 53;
const LEGACY_DISK_QUOTA: i32 = 54;
const LEGACY_TIME_TICK_DELAY: i32 = 55;
const LEGACY_NOT_READY: i32 = 56;
const LEGACY_COORDINATOR_ACTIVATING: i32 = 57;

impl Refusal {
    /// The refusal in `status`; `None` when it is a success.
    ///
    /// A missing status is a success, as an empty message is not sent.
    #[must_use]
    pub fn of(status: Option<&common::Status>) -> Option<Self> {
        let status = status?;
        (status.code != 0 || status.error_code != 0).then(|| Self {
            code: status.code,
            legacy: status.error_code,
            reason: concise(&status.reason),
            retriable: status.retriable,
        })
    }

    /// The reason that Milvus gives, without Go's stack traces and repetitions.
    #[must_use]
    pub fn reason(&self) -> &str {
        &self.reason
    }

    /// The code, the deprecated one of 2.2 where there is no other.
    #[must_use]
    pub const fn code(&self) -> i32 {
        if self.code == 0 {
            self.legacy
        } else {
            self.code
        }
    }

    /// What the refusal amounts to.
    #[must_use]
    pub fn class(&self) -> RefusalClass {
        if self.code == 0 {
            return self.legacy_class();
        }
        match self.code {
            QUOTA_EXCEEDED if self.by_administrator() => RefusalClass::ForceDeny,
            QUOTA_EXCEEDED => RefusalClass::Quota,
            RATE_LIMIT | REQUEST_LIMIT => RefusalClass::RateLimited,
            SERVICE_NOT_READY | SERVICE_UNAVAILABLE => RefusalClass::NotReady,
            code if NODE_ERRORS.contains(&code) => RefusalClass::NotReady,
            COLLECTION_NOT_FOUND | PARTITION_NOT_FOUND | INDEX_NOT_FOUND | DATABASE_NOT_FOUND => {
                RefusalClass::NotFound
            }
            code if PARAMETER_INVALID.contains(&code) => RefusalClass::Invalid,
            _ => self.class_by_reason(),
        }
    }

    fn legacy_class(&self) -> RefusalClass {
        match self.legacy {
            LEGACY_FORCE_DENY => RefusalClass::ForceDeny,
            LEGACY_MEMORY_QUOTA | LEGACY_DISK_QUOTA | LEGACY_TIME_TICK_DELAY => RefusalClass::Quota,
            LEGACY_RATE_LIMIT => RefusalClass::RateLimited,
            LEGACY_NODE_NOT_MATCH | LEGACY_NOT_READY | LEGACY_COORDINATOR_ACTIVATING => {
                RefusalClass::NotReady
            }
            LEGACY_COLLECTION_NOT_EXISTS
            | LEGACY_COLLECTION_NAME_NOT_FOUND
            | LEGACY_INDEX_NOT_EXIST => RefusalClass::NotFound,
            LEGACY_ILLEGAL_ARGUMENT => RefusalClass::Invalid,
            _ => self.class_by_reason(),
        }
    }

    /// Some refusals lose their code on the way through Milvus's components: 65535 and words are left.
    fn class_by_reason(&self) -> RefusalClass {
        // After a restart, until the old session's lease has run out (docs/milvus.md 00).
        let stale = [
            "node not match",
            "node not found",
            "session not found",
            "service not ready",
        ];
        if stale.iter().any(|words| self.reason.contains(words)) {
            RefusalClass::NotReady
        } else if self.reason.contains("rate limit exceeded") {
            RefusalClass::RateLimited
        } else if self.reason.contains("failed to create expr plan")
            || self.reason.contains("failed to create delete plan")
        {
            RefusalClass::Invalid
        } else if self.retriable {
            RefusalClass::NotReady
        } else {
            RefusalClass::Other
        }
    }

    /// 2.3 says "the writing has been deactivated by the administrator", 2.4 and later "access has been
    /// disabled by the administrator"; other quotas name memory, disk or time tick.
    fn by_administrator(&self) -> bool {
        self.reason.contains("by the administrator")
    }

    /// The error of this crate; `doing` says what was asked of Milvus.
    #[must_use]
    pub fn into_error(self, doing: impl fmt::Display) -> Error {
        let cause = match self.class() {
            RefusalClass::RateLimited => Cause::Throttled,
            RefusalClass::NotReady => Cause::Unavailable,
            RefusalClass::NotFound => Cause::NotFound,
            RefusalClass::ForceDeny | RefusalClass::Quota => Cause::Refused,
            RefusalClass::Invalid | RefusalClass::Other => Cause::Failed,
        };
        Error::new(
            cause,
            format!("{doing}: milvus answers {} ({})", self.reason, self.code()),
        )
    }
}

/// What remains of a reason like `attempt #0: stack trace: /go/src/..: attempt #0: rpc error: code =
/// Unknown desc = node not match[..]: attempt #1: ..`, which 2.3.5 answers with four thousand letters:
/// each cause once.
pub(super) fn concise(reason: &str) -> String {
    let mut causes: Vec<&str> = Vec::new();
    for part in reason.split("attempt #") {
        let part = part.trim_start_matches(|c: char| c.is_ascii_digit());
        let part = part.trim_matches(|c: char| c == ':' || c.is_whitespace());
        let cause = part
            .strip_prefix("rpc error: code = Unknown desc = ")
            .unwrap_or(part);
        let cause = cause.strip_suffix(": unrecoverable error").unwrap_or(cause);
        if !cause.is_empty() && !cause.contains("stack trace:") && !causes.contains(&cause) {
            causes.push(cause);
        }
    }
    if causes.is_empty() {
        return reason.lines().last().unwrap_or_default().trim().to_owned();
    }
    causes.join("; ")
}

/// The error of this crate for a failed call; `doing` says what was asked, `address` and `user` whom and
/// as whom.
pub(super) fn transport_error(
    status: &tonic::Status,
    doing: &str,
    address: &str,
    user: Option<&str>,
) -> Error {
    use tonic::Code;
    let message = status.message();
    // gRPC's own word for it is "Unknown: transport error".
    if let Some(cause) = std::error::Error::source(status) {
        return broken_connection(
            cause,
            &format!("{doing}: the connection to milvus at {address} broke"),
        );
    }
    let (cause, text, hint) = match status.code() {
        Code::Unauthenticated => match user {
            None => (
                Cause::AccessDenied,
                format!("milvus at {address} asks for a user and password"),
                Some("set instance.milvus.username and instance.milvus.password_file".to_owned()),
            ),
            Some(user) => (
                Cause::AccessDenied,
                format!("milvus at {address} does not accept the password of user {user:?}"),
                Some(format!(
                    "check instance.milvus.password_file, and that user {user:?} exists"
                )),
            ),
        },
        Code::PermissionDenied => (
            Cause::AccessDenied,
            format!(
                "{doing}: milvus at {address} does not permit it to user {:?}: {message}",
                user.unwrap_or("")
            ),
            Some("give the user the role admin, or the privilege that is named".to_owned()),
        ),
        Code::Unimplemented => (
            Cause::Failed,
            format!("{doing}: milvus at {address} does not know this call"),
            None,
        ),
        Code::ResourceExhausted => (
            Cause::Throttled,
            format!("{doing}: milvus at {address} is overloaded: {message}"),
            None,
        ),
        Code::Unavailable | Code::DeadlineExceeded | Code::Cancelled | Code::Aborted => (
            Cause::Unavailable,
            format!("{doing}: milvus at {address} does not answer: {message}"),
            None,
        ),
        code => (
            Cause::Failed,
            format!("{doing}: milvus at {address} answers {code:?}: {message}"),
            None,
        ),
    };
    let error = Error::new(cause, text).with_source(status.clone());
    match hint {
        Some(hint) => error.with_hint(hint),
        None => error,
    }
}

/// The error for a connection that `cause` ended; what is wrong about TLS says so only in the last cause.
pub(super) fn broken_connection(cause: &(dyn std::error::Error + 'static), what: &str) -> Error {
    let mut root = cause;
    while let Some(next) = root.source() {
        root = next;
    }
    let root = root.to_string();
    let about_tls = [
        "certificate",
        "Certificate",
        "alert",
        "TLS",
        "tls",
        "broken pipe",
    ];
    let hint = if about_tls.iter().any(|word| root.contains(word)) {
        "compare instance.milvus.tls (enabled, ca_file, cert_file, server_name) with common.security.tlsMode"
    } else {
        // A server that wants a certificate of ours may just close the connection.
        "is it running, and is instance.milvus.address right? does common.security.tlsMode ask for instance.milvus.tls?"
    };
    Error::new(Cause::Unavailable, format!("{what}: {root}")).with_hint(hint)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn class(code: i32, legacy: i32, reason: &str) -> RefusalClass {
        let status = common::Status {
            code,
            error_code: legacy,
            reason: reason.to_owned(),
            ..Default::default()
        };
        Refusal::of(Some(&status)).unwrap().class()
    }

    #[test]
    fn answers_as_real_and_older_versions_give_them() {
        use RefusalClass as R;
        for (code, legacy, reason, expected) in [
            // Seen on 2.3.5.
            (
                9,
                48,
                "quota exceeded[reason=the writing has been deactivated by the administrator]",
                R::ForceDeny,
            ),
            (
                100,
                4,
                "Failed to get collection id: collection not found[database=default]",
                R::NotFound,
            ),
            (
                100,
                1,
                "can't find collection collection not found",
                R::NotFound,
            ),
            (
                65535,
                1,
                "failed to create expr plan, expr = pk in",
                R::Invalid,
            ),
            (
                65535,
                1,
                "node not match[expectedNodeID=1][actualNodeID=2]",
                R::NotReady,
            ),
            (800, 1, "database not found[database=nodb]", R::NotFound),
            (
                101,
                1,
                "collection not loaded[collection=470654353641048345]",
                R::Other,
            ),
            // From the sources of later and earlier versions.
            (
                9,
                48,
                "quota exceeded[reason=access has been disabled by the administrator]",
                R::ForceDeny,
            ),
            (
                9,
                48,
                "quota exceeded[reason=memory quota exceeded, please allocate more resources]",
                R::Quota,
            ),
            (
                8,
                49,
                "request is rejected by grpc RateLimiter middleware",
                R::RateLimited,
            ),
            (
                1100,
                5,
                "failed to create delete plan: cannot parse expression",
                R::Invalid,
            ),
            (0, 48, "deny to write", R::ForceDeny),
            (
                0,
                49,
                "request is rejected by grpc RateLimiter middleware",
                R::RateLimited,
            ),
            (
                0,
                54,
                "deny to write, reason: disk quota exceeded",
                R::Quota,
            ),
            (0, 1, "failed to create expr plan, expr = pk in", R::Invalid),
            (0, 1, "something", R::Other),
        ] {
            assert_eq!(
                class(code, legacy, reason),
                expected,
                "{code} {legacy} {reason}"
            );
        }
        assert_eq!(Refusal::of(Some(&common::Status::default())), None);
        assert_eq!(Refusal::of(None), None);
    }

    #[test]
    fn a_reason_says_each_cause_once_without_the_stack() {
        let attempt =
            "rpc error: code = Unknown desc = node not match[expectedNodeID=1][actualNodeID=2]";
        let seen_on_2_3_5 = format!(
            "attempt #0: stack trace: /milvus/pkg/tracer/stack_trace.go:51 tracer.StackTrace\n\
             /milvus/internal/datacoord/services.go:116 datacoord.(*Server).Flush: attempt #0: {attempt}: \
             attempt #1: {attempt}: attempt #2: session not found->datanode-1: node not found[node=1]: \
             unrecoverable error"
        );
        assert_eq!(
            concise(&seen_on_2_3_5),
            "node not match[expectedNodeID=1][actualNodeID=2]; \
             session not found->datanode-1: node not found[node=1]"
        );
        assert_eq!(class(65535, 1, &seen_on_2_3_5), RefusalClass::NotReady);
        assert_eq!(
            concise("collection not found[collection=docs]"),
            "collection not found[collection=docs]"
        );
        assert_eq!(concise("stack trace: a\n/b: c"), "/b: c");
        assert_eq!(concise(""), "");
    }

    #[test]
    fn errors_name_the_user_and_the_way_out() {
        let error = transport_error(
            &tonic::Status::unauthenticated("auth check failure"),
            "ask for the version",
            "host:19530",
            Some("backup"),
        );
        assert_eq!(error.cause(), Cause::AccessDenied);
        assert!(error.to_string().contains("password of user \"backup\""));
        assert!(error.hint().unwrap().contains("password_file"));
        let mut status = tonic::Status::unknown("transport error");
        status.set_source(std::sync::Arc::new(std::io::Error::other(
            "received fatal alert: BadCertificate",
        )));
        let error = transport_error(&status, "flush", "host:19530", None);
        assert!(
            error.retryable() && error.to_string().ends_with("BadCertificate"),
            "{error}"
        );
        assert!(error.hint().unwrap().contains("instance.milvus.tls"));
        let error = transport_error(
            &tonic::Status::unavailable("tcp"),
            "flush",
            "host:19530",
            None,
        );
        assert!(error.retryable());
    }
}
