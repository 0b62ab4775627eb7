"""What changes when the configuration of a running node is read again, and what of it can take effect at once.

Nothing here changes a node: `plan_of` compares, and `forge_consensus.service.reloading` carries the plan out.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any, Final, Self, TypeVar

from forge_consensus.config.loading import LoadedConfig, nested
from forge_consensus.config.program import ProgramSettings
from forge_consensus.config.resolving import ROWS
from forge_consensus.config.rows import text_of
from forge_consensus.config.setting import Reload, describe, is_section
from forge_consensus.config.shown import SECRET, values_of
from forge_consensus.errors import InvalidConfigError

Settings = TypeVar("Settings")

HOT_PROGRAM: Final = frozenset(row.name for row in describe(ProgramSettings) if row.described.reload == "hot")
"""The settings of a program that take effect at once."""
TEXT_CHARS_MAX: Final = 200
"""Longer values are told by their beginning."""
ELSEWHERE: Final = "has no effect here, because the application decides how it logs and when it ends"


@dataclass(frozen=True, slots=True)
class SettingChange:
    """A setting that has another value than before."""

    name: str
    old: str
    """As text, such as ``0.5``; a secret is not told."""
    new: str
    reload: Reload

    @property
    def text(self) -> str:
        """The change for people."""
        return f"{self.name} {self.old or '-'} -> {self.new or '-'}"


@dataclass(frozen=True, slots=True)
class ReloadPlan:
    """What another configuration means for a running node."""

    changed: tuple[SettingChange, ...]
    """What takes effect at once."""
    waiting: tuple[SettingChange, ...]
    """What the next start reads, or only the founding of a new cluster; see `SettingChange.reload`."""
    notes: tuple[str, ...]
    """What has no effect here, one sentence each."""
    config: LoadedConfig
    """What is in force when the plan is carried out."""

    def named(self, reload: Reload) -> tuple[str, ...]:
        """Return the names of the settings that wait for this."""
        return tuple(change.name for change in self.waiting if change.reload == reload)


def plan_of(running: LoadedConfig, wanted: LoadedConfig, followed: Collection[str] = HOT_PROGRAM) -> ReloadPlan:
    """Compare the configuration in force with another one.

    Args:
        running: the values in force.
        wanted: the values that are given now; they were checked as a whole.
        followed: the hot settings of a program that this program follows.

    Raises `InvalidConfigError` if the hot values do not fit to those in force that only a restart changes; then nothing
    of them may take effect.

    """
    old, new = values_of(running), values_of(wanted)
    changed, waiting, notes = list[SettingChange](), list[SettingChange](), list[str]()
    hot: dict[str, Any] = {}
    for name, row in ROWS.items():
        if old[name] == new[name]:
            continue
        change = SettingChange(name, told(running, name, old), told(wanted, name, new), row.described.reload)
        if change.reload != "hot":
            waiting.append(change)
            continue
        hot[name] = new[name]
        if name in HOT_PROGRAM and name not in followed:
            notes.append(f"{change.text} {ELSEWHERE}")
        else:
            changed.append(change)
    config = put_together(running, wanted, hot, waiting)
    return ReloadPlan(tuple(changed), tuple(waiting), tuple(notes), config)


def told(config: LoadedConfig, name: str, values: Mapping[str, Any]) -> str:
    """Return the text of a value, or its beginning, unless it is a secret."""
    given = config.origins.get(name)
    hidden = (given is not None and given.secret) or (ROWS[name].described.secret and values[name] is not None)
    text = SECRET if hidden else text_of(values[name])
    return text if len(text) <= TEXT_CHARS_MAX else f"{text[: TEXT_CHARS_MAX - 3]}..."


def put_together(
    running: LoadedConfig, wanted: LoadedConfig, hot: Mapping[str, Any], waiting: Iterable[SettingChange]
) -> LoadedConfig:
    """Return the running configuration with these hot values, and with their origins. Raises `InvalidConfigError`."""
    of_program = {name: value for name, value in hot.items() if name in HOT_PROGRAM}
    try:
        program = with_values(running.program, of_program)
        node = with_values(running.node, {name: value for name, value in hot.items() if name not in of_program})
    except InvalidConfigError as error:
        raise InvalidConfigError(
            f"{error}. The new {', '.join(hot)} fits only together with what needs a restart "
            f"({', '.join(change.name for change in waiting)}), so nothing was changed: restart the node"
        ) from error
    origins = dict(wanted.origins)
    for change in waiting:
        origins.pop(change.name, None)
        if change.name in running.origins:
            origins[change.name] = running.origins[change.name]
    return replace(wanted, node=node, program=program, origins=origins)


def with_values(settings: Settings, values: Mapping[str, Any]) -> Settings:
    """Return settings with other values, given by whole name. Raises `InvalidConfigError` if they do not fit."""
    given: dict[str, Any] = {}
    for name, held in nested(values).items():
        section = getattr(settings, name)
        given[name] = replace(section, **held) if is_section(type(section)) else held
    return replace(settings, **given)  # type: ignore[type-var]  # it is a settings class


@dataclass(frozen=True, slots=True)
class ReloadReport:
    """What became of a configuration that was read again."""

    node_id: str
    trigger: str
    """Who wanted it: "signal", "api", "client", "file" or "call"."""
    dry_run: bool
    """Whether nothing was changed, because somebody only wanted to know."""
    changed: tuple[SettingChange, ...]
    """What took effect."""
    waiting: tuple[SettingChange, ...]
    """What the next start of the node reads, or only the founding of a new cluster."""
    notes: tuple[str, ...] = ()
    """What has no effect, one sentence each."""
    files: tuple[str, ...] = ()
    """The files that were read."""

    @property
    def pending_restart(self) -> tuple[str, ...]:
        """The names of the settings that wait for a restart of the node."""
        return tuple(change.name for change in self.waiting if change.reload == "restart")

    def to_dict(self) -> dict[str, Any]:
        """Return the report as JSON can hold it."""
        found = asdict(self)
        for name in ("changed", "waiting"):
            found[name] = list(found[name])
        return {
            **found,
            "notes": list(self.notes),
            "files": list(self.files),
            "pending_restart": list(self.pending_restart),
        }

    @classmethod
    def from_dict(cls, found: Mapping[str, Any]) -> Self:
        """Read the result of `to_dict`, perhaps of a node of another version: unknown fields are ignored."""
        changes = {
            name: tuple(
                SettingChange(row["name"], row["old"], row["new"], row["reload"]) for row in found.get(name, ())
            )
            for name in ("changed", "waiting")
        }
        return cls(
            node_id=str(found.get("node_id", "")),
            trigger=str(found.get("trigger", "")),
            dry_run=bool(found.get("dry_run", False)),
            **changes,
            notes=tuple(found.get("notes", ())),
            files=tuple(found.get("files", ())),
        )

    def lines(self) -> list[str]:
        """Return the report for people."""
        done = "would take effect at once" if self.dry_run else "in force"
        waits = {
            "restart": "waits for a restart of the node",
            "founding": "is read only when a new cluster is founded, and changes nothing here",
        }
        found = [f"{change.text}: {done}" for change in self.changed]
        found += [f"{change.text}: {waits[change.reload]}" for change in self.waiting]
        return [*found, *self.notes] or ["nothing has changed"]
