"""What a node sends to others at most: from the command to the store, the node and its switch."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click
import pytest
import trio

from node.portrules import Rules
from node.switchctl import Switch
from protocol import messages as m
from tests.unit.control import Control, running
from wherry.commands.net import bits


async def put(control: Control, body: Any, *, status: int = 200) -> Any:
    answer = await control.http.put("/v1/net/rates", json=body)
    assert answer.status_code == status, answer.text
    return answer.json()


async def test_rates_are_kept_told_and_taken_back(tmp_path: Path) -> None:
    async with running(tmp_path) as control:
        one, two = await control.node("n1"), await control.node("n2")
        async with one.connected():
            all_to = {"node": "n1", "to": None, "rate": 200_000_000}
            assert await put(control, {"node": "n1", "rate": 200_000_000}) == {"rates": [all_to], "waiting": []}
            to_two = {"node": "n1", "to": "n2", "rate": 0}
            assert (await put(control, to_two))["rates"] == [all_to, to_two]
            told = [m.TunnelRate(node=one.node, rate=200_000_000), m.TunnelRate(node=one.node, to=two.node, rate=0)]
            assert one.asked_for(m.PortRules)[-1].rates == told
            assert (await put(control, {"node": "n2", "rate": 64_000}))["waiting"] == ["n2"]
        async with two.connected():
            await two.until(lambda: bool(two.asked_for(m.PortRules)))
            assert m.TunnelRate(node=two.node, rate=64_000) in two.asked_for(m.PortRules)[-1].rates
        await put(control, {"node": "n1", "rate": None})
        await put(control, {"node": "n2", "rate": None})
        assert (await control.get("/v1/net/rates"))["rates"] == [to_two]
        assert [e["data"]["rate"] for e in await control.events() if e["kind"] == "tunnel.rate"] == [
            *(200_000_000, 0, 64_000),
            *(None, None),
        ]
        answer = await control.http.delete("/v1/nodes/n2")
        assert answer.status_code == 200
        assert (await control.get("/v1/net/rates"))["rates"] == []


@pytest.mark.parametrize(
    ("body", "status", "field"),
    [
        ({"node": "n9", "rate": 0}, 404, "node"),
        ({"node": "n1", "to": "n9", "rate": 0}, 404, "to"),
        ({"node": "n1", "to": "n1", "rate": 0}, 422, "to"),
        ({"node": "n1", "rate": 63_999}, 422, "rate"),
        ({"node": "n1", "rate": -1}, 422, "rate"),
        ({"node": "n1"}, 422, "rate"),
    ],
)
async def test_bad_rates(body: Any, status: int, field: str, tmp_path: Path) -> None:
    async with running(tmp_path) as control:
        await control.node("n1")
        assert (await put(control, body, status=status))["error"]["field"] == field


class Told(Switch):
    """A real one that remembers what it was told."""

    def __init__(self) -> None:
        super().__init__(1)
        self.rates: list[tuple[int, int]] = []

    def set_peer_rate(self, node: int, bytes_per_s: int) -> None:
        super().set_peer_rate(node, bytes_per_s)
        self.rates.append((node, bytes_per_s))


def order(*rates: tuple[int, int, int]) -> m.PortRules:
    return m.PortRules(networks=[], ports=[], rates=[m.TunnelRate(node=n, to=to, rate=rate) for n, to, rate in rates])


async def test_a_node_paces_its_own_tunnels_also_after_a_restart(tmp_path: Path) -> None:
    file = tmp_path / "rules.msgpack"
    with Told() as switch:
        rules = Rules(file, switch)
        switch.set_peer(2)
        rules.peer_set(2)
        assert switch.rates == []
        rules.set(order((1, 0, 8000), (1, 3, 16000), (2, 0, 24000)))
        assert switch.rates == [(2, 1000)]
        switch.set_peer(3)
        rules.peer_set(3)
        rules.peer_set(3)  # its address has changed: nothing new
        rules.set(order((1, 0, 8000), (1, 3, 0)))
        assert switch.rates == [(2, 1000), (3, 2000), (3, 0)]
        rules.peer_removed(3)
        switch.remove_peer(3)
        rules.set(order((1, 0, 8000), (1, 3, 80_000)))
        assert switch.rates[3:] == []
    with Told() as switch:
        rules = Rules(file, switch)
        for peer in (2, 3):
            switch.set_peer(peer)
            rules.peer_set(peer)
        assert switch.rates == [(2, 1000), (3, 10_000)]
    await trio.lowlevel.checkpoint()


@pytest.mark.parametrize(
    ("text", "found"),
    [
        *(("200M", 200_000_000), ("1.5g", 1_500_000_000), ("64000", 64_000), ("10 Mbit/s", 10_000_000)),
        *(("unlimited", 0), ("default", None), ("64kbit", 64_000)),
    ],
)
def test_a_rate_as_people_write_it(text: str, found: int | None) -> None:
    assert bits(text) == found


@pytest.mark.parametrize("text", ["", "M", "fast", "-1M", "nan", "inf", "1e300G", "0"])
def test_what_is_no_rate(text: str) -> None:
    with pytest.raises(click.UsageError, match="is no rate"):
        bits(text)
