"""Random cases of privileged execution: what each sets up, as the table of tests/guest/programs/privileged.c.

Kinds: accesses through random page tables and PMP regions (from M by MPRV, from S and from U, loads, stores,
atomics, fetches); instructions that privilege, mstatus and counter enables allow or refuse, traps delegated or not;
interrupts, pending and enabled at random. A few write a CSR and read it back.

A case may only do what both sides must do alike: what the specification leaves to the implementation is kept out here,
each place with its reason.
"""

from __future__ import annotations

import random
import struct
from dataclasses import astuple, dataclass, field

from tests.isa import encode as e

CASES = 224
OUT = [  # as privileged.c tells them
    "mcause", "mtval", "mepc", "mstatus", "scause", "stval", "sepc", "mip", "mie", "satp", "a0", "a1", "leaf",
    "pointer", "mcounteren", "data0", "data1", "data2", "before", "used",
]  # fmt: skip
MARKER = struct.pack("<Q", 0x1122334455667788)
DATA = 0x8060_0000
RAM_END = 0x8100_0000  # both sides get 16 MiB
U, S, M = 0, 1, 3
V, R, W, X, PU, G, A, D = (1 << n for n in range(8))
IN_PLACE, USER_ALIAS, AT_VA = range(3)
SIE, MIE, SPIE, MPIE, SPP = 1 << 1, 1 << 3, 1 << 5, 1 << 7, 1 << 8
MPRV, SUM, MXR, TVM, TW, TSR = (1 << n for n in range(17, 23))
FS = 3 << 13
PBMTE, ADUE = 1 << 62, 1 << 61
ENVCFG = 0xF1
INTERRUPTS = (1, 3, 5, 7, 9, 11)
ECALL, EBREAK, NOP = 0x73, 0x100073, 0x13


@dataclass
class Case:
    mstatus: int = 0
    medeleg: int = 0
    mideleg: int = 0
    mie: int = 0
    mip: int = 0
    menvcfg: int = 0
    senvcfg: int = 0
    mcounteren: int = 0
    scounteren: int = 0
    mode: int = 0
    va: int = 0
    leaf_level: int = 0
    leaf_pte: int = 0
    noise_level: int = 0
    noise: int = 0
    where: int = IN_PLACE
    code: int = NOP << 32 | NOP
    a0: int = 0
    a1: int = 0
    clint: int = 0
    vectored: int = 0
    pmpcfg: int = 0x1F << 56  # the last entry allows all
    pmpaddr: list[int] = field(default_factory=lambda: [0] * 6 + [(1 << 54) - 1])
    data: int = 0
    asid: int = 0
    kind: int = 1  # the table ends at a zero

    def pack(self) -> bytes:
        values = [v for item in astuple(self) for v in (item if isinstance(item, list) else [item])]
        return struct.pack("<32Q", *(v & (1 << 64) - 1 for v in values))


def word(instruction: bytes) -> int:
    return struct.unpack("<I", instruction)[0]


def pair(first: int, second: int = NOP) -> int:
    return second << 32 | first


def _some(rng: random.Random, *bits: int) -> int:
    return sum(b for b in bits if rng.random() < 0.5)


def _delegation(rng: random.Random) -> int:
    """Any exceptions, but no environment call: the ecall behind each probe, and in S's handler, ends in M."""
    return rng.getrandbits(16) & 0xB0FF if rng.random() < 0.7 else 0


def _access(rng: random.Random, *, blocks: bool) -> int:
    """One access at (a0), the result in a1."""
    a0, a1 = 10, 11
    kind = rng.randrange(10 if blocks else 9)
    if kind < 4:
        return word(e.i_type(0x03, a1, rng.randrange(7), a0, 0))
    if kind < 7:
        return word(e.s_type(0x23, rng.randrange(4), a0, a1, 0))
    if kind == 7:
        return word(e.r_type(0x2F, a1, rng.choice([2, 3]), a0, a1, rng.choice([0, 1, 4, 8, 12]) << 2))
    if kind == 8:
        return word(e.r_type(0x2F, a1, rng.choice([2, 3]), a0, 0, 2 << 2))  # lr
    return word(e.i_type(0x0F, 0, 2, a0, rng.choice([1, 2, 4])))  # cbo.clean, flush, zero


def _leaf(rng: random.Random, pa: int, level: int) -> int:
    shift = 12 + 9 * level
    bits = V if rng.random() < 0.95 else 0
    bits |= rng.choice([R, R | W, R | W, R | W | X, R | W | X, X, R | X, W, 0])
    bits |= _some(rng, PU, G)
    bits |= (A if rng.random() < 0.7 else 0) | (D if rng.random() < 0.7 else 0)
    bits |= rng.randrange(4) << 8
    page = pa >> shift << shift
    odd = rng.random()
    if odd < 0.08:
        bits |= rng.randrange(1, 4) << 61
    elif odd < 0.16:
        bits |= 1 << 63
        page = page & ~0xFFFF | 0x8000 if level == 0 and rng.random() < 0.8 else page
    elif odd < 0.18:
        bits |= 1 << rng.randrange(54, 61)
    elif odd < 0.22 and level > 0:
        page |= 1 << rng.randrange(12, shift)  # misaligned superpage
    elif odd < 0.25:
        page = rng.choice([RAM_END + 0x10000, 0x0900_0000, 1 << 50]) >> shift << shift
    return page >> 12 << 10 | bits


def translation(rng: random.Random) -> Case:
    mode = rng.choice([8, 8, 9, 10])
    levels = mode - 5
    level = rng.choice([0, 0, 0, 1, 2])
    pa = DATA + rng.randrange(0x1000 // 8, 0xF000 // 8) * 8
    if rng.random() < 0.1:
        pa |= 0xFF8  # what is misaligned ends in the next page, which is mapped in a superpage or a NAPOT region only
    low = 12 + 9 * level
    # Not where the program is mapped: those tables serve the traps themselves.
    top = rng.randrange(4, 512) if levels == 3 else rng.randrange(1, 512)
    va = top << (12 + 9 * (levels - 1))
    middle = rng.getrandbits(12 + 9 * (levels - 1)) >> low << low
    va |= middle | pa & (1 << low) - 1
    if top >= 256:
        va |= (1 << 64) - (1 << (12 + 9 * levels))
    if rng.random() < 0.03:
        va ^= 1 << 63
    case = Case(mode=mode, va=va, leaf_level=level, leaf_pte=_leaf(rng, pa, level), data=pa & 0xFFFF)
    if rng.random() < 0.15:
        case.noise_level = rng.randrange(1, levels)
        case.noise = rng.choice([V, R, W, X, PU, A, D, G, 3 << 61, 1 << 61, 1 << 63, 1 << 55, 1 << 8])
    case.menvcfg = (PBMTE if rng.random() < 0.7 else 0) | (ADUE if rng.random() < 0.6 else 0) | 0xF0
    case.senvcfg = 0xF0
    case.medeleg = _delegation(rng)
    case.mstatus = _some(rng, SUM, MXR, SPIE, SPP)
    regions = rng.random() < 0.3
    case.code = pair(_access(rng, blocks=not regions))
    offset = rng.choice([0, 0, 0, 1, 2, 4])
    case.a0, case.a1 = va + offset, rng.getrandbits(64)
    base = (case.leaf_pte & (1 << 54) - 1) >> 10 << 12
    if not 0x8000_0000 <= base | pa & (1 << low) - 1 < RAM_END or case.code & 0x7F == 0x2F:
        case.a0 = va  # what is misaligned and faults as well may tell either cause (privileged spec, table 3.7)
    _leave(rng, case)
    if rng.random() < 0.25:
        case.where, case.mstatus = AT_VA, case.mstatus & ~(3 << 11 | MPRV) | rng.choice([U, S]) << 11
    if regions:
        _regions(rng, case)
    return case


def _leave(rng: random.Random, case: Case) -> None:
    """From M by MPRV, or with mret to S or to U, where the program is mapped for it."""
    kind = rng.randrange(3)
    if kind == 0:
        case.mstatus |= M << 11
        # mret sets MPP to U, and with MPRV kept that is whose rights M then has
        case.mstatus |= MPRV
    elif kind == 1:
        case.mstatus |= S << 11
    else:
        case.where = USER_ALIAS if case.mode else IN_PLACE


def _regions(rng: random.Random, case: Case) -> None:
    """PMP entries 1 to 6 around the data; page tables are elsewhere, and sometimes they are refused, too.

    Not for cache blocks: ours are refused when any byte of the block is (tests/c/cpu_extra_test.c), QEMU looks at one.
    """
    pa = DATA + case.data
    case.pmpcfg = (0x1F if rng.random() < 0.8 else 0) << 56
    case.medeleg &= ~(1 << 1)  # S's handler may be refused, too: the tables of its own page are
    for n in range(6):
        mode = rng.choice([0, 1, 2, 3, 3])
        rights = rng.choice([0, 1, 3, 4, 5, 7])  # W without R is reserved
        near = pa + rng.randrange(-16, 17) * 4
        address = near >> 2
        if mode == 3:
            size = rng.randrange(0, 12)
            address = address >> size << size | (1 << size) - 1 >> 1
        if rng.random() < 0.05:
            address = 0x8040_0000 >> 2 | 0x1FF  # the root table's page
        case.pmpaddr[n] = address & ~1 if mode == 2 else address
        case.pmpcfg |= (mode << 3 | rights) << 8 * (n + 1)


def protection(rng: random.Random) -> Case:
    """Bare addressing, PMP alone."""
    case = Case(data=rng.randrange(0x1000 // 8, 0xF000 // 8) * 8)
    case.menvcfg, case.senvcfg = 0xF0, 0xF0
    case.medeleg = _delegation(rng)
    case.code = pair(_access(rng, blocks=False))
    _regions(rng, case)
    case.a0 = DATA + case.data + rng.choice([0, 0, 0, 4, 8, -8, 1, 2])
    if case.code & 0x7F == 0x2F:
        case.a0 &= ~7
    case.a1 = rng.getrandbits(64)
    case.mstatus = _some(rng, MXR, SUM)
    _leave(rng, case)
    return case


_SYSTEM = [
    0x10200073, 0x30200073, ECALL, EBREAK, 0x00000000, 0xFFFFFFFF, 0x12000073, 0x12A50073, 0x16A50073, 0x18000073,
    0x18100073, 0x0000100F, 0x02B57553, 0x0045200F, 0x0005200F, 0x0015200F, 0x00D00073, 0x01D00073, 0xD0200073,
]  # fmt: skip
_READ = [
    0x001, 0x003, 0x100, 0x104, 0x105, 0x106, 0x10A, 0x140, 0x141, 0x142, 0x143, 0x144, 0x14D, 0x180, 0x300, 0x304,
    0x305, 0x306, 0x30A, 0x340, 0x341, 0x3A0, 0x3B0, 0xF14, 0x7C0, 0x200, 0x5C0,
]  # fmt: skip
_COUNTERS = [0xC00, 0xC01, 0xC02, 0xC03, 0xC1F]


def instruction(rng: random.Random) -> Case:
    """Allowed or illegal, and where the trap goes."""
    case = Case(mode=rng.choice([0, 0, 8, 9]), va=5 << 30, leaf_pte=0)
    if case.mode == 9:
        case.va |= 1 << 39
    case.mstatus = _some(rng, TVM, TW, TSR, SPIE, SPP, MPIE & 0) | rng.choice([0, 1 << 13, FS])
    case.medeleg = _delegation(rng)
    case.menvcfg, case.senvcfg = rng.choice([0, 0x10, 0x30]) | _some(rng, 0x40, 0x80), rng.choice([0, 0x30]) | 0xC0
    case.menvcfg |= _some(rng, 1 << 63)
    case.mcounteren, case.scounteren = rng.getrandbits(32), rng.getrandbits(32)
    case.vectored = rng.randrange(2)
    level = rng.choice([U, S, S, M])
    case.mstatus |= level << 11
    case.where = USER_ALIAS if level == U and case.mode else IN_PLACE
    kind = rng.randrange(3)
    case.a0 = DATA + 0x40
    if kind == 0:
        first = rng.choice(_SYSTEM)
        if level == U and first in {0x00D00073, 0x01D00073} and case.mstatus & TW:
            first = NOP  # waiting forms may end at once or be refused
        if first == 0x10200073:  # sret must come back to a place that is mapped
            case.mstatus &= ~TSR if level == M else ~0
            first = NOP if level == M or (level == S and not case.mstatus & TSR) else first
        case.code = pair(NOP if first == 0x30200073 and level == M else first)
        if first in {0x00D00073, 0x01D00073} and case.mstatus & TW:
            case.code = pair(NOP)
    elif kind == 1:
        number = rng.choice(_READ)
        case.code = pair(word(e.csr(2, 12, 0, number)), word(e.i_type(0x13, 11, 0, 0, 1)))
    else:
        number = rng.choice(_COUNTERS)
        case.code = pair(word(e.csr(2, 12, 0, number)), word(e.i_type(0x13, 11, 0, 0, 1)))
    return case


def interrupt(rng: random.Random) -> Case:
    """Pending and enabled at random; whichever comes first is taken before the first instruction."""
    bits = [1 << n for n in INTERRUPTS]
    case = Case(mie=_some(rng, *bits), mip=_some(rng, 1 << 1, 1 << 5, 1 << 9), clint=rng.randrange(4))
    case.mideleg = _some(rng, 1 << 1, 1 << 5, 1 << 9)
    case.mstatus = rng.choice([U, S, M]) << 11 | _some(rng, MPIE, SIE)
    case.vectored = rng.randrange(2)
    case.medeleg = _delegation(rng)
    return case


# (CSR, bits that every implementation of these extensions must have alike)
_REGISTERS = [
    (0x300, SIE | SPIE | MPIE | SPP | FS | SUM | MXR | TVM | TW | TSR),
    (0x100, SIE | SPIE | SPP | FS | SUM | MXR),
    (0x304, 0xAAA), (0x104, 0x222), (0x302, 0xB1FF), (0x303, 0x222),
    (0x140, ~0), (0x141, ~0), (0x143, ~0), (0x106, 7), (0x306, 7), (0x344, 0x222), (0x144, 2),
    (0x105, ~2), (0x3B5, ~0), (0x10A, 0xC1), (0x30A, 0xC1 | 1 << 63 | PBMTE | ADUE), (0x14D, ~0), (0x320, 5),
]  # fmt: skip


def register(rng: random.Random) -> Case:
    """Write (or set, or clear) a CSR in M and read it back."""
    number, mask = rng.choice(_REGISTERS)
    case = Case(mstatus=M << 11, a1=rng.getrandbits(64) & mask, mideleg=_some(rng, 2, 32, 512), menvcfg=1 << 63)
    case.mip = _some(rng, 2, 512)
    case.code = pair(word(e.csr(rng.choice([1, 1, 2, 3]), 12, 11, number)), word(e.csr(2, 11, 0, number)))
    return case


def cases(seed: int) -> list[Case]:
    rng = random.Random(f"privileged {seed}")
    kinds = [translation, protection, instruction, interrupt, register]
    return [rng.choices(kinds, weights=[10, 5, 5, 3, 2])[0](rng) for _ in range(CASES)]


def program(elf: bytes, seed: int) -> bytes:
    """The built program with the seed's table in it."""
    at = elf.index(MARKER)
    table = b"".join(case.pack() for case in cases(seed))
    if elf.count(MARKER) != 1 or len(table) != CASES * 256:
        raise ValueError("the table does not fit the program")
    return elf[:at] + table + elf[at + len(table) :]
