"""``wherry port``, ``network set`` and the settings in ``--network``: what is typed, what is asked, what is shown."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import httpx
import pytest

from tests.unit import test_cli
from wherry import portwish
from wherry.errors import UsageProblem

Run = Callable[..., tuple[int, str, str]]
run = test_cli.run  # the fixture
MACS = ["02:00:00:00:00:01", "02:00:00:00:00:02"]
GUESTS = [
    {"name": "web", "node": "n1", "nics": [{"network": "lan", "mac": MACS[0]}, {"network": "dmz", "mac": MACS[1]}]}
]
PORTS = [
    {"name": "tap0", "id": "p-1", "key": "p-1", "kind": "tap", "network": "lan", "node": "n1", "state": "up"},
    {"name": "tap0", "id": "p-2", "key": "p-2", "kind": "tap", "network": "lan", "node": "n2", "state": "up"},
    {
        "name": "web",
        "id": None,
        "key": MACS[0],
        "kind": "guest",
        "network": "lan",
        "node": "n1",
        "state": "shut",
        "reason": "a bridge's BPDU came in",
        "mac": MACS[0],
        "settings": {"vlan": "10:20", "native": 1, "guard": True, "storm": 0},
    },
]


class Api:
    """Answers lists, and remembers what is changed."""

    def __init__(self, **answer: Any) -> None:
        self.asked: list[tuple[str, str, Any]] = []
        self._answer = answer

    def __call__(self, request: httpx.Request) -> httpx.Response:
        if request.method == "GET":
            lists = {"/v1/ports": {"ports": PORTS}, "/v1/guests": {"guests": GUESTS}}
            return httpx.Response(200, json=lists[request.url.path])
        self.asked.append((request.method, request.url.path, json.loads(request.content)))
        return httpx.Response(200, json=self._answer)


def changed(**more: Any) -> Api:
    return Api(**{"name": "web", "network": "lan", "node": "n1", "settings": {"vlan": "10"}, "applied": True, **more})


@pytest.mark.parametrize(
    ("text", "wish"),
    [
        ("lan", {"network": "lan"}),
        ("lan,vlan=10", {"network": "lan", "vlan": "10"}),
        ("lan, vlan=10:20-29 ,native=1", {"network": "lan", "vlan": "10:20-29", "native": 1}),
        ("lan,guard=on,stations=all,storm=unlimited", {"network": "lan", "guard": True, "stations": 0, "storm": 0}),
        ("lan,guard=default,storm=default,vlan=none", {"network": "lan", "guard": None, "storm": None, "vlan": ""}),
    ],
)
def test_settings_in_a_network(text: str, wish: dict[str, Any]) -> None:
    assert portwish.network(text) == wish


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (
            "lan,",
            "'nothing' is not of NAME=VALUE with vlan, native, guard, stations, storm, broadcast, multicast, unknown",
        ),
        ("lan,vlan", "'vlan' is not of NAME=VALUE"),
        ("lan,colour=red", "'colour=red' is not of"),
        ("lan,vlan=1,vlan=2", "vlan is there twice"),
        ("lan,guard=maybe", "--network guard 'maybe': on, off or default"),
        ("lan,storm=-1", "--network storm '-1': a number, unlimited or default"),
        ("lan,stations=²", "a number, all or default"),
    ],
)
def test_settings_that_are_none(text: str, says: str) -> None:
    with pytest.raises(UsageProblem) as caught:
        portwish.network(text)
    assert says in str(caught.value)


def test_a_port_is_set_by_what_people_call_it(run: Run) -> None:
    api = changed()
    code, out, _ = run("port", "set", "web", "--network", "lan", "--vlan", "10", "--guard", "default", answer=api)
    assert (code, out) == (0, "web in lan: vlan 10\n")
    assert api.asked == [("PATCH", f"/v1/ports/{MACS[0]}", {"vlan": "10", "guard": None})]

    api = changed(name="tap0", settings={}, applied=False)
    code, out, err = run("port", "set", "tap0", "--on", "n2", "--open", answer=api)
    assert (code, out) == (0, "tap0 in lan: no settings of its own\n")
    assert err == "kept; node n1 takes it when it is back\n"
    assert api.asked == [("PATCH", "/v1/ports/p-2", {"open": True})]

    api = changed(node=None, applied=False)
    _, _, err = run("port", "set", MACS[1].upper(), "--storm", "9", answer=api)
    assert err == "kept; it holds from the start\n"
    assert api.asked == [("PATCH", f"/v1/ports/{MACS[1]}", {"storm": 9})]


@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        (("web", "--vlan", "10"), 1, f"web has several ports: give --network, --on or one of {MACS[0]} (network lan"),
        (("tap0", "--vlan", "10"), 1, "tap0 has several ports"),
        (("db", "--vlan", "10"), 1, "no port db; ports are of: tap0, web"),
        (("web", "--network", "wan", "--vlan", "1"), 1, "no port web in network wan"),
        (("web",), 2, "nothing to change"),
        (("web", "--storm", "some"), 2, "--storm 'some': a number, unlimited or default"),
    ],
)
def test_a_port_that_is_not_clear(run: Run, arguments: tuple[str, ...], code: int, says: str) -> None:
    api = changed()
    found, out, err = run("port", "set", *arguments, answer=api)
    assert (found, out) == (code, "")
    assert says in err
    assert not api.asked


def test_stations_are_released(run: Run) -> None:
    api = Api(released=[MACS[0]])
    assert run("port", "release", "tap0", "--on", "n1", answer=api)[1] == f"{MACS[0]}: released\n"
    assert run("port", "release", MACS[1].upper(), "--network", "lan", answer=api)[0] == 0
    assert [body for _, _, body in api.asked] == [{"port": "p-1"}, {"mac": MACS[1], "network": "lan"}]
    assert run("port", "release", MACS[1], answer=Api(released=[]))[1] == f"{MACS[1]}: nothing is held\n"


def test_ports_show_settings_and_what_is_wrong(run: Run) -> None:
    _, out, _ = run("ports", answer=Api())
    (line,) = [line for line in out.splitlines() if line.startswith("web")]
    assert "trunk 10:20, native 1, guard on, storm unlimited" in line
    assert line.endswith("shut: a bridge's BPDU came in")


def test_a_networks_limits(run: Run) -> None:
    answer = {"mtu": 1300, "stations": 5, "storm": 0, "proxy": False, "bound": True, "waiting": ["n2"]}
    api = Api(**answer)
    code, out, err = run("network", "set", "lan", "--mtu", "1300", "--storm", "0", answer=api)
    assert (code, out) == (0, "lan: mtu 1300, stations 5, storm unlimited, proxy off, bound\n")
    assert err == "kept; told when they are back: n2\n"
    assert api.asked == [("PATCH", "/v1/networks/lan", {"mtu": 1300, "storm": 0})]
    code, _, err = run("network", "set", "lan")
    assert code == 2
    assert "--stations" in err
    narrow = {"name": "lan", "vni": 1, "subnet": "10.0.0.0/24", "mtu": 9000, "carries": 1414, "narrow": ["n1", "n2"]}
    _, out, _ = run("networks", answer=lambda request: httpx.Response(200, json={"networks": [narrow]}))
    assert out.splitlines()[1].endswith("n1 to n2 carries 1414")


def test_a_guest_is_run_with_its_ports(run: Run) -> None:
    asked: list[Any] = []

    def answer(request: httpx.Request) -> httpx.Response:
        if request.method == "POST":
            asked.append(json.loads(request.content))
            return httpx.Response(200, json={"placement": {"chosen": "n1", "nodes": []}})
        return httpx.Response(200, json={"images": [{"name": "tiny"}]})

    arguments = ["--name", "web", "--image", "tiny", "--network", "lan", "--network", "dmz,vlan=7", "--explain"]
    run("run", *arguments, answer=answer)
    assert asked[0]["networks"] == ["lan", {"network": "dmz", "vlan": "7"}]
