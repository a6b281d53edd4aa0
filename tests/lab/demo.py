"""The demo: a Milvus in use is backed up, lost, and restored, before the reader's eyes."""

from __future__ import annotations

import shlex
import shutil
import sys
import tempfile
import textwrap
import time
from pathlib import Path

from . import eyrie, oracle, writer
from .client import Client
from .dataset import Dataset
from .instance import Instance
from .writer import Writer

CLIENT_ACKS = 30


def say(text: str) -> None:
    print("\n" + textwrap.fill(text, 100), flush=True)


def styled(code: int, text: str) -> str:
    """Colours on a terminal, plain text elsewhere."""
    return f"\033[{code}m{text}\033[0m" if sys.stdout.isatty() else text


def step(number: int, title: str) -> None:
    print("\n" + styled(1, f"── {number}. {title} " + "─" * max(3, 80 - len(title))), flush=True)


class Shell:
    """Shows each command as one would type it, runs it, and shows what it answers."""

    def __init__(self, binary: Path, config: Path) -> None:
        self.eyrie = eyrie.Eyrie(binary, config)

    def __call__(self, *args: str, code: int = 0) -> None:
        print("\n" + styled(36, f"$ eyrie {shlex.join(args)}"), flush=True)
        start = time.monotonic()
        result = self.eyrie.run(*args, timeout=900)
        print(textwrap.indent((result.err + result.out).rstrip(), "  "))
        print(f"  ({time.monotonic() - start:.1f} s)", flush=True)
        if result.code != code:
            raise SystemExit(f"eyrie {args[0]} failed with exit code {result.code}")


def run(storage: str, binary: Path) -> int:
    directory = Path(tempfile.mkdtemp(prefix="eyrie-demo-"))
    instance = Instance(storage, directory, auth=True)
    try:
        differences = play(instance, binary)
    except BaseException:
        instance.kill()
        print(f"\nThe servers' logs are kept in {directory / 'logs'}")
        raise
    instance.kill()
    shutil.rmtree(directory)
    return 1 if differences else 0


def play(instance: Instance, binary: Path) -> list[str]:
    start = time.monotonic()
    parts = {
        "embedded": "Milvus with etcd inside, files on disk",
        "local": "etcd and Milvus, files on disk",
        "s3": "etcd, MinIO with a versioned bucket, and Milvus",
    }
    step(1, "A Milvus in use")
    say(f"Starting {parts[instance.layout]}.")
    instance.start()
    local = not instance.minio
    with instance.client() as client:
        say(
            "Loading collections of every kind with pymilvus: three databases, partitions, two shards, HNSW, IVF, "
            "binary, JSON and dynamic fields, aliases, deletes and upserts, rows that were never flushed, users and roles."
        )
        Dataset(client).load()
        writer.make_streams(client)
        view = oracle.snapshot_instance(client, local)
    show(view)
    return back_up_and_lose(instance, binary, view, local, start)


def show(view: oracle.View) -> None:
    print(f"\n  {'collection':<26}{'rows':>7}  indexes")
    for database, collections in view["databases"].items():
        for name, seen in collections.items():
            rows = seen.get("count", seen.get("sealed_rows"))
            print(f"  {database + '.' + name:<26}{rows:>7}  {', '.join(seen['indexes']) or '-'}")


def back_up_and_lose(instance: Instance, binary: Path, view: oracle.View, local: bool, start: float) -> list[str]:
    shell = Shell(binary, eyrie.configure(instance, [eyrie.repository(instance)]))
    # An etcd inside Milvus 2.3.5 takes no write hold; hot mode needs none.
    mode = ["--mode", "hot"] if instance.layout == "embedded" else []

    step(2, "A client that never stops writing")
    log = instance.directory / "writer.jsonl"
    with Writer(instance, log) as writing:
        writing.await_acks(CLIENT_ACKS)
        say(f"It inserts, upserts and deletes in {len(writer.STREAMS)} collections and notes every answer of Milvus.")

        step(3, "Back up, while it writes")
        say("A repository is a directory or an S3 prefix, encrypted. Nothing is stopped, and no row is exported.")
        shell("init")
        say("What would a backup do here?")
        if mode:
            shell("check", code=20)
            say("Exit code 20: an etcd inside Milvus takes no write hold. Hot mode needs none, and is asked for by name.")
        else:
            shell("check")
        shell("backup", *mode)
        backed_up = time.time()
        writing.await_acks(CLIENT_ACKS, after=backed_up)
        say("The client goes on writing. The second backup reads only what is new.")
        second = time.time()
        shell("backup", *mode)
        done = time.time()
        writing.await_acks(CLIENT_ACKS, after=done)
    shell("snapshots")
    ops = writing.ops()
    pause = longest_pause(ops, second)
    say(f"{len(ops)} operations of the client are on record; its longest pause in the second backup was {pause:.1f} s.")

    step(4, "Lose everything")
    say("Milvus and etcd are killed; etcd's data, the segment files and the message queue are deleted.")
    instance.wipe()
    instance.start_backing()

    step(5, "Restore onto empty servers")
    say("Milvus is down. eyrie proves that all it needs is there, writes the files, each hashed, then etcd, and reads it back.")
    shell("restore", "latest")
    instance.start_milvus()

    step(6, "Compare")
    with instance.client() as client:
        differences = compare(client, view, local)
        differences += compare_streams(client, ops, second, done, quiesced=not mode)
    if differences:
        print("\nThe restored Milvus differs:\n  " + "\n  ".join(differences))
    else:
        say(
            "pymilvus finds the same: every database, schema, index, alias, user, role and grant, every row, and the "
            "same search results. Rows the client wrote were proved against what it had been told."
        )
    print(f"\n{'FAILED' if differences else 'OK'} in {time.monotonic() - start:.0f} s", flush=True)
    return differences


def longest_pause(ops: list[writer.Op], since: float) -> float:
    ends = sorted(op.end for op in ops if op.result == "ok" and op.end >= since)
    return max((b - a for a, b in zip(ends, ends[1:])), default=0.0)


def compare(client: Client, before: oracle.View, local: bool) -> list[str]:
    """All but the streams, which the client's record judges."""
    after = oracle.snapshot_instance(client, local)
    show(after)
    return oracle.compare(without_streams(before), without_streams(after))


def without_streams(view: oracle.View) -> oracle.View:
    streams = {f"{d}.{n}" for d, n in writer.STREAMS}
    databases = {
        d: {n: seen for n, seen in collections.items() if f"{d}.{n}" not in streams}
        for d, collections in view["databases"].items()
    }
    return {**view, "databases": databases}


def compare_streams(
    client: Client, ops: list[writer.Op], since: float, until: float, quiesced: bool
) -> list[str]:
    """What the second backup must hold of the client's writes.

    Quiesced: exactly what was acknowledged before the hold took effect. Hot:
    nothing that was acknowledged before the backup began may be missing.
    """
    differences = []
    for stream, stream_ops in writer.by_stream(ops).items():
        found = writer.read_state(client, stream)
        if quiesced:
            promised = writer.expected_state(writer.before_hold(stream_ops, since))
            wrong = writer.differences(stream, promised, found)
        else:
            wrong = writer.hot_differences(stream, stream_ops, since, until, found)
        print(f"  {stream}: {len(found)} rows, {len(wrong) or 'no'} contradictions to what the client was told")
        differences += wrong
    return differences
