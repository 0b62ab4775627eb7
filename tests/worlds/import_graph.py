"""The import graph of `docs/architecture.md`: which package imports which, type-checking imports counted.

python -m tests.worlds.import_graph
"""

from __future__ import annotations

from tests.worlds.source_tree import PACKAGE, SOURCES, Graph, circles, import_graph, module_name

WORDS = ("actors.messages", "actors.notices", "actors.codec")
"""Modules with lines of their own, because they lie in the folder of the actors but below its other packages."""
WIDTH = 26


def edges() -> dict[str, set[str]]:
    """The graph: each line with the lines that it imports.

    A line is a package, or a module at the very top. The package's own `__init__` is left out, because it only names
    what the others export.
    """
    packages = {short(module_name(path)) for path in SOURCES if path.name == "__init__.py"}
    graph: dict[str, set[str]] = {}
    for module, imported in import_graph().items():
        if module == PACKAGE:
            continue
        line = line_of(short(module), packages)
        others = {line_of(short(other), packages) for other in imported if other != PACKAGE}
        graph.setdefault(line, set()).update(others - {line})
    return {line: found for line, found in graph.items() if found or any(line in others for others in graph.values())}


def short(module: str) -> str:
    """A module's name without the package's."""
    return module.removeprefix(PACKAGE).removeprefix(".")


def line_of(module: str, packages: set[str]) -> str:
    """The line of the graph that contains a module."""
    return module if module in WORDS or module in packages else module.rpartition(".")[0] or module


def ordered(graph: Graph) -> list[str]:
    """The lines from top to bottom, so that each imports only lines below it. Raises `ValueError` for a circle."""
    if found := circles(graph):
        raise ValueError(f"these packages import each other: {', '.join(found[0])}")
    left = {line: set(found) for line, found in graph.items()}
    bottom_up: list[str] = []
    while left:
        free = sorted((line for line, found in left.items() if not found), reverse=True)
        bottom_up += free
        left = {line: found.difference(free) for line, found in left.items() if line not in free}
    return bottom_up[::-1]


def text() -> list[str]:
    """The block for the document."""
    graph = edges()
    order = ordered(graph)
    place = {line: number for number, line in enumerate(order)}
    return [
        f"{line:<{WIDTH}}-> {', '.join(sorted(graph[line], key=place.__getitem__)) or '(nothing)'}" for line in order
    ]


if __name__ == "__main__":
    print("\n".join(text()))
