"""Attached ports: the store's list, what nodes are told of it, and what a node does with it."""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, ClassVar, cast

import pytest
import trio
import trio.testing
from click.testing import CliRunner
from msgspec.structs import replace

from node import endpoints
from node.attachments import Attachments
from node.netevents import Watcher
from node.netlook import NetWatch
from node.ports import GuestPorts
from node.switchctl import Switch
from node.switchnets import Networks
from protocol import messages as m
from protocol.errors import Refused
from tests.unit.control import running
from wherry.commands import attach, net
from wherry.errors import ApiError
from wherry.model import Net, Port, parse

VNI = 7


async def test_a_port_is_kept_if_its_node_opened_it(tmp_path: Path) -> None:
    async with running(tmp_path) as control:
        agent = await control.node("n1")
        async with agent.connected():
            made = await control.post(
                "/v1/ports", {"network": "lan", "kind": "tap", "local": "tap0", "on": "n1"}, status=201
            )
            assert (made["state"], made["node"], made["network"]) == ("up", "n1", "lan")
            (told,) = agent.attachments
            assert (told.id, told.kind, told.local, told.network) == (made["id"], "tap", "tap0", "lan")

            (port,) = (await control.get("/v1/ports"))["ports"]
            assert port["id"] == made["id"]
            assert port["counters"] == {"rx_frames": 1}
            net = await control.get("/v1/net")
            assert net["nodes"] == [{"name": "n1", "sampled": 1.0, "counters": {"rx_frames": 9}}]
            assert [t["counters"] for t in net["tunnels"]] == [{"drop_auth": 7}]

            again = await control.post("/v1/ports", {"network": "lan", "kind": "tap", "local": "tap0"}, status=409)
            assert again["error"]["code"] == "exists"
            busy = await control.delete("/v1/networks/lan", status=409)
            assert "tap0" in busy["error"]["message"]


async def test_a_node_that_cannot_open_it_says_why(tmp_path: Path) -> None:
    async with running(tmp_path) as control:
        agent = await control.node("n1")

        async def refuse(request: m.PortsSet) -> m.PortsDone:
            states = [
                m.AttachmentState(id=a.id, state="failed", code="forbidden", reason="it needs CAP_NET_ADMIN")
                for a in request.attachments
            ]
            return m.PortsDone(states=states)

        agent.hooks[m.PortsSet] = refuse
        async with agent.connected():
            refused = await control.post("/v1/ports", {"network": "lan", "kind": "tap", "local": "tap0"}, status=403)
            assert "CAP_NET_ADMIN" in refused["error"]["message"]
            assert (await control.get("/v1/ports"))["ports"] == []
            assert agent.asked_for(m.PortsSet)[-1].attachments == []
        away = await control.post("/v1/ports", {"network": "lan", "kind": "tap", "local": "tap0"}, status=503)
        assert away["error"]["code"] == "unavailable"


async def test_a_node_that_was_away_is_told_when_it_registers(tmp_path: Path) -> None:
    async with running(tmp_path) as control:
        agent = await control.node("n1")
        async with agent.connected():
            made = await control.post("/v1/ports", {"network": "lan", "kind": "tap", "local": "tap0"}, status=201)
            kept = await control.post("/v1/ports", {"network": "lan", "kind": "tap", "local": "tap1"}, status=201)
        await control.delete(f"/v1/ports/{made['id']}")
        shown = (await control.get("/v1/ports"))["ports"]
        assert [(p["name"], p["state"]) for p in shown] == [("tap1", "unknown")]
        asked = len(agent.asked_for(m.PortsSet))
        async with agent.connected():
            await agent.until(lambda: len(agent.asked_for(m.PortsSet)) > asked)
            assert [a.id for a in agent.attachments] == [kept["id"]]


# ---- the node's side


class Claims:
    """What the mesh would be told; ``waiting`` is what it would do later."""

    def __init__(self) -> None:
        self.networks: set[int] = set()
        self.waiting: list[Callable[[], None]] = []

    def network_added(self, vni: int) -> None:
        self.networks.add(vni)

    def network_removed(self, vni: int) -> None:
        self.networks.remove(vni)

    def mac_here(self, vni: int, mac: str, address: str, generation: int) -> None: ...
    def mac_gone(self, vni: int, mac: str) -> None: ...
    def mac_moved(self, vni: int, mac: str, address: str, generation: int, node: int) -> None: ...

    def later(self, seconds: float, work: Callable[[], None]) -> None:
        self.waiting.append(work)


class Pipe:
    """An endpoint without a host: one end of a socket pair."""

    removed: ClassVar[list[str]] = []
    sizes: ClassVar[list[tuple[str, int]]] = []

    def __init__(self, name: str, made: bool) -> None:
        self.name, self.made = name, made
        self.near, self.far = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.fd = self.near.fileno()

    def add(self, switch: Switch, port: int, vni: int) -> None:
        switch.add_tap_port(port, vni, self.fd)

    def set_mtu(self, mtu: int) -> None:
        Pipe.sizes.append((self.name, mtu))

    def remove(self) -> None:
        Pipe.removed.append(self.name)

    def close(self) -> None:
        self.near.close()
        self.far.close()


@pytest.fixture
def host(monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, bool]]:
    """Names that can be opened, and whether opening makes them."""
    names: dict[str, bool] = {}
    Pipe.removed, Pipe.sizes = [], []

    def open_endpoint(wish: m.Attachment, *, made_before: bool) -> Pipe:
        if wish.local not in names:
            raise Refused("conflict", f"{wish.local} is in use", field="local")
        return Pipe(wish.local, names[wish.local] or made_before)

    monkeypatch.setattr(endpoints, "open_endpoint", open_endpoint)
    return names


def wish(name: str) -> m.Attachment:
    return m.Attachment(id=f"p-{name}", network="lan", vni=VNI, kind="tap", local=name)


def test_ports_come_and_go_with_the_list(host: dict[str, bool], tmp_path: Path) -> None:
    host.update(tap0=True, tap1=False)
    claims = Claims()
    with Switch(1) as switch:
        ports = Attachments(tmp_path / "a", switch, claims, Networks(switch, claims))
        ports.apply([wish("tap0"), wish("tap1")])
        assert [w.local for _, w in ports] == ["tap0", "tap1"]
        assert claims.networks == {VNI}
        first = {w.local: n for n, w in ports}
        ports.apply([wish("tap1"), wish("tap0")])
        assert {w.local: n for n, w in ports} == first  # the same list again touches nothing
        ports.apply([wish("tap1")])
        assert Pipe.removed == ["tap0"]
        ports.apply([])
        assert Pipe.removed == ["tap0"]  # tap1 was there before us
        assert claims.networks == set()


def test_another_mtu_leaves_the_port_where_it_is(host: dict[str, bool], tmp_path: Path) -> None:
    host.update(tap0=True)
    claims = Claims()
    with Switch(1) as switch:
        ports = Attachments(tmp_path / "a", switch, claims, Networks(switch, claims))
        ports.apply([wish("tap0")])
        ((number, _),) = list(ports)
        smaller = replace(wish("tap0"), mtu=1300)
        ports.apply([smaller])
        assert list(ports) == [(number, smaller)]
        assert (Pipe.removed, Pipe.sizes) == ([], [("tap0", 1300)])


def test_what_fails_is_tried_again(host: dict[str, bool], tmp_path: Path) -> None:
    claims = Claims()
    with Switch(1) as switch:
        ports = Attachments(tmp_path / "a", switch, claims, Networks(switch, claims))
        ports.apply([wish("tap0")])
        (state,) = ports.states()
        assert (state.state, state.code, state.reason) == ("failed", "conflict", "tap0 is in use")
        claims.waiting.pop()()
        assert ports.states()[0].state == "failed"
        assert len(claims.waiting) == 1
        host["tap0"] = True
        claims.waiting.pop()()
        assert ports.states()[0].state == "up"
        assert not claims.waiting
        ((number, _),) = list(ports)
        assert ports.down(number)
        assert ports.states()[0].state == "failed"
        assert not ports.down(number)
        claims.waiting.pop()()
        assert ports.states()[0].state == "up"


def test_the_next_agent_has_them_again(host: dict[str, bool], tmp_path: Path) -> None:
    host.update(tap0=True)
    with Switch(1) as switch:
        claims = Claims()
        ports = Attachments(tmp_path / "a", switch, claims, Networks(switch, claims))
        ports.apply([wish("tap0")])
        ports.close()
    host.update(tap0=False)  # it is there now
    with Switch(1) as switch:
        claims = Claims()
        ports = Attachments(tmp_path / "a", switch, claims, Networks(switch, claims))
        ports.restore()
        assert [w for _, w in ports] == [wish("tap0")]
        ports.apply([])
        assert Pipe.removed == ["tap0"]  # made by us, though by an earlier agent


@pytest.mark.parametrize("content", [b"", b"\xc1", b"\x80", b"\x81\xa6format\x02"])
def test_a_damaged_list_is_no_list(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(content)
    with Switch(1) as switch:
        claims = Claims()
        ports = Attachments(tmp_path / "a", switch, claims, Networks(switch, claims))
        ports.restore()
        assert ports.states() == []
        assert (tmp_path / "a").read_bytes() == content


# ---- what is counted


def picture(sampled: float, frames: int, **drops: int) -> Net:
    counters = {"rx_frames": frames, "rx_bytes": 100 * frames, "tx_frames": 0, "tx_bytes": 0, **drops}
    port = {"kind": "tap", "name": "tap0", "id": "p-1", "port": 1, "network": "lan", "node": "n1", "counters": counters}
    absent = {"kind": "tap", "name": "tap1", "id": "p-2", "port": None, "node": "n2", "counters": None}
    tunnel = {"node": "n1", "peer": "n2", "counters": {"tx_frames": 5}}
    switch = {"name": "n1", "sampled": sampled, "counters": counters}
    return Net(nodes=[switch], ports=[port, absent], tunnels=[tunnel])


def test_rates_are_by_the_nodes_own_clock() -> None:
    found = net.rates(picture(100.0, 50), picture(102.0, 250, drop_full=7, drop_auth=0))
    assert [(e["kind"], e["name"], e["node"]) for e in found] == [
        ("tap", "tap0", "n1"),
        ("tunnel", "to n2", "n1"),
        ("switch", "all", "n1"),
    ]
    assert found[0]["rates"]["rx_frames"] == 100
    assert found[0]["dropped"] == {"full": 7}
    assert net.row(found[0])[4:10] == ("100", "80k", "0", "0", "4", "full=7")
    assert found[1]["rates"] == {"tx_frames": 0}


@pytest.mark.parametrize(
    ("tunnel", "by", "name"),
    [
        ({}, None, "to n2"),
        ({"via": "n2", "path": "udp"}, "udp", "to n2"),
        ({"via": "n2", "path": "tcp"}, "tcp", "to n2 by tcp"),
        ({"via": "n3", "path": ""}, "n3", "to n2 by n3"),
        ({"via": None, "path": ""}, "nothing", "to n2 by nothing"),
        ({"via": "n2", "path": ""}, "nothing", "to n2 by nothing"),
    ],
)
def test_a_tunnel_says_by_what_it_goes(tunnel: dict[str, Any], by: str | None, name: str) -> None:
    told = {"node": "n1", "peer": "n2", "counters": {"tx_frames": 5}, **tunnel}
    (found,) = net.rates(Net(), Net(tunnels=[told]))
    assert (found["by"], found["name"]) == (by, name)


def test_a_port_that_began_anew_has_no_rate() -> None:
    again = net.rates(picture(100.0, 50), picture(102.0, 3))
    assert again[0]["rates"] is None
    assert net.row(again[0])[4] == "-"
    assert net.rates(Net(), picture(1.0, 1))[0]["rates"] is None


async def test_a_trace_says_where_frames_go() -> None:
    claims, frame = Claims(), b"\xff" * 6 + b"\x02\0\0\0\0\x01" + b"\x88\xb5" + bytes(50)
    with Switch(1) as switch, socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as near:
        near.bind(("127.0.0.1", 0))
        networks = Networks(switch, claims)
        attached = Attachments(None, switch, claims, networks)
        guests = GuestPorts(switch, claims, networks)
        watch = NetWatch(switch, guests, attached, Watcher(switch, networks.rules, guests, attached), list)
        number = networks.enter(VNI, 1400)
        switch.add_dgram_port(number, VNI, near.fileno(), b"")
        told: list[m.PortTraced] = []

        async def ask() -> None:
            told.append(await watch._trace(cast(Any, None), m.PortTrace(port=number, seconds=2)))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(ask)
            await trio.testing.wait_all_tasks_blocked()
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as far:
                far.sendto(frame, near.getsockname())
        ((made,),) = [t.notes for t in told]
        assert (made.way, made.reason, made.length, made.head[:12]) == ("flood", "", len(frame), frame[:12])
        with pytest.raises(Refused):
            await watch._trace(cast(Any, None), m.PortTrace(port=99, seconds=0.2))
    item = {"head": made.head.hex(), "length": made.length, "way": "node", "to": 5, "reason": "drop_no_peer"}
    assert net.note(item) == ("02:00:00:00:00:01", "ff:ff:ff:ff:ff:ff", "88b5", "64", "node 5", "no_peer")
    named = net.note({**item, "way": "port"}, {("port", 5): "tap0"})
    assert named[4:] == ("tap0", "no_peer")


@pytest.mark.parametrize(
    ("after", "kind"),
    [
        ("0800", "IPv4"),
        ("8100006386dd", "vlan 99 IPv6"),
        ("88a80005810000070806", "vlan 5 vlan 7 ARP"),
        ("0026", "LLC"),
    ],
)
def test_a_trace_names_vlans_and_types(after: str, kind: str) -> None:
    item = {"head": "00" * 12 + after + "4242", "length": 64, "way": "flood", "to": 0, "reason": "drop_vlan"}
    assert net.note(item)[2:] == (kind, "64", "nowhere", "vlan")
    assert net.note({**item, "head": "00" * 13})[2] == "-"


async def test_prometheus_has_ports_tunnels_and_switches(tmp_path: Path) -> None:
    async with running(tmp_path) as control:
        agent = await control.node("n1")
        async with agent.connected():
            await control.post("/v1/ports", {"network": "lan", "kind": "tap", "local": "tap0"}, status=201)
            text = (await control.http.get("/metrics")).text
    assert (
        'wherry_port_frames_total{node="n1",network="lan",kind="tap",name="tap0",port="1",direction="rx"} 1\n' in text
    )
    assert 'wherry_port_up{node="n1",network="lan",kind="tap",name="tap0",port="1"} 1\n' in text
    assert 'wherry_tunnel_dropped_total{node="n1",peer="2",reason="auth"} 7\n' in text
    assert 'wherry_switch_frames_total{node="n1",direction="rx"} 9\n' in text


# ---- what is typed


PORTS = [
    {"id": "p-1", "name": "tap0", "kind": "tap", "network": "lan", "node": "n1", "state": "up"},
    {"id": "p-2", "name": "tap0", "kind": "tap", "network": "lan", "node": "n2", "state": "failed", "reason": "busy"},
    {
        "id": None,
        "name": "web",
        "kind": "guest",
        "network": "lan",
        "node": "n1",
        "state": "up",
        "mac": "02:00:00:00:00:01",
    },
]


def parsed() -> list[Port]:
    return [parse(Port, port) for port in PORTS]


def test_a_name_on_two_nodes_needs_the_node() -> None:
    assert attach._which(parsed(), "tap0", "n2").id == "p-2"
    assert attach._which(parsed(), "p-1", None).id == "p-1"
    with pytest.raises(ApiError, match="give --on with one of n1, n2"):
        attach._which(parsed(), "tap0", None)
    with pytest.raises(ApiError, match="no attached port web; attached: tap0 on n1, tap0 on n2"):
        attach._which(parsed(), "web", None)


@pytest.mark.parametrize(
    "arguments",
    [
        ["--network", "lan"],
        ["tap0", "--unix", "/x", "--network", "lan"],
        ["tap0", "--peer", "/y", "--network", "lan"],
        ["tap0"],
    ],
)
def test_attach_used_wrongly(arguments: list[str]) -> None:
    assert CliRunner().invoke(attach.attach, arguments).exit_code == 2
