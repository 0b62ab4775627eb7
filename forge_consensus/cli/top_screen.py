"""The screen of ``forge-consensus top`` as lines of text: drawn from a frame, without asking a node or a terminal."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final, NamedTuple

from rich.cells import cell_len, set_cell_size
from rich.text import Text

from forge_consensus.cli.rates import ClusterRates, NodeRates
from forge_consensus.cli.status import COLORS, headlines, number
from forge_consensus.events.envelope import ConsensusEvent
from forge_consensus.events.log_lines import LEVELS
from forge_consensus.events.text import seconds_text
from forge_consensus.output import bytes_text, clock_text, event_text, moment_text, printable
from forge_consensus.service.cluster_report import ClusterReport, MemberReport

UNKNOWN: Final = "-"
BLOCKS: Final = "▁▂▃▄▅▆▇█"
BLOCKS_ASCII: Final = "_.-=+*%#"
WIDE_CHARS: Final = 100
"""From this width on there are two spaces between columns."""
EVENTS_PLAIN: Final = 10
"""How many events a frame has that no height limits."""
WARNING_LINES: Final = 4
LABEL_CHARS: Final = 15
VALUE_CHARS: Final = 9
STYLES: Final = {"ERROR": "red", "WARNING": "yellow"}
"""The style of an event by the level at which it is logged."""
LATE_SECONDS: Final = 1.5
"""A picture that is older than the interval and this is said to be old."""


class Column(NamedTuple):
    """A column of the table."""

    head: str
    spare: int
    """Where the screen is too narrow, the columns with the highest go first; those with 0 stay."""
    width: int
    """How many characters it has at least, so that columns stay where they are when figures change."""
    right: bool = False
    """Whether its cells stand at the right, as figures do."""


COLUMNS: Final = (
    Column("NODE", 0, 4),
    Column("ROLE", 6, 9),
    Column("STATE", 0, 9),
    Column("LAG", 0, 5, right=True),
    Column("MATCH", 4, 9, right=True),
    Column("HEARD", 5, 5, right=True),
    Column("OPS/S", 1, 6, right=True),
    Column("READS/S", 11, 7, right=True),
    Column("COMMITS/S", 3, 9, right=True),
    Column("SLOWEST", 2, 7, right=True),
    Column("DISK", 7, 6, right=True),
    Column("FREE", 10, 6, right=True),
    Column("VERSION", 9, 7),
    Column("ADDRESS", 12, 15),
    Column("SNAPSHOTS", 8, 24),
)
STATE: Final = 2
"""The place of the column that is colored."""
SNAPSHOTS: Final = len(COLUMNS) - 1
"""The place of the last column, which takes what is left of the width and cuts what does not fit."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Frame:
    """All that one picture shows."""

    time: float
    """When the nodes were asked, in Unix seconds."""
    at: float
    """The same in seconds of the monotonic clock here."""
    interval: float
    """Seconds from one refresh to the next."""
    report: ClusterReport | None
    """None if no node answered."""
    error: str = ""
    """Why no node answered; empty if one did."""
    answered_at: float | None = None
    """When nodes were last asked and one answered, in Unix seconds; None if none ever did."""
    rates: ClusterRates = field(default_factory=ClusterRates)
    committed: tuple[float | None, ...] = ()
    """Committed entries a second at this refresh and those before, the oldest first."""
    slowest: tuple[float | None, ...] = ()
    """The slowest commit in seconds, at the same refreshes."""
    events: tuple[ConsensusEvent, ...] | None = None
    """The last events, the oldest first; None if none are wanted."""
    fresh: tuple[ConsensusEvent, ...] = ()
    """The events that have come since the refresh before."""
    events_error: str = ""
    """Why events are not followed any more; empty if they are."""


# --- words and figures -----------------------------------------------------------------------------------------------


def rate_text(value: float | None) -> str:
    """Return a rate for people; a small one is not rounded to 0."""
    if value is None:
        return UNKNOWN
    if 0 < value < 0.05:
        return "<0.1"
    return f"{value:.1f}" if 0 < value < 9.95 else f"{value:,.0f}"


def sparkline(values: Sequence[float | None], blocks: str = BLOCKS) -> str:
    """Return one character a value, as high as the value is beside the greatest; a space for one that is unknown."""
    greatest = max((value for value in values if value is not None), default=0.0)
    steps = len(blocks) - 1
    return "".join(
        " " if value is None else blocks[round(steps * value / greatest) if greatest else 0] for value in values
    )


def cells_of(node: MemberReport, leader: str | None, rates: NodeRates) -> tuple[str, ...]:
    """Return a node's line of the table, one cell for each of `COLUMNS`; the leader has a star."""
    return (
        (node.node_id or "?") + ("*" if node.node_id and node.node_id == leader else ""),
        node.role or UNKNOWN,
        node.state,
        number(node.lag),
        number(node.match_index),
        seconds_text(node.last_contact),
        rate_text(rates.operations_per_second),
        rate_text(rates.reads_per_second),
        rate_text(rates.commits_per_second),
        seconds_text(rates.slowest_commit_seconds),
        bytes_text(node.storage_used_bytes),
        bytes_text(node.disk_free_bytes),
        node.version or UNKNOWN,
        node.address,
        UNKNOWN if node.snapshot_doing is None else printable(node.snapshot_doing),
    )


# --- the table -------------------------------------------------------------------------------------------------------


def fitting(rows: Sequence[tuple[str, ...]], width: int) -> dict[int, int]:
    """Return which columns fit into `width` characters, as their places in `COLUMNS`, and how wide each is."""
    gap = gap_of(width)
    widths = {
        place: max([column.width, *(cell_len(row[place]) for row in rows if place != SNAPSHOTS)])
        for place, column in enumerate(COLUMNS)
    }
    kept = sorted(widths, key=lambda place: COLUMNS[place].spare)
    while (left := width - sum(widths[place] + gap for place in kept) + gap) < 0 and COLUMNS[kept[-1]].spare:
        kept.pop()
    if SNAPSHOTS in kept:
        widths[SNAPSHOTS] += left
    return {place: widths[place] for place in sorted(kept)}


def gap_of(width: int) -> int:
    """Return how many spaces stand between columns."""
    return 2 if width >= WIDE_CHARS else 1


def row_text(cells: Sequence[str], widths: dict[int, int], gap: int, state_style: str = "") -> Text:
    """Return a line of the table with the columns of `widths`; the state is colored."""
    line = Text()
    for place, width in widths.items():
        cell, missing = cut(cells[place], width), width - cell_len(cells[place])
        text = " " * missing + cell if COLUMNS[place].right else cell + " " * missing
        line.append(text + " " * gap, state_style if place == STATE else "")
    line.rstrip()
    return line


def cut(text: str, width: int) -> str:
    """Return a text that takes at most `width` cells of a terminal; a longer one ends with three dots."""
    return text if cell_len(text) <= width else set_cell_size(text, max(0, width - 3)) + "..."


def table_lines(frame: Frame, report: ClusterReport, width: int, rows_max: int) -> list[Text]:
    """Return the table, with at most `rows_max` nodes, and below it what does not fit into it.

    If there are more nodes, those that are not well go first, and how many are left out is told.
    """
    nodes = list(report.nodes)
    if len(nodes) > rows_max:
        shown = max(1, rows_max - 1)
        nodes = sorted(nodes, key=lambda node: (node.state == "ok", node.node_id != report.leader_id))[:shown]
    rates = frame.rates.nodes
    rows = [cells_of(node, report.leader_id, rates.get(node.node_id or "", NodeRates())) for node in nodes]
    widths, gap = fitting(rows, width), gap_of(width)
    lines = [row_text([column.head for column in COLUMNS], widths, gap)]
    lines[0].stylize("bold")
    for node, row in zip(nodes, rows, strict=True):
        lines.append(row_text(row, widths, gap, COLORS.get(node.state, "yellow")))
        if node.node_id and node.node_id == report.leader_id:
            lines[-1].stylize("bold")
    if left := len(report.nodes) - len(nodes):
        lines.append(Text(f"and {left} more node{'' if left == 1 else 's'}", "dim"))
    room = widths.get(SNAPSHOTS, 0)
    for row in rows:
        if row[SNAPSHOTS] != UNKNOWN and cell_len(row[SNAPSHOTS]) > room:
            lines.append(Text(f"  {row[0].rstrip('*')} {row[SNAPSHOTS]}"))
    return lines


# --- above and below it ----------------------------------------------------------------------------------------------


def title(frame: Frame, now: float | None, hint: str) -> Text:
    """Return the first line: when the nodes were asked, and how old that is if it is too old at `now` (monotonic)."""
    text = Text(f"{moment_text(frame.time)} UTC  every {seconds_text(frame.interval)}{hint}", "dim")
    age = 0.0 if now is None else now - frame.at
    if age > frame.interval + LATE_SECONDS:
        text.append(f"  waiting for answers for {seconds_text(age)}", "not dim red")
    return text


def silence_lines(frame: Frame, width: int) -> list[Text]:
    """Return what is said in place of the cluster while no node answers."""
    last = "none has answered yet" if frame.answered_at is None else f"the last answer is of {ago(frame)} ago"
    lines = [Text("NO NODE ANSWERS", "red").append(f"  {last}; trying on", "default")]
    return [*lines, *wrapped("! ", printable(frame.error), width)]


def ago(frame: Frame) -> str:
    """Return how long before the frame nodes last answered."""
    return seconds_text(max(0.0, frame.time - (frame.answered_at or frame.time)))


def wrapped(mark: str, text: str, width: int) -> list[Text]:
    """Return a text in lines behind a yellow mark; the later ones are indented."""
    parts = textwrap.wrap(text, max(20, width - len(mark)), break_on_hyphens=False)
    return [
        Text(" " * len(mark) if place else mark, "yellow").append(part, "default") for place, part in enumerate(parts)
    ]


def warning_lines(report: ClusterReport, width: int) -> list[Text]:
    """Return the change of members, the warnings that fit into `WARNING_LINES`, and what to do first."""
    lines = [Text(f"change of members: {printable(report.change)}")] if report.change else []
    told: list[Text] = []
    for place, warning in enumerate(report.warnings):
        more = wrapped("! ", printable(warning), width)
        if told and len(told) + len(more) > WARNING_LINES:
            told.append(Text(f"  and {len(report.warnings) - place} more: see forge-consensus status"))
            break
        told += more
    return [*lines, *told, *(wrapped("> ", printable(report.advice), width) if report.advice else ())]


def history_lines(frame: Frame, width: int, blocks: str) -> list[Text]:
    """Return the two sparklines, each behind its present and its greatest value."""
    rows = (
        ("committed/s", frame.committed, rate_text, "cyan"),
        ("slowest commit", frame.slowest, seconds_text, "magenta"),
    )
    lines = []
    for label, values, text_of, style in rows:
        known = [value for value in values if value is not None]
        present, greatest = values[-1] if values else None, max(known, default=None)
        head = f"{label:{LABEL_CHARS}}{text_of(present):>{VALUE_CHARS}}  max {text_of(greatest):>{VALUE_CHARS}}  "
        room = max(0, width - len(head))
        lines.append(Text(head).append(sparkline(values[-room:] if room else (), blocks), style))
    return lines


def event_lines(frame: Frame, rows: int) -> list[Text]:
    """Return the last events, at most so many lines, with a blank line above; none if events are not wanted."""
    if frame.events is None or rows < 2:
        return []
    lines = [
        Text(f"{clock_text(event.time)}  {event_text(event)}", STYLES.get(LEVELS.get(type(event), "INFO"), ""))
        for event in frame.events
    ]
    if frame.events_error:
        lines.append(Text(printable(frame.events_error), "yellow"))
    return [Text(), *lines[1 - rows :]] if lines else []


def screen(
    frame: Frame,
    width: int,
    height: int | None = None,
    *,
    now: float | None = None,
    hint: str = "",
    blocks: str = BLOCKS,
) -> list[Text]:
    """Return the picture as lines that fit the screen.

    Args:
        frame: what is shown.
        width: how many characters a line may have.
        height: how many lines there may be; None for no limit, and then for `EVENTS_PLAIN` events.
        now: the present second of the monotonic clock, to tell that the frame is old; None if it is drawn at once.
        hint: more for the first line, such as which key ends the program.
        blocks: the characters of the sparklines, from low to high.

    """
    report = frame.report
    lines = [title(frame, now, hint)]
    if report is None:
        lines += silence_lines(frame, width)
    else:
        lines += [*map(Text.from_ansi, headlines(report)), *warning_lines(report, width)]
    history = history_lines(frame, width, blocks)
    if report is not None:
        rows = len(report.nodes) if height is None else max(1, height - len(lines) - len(history) - 1)
        lines += table_lines(frame, report, width, rows)
    lines += history
    lines += event_lines(frame, 1 + EVENTS_PLAIN if height is None else height - len(lines))
    return [shortened(line, width) for line in lines[:height]]


def shortened(line: Text, width: int) -> Text:
    """Return the line, cut with three dots where it is wider than the screen."""
    if line.cell_len > width:
        line.truncate(max(0, width - 3))
        line.append("...")
    return line
