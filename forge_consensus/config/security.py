"""The settings of a node's security: its keys, who is known, and what may go without protection."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from forge_consensus.config.setting import check, setting
from forge_consensus.errors import InvalidConfigError


@dataclass(frozen=True, slots=True)
class SecuritySettings:
    """What protects one node; by default nothing does, and it serves its own machine only.

    Raises `InvalidConfigError` for settings that contradict each other.
    """

    SECTION: ClassVar = "security"

    curve_key_file: str | None = setting(
        None,
        what="The file with the node's secret key for CURVE, as forge-consensus keygen writes it. With a key every "
        "connection to the node is encrypted and authenticated, and whoever is not in the list of access is refused.",
        why="A key is made by the operator, who also tells the others its public part.",
    )
    curve_secret_key: str | None = setting(
        None,
        secret=True,
        what="The node's secret key itself, 40 characters of Z85, in place of curve_key_file.",
        why="For those who keep secrets in variables, or in files with more than a key: ${file:/run/secrets/key}.",
    )
    access_file: str | None = setting(
        None,
        what="The file with the list of access: the public keys of the members and of the clients, and what each may "
        "do. A running node takes over what changes in it.",
        why="Without it only the list that the cluster itself keeps in its log counts.",
    )
    client_key_file: str | None = setting(
        None,
        what="The file with the secret key by which the node's own application or admin API asks the other nodes; "
        "its public part stands among the clients of the list of access.",
        why="Members and clients have different keys, so that the key of a member opens no door for clients.",
    )
    insecure: bool = setting(
        False,
        what="Whether a node without keys may listen where other machines reach it: everybody there can then read, "
        "write and pass for a member.",
        why="Nobody should serve a network without protection by accident.",
    )

    def __post_init__(self) -> None:
        check(self)
        if self.curve_key_file and self.curve_secret_key:
            raise InvalidConfigError(
                "security.curve_key_file and security.curve_secret_key are both given: give one of them"
            )

    @property
    def has_keys(self) -> bool:
        """Whether the node has keys, so that its connections are encrypted and authenticated."""
        return bool(self.curve_key_file or self.curve_secret_key)
