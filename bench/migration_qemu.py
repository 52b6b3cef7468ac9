"""QEMU (TCG) as the peer of ``make bench-migration``: two processes on this host, driven by QMP.

Both have a TAP in one bridge, on which the client is; the guest is the same as ours, started at the console's shell.
For each move a new process waits for the guest, and the old one is ended behind it.
"""

from __future__ import annotations

import datetime
import json
import os
import select
import socket
import subprocess
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from bench.migration_guest import MEMORY_MIB, Case, Limit, Move, NoFigure, Poller
from bench.net_hosts import run
from bench.peers import Peer

BRIDGE, NET, PORT = "wherry-bm", "10.97.0", 47101
MAC = "52:54:00:00:97:02"
SETTLE_S, TOO_LONG_S = 1.0, 30.0
_USER_SPACE = b"wherry: user space"


@dataclass(frozen=True)
class Way:
    """A way of QEMU's to migrate: ``name`` in the report, capabilities, parameters of the source."""

    name: str
    capabilities: tuple[str, ...] = ()
    parameters: dict[str, Any] = field(default_factory=dict)
    tls: bool = False
    postcopy: bool = False


WAYS = {
    way.name: way
    for way in (
        Way("plain"),
        Way("tls", tls=True),
        Way("auto-converge", ("auto-converge",)),
        Way("xbzrle", ("xbzrle",), {"xbzrle-cache-size": 256 << 20}),
        Way("multifd-zstd", ("multifd",), {"multifd-channels": 2, "multifd-compression": "zstd"}),
        Way("postcopy", ("postcopy-ram",), postcopy=True),
        Way("postcopy-tls", ("postcopy-ram",), tls=True, postcopy=True),
    )
}


class Qmp:
    """A monitor. Raises NoFigure on an error of QEMU's."""

    def __init__(self, path: Path) -> None:
        self._socket = socket.socket(socket.AF_UNIX)
        deadline = time.monotonic() + 20
        while True:
            try:
                self._socket.connect(str(path))
                break
            except OSError:
                if time.monotonic() > deadline:
                    raise NoFigure(f"QEMU made no monitor at {path}") from None
                time.sleep(0.02)
        self._file = self._socket.makefile("rb")
        self.events: list[dict[str, Any]] = []
        self._read()
        self("qmp_capabilities")

    def _read(self) -> dict[str, Any]:
        try:
            line = self._file.readline()
        except OSError:
            line = b""
        if not line:
            raise NoFigure("QEMU has ended")
        answer: dict[str, Any] = json.loads(line)
        return answer

    def __call__(self, command: str, **arguments: Any) -> Any:
        request = {"execute": command, "arguments": {name.replace("_", "-"): v for name, v in arguments.items()}}
        self._socket.sendall(json.dumps(request).encode())
        while True:
            answer = self._read()
            if "event" in answer:
                self.events.append(answer)
            elif "error" in answer:
                raise NoFigure(f"QEMU refuses {command}: {answer['error'].get('desc')}")
            else:
                return answer.get("return")

    def time_of(self, event: str) -> float | None:
        """When it happened first since the events were cleared, seconds of the host's clock."""
        for found in self.events:
            if found["event"] == event:
                return float(found["timestamp"]["seconds"]) + float(found["timestamp"]["microseconds"]) / 1e6
        return None

    def close(self) -> None:
        self._socket.close()


class Process:
    """One QEMU. ``number`` chooses its TAP and its monitor."""

    def __init__(self, peer: Peer, files: dict[str, Path], folder: Path, number: int, incoming: bool) -> None:
        tap, monitor = f"wherry-q{number % 2}", folder / f"qmp{number}"
        append = f"console=ttyS0 quiet wherry.name=peer wherry.nic={MAC},{NET}.2/24,,1400"
        argv = [
            *peer.argv,
            "-M",
            "virt",
            "-m",
            f"{MEMORY_MIB}M",
            "-display",
            "none",
            "-monitor",
            "none",
            "-serial",
            "stdio",
        ]
        argv += ["-kernel", str(files["kernel"]), "-initrd", str(files["initrd"]), "-append", append]
        argv += ["-netdev", f"tap,id=n0,ifname={tap},script=no,downscript=no"]
        argv += ["-device", f"virtio-net-device,netdev=n0,mac={MAC}", "-qmp", f"unix:{monitor},server=on,wait=off"]
        for end in ("client", "server"):
            argv += ["-object", f"tls-creds-x509,id={end},dir={folder},endpoint={end}"]
        argv += ["-incoming", "defer"] if incoming else []
        self._process = subprocess.Popen(
            argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, bufsize=0
        )
        try:
            self.qmp = Qmp(monitor)
        except NoFigure:
            self._process.kill()
            raise

    def until(self, word: bytes, seconds: float) -> None:
        assert self._process.stdout is not None
        text, deadline = b"", time.monotonic() + seconds
        while word not in text:
            ready, _, _ = select.select([self._process.stdout], [], [], max(0.0, deadline - time.monotonic()))
            data = os.read(self._process.stdout.fileno(), 65536) if ready else b""
            if not data:
                raise NoFigure(f"QEMU's guest did not say {word.decode()!r}: {text[-200:].decode('latin-1')}")
            text += data

    def boot(self) -> None:
        self.until(_USER_SPACE, 120)

    def shell(self, command: str, seconds: float) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(f"{command}; echo end''-of-it\n".encode())
        self.until(b"end-of-it", seconds)

    def close(self) -> None:
        self.qmp.close()
        self._process.kill()
        self._process.wait()


class Qemu:
    """A guest that moves between two processes. ``with Qemu(...) as guest``."""

    def __init__(self, peer: Peer, files: dict[str, Path], folder: Path) -> None:
        self.name = peer.name
        self._peer, self._files, self._folder = peer, files, folder
        self._number = 0

    def __enter__(self) -> Qemu:
        _network(True)
        _certificates(self._folder)
        self._process = Process(self._peer, self._files, self._folder, 0, False)
        try:
            self._process.boot()
            self._process.shell("echo", 30)
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *exc: object) -> None:
        self._process.close()
        _network(False)

    def load(self, case: Case) -> None:
        self._process.shell(case.command, 120)

    def move(self, case: Case, way: Way) -> Move:
        """Raises NoFigure; then the guest runs where it was, or is lost and the next call says so."""
        self._number += 1
        source, target = self._process, Process(self._peer, self._files, self._folder, self._number, True)
        poller = None
        try:
            _prepare(source.qmp, way, False)
            _prepare(target.qmp, way, True)
            target.qmp("migrate-incoming", uri=f"tcp:127.0.0.1:{PORT}")
            with Limit(case.mbit, [PORT]):
                poller = Poller(f"{NET}.2")
                poller.reset()
                status = _run(source.qmp, way)
            time.sleep(SETTLE_S)
            target.qmp("query-status")
            stop, resume = source.qmp.time_of("STOP"), target.qmp.time_of("RESUME")
            if stop is None or resume is None:
                raise NoFigure("QEMU did not tell when it paused")
            gaps = poller.gaps()
        except NoFigure:
            target.close()
            raise
        finally:
            if poller is not None:
                poller.close()
        source.close()
        self._process = target
        target.qmp.events.clear()
        return Move(float(status["total-time"]), (resume - stop) * 1000, *gaps, int(status["ram"]["transferred"]))


def _prepare(qmp: Qmp, way: Way, incoming: bool) -> None:
    names = {name for other in WAYS.values() for name in other.capabilities} | {"events"}
    wanted = [{"capability": name, "state": name in (*way.capabilities, "events")} for name in sorted(names)]
    qmp("migrate-set-capabilities", capabilities=wanted)
    end = "server" if incoming else "client"
    values: dict[str, Any] = {"tls-creds": end if way.tls else "", "tls-hostname": "localhost" if way.tls else ""}
    if not incoming:
        values |= {"max-bandwidth": 10 << 30, "downtime-limit": 30}
    values |= {name: value for name, value in way.parameters.items() if not incoming or name.startswith("multifd")}
    qmp("migrate-set-parameters", **values)


def _run(qmp: Qmp, way: Way) -> dict[str, Any]:
    """Migrate and wait for the end; its last query-migrate."""
    qmp.events.clear()
    qmp("migrate", uri=f"tcp:127.0.0.1:{PORT}")
    deadline, pushed = time.monotonic() + TOO_LONG_S, False
    while True:
        status: dict[str, Any] = qmp("query-migrate")
        if status.get("status") == "completed":
            return status
        if status.get("status") in ("failed", "cancelled"):
            raise NoFigure(f"QEMU: {status.get('error-desc', status['status'])}")
        if way.postcopy and not pushed and status.get("ram", {}).get("dirty-sync-count", 0) >= 2:
            qmp("migrate-start-postcopy")
            pushed = True
        if time.monotonic() > deadline:
            moved = status.get("ram", {}).get("transferred", 0)
            qmp("migrate_cancel")
            raise NoFigure(f"does not end: {moved / 1e6:.0f} MB in {TOO_LONG_S:g} s")
        time.sleep(0.005)


def _network(up: bool) -> None:
    for name in (BRIDGE, "wherry-q0", "wherry-q1"):
        subprocess.run(["ip", "link", "del", name], capture_output=True, check=False)
    if not up:
        return
    run("ip", "link", "add", BRIDGE, "type", "bridge", "stp_state", "0", "forward_delay", "0")
    run("ip", "address", "add", f"{NET}.1/24", "dev", BRIDGE)
    run("ip", "link", "set", BRIDGE, "up")
    for name in ("wherry-q0", "wherry-q1"):
        run("ip", "tuntap", "add", name, "mode", "tap")
        run("ip", "link", "set", name, "master", BRIDGE, "up")


def _certificates(folder: Path) -> None:
    """What tls-creds-x509 reads: a CA, a server's and a client's certificate."""
    ca_key = ec.generate_private_key(ec.SECP256R1())
    ca = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "bench")])
    (folder / "ca-cert.pem").write_bytes(_certificate(ca, ca, ca_key, ca_key, None))
    uses = {"server": ExtendedKeyUsageOID.SERVER_AUTH, "client": ExtendedKeyUsageOID.CLIENT_AUTH}
    for end, use in uses.items():
        key = ec.generate_private_key(ec.SECP256R1())
        name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "localhost")])
        (folder / f"{end}-cert.pem").write_bytes(_certificate(name, ca, key, ca_key, use))
        pem, pkcs8, open_ = serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        (folder / f"{end}-key.pem").write_bytes(key.private_bytes(pem, pkcs8, open_))


def _certificate(
    subject: x509.Name,
    issuer: x509.Name,
    key: ec.EllipticCurvePrivateKey,
    signer: ec.EllipticCurvePrivateKey,
    use: x509.ObjectIdentifier | None,
) -> bytes:
    now, day = datetime.datetime.now(datetime.UTC), datetime.timedelta(days=1)
    built = x509.CertificateBuilder().subject_name(subject).issuer_name(issuer).public_key(key.public_key())
    built = built.serial_number(x509.random_serial_number()).not_valid_before(now - day).not_valid_after(now + day)
    built = built.add_extension(x509.BasicConstraints(ca=use is None, path_length=None), critical=True)
    signs = use is None
    built = built.add_extension(
        x509.KeyUsage(not signs, False, False, False, False, signs, False, False, False), critical=True
    )
    if use is not None:
        built = built.add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost")]), critical=False)
        built = built.add_extension(x509.ExtendedKeyUsage([use]), critical=False)
    return built.sign(signer, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)
