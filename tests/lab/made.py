"""A made instance: the etcd keys and files of a Milvus 2.3.5 with as many objects as asked.

No Milvus wrote them. They satisfy what eyrie checks (ids, row counts, sizes of
stats logs), so that a cold capture takes them; their bytes mean nothing to
Milvus. Sizes follow a real instance: most files have a few hundred bytes to a
few kilobytes, some a few dozen kilobytes, and one may be as large as asked.
The same arguments give the same instance.
"""

from __future__ import annotations

import base64
import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path

import numpy
import requests

from .instance import Instance

# 2026-01-01T00:00:00Z as a hybrid timestamp and in nanoseconds.
TIME = 1_767_225_600_000 << 18
NANOS = 1_767_225_600_000_000_000
# A position in rocksmq: eight bytes, little endian.
MESSAGE_ID = (470_654_271_533_613_077).to_bytes(8, "little")

INT64, JSON, FLOAT_VECTOR = 5, 23, 101
# Row id, timestamp, primary key, four scalars, the vector.
FIELDS = {0: INT64, 1: INT64, 100: INT64, 101: INT64, 102: INT64, 103: JSON, 104: INT64, 105: FLOAT_VECTOR}
PRIMARY_KEY, VECTOR = 100, 105
LOGS_PER_FIELD = 2
ROWS_PER_LOG = 100

# Objects of one segment: logs of each field, their statistics, one delta log, one index file.
PER_SEGMENT = LOGS_PER_FIELD * len(FIELDS) + LOGS_PER_FIELD + 2

# Sizes in bytes that objects take in turn; together 4.6 kB on average.
SIZES = (485, 620, 910, 700, 1_500, 530, 2_900, 800, 1_100, 590, 4_200, 78_000, 660, 5_200, 750, 980, 1_300, 640, 720, 560)

# etcd's own limit of operations in one transaction.
TXN_OPS = 128
WRITERS = 8

LARGE_CHUNK = 64 << 20

Pair = tuple[str, bytes]


def batches(keys: Iterator[Pair]) -> Iterator[list[Pair]]:
    while batch := list(islice(keys, TXN_OPS)):
        yield batch


def varint(number: int) -> bytes:
    out = bytearray()
    while number > 0x7F:
        out.append(number & 0x7F | 0x80)
        number >>= 7
    out.append(number)
    return bytes(out)


def message(*fields: tuple[int, int | str | bytes]) -> bytes:
    """A protobuf message of (number, value) pairs; 0 and empty values are left out, as proto3 does."""
    out = bytearray()
    for number, value in fields:
        if isinstance(value, int):
            if value:
                out += varint(number << 3) + varint(value)
        elif value:
            data = value.encode() if isinstance(value, str) else value
            out += varint(number << 3 | 2) + varint(len(data)) + data
    return bytes(out)


@dataclass(frozen=True)
class Collection:
    database: int
    id: int
    name: str
    partitions: tuple[int, ...]

    @property
    def pchannel(self) -> str:
        return f"by-dev-rootcoord-dml_{self.id % 4}"

    @property
    def vchannel(self) -> str:
        return f"{self.pchannel}_{self.id}v0"

    @property
    def index(self) -> int:
        return self.id + 50


DATABASES = {1: "default", 2: "shop"}
COLLECTIONS = (
    Collection(1, 1000, "articles", (1001, 1002)),
    Collection(2, 2000, "products", (2001,)),
    Collection(2, 3000, "events", (3001, 3002, 3003)),
)


@dataclass
class Made:
    """`objects` objects, rounded up to whole segments, and one of `large` bytes where that is not 0; where they are
    to be `compressible`, all but the first bytes of each are zeros."""

    objects: int
    large: int = 0
    compressible: bool = False
    noise: bytes = field(init=False, repr=False)

    def __post_init__(self) -> None:
        # The first half does not compress, like vectors; the second does, like ids.
        bits = numpy.random.default_rng(1).integers(0, 256, 8 << 20, dtype=numpy.uint8)
        bits[4 << 20 :] &= 0x0F
        if self.compressible:
            bits[:] = 0
        self.noise = bits.tobytes()

    @property
    def segments(self) -> int:
        return -(-self.objects // PER_SEGMENT)

    def fill(self, instance: Instance) -> int:
        """Writes keys and files into a running etcd and a storage root; returns how many objects."""
        self.put(instance, self.keys(instance.root_path))
        # A queue of a Milvus that was stopped: eyrie takes whatever is in its two directories.
        for directory in (instance.rocksmq, instance.rocksmq.with_name(instance.rocksmq.name + "_meta_kv")):
            directory.mkdir(parents=True, exist_ok=True)
            (directory / "CURRENT").write_text("MANIFEST-000001\n")
        written = 0
        directory = None
        for path, size, seed in self.files():
            target = instance.storage / path
            if target.parent != directory:
                directory = target.parent
                directory.mkdir(parents=True, exist_ok=True)
            self.write(target, size, seed)
            written += 1
        return written

    def write(self, target: Path, size: int, seed: int) -> None:
        """Bytes that no other object has."""
        if size < LARGE_CHUNK:
            start = seed * 7919 % (len(self.noise) - size)
            data = seed.to_bytes(8, "little") + self.noise[start : start + size - 8]
            fd = os.open(target, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
            os.write(fd, data)
            os.close(fd)
            return
        random = numpy.random.default_rng(seed)
        with open(target, "wb", buffering=0) as file:
            for start in range(0, size, LARGE_CHUNK):
                length = min(LARGE_CHUNK, size - start)
                data = random.bytes(8) + bytes(length - 8) if self.compressible else random.bytes(length)
                file.write(data)

    def placed(self) -> Iterator[tuple[Collection, int, int]]:
        """Collection, partition and id of every segment."""
        for at in range(self.segments):
            collection = COLLECTIONS[at % len(COLLECTIONS)]
            partition = collection.partitions[at // len(COLLECTIONS) % len(collection.partitions)]
            yield collection, partition, 10_000_000 + at * 1_000

    def size(self, segment: int, number: int) -> int:
        return SIZES[(number + segment // 1_000) % len(SIZES)]

    def files(self) -> Iterator[tuple[str, int, int]]:
        """Path, size and seed of every object."""
        for n, (collection, partition, segment) in enumerate(self.placed()):
            place = f"{collection.id}/{partition}/{segment}"
            seed = n * PER_SEGMENT + 1
            number = 0
            for column in FIELDS:
                for log in range(LOGS_PER_FIELD):
                    path = f"insert_log/{place}/{column}/{segment + 100 + number}"
                    yield path, self.size(segment, number), seed + number
                    number += 1
            for log in range(LOGS_PER_FIELD):
                path = f"stats_log/{place}/{PRIMARY_KEY}/{segment + 200 + log}"
                yield path, self.size(segment, number), seed + number
                number += 1
            yield f"delta_log/{place}/{segment + 300}", self.size(segment, number), seed + number
            number += 1
            path = f"index_files/{segment + 400}/1/{partition}/{segment}"
            yield f"{path}/HNSW_0", self.size(segment, number), seed + number
            if n == 0 and self.large:
                yield f"{path}/HNSW_1", self.large, self.segments * PER_SEGMENT + 1

    def keys(self, root: str) -> Iterator[Pair]:
        """Every key with its value, those of `meta` below the root."""
        meta = f"{root}/meta"
        for database, name in DATABASES.items():
            yield f"{meta}/root-coord/database/db-info/{database}", message((2, name), (3, database), (4, 1), (5, NANOS))
        for collection in COLLECTIONS:
            for key, value in self.collection(collection):
                yield f"{meta}/{key}", value
        for n, (collection, partition, segment) in enumerate(self.placed()):
            for key, value in self.segment(collection, partition, segment, n):
                yield f"{meta}/{key}", value
        yield f"{meta}/session/id", b"7"
        for counter in ("idTimestamp", "timestamp"):
            yield f"{root}/kv/gid/{counter}", NANOS.to_bytes(8, "big")

    def collection(self, c: Collection) -> Iterator[Pair]:
        info = message(
            (1, c.id), (2, message((1, c.name))), (3, TIME), (7, c.vchannel), (8, c.pchannel), (10, 1),
            (11, message((1, c.pchannel), (2, MESSAGE_ID))), (12, 2), (15, c.database),
        )
        yield f"root-coord/database/collection-info/{c.database}/{c.id}", info
        for column, kind in FIELDS.items():
            value = message((1, column), (2, f"field_{column}"), (3, int(column == PRIMARY_KEY)), (5, kind))
            yield f"root-coord/fields/{c.id}/{column}", value
        for partition in c.partitions:
            name = "_default" if partition == c.partitions[0] else f"part_{partition}"
            yield f"root-coord/partitions/{c.id}/{partition}", message((1, partition), (2, name), (3, TIME), (4, c.id))
        parameters = message((1, "index_type"), (2, "HNSW"))
        index = message((1, c.id), (2, VECTOR), (3, "vector"), (4, c.index), (6, parameters))
        yield f"field-index/{c.id}/{c.index}", message((1, index), (3, TIME))
        yield f"datacoord-meta/channel-cp/{c.vchannel}", self.position(c)
        yield f"datacoord-meta/channel-removal/{c.vchannel}", b"non-removed"

    def position(self, c: Collection) -> bytes:
        return message((1, c.vchannel), (2, MESSAGE_ID), (4, TIME))

    def segment(self, c: Collection, partition: int, segment: int, n: int) -> Iterator[Pair]:
        place = f"{c.id}/{partition}/{segment}"
        rows = LOGS_PER_FIELD * ROWS_PER_LOG
        position = self.position(c)
        info = message((1, segment), (2, c.id), (3, partition), (4, c.vchannel), (5, rows), (6, 4), (9, position), (10, position))
        yield f"datacoord-meta/s/{place}", info
        number = 0
        for column in FIELDS:
            logs = []
            for _ in range(LOGS_PER_FIELD):
                log = (1, ROWS_PER_LOG), (2, TIME), (3, TIME), (5, self.size(segment, number)), (6, segment + 100 + number)
                logs.append((2, message(*log)))
                number += 1
            yield f"datacoord-meta/binlog/{place}/{column}", message((1, column), *logs)
        stats = []
        for log in range(LOGS_PER_FIELD):
            stats.append((2, message((5, self.size(segment, number)), (6, segment + 200 + log))))
            number += 1
        yield f"datacoord-meta/statslog/{place}/{PRIMARY_KEY}", message((1, PRIMARY_KEY), *stats)
        delta = message((1, 1), (3, TIME), (5, self.size(segment, number)), (6, segment + 300))
        yield f"datacoord-meta/deltalog/{place}/{PRIMARY_KEY}", message((1, PRIMARY_KEY), (2, delta))
        files = [(11, "HNSW_0")]
        if n == 0 and self.large:
            files.append((11, "HNSW_1"))
        build = segment + 400
        numbers = (1, c.id), (2, partition), (3, segment), (4, rows), (5, c.index), (6, build), (8, 1), (9, 3)
        yield f"segment-index/{place}/{build}", message(*numbers, *files)

    def put(self, instance: Instance, keys: Iterator[Pair]) -> None:
        session = requests.Session()
        session.mount("http://", requests.adapters.HTTPAdapter(pool_maxsize=WRITERS))

        def one(batch: list[Pair]) -> None:
            puts = [
                {"request_put": {"key": base64.b64encode(k.encode()).decode(), "value": base64.b64encode(v).decode()}}
                for k, v in batch
            ]
            reply = session.post(f"{instance.etcd.url}/v3/kv/txn", json={"success": puts}, timeout=60)
            reply.raise_for_status()

        with ThreadPoolExecutor(WRITERS) as pool:
            for _ in pool.map(one, batches(keys)):
                pass
