"""Checks of X.509 certificates: when they end, whether they belong to their keys, and who vouches for them.

They need the standard library only, as a node does.
"""

from __future__ import annotations

import ssl
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from forge_consensus.checks.finding import Finding, ok, problem, warning
from forge_consensus.config.file_reads import OTHERS, text_of_file
from forge_consensus.errors import InvalidConfigError
from forge_consensus.security.tls import (
    DAY_SECONDS,
    WARN_SECONDS,
    TlsFiles,
    load_authorities,
    load_pair,
    server_context,
)
from forge_consensus.security.x509_names import validities

CHECK: Final = "certificate"
RENEW: Final = "renew it, with forge-consensus cert renew if forge-consensus cert issued it"
HANDSHAKE_STEPS: Final = 4
"""More than a handshake takes between two ends that read at once what the other one wrote."""
NOT_YET_VALID: Final = 9
OVER: Final = 10
"""What OpenSSL says of a certificate at the wrong time (X509_V_ERR_...), which `validity_findings` tells better."""


def server_findings(files: TlsFiles, authority: Path | None, now: float) -> list[Finding]:
    """Check the certificate of a node's admin API.

    Args:
        files: those of the server.
        authority: the authorities with which others check it, None if that is not known.
        now: seconds since 1970.

    """
    found = validity_findings(files.certificate, now)
    if authority is not None:
        found += validity_findings(authority, now)
    with suppress(OSError):  # the check of the key files tells what is wrong with one
        if not files.key.stat().st_mode & OTHERS:
            return [*found, *pair_findings(files, authority)]
    return found


def pair_findings(files: TlsFiles, authority: Path | None) -> list[Finding]:
    """Check whether a certificate and its key can be used, and whether the authority vouches for it."""
    try:
        server_context(files)
        why = "" if authority is None else refused_because(files, authority)
    except InvalidConfigError as error:
        return [problem(CHECK, str(error))]
    if why:
        text = f"whoever goes by {authority} refuses {files.certificate}: {why}"
        advice = "have that authority issue the certificate, or name the one that did in security.ca_file"
        return [warning(CHECK, text, advice)]
    return []


def validity_findings(path: Path, now: float) -> list[Finding]:
    """Check when the certificates in a file begin and end; `now` is in seconds since 1970."""
    try:
        found = list(validities(text_of_file(path), f"{str(path)!r}"))
    except InvalidConfigError as error:
        return [problem(CHECK, str(error), "correct the path, or issue another one: forge-consensus cert issue")]
    begin, end = max(each.begins_at for each in found), min(each.ends_at for each in found)
    what = str(path) if len(found) == 1 else f"one of the {len(found)} certificates in {path}"
    days = (end - now) / DAY_SECONDS
    if end <= now:
        return [problem(CHECK, f"{what} is over since {day_text(end)}, so everybody refuses it", RENEW)]
    if begin > now:
        text = f"{what} is valid from {day_text(begin)} on, so everybody refuses it until then"
        return [problem(CHECK, text, "see whether the clock of this host is right, or issue another one")]
    if end - now < WARN_SECONDS:
        return [warning(CHECK, f"{what} ends in {days:.1f} days, and then everybody refuses it", RENEW)]
    return [ok(CHECK, f"{what} is valid for {days:.0f} more days")]


def day_text(moment: float) -> str:
    """Return a time in seconds since 1970 for people, in UTC."""
    return f"{datetime.fromtimestamp(moment, UTC):%Y-%m-%d %H:%M} UTC"


def refused_because(files: TlsFiles, authority: Path) -> str:
    """Return why who trusts these authorities refuses a server's certificate; "" if they take it.

    A handshake in memory tells, so it is what TLS itself says. That a certificate is over, or not valid yet, is told by
    another check. Raises `InvalidConfigError` for files that cannot be used.
    """
    server, client = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER), ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    client.check_hostname = False
    load_pair(server, files.certificate, files.key)
    load_authorities(client, authority)
    asked, answered = ssl.MemoryBIO(), ssl.MemoryBIO()
    ends = (client.wrap_bio(answered, asked), server.wrap_bio(asked, answered, server_side=True))
    try:
        for _ in range(HANDSHAKE_STEPS):
            for end in ends:
                with suppress(ssl.SSLWantReadError):
                    end.do_handshake()
    except ssl.SSLCertVerificationError as error:
        return "" if error.verify_code in (NOT_YET_VALID, OVER) else str(error.verify_message)
    return ""
