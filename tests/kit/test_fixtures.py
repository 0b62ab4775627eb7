"""The fixtures follow a test's markers, clean up, and add logs or the seed to a failure."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import forge_consensus.testing
from tests.worlds.source_tree import ROOT

TESTS = """
import pytest

@pytest.mark.forge_cluster(nodes=1, mode="thread")
class TestMarkers:
    @pytest.mark.forge_cluster(transport="ipc", nodes=2)
    def test_the_nearest_marker_wins(self, forge_cluster):
        assert len(forge_cluster.names) == 2
        assert forge_cluster.mode == "thread"
        assert forge_cluster.transport == "ipc"

    def test_a_failure_has_the_logs(self, forge_cluster):
        forge_cluster.client().put("key", 1)
        assert not forge_cluster.wait_for_leader()

@pytest.mark.parametrize("forge_simulation", [4, {"seed": 5, "nodes": 3}], indirect=True)
@pytest.mark.forge_simulation(nodes=1, faults=False, seconds=1.0)
def test_a_failure_has_the_seed(forge_simulation):
    forge_simulation.run()
    assert (forge_simulation.plan.seed, forge_simulation.plan.nodes) == (4, 1)

@pytest.mark.forge_cluster(3)
def test_a_slip_of_the_pen(forge_cluster):
    pass

@pytest.mark.forge_cluster(prox=True)
def test_an_argument_that_is_none(forge_cluster):
    pass

@pytest.mark.parametrize("forge_simulation", [{"sede": 5, 3: 4}], indirect=True)
def test_a_parameter_that_is_none(forge_simulation):
    pass
"""


def pytest_run(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run the tests above as a user would."""
    (folder / "conftest.py").write_text('pytest_plugins = ["forge_consensus.testing.fixtures"]\n')
    (folder / "pytest.ini").write_text("[pytest]\n")
    (folder / "test_users.py").write_text(TESTS)
    return subprocess.run(
        [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "--strict-markers", *arguments, "test_users.py"],
        cwd=folder, env={"PYTHONPATH": str(ROOT), "PATH": ""}, capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip


def test_a_user_has_the_fixtures_and_a_failure_explains_itself(tmp_path: Path) -> None:
    done = pytest_run(tmp_path, "-v")
    said = done.stdout
    assert "::test_the_nearest_marker_wins PASSED" in said, said + done.stderr
    assert "::test_a_failure_has_the_seed[4] PASSED" in said, said
    assert "2 failed, 2 passed, 3 errors" in said, said
    assert "- forge_cluster: end of the log of n1 -" in said
    assert "leader.elected leader=n1" in said
    assert "seed 5: @pytest.mark.forge_simulation(seed=5) does the same again" in said
    assert "seed 4:" not in said
    assert "test_a_slip_of_the_pen: the marker forge_cluster takes named arguments only" in said
    assert "test_an_argument_that_is_none: the marker forge_cluster has no argument 'prox'; those of LocalClus" in said
    assert "those of LocalCluster are nodes, mode, transport, state_machine, proxy, seed, folder, " in said
    assert ": the marker forge_simulation has no argument 'sede', 3; those of Simulation are plan, nodes, seed" in said
    assert "ClusterLifecycle" not in said


def test_without_pytest_the_error_names_the_extra_and_nothing_else_needs_it() -> None:
    program = (
        "import sys; sys.modules['pytest'] = None\n"
        "import forge_consensus.testing.local.cluster, forge_consensus.testing.simulator.simulation\n"
        "import forge_consensus.testing.fixtures"
    )
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=False)
    assert "need pytest, which is not installed: pip install 'forge-consensus[testing]'" in done.stderr


def test_the_names_of_the_kit_are_there_and_none_is_imported_before_its_use() -> None:
    kit = forge_consensus.testing
    assert sorted(kit.HOMES) == sorted(kit.__all__)
    for name in kit.__all__:
        assert getattr(kit, name).__module__ == f"{kit.__name__}.{kit.HOMES[name]}"
    program = (
        "import sys, forge_consensus.testing as kit; kit.History\n"
        "print(sorted(name for name in sys.modules if name.startswith('forge_consensus.')))"
    )
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True)
    histories = "forge_consensus.testing.histories"
    assert done.stdout.strip() == str(
        ["forge_consensus.testing", histories, f"{histories}.history", "forge_consensus.version"]
    )
