//! Objects in a bucket.

use std::net::SocketAddr;

use async_trait::async_trait;
use tracing::warn;

use super::{Layer, ObjectLayer, Presence, proof};
use crate::base::env::Env;
use crate::instance::connect;
use crate::store::SharedStore;
use crate::store::open::{Location, OpenSettings};
use crate::store::probe::Deletion;
use crate::store::s3::{S3Settings, UploadChecksums};
use crate::{Result, Side};

/// A bucket, or what lies under a prefix of it.
#[derive(Debug)]
pub(super) struct S3 {
    at: S3Settings,
    side: Side,
    env: Env,
}

impl S3 {
    pub(super) fn new(at: S3Settings, side: Side, env: &Env) -> Self {
        let env = env.clone();
        Self { at, side, env }
    }

    fn location(&self) -> Location {
        Location::S3(Box::new(self.at.clone()))
    }
}

#[async_trait]
impl Layer for S3 {
    fn record(&self) -> ObjectLayer {
        ObjectLayer::S3 {
            endpoint: self.at.endpoint.clone().unwrap_or_default(),
            bucket: self.at.bucket.clone(),
            prefix: self.at.prefix.clone(),
        }
    }

    fn place(&self) -> String {
        self.at.place()
    }

    fn is_whole_bucket(&self) -> bool {
        self.at.prefix.is_empty()
    }

    async fn open(&self) -> Result<SharedStore> {
        connect::open(
            &self.location(),
            OpenSettings::default(),
            self.side,
            &self.env,
        )
        .await
    }

    async fn look(&self) -> Result<(Presence, Option<SharedStore>)> {
        match self.open().await {
            Ok(store) => Ok((Presence::There, Some(store))),
            Err(error) => Ok((Presence::missing(error)?, None)),
        }
    }

    async fn make(&self) -> Result<SharedStore> {
        self.open().await
    }

    async fn prove(&self, env: &Env) -> Result<(SharedStore, Deletion)> {
        let store = self.open().await?;
        let (store, uploads, deletion) = connect::with_checksums_taken(
            store,
            &self.location(),
            self.side,
            &self.env,
            |store| async move { proof::prove(&*store, env).await },
        )
        .await?;
        let without = match uploads {
            UploadChecksums::All => None,
            UploadChecksums::Single => Some("no part of an upload"),
            UploadChecksums::None => Some("no upload"),
        };
        if let Some(without) = without {
            let at = &self.at;
            warn!("{at} takes {without} with a checksum: what goes without one is read back");
        }
        Ok((store, deletion))
    }

    async fn overlap(&self, location: &Location) -> Option<String> {
        let Location::S3(other) = location else {
            return None;
        };
        let nested = other.bucket == self.at.bucket
            && (within(&other.prefix, &self.at.prefix) || within(&self.at.prefix, &other.prefix));
        let same = nested
            && match (&other.endpoint, &self.at.endpoint) {
                (Some(one), Some(other)) => same_endpoint(one, other).await,
                (None, None) => true,
                (Some(url), None) | (None, Some(url)) => url.contains("amazonaws.com"),
            };
        same.then(|| format!("{other} and {}", self.at))
    }
}

/// Whether the prefix `inner` lies in `outer`.
fn within(inner: &str, outer: &str) -> bool {
    outer.is_empty()
        || inner
            .strip_prefix(outer)
            .is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

/// Whether two URLs lead to the same server: by name, or by a common address.
async fn same_endpoint(a: &str, b: &str) -> bool {
    let (Some(a), Some(b)) = (host_port(a), host_port(b)) else {
        return a == b;
    };
    if a == b {
        return true;
    }
    let (a, b) = (addresses(&a).await, addresses(&b).await);
    a.iter().any(|address| b.contains(address))
}

fn host_port(text: &str) -> Option<(String, u16)> {
    let url = url::Url::parse(text).ok()?;
    Some((
        url.host_str()?.to_ascii_lowercase(),
        url.port_or_known_default()?,
    ))
}

async fn addresses((host, port): &(String, u16)) -> Vec<SocketAddr> {
    match tokio::net::lookup_host((host.as_str(), *port)).await {
        Ok(found) => found.collect(),
        Err(_) => vec![],
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(endpoint: &str, prefix: &str) -> S3Settings {
        S3Settings {
            bucket: "b".into(),
            prefix: prefix.into(),
            endpoint: Some(endpoint.into()),
            ..S3Settings::default()
        }
    }

    #[tokio::test]
    async fn prefixes_of_one_bucket_overlap_when_one_holds_the_other() {
        let files = at("http://127.0.0.1:9000", "files");
        let layer = S3::new(files, Side::Target, &Env::system());
        for (endpoint, prefix, expected) in [
            ("http://127.0.0.1:9000", "files/backup", true),
            ("http://127.0.0.1:9000", "", true),
            ("http://127.0.0.1:9000", "files2", false),
            ("http://localhost:9000/", "files", true),
            ("http://127.0.0.1:9001", "files", false),
        ] {
            let repository = Location::S3(Box::new(at(endpoint, prefix)));
            let found = layer.overlap(&repository).await;
            assert_eq!(found.is_some(), expected, "{endpoint} {prefix}");
        }
        let directory = Location::Directory("files".into());
        assert!(layer.overlap(&directory).await.is_none());
    }
}
