//! Every verb against a small real repository: documents, their schemas, exit codes.

use std::collections::BTreeMap;

use rstest::rstest;

use crate::fixture::{DROPPED, Fixture, Lacks, damage};

#[test]
fn snapshots_are_listed_with_the_fields_of_the_contract() {
    let fixture = Fixture::new();
    let list = fixture.run(&["snapshots", "--json"]).expect(0);
    let list = list.json("snapshots");
    let list = list.as_array().unwrap();
    assert_eq!(list.len(), 2);
    assert_eq!(list[1]["snapshot"], fixture.id(1));
    assert_eq!(list[1]["parent"], fixture.id(0));
    assert_eq!(list[1]["time"], "2026-11-23T02:00:00Z");
    assert_eq!(list[1]["labels"]["night"], "1");
    assert_eq!(list[1]["weakened"][0]["kind"], "missing-objects");
    assert!(list[0]["verified"].is_null() && list[0]["parent"].is_null());
    let text = fixture.run(&["snapshots"]).expect(0);
    let marked = format!("{}!", &fixture.id(1)[..12]);
    assert!(text.stdout().contains(&marked), "{}", text.stdout());
    assert!(text.stderr().is_empty(), "{}", text.stderr());
}

#[test]
fn what_cannot_be_read_is_told_after_what_can() {
    let fixture = Fixture::new();
    damage(&fixture.path("repo/snapshots").join(fixture.id(1)));
    let list = fixture.run(&["snapshots", "--json"]).expect(22);
    assert_eq!(list.json("snapshots").as_array().unwrap().len(), 1);
    let error: serde_json::Value = serde_json::from_str(list.stderr().trim()).unwrap();
    crate::fixture::schema::check("error", &error);
    assert_eq!(error["error"]["exit_code"], 22);
    // The damaged one may be the latest.
    fixture.run(&["show", "latest"]).expect(22);
    fixture.run(&["show", &fixture.id(1)[..10]]).expect(22);
    fixture.run(&["show", &fixture.id(0)[..10]]).expect(0);
}

#[test]
fn a_snapshot_that_is_gone_is_damage() {
    let fixture = Fixture::new();
    std::fs::remove_file(fixture.path("repo/snapshots").join(fixture.id(0))).unwrap();
    let list = fixture.run(&["snapshots"]).expect(22);
    assert!(
        list.stderr()
            .contains("snapshot 1 of instance \"main\" is missing")
    );
    assert!(list.stdout().contains(&fixture.id(1)[..12]));
}

#[test]
fn the_newest_snapshot_that_is_gone_is_damage_where_it_was_seen() {
    let fixture = Fixture::new();
    std::fs::remove_file(fixture.path("repo/snapshots").join(fixture.id(1))).unwrap();
    let what = format!(
        "snapshot 2 of instance \"main\", {}, which this host saw, is gone",
        &fixture.id(1)[..8]
    );
    for verb in ["snapshots", "verify"] {
        let ran = fixture.run(&[verb]).expect(22);
        let told = [ran.stderr(), ran.stdout()].concat();
        assert!(told.contains(&what), "{told}");
    }
    // A host that never saw it says that it cannot know.
    std::fs::remove_dir_all(fixture.path("state")).unwrap();
    let list = fixture.run(&["snapshots"]).expect(0);
    assert!(list.stderr().contains("no memory"), "{}", list.stderr());
    let list = fixture.run(&["snapshots"]).expect(0);
    assert_eq!(list.stderr(), "");
}

#[test]
fn show_tells_collections_holds_and_what_is_missing() {
    let fixture = Fixture::new();
    let shown = fixture.run(&["show", "latest", "--json"]).expect(0);
    let shown = shown.json("show");
    assert_eq!(shown["snapshot"], fixture.id(1));
    assert_eq!(
        (&shown["sequence"], &shown["revision"]),
        (&2.into(), &778.into())
    );
    assert_eq!(shown["write_hold_ms"], 4_200);
    assert_eq!(shown["holds"][0]["kind"], "writes");
    assert_eq!(shown["holds"][0]["state"], "held");
    assert_eq!(shown["missing"].as_array().unwrap().len(), 1);
    assert!(
        shown["cut"]["time"]
            .as_str()
            .unwrap()
            .starts_with("2026-11-23T")
    );
    let catalog = shown["catalog"].as_array().unwrap();
    let collection = |database: &str, name: &str| {
        catalog
            .iter()
            .find(|c| c["database"] == database && c["name"] == name)
    };
    assert_eq!(catalog.len() as u64, shown["collections"].as_u64().unwrap());
    assert!(collection(DROPPED.0, DROPPED.1).is_none());
    let hnsw = collection("default", "hnsw").unwrap();
    assert_eq!(hnsw["aliases"][0], "main_alias");
    assert_eq!(hnsw["partitions"], 3);
    assert!(
        hnsw["indexes"]
            .as_array()
            .unwrap()
            .iter()
            .any(|i| i["type"] == "HNSW")
    );
    assert!(hnsw["rows"].as_u64().unwrap() > 0 && hnsw["objects"].as_u64().unwrap() > 0);
    let part = collection("default", "partload").unwrap();
    assert_eq!(part["load"]["partitions"].as_array().unwrap().len(), 1);
    assert_eq!(
        collection("default", "ttl").unwrap()["ttl_seconds"],
        864_000
    );
    let total: u64 = catalog.iter().map(|c| c["objects"].as_u64().unwrap()).sum();
    assert_eq!(total, shown["objects"].as_u64().unwrap());
    let text = fixture.run(&["show", "latest"]).expect(0);
    for part in [
        "writes: held for 4.2 s",
        "main_alias",
        "missing-objects",
        "nothing in it is newer",
    ] {
        assert!(text.stdout().contains(part), "{part}: {}", text.stdout());
    }
}

#[test]
fn ls_lists_the_plain_hash_of_every_object() {
    let fixture = Fixture::new();
    let list = fixture
        .run(&["ls", &fixture.id(0)[..8], "--json"])
        .expect(0);
    let list = list.json("ls");
    let listed: BTreeMap<&str, (&str, u64)> = list
        .as_array()
        .unwrap()
        .iter()
        .map(|o| {
            let hash = o["blake3"].as_str().unwrap();
            (
                o["path"].as_str().unwrap(),
                (hash, o["size"].as_u64().unwrap()),
            )
        })
        .collect();
    assert_eq!(listed.len(), fixture.objects[0].len());
    for (path, bytes) in &fixture.objects[0] {
        let hash = blake3::hash(bytes).to_hex();
        assert_eq!(
            listed[path.as_str()],
            (hash.as_str(), bytes.len() as u64),
            "{path}"
        );
    }
    let some = fixture
        .run(&["ls", "latest", "index_files/*", "--json"])
        .expect(0);
    let some = some.json("ls");
    let some = some.as_array().unwrap();
    assert!(!some.is_empty() && some.iter().all(|o| o["kind"] == "index_files"));
    let none = fixture
        .run(&["ls", "latest", "nothing", "--json"])
        .expect(0);
    assert_eq!(none.stdout(), "[]\n");
    let lines = fixture.run(&["ls", "latest"]).expect(0);
    assert_eq!(lines.stdout().lines().count(), fixture.objects[1].len());
}

#[test]
fn diff_tells_what_changed() {
    let fixture = Fixture::new();
    let (from, to) = (fixture.id(0), fixture.id(1));
    let diff = fixture.run(&["diff", &from, &to, "--json"]).expect(0);
    let diff = diff.json("diff");
    let gone = fixture.objects[0].len() - fixture.objects[1].len();
    assert_eq!(diff["objects"]["removed"], gone);
    assert_eq!(diff["objects"]["added"], 0);
    assert_eq!(
        diff["objects"]["changed"], 1,
        "another identity alone is no change"
    );
    assert_eq!(diff["objects"]["same"], fixture.objects[1].len() - 1);
    assert_eq!(diff["entries"].as_array().unwrap().len(), gone + 1);
    let metadata = diff["metadata"].as_array().unwrap();
    assert_eq!(metadata.len(), 1, "{metadata:?}");
    assert_eq!(metadata[0]["change"], "removed");
    let name = format!("collection {}.{} ", DROPPED.0, DROPPED.1);
    assert!(metadata[0]["what"].as_str().unwrap().starts_with(&name));
    let same = fixture.run(&["diff", &to, "latest", "--json"]).expect(0);
    let same = same.json("diff");
    assert!(same["entries"].as_array().unwrap().is_empty());
    assert_eq!(same["objects"]["same"], fixture.objects[1].len());
}

#[test]
fn a_damaged_tree_is_exit_22_and_no_whole_list() {
    let fixture = Fixture::new();
    for pack in fixture.files("tree") {
        damage(&pack);
    }
    for arguments in [
        &["ls", "latest", "--json"][..],
        &["show", "latest"],
        &["diff", &fixture.id(0), "latest"],
    ] {
        let ran = fixture.run(arguments).expect(22);
        assert!(serde_json::from_slice::<serde_json::Value>(&ran.0.stdout).is_err());
    }
}

/// Every verb that needs a repository, as it is called when there is one.
const VERBS: [&[&str]; 8] = [
    &["verify"],
    &["restore", "latest", "--dry-run"],
    &["snapshots"],
    &["show", "latest"],
    &["ls", "latest"],
    &["diff", "latest", "latest"],
    &["backup"],
    &["backup", "--dry-run"],
];

#[test]
fn no_repository_is_exit_10() {
    let fixture = Fixture::new();
    for verb in VERBS {
        let ran = fixture
            .run(&[&["--repo", "gone"], verb].concat())
            .expect(10);
        assert!(
            ran.stdout().is_empty() && ran.stderr().contains("hint: "),
            "{verb:?}"
        );
    }
    std::fs::create_dir(fixture.path("gone")).unwrap();
    for verb in VERBS {
        fixture
            .run(&[&["--repo", "gone"], verb].concat())
            .expect(10);
    }
}

#[test]
fn a_wrong_passphrase_is_exit_12_and_none_is_exit_2() {
    let fixture = Fixture::new();
    std::fs::write(fixture.path("passphrase"), "bald eagle").unwrap();
    for verb in VERBS {
        fixture.run(verb).expect(12);
    }
    std::fs::remove_file(fixture.path("passphrase")).unwrap();
    for verb in VERBS {
        fixture.run(verb).expect(2);
    }
}

#[test]
fn a_newer_format_is_exit_13() {
    let fixture = Fixture::new();
    let line = r#"{"format":2,"something":"else"}"#;
    let config = format!("{line}\n{}\n", blake3::hash(line.as_bytes()).to_hex());
    std::fs::write(fixture.path("repo/config"), config).unwrap();
    for verb in VERBS {
        fixture.run(verb).expect(13);
    }
}

#[rstest]
#[case(&["show", "xyz"], 2)]
#[case(&["show"], 2)]
#[case(&["ls", ""], 2)]
#[case(&["backup", "--limit-rate", "0"], 2)]
#[case(&["backup", "--limit-rate", "fast"], 2)]
#[case(&["backup", "--method", "ebs"], 2)]
#[case(&["--repo", "nosuch", "snapshots"], 2)]
#[case(&["show", "0000000000000000000000000000000000"], 1)]
fn what_is_wrong_on_the_command_line(#[case] arguments: &[&str], #[case] code: i32) {
    let fixture = Fixture::new();
    let ran = fixture.run(arguments).expect(code);
    assert!(ran.stdout().is_empty() && !ran.stderr().is_empty());
}

#[test]
fn latest_is_of_the_configured_instance_or_of_the_only_one() {
    let fixture = Fixture::new();
    let config = std::fs::read_to_string(fixture.path("eyrie.yaml")).unwrap();
    fixture.write_config(&config.replace("name: main", "name: spare"));
    let shown = fixture.run(&["show", "latest", "--json"]).expect(0);
    assert_eq!(shown.json("show")["snapshot"], fixture.id(1));
}

#[test]
fn a_backup_of_what_cannot_be_reached_is_exit_20() {
    let fixture = Fixture::new();
    for arguments in [
        &["backup"][..],
        &["backup", "--dry-run"],
        &["backup", "--mode", "cold"],
    ] {
        let ran = fixture.run(arguments).expect(20);
        assert!(ran.stdout().is_empty() && ran.stderr().contains("127.0.0.1:1"));
    }
}

#[test]
fn check_reaches_everything_also_after_a_failure() {
    let fixture = Fixture::new();
    let check = fixture.run(&["check", "--json"]).expect(20);
    let check = check.json("check");
    assert_eq!(check["ready"], false);
    assert_eq!(check["exit_code"], 20);
    assert!(check["backup"].is_null());
    assert_eq!(check["etcd"]["reachable"], false);
    assert_eq!(check["milvus"]["reachable"], false);
    assert_eq!(check["milvus"]["version"], "2.3.5");
    assert_eq!(check["milvus"]["gc_pause"], false);
    assert_eq!(check["objects"]["reachable"], true);
    assert_eq!(check["wal"]["kind"], "rocksmq");
    assert_eq!(check["wal"]["reset_proven"], true);
    assert_eq!(check["repository"]["opens"], true);
    assert_eq!(check["repository"]["snapshots"], 2);
    assert_eq!(check["repository"]["latest"], fixture.id(1));
    let findings = check["findings"].as_array().unwrap();
    // A backup does without the management port.
    for (kind, severity) in [
        ("etcd", "refusal"),
        ("milvus", "refusal"),
        ("management", "note"),
    ] {
        let found = |f: &&serde_json::Value| f["kind"] == kind && f["severity"] == severity;
        assert_eq!(
            findings.iter().filter(found).count(),
            1,
            "{kind}: {findings:#?}"
        );
    }
    let text = fixture.run(&["check", "--repo", "gone"]).expect(20);
    for part in [
        "NOT REACHED",
        "DOES NOT OPEN",
        "no quiesced backup by copy can start (exit 20)",
    ] {
        assert!(text.stdout().contains(part), "{part}: {}", text.stdout());
    }
}

#[test]
fn check_says_what_an_embedded_etcd_cannot() {
    let fixture = Fixture::new();
    let config = std::fs::read_to_string(fixture.path("eyrie.yaml")).unwrap();
    let milvus = "etcd: {use: {embed: true}, data: {dir: etcd}}\ncommon: {storageType: local}\n";
    std::fs::write(fixture.path("milvus.yaml"), milvus).unwrap();
    fixture
        .write_config(&config.replace("  name: main", "  name: main\n  milvus_yaml: milvus.yaml"));
    let check = fixture.run(&["check", "--json"]).expect(20);
    let check = check.json("check");
    assert_eq!(check["etcd"]["embedded"], true);
    let findings = check["findings"].as_array().unwrap();
    let held = findings.iter().find(|f| f["kind"] == "write-hold").unwrap();
    let hint = held["hint"].as_str().unwrap();
    assert!(hint.contains("--mode hot") && hint.contains("--mode cold"));
}

#[test]
fn init_probes_its_store_and_reminds_of_the_passphrase() {
    let fixture = Fixture::new();
    let made = fixture.run(&["--repo", "gone", "init", "--json"]).expect(0);
    let made = made.json("init");
    assert_eq!(made["encrypted"], true);
    assert_eq!(made["conditional_create"], true);
    assert_eq!(made["versions"], false);
    assert_eq!(made["writer_can_destroy"], true);
    assert_eq!(made["notes"][0]["kind"], "keep-passphrase");
    let config = std::fs::read_to_string(fixture.path("gone/config")).unwrap();
    assert!(
        config.contains("\"conditional_create\":\"works\""),
        "{config}"
    );
    let left = std::fs::read_dir(fixture.path("gone")).unwrap();
    let left: Vec<_> = left
        .map(|e| e.unwrap().file_name().into_string().unwrap())
        .collect();
    assert!(
        !left.iter().any(|name| name.starts_with("probe-")),
        "{left:?}"
    );
    assert_eq!(
        fixture
            .run(&["--repo", "gone", "snapshots"])
            .expect(0)
            .stdout(),
        "no snapshots\n"
    );
    fixture.run(&["--repo", "gone", "show", "latest"]).expect(1);
    let again = fixture.run(&["--repo", "gone", "init"]).expect(1);
    assert!(again.stderr().contains("already"), "{}", again.stderr());
}

#[test]
fn a_result_that_cannot_be_written_stands_on_standard_error() {
    let fixture = Fixture::new();
    let ran = fixture.run_into_a_full_device(&["--repo", "gone", "init"]);
    let said = ran.expect(1);
    let made = std::fs::read_to_string(fixture.path("gone/config")).unwrap();
    let made: serde_json::Value = serde_json::from_str(made.lines().next().unwrap()).unwrap();
    let id = made["repository"].as_str().unwrap();
    let (result, error) = said.stderr().split_once("error: ").unwrap();
    assert!(result.contains(id), "{result}");
    assert!(error.contains("cannot write to standard output"), "{error}");
    let ran = fixture.run_into_a_full_device(&["show", "latest", "--json"]);
    let said = ran.expect(1);
    let mut lines = said.stderr().lines();
    let shown: serde_json::Value = serde_json::from_str(lines.next().unwrap()).unwrap();
    assert!(shown["snapshot"].is_string(), "{shown}");
    let error: serde_json::Value = serde_json::from_str(lines.next().unwrap()).unwrap();
    assert_eq!(error["error"]["exit_code"], 1);
}

#[test]
fn init_without_encryption_says_so() {
    let fixture = Fixture::new();
    fixture.write_config("repositories: [{name: open, url: open}]\n");
    let refused = fixture.run(&["init"]).expect(2);
    assert!(
        refused.stderr().contains("--no-encryption"),
        "{}",
        refused.stderr()
    );
    let made = fixture.run(&["init", "--no-encryption"]).expect(0);
    assert!(made.stdout().contains("IN THE CLEAR"), "{}", made.stdout());
    fixture.run(&["snapshots"]).expect(0);
}

#[test]
fn a_whole_repository_verifies_at_every_level() {
    let fixture = Fixture::new();
    for level in ["existence", "structure", "bytes"] {
        let verified = fixture
            .run(&["verify", "--level", level, "--json"])
            .expect(0);
        let verified = verified.json("verify");
        assert_eq!(verified["level"], level);
        assert_eq!(verified["snapshots"], 2);
        let objects = fixture.objects[0].len() + fixture.objects[1].len();
        assert_eq!(verified["objects"], objects);
        assert!(verified["damage"].as_array().unwrap().is_empty());
        assert_eq!(
            verified["bytes_read"].as_u64().unwrap() > 0,
            level == "bytes"
        );
    }
    let one = fixture.run(&["verify", "latest", "--json"]).expect(0);
    assert_eq!(one.json("verify")["objects"], fixture.objects[1].len());
    let text = fixture.run(&["verify"]).expect(0);
    assert!(
        text.stdout().starts_with("structure: no damage in "),
        "{}",
        text.stdout()
    );
}

#[test]
fn the_newest_verification_of_a_snapshot_is_listed() {
    let fixture = Fixture::new();
    let verified = |number: usize| {
        let list = fixture.run(&["snapshots", "--json"]).expect(0);
        list.json("snapshots")[number]["verified"].clone()
    };
    fixture
        .run(&["verify", "--level", "bytes", "--sample", "1/2"])
        .expect(0);
    assert_eq!(verified(0)["level"], "structure", "a sample proves no more");
    fixture
        .run(&["verify", &fixture.id(1), "--level", "bytes"])
        .expect(0);
    assert_eq!(
        (&verified(0)["level"], &verified(1)["level"]),
        (&"structure".into(), &"bytes".into())
    );
    assert_eq!(verified(1)["damage"], 0);
    let pack = fixture.files("data").remove(0);
    std::fs::remove_file(&pack).unwrap();
    fixture.run(&["verify"]).expect(22);
    assert!((0..2).any(|n| verified(n)["damage"].as_u64().unwrap() > 0));
    let list = fixture.run(&["snapshots"]).expect(0);
    assert!(list.stdout().contains("DAMAGED"), "{}", list.stdout());
    damage(&fixture.files("verified")[0]);
    fixture.run(&["snapshots"]).expect(0);
}

#[test]
fn samples_are_of_bytes_and_parts_make_the_whole() {
    let fixture = Fixture::new();
    fixture.run(&["verify", "--sample", "10%"]).expect(2);
    let read = |sample: &str| {
        let arguments = ["verify", "--level", "bytes", "--sample", sample, "--json"];
        let verified = fixture.run(&arguments).expect(0);
        verified.json("verify")["bytes_read"].as_u64().unwrap()
    };
    let whole = read("100%");
    assert_eq!(read("1/1"), whole);
    assert_eq!(read("1/3") + read("2/3") + read("3/3"), whole);
    assert!(read("10%") <= whole);
}

#[test]
fn a_missing_pack_is_found_by_every_level() {
    let fixture = Fixture::new();
    let pack = fixture.files("data").remove(0);
    std::fs::remove_file(&pack).unwrap();
    for level in ["existence", "structure", "bytes"] {
        let verified = fixture
            .run(&["verify", "--level", level, "--json"])
            .expect(22);
        let damage = &verified.json("verify")["damage"][0];
        assert_eq!(damage["kind"], "pack", "{level}");
        assert!(pack.ends_with(damage["where"].as_str().unwrap()));
        assert!(
            !damage["snapshots"].as_array().unwrap().is_empty(),
            "{level}"
        );
    }
}

#[test]
fn a_flipped_bit_is_found_by_reading_bytes() {
    let fixture = Fixture::new();
    damage(&fixture.files("data")[0]);
    fixture.run(&["verify"]).expect(0);
    let verified = fixture
        .run(&["verify", "--level", "bytes", "--json"])
        .expect(22);
    let verified = verified.json("verify");
    let found = verified["damage"].as_array().unwrap();
    assert_eq!(found.len(), 1, "{found:#?}");
    assert_eq!(found[0]["kind"], "bytes");
    let text = fixture.run(&["verify", "--level", "bytes"]).expect(22);
    assert!(
        text.stdout().contains("DAMAGE bytes: data/"),
        "{}",
        text.stdout()
    );
}

#[test]
fn a_damaged_index_is_a_finding() {
    let fixture = Fixture::new();
    damage(&fixture.files("index")[0]);
    let verified = fixture.run(&["verify", "--json"]).expect(22);
    let verified = verified.json("verify");
    assert_eq!(verified["damage"][0]["kind"], "index");
    // Its blobs are known by the directories of their packs.
    let suffer = verified["damage"][0]["snapshots"].as_array().unwrap();
    assert!(suffer.is_empty(), "{verified:#}");
    fixture.run(&["verify", "--level", "bytes"]).expect(22);
}

#[test]
fn an_object_that_the_metadata_requires_is_missed_by_name() {
    let fixture = Fixture::with(Lacks::OneObject);
    fixture.run(&["verify", "--level", "existence"]).expect(0);
    fixture.run(&["verify", &fixture.id(0)]).expect(0);
    let verified = fixture.run(&["verify", "--json"]).expect(22);
    let verified = verified.json("verify");
    let found = verified["damage"].as_array().unwrap();
    assert_eq!(found.len(), 1, "{found:#?}");
    assert_eq!(found[0]["kind"], "contents");
    assert_eq!(found[0]["snapshots"][0], fixture.id(1));
    let gone = fixture.objects[0].keys().find(|path| {
        !fixture.objects[1].contains_key(*path)
            && found[0]["what"].as_str().unwrap().contains(path.as_str())
    });
    assert!(gone.is_some(), "{found:#?}");
}
