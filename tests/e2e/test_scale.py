"""Many small objects and one that is large: bounded memory, nothing read twice, every byte back.

The instance is made (`lab.made`): no Milvus wrote it and none starts on it. The
sizes that take minutes are run by `make scale`.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from lab import cgroup
from lab.made import Made
from lab.scale import Scale, Step

OBJECTS = 50_000
LARGE = 300 << 20
PEAK_RSS = 512 << 20
# What a small cgroup has, and the budget that eyrie chooses there.
SMALL = 256 << 20
SMALL_BUDGET = "64MiB"


@pytest.fixture
def scale(scratch: Path, binary: Path) -> Iterator[Scale]:
    made = Scale(scratch / "scale", binary, Made(OBJECTS, LARGE))
    yield made
    made.stop()
    shutil.rmtree(scratch / "scale")


def test_many_small_objects_and_a_large_one_fit_into_bounded_memory(scale: Scale) -> None:
    objects = scale.fill()
    first = bounded(scale.backup())
    assert first.answer["objects"] == first.answer["objects_read"] == objects > OBJECTS
    assert first.answer["bytes_read"] > LARGE
    idle = bounded(scale.backup())
    assert (idle.answer["objects"], idle.answer["objects_read"], idle.answer["bytes_read"]) == (objects, 0, 0)
    verified = bounded(scale.verify("bytes"))
    assert verified.answer["damage"] == []
    restored = bounded(scale.restore())
    assert restored.answer["objects"] == objects
    scale.check()


@pytest.mark.parametrize("compressible", [True, False])
def test_data_is_backed_up_and_restored_in_256_mib(scratch: Path, binary: Path, compressible: bool) -> None:
    made = Made(OBJECTS // 10, LARGE, compressible=compressible)
    with cgroup.of_memory(SMALL) as group:
        # Where no cgroup can be made, the budget is set as it would be chosen, and only the peak is looked at.
        resources = {} if group else {"memory": SMALL_BUDGET}
        scale = Scale(scratch / "small", binary, made, resources, group)
        try:
            scale.fill()
            first = bounded(scale.backup(), SMALL)
            assert (first.answer["bytes_added"] * 100 < LARGE) is compressible
            for step in (scale.verify("bytes"), scale.restore()):
                bounded(step, SMALL)
            scale.check()
        finally:
            scale.stop()
            shutil.rmtree(scratch / "small")


def bounded(step: Step, most: int = PEAK_RSS) -> Step:
    assert step.peak_rss <= most, f"{step.name} took {step.peak_rss >> 20} MiB"
    return step
