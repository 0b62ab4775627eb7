"""Snapshot files: their format, and how one is written, read, checked and removed.

A file is: magic and version; the header's length, crc32 and bytes (a msgpack map that this module
does not interpret beyond "index" and "term"); chunks, each as length, crc32 and bytes; an end mark,
the number of chunks, the sum of their lengths, and the sha256 of everything before it. Integers are
big-endian. A file gets its name only when it is complete and durable. In a folder that is encrypted the whole of it is
(`forge_consensus.storage.backends.encrypted_file`); offsets and sizes here are those of what it was before.
"""

import errno
import itertools
import os
import re
import struct
import zlib
from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from typing import Any, BinaryIO, Final, Protocol, Self

import msgpack

from forge_consensus.errors import CorruptionError, InvalidConfigError, SnapshotFailedError
from forge_consensus.storage.backends.encrypted_file import MAGIC as ENCRYPTED
from forge_consensus.storage.backends.encrypted_file import (
    DecryptedFile,
    EncryptedWriter,
    FileKeys,
    key_id_of,
    stored_size,
)
from forge_consensus.storage.backends.folder import TEMPORARY_SUFFIX, fsync_directory, tell_step
from forge_consensus.storage.backends.sealed import REJOIN
from forge_consensus.storage.snapshots.rests import WORK_BYTES, Rests

MAGIC: Final = b"FCSNAP\r\n"
VERSION: Final = 1
PREAMBLE: Final = struct.Struct(">8sI")
FRAME: Final = struct.Struct(">II")
END: Final = struct.Struct(">IQQ")
DIGEST_BYTES: Final = sha256().digest_size
END_MARK: Final = 0xFFFF_FFFF
"""Stands where a chunk would have its length; no chunk is that long."""

CHUNK_BYTES_MAX: Final = 256 << 20

FLUSH_BYTES: Final = 1 << 20
"""How much is written between two flushes, because a commit of the node waits for the flush that is under way. One
flush at the end delayed commits by 166 to 229 ms, and one each 8 MiB by 90 ms."""

KEPT_FREE_BYTES: Final = 8 << 20
"""A snapshot file does not take the last bytes of a disk, because a commit of the tables that finds none ends the node.
"""

WRITERS: Final = itertools.count(1)

Wanted = Callable[[int, int], bool]
"""Whether a file with this index and term may be used."""

NAME: Final = re.compile(r"snapshot-([0-9a-f]{16})-([0-9a-f]{16})\.fcs")


@dataclass(frozen=True, slots=True)
class SnapshotInfo:
    """A complete snapshot file: the last entry that it covers, where it is, and its length."""

    path: Path
    index: int
    term: int
    size_bytes: int
    keys: FileKeys | None = field(default=None, repr=False, compare=False)
    """The keys of the file, if it is encrypted."""

    @property
    def stored_bytes(self) -> int:
        """How long the file is on the disk."""
        return self.size_bytes if self.keys is None else stored_size(self.size_bytes)


class Readable(Protocol):
    """A file that is read."""

    def read(self, size: int = -1, /) -> bytes:
        """Return at most `size` of the next bytes, all that are left for -1; empty at the end."""
        ...

    def tell(self) -> int:
        """Return where the next bytes begin, counted from the first byte of the content."""
        ...

    def seek(self, offset: int, whence: int = 0, /) -> int:
        """Let the next bytes begin elsewhere."""
        ...

    def __enter__(self) -> Self: ...

    def __exit__(self, *exc_info: Any) -> None: ...


@dataclass(frozen=True, slots=True)
class Choice:
    """The newest valid snapshot, or None, and the faults of the newer files."""

    info: SnapshotInfo | None
    corrupt: tuple[CorruptionError, ...]


class SnapshotReader:
    """Reads a file once from its start and checks everything that it reads.

    Args:
        path: the file's, for errors.
        file: the file, which `open_snapshot` opened.

    """

    def __init__(self, path: Path, file: Readable) -> None:
        self.path = path
        self.file = file
        self.size_bytes = file.seek(0, os.SEEK_END)
        file.seek(0)
        self.digest = sha256()

    def corrupt(self, what: str) -> CorruptionError:
        """Return the error that names the file, the fault, and the remedy."""
        return CorruptionError(
            f"snapshot {self.path} is damaged: {what}. Move it away; the node goes on from an "
            f"older one if its log reaches back that far. If not: {REJOIN[0].lower()}{REJOIN[1:]}."
        )

    def read(self, size: int, what: str) -> bytes:
        """Return exactly `size` bytes. Raises CorruptionError if the file ends before."""
        left = self.size_bytes - self.file.tell()  # a damaged length must not allocate gigabytes
        data = self.file.read(size) if size <= left else b""
        if len(data) != size:
            raise self.corrupt(f"it ends within {what}")
        self.digest.update(data)
        return data

    def read_checked(self, size: int, crc: int, what: str) -> bytes:
        """Return exactly `size` bytes that have this crc32. Raises CorruptionError."""
        data = self.read(size, what)
        if zlib.crc32(data) != crc:
            raise self.corrupt(f"wrong checksum of {what}")
        return data

    def header(self) -> dict[str, Any]:
        """Read from the start through the header. Raises CorruptionError."""
        magic, version = PREAMBLE.unpack(self.read(PREAMBLE.size, "its first bytes"))
        if magic != MAGIC:
            raise self.corrupt("it does not begin like a snapshot")
        if version != VERSION:
            raise self.corrupt(f"it has format {version}, and this program reads {VERSION}")
        length, crc = FRAME.unpack(self.read(FRAME.size, "its header"))
        data = self.read_checked(length, crc, "its header")
        try:
            header = msgpack.unpackb(data, strict_map_key=False)
            if not all(type(header[name]) is int and 0 <= header[name] < 1 << 64 for name in ("index", "term")):
                raise ValueError("index and term are no whole numbers from 0")
        except Exception as error:
            raise self.corrupt(f"its header cannot be decoded ({error!r})") from error
        return dict(header)

    def chunks(self) -> Iterator[bytes]:
        """Yield the chunks after the header. Raises `CorruptionError`, at the end for the file as a whole."""
        count = total_bytes = 0
        while True:
            length, crc = FRAME.unpack(self.read(FRAME.size, f"chunk {count}"))
            if length == END_MARK:
                break
            if length > CHUNK_BYTES_MAX:
                raise self.corrupt(f"chunk {count} has {length} bytes, and {CHUNK_BYTES_MAX} at most are written")
            yield self.read_checked(length, crc, f"chunk {count}")
            count += 1
            total_bytes += length
        # The frame that was just read holds the end mark and the upper half of the count.
        rest = self.read(END.size - FRAME.size, "its end")
        if END.unpack(FRAME.pack(length, crc) + rest) != (END_MARK, count, total_bytes):
            raise self.corrupt("chunks are missing or too many")
        expected = self.digest.digest()
        if self.read(DIGEST_BYTES, "its end") != expected:
            raise self.corrupt("wrong checksum of the whole file")
        if self.file.tell() != self.size_bytes:
            raise self.corrupt("something follows its end")

    def shape(self) -> SnapshotInfo:
        """Check header, name and length, without reading the chunks. Raises CorruptionError."""
        header = self.header()
        index, term = header["index"], header["term"]
        if self.path.name != name_of(index, term) and self.path.suffix != TEMPORARY_SUFFIX:
            raise self.corrupt(f"its header says index {index} and term {term}, its name does not")
        begin = self.file.tell()
        end = self.size_bytes - DIGEST_BYTES - END.size
        if end < begin:
            raise self.corrupt("it ends too early")
        self.file.seek(end)
        mark, count, total_bytes = END.unpack(self.read(END.size, "its end"))
        if mark != END_MARK or begin + count * FRAME.size + total_bytes != end:
            raise self.corrupt("it was cut or has grown")
        return SnapshotInfo(self.path, index, term, self.size_bytes)


class WholeCheck:
    """Checks a file as a whole while somebody reads it, without looking into its chunks.

    Args:
        size_bytes: how long it is.

    """

    def __init__(self, size_bytes: int) -> None:
        self.left_bytes = size_bytes - DIGEST_BYTES
        """So many bytes come before the checksum in it."""
        self.digest = sha256()
        self.end = b""
        self.begun = self.is_sealed = False

    def take(self, data: bytes) -> None:
        """Take the next bytes of the file; one that is encrypted has its checksum where only its key finds it."""
        if not self.begun:
            self.begun, self.is_sealed = True, data.startswith(ENCRYPTED)
            self.left_bytes += DIGEST_BYTES * self.is_sealed
        if len(data) > self.left_bytes:
            self.end += data[self.left_bytes :]
            data = data[: self.left_bytes]
        self.left_bytes -= len(data)
        self.digest.update(data)

    def sha256(self) -> str:
        """Return the checksum of all its bytes. Raises `CorruptionError` if the one in the file is another."""
        if self.left_bytes or (self.digest.digest() != self.end and not self.is_sealed):
            raise CorruptionError("the checksum of the whole file does not fit")
        whole = self.digest.copy()
        whole.update(self.end)
        return whole.hexdigest()


class PieceWriter:
    """Writes the pieces of a file under a temporary name, and flushes them on the way."""

    def __init__(self, file: BinaryIO, path: Path, keys: FileKeys | None = None, blocks: int = 0) -> None:
        """Write to `file`, encrypted if there are `keys`, of which `blocks` are in it already."""
        self.file = file
        self.path = path
        self.target = file if keys is None else EncryptedWriter(file, keys, blocks)
        self.flush_bytes = FLUSH_BYTES
        """It flushes when so many bytes were written since the last time."""
        self.unflushed_bytes = 0
        self.size_bytes = 0

    def write(self, data: bytes) -> None:
        """Write the next piece, and flush when enough is written. Raises `OSError`."""
        self.target.write(data)
        self.size_bytes += len(data)
        self.unflushed_bytes += len(data)
        tell_step(self.path.parent, "write", self.path.name)
        if self.unflushed_bytes >= self.flush_bytes:
            self.flush()

    def finish(self) -> None:
        """Make the whole durable; nothing is written after it. Raises `OSError`."""
        if isinstance(self.target, EncryptedWriter):
            self.target.finish()
        self.flush()

    def flush(self) -> None:
        """Make everything that was written durable, but for an encrypted block that is not full. Raises `OSError`."""
        self.file.flush()
        os.fsync(self.file.fileno())
        disk = os.fstatvfs(self.file.fileno())
        if disk.f_bavail * disk.f_frsize < KEPT_FREE_BYTES:
            raise OSError(errno.ENOSPC, f"{os.strerror(errno.ENOSPC)}: the last {KEPT_FREE_BYTES} bytes are kept free")
        self.unflushed_bytes = 0
        tell_step(self.path.parent, "flush", self.path.name)


class SnapshotWriter(PieceWriter):
    """Writes the parts of a snapshot, and computes the checksum of the whole. Beside a node it rests on the way."""

    def __init__(self, file: BinaryIO, path: Path, keys: FileKeys | None = None, rests: Rests | None = None) -> None:
        super().__init__(file, path, keys)
        self.digest = sha256()
        self.rests = rests
        if rests is not None:
            self.flush_bytes = WORK_BYTES

    def write(self, data: bytes) -> None:
        """Write `data` and add it to the checksum. Raises `OSError`."""
        super().write(data)
        self.digest.update(data)
        if self.rests is not None and not self.unflushed_bytes:
            self.rests.rest()

    def write_framed(self, data: bytes) -> None:
        """Write `data` behind its length and crc32. Raises OSError."""
        self.write(FRAME.pack(len(data), zlib.crc32(data)))
        self.write(data)

    def write_all(self, header: bytes, chunks: Iterable[bytes]) -> None:
        """Write a whole file and flush it. Raises `OSError`, `ValueError`, and the errors of `chunks`."""
        self.write(PREAMBLE.pack(MAGIC, VERSION))
        self.write_framed(header)
        count = total_bytes = 0
        for chunk in chunks:
            if len(chunk) > CHUNK_BYTES_MAX:
                raise ValueError(f"a chunk of {len(chunk)} bytes; at most {CHUNK_BYTES_MAX}")
            self.write_framed(chunk)
            count += 1
            total_bytes += len(chunk)
        self.write(END.pack(END_MARK, count, total_bytes))
        self.write(self.digest.digest())
        self.finish()


def open_snapshot(path: Path, keys: FileKeys | None) -> Readable:
    """Open a file to be read as it was before it was encrypted, if it was.

    With `keys` it must be encrypted with one of them, without it must not. Raises `CorruptionError` if it is plain all
    the same, because its place may have been taken by another; `InvalidConfigError` for a key that is missing or
    another one, `OSError`.
    """
    if keys is not None:
        return DecryptedFile(path, keys)
    key_id = key_id_of(path)
    if key_id:
        raise InvalidConfigError(
            f"{path} is encrypted with the key {key_id}: give that key, to a command as --key-file"
        )
    return path.open("rb")


def write_snapshot(
    folder: Path,
    header: dict[str, Any],
    chunks: Iterable[bytes],
    keys: FileKeys | None = None,
    rests: Rests | None = None,
) -> SnapshotInfo:
    """Write a snapshot into `folder`, encrypted if there are `keys`; it is complete and durable when this returns.

    `header` needs the integers "index" and "term". `rests` are those of a writer beside a node that runs. Raises
    `SnapshotFailedError` for any `OSError`, and what `chunks` raises; then no file stays behind.
    """
    index, term = header["index"], header["term"]
    path = folder / name_of(index, term)
    # The number makes it unique, because an earlier save of the same snapshot may still be writing.
    temporary = folder / f"{path.name}.writing-{next(WRITERS)}-{os.getpid()}{TEMPORARY_SUFFIX}"
    try:
        with reporting("cannot write", path):
            with create(temporary) as file:
                writer = SnapshotWriter(file, temporary, keys, rests)
                writer.write_all(msgpack.packb(header), chunks)
            publish(temporary, path)
    finally:
        remove_quietly(temporary)
    return SnapshotInfo(path, index, term, writer.size_bytes, keys)


def read_header(path: Path, keys: FileKeys | None = None) -> dict[str, Any]:
    """Return the header. Raises CorruptionError, SnapshotFailedError if it cannot be read; as `open_snapshot` too."""
    with reporting("cannot read", path), open_snapshot(path, keys) as file:
        return SnapshotReader(path, file).header()


def read_chunks(path: Path, keys: FileKeys | None = None) -> Iterator[bytes]:
    """Yield the chunks, each one checked.

    The whole is proven only when the iterator ends. Raises like `read_header`.
    """
    with reporting("cannot read", path), open_snapshot(path, keys) as file:
        reader = SnapshotReader(path, file)
        reader.header()
        yield from reader.chunks()


def verify(path: Path, keys: FileKeys | None = None) -> SnapshotInfo:
    """Read and check the whole file. Raises like `read_header`."""
    info = check_shape(path, keys)
    for _ in read_chunks(path, keys):
        pass
    return info


def check_shape(path: Path, keys: FileKeys | None = None) -> SnapshotInfo:
    """Check header, name and length only: finds torn files at once. Raises like `verify`."""
    with reporting("cannot read", path), open_snapshot(path, keys) as file:
        found = SnapshotReader(path, file).shape()
        return SnapshotInfo(path, found.index, found.term, found.size_bytes, keys)


def list_snapshots(folder: Path, wanted: Wanted = lambda index, term: True) -> list[Path]:
    """Return the snapshot files with wanted names, newest (highest index, then term) first; unchecked."""
    named = [(path, NAME.fullmatch(path.name)) for path in folder.glob("snapshot-*.fcs")]
    found = [(int(match[2], 16), int(match[1], 16), path) for path, match in named if match]
    return [path for index, term, path in sorted(found, reverse=True) if wanted(index, term)]


def newest(folder: Path) -> SnapshotInfo | None:
    """Return the newest snapshot, or None. Its shape is checked; its chunks are checked when they are read.

    Raises `CorruptionError` if it is damaged. To fall back to an older one is the caller's decision (`newest_valid`),
    because the log may not reach back that far.
    """
    paths = list_snapshots(folder)
    return check_shape(paths[0]) if paths else None


def newest_valid(
    folder: Path,
    wanted: Wanted = lambda index, term: True,
    check: Callable[[Path, FileKeys | None], SnapshotInfo] = verify,
    keys: FileKeys | None = None,
) -> Choice:
    """Return the newest wanted snapshot that passes `check`, and why newer ones do not.

    `keys` are those of the files, if they are encrypted. Raises `InvalidConfigError` for files of another key.
    """
    corrupt: list[CorruptionError] = []
    for path in list_snapshots(folder, wanted):
        try:
            return Choice(check(path, keys), tuple(corrupt))
        except CorruptionError as error:
            corrupt.append(error)
    return Choice(None, tuple(corrupt))


def prune(folder: Path, keep: int = 2, spare: Collection[Path] = ()) -> list[Path]:
    """Remove all but the `keep` newest snapshots and those in `spare`; return the removed paths.

    The folder is not flushed, because a removal that a crash undoes harms nothing. Raises `ValueError` if `keep` is
    below 1, `SnapshotFailedError` if the disk refuses.
    """
    if keep < 1:
        raise ValueError("the newest snapshot is never removed")
    old = [path for path in list_snapshots(folder)[keep:] if path not in spare]
    for path in old:
        with reporting("cannot remove", path):
            path.unlink(missing_ok=True)
            tell_step(folder, "remove", path.name)
    return old


def read_at(path: Path, offset: int, size: int, keys: FileKeys | None = None) -> bytes:
    """Return up to `size` bytes of the file from `offset`, for a sender; fewer at its end.

    Raises SnapshotFailedError, also when the file was pruned meanwhile: start over with `newest`.
    """
    with reporting("cannot read", path):
        if keys is None:
            with path.open("rb", buffering=0) as file:
                return os.pread(file.fileno(), size, offset)
        try:
            with DecryptedFile(path, keys) as decrypted:
                return decrypted.read_at(offset, size)
        except (CorruptionError, InvalidConfigError) as error:
            raise SnapshotFailedError(f"cannot read {path}: {error}") from error


def name_of(index: int, term: int) -> str:
    """Return the file name of the snapshot that ends with entry `index` of `term`."""
    return f"snapshot-{term:016x}-{index:016x}.fcs"


@contextmanager
def reporting(what: str, path: Path, clean_up: Callable[[], None] | None = None) -> Iterator[None]:
    """Turn an OSError into SnapshotFailedError, after cleaning up."""
    try:
        yield
    except OSError as error:
        if clean_up is not None:
            clean_up()
        raise SnapshotFailedError(f"{what} {path}: {error}") from error


def create(path: Path) -> BinaryIO:
    """Create or empty a file that only its owner may read. Raises OSError."""
    flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC
    file = os.fdopen(os.open(path, flags, 0o600), "wb")
    tell_step(path.parent, "create", path.name)
    return file


def publish(temporary: Path, path: Path) -> None:
    """Give a flushed file its name, durably. Raises OSError."""
    temporary.replace(path)
    tell_step(path.parent, "rename", path.name, temporary.name)
    fsync_directory(path.parent)


def remove_quietly(path: Path) -> None:
    """Remove a temporary file if it is there; a failure leaves it to the next start."""
    with suppress(OSError):
        path.unlink(missing_ok=True)
        tell_step(path.parent, "remove", path.name)
