"""The agent's hand on its switch: typed calls, events, counters.

:class:`Switch` owns one ``wh_switch`` (C threads; frames never pass through here) and must be closed. Calls are short
table changes under the switch's lock, so they run on the trio thread. MACs are ``aa:bb:cc:dd:ee:ff``, addresses are
``(host, port)`` of numeric IPv4 or IPv6 hosts, an interface scope as ``fe80::1%eth0``. Errors are :mod:`node.core`'s.
"""

from __future__ import annotations

import contextlib
import enum
import ipaddress
import os
import socket
import struct
from collections.abc import AsyncIterator, Iterable
from dataclasses import dataclass, fields
from types import TracebackType
from typing import Any, Literal, Self

import trio

from node.core import CoreInvalid, CoreNotFound, CoreStateError, check, ffi, new_error
from node.core import switch as switch_library
from protocol.messages import FrameNote

__all__ = ["Counters", "FdbEntry", "Switch", "SwitchEvent", "SwitchEventKind", "best_cipher", "mac_bytes", "mac_text"]

NO_MAC = "00:00:00:00:00:00"
_AGAIN = -10
_NO_STORM = 0xFFFFFFFF
_TAKES_LANES = 256
_FDB_SLACK = 64  # rows that may appear between counting and reading


class SwitchEventKind(enum.IntEnum):
    MAC_LEARNED = 1  # vni, port, mac: on a port with no locked MAC; value: its VLAN, 0: untagged
    MAC_AGED = 2
    PEER_UP = 3  # node; port: 1 by its stream, 0 by UDP; value: RTT in microseconds. Again when one of the two changes
    PEER_DOWN = 4  # node: by neither
    REKEY = 5  # node: its tx key is worn
    PORT_DOWN = 6  # port: ring damaged or TAP gone
    DUPLICATE = 7  # vni, mac; port or node: where it is held; value: where else it was, port << 32 | node
    STORM = 8  # port, vni; value: flooded frames a second that it may still send
    GUARD = 9  # port, vni, mac (of who sent it): a BPDU came in, the port is shut until it is enabled again
    PATH_MTU = 10  # node; value: the largest MTU of a network whose frames the path to it carries whole
    STREAM_DOWN = 11  # node: its stream broke


@dataclass(frozen=True, slots=True)
class SwitchEvent:
    kind: SwitchEventKind
    node: int
    port: int
    vni: int
    mac: str
    value: int


@dataclass(frozen=True, slots=True)
class FdbEntry:
    """``port`` is None on entries of other nodes. ``age_s`` is 0 on static entries. ``vid`` is 0 on untagged stations
    and on static entries, which hold in every VLAN. ``held``: it has moved too often and stays where it is."""

    vni: int
    mac: str
    node: int
    port: int | None
    age_s: int
    is_static: bool
    vid: int = 0
    held: bool = False


@dataclass(frozen=True, slots=True)
class Counters:
    """Frames and bytes in (``rx``: into the switch) and out, and what was dropped and why: ``wh_counters`` of
    csrc/api.cdef, which says what each means."""

    rx_frames: int
    rx_bytes: int
    tx_frames: int
    tx_bytes: int
    flooded: int
    relayed: int
    moves: int
    fdb_full: int
    queued: int
    marked: int
    answered: int
    suppressed: int
    events_lost: int
    drop_full: int
    drop_queue: int
    drop_aqm: int
    drop_ce: int
    drop_fenced: int
    drop_spoofed: int
    drop_invalid: int
    drop_oversize: int
    drop_no_peer: int
    drop_no_key: int
    drop_auth: int
    drop_replay: int
    drop_disabled: int
    drop_ttl: int
    drop_too_big: int
    drop_flood: int
    drop_socket: int
    drop_storm: int
    drop_moving: int
    drop_reserved: int
    drop_guard: int
    drop_vlan: int
    drop_vnet_csum: int
    drop_vnet_gso: int
    drop_vnet_packet: int


def mac_bytes(mac: str) -> bytes:
    """``aa:bb:cc:dd:ee:ff`` as 6 bytes; :class:`node.core.CoreInvalid` on anything else."""
    parts = mac.split(":")
    if len(parts) == 6 and all(len(part) == 2 for part in parts):
        try:
            return bytes(int(part, 16) for part in parts)
        except ValueError:
            pass
    raise CoreInvalid(-2, "mac", f"{mac!r} is not of the form aa:bb:cc:dd:ee:ff")


def mac_text(mac: bytes) -> str:
    return mac.hex(":")


def best_cipher() -> int:
    """0 (AES-256-GCM) where this host's AES is in hardware, else 1 (ChaCha20-Poly1305)."""
    return int(switch_library().wh_switch_best_cipher())


def sockaddr(host: str, port: int) -> bytes:
    """The kernel's ``struct sockaddr_in`` or ``sockaddr_in6``. ``host`` is numeric: the caller resolves names."""
    try:
        address = ipaddress.ip_address(host)
    except ValueError as error:
        raise CoreInvalid(-2, "addr", f"{host!r} is not a numeric address") from error
    if not 0 < port < 65536:
        raise CoreInvalid(-2, "addr", f"port {port} is not in 1..65535")
    family_port = struct.pack("=H", address_family(address)) + struct.pack("!H", port)
    if isinstance(address, ipaddress.IPv4Address):
        return family_port + address.packed + bytes(8)
    scope = address.scope_id
    try:
        index = 0 if scope is None else int(scope) if scope.isdecimal() else socket.if_nametoindex(scope)
    except OSError as error:
        raise CoreInvalid(-2, "addr", f"no interface {scope!r}") from error
    return family_port + bytes(4) + address.packed + struct.pack("=I", index)


def address_family(address: ipaddress.IPv4Address | ipaddress.IPv6Address) -> int:
    return int(socket.AF_INET if address.version == 4 else socket.AF_INET6)


class Switch:
    """One switch. ``udp`` (bound) becomes the switch's own when the constructor returns; None: no tunnels.
    ``ports_off``: new ports carry nothing before :meth:`enable_port`. ``workers``: threads that forward, 1..8."""

    def __init__(
        self,
        node: int,
        udp: socket.socket | None = None,
        *,
        fdb_age_s: int = 300,
        fdb_max: int = 65536,
        ports_off: bool = False,
        workers: int = 1,
    ) -> None:
        self._lib = switch_library()
        self._handle: Any = None
        fd = os.dup(udp.fileno()) if udp is not None else -1
        config = ffi.new(
            "wh_switch_config *",
            {
                "node_id": node,
                "fdb_age_s": fdb_age_s,
                "fdb_max": fdb_max,
                "udp_fd": fd,
                "ports_off": ports_off,
                "workers": workers,
            },
        )
        out, err = ffi.new("wh_switch **"), new_error()
        try:
            check(self._lib.wh_switch_new(config, out, err), err)
        except BaseException:
            if fd >= 0:
                os.close(fd)
            raise
        if udp is not None:
            udp.close()
        self.node = node
        self._handle = out[0]

    def close(self) -> None:
        """Stop the thread and free everything. A task that waits in :meth:`events` sees its end.
        Twice is fine."""
        if self._handle is not None:
            handle, self._handle = self._handle, None
            # Waiters must let go of the descriptor before it is closed and its number used again.
            with contextlib.suppress(RuntimeError):  # not inside trio: nobody waits
                trio.lowlevel.notify_closing(self._lib.wh_switch_event_fd(handle))
            self._lib.wh_switch_free(handle)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @property
    def handle(self) -> Any:
        if self._handle is None:
            raise CoreStateError(-4, "switch", "it is closed")
        return self._handle

    @property
    def crypto(self) -> str:
        """Whose AES-256-GCM tunnels are sealed with here, with its version."""
        return str(ffi.string(self._lib.wh_switch_crypto(self.handle)).decode())

    @property
    def workers(self) -> int:
        """Threads that forward."""
        return int(self._lib.wh_switch_workers(self.handle))

    # ---- networks ----

    def add_network(self, vni: int, mtu: int = 1400) -> None:
        err = new_error()
        check(self._lib.wh_switch_network_add(self.handle, vni, mtu, err), err)

    def remove_network(self, vni: int) -> None:
        """CoreStateError while it has ports."""
        check(self._lib.wh_switch_network_del(self.handle, vni))

    def limit_network(self, vni: int, *, fdb_max: int = 0, storm_rate: int = 10000) -> None:
        """``fdb_max``: learned entries, 2**20 at most, 0: the switch's. ``storm_rate``: frames a second that each port
        added from now on may have flooded, 0: no bound."""
        err = new_error()
        check(self._lib.wh_switch_network_limits(self.handle, vni, fdb_max, storm_rate, err), err)

    def set_network_proxy(self, vni: int, on: bool) -> None:
        """Whether address requests (ARP, neighbour discovery) for known stations are answered here and not flooded, as
        they are in a new network."""
        check(self._lib.wh_switch_network_proxy(self.handle, vni, int(on)))

    def set_network_bound(self, vni: int, on: bool) -> None:
        """On: addresses that are bound are nobody else's, and guests' ports send IPv4 and ARP from their own only."""
        check(self._lib.wh_switch_network_bound(self.handle, vni, int(on)))

    def bind_address(self, vni: int, mac: str, ip: bytes) -> None:
        """This IPv4 address (4 bytes) was given to this station, wherever it is."""
        err = new_error()
        check(self._lib.wh_switch_bind(self.handle, vni, mac_bytes(mac), _ipv4(ip), err), err)

    def unbind_address(self, vni: int, mac: str, ip: bytes) -> None:
        """Fine if it is another's, or nobody's."""
        with contextlib.suppress(CoreNotFound):
            check(self._lib.wh_switch_unbind(self.handle, vni, mac_bytes(mac), _ipv4(ip)))

    def set_network_peers(self, vni: int, nodes: Iterable[int]) -> None:
        """The nodes that get this network's broadcasts; replaces the list."""
        listed, err = sorted(set(nodes)), new_error()
        check(self._lib.wh_switch_network_peers(self.handle, vni, ffi.new("uint32_t[]", listed), len(listed), err), err)

    # ---- ports ----

    def add_ring_port(
        self,
        port: int,
        vni: int,
        *,
        ring_fd: int,
        to_switch_event: int,
        to_guest_event: int,
        mac: str | None,
        generation: int = 0,
    ) -> None:
        """A guest's NIC. The descriptors stay the caller's. ``mac`` None: any source address."""
        err = new_error()
        locked = mac_bytes(mac or NO_MAC)
        check(
            self._lib.wh_switch_port_ring(
                self.handle, port, vni, ring_fd, to_switch_event, to_guest_event, locked, generation, err
            ),
            err,
        )

    def add_tap_port(self, port: int, vni: int, tap_fd: int) -> None:
        err = new_error()
        check(self._lib.wh_switch_port_tap(self.handle, port, vni, tap_fd, err), err)

    def add_dgram_port(self, port: int, vni: int, fd: int, remote: bytes) -> None:
        """A bound datagram socket; ``remote``: a sockaddr, empty for whoever sent last. ``fd`` stays the caller's."""
        err = new_error()
        check(self._lib.wh_switch_port_dgram(self.handle, port, vni, fd, remote, len(remote), err), err)

    def limit_port(self, port: int, *, fdb_max: int = 0, storm_rate: int = 10000) -> None:
        """As :meth:`limit_network`, of one port; ``fdb_max`` 0: as many as the network takes."""
        err = new_error()
        check(self._lib.wh_switch_port_limits(self.handle, port, fdb_max, storm_rate, err), err)

    def set_storms(
        self, port: int, *, broadcast: int | None = None, multicast: int | None = None, unknown: int | None = None
    ) -> None:
        """Rates of their own for broadcasts, multicasts and unicasts to nobody known, in frames a second; 0: no bound;
        None: what :meth:`limit_port` says holds for all such together."""
        rates = [_NO_STORM if rate is None else rate for rate in (broadcast, multicast, unknown)]
        check(self._lib.wh_switch_port_storms(self.handle, port, *rates))

    def set_vlan(self, port: int, *, access: int | None = None, trunk: Iterable[int] = (), native: int = 0) -> None:
        """``access``: the port's untagged frames are of this VLAN. Else ``trunk``: it carries these, tagged, and
        ``native`` untagged (0: none). None of all: frames pass as they are, tagged or not."""
        allowed, err = sorted(set(trunk)), new_error()
        mode = 1 if access is not None else 2 if allowed or native else 0
        vid = native if access is None else access
        if any(not 0 <= number <= 0xFFFF for number in (*allowed, vid)):
            raise CoreInvalid(-2, "vlan", "VLANs are 1..4094")
        listed = ffi.new("uint16_t[]", allowed)
        check(self._lib.wh_switch_port_vlan(self.handle, port, mode, vid, listed, len(allowed), err), err)

    def guard_port(self, port: int, on: bool) -> None:
        """On: a bridge's BPDU shuts the port (SwitchEventKind.GUARD), as it does on a new TAP port."""
        check(self._lib.wh_switch_port_guard(self.handle, port, int(on)))

    def remove_port(self, port: int) -> None:
        check(self._lib.wh_switch_port_del(self.handle, port))

    def enable_port(self, port: int, on: bool) -> None:
        """Off: frames are dropped both ways. Switching it on also makes the port the owner of its MAC here, whatever
        :meth:`set_mac` said before: the last step of a migration's target before :meth:`announce`."""
        check(self._lib.wh_switch_port_enable(self.handle, port, int(on)))

    def hold_port(self, port: int, on: bool) -> None:
        """Frames for the port wait while it is held; what its guest has sent so far is forwarded before this returns.
        Off: they go to the guest, or after it where :meth:`set_mac` has put its MAC on another node."""
        check(self._lib.wh_switch_port_hold(self.handle, port, int(on)))

    def announce(self, port: int) -> None:
        """Broadcast where this port's MAC is now."""
        check(self._lib.wh_switch_port_announce(self.handle, port))

    def trace_port(self, port: int, every: int) -> None:
        """Note where one in ``every`` of its frames goes; 0: stop and forget."""
        check(self._lib.wh_switch_port_trace(self.handle, port, every))

    def traced(self, port: int) -> tuple[list[FrameNote], int]:
        """The notes since the last call, and how many were lost."""
        out, count, lost = ffi.new("wh_trace_event[256]"), ffi.new("uint32_t *"), ffi.new("uint64_t *")
        check(self._lib.wh_switch_port_traced(self.handle, port, out, 256, count, lost))
        places = {ffi.offsetof("wh_counters", field.name) // 8: field.name for field in fields(Counters)}
        ways: tuple[Literal["flood", "port", "node", "back"], ...] = ("flood", "port", "node", "back")
        notes = [
            FrameNote(
                when=e.when_ns / 1e9,
                length=e.len,
                way=ways[e.way],
                to=e.to,
                reason=places.get(e.reason, ""),
                head=bytes(e.head)[: e.len],
            )
            for e in out[0 : count[0]]
        ]
        return notes, int(lost[0])

    # ---- peers ----

    def set_peer(self, node: int, *, via: int | None = None, address: tuple[str, int] | None = None) -> None:
        """Add or change a peer. ``via`` None: direct. The same ``address`` again keeps where the peer roamed to."""
        raw, err = b"" if address is None else sockaddr(*address), new_error()
        check(self._lib.wh_switch_peer_set(self.handle, node, node if via is None else via, raw, len(raw), err), err)

    def remove_peer(self, node: int) -> None:
        check(self._lib.wh_switch_peer_del(self.handle, node))

    def set_peer_takes(self, node: int, *, open_checksums: bool, lanes: bool = False) -> None:
        """Whether the peer reads frames whose checksum was left open (SPEC 8.4), and tells lanes apart (8.1), without
        which several workers send to it one at a time. A new peer does neither."""
        check(self._lib.wh_switch_peer_takes(self.handle, node, int(open_checksums) | (_TAKES_LANES if lanes else 0)))

    def set_peer_stream(self, node: int, fd: int) -> None:
        """A connected TCP socket to the peer's switch, used while UDP does not come through (SPEC 8.10). The switch
        owns it when this returns; the one that the peer had is closed."""
        err = new_error()
        check(self._lib.wh_switch_peer_stream(self.handle, node, fd, err), err)

    def close_peer_stream(self, node: int) -> None:
        """Fine if there is none."""
        with contextlib.suppress(CoreNotFound):
            check(self._lib.wh_switch_peer_stream(self.handle, node, -1, new_error()))

    def set_peer_rate(self, node: int, bytes_per_s: int) -> None:
        """What leaves for the peer, in bytes of IP packets a second; 0: no bound. What comes faster waits its turn."""
        check(self._lib.wh_switch_peer_rate(self.handle, node, bytes_per_s))

    def set_tx_key(self, node: int, epoch: int, cipher: int, key: bytes) -> None:
        err = new_error()
        check(self._lib.wh_switch_peer_tx_key(self.handle, node, epoch, cipher, _key(key), err), err)

    def set_rx_key(self, node: int, epoch: int, cipher: int, key: bytes) -> None:
        """Accept one more epoch; of three the oldest that is not in use is dropped. Do this before the other end seals
        with it."""
        err = new_error()
        check(self._lib.wh_switch_peer_rx_key(self.handle, node, epoch, cipher, _key(key), err), err)

    def drop_rx_key(self, node: int, epoch: int) -> bool:
        """Accept this epoch no longer and erase its key; fine if it is gone already. False, and nothing done: the
        peer's last authentic datagram came under it."""
        try:
            check(self._lib.wh_switch_peer_rx_drop(self.handle, node, epoch))
        except CoreNotFound:
            pass
        except CoreStateError:
            return False
        return True

    # ---- MACs ----

    def set_mac(self, vni: int, mac: str, node: int) -> None:
        """The control plane's word on whose a MAC is. This node itself: back to the local port that has it locked."""
        err = new_error()
        check(self._lib.wh_switch_mac_set(self.handle, vni, mac_bytes(mac), node, err), err)

    def remove_mac(self, vni: int, mac: str) -> None:
        check(self._lib.wh_switch_mac_del(self.handle, vni, mac_bytes(mac)))

    def release_mac(self, vni: int, mac: str) -> bool:
        """A station that is held (SwitchEventKind.DUPLICATE) may move again. False: it is not held."""
        return int(self._lib.wh_switch_mac_release(self.handle, vni, mac_bytes(mac))) == 0

    def fdb(self, vni: int) -> list[FdbEntry]:
        cap, count = _FDB_SLACK, ffi.new("uint32_t *")
        while True:
            rows = ffi.new("wh_fdb_entry[]", cap)
            check(self._lib.wh_switch_fdb(self.handle, vni, rows, cap, count))
            if count[0] < cap:
                break
            cap *= 4
        return [
            FdbEntry(
                vni=row.vni,
                mac=mac_text(bytes(row.mac)),
                node=row.node,
                port=row.port if row.node == self.node else None,
                age_s=row.age_s,
                is_static=bool(row.is_static),
                vid=row.vid,
                held=bool(row.held),
            )
            for row in rows[0 : count[0]]
        ]

    # ---- what it tells ----

    def next_event(self) -> SwitchEvent | None:
        """None: nothing there now."""
        raw = ffi.new("wh_switch_event *")
        status = self._lib.wh_switch_next_event(self.handle, raw)
        if status == _AGAIN:
            return None
        check(status)
        return SwitchEvent(
            SwitchEventKind(raw.kind), raw.node, raw.port, raw.vni, mac_text(bytes(raw.mac)), int(raw.value)
        )

    async def events(self) -> AsyncIterator[SwitchEvent]:
        """Events as they come, for ever. One consumer. Ends when the switch is closed."""
        while self._handle is not None:
            event = self.next_event()
            if event is not None:
                yield event
                continue
            try:
                await trio.lowlevel.wait_readable(self._lib.wh_switch_event_fd(self.handle))
            except trio.ClosedResourceError:
                return

    def counters(self) -> Counters:
        raw = ffi.new("wh_counters *")
        check(self._lib.wh_switch_counters(self.handle, raw))
        return _counters(raw)

    def port_counters(self, port: int) -> Counters:
        raw = ffi.new("wh_counters *")
        check(self._lib.wh_switch_port_counters(self.handle, port, raw))
        return _counters(raw)

    def peer_counters(self, node: int) -> Counters:
        raw = ffi.new("wh_counters *")
        check(self._lib.wh_switch_peer_counters(self.handle, node, raw))
        return _counters(raw)


def _key(key: bytes) -> bytes:
    if len(key) != 32:
        raise CoreInvalid(-2, "key", f"{len(key)} bytes, not 32")
    return key


def _ipv4(ip: bytes) -> bytes:
    if len(ip) != 4:
        raise CoreInvalid(-2, "ip", f"{len(ip)} bytes, not 4")
    return ip


def _counters(raw: Any) -> Counters:
    return Counters(**{field.name: int(getattr(raw, field.name)) for field in fields(Counters)})
