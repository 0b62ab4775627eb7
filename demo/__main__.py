"""``python -m forge_consensus.demo``: the same as ``forge-consensus demo``."""

from __future__ import annotations

import sys

from forge_consensus.missing import EXIT_NOT_INSTALLED, missing_text

if __name__ == "__main__":
    try:
        from forge_consensus.demo.command import demo
    except ModuleNotFoundError as error:
        text = missing_text(error)
        if text is None:
            raise
        print(text, file=sys.stderr)
        sys.exit(EXIT_NOT_INSTALLED)
    demo(prog_name="python -m forge_consensus.demo")
