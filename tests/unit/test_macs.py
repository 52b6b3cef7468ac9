"""The MAC table: mobility, fencing, full tables, BUM lists, bounds."""

from __future__ import annotations

import pytest

from protocol import macs
from protocol.messages import MacAdvert, MacAdverts

VNI, MAC = 5, "02:00:00:00:00:01"


def claim(node: int, generation: int = 1, sequence: int = 0, mac: str = MAC, *, withdrawn: bool = False) -> MacAdvert:
    return MacAdvert(vni=VNI, mac=mac, generation=generation, sequence=sequence, node=node, withdrawn=withdrawn)


def hear(table: macs.MacTable, node: int, *claims: MacAdvert, full: bool = False) -> list[macs.Effect]:
    return table.handle(macs.AdvertsArrived(node, MacAdverts(adverts=list(claims), vnis=[VNI], full=full)))


@pytest.fixture
def table() -> macs.MacTable:
    table = macs.MacTable(1)
    table.handle(macs.NetworkAdded(VNI))
    return table


def test_a_moved_guest_wins_and_the_old_node_s_late_claim_does_not(table: macs.MacTable) -> None:
    assert hear(table, 2, claim(2, 5))[0] == macs.SetRemote(VNI, MAC, 2)
    assert hear(table, 3, claim(3, 6))[0] == macs.SetRemote(VNI, MAC, 3)
    assert hear(table, 2, claim(2, 5, 9)) == []
    assert hear(table, 2, claim(2, 5, 10, withdrawn=True)) == []
    assert table.owner(VNI, MAC) == 3


def test_a_stale_local_copy_is_fenced_and_a_newer_one_takes_over(table: macs.MacTable) -> None:
    table.handle(macs.LocalMac(VNI, MAC, "", 5))
    effects = hear(table, 2, claim(2, 6))
    assert effects[:2] == [macs.LocalFenced(VNI, MAC, 2), macs.SetRemote(VNI, MAC, 2)]
    assert macs.DelRemote(VNI, MAC) in table.handle(macs.LocalMac(VNI, MAC, "", 7))
    assert table.owner(VNI, MAC) == 1


def test_a_guest_that_was_committed_away_is_known_to_be_there_before_its_node_says_so(table: macs.MacTable) -> None:
    table.handle(macs.LinkUp(3))
    table.handle(macs.LocalMac(VNI, MAC, "", 5))
    effects = table.handle(macs.LocalMoved(VNI, MAC, "", 6, 2))
    assert effects == [macs.LocalFenced(VNI, MAC, 2), macs.SetRemote(VNI, MAC, 2)]  # and nothing is told to others
    assert [e for e in hear(table, 2, claim(2, 6)) if not isinstance(e, macs.NetworkPeers)] == []
    (send,) = table.handle(macs.LocalGone(VNI, MAC))
    assert isinstance(send, macs.SendAdverts)
    assert table.owner(VNI, MAC) == 2
    # It is known that the guest is elsewhere again: an older word from here changes nothing.
    hear(table, 3, claim(3, 7))
    assert table.handle(macs.LocalMoved(VNI, MAC, "", 6, 2)) == []
    assert macs.DelRemote(VNI, MAC) not in table.handle(macs.NodeGone(2))


def test_a_learned_station_that_leaves_is_withdrawn_and_news_when_it_comes_back(table: macs.MacTable) -> None:
    table.handle(macs.LinkUp(2))
    table.handle(macs.LocalMac(VNI, MAC))
    effects = hear(table, 2, claim(2, 0, 1))
    assert effects[0] == macs.SetRemote(VNI, MAC, 2)
    (told,) = [e.notice.adverts for e in effects if isinstance(e, macs.SendAdverts)]
    assert told == [claim(1, 0, 1, withdrawn=True)]
    back = table.handle(macs.LocalMac(VNI, MAC))
    assert back[0] == macs.DelRemote(VNI, MAC)
    (told,) = [e.notice.adverts for e in back if isinstance(e, macs.SendAdverts)]
    assert told == [claim(1, 0, 2)]
    assert table.owner(VNI, MAC) == 1
    # A guest's claim stands although it loses: its node says when it is gone.
    table.handle(macs.LocalMac(VNI, "02:00:00:00:00:09", "", 5))
    effects = hear(table, 2, claim(2, 6, mac="02:00:00:00:00:09"))
    assert not [e for e in effects if isinstance(e, macs.SendAdverts)]


def test_what_was_learned_in_a_network_goes_with_it(table: macs.MacTable) -> None:
    table.handle(macs.LinkUp(2))
    table.handle(macs.LocalMac(VNI, MAC))
    table.handle(macs.LocalMac(VNI, "02:00:00:00:00:09", "", 4))  # a guest's: its own port says when it goes
    (send,) = table.handle(macs.NetworkRemoved(VNI))
    assert isinstance(send, macs.SendAdverts)
    assert [(a.mac, a.withdrawn) for a in send.notice.adverts] == [(MAC, True)]
    assert table.owner(VNI, MAC) is None


def test_a_learned_mac_that_moves_here_outbids_by_sequence(table: macs.MacTable) -> None:
    table.handle(macs.LinkUp(2))
    hear(table, 2, claim(2, 0, 4))
    effects = table.handle(macs.LocalMac(VNI, MAC))
    (send,) = [e for e in effects if isinstance(e, macs.SendAdverts)]
    assert send.notice.adverts[0].sequence == 5
    assert table.owner(VNI, MAC) == 1


def test_a_full_table_withdraws_what_it_does_not_list(table: macs.MacTable) -> None:
    other = "02:00:00:00:00:02"
    hear(table, 2, claim(2), claim(2, mac=other))
    assert hear(table, 2, claim(2), full=True) == [macs.DelRemote(VNI, other)]
    assert macs.DelRemote(VNI, MAC) in table.handle(macs.NodeGone(2))


def test_claims_for_others_are_ignored(table: macs.MacTable) -> None:
    hear(table, 2, claim(3, 99))
    assert table.owner(VNI, MAC) is None


def test_broadcast_goes_to_the_nodes_with_ports_in_the_network(table: macs.MacTable) -> None:
    assert hear(table, 3) == [macs.NetworkPeers(VNI, (3,))]
    assert hear(table, 2) == [macs.NetworkPeers(VNI, (2, 3))]
    assert table.handle(macs.AdvertsArrived(3, MacAdverts(adverts=[], vnis=[]))) == [macs.NetworkPeers(VNI, (2,))]


def test_a_network_that_comes_later_gets_what_was_heard_before() -> None:
    table = macs.MacTable(1)
    assert hear(table, 2, claim(2)) == []
    effects = table.handle(macs.NetworkAdded(VNI))
    assert effects == [macs.NetworkPeers(VNI, (2,)), macs.SetRemote(VNI, MAC, 2)]


def test_a_new_link_gets_the_whole_table_in_batches(table: macs.MacTable, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(macs, "BATCH", 2)
    for n in range(5):
        table.handle(macs.LocalMac(VNI, f"02:00:00:00:01:{n:02x}", "", 1))
    table.handle(macs.LocalGone(VNI, "02:00:00:00:01:00"))
    sends = [e for e in table.handle(macs.LinkUp(2)) if isinstance(e, macs.SendAdverts)]
    assert [len(s.notice.adverts) for s in sends] == [2, 2]
    assert [s.notice.full for s in sends] == [True, False]
    peer = macs.MacTable(2)
    for send in sends:
        peer.handle(macs.AdvertsArrived(1, send.notice))
    assert peer.owner(VNI, "02:00:00:00:01:04") == 1
    assert peer.owner(VNI, "02:00:00:00:01:00") is None


def test_one_node_cannot_fill_the_table(table: macs.MacTable, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(macs, "MAX_PER_NODE", 3)
    hear(table, 2, *(claim(2, mac=f"02:00:00:00:01:{n:02x}") for n in range(5)))
    assert table.dropped == 2
    assert table.owner(VNI, "02:00:00:00:01:02") == 2
    assert table.owner(VNI, "02:00:00:00:01:03") is None
