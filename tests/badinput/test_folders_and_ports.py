"""State folders that are newer, in use or not ours, and ports that are taken: told at the start, touched by nothing."""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.badinput.here import Shell
from tests.faults.cluster import running

FREE = {
    "coordinator": ["--link", "127.0.0.1:0", "--api", "127.0.0.1:0"],
    "node": ["--name", "x", "--listen", "127.0.0.1:0", "--join", f"a.b.{'c' * 52}@127.0.0.1:1"],
}


async def dies(shell: Shell, module: str, *arguments: str, says: list[str]) -> None:
    """The daemon ends with 1, and its last line has all of ``says``."""
    code, out, err = await shell.run(*arguments, module=module)
    last = err.splitlines()[-1]
    assert (code, out) == (1, ""), err
    assert "Traceback" not in err
    assert last.startswith(f"wherry {module}: ")
    assert all(word in last for word in says), err


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in folder.rglob("*") if path.is_file() and path.suffix != ".lock"}


@contextmanager
def taken(kind: socket.SocketKind = socket.SOCK_STREAM) -> Iterator[str]:
    with socket.socket(socket.AF_INET, kind) as sock:
        sock.bind(("127.0.0.1", 0))
        if kind == socket.SOCK_STREAM:
            sock.listen()
        yield f"127.0.0.1:{sock.getsockname()[1]}"


@pytest.mark.parametrize("module", ["coordinator", "node"])
async def test_state_folder_of_a_daemon(tmp_path: Path, module: str) -> None:
    shell, state = Shell(tmp_path / "home"), tmp_path / "state"
    arguments = ["--state", str(state), *FREE[module]]
    state.mkdir()
    for version, says in (("2", ["version 2"]), ("99", ["99"]), ("new\n", ["VERSION", "new"]), ("", ["VERSION"])):
        (state / "VERSION").write_text(version)
        before = contents(state)
        await dies(shell, module, *arguments, says=[str(state), *says])
        assert contents(state) == before
    file = tmp_path / "file"
    file.write_text("")
    await dies(shell, module, "--state", str(file), *FREE[module], says=[str(file)])
    await dies(shell, module, "--state", str(file / "below"), *FREE[module], says=[str(file)])


async def test_store_of_a_newer_version(tmp_path: Path) -> None:
    async with running(tmp_path / "c", []) as cluster:
        await cluster.coordinator.stop()
        state = tmp_path / "c" / "coordinator"
        (state / "VERSION").write_text("2")
        before = contents(state)
        shell = Shell(tmp_path / "c")
        await dies(
            shell, "coordinator", "--state", str(state), *FREE["coordinator"], says=["version 2", "1", "upgrade"]
        )
        assert contents(state) == before
        (state / "VERSION").write_text("1")
        await cluster.coordinator.start()
        assert [n["name"] for n in json.loads(await shell.good("networks", "--json"))] == ["lan"]


async def test_home_of_a_newer_version(tmp_path: Path) -> None:
    shell = Shell(tmp_path)
    (tmp_path / "VERSION").write_text("2\n")
    (tmp_path / "cli.json").write_text('{"api": "http://127.0.0.1:1"}')
    before = contents(tmp_path)
    for command in (("image", "list"), ("ps",), ("image", "rm", "x")):
        await shell.fails(*command, says=[str(tmp_path), "VERSION", "'2'", "newer", "1"])
    assert contents(tmp_path) == before
    code, out, _ = await shell.run("doctor", "--json")
    assert code == 1
    assert {"state": "fail"}.items() <= next(f for f in json.loads(out) if f["check"] == "state").items()

    (tmp_path / "VERSION").write_text("1\n")
    (tmp_path / "cli.json").write_text("{nonsense")
    await shell.fails("ps", says=[str(tmp_path / "cli.json")])
    (tmp_path / "cli.json").write_text('{"api": "ftp://x"}')
    await shell.fails("ps", says=["ftp://x", "http://"])
    (tmp_path / "cli.json").write_text('{"api": "http://127.0.0.1:1"}')
    await shell.fails("ps", says=["127.0.0.1:1", "wherry coordinator"])
    await shell.fails("image", "push", "x", says=["'x'", "none"])


async def test_folders_in_use(tmp_path: Path) -> None:
    async with running(tmp_path / "c", ["n1"]) as cluster:
        shell = Shell(tmp_path / "c")
        state = tmp_path / "c" / "coordinator"
        await dies(shell, "coordinator", "--state", str(state), *FREE["coordinator"], says=[str(state), "another"])
        state = tmp_path / "c" / "n1"
        await dies(shell, "node", "--state", str(state), *FREE["node"], says=[str(state), "another"])
        assert await cluster.all_alive()


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root to become somebody else")
@pytest.mark.root
@pytest.mark.parametrize("module", ["coordinator", "node"])
async def test_folder_of_somebody_else(tmp_path: Path, module: str) -> None:
    state = tmp_path / "state"
    state.mkdir(mode=0o755)
    # Without the capabilities that let root pass every door; the interpreter stays readable.
    enter = ["setpriv", "--bounding-set=-all", "--inh-caps=-all", "--reuid=65534", "--clear-groups"]
    code, out, err = await Shell(tmp_path).run("--state", str(state), *FREE[module], module=module, enter=enter)
    if "can't open file" in err or "execute" in err or "No module" in err:
        pytest.skip(f"the interpreter is not readable for others: {err.strip()[-100:]}")
    assert (code, out) == (1, "")
    assert "Traceback" not in err
    assert "Permission denied" in err.splitlines()[-1]


async def test_ports_that_are_taken(tmp_path: Path) -> None:
    shell = Shell(tmp_path)
    state = ["--state", str(tmp_path / "c")]
    with taken() as busy:
        await dies(shell, "coordinator", *state, "--link", busy, "--api", "127.0.0.1:0", says=["link", busy, "in use"])
        await dies(shell, "coordinator", *state, "--link", "127.0.0.1:0", "--api", busy, says=["API", busy, "in use"])
    for option in ("--link", "--api"):
        await shell.misused(*state, option, "127.0.0.1:http", module="coordinator", says=[option, "127.0.0.1:http"])
        await shell.misused(*state, option, "127.0.0.1:99999", module="coordinator", says=[option, "99999"])
    await shell.misused("--state", str(tmp_path / "n"), "--listen", "here", module="node", says=["--listen", "here"])

    async with running(tmp_path / "d", ["n1"]) as cluster:
        await cluster.nodes["n1"].stop()
        node = ["--name", "n1", "--state", str(tmp_path / "d" / "n1")]
        for kind in (socket.SOCK_STREAM, socket.SOCK_DGRAM):
            with taken(kind) as busy:
                await dies(shell, "node", *node, "--listen", busy, says=["--listen", busy, "in use"])
        await cluster.nodes["n1"].start()  # nothing was spoilt by it
        await cluster.until("n1 is back", cluster.all_alive)
