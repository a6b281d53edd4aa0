//! Forgetting what a plan says.

use super::last_good_of;
use super::plan::{Plan, Verified, candidates};
use crate::repo::{Manifest, Repository};
use crate::{Cause, Result, Side};

/// Forgets the snapshots that go: they are no snapshots any more once this returns, and what only they need is
/// freed by a prune. Looks once more whether each instance has kept what it must, as somebody else may have
/// forgotten the rest at the same time; otherwise nothing is forgotten.
///
/// # Errors
///
/// What the store fails with: nothing is forgotten then, unless it is [`Cause::Unavailable`], when it is not
/// known. [`Cause::Failed`] when nothing that is good would be left.
pub async fn forget(repo: &Repository, plan: &Plan, verified: &Verified) -> Result<()> {
    let going: Vec<Manifest> = plan.going().into_iter().cloned().collect();
    if going.is_empty() {
        return Ok(());
    }
    let record = repo.record_forgetting(&going).await?;
    if plan.guarded.is_empty() {
        return Ok(());
    }
    let left = repo.snapshots().await?;
    for instance in &plan.guarded {
        let known = candidates(&left.manifests, verified, instance);
        let known: Vec<_> = known.into_iter().map(|(_, known)| known).collect();
        if last_good_of(&known).is_none() {
            repo.revoke_forgetting(record).await?;
            let message = format!(
                "somebody else forgot snapshots of instance {instance:?} at the same time, and none would be left: nothing is forgotten"
            );
            return Err(Side::Repository
                .error(Cause::Failed, message)
                .with_hint("look at what is left with eyrie snapshots, and run it again"));
        }
    }
    Ok(())
}
