"""Migration and drain as the coordinator sees them: the store decides, both ends are told, nothing is left open."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import msgspec
import pytest
import trio
from trio_websocket import open_websocket_url

from protocol import messages as m
from protocol.errors import LinkError, Refused, RemoteError
from tests.unit.control import MIB, Control, running
from tests.unit.fake_agent import FakeAgent


@asynccontextmanager
async def cluster(folder: Path, **changes: Any) -> AsyncIterator[tuple[Control, FakeAgent, FakeAgent]]:
    """Two nodes, guest ``web`` on n1."""
    async with running(folder, **changes) as c:
        await c.image()
        n1, n2 = await c.node("n1"), await c.node("n2")
        async with n1.connected(), n2.connected():
            await c.done(await c.run("web", on="n1"))
            yield c, n1, n2


async def started(source: FakeAgent) -> m.MigrationStart:
    await source.until(lambda: bool(source.asked_for(m.MigrationStart)))
    found: m.MigrationStart = source.asked_for(m.MigrationStart)[-1]
    return found


def incoming(target: FakeAgent, start: m.MigrationStart) -> None:
    """The target holds a copy of the present generation now."""
    target.guests[start.guest] = m.GuestStatus(
        guest=start.guest, generation=start.generation, state="migrating", migration=start.migration
    )


async def result(source: FakeAgent, start: m.MigrationStart, outcome: Any = "committed", **values: Any) -> None:
    assert source.link is not None
    await source.link.notify(m.MigrationResult(migration=start.migration, outcome=outcome, **values))


async def test_a_commit_moves_the_guest_and_tells_both(tmp_path: Path) -> None:
    async with cluster(tmp_path) as (c, n1, n2):
        operation = await c.post("/v1/guests/web/migrate", {"to": "n2", "max_blackout_ms": 12.5, "verify": True})
        start = await started(n1)
        assert (start.generation, start.target.node, start.params.max_blackout_ms) == (1, n2.node, 12.5)
        assert start.params.verify
        assert (await c.guest("web"))["state"] == "migrating"
        incoming(n2, start)
        await n2.report()
        await n1.report()
        assert (await n2.decide(start.migration, start.guest, 1, "query")).decision == "pending"

        decision = await n1.decide(start.migration, start.guest, 1, "commit")
        assert decision == m.Decision(decision="committed", generation=2, owner=n2.node)
        await n1.until(lambda: bool(n1.asked_for(m.Settle)))
        await n2.until(lambda: bool(n2.asked_for(m.Settle)))
        await result(n1, start, rounds=3, blackout_ms=7.5)
        done = await c.done(operation)
        assert (done["result"]["rounds"], done["result"]["blackout_ms"]) == (3, 7.5)
        (move,) = (await c.get("/v1/guests/web/stats"))["moves"]
        assert (move["source"], move["target"], move["generation"], move["blackout_ms"]) == ("n1", "n2", 2, 7.5)
        assert (done["result"]["source"], done["result"]["target"], done["result"]["generation"]) == ("n1", "n2", 2)
        guest = await c.guest("web")
        assert (guest["node"], guest["generation"], guest["state"]) == ("n2", 2, "running")
        assert not n2.asked_for(m.GuestForget), "the incoming copy was left alone"
        # The word is final, whoever asks for what.
        again = await n2.decide(start.migration, start.guest, 1, "abort")
        assert again == decision


async def test_a_guest_that_comes_to_a_narrow_path_is_named_and_fits_when_it_starts_again(tmp_path: Path) -> None:
    async with cluster(tmp_path) as (c, n1, n2):
        await c.post("/v1/ports", {"network": "lan", "kind": "tap", "local": "tap0", "on": "n1"}, status=201)
        assert n2.link is not None
        narrow = m.NetEvent(kind="path_mtu", time=0.0, node=n1.node, value=1300)
        await n2.link.notify(m.NetEvents(events=[narrow]))
        operation = await c.post("/v1/guests/web/migrate", {"to": "n2"})
        start = await started(n1)
        incoming(n2, start)
        assert not [e for e in await c.events() if e["kind"] == "net.mtu"], "nobody of lan is on n2"
        await n1.decide(start.migration, start.guest, 1, "commit")
        await result(n1, start)
        await c.done(operation)
        (event,) = [e for e in await c.events() if e["kind"] == "net.mtu"]
        assert (event["guest"], event["data"]["mtu"], event["data"]["network"]) == ("web", 1300, "lan")
        assert (await c.guest("web"))["nics"][0]["mtu"] == 1400
        await c.done(await c.post("/v1/guests/web/stop", {"force": True}))
        await c.done(await c.post("/v1/guests/web/start", {}))
        assert (await c.guest("web"))["nics"][0]["mtu"] == 1300


async def test_the_first_abort_wins_over_a_later_commit(tmp_path: Path) -> None:
    async with cluster(tmp_path) as (c, n1, n2):
        operation = await c.post("/v1/guests/web/migrate", {"to": "n2"})
        start = await started(n1)
        assert (await n2.decide(start.migration, start.guest, 1, "abort", "disk full")).decision == "aborted"
        late = await n1.decide(start.migration, start.guest, 1, "commit")
        assert late == m.Decision(decision="aborted", generation=1, owner=n1.node)
        ended = await c.ended(operation)
        assert ended["state"] == "failed"
        assert "disk full" in ended["error"]["message"]
        guest = await c.guest("web")
        assert (guest["node"], guest["generation"], guest["state"]) == ("n1", 1, "running")


async def test_commit_and_abort_at_once_agree(tmp_path: Path) -> None:
    async with cluster(tmp_path) as (c, n1, n2):
        await c.post("/v1/guests/web/migrate", {"to": "n2"})
        start = await started(n1)
        answers: list[m.Decision] = []

        async def ask(agent: FakeAgent, what: str) -> None:
            answers.append(await agent.decide(start.migration, start.guest, 1, what))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(ask, n1, "commit")
            nursery.start_soon(ask, n2, "abort")
        assert answers[0] == answers[1]
        assert answers[0].decision in ("committed", "aborted")


async def test_only_the_ends_decide_and_only_the_source_commits(tmp_path: Path) -> None:
    async with cluster(tmp_path) as (c, n1, n2):
        n3 = await c.node("n3")
        async with n3.connected():
            await c.post("/v1/guests/web/migrate", {"to": "n2"})
            start = await started(n1)
            for agent, ask in ((n3, "abort"), (n3, "query"), (n2, "commit")):
                with pytest.raises(RemoteError) as info:
                    await agent.decide(start.migration, start.guest, 1, ask)
                assert info.value.code == "forbidden"
            with pytest.raises(RemoteError) as info:
                await n1.decide(start.migration, "another", 1, "commit")
            assert info.value.code == "invalid"
            assert (await n1.decide(start.migration, start.guest, 1, "query")).decision == "pending"
            assert (await n1.decide("m-unknown", start.guest, 1, "commit")).decision == "aborted"


async def test_a_source_that_refuses_ends_it(tmp_path: Path) -> None:
    async with cluster(tmp_path) as (c, n1, _n2):

        async def no(request: Any) -> Any:
            raise Refused("full", "the target has no room")

        n1.hooks[m.MigrationStart] = no
        ended = await c.ended(await c.post("/v1/guests/web/migrate", {"to": "n2"}))
        assert ended["state"] == "failed"
        assert "no room" in ended["error"]["message"]
        assert (await c.guest("web"))["state"] == "running"


async def test_a_cancel_ends_it(tmp_path: Path) -> None:
    async with cluster(tmp_path) as (c, n1, _n2):

        async def obey(request: m.MigrationCancel) -> None:
            start = n1.asked_for(m.MigrationStart)[-1]
            await n1.decide(request.migration, start.guest, 1, "abort", "cancelled")

        n1.hooks[m.MigrationCancel] = obey
        operation = await c.post("/v1/guests/web/migrate", {"to": "n2"})
        await started(n1)
        await c.post(f"/v1/operations/{operation['id']}")
        assert (await c.ended(operation))["state"] == "cancelled"
        assert (await c.guest("web"))["node"] == "n1"


async def test_a_lost_source_aborts_and_the_guest_is_unknown(tmp_path: Path) -> None:
    async with running(tmp_path, link_grace_s=0.1) as c:
        await c.image()
        n1, n2 = await c.node("n1"), await c.node("n2")
        async with n2.connected():
            async with n1.connected():
                await c.done(await c.run("web", on="n1"))
                operation = await c.post("/v1/guests/web/migrate", {"to": "n2"})
                start = await started(n1)
                incoming(n2, start)
            ended = await c.ended(operation)
            assert "lost" in ended["error"]["message"]
            guest = await c.guest("web")
            assert (guest["node"], guest["state"]) == ("n1", "unknown")
            await n2.until(lambda: bool(n2.asked_for(m.Settle)))
            assert n2.guests == {}
            async with n1.connected():
                assert (await n1.decide(start.migration, start.guest, 1, "commit")).decision == "aborted"


async def test_a_decision_survives_the_coordinator_and_is_told_again(tmp_path: Path) -> None:
    async with running(tmp_path) as c:
        await c.image()
        n1, n2 = await c.node("n1"), await c.node("n2")
        async with n1.connected(), n2.connected():
            await c.done(await c.run("web", on="n1"))
            operation = await c.post("/v1/guests/web/migrate", {"to": "n2"})
            start = await started(n1)
            incoming(n2, start)

            async def gone(request: Any) -> Any:
                raise Refused("unavailable", "busy")

            n1.hooks[m.Settle] = n2.hooks[m.Settle] = gone
            assert (await n1.decide(start.migration, start.guest, 1, "commit")).decision == "committed"
    n1.guests[start.guest] = msgspec.structs.replace(n1.guests[start.guest], migration=start.migration, state="paused")
    async with running(tmp_path) as c:
        for agent in (n1, n2):
            agent.ready, agent.hooks = c.ready, {}
            agent.asked.clear()
        async with n1.connected(), n2.connected():
            await n1.until(lambda: start.guest not in n1.guests)
            await n2.until(lambda: n2.guests[start.guest].generation == 2)
            assert not n1.asked_for(m.GuestForget)
            assert not n2.asked_for(m.GuestForget)
            done = await c.done(operation)
            assert done["result"]["outcome"] == "committed"
            assert (await c.guest("web"))["node"] == "n2"


async def test_an_undecided_migration_goes_on_after_a_restart(tmp_path: Path) -> None:
    async with running(tmp_path) as c:
        await c.image()
        n1, n2 = await c.node("n1"), await c.node("n2")
        async with n1.connected(), n2.connected():
            await c.done(await c.run("web", on="n1"))
            operation = await c.post("/v1/guests/web/migrate", {"to": "n2"})
            first = await started(n1)
    async with running(tmp_path) as c:
        for agent in (n1, n2):
            agent.ready = c.ready
        n1.asked.clear()
        async with n1.connected(), n2.connected():
            again = await started(n1)
            assert again == first, "the source knows by the id that it is the same"
            await n1.decide(first.migration, first.guest, 1, "commit")
            await result(n1, first)
            await c.done(operation)


@pytest.mark.parametrize(
    ("to", "status", "code", "words"),
    [
        ("n1", 409, "conflict", "on n1 already"),
        ("n9", 404, "not_found", "known: n1, n2"),
        ("small", 503, "full", "needs 128 MiB"),
        ("away", 503, "full", "not alive"),
    ],
)
async def test_a_bad_target_is_refused_and_nothing_starts(
    tmp_path: Path, to: str, status: int, code: str, words: str
) -> None:
    async with cluster(tmp_path) as (c, n1, _n2):
        if to == "small":
            small = await c.node("small", memory=64 * MIB)
            async with small.connected():
                error = (await c.post("/v1/guests/web/migrate", {"to": to}, status=status))["error"]
        else:
            if to == "away":
                await c.node("away")
            error = (await c.post("/v1/guests/web/migrate", {"to": to}, status=status))["error"]
        assert (error["code"], error["field"]) == (code, "to")
        assert words in error["message"]
        assert (await c.guest("web"))["state"] == "running"
        assert not n1.asked_for(m.MigrationStart)


def moves_at_once(source: FakeAgent, target: FakeAgent) -> None:
    """The pair carries out a migration as soon as it is asked for."""

    async def start(request: m.MigrationStart) -> None:
        incoming(target, request)

        async def commit() -> None:
            await source.decide(request.migration, request.guest, request.generation, "commit")
            await result(source, request)

        assert source.link is not None
        source.link._nursery.start_soon(commit)  # type: ignore[union-attr]

    source.hooks[m.MigrationStart] = start


async def test_a_drain_cordons_and_moves_everything_that_runs(tmp_path: Path) -> None:
    async with cluster(tmp_path) as (c, n1, n2):
        await c.done(await c.run("db", on="n1"))
        await c.done(await c.run("off", on="n1"))
        await c.done(await c.post("/v1/guests/off/stop"))
        moves_at_once(n1, n2)
        done = await c.done(await c.post("/v1/nodes/n1/drain"))
        assert sorted(done["result"]["moved"]) == ["db", "web"]
        where = {g["name"]: g["node"] for g in (await c.get("/v1/guests"))["guests"]}
        assert where == {"db": "n2", "web": "n2", "off": "n1"}
        assert (await c.get("/v1/nodes/n1"))["state"] == "cordoned"
        refused = await c.run("new", on="n1", status=503)
        assert "cordoned" in refused["error"]["message"]
        assert (await c.post("/v1/nodes/n1/uncordon", status=200))["state"] == "alive"
        await c.done(await c.run("new", on="n1"))


async def test_a_drain_names_what_it_cannot_move(tmp_path: Path) -> None:
    async with running(tmp_path) as c:
        await c.image()
        n1 = await c.node("n1")
        async with n1.connected():
            await c.done(await c.run("web"))
            ended = await c.ended(await c.post("/v1/nodes/n1/drain"))
            assert ended["state"] == "failed"
            assert "web: no node fits" in ended["error"]["message"]
            assert (await c.guest("web"))["state"] == "running"


async def test_an_incoming_guest_holds_memory_at_its_target(tmp_path: Path) -> None:
    async with running(tmp_path) as c:
        await c.image()
        n1, n2 = await c.node("n1"), await c.node("n2", memory=256 * MIB)
        async with n1.connected(), n2.connected():
            await c.done(await c.run("web", on="n1", memory=192 * MIB))
            await c.post("/v1/guests/web/migrate", {"to": "n2"})
            refused = await c.run("db", on="n2", status=503)
            assert "64 MiB of 256 MiB are free" in refused["error"]["message"]


async def test_a_console_follows_the_guest(tmp_path: Path) -> None:
    async with cluster(tmp_path) as (c, n1, n2):
        moves_at_once(n1, n2)
        url = c.ready.api.replace("http", "ws") + "/v1/guests/web/console"
        headers = [(b"Authorization", f"Bearer {c.ready.token}".encode())]
        async with open_websocket_url(url, extra_headers=headers) as socket:
            assert await socket.get_message() == b"kept:"
            await c.done(await c.post("/v1/guests/web/migrate", {"to": "n2"}))
            with trio.fail_after(5):
                assert await socket.get_message() == b"kept:", "the new owner's console"
            assert len(n2.consoles) == 1
            await socket.send_message(b"typed")
            with trio.fail_after(5):
                assert await socket.get_message() == b"typed"


async def test_the_relay_carries_bytes_between_two_nodes(tmp_path: Path) -> None:
    async with cluster(tmp_path) as (_c, n1, n2):
        assert n1.link is not None
        async with await n1.link.open_stream(m.RelayOpen(node=n2.node)) as stream:
            await stream.send_all(b"hello" * 50000)
            await stream.send_eof()
            got = b""
            while data := await stream.receive_some():
                got += data
        assert got == b"hello" * 50000
        with pytest.raises(LinkError):
            async with await n1.link.open_stream(m.RelayOpen(node=99)) as stream:
                await stream.receive_some()


async def test_nodes_hear_of_each_other(tmp_path: Path) -> None:
    async with cluster(tmp_path) as (c, n1, n2):
        await n1.until(lambda: n1.directory is not None and len(n1.directory.nodes) == 2)
        assert n1.directory is not None
        by_name = {n.name: n for n in n1.directory.nodes}
        assert by_name["n2"].link == f"127.0.0.1:{7000 + n2.node}", "0.0.0.0 became the address that we see"
        before = n1.directory.version
        await c.post("/v1/networks", {"name": "blue"}, status=201)
        await n1.until(lambda: n1.directory is not None and len(n1.directory.networks) == 2)
        assert n1.directory.version > before
        await c.delete("/v1/networks/blue")


async def test_a_blob_is_served_from_an_offset(tmp_path: Path) -> None:
    async with cluster(tmp_path) as (c, n1, _n2):
        sha256 = (await c.get("/v1/images/tiny"))["files"][0]["sha256"]
        assert n1.link is not None
        async with await n1.link.open_stream(m.BlobOpen(sha256=sha256, offset=7)) as stream:
            got = b""
            while data := await stream.receive_some():
                got += data
        assert got == b"of tiny"
        with pytest.raises(LinkError):
            await (await n1.link.open_stream(m.BlobOpen(sha256="0" * 64))).receive_some()


async def test_a_wish_that_nobody_can_fulfil_is_refused_with_its_field(tmp_path: Path) -> None:
    async with cluster(tmp_path) as (c, n1, _):
        for wish in ({"streams": 16}, {"protect": True}):
            answer = await c.post("/v1/guests/web/migrate", {"to": "n2", **wish}, status=422)
            assert answer["error"]["code"] == "unsupported"
            assert answer["error"]["field"] == next(iter(wish))
        assert not n1.asked_for(m.MigrationStart)
        assert (await c.guest("web"))["state"] == "running"


async def test_a_dry_run_asks_the_source_and_moves_nothing(tmp_path: Path) -> None:
    async with cluster(tmp_path) as (c, n1, n2):
        predicted = m.Predicted(rounds=3, bytes=1000, total_ms=50.0, blackout_ms=2.0, converges=True)
        told = m.Estimate(
            mode="precopy",
            predicted=predicted,
            resident_pages=7,
            zero_pages=1,
            dirty_rate=10.0,
            dirty_pages=3,
            bytes_per_s=1e8,
            rate_from="probe",
        )

        async def estimate(request: m.MigrationEstimate) -> m.Estimate:
            assert (request.target.node, request.generation, request.params.max_blackout_ms) == (n2.node, 1, 5.0)
            return told

        n1.hooks[m.MigrationEstimate] = estimate
        wish = {"to": "n2", "dry_run": True, "max_blackout_ms": 5.0}
        answer = await c.post("/v1/guests/web/migrate", wish, status=200)
        assert answer["estimate"] == {**msgspec.to_builtins(told), "target": "n2"}
        assert not [o for o in (await c.get("/v1/operations"))["operations"] if o["kind"] == "migrate"]
        assert not n1.asked_for(m.MigrationStart)


async def test_a_batch_moves_the_cheapest_first_and_so_many_at_a_time(tmp_path: Path) -> None:
    async with cluster(tmp_path) as (c, n1, n2):
        await c.done(await c.run("db", on="n1", memory=96 * MIB))
        await c.done(await c.run("small", on="n1", memory=64 * MIB))
        under_way, most, order = 0, 0, []
        names = {g["id"]: g["name"] for g in (await c.get("/v1/guests"))["guests"]}
        gate = trio.Event()

        async def start(request: m.MigrationStart) -> None:
            nonlocal under_way, most
            under_way += 1
            most = max(most, under_way)
            order.append(names[request.guest])
            incoming(n2, request)
            n1.link._nursery.start_soon(commit, request)  # type: ignore[union-attr]

        async def commit(request: m.MigrationStart) -> None:
            nonlocal under_way
            await gate.wait()
            under_way -= 1
            await n1.decide(request.migration, request.guest, request.generation, "commit")
            await result(n1, request)

        n1.hooks[m.MigrationStart] = start
        operation = await c.post("/v1/nodes/n1/migrate", {"to": "n2", "parallel": 2})
        await n1.until(lambda: len(n1.asked_for(m.MigrationStart)) == 2)
        now = await c.get(f"/v1/operations/{operation['id']}")
        assert (now["kind"], now["progress"]["left"]) == ("move-all", 3)
        gate.set()
        done = await c.done(operation)
        assert sorted(done["result"]["moved"]) == ["db", "small", "web"]
        assert most == 2
        assert order[2] == "web"  # of 128 MiB; the other two began together
        assert (await c.get("/v1/nodes/n1"))["state"] == "alive"
        assert {g["node"] for g in (await c.get("/v1/guests"))["guests"]} == {"n2"}


async def test_a_cancelled_batch_stops_what_is_under_way(tmp_path: Path) -> None:
    async with cluster(tmp_path) as (c, n1, _):
        await c.done(await c.run("db", on="n1"))

        async def cancel(request: m.MigrationCancel) -> None:
            start = next(s for s in n1.asked_for(m.MigrationStart) if s.migration == request.migration)
            await n1.decide(start.migration, start.guest, start.generation, "abort", "cancelled")

        n1.hooks[m.MigrationCancel] = cancel
        operation = await c.post("/v1/nodes/n1/drain", {"parallel": 1})
        await started(n1)
        await c.post(f"/v1/operations/{operation['id']}")
        ended = await c.ended(operation)
        assert ended["state"] == "cancelled"
        assert "moved: none; the node stays cordoned" in ended["error"]["message"]
        assert len(n1.asked_for(m.MigrationStart)) == 1
        assert {g["state"] for g in (await c.get("/v1/guests"))["guests"]} == {"running"}


async def test_a_stopped_guest_is_moved_cold_and_starts_there(tmp_path: Path) -> None:
    async with cluster(tmp_path) as (c, n1, n2):
        address = (await c.guest("web"))["nics"][0]["address"]
        refused = await c.post("/v1/guests/web/migrate", {"to": "n2", "mode": "cold"}, status=409)
        assert refused["error"]["field"] == "mode"
        await c.done(await c.post("/v1/guests/web/stop"))
        done = await c.done(await c.post("/v1/guests/web/migrate", {"to": "n2", "mode": "cold"}))
        assert (done["kind"], done["result"]["mode"], done["result"]["source"]) == ("move", "cold", "n1")
        guest = await c.guest("web")
        assert (guest["node"], guest["generation"], guest["state"]) == ("n2", 2, "stopped")
        assert [f.generation for f in n1.asked_for(m.GuestForget)] == [1]
        await c.done(await c.post("/v1/guests/web/start"))
        guest = await c.guest("web")
        assert (guest["node"], guest["state"], guest["nics"][0]["address"]) == ("n2", "running", address)
        assert len(n2.asked_for(m.GuestRun)) == 1
