"""A guest that writes nonsense into every virtqueue: its devices ask for a reset, and nobody else notices."""

from __future__ import annotations

import pytest

from node.machine import CH_CONSOLE, EV_POWEROFF
from tests.guest.guest import Guest
from tests.guest.programs import build

MAC = bytes.fromhex("02000000aa01")


@pytest.mark.parametrize("seed", [1, 2])
def test_nonsense_into_every_device(seed: int) -> None:
    with Guest(ram=64 << 20, seed=seed, nics=[MAC]) as guest, Guest(ram=32 << 20) as neighbour:
        neighbour.boot(build("ticker"))
        guest.boot(build("nonsense"))
        end = guest.wait_end()
        told = guest.values()
        assert end.kind == EV_POWEROFF, (end, guest.output)
        assert guest.output.endswith(b"alive\n")
        assert int(told["devices"]) == 3  # console, rng, net
        assert int(told["rounds"]) == 3 * 1500
        assert 0 < int(told["needs_reset"]) < int(told["rounds"])  # both ways were walked
        # The console's far end reads whatever came, and the machine beside it never noticed.
        guest.machine.channel_read(CH_CONSOLE, 0)
        neighbour.read_until(b"\nt ", count=neighbour.output.count(b"\nt ") + 3)


def test_state_of_abused_devices_can_be_carried() -> None:
    """Saved at any moment of the abuse and loaded again: the copy goes on and ends as well."""
    with Guest(ram=64 << 20, seed=3, nics=[MAC]) as guest:
        guest.boot(build("nonsense"))
        with guest.copy(rounds=2) as copy:
            assert b"devices=" not in copy.output  # it was in the middle of it
            assert copy.wait_end().kind == EV_POWEROFF
            assert copy.output.endswith(b"alive\n")
