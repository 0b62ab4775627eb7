"""What keeps the house in order: sizes, names, docstrings, imports and the list of packages."""

import ast
import re
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

import forge_consensus

ROOT = Path(__file__).resolve().parents[2]
INSTALLED = ("actors", "demo", "events", "storage")
FILE_LINES_MAX = 600
FUNCTION_LINES_MAX = 60
BANNED_NAMES = re.compile(r"^_[a-z]|utils?$|helpers?$|manager")
BELOW = {
    "errors": (),
    "config": ("errors", "config"),
    "events": ("errors", "events"),
    "storage": ("errors", "config", "storage"),
    "actors": ("errors", "config", "events", "storage", "actors"),
}
"""What the modules of a layer may import of this package."""

SOURCES = sorted(
    path
    for folder in ("forge_consensus", *INSTALLED)
    for path in (ROOT / folder).rglob("*.py")
    if not any(part.is_symlink() for part in path.parents)
)
TESTS = sorted((ROOT / "tests").rglob("*.py"))


def named(path: Path) -> str:
    """How a file is called in the list of tests."""
    return str(path.relative_to(ROOT))


def tree_of(path: Path) -> ast.Module:
    """The syntax of a file."""
    return ast.parse(path.read_text(encoding="utf-8"))


def imported_by(path: Path) -> Iterator[tuple[int, str]]:
    """Every module that a file imports, and how many dots stand before it."""
    for node in ast.walk(tree_of(path)):
        if isinstance(node, ast.Import):
            yield from ((0, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module == "forge_consensus":
            yield from ((node.level, f"forge_consensus.{alias.name}") for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield node.level, node.module or ""


@pytest.mark.parametrize("path", [*SOURCES, *TESTS], ids=named)
def test_every_module_opens_with_a_sentence(path: Path) -> None:
    first = (ast.get_docstring(tree_of(path)) or "").split("\n\n")[0]
    assert first.endswith("."), "the first paragraph of the docstring says what the module is for"


@pytest.mark.parametrize("path", SOURCES, ids=named)
def test_files_and_functions_are_small(path: Path) -> None:
    assert len(path.read_text(encoding="utf-8").splitlines()) <= FILE_LINES_MAX
    long = {
        node.name: (node.end_lineno or 0) - node.lineno + 1
        for node in ast.walk(tree_of(path))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        and (node.end_lineno or 0) - node.lineno >= FUNCTION_LINES_MAX
    }
    assert not long


@pytest.mark.parametrize("path", [*SOURCES, *TESTS], ids=named)
def test_imports_have_one_spelling(path: Path) -> None:
    for level, module in imported_by(path):
        assert level == 0, f"a relative import of {module}"
        assert module.split(".")[0] not in INSTALLED, f"import forge_consensus.{module}"


@pytest.mark.parametrize("path", SOURCES, ids=named)
def test_a_layer_imports_only_what_is_below_it(path: Path) -> None:
    parts = path.relative_to(ROOT).with_suffix("").parts
    layer = parts[1] if parts[0] == "forge_consensus" else parts[0]
    if layer not in BELOW:
        return
    ours = [name.split(".") for _, name in imported_by(path) if name.startswith("forge_consensus")]
    assert all(len(name) > 1 and name[1] in BELOW[layer] for name in ours)


def test_module_names_are_nouns_that_say_something() -> None:
    names = {part for path in SOURCES for part in path.relative_to(ROOT).with_suffix("").parts}
    assert not [name for name in names if BANNED_NAMES.search(name)]


def test_the_list_of_packages_equals_the_folders() -> None:
    with (ROOT / "pyproject.toml").open("rb") as file:
        setuptools = tomllib.load(file)["tool"]["setuptools"]
    folders = {path.parent.relative_to(ROOT).parts for path in SOURCES}
    found = {".".join(parts if parts[0] == "forge_consensus" else ("forge_consensus", *parts)) for parts in folders}
    listed = set(setuptools["packages"])
    # a folder that holds no module yet may be listed already
    assert found <= listed <= found | {f"forge_consensus.{name}" for name in INSTALLED}
    assert setuptools["package-dir"] == {f"forge_consensus.{name}": name for name in INSTALLED}


@pytest.mark.parametrize("name", INSTALLED)
def test_the_links_show_the_folders(name: str) -> None:
    link = ROOT / "forge_consensus" / name
    assert link.is_symlink()
    assert link.resolve() == ROOT / name


def test_the_version_is_stated_once_and_the_same() -> None:
    with (ROOT / "pyproject.toml").open("rb") as file:
        project = tomllib.load(file)["project"]
    assert project["version"] == forge_consensus.__version__


def test_public_names_resolve_as_far_as_their_modules_exist() -> None:
    for name in forge_consensus.__all__:
        home = forge_consensus.HOMES.get(name, "forge_consensus.errors").split(".")[1:]
        if (ROOT / "forge_consensus" / Path(*home)).with_suffix(".py").exists():
            assert getattr(forge_consensus, name) is not None
    with pytest.raises(AttributeError, match="no_such_name"):
        _ = forge_consensus.no_such_name


def test_the_readme_maps_the_folders() -> None:
    readme = ROOT / "README.md"
    if not readme.exists():
        pytest.skip("there is no README yet")
    text = readme.read_text(encoding="utf-8")
    assert not [name for name in (*INSTALLED, "forge_consensus", "tests") if f"{name}/" not in text]
