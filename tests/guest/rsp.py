"""A client of GDB's remote serial protocol, as small as its tests need it, and the symbols of an ELF file."""

from __future__ import annotations

import socket
import struct
from contextlib import suppress
from pathlib import Path

DEADLINE_S = 30.0
PC, F0, CSR0, PRIV = 32, 33, 65, 65 + 4096


def symbols(elf: Path) -> dict[str, int]:
    """Name to value of every symbol of an ELF64 file."""
    data = elf.read_bytes()
    (table,) = struct.unpack_from("<Q", data, 40)
    size, count = struct.unpack_from("<HH", data, 58)
    headers = [struct.unpack_from("<IIQQQQIIQQ", data, table + i * size) for i in range(count)]
    found = {}
    for kind, offset, length, link in ((h[1], h[4], h[5], h[6]) for h in headers):
        if kind != 2:
            continue
        names = headers[link][4]
        for at in range(offset, offset + length, 24):
            name, _, _, _, value, _ = struct.unpack_from("<IBBHQQ", data, at)
            end = data.index(b"\0", names + name)
            found[data[names + name : end].decode()] = value
    return found


def frame(body: bytes) -> bytes:
    escaped = b"".join(bytes([0x7D, c ^ 0x20]) if c in b"$#}*" else bytes([c]) for c in body)
    return b"$" + escaped + b"#%02x" % (sum(escaped) & 0xFF)


class Rsp:
    """One connection. Requests give the reply's text; a wrong checksum or a missing acknowledgement fails."""

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        self.sock.settimeout(DEADLINE_S)
        self._buffer = b""

    def close(self) -> None:
        self.sock.close()

    def byte(self) -> bytes:
        if not self._buffer:
            self._buffer = self.sock.recv(65536)
            if not self._buffer:
                raise EOFError("the stub has closed the connection")
        first, self._buffer = self._buffer[:1], self._buffer[1:]
        return first

    def send(self, body: bytes | str) -> None:
        """Without waiting for the reply."""
        self.sock.sendall(frame(body.encode() if isinstance(body, str) else body))
        assert self.byte() == b"+"

    def reply(self) -> bytes:
        while (c := self.byte()) != b"$":
            assert c == b"+", c
        body = b""
        while (c := self.byte()) != b"#":
            body += c
        assert int(self.byte() + self.byte(), 16) == sum(body) & 0xFF
        with suppress(BrokenPipeError):  # it may have said its last word
            self.sock.sendall(b"+")
        parts = body.split(b"}")
        return parts[0] + b"".join(bytes([p[0] ^ 0x20]) + p[1:] for p in parts[1:])

    def ask(self, body: bytes | str) -> str:
        self.send(body)
        return self.reply().decode("latin-1")

    def ok(self, body: bytes | str) -> None:
        answer = self.ask(body)
        assert answer == "OK", (body, answer)

    # -- what the tests say

    def go(self, how: str = "vCont;c") -> str:
        """Go on; the stop reply."""
        return self.ask(how)

    def interrupt(self) -> str:
        self.sock.sendall(b"\x03")
        return self.reply().decode()

    def register(self, number: int) -> int:
        return int.from_bytes(bytes.fromhex(self.ask(f"p{number:x}")), "little")

    def set_register(self, number: int, value: int) -> None:
        self.ok(f"P{number:x}={value.to_bytes(8, 'little').hex()}")

    @property
    def pc(self) -> int:
        return self.register(PC)

    def memory(self, address: int, length: int) -> bytes:
        return bytes.fromhex(self.ask(f"m{address:x},{length:x}"))

    def word(self, address: int) -> int:
        return int.from_bytes(self.memory(address, 8), "little")

    def write(self, address: int, data: bytes) -> None:
        self.ok(f"M{address:x},{len(data):x}:{data.hex()}")

    def monitor(self, command: str) -> str:
        return bytes.fromhex(self.ask(f"qRcmd,{command.encode().hex()}")).decode()
