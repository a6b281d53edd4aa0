"""What retention keeps, by a model that shares nothing with eyrie's: `python -m lab.retention > tests/data/retention.json`.

Ten years of hourly snapshots in several zones, of which some are not good and some have a label. `batch` is what one
run over all of them keeps and by which rules; `nightly` is what is left after a run at each midnight (UTC) of all that
the runs before it left, on some of the days.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from functools import cache
from zoneinfo import ZoneInfo

START = datetime(2008, 1, 1, 0, 30, tzinfo=UTC)
HOURS = 24 * (365 * 10 + 3)
SHOWN = 97

POLICY = {"last": 3, "hourly": 48, "daily": 7, "weekly": 4, "monthly": 12, "yearly": 20}
CASES = [
    ("UTC", POLICY),
    ("Europe/Berlin", POLICY),
    ("America/New_York", {"hourly": 30, "daily": 14, "weekly": 9}),
    # Half an hour of daylight saving, a day that was left out, midnights that did not come.
    ("Australia/Lord_Howe", {"hourly": 100, "daily": 30, "monthly": 3}),
    ("Pacific/Apia", {"daily": 60, "weekly": 60, "yearly": 5}),
    ("America/Sao_Paulo", {"last": 1, "hourly": 24, "daily": 400, "monthly": 100}),
    ("Asia/Kathmandu", {"weekly": 600, "yearly": 3}),
]

Period = tuple[object, ...]
PERIODS: dict[str, Callable[[datetime, int], Period]] = {
    "last": lambda _, n: (n,),
    "hourly": lambda t, _: (t.date(), t.hour, t.utcoffset()),
    "daily": lambda t, _: (t.date(),),
    "weekly": lambda t, _: tuple(t.isocalendar())[:2],
    "monthly": lambda t, _: (t.year, t.month),
    "yearly": lambda t, _: (t.year,),
}


def lacking(n: int) -> bool:
    """One in 53 is not good, and so are those of a fortnight in each year."""
    return n % 53 == 17 or (n // 24) % 365 in range(200, 214)


def labelled(n: int) -> bool:
    return n % 9001 == 5


def counted(policy: dict[str, int], numbers: list[int], period: Callable[[str, int], Period]) -> dict[int, set[str]]:
    kept: dict[int, set[str]] = {}
    for rule, most in policy.items():
        newest: dict[Period, int] = {}
        for n in sorted(numbers):
            newest[period(rule, n)] = n
        holders = sorted(newest.values(), reverse=True)
        if numbers and len(holders) < most:
            holders.append(min(numbers))
        for n in holders[:most]:
            kept.setdefault(n, set()).add(rule)
    return kept


def run(policy: dict[str, int], numbers: list[int], period: Callable[[str, int], Period]) -> dict[int, set[str]]:
    kept = counted(policy, numbers, period)
    good = [n for n in numbers if not lacking(n)]
    for n, rules in counted(policy, good, period).items():
        kept.setdefault(n, set()).update(rules)
    for n in numbers:
        if labelled(n):
            kept.setdefault(n, set()).add("label")
    if numbers:
        kept.setdefault(max(good or numbers), set()).add("last good" if good else "last one")
    return kept


def case(zone: str, policy: dict[str, int]) -> dict[str, object]:
    info = ZoneInfo(zone)

    @cache
    def period(rule: str, n: int) -> Period:
        return PERIODS[rule]((START + timedelta(hours=n)).astimezone(info), n)

    left: list[int] = []
    nightly: dict[int, list[int]] = {}
    for day in range(HOURS // 24):
        left = sorted(run(policy, left + list(range(day * 24, day * 24 + 24)), period))
        if day % SHOWN == SHOWN - 1 or day == HOURS // 24 - 1:
            nightly[day] = left
    batch = {n: sorted(rules) for n, rules in sorted(run(policy, list(range(HOURS)), period).items())}
    return {"zone": zone, "policy": policy, "batch": batch, "nightly": nightly}


if __name__ == "__main__":
    document = {
        "start": START.isoformat(),
        "hours": HOURS,
        "lacking": [n for n in range(HOURS) if lacking(n)],
        "labelled": [n for n in range(HOURS) if labelled(n)],
        "cases": [case(*each) for each in CASES],
    }
    json.dump(document, sys.stdout, separators=(",", ":"))
    print()
