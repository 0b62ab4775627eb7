"""Credentials: what a client shows a node, and by which keys the node must prove that it is one."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from forge_consensus.config.client_file import ClientFile
from forge_consensus.errors import InvalidConfigError
from forge_consensus.security.curve import KeyPair, is_key, read_key_file


@dataclass(frozen=True, slots=True)
class Credentials:
    """The keys of a client, and those of the nodes.

    Args:
        keys: the client's own pair.
        servers: node id, or address as ``HOST:PORT``, -> the public keys by which it may prove itself; several while a
            key is exchanged.
        present: returns the same as it is now, for a client that outlives such an exchange; None if it stays.

    Raises `InvalidConfigError` for what is no public key, and without any.

    """

    keys: KeyPair
    servers: Mapping[str, tuple[str, ...]]
    present: Callable[[], Mapping[str, tuple[str, ...]]] | None = field(default=None, repr=False, compare=False)
    known: tuple[str, ...] = field(init=False, repr=False)
    """All keys of `servers`, each once."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "servers", {name: tuple(keys) for name, keys in self.servers.items()})
        object.__setattr__(self, "known", all_of(self.servers))
        if not self.known:
            raise InvalidConfigError(
                "the credentials hold no public key of any node, and without one anybody could answer in a node's "
                "place: give servers"
            )
        for key in self.known:
            if not is_key(key):
                raise InvalidConfigError(f"{key[:60]!r} is no public key of a node: it has 40 characters of Z85")

    def of(self, address: str) -> tuple[str, ...]:
        """Return the keys by which whoever answers at an address may prove that it is a node: all that are known.

        Where a node listens may change while its key stays, so only an address that is named in `servers` has keys of
        its own.
        """
        servers = self.servers if self.present is None else self.present()
        return servers.get(address) or all_of(servers) or self.known


def all_of(servers: Mapping[str, tuple[str, ...]]) -> tuple[str, ...]:
    """Return all keys, each once."""
    return tuple(dict.fromkeys(key for keys in servers.values() for key in keys))


def credentials_of(file: ClientFile) -> Credentials | None:
    """Return the credentials that a client's file gives, None for one without keys, which speaks without encryption.

    Raises `InvalidConfigError` for keys that are none, and for a key file that others may read.
    """
    if file.curve_key_file is not None:
        return Credentials(read_key_file(file.curve_key_file), file.servers)
    if file.curve_secret_key:
        return Credentials(KeyPair.of_secret(file.curve_secret_key, "client.curve_secret_key"), file.servers)
    return None
