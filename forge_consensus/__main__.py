"""``python -m forge_consensus`` and the command ``forge-consensus``, also where the extra ``cli`` is not installed."""

from __future__ import annotations

import sys
from typing import NoReturn

from forge_consensus.missing import EXIT_NOT_INSTALLED, missing_text


def main() -> NoReturn:
    """Run the command line; without its packages, say how they are installed and exit with 78."""
    try:
        from forge_consensus.cli.main import main as run
    except ModuleNotFoundError as error:
        text = missing_text(error)
        if text is None:
            raise
        print(text, file=sys.stderr)
        sys.exit(EXIT_NOT_INSTALLED)
    run()


if __name__ == "__main__":
    main()
