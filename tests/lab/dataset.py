"""The data of a test instance: every kind of thing that Milvus 2.3.5 stores.

`load(client)` makes it, the same for the same seed:

| collection            | what it is there for |
|-----------------------|----------------------|
| default.articles      | two shards, partitions, HNSW, scalar indexes, alias, all scalar types; deletes and upserts flushed and not |
| shop.articles         | an equal name in another database; dynamic fields, IVF_SQ8 |
| archive.articles      | a third one; FLAT, not loaded |
| shop.products         | varchar keys, JSON and array fields, IVF_FLAT; deletes and upserts |
| default.events        | auto ids, partition key, AUTOINDEX, TTL given at creation |
| default.fingerprints  | binary vectors, BIN_FLAT |
| default.recent        | rows that were never flushed |
| default.empty         | no rows, indexed and loaded |
| default.raw           | rows, but no index |
| archive.seasons       | one of two partitions loaded |

IVF_SQ8 is on a collection that nothing is deleted from: a compaction would train it
anew, and searches would answer a little differently for a good reason.

Collections with real index files have more than 1,024 rows a segment: smaller
segments get none.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
from pymilvus import Collection, CollectionSchema, DataType, FieldSchema, Role, db, utility

from .client import Client
from .servers import wait_until

Row = dict[str, Any]
DATABASES = ("archive", "shop")
PASSWORDS = {"alice": "alice-secret", "bob": "bob-secret"}
TTL_SECONDS = 365 * 24 * 3600
BATCH = 2000


def field(name: str, kind: DataType, **options: Any) -> FieldSchema:
    return FieldSchema(name, kind, **options)


def key(auto: bool = False) -> FieldSchema:
    return field("id", DataType.INT64, is_primary=True, auto_id=auto)


def vector(dim: int) -> FieldSchema:
    return field("embedding", DataType.FLOAT_VECTOR, dim=dim)


def floats(rng: np.random.Generator, dim: int) -> list[float]:
    return rng.standard_normal(dim, dtype=np.float32).tolist()


def insert(collection: Collection, rows: list[Row], partition: str | None = None) -> None:
    for start in range(0, len(rows), BATCH):
        collection.insert(rows[start : start + BATCH], partition_name=partition)


def index(collection: Collection, kind: str, metric: str, name: str = "embedding", **params: int) -> None:
    collection.create_index(name, {"index_type": kind, "metric_type": metric, "params": params}, index_name=f"{name}_idx")


class Dataset:
    """Makes the collections; `scale` multiplies the rows of those that are flushed."""

    def __init__(self, client: Client, scale: float = 1.0, seed: int = 7) -> None:
        self.client = client
        self.scale = scale
        self.seed = seed

    def _rng(self, salt: int) -> np.random.Generator:
        return np.random.default_rng([self.seed, salt])

    def _rows(self, count: int) -> int:
        return max(1, int(count * self.scale))

    def _make(self, database: str, name: str, fields: list[FieldSchema], **options: Any) -> Collection:
        dynamic = options.pop("dynamic", False)
        schema = CollectionSchema(
            fields,
            description=f"{name} of {database}",
            enable_dynamic_field=dynamic,
            partition_key_field=options.pop("partition_key", None),
        )
        return Collection(name, schema, using=self.client.using(database), **options)

    def load(self) -> None:
        for database in DATABASES:
            db.create_database(database, using=self.client.using())
        for database in ("default", *DATABASES):
            self.client.using(database)
        # Nearly all of the time is waiting for flushes and loads, so all collections wait together.
        with ThreadPoolExecutor(len(self.makers())) as pool:
            list(pool.map(lambda make: make(), self.makers()))
        self.change_articles()
        self.users()

    def makers(self) -> list[Callable[[], None]]:
        return [
            self.articles,
            self.shop_articles,
            self.archived_articles,
            self.products,
            self.events,
            self.fingerprints,
            self.recent,
            self.empty,
            self.raw,
            self.seasons,
        ]

    def article(self, rng: np.random.Generator, id: int, version: int = 0) -> Row:
        return {
            "id": id,
            "title": f"article {id} v{version} äöü 鷹",
            "year": int(rng.integers(1990, 2026)),
            "kind": int(rng.integers(-128, 128)),
            "stock": int(rng.integers(0, 2**31)),
            "price": float(rng.random()),
            "rating": float(np.float32(rng.random())),
            "available": bool(rng.integers(0, 2)),
            "embedding": floats(rng, 32),
        }

    def articles(self) -> None:
        fields = [
            key(),
            field("title", DataType.VARCHAR, max_length=200),
            field("year", DataType.INT16),
            field("kind", DataType.INT8),
            field("stock", DataType.INT32),
            field("price", DataType.DOUBLE),
            field("rating", DataType.FLOAT),
            field("available", DataType.BOOL),
            vector(32),
        ]
        collection = self._make("default", "articles", fields, num_shards=2)
        # More links than a graph of so few rows needs: a row that none leads to is found by no search.
        index(collection, "HNSW", "L2", M=32, efConstruction=256)
        collection.create_index("year", index_name="year_idx")
        collection.create_index("title", index_name="title_idx")
        rng = self._rng(1)
        size = self._rows(2600)
        for position, partition in enumerate(("y2022", "y2023", None)):
            if partition:
                collection.create_partition(partition, description=f"articles of {partition}")
            count = size if partition else 300
            first = position * 1_000_000
            insert(collection, [self.article(rng, first + n) for n in range(count)], partition)
        seal(collection)
        collection.load()
        utility.create_alias("articles", "articles_current", using=self.client.using())

    def change_articles(self) -> None:
        """Deletes and upserts that are flushed, then some that are not."""
        collection = self.client.collection("default", "articles")
        rng = self._rng(2)
        for first, flushed in ((0, True), (200, False)):
            collection.delete(f"id in {list(range(first, first + 60))}")
            changed = [self.article(rng, 1_000_000 + n, version=1) for n in range(first, first + 80)]
            collection.upsert(changed, partition_name="y2023")
            collection.insert([self.article(rng, 5_000_000 + first + n) for n in range(50)])
            if flushed:
                collection.flush()

    def shop_articles(self) -> None:
        fields = [key(), field("label", DataType.VARCHAR, max_length=64), vector(16)]
        collection = self._make("shop", "articles", fields, dynamic=True)
        index(collection, "IVF_SQ8", "IP", nlist=16)
        rng = self._rng(3)
        rows: list[Row] = []
        for n in range(self._rows(2000)):
            row: Row = {"id": n, "label": f"label {n % 17}", "embedding": floats(rng, 16)}
            if n % 3 == 0:
                row |= {"color": ["red", "green", "blue"][n % 9 // 3], "weight": n / 8}
            if n % 5 == 0:
                row["origin"] = {"country": "NZ", "farm": n}
            rows.append(row)
        insert(collection, rows)
        seal(collection)
        collection.load()

    def archived_articles(self) -> None:
        collection = self._make("archive", "articles", [key(), vector(8)])
        index(collection, "FLAT", "COSINE")
        rng = self._rng(4)
        insert(collection, [{"id": n, "embedding": floats(rng, 8)} for n in range(self._rows(1500))])
        seal(collection)

    def products(self) -> None:
        fields = [
            field("sku", DataType.VARCHAR, max_length=64, is_primary=True),
            field("detail", DataType.JSON),
            field("sizes", DataType.ARRAY, element_type=DataType.INT64, max_capacity=8),
            field("tags", DataType.ARRAY, element_type=DataType.VARCHAR, max_capacity=8, max_length=32),
            vector(24),
        ]
        collection = self._make("shop", "products", fields)
        index(collection, "IVF_FLAT", "L2", nlist=16)
        rng = self._rng(5)

        def product(n: int, version: int = 0) -> Row:
            return {
                "sku": f"SKU-{n:06d}",
                "detail": {"n": n, "version": version, "nested": {"list": [1, n, "x"], "none": None}, "pi": 3.5},
                "sizes": [int(s) for s in rng.integers(0, 1000, n % 8)],
                "tags": [f"tag{t}" for t in range(n % 4)],
                "embedding": floats(rng, 24),
            }

        insert(collection, [product(n) for n in range(self._rows(2000))])
        seal(collection)
        collection.load()
        collection.delete("sku in " + str([f"SKU-{n:06d}" for n in range(0, 200, 5)]).replace("'", '"'))
        collection.upsert([product(n, version=1) for n in range(1, 200, 5)])

    def events(self) -> None:
        fields = [
            key(auto=True),
            field("tenant", DataType.VARCHAR, max_length=32),
            field("at", DataType.INT64),
            vector(16),
        ]
        collection = self._make(
            "default",
            "events",
            fields,
            partition_key="tenant",
            num_partitions=3,
            properties={"collection.ttl.seconds": TTL_SECONDS},
        )
        collection.create_index("embedding", {"index_type": "AUTOINDEX", "metric_type": "IP"}, index_name="embedding_idx")
        rng = self._rng(6)
        count = self._rows(5000)
        insert(collection, [{"tenant": f"tenant-{n % 7}", "at": n, "embedding": floats(rng, 16)} for n in range(count)])
        seal(collection)
        collection.load()

    def fingerprints(self) -> None:
        collection = self._make("default", "fingerprints", [key(), field("embedding", DataType.BINARY_VECTOR, dim=128)])
        index(collection, "BIN_FLAT", "HAMMING")
        rng = self._rng(7)
        insert(collection, [{"id": n, "embedding": rng.bytes(16)} for n in range(self._rows(1500))])
        seal(collection)
        collection.load()

    def recent(self) -> None:
        collection = self._make("default", "recent", [key(), vector(8)])
        index(collection, "FLAT", "L2")
        collection.load()
        rng = self._rng(8)
        insert(collection, [{"id": n, "embedding": floats(rng, 8)} for n in range(400)])
        collection.delete(f"id in {list(range(10))}")

    def empty(self) -> None:
        collection = self._make("default", "empty", [key(), vector(8)])
        index(collection, "HNSW", "COSINE", M=8, efConstruction=64)
        collection.load()

    def raw_rows(self) -> list[Row]:
        """All rows of default.raw, which without an index cannot be loaded and so not be read."""
        rng = self._rng(9)
        return [{"id": n, "embedding": floats(rng, 8)} for n in range(self._rows(1200))]

    def raw(self) -> None:
        collection = self._make("default", "raw", [key(), vector(8)])
        insert(collection, self.raw_rows())
        collection.flush()

    def seasons(self) -> None:
        collection = self._make("archive", "seasons", [key(), vector(8)])
        index(collection, "FLAT", "L2")
        rng = self._rng(10)
        for position, partition in enumerate(("summer", "winter")):
            collection.create_partition(partition)
            first = position * 1000
            insert(collection, [{"id": first + n, "embedding": floats(rng, 8)} for n in range(200)], partition)
        seal(collection)
        collection.load(["summer"])

    def users(self) -> None:
        using = self.client.using()
        for user, password in PASSWORDS.items():
            utility.create_user(user, password, using=using)
        grants = {
            "reader": [("Collection", "articles", "Search", "default"), ("Collection", "articles", "Query", "shop")],
            "writer": [("Collection", "*", "Insert", "default"), ("Global", "*", "CreateCollection", "default")],
        }
        for name, granted in grants.items():
            role = Role(name, using=using)
            role.create()
            for kind, target, privilege, database in granted:
                role.grant(kind, target, privilege, database)
        Role("reader", using=using).add_user("alice")
        Role("writer", using=using).add_user("alice")
        Role("writer", using=using).add_user("bob")


def seal(collection: Collection) -> None:
    """Flushes what was inserted, and waits for its indexes.

    Indexes are created before the rows: 2.3.5 loses the notice of an index that
    is created while another one is, and then builds it a minute later.
    """
    collection.flush()
    rows = collection.num_entities
    for one in collection.indexes:
        name = one.index_name
        wait_until(lambda: indexed_rows(collection, name) >= rows, f"index {name} of {collection.name}")


def indexed_rows(collection: Collection, index_name: str) -> int:
    progress = utility.index_building_progress(collection.name, index_name, using=collection._using)
    # A segment that is too small for an index file counts as indexed.
    return progress["total_rows"] - progress["pending_index_rows"]
