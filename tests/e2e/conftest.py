"""Real servers for the end-to-end tests: one loaded source a layout, and fresh targets."""

from __future__ import annotations

import itertools
import os
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

REPOSITORY = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(REPOSITORY / "tests"))

from lab import eyrie as lab_eyrie  # noqa: E402
from lab import oracle, secrets, writer  # noqa: E402
from lab.dataset import Dataset  # noqa: E402
from lab.eyrie import Eyrie  # noqa: E402
from lab.instance import LAYOUTS, Instance  # noqa: E402
from pymilvus import db  # noqa: E402

# Fixtures that take long to make: the tests that share one run in one process, one after the other.
SHARED = ("known_s3", "trip", "known", "intact", "captured", "secured")
# A test waits for servers most of the time, so a core bears some; each runs up to three Milvus of 0.5 GiB.
TESTS_PER_CORE = 2
MEMORY_PER_TEST = 2 << 30

# Whether a test failed so far.
FAILED = pytest.StashKey[bool]()
# The names of fresh instances stay apart in one process.
NUMBERS = itertools.count()

# All of the log, as -vvv shows it: what it says is searched for secrets.
lab_eyrie.LOG = "info,eyrie=trace"

# Compaction replaces segments whenever it likes; a target that is compared must stay as restored.
STILL = {"dataCoord.compaction.enableAutoCompaction": False}


def pytest_xdist_auto_num_workers(config: pytest.Config) -> int:
    """How many tests run at once, unless `-n` says it: as many as cores and free memory bear."""
    line = next(line for line in Path("/proc/meminfo").read_text().splitlines() if line.startswith("MemAvailable"))
    available = int(line.split()[1]) << 10
    return max(1, min(len(os.sched_getaffinity(0)) * TESTS_PER_CORE, available // MEMORY_PER_TEST))


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Marks each test with its layouts, and those that share a fixture with a group for xdist."""
    for item in items:
        params = getattr(item, "callspec", None)
        layouts = [value for value in params.params.values() if value in LAYOUTS] if params else []
        marked = any(item.get_closest_marker(layout) for layout in LAYOUTS)
        for layout in layouts or ([] if marked else ["local"]):
            item.add_marker(layout)
        shared = [name for name in SHARED if name in item.fixturenames]
        if shared:
            item.add_marker(pytest.mark.xdist_group("-".join([*shared, *layouts[:1]])))


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[Any]) -> Iterator[None]:
    """A test that did not run is a test that failed."""
    outcome = yield
    report = outcome.get_result()
    item.stash[FAILED] = item.stash.get(FAILED, False) or report.failed
    if report.skipped:
        report.outcome = "failed"
        report.longrepr = f"{item.nodeid} was skipped, which counts as failed: {report.longrepr}"


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    """Tells of a failure at once: a run that is cut off never comes to the summary."""
    # Only the process that gathers the reports of the workers has a terminal to write to.
    if report.failed and "PYTEST_XDIST_WORKER" not in os.environ:
        print(f"\n{report.when} of {report.nodeid} failed:\n{report.longreprtext[-3000:]}", file=sys.__stderr__)


@pytest.fixture(scope="session")
def scratch(request: pytest.FixtureRequest) -> Iterator[Path]:
    """Where all servers of this run live; kept, and named, when a test failed."""
    directory = Path(tempfile.mkdtemp(prefix="eyrie-e2e-"))
    yield directory
    if request.session.testsfailed:
        print(f"\nThe servers' logs and data are kept in {directory}")
    else:
        shutil.rmtree(directory, ignore_errors=True)


@pytest.fixture(scope="session")
def binary() -> Path:
    """$EYRIE_BIN, else what cargo built last."""
    explicit = os.environ.get("EYRIE_BIN")
    built = [REPOSITORY / "target" / profile / "eyrie" for profile in ("release", "debug")]
    found = [path for path in ([Path(explicit)] if explicit else built) if path.is_file()]
    assert found, "no eyrie binary: build it, or set EYRIE_BIN"
    return max(found, key=lambda path: path.stat().st_mtime).resolve()


@dataclass
class Lab:
    """An instance, and eyrie on it."""

    instance: Instance

    @property
    def local(self) -> bool:
        return not self.instance.minio

    @property
    def mode(self) -> tuple[str, ...]:
        """How this instance can be captured: Milvus 2.3.5 with etcd inside takes no write hold."""
        return ("--mode", "hot") if self.instance.layout == "embedded" else ()

    def view(self) -> oracle.View:
        with self.instance.client() as client:
            return oracle.snapshot_instance(client, self.local)

    def eyrie(self, binary: Path, repository: str = "primary", **changes: Any) -> Eyrie:
        """eyrie with a repository of that name; `changes` go into the configuration's `instance`."""
        entry = lab_eyrie.repository(self.instance, repository)
        config = lab_eyrie.configure(self.instance, [entry], f"eyrie-{repository}.yaml", **changes)
        return Eyrie(binary, config)


@pytest.fixture(scope="session")
def source(scratch: Path) -> Iterator[Callable[[str], Lab]]:
    """The loaded instance of a layout, started when first asked for; tests leave it running."""
    started: dict[str, Lab] = {}

    def get(layout: str) -> Lab:
        if layout not in started:
            instance = Instance(layout, scratch / f"source-{layout}", auth=layout != "s3", name=f"source-{layout}")
            started[layout] = Lab(instance)
            instance.start()
            with instance.client() as client:
                Dataset(client).load()
                writer.make_streams(client)
        return started[layout]

    yield get
    for one in started.values():
        one.instance.kill()
        secrets.refuse_below(one.instance.directory)


@pytest.fixture(scope="session")
def known(source: Callable[[str], Lab], binary: Path) -> Eyrie:
    """A repository of the local source that holds one good snapshot."""
    eyrie = source("local").eyrie(binary, "bad-input")
    eyrie.expect(0, "init")
    eyrie.expect(0, "backup")
    return eyrie


@dataclass
class Fresh:
    """Makes instances that never ran."""

    scratch: Path
    made: list[Lab] = field(default_factory=list)

    def __call__(self, layout: str, **options: Any) -> Lab:
        name = f"fresh-{next(NUMBERS)}-{layout}"
        self.made.append(Lab(Instance(layout, self.scratch / name, name=name, **{"settings": STILL, **options})))
        return self.made[-1]

    def end(self) -> None:
        """Ends the instances; nothing that eyrie wrote may hold a secret."""
        for one in self.made:
            one.instance.kill()
        for one in self.made:
            secrets.refuse_below(one.instance.directory)


@pytest.fixture(scope="session")
def fresh_shared(scratch: Path) -> Iterator[Fresh]:
    """For fixtures that several tests share: what it makes ends with the run."""
    fresh = Fresh(scratch)
    yield fresh
    fresh.end()


@pytest.fixture
def fresh(scratch: Path, request: pytest.FixtureRequest) -> Iterator[Fresh]:
    """For one test: what it makes ends with the test, and is kept only when the test failed.

    An instance takes 300 MB of disk, so a whole run that kept them all would take some 30 GB.
    """
    fresh = Fresh(scratch)
    yield fresh
    fresh.end()
    if not request.node.stash.get(FAILED, False):
        for one in fresh.made:
            shutil.rmtree(one.instance.directory, ignore_errors=True)


@pytest.fixture
def streams(fresh: Callable[..., Lab]) -> Callable[..., Lab]:
    """An instance that holds nothing but what the writer writes to."""

    def make(layout: str, **options: Any) -> Lab:
        lab = fresh(layout, **options)
        lab.instance.start()
        with lab.instance.client() as client:
            db.create_database("shop", using=client.using())
            writer.make_streams(client)
        return lab

    return make


def objects_of(instance: Instance) -> dict[str, bytes]:
    """Every segment object that the instance's storage holds, by its path below the storage root."""
    if instance.minio:
        s3 = instance.s3()
        prefix = f"{instance.object_prefix}/"
        listed = [o.object_name for o in s3.list_objects(instance.bucket, prefix, recursive=True)]
        return {name.removeprefix(prefix): s3.get_object(instance.bucket, name).read() for name in listed}
    kinds = ("insert_log", "delta_log", "stats_log", "index_files")
    files = [path for kind in kinds for path in (instance.storage / kind).rglob("*") if path.is_file()]
    return {str(path.relative_to(instance.storage)): path.read_bytes() for path in files}
