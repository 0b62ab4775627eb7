"""The settings of a program that runs one node: what the node itself, embedded in an application, does not decide."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import ClassVar, Final

from forge_consensus.config.address import IPC, bind_address
from forge_consensus.config.setting import check, setting
from forge_consensus.errors import InvalidConfigError

LOG_LEVELS: Final = ("debug", "info", "warning", "error")
LOG_FORMATS: Final = ("text", "json")
PREFIX: Final = re.compile(r"(/[A-Za-z0-9._~-]+)*")
PREFIX_CHARS_MAX: Final = 200
API_KEY_CHARS_MIN: Final = 16
HOST: Final = re.compile(r"[A-Za-z0-9_.-]{1,253}")


@dataclass(frozen=True, slots=True)
class AdminApiSettings:
    """Where and how a node is asked over HTTP. Raises `InvalidConfigError`."""

    SECTION: ClassVar[str] = "admin_api"

    enabled: bool = setting(
        True,
        original="admin_api.enabled",
        what="Whether the admin API is served where admin_api.bind says.",
        why="Who gives an address wants it; a file for many nodes can switch it off on one.",
    )
    bind: str | None = setting(
        None,
        what="HOST:PORT where the node serves the admin API, the dashboard, health, metrics and events over HTTP; port "
        "0 takes a free one.",
        why="A port that nobody asked for should not be open.",
    )
    path_prefix: str = setting(
        "/consensus",
        original="admin_api.path_prefix",
        what="What stands before the paths of the Go original; everything is there too, besides at the root.",
        why="The default of the Go original.",
    )
    enable_auth: bool = setting(
        False,
        original="admin_api.enable_auth",
        what="Whether the API asks everybody for a token or a certificate, and does what the list of access allows to "
        "its holder; always so on a node with a CURVE key.",
        why="The default of the Go original; without it the API answers its own machine only.",
    )
    api_key: str | None = setting(
        None,
        secret=True,
        original="admin_api.api_key",
        what="A token of somebody with the role admin, beside those in the list of access.",
        why="One key is enough to begin with; tokens with names, roles and an end are in the list of access.",
    )
    insecure: bool = setting(
        False,
        what="Whether admin_api.bind may be an address that other machines reach although nobody is asked for a token, "
        "or tokens would travel without TLS.",
        why="Whoever reaches such an API, or listens to it, may remove members and write keys.",
    )
    hosts: str = setting(
        "",
        what="Names with commas by which the server may be addressed besides IP addresses, localhost and the name of "
        "this machine.",
        why="A foreign name that leads here may belong to a page that attacks its visitors (DNS rebinding).",
    )

    def __post_init__(self) -> None:
        check(self)
        if self.bind is not None:
            checked_admin_bind(self.bind)
        object.__setattr__(self, "path_prefix", checked_prefix(self.path_prefix))
        checked_hosts(self.hosts)
        if self.api_key and not self.enable_auth:
            raise InvalidConfigError(
                "admin_api.api_key is given and admin_api.enable_auth is off, so nobody would be asked for it: switch "
                "that on"
            )
        if self.api_key and len(self.api_key) < API_KEY_CHARS_MIN:
            raise InvalidConfigError(
                f"admin_api.api_key has fewer than {API_KEY_CHARS_MIN} characters, so it can be guessed: give a random "
                "one, such as from openssl rand -base64 32"
            )

    @property
    def names(self) -> tuple[str, ...]:
        """The names in `hosts`, one by one."""
        return tuple(name for part in self.hosts.split(",") if (name := part.strip()))

    @property
    def address(self) -> str | None:
        """Where the API is served, None for nowhere."""
        return self.bind if self.enabled else None


def checked_admin_bind(text: str) -> str:
    """Return where the API is served. Raises `InvalidConfigError` for what is no HOST:PORT."""
    if text.startswith(IPC):
        raise InvalidConfigError(f"admin_api.bind is {text!r}: browsers and load balancers ask at HOST:PORT")
    try:
        return bind_address(text)
    except InvalidConfigError as error:
        raise InvalidConfigError(f"admin_api.bind: {error}") from error


def checked_prefix(text: str) -> str:
    """Return a prefix without a slash at its end. Raises `InvalidConfigError` for what is none."""
    prefix = text.rstrip("/")
    if not PREFIX.fullmatch(prefix) or len(prefix) > PREFIX_CHARS_MAX:
        raise InvalidConfigError(
            f"admin_api.path_prefix is {text[:80]!r}: it begins with a slash and holds letters, digits and ._~- only, "
            "such as /consensus"
        )
    return prefix


def checked_hosts(text: str) -> str:
    """Return names of hosts with commas between them. Raises `InvalidConfigError` for one that is none."""
    for name in filter(None, map(str.strip, text.split(","))):
        if not HOST.fullmatch(name):
            raise InvalidConfigError(f"admin_api.hosts has {name[:80]!r}: give names without port, such as node1.lan")
    return text


@dataclass(frozen=True, slots=True)
class ReloadSettings:
    """Whether and how often the files of the configuration are looked at. Raises `InvalidConfigError`."""

    SECTION: ClassVar[str] = "reload"

    watch: bool = setting(
        True,
        reload="hot",
        what="Whether the configuration is read again when what its files hold has changed.",
        why="Whoever changes a file of a running node, or the ConfigMap behind it, means that node.",
    )
    interval: float = setting(
        2.0,
        unit="s",
        reload="hot",
        minimum=0.1,
        what="How often the files are looked at.",
        why="Small files are read in less than a millisecond, and nobody waits longer than two seconds for a change.",
    )

    def __post_init__(self) -> None:
        check(self)


@dataclass(frozen=True, slots=True)
class ProgramSettings:
    """Everything that ``forge-consensus node`` takes besides `NodeSettings`. Raises `InvalidConfigError`."""

    machine: str = setting(
        "",
        what="MODULE:CLASS of the state machine; without it, keys and values.",
        why="Keys and values need no code, and a node says at once if it does not find a machine.",
    )
    log_level: str = setting(
        "info",
        reload="hot",
        original="observability.logging.level",
        what="From which level on lines go to stderr: debug, info, warning or error.",
        why="The default of the Go original: changes of state, and no line for each command.",
    )
    log_format: str = setting(
        "text",
        reload="hot",
        original="observability.logging.enable_structured",
        what="text for people, or json: one object a line.",
        why="Whoever starts a node by hand reads the lines; a service's manager sets json.",
    )
    exit_when_removed: bool = setting(
        False,
        reload="hot",
        what="Whether the program ends with exit code 0 when its node was removed from the cluster.",
        why="A manager of services would start it again and again; who wants its end asks for it.",
    )

    admin_api: AdminApiSettings = field(default_factory=AdminApiSettings)
    reload: ReloadSettings = field(default_factory=ReloadSettings)

    def __post_init__(self) -> None:
        check(self)
        for name, allowed in (("log_level", LOG_LEVELS), ("log_format", LOG_FORMATS)):
            value = getattr(self, name)
            if value.lower() not in allowed:
                raise InvalidConfigError(f"{name} is {value!r}: it is one of {', '.join(allowed)}")
            object.__setattr__(self, name, value.lower())
