"""Joining: the CA is pinned by the token, the secret goes only to who has that CA; files, damage, renewal."""

from __future__ import annotations

import base64
import hashlib
import stat
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trio
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from pki import Pki

from node.identity import (
    Identity,
    IdentityError,
    Token,
    check_certificate,
    fingerprint,
    join,
    make_request,
    renew,
    split_join,
)
from protocol.errors import Refused
from protocol.messages import CaFetch, CaFetched, Join, Joined, Renew, Renewed
from protocol.tls import server_context
from protocol.transport import Handlers, Link, LocalIdentity, connect_tls, open_link, serve_links


def sign(pki: Pki, csr_pem: str, node: int) -> str:
    """What a coordinator's CA does."""
    csr = x509.load_pem_x509_csr(csr_pem.encode())
    template = x509.load_pem_x509_certificate(pki.node(node).certificate.read_bytes())
    builder = x509.CertificateBuilder().subject_name(csr.subject).issuer_name(template.issuer)
    builder = builder.public_key(csr.public_key()).serial_number(x509.random_serial_number())
    builder = builder.not_valid_before(template.not_valid_before_utc).not_valid_after(template.not_valid_after_utc)
    for extension in template.extensions:
        builder = builder.add_extension(extension.value, extension.critical)
    return builder.sign(pki._key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM).decode()


class FakeCoordinator:
    """Answers the bootstrap calls and remembers what it was told."""

    def __init__(self, pki: Pki) -> None:
        self.pki = pki
        self.ca_pem = (pki.folder / "ca.pem").read_text()
        self.told: list[Join] = []
        self.sign_for = 5
        self.refuse = ""
        self.address = ""
        self.handlers = Handlers()
        self.handlers.on_request(CaFetch, self._ca)
        self.handlers.on_request(Join, self._join)
        self.handlers.on_request(Renew, self._renew)

    @property
    def token(self) -> Token:
        return Token.parse(f"id.secretsecretsecret.{fingerprint(self.ca_pem)}")

    async def _ca(self, link: Link, request: CaFetch) -> CaFetched:
        return CaFetched(ca_pem=self.ca_pem)

    async def _join(self, link: Link, request: Join) -> Joined:
        self.told.append(request)
        if self.refuse:
            raise Refused("forbidden", self.refuse)
        certificate = sign(self.pki, request.csr_pem, self.sign_for)
        return Joined(node=5, cluster="test", certificate_pem=certificate, ca_pem=self.ca_pem)

    async def _renew(self, link: Link, request: Renew) -> Renewed:
        return Renewed(certificate_pem=sign(self.pki, request.csr_pem, link.peer.node), ca_pem=self.ca_pem)


@asynccontextmanager
async def coordinator(pki: Pki) -> AsyncIterator[FakeCoordinator]:
    fake = FakeCoordinator(pki)
    (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
    fake.address = f"127.0.0.1:{listener.socket.getsockname()[1]}"
    context = server_context(pki.coordinator(), anonymous=True)

    async with trio.open_nursery() as nursery:

        async def serve() -> None:
            await serve_links(
                listener, tls=context, identity=LocalIdentity("c"), handlers=fake.handlers, anonymous=True
            )

        nursery.start_soon(serve)
        yield fake
        nursery.cancel_scope.cancel()


async def test_join_and_load(tmp_path: Path) -> None:
    async with coordinator(Pki(tmp_path / "ca")) as fake:
        identity = await join(tmp_path / "id", fake.token, fake.address, "n1")
    assert (identity.node, identity.name, identity.cluster) == (5, "n1", "test")
    assert Identity.load(tmp_path / "id") == identity
    assert fake.told[0].token == fake.token.text
    for name in ("node.pem", "ca.pem", "identity.json"):
        assert stat.S_IMODE((tmp_path / "id" / name).stat().st_mode) == 0o600
    assert stat.S_IMODE((tmp_path / "id").stat().st_mode) == 0o700
    identity.tls  # noqa: B018 - both paths are the one file


async def test_another_clusters_ca_is_noticed_before_the_secret_is_told(tmp_path: Path) -> None:
    async with coordinator(Pki(tmp_path / "ca")) as fake:
        wrong = Token.parse("id.secret." + base64.b32encode(hashlib.sha256(b"x").digest()).decode().rstrip("="))
        with pytest.raises(IdentityError, match="another cluster"):
            await join(tmp_path / "id", wrong, fake.address, "n1")
    assert fake.told == []
    assert Identity.load(tmp_path / "id") is None


async def test_an_impostor_that_shows_the_right_ca_does_not_get_the_secret(tmp_path: Path) -> None:
    """It can copy the CA certificate, but has no certificate of that CA."""
    good = Pki(tmp_path / "good")
    async with coordinator(Pki(tmp_path / "evil")) as impostor:
        impostor.ca_pem = (good.folder / "ca.pem").read_text()
        with pytest.raises(IdentityError, match="certificate"):
            await join(tmp_path / "id", impostor.token, impostor.address, "n1")
        assert impostor.told == []


async def test_refusals_are_told(tmp_path: Path) -> None:
    async with coordinator(Pki(tmp_path / "ca")) as fake:
        fake.refuse = "the join token was used"
        with pytest.raises(IdentityError, match="token was used"):
            await join(tmp_path / "id", fake.token, fake.address, "n1")
        fake.refuse, fake.sign_for = "", 6
        with pytest.raises(IdentityError, match="node 6"):
            await join(tmp_path / "id", fake.token, fake.address, "n1")
    assert Identity.load(tmp_path / "id") is None


async def test_nobody_there(tmp_path: Path) -> None:
    token = Token.parse("id.secret." + "a" * 52)
    with pytest.raises(IdentityError, match="cannot reach"):
        await join(tmp_path / "id", token, "127.0.0.1:1", "n1")


async def test_renewal_replaces_key_and_certificate_together(tmp_path: Path) -> None:
    async with coordinator(Pki(tmp_path / "ca")) as fake:
        identity = await join(tmp_path / "id", fake.token, fake.address, "n1")
        before = identity.tls.key.read_bytes()
        stream = await connect_tls(fake.address, tls=identity.tls, expect="coordinator")
        async with open_link(stream, identity=LocalIdentity("n1"), handlers=Handlers(), client=True) as link:
            await renew(identity, link)
        assert identity.tls.key.read_bytes() != before
        await connect_tls(fake.address, tls=identity.tls, expect="coordinator")  # the new pair fits


def test_certificates_that_are_not_ours(tmp_path: Path) -> None:
    pki, other = Pki(tmp_path / "a"), Pki(tmp_path / "b")
    ca = (pki.folder / "ca.pem").read_text()
    key, csr = make_request("n1")
    good = sign(pki, csr, 5)
    check_certificate(good, key, ca, 5)
    with pytest.raises(IdentityError, match="another key"):
        check_certificate(good, make_request("n1")[0], ca, 5)
    with pytest.raises(IdentityError, match="another CA"):
        check_certificate(sign(other, csr, 5), key, ca, 5)
    with pytest.raises(IdentityError, match="cannot be used"):
        check_certificate(pki.coordinator().certificate.read_text()[:200], key, ca, 5)


@pytest.mark.parametrize("text", ["", "a.b", "a.b.c", "a..c" + "x" * 52, "x" * 300, f"id.secret.{'a' * 51}"])
def test_token_forms(text: str) -> None:
    with pytest.raises(IdentityError, match=r"ID\.SECRET\.FINGERPRINT"):
        Token.parse(text)


@pytest.mark.parametrize("text", ["", "token", "token@host", f"a.b.{'a' * 52}"])
def test_join_forms(text: str) -> None:
    with pytest.raises(IdentityError):
        split_join(text)


def test_split_join() -> None:
    token, address = split_join(f"ID.secret.{'a' * 52}@[::1]:7450")
    assert (token.text, address) == (f"id.secret.{'a' * 52}", "[::1]:7450")


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b'{"node": "x"}', b'{"node": 1}'])
def test_damaged_identity(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "identity.json").write_bytes(content)
    with pytest.raises(IdentityError, match="damaged"):
        Identity.load(tmp_path)
