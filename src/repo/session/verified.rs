//! Results of verifications, kept beside the snapshots (section 12).

use std::time::Duration;

use futures::StreamExt;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::repo::format::files::StoredFile;
use crate::repo::format::ids::{BlobId, IndexId, PackId, SnapshotId};
use crate::repo::format::sealed::FileKind;
use crate::repo::repository::Repository;
use crate::store::{Key, PutMode, PutOptions};
use crate::{Cause, Result};

/// How long a verification tries to keep its result, which nothing depends on.
const PATIENCE: Duration = Duration::from_secs(10);

/// How many results are read at once: they are small.
const READ_AT_ONCE: usize = 16;

/// The result of one verification.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Verification {
    /// When it ended.
    pub time: Timestamp,
    /// How far it looked at everything: `existence`, `structure`, `bytes` or `drill`.
    pub level: String,
    /// The snapshots that it looked at.
    pub results: Vec<VerifiedSnapshot>,
    /// Where damage is.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub places: Vec<BadPlace>,
    /// Index segments that cannot be read.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub segments: Vec<IndexId>,
}

/// Where damage is: in a blob of a pack, or in the whole pack.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct BadPlace {
    /// The pack.
    pub pack: PackId,
    /// The blob in it; `None` when the pack is missing, has another size, or is damaged outside of its blobs.
    pub blob: Option<BlobId>,
}

/// What a verification found in one snapshot.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct VerifiedSnapshot {
    /// The snapshot.
    pub snapshot: SnapshotId,
    /// Pieces of damage that it suffers from.
    pub damage: u64,
}

impl Repository {
    /// Keeps the result of a verification. Gives up after seconds where the store does not take it.
    ///
    /// # Errors
    ///
    /// What the store fails with. Whether it is kept is not known after [`Cause::Unavailable`].
    pub async fn record_verification(&self, verification: &Verification) -> Result<()> {
        let path = StoredFile::Verification.path(&hex::encode(self.env().id()));
        let bytes = self
            .sealer()
            .seal_json(FileKind::Verification, &path, verification)?;
        let options = PutOptions {
            mode: PutMode::Create,
            patience: Some(PATIENCE),
            ..PutOptions::default()
        };
        let key = Key::new(path)?;
        self.unlimited().put(&key, bytes, options).await.map(drop)
    }

    /// Every result that can be read, the oldest first. Nothing depends on them: one that is damaged
    /// is as if it had not been kept.
    ///
    /// # Errors
    ///
    /// What the store fails with.
    pub async fn verifications(&self) -> Result<Vec<Verification>> {
        let file = StoredFile::Verification;
        let mut paths = self.list(file.row().directory).await?;
        paths.retain(|meta| file.id(meta.key.as_str()).is_some());
        let mut read = futures::stream::iter(paths)
            .map(|meta| async move {
                let path = meta.key.as_str();
                let bytes = self.get_file(path).await?;
                self.sealer()
                    .open_json(FileKind::Verification, path, &bytes)
            })
            .buffered(READ_AT_ONCE);
        let mut all: Vec<Verification> = Vec::new();
        while let Some(result) = read.next().await {
            match result {
                Ok(verification) => all.push(verification),
                Err(error) if matches!(error.cause(), Cause::Damage | Cause::NotFound) => {
                    tracing::warn!("a verification's result is left out: {}", error.chain());
                }
                Err(error) => return Err(error),
            }
        }
        all.sort_by_key(|verification| verification.time);
        Ok(all)
    }
}
