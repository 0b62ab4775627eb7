"""A command that runs as a process group of its own, as a shell runs a job: signals, the terminal, its end."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections import deque
from collections.abc import Mapping, Sequence
from contextlib import suppress
from types import FrameType, TracebackType
from typing import Any, Final, Self

from forge_consensus.process.threads import ForgeThread
from forge_consensus.process.waiters import Latch, Waiters

PASSED_ON: Final = (
    signal.SIGINT,
    signal.SIGTERM,
    signal.SIGHUP,
    signal.SIGQUIT,
    signal.SIGUSR1,
    signal.SIGUSR2,
)
STDIN: Final = 0
LOOK_SECONDS: Final = 0.05


class Interrupted(BaseException):
    """A signal came before the command was started."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = number


class Terminal:
    """The terminal of this program, if it has one and is in its foreground: then the command gets it meanwhile."""

    def __init__(self) -> None:
        self.is_ours = os.isatty(STDIN) and os.tcgetpgrp(STDIN) == os.getpgrp()

    def give(self, group: int) -> None:
        """Put a process group into the foreground, if this program is there."""
        if self.is_ours and os.tcgetpgrp(STDIN) == os.getpgrp():
            self.put(group)

    def take_back(self, group: int) -> None:
        """Be in the foreground again, if that process group is; it is not after a shell's ``bg``."""
        if self.is_ours and os.tcgetpgrp(STDIN) == group:
            self.put(os.getpgrp())

    def put(self, group: int) -> None:
        """Put a process group into the foreground."""
        before = signal.signal(signal.SIGTTOU, signal.SIG_IGN)
        try:
            with suppress(OSError):
                os.tcsetpgrp(STDIN, group)
        finally:
            signal.signal(signal.SIGTTOU, before)


class Child:
    """A command that runs. Only one thread waits for it.

    Args:
        command: the program and its arguments.
        environment: its environment.
        lost: set when it is no more allowed to run.

    Raises `OSError` if it cannot be started.

    """

    def __init__(self, command: Sequence[str], environment: Mapping[str, str], lost: Latch) -> None:
        self.lost = lost
        self.terminal = Terminal()
        self.process = subprocess.Popen(list(command), env=dict(environment), process_group=0)
        self.group = self.process.pid
        self.told: deque[int] = deque()
        """What waitpid told of it and nobody has looked at."""
        self.waiters = Waiters()
        self.terminal.give(self.group)
        self.send(signal.SIGCONT)  # it may have stopped because it read before it had the terminal
        ForgeThread(target=self.listen, name="forge-lock-child").start()

    def listen(self) -> None:
        """Take what the system tells of the process; the body of a thread."""
        status = 0
        while True:
            _, status = os.waitpid(self.process.pid, os.WUNTRACED)
            self.told.append(status)
            self.waiters.wake()
            if not os.WIFSTOPPED(status):
                return

    def send(self, number: int) -> None:
        """Send a signal to all processes of the group."""
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(self.group, number)

    def wait(self) -> int | None:
        """Wait until it ends, and return its exit code as a shell tells it; None if it may run no longer."""
        while True:
            while not (self.told or self.lost.is_set()):
                self.waiters.wait_for(lambda: bool(self.told) or self.lost.is_set(), LOOK_SECONDS)
            if not self.told:
                return None
            status = self.told.popleft()
            if os.WIFSTOPPED(status):
                self.stop_too()
                continue
            self.terminal.take_back(self.group)
            code = os.waitstatus_to_exitcode(status)
            self.process.returncode = code
            return code if code >= 0 else 128 - code

    def stop_too(self) -> None:
        """Stop as the command has stopped, by Ctrl-Z; when somebody goes on with this program, so does the command."""
        if not self.terminal.is_ours:
            return
        self.terminal.take_back(self.group)
        os.kill(os.getpid(), signal.SIGSTOP)
        self.terminal.give(self.group)
        self.send(signal.SIGCONT)

    def end(self, grace: float) -> None:
        """End all processes of the group: by SIGTERM, and by SIGKILL after `grace` seconds."""
        self.send(signal.SIGTERM)
        self.send(signal.SIGCONT)
        end = time.monotonic() + grace
        while self.lives() and time.monotonic() < end:
            time.sleep(LOOK_SECONDS)
        self.send(signal.SIGKILL)
        self.waiters.wait_for(lambda: any(not os.WIFSTOPPED(status) for status in self.told.copy()), 5.0)
        self.process.returncode = -signal.SIGKILL
        self.terminal.take_back(self.group)

    def lives(self) -> bool:
        """Whether any process of the group is there."""
        try:
            os.killpg(self.group, 0)
        except ProcessLookupError:
            return False
        except PermissionError:
            return True
        return True


class Signals:
    """What signals do: they interrupt this program while it waits, and go to the command once that runs."""

    def __init__(self) -> None:
        self.starting = False
        """Whether the command is being started: then a signal waits until it can be passed on."""
        self.child: Child | None = None
        self.waiting: deque[int] = deque()
        self.before: dict[int, Any] = {}

    def __enter__(self) -> Self:
        """Take the signals; one that was ignored before stays ignored, as under nohup."""
        for number in PASSED_ON:
            if signal.getsignal(number) is not signal.SIG_IGN:
                self.before[number] = signal.signal(number, self.came)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Leave the signals as they were."""
        for number, handler in self.before.items():
            signal.signal(number, handler)

    def came(self, number: int, frame: FrameType | None) -> None:
        """Do what a signal asks."""
        if self.child is not None:
            self.child.send(number)
        elif self.starting:
            self.waiting.append(number)
        else:
            raise Interrupted(number)

    def pass_on_to(self, child: Child) -> None:
        """From now on send signals to that command, and those that came while it was started."""
        self.child = child
        while self.waiting:
            child.send(self.waiting.popleft())
