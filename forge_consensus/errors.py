"""The errors: everything that can go wrong, as one hierarchy with the codes of the Go original.

A message says what happened, why, and what to do. `retryable` means that nothing was carried out and the same
request may succeed later. `fatal` means that this node, or this configuration, must not go on. Exit codes are
those of sysexits: 65 bad data, 66 no such folder or file, 69 unavailable, 70 internal, 75 timed out or outcome unknown,
77 not authorised, 78 bad configuration, 1 for the rest.
"""

from __future__ import annotations

import copy
from typing import Any, Self, TypeVar

Kind = TypeVar("Kind", bound="ConsensusError")


class ConsensusError(Exception):
    """The base of all errors of this package; `context` holds the facts behind the message.

    Facts that a class declares are attributes as well.
    """

    code: str = "CONSENSUS_ERROR"
    retryable: bool = False
    fatal: bool = False
    exit_code: int = 1
    message: str = "something failed for which there is no more precise error: see the node's log"

    def __init_subclass__(cls, **facts: str | bool | int) -> None:
        """Take the facts from the first line of a class statement; what it leaves out is inherited."""
        super().__init_subclass__()
        for name, value in facts.items():
            setattr(cls, name, value)

    def __init__(self, message: str | None = None, /, **context: object) -> None:
        self.message = message or type(self).message
        self.context: dict[str, object] = context
        for name, value in context.items():
            if hasattr(type(self), name) and not hasattr(ConsensusError, name):
                setattr(self, name, value)  # a fact that the class declares
        super().__init__(self.message)

    def __reduce__(self) -> tuple[Any, ...]:
        # unpickling calls the class with `args`, which the typed ones do not accept
        return (revived, (type(self), self.message, self.context), self.__dict__)

    @classmethod
    def from_wire(cls, text: str, context: dict[str, object]) -> Self:
        """Make the error that a peer reported, from its text and its facts."""
        return revived(cls, text, context)


def revived(kind: type[Kind], message: str, context: dict[str, object]) -> Kind:
    """Make an error of that class without calling its own constructor."""
    error = kind.__new__(kind)
    ConsensusError.__init__(error, message, **context)
    return error


def fresh(error: ConsensusError) -> ConsensusError:
    """Copy an error that is kept, to raise the copy: the traceback of one object grows each time it is raised."""
    copied = copy.copy(error)
    copied.__cause__ = error.__cause__
    return copied


class UnavailableError(ConsensusError, code="CONSENSUS_UNAVAILABLE", retryable=True, exit_code=69):
    """Nothing was done and the same request may succeed later; the base of all errors that pass."""

    message = "the cluster cannot do this at the moment: try again soon"


class NotLeaderError(UnavailableError, code="CONSENSUS_NOT_LEADER"):
    """The node that was asked does not lead. It did nothing, and says who leads if it knows."""

    leader: str | None = None
    """The leader's node id, None when unknown."""
    address: str | None = None
    """The leader's address, None when unknown."""
    term: int = 0
    """The term that the node was in, 0 when unknown."""

    message = "this node is not the leader and knows of none: try again soon"

    def __init__(
        self,
        message: str | None = None,
        /,
        *,
        leader: str | None = None,
        address: str | None = None,
        term: int = 0,
    ) -> None:
        if leader and not message:
            message = f"this node does not lead term {term}: send it to {leader} at {address}"
        super().__init__(message, leader=leader, address=address, term=term)


class NoLeaderError(UnavailableError, code="CONSENSUS_NO_LEADER"):
    """Nobody leads at the moment; nothing was done."""

    message = "the cluster has no leader at the moment: try again after an election timeout"


class NotStartedError(ConsensusError, code="CONSENSUS_NOT_STARTED", exit_code=69):
    """The service is not running."""

    message = "the consensus service is not started: call start() first"


class AlreadyStartedError(ConsensusError, code="CONSENSUS_ALREADY_STARTED"):
    """What was to be started runs already: a service, a test cluster, a proxy."""

    message = "the consensus service is already started: call start() once"


class NodeNotFoundError(ConsensusError, code="CONSENSUS_NODE_NOT_FOUND"):
    """No node has that id."""

    message = "no node of that id is known: look at the members of the cluster"


class ClusterNotFoundError(ConsensusError, code="CONSENSUS_CLUSTER_NOT_FOUND"):
    """No cluster has that id."""

    message = "no cluster of that id is known: check the id and the endpoints"


class StorageUnavailableError(UnavailableError, code="CONSENSUS_STORAGE_UNAVAILABLE"):
    """The store cannot be reached now."""

    message = "the store cannot be reached: check that its folder is mounted, then try again"


class TransportUnavailableError(UnavailableError, code="CONSENSUS_TRANSPORT_UNAVAILABLE"):
    """No message can be sent now."""

    message = "messages cannot be sent: check the network and the bind address, then try again"


class DiscoveryUnavailableError(UnavailableError, code="CONSENSUS_DISCOVERY_UNAVAILABLE"):
    """The service that knows the peers does not answer."""

    message = "discovery does not answer: check its address; known peers stay in use"


class NoQuorumError(UnavailableError, code="CONSENSUS_NO_QUORUM"):
    """Fewer voters can be reached than a majority takes."""

    required: int = 0
    """How many voters a majority takes."""
    available: int = 0
    """How many voters can be reached."""

    def __init__(self, required: int, available: int) -> None:
        text = f"only {available} voters can be reached of {required} needed: start one more node"
        super().__init__(text, required=required, available=available)


class InvalidTermError(ConsensusError, code="CONSENSUS_INVALID_TERM", exit_code=70):
    """A term that no node can be in, such as one that others have gone past; nothing raises it yet."""

    message = "a term must be a whole number that no one has gone past: see who sent it"


class StaleTermError(ConsensusError, code="CONSENSUS_STALE_TERM", exit_code=70):
    """Something acted for a term that is over. Nothing was written."""

    current: int = 0
    """The term that the node is in."""
    received: int = 0
    """The term that was acted for."""

    def __init__(self, current: int, received: int) -> None:
        text = f"term {received} is over, this node is in term {current}: ask the present leader"
        super().__init__(text, current=current, received=received)


class LogInconsistentError(ConsensusError, code="CONSENSUS_LOG_INCONSISTENT", fatal=True, exit_code=70):
    """Two logs contradict each other where they may not."""

    message = "the log contradicts what is committed: the node stops, keep its folder"


class SnapshotFailedError(UnavailableError, code="CONSENSUS_SNAPSHOT_FAILED", exit_code=70):
    """A snapshot was not made, sent or installed; the log still holds everything."""

    message = "the snapshot failed and the log was kept: check the space on the disk, then try again"


class CompactionFailedError(UnavailableError, code="CONSENSUS_COMPACTION_FAILED", exit_code=70):
    """The log was not shortened; nothing is lost."""

    message = "compaction failed and the log is whole: check the disk, then try again"


class ElectionTimeoutError(UnavailableError, code="CONSENSUS_ELECTION_TIMEOUT"):
    """No election was won in time."""

    message = "no candidate won a majority in time: check that a majority of nodes is reachable"


class InvalidPeerError(ConsensusError, code="CONSENSUS_INVALID_PEER", exit_code=65):
    """A peer's id or address is not valid."""

    message = "a peer needs an id and an address host:port: correct the entry"


class PeerExistsError(ConsensusError, code="CONSENSUS_PEER_EXISTS"):
    """The peer to be added is a member already."""

    message = "that peer is already a member: there is nothing to do, or choose another id"


class PeerNotFoundError(ConsensusError, code="CONSENSUS_PEER_NOT_FOUND"):
    """The peer named is not a member."""

    message = "that peer is not a member: look at the members of the cluster"


class InsufficientPeersError(ConsensusError, code="CONSENSUS_INSUFFICIENT_PEERS", exit_code=69):
    """The change would leave too few voters."""

    message = "too few peers would be left for a majority: add a node first"


class InvalidConfigError(ConsensusError, code="INVALID_CONFIG", fatal=True, exit_code=78):
    """The configuration cannot be used."""

    message = "the configuration is not valid: correct the setting named"


class NoAvailablePeersError(UnavailableError, code="CONSENSUS_NO_AVAILABLE_PEERS"):
    """There is no other node to turn to."""

    message = "no other peer answers: check that the nodes run and can be reached"


class FailoverFailedError(UnavailableError, code="CONSENSUS_FAILOVER_FAILED"):
    """No other node took over."""

    message = "no other node took over: check that a majority of nodes is reachable, then try again"


class OperationFailedError(ConsensusError, code="CONSENSUS_OPERATION_FAILED"):
    """An operation failed for a reason that this version has no class for; see `code`."""

    message = "the operation failed: the code and the node's log say why"


class ReplicationFailedError(ConsensusError, code="CONSENSUS_REPLICATION_FAILED", exit_code=69):
    """Entries did not reach a peer; a command among them may still be carried out."""

    message = "entries did not reach a peer: the leader sends them again when it is back"


class ConsensusTimeoutError(UnavailableError, TimeoutError, code="CONSENSUS_TIMEOUT", exit_code=75):
    """The time was over before the request was carried out; it certainly was not and will not be."""

    message = "the time ran out and nothing was carried out: try again, or allow more time"


class ConnectionFailedError(UnavailableError, code="CONSENSUS_CONNECTION_FAILED"):
    """No connection came about; nothing was sent."""

    message = "the connection failed: check that the node runs and its address"


class StaleReadError(UnavailableError, code="CONSENSUS_STALE_READ"):
    """The data are older than the reader accepts."""

    message = "the data here are older than allowed: read from the leader, or allow more staleness"


class CompactedError(ConsensusError, code="CONSENSUS_COMPACTED"):
    """The changes that were asked for are not kept any more; nothing is wrong with the state itself."""

    oldest: int = 0
    """The first index of which the changes are kept, 0 when unknown."""

    message = "those changes are not kept any more: read the keys anew, and go on from the index of that read"


class RateLimitExceededError(UnavailableError, code="CONSENSUS_RATE_LIMIT_EXCEEDED"):
    """The client sends more requests than it may; nothing was done."""

    message = "too many requests: wait a moment, then send fewer"


class AuthenticationFailedError(ConsensusError, code="CONSENSUS_AUTHENTICATION_FAILED", exit_code=77):
    """The caller is not who it says, or may not do this."""

    message = "the credentials were refused: check the key or the token"


class PoolExhaustedError(UnavailableError, code="CONSENSUS_POOL_EXHAUSTED"):
    """All connections are in use; nothing was sent."""

    message = "all connections are in use: try again soon, or allow more of them"


class ConnectionTimeoutError(UnavailableError, code="CONSENSUS_CONNECTION_TIMEOUT", exit_code=75):
    """No connection came about in time; nothing was sent."""

    message = "no connection came about in time: check the node and the network, then try again"


class OutcomeUnknownError(ConsensusError, code="CONSENSUS_OUTCOME_UNKNOWN", exit_code=75):
    """The command may or may not have been carried out; repeat it only if doing it twice does no harm."""

    message = "the command may have been carried out: read before you repeat it"


class SessionExpiredError(OutcomeUnknownError, code="CONSENSUS_SESSION_EXPIRED"):
    """The client's session is over, so the cluster no longer knows which of its commands were carried out."""

    message = "the session expired, the command may have been carried out: read before you repeat it"


class BusyError(UnavailableError, code="CONSENSUS_BUSY"):
    """The node has too many requests outstanding; nothing was done."""

    message = "the node has too much outstanding: wait a moment, then try again"


class StorageError(ConsensusError, code="CONSENSUS_STORAGE_FAILED", fatal=True, exit_code=70):
    """The store failed. The node stops, because a write that is tried again can report success wrongly."""

    message = "the store failed and the node stops: check the disk, then start it again"


class CorruptionError(StorageError, code="CONSENSUS_CORRUPTION", exit_code=65):
    """Something on the disk is not what was written."""

    message = "the disk does not hold what was written: move the folder away and let the node join as a new one"


class StorageFullError(UnavailableError, code="CONSENSUS_STORAGE_FULL"):
    """The store has no space for more; nothing was done and nothing is lost."""

    message = "the store is full and nothing is lost: free space on the disk or raise storage.quota_bytes"


class FolderLockedError(ConsensusError, code="CONSENSUS_FOLDER_LOCKED", fatal=True, exit_code=78):
    """Another process uses the node's folder."""

    message = "another process uses the folder: stop it, or give this node a folder of its own"


class FolderNotFoundError(StorageError, code="NO_SUCH_FOLDER", exit_code=66):
    """A command for a stopped node was given a path that is no node's folder, or a file that is not there."""

    message = "this is no node's folder: name the one that was given to the node"


class AlreadyExistsError(ConsensusError, code="CONSENSUS_ALREADY_EXISTS", exit_code=78):
    """A file or folder that is to be made is there already. Nothing was changed."""

    message = "it is there already: name another one, or remove it first"


class RecoveryRefusedError(ConsensusError, code="CONSENSUS_RECOVERY_REFUSED"):
    """A folder cannot be made a cluster of its own, or need not be. Nothing was written."""

    message = "the folder cannot be recovered: look at it with forge-consensus log verify"


class IdentityError(ConsensusError, code="CONSENSUS_IDENTITY", fatal=True, exit_code=78):
    """The node's folder, its settings and its peers disagree about who it is."""

    message = "the folder is another node's: check the folder, the node id and the peers"


class UnsupportedVersionError(ConsensusError, code="CONSENSUS_UNSUPPORTED_VERSION", fatal=True, exit_code=78):
    """Bytes in a format of a later version than this program reads."""

    message = "a later version wrote this: run a version of the program that reads it"


class CommandError(ConsensusError, code="CONSENSUS_COMMAND_FAILED", exit_code=65):
    """The state machine raised an exception for one command, the same on every node."""

    kind: str = "Exception"
    """The name of the exception's class."""
    text: str = ""
    """The text of the exception."""

    def __init__(self, kind: str, text: str) -> None:
        super().__init__(f"the state machine answered {kind}: {text}", kind=kind, text=text)

    @classmethod
    def from_wire(cls, text: str, context: dict[str, object]) -> Self:
        """Make the error from the exception's text; the name of its class is in the context."""
        return cls(str(context.get("kind", cls.kind)), text)


class CommandTooLargeError(ConsensusError, code="CONSENSUS_COMMAND_TOO_LARGE", exit_code=65):
    """The command has more bytes than the cluster takes."""

    message = "the command is too large: send less in one command, or raise raft.command_bytes_max on every node"


class SkipRefusedError(ConsensusError, code="CONSENSUS_SKIP_REFUSED"):
    """A log entry cannot be skipped safely. Nothing was written."""

    message = "the entry cannot be skipped: name the folders of all members, and the entry that ends their nodes"


class ProtocolError(ConsensusError, code="CONSENSUS_PROTOCOL", exit_code=65):
    """A frame cannot be decoded."""

    message = "a frame cannot be decoded: check who sends to this port, and that the versions agree"


class AlreadyHeldError(ConsensusError, RuntimeError, code="CONSENSUS_ALREADY_HELD", exit_code=70):
    """Whoever holds a lock asked for it again, and would wait for itself; nothing was done."""

    message = "this thread or task holds it already: release it first, or take an RLock, which may be acquired again"


class NotHeldError(ConsensusError, RuntimeError, code="CONSENSUS_NOT_HELD", exit_code=70):
    """What is to be released, written under or resigned from is not held here; nothing was done."""

    message = "it is not held here: acquire it first"


class LeaseLostError(ConsensusError, code="CONSENSUS_LEASE_LOST", exit_code=69):
    """A lease ended before its holder let go, so somebody else may have held what hung on it since then."""

    message = "the lease ended before it was let go: others may hold what hung on it since then"


class WrongEventLoopError(ConsensusError, RuntimeError, code="CONSENSUS_WRONG_EVENT_LOOP", exit_code=70):
    """An `AsyncClient` was used on another event loop than that of its first call; nothing was sent."""

    message = (
        "this client belongs to another event loop, that of its first call: make one in each loop, such as in the "
        "function that asyncio.run is given"
    )


BY_CODE: dict[str, type[ConsensusError]] = {
    kind.code: kind for kind in list(globals().values()) if isinstance(kind, type) and issubclass(kind, ConsensusError)
}
"""Code -> class, for `error_from_code`."""


def is_retryable(error: BaseException) -> bool:
    """Whether nothing was done and the same request may succeed later; False for errors of other packages."""
    return isinstance(error, ConsensusError) and error.retryable


def is_fatal(error: BaseException) -> bool:
    """Whether the node, or its configuration, must not go on; False for errors of other packages."""
    return isinstance(error, ConsensusError) and error.fatal


def error_from_code(code: str, text: str, /, **context: object) -> ConsensusError:
    """Make the typed error for a code and a text from the wire.

    A code that this version does not know gives an `OperationFailedError` that carries it.
    """
    error = BY_CODE.get(code, OperationFailedError).from_wire(text, context)
    error.code = code or error.code
    return error
