"""No secret is printed or stored: the whole run is searched (`lab.secrets`), and here that the search finds one."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from conftest import Lab
from lab import secrets
from lab.eyrie import PASSPHRASE, Eyrie, configure, repository, secret
from lab.instance import ROOT_PASSWORD
from lab.reader import Repository
from test_tls import fill


def test_the_search_finds_a_secret_in_any_file_of_a_repository_and_in_a_login(tmp_path: Path) -> None:
    secret(tmp_path / "a-file", "a secret of this test")
    stored = tmp_path / "repositories" / "primary" / "snapshots" / "one"
    stored.parent.mkdir(parents=True)
    stored.write_bytes(bytes(1000))
    assert secrets.refuse_below(tmp_path) == 1
    stored.write_bytes(bytes(1000) + b"a secret of this test" + bytes(10))
    with pytest.raises(AssertionError, match="holds a secret of 21 bytes at byte 1000"):
        secrets.refuse_below(tmp_path)
    assert Eyrie(tmp_path / "eyrie", tmp_path / "eyrie.yaml").env()["EYRIE_LOG"] == "info,eyrie=trace", "all is logged"
    secrets.refuse("text", f"root, {ROOT_PASSWORD}".encode())
    with pytest.raises(AssertionError, match="holds a secret"):
        secrets.refuse("a header", b"authorization: cm9vdDpNaWx2dXM=")


def test_nothing_that_is_printed_or_stored_holds_a_secret(fresh: Callable[..., Lab], binary: Path) -> None:
    lab = fresh("local", auth=True)
    lab.instance.start()
    fill(lab)
    for name, passphrase, options in (("sealed", PASSPHRASE, []), ("plain", None, ["--no-encryption"])):
        entry = repository(lab.instance, name)
        if not passphrase:
            del entry["passphrase_file"]
        config = configure(lab.instance, [entry], f"eyrie-{name}.yaml")
        eyrie = Eyrie(binary, config, {"EYRIE_LOG": "trace,h2=info"})
        for verb in (["init", *options], ["check"], ["backup"], ["verify"], ["show", "latest"], ["config", "show"]):
            eyrie.expect(0, "-vvv", *verb)
        assert secrets.refuse_opened(Repository(Path(entry["url"]), passphrase)) > 20
    assert secrets.refuse_below(lab.instance.directory) > 20
