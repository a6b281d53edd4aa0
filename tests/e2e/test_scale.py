"""Many small objects and one that is large: bounded memory, nothing read twice, every byte back.

The instance is made (`lab.made`): no Milvus wrote it and none starts on it. The
sizes that take minutes are run by `make scale`.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from lab.made import Made
from lab.scale import Scale, Step

OBJECTS = 50_000
LARGE = 300 << 20
PEAK_RSS = 512 << 20


@pytest.fixture
def scale(scratch: Path, binary: Path) -> Iterator[Scale]:
    made = Scale(scratch / "scale", binary, Made(OBJECTS, LARGE))
    yield made
    made.stop()


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


def bounded(step: Step) -> Step:
    assert step.peak_rss <= PEAK_RSS, f"{step.name} took {step.peak_rss >> 20} MiB"
    return step
