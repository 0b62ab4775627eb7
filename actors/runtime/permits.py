"""The permits: whether whoever sent a frame may send it, by the key that its connection proved.

The key says who speaks, never the frame. Nothing that Raft relies on rests on this: a frame that is let in here is
judged by cluster, boots and term like every other, and one that is refused counts as lost.
"""

from __future__ import annotations

from typing import Any, Final, NamedTuple

import msgpack

from forge_consensus.actors.codec import Frame
from forge_consensus.actors.messages import ChangeMembers, GetStatus, OpenSession, Read, Submit
from forge_consensus.actors.runtime.access_control import AccessControl
from forge_consensus.actors.runtime.member_certificates import CARRIERS
from forge_consensus.errors import ProtocolError
from forge_consensus.security.access import Principal
from forge_consensus.security.permissions import MESSAGES, RESERVED
from forge_consensus.storage.ledger.changes import Action
from forge_consensus.storage.machines.kv_reach import (
    ALL_READ,
    ALL_WRITTEN,
    Reach,
    Reaches,
    reach_of_command,
    reach_of_query,
)
from forge_consensus.storage.machines.machine import Command
from forge_consensus.storage.unpacking import unpack

UNKNOWN_KEY: Final = "unknown key"
"""The reason for the frame of a key that is known no more."""
KEY_OF_ANOTHER: Final = "key of another node"
CLIENT_AS_MEMBER: Final = "client as a member"
MEMBER_AS_CLIENT: Final = "member as a client"
NOT_CERTIFIED: Final = "member without a valid certificate"
NOT_PERMITTED: Final = "not permitted"
TYPE_BYTES: Final = 11
"""The type of an encoded command begins within so many bytes, however its length is written."""
MARK: Final = RESERVED.encode()


OF_JOINING: Final = frozenset({Action.ADD, Action.ADD_LEARNER, Action.REMOVE})
"""What a node may ask the cluster to do with itself: join, and before that leave the place of a lost folder."""


class Denial(NamedTuple):
    """Why a frame, or a part of it, is not let in: a reason to count by, and a sentence for people."""

    reason: str
    text: str
    needed: str = ""
    """What was missing, where somebody who is known lacks a permission."""


class Judged(NamedTuple):
    """What becomes of a request of a client: what is let in of it, and which of its parts are not."""

    message: Any
    """None if nothing of it is let in."""
    denied: tuple[int, ...] = ()
    """The numbers of the commands or queries that are refused."""
    denial: Denial | None = None


class Permits:
    """Judges frames by the list of access in force.

    Args:
        access: the list.
        keyed: whether the state machine is the built-in one, of whose commands and queries the keys are known.

    """

    def __init__(self, access: AccessControl, *, keyed: bool) -> None:
        self.access = access
        self.keyed = keyed

    def of_member(self, frame: Frame, key: str, connection: Any) -> Denial | None:
        """Why this frame of a member is not let in; None if it is. `connection` is None for the link to it."""
        principal = self.access.of_key(key)
        if principal is None:
            return unknown(key)
        if not principal.is_member:
            return Denial(
                CLIENT_AS_MEMBER, f"the key of client {principal.name} was used to speak as node {frame.sender[:40]!r}"
            )
        if principal.name != frame.sender:
            return Denial(
                KEY_OF_ANOTHER, f"the key of node {principal.name} was used to speak as node {frame.sender[:40]!r}"
            )
        if self.access.certificates is not None:
            statement = frame.message.statement if isinstance(frame.message, CARRIERS) else b""
            why = self.access.certificates.judge(frame.sender, key, connection, statement)
            return Denial(NOT_CERTIFIED, why) if why else None
        return None

    def of_client(self, message: Any, key: str) -> Judged:
        """What of a client's request is let in."""
        principal = self.access.of_key(key)
        if principal is None:
            return Judged(None, (), unknown(key))
        kind = type(message)
        permission = MESSAGES.get(kind.__name__)
        if permission == "anyone":
            return Judged(message)
        if principal.is_member:
            return self.of_joining(message, principal)
        if permission is not None and permission != "peer":
            if kind is Submit or kind is Read:
                return self.of_parts(message, principal)
            if principal.may(permission) or (kind is OpenSession and may_write_some(principal)):
                return Judged(message)
        return Judged(None, (), lacking(principal, f"{permission or 'peer'}: {kind.__name__}"))

    @staticmethod
    def of_joining(message: Any, principal: Principal) -> Judged:
        """What a node may ask as a client: how far its joining is, and to be added itself."""
        kind = type(message)
        own = kind is ChangeMembers and not message.force
        own = own and all(node == principal.name and action in OF_JOINING for action, node, _ in message.changes)
        if kind is GetStatus or own:
            return Judged(message)
        text = f"the key of node {principal.name} was used for {kind.__name__}: a client needs a key of its own"
        return Judged(None, (), Denial(MEMBER_AS_CLIENT, text))

    def of_parts(self, message: Any, principal: Principal) -> Judged:
        """Judge each command, or each query, by itself."""
        submits = type(message) is Submit
        parts: tuple[tuple[int, bytes], ...] = message.commands if submits else message.queries
        needed = self.needs_of_command if submits else self.needs_of_query
        whole, admin = principal.may("write" if submits else "read"), principal.may("admin")
        denied, lacks = list[int](), ""
        for number, data in parts:
            needs = needed(data, whole=whole)
            if needs is None:
                lack = "" if admin else "admin, for what is reserved"
            else:
                lack = next((told(need) for need in needs if not satisfied(principal, need)), "")
            if lack:
                denied.append(number)
                lacks = lacks or lack
        if not denied:
            return Judged(message)
        denial, gone = lacking(principal, lacks), frozenset(denied)
        rest = tuple(part for part in parts if part[0] not in gone)
        if not rest:
            return Judged(None, (), denial)
        if submits:
            return Judged(Submit(message.session, message.done_below, rest, message.asked_by), tuple(denied), denial)
        kept = Read(
            message.consistency, rest, message.wait_ms, message.by_follower, message.stale_ms_max, message.after_index
        )
        return Judged(kept, tuple(denied), denial)

    def needs_of_command(self, data: bytes, *, whole: bool) -> Reaches | None:
        """What an encoded command needs; None stands for an administrator's. `whole`: all keys are allowed."""
        if whole and MARK not in data[:TYPE_BYTES]:
            return []
        try:
            command = Command.decode(data)
        except ProtocolError:
            return [ALL_WRITTEN]
        if command.type.startswith(RESERVED):
            return None
        return reach_of_command(command.type, command.payload) if self.keyed else [ALL_WRITTEN]

    def needs_of_query(self, data: bytes, *, whole: bool) -> Reaches | None:
        """What an encoded query needs; None stands for an administrator's. One without bytes asks for no key."""
        if not data:
            return [Reach("read", ())]
        if whole and MARK not in data:
            return []
        try:
            query = unpack(data)
        except (ValueError, TypeError, OverflowError, msgpack.UnpackException):
            return [ALL_READ]
        if isinstance(query, dict) and any(isinstance(name, str) and name.startswith(RESERVED) for name in query):
            return None
        return reach_of_query(query) if self.keyed else [ALL_READ]


def satisfied(principal: Principal, need: Reach) -> bool:
    """Whether a client may reach those keys in that way."""
    if need.kind == "write" and need.prefixes == ():
        return may_write_some(principal)
    return principal.may(need.kind, need.prefixes)


def may_write_some(principal: Principal) -> bool:
    """Whether a client may write any key at all."""
    return principal.may("write") or any(rule.permission == "write" for rule in principal.rules)


def told(need: Reach) -> str:
    """What is needed, for people."""
    if need.prefixes:
        return f"{need.kind} {need.prefixes[0][:80]!r}"
    return f"{need.kind} all keys" if need.prefixes is None else f"{need.kind} any key"


def unknown(key: str) -> Denial:
    """The denial of a key that is not in the list of access, or not any more."""
    return Denial(UNKNOWN_KEY, f"no one of the list of access has the key {key or '(none)'}: it may have been revoked")


def lacking(principal: Principal, needed: str) -> Denial:
    """The denial of what a client has no permission for."""
    text = f"client {principal.name} has no permission for this ({needed}): ask for a role or rule"
    return Denial(NOT_PERMITTED, text, needed)
