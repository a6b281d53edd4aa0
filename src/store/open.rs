//! From a URL to a store.

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;

use super::SharedStore;
use super::backend::{Backend, MissingRoot};
use super::probe::Findings;
use super::read_back::{ReadBack, ReadBackStore};
use super::retry::{RetryPolicy, RetryStore};
use super::s3::{S3Settings, UploadChecksums};
use crate::base::env::Env;
use crate::{Cause, Error, Result};

macro_rules! backends {
    ($($(#[doc = $doc:literal])* $(#[cfg($cfg:meta)])? $backend:ident($place:ty);)*) => {
        /// Where a store is, and how to reach it. Displayed as the URL that it was parsed from, without
        /// a trailing `/`.
        #[derive(Debug, Clone, PartialEq, Eq)]
        pub enum Location { $($(#[doc = $doc])* $(#[cfg($cfg)])? $backend($place),)* }

        impl fmt::Display for Location {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                match self { $($(#[cfg($cfg)])? Self::$backend(place) => place.write_url(f),)* }
            }
        }

        impl Location {
            /// What the first backend says that takes the URL for its own.
            fn read(url: &str) -> Option<Result<Self>> {
                $(
                    $(#[cfg($cfg)])?
                    if let Some(read) = <$place>::parse(url) {
                        return Some(read.map(Self::$backend));
                    }
                )*
                None
            }

            async fn open(&self, missing: MissingRoot, env: &Env) -> Result<SharedStore> {
                match self { $($(#[cfg($cfg)])? Self::$backend(place) => place.open(missing, env).await,)* }
            }

            /// The same place, written with a checksum only where `uploads` says; `None` where nothing
            /// would change, as in a directory, or where a setting says which checksum there is.
            #[must_use]
            pub fn with_checksums(&self, uploads: UploadChecksums) -> Option<Self> {
                match self { $($(#[cfg($cfg)])? Self::$backend(place) => place.with_checksums(uploads).map(Self::$backend),)* }
            }

            fn read_back(&self) -> Option<ReadBack> {
                match self { $($(#[cfg($cfg)])? Self::$backend(place) => place.read_back(),)* }
            }

            /// Takes over what a probe of the store found, for when it is opened again.
            pub fn heed(&mut self, findings: &Findings) {
                match self { $($(#[cfg($cfg)])? Self::$backend(place) => place.heed(findings),)* }
            }
        }
    };
}

// One line a backend. The last takes whatever has no scheme.
backends! {
    /// A bucket, or what lies under a prefix of it.
    S3(Box<S3Settings>);
    /// A store that only tests have.
    #[cfg(test)]
    Heap(tests::Heap);
    /// A directory.
    Directory(PathBuf);
}

/// How to open a store, beyond its location.
#[derive(Debug, Clone, Default)]
pub struct OpenSettings {
    /// What to do when its place is missing.
    pub missing: MissingRoot,
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
    Location::read(url).unwrap_or_else(|| {
        let scheme = url.split_once("://").map_or(url, |(scheme, _)| scheme);
        Err(bad(format!("{scheme}:// URLs are not supported"))
            .with_hint("a location is a directory or s3://bucket/prefix; the address of an S3 server goes into the endpoint setting"))
    })
}

/// Opens the store at `location`, with retries. A bucket is asked whether it is there.
///
/// # Errors
///
/// [`Cause::NotFound`] for a directory that is missing and is not to be made, [`Cause::Absent`] for a
/// bucket that is not there, [`Cause::Unavailable`] when nothing answers within 15 s,
/// [`Cause::Invalid`] for settings that cannot be right. What else a server refuses shows at the calls
/// that need it.
pub async fn open(location: &Location, settings: OpenSettings, env: &Env) -> Result<SharedStore> {
    let store = location.open(settings.missing, env).await?;
    let store = Arc::new(RetryStore::new(store, settings.retry, env.clone()));
    Ok(match location.read_back() {
        Some(which) => Arc::new(ReadBackStore::new(store, which)),
        None => store,
    })
}

#[cfg(test)]
mod tests {
    use async_trait::async_trait;
    use rstest::rstest;

    use super::*;
    use crate::store::testing::conformance;
    use crate::store::testing::memory::MemoryStore;

    /// A backend of one file and one line, for the claim that there is nothing else to write.
    #[derive(Debug, Clone, PartialEq, Eq)]
    pub struct Heap(String);

    #[async_trait]
    impl Backend for Heap {
        fn parse(url: &str) -> Option<Result<Self>> {
            Some(Ok(Self(url.strip_prefix("heap://")?.to_owned())))
        }

        fn write_url(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            write!(f, "heap://{}", self.0)
        }

        async fn open(&self, _: MissingRoot, _: &Env) -> Result<SharedStore> {
            Ok(Arc::new(MemoryStore::new()))
        }
    }

    #[tokio::test]
    async fn a_backend_takes_one_line_to_be_opened_by_its_url() {
        let location = parse_location("heap://of-a-test").unwrap();
        assert_eq!(location.to_string(), "heap://of-a-test");
        let opened = open(&location, OpenSettings::default(), &Env::system()).await;
        conformance::run(&*opened.unwrap()).await.unwrap();
    }

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
        settings.missing = MissingRoot::Create;
        let store = open(&location, settings, &env).await.unwrap();
        conformance::run(&*store).await.unwrap();
    }
}
