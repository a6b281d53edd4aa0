"""A memory cgroup for single commands, on machines that let this user make one."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from uuid import uuid4

ROOT = Path("/sys/fs/cgroup")


@contextmanager
def of_memory(limit: int) -> Iterator[Path | None]:
    """A cgroup whose processes have `limit` bytes of memory together, or nothing where none can be made."""
    name = f"eyrie-{uuid4().hex}"
    for group, file in ((ROOT / "memory" / name, "memory.limit_in_bytes"), (ROOT / name, "memory.max")):
        try:
            group.mkdir()
        except OSError:
            continue
        try:
            # Writing never makes the file: the kernel does, where the controller is there.
            if _write(group / file, limit):
                yield group
                return
        finally:
            group.rmdir()
    yield None


def inside(group: Path, command: list[str]) -> list[str]:
    """The command that runs `command` in a cgroup."""
    return ["/bin/sh", "-c", 'echo $$ > "$0" && exec "$@"', str(group / "cgroup.procs"), *command]


def _write(file: Path, value: int) -> bool:
    try:
        with file.open("r+") as opened:
            opened.write(str(value))
    except OSError:
        return False
    return True
