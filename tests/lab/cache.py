"""What is built or unpacked once and kept between runs.

An entry is made in a temporary directory beside its final place and renamed
there, under a lock: an interrupted set-up leaves no half entry, and two set-ups
at once make it once.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

ETCD_VERSION = "3.5.21"
MINIO_VERSION = "v0.0.0-20260212201848-7aac2a2c5b7c"
HERE = Path(__file__).resolve().parent


def root() -> Path:
    """The cache directory: $EYRIE_LAB_CACHE, else eyrie-lab in the user's cache."""
    explicit = os.environ.get("EYRIE_LAB_CACHE")
    if explicit:
        path = Path(explicit)
    else:
        base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
        path = Path(base) / "eyrie-lab"
    path.mkdir(parents=True, exist_ok=True)
    return path.resolve()


def say(message: str) -> None:
    print(f"lab: {message}", file=sys.stderr, flush=True)


@contextmanager
def locked(path: Path) -> Iterator[None]:
    with open(path, "w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def entry(name: str, build: Callable[[Path], None]) -> Path:
    """The cached directory `name`, made by `build(directory)` if it is not there."""
    final = root() / name
    if final.exists():
        return final
    with locked(root() / f"{name}.lock"):
        if final.exists():
            return final
        for stale in root().glob(f"{name}.tmp-*"):
            shutil.rmtree(stale)
        making = Path(tempfile.mkdtemp(prefix=f"{name}.tmp-", dir=root()))
        say(f"making {name}")
        build(making)
        making.rename(final)
    return final


def _go(*args: str, cwd: Path, **env: str) -> None:
    subprocess.run(
        ["nice", "go", *args],
        cwd=cwd,
        env={**os.environ, "CGO_ENABLED": "0", **env},
        stdout=sys.stderr,
        check=True,
    )


def milvus_bin() -> Path:
    """The directory that holds `milvus` and its libraries."""
    import milvus

    return entry(f"milvus-{milvus.__version__}", lambda d: milvus._initialize_data_files(str(d))) / "bin"


def milvus_data() -> Path:
    """The package's own templates: config.yaml.template and glog.conf."""
    import milvus

    return Path(milvus.__file__).parent / "data"


def minio() -> Path:
    def build(directory: Path) -> None:
        target = f"github.com/minio/minio@{MINIO_VERSION}"
        _go("install", "-ldflags=-s -w", target, cwd=directory, GOBIN=str(directory))

    return entry(f"minio-{MINIO_VERSION}", build) / "minio"


def etcd() -> Path:
    """etcd 3.5, or Debian's 3.4 where Go cannot build it.

    3.4 serves an instance with external etcd; it cannot open what an embedded
    etcd 3.5 wrote.
    """

    def build(directory: Path) -> None:
        with tempfile.TemporaryDirectory() as work:
            source = Path(work) / "etcd"
            shutil.copytree(HERE / "etcd", source)
            _go("build", "-ldflags=-s -w", "-o", str(directory / "etcd"), ".", cwd=source)

    try:
        return entry(f"etcd-{ETCD_VERSION}", build) / "etcd"
    except (OSError, subprocess.CalledProcessError) as error:
        say(f"etcd {ETCD_VERSION} could not be built ({error}); using Debian's etcd-server")
        return _debian_etcd()


def _debian_etcd() -> Path:
    if not shutil.which("etcd"):
        as_root = [] if os.geteuid() == 0 else ["sudo"]
        for command in (["update", "-q"], ["install", "-q", "-y", "--no-install-recommends", "etcd-server"]):
            subprocess.run([*as_root, "apt-get", *command], stdout=sys.stderr, check=True)
    found = shutil.which("etcd")
    assert found, "etcd-server is installed but brings no etcd"
    return Path(found)


def set_up() -> None:
    """Makes everything that any layout needs."""
    milvus_bin()
    etcd()
    minio()
