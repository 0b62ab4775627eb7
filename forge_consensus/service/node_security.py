"""What a node's settings of security come to: its keys, who is known, and where it may listen without protection."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from forge_consensus.actors.runtime.access_control import AccessControl
from forge_consensus.config.address import IPC, is_loopback
from forge_consensus.config.node import NodeSettings
from forge_consensus.config.security import SecuritySettings
from forge_consensus.errors import InvalidConfigError
from forge_consensus.process.log import LogLines
from forge_consensus.security.access import AccessList
from forge_consensus.security.access_file import read_access_file
from forge_consensus.security.credentials import Credentials
from forge_consensus.security.curve import KeyPair, read_key_file
from forge_consensus.service.member_files import certificates_of

LINES = LogLines(__name__)


def own_keys(security: SecuritySettings) -> KeyPair | None:
    """Return the node's pair of keys, None if it has none. Raises `InvalidConfigError` for a file that cannot be."""
    if security.curve_key_file:
        return read_key_file(security.curve_key_file)
    if security.curve_secret_key:
        return KeyPair.of_secret(security.curve_secret_key.strip(), "security.curve_secret_key")
    return None


def access_of(settings: NodeSettings) -> AccessControl | None:
    """Return the node's access control, None for a node without keys, whose list counts for its admin API only.

    Raises `InvalidConfigError` for files that cannot be, for a list of access that has other keys for this node, and if
    the members are to check each other's certificates and the extra ``crypto`` is missing.
    """
    keys, file = own_keys(settings.security), settings.security.access_file
    if keys is None:
        return None
    listed = read_access_file(Path(file)) if file else AccessList()
    check_own_key(settings.node_id, keys, listed, file or "")
    if not listed:
        LINES.warning("the node's access file knows nobody: only those of the list in the log can reach it")
    return AccessControl(keys, listed, certificates_of(settings.security, keys))


def check_own_key(node_id: str, keys: KeyPair, listed: AccessList, file: str) -> None:
    """Raise `InvalidConfigError` if the list has keys for this node and its own is none of them."""
    known = listed.member_keys(node_id)
    if known and keys.public not in known:
        raise InvalidConfigError(
            f"{file!r} has other keys for {node_id} than this node's, whose public key is {keys.public}: add that one "
            "there, or give the node the secret key of one that is listed"
        )


def check_exposure(settings: NodeSettings, bind: str, events: str) -> None:
    """Raise `InvalidConfigError` if the node would serve other machines without protection, and was not told to."""
    if settings.security.insecure:
        return
    places = [] if settings.security.has_keys else [("listen", bind), ("publish its events", events)]
    if settings.metrics is not None and ":" in settings.metrics:  # else it is none, as the server of metrics says
        places.append(("serve its metrics", settings.metrics))
    for what, address in places:
        if not address.startswith(IPC) and not is_loopback(address.rpartition(":")[0].strip("[]")):
            keys = "" if what == "serve its metrics" else "give it keys (security.curve_key_file), "
            raise InvalidConfigError(
                f"the node would {what} at {address}, without encryption and for everybody who reaches that address: "
                f"{keys}use 127.0.0.1, or say --insecure (security.insecure: true) if that is what you want"
            )


def own_credentials(security: SecuritySettings, access: AccessControl | None) -> Credentials | None:
    """Return what the node's own application shows the other nodes; None if it has no key for that.

    Raises `InvalidConfigError` for a key file that cannot be, and for a list of access without members.
    """
    if access is None or not security.client_key_file:
        return None

    present = PresentKeys(access)
    return Credentials(read_key_file(security.client_key_file), present(), present)


class PresentKeys:
    """The keys of the nodes by the list in force, which changes while they are exchanged; the same map until it does.

    Args:
        access: that of this node, which is among them.

    """

    def __init__(self, access: AccessControl) -> None:
        self.access = access
        self.listed = access.current
        self.keys = self.look()

    def look(self) -> Mapping[str, tuple[str, ...]]:
        """Return the keys by the list that was looked at last."""
        return {**servers_of(self.listed), "this node": (self.access.keys.public,)}

    def __call__(self) -> Mapping[str, tuple[str, ...]]:
        """Return the keys as they are now."""
        current = self.access.current
        if current is not self.listed:
            self.listed = current
            self.keys = self.look()
        return self.keys


def check_own_client(security: SecuritySettings) -> None:
    """Raise `InvalidConfigError` for a node in another process that its application has no key to speak with."""
    if security.has_keys and not security.client_key_file:
        raise InvalidConfigError(
            "a node with keys in a process of its own (mode='process') lets its application in as a client only: give "
            "security.client_key_file, whose public key stands under clients in the list of access"
        )


def joining_credentials(access: AccessControl | None) -> Credentials | None:
    """Return what a node shows that joins a cluster: its own key. Raises `InvalidConfigError` as `own_credentials`."""
    return None if access is None else Credentials(access.keys, servers_of(access.current))


def servers_of(access: AccessList) -> dict[str, tuple[str, ...]]:
    """Return the public keys of all members by node id."""
    return {name: access.member_keys(name) for name, one in access.by_name.items() if one.is_member}
