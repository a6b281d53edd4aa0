"""Captures of an instance that never rests: what they hold is what was acknowledged."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from conftest import Lab, objects_of
from lab import binlog, writer
from lab.instance import Instance
from lab.writer import Op, State, Writer
from pymilvus import MilvusException

ACKS = 25
# How many captures are taken of each instance that never rests.
CAPTURES = int(os.environ.get("EYRIE_CAPTURES", "2"))
# Milvus compacts whenever it likes.
BUSY: dict[str, Any] = {}
# Bits of a hybrid timestamp below the milliseconds.
LOGICAL_BITS = 18


@contextmanager
def compacting(instance: Instance) -> Iterator[None]:
    """Flushes and compacts all the time, as fast as Milvus takes it."""
    stop = threading.Event()

    def run(database: str, name: str) -> None:
        with instance.client() as client:
            collection = client.collection(database, name)
            while not stop.wait(0.1):
                try:
                    collection.flush()
                    collection.compact()
                except MilvusException:
                    pass

    threads = [threading.Thread(target=run, args=stream) for stream in writer.STREAMS]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        stop.set()
        for thread in threads:
            thread.join()


def restored(lab: Lab, target: Lab, binary: Path, snapshot: str) -> tuple[dict[str, State], dict[str, bytes]]:
    """What a snapshot shows when it is restored and started, and its files."""
    target.instance.start_backing()
    lab.eyrie(binary).expect(0, "restore", snapshot, "--target", str(target.eyrie(binary).config))
    files = objects_of(target.instance)
    target.instance.start_milvus()
    with target.instance.client() as client:
        states = {f"{d}.{n}": writer.read_state(client, f"{d}.{n}") for d, n in writer.STREAMS}
    target.instance.kill()
    return states, files


@pytest.mark.parametrize("layout", ["local", "s3"])
def test_captures_under_constant_compaction_hold_exactly_what_was_acknowledged_before_the_hold(
    layout: str, streams: Callable[..., Lab], fresh: Callable[..., Lab], binary: Path
) -> None:
    lab = streams(layout, settings=BUSY)
    eyrie = lab.eyrie(binary)
    eyrie.expect(0, "init")
    taken: list[tuple[float, dict[str, Any]]] = []
    with Writer(lab.instance, lab.instance.directory / "writer.jsonl") as writing, compacting(lab.instance):
        for _ in range(CAPTURES):
            writing.await_acks(ACKS, after=time.time())
            began = time.time()
            taken.append((began, eyrie.json("backup")))
        writing.await_acks(ACKS, after=time.time())
    ops = writer.by_stream(writing.ops())
    for began, backup in taken:
        assert backup["weakened"] == []
        spent = backup["write_hold_spent"]
        assert 0 < sum(spent.values()) <= backup["write_hold_ms"], spent
        states, _ = restored(lab, fresh(layout), binary, backup["snapshot"])
        for stream, found in states.items():
            promised = writer.expected_state(writer.before_hold(ops[stream], began))
            assert writer.differences(stream, promised, found) == []
    lab.instance.kill()


def torn(ops: list[Op], since: float, until: float, found: State) -> set[str]:
    """Keys of rows that were there before `since`, were then upserted and never deleted, and are gone."""
    before = writer.expected_state([op for op in ops if op.end < since])
    later = [op for op in ops if op.end >= since and op.start <= until and op.result != "denied"]
    upserted = {key for op in later if op.kind == "upsert" for key in op.keys}
    deleted = {key for op in later if op.kind == "delete" for key in op.keys}
    return (before.keys() & upserted) - deleted - found.keys()


@pytest.mark.parametrize("layout", ["local", "s3"])
def test_every_torn_upsert_of_a_hot_snapshot_is_in_a_log_that_it_lists(
    layout: str, streams: Callable[..., Lab], fresh: Callable[..., Lab], binary: Path
) -> None:
    lab = streams(layout, settings=BUSY)
    eyrie = lab.eyrie(binary)
    eyrie.expect(0, "init")
    with Writer(lab.instance, lab.instance.directory / "writer.jsonl") as writing, compacting(lab.instance):
        writing.await_acks(ACKS)
        backups = [eyrie.json("backup", "--mode", "hot") for _ in range(CAPTURES)]
        ended = time.time()
        writing.await_acks(ACKS, after=ended)
    ops = writer.by_stream(writing.ops())
    for backup in backups:
        cut = eyrie.json("show", backup["snapshot"])["cut"]
        # What was acknowledged before this is in the snapshot, whole.
        flushed = (cut["timestamp"] >> LOGICAL_BITS) / 1000
        states, files = restored(lab, fresh(layout), binary, backup["snapshot"])
        listed = [path for path in cut["straddling"] if path.startswith("delta_log/")]
        newer = {
            key for path in listed for key, at in binlog.deletes(files[path]).items() if at > cut["timestamp"]
        }
        for stream, found in states.items():
            done = ops[stream]
            assert writer.hot_differences(stream, done, flushed, ended, found) == []
            assert torn(done, flushed, ended, found) <= newer
    lab.instance.kill()
