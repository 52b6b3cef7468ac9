"""``python -P -m node``: run an agent. Exit codes: 0 stopped by a signal, 1 failure, 2 usage."""

from __future__ import annotations

import argparse
import gc
import json
import logging
import signal
import sys
import time
from pathlib import Path

import trio

from node.agent import Agent
from node.config import (
    Config,
    ConfigError,
    bind_pair,
    default_state,
    open_state,
    parse_listen,
    parse_size,
    parse_switch_workers,
)
from node.core import CoreError
from node.identity import Identity, IdentityError, join, split_join

REGISTER_WAIT_S = 10.0  # a coordinator that is away does not keep the agent from serving its guests


def arguments(argv: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="wherry node", description="Run this host's agent.")
    parser.add_argument("--name", help="this node's name (default: the host's)")
    parser.add_argument("--join", metavar="TOKEN@HOST:PORT", help="join a cluster (first start only)")
    parser.add_argument("--state", metavar="DIR", type=Path, help="state folder")
    parser.add_argument("--listen", metavar="HOST:PORT", help="link and tunnel address (default 0.0.0.0:7460)")
    parser.add_argument(
        "--advertise", metavar="HOST[:PORT]", default="", help="address under which others reach this host"
    )
    parser.add_argument("--coordinator", metavar="HOST:PORT", default="", help="dial this one instead")
    parser.add_argument("--memory", metavar="SIZE", default="0", help="memory offered to guests, as 8G")
    parser.add_argument(
        "--keep", metavar="SIZE", help="memory kept of guests that have left (default: 1/8 of --memory)"
    )
    parser.add_argument(
        "--dedup",
        choices=("all", "own", "off"),
        default="all",
        help="pages that are here need not be sent: any guest's, only those of the arriving guest's earlier stay, none",
    )
    parser.add_argument(
        "--switch-workers",
        metavar="N",
        help="threads that forward frames, 8 at most (default: one for each 8 cores, 1 at least and 4 at most)",
    )
    parser.add_argument("--log-format", choices=("text", "json"), default="text")
    parser.add_argument("--log-level", choices=("debug", "info", "warning", "error"), default="info")
    return parser.parse_args(argv)


class JsonFormatter(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        line = {
            "time": round(record.created, 3),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return json.dumps(line)


def set_up_logging(style: str, level: str) -> None:
    handler = logging.StreamHandler(sys.stderr)
    text = logging.Formatter("%(asctime)s %(levelname)s %(name)s %(message)s")
    text.converter = time.gmtime
    handler.setFormatter(JsonFormatter() if style == "json" else text)
    logging.basicConfig(level=level.upper(), handlers=[handler])
    logging.getLogger("httpx").setLevel("WARNING")


def configure(args: argparse.Namespace) -> Config:
    name = args.name or _host_name()
    host, port = parse_listen(args.listen) if args.listen else ("0.0.0.0", None)
    return Config(
        state=(args.state or default_state(name)).resolve(),
        name=name,
        host=host,
        port=port,
        advertise=args.advertise,
        coordinator=args.coordinator,
        memory=parse_size(args.memory),
        keep=None if args.keep is None else parse_size(args.keep),
        dedup=args.dedup,
        switch_workers=parse_switch_workers(args.switch_workers),
    )


def _host_name() -> str:
    import re
    import socket

    return re.sub(r"[^a-z0-9-]+", "-", socket.gethostname().lower()).strip("-")[:63] or "node"


async def serve(config: Config, join_to: str | None) -> None:
    """Join when needed, run the agent, print the ready line; returns on SIGTERM or SIGINT."""
    with trio.open_signal_receiver(signal.SIGTERM, signal.SIGINT) as signals:
        async with trio.open_nursery() as nursery:

            async def stop_on_signal() -> None:
                async for _ in signals:
                    nursery.cancel_scope.cancel()
                    return

            nursery.start_soon(stop_on_signal)
            identity = Identity.load(config.state / "identity")
            if identity is None:
                if join_to is None:
                    raise IdentityError(f"{config.state} has joined no cluster: --join TOKEN@HOST:PORT is wanted")
                token, address = split_join(join_to)
                identity = await join(config.state / "identity", token, address, config.name)
            elif join_to is not None:
                logging.getLogger("wherry.node").info("node=%d has joined already, --join is ignored", identity.node)
            tcp, udp = bind_pair(config.host, config.port)
            agent = Agent(config, identity, tcp, udp)
            await nursery.start(agent.run)
            gc.freeze()  # what the start made stays: a collection in a migration's pause need not look at it
            with trio.move_on_after(REGISTER_WAIT_S):
                await agent.registered.wait()
            ready = {
                "name": identity.name,
                "node": identity.node,
                "link": agent.address,
                "tunnel": agent.address,
                "state": str(config.state),
                "registered": agent.registered.is_set(),
            }
            if sys.stdout.isatty():
                known = "in the cluster" if agent.registered.is_set() else "no coordinator yet, dialling on"
                print(f"node {identity.name} serves at {agent.address}: {known}", flush=True)
            else:
                print("ready " + json.dumps(ready), flush=True)


def main(argv: list[str]) -> int:
    args = arguments(argv)
    set_up_logging(args.log_format, args.log_level)
    try:
        config = configure(args)
        if args.join:
            split_join(args.join)
    except (ConfigError, IdentityError) as error:
        print(f"wherry node: {error}", file=sys.stderr)
        return 2
    failed = False
    try:
        _lock = open_state(config.state)  # held until the process ends
        trio.run(serve, config, args.join)
    except* (ConfigError, IdentityError, CoreError) as group:
        for leaf in _leaves(group):
            print(f"wherry node: {leaf}", file=sys.stderr)
        failed = True
    return 1 if failed else 0


def _leaves(error: BaseException) -> list[BaseException]:
    if isinstance(error, BaseExceptionGroup):
        return [leaf for part in error.exceptions for leaf in _leaves(part)]
    return [error]


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
