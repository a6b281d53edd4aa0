//! Finding out which sessions are at work before marks are swept.

use std::collections::HashMap;
use std::time::Duration;

use crate::Result;
use crate::repo::format::files::StoredFile;
use crate::repo::format::ids::SessionId;
use crate::repo::repository::Repository;
use crate::repo::session::lease::leases;

/// Between two looks at leases whose sessions may be dead.
const PAUSE: Duration = Duration::from_secs(5);

/// Waits, where packs are marked, until it is known of every session whether it is at work: one whose process cannot
/// be looked at is when its lease changes, and is dead when that has not changed for twice its time to live, which is
/// 4 minutes. Otherwise a run that ends at once would wait for the dead for ever.
///
/// # Errors
///
/// What the store fails with.
pub(super) async fn watch(repo: &Repository, own: SessionId) -> Result<()> {
    let marks = repo.marks().await?.known;
    if marks.iter().all(|mark| mark.packs.is_empty()) {
        return Ok(());
    }
    let mut first_seen: HashMap<SessionId, blake3::Hash> = HashMap::new();
    let mut told = false;
    loop {
        let mut unknown = None;
        for lease in leases(repo).await? {
            let first = *first_seen.entry(lease.session).or_insert(lease.hash);
            let host = lease.file.as_ref().map(|file| &file.host);
            let at_work = host.is_ok_and(|host| repo.host().proves_alive(host));
            let heeds = marks.iter().all(|mark| lease.heeds(&mark.id));
            let known = lease.dead || at_work || heeds || lease.hash != first;
            if lease.session != own && !known {
                unknown = Some(lease);
            }
        }
        let Some(lease) = unknown else { return Ok(()) };
        if !std::mem::replace(&mut told, true) {
            tracing::warn!(
                "{} may be at work: its lease {} is watched for up to {} s",
                lease.whose(),
                StoredFile::Lease.path(&lease.session),
                lease.patience().as_secs()
            );
        }
        tokio::time::sleep(PAUSE).await;
    }
}
