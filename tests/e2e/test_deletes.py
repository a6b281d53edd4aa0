"""Deletes that Milvus 2.3.5 forgets (docs/milvus.md 00) are in a snapshot, and come back with it."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable
from pathlib import Path

import numpy
import pytest
from conftest import Lab, objects_of
from lab import binlog
from lab.instance import Instance
from pymilvus import Collection, CollectionSchema, DataType, FieldSchema

ROWS = 1_500
SEGMENTS = 4


def make(instance: Instance) -> set[int]:
    """A collection of several flushed segments; the ids of its rows."""
    fields = [
        FieldSchema("id", DataType.INT64, is_primary=True),
        FieldSchema("embedding", DataType.FLOAT_VECTOR, dim=8),
    ]
    with instance.client() as client:
        collection = Collection("deleted", CollectionSchema(fields), using=client.using("default"), num_shards=1)
        collection.create_index("embedding", {"index_type": "FLAT", "metric_type": "L2", "params": {}})
        collection.load()
        for segment in range(SEGMENTS):
            ids = list(range(segment * ROWS, (segment + 1) * ROWS))
            collection.insert([ids, numpy.zeros((ROWS, 8), numpy.float32)])
            collection.flush()
    return set(range(SEGMENTS * ROWS))


def delete_while_compacting(instance: Instance, alive: set[int]) -> None:
    """Deletes and flushes while the segments are compacted: what Milvus then forgets. `alive` follows."""
    with instance.client() as client:
        collection = client.collection("default", "deleted")
        stop = threading.Event()

        def delete() -> None:
            while not stop.is_set():
                some = random.sample(sorted(alive), 10)
                collection.delete(f"id in {some}")
                alive.difference_update(some)
                time.sleep(0.02)

        def flush() -> None:
            while not stop.is_set():
                collection.flush()
                time.sleep(0.05)

        threads = [threading.Thread(target=work) for work in (delete, flush)]
        for thread in threads:
            thread.start()
        time.sleep(1)
        collection.compact()
        time.sleep(3)
        stop.set()
        for thread in threads:
            thread.join()
        collection.flush()


def shown(instance: Instance) -> set[int]:
    with instance.client() as client:
        collection = client.collection("default", "deleted")
        collection.load()
        rows = collection.query_iterator(
            batch_size=1000, expr="id >= 0", output_fields=["id"], consistency_level="Strong"
        )
        found: set[int] = set()
        while batch := rows.next():
            found |= {row["id"] for row in batch}
        return found


def lost(instance: Instance, unnamed: list[str]) -> set[int]:
    """Rows whose deletes Milvus has lost for good: the log lies below a segment that is no more (docs/milvus.md 00)."""
    objects = objects_of(instance)
    logs = {path.split("/")[-1] for path in unnamed if path not in objects}
    below_inputs = [data for path, data in objects.items() if path.startswith("delta_log/") and path.split("/")[-1] in logs]
    return {int(key) for data in below_inputs for key in binlog.deletes(data)}


@pytest.mark.parametrize("layout", ["local", "embedded", "s3"])
def test_deletes_that_milvus_has_in_memory_only_are_restored_and_a_restart_of_the_restored_keeps_them(
    layout: str, fresh: Callable[..., Lab], binary: Path
) -> None:
    lab, target = fresh(layout), fresh(layout)
    lab.instance.start()
    alive = make(lab.instance)
    eyrie = lab.eyrie(binary)
    eyrie.expect(0, "init")
    # Whether Milvus forgets any depends on when its compaction runs.
    for _ in range(5):
        delete_while_compacting(lab.instance, alive)
        backup = eyrie.json("backup", *lab.mode)
        unnamed = eyrie.json("show", "latest")["unnamed_delta_logs"]
        if unnamed:
            break
    assert unnamed, "no compaction of Milvus forgot a delete"
    assert backup["weakened"] == []
    notes = eyrie.json("show", "latest")["notes"]
    assert any("default.deleted" in note["what"] and "memory only" in note["what"] for note in notes)
    eyrie.expect(0, "verify", "latest", "--level", "bytes")
    assert shown(lab.instance) - lost(lab.instance, unnamed) == alive
    lab.instance.stop_milvus()

    target.instance.start_backing()
    eyrie.expect(0, "restore", "latest", "--target", str(target.eyrie(binary).config), "--read-back")
    target.instance.start_milvus()
    assert shown(target.instance) == alive
    target.instance.stop_milvus()
    if target.instance.layout != "embedded":
        target.instance.await_sessions(0)
    target.instance.start_milvus()
    assert shown(target.instance) == alive
