"""The watch: a thread that reads a node's configuration again when its files have changed, and when it is asked to."""

from __future__ import annotations

import time
from typing import Final

from forge_consensus.errors import ConsensusError, InvalidConfigError
from forge_consensus.process.log import LogLines
from forge_consensus.process.threads import ForgeThread
from forge_consensus.process.waiters import Latch
from forge_consensus.service.reloading import Reloader

LINES = LogLines(__name__)

SETTLE_SECONDS: Final = 0.2
"""Files that have changed are read when they were the same for so long, because somebody may still write them."""
SETTLE_SECONDS_MAX: Final = 5.0
"""So long files that change all the time are waited for; then they are read as they are."""
STOP_SECONDS: Final = 1.0
"""How long `stop` waits for a reading that goes on."""


class ConfigWatcher:
    """Looks at the files of a configuration, on a thread of its own from `start` to `stop`.

    Whether it looks, and how often, the configuration in force says (`reload.watch`, `reload.interval`). It goes by
    what the files hold, so it notices what a link leads to by now, as in a ConfigMap of Kubernetes, and takes no notice
    of a file that was only touched. A content that has faults is told once.

    Args:
        reloader: reads the configuration.

    """

    def __init__(self, reloader: Reloader) -> None:
        self.reloader = reloader
        self.asked = ""
        """Who wants a reading; empty if nobody does."""
        self.roused = Latch()
        self.stopping = False
        self.again = False
        """Whether the node has not taken the last change, so that it is tried again."""
        self.thread = ForgeThread(target=self.run, name="forge-config")

    def start(self) -> None:
        """Begin to look. Raises `TransportUnavailableError` if the system has no more threads."""
        self.reloader.listeners.append(lambda program: self.roused.set())  # the interval may be another one
        self.thread.start()

    def ask(self, trigger: str) -> None:
        """Have the configuration read soon; from any thread and from a signal handler."""
        self.asked = trigger
        self.roused.set()

    def leave(self) -> None:
        """Have the thread end, and wait for nothing."""
        self.stopping = True
        self.roused.set()

    def stop(self) -> None:
        """End the thread, and wait for a moment for it; one that a disk holds up ends when it can."""
        self.leave()
        self.thread.join(STOP_SECONDS)

    def run(self) -> None:
        """Look and read until `stop`; the body of the thread."""
        while not self.stopping:
            self.roused.wait(self.reloader.running.program.reload.interval)
            self.roused.clear()
            asked, self.asked = self.asked, ""
            if self.stopping:
                return
            try:
                if asked:
                    self.read(asked)
                elif self.reloader.running.program.reload.watch and (self.again or self.has_changed()):
                    self.settle()
                    self.read("file")
            except Exception as error:
                LINES.error("the configuration could not be read again", error=error)

    def has_changed(self) -> bool:
        """Whether a file holds something else than when it was read last."""
        source = self.reloader.running.source
        return source is not None and source.can_be_watched and source.look() != source.seen

    def settle(self) -> None:
        """Wait until the files stay as they are."""
        source = self.reloader.running.source
        assert source is not None, "its files were looked at"
        end = time.monotonic() + SETTLE_SECONDS_MAX
        before = source.look()
        while time.monotonic() < end and not self.stopping:
            time.sleep(SETTLE_SECONDS)
            now = source.look()
            if now == before:
                return
            before = now

    def read(self, trigger: str) -> None:
        """Read the configuration, whatever comes of it: what is wrong with it was told already."""
        self.again = False
        try:
            self.reloader.reload(trigger)
        except InvalidConfigError as error:
            if not self.reloader.files:
                LINES.warning("{}: {}", trigger, error)
        except ConsensusError as error:
            self.again = not self.stopping
            LINES.warning("the configuration is read again later: {}", error)
