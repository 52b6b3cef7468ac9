"""The store: transactions, versions, the triggers that fencing rests on, and the end of migrations."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from pathlib import Path

import pytest
import trio

from coordinator.errors import (
    Conflict,
    Exists,
    Fenced,
    Forbidden,
    Full,
    NotFound,
    StateVersionError,
    Unauthorized,
    Unavailable,
)
from coordinator.model import Event, Guest, Image
from coordinator.store import guests, images, journal, meta, migrations, networks, nodes, schema, tokens
from coordinator.store.db import Db, Tx
from protocol.messages import GuestSpec, GuestStatus, Nic, PortSettings

MIB = 1 << 20
MANIFEST = {
    "format": 1,
    "name": "tiny",
    "kind": "linux",
    "arch": "riscv64",
    "files": [{"role": "kernel", "sha256": "a" * 64, "size": 1}],
}


class Clock:
    now = 1_000_000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def db(tmp_path: Path, clock: Clock) -> Iterator[Db]:
    opened = Db.open(tmp_path / "x.db", clock=clock)
    yield opened
    opened.close()


def spec(nics: list[Nic] | None = None) -> GuestSpec:
    image = Image("tiny", images.digest_of(MANIFEST), MANIFEST).ref()
    return GuestSpec(guest="g-web", name="web", image=image, memory=64 * MIB, cpus=1, nics=nics or [])


def two_nodes(tx: Tx) -> tuple[int, int]:
    return nodes.add(tx, "n1").id, nodes.add(tx, "n2").id


def running(tx: Tx) -> tuple[Guest, int, int]:
    """A guest on the first of two nodes."""
    one, two = two_nodes(tx)
    guest = guests.create(tx, spec(), node=one)
    return guests.set_state(tx, guest, "running"), one, two


# ---- transactions ------------------------------------------------------------------------------------------------


async def test_a_failed_transaction_leaves_nothing_and_tells_nothing(db: Db) -> None:
    told: list[Event] = []
    db.on_events = told.extend

    def half(tx: Tx) -> None:
        nodes.add(tx, "n1")
        raise Conflict("no")

    with pytest.raises(Conflict):
        await db.run(half)
    assert await db.run(nodes.all_nodes) == []
    assert told == []
    await db.run(nodes.add, "n1")
    assert [e.kind for e in told] == ["node.joined"]


async def test_transactions_run_one_at_a_time(db: Db) -> None:
    async with trio.open_nursery() as nursery:
        for _ in range(50):
            nursery.start_soon(db.run, meta.bump, "n")
    assert await db.run(meta.get, "n") == "50"


async def test_a_closed_store_refuses(db: Db) -> None:
    db.close()
    with pytest.raises(Unavailable):
        await db.run(nodes.all_nodes)


async def test_what_was_committed_is_there_after_reopening(tmp_path: Path) -> None:
    first = Db.open(tmp_path / "y.db")
    await first.run(nodes.add, "n1")
    # Not closed: as after a kill. WAL holds the commit.
    second = Db.open(tmp_path / "y.db")
    assert [n.name for n in await second.run(nodes.all_nodes)] == ["n1"]
    first.close()
    second.close()


async def test_a_full_disk_is_one_clear_error_and_changes_nothing(tmp_path: Path) -> None:
    db = Db.open(tmp_path / "z.db")
    db._conn.execute("PRAGMA max_page_count = 60")  # type: ignore[union-attr]

    def much(tx: Tx) -> None:
        for n in range(1000):
            meta.put(tx, f"k{n}", "x" * 4000)

    with pytest.raises(Full, match="disk is full"):
        await db.run(much)
    assert await db.run(meta.get, "k0") is None
    await db.run(meta.put, "k0", "small still fits")
    db.close()


def test_a_newer_database_is_refused_and_untouched(tmp_path: Path) -> None:
    path = tmp_path / "new.db"
    conn = sqlite3.connect(path)
    conn.execute(f"PRAGMA user_version = {schema.VERSION + 1}")
    conn.close()
    before = path.read_bytes()
    with pytest.raises(StateVersionError, match="upgrade"):
        Db.open(path)
    assert path.read_bytes()[100:] == before[100:]


def test_a_migration_step_that_fails_leaves_the_old_version(tmp_path: Path) -> None:
    Db.open(tmp_path / "m.db").close()
    conn = sqlite3.connect(tmp_path / "m.db", isolation_level=None)
    bad = (*schema.STEPS, "CREATE TABLE half (a); SELECT nonsense;")
    with pytest.raises(sqlite3.Error):
        schema.migrate(conn, path="m", steps=bad)
    assert conn.execute("PRAGMA user_version").fetchone() == (schema.VERSION,)
    assert conn.execute("SELECT count(*) FROM sqlite_master WHERE name = 'half'").fetchone() == (0,)
    good = (*schema.STEPS, "CREATE TABLE whole (a INTEGER) STRICT;")
    schema.migrate(conn, path="m", steps=good)
    assert conn.execute("PRAGMA user_version").fetchone() == (schema.VERSION + 1,)


def test_a_damaged_database_is_a_start_error(tmp_path: Path) -> None:
    (tmp_path / "bad.db").write_bytes(b"not a database at all" * 100)
    with pytest.raises(Exception, match=r"bad\.db"):
        Db.open(tmp_path / "bad.db")


# ---- what the schema itself refuses ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "sql",
    [
        "UPDATE guests SET generation = generation - 1",
        "UPDATE audit SET who = 'nobody'",
        "DELETE FROM audit",
        "UPDATE migrations SET decision = 'aborted'",
        "UPDATE operations SET state = 'running'",
    ],
)
def test_history_cannot_be_rewritten(db: Db, sql: str) -> None:
    def prepare(tx: Tx) -> None:
        guest, _, two = running(tx)
        journal.audit(tx, who="me", role="admin", source="x", action="a", outcome="200")
        operation = journal.begin(tx, "migrate", subject="web", target=guest.id, args={})
        migrations.begin(tx, "m-1", guest, target=two, operation=operation.id)
        migrations.decide(tx, "m-1", ask="commit", asker=guest.node)
        journal.finish(tx, operation.id, "succeeded", result={})

    db.run_sync(prepare)
    with pytest.raises(sqlite3.IntegrityError):
        db.run_sync(lambda tx: tx.execute(sql))


# ---- nouns ----------------------------------------------------------------------------------------------------------


def test_node_ids_are_never_given_twice(db: Db) -> None:
    first = db.run_sync(nodes.add, "n1")
    with pytest.raises(Exists):
        db.run_sync(nodes.add, "n1")
    db.run_sync(nodes.remove, "n1")
    assert db.run_sync(nodes.add, "n1").id > first.id


def test_a_node_with_guests_stays(db: Db) -> None:
    db.run_sync(running)
    with pytest.raises(Conflict, match="web"):
        db.run_sync(nodes.remove, "n1")


def test_names_are_unique(db: Db) -> None:
    db.run_sync(running)
    with pytest.raises(Exists):
        db.run_sync(lambda tx: guests.create(tx, spec(), node=1))


def test_a_used_network_and_image_stay(db: Db) -> None:
    def prepare(tx: Tx) -> None:
        images.put(tx, MANIFEST)
        networks.create(tx, "lan", subnet="10.0.0.0/24")
        node, _ = two_nodes(tx)
        nics = networks.allocate(tx, "g-web", [("lan", PortSettings())] * 2)
        assert [n.address for n in nics] == ["10.0.0.2/24", "10.0.0.3/24"]
        assert nics[0].mac != nics[1].mac
        guests.create(tx, spec(nics), node=node)

    db.run_sync(prepare)
    for fn, name in ((networks.remove, "lan"), (images.remove, "tiny")):
        with pytest.raises(Conflict, match="web"):
            db.run_sync(fn, name)

    def clear(tx: Tx) -> set[str]:
        guests.remove(tx, guests.by_name(tx, "web"))
        networks.remove(tx, "lan")
        return images.remove(tx, "tiny")

    assert db.run_sync(clear) == {"a" * 64}


def test_only_the_owners_present_copy_is_observed(db: Db) -> None:
    guest, _, two = db.run_sync(running)
    with pytest.raises(Fenced):
        db.run_sync(guests.observe, guest, GuestStatus(guest=guest.id, generation=2, state="stopped"))
    moved = db.run_sync(guests.move, guest, node=two, expect=1)
    assert (moved.node, moved.generation) == (two, 2)
    with pytest.raises(Fenced):
        db.run_sync(guests.move, moved, node=two, expect=1)


def test_one_operation_at_a_time(db: Db) -> None:
    first = db.run_sync(lambda tx: journal.begin(tx, "run", subject="web", target="g-1", args={}))
    with pytest.raises(Conflict, match=first.id):
        db.run_sync(lambda tx: journal.begin(tx, "stop", subject="web", target="g-1", args={}))
    db.run_sync(journal.finish, first.id, "failed", error={"code": "x"})
    db.run_sync(lambda tx: journal.begin(tx, "stop", subject="web", target="g-1", args={}))
    assert [o.kind for o in db.run_sync(journal.unfinished)] == ["stop"]


def test_events_are_a_ring(db: Db, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("coordinator.store.db.KEPT_EVENTS", 10)

    def many(tx: Tx) -> None:
        for n in range(25):
            tx.emit("x", str(n))

    db.run_sync(many)
    kept = db.run_sync(journal.events_since, 0)
    assert [e.message for e in kept] == [str(n) for n in range(15, 25)]
    assert [e.id for e in db.run_sync(journal.events_since, kept[-2].id)] == [kept[-1].id]


# ---- tokens ---------------------------------------------------------------------------------------------------------


def test_secrets_are_not_in_the_database(db: Db, tmp_path: Path) -> None:
    _, text = db.run_sync(tokens.create_api, "me", "admin")
    ident, secret = db.run_sync(tokens.create_join, 60)
    assert db.run_sync(tokens.check_api, text).name == "me"
    data = b"".join(p.read_bytes() for p in tmp_path.glob("x.db*"))
    assert ident.encode() in data
    assert text.split("_")[2].encode() not in data
    assert secret.encode() not in data


@pytest.mark.parametrize("change", ["", "wh_", "x", "wh_a_b_c", "TOKEN"])
def test_a_wrong_api_token_is_refused(db: Db, change: str) -> None:
    _, text = db.run_sync(tokens.create_api, "me", "admin")
    for bad in (change, text[:-1], text + "a", text.upper()):
        with pytest.raises(Exception, match="not valid"):
            db.run_sync(tokens.check_api, bad)


def test_a_token_of_people_ends_where_it_has_an_end(db: Db, clock: Clock) -> None:
    _, lasting = db.run_sync(tokens.create_api, "me", "admin")
    made, text = db.run_sync(tokens.create_api, "ci", "viewer", 60)
    assert db.run_sync(tokens.check_api, text) == made
    clock.now += 60
    with pytest.raises(Unauthorized, match="the token ci expired 0 s ago"):
        db.run_sync(tokens.check_api, text)
    with pytest.raises(Unauthorized, match="not valid"):  # a thief without the secret learns nothing
        db.run_sync(tokens.check_api, text[:-1])
    assert db.run_sync(tokens.check_api, lasting).role == "admin"


def test_a_join_token_is_good_once_and_for_a_while(db: Db, clock: Clock) -> None:
    ident, secret = db.run_sync(tokens.create_join, 60)

    def use(name: str, key: bytes = b"k") -> int:
        return db.run_sync(tokens.use_join, ident, secret, name=name, csr_key=key)

    with pytest.raises(Forbidden, match="not one of this cluster"):
        db.run_sync(tokens.use_join, ident, "wrong", name="n1", csr_key=b"k")
    node = use("n1")
    assert use("n1") == node, "the same joiner may ask again"
    for name, key in (("n2", b"k"), ("n1", b"other")):
        with pytest.raises(Forbidden, match="used already"):
            use(name, key)
    ident, secret = db.run_sync(tokens.create_join, 60)
    with pytest.raises(Exists):
        use("n1")
    clock.now += 60
    with pytest.raises(Forbidden, match="expired"):
        use("n3")
    states = [t["state"] for t in db.run_sync(tokens.list_join)]
    assert sorted(states) == ["expired", "used"]


# ---- the end of a migration ------------------------------------------------------------------------------------------


def migrating(tx: Tx) -> tuple[Guest, int, int]:
    guest, one, two = running(tx)
    operation = journal.begin(tx, "migrate", subject="web", target=guest.id, args={})
    migrations.begin(tx, "m-1", guest, target=two, operation=operation.id)
    return guests.set_state(tx, guest, "migrating"), one, two


@pytest.mark.parametrize("first", ["commit", "abort"])
@pytest.mark.parametrize("later", ["commit", "abort", "query"])
def test_the_first_decision_stays(db: Db, first: str, later: str) -> None:
    guest, one, two = db.run_sync(migrating)
    ask = {"ask": first, "asker": one, "guest": guest.id, "generation": 1}
    decision = db.run_sync(migrations.decide, "m-1", **ask)  # type: ignore[arg-type]
    owner = (two, 2) if first == "commit" else (one, 1)
    assert (decision.owner, decision.generation) == owner
    for asker in (one, two) if later != "commit" else (one,):
        again = db.run_sync(migrations.decide, "m-1", ask=later, asker=asker)  # type: ignore[arg-type]
        assert again == decision
    stored = db.run_sync(guests.by_id, guest.id)
    assert (stored.node, stored.generation, stored.state) == (*owner, "running")


def test_a_commit_of_another_generation_is_an_abort(db: Db) -> None:
    guest, one, _ = db.run_sync(migrating)
    decision = db.run_sync(migrations.decide, "m-1", ask="commit", asker=one, generation=7)
    assert decision.decision == "aborted"
    assert db.run_sync(guests.by_id, guest.id).generation == 1


def test_a_guest_that_changed_hands_is_not_committed(db: Db) -> None:
    guest, one, two = db.run_sync(migrating)
    db.run_sync(guests.move, guest, node=two, expect=1)
    assert db.run_sync(migrations.decide, "m-1", ask="commit", asker=one, generation=1).decision == "aborted"
    assert db.run_sync(guests.by_id, guest.id).generation == 2


def test_a_removed_guest_is_not_committed(db: Db) -> None:
    guest, one, _ = db.run_sync(migrating)
    db.run_sync(guests.remove, guest)
    assert db.run_sync(migrations.decide, "m-1", ask="commit", asker=one, generation=1).decision == "aborted"


def test_an_unknown_migration_is_aborted_if_the_guest_is_known(db: Db) -> None:
    guest, one, _ = db.run_sync(running)
    decision = db.run_sync(migrations.decide, "m-9", ask="commit", asker=one, guest=guest.id)
    assert (decision.decision, decision.owner, decision.generation) == ("aborted", one, 1)
    with pytest.raises(NotFound):
        db.run_sync(migrations.decide, "m-9", ask="query", asker=one, guest="g-none")


def test_one_migration_of_a_guest_at_a_time(db: Db) -> None:
    guest, _, two = db.run_sync(migrating)
    with pytest.raises(sqlite3.IntegrityError):
        db.run_sync(migrations.begin, "m-2", guest, target=two, operation="op")


def test_memory_is_promised_at_both_ends_of_a_migration(db: Db) -> None:
    guest, one, two = db.run_sync(migrating)
    alive = frozenset((one, two))
    used = {c.node: c.memory_used for c in db.run_sync(guests.candidates, alive)}
    assert used == {one: 64 * MIB, two: 64 * MIB}
    db.run_sync(migrations.decide, "m-1", ask="abort")
    used = {c.node: c.memory_used for c in db.run_sync(guests.candidates, alive)}
    assert used == {one: 64 * MIB, two: 0}
    stopped = db.run_sync(guests.by_id, guest.id)
    db.run_sync(guests.set_state, stopped, "stopped")
    assert {c.memory_used for c in db.run_sync(guests.candidates, alive)} == {0}
