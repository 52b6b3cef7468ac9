"""Which Debian mirror and keyring this host uses: a reader of apt's own source files.

Both formats of sources.list(5) are read: deb822 (``*.sources``) and one line per source (``*.list``). Only what is
needed to point a private apt at the same archive is kept.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

_ONE_LINE = re.compile(
    r"^deb\s+(?:\[(?P<options>[^\]]*)\]\s+)?(?P<uri>\S+)\s+(?P<suite>\S+)(?P<components>(?:\s+\S+)*)\s*$"
)
KEYRINGS = (
    Path("/usr/share/keyrings/debian-archive-keyring.pgp"),
    Path("/usr/share/keyrings/debian-archive-keyring.gpg"),
    Path("/etc/apt/trusted.gpg.d/debian-archive-keyring.gpg"),
)


@dataclass(frozen=True)
class Source:
    """One ``deb`` source. ``signed_by`` is a keyring's path, or "" where the source names none."""

    uri: str
    suites: tuple[str, ...]
    components: tuple[str, ...]
    signed_by: str = ""


def parse_one_line(text: str) -> Iterator[Source]:
    """Sources of a ``.list`` file; lines that are no ``deb`` source are skipped, as apt's own tools do for comments."""
    for line in text.splitlines():
        match = _ONE_LINE.match(line.split("#", 1)[0].strip())
        if match is None:
            continue
        signed = ""
        for option in (match["options"] or "").split():
            key, _, value = option.partition("=")
            if key.lower() == "signed-by" and value.startswith("/"):
                signed = value.split(",")[0]
        yield Source(match["uri"], (match["suite"],), tuple(match["components"].split()), signed)


def parse_deb822(text: str) -> Iterator[Source]:
    """Sources of a ``.sources`` file: stanzas of ``Key: value`` with continuation lines."""
    for stanza in re.split(r"\n\s*\n", text):
        fields: dict[str, str] = {}
        key = ""
        for line in stanza.splitlines():
            if line.startswith("#") or not line.strip():
                continue
            if line[0] in " \t":
                fields[key] = fields.get(key, "") + "\n" + line.strip()
                continue
            name, _, value = line.partition(":")
            key = name.strip().lower()
            fields[key] = value.strip()
        if "deb" not in fields.get("types", "").split() or fields.get("enabled", "yes").lower() in ("no", "false"):
            continue
        signed = fields.get("signed-by", "")
        signed = signed.split()[0] if signed.startswith("/") else ""
        for uri in fields.get("uris", "").split():
            yield Source(
                uri, tuple(fields.get("suites", "").split()), tuple(fields.get("components", "").split()), signed
            )


def read_all(etc_apt: Path = Path("/etc/apt")) -> list[Source]:
    """Every enabled ``deb`` source of this host, in apt's order."""
    found: list[Source] = []
    files = [etc_apt / "sources.list", *sorted((etc_apt / "sources.list.d").glob("*"))]
    for file in files:
        if file.suffix not in (".list", ".sources") or not file.is_file():
            continue
        text = file.read_text(errors="replace")
        found.extend(parse_deb822(text) if file.suffix == ".sources" else parse_one_line(text))
    return found


def debian_source(sources: list[Source], codename: str) -> Source | None:
    """The host's Debian archive: the first source of its own release with component main.

    The bare codename (or ``stable`` …) is looked for, so that the security and updates archives, which do not hold a
    whole suite, are passed over.
    """
    names = {codename, "stable", "testing", "unstable", "sid", "oldstable"} - {""}
    for source in sources:
        if "main" in source.components and names.intersection(source.suites):
            return source
    return None


def keyring(source: Source | None, candidates: tuple[Path, ...] = KEYRINGS) -> Path | None:
    """The keyring that the source names, else the one that package debian-archive-keyring installs."""
    named = (Path(source.signed_by),) if source is not None and source.signed_by else ()
    return next((path for path in (*named, *candidates) if path.is_file()), None)
