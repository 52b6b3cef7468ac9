"""Two hosts between which UDP does not come through: frames go over TCP, from the start, in the middle of a transfer,
and until UDP is back."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trio

from tests.cluster.hosts import Host, Hosts, why_not
from wherry import context
from wherry.client import Client
from wherry.demo.daemons import Daemons

pytestmark = [
    pytest.mark.root,
    pytest.mark.slow,
    pytest.mark.skipif(why_not() is not None, reason=str(why_not())),
]
NODES = ["n1", "n2"]
TAPS = {"n1": "10.77.0.1", "n2": "10.77.0.2"}
PORT = 7001
# Numbered blocks that the receiver checks; it says how many it has each time it is asked (a byte on its input).
SEND = """
import socket, struct, sys
s = socket.create_connection((sys.argv[1], int(sys.argv[2])), 60)
s.settimeout(60)
n = 0
while True:
    s.sendall(struct.pack("=Q", n) * 1024)
    n += 1
"""
RECEIVE = """
import socket, struct, sys, threading
l = socket.create_server((sys.argv[1], int(sys.argv[2])))
print("ready", flush=True)
s, _ = l.accept()
count = 0
def take():
    global count
    while True:
        data = b""
        while len(data) < 8192:
            more = s.recv(8192 - len(data))
            if not more:
                return
            data += more
        assert data == struct.pack("=Q", count) * 1024, count
        count += 1
threading.Thread(target=take, daemon=True).start()
for _ in sys.stdin:
    print(count, flush=True)
"""


@asynccontextmanager
async def two_nodes(folder: Path, hosts: Hosts) -> AsyncIterator[Client]:
    """With a TAP each in one network."""
    daemons = Daemons(folder)
    try:
        coordinator = await daemons.coordinator(hosts.outside)
        async with Client(context.load(str(coordinator.ready["api"]), "", daemons.access_file)) as client:
            for name in NODES:
                token = await client.create_join_token(600)
                await daemons.node(name, token.join, hosts[name].address, hosts[name].enter)
                await client.attach(network="lan", kind="tap", local="t-lan", on=name)
                address = [*hosts[name].enter, "ip", "address", "add", f"{TAPS[name]}/24", "dev", "t-lan"]
                await trio.run_process(address)
            yield client
    finally:
        with trio.CancelScope(shield=True, deadline=trio.current_time() + 30):
            await daemons.stop()


async def path(client: Client, wanted: str) -> None:
    """Until both nodes see the other by it."""
    with trio.fail_after(60):
        while True:
            tunnels = (await client.net()).tunnels
            if len(tunnels) == 2 and all(t["path"] == wanted and t["via"] == t["peer"] for t in tunnels):
                return
            await trio.sleep(0.2)


async def ping(host: Host, address: str) -> None:
    words = [*host.enter, "ping", "-c", "3", "-i", "0.1", "-W", "2", address]
    done = await trio.run_process(words, capture_stdout=True, check=False)
    assert b" 3 received" in done.stdout, done.stdout


class Transfer:
    """From one TAP to the other, as fast as it goes."""

    def __init__(self, hosts: Hosts) -> None:
        code = [sys.executable, "-c"]
        arguments = [TAPS["n2"], str(PORT)]
        pipe = subprocess.PIPE
        self._to = subprocess.Popen([*hosts["n2"].enter, *code, RECEIVE, *arguments], stdin=pipe, stdout=pipe)
        assert self._to.stdout is not None
        assert self._to.stdout.readline() == b"ready\n"
        self._from = subprocess.Popen([*hosts["n1"].enter, *code, SEND, *arguments])

    def count(self) -> int:
        assert self._to.stdin is not None
        assert self._to.stdout is not None
        self._to.stdin.write(b"\n")
        self._to.stdin.flush()
        return int(self._to.stdout.readline())

    async def more(self, blocks: int = 500) -> None:
        """Until so many more have come."""
        wanted = self.count() + blocks
        with trio.fail_after(60):
            while self.count() < wanted:  # noqa: ASYNC110 - the other process is asked
                await trio.sleep(0.1)

    def end(self) -> None:
        for process in (self._from, self._to):
            process.kill()
            process.wait()


async def test_udp_blocked_from_the_start_and_open_later(tmp_path: Path) -> None:
    with Hosts(NODES, "10.213.11") as hosts:
        hosts.block_udp("n1")  # one direction is enough
        async with two_nodes(tmp_path, hosts) as client:
            await path(client, "tcp")
            await ping(hosts["n1"], TAPS["n2"])
            hosts.unblock_udp("n1")
            await path(client, "udp")
            await ping(hosts["n1"], TAPS["n2"])


async def test_udp_blocked_in_the_middle_of_a_transfer_and_back(tmp_path: Path) -> None:
    with Hosts(NODES, "10.213.12") as hosts:
        async with two_nodes(tmp_path, hosts) as client:
            await path(client, "udp")
            transfer = Transfer(hosts)
            try:
                await transfer.more()
                for name in NODES:
                    hosts.block_udp(name)
                await path(client, "tcp")
                await transfer.more()
                await ping(hosts["n2"], TAPS["n1"])
                for name in NODES:
                    hosts.unblock_udp(name)
                await path(client, "udp")
                await transfer.more()
            finally:
                transfer.end()
            for node in (await client.net()).nodes:
                assert node["counters"]["drop_auth"] == node["counters"]["drop_invalid"] == 0
