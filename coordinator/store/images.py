"""Images: manifests by name. The blobs lie beside the database (``coordinator/blobs.py``)."""

from __future__ import annotations

import hashlib
import json
import sqlite3
from typing import Any

from coordinator.errors import Conflict, NotFound
from coordinator.model import Image
from coordinator.store.db import Tx


def canonical(manifest: dict[str, Any]) -> bytes:
    """The bytes whose SHA-256 is the image's digest: sorted keys, no spaces, ASCII."""
    return json.dumps(manifest, sort_keys=True, separators=(",", ":")).encode()


def digest_of(manifest: dict[str, Any]) -> str:
    return hashlib.sha256(canonical(manifest)).hexdigest()


def _image(row: sqlite3.Row) -> Image:
    return Image(row["name"], row["digest"], json.loads(row["manifest"]))


def all_images(tx: Tx) -> list[Image]:
    return [_image(r) for r in tx.all("SELECT * FROM images ORDER BY name")]


def by_name(tx: Tx, name: str, *, field: str = "name") -> Image:
    row = tx.one("SELECT * FROM images WHERE name = ?", name)
    if row is None:
        known = ", ".join(i.name for i in all_images(tx)) or "none"
        raise NotFound(f"no image named {name}; known: {known}", field=field)
    return _image(row)


def put(tx: Tx, manifest: dict[str, Any]) -> Image:
    """Add an image, or let its name mean a new build; guests that exist keep the build they were made from."""
    name = str(manifest["name"])
    digest = digest_of(manifest)
    tx.execute(
        "INSERT INTO images VALUES (?, ?, ?, ?) ON CONFLICT (name)"
        " DO UPDATE SET digest = excluded.digest, manifest = excluded.manifest, created = excluded.created",
        name,
        digest,
        canonical(manifest).decode(),
        tx.now,
    )
    tx.emit("image.added", f"image {name} ({digest[:12]})", image=name, digest=digest)
    return by_name(tx, name)


def remove(tx: Tx, name: str) -> set[str]:
    """Remove the name; returns the blobs that nothing refers to any more. :class:`Conflict` while guests use it."""
    image = by_name(tx, name)
    users = [
        str(r["name"])
        for r in tx.all("SELECT name, spec FROM guests ORDER BY name")
        if json.loads(r["spec"])["image"]["digest"] == image.digest
    ]
    if users:
        raise Conflict(f"image {name} is used by {', '.join(users)}", field="name")
    tx.execute("DELETE FROM images WHERE name = ?", name)
    tx.emit("image.removed", f"image {name} was removed", image=name)
    return {f["sha256"] for f in image.manifest["files"]} - referenced(tx)


def referenced(tx: Tx) -> set[str]:
    """Hashes of all blobs that an image or a guest needs."""
    out: set[str] = set()
    for row in tx.all("SELECT manifest FROM images"):
        out.update(str(f["sha256"]) for f in json.loads(row["manifest"])["files"])
    for row in tx.all("SELECT spec FROM guests"):
        out.update(str(f["sha256"]) for f in json.loads(row["spec"])["image"]["files"])
    return out
