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
from forge_consensus.config.secret_text import NOT_TOLD, looks_like_secret
from forge_consensus.errors import (
    AuthenticationFailedError,
    BusyError,
    NoLeaderError,
    NotLeaderError,
    OperationFailedError,
    OutcomeUnknownError,
    ProtocolError,
)
from forge_consensus.events.types import AuditRecorded, ConsensusEvent
from forge_consensus.security.access import Principal
from forge_consensus.security.curve import is_key
from forge_consensus.security.permissions import RESERVED, ROLES
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
ROLES_TOLD: Final = 8
READINGS_MAX: Final = 64
READING_SECONDS: Final = 60.0
"""Somebody who reads a backup or the log part by part is recorded once, and again after so long a rest."""
MARK_BYTE: Final = MARK[0]
SHORT_TEXT: Final = 0xA0
BEYOND: Final = 0xC0
"""A byte from the one to below the other begins a short text in msgpack."""
COMMANDS_MAX: Final = 10_000
"""So many commands wait for their outcomes at most; the oldest beyond them is recorded as unknown."""
ALIKE_MAX: Final = 16
"""So many commands wait in one place at most; further ones are recorded as unknown at once."""
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


Place = tuple[Any, int, int]
"""Where an outcome is expected: connection, session and number of a command."""


class Waiting(NamedTuple):
    """A command whose outcome is not known, and the frame that it came with."""

    sender: SenderAddress
    act: Act


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
        self.commands: OrderedDict[Place, tuple[Waiting, ...]] = OrderedDict()
        """The commands whose outcomes are not known, by connection, session and number. Several wait in one place if
        they were sent with the same number: the ledger applies one of them at most."""
        self.recent: OrderedDict[tuple[int, int], tuple[Act, ...]] = OrderedDict()
        """The last commands that were recorded, by session and number. A copy may have waited on another connection."""
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
        """Record that a frame, or a part of it, was not let in.

        It is told of whoever has proven the key, because a name that anybody may claim would hide them, and many of
        them would push out the names of others.
        """
        asked_by = getattr(message, "asked_by", ()) if type(message) is not Submit else ()
        who, action = self.who(sender.connection, key), type(message).__name__
        as_node = f"as node {sender.node}: " if sender.node else ""
        speaks_for = f", for {shown(asked_by[0])}" if asked_by else ""
        self.deny(who, action, f"{as_node}{denial.needed or denial.reason}{speaks_for}")

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
            found = perhaps_reserved(message.commands)
            if found:
                self.note_commands(message, found, sender, key, local=local)
            return
        subject = SUBJECTS[type(message)](message)
        if subject is None:
            return
        act = Act(self.who(sender.connection, key, message.asked_by, local=local), type(message).__name__, subject)
        if type(message) not in READINGS or self.begins_reading(sender.connection, act):
            sender.act = act

    def note_commands(
        self,
        message: Submit,
        commands: Sequence[tuple[int, bytes]],
        sender: SenderAddress,
        key: str,
        *,
        local: bool,
    ) -> None:
        """Note those of these commands that are reserved and were not recorded before."""
        asked_by, places = dict(message.asked_by), list[Place]()
        for number, data in commands:
            try:
                command = Command.decode(data)
            except ProtocolError:
                continue
            if not command.type.startswith(RESERVED) or (message.session, number) in self.recent:
                continue
            who = self.who(sender.connection, key, asked_by.get(number, ()), local=local)
            places.append((sender.connection, message.session, number))
            self.note_command(places[-1], Waiting(sender, Act(who, *described(command))))
        sender.commands = tuple(places)

    def note_command(self, place: Place, waiting: Waiting) -> None:
        """Note a command, beside those that wait in its place already."""
        before = self.commands.get(place, ())
        if len(before) >= ALIKE_MAX:
            self.record(waiting.act, UNKNOWN)
            return
        self.commands[place] = (*before, waiting)
        self.undo.append(lambda: self.put_back(place, before))
        if len(self.commands) > COMMANDS_MAX:
            oldest, given_up = self.commands.popitem(last=False)
            self.undo.append(lambda: self.put_back(oldest, given_up))
            for act in acts_in(given_up):
                self.record(act, UNKNOWN)

    def put_back(self, place: Place, waiting: tuple[Waiting, ...]) -> None:
        """Have these commands wait in a place, or none."""
        if waiting:
            self.commands[place] = waiting
        else:
            self.commands.pop(place, None)

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
                # What was not applied, or met a full session, may be applied yet if it is sent again.
                final = message.applied > 0 and code != BusyError.code
                self.end_command((to.connection, message.session, number), ("failed", code) if code else DONE, final)
            return
        refused = isinstance(message, Refused)
        if refused and to.commands:
            numbers = set(message.numbers)
            for place in to.commands:
                if not numbers or place[2] in numbers:
                    self.refuse_command(place, to, ended_by(message))
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

    def end_command(self, place: Place, ended: Ended, final: bool) -> None:
        """Record what came of a command, if it is one that waits.

        All that wait in its place are recorded, since only the ledger knows which of them was applied, so that none
        hides behind another. `final` says that it is not carried out again, however often it is sent.
        """
        waiting = self.commands.pop(place, None)
        if waiting is None:
            return
        self.undo.append(lambda: self.put_back(place, waiting))
        sent = place[1:]
        known = self.recent.get(sent, ())
        acts = [act for act in acts_in(waiting) if act not in known]
        if final:
            self.recent[sent] = (*known, *acts)
            self.undo.append(lambda: self.recent.pop(sent, None))
            if len(self.recent) > RECENT_MAX:
                self.recent.popitem(last=False)
        for act in acts:
            self.record(act, ended)

    def refuse_command(self, place: Place, to: SenderAddress, ended: Ended) -> None:
        """Record what came of a command whose frame was refused, unless an earlier or later copy of it waits still."""
        waiting = self.commands.get(place, ())
        left = tuple(each for each in waiting if each.sender is not to)
        if len(left) == len(waiting):
            return
        self.put_back(place, left)
        self.undo.append(lambda: self.put_back(place, waiting))
        still = acts_in(left)
        for act in acts_in(waiting):
            if act not in still:
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
        open_acts = [begun.act for begun in self.begun]
        for waiting in self.commands.values():
            open_acts += acts_in(waiting)
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


def acts_in(waiting: Sequence[Waiting]) -> list[Act]:
    """Return the acts of these commands, each once though it was sent several times."""
    found: list[Act] = []
    for each in waiting:
        if each.act not in found:
            found.append(each.act)
    return found


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
    texts = [told_of(name, payload[name]) for name in TOLD if isinstance(payload.get(name), str)]
    roles = payload.get("roles")
    if isinstance(roles, list | tuple) and roles:
        texts.append(f"roles {','.join(str(role) if role in ROLES else '?' for role in roles[:ROLES_TOLD])}")
    rules = payload.get("rules")
    if isinstance(rules, list | tuple) and rules:
        texts.append(f"{len(rules)} rules")
    forced = ["by force"] if payload.get("force") is True else []
    action = f"{command.type}.{told_of('do', do)}" if isinstance(do, str) else command.type
    return action, " ".join([*texts, *forced])


def told_of(name: str, text: str) -> str:
    """Return a field of a reserved command as it is told; a public key is, and a token in the place of its id is not.

    Nobody has checked the command yet.
    """
    is_public = name in {"key", "revoked"} and is_key(text)
    return NOT_TOLD if looks_like_secret(text) and not is_public else text


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
