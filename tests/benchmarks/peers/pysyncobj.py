"""PySyncObj, loaded from inside its leader, which is its fastest case; it writes no disk before it acknowledges."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import IO, Any, ClassVar, Final, Self

from forge_consensus.testing.local.ports import free_ports
from tests.benchmarks.peers.figures import Work
from tests.benchmarks.peers.load import GRACE_SECONDS, Loaded, LoadProgram, demand_begun, line_within
from tests.benchmarks.peers.system import NAMES, ProcessSystem
from tests.worlds.source_tree import ROOT

ASK_SECONDS_MAX: Final = 20.0


class Pysyncobj(ProcessSystem):
    """Three processes of `tests.benchmarks.peers.pysyncobj_node`, which are asked through pipes."""

    name: ClassVar = "pysyncobj"
    title: ClassVar = "PySyncObj"
    durability: ClassVar = "in memory: it never flushes"
    client: ClassVar = "inside its leader"
    install: ClassVar = f"{Path(sys.executable).parent / 'pip'} install pysyncobj"
    answers_by_pipe: ClassVar = True

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.ports = dict(zip(NAMES, free_ports(len(NAMES)), strict=True))

    @classmethod
    def missing(cls) -> str:
        """Return what is not installed."""
        return "" if importlib.util.find_spec("pysyncobj") else "pysyncobj"

    @classmethod
    def version(cls) -> str:
        """Return the version of the package."""
        return importlib.metadata.version("pysyncobj")

    def command(self, name: str) -> Sequence[str]:
        """Return the command line of a node."""
        others = [f"127.0.0.1:{port}" for each, port in self.ports.items() if each != name]
        own = f"127.0.0.1:{self.ports[name]}"
        return [sys.executable, "-m", "tests.benchmarks.peers.pysyncobj_node", own, *others]

    def environment(self, name: str) -> Mapping[str, str]:
        """Return the variable by which a node finds this package from its own folder."""
        return {"PYTHONPATH": str(ROOT)}

    def say(self, name: str, **question: Any) -> None:
        """Write a question to a node. Raises `OSError`."""
        stream = self.processes[name].stdin
        assert stream is not None, "it is a pipe"
        stream.write(json.dumps(question) + "\n")
        stream.flush()

    def line(self, name: str, seconds: float) -> str:
        """The next line of a node. Raises `LoadFailedError` if it ends or is silent instead."""
        stream: IO[str] | None = self.processes[name].stdout
        assert stream is not None, "it is a pipe"
        return line_within(stream, seconds, self.processes[name].kill, self.log(name))

    def leader(self) -> str:
        """Return the node that leads; empty while none is ready."""
        for name in NAMES:
            self.say(name)
        leads = {name: json.loads(self.line(name, ASK_SECONDS_MAX)) for name in NAMES}
        return next((name for name, said in leads.items() if said), "")

    def flushes(self) -> int | None:
        """Return 0: it does not flush."""
        return 0

    def load(self, work: Work) -> LoadProgram:
        """Begin a load inside the leader."""
        return InsideLoad(self, self.wait_for_leader(), work)


class InsideLoad(LoadProgram):
    """A load that comes from inside a node, so it has no process of its own.

    Args:
        system: the system that is loaded.
        name: the node that loads itself.
        work: what it does.

    """

    def __init__(self, system: Pysyncobj, name: str, work: Work) -> None:
        self.system, self.name, self.seconds = system, name, work.seconds
        system.say(
            name,
            outstanding=work.outstanding,
            seconds=work.seconds,
            warm_seconds=work.warm_seconds,
            value_bytes=work.value_bytes,
        )

    @property
    def pid(self) -> int | None:
        """None."""
        return None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Leave the node as it is."""

    def wait_until_begun(self) -> None:
        """Wait until the work that counts begins. Raises `LoadFailedError`."""
        demand_begun(self.line())

    def result(self) -> Loaded:
        """Wait for the figures. Raises `LoadFailedError`."""
        return Loaded.of_line(self.line())

    def line(self) -> str:
        """The next line that the node says. Raises `LoadFailedError`."""
        return self.system.line(self.name, self.seconds + GRACE_SECONDS)
