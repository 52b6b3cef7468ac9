#!/bin/sh
# Fetches the emulators that tests and benches compare with, and GDB, without root: Debian's packages unpacked into
# build/tools, commands in build/tools/bin. Usage: deploy/tools.sh gdb|qemu-user|qemu-user-new|qemu-system|qemu-newest|overlays
# qemu-newest (after set-up): the newest system emulator that Debian packages, whatever this host's release (bench/peers.py).
set -eu
cd "$(dirname "$0")/.."
tools=$PWD/build/tools

fail() { printf 'tools: %s\n' "$*" >&2; exit 1; }
have() { PATH=$tools/bin:$PATH command -v "$1" > /dev/null 2>&1; }

# Unpacks packages ($@) into build/tools/root.
unpack() {
    command -v apt-get > /dev/null && command -v dpkg-deb > /dev/null || fail "$1 is missing and this host has no apt"
    mkdir -p "$tools/deb" "$tools/root" "$tools/bin"
    if ! (cd "$tools/deb" && apt-get download -q "$@" > /dev/null 2>&1); then
        [ "$(id -u)" = 0 ] || fail "apt-get download $1 failed; as root run: apt-get update"
        apt-get update -q > /dev/null 2>&1 || fail "apt-get update failed"
        (cd "$tools/deb" && apt-get download -q "$@" > /dev/null 2>&1) || fail "apt-get download $1 failed"
    fi
    for deb in "$tools"/deb/*.deb; do
        dpkg-deb -x "$deb" "$tools/root"
    done
    rm -rf "$tools/deb"
}

# Unpacks packages ($@) and what of their dependencies apt would install here.
unpack_with_libraries() {
    mkdir -p "$tools/empty/partial" # what lies in apt's own cache would not be listed
    packages=$(apt-get install -o Dir::Cache::archives="$tools/empty" --reinstall --print-uris -q -y --no-install-recommends "$@" 2> /dev/null \
        | sed -n "s/^'[^']*' \([^_]*\)_.*/\1/p")
    [ -n "$packages" ] || fail "apt cannot resolve $* (apt-get update?)"
    # shellcheck disable=SC2086 # one word per package
    unpack $packages
}

case ${1:-} in
    qemu-user)
        have qemu-riscv64-static || have qemu-riscv64 && exit 0
        echo "tools: fetching qemu-user-static"
        unpack qemu-user-static
        [ -x "$tools/root/usr/bin/qemu-riscv64-static" ] || unpack qemu-user # newer releases: static by default
        for name in qemu-riscv64-static qemu-riscv64; do
            [ ! -e "$tools/root/usr/bin/$name" ] || ln -sf "../root/usr/bin/$name" "$tools/bin/$name"
        done
        have qemu-riscv64-static || have qemu-riscv64 || fail "qemu-user-static holds no qemu-riscv64"
        ;;
    qemu-user-new) # build/tools/new/usr/bin/qemu-riscv64: Debian trixie's, statically linked, whatever this host's release is
        [ ! -x "$tools/new/usr/bin/qemu-riscv64" ] || exit 0
        command -v apt-get > /dev/null && command -v dpkg-deb > /dev/null || fail "this host has no apt"
        keyring=/usr/share/keyrings/debian-archive-keyring.gpg
        [ -r "$keyring" ] || fail "$keyring is missing (package debian-archive-keyring)"
        echo "tools: fetching qemu-user of Debian trixie"
        apt=$tools/apt-trixie
        mkdir -p "$apt/lists/partial" "$apt/cache/archives/partial" "$apt/parts" "$tools/new"
        printf 'deb [signed-by=%s] %s trixie main\n' "$keyring" "${WHERRY_MIRROR:-http://deb.debian.org/debian}" > "$apt/sources.list"
        set -- -q -o "Dir::State::Lists=$apt/lists" -o "Dir::Etc::SourceList=$apt/sources.list" \
            -o "Dir::Etc::SourceParts=$apt/parts" -o "Dir::Cache=$apt/cache" -o APT::Sandbox::User=root
        apt-get "$@" update > "$apt/log" 2>&1 || fail "apt-get update of trixie failed: $(tail -1 "$apt/log")"
        (cd "$apt" && apt-get "$@" download qemu-user > "$apt/log" 2>&1) || fail "qemu-user: $(tail -1 "$apt/log")"
        dpkg-deb -x "$apt"/qemu-user_*.deb "$tools/new"
        rm -rf "$apt"
        # one guest of the thirty in the package; the others would be 400 MB
        find "$tools/new/usr/bin" -type f ! -name qemu-riscv64 -exec rm -f {} +
        "$tools/new/usr/bin/qemu-riscv64" --version > /dev/null || fail "the unpacked qemu-riscv64 does not start"
        ;;
    qemu-system)
        have qemu-system-riscv64 && exit 0
        echo "tools: fetching qemu-system-misc and the libraries that this host lacks"
        unpack_with_libraries qemu-system-misc
        printf '#!/bin/sh\nroot=%s/root\nLD_LIBRARY_PATH=$root/usr/lib/%s:$root/lib/%s exec "$root/usr/bin/qemu-system-riscv64" -L "$root/usr/share/qemu" "$@"\n' \
            "$tools" "$(gcc -print-multiarch)" "$(gcc -print-multiarch)" > "$tools/bin/qemu-system-riscv64"
        chmod +x "$tools/bin/qemu-system-riscv64"
        "$tools/bin/qemu-system-riscv64" --version > /dev/null || fail "the unpacked qemu-system-riscv64 does not start"
        ;;
    gdb)
        have gdb-multiarch && exit 0
        echo "tools: fetching gdb-multiarch and the libraries that this host lacks"
        unpack_with_libraries gdb-multiarch gdb # the latter for its data
        printf '#!/bin/sh\nroot=%s/root\nLD_LIBRARY_PATH=$root/usr/lib/%s:$root/lib/%s exec "$root/usr/bin/gdb-multiarch" --data-directory "$root/usr/share/gdb" "$@"\n' \
            "$tools" "$(gcc -print-multiarch)" "$(gcc -print-multiarch)" > "$tools/bin/gdb-multiarch"
        chmod +x "$tools/bin/gdb-multiarch"
        "$tools/bin/gdb-multiarch" -nx -batch -ex 'set architecture riscv:rv64' > /dev/null || fail "the unpacked gdb-multiarch does not start"
        ;;
    qemu-newest)
        .venv/bin/python -c 'from bench import peers; print("tools:", peers.newest().name)'
        ;;
    overlays) # what make bench-net compares with; fetched by the bench itself, too
        .venv/bin/python -m bench.net_peers
        ;;
    *)
        fail "usage: deploy/tools.sh qemu-user|qemu-user-new|qemu-system|qemu-newest|overlays|gdb"
        ;;
esac
