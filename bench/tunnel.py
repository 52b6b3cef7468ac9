"""``make bench-tunnel``: what a tunnel costs a node. Rows seal_64 open_64 seal_1400 open_1400 tx_64 rx_64 tx_1414
rx_1414 tx_tso rx_tso, and flood_KIND of forged datagrams.

Options: ``--pairs N`` (5), ``--frames N`` (300000).
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from pathlib import Path

from bench import net_programs
from bench.harness import ROOT, Row, write_report

FLOODS = ("garbage", "sender", "epoch", "replay", "strange", "spoofed", "foreign")

METHOD = """Method. Nanoseconds of processor time of the thread at work (bench/programs/net/tunnelbench.c,
linked with the switch's objects). seal and open: one AES-256-GCM datagram of so many bytes, one
key, contexts kept, the library that the product picks on this host against libcrypto's EVP with
contexts kept, in turn. tx and rx: a frame of so many bytes from one guest's ring through two
switches and UDP over loopback to another's ring, the threads of the sending and of the receiving
switch with the kernel's work on their account. tx_tso and rx_tso: the same for a segment of TCP
packets of 64 KiB that are cut on the way and put together again. flood: a forged datagram of 1400 bytes, by what is
wrong with it (the program's head says what they are), on the receiving switch's account. What it
does not show: a wire, a NIC, TAPs, guests."""


def program() -> list[str]:
    """The C program, linked with what ``make -C csrc`` has made."""
    subprocess.run(["make", "-s", "-C", str(ROOT / "csrc")], check=True)
    made = ROOT / "build" / "csrc" / "opt"
    objects = [
        str(path) for room in ("base", "state", "memory", "switch") for path in sorted((made / room).glob("*.o"))
    ]
    return [str(net_programs.build("tunnelbench", f"-I{ROOT}/csrc", *objects, "-lcrypto", "-pthread"))]


def words(argv: list[str], kind: str) -> str:
    """What the program says behind ``kind``."""
    done = subprocess.run(argv, capture_output=True, text=True, check=True, timeout=300)
    said = done.stdout.strip()
    if not said.startswith(kind + " "):
        raise RuntimeError(f"{Path(argv[0]).name} said {said!r}")
    return said.removeprefix(kind + " ")


def main() -> None:
    options = argparse.ArgumentParser("bench.tunnel", description=__doc__)
    options.add_argument("--pairs", type=int, default=5)
    options.add_argument("--frames", type=int, default=300_000)
    args = options.parse_args()
    argv, rows = program(), []
    for length in (64, 1400):
        seal, opened = (Row(f"{what}_{length}", "ns", "lower") for what in ("seal", "open"))
        for _ in range(args.pairs):
            ours = words([*argv, "aead", "ours", str(length)], "aead").split("|")
            theirs = words([*argv, "aead", "openssl", str(length)], "aead").split("|")
            for row, at in ((seal, 1), (opened, 2)):
                row.note, row.peer = ours[0], f"{theirs[0]} EVP"
                row.ours.append(float(ours[at]))
                row.theirs.append(float(theirs[at]))
        rows += [seal, opened]
        print(f"seal, open {length}: {seal.ours} {opened.ours} ns", file=sys.stderr)
    for length in (64, 1414):
        sent, got = (Row(f"{what}_{length}", "ns", "lower") for what in ("tx", "rx"))
        for _ in range(args.pairs):
            figures = words([*argv, "frames", str(length), str(args.frames)], "frames").split()
            sent.ours.append(float(figures[0]))
            got.ours.append(float(figures[1]))
        rows += [sent, got]
    sent, got = (Row(f"{what}_tso", "ns", "lower") for what in ("tx", "rx"))
    for _ in range(args.pairs):
        figures = words([*argv, "packets", str(args.frames // 47)], "packets").split()
        sent.ours.append(float(figures[0]))
        got.ours.append(float(figures[1]))
    rows += [sent, got]
    for kind in FLOODS:
        row = Row(f"flood_{kind}", "ns", "lower")
        for _ in range(args.pairs):
            row.ours.append(float(words([*argv, "flood", kind, "1400", str(args.frames)], "flood")))
        rows.append(row)
    write_report("tunnel", rows, METHOD)


if __name__ == "__main__":
    main()
