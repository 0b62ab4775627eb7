"""The import graph of `docs/architecture.md`: which package imports which, type-checking imports counted.

python -m tests.worlds.import_graph
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = "forge_consensus"
INSTALLED = ("actors", "demo", "events", "storage")
"""The folders at the top of the repository that are installed inside the package."""
WORDS = ("actors.messages", "actors.notices", "actors.codec")
"""Modules that are lines of their own: they lie beside the actors, so that they are seen first, and under the rest."""
WIDTH = 26


def modules() -> dict[str, Path]:
    """Every module of the product by the name under which it is imported, the package's own name left out."""
    found = {}
    for folder in (PACKAGE, *INSTALLED):
        for path in (ROOT / folder).rglob("*.py"):
            if any(part.is_symlink() for part in path.parents):
                continue
            parts = path.relative_to(ROOT).with_suffix("").parts
            parts = parts[1:] if parts[0] == PACKAGE else parts
            found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


def line_of(module: str, packages: set[str]) -> str:
    """The line of the graph that a module belongs to: its package, or itself where it lies at the very top."""
    if module in WORDS or module in packages:
        return module
    return module.rpartition(".")[0] or module


def imports_of(path: Path, known: set[str]) -> Iterator[str]:
    """The modules of the product that a file imports anywhere, also inside functions and for type checkers only."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        names: list[str] = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        for name in names:
            if name.startswith(f"{PACKAGE}."):
                module = name.removeprefix(f"{PACKAGE}.")
                yield module if module in known else module.rpartition(".")[0]


def edges() -> dict[str, set[str]]:
    """The graph: each line with the lines that it imports.

    The package's own `__init__` is left out, because it only names what the others export.
    """
    files = modules()
    known = set(files)
    packages = {name for name, path in files.items() if path.name == "__init__.py"}
    graph: dict[str, set[str]] = {}
    for name, path in files.items():
        if not name:
            continue
        line = line_of(name, packages)
        found = graph.setdefault(line, set())
        found |= {line_of(target, packages) for target in imports_of(path, known) if target} - {line}
    return {line: found for line, found in graph.items() if found or any(line in others for others in graph.values())}


def ordered(graph: dict[str, set[str]]) -> list[str]:
    """The lines from top to bottom, so that each imports only lines below it. Raises ValueError for a circle."""
    left = {line: set(found) for line, found in graph.items()}
    bottom_up: list[str] = []
    while left:
        free = sorted((line for line, found in left.items() if not found), reverse=True)
        if not free:
            raise ValueError(f"these packages import each other in a circle: {circle(left)}")
        bottom_up += free
        left = {line: found.difference(free) for line, found in left.items() if line not in free}
    return bottom_up[::-1]


def circle(graph: dict[str, set[str]]) -> str:
    """One circle of a graph in which nothing is without imports."""
    path = [min(graph)]
    while path[-1] not in path[:-1]:
        path.append(min(graph[path[-1]]))
    return " -> ".join(path[path.index(path[-1]) :])


def text() -> list[str]:
    """The block as it stands in the document."""
    graph = edges()
    order = ordered(graph)
    place = {line: number for number, line in enumerate(order)}
    return [
        f"{line:<{WIDTH}}-> {', '.join(sorted(graph[line], key=place.__getitem__)) or '(nothing)'}" for line in order
    ]


if __name__ == "__main__":
    print("\n".join(text()))
