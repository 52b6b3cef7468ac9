"""The private apt: its configuration, and what becomes of apt's answers. A scripted apt stands in for the real one."""

from __future__ import annotations

import os
import shutil
import stat
from hashlib import sha256
from pathlib import Path

import pytest

from wherry.errors import AptError, SignatureProblem
from wherry.image import apt, sources

FAKE = """#!/bin/sh
echo "$APT_CONFIG $*" >> {log}
case "$*" in
    *--print-uris*)
        echo "Reading package lists..."
        echo "'http://m/pool/a_1%3a2_riscv64.deb' a_1%3a2_riscv64.deb 5 SHA256:{a}"
        echo "'http://m/pool/b_3_all.deb' b_3_all.deb 3 SHA256:{b}" ;;
    *--download-only*)
        echo "dlstatus:1:50.0000:Retrieving file 1 of 2" >&{fd}
        {download} ;;
    *update*)
        {update} ;;
esac
"""


@pytest.fixture
def fake(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with scripted tools in front of PATH; returns the folder."""
    tools = tmp_path / "tools"
    tools.mkdir()
    for name in ("apt-config", "dpkg-deb"):
        write_tool(tools / name, "#!/bin/sh\necho 'Acquire::http::Proxy \"http://proxy:3128\";'\n")
    monkeypatch.setenv("PATH", f"{tools}{os.pathsep}{os.environ['PATH']}")
    script(tools)
    return tools


def write_tool(path: Path, text: str) -> None:
    path.write_text(text)
    path.chmod(path.stat().st_mode | stat.S_IXUSR)


def script(tools: Path, download: str = ":", update: str = ":") -> None:
    text = FAKE.replace("{a}", sha256(b"12345").hexdigest()).replace("{b}", sha256(b"123").hexdigest())
    text = text.replace("{log}", str(tools / "log")).replace("{download}", download).replace("{update}", update)
    # The status descriptor's number is in the arguments; a shell reaches it through /dev/fd.
    text = text.replace(">&{fd}", '> "/dev/fd/$(echo "$*" | sed -n \'s/.*Status-Fd=\\([0-9]*\\).*/\\1/p\')"')
    write_tool(tools / "apt-get", text)


def driver(tmp_path: Path) -> apt.Apt:
    keyring = tmp_path / "k.gpg"
    keyring.write_bytes(b"k")
    return apt.Apt(tmp_path / "apt", mirror="http://m/debian", suite="sid", keyring=keyring)


@pytest.mark.usefixtures("fake")
def test_configuration_is_private_and_keeps_the_hosts_transport(tmp_path: Path) -> None:
    made = driver(tmp_path)
    text = (made.folder / "apt.conf").read_text()
    assert 'Acquire::http::Proxy "http://proxy:3128";' in text
    assert f'Dir::State::status "{made.folder}/status";' in text
    assert 'Acquire::AllowInsecureRepositories "false";' in text
    line = (made.folder / "sources.list").read_text()
    assert line == f"deb [arch=riscv64 signed-by={tmp_path / 'k.gpg'}] http://m/debian sid main\n"


@pytest.mark.usefixtures("fake")
def test_another_architecture_and_a_suite_of_newer_versions(tmp_path: Path) -> None:
    keyring = tmp_path / "k.gpg"
    keyring.write_bytes(b"k")
    options = {"mirror": "http://m/debian", "suite": "sid", "keyring": keyring}
    made = apt.Apt(tmp_path / "apt", more_suites=("new",), architecture="amd64", **options)
    lines = (made.folder / "sources.list").read_text().splitlines()
    assert lines == [f"deb [arch=amd64 signed-by={keyring}] http://m/debian {suite} main" for suite in ("sid", "new")]
    assert 'APT::Default-Release "new";' in (made.folder / "apt.conf").read_text()
    assert "Architecture: amd64" in (made.folder / "status").read_text()


def test_resolve_and_download(tmp_path: Path, fake: Path) -> None:
    made = driver(tmp_path)
    script(
        fake,
        download=f"printf 12345 > '{made.archives}/a_1%3a2_riscv64.deb'; printf 123 > '{made.archives}/b_3_all.deb'",
    )
    assert [(p.name, p.size) for p in made.resolve(["a"])] == [("a", 5), ("b", 3)]
    told: list[tuple[float, str]] = []
    files = made.download(["a"], lambda percent, text: told.append((percent, text)))
    assert [file.name for file in files] == ["a_1%3a2_riscv64.deb", "b_3_all.deb"]
    assert told == [(50.0, "Retrieving file 1 of 2")]
    assert all(line.startswith(str(made.folder / "apt.conf")) for line in (fake / "log").read_text().splitlines())


def test_a_missing_or_tampered_file_is_an_error(tmp_path: Path, fake: Path) -> None:
    made = driver(tmp_path)
    with pytest.raises(AptError, match="did not leave it"):
        made.download(["a"])
    tampered = made.archives / "a_1%3a2_riscv64.deb"
    script(fake, download=f"printf 12346 > '{tampered}'")
    with pytest.raises(AptError, match="hash is not the signed one"):
        made.download(["a"])
    assert not tampered.exists()


def test_a_bad_signature_is_told_as_one(tmp_path: Path, fake: Path) -> None:
    script(fake, update="echo \"E: The repository 'http://m sid InRelease' is not signed.\"; exit 100")
    with pytest.raises(SignatureProblem, match="is not signed"):
        driver(tmp_path).update()


def test_other_failures_are_not(tmp_path: Path, fake: Path) -> None:
    script(fake, update='echo "E: Unable to locate package zz"; exit 100')
    with pytest.raises(AptError, match="locate package zz") as caught:
        driver(tmp_path).update()
    assert not isinstance(caught.value, SignatureProblem)


def test_a_mirror_in_the_middle_of_its_sync_is_told_as_one(tmp_path: Path, fake: Path) -> None:
    script(fake, update='echo "E: Failed to fetch Packages.xz  File has unexpected size (1 != 2)."; exit 100')
    with pytest.raises(AptError, match="between two states: try another --mirror"):
        driver(tmp_path).update()


def test_without_apt_the_import_way_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "which", lambda name: None)
    with pytest.raises(AptError, match=r"apt-get not found.*wherry image import"):
        apt.Apt(tmp_path)


@pytest.mark.usefixtures("fake")
def test_without_a_mirror_or_keyring(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sources, "read_all", list)
    with pytest.raises(AptError, match="--mirror"):
        apt.Apt(tmp_path / "apt")
    monkeypatch.setattr(sources, "keyring", lambda source: None)
    with pytest.raises(AptError, match="install debian-archive-keyring"):
        apt.Apt(tmp_path / "apt", mirror="http://m")


def test_host_codename(tmp_path: Path) -> None:
    file = tmp_path / "os-release"
    file.write_text('ID=debian\nVERSION_CODENAME="trixie"\n')
    assert apt.host_codename(file) == "trixie"
    assert apt.host_codename(tmp_path / "none") == ""
