"""Two Debian guests on the switches of two nodes: what their drivers negotiate, and that what one of them leaves open
(checksums, segmentation) arrives whole at the other one, for drivers with and without offloads."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import pytest
import trio

from node.machine import Machine
from tests.cluster.switches import VNI, Node, nodes
from tests.guest.debian import debian_image
from tests.guest.guest import MIB, Guest
from tests.guest.test_debian import USER_SPACE, answer

pytestmark = [pytest.mark.debian, pytest.mark.slow]

# virtio 1.3, 5.1.3 and 6: bits that the driver must have taken (Linux does; its USO bits came later than some kernels)
CSUM, GUEST_CSUM, MTU = 0, 1, 3
TSO = {7, 8, 9, 11, 12, 13}
MRG_RXBUF, CTRL_VQ, MQ, INDIRECT, EVENT_IDX, PACKED = 15, 17, 22, 28, 29, 34


def mac(number: int) -> str:
    return f"02:57:00:00:00:{number:02x}"


@contextmanager
def guests_on(made: list[Node], harts: int) -> Iterator[list[Guest]]:
    image = debian_image()
    with ExitStack() as stack:
        guests = []
        for number, node in enumerate(made, 1):
            guest = stack.enter_context(
                Guest(ram=256 * MIB, harts=harts, nics=[bytes.fromhex(mac(number).replace(":", ""))], mtu=1400)
            )
            plug(guest.machine, node, number)
            nic = f"wherry.nic={mac(number)},10.1.2.{number}/24,,1400"
            guest.boot(image.kernel, initrd=image.initrd, cmdline=f"console=ttyS0 {nic}")
            guests.append(guest)
        yield guests


def plug(machine: Machine, node: Node, number: int) -> None:
    fds = machine.nic_fds(0)
    node.switch.add_ring_port(
        1,
        VNI,
        ring_fd=fds.ring,
        to_switch_event=fds.to_switch,
        to_guest_event=fds.to_guest,
        mac=mac(number),
        generation=1,
    )


def features(guest: Guest) -> set[int]:
    """What the network driver has accepted: a string of bits, the lowest first."""
    found = answer(guest, "for d in /sys/bus/virtio/devices/*; do [ -e $d/net ] && echo bits=$(cat $d/features); done")
    bits = next(line for line in found.splitlines() if line.startswith("bits=")).strip()
    return {index for index, bit in enumerate(bits.removeprefix("bits=")) if bit == "1"}


def transfer(sender: Guest, receiver: Guest, address: str) -> None:
    """8 MiB by TCP: both ends sum up the same bytes."""
    answer(sender, "dd if=/dev/urandom of=/tmp/data bs=64k count=128 2>/dev/null")
    want = answer(sender, "sha256sum < /tmp/data").split()[0]
    # busybox's nc ends with the first end of input, so that the receiver's stays open for longer than needed.
    answer(receiver, "(sleep 600 | (nc -l -p 5001 | sha256sum > /tmp/sum)) & true")
    answer(receiver, "until netstat -ltn | grep -q :5001; do sleep 0.1; done")
    answer(sender, f"nc -w 60 {address} 5001 < /tmp/data")
    got = answer(receiver, "until [ -s /tmp/sum ]; do sleep 0.1; done; cat /tmp/sum").split()
    assert want in got


@pytest.mark.parametrize("open_checksums", [True, False])
async def test_packets_of_two_guests_stay_large(open_checksums: bool) -> None:
    async with nodes(2) as made:
        for index, node in enumerate(made):
            node.switch.set_peer_takes(2 - index, open_checksums=open_checksums)
        with guests_on(made, harts=2) as guests:
            for guest in guests:
                await trio.to_thread.run_sync(guest.read_until, USER_SPACE)
                await trio.to_thread.run_sync(guest.read_until, b"# ")
            left, right = guests
            has = await trio.to_thread.run_sync(features, left)
            wanted = {CSUM, GUEST_CSUM, MTU, MRG_RXBUF, CTRL_VQ, MQ, INDIRECT, EVENT_IDX, PACKED} | TSO
            assert has >= wanted
            await trio.to_thread.run_sync(transfer, left, right, "10.1.2.2")
            sent, received = made[0].switch.port_counters(1), made[1].switch.port_counters(1)
            over = made[0].switch.peer_counters(2)
            assert made[0].switch.counters().drop_invalid == made[1].switch.counters().drop_invalid == 0
            # How many packets are large is the affair of the guest's TCP. Those that are get cut behind the guest,
            assert over.tx_frames > sent.rx_frames
            if open_checksums:  # and put together in front of the other one.
                assert over.tx_frames > received.tx_frames
