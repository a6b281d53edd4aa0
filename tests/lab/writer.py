"""A client that never stops writing, and the record of what it was told.

It runs as a process of its own (`python -m lab.writer`), inserts, upserts and
deletes in several collections, and logs each operation with its start, its end
and the answer, as JSON lines. Each collection is written by one thread, so the
log of a collection is a sequence and its rows after any operation are known.
A denied operation is followed by the next one after a pause: writes go on by
themselves when the denial ends.
"""

from __future__ import annotations

import argparse
import json
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from pymilvus import Collection, CollectionSchema, DataType, FieldSchema, MilvusException

from .client import Client
from .instance import Instance
from .servers import wait_until

STREAMS = [("default", "stream_numbers"), ("default", "stream_names"), ("shop", "stream_numbers")]
DIM = 8
# merr's "quota exceeded" and "rate limit" (docs/milvus.md 2.3: force-deny answers 9).
DENIED_CODES = (8, 9)
State = dict[str, int]


@dataclass(frozen=True)
class Op:
    """One operation: what was asked, when, and what was answered.

    `result` is `ok`, `denied` (no effect) or `unknown` (the answer never came). It
    is logged before it is sent, as `unknown`, and again with its answer.
    """

    stream: str
    kind: str
    keys: list[str]
    version: int
    start: float
    end: float
    result: str
    answer: str = ""


def make_streams(client: Client) -> None:
    """Makes the collections to write to, loaded."""
    for database, name in STREAMS:
        options: dict[str, Any] = {"num_shards": 2} if name == "stream_numbers" else {}
        primary = (
            FieldSchema("id", DataType.INT64, is_primary=True)
            if name == "stream_numbers"
            else FieldSchema("id", DataType.VARCHAR, max_length=32, is_primary=True)
        )
        fields = [primary, FieldSchema("version", DataType.INT64), FieldSchema("embedding", DataType.FLOAT_VECTOR, dim=DIM)]
        collection = Collection(name, CollectionSchema(fields), using=client.using(database), **options)
        collection.create_index("embedding", {"index_type": "FLAT", "metric_type": "L2", "params": {}})
        collection.load()


class Stream:
    """The operations on one collection, drawn from a seed."""

    def __init__(self, collection: Collection, stream: str, seed: str) -> None:
        self.collection = collection
        self.stream = stream
        self.random = random.Random(seed)
        self.numeric = collection.schema.primary_field.dtype == DataType.INT64
        self.alive: set[int] = set()
        self.next_key = 0
        self.version = 0

    def _key(self, n: int) -> Any:
        return n if self.numeric else f"key-{n:08d}"

    def _row(self, n: int) -> dict[str, Any]:
        return {
            "id": self._key(n),
            "version": self.version,
            "embedding": [self.random.random() for _ in range(DIM)],
        }

    def step(self, log: Callable[[Op], None]) -> Op:
        self.version += 1
        kind = self.random.choices(["insert", "upsert", "delete"], [6, 3, 1])[0]
        if kind == "insert" or len(self.alive) < 50:
            kind = "insert"
            numbers = list(range(self.next_key, self.next_key + self.random.randint(1, 20)))
        else:
            numbers = self.random.sample(sorted(self.alive), self.random.randint(1, 10))
        keys = [str(self._key(n)) for n in numbers]
        start = time.time()
        log(Op(self.stream, kind, keys, self.version, start, start, "unknown"))
        try:
            if kind == "insert":
                self.collection.insert([self._row(n) for n in numbers])
            elif kind == "upsert":
                self.collection.upsert([self._row(n) for n in numbers])
            else:
                self.collection.delete(f"id in {json.dumps([self._key(n) for n in numbers])}")
            result, answer = "ok", ""
        except MilvusException as error:
            result = "denied" if error.code in DENIED_CODES else "unknown"
            answer = f"{error.code}: {error.message}"
        end = time.time()
        if kind == "insert":
            # Never the same key again, whatever became of the insert.
            self.next_key = numbers[-1] + 1
        if result == "ok":
            changed = set(numbers)
            self.alive = self.alive - changed if kind == "delete" else self.alive | changed
        elif result == "unknown":
            self.alive -= set(numbers)
        op = Op(self.stream, kind, keys, self.version, start, end, result, answer)
        log(op)
        return op


def write(client: Client, log: Path, seed: str) -> None:
    lock = threading.Lock()
    stopping = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: stopping.set())
    with open(log, "a", buffering=1) as file:

        def note(op: Op) -> None:
            with lock:
                file.write(json.dumps(asdict(op)) + "\n")

        def run(stream: Stream) -> None:
            while not stopping.is_set():
                op = stream.step(note)
                time.sleep(0.01 if op.result == "ok" else 0.1)

        threads = [
            threading.Thread(target=run, args=(Stream(client.collection(d, n), f"{d}.{n}", f"{seed}/{d}/{n}"),), daemon=True)
            for d, n in STREAMS
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            while thread.is_alive():
                thread.join(0.2)  # a join without a limit would keep the signal out


class Writer:
    """The writer process of an instance; the streams must have been made."""

    def __init__(self, instance: Instance, log: Path, seed: str = "1") -> None:
        self.log = log
        log.touch()
        client = instance.client()
        arguments = ["--address", client.address, "--user", client.user, "--password", client.password]
        self.process = subprocess.Popen(
            ["setpriv", "--pdeathsig", "KILL", sys.executable, "-m", "lab.writer", *arguments]
            + ["--log", str(log), "--seed", seed],
            cwd=Path(__file__).resolve().parent.parent,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=open(log.with_suffix(".err"), "w"),
        )

    def __enter__(self) -> "Writer":
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def stop(self) -> None:
        """Ends the writing after the operations under way, so that the log has all that was acknowledged."""
        self.process.terminate()
        try:
            self.process.wait(30)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()

    def ops(self) -> list[Op]:
        return read_log(self.log)

    def await_acks(self, count: int, after: float = 0.0) -> None:
        """Waits until each stream has `count` operations acknowledged that started after a time."""

        def enough() -> bool:
            assert self.process.poll() is None, f"the writer ended, see {self.log.with_suffix('.err')}"
            acks = [op.stream for op in self.ops() if op.result == "ok" and op.start > after]
            return all(acks.count(f"{d}.{n}") >= count for d, n in STREAMS)

        wait_until(enough, f"{count} acknowledged writes a stream")


def read_log(path: Path) -> list[Op]:
    """The operations in the order in which they were sent."""
    ops: dict[tuple[str, int], Op] = {}
    for line in path.read_text().split("\n")[:-1]:
        op = Op(**json.loads(line))
        ops[op.stream, op.version] = op
    return list(ops.values())


def by_stream(ops: list[Op]) -> dict[str, list[Op]]:
    return {f"{d}.{n}": [op for op in ops if op.stream == f"{d}.{n}"] for d, n in STREAMS}


def before_hold(ops: list[Op], since: float) -> list[Op]:
    """A stream's operations up to the first one denied after `since`: what a quiesced snapshot holds."""
    denied = [n for n, op in enumerate(ops) if op.result == "denied" and op.start >= since]
    assert denied, "no operation of the stream was denied: the hold never took effect"
    return ops[: denied[0]]


def expected_state(ops: list[Op]) -> State:
    """Key to version of every row after a stream's acknowledged operations."""
    state: State = {}
    for op in ops:
        if op.result != "ok":
            continue
        for key in op.keys:
            if op.kind == "delete":
                state.pop(key, None)
            else:
                state[key] = op.version
    return state


def uncertain_keys(ops: list[Op]) -> set[str]:
    """Keys whose last operation got no answer: their rows may be as before it or after it."""
    last = {key: op for op in ops for key in op.keys if op.result != "denied"}
    return {key for key, op in last.items() if op.result == "unknown"}


def differences(stream: str, expected: State, found: State) -> list[str]:
    """How a stream's rows differ from what the log promises."""
    wrong = []
    for what, keys in (
        ("acknowledged but missing", expected.keys() - found.keys()),
        ("there but not acknowledged before the hold", found.keys() - expected.keys()),
        ("of another version", {k for k in expected.keys() & found.keys() if expected[k] != found[k]}),
    ):
        if keys:
            wrong.append(f"{stream}: {len(keys)} rows {what}, such as {sorted(keys)[:5]}")
    return wrong


def hot_differences(stream: str, ops: list[Op], since: float, until: float, found: State) -> list[str]:
    """How a stream's rows break the promise of a hot snapshot taken from `since` to `until`.

    What was acknowledged before is there, unless it was changed meanwhile; what
    was changed meanwhile is in any of its states, or gone if it was upserted
    (torn) or deleted; what came after is not there.
    """
    certain = expected_state([op for op in ops if op.end < since])
    later = [op for op in ops if op.end >= since and op.start <= until and op.result != "denied"]
    allowed: dict[str, set[int | None]] = {}
    for op in later:
        for key in op.keys:
            states = allowed.setdefault(key, {certain.get(key)})
            states |= {None} if op.kind == "delete" else {op.version, None}
    wrong = []
    for key in sorted(certain.keys() | found.keys()):
        expected = allowed.get(key, {certain.get(key)})
        if found.get(key) not in expected:
            wrong.append(f"{stream}: {key} is {found.get(key)}, may be {sorted(expected, key=str)}")
    return wrong[:5]


def read_state(client: Client, stream: str) -> State:
    """Key to version of every row that the instance shows; loads the collection where needed."""
    database, name = stream.split(".")
    collection = client.collection(database, name)
    collection.load()
    expr = "id >= 0" if collection.schema.primary_field.dtype == DataType.INT64 else 'id >= ""'
    iterator = collection.query_iterator(
        batch_size=1000, expr=expr, output_fields=["id", "version"], consistency_level="Strong"
    )
    state: State = {}
    while batch := iterator.next():
        state |= {str(row["id"]): row["version"] for row in batch}
    iterator.close()
    return state


def main() -> None:
    parser = argparse.ArgumentParser(prog="lab.writer", description=__doc__)
    for name in ("address", "user", "password", "log", "seed"):
        parser.add_argument(f"--{name}", required=True)
    args = parser.parse_args()
    write(Client(args.address, args.user, args.password), Path(args.log), args.seed)


if __name__ == "__main__":
    main()
