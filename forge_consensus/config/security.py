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
    enable_tls: bool = setting(
        False,
        original="security.enable_tls",
        what="Whether the admin API is served over TLS 1.2 or newer, with cert_file and key_file.",
        why="Certificates are made by the operator. Connections of ZeroMQ are encrypted by curve_key_file instead.",
    )
    enable_mtls: bool = setting(
        False,
        original="security.enable_mtls",
        what="Whether everybody who connects to the admin API must show a certificate that an authority in ca_file has "
        "signed; whom it names is who asks. On a node with keys of CURVE the members must prove by such certificates "
        "that their keys are theirs.",
        why="Tokens are easier to hand out; certificates are for those who have an authority already.",
    )
    cert_file: str | None = setting(
        None,
        original="security.cert_file",
        what="The file with the node's certificate in PEM, and those of the authorities between; a running node takes "
        "over what changes in it.",
        why="A certificate names its node, so there is none that fits to all.",
    )
    key_file: str | None = setting(
        None,
        original="security.key_file",
        what="The file with the private key of cert_file in PEM, without a passphrase; only its owner may read it.",
        why="A key belongs to one certificate.",
    )
    ca_file: str | None = setting(
        None,
        original="security.ca_file",
        what="The file with the certificates of the authorities, in PEM, with which the certificates of others are "
        "checked: of those who connect and of members if enable_mtls is on, and of applications that requests are sent "
        "on to.",
        why="Without it requests are sent on to applications that the authorities of this machine vouch for.",
    )
    skip_verify: bool = setting(
        False,
        original="security.skip_verify",
        what="Whether requests are sent on to applications whose certificates nobody has checked, and members are let "
        "in by their keys of CURVE alone although enable_mtls is on; those who connect to the admin API are checked "
        "all the same.",
        why="Whoever stands between could read and change what is sent on; members need it only while they get their "
        "certificates one after the other.",
    )
    clock_skew: float = setting(
        300.0,
        unit="s",
        minimum=0.0,
        maximum=86_400.0,
        what="By how much the clocks of two members may differ where they check each other's certificates: one "
        "counts so long before it begins and after it is over.",
        why="Hosts that lost their time server for a while should not be shut out, and minutes help a thief little.",
    )
    audit_file: str | None = setting(
        None,
        what="The file to which the node adds each record of its audit as a line, chained by hashes so that "
        "forge-consensus audit verify notices what was changed; it is made with mode 0600.",
        why="The journal has the same records and is bounded; who must keep an audit wants a file to copy away.",
    )
    insecure: bool = setting(
        False,
        what="Whether a node without keys may listen where other machines reach it: everybody there can then read, "
        "write and pass for a member.",
        why="Nobody should serve a network without protection by accident.",
    )

    enable_encryption: bool = setting(
        False,
        original="security.enable_encryption",
        what="Whether what the node keeps on its disk is encrypted: log, state, sessions, events and snapshot files.",
        why="It needs a key that only the operator can keep, and costs time.",
    )
    encryption_key: str | None = setting(
        None,
        secret=True,
        reload="hot",
        original="security.encryption_key",
        what="The key for that, 32 random bytes as 64 hexadecimal digits or in base64.",
        why="For those who keep secrets in variables, or in files with more than a key: ${file:/run/secrets/key}.",
    )
    encryption_key_file: str | None = setting(
        None,
        reload="hot",
        what="The file with that key, as forge-consensus storage new-key writes it, in place of encryption_key; only "
        "its owner may read it.",
        why="It should lie on another disk than the data, or who takes the disk has both.",
    )
    encryption_key_command: str | None = setting(
        None,
        reload="hot",
        what="A command that prints that key, in place of encryption_key; it is run without a shell, at each start.",
        why="It can ask a key management service, so that the key is on no disk of the node.",
    )

    def __post_init__(self) -> None:
        check(self)
        self.check_encryption()
        if self.curve_key_file and self.curve_secret_key:
            raise InvalidConfigError(
                "security.curve_key_file and security.curve_secret_key are both given: give one of them"
            )
        self.check_tls()

    def check_tls(self) -> None:
        """Raise `InvalidConfigError` for what of TLS does not fit together."""
        if self.enable_tls and not (self.cert_file and self.key_file):
            raise InvalidConfigError(
                "security.enable_tls is on, and security.cert_file and security.key_file are not both given: give them "
                "(forge-consensus cert issue writes such files)"
            )
        if self.enable_mtls and not self.enable_tls:
            raise InvalidConfigError("security.enable_mtls is on without security.enable_tls: switch that on too")
        if self.enable_mtls and not self.ca_file:
            raise InvalidConfigError(
                "security.enable_mtls is on without security.ca_file: name the certificates of the authorities that "
                "sign those of clients"
            )

    def check_encryption(self) -> None:
        """Raise `InvalidConfigError` unless there is one key if the disk is encrypted, and none if it is not."""
        sources = ("encryption_key", "encryption_key_file", "encryption_key_command")
        given = [f"security.{name}" for name in sources if getattr(self, name)]
        if len(given) > 1:
            raise InvalidConfigError(f"{' and '.join(given)} are given: give one of them")
        if self.enable_encryption and not given:
            raise InvalidConfigError(
                "security.enable_encryption is true and there is no key: give security.encryption_key_file"
            )
        if given and not self.enable_encryption:
            raise InvalidConfigError(
                f"{given[0]} is given and security.enable_encryption is false: set it to true, or remove the key"
            )

    @property
    def certifies_members(self) -> bool:
        """Whether members show by certificates that their keys of CURVE are theirs."""
        return self.has_keys and self.enable_mtls

    @property
    def has_keys(self) -> bool:
        """Whether the node has keys, so that its connections are encrypted and authenticated."""
        return bool(self.curve_key_file or self.curve_secret_key)
