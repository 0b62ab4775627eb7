"""Certificates of X.509: an authority of one's own, certificates that it issues, and what one says.

Keys are ECDSA P-256. Whoever has an authority already needs none of this: any certificate that TLS accepts will do.
To import this module without the extra ``crypto`` raises `InvalidConfigError`; what a running node does with
certificates needs none.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any, Final

from forge_consensus.errors import InvalidConfigError
from forge_consensus.security.x509_names import COMMON_NAME_CHARS_MAX, LOCAL, uri_of

try:
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID
except ModuleNotFoundError as error:
    raise InvalidConfigError(
        "certificates are made with the package cryptography: pip install 'forge-consensus[crypto]', or make them with "
        "another tool"
    ) from error

AUTHORITY_DAYS: Final = 3650
DAYS: Final = 365
DAYS_MAX: Final = 36_500
SKEW: Final = timedelta(hours=1)
"""A certificate begins so long before it is made, because clocks of other machines may be behind."""
PEM_BYTES_MAX: Final = 1 << 20


@dataclass(frozen=True, slots=True)
class Certified:
    """A certificate and its private key, both in PEM."""

    certificate: bytes
    key: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class CertificateFacts:
    """What a certificate says, for people."""

    subject: str
    issuer: str
    hosts: tuple[str, ...]
    """DNS names and IP addresses."""
    uris: tuple[str, ...]
    begins: datetime
    ends: datetime
    is_authority: bool
    serial: str
    """Hexadecimal."""
    sha256: str
    """The digest of the whole certificate, hexadecimal."""

    def days_left(self, now: datetime) -> float:
        """Return for how many days it lasts; negative if it is over."""
        return (self.ends - now) / timedelta(days=1)


def make_authority(name: str, days: int = AUTHORITY_DAYS) -> Certified:
    """Return a new authority, whose certificate it signs itself.

    Args:
        name: its name, of 1 to 64 characters.
        days: for how many days it lasts.

    Raises `InvalidConfigError` for a name or a time that cannot be.

    """
    if not 0 < len(name) <= COMMON_NAME_CHARS_MAX or not name.isprintable():
        raise InvalidConfigError(
            f"{name[:COMMON_NAME_CHARS_MAX]!r} is no name of an authority: give 1 to {COMMON_NAME_CHARS_MAX} printable "
            "characters"
        )
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    begins = datetime.now(UTC) - SKEW
    made = builder(subject, subject, key, begins, checked_end(days))
    made = made.add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
    made = made.add_extension(key_usage(signs=True), critical=True)
    return certified(signed(made, key), key)


def issue(
    authority: Certified,
    cluster: str,
    name: str,
    hosts: Iterable[str] = LOCAL,
    days: int = DAYS,
    *,
    client_only: bool = False,
) -> Certified:
    """Return a certificate for a member or a client of a cluster, with a new key.

    Args:
        authority: who signs it.
        cluster: the id of the cluster.
        name: the node id of the member, or the name of the client.
        hosts: DNS names and IP addresses at which a node is reached; none for a client.
        days: for how many days it lasts.
        client_only: whether no server may show it.

    Raises `InvalidConfigError` for what cannot be: a name, a host, a time longer than that of the authority, files that
    are no authority.

    """
    attributes = [x509.NameAttribute(NameOID.COMMON_NAME, name)] if len(name) <= COMMON_NAME_CHARS_MAX else []
    names: list[x509.GeneralName] = [host_name(host) for host in dict.fromkeys(hosts)]
    names.append(x509.UniformResourceIdentifier(uri_of(cluster, name)))
    return leaf(
        authority,
        x509.Name(attributes),
        x509.SubjectAlternativeName(names),
        ec.generate_private_key(ec.SECP256R1()),
        days,
        client_only=client_only,
    )


def renewed(authority: Certified, certificate: bytes, key: bytes | None = None, days: int | None = None) -> Certified:
    """Return a certificate with all names of another one, which lasts from now on.

    Args:
        authority: who signs it; it must have signed the present one.
        certificate: the present one, in PEM; it may be over.
        key: its private key, which is kept; None for a new one.
        days: for how many days it lasts; None for as many as the present one.

    Raises `InvalidConfigError` as `issue` does.

    """
    present, signer = read(certificate), read(authority.certificate)
    try:
        present.verify_directly_issued_by(signer)
    except Exception as error:  # the library raises several kinds
        raise InvalidConfigError(
            f"{present.subject.rfc4514_string() or 'the certificate'!r} was not issued by this authority: renew it "
            "where it was issued, or issue another one"
        ) from error
    whole = present.not_valid_after_utc - present.not_valid_before_utc - SKEW
    private = ec.generate_private_key(ec.SECP256R1()) if key is None else read_key(key)
    if key is not None and public_bytes(private) != public_bytes(present):
        raise InvalidConfigError("the key is not that of the certificate: give its own, or have a new one made")
    usages = extension(present, x509.ExtendedKeyUsage)
    client_only = usages is not None and ExtendedKeyUsageOID.SERVER_AUTH not in usages
    names = extension(present, x509.SubjectAlternativeName)
    if names is None:
        raise InvalidConfigError("the certificate has no alternative names: issue another one instead")
    lasts = max(1, round(whole / timedelta(days=1))) if days is None else days
    return leaf(authority, present.subject, names, private, lasts, client_only=client_only)


def facts_of(certificate: bytes) -> CertificateFacts:
    """Return what the first certificate in a PEM text says. Raises `InvalidConfigError` for what is none."""
    found = read(certificate)
    names = extension(found, x509.SubjectAlternativeName)
    basic = extension(found, x509.BasicConstraints)
    hosts: list[str] = []
    if names is not None:
        hosts += names.get_values_for_type(x509.DNSName)
        hosts += map(str, names.get_values_for_type(x509.IPAddress))
    return CertificateFacts(
        found.subject.rfc4514_string(),
        found.issuer.rfc4514_string(),
        tuple(hosts),
        tuple(names.get_values_for_type(x509.UniformResourceIdentifier)) if names is not None else (),
        found.not_valid_before_utc,
        found.not_valid_after_utc,
        basic is not None and basic.ca,
        f"{found.serial_number:x}",
        found.fingerprint(hashes.SHA256()).hex(),
    )


# --- parts -----------------------------------------------------------------------------------------------------------


def checked_end(days: int) -> datetime:
    """Return when a certificate that lasts so many days ends. Raises `InvalidConfigError` for a time that cannot be."""
    if not 1 <= days <= DAYS_MAX:
        raise InvalidConfigError(f"a certificate cannot last {days} days: give 1 to {DAYS_MAX}")
    return datetime.now(UTC) + timedelta(days=days)


def host_name(text: str) -> x509.GeneralName:
    """Return a DNS name or an IP address as certificates have it. Raises `InvalidConfigError` for what is neither."""
    host = text.strip().strip("[]")
    try:
        return x509.IPAddress(ipaddress.ip_address(host))
    except ValueError:
        pass
    labels = host.removeprefix("*.").split(".")
    fits = all(label.isascii() and label.replace("-", "").replace("_", "").isalnum() for label in labels)
    if not fits or len(host) > 253 or labels[-1].isdigit():
        raise InvalidConfigError(f"{text[:80]!r} is neither a host name nor an IP address: write it without a port")
    return x509.DNSName(host)


def leaf(
    authority: Certified,
    subject: x509.Name,
    names: x509.SubjectAlternativeName,
    key: ec.EllipticCurvePrivateKey,
    days: int,
    *,
    client_only: bool,
) -> Certified:
    """Return a certificate that an authority signs; see `issue`."""
    signer, signing = read(authority.certificate), read_key(authority.key)
    basic = extension(signer, x509.BasicConstraints)
    if basic is None or not basic.ca or public_bytes(signer) != public_bytes(signing):
        raise InvalidConfigError("this is no authority: its certificate may sign no other, or its key is another one")
    ends = checked_end(days)
    if ends > signer.not_valid_after_utc:
        left = (signer.not_valid_after_utc - datetime.now(UTC)).days
        raise InvalidConfigError(
            f"a certificate of {days} days would outlast its authority, which ends in {left} days: give fewer days, or "
            "make a new authority"
        )
    made = builder(subject, signer.subject, key, datetime.now(UTC) - SKEW, ends)
    usages = [ExtendedKeyUsageOID.CLIENT_AUTH]
    if not client_only:
        usages.insert(0, ExtendedKeyUsageOID.SERVER_AUTH)
    made = made.add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
    made = made.add_extension(key_usage(signs=False), critical=True)
    made = made.add_extension(x509.ExtendedKeyUsage(usages), critical=False)
    made = made.add_extension(names, critical=not list(subject))  # RFC 5280, 4.2.1.6: with an empty subject
    identifier = x509.AuthorityKeyIdentifier.from_issuer_public_key(signing.public_key())
    return certified(signed(made.add_extension(identifier, critical=False), signing), key)


def builder(
    subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePrivateKey, begins: datetime, ends: datetime
) -> x509.CertificateBuilder:
    """Return what every certificate begins with."""
    made = x509.CertificateBuilder().subject_name(subject).issuer_name(issuer)
    made = made.public_key(key.public_key()).serial_number(x509.random_serial_number())
    made = made.not_valid_before(begins).not_valid_after(ends)
    return made.add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)


def key_usage(*, signs: bool) -> x509.KeyUsage:
    """Return what a key is for: to sign certificates, or to prove who somebody is."""
    return x509.KeyUsage(
        digital_signature=not signs,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=signs,
        crl_sign=signs,
        encipher_only=False,
        decipher_only=False,
    )


def signed(made: x509.CertificateBuilder, key: ec.EllipticCurvePrivateKey) -> x509.Certificate:
    """Return the certificate that is built, signed with a key."""
    return made.sign(key, hashes.SHA256())


def certified(certificate: x509.Certificate, key: ec.EllipticCurvePrivateKey) -> Certified:
    """Return a certificate and its key in PEM."""
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    return Certified(certificate.public_bytes(serialization.Encoding.PEM), private)


def read(data: bytes) -> x509.Certificate:
    """Return the first certificate in a PEM text. Raises `InvalidConfigError` for what is none."""
    try:
        return x509.load_pem_x509_certificate(data[:PEM_BYTES_MAX])
    except ValueError as error:
        raise InvalidConfigError("this is no certificate in PEM: it begins with -----BEGIN CERTIFICATE-----") from error


def read_key(data: bytes) -> ec.EllipticCurvePrivateKey:
    """Return a private key in PEM. Raises `InvalidConfigError` for what is none; its text never has a part of it."""
    try:
        found = serialization.load_pem_private_key(data[:PEM_BYTES_MAX], None)
    except (ValueError, TypeError):
        raise InvalidConfigError("this is no private key in PEM, or it has a passphrase: give one without") from None
    if not isinstance(found, ec.EllipticCurvePrivateKey):
        raise InvalidConfigError("this is no key of an elliptic curve: issue certificates with the tool that made it")
    return found


def public_bytes(holder: Any) -> bytes:
    """Return the public key of a private one, or of a certificate, in one form."""
    found: bytes = holder.public_key().public_bytes(
        serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    return found


def extension(certificate: x509.Certificate, kind: Any) -> Any:
    """Return the value of an extension of that kind, None if there is none. Raises `InvalidConfigError`."""
    try:
        return certificate.extensions.get_extension_for_class(kind).value
    except x509.ExtensionNotFound:
        return None
    except ValueError as error:
        raise InvalidConfigError(f"the certificate has extensions that cannot be read: {error}") from error
