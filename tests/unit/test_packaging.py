"""A wheel holds what a checkout holds: every module, and every other file that the packages open."""

from __future__ import annotations

import fnmatch
import subprocess
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]


def test_every_tracked_file_of_the_packages_is_in_a_wheel() -> None:
    try:
        done = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError) as error:
        pytest.skip(f"git does not list the files: {error}")
    tracked = [Path(line) for line in done.stdout.splitlines()]
    # What setuptools finds: folders with an __init__.py whose name fits. It is not asked, as not every Python has it.
    wanted = PROJECT["packages"]["find"]["include"]
    packages = {
        ".".join(path.parts[:-1])
        for path in tracked
        if path.name == "__init__.py" and any(fnmatch.fnmatch(".".join(path.parts[:-1]), name) for name in wanted)
    }
    assert {"protocol", "node", "coordinator", "wherry"} <= packages
    for path in tracked:
        if path.parts[0] in ("protocol", "node", "coordinator", "wherry"):
            package = ".".join(path.parts[:-1])
            assert package in packages, f"{path}: its folder has no __init__.py"
            patterns = ["*.py", *PROJECT["package-data"].get(package, [])]
            assert any(fnmatch.fnmatch(path.name, pattern) for pattern in patterns), f"{path} is no package data"
