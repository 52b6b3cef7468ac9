"""The command line itself: every command explains itself by example, every list can be read by programs, and what is
no command is told as wrong usage."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from tests.badinput.here import Shell
from wherry.cli import cli

DAEMONS = ("coordinator", "node")  # their options are their own: tested as processes below


def commands(group: click.Group, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], click.Command]]:
    for name, command in group.commands.items():
        if isinstance(command, click.Group):
            yield from commands(command, (*path, name))
        else:
            yield (*path, name), command


ALL = dict(commands(cli))
LISTS = [path for path in ALL if path[-1] in ("ps", "nodes", "networks", "images", "list", "events", "doctor")]


@pytest.mark.parametrize("path", [p for p in ALL if p[0] not in DAEMONS], ids=" ".join)
def test_help_has_an_example_that_fits(path: tuple[str, ...]) -> None:
    shown = CliRunner().invoke(cli, [*path, "--help"], prog_name="wherry")
    assert shown.exit_code == 0
    text = " ".join(shown.output.split())
    found = re.search(r"Example: wherry (.*)$", text)
    assert found, shown.output
    words = found[1].split()
    assert tuple(words[: len(path)]) == path
    # The example's own options exist.
    known = {option for parameter in ALL[path].params for option in parameter.opts}
    own = words[len(path) : words.index("--") if "--" in words else None]
    assert all(word in known for word in own if word.startswith("-")), known


@pytest.mark.parametrize("path", LISTS, ids=" ".join)
def test_lists_have_json(path: tuple[str, ...]) -> None:
    assert "--json" in {option for parameter in ALL[path].params for option in parameter.opts}


def test_there_are_lists() -> None:
    assert len(LISTS) == 7


@pytest.mark.parametrize("module", DAEMONS)
async def test_daemons_explain_themselves(tmp_path: Path, module: str) -> None:
    shell = Shell(tmp_path)
    shown = await shell.good(module, "--help")
    assert f"usage: wherry {module}" in shown
    assert "--state" in shown
    await shell.misused(module, "--nonsense", says=["--nonsense"])


async def test_what_is_no_command(tmp_path: Path) -> None:
    shell = Shell(tmp_path)
    await shell.misused("dance", says=["dance"])
    await shell.misused("ps", "--nonsense", says=["--nonsense"])
    await shell.misused("run", "--image", "x", says=["--name"])
    await shell.misused("rm", says=["NAMES"])
    await shell.misused("image", "import", "--name", "x", says=["--kernel"])
    await shell.misused("image", "import", "--name", "x", "--kernel", str(tmp_path / "no"), says=["--kernel", "no"])
    await shell.misused("--api", "nowhere", "ps", says=["nowhere"])
    assert set(os.listdir(tmp_path)) <= {"VERSION", "images"}


async def test_doctor_without_a_coordinator(tmp_path: Path) -> None:
    shell = Shell(tmp_path)
    out = await shell.good("--api", "http://127.0.0.1:1", "doctor", "--json")
    found = {finding["check"]: finding for finding in json.loads(out)}
    assert found["API"]["state"] == "warn"
    assert "127.0.0.1:1" in found["API"]["message"]
    assert {f["state"] for name, f in found.items() if name in ("python", "libraries", "C core", "state")} == {"ok"}
