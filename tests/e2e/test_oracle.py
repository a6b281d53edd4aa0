"""The oracle itself, before anything is judged by it: it needs no eyrie."""

from __future__ import annotations

from collections.abc import Callable

import naive
from conftest import Lab
from lab import oracle

LOST = ("/datacoord-meta/deltalog/", "/aliases/", "/credential/users/bob")


def test_the_oracle_accepts_a_good_restore_and_names_what_a_bad_one_lost(
    source: Callable[[str], Lab], fresh: Callable[..., Lab]
) -> None:
    local = source("local")
    before = local.view()
    good, bad = fresh("local", auth=True), fresh("local", auth=True)

    naive.copy(local.instance, good.instance)
    good.instance.start_milvus()
    assert oracle.compare(before, good.view()) == []
    good.instance.kill()

    naive.copy(local.instance, bad.instance, keep=lambda key: not any(part in key for part in LOST))
    bad.instance.start_milvus()
    found = "\n".join(oracle.compare(before, bad.view()))
    bad.instance.kill()
    assert "databases.default.articles.rows: of 5480 rows" in found
    assert "databases.default.articles.aliases: was ['articles_current']" in found
    assert "access.users.bob is gone" in found
