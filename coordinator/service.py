"""The coordinator as one service: opens what it needs, serves nodes and people, ends when cancelled.

Order: state folder (locked), store, CA, sockets, then the link listener, then the journal's unfinished operations, then
the API; ``started`` is called last. Everything opened here is closed here, in reverse.
"""

from __future__ import annotations

import ipaddress
import logging
import os
import secrets
import socket
from collections.abc import AsyncIterator
from contextlib import ExitStack, asynccontextmanager
from dataclasses import dataclass
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import trio
from hypercorn.trio import serve as serve_http

from coordinator import statedir
from coordinator.api.app import make_app
from coordinator.api.deps import Services
from coordinator.attachments import Attachments
from coordinator.background import Errands
from coordinator.blobs import Blobs
from coordinator.ca import Authority
from coordinator.cluster import Cluster
from coordinator.config import Config, join_host
from coordinator.drain import Drains
from coordinator.errors import StartError, Unauthorized
from coordinator.join import make_token
from coordinator.leases import Expected, Leases, Tick
from coordinator.lifecycle import Lifecycle
from coordinator.links import NodeService
from coordinator.migrations import Migrations
from coordinator.operations import Operations
from coordinator.owncert import ApiConfig, OwnCertificate
from coordinator.rollover import Rollover
from coordinator.store import meta, networks, nodes, tokens
from coordinator.store.db import Db, Tx
from protocol.transport import LocalIdentity, serve_links

log = logging.getLogger(__name__)

API_GRACE_S = 1.0  # for calls under way when the coordinator stops


@dataclass(frozen=True, slots=True)
class Ready:
    """What the ready line says."""

    api: str
    link: str
    join: str
    token: str
    cli: str | None

    def to_json(self) -> dict[str, Any]:
        return {
            "api": self.api,
            "link": self.link,
            "join": self.join,
            "token": self.token,
            "cli": self.cli,
            "pid": os.getpid(),
        }

    def to_text(self) -> str:
        """For a person at a terminal; programs get the ready line."""
        return (
            f"API    {self.api}\ntoken  {self.token}\n"
            f"join   wherry node --name NAME --join {self.join}\n"
            "       (once, within the hour; for more nodes: wherry token create)"
        )


def software() -> str:
    try:
        return f"wherry {version('wherry')}"
    except PackageNotFoundError:
        return "wherry"


def bind(address: tuple[str, int], *, asked: bool, what: str) -> socket.socket:
    """A listening socket. A busy port is an error if it was asked for, else a free one is taken."""
    host, port = address
    try:
        family, kind, proto, _, sockaddr = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
    except OSError as exc:
        raise StartError(f"{what} address {host}: {exc.strerror or exc}") from exc
    for attempt in (sockaddr, (sockaddr[0], 0, *sockaddr[2:])):
        sock = socket.socket(family, kind, proto)
        try:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            sock.bind(attempt)
            sock.listen(128)
        except OSError as exc:
            sock.close()
            if asked or port == 0 or attempt is not sockaddr:
                raise StartError(f"{what} address {join_host(host, port)}: {exc.strerror}") from exc
            log.warning("%s port %d is busy (%s); taking a free one", what, port, exc.strerror)
        else:
            return sock
    raise AssertionError("the loop returns or raises")


def is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def advertised(config: Config) -> str:
    """The host that nodes are told to dial: as told, as bound, or the address of the default route."""
    if config.advertise:
        return config.advertise
    host = config.link[0]
    if host not in ("0.0.0.0", "::"):
        return host
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("192.0.2.1", 9))  # sends nothing: only the route is looked up (RFC 5737 address)
            return str(probe.getsockname()[0])
        except OSError:
            return "127.0.0.1"


def _first_start(tx: Tx) -> str:
    """The cluster's id; the default network is made together with it, once."""
    cluster = meta.get(tx, "cluster")
    if cluster is None:
        cluster = secrets.token_hex(8)
        meta.put(tx, "cluster", cluster)
        networks.create(tx, networks.DEFAULT_NAME, subnet=networks.DEFAULT_SUBNET)
    return cluster


def _local_token(tx: Tx, present: str | None) -> str:
    """The local user's token: the one of the access file while it is good, else a new one."""
    if present is not None:
        try:
            if tokens.check_api(tx, present).role == "admin":
                return present
        except Unauthorized:
            pass
    _, text = tokens.create_api(tx, "local", "admin")
    return text


@asynccontextmanager
async def coordinator(config: Config) -> AsyncIterator[Ready]:
    """A running coordinator. Raises :class:`StartError` when it cannot start."""
    with ExitStack() as stack:
        stack.callback(os.close, statedir.open_folder(config.state))
        db = Db.open(config.state / "wherry.db")
        stack.callback(db.close)
        cluster_id = db.run_sync(_first_start)
        link_socket = stack.enter_context(bind(config.link, asked=config.link_asked, what="link"))
        api_socket = stack.enter_context(bind(config.api, asked=config.api_asked, what="API"))
        try:
            authority, blobs = Authority.open(config.state / "ca", cluster_id, _wall()), Blobs(config.state / "blobs")
        except OSError as exc:
            raise StartError(f"state folder {config.state}: {exc.strerror}") from exc
        leases = Leases(link_grace=config.link_grace_s, silence=config.silence_s)
        core = Cluster(db, authority, blobs, leases)
        link = join_host(advertised(config), link_socket.getsockname()[1])
        hosts = [advertised(config), config.api[0], "localhost", "127.0.0.1", "::1", socket.gethostname()]
        own = _own_certificate(core, hosts)
        async with trio.open_nursery() as nursery:
            operations = Operations(db, nursery)
            errands = Errands(nursery)
            moves = Migrations(core, operations, errands)
            lifecycle = Lifecycle(core, operations)
            drains = Drains(core, operations, moves)
            rollover = Rollover(core, own, errands)
            attachments = Attachments(core)
            service = NodeService(core, moves, rollover, attachments, errands)
            for node in await db.run(nodes.all_nodes):
                await core.lease(Expected(node.id))
            nursery.start_soon(core.watch_leases, Tick())
            nursery.start_soon(core.send_directories)
            await nursery.start(rollover.run)
            link_listener = trio.SocketListener(trio.socket.from_stdlib_socket(link_socket.dup()))
            await nursery.start(
                partial(
                    serve_links,
                    link_listener,
                    tls=own.tls,
                    identity=LocalIdentity("coordinator", software()),
                    handlers=service.handlers(),
                    on_link=service.on_link,
                    anonymous=True,
                )
            )
            await operations.resume()
            services = Services(core, operations, lifecycle, moves, drains, rollover, attachments, link, software())
            stop_api, api_stopped = trio.Event(), trio.Event()
            nursery.start_soon(_serve_api, services, _server_config(config, api_socket, own), stop_api, api_stopped)
            yield await _ready(config, core, api_socket, own, link)
            core.hub.close()
            stop_api.set()
            with trio.move_on_after(API_GRACE_S + 1):
                await api_stopped.wait()
            nursery.cancel_scope.cancel()


def _wall() -> float:
    import time

    return time.time()


async def _ready(config: Config, core: Cluster, api_socket: socket.socket, own: OwnCertificate, link: str) -> Ready:
    plain = is_loopback(config.api[0])
    host = advertised(config) if config.api[0] in ("0.0.0.0", "::") else config.api[0]
    api = f"{'http' if plain else 'https'}://{join_host(host, api_socket.getsockname()[1])}"
    present = statedir.read_access(config.cli_file) if config.cli_file else None
    token = await core.db.run(_local_token, present)
    if config.cli_file is not None:
        statedir.write_access(config.cli_file, api=api, token=token, ca=None if plain else own.files.ca)
    join = await make_token(core.db, core.ca, config.token_ttl_s)
    return Ready(api, link, f"{join}@{link}", token, str(config.cli_file) if config.cli_file else None)


def _server_config(config: Config, sock: socket.socket, own: OwnCertificate) -> ApiConfig:
    out = ApiConfig(None if is_loopback(config.api[0]) else own)
    out.bind = [f"fd://{os.dup(sock.fileno())}"]
    out.graceful_timeout = API_GRACE_S
    out.include_server_header = False
    out.accesslog = None
    out.errorlog = logging.getLogger("hypercorn.error")
    out.websocket_max_message_size = 1 << 20
    return out


async def _serve_api(services: Services, config: ApiConfig, stop: trio.Event, stopped: trio.Event) -> None:
    try:
        await serve_http(make_app(services), config, shutdown_trigger=stop.wait, mode="asgi")  # type: ignore[arg-type]
    finally:
        stopped.set()


def _own_certificate(core: Cluster, hosts: list[str]) -> OwnCertificate:
    if core.ca.expires <= core.wall() and core.ca.old_fingerprint is None:
        core.ca.rotate(core.wall())  # it was off for too long; what is due besides is Rollover's
    try:
        return OwnCertificate(core.ca, hosts, core.wall)
    except OSError as exc:
        raise StartError(f"the coordinator's certificate: {exc}") from exc
