"""The source files of the repository, their syntax trees, and their import graph."""

from __future__ import annotations

import ast
import functools
import gc
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = "forge_consensus"
INSTALLED = ("actors", "demo", "events", "storage")
"""The folders at the top of the repository that are installed inside the package."""
TEXTS = (".github", "docs", PACKAGE, *INSTALLED, "tests")
"""The folders whose files the project publishes."""
SOURCES = sorted(
    path
    for folder in (PACKAGE, *INSTALLED)
    for path in (ROOT / folder).rglob("*.py")
    if not any(part.is_symlink() for part in path.parents)
)
TESTS = sorted((ROOT / "tests").rglob("*.py"))

Graph = Mapping[str, set[str]]
"""The importers and their imports, by name."""


def place(path: Path, line: int = 1) -> str:
    """A place in a file, as editors and compilers write it: FILE:LINE."""
    return f"{path.relative_to(ROOT)}:{line}"


@functools.cache
def tree_of(path: Path) -> ast.Module:
    """The syntax of a file; each file is parsed once.

    The garbage collector is spared the trees, because they stay: it took three quarters of the time.
    """
    gc.disable()
    try:
        return ast.parse(path.read_text(encoding="utf-8"))
    finally:
        gc.freeze()
        gc.enable()


def imports_of(path: Path) -> Iterator[tuple[ast.Import | ast.ImportFrom, str]]:
    """Every import statement of a file with each module that it names, type-checking imports included."""
    for node in ast.walk(tree_of(path)):
        if isinstance(node, ast.Import):
            yield from ((node, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield node, node.module or ""


def functions_of(path: Path) -> Iterator[tuple[ast.FunctionDef | ast.AsyncFunctionDef, int]]:
    """Every function of a file, nested ones too, with the number of its lines."""
    for node in ast.walk(tree_of(path)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield node, (node.end_lineno or node.lineno) - node.lineno + 1


def module_name(path: Path) -> str:
    """The name by which a file of the product is imported."""
    parts = path.relative_to(ROOT).with_suffix("").parts
    if parts[-1] == "__init__":
        parts = parts[:-1]
    return ".".join(parts if parts[0] == PACKAGE else (PACKAGE, *parts))


def package_of(path: Path) -> str:
    """The package that holds a file of the product."""
    name = module_name(path)
    return name if path.name == "__init__.py" else name.rpartition(".")[0]


@functools.cache
def import_graph() -> dict[str, set[str]]:
    """The import graph of the product's modules, imports for type checkers included."""
    modules = {module_name(path): path for path in SOURCES}
    graph: dict[str, set[str]] = {name: set() for name in modules}
    for name, path in modules.items():
        for node, module in imports_of(path):
            if isinstance(node, ast.ImportFrom):  # `from package import module` names a module
                inner = {f"{module}.{alias.name}" for alias in node.names}
                graph[name] |= inner & modules.keys() or {module} & modules.keys()
            else:
                graph[name] |= {module} & modules.keys()
        graph[name].discard(name)
    return graph


def folder_graph(inside: str) -> dict[str, set[str]]:
    """The import graph inside a package, where each package in it is one node and each module in it another."""
    parts = {
        name: ".".join(name.split(".")[: inside.count(".") + 2])
        for name in import_graph()
        if name.startswith(f"{inside}.")
    }
    graph: dict[str, set[str]] = {part: set() for part in parts.values()}
    for name, imported in import_graph().items():
        if name in parts:
            graph[parts[name]] |= {parts[other] for other in imported if other in parts} - {parts[name]}
    return graph


def circles(graph: Graph) -> list[list[str]]:
    """The groups of two or more that import each other, directly or indirectly (Tarjan's algorithm)."""
    found: list[list[str]] = []
    order: dict[str, int] = {}
    lowest: dict[str, int] = {}
    path: list[str] = []

    def visit(name: str) -> None:
        order[name] = lowest[name] = len(order)
        path.append(name)
        for other in sorted(graph[name]):
            if other not in order:
                visit(other)
                lowest[name] = min(lowest[name], lowest[other])
            elif other in path:
                lowest[name] = min(lowest[name], order[other])
        if lowest[name] == order[name]:
            group = path[path.index(name) :]
            del path[path.index(name) :]
            if len(group) > 1:
                found.append(sorted(group))

    for name in sorted(graph):
        if name not in order:
            visit(name)
    return sorted(found)


def published_texts(folders: Iterable[str] = TEXTS) -> Iterator[tuple[Path, str]]:
    """Every text file that the project publishes, with its text; links are left out, their targets are not."""
    files = [path for path in ROOT.iterdir() if path.suffix in {".md", ".toml", ".cfg"} or path.name == "Makefile"]
    for folder in folders:
        files += (ROOT / folder).rglob("*")
    for path in sorted(files):
        if path.is_file() and path.suffix != ".pyc" and not any(part.is_symlink() for part in (path, *path.parents)):
            yield path, path.read_text(encoding="utf-8", errors="replace")
