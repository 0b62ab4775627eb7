"""Crashes one after the other: a run is repeated with the end of a process at each of its steps in turn."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from forge_consensus.actors.codec import Frame
from forge_consensus.actors.messages import OpenSession, Results, SessionOpened, Submit
from forge_consensus.storage.backends.tables import Batch
from forge_consensus.testing.world.base import CrashAt, SimulatedBase
from forge_consensus.testing.world.cluster import SimulatedCluster
from forge_consensus.testing.world.network import Connection
from tests.worlds.scenario_world import TTL_MS, Caller, SilentWatcher

ASK_AGAIN_S = 0.25
DOWN_S = 0.3
LIMIT_S = 20.0


@dataclass(frozen=True, slots=True)
class Step:
    """A step of a turn at which a process ends: the commit or the frame of that number, from 0 on."""

    at: CrashAt
    number: int

    def __str__(self) -> str:
        what = "frame" if self.at is CrashAt.AMID_SENDING else "commit"
        return f"{self.at.value} ({what} {self.number})"


class StepWatcher(SilentWatcher):
    """Counts the commits and frames of a node from `arm` on, and ends its process at one step if it is given one."""

    def __init__(self, step: Step | None) -> None:
        self.step = step
        self.name = ""
        self.commits = self.frames = 0
        self.ended_at: float | None = None

    def arm(self, node: SimulatedBase) -> None:
        """Start counting, and order the crash if it is due at the very next step."""
        self.name = node.name
        if self.step is None:
            return
        if self.step.at is CrashAt.AMID_SENDING:
            node.crash(self.step.at, self.step.number)
        elif self.step.number == 0:
            node.crash(self.step.at)

    def durable(self, node: SimulatedBase, batch: Batch) -> None:
        """Count a commit, and order the crash if it is due at the next one."""
        if node.name != self.name or self.ended_at is not None:
            return
        self.commits += 1
        if self.step is not None and self.step.at is not CrashAt.AMID_SENDING and self.commits == self.step.number:
            node.crash(self.step.at)

    def rest(self) -> None:
        """Stop counting."""
        self.name = ""

    def asks(self, node: SimulatedBase, to: str, data: bytes) -> None:
        """Count a frame."""
        self.frames += node.name == self.name

    def answers(self, node: SimulatedBase, connection: Connection, frame: Frame) -> None:
        """Count a frame."""
        self.frames += node.name == self.name

    def ended(self, node: SimulatedBase, error: BaseException | None) -> None:
        """Note that the process has ended."""
        if node.name == self.name and self.ended_at is None:
            self.ended_at = node.timeline.now

    def steps(self) -> Iterator[Step]:
        """All steps of the observed run."""
        for number in range(self.commits):
            yield Step(CrashAt.BEFORE_COMMIT, number)
            yield Step(CrashAt.AFTER_COMMIT, number)
        for number in range(self.frames):
            yield Step(CrashAt.AMID_SENDING, number)


class Persistent(Caller):
    """A client that repeats a request only until it is answered, so that lost acknowledged data stays lost."""

    def __init__(self, cluster: SimulatedCluster) -> None:
        super().__init__(cluster)
        self.session = 0
        self.seq = 0
        self.results: dict[int, bytes] = {}

    def until(self, message: Any, done: Callable[[], bool]) -> None:
        """Send a message to the leader, again and again, until `done` is true."""
        end = self.cluster.timeline.now + LIMIT_S
        while not done():
            assert self.cluster.timeline.now < end, f"nobody answers {message}"
            leader = self.cluster.leader()
            if leader is not None:
                self.send(leader.name, message)
            self.cluster.run(ASK_AGAIN_S, done)

    def opened(self) -> bool:
        """Whether there is a session: the first that was answered."""
        for _, message in self.answers:
            if isinstance(message, SessionOpened) and not self.session:
                self.session = message.session
        return self.session > 0

    def begin(self) -> None:
        """Open a session."""
        self.until(OpenSession(TTL_MS), self.opened)

    def do(self, *commands: bytes) -> list[bytes]:
        """Execute these commands; returns their results."""
        first = self.seq + 1
        self.seq += len(commands)

        def answered() -> bool:
            for _, message in self.answers:
                if isinstance(message, Results):
                    for seq, code, payload in message.items:
                        assert not code, f"command {seq} ended with {code}"
                        assert self.results.setdefault(seq, payload) == payload, f"command {seq} has two results"
            self.answers.clear()
            return self.seq in self.results

        self.until(Submit(self.session, first, tuple(enumerate(commands, first))), answered)
        return [self.results[seq] for seq in range(first, self.seq + 1)]


def bring_back(cluster: SimulatedCluster, watcher: StepWatcher, *, everybody: bool) -> None:
    """Restart the ended process after a while; with `everybody`, all others lose their power at the same moment."""

    def ended(node: SimulatedBase) -> None:
        names = cluster.names if everybody else [node.name]
        for name in names:
            cluster.crash(name)
            cluster.timeline.after(DOWN_S, cluster.restart, name)

    on_end = watcher.ended

    def tell(node: SimulatedBase, error: BaseException | None) -> None:
        first = watcher.ended_at is None
        on_end(node, error)
        if first and watcher.ended_at is not None:
            cluster.timeline.after(0.0, lambda: ended(node))

    watcher.ended = tell  # type: ignore[method-assign]
