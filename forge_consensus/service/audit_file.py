"""The audit file: the records of one node as a chain of lines, written on the node's thread and never flushed there.

A file that cannot be written does not stop the node: it goes on, says so once, and the file later says how many records
it lacks. After a failure the file is opened and its end read again, as at the start, so that half a line is told as
such.
"""

from __future__ import annotations

import errno
import fcntl
import os
import stat
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Final

from forge_consensus.config.file_reads import OTHERS, here
from forge_consensus.errors import InvalidConfigError
from forge_consensus.events.encoding import rfc3339
from forge_consensus.events.envelope import payload
from forge_consensus.events.types import AuditRecorded
from forge_consensus.process.fork import close_descriptor, tell_of_forks
from forge_consensus.process.log import LogLines
from forge_consensus.security.audit_chain import LINE_BYTES_MAX, Chain, line_in
from forge_consensus.security.secret_files import SECRET_MODE

LINES = LogLines(__name__)

END_BYTES: Final = 8 * LINE_BYTES_MAX
"""The last whole line is looked for in so many bytes at the end of the file."""
FLAGS: Final = os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK
OF_DISKS: Final = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO})
"""What may be over in a while, and is no fault of a configuration."""
FIRST: Final = b'{"kind":"begin"'
"""How every such file begins."""


class AuditFile:
    """One audit file, from `open` to `close`; it belongs to the node's thread.

    Args:
        path: the file, which is made with mode 0600 if it is not there.
        node: the id of the node.
        cluster: the id of the cluster.
        lacks: called with the number of records that could not be written.

    """

    def __init__(
        self, path: str | Path, node: str, cluster: str, lacks: Callable[[int], object] = lambda count: None
    ) -> None:
        self.path = here() / path
        self.node = node
        self.cluster = cluster
        self.lacks = lacks
        self.chain = Chain()
        self.descriptor: int | None = None
        self.size = 0
        """How long the file was after the last line."""
        self.missing = 0
        """How many records were not written since the last one that was."""
        tell_of_forks(self)

    # --- opening -----------------------------------------------------------------------------------------------------

    def open(self) -> None:
        """Open the file and go on behind its last line. A disk that is full keeps no node from starting.

        Raises `InvalidConfigError` if it is a link or no regular file, if others may do anything with it, if it is not
        an audit of this node, if another process writes it, or if it cannot be opened.
        """
        try:
            self.attach()
        except OSError as error:
            self.let_go()
            if error.errno in OF_DISKS:
                LINES.error("{}: the audit cannot be written: {}; the node goes on", self.path, why_of(error))
                return
            raise InvalidConfigError(
                f"security.audit_file: {str(self.path)!r} cannot be written: {why_of(error)}: correct the path, or let "
                "the node's user write there"
            ) from error
        except BaseException:
            self.let_go()
            raise

    def attach(self) -> None:
        """Open the file, and write what must stand before the next record. Raises as `open`, and `OSError`."""
        self.let_go()
        descriptor = self.descriptor = os.open(self.path, FLAGS, SECRET_MODE)
        self.check(descriptor)
        self.size = os.fstat(descriptor).st_size
        start = max(0, self.size - END_BYTES)
        end = os.pread(descriptor, END_BYTES, start)
        torn = b"\n" not in end and line_in(end) is None
        if torn and start == 0 and FIRST.startswith(end[: len(FIRST)]):  # not even its first line is whole
            os.ftruncate(descriptor, 0)
            end, self.size = b"", 0
        if not end:
            self.append(self.chain.begin(self.node, self.cluster, now_text()))
            return
        self.check_owner(os.pread(descriptor, LINE_BYTES_MAX, 0))
        self.continue_at(end)

    def check(self, descriptor: int) -> None:
        """Check what was opened, and lock it. Raises `InvalidConfigError`."""
        found, name = os.fstat(descriptor), f"security.audit_file: {str(self.path)!r}"
        if not stat.S_ISREG(found.st_mode) or found.st_nlink > 1:
            raise InvalidConfigError(f"{name} is no regular file, or has a second name: give it a file of its own")
        if found.st_mode & OTHERS or found.st_uid != os.geteuid():
            raise InvalidConfigError(
                f"{name} has mode {stat.S_IMODE(found.st_mode):04o} and belongs to user {found.st_uid}: nobody but the "
                f"node's user {os.geteuid()} may read or write it, so chmod 600 it, or move it away"
            )
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise InvalidConfigError(f"{name} is written by another process: each node needs one of its own") from error

    def check_owner(self, begin: bytes) -> None:
        """Check whose audit it is, by its first bytes. Raises `InvalidConfigError`."""
        first = line_in(begin.partition(b"\n")[0])
        if first is None or first.kind != "begin" or first.fields.get("node") != self.node:
            whose = f"that of node {first.fields.get('node')!r}" if first is not None else "no audit"
            raise InvalidConfigError(
                f"security.audit_file: {str(self.path)!r} is {whose}, so it is not written: name another file"
            )

    def continue_at(self, end: bytes) -> None:
        """Go on behind the last whole line in these last bytes of the file; what is behind it is told as torn."""
        lines, place = end.split(b"\n"), len(end)
        for index in range(len(lines) - 1, -1, -1):
            place -= len(lines[index]) + (index < len(lines) - 1)
            found = line_in(lines[index])
            if found is not None:
                break
        else:
            raise InvalidConfigError(
                f"security.audit_file: the end of {str(self.path)!r} is damaged: move it away, a new one begins then"
            )
        self.chain = Chain(found.hash, found.fields["n"])
        rest = end[place + len(lines[index]) + 1 :]
        if not end.endswith(b"\n"):
            self.append(b"\n")
        if rest:
            self.append(self.chain.torn(rest.removesuffix(b"\n")))
            LINES.warning(
                "{}: its last line was cut, as by a crash: {} bytes are left as they are", self.path, len(rest)
            )

    # --- writing -----------------------------------------------------------------------------------------------------

    def write(self, event: AuditRecorded) -> None:
        """Write a record. What keeps it from being written is told, and never raised."""
        last, number = self.chain.last, self.chain.number
        try:
            self.follow()
            last, number = self.chain.last, self.chain.number
            lines = []
            if self.missing:
                lines.append(self.chain.line("missing", {"time": rfc3339(event.time), "records": self.missing}))
            lines.append(self.chain.line("record", fields_of(event)))
            self.append(b"".join(lines))
        except (OSError, InvalidConfigError) as error:
            self.chain = Chain(last, number)
            self.fail(error)
            return
        if self.missing:
            LINES.warning("{}: it is written again; {} records are missing in it", self.path, self.missing)
            self.missing = 0

    def follow(self) -> None:
        """Notice that the file was taken away or emptied, and begin another one. Raises as `attach`."""
        if self.descriptor is None:
            self.attach()
            return
        held = os.fstat(self.descriptor)
        try:
            there = self.path.lstat()
        except FileNotFoundError:
            self.attach()
            return
        if not os.path.samestat(held, there):
            self.attach()
        elif held.st_size < self.size:  # what was there was copied, and cut off
            self.size = held.st_size
            self.append(self.chain.begin(self.node, self.cluster, now_text()))

    def append(self, data: bytes) -> None:
        """Add bytes to the file. Raises `OSError`, also if only a part of them was taken."""
        assert self.descriptor is not None, "the file is open"
        taken = os.write(self.descriptor, data)
        if taken < len(data):
            with suppress(OSError):  # else it is found as half a line
                os.ftruncate(self.descriptor, self.size)
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        self.size += taken

    def fail(self, error: Exception) -> None:
        """Note that a record was not written; the next one tries it anew."""
        self.let_go()
        if not self.missing:
            why = why_of(error) if isinstance(error, OSError) else str(error)
            LINES.error("{}: records of the audit cannot be written: {}; the node goes on", self.path, why)
        self.missing += 1
        self.lacks(1)

    # --- the end -----------------------------------------------------------------------------------------------------

    def let_go(self) -> None:
        """Close the file, if it is open."""
        descriptor, self.descriptor = self.descriptor, None
        if descriptor is not None:
            fcntl.flock(descriptor, fcntl.LOCK_UN)  # a child between fork and exec still has the descriptor
            os.close(descriptor)

    def close(self) -> None:
        """Close the file; it is written no more."""
        self.let_go()

    def forked(self) -> None:
        """In a child process: close the copy of the descriptor, which would hold the lock."""
        descriptor, self.descriptor = self.descriptor, None
        if descriptor is not None:
            close_descriptor(descriptor)


def fields_of(event: AuditRecorded) -> dict[str, object]:
    """Return what the line of a record says."""
    return {
        "time": rfc3339(event.time),
        "node": event.node_id,
        "sequence": event.sequence,
        "term": event.term,
        **payload(event),
    }


def now_text() -> str:
    """Return the present wall time."""
    return rfc3339(time.time())


def why_of(error: OSError) -> str:
    """Return why something with a file failed, for people."""
    if error.errno == errno.ELOOP:
        return "it is a symbolic link, which is not followed"
    return error.strerror or str(error)
