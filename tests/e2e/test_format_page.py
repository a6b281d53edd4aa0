"""A reader that was made from docs/format.md alone reads the golden repositories, and finds in them what they truly hold."""

import base64
import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from lab.reader import Damage, Repository

GOLDEN = Path(__file__).parents[1] / "data" / "golden-v1"


def expanded(runs: list[dict[str, Any]]) -> bytes:
    return b"".join(base64.b64decode(run["base64"]) * run["times"] for run in runs)


def truly(content: dict[str, Any]) -> dict[str, Any]:
    return {name: expanded(value) if name in ("bytes", "pin") else value for name, value in content.items()}


@pytest.mark.parametrize("name", ["encrypted", "plain"])
def test_the_page_is_enough_to_read_all_of_a_repository(name: str) -> None:
    truth = json.loads((GOLDEN / f"{name}.json").read_text())
    for passphrase in truth["passphrases"] or [None]:
        repository = Repository(GOLDEN / name, passphrase)
        snapshots, void = repository.snapshots()
        assert void == truth["void"]
        assert {record["snapshot"] for record in repository.forgotten()} == set(truth["forgotten"])
        assert [manifest["snapshot"] for manifest in snapshots] == [snapshot["snapshot"] for snapshot in truth["snapshots"]]
        for manifest, snapshot in zip(snapshots, truth["snapshots"], strict=True):
            parent, origin = manifest["parent"], manifest.get("origin")
            assert (parent and parent["snapshot"], origin and origin["repository"]) == (snapshot["parent"], snapshot["origin"])
            assert (manifest["instance"], manifest["sequence"]) == (snapshot["instance"], snapshot["sequence"])
            maps = repository.maps(manifest)
            assert maps.keys() == snapshot["maps"].keys()
            for root, entries in snapshot["maps"].items():
                expected = [(expanded(e["key"]), expanded(e["value"]), truly(e["content"])) for e in entries]
                assert maps[root] == expected, root


def test_the_reader_believes_nothing(tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(GOLDEN / "plain", copy)
    pack = max((copy / "data").rglob("*"), key=lambda path: path.stat().st_size if path.is_file() else 0)
    data = bytearray(pack.read_bytes())
    data[200] ^= 1
    pack.write_bytes(data)
    repository = Repository(copy, None)
    with pytest.raises(Damage):
        for manifest in repository.snapshots()[0]:
            repository.maps(manifest)
