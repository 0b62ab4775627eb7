"""A node as a process of its own that notes when each of its turns did what, and writes that into a file at its end.

It is the shipped node. Calls at its borders (waiting, committing, applying, sending) are wrapped in this process, so
nothing in the package measures, and a note costs less than a microsecond. Clocks of one machine agree.
"""

from __future__ import annotations

import argparse
import json
import signal
import sys
import time
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from forge_consensus.actors.transport.zeromq import ZeroMqBase
from forge_consensus.config.node import NodeSettings
from forge_consensus.events.bus import EventBus
from forge_consensus.service.node import Node


@dataclass(slots=True)
class Turn:
    """One turn; all times are nanoseconds of `time.perf_counter_ns`, 0 for what it did not do."""

    taken: int
    """When it had received its frames."""
    frame_bytes: int
    """The size of the largest of them."""
    sent: list[tuple[int, str, int]] = field(default_factory=list)
    """(when, peer, size) of each frame that it handed to the connection to a peer."""
    flush_began: int = 0
    flush_ended: int = 0
    apply_began: int = 0
    apply_ended: int = 0
    answered: list[int] = field(default_factory=list)
    """When it handed answers to the connections of clients and peers."""
    ended: int = 0


def program(folder: Path) -> list[str]:
    """What starts a node that writes its turns into FOLDER/ID.json; a cluster adds the node's own arguments."""
    return [sys.executable, "-m", "tests.benchmarks.staged_node", f"--turns={folder}"]


def wrap(owner: object, name: str, make: Callable[[Callable[..., Any]], Callable[..., Any]]) -> None:
    """Put what `make` returns for a method of this one object in its place."""
    setattr(owner, name, make(getattr(owner, name)))


class Notes:
    """The turns of a node, noted from outside."""

    def __init__(self, base: ZeroMqBase) -> None:
        self.ledger = base.engine.ledger
        self.turns: list[Turn] = []
        self.turn = Turn(0, 0)
        wrap(base, "wait", self.waiting)
        wrap(base.engine, "turn", self.turning)
        wrap(base.sockets, "send_peer", self.sending)
        wrap(base.sockets, "answer", self.answering)
        wrap(self.ledger, "commit", self.committing)
        wrap(self.ledger, "apply", self.applying)

    def waiting(self, wait: Callable[[], Any]) -> Callable[[], Any]:
        """Note when frames have been received."""

        def waited() -> Any:
            frames, notices = wait()
            self.turn = Turn(time.perf_counter_ns(), max((len(frame[0]) for frame in frames), default=0))
            return frames, notices

        return waited

    def turning(self, turn: Callable[[Any, Any], None]) -> Callable[[Any, Any], None]:
        """Note when a turn has ended."""

        def turned(frames: Any, notices: Any) -> None:
            turn(frames, notices)
            self.turn.ended = time.perf_counter_ns()
            self.turns.append(self.turn)

        return turned

    def sending(self, send: Callable[[str, bytes], bool]) -> Callable[[str, bytes], bool]:
        """Note when a frame for a peer is encoded."""

        def sent(node: str, data: bytes) -> bool:
            self.turn.sent.append((time.perf_counter_ns(), node, len(data)))
            return send(node, data)

        return sent

    def answering(self, answer: Callable[[bytes, bytes], bool]) -> Callable[[bytes, bytes], bool]:
        """Note when an answer is encoded."""

        def answered(connection: bytes, data: bytes) -> bool:
            self.turn.answered.append(time.perf_counter_ns())
            return answer(connection, data)

        return answered

    def committing(self, commit: Callable[[], bool]) -> Callable[[], bool]:
        """Note how long a commit took that wrote something."""

        def committed() -> bool:
            commits, began = self.ledger.commits, time.perf_counter_ns()
            wrote = commit()
            if self.ledger.commits != commits:
                self.turn.flush_began, self.turn.flush_ended = began, time.perf_counter_ns()
            return wrote

        return committed

    def applying(self, apply: Callable[..., Any]) -> Callable[..., Any]:
        """Note how long it took to apply entries."""

        def applied(*arguments: Any) -> Any:
            began = time.perf_counter_ns()
            done = apply(*arguments)
            if done:
                self.turn.apply_began, self.turn.apply_ended = began, time.perf_counter_ns()
            return done

        return applied


def read_turns(file: Path) -> list[Turn]:
    """Return the turns that a node has written, in their order."""
    return [Turn(**fields) for fields in json.loads(file.read_text())]


def write_turns(file: Path, turns: Iterable[Turn]) -> None:
    """Write turns as JSON."""
    file.write_text(json.dumps([asdict(turn) for turn in turns]))


def main() -> None:
    """Run the node until SIGTERM."""
    parser = argparse.ArgumentParser()
    for name in ("id", "listen", "data", "peers", "cluster"):
        parser.add_argument(f"--{name}", required=True)
    parser.add_argument("--turns", type=Path, required=True)
    arguments, _ = parser.parse_known_args()  # the settings that a cluster adds are the defaults
    peers = dict(pair.split("=", 1) for pair in arguments.peers.split(","))
    bus = EventBus()
    node = Node(NodeSettings(arguments.id, arguments.cluster, arguments.listen, peers, arguments.data), bus)
    node.open()
    assert node.base is not None, "it is open"
    notes = Notes(node.base)
    signal.signal(signal.SIGTERM, lambda *_: node.stop("SIGTERM"))
    print(f"serving {arguments.id} at {node.address}", flush=True)
    try:
        node.run()
    finally:
        node.close()
        bus.close(0.1)
        write_turns(arguments.turns / f"{arguments.id}.json", notes.turns)


if __name__ == "__main__":
    main()
