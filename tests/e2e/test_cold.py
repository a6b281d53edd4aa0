"""A cold capture is one of a Milvus that is stopped, from its beginning to its end."""

from __future__ import annotations

import signal
from collections.abc import Callable
from pathlib import Path

import pytest
from conftest import Lab
from lab.eyrie import REPOSITORY_BUCKET, TIMEOUT
from lab.servers import wait_until
from test_bad_input import one_row

LAYOUTS = ["local", "embedded", "s3"]
# The queue of an instance like these has 90 to 260 KiB, and is read at this rate.
RATE = "16KiB"


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_running_milvus_is_not_captured_cold(
    layout: str, source: Callable[[str], Lab], binary: Path
) -> None:
    lab = source(layout)
    eyrie = lab.eyrie(binary, "cold")
    eyrie.expect(0, "init")
    refused = eyrie.expect(20, "backup", "--mode", "cold")
    assert "milvus is " in refused.err and "stop Milvus" in refused.err, refused.err
    assert eyrie.json("snapshots") == []


def session_began(lab: Lab) -> bool:
    """Whether a writer has a lease in the repository `primary`."""
    if lab.instance.minio:
        return any(lab.instance.s3().list_objects(REPOSITORY_BUCKET, "primary/leases/", recursive=True))
    return any((lab.instance.directory / "repositories/primary/leases").rglob("*"))


@pytest.mark.parametrize("killed", [False, True], ids=["it_runs", "it_was_killed_again"])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_milvus_that_is_started_during_a_cold_capture_leaves_no_snapshot(
    layout: str, killed: bool, fresh: Callable[..., Lab], binary: Path
) -> None:
    lab = one_row(layout, fresh)
    lab.instance.stop_milvus()
    eyrie = lab.eyrie(binary)
    eyrie.expect(0, "init")
    # Slow enough to be stopped midway.
    process = eyrie.start("backup", "--mode", "cold", "--limit-rate", RATE)
    wait_until(lambda: session_began(lab), "the backup writes")
    process.send_signal(signal.SIGSTOP)
    assert process.poll() is None, process.communicate()
    lab.instance.start_milvus()
    if killed:
        lab.instance.milvus.kill()
    process.send_signal(signal.SIGCONT)
    _, err = process.communicate(timeout=TIMEOUT)
    assert process.returncode == 20, err
    assert "milvus was started during the cold capture, so no snapshot was made" in err
    assert eyrie.json("snapshots") == []
    if not killed:
        lab.instance.stop_milvus()
        eyrie.expect(0, "backup", "--mode", "cold")
    lab.instance.kill()
