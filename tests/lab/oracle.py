"""What a client can see of an instance, and how two such views differ.

pymilvus, which nobody here wrote, reads everything: databases, schemas, indexes,
aliases, load state, users, roles, grants, counts, every row, and searches. Rows
are kept as one hash per primary key, so that a difference names the keys.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import numpy as np
from pymilvus import Collection, DataType, Role, utility
from pymilvus.client.types import LoadState

from .client import Client
from .etcd_client import EtcdClient
from .servers import wait_until

View = dict[str, Any]
Vectors = dict[str, Any]
VECTORS = (DataType.FLOAT_VECTOR, DataType.BINARY_VECTOR)
# So much effort that a search over our small data is exact, whatever the segments look like.
SEARCH_PARAMS = {"HNSW": {"ef": 16384}, "IVF_FLAT": {"nprobe": 1024}, "IVF_SQ8": {"nprobe": 1024}}
# Indexes of which a search with that effort finds the nearest rows there are.
EXACT = ("FLAT", "BIN_FLAT", "HNSW", "IVF_FLAT")
QUERIES = 4
TOP = 10
SHOWN = 5


def snapshot_instance(client: Client, storage_is_local: bool) -> View:
    """Everything a client can see; leaves each collection loaded or not as it was.

    On local storage Milvus 2.3.5 deletes vector logs when vectors are read over an
    index that does not hold them (IVF_SQ8) and then released: those are not read.
    """
    databases: View = {name: {} for name in client.databases()}
    names = [(database, c) for database in databases for c in client.collections(database)]
    # Most of the time is waiting for loads, so the collections wait together.
    with ThreadPoolExecutor(4) as pool:
        views = pool.map(lambda name: _collection(client, *name, storage_is_local), names)
        for (database, collection), view in zip(names, views):
            databases[database][collection] = view
    return {"databases": databases, "access": _access(client)}


def _access(client: Client) -> View:
    using = client.using()
    users = {item.username: sorted(item.roles) for item in utility.list_users(True, using=using).groups}
    roles: View = {}
    for item in utility.list_roles(False, using=using).groups:
        grants = [
            [database, g.object, g.object_name, g.privilege, g.grantor_name]
            for database in client.databases()
            for g in Role(item.role_name, using=using).list_grants(db_name=database).groups
        ]
        roles[item.role_name] = sorted(grants)
    return {"users": users, "roles": roles}


def _collection(client: Client, database: str, name: str, storage_is_local: bool) -> View:
    collection = client.collection(database, name)
    using = client.using(database)
    described = collection.describe()
    indexes = {
        i.index_name: {"field": i.field_name, "params": _canonical(i.params)} for i in collection.indexes
    }
    partitions = {p.name: p.description for p in collection.partitions}
    view: View = {
        "schema": _canonical(collection.schema.to_dict()),
        "properties": _canonical(described.get("properties", [])),
        "shards": described["num_shards"],
        "consistency": described["consistency_level"],
        "aliases": sorted(utility.list_aliases(name, using=using)),
        "partitions": partitions,
        "indexes": indexes,
        "loaded": _load_state(client, database, name, list(partitions)),
    }
    vector = next(f for f in collection.schema.fields if f.dtype in VECTORS)
    vector_index = next((i for i in collection.indexes if i.field_name == vector.name), None)
    if vector_index is None:
        # Milvus loads nothing without an index: only what it says about itself remains.
        view["sealed_rows"] = collection.num_entities
        return view
    with_vectors = not (storage_is_local and vector_index.params["index_type"] == "IVF_SQ8")
    with loaded(collection, view["loaded"]):
        view["count"] = collection.query("", output_fields=["count(*)"], consistency_level="Strong")[0]["count(*)"]
        vectors: Vectors = {}
        view["rows"] = read_rows(collection, with_vectors, vectors)
        view["search"] = _search(collection, vector, vector_index.params, vectors)
    return view


def _canonical(value: Any) -> str:
    """One spelling of what pymilvus returns as nested dicts, enums and messages."""
    return json.dumps(value, sort_keys=True, default=str)


def _load_state(client: Client, database: str, name: str, partitions: list[str]) -> dict[str, str]:
    """Which partitions are loaded, once a Milvus that was just started has loaded them again."""
    using = client.using(database)

    def state(partition: str) -> str:
        return LoadState(utility.load_state(name, [partition], using=using)).name

    for partition in partitions:
        wait_until(lambda: state(partition) != "Loading", f"{database}.{name}/{partition} is loaded")
    return {p: state(p) for p in sorted(partitions)}


@contextmanager
def loaded(collection: Collection, state: dict[str, str]) -> Iterator[None]:
    """Loads a collection whole while its body runs, and puts its load state back."""
    before = [partition for partition, found in state.items() if found == "Loaded"]
    whole = len(before) == len(state)
    if not whole:
        # 2.3.5 answers from the old partitions for a while when others are added to them.
        collection.release()
        collection.load()
    yield
    if not whole:
        collection.release()
        if before:
            collection.load(before)


def read_rows(collection: Collection, with_vectors: bool, vectors: Vectors | None = None) -> dict[str, str]:
    """A hash of every row by primary key, read by an iterator over the keys; `vectors` takes the vectors."""
    schema = collection.schema
    fields = [f.name for f in schema.fields if with_vectors or f.dtype not in VECTORS]
    if schema.enable_dynamic_field:
        fields.append("$meta")
    primary = schema.primary_field
    everything = f'{primary.name} >= ""' if primary.dtype == DataType.VARCHAR else f"{primary.name} >= -9223372036854775807"
    vector = next(f.name for f in schema.fields if f.dtype in VECTORS)
    rows: dict[str, str] = {}
    iterator = collection.query_iterator(
        batch_size=1000, expr=everything, output_fields=fields, consistency_level="Strong"
    )
    while batch := iterator.next():
        for row in batch:
            rows[str(row[primary.name])] = hash_row(row)
            if vectors is not None and with_vectors:
                vectors[str(row[primary.name])] = row[vector]
    iterator.close()
    return rows


def hash_row(row: dict[str, Any]) -> str:
    """A hash that is equal for rows that hold equal values, to the last bit of a float."""
    return hashlib.blake2b(json.dumps(_plain(row), sort_keys=True).encode(), digest_size=12).hexdigest()


def _plain(value: Any) -> Any:
    """The value in Python's own types: pymilvus answers with numpy's and protobuf's."""
    if value is None or isinstance(value, (str, int, float)):
        return value
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, bytes):
        return value.hex()
    if isinstance(value, dict):
        return {str(k): _plain(v) for k, v in value.items()}
    return [_plain(v) for v in value]


def _search(collection: Collection, vector: Any, index: dict[str, Any], vectors: Vectors) -> list[list[list[Any]]]:
    """Keys and distances of the nearest rows to fixed vectors.

    A search of 2.3.5 was seen to miss nearer rows, without an error, that a query a moment
    before had returned; why is not known. Where the nearest rows can be computed from
    `vectors`, a search counts only when it found those.
    """
    rng = np.random.default_rng(99)
    dim = vector.params["dim"]
    if vector.dtype == DataType.BINARY_VECTOR:
        queries: list[Any] = [rng.bytes(dim // 8) for _ in range(QUERIES)]
    else:
        queries = rng.standard_normal((QUERIES, dim), dtype=np.float32).tolist()
    param = {"metric_type": index["metric_type"], "params": SEARCH_PARAMS.get(index["index_type"], {})}
    nearest = _nearest(queries, vectors, index["metric_type"]) if index["index_type"] in EXACT and vectors else None
    found: list[list[list[Any]]] = []

    def is_exact() -> bool:
        answer = collection.search(queries, vector.name, param, TOP, consistency_level="Strong")
        # Equal distances come in any order.
        found[:] = [sorted(([round(h.distance, 3), str(h.id)] for h in hits), key=str) for hits in answer]
        distances = [np.sort([h.distance for h in hits]) for hits in answer]
        return nearest is None or all(
            len(a) == len(b) and np.allclose(a, np.sort(b), rtol=1e-3, atol=1e-3) for a, b in zip(distances, nearest)
        )

    wait_until(is_exact, f"a search of {collection.name} finds the nearest rows")
    return found


def _nearest(queries: list[Any], vectors: Vectors, metric: str) -> list[Any]:
    """The distances of the rows that are nearest to each query, as Milvus measures them."""
    if metric == "HAMMING":
        rows = np.array([np.frombuffer(b"".join(v), dtype=np.uint8) for v in vectors.values()])
        bits = [np.unpackbits(rows ^ np.frombuffer(query, dtype=np.uint8), axis=1).sum(axis=1) for query in queries]
        return [np.sort(distances)[:TOP] for distances in bits]
    rows = np.array(list(vectors.values()), dtype=np.float64)
    measured = []
    for query in np.array(queries, dtype=np.float64):
        if metric == "L2":
            measured.append(np.sort(((rows - query) ** 2).sum(axis=1))[:TOP])
            continue
        similar = rows @ query
        if metric == "COSINE":
            similar = similar / (np.linalg.norm(rows, axis=1) * np.linalg.norm(query))
        measured.append(np.sort(-similar)[:TOP] * -1)
    return measured


def compare(before: View, after: View) -> list[str]:
    """The differences between two views, each as one sentence; empty when they are equal."""
    return list(_differences("", before, after))


def _differences(path: str, a: Any, b: Any) -> list[str]:
    if a == b:
        return []
    if path.endswith(".rows"):
        return [_row_difference(path, a, b)]
    if not isinstance(a, dict) or not isinstance(b, dict):
        return [f"{path}: was {_short(a)}, is {_short(b)}"]
    found = []
    for name in sorted(a.keys() | b.keys()):
        below = f"{path}.{name}" if path else name
        if name not in b:
            found.append(f"{below} is gone")
        elif name not in a:
            found.append(f"{below} was not there before")
        else:
            found += _differences(below, a[name], b[name])
    return found


def _row_difference(path: str, a: dict[str, str], b: dict[str, str]) -> str:
    parts = []
    for what, keys in (
        ("missing", a.keys() - b.keys()),
        ("too many", b.keys() - a.keys()),
        ("different", {k for k in a.keys() & b.keys() if a[k] != b[k]}),
    ):
        if keys:
            names = sorted(keys, key=lambda k: (len(k), k))
            more = ", …" if len(names) > SHOWN else ""
            parts.append(f"{len(names)} {what} ({', '.join(names[:SHOWN])}{more})")
    return f"{path}: of {len(a)} rows {'; '.join(parts)}"


def _short(value: Any) -> str:
    text = str(value)
    return text if len(text) <= 300 else text[:300] + "…"


def index_build_ids(etcd: EtcdClient, root_path: str = "by-dev") -> set[str]:
    """`collection/partition/segment/build` of every index build that etcd knows."""
    prefix = f"{root_path}/meta/segment-index/"
    return {key.removeprefix(prefix) for key in etcd.keys(prefix)}


def rebuilt_segments(before: set[str], after: set[str]) -> set[str]:
    """Segments that had index builds before and have other ones after.

    Empty after a restore means that index files came back and none was built
    again. A segment that had none yet (it was flushed by the backup) may get its
    first.
    """

    def by_segment(builds: set[str]) -> dict[str, set[str]]:
        found: dict[str, set[str]] = {}
        for build in builds:
            segment, _, id = build.rpartition("/")
            found.setdefault(segment, set()).add(id)
        return found

    old, new = by_segment(before), by_segment(after)
    return {segment for segment in old.keys() & new.keys() if new[segment] - old[segment]}
