"""The watch of files that a node takes over while it runs: a thread that looks whether they hold something else."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final, Generic, TypeVar

from forge_consensus.config.file_reads import FileReads, here
from forge_consensus.errors import InvalidConfigError
from forge_consensus.events.types import ConfigRejected, ConfigReloaded, ConsensusEvent
from forge_consensus.process.log import LogLines
from forge_consensus.process.threads import ForgeThread
from forge_consensus.process.waiters import Latch

LINES = LogLines(__name__)

LOOK_SECONDS: Final = 0.25
"""How often the files are looked at: what is revoked in them is out within a second."""
PROBLEM_CHARS_MAX: Final = 500

Held = TypeVar("Held")
Take = Callable[[Held | None, ConsensusEvent], None]
"""Has the node take what the files hold, None for nothing, and publish an event."""


class FileWatch(Generic[Held]):
    """Looks at the content of some files, from `start` to `stop`.

    It notices what a link leads to by now, as in a ConfigMap of Kubernetes. Files with faults change nothing: the node
    goes on with what it has, and says so once.

    Args:
        what: what the files are, for people, such as "the access file".
        settings: their settings, by their whole names.
        paths: the files, in the order of their settings.
        read: returns what they hold; raises `InvalidConfigError`.
        take: has the node take that.

    """

    def __init__(
        self, what: str, settings: Sequence[str], paths: Sequence[Path], read: Callable[[], Held], take: Take[Held]
    ) -> None:
        self.what = what
        self.settings = dict(zip(paths, settings, strict=True))
        self.read = read
        self.take = take
        self.base = here()
        self.seen = self.look()
        """What each file held when they were read last, as a digest, or why it could not be read."""
        self.roused = Latch()
        self.stopping = False
        self.thread = ForgeThread(target=self.run, name="forge-files")

    def look(self) -> dict[Path, str]:
        """Return what the files hold now, as `seen` has it."""
        return FileReads(self.base, regular=True).look(self.settings)

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
                LINES.error("{} could not be read again", self.what, error=error)

    def follow(self) -> None:
        """Have the node take what the files hold, if that is something else than before."""
        found = self.look()
        if found == self.seen or self.stopping:
            return
        try:
            held = self.read()
        except InvalidConfigError as error:
            if self.is_at_rest(found):  # otherwise somebody is still writing
                self.seen = found
                LINES.error("{} was refused, and what was there before stays in force: {}", self.what, error)
                self.take(None, ConfigRejected(trigger="file", problems=(str(error)[:PROBLEM_CHARS_MAX],)))
            return
        changed = tuple(name for path, name in self.settings.items() if found.get(path) != self.seen.get(path))
        self.seen = found
        LINES.info("{} has changed{}", self.what, self.told(held))
        self.take(held, ConfigReloaded(trigger="file", changed=changed))

    def is_at_rest(self, found: dict[Path, str]) -> bool:
        """Whether the files still hold what they held a moment ago."""
        return self.look() == found

    def told(self, held: Held) -> str:
        """Return what people are told of what the files hold now, as the rest of a sentence."""
        return ""
