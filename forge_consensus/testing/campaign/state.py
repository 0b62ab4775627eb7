"""The state file of a campaign: which seeds were run, what each amounted to, and what was found, line by line."""

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
SOURCES = ("errors.py", "actors", "events", "storage", "testing")
"""What of the package a simulation runs."""
TEXT_CHARS_MAX = 300
NO_DIGEST = "-"
"""The digest of a run that did not end."""
DIGEST = re.compile("[0-9a-f]{32}")
ALL = 0
"""Where the totals of runs with any number of nodes stand."""


class StateFileError(Exception):
    """The state file is of no use here; the text says why and what to do."""


@dataclass(frozen=True, slots=True)
class SeedLine:
    """What the run of a seed amounted to; `digest` is `NO_DIGEST` where the run did not end."""

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
        """The line of a trial."""
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
        """The line."""
        return "seed " + " ".join(map(str, astuple(self))) + "\n"

    @classmethod
    def parse(cls, words: list[str]) -> Self:
        """Read the words after "seed". Raises `ValueError`."""
        kinds: dict[str, Callable[[str], object]] = {"int": number, "float": amount, "str": digest_of}
        values: list[Any] = [kinds[str(slot.type)](word) for slot, word in zip(fields(cls), words, strict=True)]
        return cls(*values)


def number(word: str) -> int:
    """A whole number as a campaign writes it. Raises `ValueError`."""
    if not (word.isascii() and word.isdecimal()):  # `int` would take -1, 1_0 and other digits than ours
        raise ValueError(word)
    return int(word)


def amount(word: str) -> float:
    """An amount as a campaign writes it. Raises `ValueError`."""
    value = float(word)
    if not (word.isascii() and "_" not in word and math.isfinite(value) and value >= 0):
        raise ValueError(word)
    return value


def digest_of(word: str) -> str:
    """A digest as a campaign writes it. Raises `ValueError`."""
    if word != NO_DIGEST and DIGEST.fullmatch(word) is None:
        raise ValueError(word)
    return word


@dataclass(slots=True)
class Totals:
    """Sums over runs."""

    seeds: int = 0
    turns: int = 0
    virtual_seconds: float = 0.0
    operations: int = 0
    faults: int = 0
    frames: int = 0
    terms: int = 0
    cpu_seconds: float = 0.0

    def add(self, line: SeedLine) -> None:
        """Count a run."""
        self.seeds += 1
        for slot in fields(self)[1:]:
            setattr(self, slot.name, getattr(self, slot.name) + getattr(line, slot.name))


def code_version() -> str:
    """A hash of all the code of this package that a simulation runs."""
    home = Path(forge_consensus.__file__).parent
    digest = blake2b(digest_size=8)
    for path in sorted(sources(home), key=str):
        digest.update(f"{path.relative_to(home)} {path.stat().st_size}\n".encode() + path.read_bytes())
    return digest.hexdigest()


def sources(home: Path) -> Iterator[Path]:
    """The files of that code; folders may be links."""
    for name in SOURCES:
        if (home / name).is_file():
            yield home / name
        for folder, _, files in os.walk(home / name, followlinks=True):
            yield from (Path(folder) / file for file in files if file.endswith(".py"))


@dataclass(slots=True)
class StateFile:
    """What a campaign did so far. Lines are only ever added; one that a process did not end is dropped.

    Use `opened` to go on with a campaign, `read` to look at it.
    """

    path: Path
    version: str
    settings: str
    done: set[int] = field(default_factory=set)
    digests: dict[int, str] = field(default_factory=dict)
    failures: dict[tuple[int, str], str] = field(default_factory=dict)
    """What was found, by seed and kind."""
    totals: dict[int, Totals] = field(default_factory=lambda: {ALL: Totals()})
    file: TextIO | None = None

    @classmethod
    def opened(cls, path: Path, version: str, settings: str) -> StateFile:
        """Go on with what is in the file, or begin it. Raises `StateFileError`; nobody else may have it open."""
        if not path.parent.exists():  # a slip of the pen would leave folders wherever it leads
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
                    f"{path} is of another version of the code ({state.version}, now {version}): what it says of seeds "
                    f"does not hold for this one. To begin anew, name another file with --state, or remove this one."
                )
            if state.settings != settings:
                raise StateFileError(
                    f"{path} is of a campaign with other settings ({state.settings}; now {settings}). Give the same "
                    f"options again, or, to begin anew, name another file with --state, or remove this one."
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
        """What is in the file. Raises `StateFileError`."""
        try:
            text = path.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            why = error.strerror if isinstance(error, OSError) else "it is no text"
            raise StateFileError(f"the state file {path} cannot be read: {why}") from error
        lines = text[: text.rfind("\n") + 1].splitlines()
        if len(lines) < 3 or lines[0] != TITLE or not lines[1].startswith("code ") or not lines[2].startswith("with "):
            raise StateFileError(f"{path} is no state file of a campaign: name another file with --state")
        state = cls(path, lines[1][5:], lines[2][5:])
        for number, line in enumerate(lines[3:], 4):
            if line.startswith("#"):
                continue
            try:
                state.take(line)
            except (ValueError, TypeError, KeyError) as error:
                raise StateFileError(
                    f"line {number} of {path} is no line of a campaign: {line[:80]!r}. Remove the line (its seed is "
                    f"run again), or name another file with --state"
                ) from error
        return state

    def take(self, line: str) -> None:
        """Count what a line says."""
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
        """Count a run, once."""
        if line.seed in self.done:
            return
        self.done.add(line.seed)
        self.digests[line.seed] = line.digest
        self.totals[ALL].add(line)
        self.totals.setdefault(line.nodes, Totals()).add(line)

    # --- adding ------------------------------------------------------------------------------------------------------

    def add(self, line: SeedLine) -> None:
        """Note a run that ended."""
        self.count(line)
        self.write(line.text())

    def add_failure(self, seed: int, kind: str, text: str) -> None:
        """Note what was found; before the line of its seed, so that none can be counted without it."""
        kind = kind.replace(" ", "_")
        self.failures[seed, kind] = text
        self.write(f"failure {seed} {kind} {json.dumps(text)}\n")

    def write(self, text: str) -> None:
        """Write a line at once."""
        assert self.file is not None
        self.file.write(text)
        self.file.flush()

    def close(self) -> None:
        """No more lines."""
        if self.file is not None:
            self.file.close()

    # --- telling -----------------------------------------------------------------------------------------------------

    def summary(self) -> str:
        """What was run and found, as a table."""
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
    """The first lines of a state file."""
    columns = " ".join(slot.name for slot in fields(SeedLine))
    return f"{TITLE}\ncode {version}\nwith {settings}\n# seed {columns.removeprefix('seed ')}\n"


def found_text(kind: str, text: str) -> str:
    """What was found, in a line; the whole is in the story."""
    line = " ".join(text.split())
    line = line if line.startswith(f"{kind}:") else f"{kind.replace('_', ' ')}: {line}"
    return line if len(line) <= TEXT_CHARS_MAX else line[: TEXT_CHARS_MAX - 3] + "..."


def totals_row(sums: Totals) -> tuple[str, ...]:
    """Sums as cells."""
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
    """The seeds as ranges."""
    said: list[list[int]] = []
    for seed in sorted(seeds):
        if said and said[-1][1] == seed - 1:
            said[-1][1] = seed
        else:
            said.append([seed, seed])
    texts = [f"{first}..{last}" if last > first else f"{first}" for first, last in said]
    return ", ".join(texts[:8]) + (f" and {len(texts) - 8} more ranges" if texts[8:] else "") if texts else "none"
