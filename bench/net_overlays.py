"""The overlays that ``make bench-net`` compares, each set up as its own manual says for two hosts with known addresses.

An overlay is started once on both hosts and stays up for all rounds; only one carries traffic at a time. Each has an
inner subnet of its own, ``10.97.N.1`` and ``.2``. Its MTU is what its users have: its default, or, for a TAP without a
default that fits a 1500-byte underlay, 1400.
"""

from __future__ import annotations

import base64
import datetime
import hashlib
import socket
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, x25519
from cryptography.x509.oid import NameOID

from bench import net_peers
from bench.net_hosts import CABLE, Host, HostsError, run
from bench.net_measure import NoFigure, reachable

TAP_MTU = 1400


@dataclass
class Overlay:
    """``kind``: what it is compared as. ``pids``: its daemons on both hosts. ``missing``: why it is not there."""

    name: str
    kind: str  # "ours", "encrypted", "clear" (forwarders), "kernel"
    subnet: int
    version: str = ""
    processes: list[subprocess.Popen[bytes]] = field(default_factory=list)
    pids: list[int] = field(default_factory=list)
    missing: str = ""

    def inner(self, end: int) -> str:
        """The address of end 0 or 1 inside the overlay."""
        return f"10.97.{self.subnet}.{end + 1}"

    @property
    def title(self) -> str:
        return f"{self.name} {self.version}".strip()

    def stop(self) -> None:
        for process in self.processes:
            process.terminate()
        for process in self.processes:
            try:
                process.wait(5)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        self.processes.clear()


@dataclass(frozen=True)
class Place:
    """Where overlays are set up: the two hosts, a folder for their files, the bench's own programs."""

    hosts: tuple[Host, ...]
    folder: Path
    forwarder: Path


Setup = Callable[[Overlay, Place], None]


def start(overlay: Overlay, setup: Setup, place: Place) -> None:
    """Set it up and wait until pings pass. ``overlay.missing`` says why it does not run."""
    try:
        setup(overlay, place)
        if not reachable(place.hosts[0], overlay.inner(1), 20):
            raise NoFigure("no ping came through within 20 s" + _last_words(overlay, place))
    except (HostsError, NoFigure, net_peers.PeerMissing, OSError) as error:
        overlay.missing = str(error)
        overlay.stop()


def _last_words(overlay: Overlay, place: Place) -> str:
    lines: list[str] = []
    for log in sorted(place.folder.glob(f"{overlay.name}-*.log")):
        lines += log.read_text(errors="replace").strip().splitlines()[-1:]
    return f"; {' | '.join(lines)[:300]}" if lines else ""


def _spawn(overlay: Overlay, place: Place, end: int, *argv: str) -> None:
    log = place.folder / f"{overlay.name.replace(' ', '-')}-{end}.log"
    with log.open("ab") as output:
        process = subprocess.Popen(
            [*place.hosts[end].enter, *argv], stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT
        )
    overlay.processes.append(process)
    overlay.pids.append(process.pid)  # `ip netns exec` becomes the command


def _address(overlay: Overlay, place: Place, end: int, device: str, mtu: int | None = None) -> None:
    """Give the device its inner address, once it is there."""
    host = place.hosts[end]
    deadline = time.monotonic() + 10
    while True:
        try:
            if mtu is not None:
                host.ip("link", "set", device, "mtu", str(mtu))
            break
        except HostsError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.1)
    host.ip("address", "replace", f"{overlay.inner(end)}/24", "dev", device)
    host.ip("link", "set", device, "up")


def _both(place: Place) -> tuple[tuple[int, Host, Host], ...]:
    a, b = place.hosts
    return ((0, a, b), (1, b, a))


# ---- in clear: the kernel's own, and the limits ---------------------------------------------------------------------


def vxlan(overlay: Overlay, place: Place) -> None:
    """The kernel's VXLAN (RFC 7348), UDP 4789, unicast to the other end; its device's default MTU (1450)."""
    for end, host, peer in _both(place):
        words = ["type", "vxlan", "id", "97", "remote", peer.address, "local", host.address, "dstport", "4789"]
        try:
            host.ip("link", "add", "vxlan0", *words, "dev", CABLE)
        except HostsError as error:
            raise HostsError(f"this kernel has no VXLAN: {error}") from None
        _address(overlay, place, end, "vxlan0")


def _forward(overlay: Overlay, place: Place, how: str, device: str, port: int) -> None:
    for end, host, peer in _both(place):
        words = ["tuntap", "add", device, "mode", "tap", *(["vnet_hdr"] if how == "tso" else [])]
        host.ip(*words)
        _spawn(overlay, place, end, str(place.forwarder), device, host.address, peer.address, str(port), how)
        _address(overlay, place, end, device, 1450 if how == "plain" else TAP_MTU)


def forwarder(overlay: Overlay, place: Place) -> None:
    _forward(overlay, place, "plain", "fwd0", 9301)


def forwarder_tso(overlay: Overlay, place: Place) -> None:
    _forward(overlay, place, "tso", "fwd1", 9302)


# ---- encrypted, in user space ---------------------------------------------------------------------------------------


def nebula(overlay: Overlay, place: Place) -> None:
    """TUN, MTU 1300 and AES-GCM (its defaults); host a is the lighthouse."""
    program = net_peers.find("nebula")
    overlay.version = program.version
    cert, folder = program.beside("nebula-cert"), place.folder / "nebula"
    folder.mkdir()
    run(*cert, "ca", "-name", "bench", "-out-crt", f"{folder}/ca.crt", "-out-key", f"{folder}/ca.key")
    for end, host, _peer in _both(place):
        issuer = ["-ca-crt", f"{folder}/ca.crt", "-ca-key", f"{folder}/ca.key"]
        out = ["-out-crt", f"{folder}/{end}.crt", "-out-key", f"{folder}/{end}.key"]
        run(*cert, "sign", "-name", f"h{end}", "-ip", f"{overlay.inner(end)}/24", *issuer, *out)
        lighthouse = "am_lighthouse: true" if end == 0 else f'hosts: ["{overlay.inner(0)}"]'
        (folder / f"{end}.yml").write_text(f"""
pki: {{ca: {folder}/ca.crt, cert: {folder}/{end}.crt, key: {folder}/{end}.key}}
static_host_map: {{"{overlay.inner(0)}": ["{place.hosts[0].address}:4242"]}}
lighthouse: {{{lighthouse}}}
listen: {{host: {host.address}, port: 4242}}
tun: {{dev: nebula0, mtu: 1300}}
firewall:
  outbound: [{{port: any, proto: any, host: any}}]
  inbound: [{{port: any, proto: any, host: any}}]
""")
        _spawn(overlay, place, end, *program.argv, "-config", f"{folder}/{end}.yml")


def _uapi(device: str, text: str) -> None:
    """WireGuard's configuration protocol (wireguard.com/xplatform)."""
    path = Path(f"/var/run/wireguard/{device}.sock")
    deadline = time.monotonic() + 10
    while not path.exists():
        if time.monotonic() > deadline:
            raise NoFigure(f"{path} did not appear")
        time.sleep(0.05)
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as sock:
        sock.connect(str(path))
        sock.sendall(f"set=1\n{text}\n".encode())
        answer = sock.makefile().readline().strip()
    if answer != "errno=0":
        raise NoFigure(f"wireguard-go: {answer}")


def wireguard(overlay: Overlay, place: Place) -> None:
    """TUN, MTU 1420, ChaCha20-Poly1305."""
    program = net_peers.find("wireguard-go")
    overlay.version = program.version
    keys = [x25519.X25519PrivateKey.generate() for _ in place.hosts]
    for end, _host, peer in _both(place):
        device = f"wgbench{end}"  # the control sockets are in one folder
        Path(f"/var/run/wireguard/{device}.sock").unlink(missing_ok=True)
        _spawn(overlay, place, end, *program.argv, "-f", device)
        private, public = keys[end].private_bytes_raw().hex(), keys[1 - end].public_key().public_bytes_raw().hex()
        _uapi(
            device,
            f"private_key={private}\nlisten_port=51820\npublic_key={public}\nendpoint={peer.address}:51820\n"
            f"replace_allowed_ips=true\nallowed_ip={overlay.inner(1 - end)}/32\n",
        )
        _address(overlay, place, end, device)


def fastd(overlay: Overlay, place: Place) -> None:
    """TAP, salsa2012+umac, the method that its manual proposes."""
    program = net_peers.find("fastd")
    overlay.version = program.version
    keys: list[dict[str, str]] = []
    for _ in place.hosts:
        text = run(*program.argv, "--generate-key")
        keys.append({word.lower(): value.strip() for word, _, value in (x.partition(": ") for x in text.splitlines())})
    for end, host, peer in _both(place):
        config = place.folder / f"fastd-{end}.conf"
        config.write_text(f"""
interface "fastd0";
mode tap;
mtu {TAP_MTU};
method "salsa2012+umac";
bind {host.address}:10000;
secret "{keys[end]["secret"]}";
peer "other" {{ key "{keys[1 - end]["public"]}"; remote {peer.address}:10000; }}
""")
        _spawn(overlay, place, end, *program.argv, "--config", str(config))
        _address(overlay, place, end, "fastd0", TAP_MTU)


def tinc(overlay: Overlay, place: Place) -> None:
    """TAP in switch mode, ChaCha20-Poly1305 (its 1.1 protocol)."""
    program = net_peers.find("tinc")
    overlay.version = program.version
    control = program.beside("tinc")
    folders = [place.folder / f"tinc{end}" for end in (0, 1)]
    for end, host, _peer in _both(place):
        words = [*control, "-c", str(folders[end])]
        run(*words, "init", f"h{end}")
        for name, value in (("Mode", "switch"), ("DeviceType", "tap"), ("Interface", "tinc0"), ("AutoConnect", "no")):
            run(*words, "set", name, value)
        run(*words, "set", "BindToAddress", f"{host.address} 6550")
        run(*words, "set", f"h{end}.Address", f"{host.address} 6550")
    for end in (0, 1):
        other = folders[1 - end] / "hosts" / f"h{1 - end}"
        (folders[end] / "hosts" / other.name).write_text(other.read_text())
        run(*control, "-c", str(folders[end]), "add", "ConnectTo", f"h{1 - end}")
    for end in (0, 1):
        pid = place.folder / f"tinc-{end}.pid"
        _spawn(overlay, place, end, *program.argv, "-D", "-c", str(folders[end]), "--pidfile", str(pid))
        _address(overlay, place, end, "tinc0", TAP_MTU)


def _certificate(folder: Path, name: str) -> str:
    """A self-signed certificate ``NAME.crt`` with its key; returns its SHA-256 as OpenVPN writes it."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    now = datetime.datetime.now(datetime.UTC)
    certificate = (
        x509.CertificateBuilder(subject, subject, key.public_key(), x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=2))
        .sign(key, hashes.SHA256())
    )
    der = certificate.public_bytes(serialization.Encoding.DER)
    body = base64.encodebytes(der).decode()
    (folder / f"{name}.crt").write_text(f"-----BEGIN CERTIFICATE-----\n{body}-----END CERTIFICATE-----\n")
    (folder / f"{name}.key").write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    return ":".join(f"{byte:02X}" for byte in hashlib.sha256(der).digest())


def openvpn(overlay: Overlay, place: Place) -> None:
    """TAP over UDP, AES-256-GCM, TLS with pinned certificates."""
    program = net_peers.find("openvpn")
    overlay.version = program.version
    prints = [_certificate(place.folder, f"openvpn{end}") for end in (0, 1)]
    for end, host, peer in _both(place):
        words = ["--dev", "ovpn0", "--dev-type", "tap", "--proto", "udp4", "--local", host.address, "--port", "1194"]
        words += ["--remote", peer.address, "1194", "--cipher", "AES-256-GCM", "--data-ciphers", "AES-256-GCM"]
        words += ["--cert", f"{place.folder}/openvpn{end}.crt", "--key", f"{place.folder}/openvpn{end}.key"]
        words += ["--peer-fingerprint", prints[1 - end], "--tun-mtu", str(TAP_MTU), "--keepalive", "10", "60"]
        words += ["--tls-server", "--dh", "none"] if end == 0 else ["--tls-client"]
        _spawn(overlay, place, end, *program.argv, *words)
        _address(overlay, place, end, "ovpn0", TAP_MTU)


def forwarders_and_peers() -> list[tuple[Overlay, Setup]]:
    """All but ours, in the order of the report."""
    listed: list[tuple[str, str, Setup]] = [
        ("kernel VXLAN", "kernel", vxlan),
        ("forwarder", "clear", forwarder),
        ("forwarder tso", "clear", forwarder_tso),
        ("nebula", "encrypted", nebula),
        ("wireguard-go", "encrypted", wireguard),
        ("fastd", "encrypted", fastd),
        ("tinc", "encrypted", tinc),
        ("openvpn", "encrypted", openvpn),
    ]
    return [(Overlay(name, kind, number), setup) for number, (name, kind, setup) in enumerate(listed, start=2)]
