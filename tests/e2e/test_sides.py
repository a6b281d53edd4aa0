"""The exit code says whose failure it was: docs/errors.md, with servers that are dead, full, or of no such bucket."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from conftest import Lab
from lab.eyrie import Eyrie
from lab.eyrie import repository as entry_of
from test_bad_input import lost_nothing, milvus_yaml, one_row, variant

NOWHERE = "127.0.0.1:1"
NO_BUCKET = "there-is-no-such-bucket"


@pytest.fixture(scope="module")
def store(fresh_shared: Callable[..., Lab]) -> Lab:
    """etcd and MinIO that run, for a Milvus that never did."""
    lab = fresh_shared("s3")
    lab.instance.start_backing()
    return lab


def blamed(eyrie: Eyrie, code: int, cause: str, side: str, *args: str) -> str:
    """Runs a verb that fails on that side, and returns its error as JSON tells it."""
    result = eyrie.expect(code, "--json", *args)
    error = result.err.splitlines()[-1]
    assert f'"cause":"{cause}","side":"{side}"' in error, str(result)
    return error


# What milvus.yaml may say of storage that is not there, by the cause that it is.
BROKEN_STORES: dict[str, dict[str, Any]] = {
    "absent": {"minio": {"bucketName": NO_BUCKET}},
    "unavailable": {"minio": {"address": "127.0.0.1", "port": 1}},
}


@pytest.mark.parametrize(
    ("name", "instance"),
    [
        ("etcd", {"etcd": {"endpoints": [NOWHERE]}}),
        ("milvus", {"milvus": {"address": NOWHERE}}),
        ("management", {"milvus": {"management": f"http://{NOWHERE}"}}),
    ],
)
def test_a_dead_server_of_the_source_is_20(name: str, instance: dict[str, Any], known: Eyrie) -> None:
    dead = variant(known, f"dead-{name}", instance=instance)
    if name == "management":
        # Garbage collection cannot be held then: a backup notes that and does without.
        checked = dead.expect(0, "check")
        assert NOWHERE in checked.out and "garbage collection" in checked.out, str(checked)
        return
    dead.expect(20, "check")
    assert NOWHERE in blamed(dead, 20, "unavailable", "source", "backup")


@pytest.mark.s3
@pytest.mark.parametrize("cause", ["absent", "unavailable"])
def test_a_dead_store_of_the_source_is_20(cause: str, source: Callable[[str], Lab], binary: Path) -> None:
    lab = source("s3")
    eyrie = lab.eyrie(binary, f"dead-store-{cause}")
    eyrie.expect(0, "init")
    path = milvus_yaml(lab, f"dead-store-{cause}", **BROKEN_STORES[cause])
    dead = variant(eyrie, f"dead-store-{cause}", instance={"milvus_yaml": path})
    dead.expect(20, "check")
    blamed(dead, 20, cause, "source", "backup")
    lost_nothing(eyrie, lab)


def test_a_full_etcd_of_the_source_is_20(fresh: Callable[..., Lab], binary: Path) -> None:
    lab = one_row("local", fresh)
    eyrie = lab.eyrie(binary)
    eyrie.expect(0, "init")
    lab.instance.etcd.fill()
    for verb in (["backup"], ["backup", "--dry-run"]):
        blamed(eyrie, 20, "no-space", "source", *verb)
    found = eyrie.expect(20, "check").out
    assert "NOSPACE" in found
    assert eyrie.json("snapshots") == []
    lab.instance.kill()


def test_a_key_of_the_source_that_cannot_be_decoded_is_20(fresh: Callable[..., Lab], binary: Path) -> None:
    lab = one_row("local", fresh)
    eyrie = lab.eyrie(binary)
    eyrie.expect(0, "init")
    key = next(iter(lab.instance.etcd.keys(f"{lab.instance.root_path}/meta/datacoord-meta/s/")))
    lab.instance.etcd.put(key, b"\xff\xff")
    assert key in blamed(eyrie, 20, "damage", "source", "backup")
    lab.instance.kill()


@pytest.mark.parametrize("options", [(), ("--dry-run",)])
def test_a_dead_etcd_of_the_target_is_21(
    options: tuple[str, ...], known: Eyrie, fresh: Callable[..., Lab], binary: Path
) -> None:
    target = fresh("local").eyrie(binary, etcd={"endpoints": [NOWHERE]})
    assert NOWHERE in blamed(known, 21, "unavailable", "target", "restore", "latest", "--target", str(target.config), *options)


def test_a_full_etcd_of_the_target_is_21(known: Eyrie, fresh: Callable[..., Lab], binary: Path) -> None:
    target = fresh("local", auth=True)
    target.instance.start_backing()
    target.instance.etcd.fill()
    onto = str(target.eyrie(binary).config)
    blamed(known, 21, "no-space", "target", "restore", "latest", "--target", onto)
    target.instance.kill()


@pytest.mark.s3
@pytest.mark.parametrize("cause", ["absent", "unavailable"])
def test_a_dead_store_of_the_target_is_21(cause: str, known: Eyrie, store: Lab, binary: Path) -> None:
    path = milvus_yaml(store, f"dead-target-{cause}", **BROKEN_STORES[cause])
    target = store.eyrie(binary, f"dead-target-{cause}", milvus_yaml=path)
    known.expect(21, "restore", "latest", "--target", str(target.config))
    assert store.instance.etcd.keys(f"{store.instance.root_path}/") == {}


@pytest.mark.s3
@pytest.mark.parametrize(("cause", "code"), [("absent", 10), ("unavailable", 1)])
def test_a_dead_store_of_the_repository_is_neither_20_nor_21(
    cause: str, code: int, known: Eyrie, store: Lab, source: Callable[[str], Lab], binary: Path
) -> None:
    entry = entry_of(store.instance, "dead")
    if cause == "absent":
        entry["url"] = f"s3://{NO_BUCKET}/dead"
    else:
        entry["s3"]["endpoint"] = f"http://{NOWHERE}"
    dead = variant(known, f"dead-repository-{cause}", repositories=[entry])
    onto = str(store.eyrie(binary).config)
    for verb in (["snapshots"], ["backup"], ["restore", "latest", "--target", onto]):
        blamed(dead, code, cause, "repository", *verb)
    dead.expect(code, "check")
    lost_nothing(known, source("local"))
