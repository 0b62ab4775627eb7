"""The client's core: one session, its pipeline of commands, queries, and the leader; no I/O and no clock."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence
from math import inf
from typing import Any

from forge_consensus.actors.messages import (
    Locate,
    Located,
    OpenSession,
    ReadResults,
    Refused,
    Results,
    SessionOpened,
    Submit,
    WireMessage,
)
from forge_consensus.client.endpoints import LOCATE_GRACE_SECONDS, Directory, Endpoint
from forge_consensus.client.node_queries import LOOK, NodeQueries
from forge_consensus.client.outcome import (
    CONNECTED,
    NOT_LEADING,
    OUTCOME_UNKNOWN,
    SESSION_TEXT,
    late_error,
    refused_error,
    result_error,
    retried,
    said_by,
)
from forge_consensus.client.patience import Patience
from forge_consensus.client.pending import NodeAnswer, Pending, PendingNodeQuery, PendingRead
from forge_consensus.client.read_window import ReadWindow
from forge_consensus.client.reads import Reads
from forge_consensus.client.request_window import RequestWindow
from forge_consensus.config.client import ClientSettings
from forge_consensus.errors import (
    AuthenticationFailedError,
    BusyError,
    ClusterNotFoundError,
    CommandTooLargeError,
    NotLeaderError,
    NotStartedError,
    OutcomeUnknownError,
    SessionExpiredError,
)

BUSY = BusyError.code
AUTHENTICATION_FAILED = AuthenticationFailedError.code
CLUSTER_NOT_FOUND = ClusterNotFoundError.code
SESSION_EXPIRED = SessionExpiredError.code
TICK_SECONDS = 0.02
"""How often `tick` is wanted while calls are outstanding."""
IDLE_TICK_SECONDS = 0.2
"""How often `tick` is wanted while no call is outstanding and no leader has been found, and while nodes keep all that
is outstanding."""

Outgoing = tuple[str, WireMessage, int]


class SessionCore:
    """Decides everything that a client does, and does none of it.

    A driver sets `now`, hands in what arrived (`connected`, `disconnected`, `receive`) and what callers want
    (`submit`), calls `tick`, sends the frames that `outgoing` yields, finishes the calls in `resolved`, connects the
    endpoints of the directory, and comes back at the time of `wake_at` or before. `Driver` does so on a thread,
    the test kit's `SimulatedDriver` in virtual time.

    Args:
        endpoints: the names (addresses) of the endpoints that the client is given.
        now: the present time, in seconds of any clock that does not go back.
        random: returns a random number from 0 to 1; spreads pauses.
        settings: bounds and times; None for the defaults.
        cluster: the id of the cluster, "" for that of the first node that answers.
        prefer: the endpoint that answers stale queries while it is connected.
        follow: whether to go to nodes that were not given.

    """

    def __init__(
        self,
        endpoints: Sequence[str],
        *,
        now: float,
        random: Callable[[], float],
        settings: ClientSettings | None = None,
        cluster: str = "",
        prefer: str = "",
        follow: bool = True,
    ) -> None:
        self.settings = settings or ClientSettings()
        self.now = now
        self.random = random
        self.directory = Directory(endpoints, cluster, random)
        self.directory.follow = follow
        self.requests = itertools.count(1)
        self.commands: RequestWindow[Pending[Any]] = self.window(itertools.count(1))
        self.reads = Reads(self.directory, prefer, self.settings, random, now)
        self.node_queries = NodeQueries(self.directory)
        self.resolved: list[Pending[Any]] = []
        self.session = 0
        self.session_used_at = now
        self.floor = 1
        """No command with a lower number is outstanding; nodes may forget the results of all of those."""
        self.opening = 0
        """The number of the first request for the session that is being opened, 0 if none is."""
        self.opening_at = -inf
        self.patience = Patience(self.settings, random, now)
        self.last_index = 0
        """The newest log entry of which the effect is in any answer so far."""
        self.greeting = False
        """Whether there may be a connected endpoint that has not answered yet."""
        self.asking = False
        """Whether any query may be unanswered. Each turn looks for them several times, and most who write have none."""
        self.speaks = False
        """Whether any command was sent for somebody else than this client."""

    def window(self, numbers: Iterator[int]) -> RequestWindow[Any]:
        """A request window with this client's bounds."""
        settings = self.settings
        return RequestWindow(
            numbers,
            items_max=settings.frame_items_max,
            bytes_max=settings.frame_bytes_max,
            open_max=settings.outstanding_max,
        )

    def windows(self) -> list[RequestWindow[Any]]:
        """All request windows, that of the commands first."""
        return [self.commands, *self.reads.windows.values()]

    # --- what the caller wants ---

    def submit(self, wanted: Iterable[Pending[Any]]) -> None:
        """Take commands, queries and node queries, each kind in this order."""
        commands = []
        for pending in wanted:
            if type(pending) is Pending:
                commands.append(pending)
                self.speaks = self.speaks or pending.asked_by is not None
            elif isinstance(pending, PendingRead):
                self.asking = True
                self.reads.take(pending, self.now)
            elif isinstance(pending, PendingNodeQuery):
                self.asking = True
                self.node_queries.add(pending)
        self.commands.take(commands)

    # --- what the network does ---

    def connected(self, name: str) -> None:
        """Note that an endpoint is connected. Frames that were on the way to it before may be lost."""
        endpoint = self.directory.add(name)
        endpoint.connected, endpoint.denied = True, False
        endpoint.heard_at = endpoint.ask_at = self.now
        endpoint.answers, endpoint.asked_at = False, -inf
        self.greeting = True
        endpoint.said = CONNECTED
        if endpoint is self.directory.leader:
            self.start_over()

    def disconnected(self, name: str) -> None:
        """Note that an endpoint is not connected. Frames on the way to or from it may be lost."""
        endpoint = self.directory.add(name)
        if endpoint.connected:
            endpoint.said = "the connection was lost"
        endpoint.connected = endpoint.answers = False
        endpoint.node = ""
        endpoint.frame_bytes_max = 0  # the next process there may have another one
        self.fit(self.directory.call_bytes_max())
        self.reads.disconnected(name)
        self.resolved += self.node_queries.lost(name)

    def unsent(self, name: str, message: WireMessage, request: int) -> None:
        """Note that a connection did not take a frame, which therefore certainly never left."""
        endpoint = self.directory.add(name)
        endpoint.said = "its connection takes no more frames"
        for window in self.windows():
            pendings = window.refused(request, (), certain=True)
            window.again.update(pending.number for pending in pendings)
        self.node_queries.unsent(request, self.now)
        if isinstance(message, OpenSession):
            self.opening_at = -inf
        if self.patience.until <= self.now:
            self.patience.lost(self.now)

    def receive(self, name: str, message: WireMessage, request: int) -> None:
        """Take an answer. One that is late, comes twice or makes no sense changes nothing.

        One that arrives after the connection was lost does not say that the node answers: nothing could be sent to it.
        """
        endpoint = self.directory.endpoints.get(name)
        if endpoint is None:
            return
        endpoint.heard_at, endpoint.answers = self.now, endpoint.connected
        if isinstance(message, Results):
            self.results(message)
            return
        if isinstance(message, ReadResults):
            self.read_results(message)
        elif isinstance(message, Refused):
            self.refuse(endpoint, message, request)
        elif isinstance(message, SessionOpened):
            self.session_opened(message, request)
        elif isinstance(message, Located):
            self.located(endpoint, message)
        if isinstance(message, NodeAnswer):
            self.resolve(self.node_queries.answer(request, message, self.now))

    def located(self, endpoint: Endpoint, message: Located) -> None:
        """Take what a node says of the leader; everything outstanding goes to a later leader at once."""
        if not self.directory.follow and message.leader not in {"", message.node}:
            text = f"{message.node} does not lead, {message.leader} does"
            self.give_up_all(Refused(NotLeaderError.code, text, message.leader, message.address, message.term))
        term, cluster, bound = self.directory.term, self.directory.cluster, self.directory.bound
        new_leader = self.directory.located(endpoint, message, self.now)
        if bound and self.directory.cluster != cluster:  # the cluster was made anew, and knows no session of before
            self.expire_session()
        for obsolete in self.directory.obsolete(message):
            if not self.node_queries.name(obsolete.name):
                self.disconnected(obsolete.name)
                self.directory.drop(obsolete.name)
        self.fit(self.directory.call_bytes_max())
        if new_leader:
            self.start_over()
            if self.directory.term > term:
                self.patience.regained(self.now)

    def ask_for_members(self) -> Iterator[Outgoing]:
        """The frames that ask who the members are: the leader, or whoever is connected while none is.

        A driver sends them from time to time, so that the client knows those that were added before those that it knew
        are gone.
        """
        directory = self.directory
        leader = directory.ready()
        for endpoint in [leader] if leader is not None else directory.connected():
            yield endpoint.name, Locate(0, 0), next(self.requests)

    def fit(self, frame_bytes_max: float) -> None:
        """Take the limit of the nodes for what goes into one frame, which may be below this client's own."""
        bytes_max = int(min(self.settings.frame_bytes_max, frame_bytes_max))
        self.reads.fit(frame_bytes_max, bytes_max)
        for window in self.windows():
            window.call_bytes_max, window.bytes_max = frame_bytes_max, bytes_max

    def refuse_large(self, window: RequestWindow[Any]) -> None:
        """End the calls that no frame can hold: sent, they would cost the connection, and so all calls beside them.

        A command of which an earlier frame may have had an effect ends as unknown.
        """
        if not window.too_large:
            return
        for pending in window.too_large:
            text = (
                f"this has {len(pending.payload)} bytes, and at most {window.call_bytes_max:.0f} fit into a frame to "
                "the nodes: send less at once, or raise raft.message_bytes_max on all of them"
            )
            if window is self.commands and pending.sends > 0:
                pending.error = OutcomeUnknownError(
                    f"an earlier attempt may have been carried out, and another one cannot be made: {text}"
                )
            else:
                pending.error = CommandTooLargeError(text)
        self.resolved += window.too_large
        window.too_large = []

    def resolve(self, pending: Pending[Any] | None) -> None:
        """Note that a call has ended, if there is one."""
        if pending is not None:
            self.resolved.append(pending)

    def results(self, message: Results) -> None:
        """Take the outcomes of commands. This is the hot path."""
        if message.session != self.session or not message.items:
            return
        drop, done, applied = self.commands.open.pop, self.resolved.append, message.applied
        self.last_index = max(self.last_index, applied)
        again = self.commands.again
        expired = False
        answered = None
        for number, code, payload in message.items:
            pending = drop(number, None)
            if pending is None:
                continue
            answered = pending
            if again:
                again.discard(number)
            if code:
                expired = expired or code == SESSION_EXPIRED
                pending.error = result_error(code, payload, sent_again=pending.sends > 1)
            else:
                pending.answer = payload
            pending.applied = applied
            done(pending)
        if answered is not None:
            self.commands.answered_sent_at = self.session_used_at = answered.sent_at
            if self.commands.allowed < self.commands.open_max:
                self.commands.grow(len(message.items), self.now - answered.sent_at)
            if self.patience.refusals:
                self.patience.regained(self.now)
        if expired:
            self.expire_session()

    def read_results(self, message: ReadResults) -> None:
        """Take the answers to queries."""
        answered = self.reads.results(message, self.now)
        self.resolved += answered
        if answered:
            self.last_index = max(self.last_index, message.applied)
            self.patience.regained(self.now)

    def session_opened(self, message: SessionOpened, request: int) -> None:
        """Begin to use a session. The answer to an earlier request for it is as good as that to the last."""
        if self.opening and request >= self.opening:
            self.session = message.session
            self.session_used_at = self.opening_at
            self.opening = 0
            self.patience.regained(self.now)

    def expire_session(self) -> None:
        """Give up the session: commands that were sent end as unknown, the others go to the next session."""
        self.session = 0
        self.opening = 0
        self.opening_at = -inf  # the last opening was answered: the next one need not wait as if it had been lost
        safe: list[Pending[Any]] = []
        for pending in list(self.commands.open.values()):
            if pending.sends <= 0:
                safe.append(pending)
                continue
            self.commands.drop(pending.number)
            pending.error = SessionExpiredError(SESSION_TEXT)
            self.resolved.append(pending)
        self.commands.requeue(safe)

    def refuse(self, endpoint: Endpoint, message: Refused, request: int) -> None:
        """Take the refusal of a request or of a part of it."""
        code = message.code
        endpoint.said = said_by(message, endpoint.said)
        self.refuse_query(endpoint, message, request)
        if code == CLUSTER_NOT_FOUND and self.directory.bound:
            self.directory.leader = None  # the cluster may have been made anew, so look for it
        final = code in NOT_LEADING and not self.directory.follow
        meant: list[Pending[Any]] = []
        others: list[Pending[Any]] = []
        for window in self.windows():
            found = self.refuse_in(window, endpoint, message, request, final=final)
            if isinstance(window, ReadWindow) and not window.route.by_leader:
                others += found
            else:
                meant += found
        if final and not others:
            self.give_up_all(message)
        if code == AUTHENTICATION_FAILED and self.opening and request >= self.opening:
            self.refuse_session(message)
        elif code == SESSION_EXPIRED and meant:
            self.expire_session()
        elif self.is_retried(code) and (meant or (self.opening and request >= self.opening)):
            if not meant:
                self.opening_at = -inf
            self.turn_away(endpoint, message)
        elif others and code in NOT_LEADING:
            self.heed(endpoint, message)

    def refuse_session(self, message: Refused) -> None:
        """End the commands that wait for a session, because nodes do not let this client open one."""
        self.opening = 0
        for pending in self.commands.clear():
            pending.error = refused_error(message, outcome_unknown=pending.sends > 0)
            self.resolved.append(pending)

    def refuse_in(
        self, window: RequestWindow[Any], endpoint: Endpoint, message: Refused, request: int, *, final: bool
    ) -> list[Pending[Any]]:
        """Take a refusal of calls of one window; returns those calls. `final`: no other node may be asked instead."""
        code = message.code
        found = window.refused(request, message.numbers, certain=code != OUTCOME_UNKNOWN)
        for pending in found:
            pending.refusal = message
        again = (self.is_retried(code) and not final) or code == SESSION_EXPIRED
        if code == BUSY:
            window.busy(found)
        elif again:
            window.again.update(pending.number for pending in found)
        else:
            self.give_up(window, found, message)
        if again and isinstance(window, ReadWindow) and not window.route.by_leader:
            self.reads.refused(window, found, endpoint.name, code, self.now)
        return found

    def refuse_query(self, endpoint: Endpoint, message: Refused, request: int) -> None:
        """Take the refusal of a node query; one that only the leader can answer goes to the one that it names."""
        asked = self.node_queries.asked.get(request)
        self.resolve(self.node_queries.refuse(request, message, self.now))
        if asked is not None and asked.once and message.code in NOT_LEADING:
            self.turn_away(endpoint, message)

    def is_retried(self, code: str) -> bool:
        """Whether to send again what was refused with that code: also if the cluster was made anew under its name."""
        return retried(code) or (code == CLUSTER_NOT_FOUND and self.directory.bound)

    def give_up(self, window: RequestWindow[Any], pendings: list[Any], message: Refused) -> None:
        """End these calls with the refusal, because sending them again would not help."""
        for pending in pendings:
            window.drop(pending.number)
            unknown = window is self.commands and pending.sends > 0
            pending.error = refused_error(message, outcome_unknown=unknown)
            self.resolved.append(pending)

    def give_up_all(self, message: Refused) -> None:
        """End every call that needs a leader, because the only nodes that may be asked do not lead."""
        for pending in self.commands.clear():
            pending.error = refused_error(message, outcome_unknown=pending.sends > 0)
            self.resolved.append(pending)
        for window in self.reads.strict:
            for pending in window.clear():
                pending.error = refused_error(message, outcome_unknown=False)
                self.resolved.append(pending)

    def turn_away(self, endpoint: Endpoint, message: Refused) -> None:
        """After a refusal go to the leader that it names: at once the first time, after a pause if refusals go on."""
        self.patience.lost(self.now)
        if self.heed(endpoint, message) and self.patience.refusals == 1:
            self.patience.until = self.now

    def heed(self, endpoint: Endpoint, message: Refused) -> bool:
        """Take what a refusal says of the leader; returns whether there is a new one."""
        if message.code in NOT_LEADING:
            self.directory.dismiss(endpoint)
        moved = self.directory.consider(endpoint, message.leader, message.address, message.term, self.now)
        if moved:
            self.start_over()
        return moved

    def start_over(self) -> None:
        """Send everything outstanding again, because there is a new leader or a new connection to it."""
        self.commands.resend_all()
        self.reads.start_over()
        self.opening_at = -inf

    # --- what time does ---

    def tick(self, now: float) -> None:
        """End late calls and mark lost frames. Call it after everything that had arrived was handed in."""
        self.now = now
        settings, commands = self.settings, self.commands
        if commands.earliest <= now:
            self.expire(commands.expired(now))
        if commands.open:
            commands.resend_overdue(now, settings.resend_seconds, settings.resend_passed_seconds)
            if commands.allowed < commands.open_max:
                self.give_hopeless_up(commands)
        if self.asking:
            self.tick_queries(now)
        self.floor = next(iter(commands.open), commands.last + 1)
        idle = self.session and not commands.open
        if idle and now - self.session_used_at > settings.session_ttl_ms / 2000:
            self.session = 0

    def tick_queries(self, now: float) -> None:
        """End late queries, and mark those of the state that seem lost."""
        settings = self.settings
        if self.reads:
            self.expire(self.reads.expired(now))
            self.reads.resend_overdue(
                now, settings.silence_seconds, settings.resend_seconds, settings.resend_passed_seconds
            )
            for window in self.reads.windows.values():
                self.give_hopeless_up(window)
        if self.node_queries:
            self.expire(self.node_queries.expired(now))
        self.reads.forget_empty()
        self.asking = bool(self.reads or self.node_queries)

    def give_hopeless_up(self, window: RequestWindow[Any]) -> None:
        """End waiting calls for which a busy leader would have no time before their deadline."""
        for pending in window.hopeless(self.now):
            pending.error = BusyError(
                f"the leader is busy, an answer takes about {window.answer_seconds:.2f} s: this was not sent, because "
                "its deadline would have passed; ask less often, or allow more time"
            )
            self.resolved.append(pending)

    def expire(self, late: Iterable[Pending[Any]]) -> None:
        """End calls whose deadline has passed."""
        for pending in late:
            unknown = pending.sends > 0 and not isinstance(pending, PendingRead)
            if isinstance(pending, PendingNodeQuery) and pending.once and pending.asked:
                pending.error = OutcomeUnknownError(f"no answer came in time: {LOOK}")
                self.resolved.append(pending)
                continue
            pending.error = late_error(pending, self.directory, outcome_unknown=unknown)
            self.resolved.append(pending)

    def outstanding(self) -> list[Pending[Any]]:
        """Take out all calls that are not answered."""
        return [*self.commands.clear(), *self.reads.clear(), *self.node_queries.clear()]

    def close(self, reason: str) -> None:
        """End every call: commands that were sent as unknown, all others as not carried out."""
        for pending in self.outstanding():
            if pending.sends > 0 and not isinstance(pending, PendingRead):
                pending.error = OutcomeUnknownError(f"{reason} (the command was sent before, and may be carried out)")
            else:
                pending.error = NotStartedError(reason)
            self.resolved.append(pending)

    def silent(self) -> bool:
        """Whether the leader owes an answer and has said nothing for `silence_seconds`."""
        leader = self.directory.leader
        if leader is None or self.patience.until > self.now:
            return False
        if self.now - leader.heard_at <= self.settings.silence_seconds:
            return False
        since = min(self.commands.first_sent_at(), self.reads.owed_since())
        if self.opening:
            since = min(since, self.opening_at)
        return self.now - max(since, leader.heard_at) > self.settings.silence_seconds

    def working(self) -> bool:
        """Whether any call is outstanding."""
        commands = self.commands
        return bool(commands.open or commands.queue or (self.asking and (self.reads or self.node_queries)))

    def wake_at(self) -> float:
        """The time at which the driver must come back at the latest; infinity if only a message can change anything."""
        if not self.working():
            return inf if self.directory.term else self.now + IDLE_TICK_SECONDS
        deadline, seconds = self.commands.earliest, TICK_SECONDS
        if self.asking:
            deadline = min(deadline, self.reads.earliest(), self.node_queries.earliest())
            if not self.commands and not self.node_queries and self.reads.kept:
                seconds = IDLE_TICK_SECONDS
        at = min(self.now + seconds, deadline)
        return min(at, self.patience.until) if self.patience.until > self.now else at

    # --- what is to be sent ---

    def outgoing(self) -> list[Outgoing]:
        """The frames to send now, as (endpoint, message, request number). Call it after `tick`."""
        directory, now = self.directory, self.now
        leader = directory.ready()
        wanted = (leader is None and (self.working() or not directory.term)) or self.silent()
        frames: list[Outgoing] = []
        if wanted or self.greeting or directory.searching_since is not None:
            self.search(frames, wanted=wanted)
        if self.patience.until > now:
            leader = None
        if self.asking and self.node_queries:
            nearest = self.reads.nearest(self.reads.stale.avoided(now))
            frames += self.node_queries.outgoing(now, nearest, leader, self.requests)
        if leader is not None and self.commands.sendable():
            self.send_commands(leader.name, frames)
        if self.asking and self.reads:
            frames += self.reads.outgoing(now, leader, self.requests)
            for window in self.reads.windows.values():
                self.refuse_large(window)
        if self.commands.too_large:
            self.refuse_large(self.commands)
        return frames

    def search(self, frames: list[Outgoing], *, wanted: bool) -> None:
        """Add the frames that ask who leads, if that is `wanted`, and those to endpoints that have not answered yet."""
        for endpoint, message in self.directory.search(self.now, wanted=wanted):
            endpoint.asked_at = self.now
            frames.append((endpoint.name, message, next(self.requests)))
        unanswered = self.directory.unanswered()
        self.greeting = bool(unanswered)
        for endpoint in unanswered:
            if self.now - endpoint.asked_at >= LOCATE_GRACE_SECONDS:
                endpoint.asked_at = self.now
                frames.append((endpoint.name, Locate(0, 0), next(self.requests)))

    def send_commands(self, name: str, frames: list[Outgoing]) -> None:
        """Add the frames with commands, or first the request for the session that they need."""
        window = self.commands
        while window.sendable():
            if not self.session:
                if self.now - self.opening_at >= self.settings.resend_seconds:
                    request = next(self.requests)
                    self.opening = self.opening or request
                    self.opening_at = self.now
                    frames.append((name, OpenSession(self.settings.session_ttl_ms), request))
                return
            request = next(self.requests)
            items = window.pack(name, request, self.now)
            if items:
                frames.append((name, Submit(self.session, self.floor, items, self.askers(items)), request))

    def askers(self, items: tuple[tuple[int, bytes], ...]) -> tuple[tuple[int, tuple[str, ...]], ...]:
        """For whom these commands are sent, by number; those of the client itself are left out."""
        if not self.speaks:
            return ()
        found = ((number, self.commands.open[number].asked_by) for number, _ in items)
        return tuple((number, tuple(asker)) for number, asker in found if asker is not None)
