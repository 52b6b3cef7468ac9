"""Tunnel key epochs: receive before send, rotation, overlap, and two ends together."""

from __future__ import annotations

from protocol import keys as k
from protocol.messages import TunnelKey


def make(node: int, peer: int, cipher: int = 0) -> k.PeerKeys:
    count = iter(range(1, 200))
    return k.PeerKeys(node, peer, cipher, lambda n: bytes([node, next(count)]) + bytes(n - 2), first_epoch=100)


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
