"""A snapshot that lacks files is restored as far as it goes, and says what will not load (I6)."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from conftest import Lab, objects_of
from lab import oracle
from lab.client import Client
from lab.eyrie import Eyrie
from lab.instance import Instance
from pymilvus import Collection, utility


def segments(instance: Instance, database: str, name: str) -> dict[str, set[str]]:
    """The segments of a collection with index files, each with the ids of its builds."""
    with instance.client() as client:
        id = client.collection(database, name).describe()["collection_id"]
    builds = oracle.index_build_ids(instance.etcd, instance.root_path)
    found: dict[str, set[str]] = {}
    for collection, _, segment, build in (key.split("/") for key in builds):
        if collection == str(id):
            found.setdefault(segment, set()).add(build)
    return found


def lose(lab: Lab, prefix: str, among: set[str]) -> set[str]:
    """Deletes the files of a kind in one of the folders `among`, whatever is in it."""
    lost = {path for path in objects_of(lab.instance) if path.startswith(prefix) and among & set(path.split("/"))}
    assert lost
    for path in lost:
        (lab.instance.storage / path).unlink()
    return lost


def lossy(source: Lab, fresh: Callable[..., Lab], binary: Path) -> tuple[Eyrie, dict[str, set[str]], set[str], set[str]]:
    """A snapshot of an instance that lost index files of default.articles and rows of shop.products.

    Gives the builds of the segments of the first, its lost files, and those of the second.
    """
    eyrie = source.eyrie(binary, "whole")
    eyrie.expect(0, "init")
    eyrie.expect(0, "backup")
    lab = fresh("local", auth=True)
    lab.instance.start_backing()
    eyrie.expect(0, "restore", "latest", "--target", str(lab.eyrie(binary).config))
    lab.instance.start_milvus()
    builds = segments(lab.instance, "default", "articles")
    with lab.instance.client() as client:
        products = str(client.collection("shop", "products").describe()["collection_id"])
    listed = {path.split("/")[1] for path in objects_of(lab.instance) if path.startswith("index_files/")}
    with_files = {build for ids in builds.values() for build in ids} & listed
    indexes = lose(lab, "index_files/", {sorted(with_files)[0]})
    rows = lose(lab, "insert_log/", {products})
    missing = lab.eyrie(binary, "lossy")
    missing.expect(0, "init")
    missing.expect(3, "backup", "--allow-missing")
    lab.instance.kill()
    return missing, builds, indexes, rows


def loaded(client: Client, database: str, name: str) -> Collection:
    collection = client.collection(database, name)
    collection.load(timeout=300)
    utility.wait_for_loading_complete(name, using=client.using(database), timeout=300)
    return collection


def test_a_restore_names_what_will_not_load_and_lets_indexes_be_built_again(
    source: Callable[[str], Lab], fresh: Callable[..., Lab], binary: Path
) -> None:
    with source("local").instance.client() as client:
        expected = oracle.read_rows(client.collection("default", "articles"), with_vectors=True)
    eyrie, before, indexes, rows = lossy(source("local"), fresh, binary)
    target = fresh("local", auth=True)
    target.instance.start_backing()
    onto = ("restore", "latest", "--target", str(target.eyrie(binary).config))
    planned = eyrie.json(*onto, "--dry-run")
    restored = eyrie.json(*onto, code=3)
    assert planned["lacking"] == restored["lacking"]
    by_outcome = {one["outcome"]: one for one in restored["lacking"]}
    assert by_outcome.keys() == {"index-rebuilt", "not-loaded"}
    rebuilt, lost = by_outcome["index-rebuilt"], by_outcome["not-loaded"]
    assert (rebuilt["database"], rebuilt["collection"]) == ("default", "articles")
    assert (lost["database"], lost["collection"]) == ("shop", "products")
    assert {one["path"] for one in rebuilt["named"]} == indexes
    assert {one["path"] for one in lost["named"]} <= rows
    assert all(str(one["segment"]) in one["path"].split("/") for one in rebuilt["named"] + lost["named"])

    target.instance.start_milvus()
    with target.instance.client() as client:
        articles = loaded(client, "default", "articles")
        assert oracle.read_rows(articles, with_vectors=True) == expected
        utility.wait_for_index_building_complete("articles", index_name="embedding_idx", using=client.using("default"))
    after = segments(target.instance, "default", "articles")
    hit = {segment for segment, builds in before.items() if builds & {path.split("/")[1] for path in indexes}}
    assert {segment for segment in before if after[segment] != before[segment]} == hit
    assert hit
    built = {path.split("/")[1] for path in objects_of(target.instance) if path.startswith("index_files/")}
    assert all(after[segment] & built for segment in hit), "the index was built, with files"
    target.instance.kill()
