"""The rows of ``make bench-core``."""

from __future__ import annotations

from bench.targets import Spec, Target, Targets

_CODE, _FLOAT, _STREAM, _KERNEL = Target(2.5, 4), Target(3, 6), Target(1.5, 3), Target(2, 4)
_CHASE, _ATOMIC = Target(1, None, near_native=(1.3, 0)), Target(1.2, None, near_native=(1, 2))

GUEST = (  # what bench/programs/core prints, in its order
    Spec("integer", "it/s", "higher", _CODE),
    Spec("branchy", "it/s", "higher", None),
    Spec("calls", "M/s", "higher", _CODE),
    Spec("indirect", "M/s", "higher", _CODE),
    Spec("linpack", "MFLOPS", "higher", _FLOAT),
    Spec("nbody", "kstep/s", "higher", _FLOAT),
    Spec("conversion", "M/s", "higher", _FLOAT),
    Spec("copy", "MB/s", "higher", _STREAM),
    Spec("triad", "MB/s", "higher", _STREAM),
    Spec("memset", "MB/s", "higher", _STREAM),
    Spec("chase_16k", "ns", "lower", Target(1, None)),
    Spec("chase_1m", "ns", "lower", _CHASE),
    Spec("chase_64m", "ns", "lower", _CHASE),
    Spec("amo", "ns", "lower", _ATOMIC),
    Spec("cas", "ns", "lower", _ATOMIC),
    Spec("smc", "us", "lower", Target(1, 2)),
    Spec("syscall", "ns", "lower", _KERNEL),
    Spec("pagefault", "us", "lower", _KERNEL),
    Spec("pipe", "us", "lower", _KERNEL),
    Spec("fork", "us", "lower", _KERNEL),
    Spec("exec", "us", "lower", _KERNEL),
    Spec("signal", "us", "lower", _KERNEL),
    Spec("sha256", "MB/s", "higher", None),
    Spec("gzip", "MB/s", "higher", None),
)
MACHINE = (
    Spec("boot", "s", "lower", Target(2, 1 / 0.3)),
    Spec("interp_integer", "it/s", "higher", Target(0.35, 0.55)),
    Spec("rss_mib", "MiB", "lower", Target(24, 12, of="ours")),
    Spec("smp2", "x", "higher", Target(1.9, None, of="ours")),
    Spec("restore_ms", "ms", "lower", Target(20, None, of="ours")),
)
TARGETS = Targets((*GUEST, *MACHINE), "qemu-system-riscv64 ")
SPECS = TARGETS.specs
new_row, verdict, target_text, table = TARGETS.new_row, TARGETS.verdict, TARGETS.target_text, TARGETS.table
