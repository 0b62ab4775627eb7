"""The files of a secure cluster: keys, certificates, the list of access, a configuration for each node and client."""

from __future__ import annotations

import json
import os
import secrets
from collections import Counter
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from forge_consensus.cli.main import PROGRAM
from forge_consensus.config.address import is_loopback
from forge_consensus.config.example import example_text
from forge_consensus.errors import AlreadyExistsError, InvalidConfigError, StorageError
from forge_consensus.security.access import AccessList, Principal, Token
from forge_consensus.security.access_file import data_of_access
from forge_consensus.security.curve import KeyPair, write_key_file
from forge_consensus.security.encryption import KEY_BYTES
from forge_consensus.security.permissions import Role
from forge_consensus.security.secret_files import SECRET_MODE, write_new_file
from forge_consensus.security.x509_names import COMMON_NAME_CHARS_MAX, LOCAL
from forge_consensus.storage.backends.folder import explain, make_directory

if TYPE_CHECKING:
    from forge_consensus.security.certificates import Certified

CLIENTS: Final[dict[str, Role]] = {"admin": "admin", "reader": "read"}
"""The clients that such a cluster has from the beginning, and their roles."""
APPLICATION: Final = "-client"
"""What the name of a node's own application and admin API ends with, as clients of the other nodes."""
ACCESS_FILE: Final = "access.json"
TLS: Final = "-tls"
"""What the names of a node's certificate and of its private key end with."""
DISK: Final = "-disk"
"""What the name of the key ends with under which a node's data are encrypted."""
PUBLIC: Final = 0o644
HEAD: Final = f"""\
# The configuration of a node of a secure forge-consensus cluster: {PROGRAM} node -c FILE
# The host of the node needs this file, the files whose names begin with that of the node, ca.crt and {ACCESS_FILE}; the
# key of the disk belongs on another disk than the data. Nobody else needs them. ca.key stays where new nodes are made.
# Paths are absolute: change them if the files lie elsewhere there.
"""
CLIENT_HEAD: Final = f"""\
# The configuration of a client of a secure forge-consensus cluster: {PROGRAM} status --config FILE
# Whoever has it and the files that it names is this client. Paths count from the folder of this file.
"""


@dataclass(frozen=True, slots=True)
class Written:
    """One file to be written."""

    name: str
    text: str
    mode: int = PUBLIC


def write_secure_set(nodes: Mapping[str, str], cluster: str, out: Path) -> list[Path]:
    """Make all keys and tokens, and write the files of a cluster; returns their paths, in the order of their names.

    Args:
        nodes: node id -> HOST:PORT.
        cluster: the cluster's id.
        out: the folder; it is made if it is missing, and nothing in it is overwritten.

    Raises `AlreadyExistsError` if any of the files is there, `InvalidConfigError` for a node with the name of a client
    or of a file, or with the address of another one, `StorageError`. Nothing is left behind then.

    """
    from forge_consensus.security.certificates import issue, make_authority  # needs the extra crypto

    applications = [f"{node}{APPLICATION}" for node in nodes]
    if clashes := sorted(nodes.keys() & {*CLIENTS, *applications}):
        raise InvalidConfigError(f"{clashes[0]} is the name of a client that is made too: give the node another id")
    if shared := first_twice(nodes.values()):
        raise InvalidConfigError(f"two nodes have the address {shared}: give each one of its own")
    names = [*nodes, *applications, *CLIENTS]
    keys = {name: KeyPair.made() for name in names}
    tokens = {name: Token.made() for name in CLIENTS}
    authority = make_authority(cluster[:COMMON_NAME_CHARS_MAX])
    folder = Path(os.path.abspath(out))
    files = [Written(ACCESS_FILE, access_text(nodes, keys, tokens)), *pair("ca", authority)]
    for node in nodes:
        files += pair(f"{node}{TLS}", issue(authority, cluster, node, hosts_of(nodes[node])))
        files.append(Written(f"{node}{DISK}.key", f"{secrets.token_hex(KEY_BYTES)}\n", SECRET_MODE))
        files.append(Written(f"{node}.yaml", node_text(node, nodes, cluster, folder)))
    for name in CLIENTS:
        files.append(Written(f"{name}.token", f"{tokens[name][1]}\n", SECRET_MODE))
        files.append(Written(f"{name}.yaml", client_text(name, nodes, cluster, keys)))
    if clash := first_twice([*(f"{name}.key" for name in names), *(file.name for file in files)]):
        raise InvalidConfigError(f"two different files would be called {clash}: give the node of that name another id")
    return write_new(folder, keys, files)


def write_new(folder: Path, keys: Mapping[str, KeyPair], files: Iterable[Written]) -> list[Path]:
    """Write the key files and these files into a folder, and return their paths in order. Raises as `write_secure_set`.

    Nothing that is there is overwritten, and after an error nothing is left behind.
    """
    made: list[Path] = []
    try:
        make_directory(folder)
        for name, pair_of_name in keys.items():
            write_key_file(folder / f"{name}.key", pair_of_name)
            made.append(folder / f"{name}.key")
        for file in files:
            write_new_file(folder / file.name, file.text.encode(), file.mode)
            made.append(folder / file.name)
    except BaseException as error:
        for path in made:
            with suppress(OSError):
                path.unlink()
        if isinstance(error, FileExistsError):
            raise AlreadyExistsError(
                f"{error.filename} is there already: name another folder by --out, because keys in use are not replaced"
            ) from error
        if isinstance(error, OSError):
            raise StorageError(f"{folder} cannot be written: {explain(error)}") from error
        raise
    return sorted(made)


def first_twice(texts: Iterable[str]) -> str:
    """Return the first text that comes twice, empty if none does."""
    return next((text for text, count in Counter(texts).items() if count > 1), "")


def hosts_of(address: str) -> list[str]:
    """Return the names by which a node's certificate is valid: its host, and on one machine all names of that."""
    host = address.rpartition(":")[0].strip("[]")
    return [host, *LOCAL] if is_loopback(host) else [host]


def pair(name: str, made: Certified) -> list[Written]:
    """Return the files of a certificate and of its private key."""
    return [Written(f"{name}.crt", made.certificate.decode()), Written(f"{name}.key", made.key.decode(), SECRET_MODE)]


def access_text(nodes: Mapping[str, str], keys: Mapping[str, KeyPair], tokens: Mapping[str, tuple[Token, str]]) -> str:
    """Return the list of access with the public keys of all and the digests of the tokens."""
    members = [Principal(node, frozenset[Role]({"peer"}), keys=(keys[node].public,)) for node in nodes]
    clients = [
        Principal(name, frozenset({role}), keys=(keys[name].public,), tokens=(tokens[name][0],))
        for name, role in CLIENTS.items()
    ]
    applications = [
        Principal(f"{node}{APPLICATION}", frozenset[Role]({"admin"}), keys=(keys[f"{node}{APPLICATION}"].public,))
        for node in nodes
    ]
    return json.dumps(data_of_access(AccessList([*members, *applications, *clients])), indent=2) + "\n"


def node_text(node: str, nodes: Mapping[str, str], cluster: str, folder: Path) -> str:
    """Return the configuration of a node."""
    values: dict[str, Any] = {
        "node_id": node,
        "cluster_id": cluster,
        "bind": nodes[node],
        "peers": dict(nodes),
        "storage_path": str(folder / "data" / node),
        "security.curve_key_file": str(folder / f"{node}.key"),
        "security.client_key_file": str(folder / f"{node}{APPLICATION}.key"),
        "security.access_file": str(folder / ACCESS_FILE),
        "security.enable_tls": "true",
        "security.cert_file": str(folder / f"{node}{TLS}.crt"),
        "security.key_file": str(folder / f"{node}{TLS}.key"),
        "security.ca_file": str(folder / "ca.crt"),
        "security.enable_encryption": "true",
        "security.encryption_key_file": str(folder / f"{node}{DISK}.key"),
    }
    return example_text(HEAD, values)


def client_text(name: str, nodes: Mapping[str, str], cluster: str, keys: Mapping[str, KeyPair]) -> str:
    """Return the configuration of a client."""
    rows = {
        "endpoints": list(nodes.values()),
        "cluster_id": cluster,
        "curve_key_file": f"{name}.key",
        "servers": {node: [keys[node].public] for node in nodes},
        "token_file": f"{name}.token",
        "ca_file": "ca.crt",
    }
    # a key of Z85 may hold ``${``, which would stand for a variable
    lines = [f"  {field}: {json.dumps(value).replace('${', '$${')}" for field, value in rows.items()]
    return "\n".join([CLIENT_HEAD + "client:", *lines]) + "\n"


def next_steps(nodes: Mapping[str, str], out: Path) -> list[str]:
    """Return what to do with the files, one line each."""
    lines = [f"  {PROGRAM} node -c {out / f'{node}.yaml'}" for node in nodes]
    elsewhere = []
    if any(len(hosts_of(address)) == 1 for address in nodes.values()):
        elsewhere = [
            f"copy to each node's host the files with its name, ca.crt and {ACCESS_FILE}; change the paths in the .yaml"
        ]
    return [
        *elsewhere,
        "start the nodes:",
        *lines,
        "see whether they serve:",
        f"  {PROGRAM} status --config {out / 'admin.yaml'}",
    ]
