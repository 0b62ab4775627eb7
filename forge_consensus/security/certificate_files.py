"""The files of certificates and of their private keys: read, and written so that nobody ever sees a half of one."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path
from secrets import token_hex
from typing import Final

from forge_consensus.config.file_reads import BYTES_MAX, check_private
from forge_consensus.errors import AlreadyExistsError, FolderNotFoundError, InvalidConfigError, StorageError
from forge_consensus.security.certificates import Certified
from forge_consensus.security.secret_files import SECRET_MODE, write_new_file

CERTIFICATE_MODE: Final = 0o644
AUTHORITY: Final = "ca"
"""The name of the files of an authority."""


def certificate_file(folder: Path, name: str) -> Path:
    """Return where the certificate of that name is. Raises `InvalidConfigError` for a name that no file can have."""
    if "/" in name or "\0" in name or name in {"", ".", ".."}:
        raise InvalidConfigError(f"{name[:80]!r} cannot be the name of a file: name the files with --file")
    return folder / f"{name}.crt"


def key_file(certificate: Path) -> Path:
    """Return where the private key of a certificate is: beside it."""
    return certificate.with_suffix(".key")


def read_certificate(path: Path) -> bytes:
    """Return the bytes of a certificate's file. Raises `InvalidConfigError` if it cannot be read."""
    return read_bytes(path, f"the certificate {str(path)!r}")


def read_private_key(path: Path) -> bytes:
    """Return the bytes of a private key's file. Raises `InvalidConfigError` for one that others may read, or none."""
    return read_bytes(path, "the key file", private=True)


def read_bytes(path: Path, what: str, *, private: bool = False) -> bytes:
    """Return what a file holds. Raises `InvalidConfigError`."""
    try:
        with path.open("rb") as file:
            if private:
                check_private(path, os.fstat(file.fileno()).st_mode, what)
            return file.read(BYTES_MAX)
    except OSError as error:
        named = what if str(path) in what else f"{what} {str(path)!r}"
        raise InvalidConfigError(f"{named} cannot be read: {error.strerror}") from error


def read_authority(folder: Path) -> Certified:
    """Return the authority whose files are in a folder. Raises `InvalidConfigError`."""
    place = certificate_file(folder, AUTHORITY)
    if not place.exists():
        raise InvalidConfigError(
            f"there is no authority in {str(folder)!r}: make one with forge-consensus cert init-ca, or name its folder"
        )
    return Certified(read_certificate(place), read_private_key(key_file(place)))


def write_pair(made: Certified, certificate: Path, *, replace: bool = False) -> None:
    """Write a certificate and, beside it, its key, which only its owner may read.

    Args:
        made: both.
        certificate: the file of the certificate.
        replace: whether files that are there are replaced.

    Raises `AlreadyExistsError`, `FolderNotFoundError` and `StorageError`; then neither file was written.

    """
    places = [(key_file(certificate), made.key, SECRET_MODE), (certificate, made.certificate, CERTIFICATE_MODE)]
    if not replace:
        for path, _, _ in places:
            refuse_existing(path)
    written: list[tuple[Path, Path]] = []
    try:
        for path, data, mode in places:
            beside = path.with_name(f".{path.name}.{token_hex(4)}")
            written.append((beside, path))
            write_new(beside, data, mode)
        for beside, path in written:
            os.replace(beside, path)
    finally:
        for beside, _ in written:
            with suppress(OSError):
                beside.unlink()


def refuse_existing(path: Path) -> None:
    """Raise `AlreadyExistsError` for a file that is there."""
    if path.exists() or path.is_symlink():
        raise AlreadyExistsError(f"{path} is there already: name other files, or replace them with --force")


def write_new(path: Path, data: bytes, mode: int) -> None:
    """Write a new file of that mode, whatever the umask is, and have it on the disk. Raises as `write_pair`."""
    try:
        write_new_file(path, data, mode)
    except FileNotFoundError as error:
        raise FolderNotFoundError(f"there is no folder {path.parent}: make it first, or name another one") from error
    except OSError as error:
        raise StorageError(f"{path.parent} cannot be written: {error.strerror}") from error
