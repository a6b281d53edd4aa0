//! A bucket by its URL.

use std::fmt;
use std::sync::Arc;

use async_trait::async_trait;
use futures::TryStreamExt as _;
use tokio::time::timeout;

use super::{Checksum, S3Settings, S3Store, UploadChecksums};
use crate::base::contact::FIRST_CONTACT;
use crate::base::env::Env;
use crate::store::backend::{Backend, MissingRoot};
use crate::store::probe::Findings;
use crate::store::read_back::ReadBack;
use crate::store::retry::{RetryPolicy, RetryStore};
use crate::store::{Key, ListOptions, SharedStore, Store as _};
use crate::{Cause, Error, Result};

#[async_trait]
impl Backend for Box<S3Settings> {
    fn parse(url: &str) -> Option<Result<Self>> {
        let rest = url.strip_prefix("s3:")?;
        let refused = || {
            // The URL is not repeated: it may hold a password.
            let message = "what begins with s3: is no directory and no s3:// URL";
            Err(Error::new(Cause::Invalid, message).with_hint("write s3://bucket/prefix"))
        };
        let bucket = rest.strip_prefix("//").map_or_else(refused, parse);
        Some(bucket.map(Self::new))
    }

    fn write_url(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&**self, f)
    }

    async fn open(&self, _: MissingRoot, env: &Env) -> Result<SharedStore> {
        let store: SharedStore = Arc::new(S3Store::open((**self).clone()).await?);
        first_contact(store.clone(), &self.place(), env).await?;
        Ok(store)
    }

    fn heed(&mut self, findings: &Findings) {
        findings.apply(self);
    }

    fn with_checksums(&self, uploads: UploadChecksums) -> Option<Self> {
        let open = self.checksum == Checksum::Auto && self.uploads != uploads;
        open.then(|| {
            let mut other = self.clone();
            other.uploads = uploads;
            other
        })
    }

    fn read_back(&self) -> Option<ReadBack> {
        S3Settings::read_back(self)
    }
}

fn parse(rest: &str) -> Result<S3Settings> {
    let (bucket, prefix) = rest.split_once('/').unwrap_or((rest, ""));
    if bucket.is_empty() {
        let error = Error::new(Cause::Invalid, "the s3:// URL names no bucket");
        return Err(error.with_hint("write s3://bucket/prefix"));
    }
    if bucket.contains(['@', ':']) {
        return Err(Error::new(
            Cause::Invalid,
            "the s3:// URL holds a port or credentials where the bucket should be",
        )
        .with_hint("endpoint, access key and secret have settings of their own"));
    }
    // <https://docs.aws.amazon.com/AmazonS3/latest/userguide/bucketnamingrules.html>, with the
    // underscores and capitals of old buckets and other servers.
    let allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '.' | '_');
    if !(3..=255).contains(&bucket.len()) || !bucket.chars().all(allowed) {
        return Err(
            Error::new(Cause::Invalid, format!("{bucket:?} is no name of a bucket"))
                .with_hint("write s3://bucket/prefix"),
        );
    }
    if prefix.contains(['?', '#']) {
        return Err(Error::new(
            Cause::Invalid,
            "the s3:// URL holds parameters after its prefix",
        )
        .with_hint("endpoint, region and the like have settings of their own"));
    }
    let prefix = prefix.trim_matches('/');
    if !prefix.is_empty() {
        Key::new(prefix)?;
    }
    Ok(S3Settings {
        bucket: bucket.to_owned(),
        prefix: prefix.to_owned(),
        ..S3Settings::default()
    })
}

async fn first_contact(store: SharedStore, place: &str, env: &Env) -> Result<()> {
    let policy = RetryPolicy {
        deadline: FIRST_CONTACT,
        ..RetryPolicy::default()
    };
    let store = RetryStore::new(store, policy, env.clone());
    // A HEAD would not tell a missing bucket from a missing object.
    let mut listing = store.list("", ListOptions::default());
    // A try that hangs is cut short as well.
    let Ok(first) = timeout(FIRST_CONTACT, listing.try_next()).await else {
        let error = Error::new(Cause::Unavailable, silent(place));
        return Err(error.with_hint(UNREACHED));
    };
    match first {
        Err(error) if matches!(error.cause(), Cause::Absent | Cause::Invalid) => Err(error),
        // It was waited for, and did not pass.
        Err(error) if error.passes_within().is_some() => Err(error),
        Err(error) if error.retryable() => Err(error.context(silent(place)).with_hint(UNREACHED)),
        // What else it refuses shows at the calls that need it.
        _ => Ok(()),
    }
}

const UNREACHED: &str = "check endpoint, port and tls, and that the server runs";

fn silent(place: &str) -> String {
    let seconds = FIRST_CONTACT.as_secs();
    format!("{place} does not answer within {seconds} s")
}
