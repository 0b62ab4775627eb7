"""The targets: functions that take any bytes, and raise only if something is wrong."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Final

from forge_consensus.actors.codec import decode, sealed
from forge_consensus.admin.operation import json_of
from forge_consensus.admin.problems import ProblemError
from forge_consensus.config.client_file import read_client_file
from forge_consensus.errors import ConsensusError, InvalidConfigError, ProtocolError
from forge_consensus.events.encoding import EventDecodeError, from_json_line, from_msgpack
from forge_consensus.security.access_file import read_access_file
from forge_consensus.storage.machines.kv import KeyValueMachine
from forge_consensus.storage.machines.machine import Command, Entry, apply_one
from forge_consensus.storage.restoring import inspect_snapshot
from tests.worlds.hostile_files import snapshot_bytes

BYTES_MAX: Final = 8 << 20
FILES: Final[tuple[tuple[str, Callable[[Path], object]], ...]] = (
    ("a.yaml", read_client_file),
    ("a.json", read_access_file),
    ("b.yaml", read_access_file),
)
FOLDER: Final = Path(tempfile.mkdtemp(prefix="fuzz-"))


def frame(data: bytes) -> None:
    """The codec, with the checksum of a frame made to fit, so that what is behind it is reached."""
    for whole in (data, sealed(data) if len(data) > 4 else data):
        try:
            decode(whole, BYTES_MAX)
        except ProtocolError:
            continue


def event(data: bytes) -> None:
    """Events, as they come from another node."""
    for read in (from_msgpack, from_json_line):
        try:
            read(data)
        except EventDecodeError:
            continue


def command(data: bytes) -> None:
    """A command of a client, on the built-in machine."""
    try:
        found = Command.decode(data)
    except ProtocolError:
        return
    apply_one(KeyValueMachine(), Entry(1, 1, 1000, found, 1000))


def snapshot(data: bytes) -> None:
    """A snapshot file whose checksums fit; the first bytes are its header."""
    file = FOLDER / "snapshot-0000000000000001-0000000000000001.fcs"
    size = data[0] if data else 0
    for whole in (data, snapshot_bytes(data[1 : 1 + size], [data[1 + size :]])):
        file.write_bytes(whole)
        try:
            inspect_snapshot(file)
        except ConsensusError:
            continue


def configuration(data: bytes) -> None:
    """The files of a client and of the list of access."""
    for name, read in FILES:
        (FOLDER / name).write_bytes(data)
        try:
            read(FOLDER / name)
        except InvalidConfigError:
            continue


def body(data: bytes) -> None:
    """The JSON of a request to the admin API."""
    try:
        json_of(data)
    except ProblemError:
        return


TARGETS: Final[dict[str, Callable[[bytes], None]]] = {
    each.__name__: each for each in (frame, event, command, snapshot, configuration, body)
}
