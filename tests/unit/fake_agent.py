"""A node that only pretends: it speaks the real link protocol and keeps guests as a dictionary.

``hooks`` replaces an answer: request class → async function of the request, which may raise ``Refused`` or wait.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import msgspec
import trio
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from coordinator.service import Ready
from protocol import messages as m
from protocol.errors import Refused
from protocol.tls import bootstrap_context
from protocol.transport import Handlers, Link, LinkStream, LocalIdentity, TlsFiles, connect_tls, open_link

MIB = 1 << 20


def make_csr(key: ec.EllipticCurvePrivateKey | None = None) -> tuple[ec.EllipticCurvePrivateKey, str]:
    key = key or ec.generate_private_key(ec.SECP256R1())
    csr = x509.CertificateSigningRequestBuilder().subject_name(x509.Name([])).sign(key, hashes.SHA256())
    return key, csr.public_bytes(serialization.Encoding.PEM).decode()


@asynccontextmanager
async def bootstrap(address: str) -> AsyncIterator[Link]:
    """An anonymous session, as a joiner has it."""
    stream = await connect_tls(address, tls=bootstrap_context(), expect=None)
    async with open_link(stream, identity=LocalIdentity("joiner"), handlers=Handlers(), client=True) as link:
        yield link


class FakeAgent:
    def __init__(self, ready: Ready, name: str, folder: Path, *, memory: int = 1024 * MIB, cpus: int = 2) -> None:
        self.ready = ready
        self.name = name
        self.folder = folder / name
        self.folder.mkdir()
        self.memory, self.cpus = memory, cpus
        self.node = 0
        self.link: Link | None = None
        self.guests: dict[str, m.GuestStatus] = {}
        self.specs: dict[str, m.GuestSpec] = {}
        self.asked: list[m.Message] = []
        self.attachments: list[m.Attachment] = []
        self.hooks: dict[type[m.Message], Callable[[Any], Awaitable[Any]]] = {}
        self.registered: m.Registered | None = None
        self.directory: m.Directory | None = None
        self.consoles: list[LinkStream] = []
        self.debugged = False
        self.debugger_left = trio.Event()
        self.got = trio.Event()  # set and replaced whenever something arrives

    def files(self) -> TlsFiles:
        return TlsFiles(self.folder / "cert.pem", self.folder / "key.pem", self.folder / "ca.pem")

    async def join(self, token: str) -> None:
        key, csr = make_csr()
        async with bootstrap(self.ready.link) as link:
            joined = await link.call(m.Join(token=token, name=self.name, csr_pem=csr))
        self.node = joined.node
        self.files().certificate.write_text(joined.certificate_pem)
        self.files().ca.write_text(joined.ca_pem)
        self.files().key.write_bytes(
            key.private_bytes(
                serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
            )
        )

    def resources(self) -> m.Resources:
        return m.Resources(cpus=self.cpus, memory=self.memory, memory_free=self.memory, disk_free=1 << 40)

    @asynccontextmanager
    async def connected(self) -> AsyncIterator[FakeAgent]:
        """One registered session."""
        stream = await connect_tls(self.ready.link, tls=self.files(), expect="coordinator")
        identity = LocalIdentity(self.name)
        async with open_link(stream, identity=identity, handlers=self._handlers(), client=True) as link:
            self.link = link
            self.registered = await link.call(
                m.Register(
                    name=self.name,
                    link=f"0.0.0.0:{7000 + self.node}",
                    tunnel=f"127.0.0.1:{7000 + self.node}",
                    resources=self.resources(),
                    guests=list(self.guests.values()),
                    software="fake",
                )
            )
            for guest, _ in self.registered.forget:
                self.guests.pop(guest, None)
            yield self

    async def report(self) -> None:
        assert self.link is not None
        await self.link.notify(m.Report(resources=self.resources(), guests=list(self.guests.values())))

    async def decide(self, migration: str, guest: str, generation: int, ask: str, reason: str = "") -> m.Decision:
        assert self.link is not None
        answer: m.Decision = await self.link.call(
            m.Decide(migration=migration, guest=guest, generation=generation, ask=ask, reason=reason)  # type: ignore[arg-type]
        )
        return answer

    async def until(self, what: Callable[[], bool]) -> None:
        """Wait for something that a message brings."""
        with trio.fail_after(5):
            while not what():
                await self.got.wait()

    def asked_for(self, cls: type[m.Message]) -> list[Any]:
        return [a for a in self.asked if isinstance(a, cls)]

    # ---- handlers

    def _handlers(self) -> Handlers:
        out = Handlers()
        answers = {
            m.GuestRun: self._run,
            m.GuestStop: self._stop,
            m.GuestForget: self._forget,
            m.GuestExec: self._exec,
            m.GuestLog: self._log,
            m.MigrationStart: self._nothing,
            m.MigrationCancel: self._nothing,
            m.MigrationEstimate: self._nothing,
            m.MigrationLookup: self._lookup,
            m.Settle: self._settle,
            m.PortsSet: self._ports,
            m.PortRules: self._nothing,
            m.PortOpen: self._nothing,
            m.NetLook: self._look,
            m.PortRelease: self._release,
        }
        for cls, fn in answers.items():
            out.on_request(cls, self._hooked(cls, fn))
        out.on_notice(m.Directory, self._on_directory)
        out.on_stream(m.ConsoleOpen, self._console)
        out.on_stream(m.DebuggerOpen, self._debugger)
        out.on_stream(m.RelayAccept, self._echo)
        return out

    def _hooked(self, cls: type[m.Message], fn: Callable[[Any], Awaitable[Any]]) -> Callable[..., Awaitable[Any]]:
        async def answer(link: Link, request: Any) -> Any:
            self._arrived(request)
            return await self.hooks.get(cls, fn)(request)

        return answer

    def _arrived(self, message: m.Message) -> None:
        self.asked.append(message)
        self.got.set()
        self.got = trio.Event()

    async def _run(self, request: m.GuestRun) -> m.GuestStatus:
        ident = request.spec.guest
        self.specs[ident] = request.spec
        self.guests[ident] = m.GuestStatus(
            guest=ident, generation=request.generation, state="running", pid=4242, started=1000.0
        )
        return self.guests[ident]

    async def _stop(self, request: m.GuestStop) -> m.GuestStatus:
        if request.guest not in self.guests:
            raise Refused("not_found", "no such guest")
        self.guests[request.guest] = msgspec.structs.replace(self.guests[request.guest], state="stopped")
        return self.guests[request.guest]

    async def _forget(self, request: m.GuestForget) -> None:
        copy = self.guests.get(request.guest)
        if copy is not None and copy.generation <= request.generation:
            del self.guests[request.guest]

    async def _exec(self, request: m.GuestExec) -> m.GuestExecuted:
        return m.GuestExecuted(exit_code=3, stdout=" ".join(request.argv).encode() + request.stdin, stderr=b"e")

    async def _log(self, request: m.GuestLog) -> m.GuestLogged:
        return m.GuestLogged(data=b"boot\xff\n")

    async def _ports(self, request: m.PortsSet) -> m.PortsDone:
        self.attachments = request.attachments
        return m.PortsDone(states=[m.AttachmentState(id=a.id, state="up") for a in request.attachments])

    async def _look(self, request: m.NetLook) -> m.NetLooked:
        ports = [
            m.PortStatus(port=n, vni=a.vni, kind=a.kind, owner=a.id, name=a.local, counters={"rx_frames": n})
            for n, a in enumerate(self.attachments, start=1)
        ]
        states = [m.AttachmentState(id=a.id, state="up") for a in self.attachments]
        tunnels = [m.TunnelStatus(node=self.node % 2 + 1, counters={"drop_auth": 7})]
        return m.NetLooked(sampled=1.0, ports=ports, tunnels=tunnels, attachments=states, counters={"rx_frames": 9})

    async def _release(self, request: m.PortRelease) -> m.PortReleased:
        return m.PortReleased(macs=[])

    async def _nothing(self, request: Any) -> None:
        return None

    async def _lookup(self, request: m.MigrationLookup) -> m.MigrationResult:
        raise Refused("not_found", "unknown")

    async def _settle(self, request: m.Settle) -> None:
        """What real ends do with the store's word, in short."""
        copy = self.guests.get(request.guest)
        if copy is None:
            return
        if request.owner == self.node:
            state = m.GuestStatus(guest=request.guest, generation=request.generation, state="running", started=1000.0)
            self.guests[request.guest] = state
        else:
            del self.guests[request.guest]
            for stream in self.consoles:
                await stream.aclose()

    async def _on_directory(self, link: Link, notice: m.Directory) -> None:
        self.directory = notice
        self._arrived(notice)

    async def _console(self, link: Link, opening: m.ConsoleOpen, stream: LinkStream) -> None:
        self.consoles.append(stream)
        await stream.send_all(b"kept:")
        await self._echo(link, opening, stream)

    async def _debugger(self, link: Link, opening: m.DebuggerOpen, stream: LinkStream) -> None:
        if self.debugged:
            raise Refused("exists", "a debugger is attached already", field="debugger")
        self.debugged = True
        try:
            await self._echo(link, opening, stream)
        finally:
            self.debugged = False
            self.debugger_left.set()

    async def _echo(self, link: Link, opening: Any, stream: LinkStream) -> None:
        while data := await stream.receive_some():
            await stream.send_all(data)
        await stream.send_eof()
