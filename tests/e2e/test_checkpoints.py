"""A backup that is broken off is taken up by the next one, and leaves nothing that nobody knows of."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from conftest import Lab
from lab.eyrie import REPOSITORY_BUCKET, TIMEOUT, Eyrie
from lab.servers import wait_until
from test_bad_input import lost_nothing, repository, small_disk, variant
from test_kill import await_writes

# Of what a backup reads, between two checkpoints.
PART = 10
# Checkpoints that are there before it is broken off.
CHECKPOINTS = 3
# Seconds that the whole backup would take.
SLOW = 20
# Milvus compacts whenever it likes, unless it is told not to; what is taken up is counted when it did not do so
# meanwhile, and what had begun may go on.
AUTO_COMPACTION = "config/dataCoord/compaction/enableAutoCompaction"
# Seconds until Milvus has read a setting from etcd.
SETTING_READ = 10
TRIES = 4


def files(lab: Lab, repository: str, directory: str) -> list[str]:
    """The files of a repository in one of its directories."""
    if lab.instance.minio:
        prefix = f"{repository}/{directory}/"
        found = lab.instance.s3().list_objects(REPOSITORY_BUCKET, prefix, recursive=True)
        return [one.object_name for one in found]
    root = lab.instance.directory / "repositories" / repository / directory
    return [str(path) for path in root.rglob("*") if path.is_file()]


def unfinished(lab: Lab, repository: str) -> list[str]:
    """What is in the store that is no object: temporary files, or uploads of parts."""
    if not lab.instance.minio:
        return files(lab, repository, ".eyrie-tmp")
    uploads = lab.instance.directory / "minio" / ".minio.sys" / "multipart"
    return [str(path) for path in uploads.rglob("xl.meta")]


@contextmanager
def still(lab: Lab) -> Iterator[None]:
    """Compaction, which replaces objects, is off meanwhile."""
    key = f"{lab.instance.root_path}/{AUTO_COMPACTION}"
    lab.instance.etcd.put(key, b"false")
    try:
        time.sleep(SETTING_READ)
        yield
    finally:
        lab.instance.etcd.delete(key)


@pytest.mark.parametrize(("how", "code"), [(signal.SIGKILL, -9), (signal.SIGTERM, 143)])
@pytest.mark.parametrize("layout", ["local", "s3"])
def test_a_backup_that_is_broken_off_is_not_read_again(
    layout: str, how: signal.Signals, code: int, source: Callable[[str], Lab], binary: Path
) -> None:
    lab = source(layout)
    whole = lab.eyrie(binary, f"whole-{code}")
    whole.expect(0, "init")
    with still(lab):
        for attempt in range(TRIES):
            name = f"broken-{code}-{attempt}"
            before = whole.json("backup")
            done, noted = broken_off(lab, lab.eyrie(binary, name), name, before["bytes"], how, code)
            if vanished(before, whole.json("backup")) == 0:
                assert done["objects_read"] <= done["objects"] - sum(noted), (done, noted)
                return
    pytest.fail("the instance compacted during each try")


def broken_off(
    lab: Lab, eyrie: Eyrie, name: str, size: int, how: signal.Signals, code: int
) -> tuple[dict[str, Any], list[int]]:
    """Breaks a backup of `size` bytes off, and lets another one end: what it says, and how many objects the
    checkpoints noted."""
    eyrie.expect(0, "init")
    await_writes(lab.instance)
    process = eyrie.start(
        "-v", "backup", "--checkpoint-size", str(size // PART), "--limit-rate", str(2 * size // SLOW)
    )
    wait_until(lambda: len(files(lab, name, "index")) >= CHECKPOINTS, "there are checkpoints")
    assert process.poll() is None, process.communicate()
    process.send_signal(how)
    _, err = process.communicate(timeout=TIMEOUT)
    assert process.returncode == code, err
    noted = [int(objects) for objects in re.findall(r"wrote a checkpoint.*objects=(\d+)", err)]
    assert len(noted) >= CHECKPOINTS - 1, err
    assert len(files(lab, name, "checkpoints")) == 1
    assert eyrie.json("snapshots") == []
    if how == signal.SIGTERM:
        assert files(lab, name, "leases") == []
        assert unfinished(lab, name) == []

    await_writes(lab.instance)
    done = eyrie.json("backup")
    for directory in ("checkpoints", "leases"):
        assert files(lab, name, directory) == []
    assert unfinished(lab, name) == []
    eyrie.expect(0, "verify", "--level", "bytes")
    lost_nothing(eyrie, lab)
    return done, noted


def test_a_backup_whose_disk_runs_full_is_taken_up_when_there_is_room(
    source: Callable[[str], Lab], known: Eyrie, binary: Path
) -> None:
    lab = source("local")
    whole = lab.eyrie(binary, "whole-full")
    whole.expect(0, "init")
    with still(lab):
        for attempt in range(TRIES):
            before = whole.json("backup")
            done, noted = runs_full(lab, known, f"runs-full-{attempt}", whole_size(lab, "whole-full"), before["bytes"])
            if vanished(before, whole.json("backup")) == 0:
                assert done["objects_read"] <= done["objects"] - sum(noted), (done, noted)
                return
    pytest.fail("the instance compacted during each try")


def runs_full(lab: Lab, known: Eyrie, name: str, stored: int, size: int) -> tuple[dict[str, Any], list[int]]:
    """Backs `size` bytes up onto a disk with room for less than the repository would take, and again when there is
    more: what that says, and how many objects the checkpoints noted."""
    with small_disk(known.config.parent / name, str(stored * 2 // 3)) as disk:
        eyrie = variant(known, name, repositories=repository(known, url=str(disk / "repository")))
        eyrie.expect(0, "init")
        await_writes(lab.instance)
        result = eyrie.expect(1, "-v", "backup", "--checkpoint-size", str(size // PART))
        assert "space" in result.err.lower(), str(result)
        noted = [int(objects) for objects in re.findall(r"wrote a checkpoint.*objects=(\d+)", result.err)]
        assert len(noted) >= 2, str(result)
        assert [path for path in (disk / "repository" / ".eyrie-tmp").rglob("*") if path.is_file()] == []
        grow(disk, stored * 2)
        await_writes(lab.instance)
        done = eyrie.json("backup")
        eyrie.expect(0, "verify", "--level", "bytes")
    return done, noted


def vanished(before: dict[str, Any], after: dict[str, Any]) -> int:
    """Objects of a backup that the next one does not have any more."""
    return int(before["objects"] + after["objects_read"] - after["objects"])


def whole_size(lab: Lab, repository: str) -> int:
    return sum(Path(path).stat().st_size for path in files(lab, repository, ""))


def grow(disk: Path, size: int) -> None:
    as_root = [] if os.geteuid() == 0 else ["sudo"]
    subprocess.run([*as_root, "mount", "-o", f"remount,size={size}", str(disk)], check=True)
