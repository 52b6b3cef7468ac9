"""``wherry coordinator`` and ``wherry node``: become the daemon. Flags go to it unread, ``--help`` too."""

from __future__ import annotations

import os
import sys

import click

_PASS_ON = {"ignore_unknown_options": True, "allow_interspersed_args": False, "help_option_names": []}


def _become(module: str, arguments: tuple[str, ...]) -> None:
    # -P: a coordinator.py or node.py in the current folder is somebody else's.
    os.execv(sys.executable, [sys.executable, "-P", "-m", module, *arguments])


@click.command(context_settings=_PASS_ON, add_help_option=False)
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED)
def coordinator(arguments: tuple[str, ...]) -> None:
    """Run the control plane of a cluster here. Options: wherry coordinator --help"""
    _become("coordinator", arguments)


@click.command(context_settings=_PASS_ON, add_help_option=False)
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED)
def node(arguments: tuple[str, ...]) -> None:
    """Offer this host to a cluster: wherry node --name n1 --join TOKEN@HOST:PORT. Options: wherry node --help"""
    _become("node", arguments)


COMMANDS = (coordinator, node)
