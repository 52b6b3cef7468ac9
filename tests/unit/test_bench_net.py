"""The network benchmark's pure parts: which modes are measured, how rounds become rows, bisection, the table."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from bench import net, net_measure, net_rows
from bench.net_overlays import Overlay


def bench(*rows: str, modes: tuple[str, ...] = ("on",)) -> net.Bench:
    overlays = [
        Overlay("wherry", "ours", 1),
        Overlay("kernel VXLAN", "kernel", 2),
        Overlay("forwarder", "clear", 3),
        Overlay("nebula", "encrypted", 4, version="1.11.0"),
        Overlay("fastd", "encrypted", 5, missing="not to be had"),
    ]
    return net.Bench(
        pair=cast(Any, SimpleNamespace(switch=lambda mode: None, hosts=(None, None))),
        udpload=Path("udpload"),
        overlays=overlays,
        wanted=list(rows),
        modes=list(modes),
        seconds=1,
        rows={name: net_rows.TARGETS.new_row(name) for name in rows},
    )


def test_rows_face_their_own_kind_of_peer() -> None:
    made = bench("tcp_gbps", "vxlan_ratio", "rtt_us", "cpu_s_per_gb")
    for name, gbps in (("wherry", 3.0), ("kernel VXLAN", 6.0), ("forwarder", 9.0), ("nebula 1.11.0", 1.5)):
        made._keep({("on", name): gbps, ("rtt", name): 100 / gbps, ("cpu", name): 10 / gbps})
    made.settle()
    assert (made.rows["tcp_gbps"].peer, made.rows["tcp_gbps"].advantage) == ("nebula 1.11.0", 2.0)
    assert (made.rows["vxlan_ratio"].peer, made.rows["vxlan_ratio"].advantage) == ("kernel VXLAN", 0.5)
    assert net_rows.TARGETS.verdict(made.rows["vxlan_ratio"]) == "must"
    assert net_rows.TARGETS.verdict(made.rows["tcp_gbps"]) == "must"
    assert made.rows["rtt_us"].note == "0.50 of nebula's"
    assert made.rows["cpu_s_per_gb"].advantage == pytest.approx(2.0)
    text = made.overview()
    assert "fastd" not in text
    assert "forwarder" in text


def test_a_sender_at_its_end_is_named() -> None:
    made = bench("pps_64b")
    for what, name, value in (("ceiling", "", 100e3), ("pps", "wherry", 90e3), ("pps", "nebula 1.11.0", 10e3)):
        made._keep({(what, name): value})
    made.settle()
    assert "may have been the limit" in made.rows["pps_64b"].note


@pytest.mark.parametrize(
    ("rows", "expected"),
    [
        (["tcp_gbps"], ["on", "nic", "off", "loss"]),
        (["loss1_gbps"], ["loss"]),
        (["rtt_us"], ["on"]),
        (["rtt_us", "loss1_gbps"], ["on", "loss"]),
        (["ring_mpps"], []),
    ],
)
def test_modes_that_rows_need(rows: list[str], expected: list[str]) -> None:
    assert net.needed_modes(["on", "nic", "off", "loss"], rows) == expected


def test_stolen_rounds_do_not_count(monkeypatch: pytest.MonkeyPatch) -> None:
    shares = iter([0.5, 0.0, 0.2, 0.05])
    monkeypatch.setattr(net_measure, "Steal", lambda: SimpleNamespace(share=lambda: next(shares)))
    monkeypatch.setattr(net_measure, "reachable", lambda *_: True)
    figures = iter(range(1, 100))
    monkeypatch.setattr(net_measure, "tcp", lambda *_: net_measure.Tcp(next(figures), 1.0))
    made = bench("cpu_s_per_gb")
    made.rounds(2)
    assert (made.thrown_out, made.steal) == (2, [0.0, 0.05])
    assert len(made.tcp["wherry"]["on"]) == 2


@pytest.mark.parametrize("limit", [1_000, 70_000, 400_000])
def test_bisection_finds_the_limit(monkeypatch: pytest.MonkeyPatch, limit: int) -> None:
    """A way that carries ``limit`` frames a second and loses the rest."""

    def load(
        _source: Any, _program: Any, _address: str, _port: int, rate: int, _ms: int, _into: Any
    ) -> net_measure.Load:
        sent = rate or 1_000_000
        return net_measure.Load(sent, min(sent, limit), 1.0)

    @contextmanager
    def sink(*_: Any) -> Iterator[None]:
        yield None

    monkeypatch.setattr(net_measure, "load", load)
    monkeypatch.setattr(net_measure, "sink", sink)
    found = net_measure.lossless_pps(cast(Any, None), cast(Any, None), Path(), "", 100)
    assert limit * 0.97 <= found <= limit * 1.0001
