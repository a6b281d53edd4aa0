"""A flipped bit in any kind of repository file is found, and does no harm (I2, I8)."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml
from conftest import Lab, objects_of
from lab import oracle
from lab.eyrie import Eyrie
from test_bad_input import one_row

# The files of docs/format.md 2; leases, marks and checkpoints are not there after a clean run.
KINDS = ("config", "keys", "snapshots", "index", "tree", "data")


@pytest.fixture(scope="session")
def intact(source: Callable[[str], Lab], binary: Path) -> Eyrie:
    """A repository with one snapshot, which tests damage a copy of."""
    eyrie = source("local").eyrie(binary, "damage")
    eyrie.expect(0, "init")
    eyrie.expect(0, "backup")
    return eyrie


def copied(intact: Eyrie, name: str) -> tuple[Eyrie, Path]:
    """eyrie on a copy of the repository, and where the copy is."""
    config = yaml.safe_load(intact.config.read_text())
    copy = intact.config.parent / "damaged" / name
    shutil.copytree(config["repositories"][0]["url"], copy)
    config["repositories"][0]["url"] = str(copy)
    path = intact.config.parent / f"eyrie-damaged-{name}.yaml"
    path.write_text(yaml.safe_dump(config))
    return Eyrie(intact.binary, path), copy


def flip_a_bit(path: Path) -> Path:
    """Flips a bit in the middle of a file, of the largest one where `path` is a directory."""
    files = [path] if path.is_file() else [file for file in path.rglob("*") if file.is_file()]
    victim = max(files, key=lambda file: file.stat().st_size)
    data = bytearray(victim.read_bytes())
    data[len(data) // 2] ^= 0x10
    victim.chmod(0o600)
    victim.write_bytes(data)
    return victim


@pytest.mark.parametrize("kind", KINDS)
def test_verify_finds_a_flipped_bit(kind: str, intact: Eyrie) -> None:
    eyrie, copy = copied(intact, f"flip-{kind}")
    victim = flip_a_bit(copy / kind)
    result = eyrie.expect(22, "verify", "--level", "bytes")
    assert victim.name in result.err + result.out, f"{victim} is not named\n{result}"


def test_an_intact_copy_verifies(intact: Eyrie) -> None:
    eyrie, _ = copied(intact, "intact")
    assert eyrie.json("verify", "--level", "bytes")["damage"] == []


def test_a_restore_from_a_damaged_tree_leaves_the_target_as_it_was(
    intact: Eyrie, fresh: Callable[..., Lab], binary: Path
) -> None:
    target = restore_damaged("tree", intact, fresh, binary)
    assert target.instance.etcd.keys(f"{target.instance.root_path}/") == {}
    assert objects_of(target.instance) == {}
    target.instance.kill()


def test_a_restore_from_damaged_data_writes_no_metadata_and_marks_what_it_left(
    intact: Eyrie, fresh: Callable[..., Lab], binary: Path
) -> None:
    """Data is proved as it is read, after the marker and beside the first objects: no Milvus sees them."""
    target = restore_damaged("data", intact, fresh, binary)
    left = set(target.instance.etcd.keys(f"{target.instance.root_path}/"))
    marker = f"{target.instance.root_path}/eyrie/restore"
    assert marker in left
    assert left <= {marker, f"{marker}-stage", f"{marker}-lock"}
    target.instance.kill()


def restore_damaged(kind: str, intact: Eyrie, fresh: Callable[..., Lab], binary: Path) -> Lab:
    """An empty target, after a restore onto it from a repository with a flipped bit was refused with 22."""
    eyrie, copy = copied(intact, f"restore-{kind}")
    flip_a_bit(copy / kind)
    target = fresh("local", auth=True)
    target.instance.start_backing()
    eyrie.expect(22, "restore", "latest", "--target", str(target.eyrie(binary).config))
    return target


def test_a_replace_from_a_damaged_repository_keeps_what_was_there(
    intact: Eyrie, fresh: Callable[..., Lab], binary: Path
) -> None:
    eyrie, copy = copied(intact, "replace")
    flip_a_bit(copy / "data")
    target = fresh("local", auth=True)
    target.instance.start_backing()
    key = f"{target.instance.root_path}/meta/root-coord/credential/users/somebody"
    target.instance.etcd.put(key, b"{}")
    old = target.instance.storage / "insert_log" / "1" / "2" / "3" / "0" / "4"
    old.parent.mkdir(parents=True)
    old.write_bytes(b"somebody's")
    eyrie.expect(22, "restore", "latest", "--replace", "--target", str(target.eyrie(binary).config))
    assert target.instance.etcd.get(key) == b"{}"
    assert old.read_bytes() == b"somebody's"
    target.instance.kill()


def test_after_damage_the_old_instance_starts_and_after_mending_the_same_replace_finishes(
    intact: Eyrie, source: Callable[[str], Lab], fresh: Callable[..., Lab], binary: Path
) -> None:
    """Every path of the snapshot is taken in the old instance, so that every object has to wait for the swap."""
    eyrie, copy = copied(intact, "mended")
    listed = [entry["path"] for entry in eyrie.json("ls", "latest")]
    target = one_row("local", fresh)
    instance = target.instance
    with instance.client() as client:
        client.collection("default", "one").flush()
    instance.stop_milvus()
    instance.await_sessions(0)
    for path in listed:
        other = instance.storage / path
        other.parent.mkdir(parents=True, exist_ok=True)
        other.write_bytes(b"other bytes at the same path")
    old = (instance.etcd.keys(f"{instance.root_path}/meta/"), objects_of(instance))

    victim = flip_a_bit(copy / "data")
    again = ("restore", "latest", "--replace", "--target", str(target.eyrie(binary).config))
    refused = eyrie.expect(22, *again)
    assert "nothing was replaced" in refused.err, str(refused)
    assert (instance.etcd.keys(f"{instance.root_path}/meta/"), objects_of(instance)) == old
    instance.start_milvus()
    with instance.client() as client:
        one = client.collection("default", "one")
        one.create_index("v", {"index_type": "FLAT", "metric_type": "L2", "params": {}})
        one.load()
        assert [row["id"] for row in one.query("id >= 0", consistency_level="Strong")] == [1]
    instance.stop_milvus()
    instance.await_sessions(0)

    flip_a_bit(victim)
    eyrie.expect(0, *again)
    found = objects_of(instance)
    assert sorted(found) == sorted(listed)
    instance.start_milvus()
    assert oracle.compare(source("local").view(), target.view()) == []
    instance.kill()
