"""The cost of imports: an application that embeds a node or a client imports only modules that it uses."""

from __future__ import annotations

import subprocess
import sys

import pytest

HEAVY = {"rich", "click", "prometheus_client", "starlette", "uvicorn", "yaml", "pydantic", "httpx"}


def run(program: str) -> subprocess.CompletedProcess[str]:
    """Run a program in a fresh interpreter."""
    return subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=False)


@pytest.mark.parametrize(
    "use",
    [
        "pass",
        "forge_consensus.Client(['127.0.0.1:1']).close()",
        "forge_consensus.AsyncClient",
        "forge_consensus.EventFeed",
        "forge_consensus.ConsensusService('n1')",
        "forge_consensus.ConsensusExtension(node_id='n1', bind='127.0.0.1:0')",
    ],
)
def test_embedding_imports_nothing_of_the_command_line_the_metrics_or_the_web(use: str) -> None:
    done = run(f"import sys, forge_consensus; {use}; print(*{{name.partition('.')[0] for name in sys.modules}})")
    assert done.returncode == 0, done.stderr
    assert not HEAVY & set(done.stdout.split())


def test_the_package_alone_imports_its_version_only() -> None:
    done = run("import sys, forge_consensus; print(*[name for name in sys.modules if name.startswith('forge_con')])")
    assert sorted(done.stdout.split()) == ["forge_consensus", "forge_consensus.version"]


@pytest.mark.parametrize(("missing", "arguments"), [("click", ["--version"]), ("rich", ["demo", "--seconds", "2"])])
def test_the_command_without_its_extra_says_how_to_install_it(missing: str, arguments: list[str]) -> None:
    done = run(
        f"import sys; sys.modules[{missing!r}] = None; sys.argv[1:] = {arguments!r}\n"
        "sys.stdout.isatty = lambda: True\n"
        "from forge_consensus.__main__ import main; main()"
    )
    assert done.returncode == 78
    assert done.stderr.splitlines() == [
        f"error[NOT_INSTALLED]: the command line needs the package {missing}: pip install 'forge-consensus[cli]'"
    ]
