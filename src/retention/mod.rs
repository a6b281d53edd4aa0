//! Which snapshots of an instance stay and which go (docs/retention.md): a pure function of a policy, the
//! snapshots and the time.

mod act;
mod order;
mod period;
mod plan;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::fmt;

use jiff::{Timestamp, Zoned};

use crate::config::retention::{Keep, Retention, Rule};
use crate::repo::{Manifest, RepositoryId, SnapshotId, is_ahead};
use crate::snapshot::is_keys_only;
use period::Period;

pub use act::forget;
pub use plan::{Plan, Planned, Verified, lets_go};

/// How long the keys that a `restore --replace` saved stay without a rule that keeps them, in days: whoever
/// misses what was replaced notices within weeks.
const KEYS_STAY_DAYS: i64 = 30;

/// What is known of a snapshot's soundness.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Standing {
    /// Everything is in it, and its last verification found it sound.
    Verified,
    /// Everything is in it, and it was not verified.
    Complete,
    /// Objects are missing in it, or its last verification found damage.
    Lacking,
    /// Keys of etcd only, which a `restore --replace` saved.
    KeysOnly,
}

impl Standing {
    fn is_good(self) -> bool {
        matches!(self, Self::Verified | Self::Complete)
    }
}

/// A snapshot to decide about.
#[derive(Debug, Clone, Copy)]
pub struct Candidate<'a> {
    /// Its id.
    pub snapshot: SnapshotId,
    /// The repository that it was made in, when that is another one.
    pub origin: Option<RepositoryId>,
    /// The point in time that it stands for.
    pub time: Timestamp,
    /// Its labels.
    pub labels: &'a BTreeMap<String, String>,
    /// What is known of its soundness.
    pub standing: Standing,
}

impl<'a> Candidate<'a> {
    /// A snapshot, of which it is known whether objects are `missing` in it and how many pieces of damage
    /// its last verification found.
    #[must_use]
    pub fn new(manifest: &'a Manifest, missing: bool, damage: Option<u64>) -> Self {
        let standing = match damage {
            _ if is_keys_only(manifest) => Standing::KeysOnly,
            _ if missing => Standing::Lacking,
            Some(0) => Standing::Verified,
            None => Standing::Complete,
            Some(_) => Standing::Lacking,
        };
        Self {
            snapshot: manifest.snapshot,
            origin: manifest.origin.map(|origin| origin.repository),
            time: manifest.time,
            labels: &manifest.labels,
            standing,
        }
    }
}

/// Whether the last good snapshot may go too.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LastGood {
    /// It stays whatever the rules say.
    Stays,
    /// The rules say what becomes of it.
    MayGo,
}

/// Why a snapshot stays.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Stays {
    /// A rule that counts keeps it.
    Rule {
        /// The rule.
        rule: Rule,
        /// The period that it is the newest of.
        period: Period,
        /// Among which snapshots it was counted.
        among: Among,
    },
    /// It is not much older than the newest.
    Within,
    /// It has this label, as `key=value`.
    Label(String),
    /// Its time has not come: the clock was wrong, or is.
    Future,
    /// It holds saved keys, and is young.
    SavedKeys,
    /// It is the last good snapshot of its instance.
    LastGood,
    /// It is the last snapshot of its instance, which has no good one.
    Last,
}

/// The snapshots that a rule counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Among {
    /// All.
    All,
    /// Those that are good.
    Good,
    /// Those whose times are not in the order in which they were made.
    OutOfOrder,
}

/// Why a rule does not keep a snapshot.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Passed {
    /// The rule.
    pub rule: Rule,
    /// The snapshot's period.
    pub period: Period,
    /// What the rule keeps of that period; `None` when the period is beyond those that it counts.
    pub newer: Option<SnapshotId>,
}

/// What is decided about a snapshot.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Decision {
    /// It stays, for all of these reasons.
    Stay(Vec<Stays>),
    /// It goes: none of the rules keeps it.
    Go(Vec<Passed>),
}

impl Decision {
    /// Whether the snapshot goes.
    #[must_use]
    pub const fn goes(&self) -> bool {
        matches!(self, Self::Go(_))
    }
}

/// Decides about the snapshots of **one** instance, which are given in the order in which they were made. The
/// decisions are in the order of the snapshots.
#[must_use]
pub fn decide(
    policy: &Retention,
    candidates: &[Candidate],
    last_good: LastGood,
    now: Timestamp,
) -> Vec<Decision> {
    let mut deciding = Deciding::new(policy, candidates, now);
    let sound = |at: &usize| candidates[*at].standing.is_good();
    let regular = deciding.places(Kind::Regular);
    let good: Vec<usize> = regular.iter().copied().filter(sound).collect();
    let out_of_order = deciding.places(Kind::OutOfOrder);
    for (rule, keep) in &policy.counts {
        deciding.count(*rule, *keep, &regular, Among::All);
        // What is not good pushes out nothing that is.
        deciding.count(*rule, *keep, &good, Among::Good);
        deciding.count(*rule, *keep, &out_of_order, Among::OutOfOrder);
    }
    deciding.apply_within();
    deciding.apply_each();
    if last_good == LastGood::Stays
        && let Some((place, why)) = last_good_of(candidates)
    {
        deciding.stays[place].push(why);
    }
    let both = deciding.stays.into_iter().zip(deciding.passed);
    both.map(|(stays, passed)| {
        if stays.is_empty() {
            Decision::Go(passed)
        } else {
            Decision::Stay(stays)
        }
    })
    .collect()
}

/// The snapshot that must not go, of those of one instance in the order in which they were made: the last one
/// that is complete, and verified if any is; without such a one the last of all.
#[must_use]
pub fn last_good_of(candidates: &[Candidate]) -> Option<(usize, Stays)> {
    let last = |standings: &[Standing]| {
        let found = candidates.iter();
        let mut found = found.map(|candidate| standings.contains(&candidate.standing));
        found.rposition(|is| is)
    };
    let good = last(&[Standing::Verified]).or_else(|| last(&[Standing::Complete]));
    let good = good.map(|place| (place, Stays::LastGood));
    good.or_else(|| last(&[Standing::Lacking]).map(|place| (place, Stays::Last)))
}

/// How the rules look at a snapshot.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Regular,
    /// Its time is not in the order in which snapshots were made: it pushes out nothing.
    OutOfOrder,
    /// Its time has not come.
    Future,
    /// It holds keys only, and no rule counts it.
    SavedKeys,
}

struct Deciding<'a> {
    policy: &'a Retention,
    candidates: &'a [Candidate<'a>],
    now: Timestamp,
    kinds: Vec<Kind>,
    /// Their times on the clock of the policy's zone.
    times: Vec<Zoned>,
    stays: Vec<Vec<Stays>>,
    passed: Vec<Vec<Passed>>,
}

impl<'a> Deciding<'a> {
    fn new(policy: &'a Retention, candidates: &'a [Candidate<'a>], now: Timestamp) -> Self {
        let in_order = order::in_order(candidates.iter().map(|candidate| {
            let counts = !is_ahead(candidate.time, now) && candidate.standing != Standing::KeysOnly;
            (candidate.origin, counts.then_some(candidate.time))
        }));
        let kinds = candidates
            .iter()
            .zip(in_order)
            .map(|(candidate, in_order)| match candidate.standing {
                _ if is_ahead(candidate.time, now) => Kind::Future,
                Standing::KeysOnly => Kind::SavedKeys,
                _ if in_order => Kind::Regular,
                _ => Kind::OutOfOrder,
            });
        let zone = &policy.zone;
        let times = candidates.iter();
        let times = times.map(|candidate| candidate.time.to_zoned(zone.clone()));
        Self {
            policy,
            candidates,
            now,
            kinds: kinds.collect(),
            times: times.collect(),
            stays: vec![vec![]; candidates.len()],
            passed: vec![vec![]; candidates.len()],
        }
    }

    /// The places of the snapshots of a kind, the newest first.
    fn places(&self, kind: Kind) -> Vec<usize> {
        let mut places: Vec<usize> = (0..self.candidates.len())
            .filter(|at| self.kinds[*at] == kind)
            .collect();
        // Of several lineages each is in order, and of one time the one that was made last is the newest.
        places.sort_by_key(|at| std::cmp::Reverse((self.candidates[*at].time, *at)));
        places
    }

    /// Applies a rule to the snapshots at `places`, the newest first: of each period that has any it keeps the
    /// newest, until it has kept as many as it may, and the oldest of all while it may keep more.
    fn count(&mut self, rule: Rule, keep: Keep, places: &[usize], among: Among) {
        let mut left = match keep {
            Keep::Number(number) => number,
            Keep::All => u32::MAX,
        };
        if left == 0 {
            return;
        }
        let mut holder: Option<(Period, SnapshotId)> = None;
        for (number, at) in places.iter().copied().enumerate() {
            let period = Period::of(rule, &self.times[at], number);
            let held = holder.filter(|(held, _)| *held == period);
            let is_oldest = number + 1 == places.len();
            if left > 0 && (held.is_none() || is_oldest) {
                left -= 1;
                holder = Some((period, self.candidates[at].snapshot));
                let known =
                    |why: &Stays| matches!(why, Stays::Rule { rule: known, .. } if *known == rule);
                if !self.stays[at].iter().any(known) {
                    self.stays[at].push(Stays::Rule {
                        rule,
                        period,
                        among,
                    });
                }
            } else if among != Among::Good {
                self.passed[at].push(Passed {
                    rule,
                    period,
                    newer: held.map(|(_, snapshot)| snapshot),
                });
            }
        }
    }

    /// Applies `keep_within`, which counts back from the newest snapshot.
    fn apply_within(&mut self) {
        let Some(within) = self.policy.within else {
            return;
        };
        let newest_of = |kind| self.places(kind).first().map(|at| self.times[*at].clone());
        let newest = newest_of(Kind::Regular).or_else(|| newest_of(Kind::OutOfOrder));
        let Some(newest) = newest else { return };
        // What lies before the beginning of all times keeps everything.
        let since = newest.checked_sub(within.0).ok();
        for at in 0..self.candidates.len() {
            let counts = self.kinds[at] != Kind::Future;
            if counts && since.as_ref().is_none_or(|since| self.times[at] >= *since) {
                self.stays[at].push(Stays::Within);
            }
        }
    }

    /// Applies what concerns each snapshot by itself.
    fn apply_each(&mut self) {
        for (at, candidate) in self.candidates.iter().enumerate() {
            for label in &self.policy.labels {
                if candidate.labels.get(&label.key) == Some(&label.value) {
                    self.stays[at].push(Stays::Label(label.to_string()));
                }
            }
            match self.kinds[at] {
                Kind::Future => self.stays[at].push(Stays::Future),
                Kind::SavedKeys => {
                    let age = self.now.duration_since(candidate.time);
                    if age.as_hours() < KEYS_STAY_DAYS * 24 {
                        self.stays[at].push(Stays::SavedKeys);
                    }
                }
                Kind::Regular | Kind::OutOfOrder => {}
            }
        }
    }
}

impl fmt::Display for Stays {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Rule {
                rule,
                period,
                among,
            } => {
                write!(f, "{} ({period}", rule.name())?;
                f.write_str(match among {
                    Among::All => ")",
                    Among::Good => ", of the good ones)",
                    Among::OutOfOrder => ", of those whose time is out of order)",
                })
            }
            Self::Within => f.write_str("within the time to keep all"),
            Self::Label(label) => write!(f, "label {label}"),
            Self::Future => f.write_str("dated in the future"),
            Self::SavedKeys => write!(
                f,
                "keys that a restore saved, younger than {KEYS_STAY_DAYS} days"
            ),
            Self::LastGood => f.write_str("last good snapshot"),
            Self::Last => f.write_str("last snapshot"),
        }
    }
}

impl fmt::Display for Passed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (rule, period) = (self.rule.name(), self.period);
        match &self.newer {
            Some(newer) => write!(f, "{rule}: {period} has {}, which is newer", newer.short()),
            None => write!(f, "{rule}: {period} is too long ago"),
        }
    }
}
