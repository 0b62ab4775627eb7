"""TLS with X.509 certificates: of a server whose files may change while it runs, and of those that ask others."""

from __future__ import annotations

import os
import ssl
from collections.abc import Callable
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Final

from forge_consensus.config.file_reads import BYTES_MAX, bytes_of, check_private
from forge_consensus.config.node import NodeSettings
from forge_consensus.config.security import SecuritySettings
from forge_consensus.errors import InvalidConfigError
from forge_consensus.security.x509_names import ends_at

WARN_SECONDS: Final = 30 * 86_400.0
"""So long before its certificate is over a server begins to warn."""
WARN_EVERY_SECONDS: Final = 86_400.0
DAY_SECONDS: Final = 86_400.0
PROTOCOLS: Final = ("http/1.1",)


@dataclass(frozen=True, slots=True)
class TlsFiles:
    """The files of a server. Paths count from the folder in which this was made."""

    certificate: Path
    key: Path
    authority: Path | None = None
    """The authorities that sign the certificates of clients; None if clients show none."""

    @classmethod
    def of(cls, security: SecuritySettings) -> TlsFiles | None:
        """Return the files that the settings name, None where TLS is off."""
        if not security.enable_tls:
            return None
        assert security.cert_file, "the settings were checked"
        assert security.key_file, "the settings were checked"
        authority = Path(security.ca_file).absolute() if security.enable_mtls and security.ca_file else None
        return cls(Path(security.cert_file).absolute(), Path(security.key_file).absolute(), authority)

    def digests(self) -> tuple[str, ...]:
        """Return what tells whether one of the files has changed. Raises `InvalidConfigError` for one that is gone."""
        places = [self.certificate, self.key, *([self.authority] if self.authority is not None else [])]
        return tuple(sha256(bytes_of(place)).hexdigest() for place in places)


def check_start(settings: NodeSettings) -> None:
    """Check that TLS, if it is on, can be had and leaves nothing plain, whether the admin API is served or not.

    Raises `InvalidConfigError` for a file that cannot be used, and for a node without keys of CURVE that listens where
    other machines reach it.
    """
    files = TlsFiles.of(settings.security)
    if files is None:
        return
    if settings.is_plain_beside_tls:
        raise InvalidConfigError(
            f"security.enable_tls is on, and the connections of ZeroMQ at {settings.bind} would be plain all the same, "
            "because TLS is that of the admin API: give security.curve_key_file too (forge-consensus keygen), or say "
            "security.insecure in a network where you trust everybody"
        )
    server_context(files)


class ServerTls:
    """What a server shows and asks for at the beginning of a connection; `look` takes over files that have changed.

    Connections that exist go on as they began. A file that cannot be used changes nothing, and is told once.

    Args:
        files: the files.
        wall: returns the time in seconds since 1970.
        warn: is given one line for people.

    Raises `InvalidConfigError` for files that cannot be used.

    """

    def __init__(self, files: TlsFiles, wall: Callable[[], float], warn: Callable[[str], None]) -> None:
        self.files = files
        self.wall = wall
        self.warn = warn
        self.seen = files.digests()
        """What the files held when they were read last, also if that could not be used."""
        self.context = server_context(files)
        self.ends_at = self.end()
        self.warned_at = -WARN_EVERY_SECONDS
        self.problem = ""
        """Why the files as they are now cannot be used; "" if they can."""

    def end(self) -> float:
        """Return when the certificate ends, in seconds since 1970. Raises `InvalidConfigError`."""
        text = bytes_of(self.files.certificate).decode("utf-8", errors="replace")
        return ends_at(text, f"the certificate {str(self.files.certificate)!r}")

    @property
    def seconds_left(self) -> float:
        """For how many seconds the certificate lasts; negative if it is over."""
        return self.ends_at - self.wall()

    def look(self) -> bool:
        """Take over files that have changed; return whether the authorities of clients are others now."""
        try:
            now = self.files.digests()
            if now == self.seen:
                return False
            before, self.seen = self.seen, now
            context, end = server_context(self.files), self.end()
        except InvalidConfigError as error:
            if str(error) != self.problem:
                self.problem = str(error)
                self.warn(f"the TLS files have changed and cannot be used, so the earlier ones are kept: {error}")
            return False
        self.context, self.ends_at, self.problem = context, end, ""
        self.warned_at = -WARN_EVERY_SECONDS
        return before[2:] != now[2:]

    def warn_of_end(self) -> None:
        """Say once a day that the certificate ends soon, or is over."""
        left = self.seconds_left
        if left > WARN_SECONDS or self.wall() - self.warned_at < WARN_EVERY_SECONDS:
            return
        self.warned_at = self.wall()
        when = f"ends in {left / DAY_SECONDS:.1f} days" if left > 0 else "is over, so clients refuse it"
        self.warn(f"the certificate {str(self.files.certificate)!r} {when}: renew it (forge-consensus cert renew)")


def server_context(files: TlsFiles) -> ssl.SSLContext:
    """Return the context of a server. Raises `InvalidConfigError` for files that cannot be used."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_alpn_protocols(list(PROTOCOLS))
    # A session that is resumed would pass by the check of the client's certificate.
    context.options |= ssl.OP_NO_TICKET | ssl.OP_NO_RENEGOTIATION
    context.num_tickets = 0
    load_pair(context, files.certificate, files.key)
    if files.authority is not None:
        load_authorities(context, files.authority)
        context.verify_mode = ssl.CERT_REQUIRED
    return context


def client_context(security: SecuritySettings) -> ssl.SSLContext | None:
    """Return how an application that requests are sent on to is checked; None for as usual.

    Raises `InvalidConfigError` for files that cannot be used.
    """
    if not (security.ca_file or security.skip_verify or security.enable_mtls):
        return None
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    if security.skip_verify:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    elif security.ca_file:
        load_authorities(context, Path(security.ca_file))
    if security.enable_mtls and security.cert_file and security.key_file:
        load_pair(context, Path(security.cert_file), Path(security.key_file))
    return context


def load_pair(context: ssl.SSLContext, certificate: Path, key: Path) -> None:
    """Give a context a certificate and its key. Raises `InvalidConfigError`; nothing of the key is in its text."""
    for path, what in ((certificate, "the certificate"), (key, "the key file")):
        data = bytes_of(path)
        if len(data) > BYTES_MAX:
            raise InvalidConfigError(f"{what} {str(path)!r} has more than {BYTES_MAX} bytes: it is none")
    check_private(key, os.stat(key).st_mode, "the key file")
    try:
        context.load_cert_chain(certificate, key, no_passphrase)
    except (ssl.SSLError, OSError) as error:
        fits = getattr(error, "reason", "") == "KEY_VALUES_MISMATCH"
        why = "they do not belong together" if fits else "one of them is not in PEM, or damaged"
        raise InvalidConfigError(
            f"the certificate {str(certificate)!r} and the key {str(key)!r} cannot be used: {why}"
        ) from error


def no_passphrase() -> str:
    """Refuse a key that asks for a passphrase, which nobody could type here. Raises `InvalidConfigError`."""
    raise InvalidConfigError("the key has a passphrase, and nobody could type it here: give one without")


def load_authorities(context: ssl.SSLContext, path: Path) -> None:
    """Give a context the authorities that it trusts. Raises `InvalidConfigError`."""
    try:
        context.load_verify_locations(cadata=bytes_of(path).decode("ascii", errors="ignore"))
    except (ssl.SSLError, ValueError) as error:
        raise InvalidConfigError(f"{str(path)!r} holds no certificates of authorities in PEM: {error}") from error
