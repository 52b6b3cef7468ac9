"""Real software in a Debian guest: compilers, interpreters, cryptography and stressors check themselves on the machine.

The image has gcc, Python with its own test suite, OpenSSL and stress-ng on it (200 MB; built once), so this suite has a
target of its own, ``make test-software``, and is skipped with that word elsewhere. On two cores that are busy with
other work it takes half an hour: about four minutes for each machine that translates, seven for an interpreted one with
one hart, seventeen for one with four, most of them in Python's tests.
"""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from node.machine import ENGINE_INTERPRETER, ENGINE_JIT
from tests.guest.debian import Image, debian_image
from tests.guest.guest import MIB, Guest

pytestmark = [
    pytest.mark.debian,
    pytest.mark.slow,
    pytest.mark.skipif(not os.environ.get("WHERRY_SOFTWARE"), reason="minutes, and a big download: make test-software"),
]
PACKAGES = ("gcc", "libc6-dev", "python3", "libpython3.13-testsuite", "openssl", "stress-ng")
PATIENCE = 3600.0  # seconds for one command: under the interpreter, on a busy host
PYTHON_TESTS = "test_int test_float test_struct test_zlib test_thread"
MORE_PYTHON_TESTS = "test_math test_hashlib test_json test_signal"  # too slow where nothing is translated
PROGRAM = r"""
#include <math.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
static atomic_long sum;
static void *work(void *p) { for (long i = 0; i < 100000; i++) sum += i % 7; return p; }
int main(void) {
  pthread_t t[4];
  for (int i = 0; i < 4; i++) pthread_create(&t[i], 0, work, 0);
  for (int i = 0; i < 4; i++) pthread_join(t[i], 0);
  printf("sum %ld root %.15g\n", (long)sum, sqrt(2));
  return 0;
}
"""
EXPECTED = f"sum {4 * sum(i % 7 for i in range(100000))} root 1.4142135623731"


class Shell:
    """The guest's console shell. ``run`` gives what a command printed and its exit status."""

    def __init__(self, guest: Guest, *, fast: bool) -> None:
        self.guest, self.fast = guest, fast
        self._turn = 0
        guest.read_until(b"# ", timeout=PATIENCE)
        self.run("stty -echo; PS1=")  # the line editor would break long commands into the output

    def run(self, command: str) -> tuple[int, str]:
        self._turn += 1
        mark = f"<<{self._turn}:".encode()
        start = len(self.guest.output)
        self.guest.write(f'{command}\necho "<""<{self._turn}:$?>>"\n'.encode())
        self.guest.read_until(mark, timeout=PATIENCE)
        self.guest.read_until(b">>", count=self.guest.output.count(b">>", 0, self.guest.output.index(mark)) + 1)
        text, _, rest = self.guest.output[start:].partition(mark)
        return int(rest.partition(b">>")[0]), text.decode(errors="replace").replace("\r", "")

    def put(self, path: str, text: str) -> None:
        assert self.run(f"cat > {path} <<'EOF'\n{text}\nEOF")[0] == 0

    def good(self, command: str) -> str:
        status, text = self.run(command)
        assert status == 0, f"{command}: {status}\n{text[-3000:]}"
        return text


MACHINES = [(engine, harts) for engine in (ENGINE_JIT, ENGINE_INTERPRETER) for harts in (1, 4)]


@pytest.fixture(scope="module", params=MACHINES, ids=["jit-1", "jit-4", "interpreter-1", "interpreter-4"])
def shell(request: pytest.FixtureRequest) -> Iterator[Shell]:
    image: Image = debian_image("debian-software", PACKAGES)
    engine, harts = request.param
    with Guest(ram=2048 * MIB, harts=harts, engine=engine) as guest:
        guest.boot(image.kernel, initrd=image.initrd, cmdline="console=ttyS0")
        yield Shell(guest, fast=engine == ENGINE_JIT)
        assert guest.end is None


def test_gcc_compiles_what_then_runs(shell: Shell) -> None:
    shell.put("/tmp/p.c", PROGRAM)
    for level in ("-O0", "-O2", "-O3 -ffast-math"):
        shell.good(f"gcc {level} -pthread -o /tmp/p /tmp/p.c -lm")
        assert EXPECTED in shell.good("/tmp/p")


def test_pythons_own_tests(shell: Shell) -> None:
    tests = f"{PYTHON_TESTS} {MORE_PYTHON_TESTS}" if shell.fast else PYTHON_TESTS
    text = shell.good(f"cd /tmp; python3 -m test -o {tests} < /dev/null 2>&1")
    print(text[-2000:])
    assert "Result: SUCCESS" in text


def test_openssl_speaks_with_itself(shell: Shell) -> None:
    for cipher in ("sha256", "-evp aes-256-gcm"):
        shell.good(f"openssl speed -seconds 1 {cipher} 2>/dev/null")
    shell.good(
        "cd /tmp; openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes"
        " -keyout k.pem -out c.pem -subj /CN=w 2>/dev/null"
    )
    shell.good("ip link set lo up; openssl s_server -accept 4433 -cert c.pem -key k.pem -www > /dev/null 2>&1 &")
    shell.good("until true | openssl s_client -connect 127.0.0.1:4433 > /dev/null 2>&1; do :; done")
    client = "openssl s_client -connect 127.0.0.1:4433 -CAfile c.pem -verify_return_error -ign_eof"
    text = shell.good(f"printf 'GET / HTTP/1.0\\r\\n\\r\\n' | {client} 2>&1; kill %1")
    assert "TLSv1.3" in text
    assert "Verify return code: 0" in text


@pytest.mark.parametrize("stressor", ["cpu", "vm", "atomic"])
def test_stress_ng_verifies(shell: Shell, stressor: str) -> None:
    extra = "--vm-bytes 64M " if stressor == "vm" else ""
    text = shell.good(f"stress-ng --verify --{stressor} 4 {extra}--timeout 20s 2>&1")
    assert "successful run completed" in text
    assert "failed: 0" in text
