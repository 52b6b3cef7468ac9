"""The scripts inside a built image: what runs between the kernel and the prompt.

``/init`` mounts, loads modules, names and connects the machine, and becomes busybox init, which keeps the guest
agent and a shell on the console alive. Kernel command line: ``wherry.name=NAME`` and, once per NIC,
``wherry.nic=MAC,ADDRESS/PREFIX,GATEWAY,MTU`` (gateway may be empty); a NIC that is not named asks DHCP.
"""

from __future__ import annotations

INIT = """#!/bin/sh
export PATH=/usr/sbin:/usr/bin:/sbin:/bin
[ -e /usr/bin/mount ] || /usr/bin/busybox --install -s /usr/bin
mount -t devtmpfs dev /dev
mount -t proc proc /proc
mount -t sysfs sys /sys
mkdir -p /dev/pts /dev/shm
mount -t devpts devpts /dev/pts
mount -t tmpfs shm /dev/shm
mount -t tmpfs run /run
ln -sf /proc/self/fd /dev/fd

while read -r module; do
    insmod "/lib/modules/$module"
done < /etc/modules-order

name=wherry
for word in $(cat /proc/cmdline); do
    case $word in
        wherry.name=*) name=${word#*=} ;;
    esac
done
hostname "$name"
echo "127.0.0.1 localhost $name" > /etc/hosts
ip link set lo up

for path in /sys/class/net/*; do
    nic=${path##*/}
    [ "$nic" = lo ] && continue
    mac=$(cat "$path/address")
    named=
    for word in $(cat /proc/cmdline); do
        case $word in
            wherry.nic=$mac,*) named=${word#wherry.nic=$mac,} ;;
        esac
    done
    if [ -z "$named" ]; then
        ip link set "$nic" up
        udhcpc -b -q -i "$nic" -s /etc/udhcpc.script > /dev/null 2>&1 &
        continue
    fi
    IFS=, read -r address gateway mtu <<END
$named
END
    ip link set "$nic" mtu "${mtu:-1400}" up
    ip address add "$address" dev "$nic"
    [ -z "$gateway" ] || ip route add default via "$gateway"
done
echo "wherry: user space"
exec /sbin/init
"""

# The port's device appears a moment after its driver is loaded, by way of a work queue; hence the wait.
AGENT = """#!/bin/sh
# Finds the guest agent's virtio port, gives it the name that stock images use, and becomes the agent.
want=org.qemu.guest_agent.0
tries=0
while [ ! -e "/dev/virtio-ports/$want" ]; do
    for port in /sys/class/virtio-ports/*; do
        [ "$(cat "$port/name" 2> /dev/null)" = "$want" ] || continue
        mkdir -p /dev/virtio-ports
        ln -sf "../${port##*/}" "/dev/virtio-ports/$want"
    done
    tries=$((tries + 1))
    [ "$tries" -gt 400 ] && exec sleep 3600
    [ -e "/dev/virtio-ports/$want" ] || usleep 50000
done
exec /usr/sbin/qemu-ga -m virtio-serial -p "/dev/virtio-ports/$want" --statedir /run --pidfile /run/qemu-ga.pid
"""

SHUTDOWN = """#!/bin/sh
# What the guest agent calls. The file systems are in memory unless someone mounted a disk.
action=poweroff
for word in "$@"; do
    case $word in
        -r|--reboot) action=reboot ;;
        -H|--halt) action=halt ;;
    esac
done
sync
umount -a -r > /dev/null 2>&1
exec /usr/bin/busybox $action -f
"""

UDHCPC = """#!/bin/sh
case $1 in
    bound|renew)
        ip address flush dev "$interface"
        ip address add "$ip/${mask:-24}" dev "$interface"
        for gateway in $router; do
            ip route add default via "$gateway" dev "$interface" && break
        done
        : > /etc/resolv.conf
        for server in $dns; do
            echo "nameserver $server" >> /etc/resolv.conf
        done
        ;;
esac
"""

INITTAB = """::respawn:/usr/sbin/wherry-agent
ttyS0::respawn:-/bin/sh
::ctrlaltdel:/sbin/reboot
"""

PROFILE = """export PATH=/usr/sbin:/usr/bin:/sbin:/bin HOME=/root
cd "$HOME" 2> /dev/null
PS1='\\u@\\h:\\w# '
"""
