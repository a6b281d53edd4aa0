"""Who reads needs no write: a repository that takes none is read all the same."""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from conftest import Lab
from lab import oracle
from lab.eyrie import Eyrie
from lab.faults import FaultyS3
from test_bad_input import repository, small_disk, variant
from test_kill import await_writes

S3_REFUSALS = {
    "slow-down": (503, "SlowDown"),
    "unavailable": (503, "ServiceUnavailable"),
    "forbidden": (403, "AccessDenied"),
    "over-quota": (507, "XMinioStorageFull"),
}
# Seconds after which a verb that only reads counts as stuck: the store is tried for ten minutes.
STUCK = 120.0


@contextmanager
def read_only(path: Path) -> Iterator[None]:
    """Makes a mounted file system read-only."""
    as_root = [] if os.geteuid() == 0 else ["sudo"]
    subprocess.run([*as_root, "mount", "-o", "remount,ro", str(path)], check=True)
    try:
        yield
    finally:
        subprocess.run([*as_root, "mount", "-o", "remount,rw", str(path)], check=True)


@contextmanager
def full(path: Path) -> Iterator[None]:
    """Fills a file system to the last block."""
    filler = path / "filler"
    with filler.open("wb", buffering=0) as file:
        try:
            while True:
                file.write(b"\0" * 4096)
        except OSError:
            pass
    try:
        yield
    finally:
        filler.unlink()


def two_backups(eyrie: Eyrie, lab: Lab) -> list[str]:
    snapshots = []
    for _ in range(2):
        await_writes(lab.instance)
        snapshots.append(eyrie.json("backup")["snapshot"])
    return snapshots


def reads(eyrie: Eyrie, onto: Lab, snapshots: list[str], binary: Path) -> dict[str, float]:
    """Runs every verb that only reads, and says how many seconds each took."""
    first, last = snapshots
    # What an operator sees, and no more, is counted below.
    eyrie = Eyrie(eyrie.binary, eyrie.config, {**eyrie.environment, "EYRIE_LOG": "warn"})
    verbs = {
        "snapshots": ("snapshots",),
        "show": ("show", "latest"),
        "ls": ("ls", "latest"),
        "diff": ("diff", first, last),
        "verify": ("verify",),
        "verify bytes": ("verify", "--level", "bytes"),
        "restore": ("restore", "latest", "--target", str(onto.eyrie(binary).config)),
    }
    took = {}
    for name, verb in verbs.items():
        began = time.monotonic()
        result = eyrie.expect(0, *verb, timeout=STUCK)
        took[name] = round(time.monotonic() - began, 1)
        leases = result.err.count("reading without a lease")
        assert leases == (1 if name.startswith(("verify", "restore")) else 0), str(result)
        assert "trying again" not in result.err, str(result)
        if name.startswith("verify"):
            assert "not recorded" in result.out and "not recorded" in result.err, str(result)
    return took


def replaces(eyrie: Eyrie, lab: Lab, binary: Path) -> None:
    """A restore that must write says why it cannot, and what to do, and leaves the target as it was."""
    before = lab.view()
    lab.instance.stop_milvus()
    result = eyrie.expect(1, "restore", "latest", "--replace", "--target", str(lab.eyrie(binary).config))
    assert "--replace saves the old keys" in result.err, str(result)
    assert "empty the target yourself, and restore without --replace" in result.err, str(result)
    lab.instance.start_milvus()
    assert oracle.compare(before, lab.view()) == []


@pytest.mark.parametrize("how", ["read-only", "full"])
def test_a_directory_that_takes_no_writes_is_read(
    how: str, known: Eyrie, source: Callable[[str], Lab], fresh: Callable[..., Lab], binary: Path
) -> None:
    lab, target = source("local"), fresh("local", auth=True)
    target.instance.start_backing()
    with small_disk(known.config.parent / f"disk-{how}", "100m") as disk:
        eyrie = variant(known, how, repositories=repository(known, url=str(disk / "repository")))
        eyrie.expect(0, "init")
        snapshots, expected = two_backups(eyrie, lab), lab.view()
        with (read_only if how == "read-only" else full)(disk):
            took = reads(eyrie, target, snapshots, binary)
            target.instance.start_milvus()
            assert oracle.compare(expected, target.view()) == []
            replaces(eyrie, target, binary)
        print(how, took)
        eyrie.expect(0, "backup")
    target.instance.kill()


def test_a_bucket_that_takes_no_writes_is_read(
    source: Callable[[str], Lab], fresh: Callable[..., Lab], binary: Path
) -> None:
    lab = source("s3")
    assert lab.instance.minio
    plain = lab.eyrie(binary, "unwritable")
    with FaultyS3(lab.instance.minio.port, share=0) as store:
        eyrie = variant(plain, "unwritable", repositories=repository(plain, s3={"endpoint": store.url}))
        eyrie.expect(0, "init")
        snapshots, expected = two_backups(eyrie, lab), lab.view()
        for how, refusal in S3_REFUSALS.items():
            target = fresh("s3")
            target.instance.start_backing()
            store.refuses_writes = refusal
            print(how, reads(eyrie, target, snapshots, binary))
            # Whose refusal is final is told at once, and not after ten minutes.
            if how == "forbidden":
                target.instance.start_milvus()
                assert oracle.compare(expected, target.view()) == []
                replaces(eyrie, target, binary)
            target.instance.kill()
        store.refuses_writes = None
        eyrie.expect(0, "backup")
