"""``forge-consensus top``: a live screen of the whole cluster."""

from __future__ import annotations

import itertools
import shutil
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from typing import Final

import click
from rich.console import Console, Group
from rich.text import Text

from forge_consensus.cli.connecting import client_of, given_credentials
from forge_consensus.cli.live_screen import LiveScreen
from forge_consensus.cli.options import client_options
from forge_consensus.cli.refresher import KINDS, Refresher, json_line
from forge_consensus.cli.top_screen import BLOCKS, BLOCKS_ASCII, LATE_SECONDS, Frame, screen
from forge_consensus.errors import ConnectionFailedError
from forge_consensus.feed.event_feed import EventFeed
from forge_consensus.finite_range import FiniteRange
from forge_consensus.process.threads import ForgeThread
from forge_consensus.process.waiters import Latch

INTERVAL_SECONDS: Final = 1.0
INTERVAL_SECONDS_MIN: Final = 0.2
INTERVAL_SECONDS_MAX: Final = 60.0
END_SECONDS_MAX: Final = 2.0
"""How long the end waits for the thread that asks."""
HINT: Final = "  q ends"


class Asker:
    """Asks on a thread of its own, so that keys are obeyed while nodes are waited for; the source of a `LiveScreen`.

    Args:
        refresher: makes the frames.
        count: after how many refreshes it ends; None for never.
        blocks: the characters of the sparklines.

    """

    def __init__(self, refresher: Refresher, count: int | None, blocks: str) -> None:
        self.refresher = refresher
        self.count = count
        self.blocks = blocks
        self.frame: Frame | None = None
        self.answered = False
        """Whether a node has answered at any refresh."""
        self.done = False
        self.failure: Exception | None = None
        self.stopping = Latch()
        self.thread = ForgeThread(target=self.run, name="forge-top")

    def run(self) -> None:
        """Refresh until the end; an error is kept for the other thread."""
        try:
            for frame in refreshes(self.refresher, self.count, self.pause):
                self.frame = frame
                self.answered = self.answered or frame.report is not None
        except Exception as error:
            self.failure = error
        self.done = True

    def pause(self, seconds: float) -> bool:
        """Wait so long, and no longer than until the end; return whether to go on."""
        return not self.stopping.wait(seconds)

    def version(self, now: float) -> object:
        """Return the frame, and for how many seconds it has been too old."""
        frame = self.frame
        return frame and (frame.at, max(0, int(now - frame.at - frame.interval - LATE_SECONDS)))

    def lines(self, width: int, height: int, now: float) -> Sequence[Text]:
        """Return the picture of the last frame."""
        if self.frame is None:
            return [Text(f"asking {', '.join(self.refresher.endpoints)}{HINT}"[:width], "dim")]
        return screen(self.frame, width, height, now=now, hint=HINT, blocks=self.blocks)

    @property
    def ended(self) -> bool:
        """Whether all refreshes are over. Raises what went wrong."""
        if self.done and self.failure is not None:
            raise self.failure
        return self.done


def refreshes(refresher: Refresher, count: int | None, pause: Callable[[float], bool]) -> Iterator[Frame]:
    """Yield a frame an interval until there were `count` (None: for ever) or `pause` says that it is over.

    A refresh that takes longer than the interval is followed by the next at once.
    """
    for number in itertools.count(1):
        began = time.monotonic()
        yield refresher.refresh()
        if number == count or not pause(max(0.0, began + refresher.interval - time.monotonic())):
            return


def sleep(seconds: float) -> bool:
    """Wait so long; return that it goes on."""
    time.sleep(seconds)
    return True


@click.command()
@client_options
@click.option(
    "--interval",
    type=FiniteRange(min=INTERVAL_SECONDS_MIN, max=INTERVAL_SECONDS_MAX),
    default=INTERVAL_SECONDS,
    show_default=True,
    help="Seconds from one refresh to the next.",
)
@click.option("--count", type=click.IntRange(min=1), metavar="N", help="End after N refreshes.")
@click.option("--no-events", is_flag=True, help="Do not follow the events of the nodes.")
@click.pass_context
def top(
    ctx: click.Context,
    endpoints: list[str],
    timeout: float,
    output: str,
    interval: float,
    count: int | None,
    no_events: bool,
) -> None:
    """Watch the whole cluster on a screen that refreshes itself; q or Ctrl-C ends it.

    OPS/S are commands that a node answers in a second, COMMITS/S how often its disk makes something durable, SLOWEST
    the slowest of these in the last ten seconds; NODE to MATCH are those of status. A dash stands for what is not
    known, as all rates are before the second refresh and after a restart of the node. A narrow terminal shows fewer
    columns; json has all of them.

    Where stdout is no terminal, frames are printed one after the other; json is a line a refresh. While no node answers
    it says so and goes on trying. Nothing is written to the cluster. Exit code 69 if there were N refreshes and no node
    answered at any.
    """
    following = events_of(endpoints, timeout, output, no_events=no_events)
    try:
        with client_of(endpoints, timeout) as client, following as feed:
            answered = run(Refresher(client, endpoints, timeout, interval, feed), count, output)
    except KeyboardInterrupt:
        return
    if count is not None and not answered:
        ctx.exit(ConnectionFailedError.exit_code)


@contextmanager
def events_of(endpoints: list[str], timeout: float, output: str, *, no_events: bool) -> Iterator[EventFeed | None]:
    """Follow the events of the cluster: for people also those in the journals, for programs those from now on."""
    since = None if output == "json" else 0
    with (
        nullcontext()
        if no_events
        else EventFeed(
            endpoints,
            KINDS,
            since,
            connect_seconds=timeout,
            on_silence=lambda error: None,
            credentials=given_credentials(),
        )
    ) as feed:
        yield feed


def run(refresher: Refresher, count: int | None, output: str) -> bool:
    """Show the frames in the way that fits stdout, until the end; return whether a node answered, or q was pressed."""
    console = Console()
    if output != "json" and sys.stdout.isatty() and console.is_terminal and not console.is_dumb_terminal:
        return run_live(refresher, count, console)
    answered = False
    for place, frame in enumerate(refreshes(refresher, count, sleep)):
        answered = answered or frame.report is not None
        if output == "json":
            click.echo(json_line(frame))
        else:
            print_frame(frame, first=not place)
    return answered


def run_live(refresher: Refresher, count: int | None, console: Console) -> bool:
    """Show the frames on the terminal's other screen; the last one stays behind if all refreshes are over."""
    asker = Asker(refresher, count, blocks_of(console))
    asker.thread.start()
    try:
        over = LiveScreen(asker, console).run()
    finally:
        asker.stopping.set()
        refresher.client.close()  # ends what the thread waits for
        asker.thread.join(END_SECONDS_MAX)
    if over and asker.frame is not None:
        print_frame(asker.frame, first=True)
    return asker.answered or not over


def print_frame(frame: Frame, *, first: bool) -> None:
    """Print a frame as plain lines, with a blank one before it unless it is the first."""
    console = Console(width=shutil.get_terminal_size().columns)
    lines = screen(frame, console.width, blocks=blocks_of(console))
    console.print(Group(*([] if first else [Text()]), *lines), no_wrap=True, overflow="ignore", crop=False)


def blocks_of(console: Console) -> str:
    """Return the characters of sparklines that the terminal's encoding has."""
    return BLOCKS_ASCII if console.options.ascii_only else BLOCKS
