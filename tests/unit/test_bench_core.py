"""The core benchmark's pure parts: reading console output, choosing the peer, verdicts, memory maps, the picture."""

from __future__ import annotations

import json
import sys
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest

from bench import core_guest, core_memory, core_plot, core_rows
from bench.harness import Row

CONSOLE = """[    0.000000] Linux version 6.12
bench integer 43358.9 it/s 5632\r
[    1.2] clocksource: bench copy 99 MB/s 1

bench copy 1.5e+03 MB/s 4\r
bench chase_64m 280.356 ns -
bench smc wrong
bench sha256 missing
bench integer 1 it/s 0
bench done\r
"""


def test_lines_among_kernel_messages() -> None:
    found = core_guest.parse(CONSOLE)
    assert found.values == {"integer": 43358.9, "copy": 1500.0, "chase_64m": 280.356}
    assert found.sums == {"integer": "5632", "copy": "4"}
    assert found.faults == {"smc": "wrong", "sha256": "missing"}
    assert found.complete


@pytest.mark.parametrize("cut", range(len(CONSOLE) - 2))
def test_output_cut_anywhere_gives_no_false_end(cut: int) -> None:
    found = core_guest.parse(CONSOLE[:cut])
    assert not found.complete or CONSOLE[:cut].rstrip().endswith("bench done")
    assert set(found.values) <= {"integer", "copy", "chase_64m"}


@pytest.mark.parametrize("line", ["bench", "bench integer", "bench x 1.2.3 u -", "xbench a 1 u -", "bench a nan u -"])
def test_other_lines_are_no_figures(line: str) -> None:
    assert core_guest.parse(line + "\n").values == {}


def test_run_reads_a_command_and_times_its_rows() -> None:
    spin = "t = time.monotonic_ns()\nwhile time.monotonic_ns() < t + 3 * 10**8: pass"
    tell = "print('took', %s); print('bench %s 5 u aa', flush=True)"
    lines = ["import time"]
    # The second time the program says to have seen another time than we: nothing is known of its share.
    for took, name in (("time.monotonic_ns() - t", "integer"), ("10**9", "calls")):
        lines += ["print('begin', flush=True)", spin, tell % (took, name)]
    found, failure = core_guest.run([sys.executable, "-c", "\n".join([*lines, "print('bench done')"])], 20)
    assert (found.values, failure) == ({"integer": 5.0, "calls": 5.0}, "")
    assert "calls" not in found.shares
    assert all(0 < share < 1.1 for share in found.shares.values())


def test_run_that_ends_early_or_hangs_says_so() -> None:
    found, failure = core_guest.run(["sh", "-c", "echo bench copy 6 MB/s -; echo oops; exit 3"], 20)
    assert found.values == {"copy": 6.0}
    assert failure == "exit status 3; output: bench copy 6 MB/s - | oops"
    found, failure = core_guest.run(["sh", "-c", "echo bench done; sleep 60"], 0.2)
    assert found.complete
    assert failure == ""
    assert core_guest.run(["sleep", "60"], 0.2)[1].startswith("not done after")


def test_better_peer_by_median() -> None:
    slow, fast = [1.0, 9.0, 1.0], [2.0, 2.0, 2.0]
    higher = Row("a", "u", "higher", ours=[4.0, 4.0, 4.0], rivals={"slow": slow, "fast": fast})
    higher.face_best()
    assert (higher.peer, higher.theirs, higher.advantage) == ("fast", fast, 2.0)
    lower = Row("a", "u", "lower", ours=[4.0, 4.0, 4.0], rivals={"slow": fast, "fast": slow})
    lower.face_best()
    assert (lower.peer, lower.advantage) == ("fast", 0.25)
    alone = Row("a", "u", "lower", ours=[1.0], rivals={"absent": []})
    alone.face_best()
    assert (alone.peer, alone.advantage) == (None, None)


def row(name: str, ours: float, theirs: float, native: float | None = None) -> Row:
    made = core_rows.new_row(name)
    made.ours, made.rivals = [ours], {"qemu-system-riscv64 1.2 tcg": [theirs]}
    made.native = [] if native is None else [native]
    made.face_best()
    return made


@pytest.mark.parametrize(
    ("made", "expected"),
    [
        (row("integer", 2.4, 1), "SHORT"),
        (row("integer", 2.6, 1), "must"),
        (row("integer", 4.0, 1), "goal"),
        (row("syscall", 100, 250), "must"),
        (row("boot", 1, 1.9), "SHORT"),
        (row("boot", 1, 2.1), "must"),
        (row("boot", 1, 3.4), "goal"),
        (row("chase_1m", 20, 21, 16), "goal"),
        (row("chase_1m", 21, 22, 16), "must"),
        (row("chase_1m", 21, 22), "must"),
        (row("amo", 4, 5, 2.1), "goal"),
        (row("amo", 4, 5, 1.9), "must"),
        (row("rss_mib", 13, 100), "must"),
        (row("rss_mib", 11, 100), "goal"),
        (row("rss_mib", 25, 100), "SHORT"),
        (row("smp2", 1.8, 1), "SHORT"),
        (row("smp2", 1.95, 2.2), "must"),
        (row("sha256", 1, 1), "-"),
    ],
)
def test_verdicts(made: Row, expected: str) -> None:
    assert core_rows.verdict(made) == expected


def test_a_wrong_result_is_no_success() -> None:
    made = row("smc", 1, 10)
    made.note = "wrong"
    assert core_rows.verdict(made) == "WRONG"


def test_every_row_has_a_line() -> None:
    text = core_rows.table([core_rows.new_row(name) for name in core_rows.SPECS])
    assert len(text.splitlines()) == len(core_rows.SPECS) + 1


def test_guest_ram_is_not_counted() -> None:
    smaps = (
        "7f0000000000-7f0010000000 rw-s 00000000 00:01 5   /memfd:memory-backend-memfd (deleted)\n"
        "Private_Clean:   1024 kB\nPrivate_Dirty: 262144 kB\n"
        "7f1000000000-7f1000100000 rw-p 00000000 00:00 0 \n"
        "Private_Clean:   1024 kB\nShared_Dirty: 77 kB\nPrivate_Dirty:   512 kB\n"
    )
    assert core_memory.private_mib(smaps) == 1.5


def test_picture_is_well_formed_and_bars_grow() -> None:
    rows = [row("integer", 2, 1), row("calls", 4, 1), row("smc", 2, 1), row("copy", 1000, 1)]
    tree = ET.fromstring(core_plot.svg({"machine": "a <b> & c"}, rows))
    bars = [float(e.attrib["width"]) for e in tree.iter("{http://www.w3.org/2000/svg}rect")][1:]
    assert len(bars) == 4
    assert bars[2] == bars[0] < bars[1] < bars[3]  # smc: half as good is as far to the left of 1
    assert bars[3] == pytest.approx(5 * bars[0], abs=0.5)  # cut at the axis' end, 2 to the fifth


@pytest.mark.parametrize("busy", [False, True])
def test_publishing_replaces_what_stands_between_the_marks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, busy: bool
) -> None:
    monkeypatch.setattr(core_plot, "ROOT", tmp_path)
    (tmp_path / "build/bench").mkdir(parents=True)
    (tmp_path / "docs").mkdir()
    readme = tmp_path / "README.md"
    readme.write_text(f"before\n{core_plot.BEGIN}\nold\n{core_plot.END}\nafter\n")
    document = {"machine": "m", "commit": "c" * 40, "ms": 5, "load": 9.0, "processor_time": busy}
    figures = tmp_path / "build/bench/core.json"
    figures.write_text(json.dumps({**document, "rows": [row("integer", 2, 1).as_dict(), row("smc", 1, 2).as_dict()]}))
    core_plot.write(figures, tmp_path / "build/bench/core.svg")
    for _ in range(2):
        core_plot.publish(figures)
    text = readme.read_text()
    assert text.startswith("before\n")
    assert text.endswith("after\n")
    assert "old" not in text
    assert "| `integer` | 2 it/s | 1 (1.2) | - | 2.00 × | ≥ 2.5x (4x) | **no** |" in text
    assert ("per processor second" in text) == busy
    assert (tmp_path / "docs/bench-core.svg").read_text().startswith("<svg")
