//! Reading the bytes of packs.

use std::collections::HashMap;

use bytes::Bytes;

use crate::repo::format::blob::into_mut;
use crate::repo::format::ids::BlobId;
use crate::repo::format::pack::{PackEntry, pack_key};
use crate::repo::format::segment::{PackInfo, Record};
use crate::repo::format::wire::{damaged, missing_is_damage};
use crate::repo::repository::Repository;
use crate::repo::session::view::View;
use crate::{Cause, Result};

/// How many parts the blobs of a pack are opened in, at once.
const CHUNKS: usize = 4;

/// What is wrong in one pack.
pub(super) struct PackFaults {
    pub(super) why: Option<String>,
    pub(super) blobs: Vec<BlobId>,
}

/// Reads a pack: its hash, its directory, and every blob that the index has there. One of which the index has
/// only some blobs is judged by these and by its directory.
pub(super) async fn check_pack(
    view: &View,
    pack: PackInfo,
    records: Vec<Record>,
) -> Result<PackFaults> {
    let repo = view.repo();
    let _share = repo.resources().reserve(pack.size).await?;
    let key = pack_key(pack.kind, &pack.id)?;
    let bytes = match repo
        .get_range(&key, 0, pack.size)
        .await
        .map_err(missing_is_damage)
    {
        Ok(bytes) => bytes,
        Err(error) if error.cause() == Cause::Damage => {
            let blobs = records.iter().map(|record| record.entry.id).collect();
            return Ok(PackFaults {
                why: Some(error.chain()),
                blobs,
            });
        }
        Err(error) => return Err(error),
    };
    let hash_known = pack.hash_known();
    let opener = repo.clone();
    let mut faults = repo
        .resources()
        .run(move || {
            let mut faults = PackFaults {
                why: None,
                blobs: vec![],
            };
            // Where the index no longer has all of its blobs, what is damaged may be one of the others.
            let all = records.len() >= pack.blobs as usize && hash_known;
            if all && *blake3::hash(&bytes).as_bytes() != pack.hash {
                faults.why = Some("its BLAKE3 is not what the index says".into());
            }
            let directory = opener.sealer().open_directory(pack.kind, &pack.id, &bytes);
            if let Err(error) = check_directory(directory, &pack, &records) {
                faults.why.get_or_insert(error.to_string());
            }
            Ok((faults, bytes, records))
        })
        .await?;
    let (bytes, records) = (faults.1, faults.2);
    for chunk in records.chunks(records.len().div_ceil(CHUNKS).max(1)) {
        let (opener, bytes, chunk) = (repo.clone(), bytes.clone(), chunk.to_vec());
        let bad = repo
            .resources()
            .run(move || Ok(open_blobs(&opener, &bytes, &chunk)))
            .await?;
        faults.0.blobs.extend(bad);
    }
    if !faults.0.blobs.is_empty() {
        faults
            .0
            .why
            .get_or_insert("its blobs are not what the index says".into());
    }
    Ok(faults.0)
}

/// The blobs that do not open.
fn open_blobs(repo: &Repository, bytes: &Bytes, records: &[Record]) -> Vec<BlobId> {
    let opens = |record: &&Record| {
        let entry = &record.entry;
        let start = entry.position as usize;
        let stored = start
            .checked_add(entry.stored as usize)
            .and_then(|end| (end <= bytes.len()).then(|| bytes.slice(start..end)));
        stored.is_some_and(|stored| {
            repo.sealer()
                .open_blob(into_mut(stored))
                .is_ok_and(|(header, _)| {
                    header.id == entry.id
                        && header.kind == entry.kind
                        && header.plain == entry.plain
                })
        })
    };
    records
        .iter()
        .filter(|record| !opens(record))
        .map(|record| record.entry.id)
        .collect()
}

fn check_directory(
    directory: Result<Vec<PackEntry>>,
    pack: &PackInfo,
    records: &[Record],
) -> Result<()> {
    let directory = directory?;
    if directory.len() != pack.blobs as usize {
        return Err(damaged(
            "its directory has another number of blobs than the index says",
        ));
    }
    let by_position: HashMap<u32, &PackEntry> = directory
        .iter()
        .map(|entry| (entry.position, entry))
        .collect();
    let same = |record: &Record| by_position.get(&record.entry.position) == Some(&&record.entry);
    if records.iter().all(same) {
        return Ok(());
    }
    Err(damaged("its directory differs from the index"))
}
