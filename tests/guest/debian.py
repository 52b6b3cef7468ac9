"""Finds the Debian image in the local library, or has it built; says clearly why there is none."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from functools import cache
from pathlib import Path
from typing import NamedTuple

import pytest


class Image(NamedTuple):
    kernel: Path
    initrd: Path


@cache
def debian_image(name: str = "debian", packages: tuple[str, ...] = ()) -> Image:
    """Skips the test where no mirror can be reached and no image is there."""
    command = [sys.executable, "-m", "wherry", "image", "build", "debian", "--if-missing", "--name", name]
    for package in packages:
        command += ["--package", package]
    if packages:
        command.append("--gzip")
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip(f"no Debian image: {(done.stderr or done.stdout).strip().splitlines()[-1:]}")
    home = Path(os.environ.get("WHERRY_HOME", Path.home() / ".local/share/wherry")) / "images"
    digest = (home / "tags" / name).read_text().strip().removeprefix("sha256:")
    manifest = json.loads((home / "manifests" / f"{digest}.json").read_text())
    blobs = {file["role"]: home / "blobs" / "sha256" / file["sha256"] for file in manifest["files"]}
    return Image(blobs["kernel"], blobs["initrd"])
