"""What eyrie cannot do it says, with the exit code that `eyrie --help` lists for it, and loses nothing."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import yaml
from blake3 import blake3
from conftest import Lab, objects_of
from lab.eyrie import PASSPHRASE, TIMEOUT, Eyrie, merged
from lab.faults import FaultyS3
from lab.servers import wait_until
from pymilvus import Collection, CollectionSchema, DataType, FieldSchema
from test_kill import await_writes, holds, writes_pass

FORCE_DENY = "config/quotaAndLimits/limitWriting/forceDeny"


def variant(eyrie: Eyrie, name: str, **changes: Any) -> Eyrie:
    """eyrie with a changed configuration file."""
    config = merged(yaml.safe_load(eyrie.config.read_text()), changes)
    path = eyrie.config.parent / f"eyrie-variant-{name}.yaml"
    path.write_text(yaml.safe_dump(config))
    return Eyrie(eyrie.binary, path)


def milvus_yaml(lab: Lab, name: str, **changes: Any) -> str:
    path = lab.instance.directory / f"milvus-{name}.yaml"
    path.write_text(yaml.safe_dump(merged(lab.instance.config, changes)))
    return str(path)


def repository(eyrie: Eyrie, **changes: Any) -> list[dict[str, Any]]:
    return [merged(yaml.safe_load(eyrie.config.read_text())["repositories"][0], changes)]


def lost_nothing(eyrie: Eyrie, lab: Lab) -> None:
    """No hold is left behind, and every snapshot is whole."""
    assert holds(lab.instance) == []
    eyrie.expect(0, "verify", "--level", "structure")


@pytest.mark.parametrize(
    ("name", "instance", "words"),
    [
        ("server-down", {"milvus": {"address": "127.0.0.1:1"}}, ["127.0.0.1:1"]),
        ("etcd-down", {"etcd": {"endpoints": ["127.0.0.1:1"]}}, ["127.0.0.1:1"]),
        ("wrong-root-path", {"etcd": {"root_path": "nobody"}}, ["nobody"]),
    ],
)
def test_what_cannot_be_captured_is_refused_with_20_and_named(
    name: str, instance: dict[str, Any], words: list[str], known: Eyrie, source: Callable[[str], Lab]
) -> None:
    result = variant(known, name, instance=instance).expect(20, "backup")
    assert all(word in result.err for word in words), str(result)
    lost_nothing(known, source("local"))


def test_a_storage_directory_that_is_not_there_is_refused_with_20_and_named(known: Eyrie) -> None:
    objects = {"type": "local", "path": "/nowhere/at/all"}
    assert "/nowhere/at/all" in variant(known, "no-storage", instance={"objects": objects}).expect(20, "backup").err


def test_a_wrong_password_is_refused_with_20_and_not_shown(known: Eyrie, source: Callable[[str], Lab]) -> None:
    password = known.config.parent / "wrong.password"
    password.write_text("not-the-password\n")
    result = variant(known, "password", instance={"milvus": {"password_file": str(password)}}).expect(20, "backup")
    assert "not-the-password" not in result.err + result.out
    lost_nothing(known, source("local"))


def test_a_tikv_metastore_is_refused_with_20(known: Eyrie, source: Callable[[str], Lab]) -> None:
    path = milvus_yaml(source("local"), "tikv", metastore={"type": "tikv"})
    result = variant(known, "tikv", instance={"milvus_yaml": path}).expect(20, "backup")
    assert "tikv" in result.err.lower()


@pytest.mark.s3
def test_a_missing_bucket_is_refused_with_20_and_named(source: Callable[[str], Lab], binary: Path) -> None:
    lab = source("s3")
    eyrie = lab.eyrie(binary, "no-bucket")
    eyrie.expect(0, "init")
    path = milvus_yaml(lab, "no-bucket", minio={"bucketName": "there-is-no-such-bucket"})
    result = variant(eyrie, "no-bucket", instance={"milvus_yaml": path}).expect(20, "backup")
    assert "there-is-no-such-bucket" in result.err


@pytest.mark.embedded
def test_embedded_etcd_refuses_a_write_hold_with_20_and_names_hot_and_cold(
    source: Callable[[str], Lab], binary: Path
) -> None:
    eyrie = source("embedded").eyrie(binary, "no-hold")
    eyrie.expect(0, "init")
    result = eyrie.expect(20, "backup", "--mode", "quiesced")
    assert "hot" in result.err and "cold" in result.err, str(result)


def test_an_unknown_key_is_refused_with_2_and_the_nearest_is_named(known: Eyrie) -> None:
    result = variant(known, "unknown-key", instance={"milvus": {"adress": "127.0.0.1:1"}}).expect(2, "check")
    assert "adress" in result.err and "address" in result.err


def test_a_milvus_yaml_that_contradicts_itself_is_refused_with_2(known: Eyrie, source: Callable[[str], Lab]) -> None:
    env = known.config.parent / "cluster.env"
    env.write_text("DEPLOY_MODE=DISTRIBUTED\n")
    assert source("local").instance.config["common"]["storageType"] == "local"
    variant(known, "contradiction", instance={"milvus_env_file": str(env)}).expect(2, "check")


def test_no_repository_is_10(known: Eyrie) -> None:
    elsewhere = repository(known, url=str(known.config.parent / "no-repository"))
    variant(known, "no-repository", repositories=elsewhere).expect(10, "snapshots")


def test_a_wrong_passphrase_is_12_and_not_shown(known: Eyrie) -> None:
    passphrase = known.config.parent / "wrong.passphrase"
    passphrase.write_text(PASSPHRASE.upper() + "\n")
    wrong = repository(known, passphrase_file=str(passphrase))
    result = variant(known, "passphrase", repositories=wrong).expect(12, "snapshots")
    assert PASSPHRASE.upper() not in result.err + result.out


def files_of(root: Path) -> dict[str, bytes]:
    return {str(path.relative_to(root)): path.read_bytes() for path in sorted(root.rglob("*")) if path.is_file()}


@pytest.mark.parametrize("what", ["format", "feature"])
def test_a_repository_of_a_newer_eyrie_is_13_for_every_verb_and_stays_as_it_is(what: str, known: Eyrie) -> None:
    there = Path(yaml.safe_load(known.config.read_text())["repositories"][0]["url"])
    newer = known.config.parent / f"newer-{what}"
    shutil.copytree(there, newer)
    line, _, mac = (newer / "config").read_text().splitlines()
    config = json.loads(line)
    if what == "format":
        config["format"] += 1
    else:
        config["required_read"].append("trees-of-another-kind")
    line = json.dumps(config, separators=(",", ":"))
    # docs/format.md, section 3: the sum is plain, and is what is looked at before the key is asked for.
    (newer / "config").write_text(f"{line}\n{blake3(line.encode()).hexdigest()}\n{mac}\n")
    before = files_of(newer)
    eyrie = variant(known, f"newer-{what}", repositories=repository(known, url=str(newer)))
    for verb in (
        ["snapshots"],
        ["show", "latest"],
        ["ls", "latest"],
        ["diff", "latest", "latest"],
        ["verify"],
        ["restore", "latest", "--dry-run"],
        ["backup"],
        ["backup", "--dry-run"],
        ["check"],
    ):
        result = eyrie.expect(13, *verb)
        assert "newer eyrie" in result.err + result.out, str(result)
    assert files_of(newer) == before


def test_a_second_backup_of_an_instance_is_refused_with_11_while_one_is_at_work(
    known: Eyrie, source: Callable[[str], Lab]
) -> None:
    root = known.config.parent / "busy-repository"
    eyrie = variant(known, "busy", repositories=repository(known, url=str(root)))
    eyrie.expect(0, "init")
    # Slow enough to be met at its work, which begins when its session is there.
    first = eyrie.start("--json", "backup", "--limit-rate", "128KiB")
    wait_until(lambda: any((root / "leases").rglob("*")), "the first backup is at work")
    second = eyrie.expect(11, "backup")
    assert "source-local" in second.err, str(second)
    assert first.poll() is None, "the first has ended already: it was not met at its work"
    # Who only looks is not in the way, nor is another instance.
    eyrie.expect(0, "snapshots")
    out, err = first.communicate(timeout=TIMEOUT)
    assert first.returncode == 0, err
    done = json.loads(out)
    assert [one["snapshot"] for one in eyrie.json("snapshots")] == [done["snapshot"]]
    eyrie.expect(0, "verify", "--level", "bytes")
    eyrie.expect(0, "backup")
    await_writes(source("local").instance)
    lost_nothing(eyrie, source("local"))


def test_init_does_not_touch_a_repository_that_is_there(known: Eyrie) -> None:
    assert known.run("init").code not in (0, 3)
    known.expect(0, "verify", "--level", "structure")


@pytest.mark.parametrize("how", ["running", "leftovers", "version"])
def test_a_target_that_does_not_fit_refuses_with_21_and_stays_as_it_was(
    how: str, known: Eyrie, fresh: Callable[..., Lab], binary: Path
) -> None:
    if how == "running":
        # It changes nothing by itself: it has no index, and does not compact.
        target, changes = one_row("local", fresh), {}
        with target.instance.client() as client:
            client.collection("default", "one").flush()
        assert objects_of(target.instance)
    else:
        target, changes = fresh("local", auth=True), {"milvus": {"version": "2.2.16" if how == "version" else "2.3.5"}}
        target.instance.start_backing()
    if how == "leftovers":
        leftover = target.instance.storage / "insert_log" / "1" / "2" / "3" / "0" / "4"
        leftover.parent.mkdir(parents=True)
        leftover.write_bytes(b"somebody's")
    keys, objects = target.instance.etcd.keys(f"{target.instance.root_path}/meta/root-coord/"), objects_of(target.instance)
    onto = target.eyrie(binary, f"refuse-{how}", **changes).config
    known.expect(21, "restore", "latest", "--target", str(onto))
    assert target.instance.etcd.keys(f"{target.instance.root_path}/meta/root-coord/") == keys
    assert objects_of(target.instance) == objects
    if how != "running":
        target.instance.kill()


def test_an_operators_own_denial_is_used_and_left_alone(known: Eyrie, source: Callable[[str], Lab]) -> None:
    instance = source("local").instance
    key = f"{instance.root_path}/{FORCE_DENY}"
    instance.etcd.put(key, b"true")
    try:
        wait_until(lambda: not writes_pass(instance), "the operator's denial takes effect")
        known.expect(0, "backup")
        assert instance.etcd.get(key) == b"true"
    finally:
        instance.etcd.delete(key)
    await_writes(instance)


def test_a_flush_that_never_finishes_ends_with_20_and_no_hold_left(fresh: Callable[..., Lab], binary: Path) -> None:
    """Milvus stops answering while its writes are held; it ends when it wakes after its session ran out."""
    lab = one_row("local", fresh)
    eyrie = lab.eyrie(binary)
    eyrie.expect(0, "init")
    process = eyrie.start("backup", "--flush-timeout", "5s")
    wait_until(lambda: bool(holds(lab.instance)), "writes are held")
    os.kill(lab.instance.milvus.pid, signal.SIGSTOP)
    _, err = process.communicate(timeout=TIMEOUT)
    lab.instance.milvus.kill()
    assert process.returncode == 20, err
    wait_until(lambda: not holds(lab.instance), "the holds are gone")
    assert eyrie.json("snapshots") == []
    lab.instance.kill()


def test_a_hold_that_lapsed_never_becomes_a_good_snapshot(known: Eyrie, source: Callable[[str], Lab]) -> None:
    """eyrie sleeps longer than its leases; then it captures anew, or says 20."""
    instance = source("local").instance
    before = len(known.json("snapshots"))
    process = known.start("--json", "backup")
    wait_until(lambda: bool(holds(instance)), "writes are held")
    process.send_signal(signal.SIGSTOP)
    wait_until(lambda: not holds(instance), "the leases run out")
    process.send_signal(signal.SIGCONT)
    _, err = process.communicate(timeout=TIMEOUT)
    assert process.returncode in (0, 20), err
    assert len(known.json("snapshots")) == before + (process.returncode == 0)
    await_writes(instance)
    lost_nothing(known, source("local"))


def test_a_backup_right_after_milvus_was_killed_and_started_waits_for_its_flush(
    fresh: Callable[..., Lab], binary: Path
) -> None:
    lab = one_row("local", fresh)
    lab.instance.milvus.kill()
    lab.instance.start_milvus()
    eyrie = lab.eyrie(binary)
    eyrie.expect(0, "init")
    assert eyrie.json("backup")["objects"] > 0
    lab.instance.kill()


def one_row(layout: str, fresh: Callable[..., Lab]) -> Lab:
    """A running instance that holds a collection with one row, not flushed."""
    lab = fresh(layout)
    lab.instance.start()
    fields = [FieldSchema("id", DataType.INT64, is_primary=True), FieldSchema("v", DataType.FLOAT_VECTOR, dim=4)]
    with lab.instance.client() as client:
        collection = Collection("one", CollectionSchema(fields), using=client.using())
        collection.insert([{"id": 1, "v": [1.0, 2.0, 3.0, 4.0]}])
    return lab


@pytest.mark.s3
def test_a_store_that_answers_503_and_drops_connections_does_not_stop_a_backup(
    source: Callable[[str], Lab], binary: Path
) -> None:
    lab = source("s3")
    assert lab.instance.minio
    eyrie = lab.eyrie(binary, "faulty")
    eyrie.expect(0, "init")
    with FaultyS3(lab.instance.minio.port, share=0.03) as store:
        host, port = store.url.removeprefix("http://").split(":")
        path = milvus_yaml(lab, "faulty", minio={"address": host, "port": int(port)})
        faulty = variant(
            eyrie, "faulty", instance={"milvus_yaml": path}, repositories=repository(eyrie, s3={"endpoint": store.url})
        )
        faulty.expect(0, "backup")
        assert store.faults > 0
    eyrie.expect(0, "verify", "--level", "bytes")


@contextmanager
def small_disk(path: Path, size: str) -> Iterator[Path]:
    """A file system of its own, so small that it fills."""
    as_root = [] if os.geteuid() == 0 else ["sudo"]
    path.mkdir(parents=True)
    subprocess.run([*as_root, "mount", "-t", "tmpfs", "-o", f"size={size},mode=777", "tmpfs", str(path)], check=True)
    try:
        yield path
    finally:
        subprocess.run([*as_root, "umount", str(path)], check=True)


def test_a_full_disk_fails_a_backup_with_1_and_the_repository_stays_whole(
    known: Eyrie, source: Callable[[str], Lab]
) -> None:
    with small_disk(known.config.parent / "small-repository", "1m") as disk:
        eyrie = variant(known, "full", repositories=repository(known, url=str(disk / "repository")))
        eyrie.expect(0, "init")
        result = eyrie.expect(1, "backup")
        assert "space" in result.err.lower()
        assert eyrie.json("snapshots") == []
    lost_nothing(known, source("local"))


def test_a_full_disk_fails_a_restore_with_21_which_completes_when_there_is_room(
    known: Eyrie, fresh: Callable[..., Lab], binary: Path
) -> None:
    target = fresh("local", auth=True)
    target.instance.start_backing()
    with small_disk(target.instance.storage, "512k") as disk:
        onto = str(target.eyrie(binary).config)
        result = known.expect(21, "restore", "latest", "--target", onto)
        assert "space" in result.err.lower()
        subprocess.run(
            [*([] if os.geteuid() == 0 else ["sudo"]), "mount", "-o", "remount,size=500m", str(disk)], check=True
        )
        known.expect(0, "restore", "latest", "--target", onto)
    target.instance.kill()


def test_missing_objects_fail_a_backup_that_names_them_unless_they_are_allowed_to_miss(
    source: Callable[[str], Lab], fresh: Callable[..., Lab], known: Eyrie, binary: Path
) -> None:
    lab = fresh("local", auth=True)
    lab.instance.start_backing()
    known.expect(0, "restore", "latest", "--target", str(lab.eyrie(binary).config))
    victim = next(path for path in sorted(objects_of(lab.instance)) if path.startswith("insert_log/"))
    (lab.instance.storage / victim).unlink()
    lab.instance.start_milvus()
    eyrie = lab.eyrie(binary, "missing")
    eyrie.expect(0, "init")
    refused = eyrie.run("backup")
    assert refused.code not in (0, 3) and victim in refused.err, str(refused)
    assert eyrie.json("snapshots") == []
    allowed = eyrie.json("backup", "--allow-missing", code=3)
    assert allowed["weakened"]
    lab.instance.kill()
