"""``python -m forge_consensus`` and the command ``forge-consensus``, also where the extra ``cli`` is not installed."""

from __future__ import annotations

from forge_consensus.missing import command_line


def main() -> None:
    """Run the command line, and end the process with its exit code."""
    command_line("forge_consensus.cli.main", "main")()


if __name__ == "__main__":
    main()
