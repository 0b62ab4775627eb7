"""The names of machines: equal wherever the class is, and another machine is not put onto a folder."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from forge_consensus.errors import IdentityError, InvalidConfigError
from forge_consensus.storage.backends.tables import Batch
from forge_consensus.storage.ledger.identity import MACHINE
from forge_consensus.storage.ledger.transaction import META
from forge_consensus.storage.machines.kv import KeyValueMachine
from forge_consensus.storage.machines.naming import BUILT_IN, MachineName, name_of
from tests.worlds.backends import BACKENDS
from tests.worlds.ledger_world import CONFIGURATION, TallyMachine, World, increment

TALLY = "tests.worlds.ledger_world:TallyMachine"


class Named(TallyMachine):
    machine_name = "tally"


class Later(Named):
    machine_version = 3


class Changed(KeyValueMachine):
    pass


def test_a_machine_is_named_by_itself_or_by_its_import_path() -> None:
    assert name_of(KeyValueMachine()) == (BUILT_IN, 0)
    assert name_of(Changed()) == (f"{__name__}:Changed", 0), "it need not do what the built-in one does"
    assert name_of(TallyMachine()) == name_of(TallyMachine) == (TALLY, 0)
    assert (name_of(Named()), name_of(Later())) == (("tally", 0), ("tally", 3))
    assert MachineName("tally", 3).text == "'tally' (version 3)"


def test_a_class_of_a_script_has_the_name_under_which_others_import_it(tmp_path: Path) -> None:
    script = tmp_path / "shop_app.py"
    script.write_text(
        "from forge_consensus.storage.machines.naming import name_of\nclass Shop: pass\nprint(name_of(Shop()).name)\n"
    )
    for command in ([str(script)], ["-m", "shop_app"]):
        found = subprocess.run([sys.executable, *command], capture_output=True, text=True, cwd=tmp_path, check=True)
        assert found.stdout.strip() == "shop_app:Shop"


@pytest.mark.parametrize(
    ("facts", "match"),
    [
        ({"machine_name": ""}, "machine_name of Odd is ''"),
        ({"machine_name": 5}, "machine_name of Odd is 5"),
        ({"machine_name": "a\nb"}, "printable"),
        ({"machine_version": -1}, "machine_version of Odd is -1"),
        ({"machine_version": "2"}, "whole number"),
        ({"machine_version": True}, "whole number"),
    ],
)
def test_names_and_versions_that_cannot_be_are_refused(facts: dict[str, Any], match: str) -> None:
    with pytest.raises(InvalidConfigError, match=match):
        name_of(type("Odd", (), facts)())


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("other", [Named, KeyValueMachine])
def test_another_class_on_a_folder_does_not_start_and_changes_nothing(backend: str, other: Any, tmp_path: Path) -> None:
    world = World(backend, tmp_path, machine=TallyMachine)
    world.lead()
    world.do(increment("n"))
    world.machine = other
    world.restart_tables()
    before = world.tables.commits
    given = name_of(other).name
    with pytest.raises(IdentityError, match=rf"machine '{TALLY}' and the node was given '{given}': .* machine_name = "):
        world.open()
    assert world.tables.commits == before
    world.machine = TallyMachine
    world.open()
    world.close()


def test_a_higher_version_is_taken_and_a_lower_one_is_refused(tmp_path: Path) -> None:
    world = World("memory", tmp_path, machine=Named)
    world.machine = Later
    world.crash()
    world.machine = Named
    with pytest.raises(IdentityError, match=r"version 3 of the machine 'tally' ran on this folder .* version 0"):
        world.crash()


def test_a_folder_without_a_name_takes_one_at_its_next_start(tmp_path: Path) -> None:
    world = World("memory", tmp_path, machine=TallyMachine)

    def forget(batch: Batch) -> None:
        batch.delete(META, MACHINE)

    world.write(forget)
    world.machine = Named
    world.crash()
    world.machine = TallyMachine
    with pytest.raises(IdentityError, match=f"machine 'tally' and the node was given '{TALLY}'"):
        world.crash()


def test_the_machine_of_the_founding_is_the_clusters(tmp_path: Path) -> None:
    from dataclasses import replace

    world = World("memory", tmp_path, machine=Named)
    world.tables = world.new_tables()
    with pytest.raises(IdentityError, match=f"founded with the state machine '{TALLY}' and the node was given 'tally'"):
        world.open(configuration=replace(CONFIGURATION, machine=TALLY))
