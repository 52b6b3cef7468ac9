#!/bin/sh
# Makes a checkout ready to run: virtual environment, Python packages, C core. Safe to run again; fast when nothing
# changed. Usage: deploy/setup.sh (called by `make setup`). Fetches only through this machine's own apt and pip settings.
set -eu
cd "$(dirname "$0")/.."

say() { printf '%s\n' "$*"; }
fail() { printf 'setup: %s\n' "$*" >&2; exit 1; }

# Installs Debian packages when we may, else says which are missing. $1: what for; the rest: packages.
need_packages() {
    purpose=$1
    shift
    if [ "$(id -u)" = 0 ] && command -v apt-get > /dev/null; then
        say "setup: installing $* ($purpose)"
        DEBIAN_FRONTEND=noninteractive apt-get install -y -q --no-install-recommends "$@" > /dev/null 2>&1 && return
        apt-get update -q > /dev/null && DEBIAN_FRONTEND=noninteractive apt-get install -y -q --no-install-recommends "$@" \
            > /dev/null || fail "apt-get install $* failed ($purpose)"
    else
        fail "$purpose is missing: install it with: sudo apt-get install $*"
    fi
}

find_python() {
    for name in ${PYTHON:-} python3 python3.13 python3.12 python3.11 /usr/bin/python3; do
        "$name" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2> /dev/null || continue
        command -v "$name"
        return
    done
}

python=$(find_python)
if [ -z "$python" ]; then
    need_packages "Python 3.11 or newer" python3 python3-venv
    python=$(find_python)
    [ -n "$python" ] || fail "Python 3.11 or newer is missing: $(python3 --version 2>&1)"
fi
command -v gcc > /dev/null || need_packages "a C compiler" gcc libc6-dev
command -v make > /dev/null || need_packages "make" make
printf '#include <openssl/evp.h>\n#include <stdlib.h>\n' | gcc -E - > /dev/null 2>&1 \
    || need_packages "OpenSSL's C headers (openssl/evp.h)" libssl-dev libc6-dev

if ! .venv/bin/python -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2> /dev/null; then
    "$python" -c 'import ensurepip, venv' 2> /dev/null \
        || need_packages "Python's venv module" "python$("$python" -c 'import sys; print("%d.%d" % sys.version_info[:2])')-venv"
    say "setup: creating .venv with $("$python" --version)"
    rm -rf .venv
    "$python" -m venv .venv
fi

stamp=.venv/.wherry-setup
wanted=$(cat pyproject.toml deploy/setup.sh | sha256sum | cut -d' ' -f1)
if [ "$(cat "$stamp" 2> /dev/null)" != "$wanted" ]; then
    say "setup: installing Python packages"
    .venv/bin/python -m pip install -q --disable-pip-version-check -e '.[dev]' || fail "pip could not install the Python packages"
    printf '%s\n' "$wanted" > "$stamp"
fi

make -s -C csrc || fail "the C core does not build"
# Network tests make hosts of their own, which only root can.
if [ "$(id -u)" = 0 ]; then
    command -v ip > /dev/null && command -v ping > /dev/null || (need_packages "network tests" iproute2 iputils-ping) \
        || say "setup: go on without them; the tests that need ip and ping are skipped and say so"
fi
# Tunnels are sealed several times as fast with it; without it, libcrypto does the same work. Asked for once.
tried=.venv/.wherry-ipsec-mb
if [ "$(id -u)" = 0 ] && [ "$(uname -m)" = x86_64 ] && [ ! -e "$tried" ] && ! ldconfig -p | grep -q 'libIPSec_MB\.so\.[12]'; then
    (need_packages "faster AES for tunnels" libipsec-mb1) > /dev/null 2>&1 \
        || (need_packages "faster AES for tunnels" libipsec-mb2) || say "setup: go on without it; wherry doctor says so"
    : > "$tried"
fi
sh deploy/tools.sh qemu-user || say "setup: go on without it; the tests that compare with it are skipped and say so"
say "setup: ready (.venv/bin/wherry)"
