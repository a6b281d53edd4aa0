//! Retention against an independent model, and what no policy may do.

use std::collections::{BTreeMap, BTreeSet};

use jiff::{SignedDuration, ToSpan};
use proptest::prelude::*;
use serde::Deserialize;

use super::*;
use crate::config::retention::{Stretch, time_zone};
use crate::repo::Repository;
use crate::snapshot::{KEYS_ONLY, fixture};

const DAY: SignedDuration = SignedDuration::from_hours(24);

/// A snapshot of a test.
#[derive(Debug, Clone)]
struct Made {
    id: u32,
    time: Timestamp,
    standing: Standing,
    labels: BTreeMap<String, String>,
}

impl Made {
    fn new(id: u32, time: Timestamp) -> Self {
        let (standing, labels) = (Standing::Complete, BTreeMap::new());
        Self {
            id,
            time,
            standing,
            labels,
        }
    }

    fn that_is(self, standing: Standing) -> Self {
        Self { standing, ..self }
    }

    fn candidate(&self) -> Candidate<'_> {
        let mut snapshot = [0; 32];
        snapshot[..4].copy_from_slice(&self.id.to_be_bytes());
        Candidate {
            snapshot: SnapshotId(snapshot),
            origin: None,
            time: self.time,
            labels: &self.labels,
            standing: self.standing,
        }
    }
}

fn decisions(policy: &Retention, made: &[Made], now: Timestamp) -> Vec<Decision> {
    let candidates: Vec<_> = made.iter().map(Made::candidate).collect();
    decide(policy, &candidates, LastGood::Stays, now)
}

/// The ids of what stays.
fn staying(policy: &Retention, made: &[Made], now: Timestamp) -> Vec<u32> {
    let decided = made.iter().zip(decisions(policy, made, now));
    let staying = decided.filter(|(_, decision)| !decision.goes());
    staying.map(|(made, _)| made.id).collect()
}

fn policy(counts: &[(Rule, u32)]) -> Retention {
    let counts = counts.iter().map(|(rule, n)| (*rule, Keep::Number(*n)));
    Retention {
        counts: counts.collect(),
        ..Retention::default()
    }
}

fn at(time: &str) -> Timestamp {
    time.parse().unwrap()
}

/// One snapshot a day at noon, with the numbers of the days as ids.
fn daily(days: std::ops::Range<u32>) -> Vec<Made> {
    let noon = at("2026-01-01T12:00:00Z");
    days.map(|day| Made::new(day, noon + DAY * i32::try_from(day).unwrap()))
        .collect()
}

/// `tests/lab/retention.py` is the model.
#[derive(Deserialize)]
struct Model {
    start: Timestamp,
    hours: u32,
    lacking: BTreeSet<u32>,
    labelled: BTreeSet<u32>,
    cases: Vec<Case>,
}

#[derive(Deserialize)]
struct Case {
    zone: String,
    policy: BTreeMap<String, u32>,
    batch: BTreeMap<u32, BTreeSet<String>>,
    nightly: BTreeMap<u32, Vec<u32>>,
}

impl Model {
    fn read() -> Self {
        serde_json::from_str(include_str!("../../tests/data/retention.json")).unwrap()
    }

    fn made(&self, id: u32) -> Made {
        let standing = if self.lacking.contains(&id) {
            Standing::Lacking
        } else {
            Standing::Complete
        };
        let labels = self.labelled.contains(&id);
        let labels = labels.then(|| ("keep".to_owned(), "yes".to_owned()));
        Made {
            labels: labels.into_iter().collect(),
            ..Made::new(id, self.start + SignedDuration::from_hours(id.into()))
        }
        .that_is(standing)
    }
}

impl Case {
    fn policy(&self) -> Retention {
        let rules = Rule::ALL.into_iter();
        let counts = rules.filter_map(|rule| {
            let number = self.policy.get(rule.name())?;
            Some((rule, Keep::Number(*number)))
        });
        Retention {
            counts: counts.collect(),
            labels: vec!["keep=yes".parse().unwrap()],
            zone: time_zone(&self.zone).unwrap(),
            within: None,
        }
    }
}

#[test]
fn ten_years_of_hourly_snapshots_are_kept_as_an_independent_model_says_in_every_zone() {
    let model = Model::read();
    assert_eq!(model.cases.len(), 7);
    let all: Vec<Made> = (0..model.hours).map(|id| model.made(id)).collect();
    let now = all.last().unwrap().time;
    for case in &model.cases {
        let decided = decisions(&case.policy(), &all, now);
        let kept = all.iter().zip(decided);
        let kept = kept.filter_map(|(made, decision)| match decision {
            Decision::Go(_) => None,
            Decision::Stay(why) => {
                let rules = why.iter().map(|why| match why {
                    Stays::Rule { rule, .. } => rule.name().to_owned(),
                    Stays::Label(_) => "label".to_owned(),
                    Stays::LastGood => "last good".to_owned(),
                    other => panic!("{other}"),
                });
                Some((made.id, rules.collect()))
            }
        });
        let kept: BTreeMap<u32, BTreeSet<String>> = kept.collect();
        assert_eq!(kept, case.batch, "{}", case.zone);
    }
}

#[test]
fn a_run_each_night_for_ten_years_leaves_what_an_independent_model_leaves() {
    let model = Model::read();
    for case in &model.cases {
        let policy = case.policy();
        let (mut left, mut compared): (Vec<Made>, usize) = (vec![], 0);
        for day in 0..model.hours / 24 {
            left.extend((day * 24..day * 24 + 24).map(|id| model.made(id)));
            let now = left.last().unwrap().time;
            let stays = staying(&policy, &left, now);
            left.retain(|made| stays.binary_search(&made.id).is_ok());
            if let Some(expected) = case.nightly.get(&day) {
                assert_eq!(stays, *expected, "{}, day {day}", case.zone);
                compared += 1;
            }
        }
        assert_eq!(compared, case.nightly.len());
    }
}

#[test]
fn reasons_say_which_rule_keeps_a_snapshot_and_what_it_keeps_instead() {
    let policy = policy(&[(Rule::Daily, 2), (Rule::Weekly, 1), (Rule::Last, 1)]);
    let made = [
        Made::new(1, at("2026-11-20T01:00:00Z")),
        Made::new(2, at("2026-11-27T01:00:00Z")),
        Made::new(3, at("2026-11-27T05:00:00Z")),
        Made::new(4, at("2026-11-28T05:00:00Z")),
    ];
    let decided = decisions(&policy, &made, at("2026-11-28T06:00:00Z"));
    let told: Vec<Vec<String>> = decided
        .iter()
        .map(|decision| match decision {
            Decision::Stay(why) => why.iter().map(ToString::to_string).collect(),
            Decision::Go(why) => why.iter().map(ToString::to_string).collect(),
        })
        .collect();
    assert_eq!(
        told[0],
        [
            "last: number 4 is too long ago",
            "daily: 2026-11-20 is too long ago",
            "weekly: 2026-W47 is too long ago",
        ]
    );
    assert_eq!(
        told[1],
        [
            "last: number 3 is too long ago",
            "daily: 2026-11-27 has 00000003, which is newer",
            "weekly: 2026-W48 has 00000004, which is newer",
        ]
    );
    assert_eq!(told[2], ["daily (2026-11-27)"]);
    assert_eq!(
        told[3],
        [
            "last (number 1)",
            "daily (2026-11-28)",
            "weekly (2026-W48)",
            "last good snapshot"
        ]
    );
}

#[test]
fn a_snapshot_dated_in_the_future_stays_and_pushes_nothing_out() {
    let policy = policy(&[(Rule::Last, 3)]);
    let mut made = daily(0..5);
    made.insert(4, Made::new(99, at("2031-01-01T00:00:00Z")));
    let now = at("2026-01-05T13:00:00Z");
    assert_eq!(staying(&policy, &made, now), [2, 3, 99, 4]);
    // Nor does it count where to count back from.
    let within = Retention {
        within: Some(Stretch(1.day())),
        ..Retention::default()
    };
    assert_eq!(staying(&within, &made, now), [3, 99, 4]);
    // Clocks may differ by minutes.
    made[4].time = now + SignedDuration::from_mins(10);
    made.swap(4, 5);
    assert_eq!(staying(&policy, &made, now), [3, 4, 99]);
}

#[test]
fn a_time_out_of_order_pushes_nothing_out_when_it_has_come() {
    let policy = policy(&[(Rule::Daily, 3), (Rule::Yearly, 1)]);
    let mut made = daily(0..60);
    // The clock was seven weeks ahead on one night, and at zero on another.
    made[5].time = at("2026-02-28T23:00:00Z");
    made[50].time = at("1970-01-01T00:00:00Z");
    let before: Vec<Made> = made[..40].to_vec();
    assert_eq!(
        staying(&policy, &before, made[39].time),
        [5, 37, 38, 39],
        "it is of the future"
    );
    assert_eq!(staying(&policy, &made, made[59].time), [5, 50, 57, 58, 59]);
}

#[test]
fn what_is_not_good_pushes_out_nothing_that_is() {
    let policy = policy(&[(Rule::Daily, 3)]);
    let mut made = daily(0..10);
    for bad in &mut made[6..] {
        bad.standing = Standing::Lacking;
    }
    let now = made[9].time;
    assert_eq!(staying(&policy, &made, now), [3, 4, 5, 7, 8, 9]);
    // Of one day both stay: the newest, and the newest good one.
    made[9].time = made[8].time + SignedDuration::from_hours(1);
    made[8].standing = Standing::Complete;
    assert_eq!(staying(&policy, &made, now), [4, 5, 6, 7, 8, 9]);
}

#[test]
fn the_last_good_snapshot_stays_whatever_the_rules_say() {
    let none = Retention::default();
    let now = at("2027-01-01T00:00:00Z");
    let of = |made: &[Made]| staying(&none, made, now);
    let mut made = daily(0..4);
    assert_eq!(of(&made), [3]);
    made[3].standing = Standing::Lacking;
    assert_eq!(of(&made), [2], "it is the last that is complete");
    made[1].standing = Standing::Verified;
    assert_eq!(of(&made), [1], "it is the last that was verified");
    for made in &mut made {
        made.standing = Standing::Lacking;
    }
    assert_eq!(of(&made), [3], "none is good, and not all may go");
    let candidates: Vec<_> = made.iter().map(Made::candidate).collect();
    let all = decide(&none, &candidates, LastGood::MayGo, now);
    assert!(all.iter().all(Decision::goes));
    assert_eq!(of(&[]), [0; 0]);
}

#[test]
fn keys_that_a_restore_saved_stay_for_a_month_and_fill_no_quota() {
    let policy = policy(&[(Rule::Last, 2)]);
    let mut made = daily(0..4);
    made.push(Made::new(9, made[3].time + DAY).that_is(Standing::KeysOnly));
    assert_eq!(staying(&policy, &made, made[4].time), [2, 3, 9]);
    assert_eq!(staying(&policy, &made, made[4].time + DAY * 29), [2, 3, 9]);
    assert_eq!(staying(&policy, &made, made[4].time + DAY * 30), [2, 3]);
    assert_eq!(last_good_of(&[made[4].candidate()]), None);
}

#[test]
fn labels_and_a_stretch_of_the_calendar_keep_what_they_say() {
    let mut made = daily(0..120);
    made[7].labels.insert("env".into(), "prod".into());
    made[8].labels.insert("env".into(), "test".into());
    let policy = Retention {
        within: Some("1mo".parse().unwrap()),
        labels: vec!["env=prod".parse().unwrap()],
        ..Retention::default()
    };
    // The newest is of April 30.
    let expected: Vec<u32> = std::iter::once(7).chain(88..120).collect();
    assert_eq!(staying(&policy, &made, made[119].time), expected);
    let forever = Retention {
        within: Some("19000y".parse().unwrap()),
        ..Retention::default()
    };
    assert_eq!(staying(&forever, &made, made[119].time).len(), 120);
}

#[test]
fn lineages_of_one_instance_count_together_and_are_ordered_apart() {
    let policy = policy(&[(Rule::Daily, 2)]);
    let mut made = daily(0..8);
    // Copies come after what was made here, and are older.
    made.rotate_left(4);
    let mut candidates: Vec<_> = made.iter().map(Made::candidate).collect();
    for copied in &mut candidates[4..] {
        copied.origin = Some(RepositoryId([7; 32]));
    }
    let decided = decide(&policy, &candidates, LastGood::MayGo, made[3].time);
    let stays: Vec<u32> = made
        .iter()
        .zip(&decided)
        .filter(|(_, d)| !d.goes())
        .map(|(made, _)| made.id)
        .collect();
    assert_eq!(stays, [6, 7]);
}

fn any_made() -> impl Strategy<Value = Vec<Made>> {
    let one = (0..2_000_i64, 0..6_u8);
    proptest::collection::vec(one, 1..60).prop_map(|all| {
        let start = at("2026-01-01T00:00:00Z");
        let made = all.into_iter().enumerate().map(|(id, (hours, kind))| {
            let standing = match kind {
                0 => Standing::Lacking,
                1 => Standing::KeysOnly,
                2 => Standing::Verified,
                _ => Standing::Complete,
            };
            let time = start + SignedDuration::from_hours(hours);
            Made::new(u32::try_from(id).unwrap(), time).that_is(standing)
        });
        made.collect()
    })
}

fn any_policy() -> impl Strategy<Value = Retention> {
    let count = proptest::option::of(0..6_u32);
    proptest::collection::vec(count, Rule::ALL.len()).prop_map(|counts| {
        let rules = Rule::ALL.into_iter().zip(counts);
        let counts = rules.filter_map(|(rule, n)| Some((rule, Keep::Number(n?))));
        Retention {
            counts: counts.collect(),
            ..Retention::default()
        }
    })
}

proptest! {
    /// Whatever the clocks say: the last good one stays, and a policy that keeps more keeps all that a smaller
    /// one keeps.
    #[test]
    fn nothing_that_must_stay_goes(made in any_made(), policy in any_policy(), now in 0..2_500_i64) {
        let now = at("2026-01-01T00:00:00Z") + SignedDuration::from_hours(now);
        let stays = staying(&policy, &made, now);
        let candidates: Vec<_> = made.iter().map(Made::candidate).collect();
        if let Some((place, _)) = last_good_of(&candidates) {
            prop_assert!(stays.contains(&made[place].id));
        }
        for made in &made {
            if made.time > now + SignedDuration::from_hours(1) {
                prop_assert!(stays.contains(&made.id), "it is of the future");
            }
        }
        let more = Retention {
            counts: policy.counts.iter().map(|(rule, keep)| (*rule, match keep {
                Keep::Number(n) => Keep::Number(n + 1),
                Keep::All => Keep::All,
            })).collect(),
            ..policy.clone()
        };
        let with_more = staying(&more, &made, now);
        prop_assert!(stays.iter().all(|id| with_more.contains(id)));
        // Each day that has a snapshot keeps one.
        let each = Retention {
            counts: BTreeMap::from([(Rule::Daily, Keep::All)]),
            ..Retention::default()
        };
        let kept = staying(&each, &made, now);
        let day = |made: &Made| made.time.to_zoned(each.zone.clone()).date();
        let days = |ids: Option<&[u32]>| {
            let counts = |m: &&Made| m.standing != Standing::KeysOnly && m.time <= now;
            let listed = made.iter().filter(counts);
            let listed = listed.filter(|m| ids.is_none_or(|ids| ids.contains(&m.id)));
            listed.map(day).collect::<BTreeSet<_>>()
        };
        prop_assert_eq!(days(None), days(Some(&kept)));
    }
}

/// A repository with two snapshots of `main`.
async fn two_snapshots() -> Repository {
    let (_, repo) = fixture::repository().await;
    let contents = fixture::Contents {
        objects: BTreeMap::from([("insert_log/1/2/3/0/4".into(), fixture::noise(1, 100))]),
        wal: BTreeMap::new(),
        keys: vec![],
        body: fixture::body(),
    };
    for _ in 0..2 {
        fixture::commit(&repo, &contents).await;
    }
    repo
}

#[tokio::test]
async fn two_runs_at_once_that_would_leave_nothing_good_take_back_what_they_wrote() {
    let repo = two_snapshots().await;
    let all = repo.snapshots().await.unwrap().manifests;
    let unverified = Verified::new();
    let by_name =
        |manifest, last_good| Plan::by_name(&[manifest], &all, &unverified, last_good).unwrap();
    // Each was planned while the other snapshot was there.
    let of_older = by_name(&all[0], LastGood::Stays);
    let of_newer = by_name(&all[1], LastGood::MayGo);
    forget(&repo, &of_newer, &unverified).await.unwrap();
    let error = forget(&repo, &of_older, &unverified).await.unwrap_err();
    assert!(
        error.chain().contains("nothing is forgotten"),
        "{}",
        error.chain()
    );
    let left = repo.snapshots().await.unwrap();
    assert_eq!(left.damage, []);
    let left: Vec<SnapshotId> = left.manifests.iter().map(|m| m.snapshot).collect();
    assert_eq!(left, [all[0].snapshot]);
}

#[tokio::test]
async fn keys_that_a_restore_saved_go_by_name_although_the_instance_has_nothing_else() {
    let repo = two_snapshots().await;
    let mut all = repo.snapshots().await.unwrap().manifests;
    let (label, value) = KEYS_ONLY;
    for manifest in &mut all {
        manifest.labels.insert(label.into(), value.into());
    }
    let unverified = Verified::new();
    let named: Vec<&Manifest> = all.iter().collect();
    let plan = Plan::by_name(&named, &all, &unverified, LastGood::Stays).unwrap();
    forget(&repo, &plan, &unverified).await.unwrap();
    assert!(repo.snapshots().await.unwrap().manifests.is_empty());
}
