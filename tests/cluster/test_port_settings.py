"""VLANs, the guard and limits with real daemons: two nodes, sockets of this test as stations, and a guest that moves.

A trunk at each node sees what is sent in its VLANs: where it has a frame, everybody who may have it does, too, or soon.
"""

from __future__ import annotations

import json
import socket
import struct
import tempfile
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest
import trio

from tests.faults.cluster import Cluster, running

pytestmark = pytest.mark.slow

BPDU = bytes.fromhex("0180c20000000200000000630026424203") + bytes(43)
STATIONS = {"a": 1, "b": 2, "c": 3, "t": 4}


class Stations:
    """Sockets at the other ends of attachments; station ``a`` has the MAC 02:00:00:00:00:01."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.sockets: dict[str, socket.socket] = {}

    async def attach(self, cluster: Cluster, name: str, on: str, **settings: Any) -> str:
        """The port's id."""
        sock = self.sockets[name] = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
        sock.bind(str(self.folder / f"{name}.out"))
        ends = {"local": str(self.folder / name), "remote": str(self.folder / f"{name}.out")}
        body = {"network": "lan", "kind": "unix", "on": on, **ends, **settings}
        answer = await cluster.api.post("/v1/ports", json=body)
        assert answer.status_code == 201, answer.text
        return str(answer.json()["id"])

    def send(self, name: str, frame: bytes) -> None:
        self.sockets[name].sendto(frame, str(self.folder / name))

    def broadcast(self, name: str, body: bytes, vid: int = 0, who: int = 0) -> None:
        """``who``: another station than ``name``."""
        tag = struct.pack("!HH", 0x8100, vid) if vid else b""
        source = bytes([2, 0, 0, 0, 0, who or STATIONS[name]])
        self.send(name, b"\xff" * 6 + source + tag + b"\x88\xb5" + body.ljust(50, b"\0"))

    def got(self, name: str) -> list[bytes]:
        out = []
        while True:
            try:
                out.append(self.sockets[name].recv(2048))
            except BlockingIOError:
                return out

    def close(self) -> None:
        for sock in self.sockets.values():
            sock.close()


@pytest.fixture
def stations() -> Iterator[Stations]:
    with tempfile.TemporaryDirectory(dir="/tmp") as folder:  # a unix socket's path is short
        made = Stations(Path(folder))
        yield made
        made.close()


@pytest.fixture
async def cluster(tmp_path: Path) -> AsyncIterator[Cluster]:
    async with running(tmp_path / "c", ["n1", "n2"], direct=True) as made:
        yield made


async def reaches(stations: Stations, sender: str, vid: int, *receivers: str, who: int = 0) -> None:
    """Broadcasts of ``sender``, repeated until all ``receivers`` have one of them."""
    waiting = set(receivers)
    with trio.fail_after(30):
        while waiting:
            stations.broadcast(sender, bytes([vid]), vid if sender == "t" else 0, who)
            await trio.sleep(0.05)
            waiting -= {name for name in waiting if stations.got(name)}


def clear(stations: Stations) -> None:
    for name in stations.sockets:
        stations.got(name)


async def change(cluster: Cluster, key: str, **wish: Any) -> dict[str, Any]:
    answer = await cluster.api.patch(f"/v1/ports/{key}", json=wish)
    assert answer.status_code == 200, answer.text
    found: dict[str, Any] = answer.json()
    return found


async def ports(cluster: Cluster) -> dict[str, dict[str, Any]]:
    listed = (await cluster.api.get("/v1/ports")).raise_for_status().json()["ports"]
    return {port["key"]: port for port in listed}


async def events(cluster: Cluster) -> list[dict[str, Any]]:
    text = (await cluster.api.get("/v1/events")).raise_for_status().text
    return [json.loads(line[6:]) for line in text.splitlines() if line.startswith("data: ")]


async def test_vlans_separate_stations_of_two_nodes(cluster: Cluster, stations: Stations) -> None:
    await stations.attach(cluster, "a", "n1", vlan=10)
    b = await stations.attach(cluster, "b", "n2", vlan=10)
    c = await stations.attach(cluster, "c", "n2", vlan="20")
    await stations.attach(cluster, "t", "n2", vlan="10:20")
    await reaches(stations, "a", 10, "b", "t")
    assert stations.got("c") == []
    clear(stations)
    await reaches(stations, "t", 20, "c")
    assert not any(stations.got(name) for name in "ab")

    assert (await change(cluster, c, vlan="10"))["applied"]
    assert (await change(cluster, b, vlan="20"))["applied"]
    clear(stations)
    await reaches(stations, "a", 10, "c", "t")
    assert stations.got("b") == []

    await cluster.nodes["n2"].kill()
    await change(cluster, b, vlan="10")  # kept, and told before the port is needed
    await change(cluster, c, vlan="20")
    await cluster.coordinator.kill()
    await cluster.coordinator.start()
    await cluster.nodes["n2"].start()
    clear(stations)

    async def both_know() -> bool:
        return all(p["state"] == "up" for p in (await ports(cluster)).values()) and await cluster.all_alive()

    await cluster.until("the ports are back", both_know)
    await reaches(stations, "a", 10, "b", "t")
    assert stations.got("c") == []


async def test_a_station_may_go_to_another_node_and_come_back(cluster: Cluster, stations: Stations) -> None:
    for name, node in (("a", "n1"), ("b", "n2")):
        await stations.attach(cluster, name, node)
    for sender, receiver in ("ab", "ba", "ab"):
        clear(stations)
        await reaches(stations, sender, 0, receiver, who=9)


async def test_a_guests_vlan_moves_with_it(cluster: Cluster, stations: Stations) -> None:
    """A guest that arrives is announced by a broadcast from its port (RARP), in its VLAN."""
    await stations.attach(cluster, "t", "n1", vlan="10:20")
    wish = {
        "name": "g",
        "image": "ticker",
        "memory": 32 << 20,
        "on": "n1",
        "networks": [{"network": "lan", "vlan": 10}],
    }
    done = await cluster.finish(await cluster.api.post("/v1/guests", json=wish))
    assert done["state"] == "succeeded", done
    mac = (await cluster.guest("g"))["nics"][0]["mac"]

    async def announced(vid: int, to: str) -> None:
        clear(stations)
        moved = await cluster.wait_operation(await cluster.migrate("g", to))
        assert moved["state"] == "succeeded", moved
        wanted = bytes.fromhex(mac.replace(":", "")) + struct.pack("!HHH", 0x8100, vid, 0x8035)

        async def heard() -> bool:
            return any(frame[6:18] == wanted for frame in stations.got("t"))

        await cluster.until(f"the guest is announced in VLAN {vid}", heard)

    await announced(10, "n2")
    assert (await change(cluster, mac, vlan="20"))["applied"]
    await announced(20, "n1")
    assert (await cluster.guest("g"))["nics"][0]["settings"] == {"vlan": "20"}


async def test_a_shut_port_is_in_the_events_and_opens_again(cluster: Cluster, stations: Stations) -> None:
    a = await stations.attach(cluster, "a", "n1", guard=True)
    await stations.attach(cluster, "b", "n2")
    await reaches(stations, "a", 0, "b")
    stations.send("a", BPDU)

    async def shut() -> bool:
        return bool((await ports(cluster))[a]["state"] == "shut")

    async def told() -> bool:
        return any(e["kind"] == "net.guard" for e in await events(cluster))

    await cluster.until("the port is shut", shut)
    await cluster.until("the event is there", told)
    (event,) = [e for e in await events(cluster) if e["kind"] == "net.guard"]
    assert (event["node"], event["data"]["port"], event["data"]["mac"]) == ("n1", a, "02:00:00:00:00:63")
    assert "--open" in (await ports(cluster))[a]["reason"]
    clear(stations)
    for number in range(5):
        stations.broadcast("a", bytes([number]))
    await change(cluster, a, open=True)
    assert stations.got("b") == []
    assert (await ports(cluster))[a]["state"] == "up"
    await reaches(stations, "a", 0, "b")
