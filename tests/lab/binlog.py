"""Reads the files of Milvus's storage version 1 (docs/milvus.md 4.5): the deletes of a delta log."""

from __future__ import annotations

import io
import json
import struct
from typing import Any

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


def log_ids(value: bytes) -> set[int]:
    """The ids of the logs that the value of a key `deltalog/...` names: FieldBinlog.binlogs[].logID."""
    return {number for field, binlog in fields(value) if field == 2 for n, number in fields(binlog) if n == 6}


def fields(message: bytes) -> list[tuple[int, Any]]:
    """The fields of a protobuf message that are numbers or bytes."""
    at = 0

    def varint() -> int:
        nonlocal at
        number = shift = 0
        while True:
            byte = message[at]
            at += 1
            number |= (byte & 0x7F) << shift
            shift += 7
            if byte < 0x80:
                return number

    found: list[tuple[int, Any]] = []
    while at < len(message):
        tag = varint()
        if tag & 7 == 0:
            found.append((tag >> 3, varint()))
            continue
        assert tag & 7 == 2, "neither a number nor bytes"
        length = varint()
        found.append((tag >> 3, message[at : at + length]))
        at += length
    return found
