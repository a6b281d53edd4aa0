"""What each mode needs of a Milvus: `check` says which would work, and each does what it says."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from conftest import Lab
from lab import cache
from lab.eyrie import Eyrie
from pymilvus import Collection, CollectionSchema, DataType, FieldSchema, utility
from test_bad_input import repository, variant

# What etcd at its quota is told by, and the way out.
CURE = ["NOSPACE", "compact", "defragment", "alarm disarm"]


def modes(eyrie: Eyrie, code: int, *args: str) -> dict[str, Any]:
    """Which modes would work, as `check` says."""
    document = eyrie.expect(code, "--json", "check", *args).json()
    assert [choice["name"] for choice in document["modes"]] == ["quiesced", "hot", "cold"]
    assert all((choice["works"] is True) == (choice["why"] is None) for choice in document["modes"] + document["methods"])
    assert [choice["name"] for choice in document["methods"] if choice["works"]] == ["copy"]
    return {choice["name"]: choice["works"] for choice in document["modes"]}


def rows(lab: Lab) -> set[int]:
    with lab.instance.client() as client:
        collection = Collection("one", using=client.using())
        if not utility.list_indexes("one", using=client.using()):
            collection.create_index("v", {"index_type": "FLAT", "metric_type": "L2", "params": {}})
        collection.load()
        return {row["id"] for row in collection.query("id >= 0", output_fields=["id"], consistency_level="Strong")}


def insert(lab: Lab, ids: range, flush: bool = False) -> None:
    fields = [FieldSchema("id", DataType.INT64, is_primary=True), FieldSchema("v", DataType.FLOAT_VECTOR, dim=4)]
    with lab.instance.client() as client:
        collection = Collection("one", CollectionSchema(fields), using=client.using())
        collection.insert([{"id": id, "v": [1.0, 2.0, 3.0, float(id)]} for id in ids])
        if flush:
            collection.flush()


def restored(eyrie: Eyrie, target: Lab, *args: str) -> set[int]:
    """The rows that a restore of the latest snapshot brings to a new instance."""
    target.instance.start_backing()
    eyrie.expect(0, "restore", "latest", "--target", str(target.eyrie(eyrie.binary).config), *args)
    target.instance.start()
    found = rows(target)
    target.instance.kill()
    return found


def test_an_etcd_at_its_quota_is_captured_hot_as_far_as_it_is_flushed_and_cold_whole(
    fresh: Callable[..., Lab], binary: Any
) -> None:
    lab = fresh("local")
    lab.instance.start()
    eyrie = lab.eyrie(binary)
    eyrie.expect(0, "init")
    insert(lab, range(10), flush=True)
    insert(lab, range(10, 15))
    lab.instance.etcd.fill()
    # Milvus goes on acknowledging what it can never flush.
    insert(lab, range(15, 18))

    assert modes(eyrie, 20) == {"quiesced": False, "hot": True, "cold": False}
    for verb in (["backup"], ["backup", "--dry-run"], ["check"]):
        said = eyrie.expect(20, *verb)
        assert all(word in said.out + said.err for word in CURE), str(said)
    assert eyrie.json("snapshots") == []
    assert "NOSPACE" in eyrie.expect(0, "check", "--mode", "hot").out
    plan = eyrie.expect(0, "--json", "backup", "--mode", "hot", "--dry-run").json()
    assert [weakening["kind"] for weakening in plan["weakened"]] == ["not-flushed"]
    hot = eyrie.expect(3, "--json", "backup", "--mode", "hot").json()
    codes = {weakening["kind"] for weakening in hot["weakened"] if not weakening["accepted"]}
    assert codes == {"not-flushed"}
    assert "default.one" in next(w["what"] for w in hot["weakened"] if w["kind"] == "not-flushed")
    assert restored(eyrie, fresh("local")) == set(range(10))

    lab.instance.milvus.stop()
    assert modes(eyrie, 0, "--mode", "cold") == {"quiesced": False, "hot": False, "cold": True}
    cold = eyrie.expect(0, "--json", "backup", "--mode", "cold").json()
    assert cold["weakened"] == []
    assert restored(eyrie, fresh("local")) == set(range(18))
    eyrie.expect(0, "verify", "--level", "bytes")


def test_check_says_that_hot_would_work_with_an_etcd_inside_milvus_and_exits_by_the_mode_asked_for(
    fresh: Callable[..., Lab], binary: Any
) -> None:
    lab = fresh("embedded")
    lab.instance.start()
    insert(lab, range(3))
    eyrie = lab.eyrie(binary)
    eyrie.expect(0, "init")
    running = {"quiesced": False, "hot": True, "cold": False}
    assert modes(eyrie, 20) == running
    assert modes(eyrie, 0, "--mode", "hot") == running
    assert modes(eyrie, 20, "--mode", "cold") == running
    assert "milvus is not stopped" in eyrie.expect(20, "check", "--mode", "cold").out
    eyrie.expect(2, "check", "--method", "ebs")
    eyrie.expect(0, "backup", "--mode", "hot")
    lab.instance.milvus.stop()
    # Its data would have to be copied to know more.
    assert modes(eyrie, 20) == {"quiesced": False, "hot": False, "cold": None}
    stopped = {"quiesced": False, "hot": False, "cold": True}
    assert modes(eyrie, 0, "--mode", "cold", "--method", "copy") == stopped
    eyrie.expect(0, "backup", "--mode", "cold")


def test_the_version_of_a_stopped_milvus_is_asked_for_before_any_wait_or_read_from_its_program(
    fresh: Callable[..., Lab], binary: Any
) -> None:
    lab = fresh("local")
    lab.instance.start()
    insert(lab, range(3), flush=True)
    eyrie = variant(lab.eyrie(binary), "no-version", instance={"milvus": {"version": None}})
    eyrie.expect(0, "init")
    # Its sessions in etcd live on for a while.
    lab.instance.milvus.kill()
    refused = eyrie.expect(20, "-v", "backup", "--mode", "cold")
    assert "instance.milvus.version" in refused.err, str(refused)
    assert "sessions" not in refused.err, str(refused)
    program = cache.milvus_bin()
    assert (program / "milvus").is_file()
    told = Eyrie(binary, eyrie.config, {"PATH": f"{program}:{eyrie.env()['PATH']}"})
    backup = told.expect(0, "--json", "backup", "--mode", "cold").json()
    assert backup["milvus_version"].startswith("v2.3.5")
    assert any(str(program) in note["what"] for note in backup["notes"]), backup["notes"]
    # From then on the snapshot before tells it.
    eyrie.expect(0, "backup", "--mode", "cold")


def test_another_milvus_under_the_name_of_an_instance_is_noted(fresh: Callable[..., Lab], binary: Any) -> None:
    first, second = fresh("local"), fresh("local")
    for lab in (first, second):
        lab.instance.start()
        insert(lab, range(3), flush=True)
    eyrie = first.eyrie(binary)
    eyrie.expect(0, "init")
    eyrie.expect(0, "backup")
    told = "no collection of the last snapshot"
    again = eyrie.expect(0, "--json", "backup")
    assert told not in again.out + again.err
    theirs = variant(second.eyrie(binary), "named-alike", instance={"name": first.instance.name})
    theirs = variant(theirs, "named-alike", repositories=repository(eyrie))
    other = theirs.expect(0, "--json", "backup")
    assert told in other.err
    assert any(told in note["what"] for note in other.json()["notes"])
