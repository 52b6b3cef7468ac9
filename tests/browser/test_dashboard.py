"""The dashboard as a person meets it: asks for a token, shows what is there, and what happens while one looks."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import trio

from tests.browser.chromium import CHROMIUM, page
from wherry import context
from wherry.client import Client
from wherry.demo.daemons import Daemons

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="needs chromium (Debian package chromium)")


async def test_dashboard_shows_the_cluster_and_what_happens(tmp_path: Path) -> None:
    daemons = Daemons(tmp_path)
    try:
        coordinator = await daemons.coordinator()
        target = context.load(str(coordinator.ready["api"]), "", daemons.access_file)
        async with Client(target) as client, page(f"{target.api}/", tmp_path / "profile") as dashboard:
            sign_in = "document.getElementById('token').value = %s; document.getElementById('login').requestSubmit()"
            await dashboard.evaluate(sign_in % json.dumps("wh_wrong"))
            await dashboard.until("/token|401|denied|unknown/i.test(document.body.innerText)")
            assert "n1" not in await dashboard.evaluate("document.body.innerText")

            await dashboard.evaluate(sign_in % json.dumps(target.token))
            await dashboard.until("document.body.innerText.includes('Nodes')")
            await daemons.node("n1", (await client.create_join_token(60)).join)
            await dashboard.until("/n1\\s+alive/.test(document.body.innerText)")
            await dashboard.until("document.body.innerText.includes('node n1 joined')")
    finally:
        with trio.CancelScope(shield=True, deadline=trio.current_time() + 20):
            await daemons.stop()
