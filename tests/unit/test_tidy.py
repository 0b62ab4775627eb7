"""The rules of this repository, one test a rule; a failing test lists all offenders as FILE:LINE."""

from __future__ import annotations

import ast
import re
import tomllib
from pathlib import Path
from typing import Any

import pytest

import forge_consensus
from tests.worlds.source_tree import (
    INSTALLED,
    PACKAGE,
    ROOT,
    SOURCES,
    TESTS,
    circles,
    folder_graph,
    functions_of,
    import_graph,
    imports_of,
    module_name,
    package_of,
    place,
    published_texts,
    tree_of,
)

FILE_LINES_MAX = 600
DECLARATIONS = ("actors/messages.py", "actors/notices.py", "events/types.py", "forge_consensus/errors.py")
"""Pages of declarations: one of them is a list in which one looks things up, so it may be as long as its list."""
FUNCTION_LINES_MAX = 60
BANNED_NAMES = re.compile(r"^_[a-z]|utils?$|helpers?$|manager")
BELOW = {
    "errors": (),
    "process": ("errors", "process"),
    "config": ("errors", "config"),
    "security": ("errors", "config", "security"),
    "events": ("errors", "process", "events"),
    "storage": ("errors", "version", "process", "config", "security", "storage"),
    "actors": ("errors", "version", "process", "config", "security", "events", "storage", "actors"),
}
"""What the modules of a layer may import of this package, for type checkers too."""
FOREIGN_WORDS = re.compile(
    r"house[.]md|\bfoun[d]er|\bsub-?ag[e]nt|\bAI (?:ag[e]nt|ass[i]stant)|\blanguage mod[e]l|\bprom[p]t engineer",
    re.IGNORECASE,
)
"""Words about how a text came about; a text is about the project."""
FOREIGN_PATHS = re.compile(r"(?<![\w.}/-])/(?:wor[k]|roo[t]|tm[p]/wt|hom[e]/\w+)/")


def test_every_module_opens_with_a_sentence() -> None:
    offenders = []
    for path in (*SOURCES, *TESTS):
        first = (ast.get_docstring(tree_of(path)) or "").split("\n\n")[0]
        if not first.endswith("."):
            offenders.append(place(path))
    assert offenders == [], "the first paragraph of the docstring says what the module is for"


def test_no_file_is_too_long() -> None:
    lengths = {path: len(path.read_text(encoding="utf-8").splitlines()) for path in (*SOURCES, *TESTS)}
    offenders = [
        place(path, length)
        for path, length in lengths.items()
        if length > FILE_LINES_MAX and str(path.relative_to(ROOT)) not in DECLARATIONS
    ]
    assert offenders == [], f"a file has at most {FILE_LINES_MAX} lines"
    assert all((ROOT / name).exists() for name in DECLARATIONS), "the exemptions name files"


def test_functions_are_short() -> None:
    offenders = [
        f"{place(path, node.lineno)} {node.name} has {lines}"
        for path in (*SOURCES, *TESTS)
        for node, lines in functions_of(path)
        if lines > FUNCTION_LINES_MAX
    ]
    assert offenders == [], f"a function has at most {FUNCTION_LINES_MAX} lines"


def test_imports_have_one_spelling() -> None:
    offenders = [
        f"{place(path, node.lineno)} {module}"
        for path in (*SOURCES, *TESTS)
        for node, module in imports_of(path)
        if (isinstance(node, ast.ImportFrom) and node.level) or module.split(".")[0] in INSTALLED
    ]
    assert offenders == [], f"imports are absolute and begin with {PACKAGE}"


def test_nobody_waits_with_a_lock_that_a_signal_handler_could_need() -> None:
    offenders = [
        f"{place(path)}:{node.lineno} {node.attr}"
        for path in SOURCES
        if not module_name(path).startswith(("forge_consensus.testing", "forge_consensus.demo"))
        for node in ast.walk(tree_of(path))
        if isinstance(node, ast.Attribute)
        and node.attr in ("Event", "Condition")
        and ast.unparse(node.value) == "threading"
    ]
    assert offenders == [], "take `Latch` or `Waiters` of forge_consensus/process/waiters.py: they hold no lock"


def test_a_layer_imports_only_what_is_below_it() -> None:
    offenders = []
    for path in SOURCES:
        layer = [*module_name(path).split("."), ""][1]
        for node, module in imports_of(path):
            root, *inner = module.split(".")
            if layer in BELOW and root == PACKAGE:
                named = inner[:1] or [alias.name for alias in node.names]
                offenders += [f"{place(path, node.lineno)} {name}" for name in named if name not in BELOW[layer]]
    assert offenders == []


def test_no_modules_import_each_other_in_a_circle() -> None:
    assert circles(import_graph()) == []


@pytest.mark.parametrize("inside", ["actors", "storage"])
def test_no_folders_import_each_other_in_a_circle(inside: str) -> None:
    assert circles(folder_graph(f"{PACKAGE}.{inside}")) == []


def test_circles_are_found_directly_and_by_way_of_others() -> None:
    graph = {"a": {"b"}, "b": {"c"}, "c": {"b", "d"}, "d": set[str](), "e": {"f"}, "f": {"g"}, "g": {"e", "a"}}
    assert circles(graph) == [["b", "c"], ["e", "f", "g"]]


def test_module_names_are_nouns_that_say_something() -> None:
    offenders = [
        place(path) for path in SOURCES if any(map(BANNED_NAMES.search, path.relative_to(ROOT).with_suffix("").parts))
    ]
    assert offenders == []


def project_file() -> dict[str, Any]:
    """What pyproject.toml holds."""
    return tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))


def test_the_list_of_packages_equals_the_folders() -> None:
    setuptools = project_file()["tool"]["setuptools"]
    assert set(setuptools["packages"]) == {package_of(path) for path in SOURCES}
    assert setuptools["package-dir"] == {f"{PACKAGE}.{name}": name for name in INSTALLED}


def test_files_that_are_no_modules_are_installed_too() -> None:
    patterns = project_file()["tool"]["setuptools"]["package-data"]
    packages = {path.parent: package_of(path) for path in SOURCES}
    offenders = []
    for path, _ in published_texts((PACKAGE, *INSTALLED)):
        home = next((folder for folder in path.parents if folder in packages), None)
        if home is None or path.suffix == ".py":
            continue
        if not any(path.relative_to(home).match(pattern) for pattern in patterns.get(packages[home], ())):
            offenders.append(place(path))
    assert offenders == [], "name them in package-data of pyproject.toml"


def test_the_links_show_the_folders() -> None:
    links = {name: ROOT / PACKAGE / name for name in INSTALLED}
    assert [name for name, link in links.items() if not link.is_symlink() or link.resolve() != ROOT / name] == []


def test_the_version_is_stated_once_and_the_same() -> None:
    assert project_file()["project"]["version"] == forge_consensus.__version__


def test_public_names_resolve() -> None:
    assert [name for name in forge_consensus.__all__ if getattr(forge_consensus, name) is None] == []
    with pytest.raises(AttributeError, match="no_such_name"):
        _ = forge_consensus.no_such_name


def test_the_readme_maps_the_folders() -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    assert [name for name in (*INSTALLED, PACKAGE, "tests") if f"{name}/" not in text] == []


def test_texts_are_about_the_project_alone() -> None:
    here = re.compile("|".join(re.escape(f"{path}/") for path in {ROOT, Path.home()} if len(path.parts) > 1))
    offenders = [
        f"{place(path, number)} {line.strip()}"
        for path, text in published_texts()
        for number, line in enumerate(text.splitlines(), 1)
        if FOREIGN_WORDS.search(line) or FOREIGN_PATHS.search(line) or here.search(line)
    ]
    assert offenders == [], "no text names the machine or the way on which it was made"
