"""The errors: codes, their meaning for the caller, and the way over the wire and back."""

import copy
import pickle

import pytest

from forge_consensus import errors
from forge_consensus.errors import (
    BY_CODE,
    BusyError,
    CommandError,
    ConsensusError,
    ConsensusTimeoutError,
    CorruptionError,
    FolderLockedError,
    IdentityError,
    InvalidConfigError,
    NoQuorumError,
    NotLeaderError,
    OperationFailedError,
    OutcomeUnknownError,
    SessionExpiredError,
    StaleTermError,
    StorageError,
    StorageFullError,
    UnavailableError,
    error_from_code,
    is_fatal,
    is_retryable,
)

SEED_CODES = (
    "NOT_LEADER",
    "NO_LEADER",
    "NOT_STARTED",
    "ALREADY_STARTED",
    "NODE_NOT_FOUND",
    "CLUSTER_NOT_FOUND",
    "STORAGE_UNAVAILABLE",
    "TRANSPORT_UNAVAILABLE",
    "DISCOVERY_UNAVAILABLE",
    "NO_QUORUM",
    "INVALID_TERM",
    "STALE_TERM",
    "LOG_INCONSISTENT",
    "SNAPSHOT_FAILED",
    "COMPACTION_FAILED",
    "ELECTION_TIMEOUT",
    "INVALID_PEER",
    "PEER_EXISTS",
    "PEER_NOT_FOUND",
    "INSUFFICIENT_PEERS",
    "NO_AVAILABLE_PEERS",
    "FAILOVER_FAILED",
    "OPERATION_FAILED",
    "REPLICATION_FAILED",
    "CONNECTION_FAILED",
    "STALE_READ",
    "RATE_LIMIT_EXCEEDED",
    "AUTHENTICATION_FAILED",
    "POOL_EXHAUSTED",
    "CONNECTION_TIMEOUT",
)
KINDS = sorted(BY_CODE.values(), key=lambda kind: kind.code)


def named(code: str) -> str:
    """The class name that a code of the seed stands for."""
    return "".join(word.capitalize() for word in code.split("_")) + "Error"


@pytest.mark.parametrize("code", SEED_CODES)
def test_every_error_of_the_go_original_is_a_class_named_after_it(code: str) -> None:
    kind = BY_CODE[f"CONSENSUS_{code}"]
    assert kind.__name__ == named(code)


def test_the_two_errors_named_otherwise_keep_the_codes_of_the_go_original() -> None:
    assert BY_CODE["CONSENSUS_TIMEOUT"] is ConsensusTimeoutError
    assert BY_CODE["INVALID_CONFIG"] is InvalidConfigError


def test_no_two_errors_share_a_code() -> None:
    kinds = [kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, ConsensusError)]
    assert len(kinds) == len(BY_CODE)


@pytest.mark.parametrize("kind", KINDS)
def test_every_error_states_its_facts(kind: type[ConsensusError]) -> None:
    assert kind.exit_code in {1, 65, 66, 69, 70, 75, 77, 78}
    assert not (kind.retryable and kind.fatal)
    assert {type(kind.retryable), type(kind.fatal)} == {bool}
    assert kind.message[0].islower()
    own = {name for name in vars(kind) if not name.startswith("__")}
    declared = set(kind.__annotations__) | set(vars(ConsensusError))
    assert own <= declared, "a fact is misspelled"


@pytest.mark.parametrize("kind", KINDS)
def test_every_error_crosses_the_wire_by_its_code(kind: type[ConsensusError]) -> None:
    error = error_from_code(kind.code, "why it was so")
    assert type(error) is kind
    assert error.code == kind.code
    assert "why it was so" in str(error)
    assert str(error_from_code(kind.code, ""))


@pytest.mark.parametrize("kind", KINDS)
def test_every_error_crosses_a_process_border(kind: type[ConsensusError]) -> None:
    error = error_from_code(kind.code, "why", term=7, leader="n2")
    for twin in (pickle.loads(pickle.dumps(error)), copy.copy(error)):
        assert type(twin) is kind
        assert str(twin) == str(error)
        assert vars(twin) == vars(error)


def test_an_unknown_code_is_carried_by_an_operation_failed_error() -> None:
    error = error_from_code("CONSENSUS_OF_TOMORROW", "what it says", shard=3)
    assert type(error) is OperationFailedError
    assert error.code == "CONSENSUS_OF_TOMORROW"
    assert error.context == {"shard": 3}
    assert OperationFailedError.code == "CONSENSUS_OPERATION_FAILED"


def test_not_leader_names_the_leader() -> None:
    error = NotLeaderError(leader="n2", address="10.0.0.2:7000", term=7)
    assert (error.leader, error.address, error.term) == ("n2", "10.0.0.2:7000", 7)
    assert str(error) == "this node does not lead term 7: send it to n2 at 10.0.0.2:7000"
    assert NotLeaderError(term=7).leader is None
    told = error_from_code(error.code, str(error), **error.context)
    assert isinstance(told, NotLeaderError)
    assert (told.leader, told.address, told.term) == ("n2", "10.0.0.2:7000", 7)


def test_numbers_of_an_error_message_are_attributes_and_context() -> None:
    quorum = NoQuorumError(2, 1)
    assert (quorum.required, quorum.available) == (2, 1)
    assert quorum.context == {"required": 2, "available": 1}
    term = StaleTermError(7, 3)
    assert (term.current, term.received) == (7, 3)
    assert "term 3" in str(term)


def test_an_exception_of_the_state_machine_keeps_its_class_and_text() -> None:
    error = error_from_code(CommandError.code, "no such key", kind="KeyError")
    assert isinstance(error, CommandError)
    assert (error.kind, error.text) == ("KeyError", "no such key")
    assert str(error) == str(CommandError("KeyError", "no such key"))


def test_context_is_not_shared_between_errors() -> None:
    first = BusyError(queued=3)
    assert BusyError().context == {}
    assert first.context == {"queued": 3}


def test_a_value_of_the_context_never_replaces_an_attribute_of_every_error() -> None:
    error = error_from_code("CONSENSUS_BUSY", "why", retryable=False, fatal=True)
    assert error.retryable
    assert not error.fatal


def test_a_timeout_is_also_a_python_timeout_error() -> None:
    with pytest.raises(TimeoutError, match="nothing was carried out"):
        raise ConsensusTimeoutError


def test_an_error_with_an_unknown_outcome_is_never_retryable() -> None:
    assert issubclass(SessionExpiredError, OutcomeUnknownError)
    for kind in (OutcomeUnknownError, SessionExpiredError):
        assert not is_retryable(kind())
        assert kind.exit_code == 75


def test_a_temporary_error_is_retryable() -> None:
    for kind in (BusyError, ConsensusTimeoutError, NotLeaderError, StorageFullError):
        assert issubclass(kind, UnavailableError)
        assert is_retryable(kind())
    assert not is_retryable(TimeoutError())


def test_a_full_store_is_no_storage_fault_and_a_corrupt_one_is() -> None:
    assert not issubclass(StorageFullError, StorageError)
    assert is_fatal(CorruptionError())
    for kind in (FolderLockedError, IdentityError, InvalidConfigError):
        assert is_fatal(kind())
        assert kind.exit_code == 78
    assert not is_fatal(ValueError())
