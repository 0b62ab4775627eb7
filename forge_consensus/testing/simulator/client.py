"""The simulated client: it works in sessions, through real frames, and sends again whatever stays unanswered."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import msgpack

from forge_consensus.actors.codec import Frame, decode, encode
from forge_consensus.actors.messages import (
    Locate,
    Located,
    OpenSession,
    Read,
    ReadResults,
    Refused,
    Request,
    Results,
    SessionOpened,
    Submit,
)
from forge_consensus.errors import OutcomeUnknownError, SessionExpiredError, UnavailableError
from forge_consensus.testing.histories.history import Operation, Outcome
from forge_consensus.testing.simulator.habits import Habits
from forge_consensus.testing.simulator.pending_calls import CallJudge, Flight, Pending
from forge_consensus.testing.simulator.workload import Call, KeyValueWorkload, Workload
from forge_consensus.testing.world.cluster import SimulatedCluster
from forge_consensus.testing.world.network import Connection

FRAME_BYTES_MAX = 64 << 20
EXPIRED = SessionExpiredError.code
UNKNOWN = OutcomeUnknownError.code
UNAVAILABLE = UnavailableError.code


class SimulatedClient:
    """One client with one session at a time. It is a party of the network: `take` gets answers.

    A command that stays unanswered is sent again in its session under its number, which makes that safe. Nothing of
    one session is ever sent in another: whether it was carried out there nobody can know. A query is asked once.
    """

    def __init__(
        self,
        cluster: SimulatedCluster,
        name: str,
        judge: CallJudge,
        habits: Habits | None = None,
        workload: Workload | None = None,
    ) -> None:
        self.cluster = cluster
        self.name = name
        self.judge = judge
        self.habits = habits or Habits()
        self.workload = workload or KeyValueWorkload()
        self.alive = True
        self.timeline = cluster.timeline
        self.chance = self.timeline.chance(self.name)
        self.connections: dict[str, Connection] = {}
        self.target = self.chance.choice(self.cluster.names)
        self.session = 0
        self.opening = 0
        """The first request for the session that is being opened, 0 if none is."""
        self.number = 0
        """The last number of a command or query: none is ever used twice."""
        self.request = 0
        self.term = 0
        """That of the newest leader that was heard of."""
        self.open: dict[int, Pending] = {}
        self.reading: dict[int, Pending] = {}
        self.flights: dict[int, Flight] = {}
        """The requests that may still be answered, or soon be given up."""
        self.resting = False
        self.planned = False
        self.done = 0

    # --- acting ------------------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Begin to work."""
        self.rest()

    def stop(self) -> None:
        """Finish what is open, begin nothing more."""
        self.resting = True

    @property
    def idle(self) -> bool:
        """Whether nothing is open."""
        return not self.open and not self.reading

    def rest(self) -> None:
        """Do the next thing after a while."""
        if not self.planned:
            self.planned = True
            away = self.chance.random() < self.habits.away_share
            self.timeline.after(
                self.chance.uniform(0.0, self.habits.away_s_max if away else self.habits.rest_s_max), self.act
            )

    def act(self) -> None:
        """Begin the next calls, if there is room for any; else whatever makes room has the client act again."""
        self.planned = False
        if self.begin_something():
            self.rest()

    def begin_something(self) -> bool:
        """Begin some calls, or the session for them; returns whether there was room for calls."""
        if self.resting:
            return False
        if not self.session:
            if not self.opening:
                self.open_session()
            return False
        if len(self.open) + len(self.reading) >= self.habits.pipeline_max:
            return False
        if self.chance.random() < self.habits.read_share:
            self.ask_to_read()
        else:
            self.submit_new()
        return True

    def open_session(self) -> None:
        """Ask for a session, perhaps once more."""
        request = self.send(OpenSession(self.habits.ttl_ms), self.target)
        self.opening = self.opening or request
        self.look_after(request, Flight(()))

    def submit_new(self) -> None:
        """Begin some commands at once."""
        room = self.habits.pipeline_max - len(self.open) - len(self.reading)
        numbers = []
        for _ in range(self.chance.randint(1, max(1, min(self.habits.burst_max, room)))):
            call = self.workload.command(self.chance, self.name)
            if call.command is None:
                raise TypeError(f"a workload's command() returned a call without a command: {call}")
            self.begin(self.open, call, call.command.encode())
            numbers.append(self.number)
        self.submit(numbers)

    def begin(self, calls: dict[int, Pending], call: Call, data: bytes, consistency: str = "linearizable") -> None:
        """Begin a call."""
        self.number += 1
        began = self.timeline.now
        operation = Operation(self.name, call.kind, call.key, call.argument, began, consistency=consistency)
        calls[self.number] = Pending(operation, data)
        self.judge.invoked(operation)

    def submit(self, numbers: Iterable[int]) -> None:
        """Send commands, be it again, to who is thought to lead; sometimes to somebody else as well."""
        numbers = tuple(numbers)
        pendings = [self.open[number] for number in numbers]
        commands = tuple(zip(numbers, (pending.data for pending in pendings), strict=True))
        message = Submit(self.session, min(self.open), commands)
        doubled = self.chance.random() < self.habits.double_share
        for pending in pendings:
            pending.sends += 1 + doubled
        self.look_after(self.send(message, self.target), Flight(numbers))
        if doubled:
            self.look_after(self.send(message, self.chance.choice(self.cluster.names)), Flight(numbers, double=True))

    def ask_to_read(self) -> None:
        """Read something."""
        habits, target = self.habits, self.target
        call = self.workload.query(self.chance, self.name)
        consistency = "linearizable"
        if self.chance.random() < habits.lease_share:
            consistency = "lease"
        elif self.chance.random() < habits.stale_share:
            consistency, target = "stale", self.chance.choice(self.cluster.names)
        data: bytes = msgpack.packb(call.query)
        self.begin(self.reading, call, data, consistency)
        self.look_after(self.send(Read(consistency, ((self.number, data),)), target), Flight((self.number,)))

    def send(self, message: Request, target: str) -> int:
        """Send a request; returns its number."""
        self.request += 1
        connection = self.connections.get(target)
        if connection is None:
            connection = self.connections[target] = Connection(self, target)
        frame = Frame("gateway", "", "", "", 0, 0, self.request, 0, message)
        self.cluster.network.ask(connection, encode(frame))
        return self.request

    # --- asking again ------------------------------------------------------------------------------------------------

    def look_after(self, request: int, flight: Flight) -> None:
        """Remember what a frame held, and look after a while whether that was answered."""
        self.flights[request] = flight
        patience = self.habits.patience_s * self.chance.uniform(0.5, 2.0)
        if self.chance.random() < 0.02:
            patience *= 10
        self.timeline.after(patience, lambda: self.overdue(request))

    def overdue(self, request: int) -> None:
        """What has no answer in time is asked again, perhaps elsewhere, or its outcome stays unknown."""
        flight = self.flights.pop(request, None)
        if flight is None or flight.double:
            return
        commands = [number for number in flight.numbers if number in self.open]
        unread = [number for number in flight.numbers if number in self.reading]
        opens = self.opening and not flight.numbers
        leaves = self.chance.random() >= self.habits.stay_share or self.target in self.cluster.gone
        if (commands or unread or opens) and leaves:
            self.target = self.chance.choice([name for name in self.cluster.names if name not in self.cluster.gone])
        self.drop_reads(unread)
        if commands and self.chance.random() < self.habits.abandon_share:
            self.abandon(commands)
        elif commands:
            self.submit(commands)
        elif opens:
            self.reopen()

    def drop_reads(self, numbers: Iterable[int]) -> None:
        """Queries without an answer change nothing and are not asked again."""
        for number in numbers:
            if self.reading.pop(number, None) is not None:
                self.rest()

    def reopen(self) -> None:
        """Ask for a session again, unless there is one, or nothing more to be done in it."""
        if self.resting:
            self.opening = 0
        elif self.opening:
            self.open_session()

    def abandon(self, numbers: Iterable[int]) -> None:
        """Nobody will ever know what became of these commands, or of all in the session."""
        if self.chance.random() < self.habits.leave_share:
            self.leave_session()
            return
        for number in numbers:
            self.open.pop(number, None)
        self.rest()

    def leave_session(self) -> None:
        """Go on with another session. Numbers go on too."""
        self.open.clear()
        self.session = self.opening = 0
        self.rest()

    # --- answers -----------------------------------------------------------------------------------------------------

    def linked(self, node: str, stands: bool) -> None:
        """Clients are not told of connections."""

    def take(self, data: bytes, connection: Any) -> None:
        """An answer arrived, perhaps an old one."""
        frame = decode(data, FRAME_BYTES_MAX)
        message = frame.message
        if isinstance(message, SessionOpened):
            self.opened(message, frame.request)
        elif isinstance(message, Results):
            for number, code, payload in message.items:
                if message.session == self.session:
                    self.result(number, code, payload)
        elif isinstance(message, ReadResults):
            for number, code, payload in message.items:
                self.read_result(number, code, payload)
        elif isinstance(message, Refused):
            self.refused(message, frame.request)
        elif isinstance(message, Located):
            self.located(message, frame.request)

    def opened(self, message: SessionOpened, request: int) -> None:
        """The session is there; an answer to an earlier asking for it is as good."""
        if self.opening and request >= self.opening:
            self.session, self.opening = message.session, 0
            self.flights = {number: flight for number, flight in self.flights.items() if flight.numbers}
            self.rest()

    def result(self, number: int, code: str, payload: bytes) -> None:
        """The result of a command, unless it is known or nobody waits for it."""
        if code == EXPIRED and number in self.open:
            self.leave_session()
        elif (pending := self.open.pop(number, None)) is not None:
            self.finish(pending.operation, code, payload, (self.session, number))

    def read_result(self, number: int, code: str, payload: bytes) -> None:
        """The answer to a query, unless it is known or nobody waits for it."""
        if code == UNAVAILABLE:
            self.drop_reads((number,))
        elif (pending := self.reading.pop(number, None)) is not None:
            self.finish(pending.operation, code, payload)

    def finish(self, operation: Operation, code: str, payload: bytes, label: tuple[int, int] = (0, 0)) -> None:
        """A call has its outcome."""
        self.done += 1
        operation.ended = self.timeline.now
        value = msgpack.unpackb(payload)
        if code:
            self.judge.failed(operation, code, value, label)
        else:
            operation.outcome, operation.result = Outcome.OK, value
            self.judge.answered(operation)
        self.rest()

    def refused(self, message: Refused, request: int) -> None:
        """Nothing was done, or nobody knows: ask again after a moment, whom the node names or anybody."""
        flight = self.flights.pop(request, None)
        if flight is None:
            return
        commands = [number for number in message.numbers or flight.numbers if number in self.open]
        if message.code != UNKNOWN:
            for number in commands:
                self.open[number].refusals += 1
        if flight.double:
            return
        named = message.leader if message.term > self.term else ""
        self.target = message.leader or self.chance.choice(self.cluster.names)
        self.term = max(self.term, message.term) if named else self.term
        self.drop_reads(flight.numbers)
        if commands and self.chance.random() < self.habits.content_share:
            commands = self.content(commands)
        if not named and not self.resting and self.chance.random() < self.habits.seek_share:
            self.seek(tuple(commands))
            return
        pause = self.chance.uniform(0.05, 1.0) * min(self.habits.patience_s, 0.1 + self.habits.rest_s_max)
        if commands:
            session = self.session
            self.timeline.after(pause, lambda: self.submit_again(session, commands))
        elif self.opening and not flight.numbers:
            self.timeline.after(pause, self.reopen)

    def seek(self, numbers: tuple[int, ...]) -> None:
        """Have all nodes tell who leads as soon as they know of a new leader, and only then go on with the commands."""
        wait_ms = int(1000 * self.habits.patience_s)
        for place, node in enumerate(self.cluster.names):
            flight = Flight(numbers, double=place > 0, seeks=True)
            self.look_after(self.send(Locate(self.term, wait_ms), node), flight)

    def located(self, message: Located, request: int) -> None:
        """A node tells who leads: if that is news, be the first to ask."""
        if request not in self.flights or not message.leader or message.term <= self.term:
            return  # whoever waits for it looks after a while
        waiting = [flight.numbers for flight in self.flights.values() if flight.seeks and not flight.double]
        numbers = [number for some in waiting for number in some if number in self.open]
        self.flights = {number: flight for number, flight in self.flights.items() if not flight.seeks}
        self.target, self.term = message.leader, message.term
        if numbers:
            self.submit(numbers)
        if self.opening:
            self.open_session()
        elif self.begin_something():
            self.rest()

    def content(self, numbers: list[int]) -> list[int]:
        """Ask no more for commands of which every sending was refused; returns the others."""
        others = []
        for number in numbers:
            pending = self.open[number]
            if pending.sends == pending.refusals:
                del self.open[number]
                self.judge.refused(pending.operation, self.timeline.now)
                self.rest()
            else:
                others.append(number)
        return others

    def submit_again(self, session: int, numbers: list[int]) -> None:
        """Send those that are still open."""
        left = [number for number in numbers if number in self.open]
        if left and session == self.session:
            self.submit(left)
