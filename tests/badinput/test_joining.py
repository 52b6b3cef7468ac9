"""Who may come in: tokens that are used, expired, foreign or no tokens at all, and certificates of another CA."""

from __future__ import annotations

import json
import re
import shutil
import ssl
from pathlib import Path

import pytest
import trio

from protocol.errors import LinkError
from protocol.messages import CaFetch
from protocol.tls import TlsFiles
from protocol.transport import Handlers, LocalIdentity, connect_tls, open_link
from tests.badinput.here import Shell, still_works
from tests.faults.cluster import Cluster, running
from tests.faults.processes import Daemon
from tests.unit.pki import Pki


async def join_fails(shell: Shell, name: str, join: str, says: list[str]) -> None:
    """A node that tries to join ends with 1 and says why; it has no identity then, and its folder serves a next try."""
    state = shell.home / f"state-{name}"
    code, out, err = await shell.run(
        *("--name", name, "--state", str(state), "--listen", "127.0.0.1:0", "--join", join), module="node"
    )
    last = err.splitlines()[-1]
    assert (code, out) == (1, ""), err
    assert "Traceback" not in err
    assert last.startswith("wherry node: ")
    assert all(word in last for word in says), err
    assert not (state / "identity" / "identity.json").exists()


async def test_tokens(tmp_path: Path) -> None:
    async with running(tmp_path / "c", ["n1"]) as cluster:
        shell = Shell(tmp_path / "c")
        secret = re.compile(r"[a-z2-7]{8}\.[a-z2-7]{16,}\.")

        made = json.loads(await shell.good("token", "create", "--json"))["join"]
        await cluster_join(cluster, shell, "n2", made)
        used = made
        await join_fails(shell, "n3", used, ["token", "used"])

        short = json.loads(await shell.good("token", "create", "--ttl", "1s", "--json"))["join"]
        await trio.sleep(1.1)  # the coordinator's own wall clock is what counts
        await join_fails(shell, "n3", short, ["token", "expired"])

        # The first half of a good token with another secret; a token of another cluster, at this one.
        good = json.loads(await shell.good("token", "create", "--json"))["join"]
        token, _, address = good.rpartition("@")
        ident, hidden, print_ = token.split(".")
        await join_fails(shell, "n3", f"{ident}.{hidden[::-1]}.{print_}@{address}", ["token"])
        await join_fails(shell, "n3", f"{ident}.{hidden}.{print_[::-1]}@{address}", [address, "another cluster"])
        await join_fails(shell, "n1", good, ["name", "n1"])  # taken, and the token is not spent by it

        for wrong in ("hello", f"{token}", f"a.b@{address}", f"{token}@nowhere", "@127.0.0.1:1"):
            err = await shell.misused("--name", "x", "--join", wrong, module="node", says=["join"])
            assert not secret.search(err), "a secret is in the message"

        await cluster_join(cluster, shell, "n3", good)
        nodes = json.loads(await shell.good("nodes", "--json"))
        assert sorted(node["name"] for node in nodes) == ["n1", "n2", "n3"]
        await shell.misused("token", "create", "--ttl", "long", says=["--ttl", "long"])


async def cluster_join(cluster: Cluster, shell: Shell, name: str, join: str) -> None:
    """A node that joins, serves, and is stopped."""
    state = str(shell.home / f"state-{name}")
    arguments = ["node", "--name", name, "--state", state, "--listen", "127.0.0.1:0", "--join", join]
    node = Daemon(arguments, shell.home / f"{name}.log", cluster.environment)
    await node.start()
    assert node.ready["registered"] is True
    await node.stop()


async def refused(address: str, tls: TlsFiles | ssl.SSLContext, expect: int | str | None) -> str:
    """Dial with this certificate; the reason for which no link came up."""
    with trio.fail_after(10):
        try:
            stream = await connect_tls(address, tls=tls, expect=expect)  # type: ignore[arg-type]
            async with open_link(stream, identity=LocalIdentity("x"), handlers=Handlers(), client=True) as link:
                await link.call(CaFetch(), timeout=5)
        except LinkError as error:
            return str(error)
    raise AssertionError("a link came up")


async def test_certificate_of_another_ca(tmp_path: Path) -> None:
    async with running(tmp_path / "c", ["n1"]) as cluster:
        shell = Shell(tmp_path / "c")
        link = str(cluster.coordinator.ready["link"])
        agent = str(cluster.nodes["n1"].ready["link"])
        cluster_id = (await cluster.api.get("/v1/info")).json()["cluster"]
        foreign = Pki(tmp_path / "foreign", cluster_id)
        ours = tmp_path / "c" / "coordinator" / "ca" / "ca.pem"
        ours = ours if ours.exists() else tmp_path / "c" / "n1" / "identity" / "ca.pem"

        for uri in (f"wherry://{cluster_id}/node/1", f"wherry://{cluster_id}/coordinator"):
            certificate = foreign.issue("impostor", uri)
            trusting = TlsFiles(certificate.certificate, certificate.key, ours)  # it knows our CA, we do not know its
            for address, expect in ((link, "coordinator"), (agent, 1)):
                await refused(address, trusting, expect)

        # And the reverse: an agent whose coordinator suddenly has another CA does not talk to it.
        certificate = foreign.issue("n1", f"wherry://{cluster_id}/node/1")
        assert "certificate" in await refused(link, certificate, "coordinator")

        # The agent itself with the identity of another cluster: it serves its guests, says why, and is in no list.
        state = tmp_path / "c" / "stranger"
        shutil.copytree(tmp_path / "c" / "n1" / "identity", state / "identity")
        about = json.loads((state / "identity" / "identity.json").read_text())
        (state / "identity" / "identity.json").write_text(json.dumps({**about, "node": 7, "name": "stranger"}))
        stranger = foreign.issue("stranger", f"wherry://{cluster_id}/node/7")
        pem = stranger.key.read_bytes() + stranger.certificate.read_bytes()
        (state / "identity" / "node.pem").write_bytes(pem)
        arguments = ["node", "--name", "stranger", "--state", str(state), "--listen", "127.0.0.1:0"]
        daemon = Daemon(arguments, tmp_path / "stranger.log", cluster.environment)
        try:
            await daemon.start()
            assert daemon.ready["registered"] is False
        finally:
            await daemon.stop()
        assert "unknown ca" in (tmp_path / "stranger.log").read_text()
        assert [n["name"] for n in json.loads(await shell.good("nodes", "--json"))] == ["n1"]
        await still_works(cluster, shell)


@pytest.mark.parametrize("spoilt", ["identity.json", "node.pem", "ca.pem"])
async def test_damaged_identity(tmp_path: Path, spoilt: str) -> None:
    shell = Shell(tmp_path)
    pki = Pki(tmp_path / "pki", "c1")
    files = pki.issue("n1", "wherry://c1/node/1")
    folder = tmp_path / "n1" / "identity"
    folder.mkdir(parents=True)
    about = {"node": 1, "name": "n1", "cluster": "c1", "coordinator": "127.0.0.1:1"}
    (folder / "identity.json").write_text(json.dumps(about))
    (folder / "node.pem").write_bytes(files.key.read_bytes() + files.certificate.read_bytes())
    (folder / "ca.pem").write_bytes(files.ca.read_bytes())
    (folder / spoilt).write_text("{nonsense")
    code, out, err = await shell.run(
        *("--name", "n1", "--state", str(tmp_path / "n1"), "--listen", "127.0.0.1:0"), module="node"
    )
    assert (code, out) == (1, "")
    assert "Traceback" not in err
    assert str(folder) in err.splitlines()[-1], err
