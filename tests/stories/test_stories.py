"""The stories: each script in tests/stories is run again and must give the recorded text."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from loguru import logger

from tests.worlds.story.expectations import EXPECTATIONS
from tests.worlds.story.script import StoryError, difference
from tests.worlds.story.stage import COMMANDS, QUIET
from tests.worlds.story.telling import tell

FOLDER = Path(__file__).parent
STORIES = sorted(FOLDER.glob("*.txt"))
REGENERATE = "FORGE_REGENERATE"
HEAD = re.compile(r"# Scenario (\d+): .*?^# Must hold: .*?^# Source: ", re.DOTALL | re.MULTILINE)


@pytest.fixture(autouse=True)
def quiet() -> Iterator[None]:
    """Nodes that are made to fail need not say so."""
    logger.disable("forge_consensus")
    yield
    logger.enable("forge_consensus")


@pytest.mark.parametrize("path", STORIES, ids=lambda path: path.stem)
def test_a_story_happens_as_it_is_written(path: Path) -> None:
    written = path.read_text(encoding="utf-8")
    try:
        happened = tell(written)
    except StoryError as error:
        pytest.fail(f"{path.name}: {error}", pytrace=False)
    if happened != written and os.environ.get(REGENERATE):
        path.write_text(happened, encoding="utf-8")
    elif happened != written:
        again = f"{REGENERATE}=1 pytest tests/stories/test_stories.py -k {path.stem}"
        text = difference(path.name, written, happened)
        pytest.fail(f"{text}\n\nIf it is right so: {again}, and review the diff.", pytrace=False)


@pytest.mark.parametrize("path", STORIES, ids=lambda path: path.stem)
def test_a_story_states_its_scenario_its_claim_and_its_source(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    head = HEAD.match(text)
    assert head is not None, "a story opens with `# Scenario N: ...`, `# Must hold: ...`, `# Source: ...`"
    assert path.stem.startswith(f"{int(head[1]):02}_")
    assert re.search("^expect ", text, re.MULTILINE), "what must hold is expected in so many words"


def test_stories_are_the_same_in_another_process_with_another_order_of_sets() -> None:
    names = [path.name for path in STORIES[::5]]
    script = (
        "import sys; from pathlib import Path; from loguru import logger; logger.remove()\n"
        "from tests.worlds.story.telling import tell\n"
        f"for name in {names!r}: sys.stdout.write(tell((Path({str(FOLDER)!r}) / name).read_text()))"
    )
    path = os.pathsep.join([str(FOLDER.parent.parent), *filter(None, sys.path)])
    environment = {**os.environ, "PYTHONHASHSEED": "4711", "PYTHONPATH": path}
    ended = subprocess.run(
        [sys.executable, "-c", script], env=environment, capture_output=True, text=True, timeout=60, check=True
    )
    assert ended.stdout == "".join((FOLDER / name).read_text(encoding="utf-8") for name in names)


def used_in_stories() -> set[str]:
    """The words that stories begin commands with, and expectations."""
    lines = [
        line.removeprefix(f"{QUIET} ") for path in STORIES for line in path.read_text(encoding="utf-8").splitlines()
    ]
    words = [line.split() for line in lines if line]
    return {word[0] for word in words} | {" ".join(word[:2]) for word in words}


def test_each_command_is_documented_for_authors_and_used() -> None:
    readme = (FOLDER / "README.md").read_text(encoding="utf-8")
    orders = {**COMMANDS, **{f"expect {word}": found for word, found in EXPECTATIONS.items()}}
    assert not [word for word, order in orders.items() if str(order.__doc__).splitlines()[0] not in readme]
    assert not set(orders) - used_in_stories() - {"unchecked"}


# --- the teller ------------------------------------------------------------------------------------------------------


def test_the_observed_events_replace_the_text_below_the_line() -> None:
    assert tell("# why\n\ncluster 3\nbegin n1\nlogs n1\n----\nold\n") == (
        "# why\n\ncluster 3\nbegin n1\nlogs n1\n----\n    1 2 3\nn1  0 1 1 | commit 3, applied 3\n"
    )


@pytest.mark.parametrize(
    ("script", "problem"),
    [
        ("cluster 3\nexpect leader n1\n----\n", "line 2: expect leader n1: expected .'n1'., there is .."),
        ("cluster 3\ndance\n----\n", "line 2: dance: there is no command 'dance'"),
        ("cluster 3\nquiet expect commit 2 n1\n----\n", "there is .'n1': 1."),
        ("cluster 3\n\n----\n", "line 2: commands end with a line ----"),
        ("----\n", "line 1: there is no command above"),
        ("cluster 3\n", "the last commands lack a line"),
        ("cluster 3\ndeliver n1->n2\n----\n", "no such frame is under way from n1->n2, only: nothing"),
        ("cluster 3\ncampaign n9\n----\n", "there is no node n9"),
        ("cluster 3 color=1\n----\n", "'color' is no option and no limit"),
        ("cluster 3\njoin n3\n----\n", "there is a node n3 already"),
        ("cluster 3\nbegin n1\nmembers n1 n2\n----\n", "'n2' is no change: there are add, "),
        ("cluster 3\nbegin n1\nmembers n1 remove n9\n----\n", "there is no node n9"),
        ("cluster 3\nexpect configuration n1 voters n1\n----\n", "expected voters n1, there is voters n1 n2 n3"),
        ("cluster 3\nmove n1 elsewhere:7000\n----\n", "n1 runs"),
        ("expect leader none\n----\n", "a story begins with `cluster`"),
    ],
)
def test_an_invalid_or_broken_story_fails_regardless_of_its_recorded_events(script: str, problem: str) -> None:
    with pytest.raises(StoryError, match=problem):
        tell(script)


def test_an_unexpected_end_of_a_node_fails_the_story() -> None:
    script = "cluster 3\nbegin n1\ncrash n2\nwipe n2\n{}restart n2\nexpect down n2\n----\n"
    with pytest.raises(StoryError, match="IdentityError"):
        tell(script.format(""))
    assert "ends: IdentityError" in tell(script.format("may-end n2 IdentityError\n"))


def test_a_broken_invariant_fails_the_story() -> None:
    forged = "cluster 3\ninject n2->n1 AppendEntries term=1 prev=1/0 entries=1:a commit=2\n----\n"
    with pytest.raises(StoryError, match="ViolationError: I6"):
        tell(forged)
    assert "commits 2" in tell("unchecked\n" + forged)
