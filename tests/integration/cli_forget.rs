//! `forget` against a small real repository: the first snapshot is good, in the second an object is missing.

use crate::fixture::{Fixture, Ran};

/// The ids that `snapshots` lists.
fn listed(fixture: &Fixture) -> Vec<String> {
    let ran = fixture.run(&["snapshots", "--json"]).expect(0);
    let list = ran.json("snapshots");
    let list = list.as_array().unwrap().iter();
    list.map(|s| s["snapshot"].as_str().unwrap().to_owned())
        .collect()
}

/// The ids of what goes.
fn going(ran: &Ran) -> Vec<String> {
    let document = ran.json("forget");
    let snapshots = document["snapshots"].as_array().unwrap().iter();
    let going = snapshots.filter(|s| s["forgotten"] == true);
    going
        .map(|s| s["snapshot"].as_str().unwrap().to_owned())
        .collect()
}

fn set_retention(fixture: &Fixture, retention: &str) {
    let config = std::fs::read_to_string(fixture.path("eyrie.yaml")).unwrap();
    fixture.write_config(&format!("{config}retention: {retention}\n"));
}

#[test]
fn a_policy_keeps_what_its_rules_say_and_says_why() {
    let fixture = Fixture::new();
    set_retention(
        &fixture,
        "{keep_label: [night=1], time_zone: Asia/Kathmandu}",
    );
    let ran = fixture.run(&["forget", "--json", "--dry-run", "--remove-last-good"]);
    let ran = ran.expect(0);
    assert_eq!(going(&ran), [fixture.id(0)]);
    let document = ran.json("forget");
    assert_eq!(document["dry_run"], true);
    assert_eq!(document["policy"]["time_zone"], "Asia/Kathmandu");
    assert_eq!(document["snapshots"][0]["reasons"][0], "no rule keeps it");
    assert_eq!(document["snapshots"][1]["reasons"][0], "label night=1");
    assert_eq!(listed(&fixture).len(), 2, "a dry run does nothing");

    let ran = fixture.run(&["forget", "--json", "--remove-last-good"]);
    let ran = ran.expect(0);
    assert_eq!(going(&ran), [fixture.id(0)]);
    assert_eq!(ran.json("forget")["kept"], 1);
    assert_eq!(listed(&fixture), [fixture.id(1)]);
    // It is explained, so it is no damage; its bytes are there until a prune.
    fixture.run(&["verify"]).expect(0);
    let manifest = fixture.path("repo/snapshots").join(fixture.id(0));
    assert!(manifest.exists());
    let shown = fixture.run(&["show", &fixture.id(0)]).expect(1);
    assert!(shown.stderr().contains("no snapshot"), "{}", shown.stderr());
    let again = fixture.run(&["forget", "--remove-last-good"]).expect(0);
    assert!(
        again.stdout().contains("nothing to forget"),
        "{}",
        again.stdout()
    );
}

#[test]
fn options_replace_rules_of_the_configuration_one_by_one() {
    let fixture = Fixture::new();
    set_retention(&fixture, "{keep_daily: 7, keep_last: 1}");
    let run = |options: &[&str]| {
        let arguments = [
            &["forget", "--dry-run", "--json", "--remove-last-good"],
            options,
        ];
        going(&fixture.run(&arguments.concat()).expect(0))
    };
    assert_eq!(run(&[]), [""; 0]);
    // The second is not good, so each rule keeps the first, too.
    assert_eq!(run(&["--keep-daily", "0"]), [""; 0]);
    let none = [
        "--keep-daily",
        "0",
        "--keep-last",
        "0",
        "--keep-within",
        "1h",
    ];
    assert_eq!(run(&none), [fixture.id(0)]);
    let all = [
        "--keep-daily",
        "0",
        "--keep-last",
        "0",
        "--keep-yearly",
        "all",
    ];
    assert_eq!(run(&all), [""; 0]);
}

#[test]
fn a_repository_has_a_policy_of_its_own_in_place_of_that_at_the_top() {
    let fixture = Fixture::new();
    let config = std::fs::read_to_string(fixture.path("eyrie.yaml")).unwrap();
    let own = config.replace(
        "{name: primary,",
        "{name: primary, retention: {keep_weekly: 3},",
    );
    fixture.write_config(&format!(
        "{own}retention: {{keep_daily: 7, keep_within: 9d}}\n"
    ));
    let ran = fixture.run(&["forget", "--dry-run", "--json"]).expect(0);
    let policy = ran.json("forget")["policy"].clone();
    assert_eq!(policy["keep"], serde_json::json!({"weekly": "3"}));
    assert!(policy["within"].is_null());
}

#[test]
fn the_last_good_snapshot_does_not_go_by_its_name_unless_told_so() {
    let fixture = Fixture::new();
    let (good, lacking) = (fixture.id(0), fixture.id(1));
    let refused = fixture.run(&["forget", &lacking[..12], &good[..12]]);
    let refused = refused.expect(1);
    let said = format!("snapshot {} is the last good snapshot", &good[..8]);
    assert!(refused.stderr().contains(&said), "{}", refused.stderr());
    assert_eq!(listed(&fixture).len(), 2, "nothing of it was done");

    let ran = fixture.run(&["forget", "latest", "--json"]).expect(0);
    assert_eq!(going(&ran), [lacking]);
    assert!(ran.json("forget")["policy"].is_null());
    assert_eq!(listed(&fixture), std::slice::from_ref(&good));

    fixture.run(&["forget", &good]).expect(1);
    fixture
        .run(&["forget", &good, "--remove-last-good"])
        .expect(0);
    assert_eq!(listed(&fixture), [""; 0]);
    // What is left knows its history.
    fixture.run(&["snapshots"]).expect(0);
}

#[test]
fn one_that_was_verified_is_the_last_good_one() {
    let fixture = Fixture::with(crate::fixture::Lacks::Nothing);
    fixture.run(&["verify", &fixture.id(0)]).expect(0);
    let refused = fixture.run(&["forget", &fixture.id(0)]).expect(1);
    assert!(refused.stderr().contains("--remove-last-good"));
    // One that was found damaged is not good.
    for pack in fixture.files("data") {
        std::fs::remove_file(pack).unwrap();
    }
    fixture.run(&["verify"]).expect(22);
    let plan = fixture.run(&["forget", "--dry-run", "--json", "--keep-within", "1h"]);
    let plan = plan.expect(0).json("forget");
    let reasons = plan["snapshots"][1]["reasons"].to_string();
    assert!(reasons.contains("last snapshot"), "{plan}");
}

#[test]
fn nonsense_is_refused_and_named() {
    let fixture = Fixture::new();
    let no_policy = fixture.run(&["forget"]).expect(2);
    assert!(
        no_policy.stderr().contains("retention:"),
        "{}",
        no_policy.stderr()
    );
    fixture.run(&["forget", "--keep-daily", "0"]).expect(2);
    for wrong in [
        &["--keep-daily", "-3"][..],
        &["--keep-daily", "many"],
        &["--keep-within", "0d"],
        &["--keep-label", "night"],
        &["--time-zone", "Mars/Base"],
        &["--keep-last", "3", "latest"],
        &["--all-instances", "latest"],
        &["--all-instances", "--instance", "main", "--keep-last", "1"],
    ] {
        fixture.run(&[&["forget"], wrong].concat()).expect(2);
    }
    let unknown = ["forget", "--instance", "mian", "--keep-last", "1"];
    let unknown = fixture.run(&unknown).expect(1);
    assert!(unknown.stderr().contains("main"), "{}", unknown.stderr());
    fixture.run(&["forget", "ffffffffffff"]).expect(1);
    assert_eq!(listed(&fixture).len(), 2);

    let config = std::fs::read_to_string(fixture.path("eyrie.yaml")).unwrap();
    for (retention, said) in [
        ("{keep_dayly: 7}", "keep_daily"),
        ("{keep_daily: soon}", "retention.keep_daily"),
        ("{keep_daily: -7}", "a number or `all`"),
        ("{keep_within: 7}", "retention.keep_within"),
        ("{time_zone: Berlin}", "Europe/Berlin"),
        ("{keep_label: [x]}", "key=value"),
    ] {
        fixture.write_config(&format!("{config}retention: {retention}\n"));
        let ran = fixture.run(&["forget"]).expect(2);
        assert!(ran.stderr().contains(said), "{retention}: {}", ran.stderr());
    }
    // Without an instance it must be said whose snapshots are meant.
    let (_, repositories) = config.split_once("state_dir").unwrap();
    fixture.write_config(&format!(
        "state_dir{repositories}retention: {{keep_last: 1}}\n"
    ));
    fixture.run(&["forget"]).expect(2);
    fixture.run(&["forget", "--all-instances"]).expect(0);
    fixture.run(&["forget", "--instance", "main"]).expect(0);
}

fn pruned(fixture: &Fixture, options: &[&str]) -> serde_json::Value {
    let arguments = [
        &["prune", "--json", "--grace", "0s", "--max-unused", "0%"],
        options,
    ];
    fixture.run(&arguments.concat()).expect(0).json("prune")
}

#[test]
fn prune_frees_what_was_forgotten_in_two_steps_and_says_so() {
    let fixture = Fixture::new();
    let all = |fixture: &Fixture| -> u64 {
        let files = [fixture.files("data"), fixture.files("tree")].concat();
        files
            .iter()
            .map(|file| file.metadata().unwrap().len())
            .sum()
    };
    let before = all(&fixture);
    fixture
        .run(&["forget", &fixture.id(0), "--remove-last-good"])
        .expect(0);
    let dry = pruned(&fixture, &["--dry-run"]);
    assert_eq!(dry["dry_run"], true);
    assert_eq!(all(&fixture), before);
    let marked = pruned(&fixture, &[]);
    assert_eq!(marked["newly_marked"], dry["newly_marked"]);
    assert_eq!(marked["freed_bytes"], 0);
    assert!(marked["to_be_freed_bytes"].as_u64().unwrap() > 0);
    assert_eq!(marked["manifests_removed"][0], fixture.id(0));
    let swept = pruned(&fixture, &[]);
    assert_eq!(swept["freed_bytes"], marked["to_be_freed_bytes"]);
    assert_eq!(swept["to_be_freed_bytes"], 0);
    assert!(all(&fixture) < before);
    fixture.run(&["verify", "--level", "bytes"]).expect(0);
    assert_eq!(listed(&fixture), [fixture.id(1)]);
    let text = fixture.run(&["prune"]).expect(0);
    assert!(text.stdout().contains("freed"), "{}", text.stdout());
    for gone in ["repo/marks", "repo/leases"] {
        let left = std::fs::read_dir(fixture.path(gone));
        assert!(left.is_err() || left.unwrap().next().is_none(), "{gone}");
    }
}

#[test]
fn a_pruner_with_a_policy_keeps_back_what_that_keeps() {
    let fixture = Fixture::new();
    // The first is the only good one, and every rule keeps it.
    fixture
        .run(&["forget", &fixture.id(0), "--remove-last-good"])
        .expect(0);
    set_retention(&fixture, "{keep_daily: 7}");
    for _ in 0..2 {
        let report = pruned(&fixture, &[]);
        assert_eq!(report["kept_back"][0], fixture.id(0));
        assert_eq!(report["to_be_freed_bytes"], 0);
    }
    let text = fixture.run(&["prune"]).expect(0);
    assert!(
        text.stdout().contains("--accept-forgotten"),
        "{}",
        text.stdout()
    );
    let report = pruned(&fixture, &["--accept-forgotten"]);
    assert!(report["to_be_freed_bytes"].as_u64().unwrap() > 0);
    assert_eq!(report["kept_back"].as_array().unwrap().len(), 0);
}

#[test]
fn prune_refuses_nonsense_and_what_it_does_not_know() {
    let fixture = Fixture::new();
    for wrong in [
        &["--grace", "soon"][..],
        &["--max-unused", "lots"],
        &["--max-unused", "-1%"],
        &["--max-repack", "x"],
        &["latest"],
    ] {
        fixture.run(&[&["prune"], wrong].concat()).expect(2);
    }
    let manifest = fixture.path("repo/snapshots").join(fixture.id(0));
    crate::fixture::damage(&manifest);
    let refused = fixture.run(&["prune"]).expect(22);
    assert!(
        refused.stderr().contains("nothing is removed"),
        "{}",
        refused.stderr()
    );
    fixture.run(&["--repo", "gone", "prune"]).expect(10);
}
