"""Free ports that stay ours.

A port is drawn below the range that the kernel gives to outgoing connections and
is held by a file lock for as long as this process lives, so that a server which
is stopped for a while finds its port free when it starts again, and labs running
side by side never draw the same one.
"""

from __future__ import annotations

import fcntl
import os
import random
import socket

from . import cache

LOWEST, HIGHEST = 20000, 32000
_held: dict[int, int] = {}


def _is_free(port: int) -> bool:
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            sock.bind(("0.0.0.0", port))
        except OSError:
            return False
    return True


def take() -> int:
    """A port that nobody listens on and no other lab holds."""
    directory = cache.root() / "ports"
    directory.mkdir(exist_ok=True)
    for port in random.Random(os.urandom(8)).sample(range(LOWEST, HIGHEST), 500):
        fd = os.open(directory / str(port), os.O_CREAT | os.O_RDWR, 0o600)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(fd)
            continue
        if _is_free(port):
            _held[port] = fd
            return port
        os.close(fd)
    raise RuntimeError(f"no free port between {LOWEST} and {HIGHEST}")


def release(port: int) -> None:
    os.close(_held.pop(port))
