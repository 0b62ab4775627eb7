"""Checks of what protects a node and a client: connections, files with secrets, certificates, the list of access.

They go by what the configuration says and by the files that it names; nothing has to run.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from forge_consensus.actors.transport.endpoint import events_endpoint
from forge_consensus.checks.access import listed_findings
from forge_consensus.checks.certificates import server_findings, validity_findings
from forge_consensus.checks.finding import Finding, ok, problem, warning
from forge_consensus.checks.secret_files import (
    SECRETS,
    SecretFile,
    age_findings,
    configuration_findings,
    included_findings,
    private_findings,
    strength_findings,
    writable_findings,
)
from forge_consensus.config.address import IPC, is_loopback
from forge_consensus.config.client_file import ClientFile
from forge_consensus.config.loading import LoadedConfig
from forge_consensus.config.node import NodeSettings
from forge_consensus.config.resolving import ROWS
from forge_consensus.config.shown import values_of
from forge_consensus.errors import InvalidConfigError
from forge_consensus.security.access import AccessList
from forge_consensus.security.access_file import read_access_file
from forge_consensus.security.credentials import credentials_of
from forge_consensus.security.tls import TlsFiles
from forge_consensus.service.node_security import check_exposure, check_own_key, own_keys

CONNECTIONS: Final = "connections"
AT_REST: Final = "encryption"
KEY_SETTINGS: Final = ("curve_key_file", "client_key_file", "key_file", "encryption_key_file")
"""The settings of `security` that name a file with a secret alone."""
PLAIN: Final = "is plain: whoever is on the way reads everything and can change it"


@dataclass(frozen=True, slots=True)
class When:
    """What ages are judged by."""

    now: float
    """Seconds since 1970."""
    key_days: float
    """From how many days on a key or a token is old."""


def node_findings(config: LoadedConfig, when: When) -> list[Finding]:
    """Check what protects a node, by its configuration."""
    security = config.node.security
    named = [(name, getattr(security, name)) for name in KEY_SETTINGS]
    files = [SecretFile(f"security.{name}", Path(path)) for name, path in named if path]
    secrets = {name: str(value) for name, value in values_of(config).items() if ROWS[name].described.secret and value}
    own, included = configuration_files(config)
    found = connection_findings(config)
    found += private_findings(files)
    found += age_findings(files, when.key_days, when.now)
    found += configuration_findings(own, secrets)
    found += included_findings(included)
    found += writable_findings(leading_files(config, own))
    tls = TlsFiles.of(security)
    if tls is not None:
        found += server_findings(tls, Path(security.ca_file) if security.ca_file else None, when.now)
    elif security.ca_file:
        found += validity_findings(Path(security.ca_file), when.now)
    if api_key := config.program.admin_api.api_key:
        found += strength_findings({"admin_api.api_key": api_key})
    return [*found, disk(config), *access_findings(config)]


def configuration_files(config: LoadedConfig) -> tuple[list[Path], list[Path]]:
    """Return the files of a configuration, and those whose content it takes by ``${file:...}``."""
    source = config.source
    if source is None:
        return [], []
    own = [source.base / path for path in source.files]
    return own, [place for path in source.seen if (place := source.base / path) not in own]


def leading_files(config: LoadedConfig, own: list[Path]) -> dict[Path, str]:
    """Return the files by which a node goes, each with what whoever may write to it can do."""
    security = config.node.security
    found = dict.fromkeys(own, "can have the node do anything when it reads it again")
    if security.access_file:
        found[Path(security.access_file)] = "can let themselves in as an admin"
    for path in (security.ca_file, security.cert_file):
        if path:
            found[Path(path)] = "can have others trusted in the place of those who are meant"
    return found


def is_local(address: str) -> bool:
    """Whether only this machine reaches an address."""
    return address.startswith(IPC) or is_loopback(address.rpartition(":")[0].strip("[]"))


# --- connections ------------------------------------------------------------------------------------------------------


def connection_findings(config: LoadedConfig) -> list[Finding]:
    """Check which connections of a node are plain, and who reaches them."""
    node, security = config.node, config.node.security
    events = node.events_bind or events_endpoint(node.bind)
    found = []
    try:
        check_exposure(node, node.bind, events)
    except InvalidConfigError as error:
        found.append(problem(CONNECTIONS, str(error)))
    else:
        found += [warning(CONNECTIONS, *told) for told in plain_places(config, events)]
    found += admin_findings(config)
    if security.insecure and not found:
        text = "security.insecure is on, and nothing here needs it: another bind would be served without protection"
        found.append(warning(CONNECTIONS, text, "take it out (--insecure)"))
    if security.skip_verify:
        text = "security.skip_verify is on: requests are sent on to applications whose certificates nobody has checked"
        found.append(warning(CONNECTIONS, text, "take it out, and name their authority in security.ca_file"))
    if found:
        return found
    if security.has_keys:
        return [ok(CONNECTIONS, "ZeroMQ is encrypted, and whoever has no key in the list of access is refused")]
    return [ok(CONNECTIONS, f"without keys, and only this machine reaches {node.bind}")]


def plain_places(config: LoadedConfig, events: str) -> list[tuple[str, str]]:
    """Return text and advice for each address of ZeroMQ and of metrics that others reach without encryption."""
    node, security = config.node, config.node.security
    found = []
    for name, address in (("bind", node.bind), ("events_bind", events)):
        if not security.has_keys and not is_local(address):
            text = f"{name} {address} {PLAIN}, because security.insecure allows it"
            found.append((text, "give the node keys: forge-consensus init --secure, or keygen; or bind to 127.0.0.1"))
    if node.metrics is not None and ":" in node.metrics and not is_local(node.metrics):
        text = f"metrics {node.metrics} is plain: everybody who reaches it sees how the cluster fares"
        found.append((text, "bind it to 127.0.0.1, or take those of the admin API, which has TLS and tokens"))
    return found


def admin_findings(config: LoadedConfig) -> list[Finding]:
    """Check the address of the admin API."""
    wanted, security = config.program.admin_api, config.node.security
    if wanted.address is None or is_local(wanted.address):
        return []
    missing = [] if security.enable_tls else ["TLS (security.enable_tls)"]
    missing += [] if wanted.enable_auth or security.has_keys else ["tokens (admin_api.enable_auth)"]
    if not missing:
        return []
    text = f"admin_api.bind {wanted.address} is reached from other machines and has no {' and no '.join(missing)}"
    advice = "give it both, or bind it to 127.0.0.1"
    if wanted.insecure:
        return [warning(CONNECTIONS, f"{text}, because admin_api.insecure allows it", advice)]
    return [problem(CONNECTIONS, f"{text}, so the node does not start", advice)]


# --- the disk, the list of access -------------------------------------------------------------------------------------


def disk(config: LoadedConfig) -> Finding:
    """Check whether what is on the disk is encrypted."""
    if config.node.security.enable_encryption:
        return ok(AT_REST, "what the node keeps on its disk is encrypted")
    return warning(
        AT_REST,
        "security.enable_encryption is off: whoever gets the folder, the disk or a copy of them reads all data",
        "encrypt it (docs/security.md), unless the disk itself is encrypted and no copies leave it",
    )


def access_findings(config: LoadedConfig) -> list[Finding]:
    """Check the access file of a node, and whether the node is in it with its own key."""
    file = config.node.security.access_file
    if not file:
        return []
    try:
        listed = read_access_file(Path(file))
    except InvalidConfigError as error:
        return [problem("access", str(error))]
    found = listed_findings(listed.by_name.values(), file)
    return [*found, *refused(lambda: check_named(config.node, listed, file), "access")]


def check_named(node: NodeSettings, listed: AccessList, file: str) -> None:
    """Raise `InvalidConfigError` if a list of access has other keys for a node than its own."""
    keys = own_keys(node.security)
    if keys is not None:
        check_own_key(node.node_id, keys, listed, file)


def refused(make: Callable[[], object], check: str) -> list[Finding]:
    """Return a problem if something cannot be made of a configuration; its key files have a check of their own."""
    try:
        make()
    except InvalidConfigError as error:
        told = str(error)
        return [] if "key file" in told else [problem(check, told)]
    return []


# --- clients ----------------------------------------------------------------------------------------------------------


def client_findings(file: ClientFile, path: Path, when: When) -> list[Finding]:
    """Check what protects a client.

    Args:
        file: what its file says.
        path: where the file is.
        when: what ages are judged by.

    """
    named = [("client.curve_key_file", file.curve_key_file), ("client.token_file", file.token_file)]
    files = [SecretFile(name, place) for name, place in named if place is not None]
    found = [client_connection(file), *private_findings(files), *age_findings(files, when.key_days, when.now)]
    secrets = {"client.curve_secret_key": file.curve_secret_key}
    if file.token_file is None:
        secrets["client.token"] = file.token
    found += configuration_findings([path], secrets)
    found += writable_findings({path: "can send this client's commands, keys and tokens to another cluster"})
    if file.ca_file is not None:
        found += validity_findings(file.ca_file, when.now)
    if file.token:
        found += strength_findings({"client.token" if file.token_file is None else "client.token_file": file.token})
    return [*found, *refused(lambda: credentials_of(file), SECRETS)]


def client_connection(file: ClientFile) -> Finding:
    """Check whether a client's connections are plain, and on which way."""
    if file.is_secure:
        return ok(
            CONNECTIONS, "this client speaks encrypted, and with nodes that prove one of the keys in its file only"
        )
    if away := [address for address in file.endpoints if not is_local(address)]:
        text = f"the connection of this client to {', '.join(away)} {PLAIN}"
        return warning(
            CONNECTIONS, text, "give the nodes and this client keys: forge-consensus init --secure, or keygen"
        )
    return ok(CONNECTIONS, "this client has no keys, and asks nodes of this machine only")
