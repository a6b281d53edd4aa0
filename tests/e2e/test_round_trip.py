"""An instance is captured, and restored onto servers that never ran, with the same bytes (I8)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from blake3 import blake3
from conftest import Lab, objects_of
from lab import oracle
from lab.dataset import PASSWORDS, Dataset
from lab.instance import LAYOUTS
from pymilvus import utility


@dataclass
class RoundTrip:
    source: Lab
    target: Lab
    before: oracle.View
    after: oracle.View
    builds_before: set[str]
    builds_after: set[str]
    backup: dict[str, Any]
    listing: list[dict[str, Any]]
    restore: dict[str, Any]
    restored_objects: dict[str, bytes]


@pytest.fixture(scope="session", params=LAYOUTS)
def trip(
    request: pytest.FixtureRequest, source: Callable[[str], Lab], fresh_shared: Callable[..., Lab], binary: Path
) -> RoundTrip:
    lab = source(request.param)
    target = fresh_shared(request.param, auth=lab.instance.auth)
    before = lab.view()
    builds = oracle.index_build_ids(lab.instance.etcd)
    eyrie = lab.eyrie(binary)
    eyrie.expect(0, "init")
    backup = eyrie.json("backup", *lab.mode)
    target.instance.start_backing()
    onto = target.eyrie(binary).config
    restore = eyrie.json("restore", "latest", "--target", str(onto))
    restored = objects_of(target.instance)
    target.instance.start_milvus()
    return RoundTrip(
        source=lab,
        target=target,
        before=before,
        after=target.view(),
        builds_before=builds,
        builds_after=oracle.index_build_ids(target.instance.etcd),
        backup=backup,
        listing=eyrie.json("ls", "latest"),
        restore=restore,
        restored_objects=restored,
    )


def test_the_restored_instance_shows_every_row_schema_index_alias_user_and_search_result(trip: RoundTrip) -> None:
    assert oracle.compare(trip.before, trip.after) == []


def test_rows_that_cannot_be_read_without_an_index_came_back(trip: RoundTrip) -> None:
    with trip.target.instance.client() as client:
        expected = {str(row["id"]): oracle.hash_row(row) for row in Dataset(client).raw_rows()}
        collection = client.collection("default", "raw")
        collection.create_index("embedding", {"index_type": "FLAT", "metric_type": "L2", "params": {}})
        collection.load()
        assert oracle.read_rows(collection, with_vectors=True) == expected


def test_index_files_came_back_and_no_index_was_built_again(trip: RoundTrip) -> None:
    assert any(path.startswith("index_files/") for path in trip.restored_objects)
    assert trip.builds_after
    assert oracle.rebuilt_segments(trip.builds_before, trip.builds_after) == set()


def test_b3sum_of_every_restored_file_is_what_ls_says(trip: RoundTrip) -> None:
    listed = {entry["path"]: (entry["size"], entry["blake3"]) for entry in trip.listing}
    found = {path: (len(data), blake3(data).hexdigest()) for path, data in trip.restored_objects.items()}
    assert found == listed


def test_ls_of_a_collection_and_of_a_database_is_their_part_of_the_list(trip: RoundTrip, binary: Path) -> None:
    eyrie = trip.source.eyrie(binary)
    collections = eyrie.json("show", "latest")["catalog"]
    ids: dict[str, set[int]] = {}
    for one in collections:
        ids.setdefault(one["database"], set()).add(one["id"])
        path = f"{one['database']}.{one['name']}"
        part = eyrie.json("ls", "latest", "--collection", path)
        assert part == [entry for entry in trip.listing if entry["collection"] == one["id"]], path
    for database, of in ids.items():
        part = eyrie.json("ls", "latest", "--database", database)
        assert part == [entry for entry in trip.listing if entry["collection"] in of], database
    refused = eyrie.expect(1, "ls", "latest", "--collection", "default.nothing-of-this-name")
    assert "the snapshot has no collection default.nothing-of-this-name" in refused.err


def test_the_documents_of_backup_and_restore_agree_with_what_was_done(trip: RoundTrip) -> None:
    assert trip.backup["objects"] == trip.restore["objects"] == len(trip.listing)
    assert trip.backup["bytes"] == trip.restore["bytes"] == sum(entry["size"] for entry in trip.listing)
    assert trip.backup["snapshot"] == trip.restore["snapshot"]
    assert trip.backup["weakened"] == []
    assert trip.restore["wal"] == "reset"
    assert trip.restore["next_steps"]


def test_users_log_in_with_their_passwords(trip: RoundTrip) -> None:
    if not trip.target.instance.auth:
        assert set(trip.after["access"]["users"]) >= set(PASSWORDS)
        return
    for user, password in PASSWORDS.items():
        with trip.target.instance.client(user, password) as client:
            assert utility.get_server_version(using=client.using())


def test_the_restored_instance_takes_new_rows_and_flushes_them(trip: RoundTrip) -> None:
    with trip.target.instance.client() as client:
        collection = client.collection("default", "recent")
        before = trip.before["databases"]["default"]["recent"]["count"]
        collection.insert([{"id": 10_000 + n, "embedding": [float(n)] * 8} for n in range(10)])
        collection.flush()
        count = collection.query("", output_fields=["count(*)"], consistency_level="Strong")[0]["count(*)"]
        assert count == before + 10
