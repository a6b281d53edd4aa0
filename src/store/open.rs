//! From a URL to a store.

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use futures::TryStreamExt as _;

use super::local::{LocalSettings, LocalStore};
use super::retry::{RetryPolicy, RetryStore};
use super::s3::{S3Settings, S3Store};
use super::{Key, ListOptions, SharedStore, Store as _};
use crate::base::env::Env;
use crate::{Cause, Error, Result};

/// Where a store is, and how to reach it. Displayed as the URL that it was parsed from, without a
/// trailing `/`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Location {
    /// A directory.
    Directory(PathBuf),
    /// A bucket, or what lies under a prefix of it.
    S3(Box<S3Settings>),
}

impl fmt::Display for Location {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Directory(path) => write!(f, "{}", path.display()),
            Self::S3(s3) => s3.fmt(f),
        }
    }
}

/// How to open a store, beyond its location.
#[derive(Debug, Clone, Default)]
pub struct OpenSettings {
    /// For a directory.
    pub local: LocalSettings,
    /// When to try again.
    pub retry: RetryPolicy,
}

/// Reads a location: the path of a directory, `file:///PATH`, `s3://BUCKET` or `s3://BUCKET/PREFIX`.
///
/// # Errors
///
/// [`Cause::Invalid`] for anything else. The error does not repeat a URL that may hold a password.
pub fn parse_location(url: &str) -> Result<Location> {
    let bad = |message: String| Error::new(Cause::Invalid, message);
    if url.trim().is_empty() || url.contains('\0') {
        let what = if url.is_empty() {
            "the url is empty".to_owned()
        } else {
            format!("{url:?} is no directory and no s3:// URL")
        };
        return Err(bad(what).with_hint("write a directory, or s3://bucket/prefix"));
    }
    if let Some((scheme, rest)) = url.split_once("://") {
        return match scheme {
            "s3" => parse_s3(rest),
            "file" if rest.starts_with('/') => Ok(Location::Directory(PathBuf::from(rest))),
            _ => Err(bad(format!("{scheme}:// URLs are not supported"))
                .with_hint("a location is a directory or s3://bucket/prefix; the address of an S3 server goes into the endpoint setting")),
        };
    }
    if url.starts_with("s3:") {
        return Err(bad(format!("{url:?} is no directory and no s3:// URL"))
            .with_hint("write s3://bucket/prefix"));
    }
    if url == "~" || url.starts_with("~/") {
        return Err(bad(format!(
            "{url:?} names a home directory, which only a shell knows"
        ))
        .with_hint("write the whole path"));
    }
    Ok(Location::Directory(PathBuf::from(url)))
}

fn parse_s3(rest: &str) -> Result<Location> {
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
    Ok(Location::S3(Box::new(S3Settings {
        bucket: bucket.to_owned(),
        prefix: prefix.to_owned(),
        ..S3Settings::default()
    })))
}

/// How long the first contact with a bucket may take, retries included: a wrong address should not
/// look like a slow store.
const FIRST_CONTACT: Duration = Duration::from_secs(30);

/// Opens the store at `location`, with retries. A bucket is asked whether it is there.
///
/// # Errors
///
/// [`Cause::NotFound`] for a directory that is missing and is not to be made, [`Cause::Absent`] for a
/// bucket that is not there, [`Cause::Unavailable`] when nothing answers within 30 s,
/// [`Cause::Invalid`] for settings that cannot be right. What else a server refuses shows at the calls
/// that need it.
pub async fn open(location: &Location, settings: OpenSettings, env: &Env) -> Result<SharedStore> {
    let store: SharedStore = match location {
        Location::Directory(path) => Arc::new(LocalStore::open(path, settings.local)?),
        Location::S3(s3) => bucket(s3, env).await?,
    };
    Ok(Arc::new(RetryStore::new(
        store,
        settings.retry,
        env.clone(),
    )))
}

async fn bucket(settings: &S3Settings, env: &Env) -> Result<SharedStore> {
    let store: SharedStore = Arc::new(S3Store::open(settings.clone()).await?);
    first_contact(store.clone(), env).await?;
    Ok(store)
}

async fn first_contact(store: SharedStore, env: &Env) -> Result<()> {
    let policy = RetryPolicy {
        deadline: FIRST_CONTACT,
        ..RetryPolicy::default()
    };
    let store = RetryStore::new(store, policy, env.clone());
    // A HEAD would not tell a missing bucket from a missing object.
    match store.list("", ListOptions::default()).try_next().await {
        Err(error) if error.cause() == Cause::Absent => Err(error),
        Err(error) if error.retryable() => {
            let message = format!(
                "{} does not answer within {} s",
                store.location(),
                FIRST_CONTACT.as_secs()
            );
            Err(error
                .context(message)
                .with_hint("check endpoint, port and tls, and that the server runs"))
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::local::MissingRoot;
    use crate::store::testing::conformance;
    use rstest::rstest;

    #[rstest]
    #[case("/backup/milvus")]
    #[case("backup")]
    #[case("./a:b")]
    fn directories(#[case] path: &str) {
        let location = parse_location(path).unwrap();
        assert_eq!(location, Location::Directory(PathBuf::from(path)));
        assert_eq!(location.to_string(), path);
    }

    #[test]
    fn a_file_url_is_its_directory() {
        let location = parse_location("file:///backup/milvus").unwrap();
        assert_eq!(location, Location::Directory("/backup/milvus".into()));
    }

    #[rstest]
    #[case("s3://bucket", "bucket", "")]
    #[case("s3://bucket/", "bucket", "")]
    #[case("s3://my.bucket-1/a", "my.bucket-1", "a")]
    #[case("s3://bucket/a/b c/", "bucket", "a/b c")]
    fn buckets(#[case] url: &str, #[case] bucket: &str, #[case] prefix: &str) {
        let location = parse_location(url).unwrap();
        assert_eq!(location.to_string(), url.trim_end_matches('/'));
        let Location::S3(s3) = location else {
            panic!("{location} is no bucket");
        };
        assert_eq!((s3.bucket.as_str(), s3.prefix.as_str()), (bucket, prefix));
    }

    #[rstest]
    #[case("")]
    #[case(" ")]
    #[case("s3:bucket/prefix")]
    #[case("s3:/bucket")]
    #[case("s3://")]
    #[case("s3:///prefix")]
    #[case("s3://bucket/a//b")]
    #[case("s3://bucket/../b")]
    #[case("s3://bucket/a?region=x")]
    #[case("s3://localhost:9000/bucket")]
    #[case("S3://bucket")]
    #[case("http://localhost:9000/bucket")]
    #[case("file://host/backup")]
    #[case("gs://bucket/prefix")]
    #[case("~/backup")]
    fn anything_else_is_an_error(#[case] url: &str) {
        let error = parse_location(url).unwrap_err();
        assert_eq!(error.cause(), Cause::Invalid, "{error:?}");
    }

    #[test]
    fn a_password_is_not_repeated() {
        for url in ["s3://key:hidden@bucket/a", "https://key:hidden@host/b"] {
            let error = parse_location(url).unwrap_err();
            assert!(!format!("{error:?} {:?}", error.hint()).contains("hidden"));
        }
    }

    #[tokio::test]
    async fn a_directory_opens() {
        let scratch = tempfile::tempdir().unwrap();
        let path = scratch.path().join("new");
        let location = parse_location(path.to_str().unwrap()).unwrap();
        let mut settings = OpenSettings::default();
        let env = Env::system();
        let missing = open(&location, settings.clone(), &env).await.unwrap_err();
        assert_eq!(missing.cause(), Cause::NotFound);
        settings.local.missing = MissingRoot::Create;
        let store = open(&location, settings, &env).await.unwrap();
        conformance::run(&*store).await.unwrap();
    }
}
