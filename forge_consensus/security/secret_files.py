"""Files with secrets: read only if nobody else may read them, written new and whole with the mode that is meant."""

from __future__ import annotations

import os
import stat
from contextlib import suppress
from pathlib import Path
from typing import Final

from forge_consensus.config.file_reads import check_private
from forge_consensus.errors import InvalidConfigError

SECRET_MODE: Final = 0o600


def read_secret_file(path: Path, bytes_max: int) -> str:
    """Return the text of a key file.

    Args:
        path: the file.
        bytes_max: what follows these many bytes is not read.

    Raises `InvalidConfigError` if it cannot be read, is no regular file, or if others may read it.

    """
    try:
        with path.open("rb") as file:
            status, data = os.fstat(file.fileno()), file.read(bytes_max)
    except OSError as error:
        raise InvalidConfigError(f"the key file {str(path)!r} cannot be read: {error.strerror}") from error
    if not stat.S_ISREG(status.st_mode):
        raise InvalidConfigError(f"the key file {str(path)!r} is no regular file")
    check_private(path, status.st_mode, "the key file")
    return data.decode("ascii", "replace")


def write_new_file(path: str | Path, data: bytes, mode: int = SECRET_MODE) -> None:
    """Write a file that was not there, and have it on the disk; of a failed attempt nothing is left.

    Args:
        path: the file; its folder exists.
        data: what it holds.
        mode: its mode, whatever the mask of the process. Until all is written only its owner may read it.

    Raises `FileExistsError`, `OSError`.

    """
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode & SECRET_MODE)
    try:
        with open(descriptor, "wb") as file:
            file.write(data)
            file.flush()
            os.fchmod(descriptor, mode)
            os.fsync(descriptor)
    except BaseException:
        with suppress(OSError):
            os.unlink(path)
        raise
