"""Fixtures for pytest: a local cluster and a simulation, made as a marker says, that explain themselves on failure.

In your ``conftest.py``::

    pytest_plugins = ["forge_consensus.testing.fixtures"]

and in a test::

    @pytest.mark.forge_cluster(nodes=5, proxy=True)
    def test_my_service_outlives_its_leader(forge_cluster):
        forge_cluster.kill("leader")

    @pytest.mark.forge_simulation(nodes=5, seed=7, state_machine=MyMachine)
    def test_my_machine_is_the_same_on_every_node(forge_simulation):
        forge_simulation.run()

A marker's arguments are those of `LocalCluster` and `Simulation`. A fixture may be parametrized indirectly too: with
a number, which is the seed, or with a dict of arguments.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Generator, Iterator, Mapping
from typing import TYPE_CHECKING, Any, Final

try:
    import pytest
except ModuleNotFoundError as error:
    raise ModuleNotFoundError(
        "the fixtures of forge_consensus need pytest, which is not installed: pip install 'forge-consensus[testing]'",
        name=error.name,
    ) from error

if TYPE_CHECKING:
    from forge_consensus.testing.local.cluster import LocalCluster
    from forge_consensus.testing.simulator.simulation import Simulation

LOG_TAIL: Final = 6_000
"""How many characters of each node's log the report of a failed test contains."""

Explain = Callable[[], Iterator[tuple[str, str]]]
"""Yields the sections of a report: title and text."""
EXPLAINED = pytest.StashKey[list[Explain]]()


def pytest_configure(config: pytest.Config) -> None:
    """Register the markers of the fixtures."""
    config.addinivalue_line("markers", "forge_cluster(**arguments): what LocalCluster the test's forge_cluster is.")
    config.addinivalue_line("markers", "forge_simulation(**arguments): what Simulation its forge_simulation is.")


def arguments_of(request: pytest.FixtureRequest, fixture: str, made: type) -> dict[str, Any]:
    """The arguments of a test's fixture, for a `made`: from markers, the nearest last, and from an indirect parameter.

    Raises `pytest.UsageError` for an argument that `made` does not have.
    """
    arguments: dict[str, Any] = {}
    for marker in reversed(list(request.node.iter_markers(fixture))):
        if marker.args:
            raise pytest.UsageError(f"{request.node.nodeid}: the marker {fixture} takes named arguments only")
        arguments |= marker.kwargs
    given: object = getattr(request, "param", None)
    if isinstance(given, Mapping):
        arguments |= given
    elif given is not None:
        arguments["seed"] = given
    known = list(inspect.signature(made).parameters)
    if unknown := [name for name in arguments if name not in known]:
        raise pytest.UsageError(
            f"{request.node.nodeid}: the marker {fixture} has no argument {', '.join(map(repr, unknown))}; those of "
            f"{made.__name__} are {', '.join(known)}"
        )
    return arguments


def on_failure(request: pytest.FixtureRequest, explain: Explain) -> None:
    """Add these sections to the report if the test fails."""
    request.node.stash.setdefault(EXPLAINED, []).append(explain)


@pytest.fixture
def forge_cluster(request: pytest.FixtureRequest) -> Iterator[LocalCluster]:
    """A running `LocalCluster`; it is removed after the test."""
    from forge_consensus.testing.local.cluster import LocalCluster

    with LocalCluster(**arguments_of(request, "forge_cluster", LocalCluster)) as cluster:

        def logs() -> Iterator[tuple[str, str]]:
            for name in cluster.nodes:
                yield f"forge_cluster: end of the log of {name}", cluster.log_text(name)[-LOG_TAIL:]

        on_failure(request, logs)
        yield cluster


@pytest.fixture
def forge_simulation(request: pytest.FixtureRequest) -> Iterator[Simulation]:
    """A `Simulation`, to be run or moved by hand."""
    from forge_consensus.testing.simulator.simulation import Simulation

    with Simulation(**arguments_of(request, "forge_simulation", Simulation)) as simulation:

        def seed() -> Iterator[tuple[str, str]]:
            number = simulation.plan.seed
            yield "forge_simulation", f"seed {number}: @pytest.mark.forge_simulation(seed={number}) does the same again"

        on_failure(request, seed)
        yield simulation


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Add the sections of its fixtures to the report of a failed test, while the fixtures still exist."""
    report = yield
    if report.failed and report.when == "call":
        for explain in item.stash.get(EXPLAINED, []):
            report.sections.extend(explain())
    return report
