"""The documents agree with the source: paths, names, commands, links, tables and generated blocks.

`FORGE_REGENERATE=1 pytest tests/unit/test_docs.py` writes the generated blocks anew.
"""

from __future__ import annotations

import ast
import builtins
import importlib.util
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import click
import pytest

from forge_consensus.cli.main import cli
from forge_consensus.storage.backends.sealed import REJOIN
from forge_consensus.storage.ledger.identity import BRING_BACK
from tests.worlds import import_graph
from tests.worlds.doc_blocks import BLOCK, BLOCKS, rebuilt
from tests.worlds.readme_programs import Program, programs
from tests.worlds.source_tree import ROOT, SOURCES, TESTS, tree_of

REGENERATE = "FORGE_REGENERATE"
DOCS = ROOT / "docs"
PAGES = sorted(
    path
    for path in (
        *ROOT.glob("*.md"),
        *DOCS.rglob("*.md"),
        *(ROOT / ".github").rglob("*.md"),
        ROOT / "tests" / "stories" / "README.md",
    )
)
GENERATED = [page for page in PAGES if BLOCK.search(page.read_text(encoding="utf-8"))]
FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.DOTALL | re.MULTILINE)
CODE = re.compile(r"`([^`\n]+)`")
FILE = re.compile(r"[\w./*-]+\.(?:py|md|txt|toml|yml)(?:::[\w.]+)?|\.?[\w-]+(?:/[\w*-]+)*/")
LINK = re.compile(r"\]\(([^)#\s]+)?(?:#([^)\s]+))?\)")
MAKE = re.compile(r"\bmake ((?:[a-z-]+ ?)+)")
PYTEST = re.compile(r"\bpytest((?: +[^\s`#;&]+)+)")
MODULE = re.compile(r"\bpython3? -m ([\w.]+)")
TOOL = re.compile(r"\bforge-consensus ([^`#\n&|;]*)")
CLASS = re.compile(r"([A-Z][A-Za-z]*[a-z][A-Za-z]*(?:\.[a-z]\w*)?)(?:\(.*\))?")
FOREIGN = {"Actor", "LockingQueue", "RssAnon"}
"""Class names of readers' programs and of libraries."""
USERS_FILES = {"conftest.py", "counter.py", "data/", "snapshots/", "tables/", "NN_words.txt"}
"""Files and folders of a reader's own program, or of a node's data folder."""
INVARIANTS = [f"I{number}" for number in range(1, 17)]
PARTS_OF_AN_INVARIANT = ("**Statement.**", "**Why.**", "**Enforced.**", "**Tested.**")
PARTS_OF_A_DECISION = ("## Context", "## Decision", "## Consequences")
WORD_CELLS = 4
README_LINES_MAX = 210


def named(page: Path) -> str:
    """How a page is called in the list of tests."""
    return str(page.relative_to(ROOT))


def prose(page: Path) -> str:
    """The text of a page without its fenced blocks."""
    return FENCE.sub("", page.read_text(encoding="utf-8"))


def snippets(page: Path) -> Iterator[str]:
    """What stands in code on a page: inline, and each line of its shell blocks."""
    text = page.read_text(encoding="utf-8")
    yield from CODE.findall(FENCE.sub("", text))
    for language, block in FENCE.findall(text):
        if language == "sh":
            yield from block.splitlines()


@cache
def names_in(path: Path) -> frozenset[str]:
    """What a Python file defines: `function`, `CONSTANT`, `Class`, `Class.method`, `Class.field`."""
    found = set()

    def walk(body: list[ast.stmt], prefix: str) -> None:
        for node in body:
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
                found.add(f"{prefix}{node.name}")
            if isinstance(node, ast.ClassDef):
                walk(node.body, f"{prefix}{node.name}.")
            targets = node.targets if isinstance(node, ast.Assign) else [getattr(node, "target", None)]
            found.update(f"{prefix}{target.id}" for target in targets if isinstance(target, ast.Name))

    walk(tree_of(path).body, "")
    return frozenset(found)


@cache
def names_in_the_source() -> frozenset[str]:
    """What all Python files define, by the names in them."""
    return frozenset().union(*map(names_in, (*SOURCES, *TESTS)), FOREIGN, dir(builtins))


def what_is_missing(reference: str) -> str:
    """What a reference (`path`, `folder/`, `file.py::Name.method`, with * for any) names and is not there, or ""."""
    path, _, name = reference.partition("::")
    if path in USERS_FILES:
        return ""
    found = [place for place in ROOT.glob(path.rstrip("/")) if place.is_dir() or not path.endswith("/")]
    if not found:
        return reference
    return "" if not name or any(name in names_in(place) for place in found) else reference


# --- what pages name -------------------------------------------------------------------------------------------------


def test_every_file_and_name_that_a_page_names_exists() -> None:
    assert not [
        f"{named(page)}: {missing}"
        for page in PAGES
        for text in CODE.findall(prose(page))
        if FILE.fullmatch(text) and (missing := what_is_missing(text))
    ]


def test_every_class_and_method_that_a_page_names_exists() -> None:
    for page in PAGES:
        names = {found[1] for text in CODE.findall(without_blocks(page)) if (found := CLASS.fullmatch(text))}
        assert not {name for name in names - names_in_the_source() if not has_inherited(name)}, named(page)


def has_inherited(name: str) -> bool:
    """Whether a class has a method that another class of the source gives it."""
    owner, _, method = name.partition(".")
    known = names_in_the_source()
    return bool(method) and owner in known and any(each.endswith(f".{method}") for each in known)


def without_blocks(page: Path) -> str:
    """The text of a page without its fenced and generated blocks: those are the source's own words."""
    return FENCE.sub("", BLOCK.sub("", page.read_text(encoding="utf-8")))


def test_a_reference_to_a_missing_thing_is_noticed() -> None:
    assert not what_is_missing("storage/ledger/ledger.py::Ledger.grant_vote")
    assert not what_is_missing("tests/stories/10_*.txt")
    assert what_is_missing("storage/ledger/ledger.py::Ledger.no_such_method")
    assert what_is_missing("storage/no_such_file.py")
    assert what_is_missing("no_such_folder/")


def test_links_lead_somewhere() -> None:
    for page in PAGES:
        for target, anchor in LINK.findall(prose(page)):
            if target.startswith(("https://", "mailto:")):
                continue
            place = (page.parent / target).resolve() if target else page
            assert place.exists(), f"{named(page)}: {target} does not exist"
            if anchor and place.suffix == ".md":
                assert anchor in anchors(place), f"{named(page)}: there is no heading for {target}#{anchor}"


def anchors(page: Path) -> set[str]:
    """The anchors that GitHub makes of a page's headings."""
    headings = re.findall(r"^#+ (.*)$", prose(page), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).strip().replace(" ", "-") for heading in headings}


def make_targets() -> set[str]:
    """What `make` can make."""
    return set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))


def test_commands_that_a_page_names_exist() -> None:
    for page in PAGES:
        for text in snippets(page):
            check_command(text, f"{named(page)}: {text}")


def test_the_page_about_performance_names_every_benchmark() -> None:
    programs = [path for path in (ROOT / "tests" / "benchmarks").glob("*.py") if '"__main__"' in path.read_text()]
    named_there = set(MODULE.findall((DOCS / "performance.md").read_text(encoding="utf-8")))
    expected = {f"tests.benchmarks.{path.stem}" for path in programs if not path.stem.endswith("_node")}
    assert len(expected) > 10, "there are benchmarks"
    assert expected <= named_there, "those that are started by others end with _node"


def test_commands_that_the_advice_of_errors_names_exist() -> None:
    advice = (REJOIN, BRING_BACK)
    assert all("then members add" in text for text in advice)
    for text in advice:
        for command in re.findall(r"(?:forge-consensus )?(members [a-z]+)", text):
            check_command(f"forge-consensus {command}", text)


def check_command(text: str, where: str) -> None:
    """What a line of shell calls must be there: targets of make, files for pytest, modules, commands and options."""
    if text.lstrip().startswith(("make", f"{REGENERATE}=1 make")):
        for targets in MAKE.findall(text.partition("#")[0]):
            assert set(targets.split()) <= make_targets(), where
    for arguments in PYTEST.findall(text):
        paths = [word.partition("::")[0] for word in arguments.split() if word.startswith("tests/")]
        assert all((ROOT / path).exists() for path in paths), where
    for module in MODULE.findall(text):
        if module.startswith(("forge_consensus", "tests")):
            assert importlib.util.find_spec(module) is not None, where
    if text.startswith("forge-consensus"):
        for words in TOOL.findall(text):
            check_tool(words.split(), where)


def check_tool(words: list[str], text: str) -> None:
    """The words after `forge-consensus` must be commands and options that it has."""
    command: click.Command = cli
    for word in words[: words.index("--")] if "--" in words else words:  # what follows is another program
        if isinstance(command, click.Group) and not word.startswith("-"):
            found = command.get_command(click.Context(command), word)
            assert found is not None, f"{text}: there is no command {word!r}"
            command = found
        elif word.startswith("-"):
            options = {option for parameter in command.params for option in parameter.opts}
            assert word.partition("=")[0] in {*options, "-h", "--help"}, f"{text}: there is no option {word}"


# --- generated blocks ------------------------------------------------------------------------------------------------


def test_generated_blocks_say_what_the_source_says() -> None:
    wrong = []
    for page in GENERATED:
        text, right = page.read_text(encoding="utf-8"), rebuilt(page)
        if text != right and os.environ.get(REGENERATE):
            page.write_text(right, encoding="utf-8")
        elif text != right:
            blocks = zip(BLOCK.finditer(text), BLOCK.finditer(right), strict=True)
            wrong += [f"{named(page)}:\n{new['body']}" for old, new in blocks if old["body"] != new["body"]]
    if wrong:
        it = "\n\n".join(wrong)
        pytest.fail(f"run {REGENERATE}=1 pytest tests/unit/test_docs.py; it must be:\n\n{it}", pytrace=False)


def test_every_generated_block_stands_on_one_page() -> None:
    used = [found["name"] for page in GENERATED for found in BLOCK.finditer(page.read_text(encoding="utf-8"))]
    assert sorted(used) == sorted(BLOCKS)


def test_a_circle_among_packages_is_reported() -> None:
    assert import_graph.ordered({"top": {"low"}, "low": set()}) == ["top", "low"]
    with pytest.raises(ValueError, match="import each other: a, b"):
        import_graph.ordered({"a": {"b", "low"}, "b": {"a"}, "low": set()})


# --- pages with a form -----------------------------------------------------------------------------------------------


def test_every_page_is_listed_in_the_index() -> None:
    index = (DOCS / "README.md").read_text(encoding="utf-8")
    pages = [str(page.relative_to(DOCS)) for page in DOCS.rglob("*.md") if page != DOCS / "README.md"]
    assert not [page for page in pages if f"({page})" not in index]


def test_all_invariants_are_explained_in_the_same_form() -> None:
    text = (DOCS / "invariants.md").read_text(encoding="utf-8")
    parts = re.split(r"^## (I\d+) .*$", text, flags=re.MULTILINE)
    sections = dict(zip(parts[1::2], parts[2::2], strict=True))
    assert list(sections) == INVARIANTS
    for name, section in sections.items():
        assert all(part in section for part in PARTS_OF_AN_INVARIANT), name
        enforced, tested = section.partition("**Tested.**")[::2]
        assert re.search(r"`(actors|storage)/[\w/]+\.py::", enforced), f"{name}: where is it enforced"
        assert re.search(r"`(tests|forge_consensus/testing)/", tested), f"{name}: where is it tested"


def test_the_glossary_explains_each_word_and_says_where_it_lives() -> None:
    text = (DOCS / "glossary.md").read_text(encoding="utf-8")
    rows = [line.strip("| ").split(" | ") for line in text.splitlines() if line.startswith("| **")]
    assert len(rows) >= 40
    assert not [row[0] for row in rows if len(row) != WORD_CELLS or not all(cell.strip() for cell in row)]
    assert not [row[0] for row in rows if not any(FILE.fullmatch(code) for code in CODE.findall(row[3]))]
    words = [row[0].strip("*").lower() for row in rows]
    assert words == sorted(words)


def test_decisions_are_numbered_and_have_one_form() -> None:
    pages = sorted((DOCS / "decisions").glob("*.md"))
    assert [int(page.name[:4]) for page in pages] == list(range(1, len(pages) + 1))
    for page in pages:
        text = page.read_text(encoding="utf-8")
        assert re.match(rf"# {int(page.name[:4])}\. \S", text), page.name
        assert re.findall(r"^## .*$", text, re.MULTILINE) == list(PARTS_OF_A_DECISION), page.name


# --- the README ------------------------------------------------------------------------------------------------------


def test_the_readme_can_be_read_in_five_minutes() -> None:
    assert len((ROOT / "README.md").read_text(encoding="utf-8").splitlines()) <= README_LINES_MAX


def test_shell_blocks_of_all_pages_are_shell() -> None:
    for page in PAGES:
        for language, block in FENCE.findall(page.read_text(encoding="utf-8")):
            if language == "sh":
                done = subprocess.run(["bash", "-n"], input=block, capture_output=True, text=True, check=False)
                assert done.returncode == 0, f"{named(page)}: {done.stderr}"


def test_python_blocks_of_the_readme_are_whole_programs() -> None:
    assert len(programs()) >= 4
    for program in programs():
        compile(program.text, program.name, "exec")
        assert "..." not in program.text


@pytest.mark.parametrize("program", [each for each in programs() if not each.needs_cluster], ids=lambda each: each.name)
def test_a_program_of_the_readme_runs_as_printed(program: Program, tmp_path: Path) -> None:
    for each in programs():
        (tmp_path / each.name).write_text(each.text, encoding="utf-8")
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, program.name], cwd=tmp_path, env=env, capture_output=True, text=True, timeout=100, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr
