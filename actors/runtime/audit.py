"""The audit: who has administered this cluster by this node, and who was denied what.

An act is noted when its request is let in, with who asked for it, and recorded when what came of it is known: when its
answer is sent, or, where the answer says only that it is begun, when it is complete. So nothing of the actors depends
on it, and no act can be forgotten by one of them. A request that is sent on to the leader is recorded by the leader.
All of it belongs to the turn, and is taken back with it.

Denials and failures go through the folding. They are told between turns, so a flood of them costs no flush.
"""

from __future__ import annotations

from collections import Counter, OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal, NamedTuple

from forge_consensus.actors.messages import (
    ChangeMembers,
    MakeSnapshot,
    MembersPlanned,
    ReadLog,
    ReadSnapshot,
    Refused,
    ReloadConfig,
    Results,
    Submit,
    TransferLeadership,
    TransferStarted,
)
from forge_consensus.actors.runtime.access_control import AccessControl
from forge_consensus.actors.runtime.address import SenderAddress
from forge_consensus.actors.runtime.audit_folding import Folding
from forge_consensus.actors.runtime.clock import Clock
from forge_consensus.actors.runtime.permits import MARK, Denial
from forge_consensus.actors.runtime.shared import SharedState
from forge_consensus.errors import (
    AuthenticationFailedError,
    NoLeaderError,
    NotLeaderError,
    OperationFailedError,
    OutcomeUnknownError,
    ProtocolError,
)
from forge_consensus.events.types import AuditRecorded, ConsensusEvent
from forge_consensus.security.access import Principal
from forge_consensus.security.permissions import RESERVED
from forge_consensus.storage.ledger.ledger import Ledger
from forge_consensus.storage.machines.machine import Command

DENIED_CODE: Final = AuthenticationFailedError.code
ASKED_ELSEWHERE: Final = frozenset({NotLeaderError.code, NoLeaderError.code})
"""The codes of answers with which a client goes to another node, whose act it then is."""
IDENTITIES: Final = frozenset(
    {"client", "node", "token", "certificate", "application", "operator", "anonymous", "unknown"}
)
TOLD: Final = ("name", "key", "id", "replaces", "revoked")
"""The fields of a reserved command that say on what it acts; none of them proves anything."""
TEXT_CHARS_MAX: Final = 200
READINGS_MAX: Final = 64
READING_SECONDS: Final = 60.0
"""Somebody who reads a backup or the log part by part is recorded once, and again after so long a rest."""
MARK_BYTE: Final = MARK[0]
SHORT_TEXT: Final = 0xA0
BEYOND: Final = 0xC0
"""A byte from the one to below the other begins a short text in msgpack."""
COMMANDS_MAX: Final = 10_000
"""So many commands wait for their outcomes at most; the oldest beyond them is recorded as unknown."""
RECENT_MAX: Final = 256
"""Of so many commands it is known that they were recorded, so that one whose answer was lost is not recorded twice."""

Outcome = Literal["done", "failed", "denied", "unknown"]
Ended = tuple[Outcome, str]
"""What came of an act, and the code of the error."""
DONE: Final[Ended] = ("done", "")
UNKNOWN: Final[Ended] = ("unknown", OutcomeUnknownError.code)
LOST: Final[Ended] = ("failed", OperationFailedError.code)


class Who(NamedTuple):
    """Somebody who asked for something; the fields are those of `AuditRecorded`."""

    name: str
    identity: str
    role: str = ""
    origin: str = ""
    via: str = ""

    @classmethod
    def of(cls, principal: Principal, origin: str) -> Who:
        """Return somebody who has proven a key of CURVE."""
        return cls(principal.name, "node" if principal.is_member else "client", role_of(principal), origin)


OPERATOR: Final = Who("", "operator", origin="local")
"""Whoever has the files of the node's host."""


@dataclass(slots=True)
class Act:
    """Something that somebody asked for, until it is recorded."""

    who: Who
    action: str
    subject: str


@dataclass(slots=True)
class Begun:
    """An act that is begun: an entry of the leader's log in `term`, or a handover of that leader to `target`."""

    act: Act
    term: int
    index: int = 0
    target: str = ""


class Audit:
    """Notes acts and denials of one node, and publishes them. It outlives the actors.

    Args:
        ledger: the node's.
        shared: who leads.
        clock: the node's.
        access: who is known; None where nobody is asked.

    """

    def __init__(self, ledger: Ledger, shared: SharedState, clock: Clock, access: AccessControl | None) -> None:
        self.ledger = ledger
        self.shared = shared
        self.clock = clock
        self.access = access
        self.origin_of: Callable[[Any], str] = lambda connection: ""
        """Returns the address behind a connection; set by whoever has connections."""
        self.publish: Callable[[ConsensusEvent], None] = lambda event: None
        """Publishes an event with the turn."""
        self.folding = Folding()
        self.counts: Counter[str] = Counter()
        """How many there were, by outcome, told or not."""
        self.missing = 0
        """How many records the audit file lacks, because it could not be written."""
        self.commands: OrderedDict[tuple[Any, int], Act] = OrderedDict()
        """The commands whose outcomes are not known, by connection and number."""
        self.recent: OrderedDict[tuple[int, int], None] = OrderedDict()
        """The last commands that were recorded, by session and number."""
        self.readings: OrderedDict[tuple[Any, ...], float] = OrderedDict()
        """Who reads what, and when they last did."""
        self.begun: list[Begun] = []
        self.undo: list[Callable[[], object]] = []
        """What takes back this turn, the last first."""
        self.told: list[AuditRecorded] = []
        """What this turn records."""
        self.ready: list[AuditRecorded] = []
        """What the next turn is to publish."""

    # --- who ---------------------------------------------------------------------------------------------------------

    def who(self, connection: Any, key: str, asked_by: tuple[str, ...] = (), *, local: bool = False) -> Who:
        """Return who asks for something.

        Args:
            connection: where it came from.
            key: the public key that the connection proved; empty where nobody is asked.
            asked_by: for whom the client says that it speaks, see `ChangeMembers`.
            local: whether it is the node's own application.

        """
        if local:
            found = Who(self.ledger.identity.node_id, "application", origin="local")
        else:
            origin = self.origin_of(connection)
            principal = self.access.of_key(key) if self.access is not None else None
            if principal is not None:
                found = Who.of(principal, origin)
            else:
                found = Who(key, "anonymous" if self.access is None else "unknown", origin=origin)
        if len(asked_by) != len(("name", "identity", "role", "origin")):
            return found
        name, identity, role, origin = map(shown, asked_by)
        via = "" if local else f"{found.name or found.identity} at {found.origin or 'an unknown address'}"
        return Who(name, identity if identity in IDENTITIES else "unknown", role, origin, via)

    # --- denials -----------------------------------------------------------------------------------------------------

    def deny(self, who: Who, action: str, subject: str, code: str = DENIED_CODE) -> None:
        """Record that somebody was denied something; in a turn or between two. It is never taken back.

        Args:
            who: who it was.
            action: what they asked for.
            subject: what was missing.
            code: the code of the error.

        """
        self.fold(record_of(Act(who, action, subject), "denied", code))

    def deny_frame(self, denial: Denial, message: Any, sender: SenderAddress, key: str) -> None:
        """Record that a frame, or a part of it, was not let in."""
        asked_by = getattr(message, "asked_by", ()) if type(message) is not Submit else ()
        who, action = self.who(sender.connection, key, asked_by), type(message).__name__
        as_node = f"as node {sender.node}: " if sender.node else ""
        self.deny(who, action, f"{as_node}{denial.needed or denial.reason}")

    def take(self, record: AuditRecorded) -> None:
        """Take a record of what did not go through a turn, such as that of the admin API; between two turns."""
        if record.outcome == "done":
            self.counts[record.outcome] += record.count
            self.ready.append(record)
        else:
            self.fold(record)

    def fold(self, record: AuditRecorded) -> None:
        """Count a record, which is told now or later."""
        self.counts[record.outcome] += record.count
        self.folding.add(record, self.clock.now())

    # --- acts --------------------------------------------------------------------------------------------------------

    def note(self, message: Any, sender: SenderAddress, key: str = "", *, local: bool = False) -> None:
        """Note a request that is let in, if it is an act: one of `SUBJECTS`, or a `Submit` with a reserved command."""
        if type(message) is Submit:
            for number, data in perhaps_reserved(message.commands):
                self.note_command(message, number, data, sender, key, local=local)
            return
        subject = SUBJECTS[type(message)](message)
        if subject is None:
            return
        act = Act(self.who(sender.connection, key, message.asked_by, local=local), type(message).__name__, subject)
        if type(message) not in READINGS or self.begins_reading(sender.connection, act):
            sender.act = act

    def note_command(
        self, message: Submit, number: int, data: bytes, sender: SenderAddress, key: str, *, local: bool
    ) -> None:
        """Note a command, if it is a reserved one that was not recorded before."""
        try:
            command = Command.decode(data)
        except ProtocolError:
            return
        if not command.type.startswith(RESERVED) or (message.session, number) in self.recent:
            return
        who = self.who(sender.connection, key, dict(message.asked_by).get(number, ()), local=local)
        place = (sender.connection, number)
        self.commands[place] = Act(who, *described(command))
        sender.commands = (*sender.commands, place)
        self.undo.append(lambda: self.commands.pop(place, None))
        if len(self.commands) > COMMANDS_MAX:
            self.record(self.commands.popitem(last=False)[1], UNKNOWN)

    def begins_reading(self, connection: Any, act: Act) -> bool:
        """Whether somebody begins to read something, and not only goes on."""
        reading, now = (connection, act.who, act.action, act.subject), self.clock.now()
        before = self.readings.pop(reading, None)
        self.readings[reading] = now
        if len(self.readings) > READINGS_MAX:
            self.readings.popitem(last=False)
        return before is None or now - before > READING_SECONDS

    # --- what came of them -------------------------------------------------------------------------------------------

    def answered(self, to: SenderAddress, message: Any) -> None:
        """Record what an answer of this turn says of acts. Called for each answer while there are acts."""
        if isinstance(message, Results):
            for number, code, _ in message.items:
                self.end_command((to.connection, number), ("failed", code) if code else DONE, message.session)
            return
        refused = isinstance(message, Refused)
        if refused and to.commands:
            numbers = set(message.numbers)
            for place in to.commands:
                if not numbers or place[1] in numbers:
                    self.end_command(place, ended_by(message))
        act = to.act
        if act is None:
            return
        to.act = None
        self.undo.append(lambda: setattr(to, "act", act))
        if refused:
            self.record(act, ended_by(message))
        elif isinstance(message, MembersPlanned):
            self.begin(Begun(act, self.ledger.term, message.index))
        elif isinstance(message, TransferStarted):
            self.begin(Begun(act, message.term, target=message.target))
        else:
            self.record(act, DONE)

    def end_command(self, place: tuple[Any, int], ended: Ended, session: int = 0) -> None:
        """Record what came of a command, if it is one that waits."""
        act = self.commands.pop(place, None)
        if act is None:
            return
        self.undo.append(lambda: self.commands.__setitem__(place, act))
        if session:
            self.recent[session, place[1]] = None
            self.undo.append(lambda: self.recent.pop((session, place[1]), None))
            if len(self.recent) > RECENT_MAX:
                self.recent.popitem(last=False)
        self.record(act, ended)

    def begin(self, begun: Begun) -> None:
        """Wait until an act that is begun is complete."""
        before = self.begun
        self.begun = [*before, begun]
        self.undo.append(lambda: setattr(self, "begun", before))

    def look(self) -> None:
        """Record the acts that were begun and are complete, or cannot be any more; in the turn, while there are any."""
        before, left = self.begun, []
        for each in before:
            ended = self.end_of(each)
            if ended is None:
                left.append(each)
            else:
                self.record(each.act, ended)
        if len(left) < len(before):
            self.begun = left
            self.undo.append(lambda: setattr(self, "begun", before))

    def end_of(self, begun: Begun) -> Ended | None:
        """Return what came of an act that was begun, None while that is open."""
        ledger, shared = self.ledger, self.shared
        if begun.index:
            term = ledger.log.term_at(begun.index)
            if term == begun.term:
                return DONE if ledger.commit_index >= begun.index else None
            return UNKNOWN if begun.index <= ledger.log.base_index else LOST
        if shared.leader is not None and shared.leader_term > begun.term:
            return DONE if shared.leader == begun.target else LOST
        given_up = ledger.leading_term == begun.term and shared.handover is None
        return LOST if given_up else None

    def record(self, act: Act, ended: Ended) -> None:
        """Record an act with this turn; one that another node is asked for is recorded there."""
        if ended[1] not in ASKED_ELSEWHERE:
            self.told.append(record_of(act, *ended))

    # --- the turn ----------------------------------------------------------------------------------------------------

    def hold(self) -> None:
        """Publish with this turn what it records as done; called when the actors have ended it."""
        for record in self.told:
            if record.outcome == "done":
                self.publish(record)

    def end_turn(self) -> None:
        """Go on from here, because the turn is on disk."""
        if not self.undo and not self.told:
            return
        told, self.told = self.told, []
        self.undo.clear()
        for record in told:
            if record.outcome == "done":
                self.counts[record.outcome] += record.count
            else:
                self.fold(record)

    def take_back(self) -> None:
        """Be as before the turn, because it was rolled back."""
        self.told.clear()
        while self.undo:
            self.undo.pop()()

    @property
    def is_due(self) -> bool:
        """Whether something is to be published with the next turn."""
        return bool(self.ready) or self.folding.wake_at <= self.clock.now()

    def due(self) -> list[AuditRecorded]:
        """Take out what is to be published with the next turn."""
        ready, self.ready = self.ready, []
        return ready + self.folding.due(self.clock.now())

    def rest(self) -> list[AuditRecorded]:
        """Take out everything, because the node ends; of what is begun nobody knows here how it ends."""
        open_acts = [*(begun.act for begun in self.begun), *self.commands.values()]
        self.begun = []
        self.commands.clear()
        for act in open_acts:
            self.fold(record_of(act, *UNKNOWN))
        ready, self.ready = self.ready, []
        return ready + self.folding.rest()


def record_of(act: Act, outcome: Outcome, code: str) -> AuditRecorded:
    """Return the record of an act."""
    name, identity, role, origin, via = act.who
    return AuditRecorded(
        who=shown(name),
        identity=identity,
        role=role,
        origin=shown(origin),
        via=shown(via),
        action=shown(act.action),
        subject=shown(act.subject),
        outcome=outcome,
        code=code,
    )


def perhaps_reserved(commands: Sequence[tuple[int, bytes]]) -> Sequence[tuple[int, bytes]]:
    """Return the commands that may be reserved ones, without unpacking the others, because there are very many.

    All programs of ours write the type of a command as a short text, which begins at the third byte. What is written in
    another way is looked into, so that nobody hides by that.
    """
    try:
        return [each for each in commands if each[1][2] == MARK_BYTE or not SHORT_TEXT <= each[1][1] < BEYOND]
    except IndexError:  # one of them is no command
        return commands


def ended_by(refused: Refused) -> Ended:
    """Return what a refusal says of an act."""
    return UNKNOWN if refused.code == OutcomeUnknownError.code else ("failed", refused.code)


def role_of(principal: Principal) -> str:
    """Return the roles of somebody, as the audit has them."""
    return ",".join(sorted(principal.roles)) or ("rules" if principal.rules else "")


def shown(text: str) -> str:
    """Return a text of bounded length without control characters, whoever chose it."""
    text = text[:TEXT_CHARS_MAX]
    return text if text.isprintable() else repr(text)[1:-1][:TEXT_CHARS_MAX]


def described(command: Command) -> tuple[str, str]:
    """Return the action of a reserved command, and on what it acts: never what proves a token."""
    payload: Mapping[str, Any] = command.payload if isinstance(command.payload, Mapping) else {}
    do = payload.get("do")
    texts = [
        payload[name] for name in ("name", "key", "id", "replaces", "revoked") if isinstance(payload.get(name), str)
    ]
    roles = payload.get("roles")
    if isinstance(roles, list | tuple) and roles:
        texts.append(f"roles {','.join(map(str, roles))}")
    rules = payload.get("rules")
    if isinstance(rules, list | tuple) and rules:
        texts.append(f"{len(rules)} rules")
    forced = ["by force"] if payload.get("force") is True else []
    return f"{command.type}.{do}" if isinstance(do, str) else command.type, " ".join([*texts, *forced])


def of_members(message: ChangeMembers) -> str | None:
    """Return what a change of members is about, None for one that is only planned."""
    if message.dry_run:
        return None
    changes = ", ".join(" ".join(part for part in change if part) for change in message.changes)
    return f"{changes}, by force" if message.force else changes


SUBJECTS: Final[dict[type, Callable[[Any], str | None]]] = {
    ChangeMembers: of_members,
    TransferLeadership: lambda message: message.target or "any voter",
    MakeSnapshot: lambda message: "",
    ReadSnapshot: lambda message: f"snapshot of entry {message.index}",
    ReadLog: lambda message: "",
    ReloadConfig: lambda message: None if message.dry_run else "",
}
"""The messages that are acts, as the table of permissions says, each with what tells on what it acts; None for one that
changes nothing."""
READINGS: Final = frozenset({ReadSnapshot, ReadLog})
AUDITED: Final = frozenset({*SUBJECTS, Submit})
"""The messages that `Audit.note` looks at."""
