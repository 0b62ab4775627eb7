"""Keys of CURVE, the encryption of ZeroMQ: pairs of keys, their files, and sockets that use them.

A public key is the identity of who holds the secret one. Both are texts of 40 characters in Z85 (ZeroMQ RFC 32). A key
file holds the secret key alone, in one line, because the public one follows from it; only its owner may read it.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import zmq

from forge_consensus.errors import InvalidConfigError
from forge_consensus.security.secret_files import read_secret_file, write_new_file

KEY_CHARS: Final = 40
Z85: Final = frozenset("0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ.-:+=^!/*?&<>()[]{}@%$#")


@dataclass(frozen=True, slots=True)
class KeyPair:
    """A secret key and the public one that follows from it, as texts in Z85."""

    public: str
    secret: str = field(repr=False)

    @classmethod
    def made(cls) -> KeyPair:
        """Return a new pair, from the random source of the system.

        Its public key does not begin with a dash, because a command would take that for an option.
        """
        public, secret = zmq.curve_keypair()
        while public.startswith(b"-"):
            public, secret = zmq.curve_keypair()
        return cls(public.decode(), secret.decode())

    @classmethod
    def of_secret(cls, secret: str, what: str = "the secret key") -> KeyPair:
        """Return the pair of a secret key. `what` names it in the error; the key itself is never in a text.

        Raises `InvalidConfigError` for what is no key.
        """
        if not is_key(secret):
            raise InvalidConfigError(
                f"{what} is no key: it must be {KEY_CHARS} characters of Z85, as `keygen` writes them"
            )
        return cls(zmq.curve_public(secret.encode()).decode(), secret)


def is_key(text: str) -> bool:
    """Whether a text is a key in Z85."""
    return len(text) == KEY_CHARS and Z85.issuperset(text)


def read_key_file(path: str | Path) -> KeyPair:
    """Return the keys of a key file. Raises `InvalidConfigError` for one that others may read, or that is none."""
    place = Path(path)
    return KeyPair.of_secret(read_secret_file(place, 4 * KEY_CHARS).strip(), f"the content of {str(place)!r}")


def write_key_file(path: str | Path, keys: KeyPair) -> None:
    """Write a key file that only its owner may read. Raises `FileExistsError`, `OSError`; nothing is overwritten."""
    write_new_file(path, f"{keys.secret}\n".encode())


def be_client(socket: zmq.Socket[Any], keys: KeyPair, server: str) -> None:
    """Have a socket connect with CURVE, as the holder of these keys, to the holder of the public key `server` only.

    Call it before the socket connects.
    """
    socket.setsockopt(zmq.CURVE_SERVERKEY, server.encode())
    socket.setsockopt(zmq.CURVE_PUBLICKEY, keys.public.encode())
    socket.setsockopt(zmq.CURVE_SECRETKEY, keys.secret.encode())


def be_server(socket: zmq.Socket[Any], keys: KeyPair, domain: str) -> None:
    """Have a socket accept CURVE only, as the holder of these keys.

    Who connects is judged by the ZAP handler of the socket's context, under that domain. Call it before the socket
    binds.
    """
    socket.setsockopt(zmq.CURVE_SERVER, 1)
    socket.setsockopt(zmq.CURVE_SECRETKEY, keys.secret.encode())
    socket.setsockopt(zmq.ZAP_DOMAIN, domain.encode())
