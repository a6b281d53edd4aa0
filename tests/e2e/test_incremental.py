"""A second backup reads what is new and nothing else."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from conftest import Lab
from lab.eyrie import Eyrie
from lab.instance import Instance
from test_kill import await_writes


def paths(eyrie: Eyrie, snapshot: str) -> set[str]:
    return {entry["path"] for entry in eyrie.json("ls", snapshot)}


def segments(instance: Instance) -> set[str]:
    return set(instance.etcd.keys(f"{instance.root_path}/meta/datacoord-meta/s/"))


@pytest.mark.parametrize("layout", ["local", "s3"])
def test_an_idle_second_backup_reads_nothing_and_one_after_inserts_only_the_new(
    layout: str, source: Callable[[str], Lab], binary: Path
) -> None:
    lab = source(layout)
    eyrie = lab.eyrie(binary, "incremental")
    eyrie.expect(0, "init")
    for _ in range(4):
        first = eyrie.json("backup")
        before = segments(lab.instance)
        idle = eyrie.json("backup")
        if segments(lab.instance) == before and paths(eyrie, first["snapshot"]) == paths(eyrie, idle["snapshot"]):
            break  # no compaction of Milvus's own came between the two
    assert (idle["objects_read"], idle["bytes_read"]) == (0, 0)
    assert idle["objects"] == first["objects"]
    assert idle["write_hold_ms"] > 0

    await_writes(lab.instance)
    with lab.instance.client() as client:
        collection = client.collection("default", "recent")
        collection.insert([{"id": 1_000_000 + n, "embedding": [n / 7] * 8} for n in range(100)])
    third = eyrie.json("backup")
    known, now = (paths(eyrie, s["snapshot"]) for s in (idle, third))
    assert third["objects_read"] == len(now - known) > 0
    sizes = {entry["path"]: entry["size"] for entry in eyrie.json("ls", third["snapshot"])}
    assert third["bytes_read"] == sum(sizes[path] for path in now - known)
