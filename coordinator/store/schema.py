"""The tables, and the steps from each older version to the present one.

``PRAGMA user_version`` holds the version. A newer one is refused: an old coordinator must not write what it does not
understand. Each migration step runs in one transaction with its version bump.
"""

from __future__ import annotations

import sqlite3

from coordinator.errors import StateVersionError

_V1 = """
CREATE TABLE meta (key TEXT PRIMARY KEY, value TEXT NOT NULL) STRICT, WITHOUT ROWID;

-- AUTOINCREMENT: the id of a removed node is never given again, so that an old certificate names nobody else.
CREATE TABLE nodes (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    name TEXT NOT NULL UNIQUE,
    link TEXT NOT NULL DEFAULT '',
    tunnel TEXT NOT NULL DEFAULT '',
    cordoned INTEGER NOT NULL DEFAULT 0,
    cpus INTEGER NOT NULL DEFAULT 0,
    memory INTEGER NOT NULL DEFAULT 0,
    memory_free INTEGER NOT NULL DEFAULT 0,
    load REAL NOT NULL DEFAULT 0,
    disk_free INTEGER NOT NULL DEFAULT 0,
    last_seen REAL NOT NULL DEFAULT 0,
    software TEXT NOT NULL DEFAULT '',
    joined REAL NOT NULL
) STRICT;

CREATE TABLE networks (
    name TEXT PRIMARY KEY,
    vni INTEGER NOT NULL UNIQUE CHECK (vni BETWEEN 1 AND 16777215),
    subnet TEXT NOT NULL,
    mtu INTEGER NOT NULL,
    created REAL NOT NULL
) STRICT, WITHOUT ROWID;

CREATE TABLE images (
    name TEXT PRIMARY KEY,
    digest TEXT NOT NULL,
    manifest TEXT NOT NULL,
    created REAL NOT NULL
) STRICT, WITHOUT ROWID;

CREATE TABLE guests (
    id TEXT PRIMARY KEY,
    name TEXT NOT NULL UNIQUE,
    state TEXT NOT NULL,
    desired TEXT NOT NULL CHECK (desired IN ('running', 'stopped', 'removed')),
    reason TEXT NOT NULL DEFAULT '',
    node INTEGER REFERENCES nodes (id),
    generation INTEGER NOT NULL CHECK (generation >= 1),
    memory INTEGER NOT NULL,
    cpus INTEGER NOT NULL,
    spec TEXT NOT NULL,
    created REAL NOT NULL,
    started REAL NOT NULL DEFAULT 0,
    booted REAL NOT NULL DEFAULT 0,
    pid INTEGER NOT NULL DEFAULT 0
) STRICT, WITHOUT ROWID;

-- Fencing rests on this: nothing lowers a generation.
CREATE TRIGGER guests_generation_never_falls BEFORE UPDATE OF generation ON guests
WHEN NEW.generation < OLD.generation
BEGIN SELECT RAISE (ABORT, 'a generation never falls'); END;

CREATE TABLE nics (
    guest TEXT NOT NULL REFERENCES guests (id) ON DELETE CASCADE,
    position INTEGER NOT NULL,
    network TEXT NOT NULL REFERENCES networks (name),
    mac TEXT NOT NULL UNIQUE,
    address TEXT NOT NULL,
    PRIMARY KEY (guest, position),
    UNIQUE (network, address)
) STRICT, WITHOUT ROWID;

CREATE TABLE operations (
    id TEXT PRIMARY KEY,
    kind TEXT NOT NULL,
    subject TEXT NOT NULL,
    target TEXT NOT NULL,
    state TEXT NOT NULL CHECK (state IN ('pending', 'running', 'succeeded', 'failed', 'cancelled')),
    args TEXT NOT NULL,
    result TEXT,
    error TEXT,
    created REAL NOT NULL,
    updated REAL NOT NULL
) STRICT, WITHOUT ROWID;
-- One operation at a time on one thing.
CREATE UNIQUE INDEX operations_one_at_a_time ON operations (target) WHERE state IN ('pending', 'running');
CREATE INDEX operations_by_time ON operations (created);
CREATE TRIGGER operations_end_once BEFORE UPDATE OF state ON operations
WHEN OLD.state NOT IN ('pending', 'running')
BEGIN SELECT RAISE (ABORT, 'an operation ends once'); END;

CREATE TABLE migrations (
    id TEXT PRIMARY KEY,
    guest TEXT NOT NULL,
    generation INTEGER NOT NULL,
    source INTEGER NOT NULL,
    target INTEGER NOT NULL,
    decision TEXT NOT NULL DEFAULT 'pending' CHECK (decision IN ('pending', 'committed', 'aborted')),
    reason TEXT NOT NULL DEFAULT '',
    operation TEXT NOT NULL,
    created REAL NOT NULL,
    decided REAL NOT NULL DEFAULT 0
) STRICT, WITHOUT ROWID;
CREATE UNIQUE INDEX migrations_one_at_a_time ON migrations (guest) WHERE decision = 'pending';
CREATE TRIGGER migrations_decided_once BEFORE UPDATE OF decision ON migrations
WHEN OLD.decision <> 'pending'
BEGIN SELECT RAISE (ABORT, 'a migration is decided once'); END;

CREATE TABLE events (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    time REAL NOT NULL,
    kind TEXT NOT NULL,
    message TEXT NOT NULL,
    guest TEXT,
    node TEXT,
    generation INTEGER,
    data TEXT NOT NULL
) STRICT;

CREATE TABLE audit (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    time REAL NOT NULL,
    who TEXT NOT NULL,
    role TEXT NOT NULL,
    source TEXT NOT NULL,
    action TEXT NOT NULL,
    outcome TEXT NOT NULL
) STRICT;
CREATE TRIGGER audit_no_update BEFORE UPDATE ON audit BEGIN SELECT RAISE (ABORT, 'the audit log is append-only'); END;
CREATE TRIGGER audit_no_delete BEFORE DELETE ON audit BEGIN SELECT RAISE (ABORT, 'the audit log is append-only'); END;

CREATE TABLE api_tokens (
    id TEXT PRIMARY KEY,
    hash BLOB NOT NULL,
    name TEXT NOT NULL,
    role TEXT NOT NULL CHECK (role IN ('viewer', 'operator', 'admin')),
    created REAL NOT NULL
) STRICT, WITHOUT ROWID;

CREATE TABLE join_tokens (
    id TEXT PRIMARY KEY,
    hash BLOB NOT NULL,
    created REAL NOT NULL,
    expires REAL NOT NULL,
    used REAL,
    node INTEGER,
    csr_key BLOB
) STRICT, WITHOUT ROWID;
"""

# What each node said of its certificate and of the roots that it trusts (fingerprints; roots separated by spaces).
# dropped: the node was left behind when a rotation of the CA was finished, and must join again.
_V2 = """
CREATE TABLE trust (
    node INTEGER PRIMARY KEY REFERENCES nodes (id) ON DELETE CASCADE,
    issuer TEXT NOT NULL DEFAULT '',
    roots TEXT NOT NULL DEFAULT '',
    dropped INTEGER NOT NULL DEFAULT 0
) STRICT;
"""

# Ports of nodes that lead to something of their hosts: TAPs and other programs' sockets.
_V3 = """
CREATE TABLE attachments (
    id TEXT PRIMARY KEY,
    node INTEGER NOT NULL REFERENCES nodes (id) ON DELETE CASCADE,
    network TEXT NOT NULL REFERENCES networks (name),
    kind TEXT NOT NULL CHECK (kind IN ('tap', 'unix', 'udp')),
    local TEXT NOT NULL,
    remote TEXT NOT NULL,
    created REAL NOT NULL,
    UNIQUE (node, kind, local)
) STRICT, WITHOUT ROWID;
"""

# When a token of people ends; NULL: when it is revoked.
_V4 = "ALTER TABLE api_tokens ADD COLUMN expires REAL;"

# What networks and attached ports let through; a guest NIC's settings are in its guest's spec. Settings are JSON as
# protocol.messages.PortSettings. storm: flooded frames a second of each port.
_V5 = """
ALTER TABLE networks ADD COLUMN stations INTEGER NOT NULL DEFAULT 0;
ALTER TABLE networks ADD COLUMN storm INTEGER NOT NULL DEFAULT 10000;
ALTER TABLE attachments ADD COLUMN settings TEXT NOT NULL DEFAULT '{}';
"""

# Whether switches answer address requests for stations that they know.
_V6 = "ALTER TABLE networks ADD COLUMN proxy INTEGER NOT NULL DEFAULT 1;"

# Bits a second from a node to a peer; peer NULL: to each that has no row of its own. 0: no bound.
_V7 = """
CREATE TABLE tunnel_rates (
    node INTEGER NOT NULL REFERENCES nodes (id) ON DELETE CASCADE,
    peer INTEGER REFERENCES nodes (id) ON DELETE CASCADE,
    rate INTEGER NOT NULL CHECK (rate >= 0)
) STRICT;
CREATE UNIQUE INDEX tunnel_rates_once ON tunnel_rates (node, ifnull(peer, 0));
"""

# Whether guests may use no other address than the one that they were given.
_V8 = "ALTER TABLE networks ADD COLUMN bound INTEGER NOT NULL DEFAULT 0;"
# How migrations went, as JSON (coordinator/reports.py).
_V9 = """
CREATE TABLE reports (
    migration TEXT PRIMARY KEY,
    guest TEXT NOT NULL,
    created REAL NOT NULL,
    report TEXT NOT NULL
) STRICT, WITHOUT ROWID;
CREATE INDEX reports_of_guest ON reports (guest, created);
"""

STEPS: tuple[str, ...] = (_V1, _V2, _V3, _V4, _V5, _V6, _V7, _V8, _V9)
VERSION = len(STEPS)


def migrate(conn: sqlite3.Connection, *, path: str, steps: tuple[str, ...] = STEPS) -> None:
    """Bring an open database to the present version; raises :class:`StateVersionError` on a newer one."""
    (found,) = conn.execute("PRAGMA user_version").fetchone()
    if found > len(steps):
        raise StateVersionError(
            f"{path}: the database has version {found}, this coordinator knows up to {len(steps)}; upgrade wherry"
        )
    for number in range(found, len(steps)):
        # executescript() would commit on its own in between, so the transaction is part of the script.
        script = f"BEGIN IMMEDIATE;\n{steps[number]}\nPRAGMA user_version = {number + 1};\nCOMMIT;"
        try:
            conn.executescript(script)
        except sqlite3.Error:
            if conn.in_transaction:
                conn.execute("ROLLBACK")
            raise
