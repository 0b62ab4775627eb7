"""Admission: who asks, by a token or a certificate, and whether the list of access lets them do what they ask for."""

from __future__ import annotations

import hmac
import time
from collections import OrderedDict, deque
from collections.abc import Callable, Iterable, Mapping
from hashlib import sha256
from pathlib import Path
from typing import Any, Final

from forge_consensus.actors.runtime.refusals import Refusals
from forge_consensus.admin.connections import CERTIFICATE
from forge_consensus.admin.problems import ProblemError
from forge_consensus.config.file_reads import FileReads
from forge_consensus.config.loading import LoadedConfig
from forge_consensus.errors import AuthenticationFailedError, InvalidConfigError
from forge_consensus.process.log import LogLines
from forge_consensus.security.access import TOKEN_CHARS_MAX, AccessList, Principal
from forge_consensus.security.access_file import read_access_file
from forge_consensus.security.in_force import in_force
from forge_consensus.security.networks import network_of
from forge_consensus.security.permissions import Permission
from forge_consensus.security.x509_names import PeerCertificate

LINES = LogLines(__name__)

CHALLENGE: Final = 'Bearer realm="forge-consensus"'
FAILURES_MAX: Final = 10
FAILURE_SECONDS: Final = 1.0
"""After so many failures in this time an address is answered with 429 until it is over."""
ADDRESSES_MAX: Final = 10_000
"""The failures of so many addresses are remembered."""
LOOK_SECONDS: Final = 1.0
"""The file with the list of access is looked at so often, while somebody asks."""
API_KEY: Final = "admin_api.api_key"
"""Who has the key of the settings is called so."""
NOBODY: Final = AccessList()

Credential = str | PeerCertificate
"""A token, or a certificate that TLS has checked."""


def nothing() -> AccessList | None:
    """Return no list: what a node knows that is not open."""
    return None


class Admission:
    """Says who asks, and refuses those who may not.

    Args:
        cluster: the id of the cluster, which certificates name.
        api_key: a token of the role admin; None for none.
        access_file: the file with the list of access; None without one.

    Raises `InvalidConfigError` for a file that cannot be read.

    """

    def __init__(self, cluster: str, api_key: str | None = None, access_file: str | Path | None = None) -> None:
        self.cluster = cluster
        self.key_digest = sha256(api_key.encode()).digest() if api_key else b""
        self.file = Path(access_file).absolute() if access_file is not None else None
        self.of_node: Callable[[], AccessList | None] = nothing
        """Returns the list that the node goes by, once it is open; None if it has no keys, and so asks nobody."""
        self.of_log: Callable[[], AccessList | None] = nothing
        """Returns the list in the cluster's log, for a node without keys; None if there is none."""
        self.seen: dict[Path, str] = {}
        self.looked_at = 0.0
        self.problem = ""
        """Why the file as it is now cannot be used."""
        self.of_file = NOBODY if self.file is None else self.read(self.file)
        self.merged: tuple[AccessList, AccessList, AccessList] = (self.of_file, NOBODY, self.of_file)
        """The list of the file, that of the log, and both together."""
        self.refusals = Refusals()
        """What was refused, by reason."""
        self.failures: OrderedDict[str, deque[float]] = OrderedDict()
        """Network -> when its last failures were, in seconds of `time.monotonic`."""

    @classmethod
    def of(cls, config: LoadedConfig) -> Admission | None:
        """Return the admission that a configuration asks for, None where nobody is asked. Raises as `Admission`."""
        wanted, security = config.program.admin_api, config.node.security
        if not wanted.enable_auth and not security.has_keys:
            return None
        return cls(config.node.cluster_id, wanted.api_key, security.access_file)

    # --- the list ----------------------------------------------------------------------------------------------------

    def read(self, file: Path) -> AccessList:
        """Return the list in the file, and note what it holds. Raises `InvalidConfigError`."""
        self.looked_at = time.monotonic()
        self.seen = FileReads(regular=True).look([file])
        return read_access_file(file)

    @property
    def access(self) -> AccessList:
        """The list that counts now."""
        found = self.of_node()
        if found is not None:
            return found
        if self.file is not None and time.monotonic() - self.looked_at >= LOOK_SECONDS:
            self.look(self.file)
        of_log = self.of_log() or NOBODY
        if self.merged[0] is not self.of_file or self.merged[1] is not of_log:
            self.merged = (self.of_file, of_log, in_force(self.of_file, of_log))
        return self.merged[2]

    def look(self, file: Path) -> None:
        """Read the file again if it holds something else; one that cannot be used changes nothing, and is told."""
        self.looked_at = time.monotonic()
        if FileReads(regular=True).look([file]) == self.seen:
            return
        try:
            self.of_file, self.problem = self.read(file), ""
        except InvalidConfigError as error:
            if str(error) != self.problem:
                self.problem = str(error)
                LINES.warning(
                    "the list of access has changed and cannot be used, so the earlier one is kept: {}", error
                )

    # --- who asks ----------------------------------------------------------------------------------------------------

    def credential(self, headers: Mapping[str, str], state: Mapping[str, Any]) -> Credential | None:
        """Return what a request shows: its token, else the certificate of its connection; None for neither.

        Args:
            headers: by name in lower case.
            state: that of the request, in which its connection notes the certificate.

        """
        scheme, _, text = headers.get("authorization", "").partition(" ")
        if scheme:
            return text.strip() if scheme.lower() == "bearer" else ""
        found = state.get(CERTIFICATE)
        return found if isinstance(found, PeerCertificate) else None

    def principal(self, shown: Credential | None) -> Principal | None:
        """Return who that is, None for nobody who is known."""
        if shown is None:
            return None
        if isinstance(shown, PeerCertificate):
            name = shown.name_in(self.cluster, time.time())
            return self.access.by_name.get(name) if name is not None else None
        text = shown[:TOKEN_CHARS_MAX]
        if hmac.compare_digest(self.key_digest, sha256(text.encode()).digest()):
            return Principal(API_KEY, frozenset({"admin"}))
        return self.access.of_token(text, int(time.time() * 1000))

    def admit(self, shown: Credential | None, address: str) -> Principal:
        """Return who asks. Raises `ProblemError` with 401 for nobody who is known, with 429 after many of those."""
        network = network_of(address)
        if self.is_barred(network):
            self.refusals.report("too many failures", f"requests from {network}")
            raise too_many()
        found = self.principal(shown)
        if found is not None:
            return found
        self.note_failure(network)
        kind = "nothing" if shown is None else "a certificate" if isinstance(shown, PeerCertificate) else "a token"
        self.refusals.report(
            f"shows {kind} that is not known" if shown is not None else "shows nothing", f"from {network}"
        )
        raise unknown_caller(shown)

    def check(
        self, principal: Principal, needed: Permission, keys: Iterable[str] | None, what: str, address: str
    ) -> None:
        """Raise `ProblemError` with 403 if somebody may not do what needs a permission.

        Args:
            principal: who asks.
            needed: what it takes.
            keys: the keys, or beginnings of keys, that it is about; None if no rule can suffice.
            what: what is asked for, for the log.
            address: where it comes from.

        """
        if principal.may(needed, keys):
            return
        self.refusals.report(f"needs {needed}", f"{what} by {principal.name} from {network_of(address)}")
        raise forbidden(principal, needed)

    # --- failures ----------------------------------------------------------------------------------------------------

    def is_barred(self, network: str) -> bool:
        """Whether an address has failed so often that it is not heard."""
        times = self.failures.get(network)
        return times is not None and len(times) == FAILURES_MAX and time.monotonic() - times[0] < FAILURE_SECONDS

    def note_failure(self, network: str) -> None:
        """Note a failure of an address."""
        times = self.failures.setdefault(network, deque(maxlen=FAILURES_MAX))
        times.append(time.monotonic())
        self.failures.move_to_end(network)
        if len(self.failures) > ADDRESSES_MAX:
            self.failures.popitem(last=False)


def unknown_caller(shown: Credential | None) -> ProblemError:
    """Return the problem of a request by nobody who is known."""
    if shown is None:
        text, more = "this needs a token: send Authorization: Bearer TOKEN, which forge-consensus auth token makes", ""
    elif isinstance(shown, PeerCertificate):
        text, more = "the certificate names nobody in the list of access, or is over: add its name, or send a token", ""
    else:
        text, more = "the token is not known, was revoked, or is over: have another one made", ', error="invalid_token"'
    headers = {"WWW-Authenticate": f"{CHALLENGE}{more}"}
    return ProblemError(401, "not authenticated", text, AuthenticationFailedError.code, headers=headers)


def forbidden(principal: Principal, needed: Permission) -> ProblemError:
    """Return the problem of somebody who may not do what they ask for."""
    text = (
        f"{principal.name} may not do this: it needs {needed}, by a role or, for keys, by a rule in the list of access"
    )
    return ProblemError(403, "not permitted", text, AuthenticationFailedError.code)


def too_many() -> ProblemError:
    """Return the problem of an address from which too many requests failed."""
    text = (
        f"{FAILURES_MAX} requests from there failed within {FAILURE_SECONDS:g} s: wait a second, and send a valid token"
    )
    return ProblemError(
        429, "too many failures", text, "CONSENSUS_RATE_LIMIT_EXCEEDED", retryable=True, headers={"Retry-After": "1"}
    )
