//! What an answer of S3 means: one conversion from the SDK's errors to ours.

use std::error::Error as StdError;

use aws_sdk_s3::error::{ProvideErrorMetadata, SdkError};
use aws_smithy_runtime_api::http::Response;

use crate::{Error, Kind};

/// Turns the failure of `action` (what was being done to what) into an error of ours.
pub(super) fn classify<E>(action: &str, error: SdkError<E, Response>) -> Error
where
    E: ProvideErrorMetadata + StdError + Send + Sync + 'static,
{
    let code = error.code().unwrap_or_default().to_owned();
    let said = error.message().unwrap_or_default().to_owned();
    let status = error.raw_response().map(|raw| raw.status().as_u16());
    let (kind, hint) = match &error {
        // `MinIO` has no code of its own for an object under Object Lock.
        SdkError::ServiceError(_) if said.contains("WORM protected") => {
            of_answer("ObjectLocked", 403)
        }
        SdkError::ServiceError(_) => of_answer(&code, status.unwrap_or_default()),
        SdkError::ConstructionFailure(_) => of_no_request(&error),
        SdkError::DispatchFailure(_) => of_no_answer(&error),
        // A time-out, or an answer that broke off or is not S3's.
        _ => (Kind::Unavailable, None),
    };
    let what = match (code.as_str(), status) {
        ("", Some(status)) => format!(": the server answers {status}"),
        ("", None) => String::new(),
        (code, _) if said.is_empty() => format!(": {code}"),
        (code, _) => format!(": {code}: {}", said.trim_end_matches('.')),
    };
    let ours = Error::new(kind, format!("{action}{what}"));
    // What the server said is in the message; the SDK's text around it would say it twice.
    let ours = match error {
        SdkError::ServiceError(_) => ours,
        error => ours.with_source(error),
    };
    match hint {
        Some(hint) => ours.with_hint(hint),
        None => ours,
    }
}

type Meaning = (Kind, Option<&'static str>);

/// Codes: <https://docs.aws.amazon.com/AmazonS3/latest/API/ErrorResponses.html>, and `MinIO`'s own
/// that begin with `XMinio`. HEAD has no body: there the status is all.
fn of_answer(code: &str, status: u16) -> Meaning {
    match code {
        "NoSuchBucket" => (
            Kind::Usage,
            Some("create the bucket, or correct its name and the endpoint"),
        ),
        "InvalidBucketName" | "InvalidAccessPoint" => (Kind::Usage, None),
        "PermanentRedirect"
        | "AuthorizationHeaderMalformed"
        | "IllegalLocationConstraintException" => (
            Kind::Usage,
            Some("the bucket is in another region: correct the region or the endpoint"),
        ),
        "NoSuchKey" | "NoSuchVersion" | "NoSuchUpload" | "NotFound" => (Kind::NotFound, None),
        "PreconditionFailed" => (Kind::AlreadyExists, None),
        "RequestTimeTooSkewed" => (
            Kind::AccessDenied,
            Some("this host's clock differs from the server's by more than 15 minutes"),
        ),
        "InvalidAccessKeyId" | "SignatureDoesNotMatch" => (
            Kind::AccessDenied,
            Some("correct the access key or its secret"),
        ),
        "ExpiredToken" | "InvalidToken" => {
            (Kind::AccessDenied, Some("renew the session credentials"))
        }
        "InvalidObjectState" => (
            Kind::Failed,
            Some("the object is archived: restore it to a readable storage class first"),
        ),
        "ObjectLocked" => (
            Kind::AccessDenied,
            Some("the object is locked: it can be deleted when its retention ends"),
        ),
        "NotImplemented" => (Kind::Failed, Some("this store lacks the operation")),
        "QuotaExceeded" | "XMinioStorageFull" | "XMinioAdminBucketQuotaExceeded" => (
            Kind::NoSpace,
            Some("free space in the store or raise the quota"),
        ),
        "SlowDown"
        | "SlowDownRead"
        | "SlowDownWrite"
        | "RequestLimitExceeded"
        | "Throttling"
        | "ThrottlingException"
        | "TooManyRequests"
        | "TooManyRequestsException" => (Kind::Throttled, None),
        "InternalError"
        | "ServiceUnavailable"
        | "RequestTimeout"
        | "OperationAborted"
        | "ConditionalRequestConflict" => (Kind::Unavailable, None),
        _ => (of_status(status), None),
    }
}

fn of_status(status: u16) -> Kind {
    match status {
        401 | 403 => Kind::AccessDenied,
        404 => Kind::NotFound,
        412 => Kind::AlreadyExists,
        429 => Kind::Throttled,
        507 => Kind::NoSpace,
        501 => Kind::Failed,
        // A conflict passes, and so does a server's own fault.
        408 | 409 | 500.. => Kind::Unavailable,
        _ => Kind::Failed,
    }
}

/// The request could not be made: only credentials come from outside.
fn of_no_request(error: &(dyn StdError + 'static)) -> Meaning {
    if chain_contains(error, "credential") {
        return no_credentials();
    }
    (Kind::Failed, None)
}

fn no_credentials() -> Meaning {
    (
        Kind::AccessDenied,
        Some("set the access key and its secret, or give the AWS credential chain some"),
    )
}

/// The request was not answered: a network's fault passes, a certificate's does not.
fn of_no_answer(error: &(dyn StdError + 'static)) -> Meaning {
    if chain_contains(error, "certificate") {
        return (
            Kind::Failed,
            Some("the server's certificate is not trusted: set the CA file"),
        );
    }
    if chain_contains(error, "credentials provider")
        || chain_contains(error, "no providers in chain")
    {
        return no_credentials();
    }
    (Kind::Unavailable, None)
}

fn chain_contains(error: &(dyn StdError + 'static), text: &str) -> bool {
    std::iter::successors(Some(error), |error| (*error).source())
        .any(|error| format!("{error} {error:?}").to_lowercase().contains(text))
}

#[cfg(test)]
mod tests {
    use super::*;
    use rstest::rstest;

    #[rstest]
    #[case("NoSuchKey", 404, Kind::NotFound)]
    #[case("NoSuchBucket", 404, Kind::Usage)]
    #[case("", 404, Kind::NotFound)]
    #[case("PreconditionFailed", 412, Kind::AlreadyExists)]
    #[case("ConditionalRequestConflict", 409, Kind::Unavailable)]
    #[case("AccessDenied", 403, Kind::AccessDenied)]
    #[case("", 403, Kind::AccessDenied)]
    #[case("InvalidAccessKeyId", 403, Kind::AccessDenied)]
    #[case("SignatureDoesNotMatch", 403, Kind::AccessDenied)]
    #[case("SlowDown", 503, Kind::Throttled)]
    #[case("SlowDownWrite", 503, Kind::Throttled)]
    #[case("", 429, Kind::Throttled)]
    #[case("", 503, Kind::Unavailable)]
    #[case("InternalError", 500, Kind::Unavailable)]
    #[case("XMinioStorageFull", 507, Kind::NoSpace)]
    #[case("NotImplemented", 501, Kind::Failed)]
    #[case("InvalidRequest", 400, Kind::Failed)]
    fn answers(#[case] code: &str, #[case] status: u16, #[case] kind: Kind) {
        assert_eq!(of_answer(code, status).0, kind);
    }
}
