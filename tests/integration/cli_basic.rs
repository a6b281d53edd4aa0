//! The command as a script sees it: exit codes, standard output, standard error.

use std::io::Read as _;
use std::path::Path;
use std::process::{Command, Output, Stdio};

use assert_cmd::cargo::CommandCargoExt as _;

fn eyrie(arguments: &[&str]) -> Command {
    let mut command = Command::cargo_bin("eyrie").unwrap();
    for (key, _) in std::env::vars() {
        if key.starts_with("EYRIE_") {
            command.env_remove(key);
        }
    }
    command.args(arguments).env_remove("NO_COLOR");
    command
}

fn run(arguments: &[&str]) -> Output {
    eyrie(arguments).output().unwrap()
}

fn stdout(output: &Output) -> &str {
    std::str::from_utf8(&output.stdout).unwrap()
}

fn stderr(output: &Output) -> &str {
    std::str::from_utf8(&output.stderr).unwrap()
}

fn write(dir: &Path, text: &str) -> String {
    let path = dir.join("eyrie.yaml");
    std::fs::write(&path, text).unwrap();
    path.to_str().unwrap().to_owned()
}

#[test]
fn help_and_version_are_results() {
    for arguments in [&["--help"][..], &["config", "--help"], &["help", "man"]] {
        let output = run(arguments);
        assert_eq!(output.status.code(), Some(0));
        assert!(stdout(&output).contains("Usage: eyrie") && output.stderr.is_empty());
    }
    let version = run(&["--version"]);
    assert_eq!(
        stdout(&version),
        format!("eyrie {}\n", env!("CARGO_PKG_VERSION"))
    );
}

#[test]
fn a_wrong_command_line_is_exit_2_with_nothing_on_stdout() {
    for arguments in [
        &[][..],
        &["frobnicate"],
        &["config"],
        &["config", "show", "--nope"],
        &["config", "show", "-q", "-v"],
        &["completions", "nosuchshell"],
        &["--progress", "loud", "man"],
    ] {
        let output = run(arguments);
        assert_eq!(output.status.code(), Some(2), "{arguments:?}");
        assert!(output.stdout.is_empty() && !output.stderr.is_empty());
    }
}

#[test]
fn an_unknown_key_names_line_and_nearest() {
    let dir = tempfile::tempdir().unwrap();
    let config = write(
        dir.path(),
        "instance:\n  name: main\n  etcd:\n    rootpath: x\n",
    );
    let output = run(&["config", "show", "--config", &config]);
    assert_eq!(output.status.code(), Some(2));
    assert!(output.stdout.is_empty());
    assert_eq!(
        stderr(&output),
        format!(
            "error: {config}:4: unknown key instance.etcd.rootpath\nhint: did you mean root_path?\n"
        )
    );
}

#[test]
fn a_missing_configuration_says_the_cause_and_the_way_out() {
    let output = run(&["config", "show", "--config", "/none/eyrie.yaml"]);
    assert_eq!(output.status.code(), Some(2));
    let text = stderr(&output);
    assert!(
        text.starts_with("error: cannot read the configuration /none/eyrie.yaml\n"),
        "{text}"
    );
    assert!(text.contains("\n  caused by: No such file"), "{text}");
    assert!(text.contains("\nhint: "), "{text}");
}

#[test]
fn json_errors_are_one_line_on_stderr() {
    for arguments in [
        &["--json", "config", "show", "--config", "/none"][..],
        &["--json", "frobnicate"],
        &["--json"],
    ] {
        let output = run(arguments);
        assert_eq!(output.status.code(), Some(2));
        assert!(output.stdout.is_empty());
        assert_eq!(stderr(&output).lines().count(), 1, "{}", stderr(&output));
        let document: serde_json::Value = serde_json::from_slice(&output.stderr).unwrap();
        assert_eq!(document["error"]["kind"], "usage");
        assert_eq!(document["error"]["exit_code"], 2);
        assert!(document["error"]["hint"].is_string());
    }
}

#[test]
fn the_configuration_is_found_by_flag_then_variable() {
    let dir = tempfile::tempdir().unwrap();
    let config = write(dir.path(), "repositories:\n  - {name: here, url: repo}\n");
    let output = eyrie(&["config", "show", "--json"])
        .env("EYRIE_CONFIG", &config)
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    let document: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(document["file"], config);
    let settings = document["settings"].as_array().unwrap();
    let url = settings
        .iter()
        .find(|s| s["key"] == "repositories[0].url")
        .unwrap();
    assert_eq!(url["value"], dir.path().join("repo").to_str().unwrap());
    assert_eq!(url["origin"], "explicit");
    let flag = ["config", "show", "--config", "/none"];
    let flag = eyrie(&flag).env("EYRIE_CONFIG", &config).output().unwrap();
    assert_eq!(flag.status.code(), Some(2));
}

#[test]
fn no_secret_is_ever_shown() {
    let dir = tempfile::tempdir().unwrap();
    let milvus = "minio: {secretAccessKey: hunter2}\netcd: {auth: {enabled: true, userName: u, password: hunter3}}\n";
    std::fs::write(dir.path().join("milvus.yaml"), milvus).unwrap();
    let text =
        "instance: {name: main, milvus_yaml: milvus.yaml}\nrepositories: [{name: r, url: /r}]\n";
    let config = write(dir.path(), text);
    for format in ["--json", "-vvv"] {
        let mut command = eyrie(&["config", "show", "--config", &config, format]);
        let output = command.env("EYRIE_PASSPHRASE", "hunter4").output().unwrap();
        assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
        let said = format!("{}{}", stdout(&output), stderr(&output));
        assert!(
            said.contains("********") && !said.contains("hunter"),
            "{said}"
        );
    }
}

#[test]
fn only_our_own_variables_are_read() {
    let dir = tempfile::tempdir().unwrap();
    let config = write(dir.path(), "instance: {name: main}\n");
    let plain = run(&["config", "show", "--config", &config]);
    let mut command = eyrie(&["config", "show", "--config", &config]);
    command
        .env("MILVUS_PORT", "tcp://10.0.0.1:19530")
        .env("ETCD_ENDPOINTS", "elsewhere:2379");
    let output = command.env("MINIO_ADDRESS", "elsewhere").output().unwrap();
    assert_eq!(stdout(&output), stdout(&plain));
}

#[test]
fn the_example_and_the_schema_belong_together() {
    let dir = tempfile::tempdir().unwrap();
    let example = run(&["config", "example"]);
    assert_eq!(example.status.code(), Some(0));
    std::fs::write(dir.path().join("milvus.yaml"), "proxy: {port: 19530}\n").unwrap();
    let text = stdout(&example).replace("/srv/milvus/configs/", "");
    let config = write(dir.path(), &text);
    let show = run(&["config", "show", "--config", &config]);
    assert_eq!(show.status.code(), Some(0), "{}", stderr(&show));
    let schema = run(&["config", "schema"]);
    let schema: serde_json::Value = serde_json::from_slice(&schema.stdout).unwrap();
    assert!(schema["properties"]["instance"].is_object());
}

#[test]
fn a_closed_pipe_is_no_error() {
    for arguments in [
        &["completions", "bash"][..],
        &["man"],
        &["config", "schema"],
        &["--help"],
    ] {
        let mut command = eyrie(arguments);
        let mut child = command
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        drop(child.stdout.take());
        let mut said = String::new();
        child
            .stderr
            .take()
            .unwrap()
            .read_to_string(&mut said)
            .unwrap();
        assert_eq!(
            child.wait().unwrap().code(),
            Some(0),
            "{arguments:?}: {said}"
        );
        assert_eq!(said, "");
    }
}

#[test]
fn completions_exist_for_every_shell() {
    for shell in ["bash", "zsh", "fish", "elvish", "powershell"] {
        let output = run(&["completions", shell]);
        assert_eq!(output.status.code(), Some(0));
        assert!(stdout(&output).contains("completions"), "{shell}");
    }
}

#[test]
fn manual_pages_are_printed_or_written() {
    let output = run(&["man"]);
    assert!(
        stdout(&output).contains(".TH eyrie 1"),
        "{}",
        stdout(&output)
    );
    let dir = tempfile::tempdir().unwrap();
    let output = run(&["man", "--dir", dir.path().to_str().unwrap()]);
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    assert!(dir.path().join("eyrie-config-show.1").exists());
    let output = run(&["man", "--dir", "/none/such"]);
    assert_eq!(output.status.code(), Some(1));
}
