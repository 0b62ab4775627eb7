"""The state file of a campaign: the seeds that were run, their results, and the failures, line by line."""

from __future__ import annotations

import fcntl
import json
import math
import os
import re
from collections.abc import Callable, Iterator
from dataclasses import astuple, dataclass, field, fields
from hashlib import blake2b
from pathlib import Path
from typing import Any, Self, TextIO

import forge_consensus
from forge_consensus.testing.simulator.trial import Trial
from forge_consensus.testing.story.message_table import aligned

TITLE = "forge-consensus campaign 1"
SOURCES = ("errors.py", "config", "actors", "client", "events", "storage", "testing")
"""The parts of the package that a simulation runs."""
TEXT_CHARS_MAX = 300
NO_DIGEST = "-"
"""The digest of a run that did not end."""
DIGEST = re.compile("[0-9a-f]{32}")
ALL = 0
"""The key of the totals over runs with any number of nodes."""


class StateFileError(Exception):
    """The state file cannot be used; the text says why and what to do."""


@dataclass(frozen=True, slots=True)
class SeedLine:
    """The result of the run of a seed; `digest` is `NO_DIGEST` if the run did not end."""

    seed: int
    digest: str
    nodes: int
    turns: int
    virtual_seconds: float
    operations: int
    faults: int
    frames: int
    terms: int
    cpu_seconds: float

    @classmethod
    def of(cls, trial: Trial) -> Self:
        """Return the line of a trial."""
        return cls(
            trial.plan.seed,
            trial.digest,
            trial.plan.nodes,
            trial.turns,
            round(trial.virtual_seconds, 3),
            trial.operations,
            trial.faults,
            trial.frames,
            trial.terms,
            round(trial.seconds, 3),
        )

    def text(self) -> str:
        """Return the line as text."""
        return "seed " + " ".join(map(str, astuple(self))) + "\n"

    @classmethod
    def parse(cls, words: list[str]) -> Self:
        """Parse the words after "seed". Raises `ValueError`."""
        kinds: dict[str, Callable[[str], object]] = {"int": number, "float": amount, "str": digest_of}
        values: list[Any] = [kinds[str(slot.type)](word) for slot, word in zip(fields(cls), words, strict=True)]
        return cls(*values)


def number(word: str) -> int:
    """Parse a whole number as a campaign writes it. Raises `ValueError`."""
    if not (word.isascii() and word.isdecimal()):  # `int` would accept -1, 1_0 and non-ASCII digits
        raise ValueError(word)
    return int(word)


def amount(word: str) -> float:
    """Parse an amount as a campaign writes it. Raises `ValueError`."""
    value = float(word)
    if not (word.isascii() and "_" not in word and math.isfinite(value) and value >= 0):
        raise ValueError(word)
    return value


def digest_of(word: str) -> str:
    """Parse a digest as a campaign writes it. Raises `ValueError`."""
    if word != NO_DIGEST and DIGEST.fullmatch(word) is None:
        raise ValueError(word)
    return word


@dataclass(slots=True)
class Totals:
    """What the runs of a campaign add up to: what was simulated, and the processor time that it took."""

    seeds: int = 0
    turns: int = 0
    virtual_seconds: float = 0.0
    operations: int = 0
    faults: int = 0
    frames: int = 0
    terms: int = 0
    cpu_seconds: float = 0.0

    def add(self, line: SeedLine) -> None:
        """Add the figures of one run; whether it was counted before is not looked at."""
        self.seeds += 1
        for slot in fields(self)[1:]:
            setattr(self, slot.name, getattr(self, slot.name) + getattr(line, slot.name))


def code_version() -> str:
    """Return a hash of all the code of this package that a simulation runs."""
    home = Path(forge_consensus.__file__).parent
    digest = blake2b(digest_size=8)
    for path in sorted(sources(home), key=str):
        digest.update(f"{path.relative_to(home)} {path.stat().st_size}\n".encode() + path.read_bytes())
    return digest.hexdigest()


def sources(home: Path) -> Iterator[Path]:
    """Yield the files of that code; folders may be links."""
    for name in SOURCES:
        if (home / name).is_file():
            yield home / name
        for folder, _, files in os.walk(home / name, followlinks=True):
            yield from (Path(folder) / file for file in files if file.endswith(".py"))


@dataclass(slots=True)
class StateFile:
    """The results of a campaign so far. Lines are only ever added; a line that was cut off is dropped.

    `opened` continues a campaign, `read` only reads it.
    """

    path: Path
    version: str
    settings: str
    done: set[int] = field(default_factory=set)
    digests: dict[int, str] = field(default_factory=dict)
    failures: dict[tuple[int, str], str] = field(default_factory=dict)
    """The failures, by seed and kind."""
    totals: dict[int, Totals] = field(default_factory=lambda: {ALL: Totals()})
    file: TextIO | None = None

    @classmethod
    def opened(cls, path: Path, version: str, settings: str) -> StateFile:
        """Open the file to continue a campaign, or create it.

        Raises `StateFileError`, also if another process has the file open.
        """
        if not path.parent.exists():  # a typing mistake must not create folders
            raise StateFileError(
                f"the state file {path} cannot be written: there is no folder {path.parent}: make it first"
            )
        try:
            file = path.open("a+", encoding="utf-8")
        except OSError as error:
            raise StateFileError(f"the state file {path} cannot be written: {error.strerror}") from error
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if path.stat().st_size == 0:
                file.write(header(version, settings))
                file.flush()
            state = cls.read(path)
            if state.version != version:
                raise StateFileError(
                    f"{path} is of another version of the code ({state.version}, now {version}), so its results do not "
                    f"hold for this one. To start over, name another file with --state, or remove this one."
                )
            if state.settings != settings:
                raise StateFileError(
                    f"{path} is of a campaign with other settings ({state.settings}; now {settings}). Give the same "
                    f"options again, or, to start over, name another file with --state, or remove this one."
                )
            whole = path.read_bytes().rfind(b"\n") + 1
            if whole < path.stat().st_size:
                os.truncate(path, whole)
        except BlockingIOError:
            file.close()
            raise StateFileError(f"another campaign is running on {path}: stop it, or name another file") from None
        except BaseException:
            file.close()
            raise
        state.file = file
        return state

    @classmethod
    def read(cls, path: Path) -> StateFile:
        """Read the file. Raises `StateFileError`."""
        try:
            text = path.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            why = error.strerror if isinstance(error, OSError) else "it is not a text file"
            raise StateFileError(f"the state file {path} cannot be read: {why}") from error
        lines = text[: text.rfind("\n") + 1].splitlines()
        if len(lines) < 3 or lines[0] != TITLE or not lines[1].startswith("code ") or not lines[2].startswith("with "):
            raise StateFileError(f"{path} is not a state file of a campaign: name another file with --state")
        state = cls(path, lines[1][5:], lines[2][5:])
        for number, line in enumerate(lines[3:], 4):
            if line.startswith("#"):
                continue
            try:
                state.take(line)
            except (ValueError, TypeError, KeyError) as error:
                raise StateFileError(
                    f"line {number} of {path} is not a line of a campaign: {line[:80]!r}. Remove the line (its seed "
                    f"is run again), or name another file with --state"
                ) from error
        return state

    def take(self, line: str) -> None:
        """Count a line of the file. Raises `ValueError`."""
        kind, _, rest = line.partition(" ")
        if kind == "failure":
            seed, name, text = rest.split(" ", 2)
            found = json.loads(text)
            if not name or not isinstance(found, str):
                raise ValueError(rest)
            self.failures[number(seed), name] = found
        elif kind == "seed":
            self.count(SeedLine.parse(rest.split()))
        else:
            raise ValueError(kind)

    def count(self, line: SeedLine) -> None:
        """Add a run to the totals unless its seed is in them; writes nothing."""
        if line.seed in self.done:
            return
        self.done.add(line.seed)
        self.digests[line.seed] = line.digest
        self.totals[ALL].add(line)
        self.totals.setdefault(line.nodes, Totals()).add(line)

    # --- adding ------------------------------------------------------------------------------------------------------

    def add(self, line: SeedLine) -> None:
        """Record a run that ended."""
        self.count(line)
        self.write(line.text())

    def add_failure(self, seed: int, kind: str, text: str) -> None:
        """Record a failure. It is written before the line of its seed, so that no seed counts without its failure."""
        kind = kind.replace(" ", "_")
        self.failures[seed, kind] = text
        self.write(f"failure {seed} {kind} {json.dumps(text)}\n")

    def write(self, text: str) -> None:
        """Write a line at once."""
        assert self.file is not None
        self.file.write(text)
        self.file.flush()

    def close(self) -> None:
        """Close the file, if it was opened; nothing can be recorded afterwards."""
        if self.file is not None:
            self.file.close()

    # --- reporting ---------------------------------------------------------------------------------------------------

    def summary(self) -> str:
        """Return the runs and failures as a table."""
        total, cpu = self.totals[ALL], self.totals[ALL].cpu_seconds
        rows = [
            ("all" if nodes == ALL else f"{nodes}", *totals_row(sums))
            for nodes, sums in sorted(self.totals.items(), key=lambda item: item[0] or 99)
        ]
        head = (
            "nodes",
            "seeds",
            "virtual hours",
            "turns checked",
            "operations",
            "faults",
            "terms led",
            "frames",
            "cpu",
        )
        found = [f"  seed {seed}: {found_text(kind, text)}" for (seed, kind), text in sorted(self.failures.items())]
        verdict = f"{len(found)} violations:\n" + "\n".join(found) if found else "no violation"
        rate = f"{total.seeds / cpu:.1f} seeds per second of one core" if cpu else "nothing ran"
        return (
            f"{self.path}: code {self.version}, {self.settings}\nseeds {ranges_text(self.done)}; {rate}\n"
            f"{aligned(head, rows)}\n{verdict}"
        )


def header(version: str, settings: str) -> str:
    """Return the first lines of a state file."""
    columns = " ".join(slot.name for slot in fields(SeedLine))
    return f"{TITLE}\ncode {version}\nwith {settings}\n# seed {columns.removeprefix('seed ')}\n"


def found_text(kind: str, text: str) -> str:
    """Return a failure in one line; the story holds the whole."""
    line = " ".join(text.split())
    line = line if line.startswith(f"{kind}:") else f"{kind.replace('_', ' ')}: {line}"
    return line if len(line) <= TEXT_CHARS_MAX else line[: TEXT_CHARS_MAX - 3] + "..."


def totals_row(sums: Totals) -> tuple[str, ...]:
    """Return sums as table cells."""
    return (
        f"{sums.seeds:,}",
        f"{sums.virtual_seconds / 3600:,.2f}",
        f"{sums.turns:,}",
        f"{sums.operations:,}",
        f"{sums.faults:,}",
        f"{sums.terms:,}",
        f"{sums.frames:,}",
        f"{sums.cpu_seconds / 60:,.1f} min",
    )


def ranges_text(seeds: set[int]) -> str:
    """Return the seeds as ranges."""
    said: list[list[int]] = []
    for seed in sorted(seeds):
        if said and said[-1][1] == seed - 1:
            said[-1][1] = seed
        else:
            said.append([seed, seed])
    texts = [f"{first}..{last}" if last > first else f"{first}" for first, last in said]
    return ", ".join(texts[:8]) + (f" and {len(texts) - 8} more ranges" if texts[8:] else "") if texts else "none"
