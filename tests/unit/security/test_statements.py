"""Statements of members: which ones count, until when, and that every part of one is checked."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import astuple, replace
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from typing import Any

import msgpack
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import dsa, ec, ed25519, rsa
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from forge_consensus.errors import AuthenticationFailedError, InvalidConfigError
from forge_consensus.security.certificates import issue, key_usage, make_authority
from forge_consensus.security.claims import LASTS_MS, LASTS_MS_MAX, Claim
from forge_consensus.security.curve import KeyPair
from forge_consensus.security.statements import BYTES_MAX, CERTIFICATES_MAX, CONTEXT, Signer, Verifier
from forge_consensus.security.x509_names import uri_of

AUTHORITY = make_authority("tests")
OTHER_AUTHORITY = make_authority("others")
NOW_MS = round(datetime.now(UTC).timestamp()) * 1000
SKEW_MS = 300_000
DAY_MS = 86_400_000
CLAIM = Claim("demo", "n2", "n1", KeyPair.made().public)


def signer_of(cluster: str = "demo", name: str = "n2", by: Any = AUTHORITY) -> Signer:
    """The certificate of a member, issued for 100 days."""
    made = issue(by, cluster, name, days=100)
    return Signer(made.certificate, made.key)


SIGNER = signer_of()
VERIFIER = Verifier(AUTHORITY.certificate)
FIELDS = (CONTEXT, *astuple(CLAIM), sha256(SIGNER.shown[0]).digest(), NOW_MS, NOW_MS + LASTS_MS)


def check(data: bytes, claim: Claim = CLAIM, now_ms: int = NOW_MS, skew_ms: int = SKEW_MS) -> int:
    return VERIFIER.check(data, claim, now_ms, skew_ms)


def with_field(at: int, value: Any) -> bytes:
    """A statement that is signed as it should be, with one other field."""
    fields = list(FIELDS)
    fields[at] = value
    return SIGNER.sealed(fields)


def test_a_statement_counts_until_its_end_and_the_margin_after_it() -> None:
    data = SIGNER.state(CLAIM, NOW_MS)
    assert msgpack.unpackb(data, use_list=False)[0] == msgpack.packb(FIELDS)
    assert check(data) == NOW_MS + LASTS_MS + SKEW_MS
    assert len(data) < 1200


def test_it_counts_no_longer_than_its_certificate_and_the_margin() -> None:
    before_end = SIGNER.ends_ms - 1000
    assert check(SIGNER.state(CLAIM, before_end), now_ms=before_end) == SIGNER.ends_ms + SKEW_MS


# --- what is stated --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("other", "told"),
    [
        ({"cluster": "other"}, "cluster"),
        ({"node": "n3"}, "node"),
        ({"to": "n3"}, "receiver"),
        ({"key": KeyPair.made().public}, "key"),
    ],
)
def test_a_statement_about_something_else_counts_for_nothing(other: dict[str, str], told: str) -> None:
    """Whoever looks for something else refuses it, and so does everybody if something else is signed."""
    with pytest.raises(AuthenticationFailedError, match=f"about the {told}"):
        check(SIGNER.state(CLAIM, NOW_MS), replace(CLAIM, **other))
    with pytest.raises(AuthenticationFailedError, match=f"about the {told}"):
        check(SIGNER.state(replace(CLAIM, **other), NOW_MS))


@pytest.mark.parametrize(
    ("data", "told"),
    [
        (with_field(0, "TLS 1.3, client CertificateVerify"), "is none"),
        (with_field(5, sha256(b"another").digest()), "another certificate"),
        (with_field(6, "now"), "is none"),
        (with_field(6, True), "is none"),
        (with_field(7, NOW_MS + LASTS_MS_MAX + 1), "would last for"),
        (with_field(7, NOW_MS - 1), "would last for"),
        (SIGNER.sealed((*FIELDS, 1)), "is none"),
        (b"", "is none"),
        (b"\xc1", "is none"),
        (msgpack.packb(()), "is none"),
        (msgpack.packb((b"", b"", ())), "is none"),
        (msgpack.packb((b"", b"", (b"",) * (CERTIFICATES_MAX + 1))), "is none"),
        (msgpack.packb((msgpack.packb(FIELDS), b"", (SIGNER.shown[0],))), "not signed with"),
        (msgpack.packb((msgpack.packb(FIELDS), "text", (SIGNER.shown[0],))), "is none"),
        (SIGNER.state(CLAIM, NOW_MS) + b"\0", "is none"),
        (b"\0" * (BYTES_MAX + 1), "is none"),
    ],
)
def test_what_is_no_statement_counts_for_nothing(data: bytes, told: str) -> None:
    with pytest.raises(AuthenticationFailedError, match=told):
        check(data)


def test_a_statement_of_which_any_byte_was_changed_counts_for_nothing() -> None:
    """What is said, the signature, or the certificate: one bit is enough, wherever it is."""
    data = SIGNER.state(CLAIM, NOW_MS)
    for at in range(len(data)):
        changed = bytearray(data)
        changed[at] ^= 1
        with pytest.raises(AuthenticationFailedError):
            check(bytes(changed))


def test_the_certificate_of_somebody_else_is_of_no_use_without_its_key() -> None:
    """Certificates are public, so anybody can show that of a member."""
    thief = signer_of(name="n9")
    said = msgpack.packb(FIELDS)
    data = msgpack.packb((said, msgpack.unpackb(thief.sealed(FIELDS))[1], SIGNER.shown))
    with pytest.raises(AuthenticationFailedError, match="not signed with the private key"):
        check(data)


# --- whose certificate it is -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("signer", "told"),
    [
        (signer_of(by=OTHER_AUTHORITY), "no authority of security.ca_file vouches"),
        (signer_of(name="n3"), "names 'n3'"),
        (signer_of(cluster="other"), "names nobody there"),
    ],
    ids=["other authority", "another node", "another cluster"],
)
def test_a_certificate_that_is_not_the_members_counts_for_nothing(signer: Signer, told: str) -> None:
    with pytest.raises(AuthenticationFailedError, match=told):
        check(signer.state(CLAIM, NOW_MS))


def test_a_certificate_that_names_a_cluster_counts_for_that_made_anew_from_it() -> None:
    claim = replace(CLAIM, cluster="demo~0123456789ab")
    assert check(SIGNER.state(claim, NOW_MS), claim)


def certificate(
    key: Any,
    issuer: Any = AUTHORITY,
    *,
    names: Sequence[x509.GeneralName] = (),
    usages: Sequence[Any] = (),
    **more: Any,
) -> bytes:
    """A certificate of another tool, for n2 by its common name unless it has other names."""
    signing = serialization.load_pem_private_key(issuer.key, None)
    signer = x509.load_pem_x509_certificate(issuer.certificate)
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, more.get("common", "n2"))])
    begins = datetime.fromtimestamp(NOW_MS / 1000, UTC) - timedelta(days=1)
    made = x509.CertificateBuilder().subject_name(subject).issuer_name(signer.subject).public_key(key.public_key())
    made = made.serial_number(x509.random_serial_number()).not_valid_before(begins)
    made = made.not_valid_after(begins + timedelta(days=2))
    made = made.add_extension(x509.BasicConstraints(ca=more.get("ca", False), path_length=None), critical=True)
    made = made.add_extension(x509.SubjectAlternativeName(names or [x509.DNSName("n2.lan")]), critical=False)
    made = made.add_extension(key_usage(signs=more.get("ca", False)), critical=True)
    if usages:
        made = made.add_extension(x509.ExtendedKeyUsage(usages), critical=False)
    identifier = x509.AuthorityKeyIdentifier.from_issuer_public_key(signing.public_key())  # type: ignore[arg-type]
    made = made.add_extension(identifier, critical=False)
    made = made.add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
    return made.sign(signing, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)  # type: ignore[arg-type]


def pem(key: Any) -> bytes:
    return bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )


@pytest.mark.parametrize(
    "make",
    [
        lambda: ec.generate_private_key(ec.SECP384R1()),
        lambda: rsa.generate_private_key(65537, 2048),
    ],
    ids=["P-384", "RSA"],
)
def test_keys_and_names_of_other_authorities_count_too(make: Callable[[], Any]) -> None:
    """Without a URI of ours the common name is the node, as with TLS."""
    key = make()
    assert check(Signer(certificate(key), pem(key)).state(CLAIM, NOW_MS))
    other = Signer(certificate(key, common="n3"), pem(key))
    with pytest.raises(AuthenticationFailedError, match="names 'n3'"):
        check(other.state(CLAIM, NOW_MS))
    named = Signer(certificate(key, names=[x509.UniformResourceIdentifier(uri_of("demo", "n3"))]), pem(key))
    with pytest.raises(AuthenticationFailedError, match="names 'n3'"):
        check(named.state(CLAIM, NOW_MS))


def test_a_certificate_that_is_for_servers_only_proves_nobody() -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    made = certificate(key, usages=[ExtendedKeyUsageOID.SERVER_AUTH])
    with pytest.raises(AuthenticationFailedError, match="no authority"):
        check(Signer(made, pem(key)).state(CLAIM, NOW_MS))


def test_authorities_between_are_shown_and_members_are_none() -> None:
    """A member's certificate signs no other one, although an authority vouches for it."""
    between, key = ec.generate_private_key(ec.SECP256R1()), ec.generate_private_key(ec.SECP256R1())
    root_key = ec.generate_private_key(ec.SECP256R1())
    root = self_signed(root_key)
    top = type(AUTHORITY)(root, pem(root_key))
    middle = type(AUTHORITY)(certificate(between, top, common="between", ca=True), pem(between))
    chained = Signer(certificate(key, middle) + middle.certificate, pem(key))
    verifier = Verifier(root)
    assert verifier.check(chained.state(CLAIM, NOW_MS), CLAIM, NOW_MS, SKEW_MS)
    alone = Signer(certificate(key, middle), pem(key))
    with pytest.raises(AuthenticationFailedError, match="no authority"):
        verifier.check(alone.state(CLAIM, NOW_MS), CLAIM, NOW_MS, SKEW_MS)
    member = type(AUTHORITY)(certificate(between, top, common="n3"), pem(between))
    forged = Signer(certificate(key, member) + member.certificate, pem(key))
    with pytest.raises(AuthenticationFailedError, match="no authority"):
        verifier.check(forged.state(CLAIM, NOW_MS), CLAIM, NOW_MS, SKEW_MS)


def self_signed(key: Any) -> bytes:
    """A root that allows authorities below it."""
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "root")])
    begins = datetime.fromtimestamp(NOW_MS / 1000, UTC) - timedelta(days=9)
    made = x509.CertificateBuilder().subject_name(name).issuer_name(name).public_key(key.public_key())
    made = made.serial_number(x509.random_serial_number()).not_valid_before(begins)
    made = made.not_valid_after(begins + timedelta(days=90))
    made = made.add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
    made = made.add_extension(key_usage(signs=True), critical=True)
    made = made.add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
    return made.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)


# --- the time --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("off_ms", "counts"),
    [
        (-SKEW_MS - 1, False),
        (-SKEW_MS, True),
        (0, True),
        (LASTS_MS + SKEW_MS, True),
        (LASTS_MS + SKEW_MS + 1, False),
    ],
)
def test_a_statement_counts_within_the_margin_and_not_beyond(off_ms: int, counts: bool) -> None:
    data = SIGNER.state(CLAIM, NOW_MS)
    if counts:
        assert check(data, now_ms=NOW_MS + off_ms)
        return
    with pytest.raises(AuthenticationFailedError, match="allows 300 s: set the clocks"):
        check(data, now_ms=NOW_MS + off_ms)


@pytest.mark.parametrize("skew_ms", [0, 1000, SKEW_MS])
def test_a_certificate_counts_within_the_margin_and_not_beyond(skew_ms: int) -> None:
    begins = round(SIGNER.chain[0].not_valid_before_utc.timestamp() * 1000)
    for edge, beyond in ((SIGNER.ends_ms, 1), (begins, -1)):
        inside, outside = edge + beyond * skew_ms, edge + beyond * (skew_ms + 1)
        assert check(SIGNER.state(CLAIM, inside), now_ms=inside, skew_ms=skew_ms)
        with pytest.raises(AuthenticationFailedError, match=r"its certificate (is over since|begins at)"):
            check(SIGNER.state(CLAIM, outside), now_ms=outside, skew_ms=skew_ms)


# --- files -----------------------------------------------------------------------------------------------------------


def test_files_that_cannot_be_used_are_refused_without_a_word_of_the_key() -> None:
    good, other = issue(AUTHORITY, "demo", "n2"), issue(AUTHORITY, "demo", "n2")
    dsa_key = pem(dsa.generate_private_key(1024))
    for given, told in (
        ((good.certificate, other.key), "do not belong together"),
        ((b"nothing", good.key), "cert_file holds no certificates"),
        ((good.certificate, b"nothing"), "key_file holds no private key"),
        ((good.certificate, dsa_key), "signs nothing"),
        ((good.certificate * (CERTIFICATES_MAX + 1), good.key), "at most"),
    ):
        with pytest.raises(InvalidConfigError, match=told) as failure:
            Signer(*given)
        assert not any(line in str(failure.value) for line in given[1].decode().splitlines()[1:-1])
    with pytest.raises(InvalidConfigError, match="ca_file holds no certificates"):
        Verifier(b"nothing")


def test_a_key_of_ed25519_signs_as_well() -> None:
    """The path validation of some versions of the library refuses such keys in certificates, so only it is left out."""
    key = ed25519.Ed25519PrivateKey.generate()
    signer = Signer(certificate(key), pem(key))
    try:
        check(signer.state(CLAIM, NOW_MS))
    except AuthenticationFailedError as error:
        assert "no authority" in str(error), "the signature was checked before"


def test_without_the_extra_the_error_names_it() -> None:
    program = (
        "import sys; sys.modules['cryptography'] = None\n"
        "from forge_consensus.errors import InvalidConfigError\n"
        "try:\n    import forge_consensus.security.statements\n"
        "except InvalidConfigError as error:\n    print(error)\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=True)
    assert "security.enable_mtls" in done.stdout
    assert "pip install 'forge-consensus[crypto]'" in done.stdout
