"""Joining over the real bootstrap session, and who may speak afterwards."""

from __future__ import annotations

from pathlib import Path

import pytest

from coordinator.errors import Invalid
from coordinator.join import split
from protocol import messages as m
from protocol.errors import LinkError, RemoteError
from protocol.transport import Handlers, LocalIdentity, TlsFiles, connect_tls, open_link
from tests.unit.control import running
from tests.unit.fake_agent import bootstrap, make_csr
from tests.unit.pki import Pki


async def refused(link_address: str, token: str, name: str = "n9") -> RemoteError:
    async with bootstrap(link_address) as link:
        with pytest.raises(RemoteError) as info:
            await link.call(m.Join(token=token, name=name, csr_pem=make_csr()[1]))
    return info.value


async def test_the_ca_is_told_to_anybody(tmp_path: Path) -> None:
    async with running(tmp_path) as c, bootstrap(c.ready.link) as link:
        answer = await link.call(m.CaFetch())
        assert answer.ca_pem == (tmp_path / "coordinator" / "ca" / "ca.pem").read_text()


async def test_used_expired_foreign_and_wrong_tokens(tmp_path: Path) -> None:
    async with running(tmp_path / "a") as a, running(tmp_path / "b") as b:
        used = (await a.post("/v1/join-tokens", status=201))["token"]
        n1 = await a.node("n1")
        async with bootstrap(a.ready.link) as link:
            await link.call(m.Join(token=used, name="n2", csr_pem=make_csr()[1]))
        short = (await a.post("/v1/join-tokens", {"ttl_s": 0.000001}, status=201))["token"]
        foreign = (await b.post("/v1/join-tokens", status=201))["token"]
        good = (await a.post("/v1/join-tokens", status=201))["token"]
        ident, _, fingerprint = good.split(".")
        for token, code, words in (
            (used, "forbidden", "used already"),
            (short, "forbidden", "expired"),
            (foreign, "forbidden", "another cluster"),
            (f"{ident}.{'a' * 32}.{fingerprint}", "forbidden", "not one of this cluster"),
            ("nonsense", "invalid", "ID.SECRET.FINGERPRINT"),
        ):
            error = await refused(a.ready.link, token)
            assert error.code == code
            assert words in error.message
        taken = await refused(a.ready.link, good, name=n1.name)
        assert taken.code == "exists"
        async with bootstrap(a.ready.link) as link:
            with pytest.raises(RemoteError) as info:
                await link.call(m.Join(token=good, name="n3", csr_pem="junk"))
            assert info.value.details["field"] == "csr_pem"
            await link.call(m.Join(token=good, name="n3", csr_pem=make_csr()[1]))  # refusals spent nothing
        assert {n["name"] for n in (await a.get("/v1/nodes"))["nodes"]} == {"n1", "n2", "n3"}


async def test_an_anonymous_peer_may_do_nothing_else(tmp_path: Path) -> None:
    async with running(tmp_path) as c, bootstrap(c.ready.link) as link:
        for request in (
            m.Renew(csr_pem=make_csr()[1]),
            m.Decide(migration="m", guest="g", generation=1, ask="abort"),
        ):
            with pytest.raises(RemoteError) as info:
                await link.call(request)
            assert info.value.code == "forbidden"


async def test_a_certificate_of_another_ca_opens_nothing(tmp_path: Path) -> None:
    async with running(tmp_path / "c") as c:
        n1 = await c.node("n1")
        foreign = Pki(tmp_path / "pki").node(1)
        mixed = TlsFiles(foreign.certificate, foreign.key, n1.files().ca)
        with pytest.raises(LinkError):
            await ask_for_the_ca(c.ready.link, mixed)
        await ask_for_the_ca(c.ready.link, n1.files())


async def ask_for_the_ca(address: str, tls: TlsFiles) -> None:
    stream = await connect_tls(address, tls=tls, expect="coordinator")
    async with open_link(stream, identity=LocalIdentity("n1"), handlers=Handlers(), client=True) as link:
        await link.call(m.CaFetch())


async def test_a_removed_nodes_certificate_opens_nothing_any_more(tmp_path: Path) -> None:
    async with running(tmp_path) as c:
        n1 = await c.node("n1")
        async with n1.connected():
            assert n1.link is not None
            await c.delete("/v1/nodes/n1")
            await n1.link.wait_closed()
        with pytest.raises(RemoteError) as info:
            async with n1.connected():
                pass
        assert info.value.code == "forbidden"
        assert "removed" in info.value.message


async def test_a_node_cannot_speak_for_another_name(tmp_path: Path) -> None:
    async with running(tmp_path) as c:
        n1, n2 = await c.node("n1"), await c.node("n2")
        n1.name = n2.name
        with pytest.raises(RemoteError) as info:
            async with n1.connected():
                pass
        assert info.value.code == "forbidden"


async def test_renewal_signs_the_new_key_for_the_same_node(tmp_path: Path) -> None:
    async with running(tmp_path) as c:
        n1 = await c.node("n1")
        async with n1.connected():
            assert n1.link is not None
            answer = await n1.link.call(m.Renew(csr_pem=make_csr()[1]))
            assert answer.certificate_pem != n1.files().certificate.read_text()


async def test_a_newer_session_replaces_the_older(tmp_path: Path) -> None:
    async with running(tmp_path) as c:
        n1 = await c.node("n1")
        async with n1.connected():
            older = n1.link
            assert older is not None
            async with n1.connected():
                await older.wait_closed()
                assert (await c.get("/v1/nodes/n1"))["state"] == "alive"


@pytest.mark.parametrize("text", ["", "a.b.c", "a." * 50, f"abc.{'a' * 32}.{'a' * 51}", f"abc.{'1' * 32}.{'a' * 52}"])
def test_malformed_tokens(text: str) -> None:
    with pytest.raises(Invalid) as info:
        split(text)
    assert info.value.field == "token"
