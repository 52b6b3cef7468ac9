"""Run, start, stop, remove: against fake nodes over real links, through the real API."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import pytest

from protocol import messages as m
from protocol.errors import Refused
from tests.unit.control import MIB, Silent, running


async def test_a_guest_runs_stops_starts_and_goes(tmp_path: Path) -> None:
    async with running(tmp_path) as c:
        await c.image()
        n1 = await c.node("n1")
        async with n1.connected():
            done = await c.done(await c.run("web"))
            assert done["result"]["node"] == "n1"
            guest = await c.guest("web")
            assert (guest["state"], guest["desired"], guest["generation"]) == ("running", "running", 1)
            assert guest["nics"][0]["address"] == "10.0.0.2/24"
            spec = n1.specs[guest["id"]]
            assert spec.memory == 128 * MIB
            assert spec.nics[0].mac == guest["nics"][0]["mac"]
            assert spec.image.files[0].role == "kernel"

            await c.done(await c.post("/v1/guests/web/stop", {"force": True}))
            guest = await c.guest("web")
            assert (guest["state"], guest["desired"]) == ("stopped", "stopped")
            assert n1.asked_for(m.GuestStop)[0].force

            await c.done(await c.post("/v1/guests/web/start"))
            guest = await c.guest("web")
            assert (guest["state"], guest["generation"]) == ("running", 2)
            assert guest["nics"][0]["address"] == "10.0.0.2/24", "addresses stay with the guest"

            await c.done(await c.delete("/v1/guests/web", status=202))
            assert (await c.http.get("/v1/guests/web")).status_code == 404
            assert n1.guests == {}
            kinds = [e["kind"] for e in await c.events()]
            for kind in ("guest.placed", "guest.running", "guest.stopped", "guest.removed"):
                assert kind in kinds


async def test_the_names_are_unique_and_addresses_are_not_shared(tmp_path: Path) -> None:
    async with running(tmp_path) as c:
        await c.image()
        n1 = await c.node("n1")
        async with n1.connected():
            await c.done(await c.run("web"))
            error = (await c.run("web", status=409))["error"]
            assert (error["code"], error["field"]) == ("exists", "name")
            await c.done(await c.run("db"))
            addresses = {g["nics"][0]["address"] for g in (await c.get("/v1/guests"))["guests"]}
            assert addresses == {"10.0.0.2/24", "10.0.0.3/24"}


async def test_a_guest_keeps_the_cpu_model_that_it_was_made_with(tmp_path: Path) -> None:
    async with running(tmp_path) as c:
        await c.image()
        n1 = await c.node("n1")
        async with n1.connected():
            await c.done(await c.run("web", cpu="rv64gc"))
            await c.done(await c.run("db"))
            models = {g["name"]: g["cpu"] for g in (await c.get("/v1/guests"))["guests"]}
            assert models == {"web": "rv64gc", "db": "rva22"}


async def test_a_guest_keeps_its_seed_where_it_decides_the_run(tmp_path: Path) -> None:
    async with running(tmp_path) as c:
        await c.image()
        n1 = await c.node("n1")
        async with n1.connected():
            await c.done(await c.run("web", icount=True, seed=7))
            await c.done(await c.run("drawn", icount=True))
            await c.done(await c.run("db"))
            found = {g["name"]: g for g in (await c.get("/v1/guests"))["guests"]}
            assert (found["web"]["icount"], found["web"]["seed"]) == (True, 7)
            assert found["drawn"]["icount"] is True
            assert 0 < found["drawn"]["seed"] < 2**53
            assert (found["db"]["icount"], found["db"]["seed"]) == (False, None)  # no one's business


@pytest.mark.parametrize(
    ("changes", "status", "code", "field", "words"),
    [
        ({"image": "nope"}, 404, "not_found", "image", "known: tiny"),
        ({"networks": ["wan"]}, 404, "not_found", "networks", "known: lan"),
        ({"on": "n9"}, 404, "not_found", "on", "known: n1"),
        ({"memory": 32 * MIB}, 422, "invalid", "memory", "at least 64 MiB"),
        ({"memory": 128 * MIB + 4096}, 422, "invalid", "memory", "multiple"),
        ({"memory": 2048 * MIB}, 503, "full", "memory", "n1: memory: needs 2048 MiB, the node has 1024 MiB"),
        ({"cpus": 17}, 503, "full", "memory", "n1: cpus"),
        ({"seed": 7}, 422, "invalid", "seed", "seed goes with icount"),
        ({"icount": True, "seed": 0}, 422, "invalid", "seed", ""),
        ({"icount": True, "seed": 2**53}, 422, "invalid", "seed", ""),
        ({"name": "Web"}, 422, "invalid", "name", "Web"),
        ({"memroy": 1}, 422, "invalid", "memroy", ""),
        ({"networks": ["lan"] * 9}, 422, "invalid", "networks", ""),
    ],
)
async def test_a_bad_wish_names_what_is_wrong_and_keeps_nothing(
    tmp_path: Path, changes: dict[str, Any], status: int, code: str, field: str, words: str
) -> None:
    async with running(tmp_path) as c:
        await c.image()
        n1 = await c.node("n1")
        async with n1.connected():
            error = (
                await c.run("web", **{"status": status, **changes})
                if "name" not in changes
                else await c.post("/v1/guests", {"image": "tiny", **changes}, status=status)
            )["error"]
            assert (error["code"], error["field"]) == (code, field)
            assert words in error["message"]
            assert (await c.get("/v1/guests"))["guests"] == []
            assert (await c.get("/v1/operations"))["operations"] == []


async def test_without_nodes_the_error_says_how_to_get_one(tmp_path: Path) -> None:
    async with running(tmp_path) as c:
        await c.image()
        assert "wherry node" in (await c.run("web", status=503))["error"]["message"]


async def test_explain_keeps_nothing(tmp_path: Path) -> None:
    async with running(tmp_path) as c:
        await c.image()
        n1, n2 = await c.node("n1"), await c.node("n2", memory=64 * MIB)
        async with n1.connected(), n2.connected():
            placement = (await c.run("web", explain=True, status=200))["placement"]
            assert placement["chosen"] == "n1"
            assert [n["fits"] for n in placement["nodes"]] == [True, False]
            assert (await c.get("/v1/guests"))["guests"] == []
            await c.done(await c.run("web"))


async def test_a_nodes_no_ends_the_operation_and_keeps_the_reason(tmp_path: Path) -> None:
    async with running(tmp_path) as c:
        await c.image()
        n1 = await c.node("n1")

        async def no(request: Any) -> Any:
            raise Refused("full", "disk full", field="image")

        n1.hooks[m.GuestRun] = no
        async with n1.connected():
            ended = await c.ended(await c.run("web"))
            assert (ended["state"], ended["error"]["code"], ended["error"]["field"]) == ("failed", "full", "image")
            guest = await c.guest("web")
            assert (guest["state"], guest["reason"]) == ("crashed", "disk full")
            del n1.hooks[m.GuestRun]
            await c.done(await c.post("/v1/guests/web/start"))
            assert (await c.guest("web"))["state"] == "running"


async def test_a_lost_answer_is_asked_for_again_over_the_next_session(tmp_path: Path) -> None:
    async with running(tmp_path) as c:
        await c.image()
        n1 = await c.node("n1")
        silent = n1.hooks[m.GuestRun] = Silent()
        async with n1.connected():
            operation = await c.run("web")
            await silent.asked_for()
        n1.hooks.clear()
        async with n1.connected():
            await c.done(operation)
            requests = n1.asked_for(m.GuestRun)
            assert len(requests) == 2
            assert requests[0] == requests[1], "the same guest of the same generation"


async def test_an_operation_survives_the_coordinator(tmp_path: Path) -> None:
    async with running(tmp_path) as c:
        await c.image()
        n1 = await c.node("n1")
        silent = n1.hooks[m.GuestRun] = Silent()
        async with n1.connected():
            operation = await c.run("web")
            await silent.asked_for()
            busy = await c.http.post("/v1/guests/web/start")
            assert busy.status_code == 409
            assert operation["id"] in busy.json()["error"]["message"]
    async with running(tmp_path) as c:
        n1.ready, n1.hooks = c.ready, {}
        assert (await c.get(f"/v1/operations/{operation['id']}"))["state"] == "running"
        async with n1.connected():
            await c.done(operation)
            assert (await c.guest("web"))["state"] == "running"


async def test_removing_a_guest_that_does_not_come_up_gives_up_starting_it(tmp_path: Path) -> None:
    async with running(tmp_path) as c:
        await c.image()
        n1 = await c.node("n1")
        silent = n1.hooks[m.GuestRun] = Silent()
        async with n1.connected():
            run = await c.run("web")
            await silent.asked_for()
            await c.done(await c.delete("/v1/guests/web", status=202))
            assert (await c.ended(run))["state"] == "cancelled"
            assert (await c.get("/v1/guests"))["guests"] == []


async def test_exec_and_log_pass_bytes(tmp_path: Path) -> None:
    async with running(tmp_path) as c:
        await c.image()
        n1 = await c.node("n1")
        async with n1.connected():
            await c.done(await c.run("web"))
            answer = await c.post("/v1/guests/web/exec", {"argv": ["echo", "x"], "stdin_b64": "/w=="}, status=200)
            assert answer == {"exit_code": 3, "stdout_b64": "ZWNobyB4/w==", "stderr_b64": "ZQ==", "truncated": False}
            assert (await c.http.get("/v1/guests/web/log")).content == b"boot\xff\n"
            bad = await c.http.post("/v1/guests/web/exec", json={"argv": ["a"], "stdin_b64": "%"})
            assert bad.status_code == 422


async def test_a_lost_nodes_guests_are_unknown_until_it_is_back(tmp_path: Path) -> None:
    async with running(tmp_path, link_grace_s=0.1) as c:
        await c.image()
        n1, n2 = await c.node("n1"), await c.node("n2")
        async with n2.connected():
            async with n1.connected():
                await c.done(await c.run("web", on="n1"))
            await c.until_guest("web", state="unknown")
            assert (await c.guest("web"))["node"] == "n1", "it is not started elsewhere: it may well run"
            assert (await c.get("/v1/nodes/n1"))["state"] == "lost"
            for call in ("start", "migrate"):
                assert (await c.http.post(f"/v1/guests/web/{call}")).status_code in (409, 503)
            refused = await c.delete("/v1/guests/web", status=503)
            assert "force" in refused["error"]["message"]
            async with n1.connected():
                guest = await c.guest("web")
                assert (guest["state"], guest["generation"]) == ("running", 1)


async def test_a_copy_that_is_not_the_owners_must_go(tmp_path: Path) -> None:
    async with running(tmp_path, link_grace_s=0.1) as c:
        await c.image()
        n1 = await c.node("n1")
        async with n1.connected():
            await c.done(await c.run("web"))
            ident = (await c.guest("web"))["id"]
        await c.until_guest("web", state="unknown")
        await c.done(await c.delete("/v1/guests/web?force=1", status=202))
        async with n1.connected():
            assert n1.registered is not None
            assert n1.registered.forget == [(ident, 1)]


async def test_a_guest_that_its_owner_lost_has_crashed(tmp_path: Path) -> None:
    async with running(tmp_path) as c:
        await c.image()
        n1 = await c.node("n1")
        async with n1.connected():
            await c.done(await c.run("web"))
            await c.done(await c.run("db"))
            guests = dict(n1.guests)
            n1.guests = {}
            await n1.report()  # might have been on its way while the guests were started
            await n1.report()
            await c.until_guest("web", state="crashed")
            n1.guests = guests
            n1.guests = {
                k: msgspec.structs.replace(s, state="stopped", reason="powered off") for k, s in guests.items()
            }
            await n1.report()
            assert (await c.until_guest("web", state="stopped"))["reason"] == "powered off"


async def test_a_node_that_comes_back_without_a_guest_has_lost_it(tmp_path: Path) -> None:
    """Registering tells the whole truth at once: no second report is waited for."""
    async with running(tmp_path) as c:
        await c.image()
        n1 = await c.node("n1")
        async with n1.connected():
            await c.done(await c.run("web"))
        n1.guests = {}
        async with n1.connected():
            assert (await c.guest("web"))["state"] == "crashed"


async def test_booted_is_told_once(tmp_path: Path) -> None:
    async with running(tmp_path) as c:
        await c.image()
        n1 = await c.node("n1")
        async with n1.connected():
            await c.done(await c.run("web"))
            ident = (await c.guest("web"))["id"]
            assert (await c.guest("web"))["booted_s"] is None
            n1.guests[ident] = msgspec.structs.replace(n1.guests[ident], booted=1002.5)
            await n1.report()
            assert (await c.until_guest("web", booted_s=2.5))["state"] == "running"


async def test_a_start_whose_end_nobody_knows_is_not_repeated_elsewhere(tmp_path: Path) -> None:
    """The node is lost in the middle of a start: its copy may run, so no other node may get the guest."""
    async with running(tmp_path, link_grace_s=0.1) as c:
        await c.image()
        n1, n2 = await c.node("n1"), await c.node("n2")
        silent = n1.hooks[m.GuestRun] = Silent()
        async with n2.connected():
            async with n1.connected():
                operation = await c.run("web", on="n1")
                await silent.asked_for()
            ended = await c.ended(operation)
            assert (ended["state"], ended["error"]["code"]) == ("failed", "unavailable")
            assert (await c.guest("web"))["state"] == "unknown"
            assert (await c.http.post("/v1/guests/web/start")).status_code == 409
            ident = (await c.guest("web"))["id"]
            n1.guests[ident] = m.GuestStatus(guest=ident, generation=1, state="running")
            n1.hooks.clear()
            async with n1.connected():  # it ran after all, and nobody wants it any more
                await n1.until(lambda: bool(n1.asked_for(m.GuestStop)))
                await n1.report()
                await c.until_guest("web", state="stopped")
                await c.done(await c.post("/v1/guests/web/start"))
