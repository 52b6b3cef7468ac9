"""A rotation of the CA in a running coordinator, followed by nodes' real identities over real sessions."""

from __future__ import annotations

import json
import ssl
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
import trio
from cryptography import x509

from coordinator import cafiles, rollover
from coordinator.ca import CA_DAYS
from coordinator.service import coordinator
from node.identity import Identity, IdentityError, Token, TrustKeeper, issuer_of, join, renew, roots
from protocol import messages as m
from protocol.errors import LinkError, PeerRejected, Refused
from protocol.transport import Handlers, Link, LocalIdentity, TlsFiles, connect_tls, open_link, serve_links
from tests.unit.control import Control, config, running
from tests.unit.test_join import ask_for_the_ca, refused

DAY = 86400.0


class Member:
    """A node's identity and sessions, without the rest of an agent."""

    def __init__(self, identity: Identity) -> None:
        self.identity = identity
        self.deaf = False

    @classmethod
    async def join(cls, c: Control, name: str, token: str = "") -> Member:
        text = token or (await c.post("/v1/join-tokens", status=201))["token"]
        return cls(await join(c.folder / name, Token.parse(text), c.ready.link, name))

    @asynccontextmanager
    async def connected(self) -> AsyncIterator[Link]:
        handlers = Handlers()
        if self.deaf:

            async def refuse(link: Link, request: m.Trust) -> None:
                raise Refused("full", "the disk is full")

            handlers.on_request(m.Trust, refuse)
        else:
            TrustKeeper(self.identity).register(handlers)
        stream = await connect_tls(self.identity.coordinator, tls=self.identity.tls, expect="coordinator")
        local = LocalIdentity(self.identity.name)
        async with open_link(stream, identity=local, handlers=handlers, client=True) as link:
            await link.call(
                m.Register(
                    name=self.identity.name,
                    link="127.0.0.1:1",
                    tunnel="127.0.0.1:1",
                    resources=m.Resources(cpus=1, memory=1 << 30, memory_free=1 << 30, disk_free=1 << 30),
                    guests=[],
                    software="test",
                )
            )
            yield link

    @property
    def trusted(self) -> list[str]:
        return list(roots(self.identity.tls.ca.read_text()))

    @property
    def issuer(self) -> str:
        return issuer_of(self.identity, roots(self.identity.tls.ca.read_text()))


async def until(c: Control, **follows: bool) -> dict[str, Any]:
    """The CA's state once these nodes follow, or do not."""
    with trio.fail_after(30):
        while True:
            found: dict[str, Any] = await c.get("/v1/ca")
            if {n["name"]: n["follows"] for n in found["nodes"]}.items() >= follows.items():
                return found
            await c.get("/v1/ca")


async def kinds(c: Control) -> list[str]:
    return [e["kind"] for e in await c.events() if e["kind"].startswith("ca.")]


async def test_a_rotation_from_begin_to_end(tmp_path: Path) -> None:
    async with running(tmp_path) as c:
        n1, n2 = await Member.join(c, "n1"), await Member.join(c, "n2")
        first = await c.get("/v1/ca")
        assert (first["state"], first["old"]) == ("single", None)
        assert abs(first["expires"] - time.time() - CA_DAYS * DAY) < 3600
        async with n1.connected() as link:
            await until(c, n1=True)
            begun = await c.post("/v1/ca/rotate", status=200)
            assert begun["state"] == "overlap"
            assert begun["old"]["fingerprint"] == first["fingerprint"]
            found = await until(c, n1=True, n2=False)
            assert [n["reason"] for n in found["nodes"]] == ["", "is away"]
            assert n1.issuer == begun["fingerprint"]
            assert n1.trusted == [begun["fingerprint"], first["fingerprint"]]
            assert not link.closed  # the session that was there goes on
            again = await c.post("/v1/ca/rotate", status=409)
            assert "under way" in again["error"]["message"]
            no = await c.post("/v1/ca/finish", status=409)
            assert "n2 (is away)" in no["error"]["message"]
            assert n2.trusted == [first["fingerprint"]]
            async with n2.connected():  # with the certificate and the root of before
                await until(c, n1=True, n2=True)
                done = await c.post("/v1/ca/finish", status=200)
                assert (done["state"], done["fingerprint"]) == ("single", begun["fingerprint"])
                with trio.fail_after(30):
                    while n1.trusted != [begun["fingerprint"]] or n2.trusted != [begun["fingerprint"]]:
                        await c.get("/v1/ca")
                await renew(n1.identity, link)
        async with n2.connected():
            pass
        assert await kinds(c) == ["ca.overlap", "ca.follows", "ca.follows", "ca.finished"]
        nothing = await c.post("/v1/ca/finish", status=409)
        assert "no rotation" in nothing["error"]["message"]
        assert not (tmp_path / "coordinator" / "ca" / "new").exists()


async def test_a_node_that_cannot_follow_is_named_and_can_be_dropped(tmp_path: Path) -> None:
    async with running(tmp_path) as c:
        n1, n2 = await Member.join(c, "n1"), await Member.join(c, "n2")
        n1.deaf = True
        async with n1.connected() as link:
            await c.post("/v1/ca/rotate", status=200)
            no = await c.post("/v1/ca/finish", status=409)
            assert "n1 (" in no["error"]["message"]
            assert "n2 (is away)" in no["error"]["message"]
            found = await until(c, n1=False)
            with trio.fail_after(30):
                while "disk is full" not in found["nodes"][0]["reason"]:
                    found = await c.get("/v1/ca")
            done = await c.post("/v1/ca/finish", {"force": True}, status=200)
            assert done["state"] == "single"
            with trio.fail_after(30):
                await link.wait_closed()
        finished = [e for e in await c.events() if e["kind"] == "ca.finished"]
        assert finished[0]["data"]["dropped"] == ["n1", "n2"]
        for member in (n1, n2):
            with pytest.raises(PeerRejected):
                async with member.connected():
                    pass
        token = (await c.post("/v1/join-tokens", status=201))["token"]
        back = await join(tmp_path / "n1-again", Token.parse(token), c.ready.link, "n1")
        assert back.node == n1.identity.node  # itself again, with what it holds
        taken = (await c.post("/v1/join-tokens", status=201))["token"]
        with pytest.raises(IdentityError, match="joined already"):
            await join(tmp_path / "n1-third", Token.parse(taken), c.ready.link, "n1")


async def test_join_tokens_of_before_between_and_after(tmp_path: Path) -> None:
    async with running(tmp_path) as c:

        async def token() -> str:
            return str((await c.post("/v1/join-tokens", {"ttl_s": 600}, status=201))["token"])

        before, before2 = await token(), await token()
        await c.post("/v1/ca/rotate", status=200)
        between, between2 = await token(), await token()
        old, new = await Member.join(c, "old", before), await Member.join(c, "new", between)
        assert old.issuer == new.issuer == between.rpartition(".")[2]
        assert len(old.trusted) == len(new.trusted) == 2
        for member in (old, new):
            async with member.connected():
                await until(c, **{member.identity.name: True})
        await c.post("/v1/ca/finish", status=200)
        with pytest.raises(IdentityError, match="rotated since the token was made: ask for a new token"):
            await Member.join(c, "late", before2)
        await Member.join(c, "between2", between2)
        await Member.join(c, "after", await token())
        # One that skips its own check is told as clearly.
        error = await refused(c.ready.link, before2)
        assert error.code == "forbidden"
        assert "before the CA was rotated" in error.message


async def test_an_impostors_second_root_is_not_trusted(tmp_path: Path) -> None:
    """The first connection of a joiner is not verified: it may name more roots than the pinned one."""
    async with running(tmp_path / "a") as c, running(tmp_path / "b") as impostor:
        text = (await c.post("/v1/join-tokens", status=201))["token"]
        bundle = (await impostor.get("/v1/ca"))["pem"] + (await c.get("/v1/ca"))["pem"]

        async def lie(link: Link, request: m.CaFetch) -> m.CaFetched:
            return m.CaFetched(ca_pem=bundle)

        folder = tmp_path / "b" / "coordinator" / "ca"
        tls = TlsFiles(folder / "coordinator.pem", folder / "coordinator.key", folder / "ca.pem")
        handlers = Handlers()
        handlers.on_request(m.CaFetch, lie)
        (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
        address = f"127.0.0.1:{listener.socket.getsockname()[1]}"
        async with trio.open_nursery() as nursery:

            async def serve() -> None:
                await serve_links(listener, tls=tls, identity=LocalIdentity("c"), handlers=handlers, anonymous=True)

            nursery.start_soon(serve)
            with pytest.raises(IdentityError, match="cannot join"):
                await join(tmp_path / "n1", Token.parse(text), address, "n1")
            nursery.cancel_scope.cancel()
        assert not (tmp_path / "n1").exists()


async def test_a_foreign_certificate_opens_nothing_in_an_overlap(tmp_path: Path) -> None:
    async with running(tmp_path / "a") as c, running(tmp_path / "b") as d:
        n1, foreign = await Member.join(c, "n1"), await Member.join(d, "n1")
        await c.post("/v1/ca/rotate", status=200)
        await d.post("/v1/ca/rotate", status=200)
        async with foreign.connected():
            await until(d, n1=True)
        foreign.identity.tls.ca.write_bytes(n1.identity.tls.ca.read_bytes())
        with pytest.raises(LinkError):
            await ask_for_the_ca(c.ready.link, foreign.identity.tls)


async def test_a_coordinator_that_was_killed_goes_on(tmp_path: Path) -> None:
    """As after a kill between the CA's files and the store: the step is in the files alone."""
    async with running(tmp_path) as c:
        n1 = await Member.join(c, "n1")
        async with n1.connected():
            await until(c, n1=True)
    folder = tmp_path / "coordinator" / "ca"
    cluster = n1.identity.cluster
    kept = cafiles.load(folder, cluster, time.time())
    cafiles.begin(folder, kept, cluster, time.time())
    async with running(tmp_path) as c:
        n1 = Member(Identity(n1.identity.folder, n1.identity.node, "n1", cluster, c.ready.link))
        assert (await c.get("/v1/ca"))["state"] == "overlap"
        async with n1.connected():
            await until(c, n1=True)
        assert await kinds(c) == ["ca.overlap", "ca.follows"]
    cafiles.finish(folder, cafiles.load(folder, cluster, time.time()))
    async with running(tmp_path) as c:
        n1 = Member(Identity(n1.identity.folder, n1.identity.node, "n1", cluster, c.ready.link))
        assert (await c.get("/v1/ca"))["state"] == "single"
        async with n1.connected():
            await until(c, n1=True)
        assert await kinds(c) == ["ca.overlap", "ca.follows", "ca.finished"]
    async with running(tmp_path) as c:
        assert len(await kinds(c)) == 3  # once per step


async def test_the_api_serves_each_new_certificate_without_a_restart(tmp_path: Path) -> None:
    async with coordinator(config(tmp_path, api=("0.0.0.0", 0))) as ready:
        access = json.loads((tmp_path / "cli.json").read_text())
        assert access["api"].startswith("https://")
        current = tmp_path / "coordinator" / "ca" / "ca.pem"
        assert access["ca"] == str(current)
        copy = tmp_path / "copy.pem"  # what a person on another machine has
        copy.write_bytes(current.read_bytes())
        headers = {"Authorization": f"Bearer {ready.token}"}

        async def ask(ca: Path, method: str = "GET", path: str = "/v1/ca") -> Any:
            context = ssl.create_default_context(cafile=str(ca))
            async with httpx.AsyncClient(verify=context, headers=headers, trust_env=False) as http:
                answer = await http.request(method, ready.api + path)
                assert answer.status_code == 200, answer.text
                return answer.json()

        async def served() -> x509.Certificate:
            address = ready.api.removeprefix("https://")
            host, port = address.rsplit(":", 1)
            pem = await trio.to_thread.run_sync(ssl.get_server_certificate, (host, int(port)))
            return x509.load_pem_x509_certificate(pem.encode())

        first = await served()
        await ask(copy)
        await ask(current, "POST", "/v1/ca/rotate")
        second = await served()
        assert second != first
        assert (await ask(copy))["state"] == "overlap"  # through the cross certificate
        only_new = tmp_path / "new.pem"
        only_new.write_bytes(cafiles.pem(x509.load_pem_x509_certificates(current.read_bytes())[0]))
        await ask(only_new)
        await ask(current, "POST", "/v1/ca/finish")
        assert await served() != second
        await ask(current)  # cli.json's own file follows
        await ask(only_new)
        with pytest.raises(httpx.ConnectError):
            await ask(copy)


@pytest.mark.parametrize(("age_days", "state"), [(CA_DAYS - 366, "single"), (CA_DAYS - 364, "overlap")])
async def test_it_begins_by_itself_a_year_before_the_ca_expires(tmp_path: Path, age_days: int, state: str) -> None:
    assert rollover.ROTATE_BEFORE_S == 365 * DAY
    folder = tmp_path / "coordinator" / "ca"
    async with running(tmp_path) as c:
        cluster = (await c.get("/v1/info"))["cluster"]
    for name in ("ca.key", "ca.pem", "coordinator.pem", "coordinator.key"):
        (folder / name).unlink()
    cafiles.load(folder, cluster, time.time() - age_days * DAY)
    async with running(tmp_path) as c:
        assert (await c.get("/v1/ca"))["state"] == state
        audit = [a for a in (await c.get("/v1/audit"))["entries"] if "rotate" in a["action"]]
        assert len(audit) == (1 if state == "overlap" else 0)


async def test_an_overlap_ends_by_itself_with_the_old_ca(tmp_path: Path) -> None:
    """And a CA that has expired while the coordinator was off is replaced; nodes of it must join again."""
    folder = tmp_path / "coordinator" / "ca"
    async with running(tmp_path) as c:
        cluster = (await c.get("/v1/info"))["cluster"]
        await Member.join(c, "n1")
    for name in ("ca.key", "ca.pem", "coordinator.pem", "coordinator.key"):
        (folder / name).unlink()
    expired = cafiles.load(folder, cluster, time.time() - (CA_DAYS + 1) * DAY)
    async with running(tmp_path) as c:
        found = await c.get("/v1/ca")
        assert found["state"] == "single"
        assert found["fingerprint"] != expired.signing.fingerprint
        assert found["expires"] > time.time() + (CA_DAYS - 1) * DAY
        await Member.join(c, "n1")


async def test_only_admins_change_the_ca(tmp_path: Path) -> None:
    async with running(tmp_path) as c:
        for role, status in (("viewer", 403), ("operator", 403), ("admin", 200)):
            made = await c.post("/v1/tokens", {"name": role, "role": role}, status=201)
            headers = {"Authorization": f"Bearer {made['token']}"}
            assert (await c.http.get("/v1/ca", headers=headers)).status_code == 200
            for step in ("rotate", "finish"):
                assert (await c.http.post(f"/v1/ca/{step}", headers=headers)).status_code == status
        entries = (await c.get("/v1/audit"))["entries"]
        assert [(e["who"], e["action"], e["outcome"]) for e in entries if "/v1/ca" in e["action"]] == [
            (role, f"POST /v1/ca/{step}", str(status))
            for role, status in (("viewer", 403), ("operator", 403), ("admin", 200))
            for step in ("rotate", "finish")
        ]
