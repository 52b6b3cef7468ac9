"""apt's source files: both formats, as hosts really have them."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wherry.image import sources
from wherry.image.sources import Source

DEB822 = """# a comment
Types: deb
# another, between fields
URIs: http://mirror.example/debian
Suites: bookworm bookworm-updates
Components: main
Signed-By: /usr/share/keyrings/debian-archive-keyring.gpg

Types: deb deb-src
URIs: http://mirror.example/debian-security https://other.example/security
Suites: bookworm-security
Components: main
 contrib
Signed-By:
 -----BEGIN PGP PUBLIC KEY BLOCK-----
 .
 -----END PGP PUBLIC KEY BLOCK-----

Types: deb
Enabled: no
URIs: http://off.example
Suites: bookworm
Components: main
"""


def test_deb822() -> None:
    found = list(sources.parse_deb822(DEB822))
    keyring = "/usr/share/keyrings/debian-archive-keyring.gpg"
    assert found == [
        Source("http://mirror.example/debian", ("bookworm", "bookworm-updates"), ("main",), keyring),
        Source("http://mirror.example/debian-security", ("bookworm-security",), ("main", "contrib")),
        Source("https://other.example/security", ("bookworm-security",), ("main", "contrib")),
    ]


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("deb http://m/debian trixie main", Source("http://m/debian", ("trixie",), ("main",))),
        (
            "deb [arch=amd64 signed-by=/k.gpg] http://m/debian trixie main contrib # why",
            Source("http://m/debian", ("trixie",), ("main", "contrib"), "/k.gpg"),
        ),
        (
            "deb mirror+file:/etc/apt/mirrors/debian.list sid main",
            Source("mirror+file:/etc/apt/mirrors/debian.list", ("sid",), ("main",)),
        ),
        ("deb-src http://m/debian trixie main", None),
        ("# deb http://m/debian trixie main", None),
        ("deb http://m/debian", None),
        ("", None),
    ],
)
def test_one_line(line: str, expected: Source | None) -> None:
    assert list(sources.parse_one_line(line)) == ([expected] if expected else [])


@given(st.text())
def test_hostile_text_is_no_crash(text: str) -> None:
    list(sources.parse_one_line(text))
    list(sources.parse_deb822(text))


def test_read_all_takes_both_kinds_and_nothing_else(tmp_path: Path) -> None:
    parts = tmp_path / "sources.list.d"
    parts.mkdir()
    (tmp_path / "sources.list").write_text("deb http://a/debian trixie main\n")
    (parts / "b.sources").write_text("Types: deb\nURIs: http://b\nSuites: trixie\nComponents: main\n")
    (parts / "c.list.save").write_text("deb http://c trixie main\n")
    (parts / "d.list").write_text("deb http://d trixie main\n")
    assert [source.uri for source in sources.read_all(tmp_path)] == ["http://a/debian", "http://b", "http://d"]


def test_the_whole_archive_is_picked() -> None:
    found = [
        Source("http://vendor", ("stable-ish",), ("main",)),
        Source("http://security", ("bookworm-security",), ("main",)),
        Source("http://archive", ("bookworm", "bookworm-updates"), ("main",), "/k.gpg"),
    ]
    assert sources.debian_source(found, "bookworm") is found[2]
    assert sources.debian_source(found[:2], "bookworm") is None


def test_keyring_falls_back_to_what_is_installed(tmp_path: Path) -> None:
    installed = tmp_path / "archive.gpg"
    named = tmp_path / "named.gpg"
    installed.write_bytes(b"k")
    source = Source("u", (), (), str(named))
    assert sources.keyring(source, (installed,)) == installed
    named.write_bytes(b"k")
    assert sources.keyring(source, (installed,)) == named
    assert sources.keyring(None, ()) is None
