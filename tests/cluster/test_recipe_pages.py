"""The programs on the pages of the recipes run as printed, and print what the page says."""

from __future__ import annotations

import pytest

from tests.worlds.page_programs import PAGES, PageProgram, page_programs


def test_every_recipe_has_a_page_with_a_program() -> None:
    programs = {program.page for program in page_programs()}
    assert programs == {page.stem for page in PAGES}
    assert {"lock", "rlock", "semaphore", "election", "barrier", "queue", "counter", "recipes"} <= programs


@pytest.mark.parametrize("program", page_programs(), ids=lambda program: program.page)
def test_a_program_prints_what_its_page_says(program: PageProgram, capsys: pytest.CaptureFixture[str]) -> None:
    exec(compile(program.text, f"{program.page}.py", "exec"), {"__name__": "__main__"})
    assert capsys.readouterr().out == program.prints
