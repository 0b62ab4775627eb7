"""The files by which members prove their keys to each other: read at the start, and again when they change."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

from forge_consensus.actors.runtime.member_certificates import MemberCertificates
from forge_consensus.config.file_reads import bytes_of, check_private
from forge_consensus.config.security import SecuritySettings
from forge_consensus.errors import AuthenticationFailedError, InvalidConfigError
from forge_consensus.process.log import LogLines
from forge_consensus.security.curve import KeyPair
from forge_consensus.service.file_watch import FileWatch, Take

if TYPE_CHECKING:  # it needs the extra crypto
    from forge_consensus.security.statements import Signer, Verifier

LINES = LogLines(__name__)

SETTINGS: Final = ("security.cert_file", "security.key_file", "security.ca_file")
DAY_SECONDS: Final = 86_400.0
WARN_DAYS: Final = 30.0
"""So long before its certificate is over a node begins to warn, once a day."""
SKIPPED: Final = (
    "security.skip_verify is on: NOBODY CHECKS THE CERTIFICATES OF THE OTHER MEMBERS on this node, so whoever has the "
    "secret key of a member passes for it. Switch it off as soon as all members have their certificates"
)

Proofs = tuple["Signer", "Verifier | None"]


@dataclass(frozen=True, slots=True)
class MemberFiles:
    """The files of a node. Paths count from the folder in which this was made."""

    certificate: Path
    key: Path
    authority: Path
    skips: bool
    """Whether the certificates of others are not checked."""

    @classmethod
    def of(cls, security: SecuritySettings) -> MemberFiles | None:
        """Return the files that the settings name, None for a node whose members go by their keys alone."""
        if not security.certifies_members:
            return None
        given = (security.cert_file, security.key_file, security.ca_file)
        certificate, key, authority = (Path(path or "").absolute() for path in given)
        return cls(certificate, key, authority, security.skip_verify)

    def read(self) -> Proofs:
        """Return what the node states with, and what it checks others with.

        Raises `InvalidConfigError` for files that cannot be used, and without the extra ``crypto``.
        """
        from forge_consensus.security.statements import Signer, Verifier

        key = bytes_of(self.key)
        check_private(self.key, os.stat(self.key).st_mode, "the key file")
        signer, verifier = Signer(bytes_of(self.certificate), key), Verifier(bytes_of(self.authority))
        return signer, None if self.skips else verifier


def certificates_of(security: SecuritySettings, keys: KeyPair) -> MemberCertificates | None:
    """Return the certificates of the members, None where their keys alone count.

    Args:
        security: the settings.
        keys: the node's own pair of CURVE.

    Raises `InvalidConfigError` as `MemberFiles.read` does.

    """
    files = MemberFiles.of(security)
    if files is None:
        return None
    signer, verifier = files.read()
    if verifier is None:
        LINES.warning(SKIPPED)
    return MemberCertificates(signer, verifier, keys.public, round(security.clock_skew * 1000))


def check_own(certificates: MemberCertificates, cluster: str, node: str) -> None:
    """Check that the others would accept this node's own certificate, as long as it lasts.

    Args:
        certificates: those of the members.
        cluster: the id of the cluster.
        node: the id of this node.

    Raises `InvalidConfigError` for one that names another node, or that no authority of ``ca_file`` vouches for. One
    that is over is told in the log only, because a running node takes the next one by itself.

    """
    signer, verifier = certificates.signer, certificates.verifier
    if verifier is None:
        return
    try:
        verifier.check_holder(signer.chain, cluster, node, signer.moment(round(time.time() * 1000)))
    except AuthenticationFailedError as error:
        raise InvalidConfigError(f"the other members would refuse this node: {error}") from error


class CertificateWatch(FileWatch[Proofs]):
    """Looks at the files of the certificates, and says once a day that the node's own ends soon or is over.

    Args:
        files: the files.
        take: has the node take what they hold, None for nothing, and publish an event.
        wall: returns the time in seconds since 1970.

    """

    def __init__(self, files: MemberFiles, take: Take[Proofs], wall: Callable[[], float] = time.time) -> None:
        paths = [files.certificate, files.key, files.authority]
        super().__init__("a file of the members' certificates", SETTINGS, paths, files.read, take)
        self.wall = wall
        self.spoiled: dict[Path, str] = {}
        """What the files held at the last look, if that could not be used."""
        self.ends_ms = files.read()[0].ends_ms
        self.warned_at = -DAY_SECONDS

    def follow(self) -> None:
        """Look at the files, and at the time."""
        super().follow()
        left = self.ends_ms / 1000 - self.wall()
        if left > WARN_DAYS * DAY_SECONDS or self.wall() - self.warned_at < DAY_SECONDS:
            return
        self.warned_at = self.wall()
        when = f"ends in {left / DAY_SECONDS:.1f} days" if left > 0 else "is over, so the other members refuse it"
        LINES.warning("the certificate of this node {}: renew it (forge-consensus cert renew)", when)

    def is_at_rest(self, found: dict[Path, str]) -> bool:
        """Whether the files are the same as at the look before, because they are replaced one after the other."""
        before, self.spoiled = self.spoiled, found
        return before == found

    def told(self, held: Proofs) -> str:
        """Return until when the certificate lasts, and note it."""
        self.ends_ms, self.warned_at = held[0].ends_ms, -DAY_SECONDS
        return f": this node's own lasts until {time.strftime('%Y-%m-%d', time.gmtime(self.ends_ms / 1000))}"
