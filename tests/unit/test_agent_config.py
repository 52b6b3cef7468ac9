"""What an agent is told from outside: sizes, addresses, ports, the state folder and its lock."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest

from node import config as module
from node.__main__ import main
from node.config import ConfigError, advertised, bind_pair, open_state, own_address, parse_listen, parse_size
from node.resources import cgroup_limit, measure, meminfo


@pytest.mark.parametrize(
    ("text", "size"),
    [("0", 0), ("512M", 512 << 20), ("8G", 8 << 30), ("1gib", 1 << 30), ("3k", 3072), ("2TB", 2 << 40)],
)
def test_sizes(text: str, size: int) -> None:
    assert parse_size(text) == size


@pytest.mark.parametrize("text", ["", "M", "-1M", "1.5G", "1X", "1 G", "٣M"])
def test_bad_sizes(text: str) -> None:
    with pytest.raises(ConfigError, match="size"):
        parse_size(text)


def test_switch_workers(monkeypatch: pytest.MonkeyPatch) -> None:
    assert [module.parse_switch_workers(str(n)) for n in (1, 8)] == [1, 8]
    for bad in ("0", "9", "-1", "two", "", "٣"):
        with pytest.raises(ConfigError, match="--switch-workers"):
            module.parse_switch_workers(bad)
    for cores, workers in ((1, 1), (4, 1), (15, 1), (16, 2), (64, 4)):
        monkeypatch.setattr("os.sched_getaffinity", lambda _pid, n=cores: set(range(n)))
        assert module.parse_switch_workers(None) == workers


def test_listen() -> None:
    assert parse_listen("127.0.0.1:0") == ("127.0.0.1", 0)
    assert parse_listen("[::1]:7460") == ("::1", 7460)
    for bad in ("", "7460", ":7460", "h:x", "h:70000"):
        with pytest.raises(ConfigError, match="--listen"):
            parse_listen(bad)


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("192.0.2.1", "192.0.2.1:9"),
        ("192.0.2.1:80", "192.0.2.1:80"),
        ("2001:db8::1", "[2001:db8::1]:9"),
        ("[2001:db8::1]", "[2001:db8::1]:9"),
        ("[2001:db8::1]:80", "[2001:db8::1]:80"),
        ("host", "host:9"),
    ],
)
def test_advertised(text: str, address: str) -> None:
    assert advertised(text, 9) == address


def test_an_asked_port_that_is_busy_is_an_error() -> None:
    tcp, udp = bind_pair("127.0.0.1", 0)
    with tcp, udp:
        assert tcp.getsockname()[1] == udp.getsockname()[1]
        with pytest.raises(ConfigError, match="is in use"):
            bind_pair("127.0.0.1", tcp.getsockname()[1])


def test_a_busy_default_port_falls_back(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as busy:
        busy.bind(("127.0.0.1", 0))
        monkeypatch.setattr(module, "DEFAULT_PORT", busy.getsockname()[1])
        tcp, udp = bind_pair("127.0.0.1", None)
        with tcp, udp:
            assert tcp.getsockname()[1] != busy.getsockname()[1]


def test_own_address() -> None:
    assert own_address("127.0.0.1:7450", "192.0.2.9") == "192.0.2.9"
    assert own_address("127.0.0.1:7450", "0.0.0.0") == "127.0.0.1"
    assert own_address("no such host:1", "0.0.0.0") == "127.0.0.1"


def test_state_folder_is_locked(tmp_path: Path) -> None:
    open_state(tmp_path / "s")
    with pytest.raises(ConfigError, match="another agent"):
        open_state(tmp_path / "s")
    assert (tmp_path / "s" / "VERSION").read_text() == "1\n"


@pytest.mark.parametrize(("version", "text"), [("2", "version 2"), ("x", "a number"), ("", "a number")])
def test_state_folder_of_another_version(tmp_path: Path, version: str, text: str) -> None:
    (tmp_path / "VERSION").write_text(version)
    with pytest.raises(ConfigError, match=text):
        open_state(tmp_path)


def test_exit_codes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--memory", "much", "--state", str(tmp_path)]) == 2
    assert main(["--join", "nonsense", "--state", str(tmp_path)]) == 2
    assert main(["--state", str(tmp_path / "s"), "--listen", "127.0.0.1:0"]) == 1
    assert "--join TOKEN@HOST:PORT is wanted" in capsys.readouterr().err
    (tmp_path / "s" / "VERSION").write_text("9\n")
    assert main(["--state", str(tmp_path / "s")]) == 1
    assert "version 9" in capsys.readouterr().err


def test_resources(tmp_path: Path) -> None:
    assert meminfo("MemTotal:  12 kB\nnonsense\nHugePages_Total:  0\nX: y kB\n") == {"MemTotal": 12288}
    assert cgroup_limit("max\n") is None
    assert cgroup_limit("1048576\n") == 1048576
    found = measure(tmp_path, 123)
    assert found.memory == 123
    assert found.cpus >= 1
    assert found.disk_free > 0
