"""Finds the Debian image in the local library, or has it built; says clearly why there is none."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from functools import cache
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.guest.programs import BUILD
from wherry.image.initramfs import Archive


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


def initrd_with(image: Image, program: Path, name: str) -> Path:
    """The image's initrd with ``/NAME`` behind it: the kernel unpacks archives one after the other."""
    archive = Archive()
    archive.add_file(name, program.read_bytes(), 0o755)
    first = image.initrd.read_bytes()
    made = BUILD / f"initrd-{name}-{hashlib.sha256(first + program.read_bytes()).hexdigest()[:16]}"
    if not made.exists():
        partial = made.with_suffix(".partial")
        partial.write_bytes(first + b"\0" * (-len(first) % 512) + archive.write())
        partial.rename(made)
    return made
