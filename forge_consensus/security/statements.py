"""Statements: a member says, by the private key of its certificate, which key of CURVE speaks for it.

A statement is made for one receiver and for some minutes. It is no secret: without the secret key of CURVE that belongs
to the public one in it, it is of no use to anybody. On the wire it is msgpack of three parts: what is said, the
signature of those bytes, and the certificates in DER, that of the member first.

To import this module without the extra ``crypto`` raises `InvalidConfigError`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import astuple
from datetime import UTC, datetime
from hashlib import sha256
from math import inf
from typing import Any, Final

import msgpack

from forge_consensus.errors import AuthenticationFailedError, InvalidConfigError
from forge_consensus.security.claims import LASTS_MS, LASTS_MS_MAX, Claim
from forge_consensus.security.x509_names import PeerCertificate

try:
    from cryptography import x509
    from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec, ed25519, padding, rsa
    from cryptography.x509.oid import NameOID
    from cryptography.x509.verification import PolicyBuilder, Store, VerificationError
except ImportError as error:
    raise InvalidConfigError(
        "with security.enable_mtls and keys of CURVE the members check each other's certificates, which needs the "
        "package cryptography of version 43 or newer: pip install 'forge-consensus[crypto]'"
    ) from error

CONTEXT: Final = "forge-consensus: this key of CURVE speaks for a member, 1"
"""What every statement begins with, so that nothing else that the same private key signs passes for one."""
BYTES_MAX: Final = 64 * 1024
CERTIFICATES_MAX: Final = 8
"""The member's certificate and those of the authorities between it and one in ``ca_file``."""
PEM_BYTES_MAX: Final = 1 << 20
SIGNED_FIELDS: Final = (str, str, str, str, str, bytes, int, int)
PSS: Final = padding.PSS(padding.MGF1(hashes.SHA256()), padding.PSS.DIGEST_LENGTH)

PrivateKey = ec.EllipticCurvePrivateKey | ed25519.Ed25519PrivateKey | rsa.RSAPrivateKey


class Signer:
    """The certificate of a node, with the private key that makes statements.

    Args:
        certificate: the certificate in PEM, followed by those of the authorities between, if there are any.
        key: the private key in PEM.

    Raises `InvalidConfigError` for what is neither, and for two that do not belong together; nothing of the key is in
    its text.

    """

    def __init__(self, certificate: bytes, key: bytes) -> None:
        self.chain = certificates_in(certificate, "security.cert_file")
        if len(self.chain) > CERTIFICATES_MAX:
            raise InvalidConfigError(
                f"security.cert_file holds {len(self.chain)} certificates: at most {CERTIFICATES_MAX} are possible, "
                "that of the node first"
            )
        self.key = private_key(key)
        if public_bytes(self.key) != public_bytes(self.chain[0]):
            raise InvalidConfigError("security.cert_file and security.key_file do not belong together")
        self.shown = tuple(one.public_bytes(serialization.Encoding.DER) for one in self.chain)

    @property
    def ends_ms(self) -> int:
        """When the certificate ends, in milliseconds since 1970."""
        return milliseconds(self.chain[0].not_valid_after_utc)

    def moment(self, now_ms: int) -> int:
        """Return now, or the nearest moment at which the certificate is valid, in milliseconds since 1970."""
        return min(max(now_ms, milliseconds(self.chain[0].not_valid_before_utc)), self.ends_ms)

    def state(self, claim: Claim, now_ms: int) -> bytes:
        """Return a statement of this claim that begins now and lasts for `LASTS_MS`.

        Args:
            claim: what is stated.
            now_ms: milliseconds since 1970.

        """
        return self.sealed((CONTEXT, *astuple(claim), sha256(self.shown[0]).digest(), now_ms, now_ms + LASTS_MS))

    def sealed(self, fields: Sequence[Any]) -> bytes:
        """Sign these fields, and return the bytes for the wire."""
        said: bytes = msgpack.packb(tuple(fields))
        sealed: bytes = msgpack.packb((said, signature_of(self.key, said), self.shown))
        return sealed


class Verifier:
    """Checks statements by the authorities that are trusted.

    Args:
        authorities: their certificates in PEM.

    Raises `InvalidConfigError` for what is none.

    """

    def __init__(self, authorities: bytes) -> None:
        self.store = Store(certificates_in(authorities, "security.ca_file"))

    def check(self, data: bytes, claim: Claim, now_ms: int, skew_ms: int) -> int:
        """Return until when a statement counts here, in milliseconds since 1970.

        That is the end of the statement or of the certificate, whichever is earlier, and the margin after it.

        Args:
            data: the statement as it came.
            claim: what it has to be about.
            now_ms: milliseconds since 1970, by this node's clock.
            skew_ms: the margin, in milliseconds, because the other clock may differ.

        Raises `AuthenticationFailedError`, with the reason.

        """
        said, signature, shown = parts_of(data)
        _, *stated, digest, begins_ms, ends_ms = said_in(said)
        wanted = (claim.cluster, claim.node, claim.to, claim.key)
        for what, found, meant in zip(("cluster", "node", "receiver", "key"), stated, wanted, strict=True):
            if found != meant:
                raise refused(claim, f"its statement is about the {what} {found[:80]!r} and not {meant!r}")
        check_times(claim, begins_ms, ends_ms, now_ms, skew_ms)
        if digest != sha256(shown[0]).digest():
            raise refused(claim, "its statement is about another certificate than the one it shows")
        chain = [certificate_in(claim, one) for one in shown]
        if not is_signed(chain[0], signature, said):
            raise refused(claim, "its statement is not signed with the private key of its certificate")
        at_ms = self.moment(claim, chain[0], now_ms, skew_ms)
        self.check_holder(chain, claim.cluster, claim.node, at_ms)
        until_ms: int = min(ends_ms, milliseconds(chain[0].not_valid_after_utc)) + skew_ms
        return until_ms

    @staticmethod
    def moment(claim: Claim, certificate: x509.Certificate, now_ms: int, skew_ms: int) -> int:
        """Return now, or the nearest moment within the margin at which a certificate is valid, in milliseconds.

        Raises `AuthenticationFailedError` if there is none.
        """
        begins, ends = certificate.not_valid_before_utc, certificate.not_valid_after_utc
        at_ms = min(max(now_ms, milliseconds(begins)), milliseconds(ends))
        if abs(at_ms - now_ms) <= skew_ms:
            return at_ms
        when = f"is over since {ends:%Y-%m-%d %H:%M:%S}" if at_ms < now_ms else f"begins at {begins:%Y-%m-%d %H:%M:%S}"
        raise refused(
            claim, f"its certificate {when} UTC: renew it (forge-consensus cert renew), or set the clock of this node"
        )

    def check_holder(self, chain: Sequence[x509.Certificate], cluster: str, node: str, at_ms: int) -> None:
        """Check that an authority vouches for a certificate, and that it names this node of this cluster.

        Args:
            chain: the certificate, followed by those of the authorities between.
            cluster: the id of the cluster, or its name.
            node: the node id.
            at_ms: for which moment, in milliseconds since 1970.

        Raises `AuthenticationFailedError`.

        """
        verifier = PolicyBuilder().store(self.store).time(moment_of(at_ms)).build_client_verifier()
        try:
            verifier.verify(chain[0], list(chain[1:]))
        except (VerificationError, ValueError, x509.UnsupportedGeneralNameType) as error:
            raise AuthenticationFailedError(
                f"no authority of security.ca_file vouches for the certificate of node {node!r} "
                f"({chain[0].subject.rfc4514_string()[:200]!r} by {chain[0].issuer.rfc4514_string()[:200]!r}): {error}"
            ) from error
        name = names_in(chain[0]).name_in(cluster, 0.0)  # the time was looked at before
        if name != node:
            raise AuthenticationFailedError(
                f"the certificate of node {node!r} of cluster {cluster!r} names "
                f"{'nobody there' if name is None else repr(name[:80])}: issue one for it (forge-consensus cert issue "
                "NODE --cluster CLUSTER)"
            )


# --- parts -----------------------------------------------------------------------------------------------------------


def refused(claim: Claim, why: str) -> AuthenticationFailedError:
    """Return the error of a member whose statement does not count."""
    return AuthenticationFailedError(f"node {claim.node!r} does not prove that it is that member: {why}")


def check_times(claim: Claim, begins_ms: int, ends_ms: int, now_ms: int, skew_ms: int) -> None:
    """Raise `AuthenticationFailedError` for a statement that is not of this time, or made for too long."""
    if not 0 <= ends_ms - begins_ms <= LASTS_MS_MAX:
        raise refused(claim, f"its statement would last for {(ends_ms - begins_ms) / 1000:.0f} s")
    early, late = begins_ms - now_ms, now_ms - ends_ms
    if max(early, late) > skew_ms:
        when = f"begins in {early / 1000:.0f} s" if early > 0 else f"ended {late / 1000:.0f} s ago"
        raise refused(
            claim,
            f"its statement {when}, and security.clock_skew allows {skew_ms / 1000:g} s: set the clocks of both nodes",
        )


def parts_of(data: bytes) -> tuple[bytes, bytes, tuple[bytes, ...]]:
    """Return what is said, the signature and the certificates. Raises `AuthenticationFailedError` for other bytes."""
    parts = unpacked(data) if len(data) <= BYTES_MAX else ()
    if len(parts) == 3:
        said, signature, shown = parts
        whole = type(said) is bytes and type(signature) is bytes and type(shown) is tuple
        if whole and 0 < len(shown) <= CERTIFICATES_MAX and all(type(one) is bytes for one in shown):
            return said, signature, shown
    raise malformed()


def said_in(data: bytes) -> tuple[Any, ...]:
    """Return the fields of what is said. Raises `AuthenticationFailedError` for other bytes."""
    fields = unpacked(data)
    kinds = tuple(map(type, fields))
    if kinds != SIGNED_FIELDS or fields[0] != CONTEXT:
        raise malformed()
    return fields


def malformed() -> AuthenticationFailedError:
    """Return the error for bytes that are no statement."""
    return AuthenticationFailedError("a member shows a statement of its key that is none, or one of another version")


def unpacked(data: bytes) -> tuple[Any, ...]:
    """Return an array of msgpack, an empty one for anything else."""
    try:
        found = msgpack.unpackb(data, use_list=False)
    except (ValueError, TypeError, msgpack.UnpackException):
        return ()
    return found if type(found) is tuple else ()


def certificates_in(data: bytes, what: str) -> list[x509.Certificate]:
    """Return the certificates in a PEM text. Raises `InvalidConfigError` if there is none."""
    try:
        return x509.load_pem_x509_certificates(data[:PEM_BYTES_MAX])
    except ValueError as error:
        raise InvalidConfigError(
            f"{what} holds no certificates in PEM: each begins with -----BEGIN CERTIFICATE-----"
        ) from error


def certificate_in(claim: Claim, data: bytes) -> x509.Certificate:
    """Return a certificate in DER. Raises `AuthenticationFailedError` for what is none."""
    try:
        return x509.load_der_x509_certificate(data)
    except ValueError as error:
        raise refused(claim, "it shows a certificate that is none") from error


def private_key(data: bytes) -> PrivateKey:
    """Return a private key in PEM. Raises `InvalidConfigError` for what is none; its text never has a part of it."""
    try:
        found = serialization.load_pem_private_key(data[:PEM_BYTES_MAX], None)
    except (ValueError, TypeError):
        raise InvalidConfigError(
            "security.key_file holds no private key in PEM, or one with a passphrase: give one without"
        ) from None
    if not isinstance(found, PrivateKey):
        raise InvalidConfigError("security.key_file holds a key that signs nothing: give one of ECDSA, Ed25519 or RSA")
    return found


def public_bytes(holder: Any) -> bytes:
    """Return the public key of a private one, or of a certificate, in one form."""
    found: bytes = holder.public_key().public_bytes(
        serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    return found


def signature_of(key: PrivateKey, data: bytes) -> bytes:
    """Sign bytes, with SHA-256 where the kind of key leaves a choice."""
    if isinstance(key, ec.EllipticCurvePrivateKey):
        return key.sign(data, ec.ECDSA(hashes.SHA256()))
    if isinstance(key, rsa.RSAPrivateKey):
        return key.sign(data, PSS, hashes.SHA256())
    return key.sign(data)


def is_signed(certificate: x509.Certificate, signature: bytes, data: bytes) -> bool:
    """Whether bytes were signed with the private key of a certificate."""
    try:
        key = certificate.public_key()
        if isinstance(key, ec.EllipticCurvePublicKey):
            key.verify(signature, data, ec.ECDSA(hashes.SHA256()))
        elif isinstance(key, rsa.RSAPublicKey):
            key.verify(signature, data, PSS, hashes.SHA256())
        elif isinstance(key, ed25519.Ed25519PublicKey):
            key.verify(signature, data)
        else:
            return False
    except (InvalidSignature, UnsupportedAlgorithm, ValueError):
        return False
    return True


def names_in(certificate: x509.Certificate) -> PeerCertificate:
    """Return whom a certificate names. Raises `AuthenticationFailedError` for one that cannot be read."""
    try:
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        uris = tuple(names.get_values_for_type(x509.UniformResourceIdentifier))
    except x509.ExtensionNotFound:
        uris = ()
    except (ValueError, x509.DuplicateExtension) as error:
        raise AuthenticationFailedError(f"a certificate has extensions that cannot be read: {error}") from error
    common = [str(one.value) for one in certificate.subject.get_attributes_for_oid(NameOID.COMMON_NAME)]
    return PeerCertificate(common[-1] if common else "", uris, inf)


def milliseconds(at: datetime) -> int:
    """Return a moment in milliseconds since 1970."""
    return round(at.timestamp() * 1000)


def moment_of(at_ms: int) -> datetime:
    """Return the moment of milliseconds since 1970, in whole seconds, as certificates have it."""
    return datetime.fromtimestamp(at_ms // 1000, UTC)
