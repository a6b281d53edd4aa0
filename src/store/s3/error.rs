//! What an answer of S3 means: one conversion from the SDK's errors to ours.

use std::error::Error as StdError;
use std::time::Duration;

use aws_sdk_s3::error::{ProvideErrorMetadata, SdkError};
use aws_smithy_runtime_api::http::Response;

use jiff::Timestamp;

use crate::{Cause, Error};

/// What a session's credentials are refused with when their time is over. `AWS` says `InvalidToken` of one that
/// it has forgotten.
pub(super) const EXPIRED: [&str; 4] = [
    "ExpiredToken",
    "ExpiredTokenException",
    "InvalidToken",
    "TokenRefreshRequired",
];

/// For how long it is worth waiting for new credentials: they are read again before each call.
const RENEWAL: Duration = Duration::from_mins(2);

/// For how long a clock that is wrong may be set right; a server whose nodes disagree answers otherwise at once.
const CLOCK: Duration = Duration::from_secs(10);

/// Turns the failure of `action` (what was being done to what) into an error of ours.
pub(super) fn classify<E>(action: &str, error: SdkError<E, Response>) -> Error
where
    E: ProvideErrorMetadata + StdError + Send + Sync + 'static,
{
    let code = error.code().unwrap_or_default().to_owned();
    let said = error.message().unwrap_or_default().to_owned();
    let status = error.raw_response().map(|raw| raw.status().as_u16());
    let header = |name| {
        let raw = error.raw_response()?;
        raw.headers().get(name).map(ToOwned::to_owned)
    };
    let (region, date) = (header("x-amz-bucket-region"), header("date"));
    let (cause, hint) = match &error {
        // `MinIO` has no code of its own for an object under Object Lock.
        SdkError::ServiceError(_) if said.contains("WORM protected") => {
            of_answer("ObjectLocked", 403)
        }
        SdkError::ServiceError(_) => of_answer(&code, status.unwrap_or_default()),
        SdkError::ConstructionFailure(_) => of_no_request(&error),
        SdkError::DispatchFailure(_) => of_no_answer(&error),
        // A time-out, or an answer that broke off or is not S3's.
        _ => (Cause::Unavailable, None),
    };
    let what = match (code.as_str(), status) {
        ("RequestTimeTooSkewed", _) => {
            let theirs = date.map_or_else(|| "another".to_owned(), |date| format!("it is {date}"));
            let ours = Timestamp::now().strftime("%a, %d %b %Y %H:%M:%S GMT");
            format!(": {code}: for the server {theirs}, for this host {ours}")
        }
        ("", Some(status)) => format!(": the server answers {status}"),
        ("", None) => String::new(),
        (code, _) if said.is_empty() => format!(": {code}"),
        (code, _) => format!(": {code}: {}", said.trim_end_matches('.')),
    };
    let ours = Error::new(cause, format!("{action}{what}"));
    // What the server said is in the message; the SDK's text around it would say it twice.
    let ours = match error {
        SdkError::ServiceError(_) => ours,
        error => ours.with_source(error),
    };
    let ours = match code.as_str() {
        code if EXPIRED.contains(&code) => ours.passing_within(RENEWAL),
        "RequestTimeTooSkewed" => ours.passing_within(CLOCK),
        _ => ours,
    };
    match (hint, region) {
        // To whom signs for the right region it is told, too, with what has nothing to do with it.
        (Some(WRONG_REGION), Some(region)) => ours.with_hint(format!(
            "the bucket is in the region {region}: set `region` to that"
        )),
        (Some(hint), _) => ours.with_hint(hint),
        (None, _) => ours,
    }
}

type Meaning = (Cause, Option<&'static str>);

/// Codes: <https://docs.aws.amazon.com/AmazonS3/latest/API/ErrorResponses.html>, and `MinIO`'s own
/// that begin with `XMinio`. HEAD has no body: there the status is all.
fn of_answer(code: &str, status: u16) -> Meaning {
    match code {
        "NoSuchBucket" => (
            Cause::Absent,
            Some("create the bucket, or correct its name and the endpoint"),
        ),
        "InvalidBucketName" | "InvalidAccessPoint" => (Cause::Invalid, None),
        "PermanentRedirect"
        | "TemporaryRedirect"
        | "AuthorizationHeaderMalformed"
        | "IllegalLocationConstraintException" => (Cause::Invalid, Some(WRONG_REGION)),
        "NoSuchKey" | "NoSuchVersion" | "NoSuchUpload" | "NotFound" => (Cause::NotFound, None),
        "PreconditionFailed" => (Cause::AlreadyExists, None),
        "RequestTimeTooSkewed" => (
            Cause::AccessDenied,
            Some("the clocks are more than 15 minutes apart: set the wrong one right"),
        ),
        "InvalidAccessKeyId" | "SignatureDoesNotMatch" => (
            Cause::AccessDenied,
            Some("correct the access key or its secret"),
        ),
        code if EXPIRED.contains(&code) => (
            Cause::AccessDenied,
            Some("renew the session credentials; they are read again at each call"),
        ),
        "InvalidObjectState" => (
            Cause::Failed,
            Some("the object is archived: restore it to a readable storage class first"),
        ),
        "ObjectLocked" => (
            Cause::AccessDenied,
            Some("the object is locked: it can be deleted when its retention ends"),
        ),
        "NotImplemented" => (Cause::Failed, Some("this store lacks the operation")),
        "QuotaExceeded" | "XMinioStorageFull" | "XMinioAdminBucketQuotaExceeded" => (
            Cause::NoSpace,
            Some("free space in the store or raise the quota"),
        ),
        "SlowDown"
        | "SlowDownRead"
        | "SlowDownWrite"
        | "RequestLimitExceeded"
        | "Throttling"
        | "ThrottlingException"
        | "TooManyRequests"
        | "TooManyRequestsException" => (Cause::Throttled, None),
        "InternalError"
        | "ServiceUnavailable"
        | "RequestTimeout"
        | "OperationAborted"
        | "ConditionalRequestConflict" => (Cause::Unavailable, None),
        "" if matches!(status, 301 | 307 | 308) => (Cause::Invalid, Some(WRONG_REGION)),
        // HEAD is answered so for another region, and for credentials that have expired.
        "" if status == 400 => (Cause::Failed, Some(WRONG_REGION)),
        _ => (of_status(status), None),
    }
}

const WRONG_REGION: &str = "is the bucket in another region? set `region` to the bucket's, and the endpoint to that region's";

fn of_status(status: u16) -> Cause {
    match status {
        401 | 403 => Cause::AccessDenied,
        404 => Cause::NotFound,
        412 => Cause::AlreadyExists,
        429 => Cause::Throttled,
        507 => Cause::NoSpace,
        501 => Cause::Failed,
        // A conflict passes, and so does a server's own fault.
        408 | 409 | 500.. => Cause::Unavailable,
        _ => Cause::Failed,
    }
}

/// The request could not be made: only credentials come from outside.
fn of_no_request(error: &(dyn StdError + 'static)) -> Meaning {
    if chain_contains(error, "credential") {
        return no_credentials();
    }
    (Cause::Failed, None)
}

fn no_credentials() -> Meaning {
    (
        Cause::AccessDenied,
        Some("set the access key and its secret, or give the AWS credential chain some"),
    )
}

/// The request was not answered: a network's fault passes, a certificate's does not.
fn of_no_answer(error: &(dyn StdError + 'static)) -> Meaning {
    if chain_contains(error, "certificate") {
        return (
            Cause::Failed,
            Some(
                "the server's certificate is not trusted: set tls.ca_file, or tls.server_name where it is for another name",
            ),
        );
    }
    if chain_contains(error, "credentials provider")
        || chain_contains(error, "no providers in chain")
    {
        return no_credentials();
    }
    (Cause::Unavailable, None)
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
    #[case("NoSuchKey", 404, Cause::NotFound)]
    #[case("", 301, Cause::Invalid)]
    #[case("", 400, Cause::Failed)]
    #[case("AuthorizationHeaderMalformed", 400, Cause::Invalid)]
    #[case("NoSuchBucket", 404, Cause::Absent)]
    #[case("", 404, Cause::NotFound)]
    #[case("PreconditionFailed", 412, Cause::AlreadyExists)]
    #[case("ConditionalRequestConflict", 409, Cause::Unavailable)]
    #[case("AccessDenied", 403, Cause::AccessDenied)]
    #[case("", 403, Cause::AccessDenied)]
    #[case("InvalidAccessKeyId", 403, Cause::AccessDenied)]
    #[case("SignatureDoesNotMatch", 403, Cause::AccessDenied)]
    #[case("SlowDown", 503, Cause::Throttled)]
    #[case("SlowDownWrite", 503, Cause::Throttled)]
    #[case("", 429, Cause::Throttled)]
    #[case("", 503, Cause::Unavailable)]
    #[case("InternalError", 500, Cause::Unavailable)]
    #[case("XMinioStorageFull", 507, Cause::NoSpace)]
    #[case("NotImplemented", 501, Cause::Failed)]
    #[case("InvalidRequest", 400, Cause::Failed)]
    fn answers(#[case] code: &str, #[case] status: u16, #[case] cause: Cause) {
        assert_eq!(of_answer(code, status).0, cause);
    }
}
