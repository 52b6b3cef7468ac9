"""A migration that was given up may be tried again at once: nobody has to wait until both ends have cleared up."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

from tests.faults.checks import check_counting, check_one_running_copy, check_tidy
from tests.faults.cluster import running
from tests.faults.test_migration_faults import SOURCE, TARGET

POINTS = ["target.prepare", "source.copy", "target.copy", "source.switch", "target.switch"]


@pytest.mark.slow
async def test_a_retry_right_behind_an_abort_succeeds(tmp_path: Path) -> None:
    async with running(tmp_path / "c", [SOURCE, TARGET]) as cluster:
        await cluster.until("both nodes are alive", cluster.all_alive)
        guest = (await cluster.run_guest("t", SOURCE))["id"]
        here, there = SOURCE, TARGET
        for point in POINTS:
            cluster.hold(point)
            operation = await cluster.migrate("t", there)
            await cluster.reached(point)
            if point == "target.copy":  # it will take the target seconds to be rid of this one
                os.kill(cluster.processes(guest)[there], signal.SIGSTOP)
            cancelled = await cluster.api.post(f"/v1/operations/{operation}", json={"state": "cancelled"})
            assert cancelled.status_code < 300, cancelled.text
            assert (await cluster.wait_operation(operation))["state"] == "cancelled"
            cluster.release(point)
            again = await cluster.wait_operation(await cluster.migrate("t", there))
            assert again["state"] == "succeeded", (point, again)
            assert await check_one_running_copy(cluster, guest, "t") == there
            await check_tidy(cluster, guest, there)
            await check_counting(cluster, guest, there)
            here, there = there, here
