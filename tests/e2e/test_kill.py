"""kill -9 of eyrie at random moments, and polite signals (I3, I4, I5)."""

from __future__ import annotations

import random
import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from conftest import Lab
from lab import oracle
from lab.eyrie import TIMEOUT, Eyrie
from lab.instance import Instance
from lab.servers import wait_until
from pymilvus import MilvusException

KILLS = 6
RESTORE_KILLS = 5
HOLD_KEYS = "config/quotaAndLimits/"
_next_id = 2_000_000


def writes_pass(instance: Instance) -> bool:
    """Inserts one row; false where writes are denied."""
    global _next_id
    _next_id += 1
    with instance.client() as client:
        try:
            client.collection("default", "recent").insert([{"id": _next_id, "embedding": [0.5] * 8}])
        except MilvusException as error:
            assert error.code == 9, error
            return False
    return True


def await_writes(instance: Instance) -> None:
    wait_until(lambda: writes_pass(instance), "writes are accepted again")


def holds(instance: Instance) -> list[str]:
    return list(instance.etcd.keys(f"{instance.root_path}/{HOLD_KEYS}"))


def interrupt(eyrie: Eyrie, after: float, how: signal.Signals, *args: str) -> int:
    """Runs a verb, sends a signal after some seconds, and returns its exit code (-9 when killed)."""
    process = eyrie.start(*args)
    time.sleep(after)
    process.send_signal(how)
    process.communicate(timeout=TIMEOUT)
    return process.returncode


def timed(eyrie: Eyrie, *args: str) -> float:
    start = time.monotonic()
    eyrie.expect(0, *args)
    return time.monotonic() - start


def test_after_kill_9_of_a_backup_writes_pass_again_and_the_repository_verifies(
    source: Callable[[str], Lab], binary: Path
) -> None:
    lab = source("local")
    eyrie = lab.eyrie(binary, "killed")
    eyrie.expect(0, "init")
    length = timed(eyrie, "backup")
    moments = random.Random(11)
    for _ in range(KILLS):
        # Each backup shall have something to do, and the hold of the one killed before may set in late.
        await_writes(lab.instance)
        interrupt(eyrie, moments.uniform(0, length), signal.SIGKILL, "backup")
        await_writes(lab.instance)
    wait_until(lambda: not holds(lab.instance), "the holds are gone")
    eyrie.expect(0, "verify", "--level", "bytes")
    done = eyrie.json("backup")
    eyrie.expect(0, "verify", done["snapshot"], "--level", "bytes")


@pytest.mark.parametrize(("how", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_in_any_phase_releases_the_holds_and_leaves_the_repository_whole(
    how: signal.Signals, code: int, source: Callable[[str], Lab], binary: Path
) -> None:
    lab = source("local")
    eyrie = lab.eyrie(binary, f"signal-{code}")
    eyrie.expect(0, "init")
    length = timed(eyrie, "backup")
    for part in (0.1, 0.35, 0.6, 0.85):
        assert interrupt(eyrie, part * length, how, "backup") in (code, 0)
        assert holds(lab.instance) == []
        await_writes(lab.instance)
    eyrie.expect(0, "verify", "--level", "bytes")
    eyrie.expect(0, "backup")


def test_a_restore_that_is_killed_again_and_again_completes(
    source: Callable[[str], Lab], fresh: Callable[..., Lab], binary: Path
) -> None:
    lab = source("local")
    eyrie = lab.eyrie(binary, "resumed")
    eyrie.expect(0, "init")
    before = lab.view()
    eyrie.expect(0, "backup")

    whole, resumed = fresh("local", auth=True), fresh("local", auth=True)
    for one in (whole, resumed):
        one.instance.start_backing()
    length = timed(eyrie, "restore", "latest", "--target", str(whole.eyrie(binary).config))
    whole.instance.kill()

    onto = ("restore", "latest", "--target", str(resumed.eyrie(binary).config))
    moments = random.Random(12)
    for _ in range(RESTORE_KILLS):
        interrupt(eyrie, moments.uniform(0, length), signal.SIGKILL, *onto)
    final = eyrie.run(*onto)
    # 21: one of the killed runs had completed, and the target is now somebody's instance.
    assert final.code in (0, 21), str(final)
    resumed.instance.start_milvus()
    assert oracle.compare(before, resumed.view()) == []
    resumed.instance.kill()
