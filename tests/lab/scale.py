"""Backs up and restores a made instance of any size, and says what each step took.

Every step is the real binary in a process of its own: its wall time, processor
time and greatest resident memory are the kernel's figures for that process.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml
from blake3 import blake3

from . import cgroup
from . import eyrie as lab_eyrie
from .eyrie import Eyrie
from .instance import Instance
from .made import Made

COLD = ("backup", "--mode", "cold")


@dataclass(frozen=True)
class Step:
    """One run of eyrie."""

    name: str
    answer: Any
    seconds: float
    processor_seconds: float
    peak_rss: int

    @property
    def busy(self) -> float:
        """How many processors it kept busy on average."""
        return self.processor_seconds / self.seconds

    def row(self) -> str:
        return f"| {self.name} | {self.seconds:.1f} s | {self.busy:.2f} | {self.peak_rss / 2**20:.0f} MiB |"


HEADER = "| step | wall | processors busy | peak RSS |\n|---|---|---|---|"


def step(name: str, eyrie: Eyrie, *args: str, group: Path | None = None) -> Step:
    """Runs eyrie to its end, in a cgroup when one is given, and asks the kernel what it used."""
    usage = Path(__file__).with_name("usage.py")
    command = [str(eyrie.binary), "--config", str(eyrie.config), "--json", "--quiet", *args]
    with tempfile.TemporaryFile() as out, tempfile.NamedTemporaryFile() as report:
        began = time.monotonic()
        done = subprocess.run(
            [sys.executable, "-S", usage, report.name, *(cgroup.inside(group, command) if group else command)],
            env=eyrie.env(),
            stdin=subprocess.DEVNULL,
            stdout=out,
        )
        seconds = time.monotonic() - began
        assert done.returncode == 0, f"eyrie {' '.join(args)} ended with {done.returncode}"
        out.seek(0)
        return Step(name, json.load(out), seconds, **json.load(report))


@dataclass
class Scale:
    """A made instance with its repository, and a target that never ran."""

    directory: Path
    binary: Path
    made: Made
    # Of eyrie's configuration.
    resources: dict[str, Any] = field(default_factory=dict)
    # The cgroup that every step runs in.
    group: Path | None = None

    def __post_init__(self) -> None:
        self.source = Instance("local", self.directory / "source", name="made")
        self.target = Instance("local", self.directory / "target", name="target", root_path="restored")
        self.repository = lab_eyrie.repository(self.source)
        self.eyrie = self.on(self.source)

    def on(self, instance: Instance) -> Eyrie:
        config = lab_eyrie.configure(instance, [self.repository])
        if self.resources:
            config.write_text(yaml.safe_dump(yaml.safe_load(config.read_text()) | {"resources": self.resources}))
        return Eyrie(self.binary, config)

    def fill(self) -> int:
        """Starts both etcds, fills the source, and makes the repository."""
        for instance in (self.source, self.target):
            instance.start_backing()
        objects = self.made.fill(self.source)
        self.eyrie.expect(0, "init")
        return objects

    def backup(self, name: str = "backup") -> Step:
        return step(name, self.eyrie, *COLD, group=self.group)

    def verify(self, level: str) -> Step:
        return step(f"verify --level {level}", self.eyrie, "verify", "latest", "--level", level, group=self.group)

    def restore(self) -> Step:
        return step("restore", self.on(self.target), "restore", "latest", group=self.group)

    def check(self) -> None:
        """Compares what was restored with the source: every file by its BLAKE3, every key of data by its value."""
        files, restored = hashes(self.source.storage), hashes(self.target.storage)
        assert files == restored, f"{len(files)} files in the source, {len(restored)} restored, or other bytes"
        for area in ("meta/root-coord", "meta/datacoord-meta", "meta/field-index", "meta/segment-index"):
            source, target = (
                {key.removeprefix(i.root_path): value for key, value in i.etcd.keys(f"{i.root_path}/{area}/").items()}
                for i in (self.source, self.target)
            )
            assert source == target, f"keys under {area} differ"

    def stop(self) -> None:
        for instance in (self.source, self.target):
            instance.stop()


def hashes(storage: Path) -> dict[str, str]:
    """The BLAKE3 of every file below a storage root, whose queues and caches are left out."""
    kinds = ("insert_log", "delta_log", "stats_log", "index_files")
    paths = [Path(at, name) for kind in kinds for at, _, names in os.walk(storage / kind) for name in names]

    def one(path: Path) -> str:
        return blake3().update_mmap(path).hexdigest() if path.stat().st_size else blake3().hexdigest()

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        return dict(zip((str(path.relative_to(storage)) for path in paths), pool.map(one, paths)))


def run(objects: int, large: int, binary: Path, directory: Path | None) -> int:
    """Prints the table of one size."""
    if directory:
        directory.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="eyrie-scale-", dir=directory) as scratch:
        scale = Scale(Path(scratch), binary, Made(objects, large))
        try:
            measure(scale)
        finally:
            scale.stop()
    return 0


def measure(scale: Scale) -> None:
    objects = scale.fill()
    print(f"{objects} objects, one of {scale.made.large} bytes; load before: {os.getloadavg()[0]:.1f}\n\n{HEADER}", flush=True)

    def show(step: Step) -> Step:
        print(step.row(), flush=True)
        return step

    first = show(scale.backup())
    idle = show(scale.backup("backup, nothing changed"))
    assert first.answer["objects"] == idle.answer["objects"] == objects
    assert idle.answer["objects_read"] == idle.answer["bytes_read"] == 0
    snapshots = [first.answer["snapshot"], idle.answer["snapshot"]]
    for name, *args in (
        ("backup --dry-run", *COLD, "--dry-run"),
        ("snapshots", "snapshots"),
        ("show", "show", "latest"),
        ("ls", "ls", "latest"),
        ("diff", "diff", *snapshots),
    ):
        show(step(name, scale.eyrie, *args))
    for level in ("structure", "bytes"):
        assert show(scale.verify(level)).answer["damage"] == []
    show(step("restore --dry-run", scale.on(scale.target), "restore", "latest", "--dry-run"))
    restored = show(scale.restore())
    assert restored.answer["objects"] == objects
    scale.check()
    print(f"\nevery file and key compared; load after: {os.getloadavg()[0]:.1f}")
