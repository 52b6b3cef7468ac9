"""The demo as users start it: real daemons, Debian guests, migrations under traffic; and the way out of it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from wherry import paths
from wherry.demo.daemons import guest_processes
from wherry.image.store import Library

pytestmark = [pytest.mark.debian, pytest.mark.slow]


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    """The demo's temporary folder is ours, so that we see what it leaves."""
    library = paths.home() / "images"
    if not library.is_dir() or "debian" not in Library(library).names():
        pytest.skip("no Debian image: wherry image build debian")
    return {**os.environ, "TMPDIR": str(tmp_path)}


def demo(environment: dict[str, str], *flags: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-P", "-m", "wherry", "demo", *flags]
    return subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    )


def test_demo_proves_its_points(environment: dict[str, str], tmp_path: Path) -> None:
    report = tmp_path / "report.json"
    process = demo(environment, "--report", str(report))
    out, err = process.communicate(timeout=400)
    assert process.returncode == 0, out + err
    figures = json.loads(report.read_text())
    assert figures["passed"] is True
    assert figures["stream_intact"] is True
    assert figures["ram_checksums_agree"] is True
    assert figures["one_copy"] is True
    assert len(figures["moves"]) == 3
    assert all(move["blackout_ms"] > 0 and move["bytes_sent"] > 0 for move in figures["moves"])
    assert figures["pings_sent"] > 100
    assert figures["longest_gap_ms"] >= max(move["gap_ms"] for move in figures["moves"])
    assert list(tmp_path.glob("wherry-demo-*")) == []


@pytest.mark.parametrize("at", ["join 3 nodes", "boot two guests", "measure the network"])
def test_interrupt_cleans_up(environment: dict[str, str], tmp_path: Path, at: str) -> None:
    process = demo(environment)
    assert process.stderr is not None
    for line in process.stderr:
        if at in line:
            break
    (folder,) = tmp_path.glob("wherry-demo-*")
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=120)
    assert process.returncode == 130, err
    assert "everything that was started is stopped" in err
    assert guest_processes(folder) == {}
    assert processes_with(str(folder)) == []
    assert not folder.exists()


def processes_with(text: str) -> list[str]:
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                line = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
            except OSError:
                continue
            if text in line:
                found.append(line)
    return found
