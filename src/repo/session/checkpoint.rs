//! Checkpoints: how far a session had come, for the next one of its lineage (section 11).

use std::time::Duration;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::writer::Writer;
use crate::Result;
use crate::repo::format::config::FORMAT;
use crate::repo::format::files::StoredFile;
use crate::repo::format::ids::SessionId;
use crate::repo::format::lineage::Lineage;
use crate::repo::format::manifest::Roots;
use crate::repo::format::sealed::FileKind;
use crate::repo::repository::Repository;
use crate::store::{Key, PutOptions};

/// How long a checkpoint is tried to be written.
const PATIENCE: Duration = Duration::from_mins(1);

/// How far a session had come. Never a snapshot.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Checkpoint {
    pub(crate) format: u64,
    /// Whose it is.
    pub session: SessionId,
    #[serde(flatten)]
    pub(crate) lineage: Lineage,
    /// When it was written.
    pub time: Timestamp,
    /// The maps, of what is stored so far.
    pub roots: Roots,
    /// What the capture says of itself.
    #[serde(default)]
    pub body: serde_json::Value,
}

impl Repository {
    /// The checkpoints of sessions of `instance` in this repository that can be read, the newest first.
    /// Nothing depends on them.
    ///
    /// # Errors
    ///
    /// What the store fails with.
    pub async fn checkpoints(&self, instance: &str) -> Result<Vec<Checkpoint>> {
        let lineage = self.lineage(instance);
        let mut checkpoints = self.all_checkpoints().await?;
        checkpoints.retain(|checkpoint| checkpoint.lineage == lineage);
        Ok(checkpoints)
    }

    /// The same of all lineages.
    pub(crate) async fn all_checkpoints(&self) -> Result<Vec<Checkpoint>> {
        let mut damage = Vec::new();
        let all = self
            .open_all::<SessionId, serde_json::Value>(StoredFile::Checkpoint, &mut damage)
            .await?;
        for damage in damage {
            tracing::debug!("a checkpoint is left out: {}", damage.what);
        }
        // What a later eyrie writes otherwise is none for this one.
        let known = all
            .into_iter()
            .filter_map(|(_, json)| serde_json::from_value::<Checkpoint>(json).ok());
        let mut checkpoints: Vec<Checkpoint> = known.filter(|c| c.format == FORMAT).collect();
        checkpoints.sort_by_key(|checkpoint| std::cmp::Reverse(checkpoint.time));
        Ok(checkpoints)
    }
}

impl Writer {
    /// Writes out everything stored so far and writes down that these maps are of it, in place of what this
    /// session wrote down before.
    ///
    /// Nothing depends on a checkpoint: one that the store does not take is told and no error. Returns
    /// whether it was written.
    ///
    /// # Errors
    ///
    /// What [`flush`](Writer::flush) fails with, and [`Cause::Failed`](crate::Cause::Failed) when the lease has lapsed.
    pub async fn checkpoint(&self, roots: Roots, body: serde_json::Value) -> Result<bool> {
        self.flush().await?;
        self.check_lease()?;
        let (repo, session) = (self.view().repo(), self.session());
        let checkpoint = Checkpoint {
            format: FORMAT,
            session,
            lineage: repo.lineage(self.instance()),
            time: repo.env().now(),
            roots,
            body,
        };
        let path = StoredFile::Checkpoint.path(&session);
        let bytes = repo
            .sealer()
            .seal_json(FileKind::Checkpoint, &path, &checkpoint)?;
        let key = Key::new(path)?;
        let options = PutOptions {
            patience: Some(PATIENCE),
            ..PutOptions::default()
        };
        let put = repo.store().put(&key, bytes, options).await;
        match &put {
            Ok(_) => self.has_checkpoint().await,
            Err(error) => tracing::warn!("no checkpoint is written: {}", error.chain()),
        }
        Ok(put.is_ok())
    }

    /// Removes the checkpoints of these sessions, which a snapshot has made superfluous. Where they cannot be
    /// removed they are in nobody's way.
    pub async fn remove_checkpoints(&self, sessions: impl IntoIterator<Item = SessionId>) {
        for session in sessions {
            let path = StoredFile::Checkpoint.path(&session);
            let Ok(key) = Key::new(path) else { continue };
            if let Err(error) = self.view().repo().store().delete(&key, None).await {
                tracing::debug!("{key} stays behind: {}", error.chain());
            }
        }
    }
}
