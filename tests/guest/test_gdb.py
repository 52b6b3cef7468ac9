"""The debugger's stub on the bare core: what GDB's packets do to a machine of two harts."""

from __future__ import annotations

import socket
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from random import Random
from typing import Any

import pytest

from node.core import CoreExists
from node.machine import ENGINE_INTERPRETER, ENGINE_JIT, EV_POWEROFF
from tests.guest.guest import Guest
from tests.guest.programs import build
from tests.guest.rsp import CSR0, F0, PC, PRIV, Rsp, frame, symbols

SP, T0, A0 = 2, 5, 10
SSTATUS, SATP, TIME, MHARTID = 0x100, 0x180, 0xC01, 0xF14
HELD = "vCont;s:1"


def program() -> dict[str, int]:
    return symbols(build("debuggee").with_suffix(".elf"))


@contextmanager
def connected(guest: Guest) -> Iterator[Rsp]:
    ours, theirs = socket.socketpair()
    guest.machine.debug(theirs.fileno())
    theirs.detach()
    with closing(Rsp(ours)) as rsp:
        yield rsp


MACHINES: dict[str, dict[str, Any]] = {
    "interpreter": {"engine": ENGINE_INTERPRETER},
    "jit": {"engine": ENGINE_JIT},
    "icount": {"icount": 1},
}


@pytest.fixture(params=MACHINES, autouse=True)
def machine(request: pytest.FixtureRequest) -> Iterator[None]:
    """Every test on each kind of machine."""
    chosen.append(MACHINES[request.param])
    yield
    chosen.pop()


chosen: list[dict[str, Any]] = []


@contextmanager
def debugged() -> Iterator[tuple[Guest, Rsp, dict[str, int]]]:
    """A running guest, both harts in their loops, that has just been stopped."""
    at = program()
    with Guest(harts=2, **chosen[-1]) as guest:
        guest.boot(build("debuggee"))
        guest.read_until(b"ready\n")
        with connected(guest) as rsp:
            rsp.ok(f"Z0,{at['second']:x},2")
            assert rsp.go().startswith("T05thread:2;")
            rsp.ok(f"z0,{at['second']:x},2")
            yield guest, rsp, at


def run_to(rsp: Rsp, address: int) -> str:
    rsp.ok(f"Z1,{address:x},2")
    reply = rsp.go()
    rsp.ok(f"z1,{address:x},2")
    return reply


def test_registers() -> None:
    with debugged() as (_, rsp, at):
        assert rsp.ask("?") == "T05thread:2;"
        assert rsp.pc == at["second"]
        general = bytes.fromhex(rsp.ask("g"))
        assert len(general) == 33 * 8
        assert int.from_bytes(general[-8:], "little") == rsp.pc
        assert rsp.register(0) == 0
        changed = bytearray(general)
        changed[T0 * 8 : T0 * 8 + 8] = (0x1234).to_bytes(8, "little")
        rsp.ok("G" + changed.hex())
        assert rsp.register(T0) == 0x1234
        rsp.set_register(0, 5)
        assert rsp.register(0) == 0
        rsp.set_register(F0 + 10, 0x400921FB54442D18)
        assert rsp.register(F0 + 10) == 0x400921FB54442D18
        assert rsp.register(CSR0 + MHARTID) == 1
        assert rsp.register(CSR0 + SATP) == 0
        assert rsp.register(PRIV) == 1
        rsp.set_register(CSR0 + SSTATUS, rsp.register(CSR0 + SSTATUS) | 1 << 18)
        assert rsp.register(CSR0 + SSTATUS) >> 18 & 1
        assert rsp.ask(f"p{CSR0 + 0x123:x}").startswith("E")
        assert rsp.ask(f"P{CSR0 + MHARTID:x}={'00' * 8}").startswith("E")
        rsp.ok("Hg1")
        assert rsp.register(CSR0 + MHARTID) == 0
        assert rsp.ask("Hg3").startswith("E")


def test_description_names_what_can_be_read() -> None:
    with debugged() as (_, rsp, _at):
        text, part = "", "m"
        while part[0] == "m":
            part = rsp.ask(f"qXfer:features:read:target.xml:{len(text):x},400")
            text += part[1:]
        for name in ('name="pc"', 'name="fa0"', 'name="sstatus"', 'name="priv"', "riscv:rv64"):
            assert name in text
        numbers = [int(part.split('"')[1]) for part in text.split("regnum=")[1:]]
        assert len(numbers) > 33 + 32 + 30
        assert len(set(numbers)) == len(numbers)
        for number in numbers:
            assert len(rsp.ask(f"p{number:x}")) == 16, number
        assert rsp.ask("qXfer:features:read:other.xml:0,400").startswith("E")


def test_threads() -> None:
    with debugged() as (_, rsp, _at):
        assert rsp.ask("qfThreadInfo") == "m1,2"
        assert rsp.ask("qsThreadInfo") == "l"
        assert bytes.fromhex(rsp.ask("qThreadExtraInfo,1")) == b"hart 0, supervisor, started"
        rsp.ok("T2")
        assert rsp.ask("T3").startswith("E")
        assert rsp.ask("qC") == "QC2"


def test_memory() -> None:
    with debugged() as (_, rsp, at):
        rsp.ok(f"Z0,{at['block']:x},2")
        code = build("debuggee").read_bytes()
        start = at["block"] - 0x80200000
        assert rsp.memory(at["block"], 64) == code[start : start + 64]  # a breakpoint changes no memory
        neighbour = at["watched"] + 16
        assert rsp.word(neighbour) == 0x3333333333333333
        rsp.write(neighbour, bytes(range(8)))
        assert rsp.memory(neighbour + 1, 3) == bytes([1, 2, 3])
        rsp.ok(f"X{neighbour:x},4:".encode() + b"$#}*")
        assert rsp.memory(neighbour, 5) == b"$#}*\x04"
        assert rsp.ask("m1000,8").startswith("E")  # the reset ROM is no RAM
        assert rsp.ask("m10000000,1").startswith("E")  # nor is the UART
        end = 0x80000000 + (64 << 20)
        assert len(rsp.memory(end - 4, 4)) == 4
        assert len(bytes.fromhex(rsp.ask(f"m{end - 4:x},8"))) == 4
        assert rsp.ask(f"m{end:x},8").startswith("E")
        assert rsp.ask(f"M{end - 4:x},8:{'00' * 8}").startswith("E")
        assert rsp.ask(f"m{2**64 - 4:x},8").startswith("E")
        assert "physical" in rsp.monitor("phys on")
        assert rsp.memory(neighbour, 5) == b"$#}*\x04"
        assert "instructions" in rsp.monitor("stats")


def test_written_code_is_what_runs() -> None:
    with debugged() as (_, rsp, at):
        run_to(rsp, at["step_4"])
        assert rsp.register(T0) == 7
        rsp.write(at["step_5"], b"\x13\x83\x12\x06" if at["step_6"] - at["step_5"] == 4 else b"\x95\x02")  # t0 += 5
        size = at["step_6"] - at["step_5"]
        assert size == 2
        run_to(rsp, at["step_6"])
        assert rsp.register(T0) == 12


def test_breakpoints_name_their_hart() -> None:
    with debugged() as (_, rsp, at):
        assert run_to(rsp, at["block"]) == "T05thread:1;"
        assert rsp.pc == at["block"]
        rsp.ok(f"Z0,{at['second']:x},2")
        rsp.ok(f"Z0,{at['step_1']:x},2")
        seen = set()
        for _ in range(6):
            reply = rsp.go("vCont;c")
            seen.add((reply, rsp.pc))
            hart = reply[len("T05thread:") :].rstrip(";")
            assert rsp.go(f"vCont;s:{hart}") == reply  # past it, the other one held
        assert seen <= {("T05thread:1;", at["step_1"]), ("T05thread:2;", at["second"])}
        rsp.ok(f"z0,{at['step_1']:x},2")
        assert (rsp.go(), rsp.pc) == ("T05thread:2;", at["second"])
        # The second one of the same address and another kind stays when the first one goes.
        rsp.ok(f"Z1,{at['second']:x},2")
        rsp.ok(f"z0,{at['second']:x},2")
        rsp.go("vCont;s:2")
        assert rsp.go() == "T05thread:2;"


def test_steps_follow_every_kind_of_jump() -> None:
    with debugged() as (_, rsp, at):
        run_to(rsp, at["steps"])
        before = rsp.word(at["second_rounds"])
        places = []
        for _ in range(6):
            assert rsp.go(HELD) == "T05thread:1;"
            places.append(rsp.pc)
        assert places[:5] == [at[f"step_{n}"] for n in (1, 2, 4, 5, 6)]
        assert places[5] not in range(at["steps"], at["step_6"] + 1)  # returned
        assert rsp.word(at["second_rounds"]) == before  # the other hart was held
        run_to(rsp, at["steps"])
        # A whole range in one go; the other hart may run meanwhile.
        assert rsp.go(f"vCont;r{at['steps']:x},{at['step_5']:x}:1;c") == "T05thread:1;"
        assert rsp.pc == at["step_5"]
        assert rsp.go("s") == "T05thread:1;"
        assert rsp.pc == at["step_6"]


# kind of point, the instructions that it stops after
WATCHES = {
    2: ["at_sh", "at_amo", "at_sc", "at_fsd"],
    3: ["at_lb", "at_amo", "at_lr", "at_fld", "at_cross"],
    4: ["at_lb", "at_sh", "at_amo", "at_lr", "at_sc", "at_fsd", "at_fld", "at_cross"],
}
ORDER = ["at_lb", "at_near", "at_sh", "at_amo", "at_lr", "at_sc", "at_failed", "at_fsd", "at_fld", "at_cross", "at_end"]


@pytest.mark.parametrize("kind", WATCHES)
def test_watchpoints_are_exact(kind: int) -> None:
    name = {2: "watch", 3: "rwatch", 4: "awatch"}[kind]
    with debugged() as (_, rsp, at):
        run_to(rsp, at["block"])
        word = at["watched"] + 8
        rsp.ok(f"Z{kind},{word:x},8")
        for instruction in WATCHES[kind]:
            reply = rsp.go()
            after = at[ORDER[ORDER.index(instruction) + 1]]
            assert rsp.pc == after, (instruction, hex(rsp.pc))
            first = {"at_lb": 1, "at_sh": 6}.get(instruction, 0)
            assert reply == f"T05thread:1;{name}:{word + first:x};"
        rsp.ok(f"z{kind},{word:x},8")
        assert run_to(rsp, at["block"]) == "T05thread:1;"


def test_watchpoint_of_one_byte() -> None:
    with debugged() as (_, rsp, at):
        run_to(rsp, at["block"])
        rsp.ok(f"Z4,{at['watched'] + 15:x},1")  # the last byte: neither lb of byte 1 nor lw of bytes -2 to 1
        places = [rsp.pc for _ in range(6) if rsp.go()]
        assert places == [at[n] for n in ("at_amo", "at_lr", "at_sc", "at_failed", "at_fld", "at_cross")]


def test_interrupt_and_time() -> None:
    with debugged() as (guest, rsp, at):
        rsp.send("vCont;c")
        reply = rsp.interrupt()
        assert reply.startswith("T02thread:")
        before, rounds = rsp.register(CSR0 + TIME), rsp.word(at["rounds"])
        for _ in range(50):
            assert rsp.register(CSR0 + TIME) == before
        assert rsp.word(at["rounds"]) == rounds
        guest.machine.pause()  # a pause beside it changes nothing, and its end does not set the guest going
        guest.machine.resume()
        assert rsp.register(CSR0 + TIME) == before
        assert rsp.word(at["rounds"]) == rounds


def test_detach_lets_it_go_on() -> None:
    with debugged() as (guest, rsp, at):
        rsp.ok(f"Z0,{at['block']:x},2")
        with pytest.raises(CoreExists), connected(guest):
            pass
        assert guest.machine.debugged
        rsp.ok("D")
        with pytest.raises(EOFError):
            rsp.byte()
        with connected(guest) as again:
            before = again.word(at["rounds"])
            again.ok("Hc-1")
            again.ok("Hg1")
            run_to(again, at["steps"])  # the old breakpoint is gone: this one is met
            assert again.pc == at["steps"]
            assert again.word(at["rounds"]) >= before
            again.ok(f"M{at['quit']:x},8:2a00000000000000")
            assert again.go() == "W00"
        assert guest.wait_end().kind == EV_POWEROFF
        assert guest.values()["quit"] == "42"


def test_lost_connection_lets_it_go_on() -> None:
    with debugged() as (guest, rsp, at):
        rsp.write(at["quit"], (7).to_bytes(8, "little"))
        rsp.ok(f"Z0,{at['block']:x},2")
        rsp.close()
        assert guest.wait_end().kind == EV_POWEROFF
        assert guest.values()["quit"] == "7"


def test_the_translator_counts() -> None:
    with debugged() as (guest, rsp, _at):
        stats = guest.machine.stats()
        assert stats["exits_debug"] >= 1
        translated = chosen[-1].get("engine") == ENGINE_JIT
        rsp.ok("D")
        deadline = time.monotonic() + 30
        while translated and guest.machine.stats()["jit_blocks"] == 0 and time.monotonic() < deadline:
            pass
        stats = guest.machine.stats()
        assert (stats["jit_blocks"] > 0) >= translated
        assert stats["jit_instructions"] >= stats["jit_blocks"]


def test_kill() -> None:
    with debugged() as (guest, rsp, _at):
        rsp.send("k")
        event = guest.wait_end()
        assert (event.kind, event.arg, event.text) == (EV_POWEROFF, 137, "killed by the debugger")


def test_damaged_packets_are_asked_for_again() -> None:
    with debugged() as (_, rsp, _at):
        rsp.sock.sendall(b"$qC#00")
        assert rsp.byte() == b"-"
        for byte in frame(b"qC"):
            rsp.sock.sendall(bytes([byte]))
        assert rsp.byte() == b"+"
        assert rsp.reply() == b"QC2"
        rsp.sock.sendall(b"-")  # as if it had been damaged on the way: the same again
        assert rsp.reply() == b"QC2"
        noise = Random(1).randbytes(20000).replace(b"$", b"").replace(b"\x03", b"").replace(b"-", b"")
        rsp.sock.sendall(noise)
        assert rsp.ask("qC") == "QC2"
        rsp.ok("QStartNoAckMode")
        rsp.sock.sendall(frame(b"qC"))
        assert rsp.reply() == b"QC2"


def test_unknown_packets_have_empty_answers() -> None:
    with debugged() as (_, rsp, _at):
        for packet in ("vMustReplyEmpty", "qOffsets", "!", "Z5,0,0", "vFile:open", "_", "i1"):
            assert rsp.ask(packet) == "", packet
        for packet in (
            "m",
            "m1",
            "m1,",
            "M1,1",
            "M1,1:0",
            "X1,2:a",
            "p",
            "P1",
            "P1=00",
            "G00",
            "Hx1",
            "vCont",
            "vCont;x",
            "Z0,1",
        ):
            assert rsp.ask(packet).startswith("E"), packet
        assert "vContSupported+" in rsp.ask("qSupported:multiprocess+;swbreak+")


def test_registers_of_a_hart_in_its_own_loop() -> None:
    with debugged() as (_, rsp, _at):
        stacks = []
        for hart in (1, 2):
            rsp.ok(f"Hg{hart}")
            stacks.append(rsp.register(SP))
        assert abs(stacks[0] - stacks[1]) in range(1, 2 * 16384)
        rsp.set_register(A0, 99)
        assert rsp.register(A0) == 99
        rsp.set_register(PC, rsp.pc | 1)
        assert rsp.pc % 2 == 0
