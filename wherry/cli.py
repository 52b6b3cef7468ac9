"""The ``wherry`` command: one group, exit codes, and errors as one line.

Exit codes: 0 done, 1 failed, 2 used wrongly, 130 interrupted; ``exec`` gives the guest command's own.
"""

from __future__ import annotations

import os
import sys
from importlib import metadata

import click

from wherry.commands import (
    attach,
    ca,
    daemons,
    doctor,
    gdb,
    guests,
    images,
    info,
    moves,
    net,
    networks,
    nodes,
    port,
    tokens,
    top,
)
from wherry.errors import WherryError


def _version() -> str:
    try:
        return metadata.version("wherry")
    except metadata.PackageNotFoundError:
        return "unknown"


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.option("--api", metavar="URL", default="", help="The coordinator's API; else WHERRY_API, else cli.json.")
@click.option("--token", metavar="TOKEN", default="", help="Access token; else WHERRY_TOKEN, else cli.json.")
@click.version_option(_version(), prog_name="wherry")
@click.pass_context
def cli(ctx: click.Context, api: str, token: str) -> None:
    """Virtual machines without KVM or root, on an encrypted network, that move between hosts while they run.

    First steps: wherry image build debian; wherry coordinator; wherry node --name n1 --join TOKEN@HOST:PORT;
    wherry run --name web --image debian --network lan
    """
    ctx.obj = {"api": api, "token": token}


for _module in (images, daemons, guests, moves, nodes, networks, net, attach, port, tokens, ca, info, doctor, gdb, top):
    for _command in _module.COMMANDS:
        cli.add_command(_command)


@cli.command(epilog="Example: wherry demo --report demo.json")
@click.option("--report", type=click.Path(dir_okay=False), help="Write the figures as JSON to this file.")
@click.option("--keep", is_flag=True, help="Keep the daemons' logs and state folder.")
def demo(report: str | None, keep: bool) -> None:
    """A whole cluster on this machine: three nodes, two guests, live migrations under traffic, checked."""
    from wherry.demo.run import main as run_demo

    sys.exit(run_demo(report, keep))


def main() -> None:
    """The console script."""
    try:
        code = cli.main(prog_name="wherry", standalone_mode=False)
    except click.exceptions.Abort:
        code = 130
    except click.ClickException as error:
        error.show()
        code = error.exit_code
    except KeyboardInterrupt:
        code = 130
    except WherryError as error:
        click.echo(f"wherry: {error}", err=True)
        code = error.exit_code
    except BrokenPipeError:
        # The reader of a pipe left, as in `wherry log web | head`; Python must not try to flush into it at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = 1
    except OSError as error:
        # What the host refuses at any place: a full disk, a folder that is not ours.
        where = f"{error.filename}: " if error.filename else ""
        click.echo(f"wherry: {where}{error.strerror or error}", err=True)
        code = 1
    sys.exit(code if isinstance(code, int) else 0)
