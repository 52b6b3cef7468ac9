#!/bin/sh
# Proves that a checkout works on a machine that has never seen it: a minimal Debian in a folder (debootstrap), entered by
# chroot, with a clean clone of this repository's HEAD. Root only. Nothing outside the folder changes.
#   deploy/fresh.sh SUITE [make-target...]      e.g. deploy/fresh.sh trixie demo test
# Settings by environment:
#   FRESH_DIR=/var/tmp/wherry-fresh   where the systems are kept; delete it when done
#   FRESH_MIRROR=URL                  Debian mirror (default: this machine's own, else deb.debian.org)
#   FRESH_PACKAGES="..."              installed beforehand (default: what the README names)
#   FRESH_USER=NAME                   run as this ordinary user, made in the new system (default: root)
#   FRESH_COMMAND="..."               run this in the clone instead of make targets
# The new system gets this machine's apt, pip and name-server settings, and no others.
set -eu
cd "$(dirname "$0")/.."

fail() { printf 'fresh: %s\n' "$*" >&2; exit 1; }
say() { printf 'fresh: %s\n' "$*"; }

[ $# -ge 1 ] || fail "usage: deploy/fresh.sh SUITE [make-target...]"
[ "$(id -u)" = 0 ] || fail "needs root (debootstrap, chroot, mounts)"
command -v debootstrap > /dev/null || fail "debootstrap is missing: apt-get install debootstrap"
# In namespaces of its own, so that no mount and no process outlives this script, however it ends.
[ -n "${FRESH_INSIDE:-}" ] || FRESH_INSIDE=$$ exec unshare --mount --pid --fork --kill-child --mount-proc sh "$0" "$@"
suite=$1
shift
[ $# -gt 0 ] || set -- demo test
dir=${FRESH_DIR:-/var/tmp/wherry-fresh}
packages=${FRESH_PACKAGES-python3 python3-venv gcc make libssl-dev}
user=${FRESH_USER:-root}
keyring=/usr/share/keyrings/debian-archive-keyring.gpg

# The first Debian mirror that this machine's own apt uses.
own_mirror() {
    apt-get indextargets --format '$(REPO_URI)' "Created-By: Packages" 2> /dev/null | grep '/debian/\?$' | head -n 1
}
mirror=${FRESH_MIRROR:-$(own_mirror)}
mirror=${mirror:-http://deb.debian.org/debian}

base=$dir/$suite.base
root=$dir/$suite.run.$FRESH_INSIDE
if [ ! -e "$base/.done" ]; then
    say "debootstrap $suite from $mirror"
    rm -rf "$base"
    mkdir -p "$dir"
    debootstrap --variant=minbase --keyring="$keyring" "$suite" "$base" "$mirror" > "$dir/$suite.log" 2>&1 \
        || fail "debootstrap failed, see $dir/$suite.log"
    touch "$base/.done"
fi

# What was mounted is unmounted in any case; only then may the folder be removed.
clean_up() {
    for place in $mounted; do
        umount "$place" 2> /dev/null || umount -l "$place"
    done
    mounted=
    if grep -q " $root" /proc/mounts; then
        say "something is still mounted in $root; left alone"
    else
        rm -rf --one-file-system "$root"
    fi
}
mounted=
trap clean_up EXIT
trap 'exit 130' INT TERM

cp -a "$base" "$root"
# A mount of its own: unshare(1) in the new system changes the propagation of its "/", which must be one.
mount --bind "$root" "$root"
mounted=$root
mount_in() { # TYPE-or-bind SOURCE PLACE [options]
    mkdir -p "$root$3"
    if [ "$1" = bind ]; then mount --bind "$2" "$root$3"; else mount -t "$1" ${4:+-o "$4"} "$2" "$root$3"; fi
    mounted="$root$3 $mounted"
}
mount_in proc proc /proc
mount_in sysfs sysfs /sys
mount_in tmpfs tmpfs /dev mode=755
device_in() {
    touch "$root/dev/$1"
    mount --bind "/dev/$1" "$root/dev/$1"
    mounted="$root/dev/$1 $mounted"
}
for device in null zero full random urandom tty; do
    device_in "$device"
done
mkdir -p "$root/dev/pts" "$root/dev/shm"
mount_in devpts devpts /dev/pts newinstance,ptmxmode=0666,mode=0620
ln -s pts/ptmx "$root/dev/ptmx"
ln -s /proc/self/fd "$root/dev/fd"
mount_in tmpfs tmpfs /dev/shm mode=1777
[ ! -e /dev/net/tun ] || { mkdir -p "$root/dev/net"; device_in net/tun; }
chmod 1777 "$root/tmp"

# This machine's own settings: name servers, apt, pip and where its index lies, trusted certificates.
cp -L /etc/resolv.conf "$root/etc/resolv.conf"
cp -L /etc/hosts "$root/etc/hosts"
for file in /etc/apt/apt.conf.d/*; do # settings only: hooks call programs that the new system lacks
    grep -q -E 'Invoke|Post|DPkg|NeverAutoRemove' "$file" || cp "$file" "$root/etc/apt/apt.conf.d/"
done
mkdir -p "$root/etc/dpkg/dpkg.cfg.d"
echo force-unsafe-io > "$root/etc/dpkg/dpkg.cfg.d/fresh" # a throw-away system need not survive a power cut
printf 'deb [signed-by=%s] %s %s main\n' "$keyring" "$mirror" "$suite" > "$root/etc/apt/sources.list"
[ ! -e /etc/pip.conf ] || cp /etc/pip.conf "$root/etc/pip.conf"
for place in $(cat /etc/pip.conf /root/.config/pip/pip.conf /root/.pip/pip.conf 2> /dev/null | tr ' =' '\n\n' \
    | sed -n 's#^\(file://\)\?\(/[^ ]*\)$#\2#p'; printf '%s\n' "${PIP_FIND_LINKS:-}"); do
    place=${place%/simple}
    [ ! -d "$place" ] || grep -q " $root$place " /proc/mounts || mount_in bind "$place" "$place"
done
environment=$(env | grep -E '^(PIP_[A-Z_]*|https?_proxy|HTTPS?_PROXY|no_proxy|NO_PROXY|SSL_CERT_FILE|REQUESTS_CA_BUNDLE)=' || true)

inside() { # a command as root in the new system, with nothing of this environment but what is named above
    chroot "$root" /usr/bin/env -i HOME=/root PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin \
        LANG=C.UTF-8 DEBIAN_FRONTEND=noninteractive \
        sh -c 'set -a; while IFS= read -r line; do export "$line"; done < /environment.sh; exec "$@"' sh "$@"
}
printf '%s\n' "$environment" | sed '/^$/d' > "$root/environment.sh"

say "$suite: apt-get install ${packages:-nothing}"
inside apt-get update -q > "$dir/$suite.apt.log" 2>&1 || fail "apt-get update failed, see $dir/$suite.apt.log"
# shellcheck disable=SC2086 # one word per package
[ -z "$packages" ] || inside apt-get install -y -q $packages >> "$dir/$suite.apt.log" 2>&1 \
    || fail "apt-get install failed, see $dir/$suite.apt.log"

# After the packages, as ca-certificates makes the bundle anew; what this machine added to it stays added.
mkdir -p "$root/etc/ssl/certs" "$root/usr/local/share/ca-certificates"
[ ! -e /etc/ssl/certs/ca-certificates.crt ] || cp -L /etc/ssl/certs/ca-certificates.crt "$root/etc/ssl/certs/"
cp -RL /usr/local/share/ca-certificates/. "$root/usr/local/share/ca-certificates/" 2> /dev/null || true
home=/root
if [ "$user" != root ]; then
    inside useradd --create-home "$user"
    home=/home/$user
fi
for file in .config/pip/pip.conf .pip/pip.conf; do
    [ ! -e "/root/$file" ] || { mkdir -p "$root$home/${file%/*}"; cp "/root/$file" "$root$home/$file"; }
done
git clone -q --no-hardlinks --depth 1 "file://$PWD" "$root/wherry"
inside chown -R "$user:" /wherry "$home"
command=${FRESH_COMMAND:-make $*}
say "$suite as $user: $command"
start=$(date +%s)
status=0
if [ "$user" = root ]; then
    inside sh -c "cd /wherry && $command" || status=$?
else
    inside setpriv --reuid "$user" --regid "$user" --init-groups --inh-caps=-all --bounding-set=-all --no-new-privs \
        env HOME="$home" sh -c "cd /wherry && $command" || status=$?
fi
say "$suite as $user: $command: exit status $status after $(($(date +%s) - start)) s"
exit "$status"
