"""The certificate authority."""

from __future__ import annotations

import stat
import time
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa

from coordinator.ca import CA_DAYS, NODE_DAYS, OWN_DAYS, Authority, csr_key_hash, load_csr
from coordinator.errors import Invalid, StartError
from tests.unit.fake_agent import make_csr

NOW = time.time()
DAY = 86400


def authority(folder: Path, now: float = NOW) -> Authority:
    return Authority.open(folder, "c1", now)


def uris(pem: str) -> list[str]:
    names = x509.load_pem_x509_certificate(pem.encode()).extensions.get_extension_for_class(x509.SubjectAlternativeName)
    return names.value.get_values_for_type(x509.UniformResourceIdentifier)


def test_the_same_ca_is_opened_again_and_its_key_is_private(tmp_path: Path) -> None:
    first = authority(tmp_path / "ca")
    assert authority(tmp_path / "ca").fingerprint == first.fingerprint
    assert len(first.fingerprint) == 52
    for path in (tmp_path / "ca").iterdir():
        assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_a_node_certificate_names_the_node_and_nothing_of_the_csr(tmp_path: Path) -> None:
    ca = authority(tmp_path)
    key = ec.generate_private_key(ec.SECP256R1())
    wish = x509.UniformResourceIdentifier("wherry://c1/coordinator")
    csr = (
        x509.CertificateSigningRequestBuilder()
        .subject_name(x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "coordinator")]))
        .add_extension(x509.SubjectAlternativeName([wish]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
        .public_bytes(serialization.Encoding.PEM)
        .decode()
    )
    pem = ca.sign_node(csr, 7, NOW)
    assert uris(pem) == ["wherry://c1/node/7"]
    certificate = x509.load_pem_x509_certificate(pem.encode())
    root = x509.load_pem_x509_certificate(ca.pem.encode())
    certificate.verify_directly_issued_by(root)
    assert not certificate.extensions.get_extension_for_class(x509.BasicConstraints).value.ca
    assert certificate.public_key() == key.public_key()
    life = certificate.not_valid_after_utc.timestamp() - NOW
    assert abs(life - NODE_DAYS * DAY) < 2


def test_no_certificate_outlives_the_ca(tmp_path: Path) -> None:
    ca = authority(tmp_path)
    end = x509.load_pem_x509_certificate(ca.pem.encode()).not_valid_after_utc
    pem = ca.sign_node(make_csr()[1], 1, NOW + (CA_DAYS - 1) * DAY)
    assert x509.load_pem_x509_certificate(pem.encode()).not_valid_after_utc == end


def test_the_own_certificate_is_kept_then_renewed_at_half_its_life(tmp_path: Path) -> None:
    ca = authority(tmp_path)
    first = ca.own(["127.0.0.1", "host.example"], NOW).certificate.read_text()
    assert uris(first) == ["wherry://c1/coordinator"]
    assert ca.own(["127.0.0.1", "host.example"], NOW + DAY).certificate.read_text() == first
    assert ca.own(["127.0.0.1", "other"], NOW + DAY).certificate.read_text() != first
    second = ca.own(["127.0.0.1", "other"], NOW + (OWN_DAYS / 2 + 2) * DAY)
    assert second.expires > NOW + (OWN_DAYS + 1) * DAY
    names = x509.load_pem_x509_certificate(second.certificate.read_bytes()).extensions.get_extension_for_class(
        x509.SubjectAlternativeName
    )
    assert names.value.get_values_for_type(x509.DNSName) == ["other"]


def _rsa_csr() -> str:
    key = rsa.generate_private_key(65537, 2048)
    csr = x509.CertificateSigningRequestBuilder().subject_name(x509.Name([])).sign(key, hashes.SHA256())
    return csr.public_bytes(serialization.Encoding.PEM).decode()


def _forged_csr() -> str:
    """A CSR whose signature is over something else."""
    key = ec.generate_private_key(ec.SECP256R1())
    der = bytearray(
        x509.CertificateSigningRequestBuilder()
        .subject_name(x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "a")]))
        .sign(key, hashes.SHA256())
        .public_bytes(serialization.Encoding.DER)
    )
    der[der.index(b"\x0c\x01a") + 2] = ord("b")
    return x509.load_der_x509_csr(bytes(der)).public_bytes(serialization.Encoding.PEM).decode()


@pytest.mark.parametrize("make", [lambda: "", lambda: "x" * 1000, _rsa_csr, _forged_csr, lambda: make_csr()[1][:200]])
def test_a_bad_csr_is_refused(make: object) -> None:
    with pytest.raises(Invalid) as info:
        load_csr(make())  # type: ignore[operator]
    assert info.value.field == "csr_pem"


def test_a_key_is_recognised() -> None:
    key, one = make_csr()
    assert csr_key_hash(one) == csr_key_hash(make_csr(key)[1])
    assert csr_key_hash(one) != csr_key_hash(make_csr()[1])


def test_files_that_do_not_fit_are_a_start_error(tmp_path: Path) -> None:
    authority(tmp_path / "a")
    authority(tmp_path / "b")
    (tmp_path / "a" / "ca.key").write_bytes((tmp_path / "b" / "ca.key").read_bytes())
    with pytest.raises(StartError, match="not the key"):
        authority(tmp_path / "a")
    (tmp_path / "b" / "ca.key").write_bytes(b"junk")
    with pytest.raises(StartError, match="cannot be read"):
        authority(tmp_path / "b")


def test_a_lost_ca_key_is_not_replaced_in_silence(tmp_path: Path) -> None:
    ca = authority(tmp_path)
    ca.own(["h"], NOW)
    (tmp_path / "ca.key").unlink()
    with pytest.raises(StartError):
        authority(tmp_path)


def test_a_first_start_that_was_killed_between_the_files_begins_again(tmp_path: Path) -> None:
    old = authority(tmp_path).fingerprint
    (tmp_path / "ca.key").unlink()
    assert authority(tmp_path).fingerprint != old
