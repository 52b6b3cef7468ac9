"""What ports let through, from the wish to the switch; and what switches notice, on its way back. Pure parts, a real
coordinator with pretended nodes, and a real switch without one."""

from __future__ import annotations

import os
import socket
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import trio
import trio.testing
from hypothesis import given
from hypothesis import strategies as st

from coordinator.errors import Invalid
from coordinator.netevents import BURST, Bucket
from coordinator.paths import Narrow, Paths
from coordinator.portsettings import merge, told
from node.eventgate import MOST, QUIET_S, EventGate
from node.mesh import Mesh
from protocol import messages as m
from protocol import vlans
from protocol.codec import decode
from protocol.errors import Refused
from tests.unit.control import Control, running
from tests.unit.test_mesh import until

VNI = 7

# ---- texts


@given(st.sets(st.integers(1, 4094), min_size=1, max_size=12), st.integers(0, 4094))
def test_a_trunk_comes_back_from_its_text(wanted: set[int], native: int) -> None:
    text = ":".join(map(str, wanted)) + ":"
    short = vlans.canonical(text, native)
    assert vlans.parse(short, native) == vlans.Vlans(trunk=tuple(sorted(wanted)), native=native)
    assert len(short) <= len(text)


@given(st.text(max_size=300), st.integers(0, 5000))
def test_any_text_is_vlans_or_an_error(text: str, native: int) -> None:
    try:
        found = vlans.parse(text, native)
    except ValueError:
        return
    assert all(1 <= vid <= vlans.LAST for vid in found.trunk)
    assert vlans.parse(vlans.canonical(text, native), native) == found


@pytest.mark.parametrize(
    ("wish", "field", "allowed"),
    [
        ({"vlan": "4095"}, "vlan", "1 to 4094"),
        ({"vlan": "10:x"}, "vlan", "x is no VLAN"),
        ({"vlan": "20-10"}, "vlan", "backwards"),
        ({"vlan": "10", "native": 5}, "native", "goes with a trunk"),
        ({"native": 5}, "native", "goes with a trunk"),
    ],
)
def test_a_bad_wish_names_field_value_and_what_is_allowed(wish: dict[str, Any], field: str, allowed: str) -> None:
    with pytest.raises(Invalid) as caught:
        merge(m.PortSettings(), wish, where="networks.0.")
    assert caught.value.field == f"networks.0.{field}"
    assert allowed in caught.value.message
    assert str(next(iter(wish.values()))) in caught.value.message


def test_a_wish_changes_what_it_names() -> None:
    trunk = merge(m.PortSettings(), {"vlan": "30:10:20", "native": 1, "guard": True})
    assert told(trunk) == "trunk 10:20:30, native 1, guard on"
    assert merge(trunk, {"storm": 0}).vlan == "10:20:30"
    assert (
        told(merge(m.PortSettings(), {"storm": 9, "broadcast": 0, "unknown": 3})) == "storm 9, broadcast 0, unknown 3"
    )
    assert merge(m.PortSettings(multicast=5), {"multicast": None}) == m.PortSettings()
    assert merge(trunk, {"vlan": "10"}) == m.PortSettings(vlan="10", guard=True)  # the native VLAN was the trunk's
    assert merge(trunk, {"vlan": None, "guard": None}) == m.PortSettings()


# ---- how much is told


def event(kind: Any = "guard", port: str = "p-1", count: int = 1) -> m.NetEvent:
    return m.NetEvent(kind=kind, time=0.0, vni=VNI, port=port, count=count)


def test_what_repeats_is_told_at_once_and_then_as_one() -> None:
    gate = EventGate()
    gate.offer(event(), 100.0)
    assert gate.take(100.0) == ([event()], 0)
    for second in range(5):
        gate.offer(event(), 101.0 + second)
    gate.offer(event(port="p-2"), 105.0)
    assert gate.take(105.0) == ([event(port="p-2")], 0)
    assert gate.wakeup() == 100.0 + QUIET_S
    assert gate.take(100.0 + QUIET_S) == ([event(count=5)], 0)
    assert gate.wakeup() is None


def test_a_flood_of_things_is_bounded_and_counted() -> None:
    gate = EventGate()
    for number in range(MOST + 10):
        gate.offer(event(port=f"p-{number}"), 0.0)
    events, lost = gate.take(0.0)
    assert (len(events), lost) == (MOST, 10)
    gate.offer(event(port="p-new"), QUIET_S)  # what is over makes room
    assert gate.take(QUIET_S) == ([event(port="p-new")], 0)


def test_a_node_has_its_share_of_events() -> None:
    bucket = Bucket()
    assert sum(bucket.take(0.0) for _ in range(BURST + 50)) == BURST
    assert bucket.missed == 50
    assert bucket.take(2.0)


def test_the_narrowest_path_is_of_the_networks_nodes() -> None:
    paths = Paths()
    assert paths.found(1, 2, 1360)
    assert not paths.found(1, 2, 1360)
    paths.found(2, 3, 1200)
    assert paths.narrowest({1, 2}, 1400) == Narrow(1360, 1, 2)
    assert paths.narrowest({1, 2}, 1360) is None
    assert paths.narrowest({1, 3}, 1400) is None
    assert paths.narrowest({1, 2, 3}, 1400) == Narrow(1200, 2, 3)
    paths.gone(3)
    assert paths.narrowest({1, 2, 3}, 1400) == Narrow(1360, 1, 2)


# ---- the coordinator


async def patch(control: Control, path: str, body: Any, *, status: int = 200) -> Any:
    answer = await control.http.patch(path, json=body)
    assert answer.status_code == status, answer.text
    return answer.json()


async def test_a_guests_settings_are_there_before_it_and_everywhere(tmp_path: Path) -> None:
    async with running(tmp_path) as control:
        await control.image()
        one, two = await control.node("n1"), await control.node("n2")
        async with one.connected(), two.connected():
            wish = {"network": "lan", "vlan": 10, "guard": True}
            await control.done(await control.run("web", networks=[wish, "lan"], on="n1"))
            kinds = [type(asked) for asked in one.asked if not isinstance(asked, m.Directory)]
            first = kinds.index(m.GuestRun)
            assert m.PortRules in kinds[:first]
            told_first = [a for a in one.asked if isinstance(a, m.PortRules)][-1]
            nics = (await control.guest("web"))["nics"]
            assert nics[0]["settings"] == {"vlan": "10", "guard": True}
            assert nics[1]["settings"] == {}
            settings = m.PortSettings(vlan="10", guard=True)
            assert told_first.ports == [m.PortRule(port=nics[0]["mac"], settings=settings)]

            key = nics[1]["mac"]
            changed = await patch(control, f"/v1/ports/{key}", {"vlan": "20:30", "native": 1})
            assert (changed["applied"], changed["settings"]) == (True, {"vlan": "20:30", "native": 1})
            for agent in (one, two):  # wherever it moves to
                last = agent.asked_for(m.PortRules)[-1]
                assert {rule.port: rule.settings.vlan for rule in last.ports} == {nics[0]["mac"]: "10", key: "20:30"}
            same = await patch(control, f"/v1/ports/{key}", {"vlan": "30:20"})
            assert same["settings"] == changed["settings"]
            await control.done(await control.delete("/v1/guests/web?force=1", status=202))
            await patch(control, "/v1/networks/lan", {"stations": 5})
            assert one.asked_for(m.PortRules)[-1].ports == []
        events = [e for e in await control.events() if e["kind"] == "port.set"]
        assert [e["message"] for e in events] == ["web in network lan: trunk 20:30, native 1"]


async def test_a_node_that_was_away_is_told_before_it_gets_anything(tmp_path: Path) -> None:
    async with running(tmp_path) as control:
        agent = await control.node("n1")
        async with agent.connected():
            body = {"network": "lan", "kind": "tap", "local": "tap0", "vlan": "10"}
            made = await control.post("/v1/ports", body, status=201)
            assert made["settings"] == {"vlan": "10"}
        later = await patch(control, f"/v1/ports/{made['id']}", {"vlan": "", "storm": 50})
        assert later["applied"] is False
        agent.asked.clear()
        async with agent.connected():
            await agent.until(lambda: bool(agent.asked_for(m.PortsSet)))
            kinds = [type(a) for a in agent.asked if isinstance(a, m.PortRules | m.PortsSet)]
            assert kinds == [m.PortRules, m.PortsSet]
            (rules,) = agent.asked_for(m.PortRules)
            assert rules.ports == [m.PortRule(port=made["id"], settings=m.PortSettings(storm=50))]


async def test_a_node_that_knows_no_settings_gets_no_guest_that_needs_them(tmp_path: Path) -> None:
    async with running(tmp_path) as control:
        await control.image()
        agent = await control.node("n1")

        async def unknown(request: m.PortRules) -> None:
            raise Refused("unsupported", "what?")

        agent.hooks[m.PortRules] = unknown
        async with agent.connected():
            await control.done(await control.run("plain"))
            ended = await control.ended(await control.run("web", networks=[{"network": "lan", "vlan": 10}]))
            assert ended["state"] == "failed"
            assert "upgrade" in ended["error"]["message"]
            assert [s.name for s in agent.specs.values()] == ["plain"]


@pytest.mark.parametrize(
    ("path", "body", "field"),
    [
        ("/v1/networks/lan", {"stations": 1 << 30}, "stations"),
        ("/v1/networks/lan", {"storm": -1}, "storm"),
        ("/v1/networks/lan", {"color": "red"}, "color"),
        ("/v1/ports/PORT", {"vlan": "5000"}, "vlan"),
        ("/v1/ports/PORT", {"native": 9}, "native"),
    ],
)
async def test_bad_changes(path: str, body: dict[str, Any], field: str, tmp_path: Path) -> None:
    async with running(tmp_path) as control:
        agent = await control.node("n1")
        async with agent.connected():
            made = await control.post("/v1/ports", {"network": "lan", "kind": "tap", "local": "tap0"}, status=201)
            refused = await patch(control, path.replace("PORT", made["id"]), body, status=422)
            assert refused["error"]["field"] == field
            assert (await patch(control, "/v1/ports/p-none", {}, status=404))["error"]["code"] == "not_found"
            larger = await patch(control, "/v1/networks/lan", {"mtu": 9000}, status=409)
            assert "tap0" in larger["error"]["message"]
            assert (await patch(control, "/v1/networks/lan", {"mtu": 1300}))["mtu"] == 1300
            assert (await patch(control, "/v1/networks/lan", {"proxy": False}))["proxy"] is False
            (network,) = agent.asked_for(m.PortRules)[-1].networks
            assert (network.mtu, network.proxy, network.bound) == (1300, False, False)
            assert (await patch(control, "/v1/networks/lan", {"bound": True}))["bound"] is True
            assert agent.asked_for(m.PortRules)[-1].networks[0].bound


async def test_what_a_switch_notices_becomes_an_event(tmp_path: Path) -> None:
    async with running(tmp_path) as control:
        one, two = await control.node("n1"), await control.node("n2")
        async with one.connected(), two.connected():
            (lan,) = (await control.get("/v1/networks"))["networks"]
            ports = [
                await control.post(
                    "/v1/ports", {"network": "lan", "kind": "tap", "local": "tap0", "on": name}, status=201
                )
                for name in ("n1", "n2")
            ]
            assert one.link is not None
            where = {"time": 0.0, "vni": lan["vni"], "port": ports[0]["id"]}
            notice = m.NetEvents(
                events=[
                    m.NetEvent(kind="guard", mac="02:00:00:00:00:01", **where),
                    m.NetEvent(kind="duplicate", mac="02:00:00:00:00:02", other_node=two.node, count=3, **where),
                    m.NetEvent(kind="storm", value=156, **where),
                    m.NetEvent(kind="path_mtu", time=0.0, node=two.node, value=1300),
                    m.NetEvent(kind="storm", time=0.0, vni=0xFFFFFF),  # of no network that there is
                ],
                lost=4,
            )
            await one.link.notify(notice)
            await one.link.notify(notice)  # the path is no news any more
            found: list[dict[str, Any]] = []
            with trio.fail_after(10):
                while len(found) < 9:
                    found = [e for e in await control.events() if e["kind"].startswith("net.")]
            kinds = ["net.guard", "net.duplicate", "net.storm", "net.mtu", "net.left-out"]
            assert [e["kind"] for e in found] == [*kinds, *(k for k in kinds if k != "net.mtu")]
            assert {e["node"] for e in found} == {"n1"}
            assert "wherry port set tap0 --on n1 --open" in found[0]["message"]
            assert "tap0 on node n1 and at node n2" in found[1]["message"]
            assert found[1]["message"].endswith("(3 times)")
            taps = ["tap0 on n1", "tap0 on n2"]
            assert found[3]["data"] == {"network": "lan", "peer": "n2", "mtu": 1300, "guests": [], "taps": taps}
            (lan,) = (await control.get("/v1/networks"))["networks"]
            assert (lan["mtu"], lan["carries"], lan["narrow"]) == (1400, 1300, ["n1", "n2"])

            await control.image()
            await control.done(await control.run("web", on="n1"))
            assert (await control.guest("web"))["nics"][0]["mtu"] == 1300


async def test_a_shut_port_and_a_held_station_are_shown_and_freed(tmp_path: Path) -> None:
    async with running(tmp_path) as control:
        agent = await control.node("n1")
        async with agent.connected():
            made = await control.post("/v1/ports", {"network": "lan", "kind": "tap", "local": "tap0"}, status=201)
            held = m.HeldStation(mac="02:00:00:00:00:02", other_node=agent.node)

            async def look(request: m.NetLook) -> m.NetLooked:
                port = m.PortStatus(
                    port=1, vni=100, kind="tap", owner=made["id"], name="tap0", shut_by="02:00:00:00:00:01", held=[held]
                )
                states = [m.AttachmentState(id=made["id"], state="up")]
                return m.NetLooked(sampled=1.0, ports=[port], tunnels=[], attachments=states, counters={})

            async def release(request: m.PortRelease) -> m.PortReleased:
                return m.PortReleased(macs=request.macs)

            agent.hooks |= {m.NetLook: look, m.PortRelease: release}
            (port,) = (await control.get("/v1/ports"))["ports"]
            assert (port["state"], port["held"]) == ("shut", [{"mac": held.mac, "here": True, "other": "node n1"}])
            assert "wherry port set tap0 --open" in port["reason"]
            await patch(control, f"/v1/ports/{made['id']}", {"open": True})
            assert [order.port for order in agent.asked_for(m.PortOpen)] == [made["id"]]
            freed = await control.post("/v1/ports/release", {"port": made["id"]}, status=200)
            assert freed == {"released": [held.mac]}
            freed = await control.post("/v1/ports/release", {"mac": held.mac}, status=200)
            assert [order.vni for order in agent.asked_for(m.PortRelease)] == [100, 0]
            assert freed == {"released": [held.mac]}
            both = await control.post("/v1/ports/release", {"mac": held.mac, "port": made["id"]}, status=422)
            assert both["error"]["field"] == "mac"


# ---- the node, with a real switch


def tagged(vid: int, body: bytes = b"") -> bytes:
    tag = struct.pack("!HH", 0x8100, vid) if vid else b""
    return b"\xff" * 6 + b"\x02\0\0\0\0\x09" + tag + b"\x88\xb5" + body.ljust(50, b"\0")


BPDU = bytes.fromhex("0180c20000000200000000090026424203") + bytes(43)


@contextmanager
def mesh(folder: Path) -> Iterator[Mesh]:
    made = Mesh(1, None, folder)
    try:
        yield made
    finally:
        made.close()


class Plugs:
    """What is at the other ends of a node's unix attachments; files of a folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._open: dict[str, socket.socket] = {}

    def wish(self, name: str) -> m.Attachment:
        path = str(self.folder / f"{name}.out")
        if name not in self._open:
            sock = self._open[name] = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
            sock.bind(path)
        local = str(self.folder / f"{name}.in")
        return m.Attachment(id=f"p-{name}", network="lan", vni=VNI, kind="unix", local=local, remote=path)

    def send(self, name: str, frame: bytes) -> None:
        self._open[name].sendto(frame, str(self.folder / f"{name}.in"))

    def got(self, name: str) -> list[bytes]:
        out = []
        while True:
            try:
                out.append(self._open[name].recv(2048))
            except BlockingIOError:
                return out

    def close(self) -> None:
        for sock in self._open.values():
            sock.close()


@pytest.fixture
def plugs(tmp_path: Path) -> Iterator[Plugs]:
    made = Plugs(tmp_path)
    yield made
    made.close()


def rules(**ports: str) -> m.PortRules:
    network = m.NetworkRule(vni=VNI, mtu=1400)
    settings = [m.PortRule(port=f"p-{name}", settings=m.PortSettings(vlan=vlan)) for name, vlan in ports.items()]
    return m.PortRules(networks=[network], ports=settings)


async def arrives(plugs: Plugs, sender: str, frame: bytes, **want: bytes | None) -> None:
    """``frame`` comes out as ``want`` says, once it came out at "spy", which sees all."""
    plugs.send(sender, frame)
    seen: list[bytes] = []
    await until(lambda: seen.extend(plugs.got("spy")) or seen)
    for name, expected in want.items():
        assert plugs.got(name) == ([expected] if expected is not None else []), name


async def test_settings_reach_the_switch_and_the_next_agent(tmp_path: Path, plugs: Plugs) -> None:
    names = ["a", "b", "c", "spy"]  # the spy is added last: when it has a frame, the others do
    with mesh(tmp_path) as first:
        first._rules.set(rules(a="10", b="10:20"))
        first.attachments.apply([plugs.wish(name) for name in names])
        await arrives(plugs, "a", tagged(0, b"1"), b=tagged(10, b"1"), c=tagged(10, b"1"))
        await arrives(plugs, "c", tagged(20, b"2"), a=None, b=tagged(20, b"2"))
        await arrives(plugs, "c", tagged(10, b"3"), a=tagged(0, b"3"), b=tagged(10, b"3"))
        first._rules.set(rules(a="20", b="10:20"))
        await arrives(plugs, "c", tagged(20, b"4"), a=tagged(0, b"4"), b=tagged(20, b"4"))
        with pytest.raises(Refused, match="5000"):
            first._rules.set(rules(a="5000"))
    with mesh(tmp_path) as second:  # no coordinator has said anything yet
        second.attachments.restore()
        await arrives(plugs, "c", tagged(10, b"5"), a=None, b=tagged(10, b"5"))
        second._rules.set(rules())
        await arrives(plugs, "c", tagged(10, b"6"), a=tagged(10, b"6"), b=tagged(10, b"6"))


@pytest.mark.parametrize("content", [b"", b"\xc1", b"\x80", b"\x81\xa6format\x02"])
def test_a_damaged_list_is_left_alone(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "rules.msgpack").write_bytes(content)
    with mesh(tmp_path) as made:
        assert (tmp_path / "rules.msgpack").read_bytes() == content
        made._rules.set(rules(a="10"))
        assert (tmp_path / "rules.msgpack").read_bytes() != content


class Link:
    """A session's sending side."""

    def __init__(self) -> None:
        self.sent: list[m.NetEvents] = []

    async def notify(self, notice: m.NetEvents) -> None:
        self.sent.append(decode(m.NetEvents, m.to_builtins(notice)))


async def test_a_guarded_port_is_shut_told_and_opened(tmp_path: Path, plugs: Plugs) -> None:
    guarded = m.PortRules(
        networks=[], ports=[m.PortRule(port="p-a", settings=m.PortSettings(guard=True, stations=3, storm=0, unknown=7))]
    )
    link: Any = Link()
    with mesh(tmp_path) as made:
        made._rules.set(guarded)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(made.run)
            await trio.testing.wait_all_tasks_blocked()
            made.attachments.apply([plugs.wish("a"), plugs.wish("spy")])
            nursery.start_soon(made.watcher.tell, link)
            await arrives(plugs, "a", tagged(0))
            plugs.send("a", BPDU)
            await until(lambda: made._look.look().ports[0].shut_by)
            assert made._look.look().ports[0].shut_by == "02:00:00:00:00:09"
            await until(lambda: len(link.sent) > 1)
            (told_event,) = link.sent[1].events
            assert (told_event.kind, told_event.port, told_event.vni) == ("guard", "p-a", VNI)
            plugs.send("a", tagged(0))
            await until(lambda: made._look.look().ports[0].counters["drop_guard"] >= 2)
            made._rules.set(rules(spy="10:20"))  # a change elsewhere opens nothing
            assert made._look.look().ports[0].shut_by
            await made.watcher._open(link, m.PortOpen(port="p-a"))
            assert not made._look.look().ports[0].shut_by
            made._rules.set(m.PortRules(networks=[], ports=[]))
            await arrives(plugs, "a", tagged(0))
            with pytest.raises(Refused):
                await made.watcher._open(link, m.PortOpen(port="p-none"))
            nursery.cancel_scope.cancel()


async def heard(made: Mesh, plugs: Plugs, name: str, before: int) -> None:
    """Send a frame and wait until the switch has it, the first after ``before`` others."""
    plugs.send(name, tagged(0))

    def seen() -> int:
        return sum(p.counters["rx_frames"] + p.counters["drop_moving"] for p in made._look.look().ports)

    await until(lambda: seen() > before)


async def test_a_station_in_two_places_is_told_and_let_go(tmp_path: Path, plugs: Plugs) -> None:
    link: Any = Link()
    with mesh(tmp_path) as made:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(made.run)
            await trio.testing.wait_all_tasks_blocked()
            made.attachments.apply([plugs.wish(name) for name in ("a", "b", "spy")])
            nursery.start_soon(made.watcher.tell, link)
            for number in range(8):
                await heard(made, plugs, "ab"[number % 2], number)
            await until(lambda: len(link.sent) > 1)
            (event,) = link.sent[1].events
            assert (event.kind, event.mac) == ("duplicate", "02:00:00:00:00:09")
            assert {event.port, event.other_port} == {"p-a", "p-b"}
            places = {p.owner: p.held[0] for p in made._look.look().ports if p.held}
            assert (places[event.port].here, places[event.port].other_port) == (True, event.other_port)
            assert (places[event.other_port].here, places[event.other_port].other_port) == (False, event.port)
            freed = await made.watcher._release(link, m.PortRelease(vni=0, macs=[event.mac]))
            assert freed.macs == [event.mac]
            assert not any(p.held for p in made._look.look().ports)
            again = await made.watcher._release(link, m.PortRelease(vni=VNI, macs=[event.mac]))
            assert again.macs == []
            nursery.cancel_scope.cancel()


def test_a_full_disk_changes_nothing(tmp_path: Path) -> None:
    with mesh(tmp_path) as made:
        made._rules.set(rules(a="10"))
        os.mkdir(tmp_path / "rules.msgpack.new")
        with pytest.raises(Refused):
            made._rules.set(rules(a="20"))
        made._rules.set(rules(a="10"))  # nothing new
        assert made._rules._settings["p-a"].vlan == "10"
