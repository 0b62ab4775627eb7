"""Where the encryption key of a node comes from: a text, a file that only its owner may read, or a command.

The command is the hook for a key management service: it prints the key, and the key is nowhere on the node's disk.
"""

from __future__ import annotations

import base64
import binascii
import shlex
import subprocess
from contextlib import suppress
from pathlib import Path
from typing import Final

from forge_consensus.config.security import SecuritySettings
from forge_consensus.errors import InvalidConfigError
from forge_consensus.security.encryption import KEY_BYTES, EncryptionKey
from forge_consensus.security.secret_files import read_secret_file, write_new_file

HEX_CHARS: Final = 2 * KEY_BYTES
TEXT_MAX: Final = 256
COMMAND_SECONDS: Final = 10.0
"""How long the command may take."""
MAKE_ONE: Final = "forge-consensus storage new-key FILE makes one"


def key_of_settings(settings: SecuritySettings) -> EncryptionKey | None:
    """Return the key that a node's settings give, None if its disk is not encrypted. Raises `InvalidConfigError`."""
    if not settings.enable_encryption:
        return None
    if settings.encryption_key_file:
        return read_encryption_key(settings.encryption_key_file)
    if settings.encryption_key_command:
        return key_of_command(settings.encryption_key_command)
    return key_of_text(settings.encryption_key or "", "security.encryption_key")


def key_of_text(text: str, what: str) -> EncryptionKey:
    """Return the key in a text: 32 bytes as 64 hexadecimal digits, or as base64.

    `what` names the text in the error, which never shows it. Raises `InvalidConfigError`.
    """
    text = text.strip()
    data = b""
    with suppress(ValueError, binascii.Error):
        data = bytes.fromhex(text) if len(text) == HEX_CHARS else base64.b64decode(text, altchars=None, validate=True)
    if len(data) != KEY_BYTES:
        raise InvalidConfigError(
            f"{what} is no encryption key: it must be {KEY_BYTES} random bytes, as {HEX_CHARS} hexadecimal digits or "
            f"in base64. {MAKE_ONE}"
        )
    return EncryptionKey(data)


def read_encryption_key(path: str | Path) -> EncryptionKey:
    """Return the key in a file. Raises `InvalidConfigError` for one that others may read, or that holds none."""
    place = Path(path)
    return key_of_text(read_secret_file(place, TEXT_MAX), f"the content of {str(place)!r}")


def write_encryption_key(path: str | Path) -> EncryptionKey:
    """Write a new key into a file that only its owner may read, and return it.

    Raises `FileExistsError`, `OSError`; nothing is overwritten.
    """
    key = EncryptionKey.made()
    write_new_file(path, base64.b64encode(key.secret) + b"\n")
    return key


def key_of_command(command: str) -> EncryptionKey:
    """Return the key that a command prints; it is run without a shell, and what it prints is never shown.

    Raises `InvalidConfigError` if it fails, takes longer than `COMMAND_SECONDS`, or prints no key.
    """
    try:
        words = shlex.split(command)
        done = subprocess.run(
            words, stdin=subprocess.DEVNULL, capture_output=True, timeout=COMMAND_SECONDS, check=False
        )
    except subprocess.TimeoutExpired:
        raise InvalidConfigError(
            f"the command for the encryption key did not end within {COMMAND_SECONDS:g} s"
        ) from None
    except (OSError, ValueError, IndexError) as error:
        why = error.strerror if isinstance(error, OSError) else str(error)
        raise InvalidConfigError(f"the command for the encryption key cannot be run: {why}") from None
    if done.returncode:
        raise InvalidConfigError(
            f"the command for the encryption key ended with {done.returncode}: run it by hand to see why"
        )
    return key_of_text(
        done.stdout[:TEXT_MAX].decode("ascii", "replace"), "what the command for the encryption key printed"
    )
