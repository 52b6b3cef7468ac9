"""The files of a guest's image that both ends of a migration have: pages that stand in them are named, not sent."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Final

import trio

from node.core import CoreError
from node.migration.pages import limiter
from node.ramview import RamView
from node.record import Record

log = logging.getLogger("wherry.node.migration")

ROLES: Final = ("kernel", "initrd")


@contextmanager
def opened(record: Record) -> Iterator[list[int]]:
    """In the order of the image. Raises OSError, KeyError: one is not here."""
    with ExitStack() as stack:
        fds = []
        for file in record.spec.image.files:
            if file.role in ROLES:
                fds.append(os.open(record.files[file.role], os.O_RDONLY | os.O_CLOEXEC))
                stack.callback(os.close, fds[-1])
        yield fds


def offer(view: RamView, record: Record) -> bool:
    """The target's end: pages of these files may be named from now on. False: not all are here."""
    try:
        with opened(record) as fds:
            view.files(fds)
    except (OSError, KeyError, CoreError) as error:
        log.info("guest=%s the image's files are not all here: %s", record.spec.guest, error)
        return False
    return True


async def find(view: RamView, record: Record) -> None:
    """The source's end: look where the running guest's pages stand. Whatever goes wrong, they are sent."""
    if not offer(view, record):
        return
    try:
        pages = await trio.to_thread.run_sync(view.find, limiter=limiter)
    except CoreError as error:
        log.info("guest=%s its pages are not looked for in the image: %s", record.spec.guest, error)
        return
    log.info("guest=%s %d pages stand in the image's files", record.spec.guest, pages)
