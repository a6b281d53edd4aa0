"""What a snapshot holds of a client's writes, whatever moment it is taken at: docs/consistency.md."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import pytest
from conftest import Lab
from lab import writer
from lab.client import Client
from lab.writer import Writer

ACKS = 25


def restored(lab: Lab, target: Lab, binary: Path, *options: str) -> Client:
    """A client of the target, with the newest snapshot of `lab` on it."""
    target.instance.start_backing()
    lab.eyrie(binary).expect(0, "restore", "latest", "--target", str(target.eyrie(binary).config), *options)
    target.instance.start_milvus()
    return target.instance.client()


@pytest.mark.parametrize("layout", ["local", "s3"])
def test_a_quiesced_snapshot_holds_exactly_what_was_acknowledged_before_the_hold(
    layout: str, streams: Callable[..., Lab], fresh: Callable[..., Lab], binary: Path
) -> None:
    lab = streams(layout)
    eyrie = lab.eyrie(binary)
    eyrie.expect(0, "init")
    with Writer(lab.instance, lab.instance.directory / "writer.jsonl") as writing:
        writing.await_acks(ACKS)
        began = time.time()
        backup = eyrie.json("backup")
        writing.await_acks(ACKS, after=time.time())
    ops = writer.by_stream(writing.ops())
    assert backup["weakened"] == []
    with restored(lab, fresh(layout), binary) as client:
        for stream, done in ops.items():
            promised = writer.expected_state(writer.before_hold(done, began))
            assert writer.differences(stream, promised, writer.read_state(client, stream)) == []
    lab.instance.kill()


@pytest.mark.parametrize("layout", ["local", "embedded"])
def test_a_hot_snapshot_misses_nothing_acknowledged_before_it_and_denies_no_write(
    layout: str, streams: Callable[..., Lab], fresh: Callable[..., Lab], binary: Path
) -> None:
    lab = streams(layout)
    eyrie = lab.eyrie(binary)
    eyrie.expect(0, "init")
    with Writer(lab.instance, lab.instance.directory / "writer.jsonl") as writing:
        writing.await_acks(ACKS)
        began = time.time()
        backup = eyrie.run("--json", "backup", "--mode", "hot")
        ended = time.time()
        writing.await_acks(ACKS, after=ended)
    assert backup.code == 0, str(backup)
    assert backup.json()["write_hold_ms"] == 0
    ops = writer.by_stream(writing.ops())
    with restored(lab, fresh(layout), binary) as client:
        for stream, done in ops.items():
            assert not [op for op in done if op.result == "denied"]
            found = writer.read_state(client, stream)
            assert writer.hot_differences(stream, done, began, ended, found) == []
    lab.instance.kill()


@pytest.mark.parametrize("layout", ["local", "embedded", "s3"])
def test_a_cold_snapshot_after_kill_9_of_milvus_holds_every_acknowledged_row(
    layout: str, streams: Callable[..., Lab], fresh: Callable[..., Lab], binary: Path
) -> None:
    lab = streams(layout)
    eyrie = lab.eyrie(binary)
    eyrie.expect(0, "init")
    with Writer(lab.instance, lab.instance.directory / "writer.jsonl") as writing:
        writing.await_acks(ACKS)
        lab.instance.milvus.kill()
        writing.process.kill()
    if lab.instance.etcd_server:
        lab.instance.await_sessions(0)
    backup = eyrie.json("backup", "--mode", "cold")
    assert backup["mode"] == "cold"
    ops = writer.by_stream(writing.ops())
    with restored(lab, fresh(layout), binary) as client:
        for stream, done in ops.items():
            unsure = writer.uncertain_keys(done)
            promised, found = (
                {key: version for key, version in state.items() if key not in unsure}
                for state in (writer.expected_state(done), writer.read_state(client, stream))
            )
            assert writer.differences(stream, promised, found) == []
    lab.instance.kill()
