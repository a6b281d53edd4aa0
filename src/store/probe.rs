//! Finding out what a store really does, by doing it under a name of its own.
//!
//! What a repository cannot do without (write, read, read ranges, list) is an error when it fails,
//! and the error names the permission that is missing; the rest is told by the findings.

use bytes::Bytes;
use futures::future;
use futures::stream::TryStreamExt;
use serde::{Deserialize, Serialize};

use super::s3::{ConditionalWrites, S3Settings, UploadChecksums, Versioning};
use super::{GetOptions, Key, ListOptions, Put, PutMode, PutOptions, Store};
use crate::base::env::Env;
use crate::{Cause, Error, Result};

/// How many writers race for one name.
const RACERS: usize = 8;

/// How a store takes a creation that must not replace.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ConditionalCreate {
    /// It is one atomic operation: of eight writers at once one won, and a name that was taken was
    /// refused.
    Works,
    /// It is taken for an ordinary write.
    Ignored,
    /// The store does not have it.
    Refused,
}

/// What happens to what is replaced or deleted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum VersionsKept {
    /// It is gone.
    No,
    /// It stays readable by its version id.
    Yes,
    /// Versioning was switched off after it had been on: it is gone. AWS tells; on `MinIO` it looks
    /// like `No`.
    Suspended,
}

/// Whether these credentials may remove an object for good, its versions included.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Deletion {
    /// They may.
    Allowed,
    /// The store refuses: for these credentials it is append-only.
    Denied,
}

/// What a store does. It was read and written, by ranges too, and listed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Findings {
    /// How it takes a creation that must not replace.
    pub conditional_create: ConditionalCreate,
    /// Whether a listing shows a write that has just returned.
    pub list_after_write: bool,
    /// Whether replacing an object shows the new bytes at once. False too where it is denied.
    pub overwrite: bool,
    /// Whether versions are kept.
    pub versions: VersionsKept,
    /// Whether objects can be deleted.
    pub deletion: Deletion,
    /// The probe's own objects that could not be removed, as a store that denies deletion leaves
    /// them.
    pub left_behind: Vec<String>,
    /// Which uploads it takes with a checksum.
    #[serde(default)]
    pub checksums: UploadChecksums,
}

impl Findings {
    /// Takes what was found over into the settings with which the bucket is opened from now on.
    pub fn apply(&self, settings: &mut S3Settings) {
        settings.conditional_writes = match self.conditional_create {
            ConditionalCreate::Works => ConditionalWrites::Honoured,
            ConditionalCreate::Ignored | ConditionalCreate::Refused => ConditionalWrites::Missing,
        };
        settings.versioning = match self.versions {
            VersionsKept::Yes => Versioning::On,
            VersionsKept::No | VersionsKept::Suspended => Versioning::Off,
        };
        settings.uploads = self.checksums;
    }
}

/// Probes `store` under a random name at its root and removes what it wrote.
///
/// An S3 store must be open with [`ConditionalWrites::Honoured`], its default: otherwise the HEAD
/// that goes before a creation is what is probed.
///
/// # Errors
///
/// What a repository cannot do without failed; under [`Cause::AccessDenied`] the hint names the
/// missing permission. What the probe wrote may stay behind.
pub async fn probe(store: &dyn Store, env: &Env) -> Result<Findings> {
    let id = hex::encode(&env.id()[..8]);
    let mut probe = Probe {
        store,
        directory: format!("probe-{id}"),
        written: Vec::new(),
    };
    let found = probe.run().await;
    let cleaned = probe.clean().await;
    let mut findings = found?;
    (findings.deletion, findings.left_behind) = cleaned?;
    Ok(findings)
}

const OVERWRITE: PutMode = PutMode::Overwrite;

struct Probe<'a> {
    store: &'a dyn Store,
    directory: String,
    written: Vec<(Key, Put)>,
}

impl Probe<'_> {
    async fn run(&mut self) -> Result<Findings> {
        let key = self.key("object")?;
        let (first, second) = (
            Bytes::from_static(b"first bytes"),
            Bytes::from_static(b"second"),
        );
        let put = self.put(&key, first.clone(), OVERWRITE).await;
        let put = put.map_err(|error| self.needs("write", "s3:PutObject", error))?;
        self.read_back(&key, &first).await?;
        let list_after_write = self.is_listed(&key).await?;
        let (overwrite, replaced) = match self.put(&key, second.clone(), OVERWRITE).await {
            Ok(put) => (self.read(&key, None).await? == second, Some(put)),
            Err(error) if error.cause() == Cause::AccessDenied => (false, None),
            Err(error) => return Err(error),
        };
        let versions = self.versions(&key, &put, replaced.as_ref(), &first).await?;
        self.parts().await?;
        Ok(Findings {
            conditional_create: self.conditional_create(&key).await?,
            list_after_write,
            overwrite,
            versions,
            deletion: Deletion::Denied,
            left_behind: Vec::new(),
            checksums: UploadChecksums::All,
        })
    }

    fn key(&self, name: &str) -> Result<Key> {
        Key::new(format!("{}/{name}", self.directory))
    }

    async fn put(&mut self, key: &Key, bytes: Bytes, mode: PutMode) -> Result<Put> {
        let options = PutOptions {
            mode,
            ..PutOptions::default()
        };
        let put = self.store.put(key, bytes, options).await?;
        self.written.push((key.clone(), put.clone()));
        Ok(put)
    }

    async fn read(&self, key: &Key, version: Option<String>) -> Result<Bytes> {
        let options = GetOptions {
            range: None,
            version,
        };
        self.store.get(key, options).await
    }

    async fn read_back(&self, key: &Key, bytes: &Bytes) -> Result<()> {
        let reads = |error| self.needs("read", "s3:GetObject", error);
        let whole = self.read(key, None).await.map_err(reads)?;
        let options = GetOptions {
            range: Some(2..5),
            version: None,
        };
        let part = self.store.get(key, options).await.map_err(reads)?;
        let head = self.store.head(key).await.map_err(reads)?;
        let same = whole == *bytes && part == bytes[2..5] && head.size == bytes.len() as u64;
        if !same {
            let location = self.store.location();
            return Err(Error::new(
                Cause::Failed,
                format!("{location} does not give back what was written"),
            ));
        }
        Ok(())
    }

    /// Writes an object of two parts, as packs are written.
    async fn parts(&mut self) -> Result<()> {
        let key = self.key("parts")?;
        let size = self.store.capabilities().probed_part();
        let parts = [
            Bytes::from(vec![0x5a; size]),
            Bytes::from_static(b"the last part"),
        ];
        let mut upload = self.store.upload(&key, PutOptions::default()).await?;
        for part in &parts {
            if let Err(error) = upload.write(part.clone()).await {
                let _ = upload.abort().await;
                return Err(self.takes_no_parts(error));
            }
        }
        let put = upload.finish().await;
        let put = put.map_err(|error| self.takes_no_parts(error))?;
        self.written.push((key.clone(), put));
        let from = size as u64 - 1;
        let options = GetOptions {
            range: Some(from..from + 4),
            version: None,
        };
        let read = self.store.get(&key, options).await?;
        if read != Bytes::from_static(b"Zthe") {
            let location = self.store.location();
            let message = format!("{location} does not give back what was written in parts");
            return Err(Error::new(Cause::Failed, message));
        }
        Ok(())
    }

    fn takes_no_parts(&self, error: Error) -> Error {
        let location = self.store.location();
        error.context(format!("{location} does not take an object of two parts"))
    }

    async fn is_listed(&self, key: &Key) -> Result<bool> {
        let prefix = format!("{}/", self.directory);
        let listed = self.store.list(&prefix, ListOptions::default());
        let listed: Vec<_> = listed
            .try_collect()
            .await
            .map_err(|error| self.needs("list", "s3:ListBucket", error))?;
        Ok(listed.iter().any(|meta| meta.key == *key))
    }

    async fn versions(
        &self,
        key: &Key,
        put: &Put,
        replaced: Option<&Put>,
        first: &Bytes,
    ) -> Result<VersionsKept> {
        match put.version.as_deref() {
            None => Ok(VersionsKept::No),
            // S3's name for what a suspended bucket writes.
            Some("null") => Ok(VersionsKept::Suspended),
            Some(_) if replaced.is_none() => Ok(VersionsKept::Yes),
            Some(version) => {
                let old = self.read(key, Some(version.to_owned())).await;
                let old = old
                    .map_err(|error| self.needs("read a version", "s3:GetObjectVersion", error))?;
                if old == *first {
                    Ok(VersionsKept::Yes)
                } else {
                    Ok(VersionsKept::No)
                }
            }
        }
    }

    async fn conditional_create(&mut self, taken: &Key) -> Result<ConditionalCreate> {
        let bytes = Bytes::from_static(b"third");
        match self.put(taken, bytes, PutMode::Create).await {
            Ok(_) => return Ok(ConditionalCreate::Ignored),
            Err(error) if error.cause() == Cause::AlreadyExists => {}
            Err(error) if error.cause() == Cause::Failed => return Ok(ConditionalCreate::Refused),
            Err(error) => return Err(self.needs("create", "s3:PutObject", error)),
        }
        let contested = self.key("contested")?;
        let options = PutOptions {
            mode: PutMode::Create,
            ..PutOptions::default()
        };
        let racer = |number: usize| {
            let bytes = Bytes::from(number.to_string());
            self.store.put(&contested, bytes, options)
        };
        let results = future::join_all((0..RACERS).map(racer)).await;
        let winners: Vec<Put> = results.into_iter().filter_map(Result::ok).collect();
        let won = winners.len();
        self.written
            .extend(winners.into_iter().map(|put| (contested.clone(), put)));
        Ok(match won {
            1 => ConditionalCreate::Works,
            _ => ConditionalCreate::Ignored,
        })
    }

    /// Deletes what was written; where versions are kept each version, which leaves no marker.
    async fn clean(&self) -> Result<(Deletion, Vec<String>)> {
        let mut left = Vec::new();
        for (key, put) in &self.written {
            match self.remove(key, put.version.as_deref()).await {
                Ok(()) => {}
                Err(error) if error.cause() == Cause::AccessDenied => left.push(key.to_string()),
                Err(error) => return Err(error.context(format!("remove the probe's {key}"))),
            }
        }
        left.dedup();
        let deletion = if left.is_empty() {
            Deletion::Allowed
        } else {
            Deletion::Denied
        };
        Ok((deletion, left))
    }

    async fn remove(&self, key: &Key, version: Option<&str>) -> Result<()> {
        self.store.delete(key, version).await?;
        if version.is_none() {
            // A bucket whose versioning is suspended put a marker in its place, under this id.
            let marker = self.store.delete(key, Some("null")).await;
            if let Err(error) = marker {
                tracing::debug!(%key, %error, "a delete marker may stay behind");
            }
        }
        Ok(())
    }

    /// Names the permission that `error` shows to be missing.
    fn needs(&self, verb: &str, permission: &str, error: Error) -> Error {
        if error.cause() != Cause::AccessDenied {
            return error;
        }
        let location = self.store.location();
        let hint = match location.strip_prefix("s3://") {
            Some(place) => format!("the credentials need {permission} on {place}"),
            None => format!("this user needs the right to {verb} in {location}"),
        };
        Error::new(
            Cause::AccessDenied,
            format!("these credentials may not {verb} in {location}"),
        )
        .with_source(error)
        .with_hint(hint)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::local::{LocalSettings, LocalStore};
    use crate::store::testing::fault::{Action, FaultStore, Rule};
    use crate::store::testing::memory::MemoryStore;
    use crate::store::testing::record::Op;
    use jiff::Timestamp;
    use std::sync::Arc;

    async fn run(store: &dyn Store) -> Result<Findings> {
        let (env, _) = Env::simulated(Timestamp::UNIX_EPOCH, 1);
        probe(store, &env).await
    }

    async fn is_empty(store: &dyn Store) -> bool {
        let mut listed = store.list("", ListOptions::default());
        listed.try_next().await.unwrap().is_none()
    }

    #[tokio::test]
    async fn finds_what_memory_and_directories_do_and_leaves_nothing() {
        let scratch = tempfile::tempdir().unwrap();
        let local = LocalStore::open(scratch.path(), LocalSettings::default()).unwrap();
        let stores: [(&dyn Store, VersionsKept); 3] = [
            (&local, VersionsKept::No),
            (&MemoryStore::new(), VersionsKept::No),
            (&MemoryStore::versioned(), VersionsKept::Yes),
        ];
        for (store, versions) in stores {
            let expected = Findings {
                conditional_create: ConditionalCreate::Works,
                list_after_write: true,
                overwrite: true,
                versions,
                deletion: Deletion::Allowed,
                left_behind: Vec::new(),
                checksums: UploadChecksums::All,
            };
            assert_eq!(run(store).await.unwrap(), expected);
            assert!(is_empty(store).await);
        }
    }

    #[tokio::test]
    async fn a_missing_permission_is_named() {
        for (op, verb) in [(Op::Put, "write"), (Op::Get, "read"), (Op::List, "list")] {
            let memory = MemoryStore::new();
            let store = FaultStore::new(Arc::new(memory.clone()));
            let denied = Action::Fail(Cause::AccessDenied);
            store.faults().add(Rule::on(op, denied));
            let error = run(&store).await.unwrap_err();
            assert_eq!(error.cause(), Cause::AccessDenied);
            let said = format!("these credentials may not {verb} in memory");
            assert_eq!(error.to_string(), said);
            assert!(is_empty(&memory).await, "a failed probe cleans up too");
        }
    }

    #[tokio::test]
    async fn an_append_only_store_is_found_and_what_stays_is_told() {
        let store = FaultStore::new(Arc::new(MemoryStore::new()));
        let denied = Action::Fail(Cause::AccessDenied);
        store.faults().add(Rule::on(Op::Delete, denied));
        let findings = run(&store).await.unwrap();
        assert_eq!(findings.deletion, Deletion::Denied);
        assert_eq!(findings.left_behind.len(), 3, "{findings:?}");
    }

    #[tokio::test]
    async fn findings_read_back_as_they_were_written() {
        let findings = run(&MemoryStore::new()).await.unwrap();
        let text = serde_json::to_string(&findings).unwrap();
        let expected = r#"{"conditional_create":"works","list_after_write":true,"overwrite":true,"versions":"no","deletion":"allowed","left_behind":[],"checksums":"all"}"#;
        assert_eq!(text, expected);
        assert_eq!(serde_json::from_str::<Findings>(&text).unwrap(), findings);
    }

    #[test]
    fn findings_set_how_a_bucket_is_opened() {
        let mut settings = S3Settings::default();
        let mut findings = Findings {
            conditional_create: ConditionalCreate::Ignored,
            list_after_write: true,
            overwrite: true,
            versions: VersionsKept::Yes,
            deletion: Deletion::Allowed,
            left_behind: Vec::new(),
            checksums: UploadChecksums::All,
        };
        findings.apply(&mut settings);
        assert_eq!(settings.conditional_writes, ConditionalWrites::Missing);
        assert_eq!(settings.versioning, Versioning::On);
        findings.conditional_create = ConditionalCreate::Works;
        findings.versions = VersionsKept::Suspended;
        findings.apply(&mut settings);
        assert_eq!(settings.conditional_writes, ConditionalWrites::Honoured);
        assert_eq!(settings.versioning, Versioning::Off);
    }
}
