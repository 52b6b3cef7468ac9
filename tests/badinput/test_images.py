"""Images that are none, or not what they claim: refused where they are met, and told by field, value and hash."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

from tests.badinput.here import Shell, still_works
from tests.faults.cluster import MIB, Cluster, running
from tests.guest.programs import build


def manifest(called: str, data: bytes, **changed: Any) -> dict[str, Any]:
    file = {"role": "kernel", "sha256": hashlib.sha256(data).hexdigest(), "size": len(data)}
    return {"format": 1, "name": called, "kind": "linux", "arch": "riscv64", "files": [file], "cmdline": ""} | {
        "min_memory": 0,
        "created": 0,
        "source": {},
        **changed,
    }


async def put_image(cluster: Cluster, name: str, data: bytes) -> str:
    """Past the command line's own checks. Returns the blob's hash."""
    about = manifest(name, data)
    digest = str(about["files"][0]["sha256"])
    (await cluster.api.put(f"/v1/blobs/{digest}", content=data)).raise_for_status()
    (await cluster.api.post("/v1/images", json=about)).raise_for_status()
    return digest


async def test_import_takes_no_file_that_cannot_boot(tmp_path: Path) -> None:
    shell = Shell(tmp_path / "home")
    for name, head, says in (
        ("text", b"#!/bin/sh\necho no kernel\n" * 9, "unknown format"),
        ("elf", b"\x7fELF" + bytes(200), "ELF"),
        ("packed", b"\x1f\x8b" + bytes(200), "gzip"),
        ("arm", bytes(56) + b"ARMd" + bytes(200), "arm64"),
        ("empty", b"", "0 bytes"),
    ):
        file = tmp_path / name
        file.write_bytes(head)
        await shell.fails("image", "import", "--name", name, "--kernel", str(file), says=["kernel", str(file), says])
    await shell.fails("image", "import", "--name", "d", "--disk", str(tmp_path / "text"), says=["disk", "512"])
    await shell.fails(
        "image", "import", "--name", "f", "--firmware", str(tmp_path / "elf"), says=["firmware", "64-bit"]
    )
    await shell.fails("image", "import", "--name", "t", "--tar", str(tmp_path / "text"), says=["not an exported image"])
    assert json.loads(await shell.good("image", "list", "--json")) == []
    assert not list((tmp_path / "home" / "images").rglob("*.part*"))
    await shell.good("image", "import", "--name", "good", "--kernel", str(build("hello")))


async def test_damaged_library(tmp_path: Path) -> None:
    """A file that rotted on the user's disk is found by its hash, when it is asked for and when it is sent."""
    async with running(tmp_path / "c", ["n1"]) as cluster:
        shell = Shell(tmp_path / "c")
        await shell.good("image", "import", "--name", "rot", "--kernel", str(build("hello")))
        (about,) = json.loads(await shell.good("image", "list", "--json"))
        digest = about["files"][0]["sha256"]
        blob = tmp_path / "c" / "images" / "blobs" / "sha256" / digest
        whole = blob.read_bytes()
        blob.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
        await shell.fails("image", "list", "--verify", says=["rot", "kernel", digest, "damaged"])
        await shell.fails("image", "push", "rot", says=["sha256", digest[:12]])
        assert [i["name"] for i in json.loads(await shell.good("images", "--json"))] == ["ticker"]
        blob.write_bytes(whole[:-9])
        await shell.fails("image", "push", "rot", says=["shorter", digest[:12]])
        blob.write_bytes(whole)
        assert "has it" in await shell.good("image", "push", "rot")
        await still_works(cluster, shell)


async def test_what_the_coordinator_is_sent(tmp_path: Path) -> None:
    async with running(tmp_path / "c", ["n1"]) as cluster:
        shell = Shell(tmp_path / "c")
        api = cluster.api

        # Content of another hash: refused, and not kept in any form.
        data = build("hello").read_bytes()
        digest = hashlib.sha256(data).hexdigest()
        answer = await api.put(f"/v1/blobs/{digest}", content=data + b"x")
        error = answer.json()["error"]
        assert (answer.status_code, error["field"]) == (422, "sha256")
        assert hashlib.sha256(data + b"x").hexdigest() in error["message"]
        assert digest in error["message"]
        assert (await api.head(f"/v1/blobs/{digest}")).headers["Upload-Offset"] == "0"
        answer = await api.post("/v1/images", json=manifest("early", data))
        assert (answer.status_code, answer.json()["error"]["field"]) == (409, "files")

        # A manifest that lies about size, kind or architecture.
        assert (await api.put(f"/v1/blobs/{digest}", content=data)).status_code == 201
        for changed, field in (
            ({"arch": "amd64"}, "arch"),
            ({"format": 2}, "format"),
            ({"name": "../up"}, "name"),
            ({"files": []}, "files"),
            ({"files": [{"role": "kernel", "sha256": digest, "size": len(data) + 1}]}, "files"),
            ({"kind": "windows"}, "kind"),
            ({"created": "yesterday"}, "created"),
            ({"created": -1}, "created"),
            ({"source": "me"}, "source"),
        ):
            answer = await api.post("/v1/images", json=manifest("lies", data, **changed))
            assert 400 <= answer.status_code < 500, (changed, answer.text)
            assert field in str(answer.json()["error"]["field"]), (changed, answer.text)

        # No Image, past the checks of the command line: the guest is kept with the reason, and its name comes free.
        await put_image(cluster, "junk", b"no kernel at all " * 1000)
        await shell.fails("run", "--name", "g", "--image", "junk", "--memory", "32M", says=["kernel", "Image"])
        (guest,) = json.loads(await shell.good("ps", "--json"))
        assert guest["state"] == "crashed"
        assert "kernel" in guest["reason"]
        assert not await cluster.copies(guest["id"])
        await shell.good("rm", "g")

        # Memory smaller than the kernel: by the manifest's word at once, else by the machine itself.
        wish = ("run", "--name", "g", "--image")
        (await api.post("/v1/images", json=manifest("wants", data, min_memory=64 * MIB))).raise_for_status()
        await shell.fails(*wish, "wants", "--memory", "32M", says=["memory", "32 MiB", "wants", "64 MiB"])
        await shell.fails(*wish, "ticker", "--memory", "8M", says=["memory", str(8 * MIB), str(16 * MIB)])
        await put_image(cluster, "large", build("ticker").read_bytes() + bytes(20 * MIB))
        await shell.fails(*wish, "large", "--memory", "16M", says=["memory", "kernel"])
        await shell.good("rm", "g")
        await still_works(cluster, shell, "g")


async def test_blob_damaged_on_the_coordinator(tmp_path: Path) -> None:
    async with running(tmp_path / "c", ["n1"]) as cluster:
        shell = Shell(tmp_path / "c")
        digest = await put_image(cluster, "rot", build("ticker").read_bytes() + bytes(16))
        blob = tmp_path / "c" / "coordinator" / "blobs" / "sha256" / digest
        whole = blob.read_bytes()
        for damaged, says in (
            (whole[:-1] + bytes([whole[-1] ^ 1]), "hash"),
            (whole + b"x", "more than"),
            (whole[:-1], "ended after"),
        ):
            blob.chmod(0o600)
            blob.write_bytes(damaged)
            await shell.fails(
                *("run", "--name", "g", "--image", "rot", "--memory", "32M"), says=["kernel", digest[:12], says]
            )
            assert not (tmp_path / "c" / "n1" / "blobs" / "sha256" / digest).exists()
            await shell.good("rm", "g")
        blob.write_bytes(whole)
        assert "running" in await shell.good("run", "--name", "g", "--image", "rot", "--memory", "32M")
