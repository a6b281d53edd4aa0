//! What a run of `eyrie forget` would do: a pure function of the policy and what is stored.

use std::collections::{BTreeMap, BTreeSet};

use jiff::Timestamp;

use super::{Candidate, Decision, LastGood, Passed, Stays, decide, last_good_of};
use crate::base::weakening::MISSING_OBJECTS;
use crate::config::retention::Retention;
use crate::repo::{Manifest, SnapshotId, Snapshots};
use crate::snapshot::Body;
use crate::{Cause, Error, Result, Side};

/// How many pieces of damage the last verification of each snapshot found; one that was not verified is not there.
pub type Verified = BTreeMap<SnapshotId, u64>;

/// What becomes of a snapshot.
#[derive(Debug, Clone)]
pub struct Planned {
    /// The snapshot.
    pub manifest: Manifest,
    /// What becomes of it, and why.
    pub decision: Decision,
}

/// What a run would do.
#[derive(Debug, Clone)]
pub struct Plan {
    /// Every snapshot that it is about, in the order in which they were made.
    pub snapshots: Vec<Planned>,
    /// The instances that have a good snapshot, or one at all, and must keep one.
    pub guarded: BTreeSet<String>,
}

impl Plan {
    /// Applies a policy to the snapshots of each of these instances; those that do not say of themselves what
    /// this eyrie understands are left out, and so they stay. `manifests` are in the order in which they were
    /// made.
    #[must_use]
    pub fn by_policy(
        policy: &Retention,
        manifests: &[Manifest],
        verified: &Verified,
        instances: &BTreeSet<String>,
        last_good: LastGood,
        now: Timestamp,
    ) -> Self {
        let (mut snapshots, mut guarded) = (Vec::new(), BTreeSet::new());
        for instance in instances {
            let known = candidates(manifests, verified, instance);
            let candidates: Vec<Candidate> = known.iter().map(|(_, known)| *known).collect();
            if last_good == LastGood::Stays && last_good_of(&candidates).is_some() {
                guarded.insert(instance.clone());
            }
            let decisions = decide(policy, &candidates, last_good, now);
            let planned = known.into_iter().zip(decisions);
            snapshots.extend(planned.map(|((manifest, _), decision)| Planned {
                manifest: manifest.clone(),
                decision,
            }));
        }
        Self { snapshots, guarded }
    }

    /// Forgets the snapshots that were named.
    ///
    /// # Errors
    ///
    /// [`Cause::Refused`] when one of them is the last good one of its instance and must stay.
    pub fn by_name(
        named: &[&Manifest],
        manifests: &[Manifest],
        verified: &Verified,
        last_good: LastGood,
    ) -> Result<Self> {
        let ids: BTreeSet<SnapshotId> = named.iter().map(|manifest| manifest.snapshot).collect();
        let mut guarded: BTreeSet<String> = BTreeSet::new();
        if last_good == LastGood::Stays {
            guarded.extend(named.iter().map(|manifest| manifest.instance.clone()));
        }
        let mut refusal = None;
        guarded.retain(|instance| {
            let known = candidates(manifests, verified, instance);
            let candidates: Vec<Candidate> = known.into_iter().map(|(_, known)| known).collect();
            let Some((place, why)) = last_good_of(&candidates) else {
                return false;
            };
            let snapshot = candidates[place].snapshot;
            if ids.contains(&snapshot) {
                refusal = Some(refused(snapshot, &why, instance));
            }
            true
        });
        if let Some(refusal) = refusal {
            return Err(refusal);
        }
        let snapshots = manifests.iter().filter(|m| ids.contains(&m.snapshot));
        let snapshots = snapshots.map(|manifest| Planned {
            manifest: manifest.clone(),
            decision: Decision::Go(Vec::<Passed>::new()),
        });
        Ok(Self {
            snapshots: snapshots.collect(),
            guarded,
        })
    }

    /// The snapshots that go.
    #[must_use]
    pub fn going(&self) -> Vec<&Manifest> {
        let going = self.snapshots.iter().filter(|s| s.decision.goes());
        going.map(|planned| &planned.manifest).collect()
    }
}

/// Of the forgotten snapshots whose manifests are there those that a policy lets go: records of forgetting are
/// proposals to whoever prunes by a policy of its own.
#[must_use]
pub fn lets_go(
    policy: &Retention,
    snapshots: &Snapshots,
    verified: &Verified,
    now: Timestamp,
) -> BTreeSet<SnapshotId> {
    let forgotten = snapshots.forgotten_manifests();
    let instances = forgotten.iter().map(|m| m.instance.clone()).collect();
    let all = snapshots.with_forgotten();
    let plan = Plan::by_policy(policy, &all, verified, &instances, LastGood::Stays, now);
    let forgotten: BTreeSet<SnapshotId> = forgotten.iter().map(|m| m.snapshot).collect();
    let going = plan.going().into_iter().map(|m| m.snapshot);
    going.filter(|id| forgotten.contains(id)).collect()
}

fn refused(snapshot: SnapshotId, why: &Stays, instance: &str) -> Error {
    let message = format!(
        "snapshot {} is the {why} of instance {instance:?}, so nothing is forgotten",
        snapshot.short()
    );
    Side::Repository
        .error(Cause::Refused, message)
        .with_hint("take and verify another one first, or add --remove-last-good")
}

/// The snapshots of an instance whose words this eyrie understands, with what is known of them.
pub(super) fn candidates<'a>(
    manifests: &'a [Manifest],
    verified: &Verified,
    instance: &str,
) -> Vec<(&'a Manifest, Candidate<'a>)> {
    let of = manifests.iter().filter(|m| m.instance == instance);
    let known = of.filter_map(|manifest| {
        let Ok(body) = Body::of(manifest) else {
            let id = manifest.snapshot.short();
            tracing::warn!("snapshot {id} stays, as a newer eyrie made it");
            return None;
        };
        let missing = body.weakenings.iter().any(|w| w.code == MISSING_OBJECTS);
        let damage = verified.get(&manifest.snapshot).copied();
        Some((manifest, Candidate::new(manifest, missing, damage)))
    });
    known.collect()
}
