"""How much slower a guest is while it is copied: row slowdown_pct of ``make bench-migration``.

A guest of one hart with 128 MiB of random bytes calculates without a pause and counts what it has done in every 5 ms of
its own clock. It is moved over a link of 1 Gbit/s meanwhile, so that the first round takes about a second. Compared is
what it did in the time of the rounds (the report's samples say how long they took; they end where it stood still) with
what it did in as much time before the wish.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
from pathlib import Path
from typing import Final

import trio

from bench import cluster_runs as runs
from bench import migration_guest, migration_ours
from bench.migration_guest import Case, Limit, NoFigure
from wherry.demo import traffic
from wherry.errors import WherryError

BUCKET_S: Final = 0.005
RUN_S: Final = 12
BEFORE_S: Final = 4.0
MBIT: Final = 1000
FILLED: Final = Case("filled", 128, 0, mbit=MBIT)


def slowdown(counts: list[int], copied: float) -> float:
    """Percent. ``counts``: done in each bucket; ``copied``: seconds that the rounds took. Raises NoFigure."""
    window = int(copied / BUCKET_S)
    still = longest_still(counts)
    began = still - window
    if began - window < 0 or window < 20:
        raise NoFigure(f"the guest stood still after {still * BUCKET_S:.2f} s, the rounds took {copied:.2f} s")
    during, before = counts[began:still], counts[began - window - int(1 / BUCKET_S) : began - int(1 / BUCKET_S)]
    return 100 * (1 - statistics.fmean(during) / statistics.fmean(before))


def longest_still(counts: list[int]) -> int:
    """Where the longest run of buckets begins in which nothing was done. Raises NoFigure."""
    best, at = (0, 0), 0
    while at < len(counts):
        end = at
        while end < len(counts) and counts[end] == 0:
            end += 1
        best = max(best, (end - at, -at))
        at = end + 1
    if not best[0]:
        raise NoFigure("the guest never stood still")
    return -best[1]


async def measure(ours: migration_ours.Ours) -> float:
    """Percent. Raises NoFigure."""
    client = ours.client
    await ours.load(FILLED)
    await traffic.sh(client, migration_ours.NAME, f"/{migration_guest.LOAD} speed {RUN_S} > /tmp/speed 2>&1 &")
    await trio.sleep(BEFORE_S)
    with Limit(MBIT, ours.links):
        try:
            await ours.go()
        except WherryError as error:
            raise NoFigure(f"wherry: {error}") from None
    copied = await _copied(ours)
    wait = f"while pidof {migration_guest.LOAD} | grep -q . && ! grep -q . /tmp/speed; do usleep 100000; done"
    text = await traffic.sh(client, migration_ours.NAME, f"{wait}; cat /tmp/speed", RUN_S + 60)
    return slowdown([int(line) for line in text.split()], copied)


async def _copied(ours: migration_ours.Ours) -> float:
    """Seconds from the beginning of the first round to the switch, of the guest's last migration."""
    [last, *_] = await ours.client.migrations(migration_ours.NAME)
    report = await ours.client.migration(str(last["migration"]))
    columns, rows = report["columns"], report["samples"]
    at, phase = columns.index("elapsed_ms"), columns.index("phase")
    copying = [row[at] for row in rows if row[phase] == "copy"]
    if not copying:
        raise NoFigure("the report has no samples of the copy")
    return float(copying[-1] - copying[0]) / 1000


async def rounds(count: int) -> list[float]:
    with tempfile.TemporaryDirectory(prefix="wherry-bench-") as folder:
        async with migration_ours.guest(Path(folder), runs.image_library()) as ours:
            return [await measure(ours) for _ in range(count)]


def main() -> None:
    parser = argparse.ArgumentParser(prog="bench.migration_speed", description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    print(" ".join(f"{figure:.1f} %" for figure in trio.run(rounds, parser.parse_args().rounds)))


if __name__ == "__main__":
    main()
