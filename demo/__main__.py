"""``python -m forge_consensus.demo``: the same as ``forge-consensus demo``."""

from __future__ import annotations

from forge_consensus.missing import command_line

if __name__ == "__main__":
    command_line("forge_consensus.demo.command", "demo")(prog_name="python -m forge_consensus.demo")
