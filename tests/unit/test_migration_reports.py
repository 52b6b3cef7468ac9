"""Reports of migrations: samples that stay few, the page that is made of them, and where they are kept."""

from __future__ import annotations

import xml.etree.ElementTree as ET
from itertools import pairwise
from pathlib import Path
from typing import Any

from coordinator.reports import COLUMNS, MOST_SAMPLES, Samples
from protocol import messages as m
from tests.unit.test_operations_migrate import cluster, moves_at_once, result, started
from wherry import movereport
from wherry.commands.moves import summary


def progress(at: float, round_: int = 1, **values: Any) -> m.MigrationProgress:
    plain = {"pages_sent": 0, "zero_pages": 0, "bytes_sent": int(at), "bytes_per_s": 1.0, "dirty_pages": 5}
    given = {**plain, "remaining": 0, "predicted_blackout_ms": 1.0, "elapsed_ms": at, **values}
    return m.MigrationProgress(migration="m-1", phase="copy", round=round_, **given)


def test_a_long_migration_has_as_many_samples_as_a_short_one() -> None:
    samples = Samples()
    for at in range(20_000):
        samples.add(progress(float(at)))
    assert MOST_SAMPLES // 4 < len(samples.rows) <= MOST_SAMPLES
    times = [row[0] for row in samples.rows]
    assert times == sorted(times)
    assert times[0] == 0
    steps = [b - a for a, b in pairwise(times)]
    assert max(steps) < 20_000 / 50


def test_every_round_has_a_sample() -> None:
    samples = Samples(every=1000)
    for number in range(50):
        for _ in range(3):
            samples.add(progress(float(number), number))
    assert {row[COLUMNS.index("round")] for row in samples.rows} == set(range(50))


def test_the_page_is_well_formed_and_escapes() -> None:
    rows = [[10.0 * n, "copy", n, n << 20, 100 - n, 1e8, 10.0, n] for n in range(20)]
    report = {
        "guest": "<web>",
        "source": "n1",
        "target": "n2",
        "migration": "m-1",
        "outcome": "committed",
        "reason": "a & b",
        "total_ms": 250.0,
        "prepare_ms": 5.0,
        "copy_ms": 190.0,
        "blackout_ms": 7.5,
        "columns": list(COLUMNS),
        "samples": rows,
    }
    page = movereport.html(report, summary(report))
    assert "<web>" not in page
    assert "&lt;web&gt;" in page
    assert "a &amp; b" in page
    svg = ET.fromstring(movereport.plot(report))
    name = "{http://www.w3.org/2000/svg}"
    lines = svg.findall(f"{name}polyline")
    assert [len(line.get("points", "").split()) for line in lines] == [20, 20, 20]
    pause = svg.find(f"{name}rect")
    assert pause is not None
    assert float(pause.get("x", "0")) == round(90 + 860 * 195 / 250, 1)
    assert "No samples" in movereport.plot({})


async def test_a_migration_leaves_its_report(tmp_path: Path) -> None:
    async with cluster(tmp_path) as (c, n1, _):
        operation = await c.post("/v1/guests/web/migrate", {"to": "n2", "max_blackout_ms": 5.0})
        start = await started(n1)
        assert n1.link is not None
        for number in range(3):
            notice = progress(100.0 * number, number, throttle=40 * (number > 1))
            await n1.link.notify(m.MigrationProgress(**{**as_dict(notice), "migration": start.migration}))
        await n1.decide(start.migration, start.guest, 1, "commit")
        await result(n1, start, rounds=2, total_ms=300.0, blackout_ms=4.0, throttle=40)
        ended = await c.ended(operation)
        assert ended["state"] == "succeeded"
        (kept,) = (await c.get("/v1/guests/web/migrations"))["migrations"]
        assert (kept["migration"], kept["source"], kept["target"]) == (start.migration, "n1", "n2")
        assert (kept["outcome"], kept["blackout_ms"], kept["params"]["max_blackout_ms"]) == ("committed", 4.0, 5.0)
        assert "samples" not in kept
        whole = await c.get(f"/v1/migrations/{start.migration}")
        assert [row[whole["columns"].index("throttle")] for row in whole["samples"]] == [0, 0, 40]
        metrics = (await c.http.get("/metrics")).text
        assert 'wherry_migrations_total{outcome="committed"} 1' in metrics
        assert "wherry_migrations_throttled_total 1" in metrics
        events = (await c.http.get("/v1/events")).text
        assert "rests 40 % of its time" in events
        assert (await c.http.get("/v1/migrations/m-none")).status_code == 404


async def test_a_migration_that_fails_leaves_one_too(tmp_path: Path) -> None:
    async with cluster(tmp_path) as (c, n1, n2):
        operation = await c.post("/v1/guests/web/migrate", {"to": "n2"})
        start = await started(n1)
        await n2.decide(start.migration, start.guest, 1, "abort", "disk full")
        assert (await c.ended(operation))["state"] == "failed"
        (kept,) = (await c.get("/v1/guests/web/migrations"))["migrations"]
        assert (kept["outcome"], kept["reason"]) == ("aborted", "disk full")
        moves_at_once(n1, n2)
        await c.done(await c.post("/v1/guests/web/migrate", {"to": "n2"}))
        found = (await c.get("/v1/guests/web/migrations"))["migrations"]
        assert [r["outcome"] for r in found] == ["committed", "aborted"]


def as_dict(notice: m.MigrationProgress) -> dict[str, Any]:
    return {name: getattr(notice, name) for name in notice.__struct_fields__}
