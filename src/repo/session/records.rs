//! Files of records beside the manifests: what was forgotten, amended, and who was taken for dead.

use std::collections::HashSet;
use std::fmt::Display;
use std::str::FromStr;

use futures::StreamExt;
use serde::de::DeserializeOwned;

use crate::repo::format::amendment::Amendment;
use crate::repo::format::damage::Damage;
use crate::repo::format::files::{Seal, StoredFile};
use crate::repo::format::forgotten::{Forgotten, ForgottenFile};
use crate::repo::format::ids::{AmendmentId, ForgottenId, ManifestHash, SnapshotId};
use crate::repo::format::manifest::Manifest;
use crate::repo::format::sealed::FileKind;
use crate::repo::opening::read_twice;
use crate::repo::repository::Repository;
use crate::{Cause, Result, Side};

/// How many files are read at once: they are small.
const FILES_AT_ONCE: usize = 16;
/// How often files are listed again when some vanish between listing and reading.
const LISTED_AGAIN: u32 = 5;

impl Repository {
    /// The records of forgetting, of all files that no other supersedes.
    pub(super) async fn forgotten(&self, damage: &mut Vec<Damage>) -> Result<Vec<Forgotten>> {
        let files = self.live_forgotten(damage).await?;
        Ok(files
            .into_iter()
            .flat_map(|(_, file)| file.records)
            .collect())
    }

    /// The files of records of forgetting that no other supersedes; those that are damaged are left out.
    pub(crate) async fn forgotten_files(&self) -> Result<Vec<(ForgottenId, ForgottenFile)>> {
        self.live_forgotten(&mut Vec::new()).await
    }

    async fn live_forgotten(
        &self,
        damage: &mut Vec<Damage>,
    ) -> Result<Vec<(ForgottenId, ForgottenFile)>> {
        let mut files = self
            .open_all::<ForgottenId, ForgottenFile>(StoredFile::Forgotten, damage)
            .await?;
        let gone: HashSet<ForgottenId> = files
            .iter()
            .flat_map(|(_, file)| file.supersedes.clone())
            .collect();
        files.retain(|(id, _)| !gone.contains(id));
        Ok(files)
    }

    /// Refuses to begin a session on snapshots that are forgotten or gone: its lease, which names them, may have
    /// come too late to protect them.
    ///
    /// # Errors
    ///
    /// [`Cause::Failed`]; what the store fails with.
    pub(super) async fn refuse_forgotten(&self, parents: &[SnapshotId]) -> Result<()> {
        if parents.is_empty() {
            return Ok(());
        }
        let records = self.forgotten(&mut Vec::new()).await?;
        for parent in parents {
            let named: Vec<_> = records.iter().filter(|r| r.snapshot == *parent).collect();
            // Another file of this id, such as one that was copied back, is not forgotten.
            let there = match self.get_file(&StoredFile::Manifest.path(parent)).await {
                Err(error) if error.cause() == Cause::NotFound => false,
                read => {
                    let hash = ManifestHash(blake3::hash(&read?).into());
                    named.iter().all(|record| record.manifest != hash)
                }
            };
            if !there {
                let message = format!("snapshot {} was forgotten a moment ago", parent.short());
                return Err(Side::Repository
                    .error(Cause::Failed, message)
                    .with_hint("run it again"));
            }
        }
        Ok(())
    }

    /// The amendments, ascending by time.
    pub(super) async fn amendments(&self, damage: &mut Vec<Damage>) -> Result<Vec<Amendment>> {
        let files = self
            .open_all::<AmendmentId, Amendment>(StoredFile::Amendment, damage)
            .await?;
        let mut amendments: Vec<Amendment> = files.into_iter().map(|(_, file)| file).collect();
        amendments.sort_by_key(|amendment| (amendment.time, amendment.amendment));
        Ok(amendments)
    }

    /// Opens every file of a kind that holds JSON. Those that are damaged are reported.
    pub(super) async fn open_all<I, T>(
        &self,
        file: StoredFile,
        damage: &mut Vec<Damage>,
    ) -> Result<Vec<(I, T)>>
    where
        I: FromStr + Display,
        T: DeserializeOwned,
    {
        let Seal::Meta(kind) = file.row().seal else {
            return Ok(vec![]);
        };
        let mut tries = 0;
        let (all, damaged) = loop {
            tries += 1;
            let (all, damaged, vanished) = self.open_listed(file, kind).await?;
            // Files are merged and removed: what replaces them came before they went.
            if !vanished || tries == LISTED_AGAIN {
                break (all, damaged);
            }
        };
        damage.extend(damaged);
        Ok(all)
    }

    /// Opens the files that a listing shows: those that open, what is wrong with others, and whether some
    /// were gone when they were read.
    async fn open_listed<I, T>(
        &self,
        file: StoredFile,
        kind: FileKind,
    ) -> Result<(Vec<(I, T)>, Vec<Damage>, bool)>
    where
        I: FromStr + Display,
        T: DeserializeOwned,
    {
        let ids: Vec<I> = self.list_ids(file).await?;
        let mut read = futures::stream::iter(ids)
            .map(|id| async move {
                let path = file.path(&id);
                let open = || async {
                    let bytes = self.get_file(&path).await?;
                    self.sealer().open_json::<T>(kind, &path, &bytes)
                };
                let opened = read_twice(open).await;
                (id, path, opened)
            })
            .buffered(FILES_AT_ONCE);
        let (mut all, mut damage, mut vanished) = (Vec::new(), Vec::new(), false);
        while let Some((id, path, opened)) = read.next().await {
            match opened {
                Ok(opened) => all.push((id, opened)),
                Err(error) if error.cause() == Cause::NotFound => vanished = true,
                Err(error) if error.cause() == Cause::Damage => damage.push(Damage {
                    kind: file.row().damage,
                    what: error.chain(),
                    place: path,
                    snapshots: vec![],
                }),
                Err(error) => return Err(error),
            }
        }
        Ok((all, damage, vanished))
    }

    /// Writes down that snapshots are forgotten, before their manifests are removed. Returns the file that says
    /// it.
    ///
    /// # Errors
    ///
    /// What the store fails with; nothing is forgotten then, unless it is [`Cause::Unavailable`].
    pub async fn record_forgetting(&self, manifests: &[Manifest]) -> Result<ForgottenId> {
        self.check_writable()?;
        let time = self.env().now();
        let file = ForgottenFile {
            records: manifests.iter().map(|m| Forgotten::of(m, time)).collect(),
            supersedes: vec![],
        };
        self.write_forgotten(&file).await
    }

    /// Takes a file of records back: the snapshots that are forgotten by it alone are snapshots again.
    ///
    /// # Errors
    ///
    /// What the store fails with; they are forgotten then, unless it is [`Cause::Unavailable`].
    pub async fn revoke_forgetting(&self, record: ForgottenId) -> Result<()> {
        let file = ForgottenFile {
            records: vec![],
            supersedes: vec![record],
        };
        self.write_forgotten(&file).await.map(|_| ())
    }

    async fn write_forgotten(&self, file: &ForgottenFile) -> Result<ForgottenId> {
        let id = ForgottenId(self.env().id());
        let path = StoredFile::Forgotten.path(&id);
        let bytes = self.sealer().seal_json(FileKind::Forgotten, &path, file)?;
        self.put_once(&path, bytes).await?;
        Ok(id)
    }
}
