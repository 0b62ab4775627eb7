"""Machines whose export takes too long or fails, for the exporter's child process to import."""

import time
from collections.abc import Iterator

from forge_consensus.storage.backends.tables import TablesView
from forge_consensus.storage.machines.kv import KeyValueMachine


class SlowMachine(KeyValueMachine):
    """A machine whose export never ends."""

    @staticmethod
    def export(tables: TablesView, generation: int) -> Iterator[bytes]:
        yield b"x" * 100_000
        time.sleep(60)


class FailingMachine(KeyValueMachine):
    """A machine whose export fails."""

    @staticmethod
    def export(tables: TablesView, generation: int) -> Iterator[bytes]:
        yield b"x"
        raise ValueError("this state cannot be exported")
