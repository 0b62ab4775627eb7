"""Names in X.509 certificates: which principal one stands for, and when it ends. Needs the standard library only.

A certificate of ours names its holder by a URI among its alternative names, ``forge-consensus://CLUSTER/NAME``: the
node id of a member or the name of a client, both percent-encoded. Where there is no such URI, as in certificates of an
authority that knows nothing of this project, the common name of the subject counts.
"""

from __future__ import annotations

import ssl
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final
from urllib.parse import quote, unquote, urlsplit

from forge_consensus.config.cluster_id import is_meant
from forge_consensus.errors import InvalidConfigError

SCHEME: Final = "forge-consensus"
COMMON_NAME_CHARS_MAX: Final = 64
"""The standard allows no more; a longer name stands in the URI only."""
LOCAL: Final = ("localhost", "127.0.0.1", "::1")
"""The names of this machine, for certificates of nodes that only this machine reaches."""
BEGIN: Final = "-----BEGIN CERTIFICATE-----"
END: Final = "-----END CERTIFICATE-----"
SEQUENCE: Final = 0x30
VERSION: Final = 0xA0
"""The tag of the version, which certificates of version 1 leave out."""
UTC_TIME: Final = 0x17


def uri_of(cluster: str, name: str) -> str:
    """Return the URI by which a certificate names a member or a client of a cluster."""
    return f"{SCHEME}://{quote(cluster, safe='')}/{quote(name, safe='')}"


def named_by(uri: str) -> tuple[str, str] | None:
    """Return the cluster and the name in a URI of ours, None for any other one."""
    try:
        parts = urlsplit(uri)
    except ValueError:
        return None
    if parts.scheme != SCHEME or parts.query or parts.fragment or not parts.path.startswith("/"):
        return None
    # `netloc` and not `hostname`, which would be in lower case; more slashes than one belong to no URI of ours.
    cluster, name = unquote(parts.netloc), unquote(parts.path[1:])
    return (cluster, name) if cluster and name and "/" not in parts.path[1:] else None


@dataclass(frozen=True, slots=True)
class PeerCertificate:
    """What the certificate of the other end of a connection says; its signature was checked by TLS."""

    common_name: str
    uris: tuple[str, ...]
    ends_at: float
    """Seconds since 1970."""

    @classmethod
    def of(cls, told: Mapping[str, Any]) -> PeerCertificate | None:
        """Return what `ssl.SSLSocket.getpeercert` tells, None if the other end showed no certificate."""
        if not told:
            return None
        names = [value for part in told.get("subject", ()) for key, value in part if key == "commonName"]
        uris = tuple(value for key, value in told.get("subjectAltName", ()) if key == "URI")
        return cls(names[-1] if names else "", uris, float(ssl.cert_time_to_seconds(told["notAfter"])))

    def name_in(self, cluster: str, now: float) -> str | None:
        """Return the name of its holder in a cluster, None if it is that of nobody there, or over.

        TLS checks the time when a connection begins; a connection, or a session that is resumed, may last longer.

        Args:
            cluster: the id of the cluster, or its name.
            now: seconds since 1970.

        """
        if now >= self.ends_at:
            return None
        ours = [found for uri in self.uris if (found := named_by(uri)) is not None]
        if not ours and not any(uri.startswith(f"{SCHEME}:") for uri in self.uris):
            return self.common_name or None
        names = {name for place, name in ours if is_meant(place, cluster)}
        return names.pop() if len(names) == 1 else None


@dataclass(frozen=True, slots=True)
class Validity:
    """From when until when a certificate is valid, in seconds since 1970."""

    begins_at: float
    ends_at: float


def ends_at(text: str, what: str) -> float:
    """Return when the first certificate in a PEM text ends, in seconds since 1970. Raises as `validities`."""
    return next(validities(text, what)).ends_at


def validities(text: str, what: str) -> Iterator[Validity]:
    """Yield from when until when each certificate in a PEM text is valid, in their order; at least one.

    Args:
        text: the text.
        what: what it is, for the error.

    Raises `InvalidConfigError` for what is no certificate, when its turn comes.

    """
    begin, at = text.find(BEGIN), 0
    try:
        while begin >= 0 or not at:
            at = text.find(END, max(0, begin)) + len(END)
            if begin < 0 or at < begin:
                raise ValueError("there is no certificate in it")
            yield validity_in(ssl.PEM_cert_to_DER_cert(text[begin:at]))
            begin = text.find(BEGIN, at)
    except (ValueError, IndexError) as error:
        raise InvalidConfigError(f"{what} is no certificate in PEM: {error}") from error


def validity_in(data: bytes) -> Validity:
    """Return the validity of a certificate, from its DER bytes. Raises `ValueError`, `IndexError` for what is none."""
    (_, certificate), *_ = parts_of(data)
    (_, signed), *_ = parts_of(certificate)  # tbsCertificate of RFC 5280
    fields = list(parts_of(signed))
    tag, validity = fields[4 if fields[0][0] == VERSION else 3]
    begin, end = parts_of(validity)
    if tag != SEQUENCE:
        raise ValueError("its validity is missing")
    return Validity(moment_in(*begin), moment_in(*end))


def moment_in(kind: int, data: bytes) -> float:
    """Return a time of a certificate in seconds since 1970, from its tag and its bytes. Raises `ValueError`."""
    text = data.decode("ascii")
    if kind == UTC_TIME:  # two digits stand for 1950 to 2049
        text = f"{'19' if int(text[:2]) >= 50 else '20'}{text}"
    return datetime.strptime(text, "%Y%m%d%H%M%SZ").replace(tzinfo=UTC).timestamp()


def parts_of(data: bytes) -> Iterator[tuple[int, bytes]]:
    """Yield the tag and the content of each part of DER bytes. Raises `ValueError`, `IndexError` for others."""
    at = 0
    while at < len(data):
        tag, size = data[at], data[at + 1]
        at += 2
        if size & 0x80:
            digits = size & 0x7F
            size = int.from_bytes(data[at : at + digits])
            at += digits
        if at + size > len(data):
            raise ValueError("it is cut short")
        yield tag, data[at : at + size]
        at += size
