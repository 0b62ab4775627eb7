"""No setting without effect: the program reads each of them somewhere, and not only to check it."""

from __future__ import annotations

import ast
from collections.abc import Iterable, Iterator
from typing import Final

import pytest

from forge_consensus.config.client import ClientSettings
from forge_consensus.config.resolving import ROWS
from forge_consensus.config.setting import describe
from tests.worlds.source_tree import ROOT, SOURCES, tree_of

SETTINGS: Final = (*ROWS, *(row.name for row in describe(ClientSettings)))
HOLDERS: Final = {
    "": {"settings", "node", "program"},
    "raft": {"settings", "raft"},
    "storage": {"settings", "storage"},
    "admin_api": {"admin_api", "wanted"},
    "reload": {"reload"},
    "security": {"settings", "security"},
    "client": {"settings"},
}
"""By section, what the source calls the objects that hold its settings."""
IN_CLASS: Final = {
    "": ("node", "program"),
    "raft": ("raft",),
    "storage": ("storage",),
    "admin_api": ("program",),
    "reload": ("program",),
    "security": ("security",),
    "client": ("client",),
}
"""By section, the files of its class, whose properties read it from ``self``."""
TEST_KIT: Final = ("forge_consensus/testing/", "demo/")


def is_check(name: str) -> bool:
    """Whether a function beside the classes of settings only refuses wrong values."""
    return name == "__post_init__" or name.startswith("check_")


def reads_below(node: ast.AST, *, checks: bool) -> Iterator[tuple[str, str]]:
    """Each attribute that is read in a piece of source, behind the name of what it is read from.

    `checks` says whether those in functions that only refuse wrong values count.
    """
    for child in ast.iter_child_nodes(node):
        if not checks and isinstance(child, ast.FunctionDef) and is_check(child.name):
            continue
        if isinstance(child, ast.Attribute) and isinstance(child.ctx, ast.Load):
            holder = child.value
            if isinstance(holder, ast.Attribute | ast.Name):
                yield holder.attr if isinstance(holder, ast.Attribute) else holder.id, child.attr
        yield from reads_below(child, checks=checks)


def all_reads() -> set[tuple[str, str]]:
    """Every read of an attribute in the product; one from ``self`` in a class of settings is named by its file."""
    found: set[tuple[str, str]] = set()
    for path in SOURCES:
        name = str(path.relative_to(ROOT))
        if name.startswith(TEST_KIT):
            continue
        of_settings = name.startswith("forge_consensus/config/")
        reads = set(reads_below(tree_of(path), checks=not of_settings))
        if of_settings:
            reads = {(path.stem if holder == "self" else holder, attribute) for holder, attribute in reads}
        found |= reads
    return found


def unread(names: Iterable[str], reads: set[tuple[str, str]]) -> list[str]:
    """The settings that nothing reads."""
    found = []
    for name in names:
        section, _, last = name.rpartition(".")
        holders = {*HOLDERS[section], *IN_CLASS[section]}
        if not any((holder, last) in reads for holder in holders):
            found.append(name)
    return found


@pytest.fixture(scope="module")
def reads() -> set[tuple[str, str]]:
    """What the product reads."""
    return all_reads()


def test_the_program_reads_every_setting(reads: set[tuple[str, str]]) -> None:
    assert unread(SETTINGS, reads) == []


@pytest.mark.parametrize("name", ["nothing_reads_this", "raft.nothing_reads_this", "client.nothing_reads_this"])
def test_a_setting_that_nothing_reads_is_found(reads: set[tuple[str, str]], name: str) -> None:
    assert unread([*SETTINGS, name], reads)[-1] == name


def test_a_read_that_only_refuses_values_does_not_count() -> None:
    checked = ast.parse("class A:\n def __post_init__(self): self.fails\n def check_times(self): raft.fails\n")
    assert list(reads_below(checked, checks=False)) == []
    assert {attribute for _, attribute in reads_below(checked, checks=True)} == {"fails"}
    used = ast.parse("class A:\n def seconds(self): return settings.raft.fails")
    assert list(reads_below(used, checks=False)) == [("raft", "fails"), ("settings", "raft")]
