"""Full disks: of a node, of the coordinator (blobs and store), of the user. One clear error, nothing lost, and all is
well again when there is room.

Each small disk is a tmpfs in a mount namespace of the daemon's own; the test reaches it by /proc/PID/root.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trio

from tests.badinput.here import ROOT, Shell
from tests.badinput.test_images import manifest
from tests.faults.checks import check_tidy
from tests.faults.cluster import MIB, running
from tests.faults.disklog import check_log, image_disk
from tests.guest.programs import build
from wherry.demo.daemons import guest_processes

pytestmark = [pytest.mark.root, pytest.mark.skipif(os.geteuid() != 0, reason="needs root (mount namespace)")]


def small(folder: Path, size: int) -> list[str]:
    """A command prefix under which ``folder`` is a disk of ``size`` bytes."""
    folder.mkdir(parents=True, exist_ok=True)
    script = f'mount -t tmpfs -o size={size} tmpfs "{folder}" && exec "$@"'
    return ["unshare", "--mount", "--propagation", "private", "sh", "-c", script, "sh"]


class Disk:
    """A daemon's small disk as the test sees it."""

    def __init__(self, pid: int, folder: Path) -> None:
        self.folder = Path(f"/proc/{pid}/root{folder}")

    def fill(self, leave: int = 0) -> None:
        """Take all but about ``leave`` bytes."""
        file = self.folder / "ballast"
        with file.open("wb", buffering=0) as out:
            try:
                while True:
                    out.write(bytes(1 << 16))
            except OSError as error:
                if error.errno != errno.ENOSPC:
                    raise
            out.truncate(max(0, out.tell() - leave))

    def free(self) -> None:
        (self.folder / "ballast").unlink()


@pytest.fixture(autouse=True)
def no_guest_left(tmp_path: Path) -> Iterator[None]:
    """Guests outlive their agent by design; those of this test end with it."""
    yield
    for pid in guest_processes(tmp_path):
        os.kill(pid, signal.SIGKILL)


@asynccontextmanager
async def daemon(arguments: Sequence[str], enter: Sequence[str], log: Path) -> AsyncIterator[dict[str, object]]:
    """A daemon under a prefix; what its ready line told."""
    with log.open("ab") as errors:
        process = await trio.lowlevel.open_process(
            [*enter, sys.executable, "-P", "-m", *arguments],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=errors,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
        )
    try:
        assert process.stdout is not None
        told = b""
        with trio.fail_after(60):
            while b"\n" not in told:
                more = await process.stdout.receive_some(65536)
                assert more, f"it ended; see {log}"
                told += more
        yield json.loads(told.split(b"\n")[0].removeprefix(b"ready "))
    finally:
        with trio.CancelScope(shield=True):
            process.terminate()
            await process.wait()


@asynccontextmanager
async def small_node(shell: Shell, folder: Path, size: int) -> AsyncIterator[Disk]:
    """Node s1 of the shell's cluster, whose state lies on a file system of so many bytes."""
    state = folder / "small"
    join = json.loads(await shell.good("token", "create", "--json"))["join"]
    arguments = ["node", "--name", "s1", "--state", str(state), "--memory", "1G"]
    arguments += ["--listen", "127.0.0.1:0", "--join", join]
    async with daemon(arguments, small(state, size), folder / "s1.log") as ready:
        assert ready["registered"] is True
        (pid,) = _serving(state)
        yield Disk(pid, state)


async def test_node_disk_full(tmp_path: Path) -> None:
    async with running(tmp_path / "c", ["n1"]) as cluster:
        shell = Shell(tmp_path / "c")
        async with small_node(shell, tmp_path, 100 * MIB) as disk:
            data = build("ticker").read_bytes() + bytes(40 * MIB)
            digest = hashlib.sha256(data).hexdigest()
            (await cluster.api.put(f"/v1/blobs/{digest}", content=data)).raise_for_status()
            (await cluster.api.post("/v1/images", json=manifest("large", data))).raise_for_status()

            # An image that does not fit is not begun.
            run = ("run", "--name", "g", "--on", "s1", "--network", "lan", "--memory", "64M", "--image")
            await shell.fails(*run, "large", says=["disk", "kernel", "free"])
            assert not list((disk.folder / "blobs").rglob(f"*{digest}*"))
            await shell.good("rm", "g")

            # A guest with no room for its record; one that runs already does not notice.
            await shell.good(*run, "ticker")
            first = await cluster.guest("g")
            disk.fill()
            again = ("run", "--name", "h", "--on", "s1", "--memory", "32M", "--image", "ticker")
            await shell.fails(*again, says=["disk", "full"])
            await shell.good("rm", "h")
            found = await cluster.guest("g")
            assert (found["state"], found["pid"]) == ("running", first["pid"])
            # It can leave a node whose disk is full, and does not arrive at one.
            assert "now on n1" in await shell.good("migrate", "g", "--to", "n1")
            disk.fill()
            await shell.fails("migrate", "g", "--to", "s1", says=["g", "s1"])
            found = await cluster.guest("g")
            assert (found["state"], found["node"]) == ("running", "n1")

            disk.free()
            assert "now on s1" in await shell.good("migrate", "g", "--to", "s1")
            await shell.good(*again)
            await shell.good("rm", "--force", "g", "h")


async def test_target_of_a_guests_disk_is_full(tmp_path: Path) -> None:
    """A disk that will not fit is not begun; one that stops fitting on the way stays where it is, and runs on."""
    async with running(tmp_path / "c", ["n1"]) as cluster:
        shell = Shell(tmp_path / "c")
        async with small_node(shell, tmp_path, 200 * MIB) as disk:
            await cluster.add_image("logger", disk=image_disk())
            guest = (await cluster.run_guest("g", "n1", image="logger"))["id"]
            await check_log(cluster, guest, "n1")

            disk.fill(leave=70 * MIB)
            await shell.fails("migrate", "g", "--to", "s1", says=["g", "s1", "disk wants", "free here"])
            assert not list((disk.folder / "guests").rglob("disk0*"))
            disk.free()

            cluster.hold("source.mirror")
            operation = await cluster.migrate("g", "s1")
            await cluster.reached("source.mirror")
            assert list((disk.folder / "guests").rglob("disk0.img"))
            disk.fill()
            cluster.release("source.mirror")
            ended = await cluster.wait_operation(operation)
            assert ended["state"] == "failed"
            assert "the target's file system is full" in ended["error"]["message"], ended
            await check_log(cluster, guest, "n1")
            await check_tidy(cluster, guest, "n1")
            assert not list((disk.folder / "guests").rglob("disk0*"))

            disk.free()
            assert "now on s1" in await shell.good("migrate", "g", "--to", "s1")
            await shell.good("rm", "--force", "g")


def _serving(state: Path) -> list[int]:
    """The agent of a state folder, by its command line."""
    wanted = os.fsencode(state)
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                words = (entry / "cmdline").read_bytes().split(b"\0")
            except OSError:
                continue
            if wanted in words and b"-m" in words and (b"node" in words or b"coordinator" in words):
                found.append(int(entry.name))
    return found


async def test_coordinator_disk_full(tmp_path: Path) -> None:
    state, home = tmp_path / "small", tmp_path / "home"
    shell = Shell(home)
    arguments = ["coordinator", "--state", str(state), "--cli-file", str(home / "cli.json")]
    arguments += ["--link", "127.0.0.1:0", "--api", "127.0.0.1:0"]
    async with daemon(arguments, small(state, 12 * MIB), tmp_path / "c.log") as ready:
        disk = Disk(int(str(ready["pid"])), state)
        kernel = tmp_path / "kernel"
        kernel.write_bytes(build("ticker").read_bytes() + bytes(16 * MIB))
        await shell.good("image", "import", "--name", "large", "--kernel", str(kernel))
        await shell.fails("image", "push", "large", says=["coordinator", "disk is full"])
        assert not [path for path in (disk.folder / "blobs").rglob("*") if path.is_file()]

        disk.fill()
        await shell.fails("network", "create", "more", says=["coordinator", "disk is full", "nothing was changed"])
        await shell.fails("token", "create", says=["disk is full"])
        assert [n["name"] for n in json.loads(await shell.good("networks", "--json"))] == ["lan"]

        disk.free()
        await shell.good("network", "create", "more")
        assert [n["name"] for n in json.loads(await shell.good("networks", "--json"))] == ["lan", "more"]
        kernel.write_bytes(build("ticker").read_bytes())
        await shell.good("image", "import", "--name", "fits", "--kernel", str(kernel))
        await shell.good("image", "push", "fits")


@pytest.mark.parametrize("module", ["coordinator", "node"])
async def test_first_start_on_a_full_disk(tmp_path: Path, module: str) -> None:
    shell, state = Shell(tmp_path / "home"), tmp_path / "small"
    arguments = {
        "coordinator": ["--link", "127.0.0.1:0", "--api", "127.0.0.1:0", "--cli-file", str(tmp_path / "cli.json")],
        "node": ["--name", "x", "--listen", "127.0.0.1:0"],
    }[module]
    enter = small(state, 8192)
    enter[6] = enter[6].replace("&& exec", f'&& (head -c 65536 /dev/zero > "{state}/ballast" || true) && exec')
    code, out, err = await shell.run("--state", str(state), *arguments, module=module, enter=enter)
    assert (code, out) == (1, "")
    assert "Traceback" not in err
    last = err.splitlines()[-1]
    assert last.startswith(f"wherry {module}: "), err
    assert str(state) in last
    assert "No space left" in last or "full" in last


async def test_users_disk_full(tmp_path: Path) -> None:
    """Imports and exports leave nothing half-done behind."""
    home = tmp_path / "home"
    kernel = tmp_path / "kernel"
    kernel.write_bytes(build("ticker").read_bytes() + bytes(8 * MIB))
    shell = Shell(home)
    code, out, err = await shell.run(
        *("image", "import", "--name", "large", "--kernel", str(kernel)), enter=small(home, 4 * MIB)
    )
    assert (code, out) == (1, "")
    assert err.splitlines()[-1].startswith("wherry: ")
    assert "No space left" in err
    await shell.good("image", "import", "--name", "large", "--kernel", str(kernel))
    out_folder = tmp_path / "out"
    code, out, err = await shell.run(
        *("image", "export", "large", str(out_folder / "x.tar")), enter=small(out_folder, 4 * MIB)
    )
    assert (code, out) == (1, "")
    assert "No space left" in err
    await shell.good("image", "export", "large", str(out_folder / "x.tar"))
    await shell.good("image", "import", "--name", "back", "--tar", str(out_folder / "x.tar"))
