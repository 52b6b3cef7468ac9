"""What a coordinator is told at its start. Flags first, then the environment, then defaults."""

from __future__ import annotations

import argparse
import os
from dataclasses import dataclass
from pathlib import Path

LINK_PORT = 7450
API_PORT = 7451


@dataclass(frozen=True, slots=True)
class Config:
    """Addresses are (host, port). ``*_asked``: a busy port is then an error instead of a reason to take a free one."""

    state: Path
    cli_file: Path | None
    link: tuple[str, int] = ("0.0.0.0", LINK_PORT)
    api: tuple[str, int] = ("127.0.0.1", API_PORT)
    link_asked: bool = False
    api_asked: bool = False
    advertise: str = ""  # the host that nodes are told to dial
    log_format: str = "text"
    silence_s: float = 15.0
    link_grace_s: float = 5.0
    token_ttl_s: float = 3600.0


def home() -> Path:
    return Path(os.environ.get("WHERRY_HOME") or Path.home() / ".local" / "share" / "wherry")


def parse_address(text: str, default_port: int, option: str = "address") -> tuple[str, int]:
    """``HOST``, ``HOST:PORT``, ``:PORT``, ``[V6]:PORT``; port 0 takes a free one. ValueError says what is wrong."""
    host, port = text, default_port
    if text.startswith("["):
        host, bracket, rest = text[1:].partition("]")
        if not bracket or (rest and not rest.startswith(":")):
            raise ValueError(f"{option} {text!r}: expected [V6]:PORT")
        port = _port(text, rest[1:], option) if rest else default_port
    elif text.count(":") == 1:
        host, _, tail = text.partition(":")
        port = _port(text, tail, option)
    return host or "0.0.0.0", port


def _port(text: str, tail: str, option: str) -> int:
    if not (tail.isascii() and tail.isdigit()) or int(tail) > 65535:
        raise ValueError(f"{option} {text!r}: the port must be 0 to 65535")
    return int(tail)


def join_host(host: str, port: int) -> str:
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def _seconds(text: str) -> float:
    value = float(text)
    if not 0.1 <= value <= 86400 * 365:
        raise argparse.ArgumentTypeError("must be 0.1 to 31536000 seconds")
    return value


def parser() -> argparse.ArgumentParser:
    out = argparse.ArgumentParser(
        prog="wherry coordinator",
        description="The control plane of a cluster: decides where guests run, serves the HTTP API and the nodes.",
        epilog="Example: wherry coordinator --link 192.0.2.1:7450",
    )
    out.add_argument("--state", type=Path, help="state folder (default: $WHERRY_HOME/coordinator)")
    out.add_argument("--link", metavar="HOST:PORT", help=f"where nodes dial (default 0.0.0.0:{LINK_PORT})")
    out.add_argument("--api", metavar="HOST:PORT", help=f"HTTP API (default 127.0.0.1:{API_PORT}; TLS if not loopback)")
    out.add_argument("--advertise", metavar="HOST", default="", help="host that nodes are told to dial")
    out.add_argument("--cli-file", type=Path, help="where the local user's access is written ($WHERRY_HOME/cli.json)")
    out.add_argument("--no-cli-file", action="store_true", help="write no access file")
    out.add_argument("--log-format", choices=("text", "json"), default="text")
    out.add_argument("--lost-after", type=_seconds, default=15.0, metavar="S", help="silence that makes a node lost")
    out.add_argument("--link-grace", type=_seconds, default=5.0, metavar="S", help="link loss that makes a node lost")
    out.add_argument("--token-ttl", type=_seconds, default=3600.0, metavar="S", help="life of the first join token")
    return out


def parse(argv: list[str]) -> Config:
    """The configuration, or exit status 2 with a usage message."""
    p = parser()
    args = p.parse_args(argv)
    try:
        link = parse_address(args.link, LINK_PORT, "--link") if args.link else ("0.0.0.0", LINK_PORT)
        api = parse_address(args.api, API_PORT, "--api") if args.api else ("127.0.0.1", API_PORT)
    except ValueError as exc:
        p.error(str(exc))
    return Config(
        state=args.state or home() / "coordinator",
        cli_file=None if args.no_cli_file else args.cli_file or home() / "cli.json",
        link=link,
        api=api,
        link_asked=args.link is not None and link[1] != 0,
        api_asked=args.api is not None and api[1] != 0,
        advertise=args.advertise,
        log_format=args.log_format,
        silence_s=args.lost_after,
        link_grace_s=args.link_grace,
        token_ttl_s=args.token_ttl,
    )
