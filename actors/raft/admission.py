"""Admission: a leader's look at commands before they enter the log, for machines that have `admit`."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from forge_consensus.actors.raft.waiting import Result
from forge_consensus.errors import ProtocolError
from forge_consensus.security.access_changes import RESERVED
from forge_consensus.storage.machines.machine import UNREADABLE, Command, Machine, Outcome, failed_query


class Admission:
    """Asks the machine whether a command may enter the log.

    A machine refuses here what could only fail, or costs more than it should, so that it takes no place in the log.
    The decision rests on the command alone and is no promise: the state machine decides again when it is applied.
    """

    def __init__(self, machine: Machine) -> None:
        self.admit: Callable[[Command], None] | None = getattr(machine, "admit", None)
        self.bytes_min: int = getattr(machine, "admit_bytes_min", 0)
        """Commands with fewer bytes are admitted without a look, which saves decoding them twice."""

    def refused(self, commands: Sequence[tuple[int, bytes]]) -> dict[int, Result]:
        """The results of the commands that are refused, by their numbers; `commands` are (number, bytes)."""
        bytes_min = self.bytes_min
        if self.admit is None:
            return {}
        looked = [(seq, self.look(self.admit, data)) for seq, data in commands if len(data) >= bytes_min]
        return {seq: (seq, outcome.code, outcome.payload) for seq, outcome in looked if outcome is not None}

    @staticmethod
    def look(admit: Callable[[Command], None], data: bytes) -> Outcome | None:
        """The outcome of a command that is refused, None for one that is admitted.

        A change of the list of access is none of the machine's commands.
        """
        try:
            command = Command.decode(data)
            if command.type != RESERVED:
                admit(command)
        except ProtocolError:
            return UNREADABLE
        except BaseException as error:
            return failed_query(error)
        return None
