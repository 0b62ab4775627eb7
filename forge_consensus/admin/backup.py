"""Backups over HTTP: a snapshot of this node, checked to its last byte before the first one is sent."""

from __future__ import annotations

import asyncio
import base64
import os
import weakref
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from starlette.responses import Response

from forge_consensus.actors.messages import SnapshotMade
from forge_consensus.admin.operation import Argument, Call, Operation
from forge_consensus.admin.problems import ProblemError
from forge_consensus.admin.slots import Slot
from forge_consensus.errors import CorruptionError, OperationFailedError
from forge_consensus.middleware.asgi import Receive, Scope, Sender
from forge_consensus.storage.snapshots.file import WholeCheck, name_of

TAG: Final = "snapshots"
MAKE_SECONDS: Final = 300.0
MAKE_SECONDS_MAX: Final = 600.0
"""How long making and checking the file may last."""
DOWNLOAD_SECONDS: Final = 3600.0
"""How long sending it may last: it keeps its room on the disk that long, also if the node has removed it."""
PART_SECONDS: Final = 30.0
"""A client that takes a part more slowly has its connection closed."""
PART_BYTES: Final = 512 << 10
CHECKED_BYTES: Final = 4 << 20
"""So much is read at once to check it."""
BINARY: Final = "application/octet-stream"


class OpenFile:
    """A snapshot file that is open, so that it stays readable when the node removes it. Raises `OSError`.

    It is closed by `close`, or with this object.
    """

    def __init__(self, path: Path) -> None:
        self.descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        self.close = weakref.finalize(self, os.close, self.descriptor)
        self.size = os.fstat(self.descriptor).st_size

    async def read(self, offset: int, size: int) -> bytes:
        """Return up to so many bytes from an offset, which are read on a thread. Raises `OperationFailedError`."""
        data = await asyncio.to_thread(os.pread, self.descriptor, size, offset)
        if not data:
            raise OperationFailedError(f"the snapshot ended after {offset} of {self.size} bytes: ask again")
        return data

    async def checked(self) -> str:
        """Return the sha256 of the whole file. Raises `CorruptionError` if it is damaged."""
        check, offset = WholeCheck(self.size), 0
        while offset < self.size:
            data = await self.read(offset, CHECKED_BYTES)
            await asyncio.to_thread(check.take, data)
            offset += len(data)
        return check.sha256()


class Download(Response):
    """The answer that is a file.

    Args:
        file: the file; it is closed at the end.
        slot: what is given back then.
        headers: what the answer says of it.

    """

    def __init__(self, file: OpenFile, slot: Slot, headers: Mapping[str, str]) -> None:
        super().__init__(None, 200, {**headers, "Content-Length": str(file.size)}, BINARY)
        self.file = file
        self.slot = slot

    async def __call__(self, scope: Scope, receive: Receive, send: Sender) -> None:
        """Send it, until the client leaves. Raises `TimeoutError` for one that takes it too slowly."""
        sending = asyncio.ensure_future(self.send_all(send, only_head=scope["method"] == "HEAD"))
        leaving = asyncio.ensure_future(left(receive))
        try:
            await asyncio.wait({sending, leaving}, timeout=DOWNLOAD_SECONDS, return_when=asyncio.FIRST_COMPLETED)
            if sending.done():
                sending.result()
            elif not leaving.done():
                raise TimeoutError(f"the backup was not taken within {DOWNLOAD_SECONDS:g} s")
        finally:
            sending.cancel()
            leaving.cancel()
            await asyncio.gather(sending, leaving, return_exceptions=True)
            self.file.close()
            self.slot.free()

    async def send_all(self, send: Sender, *, only_head: bool) -> None:
        """Send head and body."""
        await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
        offset = self.file.size if only_head else 0
        while offset < self.file.size:
            data = await self.file.read(offset, min(PART_BYTES, self.file.size - offset))
            offset += len(data)
            async with asyncio.timeout(PART_SECONDS):
                await send({"type": "http.response.body", "body": data, "more_body": True})
        await send({"type": "http.response.body", "body": b"", "more_body": False})


async def left(receive: Receive) -> None:
    """Wait until the client has left."""
    while (await receive())["type"] != "http.disconnect":
        pass


async def download(call: Call) -> Response:
    """Have this node take a snapshot, check its file, and send it."""
    slot = call.api.backups.take()
    try:
        made, file = await taken(call)
        try:
            digest = await file.checked()
        except CorruptionError as error:
            text = f"{made.node}'s snapshot of entry {made.index} is damaged: {error}; ask another node, see operations"
            raise ProblemError(500, "damaged", text, error.code) from error
    except BaseException:
        slot.free()
        raise
    return Download(file, slot, headers_of(made, digest))


async def taken(call: Call) -> tuple[SnapshotMade, OpenFile]:
    """Return a snapshot of this node that is new enough, and its file. Raises `ConsensusError`."""
    client, own = call.client, call.subject.own_endpoint
    folder = call.subject.seat.snapshots
    for last in (False, True):
        made, _ = await client.carry_out(client.backup(call.seconds).ready(own, stale=call["stale"]))
        try:
            file = await asyncio.to_thread(OpenFile, folder / name_of(made.index, made.term))
        except OSError as error:
            if last or not isinstance(error, FileNotFoundError):
                raise OperationFailedError(f"the snapshot of entry {made.index} cannot be read: {error}") from error
            continue  # a newer one has taken its place meanwhile
        if file.size == made.size:
            return made, file
    raise OperationFailedError(f"the snapshot of entry {made.index} has not the length that the node told: ask again")


def headers_of(made: SnapshotMade, digest: str) -> dict[str, str]:
    """Return what is told of a file; the digest as RFC 9530 has it, and as `sha256sum` does."""
    known = "".join(char if char.isascii() and (char.isalnum() or char in "._~-") else "_" for char in made.cluster)
    return {
        "Content-Disposition": f'attachment; filename="{known}-{made.index}.snap"',
        "Repr-Digest": f"sha-256=:{base64.b64encode(bytes.fromhex(digest)).decode()}:",
        "X-Checksum-Sha256": digest,
        "X-Raft-Index": str(made.index),
        "X-Raft-Snapshot-Term": str(made.term),
        "Accept-Ranges": "none",
    }


OPERATIONS: Final = (
    Operation(
        "GET",
        "/v1/backup",
        TAG,
        "A backup: a snapshot of this node with everything that the leader had committed when it was asked for. It is "
        "checked before it is sent; X-Checksum-Sha256 and Repr-Digest are its checksum.",
        download,
        (
            Argument(
                "stale", "Whether to take what this node has; it works without a leader.", "boolean", default=False
            ),
        ),
        {200: ("The file; snapshot inspect says what is in it, snapshot restore makes a cluster of it.", None)},
        media_type=BINARY,
        seconds=MAKE_SECONDS,
        seconds_max=MAKE_SECONDS_MAX,
    ),
)
