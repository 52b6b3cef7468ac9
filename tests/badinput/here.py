"""What the tests of bad input share: a command run as a user runs it, and what makes an error a good one."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import trio

from tests.faults.cluster import Cluster

ROOT = Path(__file__).parents[2]


class Shell:
    """Runs ``wherry`` with ``home`` as $WHERRY_HOME."""

    def __init__(self, home: Path) -> None:
        self.home = home

    async def run(self, *arguments: str, module: str = "wherry", enter: Sequence[str] = ()) -> tuple[int, str, str]:
        """(exit code, stdout, stderr). ``enter``: a command prefix."""
        environment = {**os.environ, "WHERRY_HOME": str(self.home), "PYTHONPATH": str(ROOT)}
        for name in ("WHERRY_API", "WHERRY_TOKEN", "WHERRY_CA"):
            environment.pop(name, None)
        command = [*enter, sys.executable, "-P", "-m", module, *arguments]
        done = await trio.to_thread.run_sync(
            lambda: subprocess.run(
                command, env=environment, stdin=subprocess.DEVNULL, capture_output=True, check=False, timeout=90
            )
        )
        return done.returncode, done.stdout.decode(), done.stderr.decode()

    async def good(self, *arguments: str) -> str:
        """The output of a command that must succeed."""
        code, out, err = await self.run(*arguments)
        assert code == 0, (arguments, out, err)
        return out

    async def fails(
        self, *arguments: str, says: Sequence[str], module: str = "wherry", enter: Sequence[str] = ()
    ) -> str:
        """A failure: exit code 1, nothing on stdout, one line that has all of ``says``."""
        code, out, err = await self.run(*arguments, module=module, enter=enter)
        lines = err.splitlines()
        assert (code, out) == (1, ""), (arguments, code, out, err)
        assert len(lines) == 1, err
        assert lines[0].startswith("wherry"), err
        assert all(word in lines[0] for word in says), (says, err)
        return lines[0]

    async def misused(self, *arguments: str, says: Sequence[str], module: str = "wherry") -> str:
        """Wrong usage: exit code 2, and the last line has all of ``says``."""
        code, out, err = await self.run(*arguments, module=module)
        assert (code, out) == (2, ""), (arguments, code, out, err)
        assert "Traceback" not in err
        assert all(word in err.splitlines()[-1] for word in says), (says, err)
        return err


async def still_works(cluster: Cluster, shell: Shell, name: str = "after", on: str = "n1") -> None:
    """A good call after the bad one: a guest runs, is listed, goes."""
    await cluster.run_guest(name, on)
    assert name in await shell.good("ps")
    await shell.good("rm", "--force", name)
    assert name not in await shell.good("ps")
