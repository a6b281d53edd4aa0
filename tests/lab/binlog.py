"""Reads the files of Milvus's storage version 1 (docs/milvus.md 4.5): the deletes of a delta log."""

from __future__ import annotations

import io
import json
import struct

from pyarrow import parquet

MAGIC = b"\xbc\xfa\xff\x00"
HEADER = struct.Struct("<QbII")
DESCRIPTOR, DELETE = 0, 2
# After the header of an event that is no descriptor: its first and last timestamp.
TIMESTAMPS = 16


def deletes(data: bytes) -> dict[str, int]:
    """Primary key to hybrid timestamp of every delete in a delta log."""
    assert data.startswith(MAGIC), "not a file of storage version 1"
    found: dict[str, int] = {}
    at = len(MAGIC)
    while at < len(data):
        _, kind, length, _ = HEADER.unpack_from(data, at)
        if kind == DELETE:
            payload = data[at + HEADER.size + TIMESTAMPS : at + length]
            for line in parquet.read_table(io.BytesIO(payload)).column(0).to_pylist():
                delete = json.loads(line)
                found[str(delete["pk"])] = delete["ts"]
        at += length
    return found
