"""Two writers of one instance, of which one sleeps longer than its lease lasts."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path

from conftest import Lab
from lab.eyrie import TIMEOUT, Eyrie
from lab.servers import wait_until
from test_bad_input import lost_nothing
from test_checkpoints import files
from test_kill import await_writes

# Seconds that the whole backup would take.
SLOW = 40


def elsewhere(eyrie: Eyrie, *args: str) -> subprocess.Popen[str]:
    """Runs eyrie where others of this host cannot look at its process, as in a container."""
    as_root = [] if os.geteuid() == 0 else ["sudo", "--preserve-env"]
    return subprocess.Popen(
        [*as_root, "setpriv", "--pdeathsig", "KILL", "unshare", "--pid", "--fork", "--kill-child", "--mount-proc"]
        + [str(eyrie.binary), "--config", str(eyrie.config), *args],
        env=eyrie.env(),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def descendant(pid: int, name: str) -> int:
    """The process of that name below another."""
    for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split():
        if Path(f"/proc/{child}/comm").read_text().strip() == name[:15]:
            return int(child)
        if found := descendant(int(child), name):
            return found
    return 0


def test_a_writer_that_was_stopped_past_its_lease_commits_nothing_that_counts(
    source: Callable[[str], Lab], binary: Path
) -> None:
    lab = source("local")
    whole, eyrie = lab.eyrie(binary, "whole-fencing"), lab.eyrie(binary, "fencing")
    for one in (whole, eyrie):
        one.expect(0, "init")
    size = whole.json("backup")["bytes"]
    await_writes(lab.instance)
    stopped = elsewhere(eyrie, "backup", "--limit-rate", str(2 * size // SLOW))
    wait_until(lambda: len(files(lab, "fencing", "leases")) == 1, "it has a lease")
    wait_until(lambda: descendant(stopped.pid, eyrie.binary.name) != 0, "it runs")
    process = descendant(stopped.pid, eyrie.binary.name)
    os.kill(process, signal.SIGSTOP)
    try:
        await_writes(lab.instance)
        second = eyrie.expect(0, "backup")
        assert "is watched for up to 240 s" in second.err, str(second)
        assert len(eyrie.json("snapshots")) == 1
    finally:
        os.kill(process, signal.SIGCONT)
    _, err = stopped.communicate(timeout=TIMEOUT)
    assert stopped.returncode not in (0, None), err
    snapshots = eyrie.json("snapshots")
    assert len(snapshots) == 1, snapshots
    eyrie.expect(0, "verify", "--level", "bytes")
    await_writes(lab.instance)
    eyrie.expect(0, "backup")
    assert files(lab, "fencing", "leases") == []
    assert len(eyrie.json("snapshots")) == 2
    lost_nothing(eyrie, lab)
