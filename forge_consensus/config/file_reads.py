"""Reading the files of a configuration: what each held, so that a change of it is noticed later."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable
from contextlib import suppress
from hashlib import sha256
from pathlib import Path
from typing import Final

from forge_consensus.errors import InvalidConfigError

BYTES_MAX: Final = 1 << 20
"""No file of a configuration has more."""
OTHERS: Final = stat.S_IRWXG | stat.S_IRWXO
"""The bits of a file's mode by which others than its owner may do something with it."""


def text_of_file(path: Path) -> str:
    """Return what the file holds. Raises `InvalidConfigError` if it cannot be read, is too large, or is no text."""
    return text_of(path, bytes_of(path))


def text_of(path: Path, data: bytes) -> str:
    """Return the text in the bytes of a file. Raises `InvalidConfigError` if they are too many, or no text."""
    if len(data) > BYTES_MAX:
        raise InvalidConfigError(f"{str(path)!r} has more than {BYTES_MAX} bytes: it is no text of a configuration")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise InvalidConfigError(
            f"{str(path)!r} is not UTF-8: byte {error.start} is {data[error.start]:#04x}"
        ) from error


def bytes_of(path: Path, place: Path | None = None, *, regular: bool = False) -> bytes:
    """Return the bytes of a file, one more than `BYTES_MAX` at most.

    Args:
        path: the file, as texts name it.
        place: where it is, if that is not `path`.
        regular: whether it must be a regular file. Another one, such as a pipe, can be read once only, and may keep
            its reader waiting for ever.

    Raises `InvalidConfigError` if it cannot be read.

    """
    try:
        # Without O_NONBLOCK the opening of a pipe waits for somebody who writes into it.
        descriptor = os.open(path if place is None else place, os.O_RDONLY | os.O_CLOEXEC | regular * os.O_NONBLOCK)
        with open(descriptor, "rb") as file:
            if regular and not stat.S_ISREG(os.fstat(descriptor).st_mode):
                raise InvalidConfigError(f"{str(path)!r} is no regular file, so it cannot be read again: give a file")
            return file.read(BYTES_MAX + 1)
    except (OSError, ValueError) as error:
        what = error.strerror if isinstance(error, OSError) else str(error)
        raise InvalidConfigError(f"{str(path)!r} cannot be read: {what}") from error


def check_private(path: Path, mode: int, what: str) -> None:
    """Check that only its owner may read a file that holds a secret.

    Args:
        path: the file.
        mode: its mode, as `os.stat` tells it.
        what: what the file is, for the error: it begins the sentence.

    Raises `InvalidConfigError` if others may do anything with it.

    """
    if mode & OTHERS:
        raise InvalidConfigError(
            f"{what} {str(path)!r} has mode {stat.S_IMODE(mode):04o}, so others may read it: chmod 600 it, and replace "
            "what it holds if they could"
        )


def here() -> Path:
    """Return the folder from which relative paths count now; "." if it is gone."""
    with suppress(OSError):
        return Path.cwd()
    return Path()


class FileReads:
    """One reading of a configuration's files.

    Args:
        base: the folder from which relative paths count, wherever the process is by now.
        regular: see `bytes_of`.

    """

    def __init__(self, base: Path | None = None, *, regular: bool = False) -> None:
        self.base = here() if base is None else base
        self.regular = regular
        self.seen: dict[Path, str] = {}
        """What each file held, as a digest; or why it could not be read."""

    def text(self, path: Path) -> str:
        """Return what a file holds. Raises `InvalidConfigError` as `text_of_file` does."""
        try:
            data = bytes_of(path, self.base / path, regular=self.regular)
        except InvalidConfigError as error:
            self.seen[path] = str(error)
            raise
        self.seen[path] = sha256(data).hexdigest()
        return text_of(path, data)

    def look(self, paths: Iterable[Path]) -> dict[Path, str]:
        """Return what these files hold now, as `seen` has it, without reading what is in them."""
        for path in paths:
            with suppress(InvalidConfigError):
                self.text(path)
        return self.seen
