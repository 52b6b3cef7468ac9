"""``wherry image …`` (this machine's library) and ``wherry images`` (the cluster's)."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from wherry import paths, ui, units
from wherry.commands.common import example, json_option, library, with_client
from wherry.errors import ImageError, UsageProblem
from wherry.image import debian, importer
from wherry.image.store import Image

_FILE = click.Path(exists=True, dir_okay=False, path_type=Path)


@click.group()
def image() -> None:
    """Build, import and keep guest images on this machine."""


@image.command(epilog=example("wherry image build debian --package iperf3"))
@click.argument("distribution", type=click.Choice(["debian"]))
@click.option("--name", default="debian", show_default=True, help="The image's name in the library.")
@click.option("--suite", default=debian.SUITE, show_default=True, help="Debian suite.")
@click.option("--mirror", default="", help="Mirror URI; by default the one in this host's apt sources.")
@click.option("--keyring", type=_FILE, help="Archive keyring; by default the host's Debian keyring.")
@click.option("--package", "packages", multiple=True, help="One more package; may be repeated.")
@click.option("--gzip", "compress", is_flag=True, help="Compress the initramfs: smaller to send, slower to boot.")
@click.option("--keep-signatures", is_flag=True, help="Leave the modules' signatures on: an untainted, slower boot.")
@click.option("--if-missing", is_flag=True, help="Do nothing when the image is there.")
def build(
    distribution: str,
    name: str,
    suite: str,
    mirror: str,
    keyring: Path | None,
    packages: tuple[str, ...],
    compress: bool,
    keep_signatures: bool,
    if_missing: bool,
) -> None:
    """Make a bootable image from Debian's riscv64 packages, by this host's apt, without root."""
    images = library()
    if if_missing and name in images.names():
        return
    options = debian.Options(name, suite, mirror, packages, keyring, compress, keep_signatures)
    with ui.bar("package lists") as bar:
        told = ""

        def step(text: str, percent: float) -> None:
            nonlocal told
            bar.update(percent, text=f"{text:<14}")
            if text != told and not sys.stderr.isatty():
                click.echo(f"{distribution}: {text}", err=True)
            told = text

        made = debian.build(images, paths.home() / "cache" / "apt", options, step)
    click.echo(f"{made.name}  {made.digest[:12]}  {units.size(made.size)}  kernel {made.source['kernel']}")


@image.command(name="import", epilog=example("wherry image import --name mine --kernel Image --initrd initrd.cpio"))
@click.option("--name", required=True, help="The image's name in the library.")
@click.option("--kernel", type=_FILE, help="A RISC-V Linux Image.")
@click.option("--initrd", type=_FILE, help="Its initial RAM file system.")
@click.option("--cmdline", default="console=ttyS0", show_default=True, help="The kernel's command line.")
@click.option("--disk", type=_FILE, help="A raw disk.")
@click.option("--firmware", type=_FILE, help="M-mode firmware: ELF or raw.")
@click.option("--tar", "archive", type=_FILE, help="An image that `image export` wrote.")
def import_(
    name: str,
    kernel: Path | None,
    initrd: Path | None,
    cmdline: str,
    disk: Path | None,
    firmware: Path | None,
    archive: Path | None,
) -> None:
    """Take a kernel (with initrd and disk), a raw disk, firmware, or an exported image."""
    images = library()
    source = {"by": "import", "files": [p.name for p in (kernel, initrd, disk, firmware, archive) if p]}
    if (
        sum(x is not None for x in (kernel or disk, archive)) > 1
        or (initrd and not kernel)
        or (firmware and (kernel or archive))
    ):
        raise UsageProblem("give one of: --kernel [--initrd] [--disk], --disk [--firmware], --firmware, --tar")
    if kernel:
        made = importer.store_linux(images, name, kernel, initrd, cmdline, source, disk=disk)
    elif disk:
        made = importer.store_disk(images, name, disk, firmware, source)
    elif firmware:
        made = importer.store_firmware(images, name, firmware, source)
    elif archive:
        made = importer.import_tar(images, archive, name)
    else:
        raise UsageProblem("nothing to import: give --kernel, --disk, --firmware or --tar")
    click.echo(f"{made.name}  {made.digest[:12]}  {units.size(made.size)}")


@image.command(name="list", epilog=example("wherry image list --json"))
@click.option("--verify", is_flag=True, help="Hash every file again.")
@json_option
def list_(verify: bool, as_json: bool) -> None:
    """The images in this machine's library."""
    images = library()
    found = images.images()
    if verify:
        for item in found:
            images.verify(item)
    if as_json:
        ui.print_json([{**ui.plain(item), "digest": item.digest, "size": item.size} for item in found])
        return
    ui.table(
        ("name", "kind", "digest", "size", "min memory", "age"),
        [_row(item) for item in found],
        empty="no images; make one: wherry image build debian",
    )


def _row(item: Image) -> tuple[object, ...]:
    memory = units.size(item.min_memory)
    return item.name, item.kind, item.digest[:12], units.size(item.size), memory, units.age(item.created)


@image.command(epilog=example("wherry image rm old --cluster"))
@click.argument("name")
@click.option("--cluster", is_flag=True, help="Remove it from the coordinator instead.")
@click.pass_context
def rm(ctx: click.Context, name: str, cluster: bool) -> None:
    """Remove an image from the library."""
    if cluster:
        with_client(ctx, lambda client: client.remove_image(name))
        click.echo(f"{name}: removed from the cluster")
    else:
        click.echo(f"{name}: removed, {units.size(library().remove(name))} freed")


@image.command(epilog=example("wherry image export debian debian.tar"))
@click.argument("name")
@click.argument("file", type=click.Path(dir_okay=False, path_type=Path))
def export(name: str, file: Path) -> None:
    """Write an image as one tar file."""
    images = library()
    importer.export_tar(images, images.get(name), file)
    click.echo(f"{file}: {units.size(file.stat().st_size)}")


@image.command(epilog=example("wherry image push debian"))
@click.argument("name")
@click.pass_context
def push(ctx: click.Context, name: str) -> None:
    """Send an image from the library to the coordinator."""
    images = library()
    made = images.get(name)
    with ui.bar(f"push {name}", total=made.size, in_bytes=True) as bar:
        with_client(ctx, lambda client: client.push(images, made, bar.update))
    click.echo(f"{name}: the coordinator has it")


@click.command(name="images", epilog=example("wherry images --json"))
@json_option
@click.pass_context
def cluster_images(ctx: click.Context, as_json: bool) -> None:
    """The images that the cluster can start; those of the local library are pushed when `run` needs them."""
    found = with_client(ctx, lambda client: client.images())
    if as_json:
        ui.print_json(found)
        return
    rows = [(i.name, i.kind, i.digest[:12], units.size(i.size), units.age(i.created)) for i in found]
    try:
        local = [name for name in library().names() if name not in {i.name for i in found}]
    except ImageError:
        local = []
    ui.table(("name", "kind", "digest", "size", "age"), rows, empty="the cluster has no images")
    if local:
        click.echo(f"only in the local library: {' '.join(local)}", err=True)


COMMANDS = (image, cluster_images)
