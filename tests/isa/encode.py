"""A small RV64GC encoder and ELF writer for the differential tests.

It knows formats, not mnemonics: each helper returns an instruction's bytes, built from the fields of the unprivileged
specification. It is written apart from the decoder under test, so that an error in one shows against the other.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping


def r_type(opcode: int, rd: int, f3: int, rs1: int, rs2: int, f7: int) -> bytes:
    return struct.pack("<I", opcode | rd << 7 | f3 << 12 | rs1 << 15 | rs2 << 20 | f7 << 25)


def r4_type(opcode: int, rd: int, rm: int, rs1: int, rs2: int, rs3: int, fmt: int) -> bytes:
    return r_type(opcode, rd, rm, rs1, rs2, rs3 << 2 | fmt)


def i_type(opcode: int, rd: int, f3: int, rs1: int, imm: int) -> bytes:
    return struct.pack("<I", opcode | rd << 7 | f3 << 12 | rs1 << 15 | (imm & 0xFFF) << 20)


def s_type(opcode: int, f3: int, rs1: int, rs2: int, imm: int) -> bytes:
    return struct.pack("<I", opcode | (imm & 31) << 7 | f3 << 12 | rs1 << 15 | rs2 << 20 | (imm >> 5 & 127) << 25)


def b_type(f3: int, rs1: int, rs2: int, distance: int) -> bytes:
    d = distance
    low = (d >> 11 & 1) << 7 | (d >> 1 & 15) << 8
    return struct.pack("<I", 0x63 | low | f3 << 12 | rs1 << 15 | rs2 << 20 | (d >> 5 & 63) << 25 | (d >> 12 & 1) << 31)


def u_type(opcode: int, rd: int, upper: int) -> bytes:
    return struct.pack("<I", opcode | rd << 7 | (upper & 0xFFFFF) << 12)


def j_type(rd: int, distance: int) -> bytes:
    d = distance
    imm = (d >> 12 & 0xFF) << 12 | (d >> 11 & 1) << 20 | (d >> 1 & 0x3FF) << 21 | (d >> 20 & 1) << 31
    return struct.pack("<I", 0x6F | rd << 7 | imm)


def csr(f3: int, rd: int, rs1: int, number: int) -> bytes:
    return i_type(0x73, rd, f3, rs1, number)


def word(bits: int) -> bytes:
    return struct.pack("<I", bits)


def half(bits: int) -> bytes:
    return struct.pack("<H", bits)


def li32(rd: int, value: int) -> bytes:
    """Load a sign-extended 32-bit constant."""
    low = (value & 0xFFF) - ((value & 0x800) << 1)
    return u_type(0x37, rd, (value - low) >> 12) + i_type(0x1B, rd, 0, rd, low)


def la(rd: int, here: int, there: int) -> bytes:
    """Load an address within 2 GiB; `here` is where this pair will stand."""
    distance = there - here
    low = (distance & 0xFFF) - ((distance & 0x800) << 1)
    return u_type(0x17, rd, (distance - low) >> 12) + i_type(0x13, rd, 0, rd, low)


def elf(base: int, image: bytes, entry: int, symbols: Mapping[str, int]) -> bytes:
    """A static ELF64 executable: one RWX segment at `base`, and a symbol table."""
    names = b"\0" + b"".join(name.encode() + b"\0" for name in symbols)
    table = struct.pack("<IBBHQQ", 0, 0, 0, 0, 0, 0)
    at = 1
    for name, value in symbols.items():
        table += struct.pack("<IBBHQQ", at, 0x10, 0, 0xFFF1, value, 0)
        at += len(name) + 1
    offset = 0x1000
    end = offset + len(image)
    sections = b"\0" * 64
    sections += struct.pack("<IIQQQQIIQQ", 0, 2, 0, 0, end, len(table), 2, 1, 8, 24)
    sections += struct.pack("<IIQQQQIIQQ", 0, 3, 0, 0, end + len(table), len(names), 0, 0, 1, 0)
    table_at = end + len(table) + len(names)
    header = b"\x7fELF\2\1\1" + b"\0" * 9
    header += struct.pack("<HHIQQQIHHHHHH", 2, 243, 1, entry, 64, table_at, 5, 64, 56, 1, 64, 3, 2)
    segment = struct.pack("<IIQQQQQQ", 1, 7, offset, base, base, len(image), len(image), 0x1000)
    return (header + segment).ljust(offset, b"\0") + image + table + names + sections
