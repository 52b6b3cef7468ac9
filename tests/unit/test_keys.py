"""Tunnel key epochs: receive before send, rotation, overlap, and two ends together."""

from __future__ import annotations

import random

import pytest

from protocol import keys as k
from protocol import tunnel
from protocol.messages import TunnelKey


def make(node: int, peer: int, cipher: int = 0) -> k.PeerKeys:
    count = iter(range(1, 5000))
    return k.PeerKeys(
        node, peer, cipher, lambda n: next(count).to_bytes(2, "big") + bytes([node]) + bytes(n - 3), first_epoch=100
    )


def sent(effects: list[k.Effect]) -> TunnelKey:
    (effect,) = effects
    assert isinstance(effect, k.SendKey)
    return effect.message


def test_a_key_is_used_only_after_the_peer_has_it() -> None:
    ours, theirs = make(1, 2), make(2, 1)
    message = sent(ours.handle(k.LinkUp(1), 0))
    assert theirs.handle(k.KeyArrived(message), 0) == [k.InstallRx(100, 0, message.key)]
    assert ours.handle(k.KeyAccepted(99), 0) == []
    assert ours.handle(k.KeyAccepted(100), 0) == [k.InstallTx(100, 0, message.key)]
    assert ours.handle(k.KeyAccepted(100), 0) == []


def test_the_lower_node_s_cipher_counts_for_both() -> None:
    low, high = make(1, 2, cipher=0), make(2, 1, cipher=1)
    assert sent(low.handle(k.LinkUp(1), 0)).cipher == 0
    assert sent(high.handle(k.LinkUp(0), 0)).cipher == 0


def test_rotation_by_time_by_volume_and_on_a_new_link() -> None:
    ours = make(1, 2)
    first = sent(ours.handle(k.LinkUp(0), 0))
    ours.handle(k.KeyAccepted(first.epoch), 1)
    assert ours.wakeup == 1 + k.LIFETIME
    assert ours.handle(k.Tick(), k.LIFETIME) == []
    second = sent(ours.handle(k.Tick(), 1 + k.LIFETIME))
    assert (second.epoch, second.key != first.key) == (101, True)
    assert ours.handle(k.Worn(), 4000) == []  # one is under way
    ours.handle(k.KeyAccepted(101), 4000)
    third = sent(ours.handle(k.Worn(), 4001))
    assert third.epoch == 102
    ours.handle(k.LinkDown(), 4002)
    assert ours.handle(k.KeyAccepted(102), 4003) == []  # an answer of the old link
    assert sent(ours.handle(k.LinkUp(0), 4004)).epoch == 103


def test_a_failed_offer_is_repeated_with_a_fresh_key() -> None:
    ours = make(1, 2)
    first = sent(ours.handle(k.LinkUp(0), 0))
    assert ours.handle(k.KeyFailed(first.epoch), 1) == []
    assert ours.wakeup == 1 + k.RETRY
    again = sent(ours.handle(k.Tick(), 1 + k.RETRY))
    assert again.epoch == first.epoch + 1
    assert again.key != first.key


def test_the_older_receive_key_goes_after_the_overlap() -> None:
    ours = make(1, 2)
    for epoch, now in ((7, 0.0), (8, 10.0), (8, 11.0), (9, 20.0)):
        ours.handle(k.KeyArrived(TunnelKey(epoch=epoch, cipher=0, key=bytes(32))), now)
    assert ours.wakeup == 10 + k.OVERLAP
    assert ours.handle(k.Tick(), 10 + k.OVERLAP) == [k.DropRx(7)]
    assert ours.handle(k.Tick(), 20 + k.OVERLAP) == [k.DropRx(8)]
    assert ours.wakeup is None


def test_a_key_expires_during_a_partition() -> None:
    """It stays in use, old or worn as it is, without a wake-up in vain; the next link brings a new one at once."""
    ours = make(1, 2)
    first = sent(ours.handle(k.LinkUp(0), 0))
    ours.handle(k.KeyAccepted(first.epoch), 1)
    ours.handle(k.LinkDown(), 10)
    assert ours.wakeup is None
    assert ours.handle(k.Tick(), 3 * k.LIFETIME) == []
    assert ours.handle(k.Worn(), 3 * k.LIFETIME + 1) == []
    assert ours.wakeup is None
    second = sent(ours.handle(k.LinkUp(0), 4 * k.LIFETIME))
    assert second.epoch == first.epoch + 1
    assert ours.handle(k.Tick(), 4 * k.LIFETIME + 1) == []  # one is under way
    assert ours.handle(k.KeyAccepted(second.epoch), 4 * k.LIFETIME + 2) == [k.InstallTx(second.epoch, 0, second.key)]


def test_an_epoch_in_use_is_not_dropped() -> None:
    ours = make(1, 2)
    for epoch, now in ((7, 0.0), (8, 10.0)):
        ours.handle(k.KeyArrived(TunnelKey(epoch=epoch, cipher=0, key=bytes(32))), now)
    assert ours.handle(k.Tick(), 10 + k.OVERLAP) == [k.DropRx(7)]
    assert ours.handle(k.InUse(7), 10 + k.OVERLAP) == []
    assert ours.wakeup == 10 + 2 * k.OVERLAP
    assert ours.handle(k.Tick(), 10 + 2 * k.OVERLAP) == [k.DropRx(7)]
    assert ours.handle(k.InUse(8), 10 + 2 * k.OVERLAP) == []  # the newest is never dropped
    assert ours.wakeup is None


class Ends:
    """A sender's and a receiver's machine, and a tunnel. Links break and answers are lost, datagrams arrive."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)
        self.now = 0.0
        self.ours, self.theirs = make(1, 2), make(2, 1)
        self.sender: tunnel.Sender | None = None
        self.receiver = tunnel.Receiver(2, 1)
        self.link = False

    def send(self) -> None:
        """Raises when the receiver has no key for it."""
        if self.sender is not None:
            self.receiver.open(self.sender.seal(tunnel.Probe(1, 1)))

    def carry_out_theirs(self, effects: list[k.Effect]) -> None:
        for effect in effects:
            if isinstance(effect, k.InstallRx):
                self.receiver.install(effect.epoch, effect.cipher, effect.key)
            elif isinstance(effect, k.DropRx) and not self.receiver.drop(effect.epoch):
                self.theirs.handle(k.InUse(effect.epoch), self.now)

    def carry_out_ours(self, effects: list[k.Effect]) -> None:
        for effect in effects:
            if isinstance(effect, k.InstallTx):
                self.sender = tunnel.Sender(1, 2, effect.epoch, effect.cipher, effect.key)
                self.send()  # a node probes at once with a new key
            elif isinstance(effect, k.SendKey):
                self.offer(effect.message)

    def offer(self, message: TunnelKey) -> None:
        fate = self.random.choice(("lost", "answer lost", "link breaks", "accepted"))
        if fate != "lost":
            self.carry_out_theirs(self.theirs.handle(k.KeyArrived(message), self.now))
        self.now += self.random.choice((0.01, 1.0, 10.0))
        self.send()
        if fate == "link breaks":
            self.flip()
        elif fate == "accepted":
            self.carry_out_ours(self.ours.handle(k.KeyAccepted(message.epoch), self.now))
        else:
            self.ours.handle(k.KeyFailed(message.epoch), self.now)

    def flip(self) -> None:
        self.link = not self.link
        event: k.Event = k.LinkUp(0) if self.link else k.LinkDown()
        self.theirs.handle(event, self.now)
        self.carry_out_ours(self.ours.handle(event, self.now))

    def step(self) -> None:
        self.now += self.random.choice((0.1, 3.0, 40.0, 2000.0))
        match self.random.randrange(4):
            case 0:
                self.flip()
            case 1:
                self.carry_out_ours(self.ours.handle(k.Worn(), self.now))
            case _:
                self.carry_out_theirs(self.theirs.handle(k.Tick(), self.now))
                self.carry_out_ours(self.ours.handle(k.Tick(), self.now))
        self.send()


@pytest.mark.parametrize("seed", range(20))
def test_what_is_sealed_opens_whatever_becomes_of_links_and_answers(seed: int) -> None:
    ends = Ends(seed)
    for _ in range(300):
        ends.step()
    assert ends.sender is not None


def test_epochs_wrap_without_zero() -> None:
    ours = k.PeerKeys(1, 2, 0, bytes, first_epoch=k.MAX_EPOCH)
    assert sent(ours.handle(k.LinkUp(0), 0)).epoch == k.MAX_EPOCH
    assert sent(ours.handle(k.LinkUp(0), 0)).epoch == 1


def test_keys_do_not_show_in_logs() -> None:
    secret = b"SECRETSECRETSECRETSECRETSECRETSE"
    message = TunnelKey(epoch=1, cipher=0, key=secret)
    for thing in (
        message,
        k.SendKey(message),
        k.KeyArrived(message),
        k.InstallTx(1, 0, secret),
        k.InstallRx(1, 0, secret),
    ):
        assert "SECRET" not in repr(thing)
