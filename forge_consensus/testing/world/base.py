"""The simulated base: a Thespian system base that runs one node in virtual time, on a disk and network with faults."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence
from enum import Enum
from typing import Any, Protocol, cast

from forge_consensus.actors.codec import Frame, encode
from forge_consensus.actors.runtime.engine import Engine
from forge_consensus.actors.supervisor import start_system
from forge_consensus.actors.transport.base import SystemBase
from forge_consensus.config.raft import RaftSettings
from forge_consensus.errors import OperationFailedError, is_fatal
from forge_consensus.events.bus import EventBus
from forge_consensus.storage.backends.memory import MemoryTables
from forge_consensus.storage.backends.tables import Batch, DeleteRange, PutRun
from forge_consensus.storage.ledger.applying import APPLIED
from forge_consensus.storage.ledger.ledger import BASE, Ledger
from forge_consensus.storage.machines.machine import RunInterruptError
from forge_consensus.storage.opening import Opened
from forge_consensus.testing.world.files import close_file_of
from forge_consensus.testing.world.network import Connection, Network
from forge_consensus.testing.world.timeline import SimulatedClock

IDLE_SECONDS_MAX = 3600.0
WAIT_SECONDS_MIN = 1e-6
"""The shortest wait, so that a timer that is due a rounding error later is waited for in virtual time."""
LATE_SECONDS = 0.02
"""A larger delay of a turn counts as time in which the node did not run, as in the ZeroMQ base."""


class SimulatedCrashError(RunInterruptError):
    """Raised to end the process between two steps of a turn; no handler of the node's own may catch it."""


class CrashAt(Enum):
    """The point of a turn at which a process ends."""

    BEFORE_COMMIT = "before the commit"
    AFTER_COMMIT = "after the commit, before anything leaves"
    AMID_SENDING = "in the middle of sending"


def wrote_meta(batch: Batch, name: bytes) -> bool:
    """Return whether a batch writes the ledger's own record of this name."""
    runs = [operation for operation in batch.operations if isinstance(operation, PutRun) and operation.table == "meta"]
    return any(key == name for run in runs for key, _ in run.items)


COMMITS: dict[str, Callable[[Batch], bool]] = {
    "any commit": lambda batch: True,
    "a commit that moves the log's start": lambda batch: wrote_meta(batch, BASE),
    "a checkpoint": lambda batch: wrote_meta(batch, APPLIED),
    "a commit that deletes a slice": lambda batch: any(
        isinstance(operation, DeleteRange) and operation.limit is not None for operation in batch.operations
    ),
}
"""The commits at which a process may be ordered to end, by the records that they write."""


class Watcher(Protocol):
    """An observer of every node of a cluster: it may read everything, changes nothing, and raises its findings."""

    def began(self, node: SimulatedBase) -> None:
        """A process of a node has started; its ledger is open."""

    def ended(self, node: SimulatedBase, error: BaseException | None) -> None:
        """The process has ended, with this error."""

    def durable(self, node: SimulatedBase, batch: Batch) -> None:
        """A batch is on the node's disk."""

    def asks(self, node: SimulatedBase, to: str, data: bytes) -> None:
        """A request leaves the node."""

    def answers(self, node: SimulatedBase, connection: Connection, frame: Frame) -> None:
        """An answer leaves the node."""

    def turned(self, node: SimulatedBase) -> None:
        """A node has committed a turn and sent what it had to send."""


class SimulatedTables(MemoryTables):
    """A simulated disk: its commits take time, fail, or are interrupted by the end of the process."""

    node: SimulatedBase | None = None

    def commit(self, batch: Batch) -> None:
        """Commit under the faults that are ordered for the node. Raises `StorageError`, `SimulatedCrashError`."""
        node = self.node
        if node is None:
            super().commit(batch)
            return
        node.clock.ahead += node.commit_time()
        crash_at = node.crash_at if COMMITS[node.crash_commit](batch) else None
        if crash_at is CrashAt.BEFORE_COMMIT:
            raise SimulatedCrashError
        try:
            super().commit(batch)
        except BaseException as error:
            node.disk_failed = True
            if self.failure_is_late:
                node.saw_durable(batch)
            raise error
        node.saw_durable(batch)
        if crash_at is CrashAt.AFTER_COMMIT:
            raise SimulatedCrashError


class WatchedEngine(Engine):
    """The engine, which reports errors of actors, because in a simulation only errors that were ordered may occur."""

    base: SimulatedBase

    def act(self, frames: Sequence[tuple[Any, ...]], notices: list[Any]) -> int:
        """Run the mailbox; then raise, if an error is ordered for a turn that did what this one did."""
        messages = super().act(frames, notices)
        base = self.base
        if base.turn_fails is not None and base.turn_fails(self.ledger):
            base.turn_fails = None
            raise OrderedFaultError("OrderedFault at the end of a turn")
        return messages

    def undo(self, fault: Exception) -> None:
        """Report the error, then roll the turn back."""
        self.base.actor_failed(fault)
        super().undo(fault)


class OrderedFaultError(Exception):
    """The error of an actor that a fault ordered."""


class OrderedFault:
    """A message that no actor handles, so that the actor that receives it raises."""


class SimulatedBase(SystemBase):
    """One process of one node. `take` delivers frames, the timeline calls its turns, `end` ends it."""

    def __init__(
        self,
        opened: Opened,
        options: RaftSettings,
        bus: EventBus,
        clock: SimulatedClock,
        network: Network,
        watchers: list[Watcher],
        address: str,
        boot_name: str,
    ) -> None:
        self.name = opened.ledger.identity.node_id
        self.clock = clock
        self.network, self.timeline = network, network.timeline
        self.watchers = watchers
        self.alive = True
        self.in_turn = False
        """Whether a turn is being taken, so that what the machine does takes virtual time of it."""
        self.job_seconds = 0.0
        """What the machine takes of the job that is run elsewhere: the job's report comes so much later."""
        self.answers_in: deque[tuple[bytes, str]] = deque()
        """Answers and who sent them."""
        self.requests_in: deque[tuple[bytes, Any]] = deque()
        self.notices: list[Any] = []
        self.reports: deque[Callable[[], None]] = deque()
        self.chance = self.timeline.chance(f"{boot_name} base")
        self.engine = WatchedEngine(opened, options, clock, self, bus, self.timeline.chance(boot_name), address)
        self.engine.base = self
        self.free_at = self.resume_at = self.paused_at = 0.0
        self.wake_at, self.wake_number = float("inf"), 0
        # Faults that are ordered for this process:
        self.crash_at: CrashAt | None = None
        self.crash_commit = "any commit"
        self.slow_commits: tuple[float, float] = (0.0001, 0.002)
        self.ordered_faults = self.sends_left = 0
        self.turn_fails: Callable[[Ledger], bool] | None = None
        """Returns, from the ledger, whether this is the turn that is to fail at its end; None without an order."""
        self.disk = cast("SimulatedTables", opened.ledger.tables)
        self.disk_failed = False
        self.disk_is_another = False
        """Whether its disk does not hold the data of the last process, but nothing or an older copy."""
        self.disk_is_damaged = False
        """Whether a bit on its disk was flipped, so that it may start with less data, or not at all."""
        self.meets_later = False
        """Whether it was sent an entry of a kind that only a later version knows, so that it stops."""
        self.power_fails = False
        """Whether its host loses power when the process ends; if False, the random seed decides."""
        self.killed = False
        """Whether the process was ended from outside, perhaps within a turn."""
        self.orphan = False
        """Whether the process that exports its snapshot outlives it."""
        self.on_end: Callable[[SimulatedBase, BaseException], None] = lambda base, error: None

    def start(self) -> None:
        """Create the supervisor through Thespian and take the first turn, as the ZeroMQ base does."""
        self.network.wanted[self.name] = self.engine.peers.wanted
        start_system(self)
        self.turn()

    # --- turns -------------------------------------------------------------------------------------------------------

    def wake(self, seconds: float) -> None:
        """Plan a turn after this many virtual seconds, unless an earlier turn is planned."""
        timeline = self.timeline
        at = max(timeline.now + seconds, self.free_at, self.resume_at)
        if at < self.wake_at:
            self.wake_at, self.wake_number = at, self.wake_number + 1
            timeline.after(at - timeline.now, self.awake, self.wake_number)

    def awake(self, number: int) -> None:
        """Take the planned turn, unless an earlier one replaced it or the process is stopped."""
        if not self.alive or number != self.wake_number:
            return
        self.wake_at = float("inf")
        if self.resume_at > self.timeline.now:
            self.wake(0.0)
            return
        if self.paused_at:
            still = self.timeline.now - max(
                self.paused_at, self.free_at
            )  # a long turn has counted its own time already
            self.clock.lost(max(0.0, still * self.clock.rate - LATE_SECONDS))
            self.paused_at = 0.0
        self.turn()

    def read_answers(self, most: int) -> Iterator[tuple[bytes, Any]]:
        """Yield the answers that a turn reads: at most `most` of each peer, because each has a socket of its own."""
        read, left = Counter[str](), deque[tuple[bytes, str]]()
        while self.answers_in:
            data, sender = self.answers_in.popleft()
            if read[sender] < most:
                read[sender] += 1
                yield data, None
            else:
                left.append((data, sender))
        self.answers_in = left

    def pause(self, seconds: float) -> None:
        """Stop the process for this many virtual seconds, as SIGSTOP does."""
        self.paused_at = self.paused_at or self.timeline.now
        self.resume_at = max(self.resume_at, self.timeline.now + seconds)

    def turn(self) -> None:
        """Take one turn and plan the next."""
        engine, clock = self.engine, self.clock
        while self.reports:
            self.reports.popleft()()
        notices, self.notices = self.notices, []
        frames: list[tuple[bytes, Any]] = []
        if self.answers_in:
            frames += self.read_answers(engine.settings.turn_frames_max)
        inbox = self.requests_in
        frames += [inbox.popleft() for _ in range(min(len(inbox), engine.settings.turn_frames_max))]
        clock.ahead = 0.0
        self.in_turn = True
        try:
            engine.turn(frames, notices)
            clock.ahead += 0.00005 + 0.00001 * len(frames)
        except BaseException as error:
            self.end(error)
            return
        finally:
            self.in_turn = False
        took = clock.ahead
        self.free_at = self.timeline.now + took
        clock.ahead = 0.0
        if took > LATE_SECONDS:
            clock.lost((took - LATE_SECONDS) * clock.rate)
        for watcher in self.watchers:
            watcher.turned(self)
        before = engine.peers.wanted
        if engine.follow_members():
            self.follow_members(before)
        if self.answers_in or self.requests_in or self.reports or self.notices:
            self.wake(0.0)
        else:
            self.wake(max(WAIT_SECONDS_MIN, engine.patience(IDLE_SECONDS_MAX) / clock.rate))

    def end(self, error: BaseException) -> None:
        """End the process with this error, and report it to the watchers and the cluster."""
        if not self.alive:
            return
        self.alive = False
        self.timeline.note("end", f"{self.name} {type(error).__name__}")
        self.network.leave(self)
        incoming = self.engine.opened.snapshots.incoming
        if incoming is not None:
            incoming.file.close()  # as the end of a real process would; the file stays
        for watcher in self.watchers:
            watcher.ended(self, error)
        self.on_end(self, error)

    # --- faults to order ---------------------------------------------------------------------------------------------

    def crash(self, at: CrashAt, after_sends: int = 0, commit: str = "any commit") -> None:
        """Order the process to end at its next commit of a kind (see `COMMITS`), or after `after_sends` sent frames."""
        self.crash_at, self.crash_commit, self.sends_left = at, commit, after_sends

    def end_in_step(self) -> None:
        """End the process within a step of a file. Raises `SimulatedCrashError`."""
        raise SimulatedCrashError

    def fail_actor(self, actor: str, *, at_end: bool) -> None:
        """Order an actor to raise, at the beginning of a turn or at its end."""
        self.ordered_faults += 1
        address = self.engine.actor(actor)
        if at_end:
            self.engine.after(0.0, address, OrderedFault())
        else:
            self.engine.next_turn(address, OrderedFault())
        self.wake(0.0)

    def actor_failed(self, fault: Exception) -> None:
        """Handle an actor's error. Raises `OperationFailedError` if no fault ordered it, unless it ends the node."""
        self.timeline.note("fault", self.name)
        if not is_fatal(fault) and "OrderedFault" not in str(fault):
            raise OperationFailedError(f"{self.name}: {type(fault).__name__}: {fault}") from fault

    def spend(self, seconds: float) -> None:
        """Let the machine take this many virtual seconds of the present turn, or of the job that runs elsewhere."""
        if self.in_turn:
            self.clock.ahead += seconds
        else:
            self.job_seconds += seconds

    def commit_time(self) -> float:
        """Draw the duration of this commit in seconds."""
        return self.chance.uniform(*self.slow_commits)

    def saw_durable(self, batch: Batch) -> None:
        """Report to the watchers that a batch is on the disk."""
        for watcher in self.watchers:
            watcher.durable(self, batch)

    # --- as a `Party` of the network ---------------------------------------------------------------------------------

    def take(self, data: bytes, connection: Any, sender: str) -> None:
        """Accept a frame that arrived."""
        if connection is None:
            self.answers_in.append((data, sender))
        else:
            self.requests_in.append((data, connection))
        self.wake(0.0)

    def linked(self, node: str, stands: bool) -> None:
        """Report to the engine that a connection was established or broke."""
        self.notices.append(self.engine.peers.link(node, stands))
        self.wake(0.0)

    def follow_members(self, before: dict[str, str]) -> None:
        """Connect to members that were added or moved, and no longer to those that were removed."""
        wanted = self.network.wanted[self.name] = self.engine.peers.wanted
        for node in [node for node, address in before.items() if wanted.get(node) != address]:
            self.network.drop(self, node)
        for node in [node for node, address in wanted.items() if before.get(node) != address]:
            self.network.reach(self, node)

    # --- what the engine sends ---------------------------------------------------------------------------------------

    def leaves(self) -> None:
        """End the process before a frame leaves, if that is ordered. Raises `SimulatedCrashError`."""
        if self.crash_at is CrashAt.AMID_SENDING:
            if self.sends_left <= 0:
                raise SimulatedCrashError
            self.sends_left -= 1

    def send_peer(self, node: str, data: bytes) -> bool:
        """Send a frame to a peer at the moment that the turn has reached; False without a connection."""
        self.leaves()
        for watcher in self.watchers:
            watcher.asks(self, node, data)
        connection = self.network.links.get((self.name, node))
        if connection is None:
            return False
        self.later(self.network.ask, connection, data)
        return True

    def send_answer(self, connection: Any, frame: Frame) -> bool:
        """Send an answer at the moment that the turn has reached."""
        self.leaves()
        for watcher in self.watchers:
            watcher.answers(self, connection, frame)
        self.later(self.network.answer, connection, encode(frame))
        return True

    def later(self, act: Callable[..., None], *args: Any) -> None:
        """Call `act` at the moment that the turn has reached: a frame after a slow commit leaves late.

        If the process is killed before that moment, the frame never leaves; if it ends by itself, the frame has left
        before.
        """
        if self.clock.ahead:
            self.timeline.after(self.clock.ahead, self.unless_killed, act, *args)
        else:
            act(*args)

    def unless_killed(self, act: Callable[..., None], *args: Any) -> None:
        """Call `act` now, unless the process was killed meanwhile."""
        if not self.killed:
            act(*args)

    def offload(self, job: Callable[[], Any], done: Callable[[Any, str], None]) -> None:
        """Run the job at a random moment after the commit that it waited for, and report its result later still."""

        def work() -> None:
            if not (self.alive or self.orphan):
                close_file_of(job)
                return
            self.job_seconds = 0.0
            try:
                result, error = job(), ""
            except SimulatedCrashError as crash:
                self.end(crash)
                return
            except Exception as problem:
                result, error = None, f"{type(problem).__name__}: {problem}"
            self.timeline.after(self.job_seconds + self.chance.uniform(0.0001, 0.05), report, result, error)

        def report(result: Any, error: str) -> None:
            if self.alive:
                self.reports.append(lambda: done(result, error))
                self.wake(0.0)

        self.timeline.after(self.clock.ahead + self.chance.uniform(0.0001, 0.1), work)

    # --- what Thespian calls -----------------------------------------------------------------------------------------

    def tell(self, address: Any, message: Any) -> None:
        """Send an actor a message from outside; it is delivered in the next turn."""
        self.engine.next_turn(address, message)
        self.wake(0.0)

    def shutdown(self) -> None:
        """Do nothing, because a simulated node has no thread that waits."""
