"""Every secret that the tests give to eyrie, and the search for them where none may be."""

from __future__ import annotations

import base64
import json
import re
from pathlib import Path

from .reader import Repository

# What a repository, a state directory and a cache may hold is in directories of these names.
SEARCHED = ("repositories", "eyrie-home", "eyrie-repository", "repository", "state")

_known: set[bytes] = set()


def register(value: str, user: str = "root") -> str:
    """Adds a secret, as it is and as the header says it by which a client logs in to Milvus."""
    _known.add(value.encode())
    _known.add(base64.b64encode(f"{user}:{value}".encode()))
    return value


def register_default(user: str, value: str) -> None:
    """Adds a password that is a word of its own: only as a client sends it."""
    _known.add(base64.b64encode(f"{user}:{value}".encode()))


def _searched() -> re.Pattern[bytes]:
    return re.compile(b"|".join(re.escape(secret) for secret in sorted(_known)))


def refuse(what: str, data: bytes) -> None:
    """Fails when a secret is in the data, which it does not show."""
    found = _searched().search(data)
    assert not found, f"{what} holds a secret of {len(found[0])} bytes at byte {found.start()}"


def refuse_opened(repository: Repository) -> int:
    """Fails when a manifest or an entry of a map, opened, holds a secret; says how many entries were searched."""
    manifests, _ = repository.snapshots()
    refuse("a manifest", json.dumps(manifests).encode())
    searched = 0
    for manifest in manifests:
        for root, entries in repository.maps(manifest).items():
            for key, value, content in entries:
                refuse(f"an entry of {root}", key + b"\n" + value + b"\n" + repr(content).encode())
                searched += 1
    return searched


def refuse_below(directory: Path) -> int:
    """Fails when a file of a repository, of the state or of the cache below a directory holds a secret; says how many
    were searched."""
    searched = 0
    for name in SEARCHED:
        for top in directory.rglob(name):
            for path in top.rglob("*"):
                refuse("a file's name", str(path.relative_to(top)).encode())
                if path.is_file() and not path.is_symlink():
                    refuse(str(path), path.read_bytes())
                    searched += 1
    return searched
