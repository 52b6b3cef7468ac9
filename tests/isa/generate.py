"""Random RV64GC+Zba+Zbb+Zbs programs that end by dumping every register and their scratch memory; with ``extended``
half of their instructions are of later extensions.

The same code runs in two ways: in M-mode on a bare machine (ends by writing `tohost`; the dump lies between
`begin_signature` and `end_signature`), and as a Linux program (ends with write(1, dump) and exit(0)).

Registers x2, x5 and x8 point at the middle of the scratch memory, x6 is for addresses, x7 counts loops; the program
never writes them otherwise.
"""

from __future__ import annotations

import random
import struct
from collections.abc import Callable
from dataclasses import dataclass, field

from tests.isa import encode as e

BASE = 0x8000_0000
SCRATCH_BYTES = 4096
RESERVED = frozenset({2, 5, 6, 7, 8})
FREE = [r for r in range(32) if r not in RESERVED]
LOW_FREE = list(range(9, 16))
DUMP_BYTES = 32 * 8 + 32 * 8 + 8 + SCRATCH_BYTES

HALVES = [
    0x0000, 0x8000, 0x3C00, 0xBC00, 0x7C00, 0xFC00, 0x7E00, 0xFE00, 0x7C01, 0x7DFF, 0x0001, 0x8001, 0x03FF, 0x0400,
    0x8400, 0x7BFF, 0xFBFF, 0x3800, 0x3E00, 0x5BFF,
]  # fmt: skip
INTEGERS = [
    0, 1, 2, 0x7F, 0x80, 0xFF, 0x7FFF, 0x8000, 0xFFFF, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF, 0x100000000, 1 << 62, (1
    << 63) - 1, 1 << 63, (1 << 64) - 1, (1 << 64) - 2, 0xFFFFFFFF80000000, 0x0123456789ABCDEF, 0xAAAAAAAAAAAAAAAA,
]  # fmt: skip
SINGLES = [
    0x00000000, 0x80000000, 0x3F800000, 0xBF800000, 0x7F800000, 0xFF800000, 0x7FC00000, 0xFFC00000, 0x7F800001,
    0x7FBFFFFF, 0x00000001, 0x80000001, 0x007FFFFF, 0x00800000, 0x80800000, 0x7F7FFFFF, 0xFF7FFFFF, 0x3F000000,
    0x3FC00000, 0x40200000, 0x4B000001, 0x4F000000, 0xCF000000, 0x4F800000, 0x5F000000, 0xDF000000, 0x5F800000,
    0x33800000, 0x34000000, 0x3EAAAAAB,
]  # fmt: skip
DOUBLES = [
    0x0000000000000000, 0x8000000000000000, 0x3FF0000000000000, 0xBFF0000000000000, 0x7FF0000000000000,
    0xFFF0000000000000, 0x7FF8000000000000, 0xFFF8000000000000, 0x7FF0000000000001, 0xFFF7FFFFFFFFFFFF,
    0x0000000000000001, 0x8000000000000001, 0x000FFFFFFFFFFFFF, 0x0010000000000000, 0x8010000000000000,
    0x7FEFFFFFFFFFFFFF, 0xFFEFFFFFFFFFFFFF, 0x3FE0000000000000, 0x3FF8000000000000, 0x4004000000000000,
    0x4330000000000001, 0x41DFFFFFFFC00000, 0xC1E0000000000000, 0x41EFFFFFFFE00000, 0x43E0000000000000,
    0xC3E0000000000000, 0x43F0000000000000, 0x36A0000000000000, 0x3690000000000000, 0x380FFFFFFFFFFFFF,
    0x47EFFFFFF0000000, 0x3FD5555555555555,
]  # fmt: skip

OP = [(0, 0), (0, 0x20), (1, 0), (2, 0), (3, 0), (4, 0), (5, 0), (5, 0x20), (6, 0), (7, 0)]
OP += [(f3, 1) for f3 in range(8)]
OP += [(4, 5), (5, 5), (6, 5), (7, 5), (4, 0x20), (6, 0x20), (7, 0x20), (2, 0x10), (4, 0x10), (6, 0x10)]
OP += [(1, 0x30), (5, 0x30), (1, 0x14), (1, 0x24), (5, 0x24), (1, 0x34)]
OP32 = [(0, 0), (0, 0x20), (1, 0), (5, 0), (5, 0x20), (0, 1), (4, 1), (5, 1), (6, 1), (7, 1)]
OP32 += [(0, 4), (2, 0x10), (4, 0x10), (6, 0x10), (1, 0x30), (5, 0x30)]
UNARY = [(1, 0x600), (1, 0x601), (1, 0x602), (1, 0x604), (1, 0x605), (5, 0x287), (5, 0x6B8)]
AMO = [0x00, 0x01, 0x04, 0x08, 0x0C, 0x10, 0x14, 0x18, 0x1C]


@dataclass
class Branch:
    """A transfer to a later instruction, encoded when distances are known."""

    length: int
    skip: int
    make: Callable[[int], bytes]


@dataclass
class Program:
    rng: random.Random
    extended: bool = False
    items: list[bytes | Branch] = field(default_factory=list)

    def rd(self) -> int:
        return self.rng.choice(FREE)

    def rs(self) -> int:
        return self.rng.choice(FREE)

    def emit(self, *parts: bytes) -> None:
        self.items.extend(parts)

    def integer(self) -> None:
        r = self.rng
        kind = r.randrange(6)
        if kind == 0:
            f3, f7 = r.choice(OP)
            self.emit(e.r_type(0x33, self.rd(), f3, self.rs(), self.rs(), f7))
        elif kind == 1:
            f3, f7 = r.choice(OP32)
            self.emit(e.r_type(0x3B, self.rd(), f3, self.rs(), self.rs(), f7))
        elif kind == 2:
            self.emit(e.i_type(0x13, self.rd(), r.choice([0, 2, 3, 4, 6, 7]), self.rs(), r.randrange(-2048, 2048)))
        elif kind == 3:
            f3, high = r.choice([(1, 0), (5, 0), (5, 0x10), (1, 0x0A), (1, 0x12), (5, 0x12), (1, 0x1A), (5, 0x18)])
            self.emit(e.i_type(0x13, self.rd(), f3, self.rs(), high << 6 | r.randrange(64)))
        elif kind == 4:
            f3, imm = r.choice(UNARY)
            self.emit(e.i_type(0x13, self.rd(), f3, self.rs(), imm))
            f3, imm = r.choice([(1, 0x600), (1, 0x601), (1, 0x602)])
            source = self.rs()
            if imm == 0x601:  # QEMU before 8.0 counts on into the upper half when the lower one is zero
                source = source or 1
                self.emit(e.i_type(0x13, source, 6, source, 1 << r.randrange(11)))
            self.emit(e.i_type(0x1B, self.rd(), f3, source, imm))
            self.emit(e.r_type(0x3B, self.rd(), 4, self.rs(), 0, 4))
        else:
            f3, high = r.choice([(1, 0), (5, 0), (5, 0x20), (5, 0x30)])
            self.emit(e.i_type(0x1B, self.rd(), f3, self.rs(), high << 5 | r.randrange(32)))
            self.emit(e.i_type(0x1B, self.rd(), 0, self.rs(), r.randrange(-2048, 2048)))
            self.emit(e.i_type(0x1B, self.rd(), 1, self.rs(), 2 << 6 | r.randrange(64)))
            self.emit(e.u_type(r.choice([0x37, 0x17]), self.rd(), r.randrange(1 << 20)))

    def memory(self) -> None:
        r = self.rng
        offset = r.randrange(-2040, 2040)
        if r.random() < 0.7:
            offset &= ~7
        base = r.choice([2, 5, 8])
        if r.random() < 0.5:
            self.emit(e.i_type(0x03, self.rd(), r.randrange(7), base, offset))
        else:
            self.emit(e.s_type(0x23, r.randrange(4), base, self.rs(), offset))

    def atomic(self) -> None:
        r = self.rng
        f3 = r.choice([2, 3])
        self.emit(e.i_type(0x13, 6, 0, 5, r.randrange(-2040, 2040) & -(1 << f3)))
        order = r.randrange(4)
        if r.random() < 0.3:
            self.emit(e.r_type(0x2F, self.rd(), f3, 6, 0, 2 << 2 | order))
            if r.random() < 0.3:
                self.emit(e.s_type(0x23, f3, 6, self.rs(), 0))  # the reservation sees another value, or the same
            if r.random() < 0.8:
                self.emit(e.r_type(0x2F, self.rd(), f3, 6, self.rs(), 3 << 2 | order))
        else:
            self.emit(e.r_type(0x2F, self.rd(), f3, 6, self.rs(), r.choice(AMO) << 2 | order))

    def rm(self) -> int:
        return self.rng.choice([7, 7, 7, 0, 1, 2, 3, 4])

    def freg(self) -> int:
        return self.rng.randrange(32)

    def floating(self) -> None:
        r = self.rng
        fmt = r.randrange(2)
        kind = r.randrange(10)
        if kind <= 2:
            self.emit(e.r_type(0x53, self.freg(), self.rm(), self.freg(), self.freg(), r.randrange(4) << 2 | fmt))
        elif kind == 3:
            self.emit(e.r_type(0x53, self.freg(), self.rm(), self.freg(), 0, 0x0B << 2 | fmt))
            self.emit(e.r_type(0x53, self.freg(), self.rm(), self.freg(), 1 - fmt, 0x08 << 2 | fmt))
        elif kind == 4:
            opcode = r.choice([0x43, 0x47, 0x4B, 0x4F])
            self.emit(e.r4_type(opcode, self.freg(), self.rm(), self.freg(), self.freg(), self.freg(), fmt))
        elif kind == 5:
            self.emit(e.r_type(0x53, self.freg(), r.randrange(3), self.freg(), self.freg(), 0x04 << 2 | fmt))
            self.emit(e.r_type(0x53, self.freg(), r.randrange(2), self.freg(), self.freg(), 0x05 << 2 | fmt))
        elif kind == 6:
            self.emit(e.r_type(0x53, self.rd(), r.randrange(3), self.freg(), self.freg(), 0x14 << 2 | fmt))
            self.emit(e.r_type(0x53, self.rd(), r.randrange(2), self.freg(), 0, 0x1C << 2 | fmt))
        elif kind == 7:
            self.emit(e.r_type(0x53, self.rd(), self.rm(), self.freg(), r.randrange(4), 0x18 << 2 | fmt))
        elif kind == 8:
            self.emit(e.r_type(0x53, self.freg(), self.rm(), self.rs(), r.randrange(4), 0x1A << 2 | fmt))
            if r.random() < 0.3:
                self.emit(e.r_type(0x53, self.freg(), 0, self.rs(), 0, 0x1E << 2 | fmt))
        else:
            offset = r.randrange(-255, 255) * 8
            if r.random() < 0.6:  # the tables at the start of the scratch memory hold the special values
                self.emit(e.i_type(0x07, self.freg(), r.choice([2, 3]), 5, offset))
            else:
                self.emit(e.s_type(0x27, r.choice([2, 3]), 5, self.freg(), offset))

    def control(self) -> None:
        r = self.rng
        kind = r.randrange(4)
        if kind == 0:
            self.emit(e.csr(5, 0, r.randrange(5), 0x002))  # csrwi frm
        elif kind == 1:
            self.emit(e.csr(r.choice([2, 3]), self.rd(), 0, r.choice([1, 2, 3])))  # read fflags, frm, fcsr
        elif kind == 2:
            self.emit(e.csr(r.choice([5, 6, 7]), self.rd(), r.randrange(32), 0x001))
        else:
            self.emit(
                r.choice([e.i_type(0x0F, 0, 0, 0, 0x0FF), e.i_type(0x0F, 0, 0, 0, 0x833), e.i_type(0x0F, 0, 1, 0, 0)])
            )

    def compressed(self) -> None:
        r = self.rng
        rd = r.choice([x for x in FREE if x != 0])
        low, low2 = r.choice(LOW_FREE) - 8, r.choice(LOW_FREE) - 8
        imm6 = r.randrange(64)
        wide = (imm6 >> 5) << 12 | (imm6 & 31) << 2
        five, six = r.randrange(32) << 2, r.randrange(64) << 7
        choices = [
            0x0001 | wide | rd << 7,  # c.addi (c.nop's hint forms included)
            0x2001 | wide | rd << 7,  # c.addiw
            0x4001 | wide | rd << 7,  # c.li
            0x8001 | wide | low << 7 | r.randrange(3) << 10,  # c.srli, c.srai, c.andi
            0x8C01 | low << 7 | low2 << 2 | r.randrange(4) << 5,  # c.sub, c.xor, c.or, c.and
            0x9C01 | low << 7 | low2 << 2 | r.randrange(2) << 5,  # c.subw, c.addw
            0x0002 | wide | rd << 7,  # c.slli
            0x8002 | rd << 7 | r.choice(FREE[1:]) << 2,  # c.mv
            0x9002 | rd << 7 | r.choice(FREE[1:]) << 2,  # c.add
            0x4002 | wide | rd << 7,  # c.lwsp
            0x6002 | wide | rd << 7,  # c.ldsp
            0x2002 | wide | self.freg() << 7,  # c.fldsp
            0xC002 | six | r.choice(FREE) << 2,  # c.swsp
            0xE002 | six | r.choice(FREE) << 2,  # c.sdsp
            0xA002 | six | self.freg() << 2,  # c.fsdsp
            0x4000 | low << 2 | (five << 3 & 0x1C00) | (five & 0x60),  # c.lw from x8
            0x6000 | low << 2 | (five << 3 & 0x1C00) | (five & 0x60),  # c.ld
            0xC000 | low << 2 | (five << 3 & 0x1C00) | (five & 0x60),  # c.sw
            0xE000 | low << 2 | (five << 3 & 0x1C00) | (five & 0x60),  # c.sd
            0x2000 | r.randrange(8) << 2 | (five << 3 & 0x1C00) | (five & 0x60),  # c.fld
            0xA000 | r.randrange(8) << 2 | (five << 3 & 0x1C00) | (five & 0x60),  # c.fsd
        ]
        if imm6 != 0:
            choices.append(0x6001 | wide | rd << 7)  # c.lui
        spn = r.randrange(1, 256)
        choices.append(0x0000 | low << 2 | spn << 5)  # c.addi4spn
        self.emit(e.half(r.choice(choices)))

    def branch(self) -> None:
        r = self.rng
        skip = r.randrange(1, 9)
        kind = r.randrange(5)
        if kind == 0:
            f3, a, b = r.choice([0, 1, 4, 5, 6, 7]), self.rs(), self.rs()
            self.items.append(Branch(4, skip, lambda d: e.b_type(f3, a, b, d)))
        elif kind == 1:
            rd = self.rd()
            self.items.append(Branch(4, skip, lambda d: e.j_type(rd, d)))
        elif kind == 2:
            bits = r.choice([0xC001, 0xE001]) | (r.choice(LOW_FREE) - 8) << 7

            def near(d: int) -> bytes:
                return e.half(
                    bits
                    | (d >> 8 & 1) << 12
                    | (d >> 3 & 3) << 10
                    | (d >> 6 & 3) << 5
                    | (d >> 1 & 3) << 3
                    | (d >> 5 & 1) << 2
                )

            self.items.append(Branch(2, skip, near))
        elif kind == 3:

            def jump(d: int) -> bytes:
                bits = 0xA001 | (d >> 11 & 1) << 12 | (d >> 4 & 1) << 11 | (d >> 8 & 3) << 9 | (d >> 10 & 1) << 8
                return e.half(bits | (d >> 6 & 1) << 7 | (d >> 7 & 1) << 6 | (d >> 1 & 7) << 3 | (d >> 5 & 1) << 2)

            self.items.append(Branch(2, skip, jump))
        else:  # through a register; auipc's own 4 bytes are part of the distance
            rd = self.rd()
            self.emit(e.u_type(0x17, 6, 0))
            self.items.append(Branch(4, skip, lambda d: e.i_type(0x67, rd, 0, 6, d + 4)))

    def later_integer(self) -> None:
        """Zicond, Zimop, hints of Zicbop and Zihintntl, Zawrs, Zcmop."""
        r = self.rng
        n, k = r.randrange(32), r.randrange(8)
        mop_r = 0x81C04073 | (n >> 4) << 30 | (n >> 2 & 3) << 26 | (n & 3) << 20
        mop_rr = 0x82004073 | (k >> 2) << 30 | (k & 3) << 26 | self.rs() << 20
        choices = [
            e.r_type(0x33, self.rd(), 5, self.rs(), self.rs(), 7),
            e.r_type(0x33, self.rd(), 7, self.rs(), self.rs(), 7),
            e.word(mop_r | self.rd() << 7 | self.rs() << 15),
            e.word(mop_rr | self.rd() << 7 | self.rs() << 15),
            e.i_type(0x13, 0, 6, self.rs(), r.randrange(128) << 5 | r.choice([0, 1, 3])),
            e.r_type(0x33, 0, 0, 0, r.randrange(2, 6), 0),
            e.word(r.choice([0x00D00073, 0x01D00073])),
            e.half(0x6081 | r.randrange(8) << 8),
        ]
        self.emit(*r.choices(choices, weights=[8, 8, 2, 2, 1, 1, 1, 1]))

    def later_compressed(self) -> None:
        """Zcb."""
        r = self.rng
        low, low2 = r.choice(LOW_FREE) - 8, r.choice(LOW_FREE) - 8
        offset = r.randrange(4) << 5
        choices = [
            0x8000 | offset | low << 2,  # c.lbu from x8
            0x8400 | offset | low << 2,  # c.lhu, c.lh
            0x8800 | offset | low << 2,  # c.sb
            0x8C00 | (offset & 0x20) | low << 2,  # c.sh
            0x9C41 | low << 7 | low2 << 2,  # c.mul
            *(0x9C61 | low << 7 | n << 2 for n in range(6)),
        ]
        self.emit(e.half(r.choice(choices)))

    def later_atomic(self) -> None:
        """Zacas and Zicboz (Linux gives its programs no Zicbom). Half of the swaps find what they expect."""
        r = self.rng
        f3 = r.choice([2, 3, 4])
        size = 1 << f3
        order = r.randrange(4)
        # x5 is 8 mod 16, for the tables and the dump before the scratch memory are 520 and 8 mod 16 bytes long
        self.emit(e.i_type(0x13, 6, 0, 5, r.randrange(-1900, 1900)), e.i_type(0x13, 6, 7, 6, -size))
        # Not rd = x0: QEMU 10 overwrites its constant zero with the result; tests/c/cpu_extra_test.c has that case.
        rd = r.choice(range(10, 32, 2)) if f3 == 4 else r.choice([x for x in FREE if x != 0])
        source = r.choice(range(0, 32, 2)) if f3 == 4 else self.rs()
        if r.random() < 0.5:
            self.emit(e.i_type(0x03, rd, min(f3, 3), 6, 0))
            if f3 == 4:
                self.emit(e.i_type(0x03, rd + 1, 3, 6, 8))
        self.emit(e.r_type(0x2F, rd, f3, 6, source, 5 << 2 | order))
        if r.random() < 0.2:
            self.emit(e.i_type(0x0F, 0, 2, 6, 4))  # cbo.zero

    def later_floating(self) -> None:
        """Zfa and Zfhmin."""
        r = self.rng
        fmt = r.randrange(2)
        kind = r.randrange(9)
        if kind == 0:
            self.emit(e.r_type(0x53, self.freg(), 0, r.randrange(32), 1, 0x1E << 2 | fmt))  # fli
        elif kind == 1:
            self.emit(e.r_type(0x53, self.freg(), r.choice([2, 3]), self.freg(), self.freg(), 0x05 << 2 | fmt))
        elif kind == 2:
            self.emit(e.r_type(0x53, self.freg(), self.rm(), self.freg(), r.choice([4, 5]), 0x08 << 2 | fmt))
        elif kind == 3:
            self.emit(e.r_type(0x53, self.rd(), 1, self.freg(), 8, 0x61))  # fcvtmod.w.d
        elif kind == 4:
            self.emit(e.r_type(0x53, self.rd(), r.choice([4, 5]), self.freg(), self.freg(), 0x14 << 2 | fmt))
        elif kind == 5:
            self.emit(e.r_type(0x53, self.freg(), self.rm(), self.freg(), 2, 0x08 << 2 | fmt))  # fcvt.s.h, fcvt.d.h
        elif kind == 6:
            self.emit(e.r_type(0x53, self.freg(), self.rm(), self.freg(), fmt, 0x22))  # fcvt.h.s, fcvt.h.d
        elif kind == 7:
            self.emit(e.r_type(0x53, self.rd(), 0, self.freg(), 0, 0x72))
            self.emit(e.r_type(0x53, self.freg(), 0, self.rs(), 0, 0x7A))
        else:
            offset = r.randrange(-1000, 1000) * 2
            if r.random() < 0.7:
                self.emit(e.i_type(0x07, self.freg(), 1, 5, offset))
            else:
                self.emit(e.s_type(0x27, 1, 5, self.freg(), offset))

    def step(self) -> None:
        if self.extended and self.rng.random() < 0.5:
            later = [self.later_integer, self.later_compressed, self.later_atomic, self.later_floating]
            self.rng.choices(later, weights=[4, 4, 2, 10])[0]()
            return
        choices = [self.integer, self.memory, self.floating, self.compressed, self.atomic, self.branch, self.control]
        self.rng.choices(choices, weights=[30, 12, 30, 25, 5, 6, 5])[0]()

    def loop(self, steps: int) -> None:
        """A counted loop over straight code (no branch may leave it)."""
        self.emit(e.i_type(0x13, 7, 0, 0, self.rng.randrange(2, 6)))
        first = len(self.items)
        for _ in range(steps):
            self.rng.choice([self.integer, self.memory, self.floating, self.compressed])()
        body = sum(len(i) if isinstance(i, bytes) else i.length for i in self.items[first:])
        self.emit(e.i_type(0x13, 7, 0, 7, -1), e.b_type(1, 7, 0, -body - 4))

    def assemble(self) -> bytes:
        lengths = [len(i) if isinstance(i, bytes) else i.length for i in self.items]
        out = b""
        for index, item in enumerate(self.items):
            if isinstance(item, Branch):
                last = min(index + 1 + item.skip, len(self.items))
                out += item.make(sum(lengths[index:last]))
            else:
                out += item
        return out


def _initial(rng: random.Random, extended: bool) -> bytes:
    """x and f registers, and scratch memory full of special and random values."""

    def integer() -> int:
        return rng.choice(INTEGERS) if rng.random() < 0.7 else rng.getrandbits(64)

    def floating() -> int:
        if extended and rng.random() < 0.3:
            return (1 << 48) - 1 << 16 | (rng.choice(HALVES) if rng.random() < 0.6 else rng.getrandbits(16))
        kind = rng.random()
        if kind < 0.4:
            return rng.choice(DOUBLES)
        if kind < 0.75:
            return 0xFFFFFFFF << 32 | rng.choice(SINGLES)
        if kind < 0.85:
            return 0xFFFFFFFF << 32 | rng.getrandbits(32)
        return rng.getrandbits(64)

    words = [integer() for _ in range(32)] + [floating() for _ in range(32)]
    words += [floating() if rng.random() < 0.7 else integer() for _ in range(SCRATCH_BYTES // 8)]
    return struct.pack(f"<{len(words)}Q", *words)


def _prologue(here: int, table: int, scratch: int) -> bytes:
    code = e.la(5, here, table)
    for f in range(32):
        code += e.i_type(0x07, f, 3, 5, 256 + 8 * f)
    for x in range(1, 32):
        if x not in RESERVED:
            code += e.i_type(0x03, x, 3, 5, 8 * x)
    code += e.la(5, here + len(code), scratch + SCRATCH_BYTES // 2)
    code += e.i_type(0x13, 2, 0, 5, 0) + e.i_type(0x13, 8, 0, 5, 0) + e.i_type(0x13, 7, 0, 0, 0)
    return code + e.csr(1, 0, 0, 0x003) + e.i_type(0x13, 6, 0, 0, 0)


def _epilogue(here: int, dump: int, mode: int, tohost: int) -> bytes:
    code = e.la(6, here, dump)
    for x in range(32):
        if x not in RESERVED:  # pointers are the same on both sides by construction; x6 and x7 are ours
            code += e.s_type(0x23, 3, 6, x, 8 * x)
    for f in range(32):
        code += e.s_type(0x27, 3, 6, f, 256 + 8 * f)
    code += e.csr(2, 7, 0, 0x003) + e.s_type(0x23, 3, 6, 7, 512)
    code += e.la(7, here + len(code), mode) + e.i_type(0x03, 7, 3, 7, 0)
    linux = e.i_type(0x13, 10, 0, 0, 1) + e.i_type(0x13, 11, 0, 6, 0) + e.li32(12, DUMP_BYTES)
    linux += e.i_type(0x13, 17, 0, 0, 64) + e.i_type(0x73, 0, 0, 0, 0)
    linux += e.i_type(0x13, 10, 0, 0, 0) + e.i_type(0x13, 17, 0, 0, 93) + e.i_type(0x73, 0, 0, 0, 0)
    code += e.b_type(1, 7, 0, 4 + len(linux)) + linux
    code += e.la(6, here + len(code), tohost) + e.i_type(0x13, 7, 0, 0, 1) + e.s_type(0x23, 3, 6, 7, 0)
    return code + e.j_type(0, 0)


def build(seed: int, *, bare: bool, steps: int = 300, extended: bool = False) -> bytes:
    """The ELF of program number `seed`, to be started bare or by Linux; only the entry point differs."""
    rng = random.Random(f"extended {seed}" if extended else seed)
    program = Program(rng, extended)
    for _ in range(steps):
        if rng.random() < 0.02:
            program.loop(8)
            program.emit(e.i_type(0x13, 0, 0, 0, 0))
        program.step()
    body = _safe(program)
    data = _initial(
        random.Random(f"data {seed}"), extended
    )  # apart, so that fewer steps are a prefix of the same program
    # layout: bare start | user start | prologue | body | epilogue || mode, tohost, tables, dump(registers + scratch)
    table_at = BASE + 0x10000
    mode, tohost, tables = table_at, table_at + 64, table_at + 128
    dump = tables + 512
    scratch = dump + 520
    setup = e.la(6, BASE, mode) + e.i_type(0x13, 7, 0, 0, 1) + e.s_type(0x23, 3, 6, 7, 0)
    setup += e.u_type(0x37, 7, 6) + e.csr(2, 0, 7, 0x300)  # FS: 0x6000
    setup += e.u_type(0x37, 7, 0) + e.i_type(0x13, 0, 0, 0, 0)
    start = BASE + len(setup)
    code = setup + _prologue(start, tables, scratch)
    code += body
    code += _epilogue(BASE + len(code), dump, mode, tohost)
    if len(code) > 0x10000:
        raise ValueError("program too long")
    image = code.ljust(0x10000, b"\0") + b"\0" * 128 + data[:512] + b"\0" * 520 + data[512:]
    symbols = {"tohost": tohost, "begin_signature": dump, "end_signature": dump + DUMP_BYTES}
    return e.elf(BASE, image, BASE if bare else start, symbols)


def build_one(word: int) -> bytes:
    """An ELF that executes one instruction 2000 times, or until it traps, and leaves mcause and mtval as signature."""
    data, loop, end = BASE + 0x1000, 0x100, 0x200  # data: tohost, signature, what a0, a1 and s0 point at
    nop = e.i_type(0x13, 0, 0, 0, 0)

    def padded(code: bytes, length: int) -> bytes:
        return code + nop * ((length - len(code)) // 4)

    code = e.u_type(0x37, 7, 6) + e.csr(2, 0, 7, 0x300)  # FS on
    code += e.la(6, BASE + len(code), BASE + end) + e.csr(1, 0, 6, 0x305)
    code += e.la(11, BASE + len(code), data + 0x100) + e.i_type(0x13, 8, 0, 11, 0) + e.i_type(0x13, 10, 0, 11, 0)
    code = padded(code + e.i_type(0x13, 7, 0, 0, 2000), loop)
    code = padded(code + e.word(word) + e.i_type(0x13, 7, 0, 7, -1) + e.b_type(1, 7, 0, -8), end)
    code += e.la(5, BASE + len(code), data)
    code += (
        e.csr(2, 12, 0, 0x342) + e.s_type(0x23, 3, 5, 12, 64) + e.csr(2, 12, 0, 0x343) + e.s_type(0x23, 3, 5, 12, 72)
    )
    code += e.i_type(0x13, 12, 0, 0, 1) + e.s_type(0x23, 3, 5, 12, 0) + e.j_type(0, 0)
    symbols = {"tohost": data, "begin_signature": data + 64, "end_signature": data + 80}
    return e.elf(BASE, code.ljust(0x1000, b"\0") + bytes(0x1000), BASE, symbols)


def _safe(program: Program) -> bytes:
    """No branch may land inside a loop or between an address and its use: end each branch's reach at such a place."""
    items = program.items
    fences = [i for i, item in enumerate(items) if isinstance(item, bytes) and _sets_reserved(item)]
    for index, item in enumerate(items):
        if isinstance(item, Branch):
            after = next((f for f in fences if f > index), len(items))
            item.skip = max(0, min(item.skip, after - index - 1))
    return program.assemble()


def _sets_reserved(item: bytes) -> bool:
    """Writes x6 or x7: the start of a pair or of a loop."""
    if len(item) != 4:
        return False
    word = int.from_bytes(item, "little")
    return word & 0x7F in {0x13, 0x17} and (word >> 7 & 31) in {6, 7}
