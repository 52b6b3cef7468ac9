"""``image build debian``: Debian's own kernel and packages made into one image.

Steps: private apt → package files → unpacked trees → modules in load order → initramfs → image library. Everything that
was downloaded stays in the cache, so that a second build fetches nothing and a broken one resumes.
"""

from __future__ import annotations

import subprocess
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from wherry.errors import ImageError
from wherry.image import apt, importer, modules, rootfs
from wherry.image.store import Image, Library

Step = Callable[[str, float], None]  # what is being done, percent of it (0..100)

BASE_PACKAGES = ("linux-image-riscv64", "busybox-static", "qemu-guest-agent", "iputils-ping")
MODULES = ["virtio_mmio", "virtio_net", "virtio_blk", "virtio_rng"]
CMDLINE = "console=ttyS0"
SUITE = "trixie"
# Of Debian's kernel, apart from what the guest's user space is made of. Up to trixie one package holds it all.
KERNEL_PACKAGES = ("linux-image-", "linux-binary-", "linux-modules-", "linux-base-")


@dataclass(frozen=True)
class Options:
    """What can be chosen. ``mirror`` "" and ``keyring`` None: as this host's apt has them."""

    name: str = "debian"
    suite: str = SUITE
    mirror: str = ""
    packages: Sequence[str] = ()
    keyring: Path | None = None
    compress: bool = False
    keep_signatures: bool = False  # of modules: an emulated processor checks one in 0.1-0.5 s (docs/decisions)


def build(library: Library, cache: Path, options: Options, step: Step) -> Image:
    """Build and store the image. Raises :class:`ImageError` and its children; a partial download is kept."""
    driver = apt.Apt(cache / options.suite, mirror=options.mirror, suite=options.suite, keyring=options.keyring)
    driver.update(lambda percent, _: step("package lists", percent))
    step("packages", 0)
    debs = driver.download((*BASE_PACKAGES, *options.packages), lambda percent, text: step("packages", percent))
    with tempfile.TemporaryDirectory(prefix="wherry-image-") as scratch:
        return _assemble(library, debs, Path(scratch), options, step)


def _assemble(library: Library, debs: Sequence[Path], scratch: Path, options: Options, step: Step) -> Image:
    step("unpack", 0)
    kernel_debs = [deb for deb in debs if deb.name.startswith(KERNEL_PACKAGES)]
    apt.unpack([deb for deb in debs if deb not in kernel_debs], scratch / "user")
    step("unpack", 50)
    apt.unpack(kernel_debs, scratch / "kernel")
    step("unpack", 100)
    kernel, version = find_kernel(scratch / "kernel")
    tree = next((p for p in (scratch / "kernel").rglob(version) if p.parent.name == "modules"), None)
    if tree is None:
        raise ImageError(f"the kernel package has no modules for {version}")
    step("initramfs", 0)
    loaded = modules.load_order(tree, MODULES)
    if not options.keep_signatures:
        loaded = [replace(module, data=modules.without_signature(module.data)) for module in loaded]
    archive = rootfs.build(scratch / "user", loaded)
    initrd = scratch / "initrd"
    initrd.write_bytes(archive.write(compress=options.compress))
    step("initramfs", 100)
    source = {
        "by": "build debian",
        "suite": options.suite,
        "kernel": version,
        "packages": [deb.name for deb in debs],
    }
    step("store", 0)
    image = importer.store_linux(library, options.name, kernel, initrd, CMDLINE, source)
    step("store", 100)
    return image


def find_kernel(root: Path) -> tuple[Path, str]:
    """The kernel, unpacked where it was compressed, and its version. Raises ImageError."""
    found = [(kernel, kernel.name.split("-", 1)[1]) for kernel in sorted((root / "boot").glob("vmlinu[xz]-*"))]
    found += [(kernel, kernel.parent.name) for kernel in sorted((root / "usr/lib/modules").glob("*/vmlinu[xz]"))]
    if not found:
        raise ImageError("the kernel packages have no boot/vmlinux-* and no usr/lib/modules/*/vmlinuz")
    kernel, version = found[-1]
    with kernel.open("rb") as file:
        compressed = file.read(2) == b"\x1f\x8b"
    if compressed:
        plain = kernel.with_name(kernel.name + ".plain")
        with plain.open("wb") as out:
            subprocess.run(["gzip", "-dc", str(kernel)], stdout=out, check=True)
        kernel = plain
    return kernel, version
