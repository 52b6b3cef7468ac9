"""A rotation of the CA, the pure parts: who accepts whom in which step, and a kill at every write."""

from __future__ import annotations

import itertools
import shutil
import ssl
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from cryptography import x509

from coordinator import cafiles
from coordinator.ca import CA_DAYS, Authority
from coordinator.errors import Conflict, Full
from protocol.tls import TlsFiles, client_context, server_context
from tests.unit.fake_agent import make_csr

NOW = time.time()
DAY = 86400


def authority(folder: Path, now: float = NOW) -> Authority:
    return Authority.open(folder, "c1", now)


class Holder:
    """A node's files: a certificate of the CA as it was then, and the roots as they were then."""

    def __init__(self, folder: Path, ca: Authority, node: int) -> None:
        folder.mkdir(parents=True)
        self.files = TlsFiles(folder / "node.pem", folder / "node.pem", folder / "ca.pem")
        key, csr = make_csr()
        self.files.certificate.write_bytes(cafiles.key_pem(key) + ca.sign_node(csr, node, NOW).encode())
        self.trust(ca)

    def trust(self, ca: Authority) -> None:
        self.files.ca.write_text(ca.pem)


def accept(dialler: Holder, listener: Holder) -> bool:
    """A whole TLS handshake in memory, certificates on both ends."""
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    client = client_context(dialler.files).wrap_bio(to_client, to_server)
    server = server_context(listener.files).wrap_bio(to_server, to_client, server_side=True)
    open_ends = {client, server}
    for _ in range(10):
        for end in list(open_ends):
            try:
                end.do_handshake()
                open_ends.discard(end)
            except ssl.SSLWantReadError:
                pass
            except ssl.SSLError:
                return False
        if not open_ends:
            return True
    return False


def test_in_an_overlap_everybody_accepts_everybody(tmp_path: Path) -> None:
    """Old and new certificates, each with the roots of before and of the overlap, dialling and dialled."""
    ca = authority(tmp_path / "ca")
    late = Holder(tmp_path / "late", ca, 1)  # old certificate, old root alone: it was away
    told = Holder(tmp_path / "told", ca, 2)  # old certificate, both roots: killed between the two files
    new_but_old_root = Holder(tmp_path / "early", ca, 3)
    ca.rotate(NOW)
    told.trust(ca)
    follows = Holder(tmp_path / "follows", ca, 4)  # new certificate, both roots
    old_roots = new_but_old_root.files.ca.read_text()
    new_but_old_root = Holder(tmp_path / "early2", ca, 3)
    new_but_old_root.files.ca.write_text(old_roots)  # new certificate, old root alone
    for dialler, listener in itertools.product((late, told, follows, new_but_old_root), repeat=2):
        assert accept(dialler, listener), (dialler.files.ca, listener.files.ca)


def test_after_the_end_the_old_certificates_open_nothing(tmp_path: Path) -> None:
    ca = authority(tmp_path / "ca")
    late = Holder(tmp_path / "late", ca, 1)
    ca.rotate(NOW)
    follows, other = Holder(tmp_path / "follows", ca, 2), Holder(tmp_path / "other", ca, 3)
    ca.finish()
    follows.trust(ca)
    assert accept(follows, other)  # one of them has not been told of the end yet
    assert accept(other, follows)
    other.trust(ca)
    assert accept(follows, other)
    assert not accept(late, follows)
    assert not accept(follows, Holder(tmp_path / "x", authority(tmp_path / "elsewhere"), 1))


def test_a_ca_of_another_cluster_is_refused_in_an_overlap(tmp_path: Path) -> None:
    ca, foreign = authority(tmp_path / "ca"), authority(tmp_path / "foreign")  # the same name, as an impostor would
    ca.rotate(NOW)
    foreign.rotate(NOW)
    ours, theirs = Holder(tmp_path / "a", ca, 1), Holder(tmp_path / "b", foreign, 1)
    theirs.trust(ca)  # it would accept us
    assert not accept(theirs, ours)
    assert not accept(ours, theirs)


def test_the_cross_certificate_is_bound_to_its_purpose(tmp_path: Path) -> None:
    ca = authority(tmp_path)
    ca.rotate(NOW)
    leaf, cross = x509.load_pem_x509_certificates(ca.sign_node(make_csr()[1], 1, NOW).encode())
    new, old = x509.load_pem_x509_certificates(ca.pem.encode())
    cross.verify_directly_issued_by(old)
    leaf.verify_directly_issued_by(new)
    leaf.verify_directly_issued_by(cross)
    assert cross.not_valid_after_utc <= old.not_valid_after_utc
    assert cross.extensions.get_extension_for_class(x509.BasicConstraints).value.path_length == 0
    ca.finish()
    assert len(x509.load_pem_x509_certificates(ca.sign_node(make_csr()[1], 1, NOW).encode())) == 1


def test_steps_out_of_order_are_refused(tmp_path: Path) -> None:
    ca = authority(tmp_path)
    with pytest.raises(Conflict, match="no rotation"):
        ca.finish()
    ca.rotate(NOW)
    with pytest.raises(Conflict, match="under way"):
        ca.rotate(NOW)
    ca.finish()
    ca.rotate(NOW)  # and once more
    ca.finish()


def test_the_own_certificate_follows_each_step(tmp_path: Path) -> None:
    ca = authority(tmp_path)

    def chain() -> list[x509.Certificate]:
        return x509.load_pem_x509_certificates(ca.own(["h"], NOW).certificate.read_bytes())

    first = chain()
    ca.rotate(NOW)
    in_overlap = chain()
    assert in_overlap[0] != first[0]
    assert len(in_overlap) == 2
    assert chain() == in_overlap
    ca.finish()
    assert len(chain()) == 1


def test_an_expired_ca_certifies_nobody(tmp_path: Path) -> None:
    authority(tmp_path)
    later = NOW + (CA_DAYS + 1) * DAY
    ca = authority(tmp_path, later)
    ca.rotate(later)
    assert len(x509.load_pem_x509_certificates(ca.sign_node(make_csr()[1], 1, later).encode())) == 1
    assert authority(tmp_path, later).fingerprint == ca.fingerprint


class Killed(BaseException):
    """Nothing in the code under test catches it: as with kill -9, no cleaning up."""


@pytest.fixture
def kill_at(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[int]]:
    """``[n]``: the n-th change to the folder does not happen any more, and neither does what would follow."""
    count = [0]  # starts anew after each use
    left: list[int] = []

    def counted(real: object) -> object:
        def call(*args: object, **kwargs: object) -> object:
            if not left:
                count[0] = 0
            else:
                count[0] += 1
                if count[0] > left[0]:
                    raise Killed
            return real(*args, **kwargs)  # type: ignore[operator]

        return call

    monkeypatch.setattr(cafiles, "write_private", counted(cafiles.write_private))
    monkeypatch.setattr(cafiles, "_sync_folder", counted(cafiles._sync_folder))
    monkeypatch.setattr(Path, "rename", counted(Path.rename))
    monkeypatch.setattr(Path, "mkdir", counted(Path.mkdir))
    monkeypatch.setattr(shutil, "rmtree", counted(shutil.rmtree))
    yield left
    left.clear()


@pytest.mark.parametrize("step", ["rotate", "finish"])
def test_a_kill_at_any_write_leaves_before_or_after(tmp_path: Path, kill_at: list[int], step: str) -> None:
    """The number of writes is found out by running; each prefix of them is then what a kill leaves."""
    seen: set[bool] = set()
    for writes in range(40):
        folder = tmp_path / str(writes)
        ca = authority(folder)
        if step == "finish":
            ca.rotate(NOW)
        before = (ca.fingerprint, ca.old_fingerprint)
        holder = Holder(tmp_path / f"h{writes}", ca, 1)
        kill_at.append(writes)
        killed = False
        try:
            ca.rotate(NOW) if step == "rotate" else ca.finish()
        except Killed:
            killed = True
        kill_at.clear()
        again = authority(folder)
        done = (again.fingerprint, again.old_fingerprint) != before
        seen.add(done)
        if step == "rotate":
            assert again.old_fingerprint == (before[0] if done else None)
            assert done or again.fingerprint == before[0]
        else:
            assert again.fingerprint == before[0]
            assert again.old_fingerprint == (None if done else before[1])
        assert (folder / "ca.pem").read_text() == again.pem
        new = Holder(tmp_path / f"n{writes}", again, 2)
        assert accept(holder, new)
        assert accept(new, holder)
        if not killed:
            assert done
            assert sorted(p.name for p in folder.iterdir()) == (
                ["ca.key", "ca.pem", "new"] if step == "rotate" else ["ca.key", "ca.pem"]
            )
            assert seen == {True, False}
            return
    raise AssertionError("the step never came to its end")


def test_a_full_disk_changes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ca = authority(tmp_path)
    before = ca.fingerprint

    def full(path: Path, data: bytes) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(cafiles, "write_private", full)
        with pytest.raises(Full):
            ca.rotate(NOW)
    assert (ca.fingerprint, ca.old_fingerprint) == (before, None)
    assert authority(tmp_path).fingerprint == before
    ca.rotate(NOW)
    with monkeypatch.context() as patch:
        patch.setattr(cafiles, "write_private", full)
        with pytest.raises(Full):
            ca.finish()
    assert ca.old_fingerprint == before
    ca.finish()
    assert authority(tmp_path).fingerprint == ca.fingerprint
