"""The command line: exit codes, one-line errors, tables and JSON. The API is scripted; no network."""

from __future__ import annotations

import contextlib
import json
import os
import pty
import subprocess
import sys
import termios
from collections.abc import Callable
from pathlib import Path

import httpx
import pytest

from wherry import cli, client, paths, units
from wherry.commands import console, daemons, doctor, moves
from wherry.errors import UsageProblem, WherryError

Answer = Callable[[httpx.Request], httpx.Response]
GUEST = {"name": "web", "state": "running", "node": "n1", "memory": 268435456, "nics": [{"address": "10.0.0.2/24"}]}


@pytest.fixture
def run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfdbinary: pytest.CaptureFixture[bytes]
) -> Callable[..., tuple[int, str, str]]:
    """``run(args, answer)`` → exit code, stdout, stderr, in a fresh home with a scripted coordinator."""
    monkeypatch.setenv("WHERRY_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("WHERRY_API", "http://scripted")
    monkeypatch.setattr(sys, "stdout", open(1, "w", closefd=False))  # noqa: SIM115
    monkeypatch.setattr(sys, "stderr", open(2, "w", closefd=False))  # noqa: SIM115

    def call(*arguments: str, answer: Answer | None = None) -> tuple[int, str, str]:
        made = client.httpx.AsyncClient

        def scripted(**options: object) -> httpx.AsyncClient:
            transport = httpx.MockTransport(answer or (lambda request: httpx.Response(500)))
            return made(**{**options, "transport": transport})  # type: ignore[arg-type]

        monkeypatch.setattr(client.httpx, "AsyncClient", scripted)
        monkeypatch.setattr(sys, "argv", ["wherry", *arguments])
        try:
            with pytest.raises(SystemExit) as caught:
                cli.main()
        finally:
            monkeypatch.setattr(client.httpx, "AsyncClient", made)
        sys.stdout.flush()
        sys.stderr.flush()
        captured = capfdbinary.readouterr()
        code = caught.value.code
        return code if isinstance(code, int) else 0, captured.out.decode(), captured.err.decode()

    return call


Run = Callable[..., tuple[int, str, str]]


def test_every_command_has_help_with_an_example(run: Run) -> None:
    for name, command in cli.cli.commands.items():
        if name in ("coordinator", "node"):
            continue
        for path in [[name], *([name, sub] for sub in getattr(command, "commands", {}))]:
            code, out, _ = run(*path, "--help")
            assert code == 0
            assert out.startswith("Usage: wherry")
            if not hasattr(command, "commands") or len(path) == 2:
                assert "Example: wherry" in out, path


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("nonsense",), "No such command"),
        (("run",), "--name"),
        (("run", "--name", "a", "--image", "b", "--memory", "lots"), "--memory 'lots'"),
        (("run", "--name", "a", "--image", "b", "--cpus", "99"), "--cpus"),
        (("run", "--name", "a", "--image", "b", "--cpu", "z80"), "--cpu"),
        (("image", "import", "--name", "x"), "nothing to import"),
        (("image", "build", "gentoo"), "debian"),
        (("token", "create", "--ttl", "soon"), "--ttl 'soon'"),
        (("token", "create", "--name", "ci"), "--name goes with --role"),
        (("token", "create", "--role", "king"), "--role"),
    ],
)
def test_usage_errors_exit_with_2(run: Run, arguments: tuple[str, ...], says: str) -> None:
    code, out, err = run(*arguments)
    assert (code, out) == (2, "")
    assert says in err


def test_failures_exit_with_1_and_one_line(run: Run) -> None:
    body = {"error": {"code": "not_found", "field": "name", "message": "no guest web"}}
    code, out, err = run("stop", "web", answer=lambda request: httpx.Response(404, json=body))
    assert (code, out, err) == (1, "", "wherry: name: no guest web\n")


def test_ps(run: Run) -> None:
    code, out, _ = run("ps", answer=lambda request: httpx.Response(200, json={"guests": [GUEST]}))
    assert code == 0
    header, row = out.splitlines()
    assert header.split()[:4] == ["NAME", "STATE", "NODE", "ADDRESS"]
    assert row.split()[:5] == ["web", "running", "n1", "10.0.0.2", "256M"]
    _, out, _ = run("ps", "--json", answer=lambda request: httpx.Response(200, json={"guests": [GUEST]}))
    assert json.loads(out)[0]["name"] == "web"


@pytest.mark.parametrize(("guest_code", "ours"), [(0, 0), (7, 7), (-9, 137)])
def test_exec_gives_output_and_status(run: Run, guest_code: int, ours: int) -> None:
    def answer(request: httpx.Request) -> httpx.Response:
        assert json.loads(request.content)["argv"] == ["sh", "-c", "echo --help"]
        return httpx.Response(200, json={"exit_code": guest_code, "stdout_b64": "b3V0Cg==", "stderr_b64": "ZXJyCg=="})

    assert run("exec", "web", "--", "sh", "-c", "echo --help", answer=answer) == (ours, "out\n", "err\n")


def test_migrate_waits_and_sums_up(run: Run) -> None:
    result = {"rounds": 2, "bytes_sent": 1 << 20, "blackout_ms": 12.34, "source_checksum": "a", "target_checksum": "b"}

    def answer(request: httpx.Request) -> httpx.Response:
        if request.url.path.endswith("/migrate"):
            assert json.loads(request.content) == {"to": "n2", "max_blackout_ms": 30.0, "verify": True}
            return httpx.Response(202, json={"id": "op-1", "kind": "migrate", "state": "running"})
        if request.url.path.startswith("/v1/operations"):
            return httpx.Response(200, json={"id": "op-1", "kind": "migrate", "state": "succeeded", "result": result})
        return httpx.Response(200, json={**GUEST, "node": "n2", "generation": 2})

    code, out, _ = run("migrate", "web", "--to", "n2", "--verify", answer=answer)
    assert code == 0
    assert "now on n2, generation 2" in out
    assert "12.3 ms" in out
    assert "DIFFERENT" in out


def test_explain_marks_the_chosen_node(run: Run) -> None:
    verdicts = [
        {"node": "n1", "fits": True, "score": 0.5, "reasons": ["free"]},
        {"node": "n2", "fits": False, "score": 0, "reasons": ["memory"]},
    ]

    def answer(request: httpx.Request) -> httpx.Response:
        if request.url.path == "/v1/images":
            return httpx.Response(200, json={"images": [{"name": "debian"}]})
        chosen = "n1" if json.loads(request.content)["memory"] < 1 << 30 else None
        return httpx.Response(200, json={"placement": {"chosen": chosen, "nodes": verdicts}})

    code, out, _ = run("run", "--name", "a", "--image", "debian", "--explain", answer=answer)
    assert code == 0
    assert out.splitlines()[1].split() == ["->", "n1", "yes", "0.50", "free"]
    code, _, err = run("run", "--name", "a", "--image", "debian", "--explain", "--memory", "2G", answer=answer)
    assert (code, err) == (1, "wherry: no node fits\n")


def test_images_without_any(run: Run) -> None:
    code, out, err = run("image", "list")
    assert (code, out) == (0, "")
    assert "wherry image build debian" in err
    code, _, err = run("image", "rm", "zz")
    assert (code, err) == (1, "wherry: image 'zz': not in the library; there are: none\n")


def test_import_then_list(run: Run, tmp_path: Path) -> None:
    firmware = tmp_path / "fw.bin"
    firmware.write_bytes(b"\x13\0\0\0")
    assert run("image", "import", "--name", "fw", "--firmware", str(firmware))[0] == 0
    _, out, _ = run("image", "list", "--json")
    (made,) = json.loads(out)
    assert (made["name"], made["kind"], made["size"]) == ("fw", "firmware", 4)


def test_a_newer_state_folder_is_refused(run: Run, tmp_path: Path) -> None:
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "VERSION").write_text("2\n")
    code, _, err = run("image", "list")
    assert code == 1
    assert "VERSION is '2': written by a newer release" in err
    with pytest.raises(WherryError):
        paths.open_state(tmp_path / "home")


@pytest.mark.parametrize("command", ["coordinator", "node"])
def test_daemons_get_their_flags_unread(run: Run, monkeypatch: pytest.MonkeyPatch, command: str) -> None:
    became: list[list[str]] = []

    def exec_(path: str, arguments: list[str]) -> None:
        became.append(arguments)
        sys.exit(0)

    monkeypatch.setattr(daemons.os, "execv", exec_)
    run(command, "--help")
    run(command, "--name", "n1", "--join", "t@h:1")
    assert became == [
        [sys.executable, "-P", "-m", command, "--help"],
        [sys.executable, "-P", "-m", command, "--name", "n1", "--join", "t@h:1"],
    ]


@pytest.mark.parametrize(
    ("text", "count"),
    [("256M", 256 << 20), ("1g", 1 << 30), ("1.5K", 1536), ("4096", 4096), ("2 GiB", 2 << 30), ("3kb", 3072)],
)
def test_sizes(text: str, count: int) -> None:
    assert units.parse_size(text) == count


@pytest.mark.parametrize("text", ["", "M", "-1M", "1e3", "1X", "١M "])
def test_bad_sizes(text: str) -> None:
    with pytest.raises(UsageProblem):
        units.parse_size(text + "!")


def test_times_and_their_look() -> None:
    assert units.parse_seconds("15m") == 900
    assert units.parse_seconds("30ms") == 0.03
    assert [units.size(n) for n in (0, 1023, 1536, 256 << 20)] == ["0B", "1023B", "1.5K", "256M"]
    assert [units.duration(s) for s in (0.25, 61, 7300, 200000)] == ["0.25s", "61s", "2h", "2d"]
    with pytest.raises(UsageProblem):
        units.parse_seconds("soon")


def test_the_leave_key() -> None:
    assert console.split_leave(b"abc") == (b"abc", False)
    assert console.split_leave(b"ab\x1dcd") == (b"ab", True)


def test_raw_mode_comes_back() -> None:
    leader, terminal = pty.openpty()
    try:
        before = termios.tcgetattr(terminal)
        with contextlib.suppress(RuntimeError), console.raw_terminal(terminal) as is_terminal:
            assert is_terminal
            assert not termios.tcgetattr(terminal)[3] & termios.ICANON
            raise RuntimeError
        assert termios.tcgetattr(terminal) == before
    finally:
        os.close(leader)
        os.close(terminal)


def test_summary_leaves_out_what_is_not_there() -> None:
    assert moves.summary({}) == []
    assert moves.summary({"rounds": 1}) == [("rounds", "1", "")]


def test_doctor_tells_each_check(run: Run) -> None:
    code, out, _ = run("doctor", "--json")
    found = {item["check"]: item["state"] for item in json.loads(out)}
    assert {"python", "libraries", "C core", "tunnels", "apt", "TAP", "state", "memory", "ports", "API"} == set(found)
    assert found["API"] == "warn"
    assert code == (1 if "fail" in found.values() else 0)


def test_doctor_finds_what_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor.shutil, "which", lambda name: None)
    assert doctor.check_apt().state == "warn"
    monkeypatch.setattr(doctor, "_LIBRARIES", ("no-such-library",))
    assert doctor.check_libraries().message.startswith("missing: no-such-library")


def test_the_module_and_a_folder_with_traps(tmp_path: Path) -> None:
    """A node.py of the user's own is not ours to run."""
    for name in ("node.py", "protocol.py", "coordinator.py"):
        (tmp_path / name).write_text("raise SystemExit('wrong file')\n")
    done = subprocess.run(
        [sys.executable, "-P", "-m", "wherry", "--version"], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0
    assert done.stdout.startswith("wherry")


CA = {
    "state": "overlap",
    "fingerprint": "n" * 52,
    "expires": 2.0e9,
    "rotates": 1.9e9,
    "old": {"fingerprint": "o" * 52, "expires": 1.8e9},
    "nodes": [
        {"name": "n1", "state": "alive", "follows": True, "reason": ""},
        {"name": "n3", "state": "lost", "follows": False, "reason": "is away"},
    ],
    "pem": "-----BEGIN CERTIFICATE-----\n",
}


def test_ca_commands(run: Run) -> None:
    asked: list[tuple[str, str, bytes]] = []

    def answer(request: httpx.Request) -> httpx.Response:
        asked.append((request.method, request.url.path, request.content))
        if request.url.path.endswith("finish") and b"true" not in request.content:
            return httpx.Response(409, json={"error": {"code": "conflict", "message": "n3 (is away)"}})
        return httpx.Response(200, json=CA)

    code, out, _ = run("ca", "show", answer=answer)
    assert code == 0
    assert out.splitlines()[0].startswith(f"CA     {'n' * 52}, until 2033-05-1")
    assert f"old    {'o' * 52}" in out
    assert [line.split() for line in out.splitlines()[-2:]] == [
        ["n1", "alive", "yes", "-"],
        ["n3", "lost", "no", "is", "away"],
    ]
    assert run("ca", "show", "--pem", answer=answer)[1] == CA["pem"]
    assert json.loads(run("ca", "show", "--json", answer=answer)[1]) == CA
    assert run("ca", "rotate", answer=answer)[0] == 0
    code, out, err = run("ca", "finish", answer=answer)
    assert (code, out) == (1, "")
    assert "n3 (is away)" in err
    assert run("ca", "finish", "--force", answer=answer)[0] == 0
    assert [(method, path) for method, path, _ in asked[3:]] == [
        ("POST", "/v1/ca/rotate"),
        ("POST", "/v1/ca/finish"),
        ("POST", "/v1/ca/finish"),
    ]


def test_token_commands(run: Run) -> None:
    asked: list[tuple[str, str, bytes]] = []
    api = {"id": "abc", "name": "ci", "role": "viewer", "created": 1.0, "expires": None}
    join = {"id": "def", "state": "used", "created": 2.0, "expires": 3.0}

    def answer(request: httpx.Request) -> httpx.Response:
        asked.append((request.method, request.url.path, request.content))
        if request.method == "DELETE":
            return httpx.Response(200, json={"removed": "abc"})
        if request.method == "POST":
            return httpx.Response(201, json={**api, "token": "wh_abc_secret"})
        tokens = [join] if "join" in request.url.path else [api, {**api, "id": "old", "expires": 5.0}]
        return httpx.Response(200, json={"tokens": tokens})

    assert run("token", "create", "--role", "viewer", "--name", "ci", "--ttl", "1h", answer=answer)[:2] == (
        0,
        "wh_abc_secret\n",
    )
    assert asked[0][:2] == ("POST", "/v1/tokens")
    assert json.loads(asked[0][2]) == {"name": "ci", "role": "viewer", "ttl_s": 3600.0}
    run("token", "create", "--role", "admin", answer=answer)
    assert json.loads(asked[1][2]) == {"name": "admin", "role": "admin", "ttl_s": None}
    code, out, _ = run("token", "ls", answer=answer)
    assert code == 0
    assert [line.split()[:4] for line in out.splitlines()[1:]] == [
        ["abc", "viewer", "ci", "ever"],
        ["old", "viewer", "ci", "expired"],
        ["def", "join", "-", "used"],
    ]
    listed = json.loads(run("token", "ls", "--json", answer=answer)[1])
    assert [(t["kind"], t["id"]) for t in listed] == [("api", "abc"), ("api", "old"), ("join", "def")]
    assert all("token" not in t for t in listed)
    assert run("token", "revoke", "abc", answer=answer)[1] == "abc: revoked\n"
    assert asked[-1][:2] == ("DELETE", "/v1/tokens/abc")


def test_migrations_and_their_report(run: Run, tmp_path: Path) -> None:
    report = {
        "migration": "m-1",
        "guest": "web",
        "source": "n1",
        "target": "n2",
        "outcome": "committed",
        "ended": 1.0,
        "rounds": 3,
        "bytes_sent": 5 << 20,
        "total_ms": 321.0,
        "blackout_ms": 4.5,
        "throttle": 60,
        "columns": ["elapsed_ms", "phase", "round", "bytes_sent", "dirty_pages", "throttle"],
        "samples": [[0, "copy", 1, 0, 9, 0], [300, "copy", 3, 5 << 20, 1, 60]],
    }

    def answer(request: httpx.Request) -> httpx.Response:
        if request.url.path == "/v1/guests/web/migrations":
            return httpx.Response(200, json={"migrations": [report]})
        assert request.url.path == "/v1/migrations/m-1"
        return httpx.Response(200, json=report)

    code, out, _ = run("migrations", "web", answer=answer)
    assert code == 0
    assert "4.5 ms" in out
    assert "60 %" in out
    page = tmp_path / "move.html"
    code, out, _ = run("migration", "report", "m-1", "--html", str(page), answer=answer)
    assert code == 0
    assert "<svg" in page.read_text()
    code, out, _ = run("migration", "report", "m-1", answer=answer)
    assert "321 ms" in out
    assert run("migration", "report", "m-1", "--html", str(tmp_path / "no" / "x"), answer=answer)[0] == 2


def test_a_dry_run_prints_what_it_would_take(run: Run) -> None:
    estimate = {
        "target": "n2",
        "mode": "precopy",
        "reason": "",
        "throttle": 70,
        "predicted": {"rounds": 4, "bytes": 1 << 20, "total_ms": 99.0, "blackout_ms": 3.0, "converges": True},
        "resident_pages": 17,
        "dirty_rate": 100.0,
        "dirty_pages": 50,
        "bytes_per_s": 2e8,
        "rate_from": "probe",
    }

    def answer(request: httpx.Request) -> httpx.Response:
        body = json.loads(request.content)
        assert (body["dry_run"], body["mode"], body["deadline_s"]) == (True, "auto", 90.0)
        return httpx.Response(200, json={"estimate": estimate})

    code, out, _ = run("migrate", "web", "--dry-run", "--mode", "auto", "--deadline", "90s", answer=answer)
    assert code == 0
    for word in ("precopy", "moved", "200 MB/s (a probe)", "99 ms", "70 %"):
        assert word in out


def test_all_guests_of_a_node_can_be_moved(run: Run) -> None:
    def answer(request: httpx.Request) -> httpx.Response:
        if request.url.path == "/v1/nodes/n1/migrate":
            body = json.loads(request.content)
            assert (body["to"], body["parallel"], body["mode"]) == ("n2", 3, "hybrid")
            return httpx.Response(202, json={"id": "op-1", "kind": "move-all", "state": "running"})
        result = {"moved": ["db", "web"]}
        return httpx.Response(200, json={"id": "op-1", "kind": "move-all", "state": "succeeded", "result": result})

    wish = ("--to", "n2", "--parallel", "3", "--mode", "hybrid")
    code, out, _ = run("migrate", "--all", "--from", "n1", *wish, answer=answer)
    assert code == 0
    assert "n1: moved: db web" in out
    for wrong in (("--all",), ("--all", "--from", "n1", "web"), ("web", "--from", "n1"), ()):
        assert run("migrate", *wrong, answer=answer)[0] == 2
