"""The table of scenarios: a row for every number, each tested or saying what it waits for, and naming what exists."""

from __future__ import annotations

import pytest

from tests.scenarios.scenario_table import (
    NUMBERS,
    TABLE,
    belongs,
    existing,
    number_of,
    numbered,
    rewritten,
    row_of,
    rows,
)

TEXT = TABLE.read_text(encoding="utf-8")
AGAIN = "run `python -m tests.scenarios.scenario_table`, and look at what it changed in tests/scenarios/scenarios.md"


@pytest.fixture(scope="module", name="tests")
def every_test() -> list[str]:
    """What exists: all test files are read for it, which is too much for importing this module."""
    return existing()


def test_every_scenario_and_probe_has_one_row_in_order() -> None:
    assert [row.number for row in rows(TEXT)] == list(NUMBERS)


def test_no_scenario_waits() -> None:
    assert [row.number for row in rows(TEXT) if row.waits] == []


def test_each_row_names_existing_tests_or_its_reason_to_wait(tests: list[str]) -> None:
    offenders = [(row.number, "neither tested nor waiting") for row in rows(TEXT) if not row.tested and not row.waits]
    offenders += [(row.number, test) for row in rows(TEXT) for test in row.tested if test not in tests]
    assert offenders == [], AGAIN


def test_every_numbered_test_and_story_is_in_its_row(tests: list[str]) -> None:
    table = {row.number: row.tested for row in rows(TEXT)}
    missing = [test for number, found in numbered(tests).items() for test in found if test not in table.get(number, ())]
    assert not missing, AGAIN
    strange = [(row.number, test) for row in rows(TEXT) for test in row.tested if not belongs(test, row.number)]
    assert not strange


def test_the_table_is_as_its_program_writes_it(tests: list[str]) -> None:
    assert rewritten(TEXT, tests) == TEXT, AGAIN


def test_a_row_is_read_and_rewritten_with_the_tests_of_its_number() -> None:
    line = "| 7 | *A name*, in short | `test_a.py::test_other`<br>`test_gone.py::test_gone`<br>waits for rain |"
    row = row_of(line)
    assert row is not None
    assert (row.number, row.name, row.waits, row.line) == ("7", "*A name*, in short", True, line)
    tests = [
        "test_a.py::test_other",
        "test_a.py::test_scenario_07_x",
        "test_a.py::test_probe_P3b_y",
        "stories/07_z.txt",
    ]
    assert [number_of(test) for test in tests] == ["", "7", "P3b", "7"]
    tested = "`stories/07_z.txt`<br>`test_a.py::test_scenario_07_x`<br>`test_a.py::test_other`"
    assert rewritten(line, tests) == f"| 7 | *A name*, in short | {tested}<br>waits for rain |\n"
    assert rewritten("| 8 | *B* |  |", tests) == "| 8 | *B* | waits for its story |\n"
    assert rewritten("| 7 | *A* | waits for its story |", tests).endswith("test_scenario_07_x` |\n")
    assert row_of("| No. | Scenario | Tested in |") is None
