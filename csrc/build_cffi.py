"""Turn csrc/api.cdef into the out-of-line ABI module node/_core.py (see docs/decisions/0001).

Usage: python csrc/build_cffi.py OUTPUT.py
"""

import sys
from pathlib import Path

from cffi import FFI


def main(output: str) -> None:
    text = (Path(__file__).parent / "api.cdef").read_text()
    # C reads the same file through csrc/base/api.h; only the preprocessor's lines are not for cffi.
    lines = [line for line in text.splitlines() if not line.startswith("#")]
    ffi = FFI()
    ffi.cdef("\n".join(lines))
    ffi.set_source("node._core", None)
    ffi.emit_python_code(output)


if __name__ == "__main__":
    main(sys.argv[1])
