"""A store that does not take the checksums of uploads, each in its own way, still holds a repository."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import yaml
from conftest import Lab
from lab.eyrie import Eyrie, configure
from lab.eyrie import repository as entry_of
from lab.faults import Checksums, FaultyS3
from lab.instance import Instance
from lab.made import Made

# An object of several parts; the lab makes smaller ones of one pattern.
LARGE = 64 << 20


@pytest.fixture(scope="module")
def made(scratch: Path, binary: Path) -> Instance:
    """An instance that no Milvus runs on."""
    instance = Instance("local", scratch / "checksums", name="checksums")
    instance.start_backing()
    Made(100, LARGE).fill(instance)
    return instance


@pytest.mark.s3
@pytest.mark.parametrize(
    ("checksums", "refusal", "note"),
    [
        ("refused", (501, "NotImplemented"), "with uploads"),
        ("refused", (403, "AccessDenied"), "with uploads"),
        ("refused with parts", (400, "InvalidArgument"), "with the parts of an upload"),
        ("unsaid", (0, ""), "with the parts of an upload"),
        ("taken", (0, ""), None),
    ],
)
def test_a_repository_is_kept_where_checksums_are_refused(
    checksums: Checksums,
    refusal: tuple[int, str],
    note: str | None,
    made: Instance,
    store: Lab,
    binary: Path,
    request: pytest.FixtureRequest,
) -> None:
    name = f"checksums-{request.node.callspec.id}".replace(" ", "-")
    with FaultyS3(store.instance.minio.port, checksums=checksums, refusal=refusal) as proxy:
        entry = entry_of(store.instance, name)
        entry["s3"]["endpoint"] = proxy.url
        eyrie = Eyrie(binary, configure(made, [entry], f"{name}.yaml"))
        notes = eyrie.json("init")["notes"]
        said = [n["what"] for n in notes if n["kind"] == "no-upload-checksums"]
        assert [note in what for what in said] == ([True] if note else [])
        probed = proxy.faults
        backup = eyrie.json("backup", "--mode", "cold")
        assert backup["bytes_read"] > LARGE
        if checksums != "unsaid":
            assert proxy.faults == probed, "what was found is kept to"
        assert eyrie.json("verify", "latest", "--level", "bytes")["damage"] == []
        # Who says what there is gets that, and nothing else is tried.
        config = yaml.safe_load(eyrie.config.read_text())
        entry["s3"]["checksum"] = "none"
        entry["url"] += "-set"
        config["repositories"] = [entry]
        eyrie.config.write_text(yaml.safe_dump(config))
        eyrie.expect(0, "init")
        assert proxy.faults == probed or checksums == "unsaid"


@pytest.fixture(scope="module")
def store(fresh_shared: Callable[..., Lab]) -> Lab:
    """A MinIO."""
    lab = fresh_shared("s3")
    lab.instance.start_backing()
    return lab
