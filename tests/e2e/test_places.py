"""A snapshot is restored onto a target that keeps its keys and objects elsewhere, and is whole there."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from conftest import Lab, objects_of
from lab import oracle
from lab.eyrie import Eyrie
from lab.instance import Instance
from test_bad_input import one_row


@dataclass
class Captured:
    """A snapshot of an idle instance, and what the instance showed."""

    eyrie: Eyrie
    source: Lab
    view: oracle.View
    builds: set[str]


def look(instance: Instance) -> oracle.View:
    """What every layout can show alike: vectors that a local Milvus loses by reading them are left out."""
    with instance.client() as client:
        return oracle.snapshot_instance(client, storage_is_local=True)


@pytest.fixture(scope="session")
def captured(source: Callable[[str], Lab], binary: Path) -> Callable[[str], Captured]:
    made: dict[str, Captured] = {}

    def get(layout: str) -> Captured:
        if layout not in made:
            lab = source(layout)
            view, builds = look(lab.instance), oracle.index_build_ids(lab.instance.etcd)
            eyrie = lab.eyrie(binary, "places")
            eyrie.expect(0, "init")
            eyrie.expect(0, "backup", *lab.mode)
            made[layout] = Captured(eyrie, lab, view, builds)
        return made[layout]

    return get


MOVED = {"root_path": "moved/dev"}


@pytest.mark.parametrize(
    ("layout", "onto", "places"),
    [
        pytest.param("s3", "s3", {"root_path": "prod", "bucket": "other", "object_prefix": "a/b"}, id="s3-elsewhere"),
        pytest.param("local", "s3", MOVED | {"bucket": "other"}, id="local-to-s3"),
        pytest.param("s3", "local", MOVED, id="s3-to-local"),
        pytest.param("local", "embedded", MOVED, id="local-to-embedded"),
    ],
)
def test_a_restore_elsewhere_shows_everything(
    layout: str,
    onto: str,
    places: dict[str, Any],
    captured: Callable[[str], Captured],
    fresh: Callable[..., Lab],
    binary: Path,
) -> None:
    known = captured(layout)
    target = fresh(onto, auth=known.source.instance.auth, **places)
    target.instance.start_backing()
    known.eyrie.expect(0, "restore", "latest", "--target", str(target.eyrie(binary).config))
    listed = known.eyrie.json("ls", "latest")
    assert {path: len(data) for path, data in objects_of(target.instance).items()} == {
        entry["path"]: entry["size"] for entry in listed
    }
    target.instance.start_milvus()
    assert oracle.compare(known.view, look(target.instance)) == []
    builds = oracle.index_build_ids(target.instance.etcd, target.instance.root_path)
    assert builds and oracle.rebuilt_segments(known.builds, builds) == set()
    target.instance.kill()


@pytest.mark.embedded
def test_a_replace_of_a_milvus_with_etcd_inside_saves_its_keys_and_shows_everything(
    captured: Callable[[str], Captured], fresh: Callable[..., Lab], binary: Path
) -> None:
    known = captured("local")
    target = one_row("embedded", fresh)
    target.instance.stop_milvus()
    onto = ("restore", "latest", "--target", str(target.eyrie(binary).config))
    known.eyrie.expect(21, *onto)
    known.eyrie.expect(0, *onto, "--replace")
    lineages = {snapshot["instance"] for snapshot in known.eyrie.json("snapshots")}
    assert f"{target.instance.name}.replaced" in lineages
    target.instance.start_milvus()
    assert oracle.compare(known.view, look(target.instance)) == []
    target.instance.kill()
