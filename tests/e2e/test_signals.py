"""SIGTERM ends every kind of wait: for servers that take a connection and never answer, or that stop answering."""

from __future__ import annotations

import os
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from conftest import Lab
from lab import ports
from lab.eyrie import TIMEOUT, Eyrie
from lab.servers import wait_until
from test_bad_input import milvus_yaml, one_row, repository, variant
from test_kill import holds

# What a server's silence may add to a stop; the machine's own slowness comes on top.
STOP = 5.0
SLACK = 10.0


@pytest.fixture(scope="module")
def tarpit() -> Iterator[int]:
    """A port that takes connections and never says anything."""
    port = ports.take()
    listener = socket.create_server(("127.0.0.1", port), backlog=100)
    taken = []

    def take() -> None:
        while True:
            try:
                taken.append(listener.accept())
            except OSError:
                return

    threading.Thread(target=take, daemon=True).start()
    yield port
    listener.close()
    for connection, _ in taken:
        connection.close()


def stopped(eyrie: Eyrie, waits: Callable[[], Any] | float, *args: str) -> str:
    """Sends SIGTERM once it waits (after some seconds, or when a condition holds); 143, and soon."""
    process = eyrie.start(*args)
    if isinstance(waits, float):
        time.sleep(waits)
    else:
        wait_until(waits, f"{args} waits")
    assert process.poll() is None, process.communicate()
    process.send_signal(signal.SIGTERM)
    sent = time.monotonic()
    out, err = process.communicate(timeout=TIMEOUT)
    took = time.monotonic() - sent
    assert process.returncode == 143, f"{args}: {process.returncode}\n{out}\n{err}"
    assert took < STOP + SLACK, f"{args} took {took:.1f} s to stop\n{err}"
    return err


@pytest.mark.parametrize("verb", ["snapshots", "verify", "backup", "check", "init", "restore"])
def test_a_repository_that_never_answers(verb: str, known: Eyrie, tarpit: int) -> None:
    s3 = {"endpoint": f"http://127.0.0.1:{tarpit}", "region": "us-east-1", "access_key_id": "nobody"}
    s3["secret_access_key_file"] = str(known.config)
    entry = {"name": "silent", "url": "s3://bucket/prefix", "s3": s3, "passphrase_file": str(known.config)}
    silent = variant(known, "silent-repository", repositories=[entry])
    stopped(silent, 3.0, verb, *(["latest"] if verb == "restore" else []))


@pytest.mark.parametrize("verb", ["backup", "check"])
@pytest.mark.parametrize("what", ["etcd", "milvus", "management"])
def test_a_source_that_never_answers(verb: str, what: str, known: Eyrie, tarpit: int) -> None:
    at = f"127.0.0.1:{tarpit}"
    changes: dict[str, dict[str, Any]] = {
        "etcd": {"etcd": {"endpoints": [at]}},
        "milvus": {"milvus": {"address": at}},
        "management": {"milvus": {"management": f"http://{at}", "version": "2.4.24"}},
    }
    stopped(variant(known, f"silent-{what}", instance=changes[what]), 1.0, verb)


@pytest.mark.s3
def test_a_store_of_the_source_that_never_answers(
    known: Eyrie, fresh: Callable[..., Lab], tarpit: int
) -> None:
    lab = fresh("s3")
    lab.instance.start_backing()
    path = milvus_yaml(lab, "silent-store", minio={"address": "127.0.0.1", "port": tarpit})
    for verb in (["check"], ["restore", "latest"]):
        stopped(variant(known, "silent-store", instance={"milvus_yaml": path}), 3.0, *verb)


def test_a_target_whose_etcd_never_answers(
    known: Eyrie, fresh: Callable[..., Lab], tarpit: int, binary: Path
) -> None:
    target = fresh("local").eyrie(binary, etcd={"endpoints": [f"127.0.0.1:{tarpit}"]})
    stopped(known, 2.0, "restore", "latest", "--target", str(target.config))


@pytest.mark.parametrize("silent", ["milvus", "etcd"])
def test_servers_that_stop_answering_while_writes_are_held(
    silent: str, fresh: Callable[..., Lab], binary: Path
) -> None:
    lab = one_row("local", fresh)
    instance = lab.instance
    eyrie = lab.eyrie(binary)
    eyrie.expect(0, "init")
    assert instance.etcd_server
    pid = instance.milvus.pid if silent == "milvus" else instance.etcd_server.pid

    def silenced() -> bool:
        if not holds(instance):
            return False
        os.kill(pid, signal.SIGSTOP)
        return True

    try:
        stopped(eyrie, silenced, "backup")
    finally:
        os.kill(pid, signal.SIGCONT)
    wait_until(lambda: not holds(instance), "the holds are gone")
    assert eyrie.json("snapshots") == []
    instance.kill()


def test_a_slow_rate(known: Eyrie) -> None:
    root = known.config.parent / "slow-repository"
    slow = variant(known, "slow", repositories=repository(known, url=str(root)))
    slow.expect(0, "init")
    stopped(slow, lambda: any((root / "leases").rglob("*")), "backup", "--limit-rate", "1KiB")
    assert slow.json("snapshots") == []
    assert not any(path.is_file() for path in (root / "leases").rglob("*"))


def test_a_slow_verification(known: Eyrie) -> None:
    """`known` holds one snapshot: its bytes take long at 100 a second."""
    slow = variant(known, "slow-verification", resources={"rate": "100B"})
    stopped(slow, 5.0, "verify", "latest", "--level", "bytes")


def test_a_cold_backup_that_waits_for_the_sessions_of_a_killed_milvus(
    fresh: Callable[..., Lab], binary: Path
) -> None:
    lab = one_row("local", fresh)
    eyrie = lab.eyrie(binary)
    eyrie.expect(0, "init")
    lab.instance.milvus.kill()
    assert lab.instance.sessions()
    stopped(eyrie, 2.0, "backup", "--mode", "cold")
    lab.instance.kill()


def test_a_restore_that_waits_for_the_lock_of_another(
    known: Eyrie, fresh: Callable[..., Lab], binary: Path
) -> None:
    target = fresh("local", auth=True)
    target.instance.start_backing()
    target.instance.etcd.put(f"{target.instance.root_path}/eyrie/restore-lock", b"another")
    stopped(known, 3.0, "restore", "latest", "--target", str(target.eyrie(binary).config))
    target.instance.kill()
