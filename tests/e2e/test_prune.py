"""Nightly backups of a changing instance that are forgotten and pruned: what is kept is whole, and the rest goes."""

from __future__ import annotations

import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from conftest import Lab
from lab import eyrie as lab_eyrie
from lab.eyrie import TIMEOUT, Eyrie
from lab.instance import Instance
from lab.reader import Repository
from lab.servers import wait_until
from pymilvus import Collection, CollectionSchema, DataType, FieldSchema, utility

AT_ONCE = ("prune", "--grace", "0s", "--max-unused", "0%")
ROWS = 3_000
DIM = 128


def night(instance: Instance, number: int) -> None:
    """Replaces the collection of the night before by another one, beside one that stays."""
    fields = [FieldSchema("id", DataType.INT64, is_primary=True), FieldSchema("v", DataType.FLOAT_VECTOR, dim=DIM)]
    with instance.client() as client:
        using = client.using()
        if number == 0:
            stays = Collection("stays", CollectionSchema(fields), using=using)
            stays.insert([{"id": n, "v": [n % 13 / 13] * DIM} for n in range(ROWS)])
        else:
            utility.drop_collection(f"night{number - 1}", using=using)
        changes = Collection(f"night{number}", CollectionSchema(fields), using=using)
        changes.insert([{"id": n, "v": [(n * 31 + number * 7 + d) % 97 / 97 for d in range(DIM)]} for n in range(ROWS)])


def rows(instance: Instance, name: str) -> list[int]:
    with instance.client() as client:
        collection = client.collection("default", name)
        if not collection.has_index():
            collection.create_index("v", {"index_type": "FLAT", "metric_type": "L2", "params": {}})
        collection.load()
        return sorted(row["id"] for row in collection.query("id >= 0", output_fields=["id"]))


def packs(lab: Lab, name: str) -> int:
    """Bytes of the packs of a repository."""
    instance = lab.instance
    if not instance.minio:
        root = instance.directory / "repositories" / name
        return sum(file.stat().st_size for kind in ("data", "tree") for file in (root / kind).rglob("*") if file.is_file())
    found = [
        one
        for kind in ("data", "tree")
        for one in instance.s3().list_objects(lab_eyrie.REPOSITORY_BUCKET, f"{name}/{kind}/", recursive=True)
    ]
    return sum(one.size or 0 for one in found)


def copied(lab: Lab, name: str) -> Path:
    """Where the repository is, or a copy of it, as files."""
    instance = lab.instance
    if not instance.minio:
        return instance.directory / "repositories" / name
    copy = instance.directory / "copy"
    for one in instance.s3().list_objects(lab_eyrie.REPOSITORY_BUCKET, f"{name}/", recursive=True):
        instance.s3().fget_object(lab_eyrie.REPOSITORY_BUCKET, one.object_name, str(copy / one.object_name))
    return copy / name


def is_whole(eyrie: Eyrie) -> None:
    assert eyrie.json("verify", "--level", "bytes")["damage"] == []


@pytest.mark.parametrize("layout", ["local", "s3"])
def test_nights_are_backed_up_forgotten_and_pruned_and_what_stays_is_restored(
    layout: str, fresh: Callable[..., Lab], binary: Path
) -> None:
    lab = fresh(layout)
    lab.instance.start()
    eyrie = lab.eyrie(binary, "nights")
    eyrie.expect(0, "init")
    sizes: list[int] = []
    freed = 0
    for number in range(6):
        night(lab.instance, number)
        eyrie.expect(0, "backup", "--label", f"night={number}")
        eyrie.expect(0, "forget", "--keep-last", "2", "--keep-label", "night=0")
        report = eyrie.json(*AT_ONCE)
        freed += report["freed_bytes"]
        sizes.append(packs(lab, "nights"))
    for _ in range(2):
        freed += eyrie.json(*AT_ONCE)["freed_bytes"]
    kept = eyrie.json("snapshots")
    assert [s["labels"]["night"] for s in kept] == ["0", "4", "5"]
    # One night adds what the collection of that night takes; those of three nights are kept, and one that stays.
    one = min(after - before for before, after in zip(sizes[:2], sizes[1:3], strict=True))
    assert freed > 2 * one > 0, (freed, sizes)
    assert packs(lab, "nights") < sizes[0] + 2.5 * one, (sizes, packs(lab, "nights"))
    last = eyrie.json(*AT_ONCE)
    assert (last["freed_bytes"], last["to_be_freed_bytes"], last["unused_bytes"]) == (0, 0, 0)
    is_whole(eyrie)

    # A reader that is made from the page alone finds all of it.
    reader = Repository(copied(lab, "nights"), lab_eyrie.PASSPHRASE)
    manifests, void = reader.snapshots()
    assert (len(manifests), void) == (3, [])
    assert sum(len(entries) for manifest in manifests for entries in reader.maps(manifest).values()) > 0

    target = fresh(layout)
    target.instance.start_backing()
    eyrie.expect(0, "restore", kept[0]["snapshot"], "--target", str(target.eyrie(binary).config))
    target.instance.start_milvus()
    assert rows(target.instance, "night0") == rows(target.instance, "stays") == list(range(ROWS))
    with target.instance.client() as client:
        assert utility.list_collections(using=client.using()).count("night5") == 0


@pytest.mark.parametrize("verb", [("backup",), ("verify", "--level", "bytes")])
def test_a_verb_that_is_stopped_meanwhile_finds_all_that_it_needs_when_it_goes_on(
    verb: tuple[str, ...], fresh: Callable[..., Lab], binary: Path
) -> None:
    lab = fresh("local")
    lab.instance.start()
    eyrie = lab.eyrie(binary, "stopped")
    eyrie.expect(0, "init")
    for number in range(3):
        night(lab.instance, number)
        eyrie.expect(0, "backup")
    night(lab.instance, 3)
    root = lab.instance.directory / "repositories" / "stopped"
    # It takes so long that it is at work when it is stopped.
    config = yaml.safe_load(eyrie.config.read_text()) | {"resources": {"rate": "300KiB"}}
    slow = eyrie.config.with_name("slow.yaml")
    slow.write_text(yaml.safe_dump(config))
    process = Eyrie(binary, slow).start("--json", *verb)
    wait_until(lambda: any((root / "leases").glob("*")), "the verb has a lease")
    process.send_signal(signal.SIGSTOP)
    forgotten: list[dict[str, Any]] = []
    try:
        eyrie.expect(0, "forget", "--keep-last", "1")
        forgotten = [eyrie.json(*AT_ONCE) for _ in range(3)]
    finally:
        process.send_signal(signal.SIGCONT)
    assert all(report["freed_bytes"] == 0 for report in forgotten), forgotten
    out, err = process.communicate(timeout=TIMEOUT)
    assert process.returncode == 0, (out, err)
    is_whole(eyrie)
    reports = [eyrie.json(*AT_ONCE) for _ in range(3)]
    assert sum(report["freed_bytes"] for report in reports) > 0, reports
    assert not list((root / "marks").glob("*"))
    is_whole(eyrie)
