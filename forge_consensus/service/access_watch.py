"""The watch of the access file: a thread that has the node take over what changes in it, without a restart."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Final

from forge_consensus.config.file_reads import FileReads, here
from forge_consensus.errors import InvalidConfigError
from forge_consensus.events.types import ConfigRejected, ConfigReloaded, ConsensusEvent
from forge_consensus.process.log import LogLines
from forge_consensus.process.threads import ForgeThread
from forge_consensus.process.waiters import Latch
from forge_consensus.security.access import AccessList
from forge_consensus.security.access_file import read_access_file

LINES = LogLines(__name__)

LOOK_SECONDS: Final = 0.25
"""How often the file is looked at: a key that is revoked in it is out within a second."""
NAME: Final = "security.access_file"
PROBLEM_CHARS_MAX: Final = 500

Take = Callable[[AccessList | None, ConsensusEvent], None]
"""Has the node take a list, None for none, and publish an event."""


class AccessWatch:
    """Looks at the content of one access file, from `start` to `stop`.

    It notices what a link leads to by now, as in a ConfigMap of Kubernetes. A file with faults changes nothing: the
    node goes on with the list that it has, and says so once.

    Args:
        path: the file.
        take: has the node take what it holds.

    """

    def __init__(self, path: str | Path, take: Take) -> None:
        self.path = here() / path
        self.take = take
        self.seen = self.look()
        """What the file held when it was read last, as a digest, or why it could not be read."""
        self.roused = Latch()
        self.stopping = False
        self.thread = ForgeThread(target=self.run, name="forge-access")

    def look(self) -> str:
        """Return what the file holds now, as `seen` has it."""
        return FileReads(regular=True).look([self.path]).get(self.path, "")

    def start(self) -> None:
        """Begin to look. Raises `TransportUnavailableError` if the system has no more threads."""
        self.thread.start()

    def rouse(self) -> None:
        """Look at once; from any thread."""
        self.roused.set()

    def stop(self) -> None:
        """End the thread, and wait for nothing."""
        self.stopping = True
        self.roused.set()

    def run(self) -> None:
        """Look until `stop`; the body of the thread."""
        while not self.stopping:
            self.roused.wait(LOOK_SECONDS)
            self.roused.clear()
            try:
                self.follow()
            except Exception as error:
                LINES.error("the access file could not be read again", error=error)

    def follow(self) -> None:
        """Have the node take what the file holds, if that is something else than before."""
        found = self.look()
        if found == self.seen or self.stopping:
            return
        try:
            access = read_access_file(self.path)
        except InvalidConfigError as error:
            if self.look() == found:  # otherwise somebody is still writing it
                self.seen = found
                LINES.error("the access file was refused, and the list before it stays in force: {}", error)
                self.take(None, ConfigRejected(trigger="file", problems=(str(error)[:PROBLEM_CHARS_MAX],)))
            return
        self.seen = found
        LINES.info("the access file has changed: {} members and clients are known", len(access.by_name))
        self.take(access, ConfigReloaded(trigger="file", changed=(NAME,)))
