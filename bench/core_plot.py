"""The picture and README's table of ``make bench-core``."""

from __future__ import annotations

from pathlib import Path

from bench import core_rows
from bench.harness import ROOT
from bench.plot import Picture

PICTURE = Picture(
    "core", "Wherry against the better of two QEMUs (TCG), times better", core_rows.TARGETS, "better peer"
)
BEGIN, END = PICTURE.begin, PICTURE.end
load, svg, write, markdown = PICTURE.load, PICTURE.svg, PICTURE.write, PICTURE.markdown


def publish(path: Path) -> None:
    """Into the README, with what it was measured on."""
    document, rows = load(path)
    count = max((len(row.ours) for row in rows), default=0)
    rounds = f"medians of {count} rounds of {document['ms']} ms"
    intro = f"{document['machine']}; commit {document['commit'][:10]}; {rounds}."
    if document["processor_time"]:
        intro += (
            f" The machine was busy (load {document['load']:.0f}): rows timed in the guest are per processor second"
        )
        intro += ", the others by the clock."
    PICTURE.publish(path, ROOT, intro)
