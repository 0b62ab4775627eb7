"""The terminal of a program that redraws its screen: keys as they are pressed, and all as it was at the end."""

from __future__ import annotations

import os
import select
import signal
import sys
import termios
import time
import tty
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from types import FrameType
from typing import Any, Final, Protocol

from rich.console import Console, Group
from rich.live import Live
from rich.text import Text

LOOK_SECONDS: Final = 0.1
"""How often keys, signals and the size of the terminal are looked at."""
KEY_BYTES_MAX: Final = 64
QUIT: Final = frozenset(b"qQ")


class Source(Protocol):
    """What a live screen shows."""

    def lines(self, width: int, height: int, now: float) -> Sequence[Text]:
        """Return the picture at that second of the monotonic clock."""

    def version(self, now: float) -> object:
        """Return something that differs once there is another picture to draw."""

    @property
    def ended(self) -> bool:
        """Whether there will be no other picture. Raises the error that ended it."""


class Keyboard:
    """The keys of the terminal at stdin, without waiting for Enter; none if stdin is something else."""

    def __init__(self) -> None:
        self.descriptor = -1
        self.saved: list[Any] = []

    def begin(self) -> None:
        """Take keys one by one and show none of them, as long as stdin is a terminal."""
        if sys.stdin is not None and sys.stdin.isatty():
            self.descriptor = sys.stdin.fileno()
            self.saved = termios.tcgetattr(self.descriptor)
            tty.setcbreak(self.descriptor)

    def end(self) -> None:
        """Make the terminal as it was."""
        if self.descriptor >= 0:
            termios.tcsetattr(self.descriptor, termios.TCSADRAIN, self.saved)
            self.descriptor = -1

    def quits(self, seconds: float) -> bool:
        """Wait up to so many seconds for keys; return whether q was pressed, or the terminal has gone."""
        if self.descriptor < 0:
            time.sleep(seconds)
            return False
        if not select.select([self.descriptor], [], [], seconds)[0]:
            return False
        pressed = os.read(self.descriptor, KEY_BYTES_MAX)
        return not pressed or bool(QUIT & set(pressed))


class Signals:
    """The signals that a live screen obeys between two pictures, so that none interrupts it while it draws."""

    def __init__(self) -> None:
        self.ended = False
        """Whether SIGINT (Ctrl-C) or SIGTERM came."""
        self.stopped = False
        """Whether SIGTSTP (Ctrl-Z) came, and was not obeyed yet."""

    def end(self, number: int, frame: FrameType | None) -> None:
        """Note that the program is to end."""
        self.ended = True

    def stop(self, number: int, frame: FrameType | None) -> None:
        """Note that the program is to be stopped for now."""
        self.stopped = True

    @contextmanager
    def taken(self) -> Iterator[None]:
        """Take these signals, and leave their handlers at the end as they were; only on the main thread."""
        wanted = {signal.SIGINT: self.end, signal.SIGTERM: self.end, signal.SIGTSTP: self.stop}
        before = {number: signal.signal(number, handler) for number, handler in wanted.items()}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)


class LiveScreen:
    """Shows a source on the terminal until it ends, q is pressed, or a signal ends the program.

    Args:
        source: what is shown.
        console: the terminal.

    """

    def __init__(self, source: Source, console: Console) -> None:
        self.source = source
        self.console = console
        self.keyboard = Keyboard()
        self.signals = Signals()

    def run(self) -> bool:
        """Show it; return whether it ended by itself. Raises the error that ended the source."""
        with self.signals.taken():
            while True:
                with self.shown() as draw:
                    over = self.show(draw)
                if over is not None:
                    return over
                self.signals.stopped = False
                os.kill(os.getpid(), signal.SIGSTOP)  # the terminal is the shell's, until it lets this program go on

    @contextmanager
    def shown(self) -> Iterator[Callable[[Sequence[Text]], None]]:
        """Use the terminal's other screen, and yield what draws on it; at the end all is as it was."""
        live = Live(console=self.console, screen=True, auto_refresh=False, redirect_stdout=False, redirect_stderr=False)
        try:
            self.keyboard.begin()
            with live:
                yield lambda lines: live.update(Group(*lines), refresh=True)
        finally:
            self.keyboard.end()

    def show(self, draw: Callable[[Sequence[Text]], None]) -> bool | None:
        """Draw whenever there is something new; return whether the source ended, None if the program is to be stopped.

        Raises the error that ended the source.
        """
        drawn: object = None
        while not self.signals.ended:
            now, (width, height) = time.monotonic(), self.console.size
            wanted = (width, height, self.source.version(now))
            if wanted != drawn:
                drawn = wanted
                draw(self.source.lines(width, height, now))
            if self.source.ended:
                return True
            if self.signals.stopped:
                return None
            if self.keyboard.quits(LOOK_SECONDS):
                return False
        return False
