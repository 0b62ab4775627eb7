"""The configuration file of a client: where the nodes are, who the client is, and how nodes prove who they are.

Its shape, in YAML or, if its name ends so, in JSON; the section ``client`` may be the whole file:

    client:
      endpoints: [127.0.0.1:7001, 127.0.0.1:7002]
      cluster_id: default
      timeout: 5s
      curve_key_file: admin.key
      servers: {n1: ["Z85 of 40 characters"], n2: ["..."]}
      token_file: admin.token

Paths count from the folder of the file, so that a folder with all of them can be moved. ``${NAME}``,
``${NAME:-default}`` and ``${file:/path}`` stand for a variable or for what a file holds.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from forge_consensus.config.address import parse_endpoint
from forge_consensus.config.file_reads import FileReads, check_private
from forge_consensus.config.plain_data import data_of_text
from forge_consensus.config.rows import parse
from forge_consensus.config.secret_text import NOT_TOLD, looks_like_secret
from forge_consensus.config.setting import Described, Setting
from forge_consensus.config.substitution import expanded
from forge_consensus.errors import InvalidConfigError

SECTION: Final = "client"
TIMEOUT_SECONDS: Final = 5.0
SECONDS: Final = Setting(
    "client.timeout", "float", TIMEOUT_SECONDS, Described(what="A time.", why="It is waited for.", unit="s")
)
FIELDS: Final = (
    "endpoints",
    "cluster_id",
    "timeout",
    "curve_key_file",
    "curve_secret_key",
    "servers",
    "token",
    "token_file",
    "ca_file",
)


@dataclass(frozen=True, slots=True)
class ClientFile:
    """What a client's file says. All paths in it are absolute."""

    endpoints: tuple[str, ...]
    cluster_id: str = ""
    timeout: float = TIMEOUT_SECONDS
    """Seconds."""
    curve_key_file: Path | None = None
    curve_secret_key: str = field(default="", repr=False)
    servers: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """Node id -> the public keys by which it proves who it is."""
    token: str = field(default="", repr=False)
    """What proves to the admin API who the client is."""
    ca_file: Path | None = None
    """The certificate of the authority that the admin API's certificates are checked with."""
    token_file: Path | None = None
    """Where the token is, if it has a file of its own."""

    @property
    def is_secure(self) -> bool:
        """Whether the client has keys, and so speaks CURVE."""
        return bool(self.curve_key_file or self.curve_secret_key)


def read_client_file(path: str | Path, environment: Mapping[str, str] | None = None) -> ClientFile:
    """Return what a client's file says.

    Args:
        path: the file.
        environment: the variables that ``${NAME}`` stands for; None for those of the process.

    Raises `InvalidConfigError` with the file and the field.

    """
    place = Path(os.path.abspath(path))
    reads = FileReads(place.parent)
    try:
        data = data_of_text(place, reads.text(place))
        section = data.get(SECTION, data) if isinstance(data, Mapping) else data
        return Fields(section, place.parent, os.environ if environment is None else environment, reads).client()
    except InvalidConfigError as error:
        raise InvalidConfigError(f"{os.fspath(path)}: {error}") from error


class Fields:
    """The fields of a client's file, one by one."""

    def __init__(self, section: Any, folder: Path, environment: Mapping[str, str], reads: FileReads) -> None:
        if not isinstance(section, Mapping):
            raise InvalidConfigError(f"there must be a section {SECTION} with {', '.join(FIELDS)}")
        if unknown := [str(name) for name in section if name not in FIELDS]:
            raise InvalidConfigError(f"{SECTION}.{unknown[0][:80]}: unknown key, there are {', '.join(FIELDS)}")
        self.section, self.folder, self.environment, self.reads = section, folder, environment, reads

    def client(self) -> ClientFile:
        """Return all of them. Raises `InvalidConfigError` for one that cannot be, or for two that say the same."""
        for one, other in (("curve_key_file", "curve_secret_key"), ("token", "token_file")):
            if one in self.section and other in self.section:
                raise InvalidConfigError(f"{SECTION}.{one} and {SECTION}.{other} are both given: give one of them")
        timeout = self.text("timeout")
        found = ClientFile(
            tuple(
                dict.fromkeys(parse_endpoint(text) for text in self.texts("endpoints", self.section.get("endpoints")))
            ),
            self.text("cluster_id"),
            float(parse(SECONDS, timeout)) if timeout else TIMEOUT_SECONDS,
            self.path("curve_key_file"),
            self.text("curve_secret_key"),
            self.servers(),
            self.token(),
            self.path("ca_file"),
            self.path("token_file"),
        )
        if not found.endpoints:
            raise InvalidConfigError(f"{SECTION}.endpoints is missing: give a list of HOST:PORT")
        if found.timeout <= 0:
            raise InvalidConfigError(f"{SECTION}.timeout is {timeout}: it must be above 0")
        if found.is_secure and not found.servers:
            raise InvalidConfigError(
                f"{SECTION}.servers is missing: with a key of its own a client needs the public keys of the nodes, or "
                "anybody could answer in their place"
            )
        return found

    def text(self, name: str, value: Any = None) -> str:
        """Return a field as a text in which nothing is left to be replaced; "" if it is not there."""
        given = self.section.get(name) if value is None else value
        if given is None:
            return ""
        if isinstance(given, bool) or not isinstance(given, str | int | float):
            raise InvalidConfigError(f"{SECTION}.{name}: give one text")
        try:
            return expanded(str(given), self.environment, self.reads)[0].strip()
        except InvalidConfigError as error:
            raise InvalidConfigError(f"{SECTION}.{name}: {error}") from error

    def texts(self, name: str, given: Any) -> tuple[str, ...]:
        """Return a field that is a list, or one text with commas."""
        if given is None:
            return ()
        rows = given.split(",") if isinstance(given, str) else given
        if not isinstance(rows, list | tuple):
            raise InvalidConfigError(f"{SECTION}.{name}: give a list of texts")
        return tuple(text for row in rows if (text := self.text(name, row)))

    def path(self, name: str) -> Path | None:
        """Return a field that names a file, which counts from the folder of this one; None if it is not there."""
        text = self.text(name)
        if looks_like_secret(text):
            raise InvalidConfigError(
                f"{SECTION}.{name} names a file, and {NOT_TOLD} stands there: write it into a file of mode 0600, and "
                "name that"
            )
        return self.folder / text if text else None

    def servers(self) -> dict[str, tuple[str, ...]]:
        """Return the public keys of the nodes."""
        given = self.section.get("servers")
        if given is None:
            return {}
        if not isinstance(given, Mapping):
            raise InvalidConfigError(f"{SECTION}.servers: give a map from node ids to lists of public keys")
        return {str(node): self.texts(f"servers.{node}", keys) for node, keys in given.items()}

    def token(self) -> str:
        """Return the token. Raises `InvalidConfigError` for a file of it that others may read."""
        path = self.path("token_file")
        if path is None:
            return self.text("token")
        text = self.reads.text(path).strip()
        check_private(path, path.stat().st_mode, f"{SECTION}.token_file")
        return text
