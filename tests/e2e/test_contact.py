"""A server that is not there, or that takes a connection and never says a word, is told of within seconds."""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from conftest import Lab
from lab.eyrie import Eyrie
from lab.eyrie import repository as entry_of
from lab.faults import LONG_AGO, FaultyS3
from test_bad_input import lost_nothing, variant

# No DNS server has the names below it (RFC 6761).
UNKNOWN = "nowhere.invalid:9000"
# What a verb may take: the limit of first contact is 15 s, and a repository and an instance are reached one after the
# other. It is here so that one that hangs fails, and not to measure anything.
SECONDS = 90

PARTS: dict[str, Callable[[str], dict[str, Any]]] = {
    "etcd": lambda at: {"instance": {"etcd": {"endpoints": [at]}}},
    "milvus": lambda at: {"instance": {"milvus": {"address": at}}},
    "objects": lambda at: {"instance": {"objects": {"endpoint": f"http://{at}"}}},
}


@pytest.fixture(scope="module")
def mute() -> Iterator[str]:
    """Takes connections, and never says a word."""
    with socket.create_server(("127.0.0.1", 0), backlog=1_000) as server:
        yield f"127.0.0.1:{server.getsockname()[1]}"


@pytest.fixture(scope="module")
def known_s3(source: Callable[[str], Lab], binary: Path) -> Eyrie:
    eyrie = source("s3").eyrie(binary, "contact")
    eyrie.expect(0, "init")
    return eyrie


@pytest.mark.s3
@pytest.mark.parametrize(("part", "at"), [("etcd", None), ("milvus", None), ("objects", None), ("objects", UNKNOWN)])
def test_a_part_of_the_source_that_is_not_heard_is_20(
    part: str, at: str | None, mute: str, known_s3: Eyrie, source: Callable[[str], Lab]
) -> None:
    address = at or mute
    silent = variant(known_s3, f"contact-{part}-{'unknown' if at else 'mute'}", **PARTS[part](address))
    for verb in ("check", "backup"):
        result = silent.expect(20, verb, timeout=SECONDS)
        assert address in result.out + result.err, str(result)
    lost_nothing(known_s3, source("s3"))


@pytest.mark.s3
@pytest.mark.parametrize("verb", ["check", "backup", "init", "snapshots"])
def test_a_repository_that_is_not_heard_is_1(verb: str, mute: str, known_s3: Eyrie, source: Callable[[str], Lab]) -> None:
    entry = entry_of(source("s3").instance, "silent")
    entry["s3"]["endpoint"] = f"http://{mute}"
    silent = variant(known_s3, f"contact-repository-{verb}", repositories=[entry])
    result = silent.expect(1, verb, timeout=SECONDS)
    assert f"http://{mute}/" in result.out + result.err, str(result)


@pytest.mark.s3
def test_a_clock_that_is_wrong_ends_within_seconds_and_both_times_are_told(
    known_s3: Eyrie, source: Callable[[str], Lab]
) -> None:
    instance = source("s3").instance
    assert instance.minio
    with FaultyS3(instance.minio.port) as store:
        store.refuses_writes = (403, "RequestTimeTooSkewed")
        entry = entry_of(instance, "skewed")
        entry["s3"]["endpoint"] = store.url
        skewed = variant(known_s3, "skewed", repositories=[entry])
        refused = skewed.expect(1, "init", timeout=SECONDS)
        assert f"it is {LONG_AGO}" in refused.err and "for this host" in refused.err, str(refused)
        assert store.faults > 1, "a clock may be set right meanwhile"
        store.refuses_writes = None
        skewed.expect(0, "init")
