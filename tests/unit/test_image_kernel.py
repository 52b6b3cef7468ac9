"""Where Debian's kernel packages keep the kernel."""

from __future__ import annotations

import gzip
from pathlib import Path

import pytest

from wherry.errors import ImageError
from wherry.image.debian import find_kernel

VERSION = "6.12.1+deb13-riscv64"


@pytest.mark.parametrize(
    "place", [f"boot/vmlinux-{VERSION}", f"boot/vmlinuz-{VERSION}", f"usr/lib/modules/{VERSION}/vmlinuz"]
)
@pytest.mark.parametrize("compressed", [False, True])
def test_a_kernel_is_found_in_each_suites_place(tmp_path: Path, place: str, compressed: bool) -> None:
    content = b"MZ" + bytes(range(256))
    (tmp_path / place).parent.mkdir(parents=True)
    (tmp_path / place).write_bytes(gzip.compress(content) if compressed else content)
    kernel, version = find_kernel(tmp_path)
    assert (kernel.read_bytes(), version) == (content, VERSION)


def test_packages_without_a_kernel_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ImageError, match="boot/vmlinux"):
        find_kernel(tmp_path)
